"""The ascent itself: the only code here that knows both a model and the formulas."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch

from seewhy import maps
from seewhy.errors import ModelError
from seewhy.methods.draws import shifts
from seewhy.trace.forward import run, suspect
from seewhy.trace.outputs import finite
from seewhy.trace.reading import Reading, means
from seewhy.trace.rectifiers import outermost, rectified

from .pyramid import Units, carried, drawn, seeing
from .uphill import uphill

if TYPE_CHECKING:
    from jaxtyping import Float
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
    step: int | float
    jitter: int
    blur: int | float
    total_variation: int | float
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


def climb(ascent: Ascent, start: Inputs, channels: tuple[int, ...]) -> Float[Tensor, "N C *R"]:
    """Pictures [n, C, *S], one for each channel.

    Args:
        ascent: what is asked.
        start: z [n, C, *S0] at any size.
        channels: n of them.

    Raises:
        ModelError: a gradient is not finite, or a channel's is zero all the way.
    """
    z = before = maps.resample(start, ascent.levels[0][0])
    answered = torch.zeros(len(z), dtype=torch.bool, device=z.device)
    for level, (size, _) in enumerate(ascent.levels):
        if level:
            after = maps.resample(start, size)
            z, before = carried(z, before, after), after
        z, alive = _level(ascent, level, z, channels)
        answered |= alive
    if not answered.all():
        dead = [str(c) for c, one in zip(channels, answered.tolist(), strict=True) if not one]
        raise ModelError(
            f"channel {', '.join(dead)} of layer {ascent.asked.layer!r} has a gradient of zero at every picture tried: "
            "leave it out, start from a picture that it answers to (initial), or use another seed."
        )
    return drawn(z, ascent.frame)


def _level(ascent: Ascent, level: int, z: Inputs, channels: tuple[int, ...]) -> tuple[Inputs, Tensor]:
    """The z after the steps of one level, and for each whether its gradient was ever other than zero."""
    steps, axes = ascent.steps, z.ndim - 2
    roll = shifts(ascent.seed, steps.jitter, axes)
    answered = torch.zeros(len(z), dtype=torch.bool, device=z.device)
    for i in range(steps.iterations):
        gradient, values, alive = _gradient(ascent, level, z, channels, roll(level * steps.iterations + i))
        _tell(ascent, Reached(level, i, channels, values))
        answered |= alive
        way = uphill(
            gradient, z, parametrisation=steps.parametrisation, colours=ascent.frame.known, blur=steps.blur,
            total_variation=steps.total_variation,
        )  # fmt: skip
        z = z + steps.step * (1 - i / steps.iterations) * way  # large steps find the shapes, small ones the rest
    if ascent.watch is not None:
        with torch.no_grad():
            _, values = _ask(ascent, level, z, channels, [0] * axes, graph=False)
        _tell(ascent, Reached(level, steps.iterations, channels, values))
    return z, answered


def _gradient(
    ascent: Ascent, level: int, z: Inputs, channels: tuple[int, ...], shift: list[int]
) -> tuple[Inputs, Tensor, Tensor]:
    """The gradient of each picture's own channel at its z, the activations, and where the gradient is not zero.

    Where it is zero, the last rectifiers before the channel are taken as open: what they hold back is climbed.
    """
    leaf, values = _ask(ascent, level, z, channels, shift, graph=True)
    gradient = torch.autograd.grad(values.sum(), leaf)[0]
    alive = gradient.flatten(1).any(1)
    if not alive.all():
        leaf, again = _ask(ascent, level, z, channels, shift, graph=True)
        with rectified(outermost(again), lambda passed, arriving: arriving):
            opened = torch.autograd.grad(again.sum(), leaf)[0]
        gradient = gradient.where(alive.view(-1, *[1] * (z.ndim - 1)), opened)
    if not finite(gradient):
        raise ModelError(f"the gradient of {ascent.model.name} holds NaN or infinite values{suspect(ascent.model)}.")
    return gradient, values.detach(), alive


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
