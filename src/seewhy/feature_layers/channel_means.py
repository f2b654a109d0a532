"""Activations of a layer's channels: the mean over positions, or the value itself if there are no positions."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from seewhy.axes.layout import class_axis
from seewhy.errors import ModelError, OptionError
from seewhy.targets.predict import class_probabilities
from seewhy.targets.scoring import class_scores
from seewhy.tracing.backward_passes import repeat_with_saved_copies
from seewhy.tracing.forward import run_forward

from .selection import NO_GRADIENT, find_layer, survey_layers

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from seewhy.model import Model
    from seewhy.tracing.forward import ForwardPass
    from seewhy.types import Inputs


class LayerChannels(NamedTuple):
    """The axis and number of a layer's channels."""

    layer: str | None  # None: the network's output
    axis: int  # the channel axis
    prefix: int  # number of tokens before those of the patches, such as the class token
    channels: int  # number of channels


@repeat_with_saved_copies
def locate_channels(model: Model, x: Inputs, layer: str | None) -> LayerChannels:
    """Find the channel axis of a layer, by a forward and a backward pass of one sample.

    Args:
        model: the model.
        x: inputs of the size that will be used.
        layer: the layer's name, as in `seewhy.layers`; None: the network's output.

    Raises:
        UnknownNameError: the model has no such layer.
        ModelError: the model has no layers, or the layer does not depend on the input through autograd.
        OptionError: `layer` is None, and the output consists of probabilities.
    """
    axis, prefix = 1, 0
    if layer is not None:
        if model.module is None:
            raise ModelError(
                f"{model.name} is a plain function, so its layers are unknown: wrap the torch module itself, or use "
                "layer=None for its output."
            )
        info = find_layer(survey_layers(model, x, None), layer, model)
        layer, ndim = info.name, len(info.shape or ())
        if info.where is not None and info.where.channel_axis is not None:
            axis, prefix = info.where.channel_axis, info.where.prefix
        elif ndim > 1:
            with_channels = [i for i, a in enumerate(info.axes or ()) if i and "C" in a.letters]
            axis = with_channels[-1] if with_channels else class_axis(ndim, model.layout, model.output_layout)
    forward = run_forward(model, x[:1], graph=True, feature_layer=layer)
    what = "the output" if layer is None else f"layer {layer!r}"
    if layer is None and class_probabilities(forward.explained, model)[1]:
        raise OptionError(
            f"layer=None: the output of {model.name} consists of probabilities, which saturate once one class "
            "dominates: name the layer before the softmax (seewhy.layers lists them)."
        )
    values = channel_means(forward, model, LayerChannels(layer, axis, prefix, 0))
    gradient = torch.autograd.grad(values.sum(), forward.x, allow_unused=True)[0] if values.requires_grad else None
    if gradient is None:
        raise ModelError(f"no picture can be made for {what} of {model.name}: {NO_GRADIENT.replace('the score', 'it')}")
    return LayerChannels(layer, axis, prefix, values.shape[1])


def channel_means(forward: ForwardPass, model: Model, location: LayerChannels) -> Float[Tensor, "N channels"]:
    """Mean of each channel over its positions, with the autograd graph.

    Args:
        forward: a forward pass in which the layer was the `feature`.
        model: the model.
        location: the layer's channels, from `locate_channels`.

    Raises:
        ModelError: the layer's output has no batch axis.
    """
    if location.layer is None:
        return _mean_over_positions(class_scores(forward.explained, model), 0)
    features = forward.features
    assert features is not None
    if not features.ndim or len(features) != len(forward.x) or not features.is_floating_point():
        kind = f"{features.dtype} {list(features.shape)}"
        raise ModelError(
            f"layer {location.layer!r} returned {kind} for {len(forward.x)} samples, not floating-point channels per "
            "sample: name another layer (seewhy.layers lists them)."
        )
    return _mean_over_positions(
        features.unsqueeze(1) if features.ndim == 1 else features.movedim(location.axis, 1), location.prefix
    )


def _mean_over_positions(values: Tensor, prefix: int) -> Tensor:
    return values.flatten(2)[:, :, prefix:].mean(2) if values.ndim > 2 else values
