"""Activation maximization: gradient ascent on a picture, level by level of a pyramid."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch

from seewhy import maps
from seewhy.engine.random_numbers import shift_sampler
from seewhy.errors import ModelError
from seewhy.feature_layers.channel_means import LayerChannels, channel_means
from seewhy.methods.activation_maximization.pyramid import PictureUnits, model_on_z, next_level_z, picture_from_z
from seewhy.methods.activation_maximization.update import update_direction
from seewhy.tracing.backward_passes import repeat_with_saved_copies
from seewhy.tracing.backward_rules import apply_backward_rules, nearest_rectifiers
from seewhy.tracing.forward import non_finite_cause, run_forward
from seewhy.tracing.outputs import is_finite
from seewhy.types import BackwardRule

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from seewhy.model import Model
    from seewhy.types import Inputs


OMIT_RECTIFIER = BackwardRule(("rectifier",), lambda grad_output: grad_output)
MAX_SHOWN_ACTIVATIONS = 4  # activations shown next to the progress bar


class OptimizationProgress(NamedTuple):
    """Argument of `callback`: activations before a step, or after the last step of a level.

    Attributes:
        level: pyramid level; 0 is the coarsest.
        iteration: number of steps so far in this level.
        channels: indices of the channels.
        activations: one value per channel, on the CPU.
    """

    level: int
    iteration: int
    channels: tuple[int, ...]
    activations: Tensor


class StepSettings(NamedTuple):
    """Options of `dream` that define the steps."""

    iterations: int
    step: int | float
    jitter: int
    blur: int | float
    total_variation: int | float
    parametrization: str


class Optimization(NamedTuple):
    """Everything that all channels of a call of `dream` have in common."""

    model: Model
    layer_channels: LayerChannels
    units: PictureUnits
    levels: list[tuple[tuple[int, ...], tuple[int, ...]]]  # per level: size of the picture, input size of the network
    steps: StepSettings
    seed: int
    like: Tensor  # a tensor with the dtype and device of the network
    advance: Callable[..., None]
    callback: Callable[[OptimizationProgress], object] | None


def maximize_activations(settings: Optimization, start: Inputs, channels: tuple[int, ...]) -> Float[Tensor, "N C *R"]:
    """Return pictures [n, C, *S], each with a maximized activation of its channel.

    Args:
        settings: model, layer, levels and steps.
        start: initial z [n, C, *S0], of any size.
        channels: n channel indices.

    Raises:
        ModelError: a gradient is not finite, or the gradient of a channel is zero at every step.
    """
    z = level_start = maps.resample(start, settings.levels[0][0])
    responsive = torch.zeros(len(z), dtype=torch.bool, device=z.device)
    for level, (size, _) in enumerate(settings.levels):
        if level:
            next_start = maps.resample(start, size)
            z, level_start = next_level_z(z, level_start, next_start), next_start
        z, nonzero = _optimize_level(settings, level, z, channels)
        responsive |= nonzero
    if not responsive.all():
        names = [str(c) for c, one in zip(channels, responsive.tolist(), strict=True) if not one]
        raise ModelError(
            f"channel {', '.join(names)} of layer {settings.layer_channels.layer!r} has a gradient of zero in every "
            "step: omit the channel, choose an initial picture that activates it, or use another seed."
        )
    return picture_from_z(z, settings.units)


def _optimize_level(settings: Optimization, level: int, z: Inputs, channels: tuple[int, ...]) -> tuple[Inputs, Tensor]:
    """Return z after the steps of one level, and for each picture whether its gradient was nonzero at any step."""
    steps, axes = settings.steps, z.ndim - 2
    draw_shift = shift_sampler(settings.seed, steps.jitter, axes)
    responsive = torch.zeros(len(z), dtype=torch.bool, device=z.device)
    for i in range(steps.iterations):
        shift = draw_shift(level * steps.iterations + i)
        gradient, activations, nonzero = _activation_gradient(settings, level, z, channels, shift)
        _report_progress(settings, OptimizationProgress(level, i, channels, activations))
        responsive |= nonzero
        direction = update_direction(
            gradient, z, parametrization=steps.parametrization, decorrelate_colors=settings.units.in_unit_range,
            blur=steps.blur, total_variation=steps.total_variation,
        )  # fmt: skip
        z = z + steps.step * (1 - i / steps.iterations) * direction
    if settings.callback is not None:
        with torch.no_grad():
            _, activations = _target_activations(settings, level, z, channels, [0] * axes, graph=False)
        _report_progress(settings, OptimizationProgress(level, steps.iterations, channels, activations))
    return z, responsive


@repeat_with_saved_copies
def _activation_gradient(
    settings: Optimization, level: int, z: Inputs, channels: tuple[int, ...], shift: list[int]
) -> tuple[Inputs, Tensor, Tensor]:
    """Return the gradient of each picture's channel at z, the activations, and whether each gradient is nonzero.

    Where the gradient is zero, it is replaced by the gradient with the last rectifiers before the channel left out, so
    that a channel whose rectifier is closed can be activated.
    """
    leaf, activations = _target_activations(settings, level, z, channels, shift, graph=True)
    gradient = torch.autograd.grad(activations.sum(), leaf)[0]
    nonzero = gradient.flatten(1).any(1)
    if not nonzero.all():
        leaf, repeated = _target_activations(settings, level, z, channels, shift, graph=True)
        with apply_backward_rules(nearest_rectifiers(repeated), [OMIT_RECTIFIER]):
            without_rectifiers = torch.autograd.grad(repeated.sum(), leaf)[0]
        gradient = gradient.where(nonzero.view(-1, *[1] * (z.ndim - 1)), without_rectifiers)
    if not is_finite(gradient):
        raise ModelError(
            f"the gradient of {settings.model.name} contains NaN or infinite values{non_finite_cause(settings.model)}."
        )
    return gradient, activations.detach(), nonzero


def _target_activations(
    settings: Optimization, level: int, z: Inputs, channels: tuple[int, ...], shift: list[int], *, graph: bool
) -> tuple[Inputs, Tensor]:
    """Return the leaf tensor of a forward pass, and the activation of each picture's own channel."""
    model = model_on_z(settings.model, settings.units, settings.levels[level][1], shift, settings.like)
    done = run_forward(model, z, graph=graph, feature_layer=settings.layer_channels.layer)
    activations = channel_means(done, settings.model, settings.layer_channels)
    return done.x, activations.gather(1, torch.tensor(channels, device=activations.device).unsqueeze(1)).squeeze(1)


def _report_progress(settings: Optimization, progress: OptimizationProgress) -> None:
    activations = progress.activations.cpu()
    shown = ", ".join(f"{value:.4g}" for value in activations.tolist()[:MAX_SHOWN_ACTIVATIONS])
    more = ", …" if len(activations) > MAX_SHOWN_ACTIVATIONS else ""
    level = f"level {progress.level + 1} of {len(settings.levels)}"
    settings.advance(len(activations), f", {level}, activation {shown}{more}")
    if settings.callback is not None:
        settings.callback(progress._replace(activations=activations))
