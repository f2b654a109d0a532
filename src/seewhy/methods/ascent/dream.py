"""dream(): channels of a layer in, pictures out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from seewhy import maps
from seewhy.errors import InputError, ModelError, OptionError, choose
from seewhy.methods.draws import normal
from seewhy.methods.progress import tracked
from seewhy.methods.room import check_sizes, room_for
from seewhy.methods.scene import batches
from seewhy.models import wrap
from seewhy.trace.forward import quiet, run
from seewhy.trace.layout import own
from seewhy.trace.reading import Reading, reading
from seewhy.trace.ready import ready
from seewhy.types import Can, Card, Model

from .climb import Ascent, Reached, Steps, climb
from .pyramid import Units, seeing, sizes, stretched, undrawn, units
from .uphill import PARAMETRISATIONS

if TYPE_CHECKING:
    from jaxtyping import Float

    from seewhy.types import Inputs

SIDE = 224  # pixels, where nobody says
NOISE = 0.02  # standard deviation of the start, around the middle grey
BATCH = {"cpu": 1}  # see docs/decisions.md
BATCH_ELSEWHERE = 8
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
    parametrisation: str = "fourier",
    step: int | float = 0.05,
    jitter: int = 16,
    blur: int | float = 0.0,
    total_variation: int | float = 0.0,
    scaling: str = "linear",
    batch_size: int | str = "auto",
    max_memory: int | None = None,
    device: str = "auto",
    seed: int = 0,
    watch: Callable[[Reached], object] | None = None,
    progress: bool | None = None,
) -> Float[Tensor, "K C *S"]:
    """Pictures that please channels of a layer, made by climbing their activation from noise or from a picture.

    Each level climbs for some iterations, then the picture is enlarged; coarse levels make the large shapes. A step
    goes along the normalised gradient. The network's own normalisation is part of what is climbed, so that pictures are
    real colours wherever the model has a card. What comes out is a picture that this ascent found, one of many that
    please the channel, and none that the network was shown.

    Args:
        model: a network, or a wrapped one.
        layer: name of the layer, as `seewhy.layers` gives it; the last fully connected one gives pictures of classes.
            None: the network's output.
        channels: one, or K of them. A channel with positions counts with its mean over them, the unit of a vector
            (a class before its softmax) as it is.
        iterations: steps a level.
        pyramid_levels: how many sizes.
        pyramid_scale: each level is larger by this factor, above 1; the last has `size`, the first is smaller by
            pyramid_scale ** (pyramid_levels - 1). A network that refuses a level's size is shown it resampled.
        initial: where to start: a batch of 1 or K, or what the model's `prepare` takes. None: noise around grey.
        size: of the pictures, a number or one an axis; default: that of `initial`, else the card's, else 224.
        parametrisation: "fourier": steps whose frequencies and colours are spread as in photographs; "pixels": each
            value on its own.
        step: root mean square change of a level's first step, as a share of black to white (in the network's own units
            where it has no card); it falls in a straight line to step / iterations.
        jitter: the picture is rolled by up to this many pixels before each step.
        blur: standard deviation, in pixels, of a Gaussian that smooths each step.
        total_variation: weight of a smooth picture, beside a gradient scaled to 1; 0.1 to 0.5 show.
        scaling: "linear": each picture is stretched to [0, 1]; "none": as it was climbed, which is within [0, 1] where
            the model has a card, else in the network's own units.
        batch_size: pictures a pass; "auto": 1 on a CPU, else 8. Halved wherever an allocator refuses. More are faster,
            but passes of another size round otherwise, and an ascent turns that into other details.
        max_memory: bytes that a pass may add; the batch is chosen to hold it, from one measured picture.
        device: "auto": where the network lies.
        seed: of the noise and the jitter, the same for every channel. Same seed, same picture: on a CPU with passes of
            1 to the bit, whatever else is asked along; else up to rounding.
        watch: called with a `Reached` (level, iteration, channels, activations) before each step and after the last
            of each level: `watch=reached.append` keeps the whole ascent.
        progress: show a bar with the activations on work over two seconds; default: on a terminal.

    Returns:
        [K, C, *S], C = 3 for colours, on the CPU.

    Raises:
        UnknownNameError: no such layer.
        OptionError: a channel or an option that is not allowed, or a size that is not known.
        InputError: the initial picture cannot be used.
        ModelError: the network has no layers or no gradients, refuses the size, or a channel does not answer.
    """
    wanted = _channels(channels)
    steps = Steps(iterations, step, jitter, blur, total_variation, parametrisation)
    _check(steps, pyramid_levels, pyramid_scale, scaling, seed)
    check_sizes(batch_size, max_memory)
    wrapped = wrap(model)
    if wrapped.conversion is None:
        _check_can(wrapped, layer)
    named, x = _input(wrapped, initial, size, device)
    _check_can(named, layer)
    frame, final = units(named, x), tuple(x.shape[2:]) if size is None else _sides(size, x.ndim - 2)
    if len(x) not in (1, len(wanted)):
        raise InputError(f"initial holds {len(x)} pictures for {len(wanted)} channels: give 1, or one a channel.")

    with quiet(named), tracked("dream", progress) as advance:
        asked = _asked(named, x[:1], layer, wanted)
        shown = [(s, _shown(named, x, frame, s, asked)) for s in sizes(final, pyramid_levels, pyramid_scale)]
        ascent = Ascent(named, asked, frame, shown, steps, seed, x[:0], advance, watch)
        start = undrawn(x.to(frame.mean.dtype) * frame.std + frame.mean, frame)
        if initial is None:
            start = start.new_zeros(1, start.shape[1], *shown[0][0])  # grey
            start = NOISE * normal(seed, start)(0, 1)
        start = start.expand(len(wanted), *start.shape[1:])
        largest = maps.resample(x[:1], shown[-1][1])
        rows = BATCH.get(x.device.type, BATCH_ELSEWHERE) if batch_size == "auto" else batch_size
        room = [room_for(named, largest, rows, max_memory, graph=True)]
        parts = batches(lambda a, b: climb(ascent, start[a:b], wanted[a:b]).cpu(), len(wanted), room)
        pictures = torch.cat(list(parts))
    return stretched(pictures) if scaling == "linear" else pictures


def _check_can(model: Model, layer: str | None) -> None:
    if Can.GRADIENTS not in model.can:
        why = f": {model.lacks}" if model.lacks else ""
        raise ModelError(f"dream needs {Can.GRADIENTS}, {model.name} can give {model.can}{why}.")
    if layer is not None and Can.LAYERS not in model.can:
        raise ModelError(f"{model.name} has no layers that can be seen: use layer=None, its output.")


def _channels(given: Any) -> tuple[int, ...]:
    numbers = np.atleast_1d(np.asarray(given.cpu() if isinstance(given, Tensor) else given))
    if numbers.ndim != 1 or not len(numbers) or not np.issubdtype(numbers.dtype, np.integer):
        raise OptionError(f"channels={given!r}: a whole number, or a list of at least one.")
    return tuple(int(n) for n in numbers)


def _check(steps: Steps, levels: int, scale: int | float, scaling: str, seed: int) -> None:
    whole = (("iterations", steps.iterations, 1), ("pyramid_levels", levels, 1), ("jitter", steps.jitter, 0))
    for name, count, least in (*whole, ("seed", seed, 0)):
        if not isinstance(count, (int, np.integer)) or isinstance(count, bool) or count < least:
            raise OptionError(f"{name}={count!r}: a whole number, at least {least}.")
    for name, value, above in (("pyramid_scale", scale, 1), ("step", steps.step, 0)):
        if not _number(value) or not above < value < math.inf:
            raise OptionError(f"{name}={value!r}: a number above {above}.")
    for name, value in (("blur", steps.blur), ("total_variation", steps.total_variation)):
        if not _number(value) or not 0 <= value < math.inf:
            raise OptionError(f"{name}={value!r}: 0 or a number above it.")
    choose("parametrisation", steps.parametrisation, PARAMETRISATIONS)
    choose("scaling", scaling, SCALINGS)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def _input(model: Model, initial: Any, size: Any, device: str) -> tuple[Model, Inputs]:
    """The initial picture as the network takes it, or zeros of the same kind."""
    if initial is not None:
        return ready(model, initial, device, Can.GRADIENTS)
    card = model.preparation
    stem = _stem(model)
    if isinstance(card, Card):
        channels, sides = len(card.mean), tuple(card.size)
    elif stem is not None:
        axes = len(stem.kernel_size)
        if size is None and axes != 2:
            raise OptionError(f"size=None: {model.name} takes inputs of {axes} axes; give their lengths, or initial.")
        channels, sides = stem.in_channels, _sides(SIDE if size is None else size, axes)
    else:
        raise OptionError(
            f"nothing says what {model.name} takes: it has no card and begins with no convolution. Give initial, a "
            "batch such as torch.zeros(1, channels, ...)."
        )
    return ready(model, own(torch.zeros(1, channels, *sides), model.layout), device, Can.GRADIENTS)


def _stem(model: Model) -> Any:
    layers = () if model.module is None else model.module.modules()
    return next((one for one in layers if isinstance(one, (nn.Conv1d, nn.Conv2d, nn.Conv3d))), None)


def _sides(given: Any, axes: int) -> tuple[int, ...]:
    sides = tuple(given) if isinstance(given, (list, tuple)) else (given,) * axes
    whole = all(isinstance(s, (int, np.integer)) and not isinstance(s, bool) and s >= 1 for s in sides)
    if len(sides) != axes or not whole:
        raise OptionError(f"size={given!r}: a whole number above 0, or {axes} of them, one an axis.")
    return tuple(int(s) for s in sides)


def _asked(model: Model, x: Inputs, layer: str | None, channels: tuple[int, ...]) -> Reading:
    try:
        asked = reading(model, x, layer)
    except AssertionError as error:
        raise ModelError(f"{model.name} refuses an input of {list(x.shape)}: {error}") from error
    what = f"the output of {model.name}" if layer is None else f"layer {layer!r}"
    for channel in channels:
        if not 0 <= channel < asked.channels:
            raise OptionError(
                f"channel {channel} is out of range: {what} has {asked.channels} channels, 0 to {asked.channels - 1}."
            )
    return asked


def _shown(model: Model, x: Inputs, frame: Units, size: tuple[int, ...], asked: Reading) -> tuple[int, ...]:
    """The size in which the network is shown a level: the level's own where the network takes it, else that of x."""
    native = tuple(x.shape[2:])
    if size == native:
        return native
    z = x.new_zeros(1, x.shape[1], *size, dtype=frame.mean.dtype)
    try:
        run(seeing(model, frame, size, [0] * len(size), x), z, graph=False, feature=asked.layer)
    except (ModelError, AssertionError):  # some networks refuse a size by an assertion
        return native
    return size
