"""Outputs whose first axis is not the batch axis: it is determined by running one sample, and two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from seewhy.errors import ModelError
from seewhy.models.onnx.conversion import with_changed_call

from .forward import call_model, eval_mode

if TYPE_CHECKING:
    from seewhy.model import Model
    from seewhy.types import Inputs


def with_batch_first(model: Model, x: Inputs) -> Model:
    """The model with the batch on the first axis of its output; if it was on another axis, with a note.

    Raises:
        ModelError: the forward pass fails, or the batch axis cannot be determined.
    """
    assert model.batch_axes is not None
    sample_shape = tuple(x.shape[1:])
    if sample_shape not in model.batch_axes:
        model.batch_axes[sample_shape] = _find_batch_axis(model, x[:1])
    axis = model.batch_axes[sample_shape]
    if axis == 0:
        return replace(model, batch_axes=None)

    def batch_first(call: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args: call(*args).movedim(axis, 0)

    note = (
        f"the samples are on axis {axis} of the output (determined by running one sample, and two); this axis was "
        "moved to the front, the other axes keep their order, and classes are on the axis after it"
    )
    forward, conversion = batch_first(model.forward), with_changed_call(model.conversion, batch_first)
    return replace(model, forward=forward, conversion=conversion, batch_axes=None, notes=(*model.notes, note))


def _find_batch_axis(model: Model, sample: Inputs) -> int:
    """The axis that has size 1 for one sample and size 2 for two; 0 if the output is no tensor."""
    with eval_mode(model), torch.no_grad():
        single = call_model(model, sample)
        if not isinstance(single, Tensor):
            return 0
        try:
            pair = call_model(model, torch.cat([sample, sample]))
        except ModelError:  # a fixed batch size of 1: larger batches fail later with their own message
            return 0
    shape, pair_shape = list(single.shape), list(pair.shape)
    axes = [i for i, sizes in enumerate(zip(shape, pair_shape, strict=False)) if sizes == (1, 2)]
    if 0 in axes:
        return 0
    if len(axes) == 1:
        return axes[0]
    raise ModelError(
        f"the output of {model.name} has shape {shape} for one sample and {pair_shape} for two: the first axis, or "
        "exactly one other axis, must be the batch axis. seewhy.wrap(session, forward=lambda net, x: ...) can "
        "rearrange the output; net(x) returns the outputs by name."
    )
