"""The channels of any layer as one number each: the mean over positions, or the unit itself where there are none."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from seewhy.errors import ModelError, OptionError

from .choice import DETACHED, find, survey
from .forward import run
from .layout import class_axis
from .predict import probabilities
from .question import class_scores

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from seewhy.types import Inputs, Model

    from .forward import Pass


class Reading(NamedTuple):
    """Where the channels of a layer lie."""

    layer: str | None  # None: the network's output
    axis: int  # of the channels
    prefix: int  # tokens before those of the grid
    channels: int  # how many there are


def reading(model: Model, x: Inputs, layer: str | None) -> Reading:
    """Find the channels of a layer, from a forward and a backward of one sample.

    Args:
        model: who answers.
        x: inputs of the size that will be used.
        layer: its name, as `seewhy.layers` gives it; None: the network's output.

    Raises:
        UnknownNameError: no such layer.
        ModelError: the model has no layers, or there is no way back from this one to the input by autograd.
        OptionError: the output is asked, and it is probabilities.
    """
    axis, prefix = 1, 0
    if layer is not None:
        if model.module is None:
            raise ModelError(
                f"{model.name} is a plain function, its layers cannot be seen: wrap the torch module itself, or use "
                "layer=None, its output."
            )
        seen = find(survey(model, x, None), layer, model)
        layer, ndim = seen.name, len(seen.shape or ())
        if seen.where is not None:
            axis, prefix = seen.where.channels, seen.where.prefix or 0
        elif ndim > 1:  # three axes that are no grid of a picture: tokens
            axis = 2 if ndim == 3 < x.ndim else class_axis(ndim, model.layout)
    done = run(model, x[:1], graph=True, feature=layer)
    what = "the output" if layer is None else f"layer {layer!r}"
    if layer is None and probabilities(class_scores(done.explained, model).detach(), model)[1]:
        raise OptionError(
            f"layer=None: the output of {model.name} is probabilities, which hardly move once one class wins: name the "
            "layer before the softmax (seewhy.layers lists them)."
        )
    values = means(done, model, Reading(layer, axis, prefix, 0))
    back = torch.autograd.grad(values.sum(), done.x, allow_unused=True)[0] if values.requires_grad else None
    if back is None:
        raise ModelError(f"no picture can be made for {what} of {model.name}: {DETACHED.replace('the score', 'it')}.")
    return Reading(layer, axis, prefix, values.shape[1])


def means(done: Pass, model: Model, asked: Reading) -> Float[Tensor, "N channels"]:
    """The mean of each channel over its positions, with the graph.

    Args:
        done: a forward that read the layer as `feature`.
        model: who answered.
        asked: where its channels lie.

    Raises:
        ModelError: the layer has lost the batch.
    """
    if asked.layer is None:
        return _flat(class_scores(done.explained, model), 0)
    features = done.features
    assert features is not None
    if not features.ndim or len(features) != len(done.x) or not features.is_floating_point():
        kind = f"{features.dtype} {list(features.shape)}"
        raise ModelError(f"layer {asked.layer!r} gave {kind} for {len(done.x)} samples: no channels of each.")
    return _flat(features.unsqueeze(1) if features.ndim == 1 else features.movedim(asked.axis, 1), asked.prefix)


def _flat(values: Tensor, prefix: int) -> Tensor:
    return values.flatten(2)[:, :, prefix:].mean(2) if values.ndim > 2 else values
