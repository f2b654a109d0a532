"""Steps of a record done on whole values, for many samples at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from seewhy.models.tape import Step, Tape, Unrecorded, done, last_reads, store
from seewhy.trace.forward import out_of_memory

from .carry import again, carried, in_place


class Timed(NamedTuple):
    """A step done on whole values, those that are over after it, and whether it keeps the samples of a batch apart."""

    step: Step
    over: list[int]
    apart: bool


def timed(steps: Sequence[Step], keep: set[int], tape: Tape) -> list[Timed]:
    """Steps, each with the values that are over after it; in the memory of what is over where that can be."""
    after = last_reads(tuple(steps), keep)
    maker = {v: step for step in steps for v in step.gives if v is not None}
    return [
        Timed(in_place(s, maker.get(s.reads()[0]), gone, tape.shapes), gone, _apart(s, tape.shapes))
        for s, gone in zip(steps, after, strict=True)
    ]


def play(steps: list[Timed], values: dict[int, Tensor], tape: Tape) -> dict[int, Tensor]:
    """Do steps on whole values, mask by mask in one batch; gives what is not over. [M, 1, ...] each."""
    for step, over, apart in steps:
        store(step, told(step, lambda s=step, a=apart: _batched(s, values, a)), values)  # type: ignore[misc]
        for value in over:
            values.pop(value, None)
    return values


def _apart(step: Step, shapes: Mapping[int, tuple[int, ...]]) -> bool:
    reads = step.reads()
    gives = [v for v in step.gives if v is not None and v in shapes]
    ones = all(shapes[v][0] == 1 for v in (*reads, *gives) if shapes[v])
    return ones and all(shapes[v] for v in reads) and carried(step, (0,), shapes) == (0,)


def _batched(step: Step, values: dict[int, Tensor], apart: bool) -> Any:
    """One step for a batch of samples, each [1, ...]: at once if it keeps samples apart, else by `vmap`."""
    if apart:
        made = again(step, lambda v: values[v].select(1, 0), (0,), (0,))
        return made.unsqueeze(1) if step.single else [m if m is None else m.unsqueeze(1) for m in made]
    order = list(dict.fromkeys(step.reads()))

    def one(*sample: Tensor) -> Any:
        return done(step, dict(zip(order, sample, strict=True)).__getitem__)

    given = [values[v] for v in order]
    if _has_batches(step):
        return torch.func.vmap(one, randomness="error")(*given)
    made = [one(*sample) for sample in zip(*given, strict=True)]
    return (
        torch.stack(made)
        if step.single
        else [None if p[0] is None else torch.stack(p) for p in zip(*made, strict=True)]
    )


def _has_batches(step: Step) -> bool:
    """Whether torch knows how to do it for a batch of samples; where it does not it warns and is slow."""
    keys = ("FuncTorchBatched", "FuncTorchBatchedDecomposition")
    if not isinstance(step.call, torch._ops.OpOverload):  # what stands for an operator here is made of ordinary ones
        return True
    name = step.call.name()
    return any(torch._C._dispatch_has_kernel_for_dispatch_key(name, key) for key in keys)


def told(step: Step, call: Callable[[], Any]) -> Any:
    """Do it; what goes wrong is told with the step's name."""
    try:
        return call()
    except (RuntimeError, ValueError, IndexError) as error:
        if out_of_memory(error):
            raise
        raise Unrecorded(f"{step.name} cannot be done for many masks at once: {error}") from error
