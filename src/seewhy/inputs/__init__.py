"""1. What is looked at: a picture, a volume, a sequence -> a tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from seewhy.errors import InputError, ModelError, choose
from seewhy.types import Card

if TYPE_CHECKING:
    from torch import Tensor

    from seewhy.types import Model


def prepare(model: Model, source: Any, *, crop: str | None = None) -> Tensor:
    """Turn a picture, or a list of them, into what the network takes.

    The whole picture is resized to the network's input, so that a map covers all of it.

    Args:
        model: whose preparation is used.
        source: path, PIL picture, array (H×W or H×W×channels; uint8, uint16, or floats in 0..1),
            or a list of them. A model with its own `prepare` function gets it as it is.
        crop: "card" keeps the centre that the model's card asks for (as in its published accuracy).

    Returns:
        [N, 3, H, W], or those axes in the model's layout, in the network's own units.

    Raises:
        InputError: it is missing, no picture, too large, or of an unusual kind.
        ModelError: the model has no preparation.
    """
    if crop is not None:
        choose("crop", crop, ("card",))
    if model.preparation is None:
        raise ModelError(
            f"{model.name} was given no preparation, so only tensors can be explained: pass a tensor, "
            "or wrap the network with prepare=function or prepare=seewhy.Card(size=(224, 224), ...)."
        )
    if not isinstance(model.preparation, Card):
        return model.preparation(source)
    from .picture import picture, to_tensor

    sources = list(source) if isinstance(source, (list, tuple)) else [source]
    if not sources:
        raise InputError("an empty list holds nothing to explain: give at least one picture.")
    batch = torch.stack([to_tensor(picture(s), model.preparation, crop) for s in sources])
    if model.layout is not None and sorted(model.layout) == sorted("NCHW"):
        batch = batch.permute(["NCHW".index(letter) for letter in model.layout])
    return batch
