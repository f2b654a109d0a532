"""The networks that a trained one is compared with: what was drawn anew, and whether they are alive."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from seewhy.errors import ModelError, OptionError
from seewhy.models import tree
from seewhy.trace.choice import inherit
from seewhy.trace.forward import quiet, run
from seewhy.trace.layout import own
from seewhy.trace.outputs import join, tensors
from seewhy.trace.ready import ready
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
LEARNT = 0.95  # share of shuffled labels that a network must know by heart
COUNTED = 2  # inputs on which the spread of the layers is looked at


Train = Callable[[Any, Tensor], torch.nn.Module]


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
    channels_last = _works_channels_last(model, x)
    several = _heads(model, x, rows[-1], draws, seed) if heads else None
    if several is not None:
        yield Net("top", list(range(draws)), several)
        del parts["top"]
    for draw in range(draws):
        for kind, part in parts.items():
            twin, trouble = _alive(model, x, everything, part, usual, seed + 1 + draw, channels_last)
            if not trouble and kind == "all" and scores.shape[1] >= FEW:
                likeness.append(float((ranks(scores) * ranks(_scores(twin, x))).sum(-1).mean()))
                alike = sum(likeness) / draws  # of all draws: of few classes, one network ranks alike by chance
                if alike > ALIKE:
                    trouble = f"without learnt weights the scores still rank as before ({alike:.2f} > {ALIKE})"
            inherit(model, twin)
            yield Net(kind, [draw], twin, trouble)


def permuted(model: Model, train: Train, data: tuple[Tensor, Tensor], draws: int, seed: int) -> Iterator[Net]:
    """Networks that learnt the same inputs with shuffled labels: what they answer has nothing to do with what is seen.

    Adebayo et al. 2018, section 3.2. One that did not learn its labels by heart says nothing; `trouble` says so.
    """
    inputs, labels = data
    for draw in range(draws):
        order = np.random.default_rng((seed, 6, draw)).permutation(len(labels))
        shuffled = labels[torch.from_numpy(order)]
        network = train(inputs, shuffled)
        if not isinstance(network, torch.nn.Module) or network is model.module:
            raise OptionError(
                f"train gave a {type(network).__name__}: a new torch module, trained on what it is given."
            )
        call = model.call
        forward = network if call is None else partial(call, network)
        twin = replace(model, forward=forward, module=network, name=f"{model.name}, labels shuffled")
        _, prepared = ready(twin, inputs)
        right = float((_scores(twin, prepared).argmax(1) == shuffled).double().mean())
        why = (
            f"a network trained on shuffled labels knows {right:.0%} of them, {LEARNT:.0%} are needed: train it longer"
        )
        inherit(model, twin)
        yield Net("data", [draw], twin, why if right < LEARNT else "")


def check_data(train: Any, data: Any) -> None:
    """Refuse what no twin can be trained from.

    Raises:
        OptionError: one without the other, or labels that are no whole numbers, one an input.
    """
    if train is None and data is None:
        return
    if not callable(train) or not isinstance(data, tuple) or len(data) != 2:
        raise OptionError(
            "train and data go together: train(inputs, labels) gives a network, data=(inputs, labels) what it learns."
        )
    inputs, labels = data
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.shape != (len(inputs),):
        given = list(labels.shape) if isinstance(labels, Tensor) else type(labels).__name__
        raise OptionError(f"data: the labels are {given}; a tensor of {len(inputs)} whole numbers is needed.")
    if len(labels.unique()) < 2:
        raise OptionError("data: there is one label only, which cannot be shuffled.")


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


def _works_channels_last(model: Model, x: Inputs) -> bool:
    """Whether a copy works with channels last in memory, which convolutions are quicker with."""
    copied = drawn(model, set(), "init", 0)
    assert copied.module is not None
    weights = list(copied.module.parameters())
    if x.ndim != 4 or not any(w.ndim == 4 for w in weights) or any(w.ndim == 5 for w in weights):
        return False
    copied.module.to(memory_format=torch.channels_last)
    try:
        _scores(copied, x[:2])
    except ModelError:  # it looks at its features in a way that needs the other order
        return False
    return True


def _alive(
    model: Model, x: Inputs, rows: list[tuple[str, list[str]]], part: list[list[str]], usual: list[float], seed: int,
    channels_last: bool,
) -> tuple[Model, str]:  # fmt: skip
    """A copy with a part drawn anew, and what is wrong with it."""
    names = {name for owned in part for name in owned}
    first = next((n for n, (_, owned) in enumerate(rows) if owned in part), len(rows))
    layers = layers_of(rows[first:])
    trouble = ""
    for how in ("init", "permute"):
        twin = drawn(model, names, how, seed)
        if channels_last and twin.module is not None:
            twin.module.to(memory_format=torch.channels_last)
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
