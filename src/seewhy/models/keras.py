"""Keras 3 models: torch modules on the torch backend; on other backends only their outputs are available.

This module imports Keras only to load a file. Keras models are recognized by their class.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from seewhy.errors import ModelError
from seewhy.inputs.preprocessing import DEFAULT_SIZE, Preprocessing

from .files import import_package

MIN_VERSION = (3, 11, 3)  # earlier versions may execute code from model files (CVE-2025-9905)
LAYOUT_OF_NDIM = {2: "NF", 3: "NTC", 4: "NHWC", 5: "NDHWC"}
NOT_ON_TORCH = (
    "Keras runs on the {backend} backend in this process; gradients and layers need the torch backend: set the "
    "environment variable KERAS_BACKEND=torch before keras is imported, and load the model again"
)


def is_layer(thing: Any) -> bool:
    """Whether an object is a layer or model of Keras 3, on any backend."""
    keras = sys.modules.get("keras")
    return keras is not None and hasattr(keras, "layers") and isinstance(thing, keras.layers.Layer)


def is_data_set(thing: Any) -> bool:
    """Whether an object is a data set of Keras 3 (`keras.utils.PyDataset`), whose batch i is thing[i]."""
    keras = sys.modules.get("keras")
    return keras is not None and hasattr(keras, "utils") and isinstance(thing, keras.utils.PyDataset)


def require_built(model: Any) -> None:
    """Check that the model's weights exist, since otherwise the first call would create them.

    Raises:
        ModelError: the model was not built.
    """
    if not model.built:
        raise ModelError(f"{model.name} has not been built: call it once, or call model.build(input_shape).")


def backend_name() -> str:
    """Return the name of the backend that Keras uses in this process."""
    return str(sys.modules["keras"].backend.backend())


def call_in_inference_mode(model: Any, x: Tensor) -> Any:
    """The output of a Keras model on the torch backend, outside training mode."""
    return model(x, training=False)


def tensor_function(model: Any) -> Callable[[Tensor], Any]:
    """Return a model on a backend other than torch as a function from tensor to tensors, without gradients."""
    to_numpy = sys.modules["keras"].ops.convert_to_numpy

    def forward(x: Tensor) -> Any:
        output = model(x.detach().cpu().numpy(), training=False)
        return tree_map(lambda value: torch.from_numpy(np.array(to_numpy(value))), output)

    return forward


def input_layout(model: Any) -> str | None:
    """Return one letter per axis of the input; None: channels first, several inputs, or an unknown input shape."""
    shape = _input_shape(model)
    if shape is None:
        return None
    formats = [getattr(part, "data_format", None) for part in _all_sublayers(model)]
    data_format = next((f for f in formats if f is not None), "channels_last")
    return None if data_format == "channels_first" else LAYOUT_OF_NDIM.get(len(shape))


def default_preprocessing(model: Any) -> tuple[Preprocessing | None, str]:
    """Return the preprocessing that follows from the model's input shape, and a note that describes it.

    Values are scaled to [0, 1], or to [0, 255] if the model starts with a Rescaling layer. (None, "") if the input is
    not a batch of pictures.
    """
    shape = _input_shape(model)
    if shape is None or len(shape) != 4:
        return None, ""
    channels_last = input_layout(model) is not None
    height, width, channels = shape[1:] if channels_last else (*shape[2:], shape[1])
    size = (height or DEFAULT_SIZE[0], width or DEFAULT_SIZE[1])
    rescales = _starts_with_rescaling(model)
    std = 1 / 255 if rescales else 1.0
    value_range = "[0, 255], since the model starts with a Rescaling layer" if rescales else "[0, 1]"
    count = channels or 3
    note = (
        f"the network has no preprocessing configuration: inputs are resized to {size[0]} × {size[1]} and scaled to "
        f"{value_range}"
    )
    return Preprocessing(size, (0.0,) * count, (std,) * count), note


def sublayers(layer: Any) -> dict[str, nn.Module]:
    """Return the direct sublayers of a Keras layer by their Keras names."""
    if _has_cell(layer):
        return {}
    input_layer = sys.modules["keras"].layers.InputLayer
    children: dict[str, nn.Module] = {}
    for part in layer._flatten_layers(include_self=False, recursive=False):
        if isinstance(part, nn.Module) and not isinstance(part, input_layer):
            children[str(part.name)] = part
    wrapped_module = getattr(layer, "module", None)  # the torch module of a keras TorchModuleWrapper
    if isinstance(wrapped_module, nn.Module) and not is_layer(wrapped_module):
        children["module"] = wrapped_module
    return children


def own_named_parameters(layer: Any) -> dict[str, nn.Parameter]:
    """Return the trainable parameters of a layer itself, frozen or not, by their Keras names."""
    parts = [layer, *_all_sublayers(layer)] if _has_cell(layer) else [layer]
    return {variable.name: variable.value for part in parts for variable in part._trainable_variables}


def _has_cell(layer: Any) -> bool:
    """Whether a layer is recurrent with a single cell, whose forward pass is not a layer call."""
    keras = sys.modules["keras"]
    return isinstance(layer, keras.layers.RNN) and not isinstance(layer.cell, keras.layers.StackedRNNCells)


def named_variables(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor of a model with its Keras path."""
    for variable in model.variables:
        yield variable.path, variable.value


