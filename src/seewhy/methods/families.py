"""The few ways to feed kernels: the only code that knows both a model and a kernel.

A family gets all its methods at once, so that they share what can be shared.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from seewhy.trace.biases import biased
from seewhy.trace.forward import run
from seewhy.trace.layout import arranged
from seewhy.trace.question import gradients, scored, values_of
from seewhy.trace.rectifiers import Rule, find, rectified
from seewhy.types import Attribution, Evaluations

from .backward.guided_backprop import guided_backprop
from .conversation import conversations
from .draws import normal
from .scene import Given, Member, Scene, activations, called

if TYPE_CHECKING:
    pass


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
            attribution = Attribution(called(member, x=x, gradient=found[None]), notes=notes)
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
    return [Given(Attribution(called(m, **facts), notes=notes + rectifiers.notes), cost) for m in members]


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
        edges = [b.at for b in found]
        slopes = (
            torch.autograd.grad(answer.traced, edges, answer.weight, retain_graph=True, allow_unused=True)
            if edges
            else ()
        )
        parts = [
            (bias.value * slope).movedim(bias.channels, 1).unsqueeze(1)
            for bias, slope in zip(found, slopes, strict=True)
            if slope is not None
        ]
        facts = {"x": done.x.detach(), "gradient": at, "biases": parts, "score": answer.value.unsqueeze(1)}
        for several, member in zip(given, members, strict=True):
            several.append(called(member, **facts))
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
    facts, notes = _layer_facts(scene) if wanted else ({"activations": activations(scene)}, ())
    facts["score"] = values_of(scene.answers)
    given = []
    for member in members:
        mine = "gradients" in member.method.reads
        found = called(member, **facts)
        found = found if isinstance(found, Attribution) else Attribution(found)
        cost = Evaluations(len(scene.done.x), len(scene.done.x) * len(scene.answers) * mine)
        given.append(Given(found._replace(notes=found.notes + notes * mine), cost))
    return given


def _layer_facts(scene: Scene) -> tuple[dict[str, Any], tuple[str, ...]]:
    features, seen = activations(scene), scene.feature
    assert scene.done.features is not None and seen is not None and seen.where is not None
    found = gradients(scene.answers, scene.done.features, scene.model, last=False, what=f"layer {seen.name!r}")
    flat = arranged(found.flatten(0, 1), seen.where).unflatten(0, found.shape[:2])
    dead = (flat.flatten(2).abs().amax(2) == 0).nonzero().tolist()
    notes = tuple(f"the gradient of sample {n}, target {k} is zero all over layer {seen.name!r}" for n, k in dead)
    return {"activations": features, "gradients": flat}, notes


def inputs_only(scene: Scene, members: list[Member]) -> list[Given]:
    """The input and how many scores there are: for maps that know nothing of the network."""
    x = scene.done.x.detach()
    facts = {"x": x, "score": values_of(scene.answers), "normal": normal(scene.seed, x)}
    return [Given(called(member, **facts), Evaluations(len(x), 0)) for member in members]


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
