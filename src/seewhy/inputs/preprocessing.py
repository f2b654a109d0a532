"""Preprocessing of pictures: size, crop and normalization."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_SIZE = (224, 224)  # height and width where neither the network nor its files state a size


@dataclass(frozen=True)
class Preprocessing:
    """Size, normalization and crop of a network's input pictures (timm calls it the pretrained configuration).

    Attributes:
        size: height and width of the input, in pixels.
        mean: subtracted from each channel, after scaling to [0, 1].
        std: each channel is divided by it.
        interpolation: resampling filter: "bicubic", "bilinear", "lanczos" or "nearest".
        crop: fraction of the shorter side that `crop="model"` keeps.
    """

    size: tuple[int, int]
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    interpolation: str = "bicubic"
    crop: float = 1.0
