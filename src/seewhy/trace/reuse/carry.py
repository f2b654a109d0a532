"""Operations that treat the positions along some axes alike and apart: there they can be done on any part."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from seewhy.models.folded import evaluates
from seewhy.models.tape import At, Step, done

Axes = tuple[int, ...]
Shapes = Mapping[int, tuple[int, ...]]

ELEMENTWISE = {"hardswish", "_prelu_kernel", "clone", "alias", "detach", "_to_copy", "contiguous", "masked_fill"}
REDUCTIONS = {"mean", "sum", "amax", "amin", "var", "std", "logsumexp", "any", "all", "max", "min", "argmax", "argmin"}
# What is done sample by sample, and mixes anything within one.
BY_SAMPLE = {
    "convolution", "activated_convolution", "max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool2d",
    "avg_pool3d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_max_pool2d", "adaptive_max_pool3d",
    "pixel_shuffle", "pixel_unshuffle", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d", "replication_pad1d",
    "replication_pad2d", "replication_pad3d", "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d",
    "upsample_bilinear2d", "upsample_linear1d", "upsample_trilinear3d", "upsample_bicubic2d",
}  # fmt: skip


def carried(step: Step, axes: Axes, shapes: Shapes) -> Axes | None:
    """Where the given axes of its inputs lie in what a step gives, or None if it does not keep them apart.

    All inputs that depend on the sample have the same axes. What is sure is kept, anything else is None.
    """
    name = step.name.removeprefix("aten::")
    read = step.reads()
    first, gives = shapes[read[0]], step.gives[0]
    if gives is None:
        return None
    after = shapes[gives]
    if elementwise(step):
        fitting = all(len(shapes[v]) == len(after) and _equal(shapes[v], after, axes) for v in read)
        return axes if fitting else None
    if name == "reshape":
        return _through_view(first, after, axes)
    rule = RULES.get(name)
    if rule is None or not isinstance(step.args[0], (At, list, tuple)):
        return None
    return rule(step, axes, shapes)


def elementwise(step: Step) -> bool:
    """Whether each number that comes out hangs on the numbers at its own place."""
    return torch.Tag.pointwise in getattr(step.call, "tags", ()) or step.name.removeprefix("aten::") in ELEMENTWISE


def again(step: Step, value: Callable[[int], Any], axes: Axes, after: Axes) -> Any:
    """Do a step on parts: sizes written into its arguments are those of the parts along the carried axes."""
    if step.name.removeprefix("aten::") not in SIZED:
        return done(step, value)
    source = step.args[0]
    assert isinstance(source, At)
    given = value(source.value)
    size = list(step.args[1])
    for a, b in zip(axes, after, strict=True):
        size[b] = given.shape[a]
    return step.call(given, size, *step.args[2:], **step.kwargs)


def in_place(step: Step, made_by: Step | None, over: Sequence[int], shapes: Shapes) -> Step:
    """The step in the memory of its first argument, where that is new and nobody reads it again."""
    first = step.args[0] if step.args else None
    if not isinstance(first, At) or first.value not in over or step.reads().count(first.value) > 1:
        return step
    name, (gives, *_) = step.name.removeprefix("aten::"), step.gives
    if made_by is None or made_by.name.removeprefix("aten::") not in MAKERS or name not in IN_PLACE:
        return step
    if gives is None or shapes[gives] != shapes[first.value]:
        return step
    packet = getattr(torch.ops.aten, name + "_", None)
    call = getattr(packet, getattr(step.call, "_overloadname", ""), None)
    return step if call is None else step._replace(call=call)


IN_PLACE = {"relu", "hardtanh", "silu", "hardswish", "hardsigmoid", "sigmoid", "leaky_relu", "elu", "add", "mul"}
# What gives new memory, and is not a view of anything.
MAKERS = {
    "convolution", "activated_convolution", "add", "mul", "sub", "native_batch_norm",
    "_native_batch_norm_legit_no_training", "cat", "avg_pool2d", "avg_pool3d", "addmm", "mm", "relu", "hardtanh",
    "silu", "native_layer_norm",
}  # fmt: skip
SIZED = {"reshape", "expand"}


def _equal(a: Sequence[int], b: Sequence[int], axes: Axes) -> bool:
    return all(a[i] == b[i] for i in axes)


def _through_view(before: Sequence[int], after: Sequence[int], axes: Axes) -> Axes | None:
    """An axis stays where as many numbers lie before it and its length is the same; one of length 1 is none."""
    found: list[int] = []
    for axis in axes:
        left = math.prod(before[:axis])
        fitting = [
            b for b, n in enumerate(after)
            if n == before[axis] and math.prod(after[:b]) == left and b not in found and (axis or not b)
        ]  # fmt: skip
        if not fitting:
            return None
        found.append(fitting[0])
    return tuple(found)


def _positive(dims: Any, ndim: int) -> list[int]:
    return [d % ndim for d in ((dims,) if isinstance(dims, int) else dims)]


def _dropping(axes: Axes, gone: Sequence[int]) -> Axes | None:
    """Where axes lie after others have gone."""
    return None if set(axes) & set(gone) else tuple(a - sum(g < a for g in gone) for a in axes)


def _reduction(step: Step, axes: Axes, shapes: Shapes) -> Axes | None:
    given, shape = step.given, shapes[step.reads()[0]]
    dims = given.get("dim")
    if dims is None or (isinstance(dims, (list, tuple)) and not dims):
        return None
    gone = _positive(dims, len(shape))
    if given.get("keepdim"):
        return None if set(axes) & set(gone) else axes
    return _dropping(axes, gone)


def _apart(step: Step, axes: Axes, shapes: Shapes) -> Axes | None:
    """Works along one axis or several, and leaves the rest."""
    given, shape = step.given, shapes[step.reads()[0]]
    dims = given.get("dim", given.get("dims", 0))
    return None if set(axes) & set(_positive(dims, len(shape))) else axes


def _cat(step: Step, axes: Axes, shapes: Shapes) -> Axes | None:
    parts = step.args[0]
    alike = all(isinstance(p, At) and len(shapes[p.value]) == len(shapes[parts[0].value]) for p in parts)
    return _apart(step, axes, shapes) if alike else None


def _select(step: Step, axes: Axes, shapes: Shapes) -> Axes | None:
    return _dropping(axes, _positive(step.given.get("dim", 0), len(shapes[step.reads()[0]])))


def _squeeze(step: Step, axes: Axes, shapes: Shapes) -> Axes | None:
    shape, dims = shapes[step.reads()[0]], step.given.get("dim")
    if dims is None:
        return None
    gone = [d for d in _positive(dims, len(shape)) if shape[d] == 1]
    return _dropping(axes, gone)


def _unsqueeze(step: Step, axes: Axes, shapes: Shapes) -> Axes | None:
    new = step.given["dim"] % (len(shapes[step.reads()[0]]) + 1)
    return tuple(a + (a >= new) for a in axes)


def _permute(step: Step, axes: Axes, shapes: Shapes) -> Axes | None:
    order = _positive(step.given["dims"], len(shapes[step.reads()[0]]))
    return tuple(order.index(a) for a in axes)


def _transpose(step: Step, axes: Axes, shapes: Shapes) -> Axes | None:
    ndim = len(shapes[step.reads()[0]])
    one, two = _positive((step.given["dim0"], step.given["dim1"]), ndim)
    return tuple({one: two, two: one}.get(a, a) for a in axes)


def _layer_norm(step: Step, axes: Axes, shapes: Shapes) -> Axes | None:
    shape = shapes[step.reads()[0]]
    return axes if max(axes) < len(shape) - len(step.given["normalized_shape"]) else None


def _batch_norm(step: Step, axes: Axes, shapes: Shapes) -> Axes | None:
    return axes if evaluates(step) and 1 not in axes else None


def _by_sample(step: Step, axes: Axes, shapes: Shapes) -> Axes | None:
    before, after = shapes[step.reads()[0]], shapes[step.gives[0]]  # type: ignore[index]
    alone = len(step.reads()) == 1 and len(before) == len(after)  # else the weights hang on the sample, or no batch
    weight = step.given.get("weight")
    unbatched = isinstance(weight, Tensor) and weight.ndim != len(before)
    return axes if axes == (0,) and alone and not unbatched else None


def _pad(step: Step, axes: Axes, shapes: Shapes) -> Axes | None:
    ndim, pads = len(shapes[step.reads()[0]]), step.given["pad"]
    padded = {ndim - 1 - i // 2 for i, p in enumerate(pads) if p}
    return None if padded & set(axes) else axes


def _expand(step: Step, axes: Axes, shapes: Shapes) -> Axes | None:
    before, after = shapes[step.reads()[0]], shapes[step.gives[0]]  # type: ignore[index]
    return axes if len(before) == len(after) and _equal(before, after, axes) else None


def _linear(step: Step, axes: Axes, shapes: Shapes) -> Axes | None:
    return axes if max(axes) < len(shapes[step.reads()[0]]) - 1 else None


def _mm(step: Step, axes: Axes, shapes: Shapes) -> Axes | None:
    rows = step.given.get("mat1", step.given.get("self"))
    alone = len(step.reads()) == 1 and isinstance(rows, At)
    bias = step.given["self"] if step.name == "aten::addmm" else None
    shared = bias is None or (isinstance(bias, Tensor) and (bias.ndim < 2 or bias.shape[0] == 1))
    return axes if alone and shared and axes == (0,) else None


RULES: dict[str, Callable[[Step, Axes, Shapes], Axes | None]] = {
    **dict.fromkeys(REDUCTIONS, _reduction),
    **dict.fromkeys(
        ["_softmax", "_log_softmax", "slice", "split", "split_with_sizes", "flip", "glu", "cumsum"], _apart
    ),
    **dict.fromkeys(["select", "unbind"], _select),
    **dict.fromkeys(BY_SAMPLE, _by_sample),
    **dict.fromkeys(["native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm"], _batch_norm),
    "cat": _cat,
    "squeeze": _squeeze,
    "unsqueeze": _unsqueeze,
    "permute": _permute,
    "transpose": _transpose,
    "native_layer_norm": _layer_norm,
    "constant_pad_nd": _pad,
    "expand": _expand,
    "linear_last": _linear,
    "addmm": _mm,
    "mm": _mm,
}
