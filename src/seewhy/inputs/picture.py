"""Pictures: read with limits, brought to 8-bit RGB, resized, and scaled as a card says."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from seewhy.errors import InputError, choose

if TYPE_CHECKING:
    from torch import Tensor

    from seewhy.types import Card

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")  # never EPS, FITS, PSD: interpreters with a history
LIMIT = 50_000_000  # pixels; checked on the header, before anything is decoded
ORIENTATION = 0x0112  # the EXIF tag
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def picture(source: Any) -> Image.Image:
    """One picture as 8-bit RGB: turned as its EXIF says, 16 bits scaled down, transparency over white.

    Raises:
        InputError: missing, no picture, too large, damaged, or an array of an unusual kind.
    """
    name = str(source) if isinstance(source, (str, Path)) else "the picture"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PIL's remarks on metadata
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            return _read(source, name)
        except InputError:
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise InputError(_too_large(name, "far more")) from None
        except UnidentifiedImageError:
            raise InputError(f"{name}: not a picture that can be read; allowed: {', '.join(FORMATS)}.") from None
        except Exception as error:  # decoders of hostile files raise anything
            raise InputError(f"{name}: the picture is damaged or cannot be read ({error}).") from error


def _read(source: Any, name: str) -> Image.Image:
    if isinstance(source, Image.Image):
        return _rgb(source, name)
    if isinstance(source, np.ndarray):
        return _rgb(_from_array(source), name)
    if not isinstance(source, (str, Path)):
        raise InputError(
            f"a {type(source).__name__} is no picture: give a path, a PIL picture or an array; "
            "a torch tensor is taken as prepared already."
        )
    if not Path(source).is_file():
        raise InputError(f"{name}: no such file.")
    with Image.open(source, formats=FORMATS) as opened:
        return _rgb(opened, name)


def _too_large(name: str, pixels: str) -> str:
    return f"{name}: {pixels} pixels; at most {LIMIT:,} are read. Make it smaller first."


def _rgb(image: Image.Image, name: str) -> Image.Image:
    if image.width * image.height > LIMIT:
        raise InputError(_too_large(name, f"{image.width}×{image.height}"))
    turn = TURNS.get(image.getexif().get(ORIENTATION, 1))
    image = image if turn is None else image.transpose(turn)
    if image.mode.startswith("I"):  # 16 bits, which PIL would clip at 255; mode "I" may hold 8
        numbers = np.asarray(image).astype(np.float64)
        values = numbers if image.mode == "I" and numbers.max() <= 255 else numbers / 257
        return Image.fromarray(values.clip(0, 255).round().astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        return _from_array(np.asarray(image)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _from_array(array: np.ndarray) -> Image.Image:
    shape = array.shape
    if array.ndim > 1 and shape[0] * shape[1] > LIMIT:
        raise InputError(_too_large("the picture", f"{shape[1]}×{shape[0]}"))
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.ndim == 3 and shape[2] == 1:
        array = array[:, :, 0]
    if array.size == 0 or array.ndim not in (2, 3) or (array.ndim == 3 and shape[2] not in (3, 4)):
        raise InputError(
            f"an array of shape {list(shape)} is no picture: give H×W, H×W×3 or H×W×4; "
            "a batch that is prepared already must be a torch tensor."
        )
    if array.dtype == np.uint16:
        array = (array / 65535.0).astype(np.float64)
    if array.dtype == bool:
        array = array.astype(np.float64)
    if np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all():
            raise InputError("the picture holds NaN or infinite values.")
        if array.min() < 0 or array.max() > 1:
            raise InputError(
                f"floats in a picture are read as 0..1, these go from {array.min():.4g} to {array.max():.4g}: "
                "divide them by their range, or give uint8."
            )
        array = (array * 255).round().astype(np.uint8)
    if array.dtype != np.uint8:
        raise InputError(f"an array of {array.dtype} is no picture: give uint8, uint16, or floats in 0..1.")
    return Image.fromarray(array)


def to_tensor(image: Image.Image, card: Card, crop: str | None = None) -> Tensor:
    """[3 or 1, H, W] in the network's units: resized (or centre-cropped with crop="card"), (v - mean) / std."""
    height, width = card.size
    resampling = RESAMPLING[choose("interpolation", card.interpolation, RESAMPLING)]
    if crop == "card":
        # timm's order: resized until it covers size / share, then the centre is cut out
        high, wide = int(height / card.crop), int(width / card.crop)
        if high == wide:
            short = min(image.size)
            wide, high = (high if side == short else int(high * side / short) for side in image.size)
        else:
            scale = max(high / image.height, wide / image.width)
            wide, high = (round(side * scale) for side in image.size)
        image = image.resize((wide, high), resampling)
        left, top = round((wide - width) / 2), round((high - height) / 2)
        image = image.crop((left, top, left + width, top + height))
    else:
        image = image.resize((width, height), resampling)
    image = image.convert("L") if len(card.mean) == 1 else image
    pixels = np.atleast_3d(np.asarray(image, dtype=np.float32))
    values = torch.from_numpy(pixels / 255).permute(2, 0, 1)
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (card.mean, card.std))
    return (values - mean) / std
