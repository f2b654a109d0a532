"""Preparation and validation of the model and the input at the start of every call."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from seewhy.axes.layout import arrange_data, check_rank, to_canonical
from seewhy.errors import InputError, ModelError
from seewhy.inputs.arrays import tensor_of
from seewhy.models import module_tree, wrap
from seewhy.types import Capability

from .batch_axis import with_batch_first
from .forward import model_weights, resolve_device
from .input_layout import takes_whole_numbers, with_batch_axis, with_observed_layout
from .onnx_verification import with_verified_conversion
from .outputs import is_finite

if TYPE_CHECKING:
    from seewhy.model import Model
    from seewhy.types import Inputs


WHOLE_NUMBERS = "the input holds whole numbers, which have no gradient: explain the output of the embedding instead"


def prepare_model_and_input(
    model: Any, x: Any, device: str = "auto", requires: Capability = Capability.SCORES
) -> tuple[Model, Inputs]:
    """Wrap the model, and convert the input to a tensor [N, C, *S] on the model's device, in the model's precision.

    A model without gradients is replaced by its conversion to torch if `requires` demands it and the outputs agree on
    this input; if they do not, the returned model has the reason in `lacks`.

    Args:
        model: a model, or what `seewhy.wrap` accepts.
        x: a batch in the model's layout, or what the model's `prepare` accepts.
        device: "auto", "cpu", "cuda" and so on, see `resolve_device`.
        requires: what the model has to compute.

    Raises:
        InputError: the input is empty, complex, not finite, or has the wrong number of axes.
        ModelError: a weight has no values, or the batch axis of the output cannot be determined.
        OptionError: the device is not available, or the model is on another device.
    """
    model = wrap(model)
    x = _as_tensor_batch(model, x)
    if x.numel() == 0:
        raise InputError(f"the input has shape {list(x.shape)}: it is empty; pass at least one sample.")
    if x.is_complex():
        raise InputError("the input is complex: pass its real and imaginary parts as channels.")
    if not is_finite(x):
        bad = int((~x.isfinite()).sum())
        raise InputError(
            f"{bad} of the {x.numel()} values of the input are NaN or infinite: replace them by finite values."
        )
    _check_weights_have_values(model)
    model, target_device = resolve_device(model, device)
    x = x.detach().to(target_device or x.device)
    weight = next((w for w in model_weights(model) if w.is_floating_point()), x)
    in_precision = x.to(weight.dtype if weight.is_floating_point() else torch.float32)
    if not x.is_floating_point() and takes_whole_numbers(model, x, in_precision):
        model = replace(model, capabilities=model.capabilities & ~Capability.GRADIENTS, lacks=WHOLE_NUMBERS)
    else:
        x = in_precision
    model, x = with_batch_axis(model, x)
    check_rank(x, model.layout)
    if model.layout is None and x.ndim == 2:  # a plain feature vector: one channel, F positions
        model = replace(model, layout="NF")
    model = with_observed_layout(model, x)
    inputs = to_canonical(x, model.layout)
    if model.batch_axes is not None:
        model = with_batch_first(model, inputs)
    if requires in model.capabilities or model.conversion is None:
        return model, inputs
    return with_verified_conversion(model, inputs)


def _as_tensor_batch(model: Model, x: Any) -> Tensor:
    """Return the input as a tensor in the network's order of axes, as far as it is stated."""
    if not isinstance(x, Tensor):
        plain_array = model.preparation is None and hasattr(x, "__array__")
        x = tensor_of(x) if plain_array else model.prepare(x)
    if not isinstance(x, Tensor):
        raise InputError(
            f"the preparation function of {model.name} returned a {type(x).__name__}: it must return a tensor."
        )
    if model.data_layout is not None:
        return arrange_data(x, model.data_layout, model.layout)
    if model.layout is not None and x.ndim == len(model.layout) - 1:  # one sample without a batch axis
        return x.unsqueeze(model.layout.index("N"))
    return x


def _check_weights_have_values(model: Model) -> None:
    """Refuse weights without values; a forward pass would initialize lazy ones at random.

    Raises:
        ModelError: a weight is uninitialized, or on the meta device.
    """
    for name, weight in () if model.module is None else module_tree.named_tensors(model.module):
        if is_lazy(weight):
            raise ModelError(
                f"{model.name} has no values for {name!r} yet (a lazy layer): call it once on an input first."
            )
        if weight.is_meta:
            raise ModelError(
                f"{model.name} has no values for {name!r}: it is on the meta device. Load weights first, with "
                "network.to_empty(device='cpu') and load_state_dict, or load_state_dict(..., assign=True)."
            )
