"""Which layer to read where nobody said: found from one recorded forward, with the reason, and remembered.

The layer is the last before the output, in the order they ran, that gathers rectified features with positions
and that everything passes through; of tokens, the last through which the patches still reach the score.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

from seewhy.errors import ModelError, unknown
from seewhy.models import tree

from .graph import nodes_before
from .layout import Place, place
from .rectifiers import is_activation
from .steps import Step, recorded

if TYPE_CHECKING:
    from torch.autograd.graph import Node

    from seewhy.types import Inputs, Model

GATHERS = {"AddBackward0", "CatBackward0", "StackBackward0"}
# Steps that only move numbers: what counts is what lies before them.
MOVES = {f"{name}Backward{i}" for i in (0, 1) for name in (
    "View", "UnsafeView", "ReshapeAlias", "Permute", "Transpose", "Clone", "Alias", "Squeeze", "Unsqueeze", "Slice",
    "NativeDropout")}  # fmt: skip
ACTIVATION = re.compile(r"relu|elu|swish|silu|mish|sigmoid|tanh", re.IGNORECASE)
CONVOLUTION = re.compile(r"conv|pool", re.IGNORECASE)
DETACHED = (
    "the score does not depend on the input through autograd (a detach, a no_grad, a rounding, or numpy on the way)"
)
REMEMBERED = 64  # sizes and reduction layers a network
ADVICE = "if another layer suits better, give feature_layer (seewhy.layers lists them)"

_remembered: WeakKeyDictionary[nn.Module, dict[Any, Survey]] = WeakKeyDictionary()


Found = TypeVar("Found", bound=Any)  # a record with `parts`


class Seen(NamedTuple):
    """One step, without its tensor."""

    name: str
    shape: tuple[int, ...] | None
    where: Place | None


class Survey(NamedTuple):
    """What one forward showed: the steps, the layer to read with the reason, and the layer that gave the output."""

    parts: list[ref[Any]]  # it holds while these are the same: how the network is called, and its modules
    steps: list[Seen]
    chosen: Seen | None
    reason: str
    output: str | None


def survey(model: Model, x: Inputs, end: str | None) -> Survey:
    """What is known of the layers of a network for inputs like these; runs it once, then remembers.

    Args:
        model: who answers; must have a module.
        x: the batch.
        end: the layer whose output is explained; None: the network's output.
    """
    return remembered(_remembered, _surveyed, model, x, end)


def remembered(
    memory: WeakKeyDictionary[nn.Module, dict[Any, Found]],
    work: Callable[[Model, Inputs, str | None], Found],
    model: Model,
    x: Inputs,
    end: str | None,
) -> Found:
    """work(model, x, end), or what it found before for a network of the same parts and an input of the same size."""
    assert model.module is not None
    parts = [model.forward, *tree.layers(model.module).values()]
    known = memory.setdefault(model.module, {})
    key = (end, tuple(x.shape[1:]), model.layout)
    found = known.get(key)
    if (
        found is None
        or len(found.parts) != len(parts)
        or any(a() is not b for a, b in zip(found.parts, parts, strict=True))
    ):
        if len(known) >= REMEMBERED:
            known.clear()
        made: Found = work(model, x, end)._replace(parts=[ref(part) for part in parts])
        known[key] = found = made
    return found


def inherit(model: Model, twin: Model) -> None:
    """What is known of a network holds for a copy with other weights too: it reads the same layers."""
    assert model.module is not None and twin.module is not None
    parts = [ref(part) for part in (twin.forward, *tree.layers(twin.module).values())]
    known = {key: found._replace(parts=parts) for key, found in _remembered.get(model.module, {}).items()}
    _remembered[twin.module] = known


def _surveyed(model: Model, x: Inputs, end: str | None) -> Survey:
    steps, outputs, leaf = recorded(model, x, end)
    ends = [t.grad_fn for t in outputs if t.grad_fn is not None]
    size = tuple(x.shape[2:])
    places, grids = [], []
    last = model.layout is not None and model.layout.endswith("C")
    for step in steps:
        shape = step.shape
        grids += grids_of([step], x, last)
        places.append(None if not shape or shape[0] != 1 else place(shape, size, grids, last))
    index, why = _choose(steps, places, outputs, leaf) if ends else (None, DETACHED)
    seen = [Seen(s.name, s.shape, where) for s, where in zip(steps, places, strict=True)]
    named = [s for s in steps if ends and s.edge is not None and origin(s.edge.node) is origin(ends[0])]
    output = end or (clearest(named).name if named and len(outputs) == 1 else None)
    if index is None:
        return Survey([], seen, None, why, output)
    chosen = seen[steps.index(clearest([s for s in steps if s.edge is not None and s.edge == steps[index].edge]))]
    grid = " × ".join(map(str, places[index].grid))  # type: ignore[union-attr]
    return Survey([], seen, chosen, f"{chosen.name} ({grid}): {why}; {ADVICE}", output)


def grids_of(steps: list[Step], x: Inputs, last: bool) -> list[tuple[int, ...]]:
    """The grids that convolutions and poolings gave; `last`: the network keeps its channels last."""
    found = []
    for step in steps:
        shape = step.shape
        if shape is not None and len(shape) == len(x.shape) and CONVOLUTION.search(step.kind):
            native = step.module is None or type(step.module).__module__.startswith("torch.")  # channels first, always
            found.append(shape[1:-1] if last and not native else shape[2:])
    return found


def _choose(steps: list[Step], places: list[Place | None], outputs: list[Tensor], leaf: Node) -> tuple[int | None, str]:
    """The number of the step to read, and why."""
    ends = [t.grad_fn for t in outputs if t.grad_fn is not None]
    before = nodes_before(ends)
    spatial = [
        i for i, (s, where) in enumerate(zip(steps, places, strict=True))
        if where is not None and where.spatial and s.edge is not None and s.edge.node in before
    ]  # fmt: skip
    own = [i for i in spatial if places[i].prefix is None]  # type: ignore[union-attr]
    tokens = [i for i in spatial if i not in own and not _only_projects(steps[i])]
    gathered = [i for i in own if _gathers(steps[i])]
    given = {origin(end) for end in ends}  # a map of the output read off the output is the output
    gathered = [i for i in gathered if origin(steps[i].edge.node) not in given] or gathered  # type: ignore[union-attr]

    def through(i: int) -> bool:  # every path from the input to the score passes it
        return leaf not in nodes_before(ends, without=steps[i].edge.node)  # type: ignore[union-attr]

    cut = next((i for i in reversed(gathered) if through(i)), None)
    reached = _last_reached(steps, places, tokens, outputs)
    if reached is not None and (cut is None or reached > cut):
        return reached, "the last tokens through which the patches reach the score"
    if cut is not None:
        return cut, "the last layer that gathers rectified features with positions, and all paths pass through it"
    if gathered:
        return gathered[-1], "the last layer that gathers rectified features with positions (other paths go round it)"
    convolutions = [i for i in own if CONVOLUTION.search(steps[i].kind) and steps[i].module is not None]
    if convolutions:
        return convolutions[-1], "nothing rectified has positions, so the last convolution"
    return None, "no layer keeps the input's positions"


def passes_all(model: Model, x: Inputs, name: str, end: str | None) -> bool:
    """Whether every path from the input to what is explained passes layer `name`: the recorded graph proves it."""
    steps, outputs, leaf = recorded(model, x, end)
    edge = next((s.edge for s in steps if s.name == name), None)
    ends = [t.grad_fn for t in outputs if t.grad_fn is not None]
    return edge is not None and bool(ends) and leaf not in nodes_before(ends, without=edge.node)


def _gathers(step: Step) -> bool:
    """Rectified, or the sum or concatenation of what was rectified before."""
    if ACTIVATION.search(step.kind):
        return True
    node = origin(step.edge.node)  # type: ignore[union-attr]
    if is_activation(node):
        return True
    parts = [after for after, _ in node.next_functions if after is not None]
    joins = node.name() in GATHERS and (len(parts) > 1 or "Add" not in node.name())  # a bias is added to one alone
    return joins and any(map(is_activation, nodes_before([node])))


def origin(node: Node) -> Node:
    """The step that made the numbers which this one may only have moved."""
    while node.name() in MOVES and node.next_functions and node.next_functions[0][0] is not None:
        node = node.next_functions[0][0]
    return node


def _only_projects(step: Step) -> bool:
    """A linear map by itself makes no tokens: the query, key and value of an attention."""
    return isinstance(step.module, nn.Linear) or (step.module is None and step.kind in {"linear", "matmul"})


def _last_reached(
    steps: list[Step], places: list[Place | None], tokens: list[int], outputs: list[Tensor]
) -> int | None:
    """The last of the token layers whose patches, the prefix aside, have any gradient."""
    if not tokens:
        return None
    draw = torch.Generator().manual_seed(0)
    score = sum(
        (o * torch.randn(o.shape, generator=draw, dtype=torch.float64).to(o)).sum() for o in outputs if o.requires_grad
    )
    edges = [steps[i].edge for i in tokens]
    found = torch.autograd.grad(score, edges, allow_unused=True)  # type: ignore[arg-type]
    for i, gradient in reversed(list(zip(tokens, found, strict=True))):
        if gradient is not None and bool(gradient[:, places[i].prefix :].any()):  # type: ignore[union-attr]
            return i
    return None


def clearest(same: list[Step]) -> Step:
    """Of the names of one tensor, that of the innermost layer that ran once."""
    return next((s for s in same if s.module is not None and "#" not in s.name), same[0])


def find(seen: Survey, name: str, model: Model) -> Seen:
    """The step that a name means.

    Raises:
        UnknownNameError: nothing of that name ran.
        ModelError: it ran more than once, or is there but did not run.
    """
    exact = [step for step in seen.steps if step.name == name]
    if exact:
        return exact[0]
    calls = [step.name for step in seen.steps if "#" in step.name and step.name.rpartition("#")[0] == name]
    if calls:
        raise ModelError(f"layer {name!r} ran {len(calls)} times in one forward: name the call, {', '.join(calls)}.")
    if name and model.module is not None and name in tree.layers(model.module):
        raise ModelError(f"layer {name!r} exists, but its forward did not run in this call.")
    raise unknown("layer", name, [step.name for step in seen.steps if "/" not in step.name])
