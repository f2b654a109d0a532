"""The few ways to feed kernels: the only code that knows both a model and a kernel.

A family gets all its methods at once, so that they share what can be shared.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch

from seewhy.errors import ModelError, OptionError
from seewhy.trace.biases import biased
from seewhy.trace.choice import Seen, passes_all
from seewhy.trace.forward import Pass, out_of_memory, run
from seewhy.trace.layout import arranged, masked
from seewhy.trace.path import resolve_baseline, resolve_fill, resolve_references
from seewhy.trace.question import Asked, Scored, gradients, scored, values_of
from seewhy.trace.rectifiers import Rule, find, rectified
from seewhy.trace.reuse import prepare
from seewhy.types import Attribution, Evaluations, GradientsAt, ScoresAt, ScoresHiding, ScoresUnder

from .backward.guided_backprop import guided_backprop
from .draws import normal, uniform
from .perturb.segments import segmented

if TYPE_CHECKING:
    from torch import Tensor

    from seewhy.types import Model

    from .method import Method

T = TypeVar("T")
BLOCK = 32  # points whose gradients a kernel gets at once; a larger batch only speeds up the passes behind them
FEWEST, LARGEST = 8, 0.5  # windows that make preparing worth it, and their share of the input
PATCHES = 32  # cut out at once
WIDE, WIDEST = 2**25, 512  # bytes of a layer's features, and masks, that go through the rest of a network at once


class Member(NamedTuple):
    """A method with its options."""

    method: Method
    options: Mapping[str, Any]


class Scene(NamedTuple):
    """One batch: its forward, its questions and its answers, and how many samples fit at once."""

    model: Model
    done: Pass
    asked: Asked
    answers: list[Scored]
    room: list[int]  # samples a pass, one number that all batches of a call share
    bounded: bool  # whether the caller bounded it
    memory: int | None  # bytes that the call may add
    layer: str | None
    seed: int
    advance: Callable[[int], None]
    feature: Seen | None = None


class Given(NamedTuple):
    """What a kernel gave, and what it cost."""

    attribution: Attribution
    evaluations: Evaluations


def input_gradients(scene: Scene, members: list[Member]) -> list[Given]:
    """One forward for all; for each backward rule and each target one retained backward."""
    rules = [_rule(member) for member in members]
    rectifiers = find(scene.done.output) if any(rules) else None
    found = {}
    distinct = list(dict.fromkeys(rules))
    for rule in distinct:
        with rectified(rectifiers, rule):
            found[rule] = gradients(scene.answers, scene.done.x, scene.model, last=rule is distinct[-1])
    lost = torch.stack([a.rescued for a in scene.answers], 1)
    notes = () if not lost.any() else (
        f"the score is saturated: the factor s(1-s) underflows and is left out for {int(lost.sum())} maps (same "
        "picture, other unit)",
    )  # fmt: skip
    given = []
    for member, rule in zip(members, rules, strict=True):
        x = scene.done.x.detach()
        if rule is None:
            attribution = Attribution(_call(member, x=x, gradient=found[None]), notes=notes)
        else:
            attribution = Attribution(found[rule], notes=notes + (rectifiers.notes if rectifiers else ()))
        given.append(Given(attribution, Evaluations(len(x), found[rule].shape[0] * found[rule].shape[1])))
    return given


def _rule(member: Member) -> Rule | None:
    """The backward rule of a method, or None for ordinary backpropagation."""
    if member.method.feeds != "rectifier_rule":
        return None
    return partial(member.method.kernel, **member.options) if member.options else member.method.kernel


def guided_layers(scene: Scene, members: list[Member]) -> list[Given]:
    """What `layer_gradients` gives, and the guided gradient at the input, from the same forward."""
    facts, notes = _layer_facts(scene)
    rectifiers = find(scene.done.output)
    with rectified(rectifiers, guided_backprop):
        facts["guided"] = gradients(scene.answers, scene.done.x, scene.model, last=False)
    cost = Evaluations(len(scene.done.x), 2 * scene.done.x.shape[0] * len(scene.answers))
    return [Given(Attribution(_call(m, **facts), notes=notes + rectifiers.notes), cost) for m in members]


def full_gradients(scene: Scene, members: list[Member]) -> list[Given]:
    """The gradient at the input, and every bias times the gradient where it is added; a forward of its own.

    Target by target, as the gradients of all layers at once are large.
    """
    with biased() as found:
        done = run(scene.model, scene.done.x, graph=True, layer=scene.layer)
    answers = scored(scene.asked, done.explained, scene.model)
    given: list[list[Attribution]] = [[] for _ in members]
    for answer in answers:
        at = gradients([answer], done.x, scene.model, last=False)
        slopes = torch.autograd.grad(
            answer.traced, [b.at for b in found], answer.weight, retain_graph=True, allow_unused=True
        )  # fmt: skip
        parts = [
            (bias.value * slope).movedim(bias.channels, 1).unsqueeze(1)
            for bias, slope in zip(found, slopes, strict=True)
            if slope is not None
        ]
        facts = {"x": done.x.detach(), "gradient": at, "biases": parts, "score": answer.value.unsqueeze(1)}
        for several, member in zip(given, members, strict=True):
            several.append(_call(member, **facts))
    cost = Evaluations(2 * len(done.x), 2 * len(done.x) * len(answers))
    return [Given(_side_by_side(several), cost) for several in given]


def _side_by_side(targets: list[Attribution]) -> Attribution:
    """K attributions of one target each as one of K targets."""
    return Attribution(
        torch.cat([a.values for a in targets], 1),
        completeness=torch.cat([a.completeness for a in targets if a.completeness is not None], 1),
        extras={key: torch.cat([a.extras[key] for a in targets], 1) for key in targets[0].extras},
        notes=tuple(dict.fromkeys(note for a in targets for note in a.notes)),
    )


def layer_gradients(scene: Scene, members: list[Member]) -> list[Given]:
    """A layer's activations [N, C, *S'] and the gradient of each target there [N, K, C, *S'], for all kernels."""
    wanted = any("gradients" in member.method.reads for member in members)
    facts, notes = _layer_facts(scene) if wanted else ({"activations": _activations(scene)}, ())
    facts["score"] = values_of(scene.answers)
    given = []
    for member in members:
        mine = "gradients" in member.method.reads
        found = _call(member, **facts)
        found = found if isinstance(found, Attribution) else Attribution(found)
        cost = Evaluations(len(scene.done.x), len(scene.done.x) * len(scene.answers) * mine)
        given.append(Given(found._replace(notes=found.notes + notes * mine), cost))
    return given


def _activations(scene: Scene) -> Tensor:
    """The feature layer's output [N, C, *S']."""
    features, seen = scene.done.features, scene.feature
    assert features is not None and seen is not None and seen.where is not None
    if len(features) != len(scene.done.x):
        raise ModelError(f"layer {seen.name!r} gave {list(features.shape)} for {len(scene.done.x)} samples: no batch.")
    return arranged(features.detach(), seen.where)


def _layer_facts(scene: Scene) -> tuple[dict[str, Any], tuple[str, ...]]:
    activations, seen = _activations(scene), scene.feature
    assert scene.done.features is not None and seen is not None and seen.where is not None
    found = gradients(scene.answers, scene.done.features, scene.model, last=False, what=f"layer {seen.name!r}")
    flat = arranged(found.flatten(0, 1), seen.where).unflatten(0, found.shape[:2])
    dead = (flat.flatten(2).abs().amax(2) == 0).nonzero().tolist()
    notes = tuple(f"the gradient of sample {n}, target {k} is zero all over layer {seen.name!r}" for n, k in dead)
    return {"activations": activations, "gradients": flat}, notes


def conversations(scene: Scene, members: list[Member]) -> list[Given]:
    """Gradients or scores at many points, or under masks of a layer, in batches; kernels fold them as they come."""
    return [_follow(scene, member) for member in members]


def _follow(scene: Scene, member: Member) -> Given:
    x = scene.done.x.detach()
    options = dict(member.options)
    notes: tuple[str, ...] = ()
    if "baseline" in options:
        options["baseline"], named = resolve_baseline(scene.model, x, options["baseline"])
        notes = (named,)
    if "mask_value" in options:
        options["mask_value"], named = resolve_fill(scene.model, x, options["mask_value"])
        notes = (named.replace("baseline", "hidden parts"),)
    if "segments" in options:
        options["segments"], more = segmented(x, options["segments"], options["features"], scene.model.layout)
        notes += more
    if "references" in options:
        options["references"], named = resolve_references(scene.model, x, options["references"])
        notes += (named,)
    spent = [len(x), 0]
    replayed: list[str] = []

    def answer(question: GradientsAt | ScoresAt | ScoresUnder | ScoresHiding) -> Tensor:
        if isinstance(question, ScoresUnder):
            return _under(scene, question, spent, replayed)
        if isinstance(question, ScoresHiding):
            return _hiding(scene, question, spent, replayed)
        wanted = isinstance(question, GradientsAt)
        points = question.points
        samples = range(len(x)) if question.row is None else [question.row]
        rows = torch.tensor(samples, device=x.device).repeat(len(points))
        flat = points.flatten(0, 1)

        def part(start: int, stop: int) -> Tensor:
            done = run(scene.model, flat[start:stop], graph=wanted, layer=scene.layer)
            answers = scored(scene.asked.take(rows[start:stop]), done.explained, scene.model, rescue=False)
            n, k = stop - start, len(answers)
            spent[0], spent[1] = spent[0] + n, spent[1] + n * k * wanted
            scene.advance(n)
            return gradients(answers, done.x, scene.model) if wanted else values_of(answers)

        found = torch.cat(list(batches(part, len(flat), scene.room)))
        return found.reshape(*points.shape[:2], *found.shape[1:])

    facts = {"x": x, "score": values_of(scene.answers), "block": max(1, min(scene.room[0], BLOCK) // len(x))}
    if scene.feature is not None:
        facts["activations"] = _activations(scene)
    facts |= {"normal": normal(scene.seed, x), "uniform": uniform(scene.seed)}
    kernel = _call(member._replace(options=options), **facts)
    given = _drive(kernel, answer)
    notes += (*replayed[:1], *given.notes)
    return Given(given._replace(notes=notes), Evaluations(*spent))


def _hiding(scene: Scene, question: ScoresHiding, spent: list[int], replayed: list[str]) -> Tensor:
    """Scores while parts of the input are hidden; only what they change is computed, where the network allows it."""
    x = scene.done.x.detach()
    rows = torch.arange(len(x)) if question.row is None else torch.tensor([question.row])
    x, fill = x[rows], question.fill[rows]
    if question.windows is not None and scene.layer is None:
        found, reason = _in_windows(scene, question, rows, x, fill)
        if found is not None:
            spent[0] += len(found) * len(rows)
            return found
        if reason:
            replayed.append(f"every mask ran through the whole network: {reason}")

    def part(start: int, stop: int) -> Tensor:
        hidden = question.hidden(start, stop).to(x.device)
        points: Tensor = torch.where(hidden, fill, x) if hidden.dtype == torch.bool else x + hidden.to(x) * (fill - x)
        done = run(scene.model, points.flatten(0, 1), graph=False, layer=scene.layer)
        asked = scene.asked.take(rows.repeat(stop - start).to(x.device))
        spent[0] += len(done.x)
        scene.advance(len(done.x))
        found: Tensor = values_of(scored(asked, done.explained, scene.model, rescue=False))
        return found.reshape(stop - start, len(rows), -1)

    room = [max(1, scene.room[0] // len(rows))]
    return torch.cat(list(batches(part, question.number, room)))


def _in_windows(
    scene: Scene, question: ScoresHiding, rows: Tensor, x: Tensor, fill: Tensor
) -> tuple[Tensor | None, str]:
    """[M, n, K], or None and the reason, which is empty where there is nothing to gain."""
    windows, size = question.windows, torch.tensor(x.shape[2:])
    assert windows is not None
    side = (windows[..., 1] - windows[..., 0]).amax(0)
    if scene.model.module is None or len(windows) < FEWEST or float((side / size).prod()) > LARGEST:
        return None, ""
    starts = torch.minimum(windows[..., 0], size - side)  # one that is cut off at the border reaches back instead
    found = []
    for n in range(len(rows)):
        patches = []
        for first in range(0, len(windows), PATCHES):
            last = min(first + PATCHES, len(windows))
            hidden = question.hidden(first, last)
            hidden = hidden if len(hidden[0]) == 1 else hidden[:, n : n + 1]
            for mask, start in zip(hidden[:, 0].to(x.device), starts[first:last].tolist(), strict=True):
                place = (slice(None), *(slice(a, a + b) for a, b in zip(start, side.tolist(), strict=True)))
                patches.append(torch.where(mask.expand(x.shape[1:])[place], fill[n][place], x[n][place]))
        ready = prepare(scene.model, x[n : n + 1])
        given = ready if isinstance(ready, str) else ready.run(
            starts, torch.stack(patches), max_memory=scene.memory, **({"masks": scene.room[0]} if scene.bounded else {})
        )  # fmt: skip
        if isinstance(given, str):
            return None, given
        asked = scene.asked.take(rows[n].repeat(len(windows)).to(x.device))
        found.append(values_of(scored(asked, given, scene.model, rescue=False)))
        scene.advance(len(windows))
    return torch.stack(found, 1), ""


def _under(scene: Scene, question: ScoresUnder, spent: list[int], replayed: list[str]) -> Tensor:
    """Scores under masks of the feature layer, sample by sample.

    Where all paths pass the layer, one sample goes up to it and all masks go on from there; else each mask goes all
    the way.
    """
    seen, features, x = scene.feature, scene.done.features, scene.done.x.detach()
    assert seen is not None and features is not None and seen.where is not None
    where = seen.where
    short = passes_all(scene.model, x, seen.name, scene.layer)
    known = values_of(scene.answers)

    def scores(n: int, instead: Tensor, alone: bool) -> Tensor:
        count = len(instead)
        start = x[n : n + 1] if alone else x[n : n + 1].expand(count, *x.shape[1:])
        done = run(scene.model, start, graph=False, layer=scene.layer, feature=seen.name, instead=instead)
        rows = torch.full((count,), n, device=x.device)
        return values_of(scored(scene.asked.take(rows), done.explained, scene.model, rescue=False))

    if short:  # what comes out must be what is known, before anything is believed
        try:
            twice = scores(0, features[:1].detach().repeat(2, *[1] * (features.ndim - 1)), alone=True)
            short = torch.allclose(twice, known[:1].expand_as(twice), rtol=1e-3, atol=1e-3 * float(known.abs().max()))
        except ModelError:
            short = False
    if not short:
        replayed.append(f"not all paths pass layer {seen.name!r} alone: the whole network ran for every mask")
    each = features[:1].numel() * features.element_size()
    width = min(WIDEST, max(scene.room[0], WIDE // each)) if short and not scene.bounded else scene.room[0]

    def part(n: int, start: int, stop: int) -> Tensor:
        masks = question.masks(start, stop).to(features)
        found = scores(n, masked(features[n : n + 1].detach(), masks, where), short)
        spent[0] += stop - start
        scene.advance(stop - start)
        return found

    room = [width]
    return torch.stack([torch.cat(list(batches(partial(part, n), question.number, room))) for n in range(len(x))], 1)


def _drive(kernel: Generator[Any, Tensor, Attribution], answer: Callable[[Any], Tensor]) -> Attribution:
    try:
        question = next(kernel)
        while True:
            question = kernel.send(answer(question))
    except StopIteration as finished:
        given: Attribution = finished.value
        return given


def _call(member: Member, **facts: Any) -> Any:
    """The kernel, with what it reads and its options."""
    missing = [name for name in member.method.reads if name not in facts]
    if missing:
        raise OptionError(f"a kernel fed by {member.method.feeds!r} reads {', '.join(facts)}; {missing} is not there.")
    return member.method.kernel(*(facts[name] for name in member.method.reads), **member.options)


def batches(work: Callable[[int, int], T], count: int, room: list[int]) -> Iterator[T]:
    """work(start, stop) over 0..count in pieces of room[0], which is halved for good wherever an allocator refuses."""
    start = 0
    while start < count:
        stop = min(start + room[0], count)
        try:
            result = work(start, stop)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error) or stop - start == 1:
                raise
            room[0] = max(1, (stop - start) // 2)
            continue
        yield result
        start = stop


def inputs_only(scene: Scene, members: list[Member]) -> list[Given]:
    """The input and how many scores there are: for maps that know nothing of the network."""
    x = scene.done.x.detach()
    facts = {"x": x, "score": values_of(scene.answers), "normal": normal(scene.seed, x)}
    return [Given(_call(member, **facts), Evaluations(len(x), 0)) for member in members]


class Family(NamedTuple):
    """One way to feed kernels, and what it needs of the forward that all methods of a call share."""

    feed: Callable[[Scene, list[Member]], list[Given]]
    graph: bool = False  # back to the input
    layer: bool = False  # the features of a layer
    rules: bool = False  # rectifiers that can be seen
    heavy: bool = False  # it records graphs back to the input in passes of its own


FAMILIES = {
    "layer_gradient": Family(layer_gradients, layer=True),
    "layer_and_rule": Family(guided_layers, graph=True, layer=True, rules=True),
    "layer_scores": Family(conversations, layer=True),
    "input_gradient": Family(input_gradients, graph=True),  # behind those above, since it frees the graph
    "rectifier_rule": Family(input_gradients, graph=True, rules=True),
    "full_gradient": Family(full_gradients, heavy=True),
    "masked_scores": Family(conversations),
    "input": Family(inputs_only),
    "path_gradient": Family(conversations, heavy=True),
}
