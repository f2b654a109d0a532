"""What ran inside a network during one forward of one sample, in order: layers, and functions between them.

A layer that ran more than once is named call by call, "relu#2"; a function by the layer that called it, "layer1.0/add".
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from .forward import run
from .outputs import tensors
from .watch import watched

if TYPE_CHECKING:
    from seewhy.types import Inputs, Model


class Step(NamedTuple):
    """One call of a layer, or of a function between layers."""

    name: str
    module: nn.Module | None  # None for a function
    kind: str  # the type of the layer, or the name of the function
    shape: tuple[int, ...] | None  # of its first tensor, batch included
    edge: GradientEdge | None  # where its output stands in the recorded graph; in-place steps behind it do not matter


class Record(NamedTuple):
    """One forward with its graph."""

    steps: list[Step]  # in the order they ended
    explained: list[Tensor]  # the tensors of what is explained
    leaf: Node  # the input


def recorded(model: Model, x: Inputs, end: str | None = None) -> Record:
    """Run one sample and write down every step.

    Args:
        model: who answers; must have a module.
        x: the batch, of which the first sample runs.
        end: the layer whose output is explained; None: the network's output.
    """
    assert model.module is not None
    module, steps = model.module, []

    def tell(name: str, layer: nn.Module | None, output: Any) -> None:
        first = next(iter(tensors(output)), None)
        kind = name.rpartition("/")[2] if layer is None else type(layer).__name__
        edge = get_gradient_edge(first) if first is not None and first.requires_grad else None
        steps.append(Step(name, layer, kind, None if first is None else tuple(first.shape), edge))

    def forward(x: Tensor) -> Any:
        with watched(module, tell):
            return model.forward(x)

    done = run(replace(model, forward=forward), x[:1], graph=True, layer=end)
    explained = [t for t in tensors(done.explained) if t.is_floating_point()]
    return Record(_numbered(steps), explained, get_gradient_edge(done.x).node)


def _numbered(steps: list[Step]) -> list[Step]:
    calls, seen = Counter(step.name for step in steps), Counter[str]()
    found = []
    for step in steps:
        seen[step.name] += 1
        found.append(step if calls[step.name] == 1 else step._replace(name=f"{step.name}#{seen[step.name]}"))
    return found
