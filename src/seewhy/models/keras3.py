"""Keras 3 models. On the torch backend they are torch modules with everything; elsewhere they only answer.

Keras is never imported here, except to read a file; what it made is recognised by its classes.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from seewhy.errors import ModelError
from seewhy.types import Card

OLDEST = (3, 11, 3)  # before it, files could run code of their own (CVE-2025-9905)
LAYOUTS = {2: "NF", 3: "NTC", 4: "NHWC", 5: "NDHWC"}
ELSEWHERE = (
    "Keras runs on the {backend} backend here; gradients and layers need PyTorch: set the environment variable "
    "KERAS_BACKEND=torch before keras is imported, and load the model again"
)
LOGITS = "the softmax at the end of the network is left out: the score is the logit before it"
SUBCLASSED = "if the network ends in a softmax, it is left out: the score is the logit before it"


def is_layer(thing: Any) -> bool:
    """Whether this is a layer or model of Keras 3, on any backend."""
    keras = sys.modules.get("keras")
    return keras is not None and hasattr(keras, "layers") and isinstance(thing, keras.layers.Layer)


def is_data_set(thing: Any) -> bool:
    """Whether this is a data set of Keras 3, which gives batch number i as thing[i]."""
    keras = sys.modules.get("keras")
    return keras is not None and hasattr(keras, "utils") and isinstance(thing, keras.utils.PyDataset)


def check(model: Any) -> None:
    """Refuse a model whose weights do not exist yet, as the first call would make them.

    Raises:
        ModelError: it was not built.
    """
    if not model.built:
        raise ModelError(f"{model.name} was not built yet: call it once, or model.build(input_shape).")


def backend() -> str:
    """What Keras computes with in this process."""
    return str(sys.modules["keras"].backend.backend())


def logits(model: Any, x: Tensor, forward: Callable[[Any, Tensor], Any] | None = None) -> Any:
    """What the model gives in inference mode, before the softmax that it may end in. The model is not changed."""
    with _Softmaxes() as seen:
        output = model(x, training=False) if forward is None else forward(model, x)
    return seen.before(output)


class _Softmaxes(TorchFunctionMode):
    """Remembers what went into the last softmaxes of this thread."""

    def __init__(self) -> None:
        super().__init__()
        self.made: deque[tuple[Tensor, Tensor]] = deque(maxlen=8)  # a softmax, and what went in

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called by torch in place of `func`."""
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name == "softmax" and args:
            self.made.append((result, args[0]))
        elif name == "to":  # to another precision
            self.made.extend([(result, into) for made, into in self.made if made is args[0] and result is not made])
        return result

    def before(self, output: Any) -> Any:
        """The output with what went into each softmax in the place of what came out."""
        if isinstance(output, dict):
            return {key: self.before(value) for key, value in output.items()}
        if isinstance(output, (list, tuple)):
            return type(output)(map(self.before, output))
        return next((into for made, into in self.made if made is output), output)


def answers(model: Any) -> Callable[[Tensor], Any]:
    """A model on a backend other than torch, as a function of tensors."""
    convert = sys.modules["keras"].ops.convert_to_numpy

    def told(output: Any) -> Any:
        if isinstance(output, dict):
            return {key: told(value) for key, value in output.items()}
        if isinstance(output, (list, tuple)):
            return type(output)(map(told, output))
        return torch.from_numpy(np.array(convert(output)))

    def forward(x: Tensor) -> Any:
        return told(model(x.detach().cpu().numpy(), training=False))

    return forward


def layout(model: Any) -> str | None:
    """One letter an axis of the input; None: channels first, or several inputs, or nothing says."""
    shape = _shape(model)
    if shape is None:
        return None
    orders = [getattr(part, "data_format", None) for part in _all(model)]
    first = next((order for order in orders if order is not None), "channels_last")
    return None if first == "channels_first" else LAYOUTS.get(len(shape))


def card(model: Any, side: tuple[int, int]) -> tuple[Card | None, str]:
    """How pictures are prepared as far as the model's own shape says, and a note; None where it takes none."""
    shape = _shape(model)
    if shape is None or len(shape) != 4:
        return None, ""
    last = layout(model) is not None
    height, width, channels = shape[1:] if last else (*shape[2:], shape[1])
    size = (height or side[0], width or side[1])
    rescales = _starts_with_rescaling(model)
    std = 1 / 255 if rescales else 1.0
    why = "0..255, as it begins with a Rescaling layer" if rescales else "0..1"
    count = channels or 3
    note = f"the network has no card: inputs are resized to {size[0]} × {size[1]} and scaled to {why}"
    return Card(size, (0.0,) * count, (std,) * count), note


def ending(model: Any) -> str | None:
    """The note on the softmax that a model ends in, as far as its description tells."""
    outputs = getattr(model, "outputs", None)
    if not outputs:
        return SUBCLASSED
    last = outputs[0]._keras_history.operation
    if getattr(last, "outputs", None):
        return ending(last)
    shown = getattr(getattr(last, "activation", None), "__name__", type(last).__name__)
    return LOGITS if shown.lower() == "softmax" else None


