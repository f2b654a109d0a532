"""check(): does this method's map depend on what this network learnt? A verdict, with controls that prove the test."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from seewhy import maps
from seewhy.errors import ModelError, OptionError, choose
from seewhy.methods import METHODS
from seewhy.methods.averaged import Averaged
from seewhy.methods.checks import check_needs, members_of
from seewhy.methods.explain import explain
from seewhy.methods.progress import tracked
from seewhy.models import wrap
from seewhy.trace import question
from seewhy.trace.forward import quiet, ready, run
from seewhy.trace.layout import own
from seewhy.trace.outputs import join, tensors
from seewhy.trace.path import resolve_baseline
from seewhy.trace.predict import probabilities
from seewhy.trace.watch import told
from seewhy.types import Can, Card, Evidence, Judgement

from .deletion import gain
from .randomize import drawn, rows_of, settle
from .similarity import Ranked, partial, ranked, ranks
from .verdict import FEW, GONE, MEANING, OTHER_CLASS, SAME_CLASS, STAYS, Similarities, judge

if TYPE_CHECKING:
    from seewhy.types import Explanation, Inputs, Model

LEVELS = {"quick": (16, 4, 8), "full": (64, 8, 16)}  # inputs, draws, steps of a deletion
CONTROLS = ("edges", "random", "centre")
KINDS = ("top", "half", "all", "bottom")
ALIVE = 30.0  # how far the spread of the layers' outputs may be from the trained ones, as a factor
ALIKE = 0.5  # rank correlation of the scores, above which a network without learnt weights still answers as before
BATCH = 8
COUNTED = 2  # inputs on which the spread of the layers is looked at


class Question(NamedTuple):
    """What is explained, held fixed for every network."""

    target: Any  # for the trained network: the class and its rivals [N, 1 + R], or a function
    fixed: Any  # for the others: the class alone
    labels: tuple[str, ...]
    no_classes: str  # why there are no rivals


def check(
    model: Any, x: Any, methods: Any, *, target: Any = None, level: str = "quick", seed: int = 0,
    progress: bool | None = None,
) -> Evidence:  # fmt: skip
    """Whether the maps of some methods depend on what this network learnt: intervals, controls, and one word each.

    The network is compared with copies in which the last layer, the upper half, everything, or everything but the last
    layer was drawn anew (Adebayo et al. 2018), its class held fixed; the map of a class with those of others (Sixt et
    al. 2020); and deletion by the map with deletion by its shuffled self. Similarity is Spearman's rank correlation of
    absolute maps at the method's own resolution, above what different inputs share. Edges, noise and a blob in the
    middle run along: if the tests do not tell them for what they are, the verdict is INVALID.

    Args:
        model: a network, or a wrapped one; a torch module, since its weights are drawn anew.
        x: inputs, at least 5 for a conclusion; "quick" uses the first 16, "full" 64.
        methods: one or several, as for `explain`.
        target: the class that is explained, or one an input, or a function of the output; default: the best of each.
        level: "quick" (16 inputs, 4 draws) or "full" (64 inputs, 8 draws).
        seed: of everything that is drawn.
        progress: show a bar on work over two seconds; default: on a terminal.

    Raises:
        OptionError: a level or target that is not allowed.
        ModelError: a plain function, or a method that needs what the model cannot give.
    """
    began = time.perf_counter()
    count, draws, steps = LEVELS[choose("level", level, LEVELS)]
    model = wrap(model)
    asked = list(methods) if isinstance(methods, (list, tuple)) else [methods]
    if model.module is None:
        raise ModelError(f"{model.name} is a plain function: it has no weights that could be drawn anew.")
    bare = [m for m in asked if not isinstance(m, Averaged)]
    check_needs(model, *members_of(bare or ["random"], {}))
    model, inputs = ready(model, x)
    notes = [MEANING]
    if len(inputs) > count:
        notes.append(f"the first {count} of {len(inputs)} inputs were used (level={level!r})")
    inputs = inputs[:count]
    reference = ["gradient"] if Can.GRADIENTS in model.can and "gradient" not in asked else []
    everything = [*asked, *(c for c in (*reference, *CONTROLS) if c not in asked)]

    with tracked("check", progress) as advance:

        def maps_of(network: Model, target: Any, seed: int, methods: Sequence[Any]) -> list[Explanation]:
            batch = own(inputs, model.layout)
            found = explain(network, batch, methods, target=target, upsample="none", seed=seed, progress=False)
            advance(len(inputs))
            return list(found)

        asking = _question(model, inputs, target, seed)
        trained = maps_of(model, asking.target, seed, everything)
        drawing = [m for m in everything if _draws(m)]
        again = {e.method: e for e in (maps_of(model, asking.fixed, seed + 1, drawing) if drawing else ())}
        table = _Table(model, inputs, trained, again, draws)
        problem = ""
        for kind, draw, network, trouble in _networks(model, inputs, draws, seed):
            problem = problem or trouble
            try:
                table.add(kind, draw, maps_of(network, asking.fixed, seed + 2 + draw, everything))
            except ModelError as error:
                problem = problem or f"the network with {kind} drawn anew cannot be explained: {error}"
        gains = {
            e.method: gain(model, inputs, e.maps[:, 0], asking.fixed, steps, seed, advance)
            for e in trained
            if e.method not in {"edges", "centre"}
        }

    judged = {}
    for e in trained:
        found = table.similarities(e.method, gains.get(e.method), asking.no_classes)
        judged[e.method] = judge(found, several=len(asked), seed=seed, needed=LEVELS["full"][0])
    names = [e.method for e in trained[: len(asked)]]
    problem = problem or _wrong(judged)
    if problem:
        notes.append(f"INVALID: {problem}")
        judged |= {name: replace(judged[name], verdict="INVALID", reason=problem) for name in names}
    notes += table.notes()
    return Evidence(
        methods={name: judged[name] for name in names},
        controls={name: judged[name] for name in (*reference, *CONTROLS)},
        notes=tuple(notes),
        settings={
            "model": model.name, "level": level, "inputs": len(inputs), "draws": draws, "steps": steps, "seed": seed,
            "stays": STAYS, "gone": GONE, "same class": SAME_CLASS, "other class": OTHER_CLASS,
            "interval": 1 - 0.05 / len(asked),
        },
        input=inputs.cpu(),
        labels=asking.labels,
        maps={name: table.shown[name] for name in names},
        preparation=model.preparation if isinstance(model.preparation, Card) else None,
        seconds=time.perf_counter() - began,
    )  # fmt: skip


def _draws(method: Any) -> bool:
    """Whether a method gives another map for another seed."""
    if isinstance(method, Averaged):
        return method.kind == "smooth" or _draws(method.method)
    reads = (METHODS[method] if isinstance(method, str) else method).reads
    return bool({"normal", "uniform"} & set(reads)) and method != "random"


def _question(model: Model, x: Inputs, target: Any, seed: int) -> Question:
    """The class of each input, and others to compare it with: the best of the rest, and any other."""
    question.check(target, len(x))
    with quiet(model), torch.no_grad():
        output = join([run(model, part, graph=False).output for part in x.split(BATCH)])
    asked = question.resolve(target, "logit", model, output, slice(0, len(x)))
    if asked.indices is None or asked.indices.shape[1] != 1:
        if asked.indices is not None or len(asked.functions) != 1:
            raise OptionError(f"target={target!r}: one class an input is checked at a time.")
        return Question(target, target, ("",) * len(x), "the target is a function")
    chosen = asked.indices.cpu()
    labels = tuple(row[0] for row in question.names_of(chosen, model.labels))
    totals = question.class_scores(output, model).detach().cpu()
    totals = totals.flatten(2).sum(2) if totals.ndim > 2 else totals
    classes = totals.shape[1]
    _, already = probabilities(output, model)
    if classes == 1:
        return Question(chosen, chosen, labels, "there is one score only")
    if classes == 2 and already:
        why = "two probabilities sum to one, so their absolute maps are equal by algebra"
        return Question(chosen, chosen, labels, why)
    rivals = totals.scatter(1, chosen, -torch.inf).argmax(1, keepdim=True)
    if classes > 2:
        draw = np.random.default_rng((seed, 5))
        third = [int(draw.choice([c for c in range(classes) if c not in row])) for row in
                 torch.cat([chosen, rivals], 1).tolist()]  # fmt: skip
        rivals = torch.cat([rivals, torch.tensor(third)[:, None]], 1)
    return Question(torch.cat([chosen, rivals], 1), chosen, labels, "")


def _networks(model: Model, x: Inputs, draws: int, seed: int) -> Iterator[tuple[str, int, Model, str]]:
    """Kind, draw, the randomised network, and what is wrong with it; one at a time.

    Weights come from the layers' own initialisers. Where that leaves the network dead, the trained values are shuffled
    instead.
    """
    rows = [owned for _, owned in rows_of(model, own(x[:1], model.layout)) if owned]
    if not rows:
        raise ModelError(f"{model.name} has no weights that could be drawn anew.")
    half = len(rows) // 2
    parts = {"top": rows[-1:], "half": rows[half:], "all": rows, "bottom": rows[:-1]}
    usual = _spreads(model, x)
    scores = _scores(model, x)
    for draw in range(draws):
        for kind, part in parts.items():
            names = {name for owned in part for name in owned}
            behind = rows[rows.index(part[0]) :] if part else []
            layers = {name.rpartition(".")[0] for owned in behind for name in owned}
            for how in ("init", "permute"):
                twin = drawn(model, names, how, seed + 1 + draw)
                settle(twin, layers, own(x, model.layout))
                trouble = _dead(usual, _spreads(twin, x))
                if not trouble:
                    break
            if not trouble and kind == "all" and scores.shape[1] >= FEW:
                alike = float((ranks(scores) * ranks(_scores(twin, x))).sum(-1).mean())
                if alike > ALIKE:
                    trouble = f"without learnt weights the scores still rank as before ({alike:.2f} > {ALIKE})"
            yield kind, draw, twin, trouble


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


class _Table:
    """Similarities as they come in; ranks of the trained maps are kept, those of the others are not."""

    def __init__(
        self, model: Model, x: Inputs, trained: list[Explanation], again: dict[str, Explanation], draws: int
    ) -> None:
        n = len(x)
        flat = {e.method: e.maps.abs().flatten(2) for e in trained}
        self.maps = {name: [ranked(one) for one in found.unbind(1)] for name, found in flat.items()}  # class by class
        self.forced = {e.method: ranked(_forced(model, x, e)) for e in trained}
        self.own = {e.method: _products(self.maps[e.method][0], again.get(e.method)) for e in trained}
        self.same = {name: {k: np.zeros((n, draws)) for k in KINDS} for name in self.maps}
        self.partial = {name: {k: np.zeros((n, draws)) for k in KINDS} for name in self.maps}
        self.cross = {name: {k: np.zeros((n, n, draws)) for k in KINDS} for name in self.maps}
        self.shown = {e.method: {"trained": e.maps[:, 0]} for e in trained}
        self.constant: dict[str, list[int]] = {name: [0, 0] for name in self.maps}

    def add(self, kind: str, draw: int, found: list[Explanation]) -> None:
        """The maps of one randomised network."""
        for e in found:
            drawn_map, trained = ranked(e.maps[:, 0].abs().flatten(1)), self.maps[e.method][0]
            cross = trained.ranks @ drawn_map.ranks.T
            self.cross[e.method][kind][:, :, draw] = cross.numpy()
            self.same[e.method][kind][:, draw] = cross.diagonal().numpy()
            self.partial[e.method][kind][:, draw] = partial(trained, drawn_map, self.forced[e.method])
            self.constant[e.method][0] += int((drawn_map.ranks == 0).all(1).sum())
            self.constant[e.method][1] += len(drawn_map.maps)
            if draw == 0:
                self.shown[e.method][kind] = e.maps[:, 0]

    def similarities(self, name: str, gained: np.ndarray | None, no_classes: str) -> Similarities:
        """All that is known of one method."""
        first, *others = self.maps[name]
        forced = self.forced[name]
        return Similarities(
            same=self.same[name],
            cross=self.cross[name],
            partial=self.partial[name],
            self=self.own[name],
            other=np.stack([(first.ranks * o.ranks).sum(1).numpy() for o in others], 1) if others else None,
            other_partial=np.stack([partial(first, o, forced) for o in others], 1) if others else None,
            gain=gained,
            no_classes=no_classes,
        )

    def notes(self) -> list[str]:
        """Maps that show nothing."""
        return [
            f"{name}: {none} of {count} maps of the randomised networks are constant; they count as different"
            for name, (none, count) in self.constant.items()
            if none > 0.05 * count
        ]


def _products(first: Ranked, again: Explanation | None) -> np.ndarray:
    """Self-similarity of a method that draws; 1 for the others."""
    if again is None:
        return np.ones(len(first.maps))
    found: np.ndarray = (first.ranks * ranks(again.maps[:, 0].abs().flatten(1))).sum(1).numpy()
    return found


def _forced(model: Model, x: Inputs, e: Explanation) -> Tensor:
    """How far the input is from the method's baseline, at the map's resolution [N, P]: what a product forces."""
    start = resolve_baseline(model, x, e.options["baseline"])[0] if "baseline" in e.options else 0.0
    away = (x - start).abs().sum(1, keepdim=True).cpu()
    size = e.maps.shape[2:]
    return (away if away.shape[2:] == size else maps.resample(away, size, "linear")).flatten(1).clamp(min=0)


def _wrong(judged: dict[str, Judgement]) -> str:
    """Which control was misjudged, if any: then the tests do not work on this network and these inputs."""
    wrong: list[tuple[str, str, str, Callable[[str], bool]]] = [
        ("edges", "T1", "edges of the input change with the weights", lambda v: v == "PASS"),
        ("centre", "T1", "a blob in the middle changes with the weights", lambda v: v == "PASS"),
        ("random", "T1", "noise stays when weights are drawn anew", lambda v: v == "FAIL"),
        ("random", "T2", "noise stays when weights are drawn anew", lambda v: v == "FAIL"),
        ("random", "T0", "noise is informative", lambda v: v == "PASS"),
    ]
    for name, test, what, is_wrong in wrong:
        if is_wrong(judged[name].tests[test].verdict):
            return f"by {test}, {what}: the test does not work on this network and these inputs"
    return ""
