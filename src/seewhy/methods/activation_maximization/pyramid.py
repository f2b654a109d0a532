"""Activation maximization: pyramid levels from coarse to fine, and conversion of pictures to the network's units."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch

from seewhy import maps
from seewhy.axes.layout import from_canonical
from seewhy.inputs.preprocessing import Preprocessing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float
    from torch import Tensor

    from seewhy.model import Model
    from seewhy.types import Inputs


LOGIT_MARGIN = 1 / 512  # half a step of 8 bits; the logit of 0 and 1 is infinite


class PictureUnits(NamedTuple):
    """Normalization that a network expects, (picture - mean) / std; mean 0 and std 1 without known preprocessing.

    If the values of pictures are in [0, 1], the optimized variable is z with picture = sigmoid(4 z): z = 0 is gray, and
    the slope there is 1. Clipping the picture after each step would work for single pixels, but a filtered step that
    is clipped does not always increase the activation.
    """

    mean: Tensor
    std: Tensor
    in_unit_range: bool  # whether the values of pictures are in [0, 1]


def picture_units(model: Model, x: Inputs) -> PictureUnits:
    """The units of the model's preprocessing, if it has one that fits the inputs x; else mean 0 and std 1."""
    preprocessing = model.preparation
    fits = isinstance(preprocessing, Preprocessing) and x.ndim == 4 and len(preprocessing.mean) == x.shape[1]
    mean_std = (
        (preprocessing.mean, preprocessing.std)
        if isinstance(preprocessing, Preprocessing) and fits
        else ((0.0,), (1.0,))
    )
    precision = torch.promote_types(x.dtype, torch.float32)
    mean, std = (torch.tensor(v, dtype=precision, device=x.device).view(1, -1, *[1] * (x.ndim - 2)) for v in mean_std)
    return PictureUnits(mean, std, in_unit_range=fits)


def picture_from_z(z: Inputs, units: PictureUnits) -> Inputs:
    """The picture that z represents: sigmoid(4 z) if pictures are in [0, 1], else z itself."""
    return (4 * z).sigmoid() if units.in_unit_range else z


def z_from_picture(picture: Inputs, units: PictureUnits) -> Inputs:
    """The z that represents a picture; the inverse of `picture_from_z`."""
    return picture.logit(LOGIT_MARGIN) / 4 if units.in_unit_range else picture


def model_on_z(model: Model, units: PictureUnits, size: Sequence[int], shift: Sequence[int], like: Tensor) -> Model:
    """The model as a function of z, which is rolled, converted to a picture, resampled to `size` and normalized.

    Args:
        model: the model.
        units: the units of pictures.
        size: the input size of the network.
        shift: pixels to roll each axis by.
        like: a tensor with the network's precision.
    """

    def forward(z: Tensor) -> object:
        picture = picture_from_z(z.roll(tuple(shift), tuple(range(2, z.ndim))), units)
        x = (maps.resample(picture, size) - units.mean) / units.std
        return model.forward(from_canonical(x.to(like.dtype), model.layout))

    return replace(model, forward=forward, layout=None)


def level_sizes(final: Sequence[int], levels: int, scale: int | float) -> list[tuple[int, ...]]:
    """Picture size per level, coarse to fine: the last is `final`, each is `scale` times the previous one."""
    return [tuple(max(1, round(s / scale**level)) for s in final) for level in reversed(range(levels))]


def next_level_z(z: Inputs, start: Inputs, next_start: Float[Tensor, "N C *R"]) -> Float[Tensor, "N C *R"]:
    """Initial z of the next level: the change so far, resampled and added to the start at the next level's size.

    Args:
        z: the current z.
        start: the start at the size of z.
        next_start: the start at the next level's size.
    """
    return next_start + maps.resample(z - start, next_start.shape[2:])


def rescale_pictures(pictures: Inputs) -> Inputs:
    """Pictures rescaled to [0, 1], all channels of a picture together; a constant picture becomes zeros."""
    return maps.rescale(pictures.flatten(1).unsqueeze(1)).reshape(pictures.shape)
