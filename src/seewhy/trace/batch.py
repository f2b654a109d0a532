"""Answers whose first axis is not the samples: found by asking one sample, and two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from seewhy.errors import ModelError
from seewhy.models.onnx_graph import through

from .forward import answer, quiet

if TYPE_CHECKING:
    from seewhy.types import Inputs, Model


def batch_first(model: Model, x: Inputs) -> Model:
    """The network with its samples on the first axis of its answer, and a note where they were on another.

    Raises:
        ModelError: the network refuses the input, or no axis, or none alone, counts the samples.
    """
    assert model.batch_axes is not None
    of_one = tuple(x.shape[1:])
    if of_one not in model.batch_axes:
        model.batch_axes[of_one] = _asked(model, x[:1])
    axis = model.batch_axes[of_one]
    if axis == 0:
        return replace(model, batch_axes=None)

    def turned(call: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given: call(*given).movedim(axis, 0)

    note = (
        f"the samples stand on axis {axis} of the answer (asked with one and with two); it is explained with them "
        "first, the others in their order: classes are those of the next axis"
    )
    forward, conversion = turned(model.forward), through(model.conversion, turned)
    return replace(model, forward=forward, conversion=conversion, batch_axes=None, notes=(*model.notes, note))


def _asked(model: Model, one: Inputs) -> int:
    with quiet(model), torch.no_grad():
        alone = answer(model, one)
        if not isinstance(alone, Tensor):
            return 0
        try:
            pair = answer(model, torch.cat([one, one]))
        except ModelError:  # it takes one at a time, and says so where more are asked
            return 0
    a, b = list(alone.shape), list(pair.shape)
    counting = [i for i in range(min(len(a), len(b))) if (a[i], b[i]) == (1, 2)]
    if 0 in counting:
        return 0
    if len(counting) == 1:
        return counting[0]
    raise ModelError(
        f"{model.name} gives {a} for one sample and {b} for two: the first axis must be the batch, or one other alone. "
        "seewhy.wrap(session, forward=lambda net, x: ...) can put it there; net(x) gives the outputs by name."
    )
