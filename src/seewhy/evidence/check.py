"""check(): does this method's map depend on what this network learnt? A verdict, with controls that prove the test."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from seewhy.errors import ModelError, OptionError, choose
from seewhy.methods import METHODS, Method
from seewhy.methods.averaged import Averaged
from seewhy.methods.checks import check_needs, members_of
from seewhy.methods.explain import explain
from seewhy.methods.progress import tracked
from seewhy.models import wrap
from seewhy.trace import question
from seewhy.trace.forward import quiet, run
from seewhy.trace.layout import own
from seewhy.trace.outputs import join
from seewhy.trace.predict import probabilities
from seewhy.trace.ready import ready
from seewhy.types import Can, Card, Evidence, Judgement

from .curves import filling, scorer
from .deletion import gain
from .networks import KINDS, check_data, networks, permuted
from .table import Table
from .verdict import GONE, MEANING, OTHER_CLASS, SAME_CLASS, STAYS, judge

if TYPE_CHECKING:
    from torch import Tensor

    from seewhy.types import Explanation, Inputs, Model

LEVELS = {"quick": (16, 4, 8), "full": (64, 8, 16)}  # inputs, draws, steps of a deletion
CONTROLS = ("edges", "random", "centre")
SURE = 20  # times as sure must the verdict on noise be, before it says that the tests do not work
BATCH = 8


class Question(NamedTuple):
    """What is explained, held fixed for every network."""

    target: Any  # for the trained network: the class and its rivals [N, 1 + R], or a function
    fixed: Any  # for the others: the class alone
    labels: tuple[str, ...]
    no_classes: str  # why there are no rivals
    classes: int = 0


def check(
    model: Any, x: Any, methods: Any, *, target: Any = None, level: str = "quick", seed: int = 0,
    progress: bool | None = None, train: Callable[[Any, Tensor], torch.nn.Module] | None = None,
    data: tuple[Any, Tensor] | None = None,
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
        train: of inputs and labels, gives a network of the same kind trained on them until it knows them by heart. It
            is called once a draw with shuffled labels, for T4.
        data: those inputs, and their labels [M], whole numbers.

    Raises:
        OptionError: a level, target or data that are not allowed, or a `train` that gives no new network.
        ModelError: a plain function, or a method that needs what the model cannot give.
    """
    began = time.perf_counter()
    check_data(train, data)
    count, draws, steps = LEVELS[choose("level", level, LEVELS)]
    model = wrap(model)
    asked = list(methods) if isinstance(methods, (list, tuple)) else [methods]
    if not asked:
        raise OptionError("methods=[] asks for nothing: give at least one name.")
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
        table = Table(model, inputs, trained, again, draws, KINDS if train is None else (*KINDS, "data"))
        problem = ""
        others = networks(model, inputs, draws, seed, heads=not callable(asking.fixed))
        if train is not None and data is not None:
            others = itertools.chain(others, permuted(model, train, data, draws, seed))
        for net in others:
            problem = problem or ("" if net.kind == "data" else net.trouble)
            aim = asking.fixed
            if len(net.draws) > 1 and not callable(aim):
                aim = aim + torch.tensor(net.draws) * asking.classes
            try:
                table.add(net, maps_of(net.model, aim, seed + 2 + net.draws[0], everything))
            except ModelError as error:
                problem = problem or f"a network with {net.kind} drawn anew cannot be explained: {error}"
        scores, filled = scorer(model, inputs, asking.fixed, count=2 * steps), filling(model, inputs)
        gains = {}
        for e in trained:
            if e.method not in {"edges", "centre"}:
                gains[e.method] = gain(scores, filled, _each(e, seed), inputs.shape[2:], steps, seed)
                advance(2 * steps * len(inputs))

    judged = {}
    for e, method in zip(trained, everything, strict=True):
        found = table.similarities(e.method, gains.get(e.method), asking.no_classes, _method(method).classless)
        careful = SURE if e.method == "random" else 1
        judged[e.method] = judge(found, several=careful * len(asked), needed=LEVELS["full"][0])
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
        asked={
            e.method: {"score": e.score, "feature_layer": e.feature_layer, "reduction_layer": e.reduction_layer,
                       "options": dict(e.options), "filters": e.filters}
            for e in trained[: len(asked)]
        },
    )  # fmt: skip


def _each(e: Explanation, seed: int) -> Tensor:
    """The maps [N, *S'] that deletion follows; the noise control is one map for all inputs, and draws one each here."""
    found = e.maps[:, 0]
    if e.method != "random":
        return found
    draw = np.random.default_rng((seed, 4))
    return torch.from_numpy(draw.normal(size=tuple(found.shape)))


def _draws(method: Any) -> bool:
    """Whether a method gives another map for another seed."""
    if isinstance(method, Averaged):
        return method.kind == "smooth" or _draws(method.method)
    return bool({"normal", "uniform"} & set(_method(method).reads)) and method != "random"


def _method(asked: Any) -> Method:
    """The line of the table behind what was asked."""
    found: Method = METHODS[asked] if isinstance(asked, str) else getattr(asked, "method", asked)
    return found


def _question(model: Model, x: Inputs, target: Any, seed: int) -> Question:
    """The class of each input, and others to compare it with: the best of the rest, and any other."""
    question.check(target, len(x), model)
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
        return Question(chosen, chosen, labels, "there is one score only", 1)
    if classes == 2 and already:
        why = "two probabilities sum to one, so their absolute maps are equal by algebra"
        return Question(chosen, chosen, labels, why, 2)
    rivals = totals.scatter(1, chosen, -torch.inf).argmax(1, keepdim=True)
    if classes > 2:
        draw = np.random.default_rng((seed, 5))
        third = [int(draw.choice([c for c in range(classes) if c not in row])) for row in
                 torch.cat([chosen, rivals], 1).tolist()]  # fmt: skip
        rivals = torch.cat([rivals, torch.tensor(third)[:, None]], 1)
    return Question(torch.cat([chosen, rivals], 1), chosen, labels, "", classes)


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
