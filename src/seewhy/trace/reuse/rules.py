"""What each operation makes of windows: where its output changes, and how that part alone is computed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from seewhy.models.tape import At, Step, Tape

from .carry import again, carried, elementwise
from .fused import ACTIVATED
from .reading import Shelf, cut, region, steps, tensor
from .windows import Change, Slide, Window, felt, hull, needed, same, sources, spread, union

aten = torch.ops.aten
POOLS = {"max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool2d", "avg_pool3d"}
RESAMPLERS = {
    "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_linear1d", "upsample_bilinear2d",
    "upsample_trilinear3d", "upsample_bicubic2d", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d",
    "replication_pad1d", "replication_pad2d", "replication_pad3d",
}  # fmt: skip
SEVERAL = {"split", "split_with_sizes", "unbind", "max", "min"}  # every output of theirs is like the first
LARGEST = 2**24  # numbers spent on finding out what a resampler does


@dataclass
class Desk:
    """What lies open while some masks are worked through: their windows by value, and shelves to read from."""

    shelves: dict[int, Shelf]
    part: slice = field(default_factory=lambda: slice(0, 0))
    fresh: dict[int, Tensor] = field(default_factory=dict)


Compute = Callable[[Desk], Any]


class Planned(NamedTuple):
    """A step done in windows: what it gives for the masks of a desk, and where that lies."""

    compute: Compute
    changes: tuple[Change, ...]


@dataclass
class Book:
    """What is known while a tape is walked.

    Attributes:
        tape, users: what ran, and who reads what.
        changes: the values that masks change inside windows only.
        shelved: those of them that are read elsewhere than inside their windows.
    """

    tape: Tape
    users: dict[int, list[Step]]
    changes: dict[int, Change]
    shelved: set[int] = field(default_factory=set)

    def along(self, value: int, axes: Sequence[int]) -> Change:
        """A value with these axes as positions, from now on."""
        before = self.changes[value]
        if not set(axes) <= set(before.axes):
            self.changes[value] = before.along(sorted({*axes, *before.axes}))
        return self.changes[value].along(axes)

    def read(self, value: int, axes: Sequence[int], wanted: Window, fill: float = 0.0) -> Compute:
        """How these windows of a value are got."""
        change = self.along(value, axes)
        if same(wanted, change.window):
            return lambda desk: desk.fresh[value]
        self.shelved.add(value)

        def found(desk: Desk) -> Tensor:
            own = self.changes[value]  # it may have got more axes since
            window = Change(own.shape, tuple(axes), wanted).along(own.axes).window
            return region(desk.shelves[value], own, window, desk.part, fill)

        return found


def planned(step: Step, book: Book) -> Planned | None:
    """How a step is done in windows, or None if it is not known. All it reads changes in windows only."""
    name = step.name.removeprefix("aten::")
    alive = [i for i, v in enumerate(step.gives) if v is not None and (book.users[v] or v == book.tape.result)]
    if alive and max(alive) > 0 and name not in SEVERAL:
        return None
    if name in {"convolution", ACTIVATED}:
        return _convolution(step, book)
    if name in POOLS:
        return _pool(step, book)
    if name == "constant_pad_nd":
        return _pad(step, book)
    if name in RESAMPLERS:
        return _resampled(step, book)
    if name == "slice":
        return _alike(step, book) or _slice(step, book)
    return _alike(step, book)


def _shape(step: Step, book: Book, output: int = 0) -> tuple[int, ...]:
    value = step.gives[output]
    return () if value is None else book.tape.shapes[value]


def _alike(step: Step, book: Book) -> Planned | None:
    """Steps that do the same at every position: done on the windows as they are."""
    reads = list(dict.fromkeys(step.reads()))
    shapes = book.tape.shapes
    if len({len(shapes[v]) for v in reads}) > 1 or any(shapes[v][0] != 1 for v in reads):
        return None
    axes = tuple(sorted({a for v in reads for a in book.changes[v].axes if shapes[v][a] > 1}))
    after = (0, *axes) if _joins(step, (0, *axes), book) else carried(step, (0, *axes), shapes)
    if not axes or after is None or after[0] != 0:
        return None
    changes = [book.along(v, axes) for v in reads]
    lengths = changes[0].lengths
    if any(c.lengths != lengths for c in changes):
        return None
    window = union([c.window for c in changes], lengths)
    get = {v: book.read(v, axes, window) for v in reads}
    here = _widened(step, len(shapes[reads[0]]), axes, lengths, window)

    def compute(desk: Desk) -> Any:
        values = {v: g(desk) for v, g in get.items()}
        return again(here(desk), values.__getitem__, (0, *axes), after)

    count = len(step.gives) if step.name.removeprefix("aten::") in SEVERAL else 1
    return Planned(compute, tuple(Change(_shape(step, book, i), after[1:], window) for i in range(count)))


def _joins(step: Step, axes: Sequence[int], book: Book) -> bool:
    """Whether it is a concatenation, constants among them, along another axis than these."""
    if step.name != "aten::cat":
        return False
    ranks = {len(book.tape.shapes[p.value]) if isinstance(p, At) else p.ndim for p in step.args[0]}
    return len(ranks) == 1 and step.given.get("dim", 0) % ranks.pop() not in axes


def _widened(
    step: Step, ndim: int, axes: Sequence[int], lengths: Sequence[int], window: Window
) -> Callable[[Desk], Step]:
    """The step with what its constants hold at each window in their place."""
    if step.name != "aten::cat" and not elementwise(step):
        return lambda _: step  # its constants have no positions

    def put(a: Any, desk: Desk) -> Any:
        if type(a) in {list, tuple}:
            return type(a)(put(v, desk) for v in a)
        if not isinstance(a, Tensor) or a.ndim == 0:
            return a
        a = a.view([1] * (ndim - a.ndim) + list(a.shape))
        here = [d for d, axis in enumerate(axes) if a.shape[axis] == lengths[d] and lengths[d] > 1]
        starts = window.starts[desk.part]
        if not here and step.name != "aten::cat":
            return a
        a = a.expand(len(starts), *a.shape[1:])
        return cut(a, starts[:, here], [axes[d] for d in here], [window.size[d] for d in here])

    def fixed(desk: Desk) -> Step:
        return step._replace(
            args=tuple(put(a, desk) for a in step.args), kwargs={k: put(v, desk) for k, v in step.kwargs.items()}
        )

    def has(tree: Any) -> bool:
        return any(has(v) if type(v) in {list, tuple} else isinstance(v, Tensor) for v in tree)

    return fixed if has([*step.args, *step.kwargs.values()]) else lambda _: step


def _slides(step: Step, dims: int) -> list[Slide]:
    given = step.given

    def each(name: str, default: Sequence[int]) -> list[int]:
        values = list(given.get(name) or default)
        return values * dims if len(values) == 1 else values

    kernel = each("kernel_size", list(given["weight"].shape[2:]) if "weight" in given else [])
    stride = each("stride", kernel)
    padding, dilation = each("padding", [0]), each("dilation", [1])
    return [Slide(*k) for k in zip(kernel, stride, padding, dilation, strict=True)]


def _spatial(step: Step, book: Book) -> tuple[int, Change] | None:
    """The value a kernel slides over, with all axes behind the channels as positions."""
    reads = step.reads()
    if len(reads) != 1 or not isinstance(step.args[0], At):
        return None
    shape = book.tape.shapes[reads[0]]
    own = book.changes[reads[0]]
    axes = tuple(range(2, len(shape)))
    if not axes or shape[0] != 1 or any(a < 2 for a in own.axes if shape[a] > 1):
        return None
    return reads[0], book.along(reads[0], axes)


def _convolution(step: Step, book: Book) -> Planned | None:
    found = _spatial(step, book)
    given = step.given
    if found is None or not isinstance(given["weight"], Tensor):
        return None
    value, change = found
    dims = len(change.axes)
    if given["weight"].ndim != dims + 2:
        return None
    if given["transposed"]:
        return _transposed(step, book, value, change)
    slides = _slides(step, dims)
    shape = _shape(step, book)
    window = felt(change.window, slides, shape[2:])
    get = book.read(value, change.axes, needed(window, slides))
    rest = {k: v for k, v in given.items() if k != "input"}
    call = partial(step.call, **rest | {"padding": [0] * dims})  # the border is in what is read
    return Planned(lambda desk: call(get(desk)), (Change(shape, change.axes, window),))


def _transposed(step: Step, book: Book, value: int, change: Change) -> Planned:
    given, dims = step.given, len(change.axes)
    slides = _slides(step, dims)
    shape = _shape(step, book)
    window = spread(change.window, slides, shape[2:])
    wanted, skip = sources(window, slides)
    get = book.read(value, change.axes, wanted)
    rest = (given["weight"], given["bias"], given["stride"], [0] * dims, given["dilation"], True)
    # outputs that no input writes, beyond the last tap, hold the bias
    written = [(n - 1) * k.stride + k.span for n, k in zip(wanted.size, slides, strict=True)]
    extra = [max(0, int(s.max()) + n - w) for s, n, w in zip(skip.T, window.size, written, strict=True)]

    def compute(desk: Desk) -> Tensor:
        made = aten.convolution(get(desk), *rest, [0] * dims, given["groups"])
        if any(extra):
            made = _lengthened(made, extra, given["bias"])
        return cut(made, skip[desk.part], change.axes, window.size)

    return Planned(compute, (Change(shape, change.axes, window),))


def _lengthened(made: Tensor, extra: Sequence[int], bias: Tensor | None) -> Tensor:
    size = [*made.shape[:2], *(n + e for n, e in zip(made.shape[2:], extra, strict=True))]
    whole = made.new_zeros(size)
    if bias is not None:
        whole += bias.view(-1, *[1] * len(extra))
    inner = whole
    for axis, n in enumerate(made.shape):
        inner = inner.narrow(axis, 0, n)
    inner.copy_(made)
    return whole


def _pool(step: Step, book: Book) -> Planned | None:
    found = _spatial(step, book)
    dims = 3 if "3d" in step.name else 2
    if found is None or len(found[1].axes) != dims:
        return None
    value, change = found
    given, shape = step.given, _shape(step, book)
    slides = _slides(step, dims)
    window = felt(change.window, slides, shape[2:])
    largest = "max" in step.name
    get = book.read(value, change.axes, needed(window, slides), -math.inf if largest else 0.0)
    kernel, stride = [k.kernel for k in slides], [k.stride for k in slides]
    if largest:
        dilation = [k.dilation for k in slides]

        def maxima(desk: Desk) -> Any:
            # the operation itself, for its indices have a place in what the step gives
            return step.call(get(desk), kernel, stride, [0] * dims, dilation, False)

        return Planned(maxima, (Change(shape, change.axes, window), Change(shape, change.axes, window)))
    counts = _counts(given, slides, change.lengths, shape[2:], next(iter(book.tape.kept.values())).device)

    def means(desk: Desk) -> Tensor:
        total = step.call(get(desk), kernel, stride, [0] * dims, False, False, 1)
        for d, (count, n) in enumerate(zip(counts, window.size, strict=True)):
            here = count[steps(tensor(window.starts[desk.part, d], total.device), n)].to(total.dtype)
            total = total / here.view(len(here), 1, *(n if e == d else 1 for e in range(dims)))
        return total  # type: ignore[no-any-return]

    return Planned(means, (Change(shape, change.axes, window),))


def _counts(
    given: dict[str, Any], slides: Sequence[Slide], lengths: Sequence[int], after: Sequence[int], device: torch.device
) -> list[Tensor]:
    """By what an average is divided, as factors an axis: how many taps count at each output."""
    override = given.get("divisor_override")
    found = []
    for d, (k, before, n) in enumerate(zip(slides, lengths, after, strict=True)):
        first = torch.arange(n, device=device) * k.stride - k.padding
        last = (first + k.kernel).clamp(max=before + k.padding)
        if not given.get("count_include_pad", True):
            first, last = first.clamp(min=0), last.clamp(max=before)
        found.append(last - first if override is None else torch.full_like(first, override if d == 0 else 1))
    return found


def _shifted(step: Step, book: Book, slides: dict[int, Slide]) -> Planned | None:
    """Steps that only move positions along some axes: padding and slicing."""
    reads = step.reads()
    shape = book.tape.shapes[reads[0]]
    if len(reads) != 1 or shape[0] != 1 or 0 in slides:
        return None
    axes = tuple(sorted({*slides, *(a for a in book.changes[reads[0]].axes if shape[a] > 1)}))
    change = book.along(reads[0], axes)
    moves = [slides.get(a, Slide(1, 1, 0, 1)) for a in axes]
    after = _shape(step, book)
    window = felt(change.window, moves, [after[a] for a in axes])
    # with a stride the taps between are read and skipped
    get = book.read(reads[0], axes, needed(window, moves))
    skips = [slice(None)] * len(after)
    for a, move in zip(axes, moves, strict=True):
        skips[a] = slice(None, None, move.stride)
    return Planned(lambda desk: get(desk)[tuple(skips)], (Change(after, axes, window),))


def _pad(step: Step, book: Book) -> Planned | None:
    shape, pads = book.tape.shapes[step.reads()[0]], step.given["pad"]
    if step.given.get("value", 0) != 0:
        return None
    pairs = zip(pads[::2], strict=False)
    moves = {len(shape) - 1 - i: Slide(1, 1, low, 1) for i, (low,) in enumerate(pairs)}
    return _shifted(step, book, {a: m for a, m in moves.items() if a and any(pads[2 * (len(shape) - 1 - a) :][:2])})


def _slice(step: Step, book: Book) -> Planned | None:
    given, shape = step.given, book.tape.shapes[step.reads()[0]]
    axis = given.get("dim", 0) % len(shape)
    start = given.get("start") or 0
    start = min(max(start + shape[axis] if start < 0 else start, 0), shape[axis])
    return _shifted(step, book, {axis: Slide(1, given.get("step", 1), -start, 1)})


def _resampled(step: Step, book: Book) -> Planned | None:
    """Steps that weigh the positions of each axis anew; by which weights, they show themselves."""
    found = _spatial(step, book)
    if found is None:
        return None
    value, change = found
    after, lengths = _shape(step, book), change.lengths
    if len(after) != len(change.shape) or max(lengths) * math.prod(lengths) > LARGEST:
        return None
    weights = [_weights(step, book, d, lengths) for d in range(len(lengths))]
    low, high = zip(*(_touched(w, change.window, d) for d, w in enumerate(weights)), strict=True)
    window = hull(np.stack(low, 1), np.stack(high, 1), after[2:])
    low, high = zip(*(_touched(w.T, window, d) for d, w in enumerate(weights)), strict=True)
    wanted = hull(np.stack(low, 1), np.stack(high, 1), lengths)
    get = book.read(value, change.axes, wanted)

    def compute(desk: Desk) -> Tensor:
        y: Tensor = get(desk)
        for d, w in enumerate(weights):
            out = steps(tensor(window.starts[desk.part, d], y.device), window.size[d])
            into = steps(tensor(wanted.starts[desk.part, d], y.device), wanted.size[d])
            own = w[out[:, :, None], into[:, None, :]]  # [M, after, before]
            own = own.transpose(1, 2).view(len(own), *[1] * (y.ndim - 3), into.shape[1], out.shape[1])
            y = (y.movedim(2 + d, -1) @ own).movedim(-1, 2 + d)
        return y

    return Planned(compute, (Change(after, change.axes, window),))


def _weights(step: Step, book: Book, d: int, lengths: Sequence[int]) -> Tensor:
    """[after, before] along one axis: what comes of a one at each position, the other axes being constant."""
    n = lengths[d]
    like = next(iter(book.tape.kept.values()))
    ones = torch.eye(n, dtype=like.dtype, device=like.device).view(
        1, n, *(n if e == d else 1 for e in range(len(lengths)))
    )
    made: Tensor = step.call(ones.expand(1, n, *lengths).contiguous(), *step.args[1:], **step.kwargs)
    for e in reversed(range(len(lengths))):
        made = made if e == d else made.select(2 + e, 0)
    return made[0].T.contiguous()


def _touched(weights: Tensor, window: Window, d: int) -> tuple[np.ndarray, np.ndarray]:
    """The first and the last row, plus one, that weighs something of the columns in each window. [M] each."""
    start, size = window.starts[:, d], window.size[d]
    before = np.pad((weights != 0).cpu().numpy().cumsum(1), ((0, 0), (1, 0)))
    rows = (before[:, start + size] > before[:, start]).T
    return rows.argmax(1), rows.shape[1] - rows[:, ::-1].argmax(1)
