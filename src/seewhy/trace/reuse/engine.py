"""Prepare a network for one picture, then ask what it answers when a window of that picture is replaced."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from seewhy.models.folded import channels_last, folded
from seewhy.models.tape import Step, Tape, Unrecorded, last_reads, record, store
from seewhy.trace.forward import out_of_memory, quiet, run
from seewhy.trace.layout import own
from seewhy.trace.outputs import finite

from .fused import activated, packed, padded
from .linear import joined
from .reading import put, region, shelf
from .rules import Book, Compute, Desk, planned
from .whole import Timed, play, timed, told
from .windows import Change, Window, groups

if TYPE_CHECKING:
    from seewhy.types import Inputs, Model

MANY = 24  # pictures that make a record worth it, whose steps are quicker than the network
SHARE = 0.85  # of a layer in a window, above which all of it is computed
MASKS = 24  # worked through together
FEW = 2**16  # numbers a mask; so few are gathered from all masks before they are worked on
LATE = 512  # masks together then
WORK = 7 * 2**20  # numbers in a layer of whole pictures that are worked on together, on a CPU
LITTLE = 400_000  # in a layer of one picture, below which any number of them is
EXACT = {torch.float32, torch.float64}
ROUNDING = 2.0**10  # units in the last place of the largest output by which two ways of computing may differ
TF32 = 2.0**-6  # the same as a share of it, where a GPU may round the factors of single precision


class Windowed(NamedTuple):
    """A step done in windows, and the values that are over after it."""

    step: Step
    compute: Compute
    over: list[int]


class Plan(NamedTuple):
    """First steps done in windows, then values pasted whole, then steps done on whole values."""

    book: Book
    windowed: list[Windowed]
    pasted: list[int]
    whole: list[Timed]


@dataclass(frozen=True)
class Prepared:
    """A network that has seen one picture. Holds for as long as its weights stay as they are.

    Attributes:
        model: who answers.
        x: [1, C, *S] the picture.
        tape: what the network did with it.
    """

    model: Model
    x: Tensor
    tape: Tape

    def run(
        self, starts: Tensor, patch: Tensor, *, masks: int = MASKS, share: float = SHARE, max_memory: int | None = None
    ) -> Tensor | str:
        """What the network gives when [start, start + w) of the picture is replaced by the patch.

        Args:
            starts: [M, D] where each window begins; inside the picture.
            patch: [M or 1, C, *w].
            masks: how many are worked through together, at most.
            share: of a layer in a window, above which all of it is computed.
            max_memory: bytes that the work may add.

        Returns:
            [M, ...] the output for each, or the reason why it cannot be told.
        """
        with quiet(self.model), torch.no_grad():
            try:
                return _run(self, starts, patch, masks, share, max_memory)
            except Unrecorded as reason:
                return str(reason)

    @cached_property
    def packed(self) -> Tape:
        """The record to be done in windows."""
        return packed(self.tape)

    @cached_property
    def steps(self) -> list[Timed]:
        """All of the record, to be done for whole pictures."""
        return timed(packed(padded(self.tape)).steps, {self.tape.result}, self.tape)

    @cached_property
    def early(self) -> int:
        """How many of the steps come before all values are small."""
        sizes = [
            max((_numbers(self.tape, v) for v in step.gives if v is not None), default=0) for step, *_ in self.steps
        ]
        return max((i + 1 for i, size in enumerate(sizes) if size > LITTLE), default=0)

    def _in_portions(self, points: Tensor) -> Tensor:
        """First steps on few pictures at a time, whose values stay in the processor's cache; last ones on all."""
        early, late = self.steps[: self.early], self.steps[self.early :]
        largest = max((_numbers(self.tape, v) for step, *_ in early for v in step.gives if v is not None), default=1)
        few = max(1, WORK // largest) if points.device.type == "cpu" else len(points)
        source, result = self.tape.source, self.tape.result
        made = [play(early, {source: part.unsqueeze(1)}, self.tape) for part in points.split(few)]
        given = {v: torch.cat([m[v].flatten(0, 1) for m in made]).unsqueeze(1) for v in made[0]}
        return play(late, given, self.tape)[result].squeeze(1)

    def answer(self, points: Tensor, *, ask: bool) -> Tensor | str:
        """What the network gives for other pictures, from its record: batch norms folded, channels last.

        Args:
            points: [M, C, *S] like `x`.
            ask: ask the network itself for the first of them too, and compare.

        Returns:
            [M, ...], or the reason why it cannot be told.
        """
        with quiet(self.model), torch.no_grad():
            try:
                _check_weights(self.tape)
                output = self._in_portions(channels_last(points))
                if ask:
                    _check(self.model, points[:1], output[0])
                return output
            except Unrecorded as reason:
                return str(reason)


def prepare(model: Model, x: Inputs) -> Prepared | str:
    """Let the network see one picture and keep what each layer gave.

    Args:
        model: who answers.
        x: [1, C, *S].

    Returns:
        What can be asked about windows of it, or the reason why nothing can.
    """
    if x.dtype not in EXACT or x.ndim < 3 or len(x) != 1:
        return f"the input is {str(x.dtype).removeprefix('torch.')} of shape {list(x.shape)}"
    if torch.is_autocast_enabled(x.device.type):
        return "autocast changes the precision on the way"
    with quiet(model), torch.no_grad():
        seen = channels_last(x.detach().clone())
        try:
            tape = record(lambda z: model.forward(own(z, model.layout)), seen)
            return Prepared(model, x, activated(joined(folded(tape))))
        except Unrecorded as reason:
            return str(reason)
        except RuntimeError as error:
            if out_of_memory(error):
                raise
            return f"it cannot be recorded: {error}"


def answering(model: Model, known: Prepared | str, layer: str | None = None) -> Callable[[Inputs], Any]:
    """A function from other pictures to what the network, or one of its layers, gives for them.

    Args:
        model: who answers.
        known: what `prepare` gave; a reason: the network itself is asked each time.
        layer: whose output is wanted; None: the network's own.
    """
    quick = [] if isinstance(known, str) or layer is not None else [known]  # emptied where it cannot answer
    ask = True

    def outputs(points: Inputs) -> Any:
        nonlocal ask
        if quick:
            given = quick[0].answer(points, ask=ask)
            ask = False
            if isinstance(given, Tensor) and finite(given):
                return given
            quick.clear()
        return run(model, points.contiguous(), graph=False, layer=layer).explained

    return outputs


def _run(prepared: Prepared, starts: Tensor, patch: Tensor, masks: int, share: float, max_memory: int | None) -> Tensor:
    tape, x = prepared.packed, prepared.x
    _check_weights(tape)
    window = Window(starts.cpu().numpy().astype(np.int64), tuple(patch.shape[2:]))
    cut = late(tape)
    made, waiting = [], []
    order = groups(window, x.shape[2:], masks)
    for members in order:
        own_starts = Window(window.starts[members], window.size)
        plan = planned_out(tape, Change(tuple(x.shape), tuple(range(2, x.ndim)), own_starts), share, cut)
        here = patch if len(patch) == 1 else patch[torch.from_numpy(members).to(patch.device)]
        waiting += _group(plan, here.to(x).expand(len(members), *patch.shape[1:]), max_memory)
        if members is order[-1] or sum(len(v) for values in waiting for v in values.values()) >= LATE:
            together = {v: torch.cat([values[v] for values in waiting]) for v in cut.reads}
            made.append(play(timed(cut.steps, {tape.result}, tape), together, tape)[tape.result].squeeze(1))
            waiting = []
    sorted_ = torch.cat(made)
    output = torch.empty_like(sorted_)
    output[torch.from_numpy(np.concatenate(order)).to(output.device)] = sorted_
    chosen = int(torch.randint(len(starts), (), generator=torch.Generator().manual_seed(len(starts))))
    place = tuple(slice(s, s + n) for s, n in zip(starts[chosen].tolist(), patch.shape[2:], strict=True))
    replaced = x.clone()
    replaced[0][(slice(None), *place)] = patch[chosen if len(patch) > 1 else 0].to(x)
    _check(prepared.model, replaced, output[chosen])
    return output


def _check_weights(tape: Tape) -> None:
    if not tape.unchanged():
        raise Unrecorded("the weights have changed since it was prepared")


def _group(plan: Plan, patch: Tensor, max_memory: int | None) -> list[dict[int, Tensor]]:
    """What the last steps begin with, for the masks of one plan; in several portions where memory is short."""
    book = plan.book
    size = len(patch)
    if max_memory is not None:
        size = max(1, min(size, max_memory // _bytes(plan, patch.element_size())))
    desk = Desk({v: shelf(book.tape.clean(v), book.changes[v], size) for v in book.shelved})
    found = []
    for first in range(0, len(patch), size):
        desk.part = slice(first, min(first + size, len(patch)))
        found.append(play(plan.whole, _windows(plan, desk, patch[desk.part]), book.tape))
    return found


class Cut(NamedTuple):
    """Last steps on few numbers, best done for many masks together, and the values that they begin with."""

    steps: tuple[Step, ...]
    reads: set[int]


def late(tape: Tape) -> Cut:
    """The last steps, matrices times vectors mostly."""
    first = len(tape.steps)
    while first and _small(tape.steps[first - 1], tape):
        first -= 1
    steps = tape.steps[first:]
    reads = {v for step in steps for v in step.reads()} - {v for step in steps for v in step.gives}
    return Cut(steps, reads if steps else {tape.result})


def _small(step: Step, tape: Tape) -> bool:
    few = all(math.prod(tape.shapes[v]) <= FEW for v in (*step.reads(), *step.gives) if v is not None)
    return few and step.name.removeprefix("aten::") in {"mm", "addmm", "reshape", "relu", "clone"}


def planned_out(tape: Tape, change: Change, share: float, cut: Cut) -> Plan:
    """Walk the tape: in windows as long as they are known and small."""
    book = Book(tape, tape.users(), {tape.source: change})
    done_in_windows: list[tuple[Step, Compute]] = []
    pasted: dict[int, None] = {}
    whole: list[Step] = []
    for step in tape.steps[: len(tape.steps) - len(cut.steps)]:
        reads = step.reads()
        if change.share <= share and all(v in book.changes for v in reads):
            shelved = set(book.shelved)
            plan = planned(step, book)
            if plan is not None and max(c.share for c in plan.changes) <= share:
                alive = [v for v in step.gives if v is not None]
                book.changes.update(zip(alive, plan.changes, strict=False))
                done_in_windows.append((step, plan.compute))
                continue
            book.shelved = shelved
        whole.append(step)
        pasted.update(dict.fromkeys(v for v in reads if v in book.changes))
    pasted.update(dict.fromkeys(v for v in cut.reads if v in book.changes))
    book.shelved |= set(pasted)
    over = last_reads(tuple(step for step, _ in done_in_windows), set(pasted))
    windowed = [Windowed(*pair, gone) for pair, gone in zip(done_in_windows, over, strict=True)]
    return Plan(book, windowed, list(pasted), timed(whole, cut.reads, tape))


def _windows(plan: Plan, desk: Desk, patch: Tensor) -> dict[int, Tensor]:
    """Do the first steps in windows, and give the values that the others need, whole. [M, 1, ...] each."""
    book = plan.book
    desk.fresh = {}

    def lay(value: int, fresh: Tensor) -> None:
        desk.fresh[value] = fresh
        if value in book.shelved:
            put(desk.shelves[value], fresh, book.changes[value])

    lay(book.tape.source, patch)
    for step, compute, over in plan.windowed:
        made: dict[int, Tensor] = {}
        store(step, told(step, lambda c=compute: c(desk)), made)  # type: ignore[misc]
        for value, fresh in made.items():
            if value in book.changes:
                lay(value, fresh)
        for value in over:
            desk.fresh.pop(value, None)
    found = {}
    for value in plan.pasted:
        change = book.changes[value]
        found[value] = region(desk.shelves[value], change, change.whole(), desk.part, 0.0).unsqueeze(1)
    desk.fresh = {}
    return found


def _numbers(tape: Tape, value: int) -> int:
    return math.prod(tape.shapes[value])


def _bytes(plan: Plan, number: int) -> int:
    """What one mask needs: its windows on the shelves, and the largest whole values twice."""
    book = plan.book
    shelved = sum(_size(book.changes[v]) for v in book.shelved)
    whole = max((math.prod(book.tape.shapes[v]) for s, *_ in plan.whole for v in s.gives if v is not None), default=0)
    windows = max((_size(c) for c in book.changes.values()), default=0)
    return (shelved + 3 * max(whole, windows)) * number


def _size(change: Change) -> int:
    return math.prod(change.shape) // max(1, math.prod(change.lengths)) * math.prod(change.window.size)


def _check(model: Model, x: Tensor, output: Tensor) -> None:
    """Ask the network itself about one of the pictures."""
    expected = model.forward(own(x, model.layout))
    if expected.numel() == 0:
        raise Unrecorded("its output is empty")
    if expected.shape[1:] != output.shape:
        raise Unrecorded(f"one mask gave shape {list(output.shape)}, not {list(expected.shape[1:])}")
    rounded = x.is_cuda and x.dtype == torch.float32 and torch.backends.cudnn.allow_tf32
    allowed = (TF32 if rounded else ROUNDING * torch.finfo(x.dtype).eps) * expected.abs().max()
    if not bool((expected[0] - output).abs().max() <= allowed):
        raise Unrecorded("one mask, asked of the whole network, gave another answer")
