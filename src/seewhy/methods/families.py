"""The few ways to feed kernels: the only code that knows both a model and a kernel.

A family gets all its methods at once, so that they share what can be shared.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch

from seewhy.errors import ModelError, OptionError
from seewhy.trace.choice import Seen
from seewhy.trace.forward import Pass, out_of_memory, run
from seewhy.trace.layout import arranged
from seewhy.trace.path import resolve_baseline, resolve_references
from seewhy.trace.question import Asked, Scored, gradients, scored
from seewhy.trace.rectifiers import Rule, find, rectified
from seewhy.types import Attribution, Evaluations, GradientsAt, ScoresAt

from .draws import normal, uniform

if TYPE_CHECKING:
    from torch import Tensor

    from seewhy.types import Model

    from .method import Method

T = TypeVar("T")
BLOCK = 32  # points whose gradients a kernel gets at once; a larger batch only speeds up the passes behind them


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


def layer_gradients(scene: Scene, members: list[Member]) -> list[Given]:
    """A layer's activations [N, C, *S'] and the gradient of each target there [N, K, C, *S'], for all kernels."""
    features, seen = scene.done.features, scene.feature
    assert features is not None and seen is not None and seen.where is not None
    if len(features) != len(scene.done.x):
        raise ModelError(f"layer {seen.name!r} gave {list(features.shape)} for {len(scene.done.x)} samples: no batch.")
    found = gradients(scene.answers, features, scene.model, last=False, what=f"layer {seen.name!r}")
    flat = arranged(found.flatten(0, 1), seen.where).unflatten(0, found.shape[:2])
    dead = (flat.flatten(2).abs().amax(2) == 0).nonzero().tolist()
    notes = tuple(f"the gradient of sample {n}, target {k} is zero all over layer {seen.name!r}" for n, k in dead)
    facts = {"activations": arranged(features.detach(), seen.where), "gradients": flat}
    cost = Evaluations(len(features), flat.shape[0] * flat.shape[1])
    return [Given(Attribution(_call(member, **facts), notes=notes), cost) for member in members]


def path_gradients(scene: Scene, members: list[Member]) -> list[Given]:
    """Gradients and scores at many points, in batches; kernels fold them as they come."""
    return [_follow(scene, member) for member in members]


def _follow(scene: Scene, member: Member) -> Given:
    x = scene.done.x.detach()
    options = dict(member.options)
    notes: tuple[str, ...] = ()
    if "baseline" in options:
        options["baseline"], named = resolve_baseline(scene.model, x, options["baseline"])
        notes = (named,)
    if "references" in options:
        options["references"], named = resolve_references(scene.model, x, options["references"])
        notes += (named,)
    spent = [len(x), 0]

    def answer(question: GradientsAt | ScoresAt) -> Tensor:
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
            return gradients(answers, done.x, scene.model) if wanted else torch.stack([a.value for a in answers], 1)

        found = torch.cat(list(batches(part, len(flat), scene.room)))
        return found.reshape(*points.shape[:2], *found.shape[1:])

    score = torch.stack([a.value for a in scene.answers], 1)
    facts = {"x": x, "score": score, "block": max(1, min(scene.room[0], BLOCK) // len(x))}
    facts |= {"normal": normal(scene.seed, x), "uniform": uniform(scene.seed)}
    kernel = _call(member._replace(options=options), **facts)
    given = _drive(kernel, answer)
    return Given(given._replace(notes=notes + given.notes), Evaluations(*spent))


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


FAMILIES: dict[str, Callable[[Scene, list[Member]], list[Given]]] = {
    "layer_gradient": layer_gradients,  # first: the next one frees the graph
    "input_gradient": input_gradients,
    "rectifier_rule": input_gradients,
    "path_gradient": path_gradients,
}
