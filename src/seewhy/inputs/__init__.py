"""Inputs: preparation of pictures as batches of tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from seewhy.errors import InputError, ModelError, check_choice
from seewhy.inputs.preprocessing import Preprocessing

if TYPE_CHECKING:
    from torch import Tensor

    from seewhy.model import Model


def prepare(model: Model, source: Any, *, crop: str | None = None) -> Tensor:
    """Preprocess a picture, or a list of pictures; see `Model.prepare`, which calls this function."""
    if crop is not None:
        check_choice("crop", crop, ("model",))
    if model.preparation is None:
        raise ModelError(
            f"{model.name} has no preprocessing, so only tensors can be explained: pass a tensor, "
            "or wrap the network with prepare=function or prepare=seewhy.Preprocessing(size=(224, 224), ...)."
        )
    if not isinstance(model.preparation, Preprocessing):
        return model.preparation(source)
    from .picture import picture_to_tensor, read_picture

    sources = list(source) if isinstance(source, (list, tuple)) else [source]
    if not sources:
        raise InputError("the list of pictures is empty: pass at least one picture.")
    batch = torch.stack([picture_to_tensor(read_picture(s), model.preparation, crop) for s in sources])
    if model.layout is not None and sorted(model.layout) == sorted("NCHW"):
        batch = batch.permute(["NCHW".index(letter) for letter in model.layout])
    return batch
