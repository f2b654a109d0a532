"""The ascent itself: the only code here that knows both a model and the formulas."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch

from seewhy import maps
from seewhy.errors import ModelError
from seewhy.methods.draws import normal, shifts
from seewhy.trace.forward import run, suspect
from seewhy.trace.outputs import finite
from seewhy.trace.reading import Reading, means

from .pyramid import Units, carried, drawn, seeing
from .uphill import uphill

if TYPE_CHECKING:
    from torch import Tensor

    from seewhy.types import Inputs, Model


SHOWN = 4  # activations in the bar


class Reached(NamedTuple):
    """What `watch` is told: the activations of some channels before a step, and after the last step of a level."""

    level: int  # from 0, the coarsest
    iteration: int  # steps taken in this level
    channels: tuple[int, ...]
    activations: Tensor  # one a channel, on the CPU


class Steps(NamedTuple):
    """How the picture moves."""

    iterations: int
    step: float
    jitter: int
    blur: float
    total_variation: float
    parametrisation: str


class Ascent(NamedTuple):
    """What is the same for all channels of a call."""

    model: Model
    asked: Reading
    frame: Units
    levels: list[tuple[tuple[int, ...], tuple[int, ...]]]  # the picture's size, and the one that the network is shown
    steps: Steps
    seed: int
    like: Tensor  # a tensor of the network's precision, on its device
    advance: Callable[..., None]
    watch: Callable[[Reached], object] | None


def climb(ascent: Ascent, start: Inputs, channels: tuple[int, ...]) -> Inputs:
    """Pictures [n, C, *S], one for each channel.

    Args:
        ascent: what is asked.
        start: z [n, C, *S0] at any size.
        channels: n of them.

    Raises:
        ModelError: a gradient is not finite, or zero all through the first level.
    """
    z = before = maps.resample(start, ascent.levels[0][0])
    for level, (size, _) in enumerate(ascent.levels):
        if level:
            after = maps.resample(start, size)
            z, before = carried(z, before, after), after
        z = _level(ascent, level, z, channels)
    return drawn(z, ascent.frame)


def _level(ascent: Ascent, level: int, z: Inputs, channels: tuple[int, ...]) -> Inputs:
    steps, axes = ascent.steps, z.ndim - 2
    roll, noise = shifts(ascent.seed, steps.jitter, axes), normal(ascent.seed, z)
    answered = torch.zeros(len(z), dtype=torch.bool, device=z.device)
    for i in range(steps.iterations):
        number = level * steps.iterations + i
        gradient, values = _gradient(ascent, level, z, channels, roll(number))
        _tell(ascent, Reached(level, i, channels, values))
        alive = gradient.flatten(1).any(1)
        answered |= alive
        if not alive.all():  # behind a closed rectifier nothing points anywhere: walk at random until something does
            gradient = gradient.where(alive.view(-1, *[1] * (axes + 1)), noise(number + 1, number + 2))
        way = uphill(
            gradient, z, parametrisation=steps.parametrisation, colours=ascent.frame.known, blur=steps.blur,
            total_variation=steps.total_variation,
        )  # fmt: skip
        shrinking = 1 - i / steps.iterations  # large steps find the shapes, small ones the rest
        z = z + steps.step * shrinking * way
    if level == 0 and not answered.all():
        dead = [str(c) for c, one in zip(channels, answered.tolist(), strict=True) if not one]
        raise ModelError(
            f"channel {', '.join(dead)} of layer {ascent.asked.layer!r} has a gradient of zero at every picture tried: "
            "leave it out, start from a picture that it answers to (initial), or use another seed."
        )
    if ascent.watch is not None:
        with torch.no_grad():
            _, values = _ask(ascent, level, z, channels, [0] * axes, graph=False)
        _tell(ascent, Reached(level, steps.iterations, channels, values))
    return z


def _gradient(
    ascent: Ascent, level: int, z: Inputs, channels: tuple[int, ...], shift: list[int]
) -> tuple[Inputs, Tensor]:
    """The gradient of each picture's own channel at its z, and the activations."""
    leaf, values = _ask(ascent, level, z, channels, shift, graph=True)
    gradient = torch.autograd.grad(values.sum(), leaf)[0]
    if not finite(gradient):
        raise ModelError(f"the gradient of {ascent.model.name} holds NaN or infinite values{suspect(ascent.model)}.")
    return gradient, values.detach()


def _ask(
    ascent: Ascent, level: int, z: Inputs, channels: tuple[int, ...], shift: list[int], *, graph: bool
) -> tuple[Inputs, Tensor]:
    """The leaf that went in, and the activation of each one's own channel."""
    seen = seeing(ascent.model, ascent.frame, ascent.levels[level][1], shift, ascent.like)
    done = run(seen, z, graph=graph, feature=ascent.asked.layer)
    every = means(done, ascent.model, ascent.asked)
    return done.x, every.gather(1, torch.tensor(channels, device=every.device).unsqueeze(1)).squeeze(1)


def _tell(ascent: Ascent, reached: Reached) -> None:
    values = reached.activations.cpu()
    shown = ", ".join(f"{v:.4g}" for v in values.tolist()[:SHOWN]) + (", …" if len(values) > SHOWN else "")
    ascent.advance(len(values), f", level {reached.level + 1} of {len(ascent.levels)}, activation {shown}")
    if ascent.watch is not None:
        ascent.watch(reached._replace(activations=values))