def initial_values(layer: Any, name: str, weight: Tensor, seed: int) -> Tensor | None:
    """Draw values for one weight from the layer's initializer; None if the layer has no initializer for it.

    Args:
        layer: the Keras layer.
        name: the Keras name of the weight, such as "kernel".
        weight: the tensor whose shape and precision are used.
        seed: of the initializer, if it is random.
    """
    initializer = getattr(layer, f"{name}_initializer", None) or getattr(
        layer, f"{name.removesuffix('_kernel')}_initializer", None
    )
    if initializer is None or not hasattr(initializer, "get_config"):
        return None
    config = initializer.get_config()
    seeded = type(initializer).from_config(config | {"seed": seed} if "seed" in config else config)
    values: Tensor = seeded(tuple(weight.shape), dtype=str(weight.dtype).removeprefix("torch."))
    return values.detach()


def batch_norm_layers(model: Any) -> list[Any]:
    """Return the batch normalization layers of a model, at any depth."""
    return [part for part in _all_sublayers(model) if isinstance(part, sys.modules["keras"].layers.BatchNormalization)]


def set_batch_statistics(layer: Any, x: Tensor | None) -> None:
    """Set the moving statistics of a batch normalization layer.

    Args:
        layer: the batch normalization layer.
        x: the layer's input, whose mean and variance are used; None: mean 0 and variance 1.
    """
    if x is None:
        layer.moving_mean.assign(torch.zeros_like(layer.moving_mean.value))
        layer.moving_variance.assign(torch.ones_like(layer.moving_variance.value))
        return
    axes = [axis for axis in range(x.ndim) if axis != layer.axis % x.ndim]
    layer.moving_mean.assign(x.mean(axes))
    layer.moving_variance.assign(x.var(axes, correction=0))


def describe_keras_layer(layer: Any) -> str:
    """Describe a layer in a few words: size, stride and padding, number of outputs, or dropout rate; activation."""
    config = layer.get_config() if type(layer).__module__.startswith("keras.") else {}
    kernel = config.get("kernel_size") or config.get("pool_size")
    activation = config.get("activation") if isinstance(config.get("activation"), str) else None
    text = ""
    if kernel is not None:
        count = f"{config['filters']} " if "filters" in config else ""
        shape = "x".join(map(str, kernel if isinstance(kernel, (list, tuple)) else [kernel]))
        operation = "pooling" if "pool_size" in config else "convolutions"
        stride, padding = _bracketed(config.get("strides")), config.get("padding")
        text = f"{count}{shape} {operation} with stride {stride} and padding {padding}"
    elif "units" in config:
        text = f"{config['units']} outputs"
    elif "rate" in config:
        text = f"{config['rate']:.0%} dropout"
    return ", ".join(part for part in (text, activation) if part)


def load_keras_file(file: str) -> Any:
    """Load the model of a `.keras`, `.h5` or `.hdf5` file; Keras' safe mode refuses layers that contain code.

    Raises:
        ModelError: Keras is not installed, or too old to refuse such layers reliably.
    """
    keras = import_package("keras", "keras")
    if tuple(int(part) for part in keras.__version__.split(".")[:3] if part.isdigit()) < MIN_VERSION:
        raise ModelError(f"keras {keras.__version__} may execute code from model files: pip install 'keras>=3.11.3'.")
    return keras.saving.load_model(file, compile=False, safe_mode=True)


def import_with_torch_backend() -> None:
    """Import Keras with the torch backend, unless it is imported already or KERAS_BACKEND is set."""
    if "keras" in sys.modules or "KERAS_BACKEND" in os.environ:
        return
    os.environ["KERAS_BACKEND"] = "torch"
    try:
        import_module("keras")
    except ImportError:
        return
    finally:
        del os.environ["KERAS_BACKEND"]


def _input_shape(model: Any) -> Sequence[int | None] | None:
    """Return the shape of the input, batch axis included; None if there are several inputs or the shape is unknown."""
    shape = getattr(model, "input_shape", None) if hasattr(model, "inputs") and model.inputs else None
    return shape if isinstance(shape, tuple) and not any(isinstance(s, (tuple, list, dict)) for s in shape) else None


def _all_sublayers(model: Any) -> Iterator[Any]:
    for part in model._flatten_layers(include_self=False, recursive=False):
        yield part
        yield from _all_sublayers(part)


def _starts_with_rescaling(model: Any) -> bool:
    keras = sys.modules["keras"]
    for part in _all_sublayers(model):
        if not isinstance(part, (keras.layers.InputLayer, keras.Model)):
            return isinstance(part, keras.layers.Rescaling) and float(np.max(part.scale)) < 0.1
    return False


def _bracketed(value: Any) -> str:
    return f"[{' '.join(map(str, value))}]" if isinstance(value, (tuple, list)) else f"[{value}]"
