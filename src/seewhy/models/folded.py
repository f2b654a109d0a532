"""A network's record made quicker to do again: batch statistics folded into convolutions, weights with channels last.

Only the record changes: the folded weights are its own, and the network keeps what it has.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .tape import At, Step, Tape, replaced

CONVOLUTION = "aten::convolution"
NORMS = {
    "aten::native_batch_norm", "aten::_native_batch_norm_legit_no_training", "aten::cudnn_batch_norm",
    "aten::miopen_batch_norm",
}  # fmt: skip


def folded(tape: Tape) -> Tape:
    """The same function with every batch norm that alone reads a convolution folded into it.

    What is found is found by data flow: names, classes and order of the modules do not matter. The values that
    the tape keeps stay good, up to rounding.
    """
    users = tape.users()
    number = {id(step): i for i, step in enumerate(tape.steps)}
    changes: dict[int, Step | None] = {}
    for i, step in enumerate(tape.steps):
        if step.name != CONVOLUTION or not isinstance(step.given["weight"], Tensor):
            continue
        made = step.gives[0]
        assert made is not None
        given, gives = dict(step.given), step.gives
        after = users[made]
        if len(after) == 1 and made != tape.result and _foldable(step, after[0], users):
            scale, shift = affine(after[0])
            given["weight"], given["bias"] = _scaled(given, scale, shift)
            gives = after[0].gives[:1]
            changes[number[id(after[0])]] = None
        given["weight"] = channels_last(given["weight"])
        changes[i] = Step(step.call, tuple(given.values()), {}, gives, step.single)
    return replaced(tape, changes)


def affine(norm: Step) -> tuple[Tensor, Tensor]:
    """What a batch norm in evaluation mode does to each channel: x · scale + shift. [C] each, in double precision."""
    given = norm.given
    mean, var = given["running_mean"].double(), given["running_var"].double()
    scale = (var + given.get("eps", given.get("epsilon"))).rsqrt()
    if given["weight"] is not None:
        scale = scale * given["weight"].double()
    shift = -mean * scale
    return scale, shift if given["bias"] is None else shift + given["bias"].double()


def evaluates(norm: Step) -> bool:
    """Whether a step is a batch norm with fixed statistics."""
    given = norm.given if norm.name in NORMS else {}
    return (
        bool(given)
        and not given.get("training", False)
        and all(isinstance(given[k], Tensor) for k in ("running_mean", "running_var"))
        and all(given[k] is None or isinstance(given[k], Tensor) for k in ("weight", "bias"))
    )


def _foldable(convolution: Step, norm: Step, users: dict[int, list[Step]]) -> bool:
    given = convolution.given
    return (
        evaluates(norm)
        and isinstance(norm.args[0], At)
        and isinstance(given["bias"], Tensor | None)
        and not (given["transposed"] and given["groups"] > 1)
        and not any(users.get(v) for v in norm.gives[1:] if v is not None)
    )


def _scaled(given: dict[str, Any], scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    weight, bias = given["weight"], given["bias"]
    per_output = [1] * weight.ndim
    per_output[1 if given["transposed"] else 0] = -1
    if bias is not None:
        shift = shift + bias.double() * scale
    # the product is rounded once; a double copy of all weights would cost more than it gives
    return weight * scale.to(weight.dtype).view(per_output), shift.to(weight.dtype)


def channels_last(x: Tensor) -> Tensor:
    """The same numbers in another order in memory, which convolutions are quicker with."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return x.contiguous(memory_format=formats.get(x.ndim, torch.contiguous_format))
