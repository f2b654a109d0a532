"""The networks that a trained one is compared with: what was drawn anew, and whether they are alive."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from seewhy.errors import ModelError
from seewhy.models import tree
from seewhy.trace.choice import inherit
from seewhy.trace.forward import quiet, run
from seewhy.trace.layout import own
from seewhy.trace.outputs import join, tensors
from seewhy.trace.watch import told

from .randomize import drawn, layers_of, rows_of, settle
from .similarity import ranks
from .verdict import FEW

if TYPE_CHECKING:
    from seewhy.types import Inputs, Model

KINDS = ("top", "half", "all", "bottom")
ALIVE = 30.0  # how far the spread of the layers' outputs may be from the trained ones, as a factor
ALIKE = 0.5  # rank correlation of the scores, above which a network without learnt weights still answers as before
BATCH = 8
COUNTED = 2  # inputs on which the spread of the layers is looked at


class Net(NamedTuple):
    """Networks of one kind; several draws are one network where only the last layer differs."""

    kind: str
    draws: list[int]
    model: Model
    trouble: str = ""  # why its maps say nothing


def networks(model: Model, x: Inputs, draws: int, seed: int, *, heads: bool) -> Iterator[Net]:
    """The randomised networks, one at a time.

    Weights come from the layers' own initialisers. Where that leaves the network dead, the trained values are shuffled
    instead. Networks that differ in the last layer only are one network with several heads, so what lies before runs
    once (`heads`).
    """
    everything = rows_of(model, own(x[:1], model.layout))
    rows = [owned for _, owned in everything if owned]
    if not rows:
        raise ModelError(f"{model.name} has no weights that could be drawn anew.")
    half = len(rows) // 2
    parts = {"top": rows[-1:], "half": rows[half:], "all": rows, "bottom": rows[:-1]}
    usual, scores, likeness = _spreads(model, x), _scores(model, x), list[float]()
    several = _heads(model, x, rows[-1], draws, seed) if heads else None
    if several is not None:
        yield Net("top", list(range(draws)), several)
        del parts["top"]
    for draw in range(draws):
        for kind, part in parts.items():
            twin, trouble = _alive(model, x, everything, part, usual, seed + 1 + draw)
            if not trouble and kind == "all" and scores.shape[1] >= FEW:
                likeness.append(float((ranks(scores) * ranks(_scores(twin, x))).sum(-1).mean()))
                alike = sum(likeness) / draws  # of all draws: of few classes, one network ranks alike by chance
                if alike > ALIKE:
                    trouble = f"without learnt weights the scores still rank as before ({alike:.2f} > {ALIKE})"
            inherit(model, twin)
            yield Net(kind, [draw], twin, trouble)


def _heads(model: Model, x: Inputs, last: list[str], draws: int, seed: int) -> Model | None:
    """A model that gives the scores of all draws of the last layer side by side, [N, draws · classes].

    None where the last layer's output is not what the network gives.
    """
    name = {w.rpartition(".")[0] for w in last}
    if len(name) != 1 or not all(name) or model.module is None:
        return None
    layer, me = tree.layer(model.module, *name), threading.get_ident()
    seen: list[tuple[Any, Any]] = []

    def record(_layer: Any, args: Any, output: Any) -> None:
        if threading.get_ident() == me:
            seen.append((args, output))

    def trunk(x: Tensor) -> Any:
        seen.clear()
        handle = layer.register_forward_hook(record)
        try:
            output = model.forward(x)
        finally:
            handle.remove()
        return seen[-1][0] if len(seen) == 1 and seen[-1][1] is output and output.ndim == 2 else None

    with quiet(model), torch.no_grad():
        if trunk(own(x[:1], model.layout)) is None:
            return None
    twins = [drawn(model, set(last), "init", seed + 1 + draw).module for draw in range(draws)]
    heads = [tree.layer(twin, *name).eval() for twin in twins if twin is not None]

    def forward(x: Tensor) -> Tensor:
        args = trunk(x)
        return torch.cat([head(*args) for head in heads], 1)

    for head in heads:
        head.requires_grad_(False)
    return replace(model, forward=forward, labels=None)


def _alive(
    model: Model, x: Inputs, rows: list[tuple[str, list[str]]], part: list[list[str]], usual: list[float], seed: int
) -> tuple[Model, str]:
    """A copy with a part drawn anew, and what is wrong with it."""
    names = {name for owned in part for name in owned}
    first = next((n for n, (_, owned) in enumerate(rows) if owned in part), len(rows))
    layers = layers_of(rows[first:])
    trouble = ""
    for how in ("init", "permute"):
        twin = drawn(model, names, how, seed)
        settle(twin, layers, own(x, model.layout))
        trouble = _dead(usual, _spreads(twin, x))
        if not trouble:
            break
    return twin, trouble


def _scores(model: Model, x: Inputs) -> Tensor:
    with quiet(model), torch.no_grad():
        output = join([run(model, part, graph=False).output for part in x.split(BATCH)])
    first = next(iter(tensors(output)))
    return first.detach().cpu().flatten(1)[:, :10000]


def _spreads(model: Model, x: Inputs) -> list[float]:
    """The standard deviation of what each layer gives, and last that of the output over inputs."""
    found: list[float] = []

    def tell(_name: str, layer: Any, output: Any) -> None:
        first = next(iter(tensors(output)), None)
        if layer is not None and first is not None and first.is_floating_point() and first.numel() > 1:
            found.append(float(first.detach().std()))

    assert model.module is not None
    with quiet(model), torch.no_grad(), told(model.module, tell):
        output = model.forward(own(x[:COUNTED], model.layout))
    last = next(iter(tensors(output))).detach()
    return [*found, float(last.std(0).mean()) if len(last) > 1 else float(last.std())]


def _dead(usual: list[float], now: list[float]) -> str:
    """What is wrong with a randomised network; nothing, if it is alive."""
    if not np.isfinite(now).all():
        return "with its weights drawn anew the network gives NaN or infinite values"
    if usual[-1] > 0 and now[-1] == 0:
        return "with its weights drawn anew the network gives the same for every input"
    factors = [b / a for a, b in zip(usual, now, strict=False) if a > 0]
    typical = float(np.median(factors)) if factors else 1.0
    if not 1 / ALIVE <= typical <= ALIVE:
        return f"with its weights drawn anew the layers' outputs are {typical:.2g} times as wide: the network is dead"
    return ""
