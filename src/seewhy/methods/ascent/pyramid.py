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

    from torch import Tensor

    from seewhy.types import Inputs, Model


class Units(NamedTuple):
    """What a network sees of a picture: (picture - mean) / std. Where no card says so, the picture itself."""

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


def seeing(model: Model, frame: Units, size: Sequence[int], shift: Sequence[int], like: Tensor) -> Model:
    """The model as a function of the picture: rolled, brought to the size that the network takes, normalised.

    Args:
        model: who answers.
        frame: the picture's units.
        size: what the network takes.
        shift: pixels to roll each axis by.
        like: a tensor in the network's precision.
    """

    def forward(picture: Tensor) -> object:
        rolled = picture.roll(tuple(shift), tuple(range(2, picture.ndim)))
        x = (maps.resample(rolled, size) - frame.mean) / frame.std
        return model.forward(own(x.to(like.dtype), model.layout))

    return replace(model, forward=forward, layout=None)


def bounded(picture: Inputs, frame: Units) -> Inputs:
    """Within 0..1 where that is what pictures are."""
    return picture.clamp(0, 1) if frame.known else picture


def sizes(final: Sequence[int], levels: int, scale: float) -> list[tuple[int, ...]]:
    """The size of each level, coarse to fine; the last is `final`, each is `scale` times the one before."""
    return [tuple(max(1, round(s / scale**left)) for s in final) for left in reversed(range(levels))]


def carried(picture: Inputs, before: Inputs, after: Inputs) -> Inputs:
    """A picture at the next level: what was changed so far is enlarged and added to the start at that level.

    Args:
        picture: as it is now.
        before: the start at its size.
        after: the start at the next size.
    """
    return after + maps.resample(picture - before, after.shape[2:])


def stretched(pictures: Inputs) -> Inputs:
    """Each picture to [0, 1], all of its channels by the same numbers; a constant one gives zeros."""
    return maps.rescale(pictures.flatten(1).unsqueeze(1)).reshape(pictures.shape)
