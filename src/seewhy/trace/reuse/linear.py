"""A linear layer over channels that stand last is recorded as rows, a product, and rows put back: make it one step."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor
from torch.nn.functional import linear

from seewhy.models.tape import At, Step, Tape

VIEW = "aten::reshape"


def linear_last(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """[..., C] -> [..., O]: each position by itself."""
    return linear(x, weight, bias)


def joined(tape: Tape) -> Tape:
    """The tape with such layers as one step each."""
    users = tape.users()
    maker = {v: step for step in tape.steps for v in step.gives if v is not None}
    gone: set[int] = set()
    instead: dict[int, Step] = {}

    for step in tape.steps:
        rows = _rows(step)
        if rows is None or rows not in maker:
            continue
        before, product = maker[rows], step.gives[0]
        assert product is not None
        after = users[product]
        if before.name != VIEW or len(users[rows]) != 1 or len(after) != 1 or after[0].name != VIEW:
            continue
        (back,) = after
        source = before.reads()[0]
        shape, end = tape.shapes[source], tape.shapes[back.gives[0]]  # type: ignore[index]
        same = shape[:-1] == end[:-1] and (shape[-1], end[-1]) == (tape.shapes[rows][1], tape.shapes[product][1])
        if not same or tape.result in {rows, product}:
            continue
        given = step.given
        bias = given["self"] if step.name == "aten::addmm" else None
        gone |= {id(before), id(step)}
        instead[id(back)] = Step(linear_last, (At(source), given["mat2"].t(), bias), {}, back.gives, True)
    return replace(tape, steps=tuple(instead.get(id(s), s) for s in tape.steps if id(s) not in gone))


def _rows(step: Step) -> int | None:
    """The rows that a step multiplies by a fixed matrix, and adds nothing to but a bias; None for other steps."""
    given = step.given
    rows = given.get("mat1") if step.name == "aten::addmm" else given.get("self")
    if step.name not in {"aten::mm", "aten::addmm"} or not isinstance(rows, At) or len(step.reads()) != 1:
        return None
    if step.name == "aten::addmm" and (given["self"].ndim != 1 or given["beta"] != 1 or given["alpha"] != 1):
        return None
    return rows.value
