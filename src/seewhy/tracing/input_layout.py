"""The layout of a network's input and output, read from the operations that the network applies to them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

from seewhy.axes.factors import Axes, is_position, make_axis
from seewhy.models.eval_mode import module_eval_mode

from .axis_trace import trace_axes
from .network_cache import cached_per_network
from .outputs import iter_tensors

if TYPE_CHECKING:
    from seewhy.model import Model

POSITION_NAMES = {1: "T", 2: "HW", 3: "DHW"}


class ObservedLayout(NamedTuple):
    """What one forward pass shows of the axes; None where it does not show it."""

    network_parts: list[ref[Any]]  # valid while these are the same objects: forward and modules
    input_layout: str | None
    output_layout: str | None


_layouts: WeakKeyDictionary[nn.Module, dict[Any, ObservedLayout]] = WeakKeyDictionary()


def with_observed_layout(model: Model, x: Tensor) -> Model:
    """Return the model with the layout of its input and output, where it was not stated and its operations show it.

    Args:
        model: the model.
        x: the batch, in the model's own order of axes.
    """
    if model.module is None or x.ndim < 2:
        return model
    found = cached_per_network(_layouts, _observe, model, x, None)
    notes, layout, output_layout = model.notes, model.layout, model.output_layout or found.output_layout
    if layout is None and x.ndim > 2:
        if found.input_layout is not None and found.input_layout != _channels_first(x.ndim):
            layout = found.input_layout
            notes += (f"the input has the axes {layout}, as the network's operations on them show",)
        elif found.input_layout is None and x.ndim == 3:
            notes += (
                "the network's operations do not show which axis of the input holds channels: the axes were taken as "
                "NCT, by convention. State layout='NTC' if time or tokens come first",
            )
    return replace(model, layout=layout, output_layout=output_layout, notes=notes)


def _channels_first(rank: int) -> str:
    return "NC" + POSITION_NAMES.get(rank - 2, "STUVW"[: rank - 2])


def _observe(model: Model, x: Tensor, _reduction_layer: str | None) -> ObservedLayout:
    """Run one sample and read the roles of the axes of the input and the output."""
    assert model.module is not None
    batch = 0 if model.layout is None else model.layout.index("N")
    sample = x.narrow(batch, 0, 1)
    letters = iter(range(sample.ndim))
    axes = tuple(
        make_axis("N", 1) if i == batch else make_axis(str(next(letters)), size) for i, size in enumerate(sample.shape)
    )
    try:
        with module_eval_mode(model.module), torch.inference_mode(False), torch.no_grad():
            leaf = sample.detach().clone()
            with trace_axes(model.module, leaf, axes) as trace:
                output = model.forward(leaf)
    except Exception:  # noqa: BLE001 (the pass that computes the scores reports the error)
        return ObservedLayout([], None, None)
    tensors = list(iter_tensors(output))
    single = trace.axes_of(tensors[0]) if len(tensors) == 1 else None
    return ObservedLayout([], _input_layout(axes, trace.channels, trace.tokens), _output_layout(single))


def _input_layout(axes: Axes, channels: str | None, tokens: str | None) -> str | None:
    """Return one letter per axis of the input, from the letter of the channels or of the tokens."""
    letters = [axis.factors[0].letter if axis.factors else "" for axis in axes]  # type: ignore[union-attr]
    if channels is None and tokens is not None and len(letters) == 3:
        channels = next(letter for letter in letters if letter not in ("N", tokens))
    if channels is None or (channels and channels not in letters) or (not channels and letters.count("") > 1):
        return None
    names = iter(POSITION_NAMES.get(sum(letter not in ("N", channels) for letter in letters), "STUVW"))
    return "".join("N" if letter == "N" else "C" if letter == channels else next(names) for letter in letters)


def _output_layout(axes: Axes | None) -> str | None:
    """Return one letter per axis of the output; None if it is not clear which axis holds the classes."""
    if axes is None or len(axes) < 3:
        return None
    letters = []
    for axis in axes:
        if axis.letters == {"N"}:
            letters.append("N")
        else:
            letters.append("S" if any(map(is_position, axis.letters)) else "C")
    others = iter("STUVW")
    if letters.count("N") != 1 or letters.count("C") != 1 or letters[0] != "N":
        return None
    return "".join(next(others) if letter == "S" else letter for letter in letters)


def takes_whole_numbers(model: Model, x: Tensor, in_precision: Tensor) -> bool:
    """Return whether the network runs on whole numbers, such as token ids, and not on the same numbers as floats."""
    return not _runs(model, in_precision[:1]) and _runs(model, x[:1])


def with_batch_axis(model: Model, x: Tensor) -> tuple[Model, Tensor]:
    """Return the input with a batch axis, if it has none: the network fails on it, and runs on it as one sample."""
    if model.layout is not None or model.module is None or not 0 < x.ndim < 5:
        return model, x
    ranks = {len(m.kernel_size) + 2 for m in model.module.modules() if isinstance(m, nn.modules.conv._ConvNd)}
    if ranks != {x.ndim + 1} or _runs(model, x[:1]) or not _runs(model, x[None]):
        return model, x
    note = f"the input {list(x.shape)} has no batch axis: it is one sample"
    return replace(model, notes=(*model.notes, note)), x[None]


def _runs(model: Model, x: Tensor) -> bool:
    try:
        with module_eval_mode(model.module), torch.inference_mode(False), torch.no_grad():
            model.forward(x)
    except Exception:  # noqa: BLE001 (only whether it runs matters)
        return False
    return True
