"""dream(): pictures that maximize the activation of channels of a layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from seewhy import maps
from seewhy.axes.layout import from_canonical
from seewhy.engine.batch import BatchLimit, run_in_batches
from seewhy.engine.memory import check_batch_limits, choose_batch_size
from seewhy.engine.progress import track_progress
from seewhy.engine.random_numbers import normal_sampler
from seewhy.errors import InputError, ModelError, OptionError, check_choice
from seewhy.feature_layers.channel_means import LayerChannels, locate_channels
from seewhy.inputs.preprocessing import Preprocessing
from seewhy.methods.activation_maximization.pyramid import (
    PictureUnits,
    level_sizes,
    model_on_z,
    picture_units,
    rescale_pictures,
    z_from_picture,
)
from seewhy.methods.activation_maximization.update import PARAMETRIZATIONS
from seewhy.model import Model
from seewhy.models import wrap
from seewhy.tracing.forward import eval_mode, run_forward
from seewhy.tracing.validation import prepare_model_and_input
from seewhy.types import Capability

from .activation_maximization import Optimization, OptimizationProgress, StepSettings, maximize_activations

if TYPE_CHECKING:
    from jaxtyping import Float

    from seewhy.types import Inputs

DEFAULT_SIDE = 224  # pixels, for networks without a known input size
INITIAL_NOISE_STD = 0.02  # standard deviation of the initial noise around gray, in units of z
DREAM_BATCH_SIZES = {"cpu": 1}  # by device type, see docs/decisions.md
GPU_DREAM_BATCH_SIZE = 8  # for every other device type
SCALINGS = ("linear", "none")


def dream(
    model: Any,
    layer: str | None,
    channels: int | Sequence[int],
    *,
    iterations: int = 10,
    pyramid_levels: int = 3,
    pyramid_scale: int | float = 1.4,
    initial: Any = None,
    size: int | Sequence[int] | None = None,
    parametrization: str = "fourier",
    step: int | float = 0.05,
    jitter: int = 16,
    blur: int | float = 0.0,
    total_variation: int | float = 0.0,
    scaling: str = "linear",
    batch_size: int | str = "auto",
    max_memory: int | None = None,
    device: str = "auto",
    seed: int = 0,
    callback: Callable[[OptimizationProgress], object] | None = None,
    progress: bool | None = None,
) -> Float[Tensor, "K C *S"]:
    """Make pictures that maximize the activation of channels, by gradient ascent from noise or from a picture.

    The ascent starts with a small picture and enlarges it level by level; coarse levels form the large shapes. Each
    step follows the normalized gradient. If the model has a `Preprocessing`, its normalization is part of the optimized
    function, so that pictures have valid colors. A result is one of many pictures with a high activation; it is not a
    picture from the training data.

    Args:
        model: a network, or a wrapped one.
        layer: name of the layer, as listed by `seewhy.layers`; the last fully connected layer yields pictures of
            classes. None: the network's output.
        channels: index of a channel, or a list of K indices. The activation of a channel is its mean over positions;
            in a layer without positions it is the value of the unit (for a class, the value before the softmax).
        iterations: steps per level.
        pyramid_levels: number of levels.
        pyramid_scale: ratio of the sizes of successive levels, above 1. The last level has `size`; the first is smaller
            by pyramid_scale ** (pyramid_levels - 1). If the network does not accept the size of a level, the picture is
            resampled for it.
        initial: the start: a batch of 1 or K inputs, or what the model's `prepare` accepts. None: noise around gray.
        size: size of the pictures in pixels, one number or one per axis. Default: the size of `initial`, else of the
            model's `Preprocessing`, else 224.
        parametrization: "fourier": steps have the frequency and color statistics of photographs; "pixels": steps follow
            the gradient of each pixel.
        step: root mean square change in the first step of a level, as a fraction of the range from black to white (in
            the network's own units if the model has no `Preprocessing`). It decreases linearly to step / iterations.
        jitter: largest random shift in pixels; the picture is rolled by it before each step.
        blur: standard deviation, in pixels, of a Gaussian that smooths each step; 0: no smoothing.
        total_variation: weight of the total variation, which is minimized, relative to a gradient of size 1. Values
            from 0.1 to 0.5 have a visible effect.
        scaling: "linear": each picture is rescaled to [0, 1]; "none": values are in [0, 1] if the model has a
            `Preprocessing`, else in the network's own units.
        batch_size: pictures per forward pass; "auto": 1 on a CPU, else 8. It is halved when memory runs out. Larger
            batches are faster, but differ in rounding, which the ascent amplifies to visible details.
        max_memory: bytes that a pass may add; the batch size is reduced accordingly, based on one measured picture.
        device: "auto": the device of the network; or a device such as "cpu" or "cuda:1", where the network must be.
        seed: seed of the noise and the shifts, which are the same for every channel. The same seed yields the same
            picture: bit by bit on a CPU with a batch size of 1, otherwise up to rounding.
        callback: function that is called before each step and after the last step of each level. Its argument has the
            fields `level`, `iteration`, `channels` and `activations`. `callback=history.append` records all of them.
        progress: whether to show a progress bar for work over two seconds; default: if stderr is a terminal.

    Returns:
        Pictures [K, C, *S] on the CPU; C = 3 for color pictures.

    Raises:
        UnknownNameError: the layer does not exist.
        OptionError: a channel or an option is out of range, or the input size is unknown.
        InputError: the initial picture cannot be used.
        ModelError: the network has no layers or gradients or refuses the size, or a channel has a gradient of zero.
    """
    indices = _channel_indices(channels)
    steps = StepSettings(iterations, step, jitter, blur, total_variation, parametrization)
    _check_options(steps, pyramid_levels, pyramid_scale, scaling, seed)
    check_batch_limits(batch_size, max_memory)
    model = wrap(model)
    if model.conversion is None:
        _check_dream_capabilities(model, layer)
    model, x = _initial_input(model, initial, size, device)
    _check_dream_capabilities(model, layer)
    units, final_size = picture_units(model, x), tuple(x.shape[2:])
    if size is not None:
        final_size = _side_lengths(size, x.ndim - 2)
    if len(x) not in (1, len(indices)):
        raise InputError(f"initial holds {len(x)} pictures for {len(indices)} channels: give 1 or {len(indices)}.")

    with eval_mode(model), track_progress("dream", progress) as advance:
        layer_channels = _find_channels(model, x[:1], layer, indices)
        levels = [
            (level_size, _model_input_size(model, x, units, level_size, layer_channels))
            for level_size in level_sizes(final_size, pyramid_levels, pyramid_scale)
        ]
        settings = Optimization(model, layer_channels, units, levels, steps, seed, x[:0], advance, callback)
        start = z_from_picture(x.to(units.mean.dtype) * units.std + units.mean, units)
        if initial is None:
            start = start.new_zeros(1, start.shape[1], *levels[0][0])  # gray
            start = INITIAL_NOISE_STD * normal_sampler(seed, start)(0, 1)
        start = start.expand(len(indices), *start.shape[1:])
        largest = maps.resample(x[:1], levels[-1][1])
        requested = DREAM_BATCH_SIZES.get(x.device.type, GPU_DREAM_BATCH_SIZE) if batch_size == "auto" else batch_size
        limit = BatchLimit(choose_batch_size(model, largest, requested, max_memory, graph=True))
        batches = run_in_batches(
            lambda a, b: maximize_activations(settings, start[a:b], indices[a:b]).cpu(), len(indices), limit
        )
        pictures = torch.cat(list(batches))
    return rescale_pictures(pictures) if scaling == "linear" else pictures


def _check_dream_capabilities(model: Model, layer: str | None) -> None:
    if Capability.GRADIENTS not in model.capabilities:
        why = f": {model.lacks}" if model.lacks else ""
        raise ModelError(f"dream needs {Capability.GRADIENTS}, {model.name} has {model.capabilities}{why}.")
    if layer is not None and Capability.LAYERS not in model.capabilities:
        raise ModelError(f"{model.name} has no accessible layers: use layer=None for its output.")


def _channel_indices(channels: Any) -> tuple[int, ...]:
    indices = np.atleast_1d(np.asarray(channels.cpu() if isinstance(channels, Tensor) else channels))
    if indices.ndim != 1 or not len(indices) or not np.issubdtype(indices.dtype, np.integer):
        raise OptionError(f"channels={channels!r}: it must be an integer or a list of at least one integer.")
    return tuple(int(n) for n in indices)


def _check_options(steps: StepSettings, levels: int, scale: int | float, scaling: str, seed: int) -> None:
    integers = (("iterations", steps.iterations, 1), ("pyramid_levels", levels, 1), ("jitter", steps.jitter, 0))
    for name, count, lowest in (*integers, ("seed", seed, 0)):
        if not isinstance(count, (int, np.integer)) or isinstance(count, bool) or count < lowest:
            raise OptionError(f"{name}={count!r}: it must be an integer of at least {lowest}.")
    for name, value, bound in (("pyramid_scale", scale, 1), ("step", steps.step, 0)):
        if not _is_number(value) or not bound < value < math.inf:
            raise OptionError(f"{name}={value!r}: it must be a number above {bound}.")
    for name, value in (("blur", steps.blur), ("total_variation", steps.total_variation)):
        if not _is_number(value) or not 0 <= value < math.inf:
            raise OptionError(f"{name}={value!r}: it must be a number of at least 0.")
    check_choice("parametrization", steps.parametrization, PARAMETRIZATIONS)
    check_choice("scaling", scaling, SCALINGS)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def _initial_input(model: Model, initial: Any, size: Any, device: str) -> tuple[Model, Inputs]:
    """Return the model and the initial input; without one, zeros of the shape that the network expects."""
    if initial is not None:
        return prepare_model_and_input(model, initial, device, Capability.GRADIENTS)
    preprocessing = model.preparation
    convolution = _first_convolution(model)
    if isinstance(preprocessing, Preprocessing):
        channels, sides = len(preprocessing.mean), tuple(preprocessing.size)
    elif convolution is not None:
        axes = len(convolution.kernel_size)
        if size is None and axes != 2:
            raise OptionError(
                f"size=None: {model.name} expects inputs with {axes} axes besides batch and channels. Give their "
                "lengths as size, or give initial."
            )
        channels, sides = convolution.in_channels, _side_lengths(DEFAULT_SIDE if size is None else size, axes)
    else:
        raise OptionError(
            f"the input shape of {model.name} is unknown: it has no Preprocessing and no convolution. Give initial, a "
            "batch such as torch.zeros(1, channels, ...)."
        )
    zeros = from_canonical(torch.zeros(1, channels, *sides), model.layout)
    return prepare_model_and_input(model, zeros, device, Capability.GRADIENTS)


def _first_convolution(model: Model) -> Any:
    modules = () if model.module is None else model.module.modules()
    return next((one for one in modules if isinstance(one, (nn.Conv1d, nn.Conv2d, nn.Conv3d))), None)


def _side_lengths(size: Any, axes: int) -> tuple[int, ...]:
    sides = tuple(size) if isinstance(size, (list, tuple)) else (size,) * axes
    valid = all(isinstance(s, (int, np.integer)) and not isinstance(s, bool) and s >= 1 for s in sides)
    if len(sides) != axes or not valid:
        raise OptionError(f"size={size!r}: it must be a positive integer, or {axes} of them, one per axis.")
    return tuple(int(s) for s in sides)


def _find_channels(model: Model, x: Inputs, layer: str | None, channels: tuple[int, ...]) -> LayerChannels:
    """Locate the channels of the layer, and check the requested indices."""
    found = locate_channels(model, x, layer)
    name = f"the output of {model.name}" if layer is None else f"layer {layer!r}"
    for channel in channels:
        if not 0 <= channel < found.channels:
            raise OptionError(
                f"channel {channel} is out of range: {name} has {found.channels} channels, 0 to {found.channels - 1}."
            )
    return found


def _model_input_size(
    model: Model, x: Inputs, units: PictureUnits, size: tuple[int, ...], layer_channels: LayerChannels
) -> tuple[int, ...]:
    """Return the input size of the network for a level: the level's own size if it is accepted, else that of x."""
    native = tuple(x.shape[2:])
    if size == native:
        return native
    z = x.new_zeros(1, x.shape[1], *size, dtype=units.mean.dtype)
    try:
        at_size = model_on_z(model, units, size, [0] * len(size), x)
        run_forward(at_size, z, graph=False, feature_layer=layer_channels.layer)
    except ModelError:
        return native
    return size