def children(layer: Any) -> dict[str, nn.Module]:
    """The layers inside a layer, in Keras' own names."""
    if _recurs(layer):
        return {}
    inside = layer._flatten_layers(include_self=False, recursive=False)
    skipped = sys.modules["keras"].layers.InputLayer
    found: dict[str, nn.Module] = {}
    for part in inside:
        if isinstance(part, nn.Module) and not isinstance(part, skipped):
            found[str(part.name)] = part
    torch_own = getattr(layer, "module", None)  # a torch module that Keras wrapped
    if isinstance(torch_own, nn.Module) and not is_layer(torch_own):
        found["module"] = torch_own
    return found


def learnt(layer: Any) -> dict[str, nn.Parameter]:
    """What a layer itself learns, frozen or not, by Keras' names."""
    parts = [layer, *_all(layer)] if _recurs(layer) else [layer]
    return {variable.name: variable.value for part in parts for variable in part._trainable_variables}


def _recurs(layer: Any) -> bool:
    """Whether a layer has a cell, which computes for it without being called as a layer."""
    keras = sys.modules["keras"]
    return isinstance(layer, keras.layers.RNN) and not isinstance(layer.cell, keras.layers.StackedRNNCells)


def variables(model: Any) -> Iterator[tuple[str, Tensor]]:
    """All tensors of a model, by Keras' paths."""
    for variable in model.variables:
        yield variable.path, variable.value


def fresh(layer: Any, name: str, weight: Tensor, seed: int) -> Tensor | None:
    """Values from the layer's own initialiser for one of its weights; None where it names none."""
    found = getattr(layer, f"{name}_initializer", None) or getattr(
        layer, f"{name.removesuffix('_kernel')}_initializer", None
    )
    if found is None or not hasattr(found, "get_config"):
        return None
    settings = found.get_config()
    drawn = type(found).from_config(settings | {"seed": seed} if "seed" in settings else settings)
    made: Tensor = drawn(tuple(weight.shape), dtype=str(weight.dtype).removeprefix("torch."))
    return made.detach()


def norms(model: Any) -> list[Any]:
    """The batch normalisations of a model."""
    return [part for part in _all(model) if isinstance(part, sys.modules["keras"].layers.BatchNormalization)]


def settled(layer: Any, x: Tensor | None) -> None:
    """Give a batch normalisation the statistics of what goes into it, or mean 0 and variance 1 without any."""
    if x is None:
        layer.moving_mean.assign(torch.zeros_like(layer.moving_mean.value))
        layer.moving_variance.assign(torch.ones_like(layer.moving_variance.value))
        return
    axes = [axis for axis in range(x.ndim) if axis != layer.axis % x.ndim]
    layer.moving_mean.assign(x.mean(axes))
    layer.moving_variance.assign(x.var(axes, correction=0))


def describe(layer: Any) -> str:
    """A layer in words."""
    given = layer.get_config() if type(layer).__module__.startswith("keras.") else {}
    kernel = given.get("kernel_size") or given.get("pool_size")
    activation = given.get("activation") if isinstance(given.get("activation"), str) else None
    words = ""
    if kernel is not None:
        many = f"{given['filters']} " if "filters" in given else ""
        shape = "x".join(map(str, kernel if isinstance(kernel, (list, tuple)) else [kernel]))
        what = "pooling" if "pool_size" in given else "convolutions"
        words = f"{many}{shape} {what} with stride {_list(given.get('strides'))} and padding {given.get('padding')}"
    elif "units" in given:
        words = f"{given['units']} outputs"
    elif "rate" in given:
        words = f"{given['rate']:.0%} dropout"
    return ", ".join(part for part in (words, activation) if part)


def read(file: str, importer: Callable[[str, str], Any]) -> Any:
    """The model of a `.keras`, `.h5` or `.hdf5` file; layers that hold code are refused by Keras' safe mode.

    Raises:
        ModelError: Keras is older than what keeps that promise.
    """
    keras = importer("keras", "keras")
    if tuple(int(part) for part in keras.__version__.split(".")[:3] if part.isdigit()) < OLDEST:
        raise ModelError(f"keras {keras.__version__} may run code from files: pip install 'keras>=3.11.3'.")
    return keras.saving.load_model(file, compile=False, safe_mode=True)


def on_torch() -> None:
    """Import Keras with the torch backend, unless this process has chosen already."""
    if "keras" in sys.modules or "KERAS_BACKEND" in os.environ:
        return
    os.environ["KERAS_BACKEND"] = "torch"
    try:
        import_module("keras")
    except ImportError:
        return
    finally:
        del os.environ["KERAS_BACKEND"]


def _shape(model: Any) -> Sequence[int | None] | None:
    """Of the one input, batch included."""
    shape = getattr(model, "input_shape", None) if hasattr(model, "inputs") and model.inputs else None
    return shape if isinstance(shape, tuple) and not any(isinstance(s, (tuple, list, dict)) for s in shape) else None


def _all(model: Any) -> Iterator[Any]:
    for part in model._flatten_layers(include_self=False, recursive=False):
        yield part
        yield from _all(part)


def _starts_with_rescaling(model: Any) -> bool:
    keras = sys.modules["keras"]
    for part in _all(model):
        if not isinstance(part, (keras.layers.InputLayer, keras.Model)):
            return isinstance(part, keras.layers.Rescaling) and float(np.max(part.scale)) < 0.1
    return False


def _list(value: Any) -> str:
    return f"[{' '.join(map(str, value))}]" if isinstance(value, (tuple, list)) else f"[{value}]"
