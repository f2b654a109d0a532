"""Pictures from coarse to fine, and between their own units and the network's."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch

from seewhy import maps
from seewhy.trace.layout import own
from seewhy.types import Card

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float
    from torch import Tensor

    from seewhy.types import Inputs, Model


BLACK = 1 / 512  # half a step of 8 bits; a sigmoid never gets to 0 and 1


class Units(NamedTuple):
    """What a network sees of a picture: (picture - mean) / std. Where no card says so, the picture itself.

    Where pictures lie in 0..1, what moves is z, with picture = sigmoid(4 z): grey at 0, where the slope is 1. Cutting
    values off after a step would do for single pixels, but a filtered step that is cut off need not go uphill.
    """

    mean: Tensor
    std: Tensor
    known: bool  # then pictures lie in 0..1


def units(model: Model, x: Inputs) -> Units:
    """Those of the model's card, if it has one for inputs like these."""
    card = model.preparation
    known = isinstance(card, Card) and x.ndim == 4 and len(card.mean) == x.shape[1]
    given = (card.mean, card.std) if isinstance(card, Card) and known else ((0.0,), (1.0,))
    precision = torch.promote_types(x.dtype, torch.float32)
    mean, std = (torch.tensor(v, dtype=precision, device=x.device).view(1, -1, *[1] * (x.ndim - 2)) for v in given)
    return Units(mean, std, known)


def drawn(z: Inputs, frame: Units) -> Inputs:
    """The picture of z."""
    return (4 * z).sigmoid() if frame.known else z


def undrawn(picture: Inputs, frame: Units) -> Inputs:
    """The z of a picture."""
    return picture.logit(BLACK) / 4 if frame.known else picture


def seeing(model: Model, frame: Units, size: Sequence[int], shift: Sequence[int], like: Tensor) -> Model:
    """The model as a function of z: rolled, made a picture of the size that the network takes, normalised.

    Args:
        model: who answers.
        frame: the picture's units.
        size: what the network takes.
        shift: pixels to roll each axis by.
        like: a tensor in the network's precision.
    """

    def forward(z: Tensor) -> object:
        picture = drawn(z.roll(tuple(shift), tuple(range(2, z.ndim))), frame)
        x = (maps.resample(picture, size) - frame.mean) / frame.std
        return model.forward(own(x.to(like.dtype), model.layout))

    return replace(model, forward=forward, layout=None)


def sizes(final: Sequence[int], levels: int, scale: int | float) -> list[tuple[int, ...]]:
    """The size of each level, coarse to fine; the last is `final`, each is `scale` times the one before."""
    return [tuple(max(1, round(s / scale**left)) for s in final) for left in reversed(range(levels))]


def carried(z: Inputs, before: Inputs, after: Float[Tensor, "N C *R"]) -> Float[Tensor, "N C *R"]:
    """The next level's z: what was changed so far is enlarged and added to the start at that level.

    Args:
        z: as it is now.
        before: the start at its size.
        after: the start at the next size.
    """
    return after + maps.resample(z - before, after.shape[2:])


def stretched(pictures: Inputs) -> Inputs:
    """Each picture to [0, 1], all of its channels by the same numbers; a constant one gives zeros."""
    return maps.rescale(pictures.flatten(1).unsqueeze(1)).reshape(pictures.shape)
