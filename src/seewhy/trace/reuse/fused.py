"""What stands around a convolution made part of it: the zeros padded before it, the activation behind it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from seewhy.models.folded import CONVOLUTION, channels_last
from seewhy.models.tape import At, Step, Tape

PAD = "aten::constant_pad_nd"
ACTIVATED = "activated_convolution"
PICTURES = 8  # for which the order is chosen; any number is answered


def activated_convolution(
    x: Tensor,
    *,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    transposed: bool,
    activation: tuple[str, list[float], str],
) -> Tensor:
    """The activation of a convolution, written to memory once."""
    return torch.ops.mkldnn._convolution_pointwise(  # type: ignore[no-any-return]
        x, weight, bias, padding, stride, dilation, groups, *activation
    )


def activated(tape: Tape) -> Tape:
    """The tape with such pairs as one step, where oneDNN computes it: in single precision on a CPU."""
    if not _has("_convolution_pointwise"):
        return tape
    users = tape.users()
    gone: set[int] = set()
    instead: dict[int, Step] = {}
    for step in tape.steps:
        made = step.gives[0]
        after = [] if made is None or made == tape.result else users[made]
        activation = _activation(after[0]) if len(after) == 1 and _by_onednn(step, tape) else None
        if activation is not None:
            gone.add(id(step))
            instead[id(after[0])] = _with(step, activation)._replace(gives=after[0].gives)
    return replace(tape, steps=tuple(instead.get(id(s), s) for s in tape.steps if id(s) not in gone))


def _has(operator: str) -> bool:
    """Whether this torch has the operator, and oneDNN may be used."""
    mkldnn = torch.backends.mkldnn
    return bool(mkldnn.is_available() and mkldnn.enabled and hasattr(torch.ops.mkldnn, operator))


def _with(step: Step, activation: tuple[str, list[float], str]) -> Step:
    given = {key: value for key, value in step.given.items() if key not in {"input", "output_padding"}}
    return Step(activated_convolution, step.args[:1], {"activation": activation} | given, step.gives, True)


def _by_onednn(step: Step, tape: Tape) -> bool:
    """Whether it is a convolution of one picture with fixed weights, in single precision on a CPU."""
    if step.name not in {CONVOLUTION, ACTIVATED} or tape.shapes[step.reads()[0]][0] != 1:
        return False
    given = step.given
    weight, bias = given["weight"], given["bias"]
    if not isinstance(weight, Tensor) or not isinstance(bias, Tensor | None) or given["transposed"]:
        return False
    return weight.ndim == 4 and weight.dtype == torch.float32 and weight.device.type == "cpu"


def packed(tape: Tape) -> Tape:
    """The tape with the weights of convolutions in the order that oneDNN reads them in, once and not at each pass."""
    if not _has("_reorder_convolution_weight"):
        return tape
    return replace(tape, steps=tuple(_packed(step, tape) if _by_onednn(step, tape) else step for step in tape.steps))


def _packed(step: Step, tape: Tape) -> Step:
    step = step if step.name == ACTIVATED else _with(step, ("none", [], ""))
    source, given = step.args[0], step.kwargs
    size = [PICTURES, *tape.shapes[source.value][1:]]
    each = [list(given[k]) * (2 if len(given[k]) == 1 else 1) for k in ("padding", "stride", "dilation")]
    weight = torch.ops.mkldnn._reorder_convolution_weight(given["weight"], *each, given["groups"], size)
    return step._replace(kwargs=given | {"weight": weight})


def _activation(step: Step) -> tuple[str, list[float], str] | None:
    """As oneDNN calls it, with its numbers; None for steps that are none, or that it does not know."""
    given, name = step.given, step.name.removeprefix("aten::")
    if not step.args or not isinstance(step.args[0], At) or len(step.reads()) != 1:
        return None
    if name in {"relu", "sigmoid", "tanh", "hardswish", "hardsigmoid"}:
        return name, [], ""
    if name == "silu":
        return "swish", [], ""
    if name in {"hardtanh", "clamp"}:
        low, high = (given.get(k) for k in (("min_val", "max_val") if name == "hardtanh" else ("min", "max")))
        if not isinstance(low, (int, float)) or not isinstance(high, (int, float)):
            return None
        return "hardtanh", [float(low), float(high)], ""
    return ("gelu", [], given["approximate"]) if name == "gelu" else None


def padded(tape: Tape) -> Tape:
    """The tape with paddings before convolutions as zeros in their kernels, so that nothing is copied for them.

    A padding that differs at the two ends becomes the larger of both, with as many zeros at the other end of the
    kernel. Kernels grow, so this pays for whole pictures and not for windows.
    """
    users = tape.users()
    gone: set[int] = set()
    instead: dict[int, Step] = {}
    for step in tape.steps:
        made, source = step.gives[0], step.args[0] if step.args else None
        if step.name != PAD or made is None or made == tape.result or step.given.get("value"):
            continue
        after = users[made]
        known = len(after) == 1 and after[0].name in {CONVOLUTION, ACTIVATED} and after[0].reads() == [made]
        whole = _wider(step.given["pad"], after[0].given) if known and isinstance(source, At) else None
        if whole is not None:
            gone.add(id(step))
            instead[id(after[0])] = after[0]._replace(args=(source,), kwargs=whole)
    return replace(tape, steps=tuple(instead.get(id(s), s) for s in tape.steps if id(s) not in gone))


def _wider(pads: list[int], given: dict[str, Any]) -> dict[str, Any] | None:
    """The arguments of a convolution, its input left out, that pads by itself; pairs of pads begin at the last axis."""
    weight = given["weight"]
    if given["transposed"] or not isinstance(weight, Tensor) or min(pads) < 0 or len(pads) > 2 * (weight.ndim - 2):
        return None
    dims = weight.ndim - 2
    pads = [*pads, *[0] * (2 * dims - len(pads))]
    padding, dilation = (list(given[k]) * (dims if len(given[k]) == 1 else 1) for k in ("padding", "dilation"))
    zeros = [0] * (2 * dims)
    for i, (low, high) in enumerate(zip(pads[::2], pads[1::2], strict=True)):
        axis = dims - 1 - i
        if (high - low) % dilation[axis]:
            return None
        zeros[2 * i + (low > high)] = abs(high - low) // dilation[axis]
        padding[axis] += max(low, high)
    wide = channels_last(F.pad(weight, zeros))
    return {k: v for k, v in given.items() if k != "input"} | {"weight": wide, "padding": padding}
