"""Kernels that ask as they go: gradients or scores at points, with parts hidden, or with a layer masked."""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import torch

from seewhy.errors import ModelError
from seewhy.models.folded import channels_last
from seewhy.trace.choice import passes_all
from seewhy.trace.forward import run
from seewhy.trace.layout import masked
from seewhy.trace.path import resolve_baseline, resolve_fill, resolve_references
from seewhy.trace.question import gradients, scored, values_of
from seewhy.trace.reuse import MANY, Prepared, answering, prepare
from seewhy.types import Attribution, Evaluations, GradientsAt, ScoresAt, ScoresHiding, ScoresUnder

from .draws import normal, uniform
from .perturb.segments import segmented
from .scene import Given, Member, Scene, activations, batches, called

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 32  # points whose gradients a kernel gets at once; a larger batch only speeds up the passes behind them
FEWEST, LARGEST = 8, 0.5  # windows that make preparing worth it, and their share of the input
PATCHES = 32  # cut out at once
TOGETHER = 32  # pictures that are asked of a record at once, which works through its large layers in portions
WIDE, WIDEST = 2**25, 512  # bytes of a layer's features, and masks, that go through the rest of a network at once

Ready = Callable[[int], Prepared | str]  # what is known of one sample, by its number


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

    @lru_cache(maxsize=1)  # what it keeps is large
    def ready(n: int) -> Prepared | str:
        return prepare(scene.model, x[n : n + 1])

    def answer(question: GradientsAt | ScoresAt | ScoresUnder | ScoresHiding) -> Tensor:
        if isinstance(question, ScoresUnder):
            return _under(scene, question, spent, replayed)
        if isinstance(question, ScoresHiding):
            return _hiding(scene, question, ready, spent, replayed)
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
        facts["activations"] = activations(scene)
    facts |= {"normal": normal(scene.seed, x), "uniform": uniform(scene.seed)}
    kernel = called(member._replace(options=options), **facts)
    given = _drive(kernel, answer)
    notes += (*replayed[:1], *given.notes)
    return Given(given._replace(notes=notes), Evaluations(*spent))


def _hiding(scene: Scene, question: ScoresHiding, ready: Ready, spent: list[int], replayed: list[str]) -> Tensor:
    """Scores while parts of the input are hidden; only what they change is computed, where the network allows it."""
    x = scene.done.x.detach()
    rows = torch.arange(len(x)) if question.row is None else torch.tensor([question.row])
    x, fill = x[rows], question.fill[rows]
    if question.windows is not None and scene.layer is None:
        found, reason = _in_windows(scene, question, ready, rows, x, fill)
        if found is not None:
            spent[0] += len(found) * len(rows)
            return found
        if reason:
            replayed.append(f"every mask ran through the whole network: {reason}")

    many = scene.layer is None and scene.model.module is not None and question.number * len(rows) >= MANY
    known = ready(int(rows[0])) if many else "few"
    outputs = answering(scene.model, known, scene.layer)
    x, fill = channels_last(x), channels_last(fill)

    def part(start: int, stop: int) -> Tensor:
        hidden = question.hidden(start, stop).to(x.device)
        points: Tensor = torch.where(hidden, fill, x) if hidden.dtype == torch.bool else x + hidden.to(x) * (fill - x)
        given = outputs(points.flatten(0, 1))
        asked = scene.asked.take(rows.repeat(stop - start).to(x.device))
        spent[0] += (stop - start) * len(rows)
        scene.advance((stop - start) * len(rows))
        found: Tensor = values_of(scored(asked, given, scene.model, rescue=False))
        return found.reshape(stop - start, len(rows), -1)

    wide = scene.room[0] if scene.bounded or isinstance(known, str) else max(scene.room[0], TOGETHER)
    return torch.cat(list(batches(part, question.number, [max(1, wide // len(rows))])))


def _in_windows(
    scene: Scene, question: ScoresHiding, ready: Ready, rows: Tensor, x: Tensor, fill: Tensor
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
        known = ready(int(rows[n]))
        given = known if isinstance(known, str) else known.run(
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
