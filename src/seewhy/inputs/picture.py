"""Pictures: limits on files, conversion to 8-bit RGB, resizing and normalization."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError

from seewhy.errors import InputError, check_choice

if TYPE_CHECKING:
    from torch import Tensor

    from seewhy.inputs.preprocessing import Preprocessing

# not EPS, FITS, PSD: their parsers have a history of vulnerabilities
PICTURE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
MAX_PIXELS = 50_000_000  # checked on the header, before anything is decoded
# By the EXIF orientation. `ImageOps.exif_transpose` also writes all EXIF entries again, and raises if one is damaged.
EXIF_TRANSPOSITIONS = dict(enumerate((
    Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180, Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_90,
), start=2))  # fmt: skip
RESAMPLING = {name: Image.Resampling[name.upper()] for name in ("nearest", "bilinear", "bicubic", "lanczos")}


def read_picture(source: Any) -> Image.Image:
    """Return one picture as 8-bit RGB.

    The EXIF orientation is applied, 16-bit values are scaled to 8 bits, and transparent pixels are blended with white.

    Args:
        source: path, PIL picture, or array (H×W or H×W×channels; uint8, uint16, bool, or floats in [0, 1]).

    Raises:
        InputError: the picture is missing, unreadable, too large or damaged, or an array of an unsupported kind.
    """
    name = str(source) if isinstance(source, (str, Path)) else "the picture"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PIL's warnings about metadata
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            return _open_picture(source, name)
        except InputError:
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise InputError(_too_large_message(name, "too many")) from None
        except UnidentifiedImageError:
            raise InputError(
                f"{name}: not a picture in a supported format. Allowed: {', '.join(PICTURE_FORMATS)}."
            ) from None
        except Exception as error:  # decoders raise any type of error on malicious files
            raise InputError(f"{name}: the picture is damaged or cannot be read ({error}).") from error


def _open_picture(source: Any, name: str) -> Image.Image:
    if isinstance(source, Image.Image):
        return _to_rgb(source, name)
    if isinstance(source, np.ndarray):
        return _to_rgb(_picture_from_array(source), name)
    if not isinstance(source, (str, Path)):
        raise InputError(
            f"a {type(source).__name__} is not a picture: pass a path, a PIL picture or an array. "
            "A torch tensor needs no preparation."
        )
    if not Path(source).is_file():
        raise InputError(f"{name}: no such file.")
    with Image.open(source, formats=PICTURE_FORMATS) as opened:
        return _to_rgb(opened, name)


def _too_large_message(name: str, pixels: str) -> str:
    return f"{name}: {pixels} pixels; at most {MAX_PIXELS:,} are allowed. Resize the picture first."


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.width * image.height > MAX_PIXELS:
        raise InputError(_too_large_message(name, f"{image.width}×{image.height}"))
    transposition = EXIF_TRANSPOSITIONS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    image = image if transposition is None else image.transpose(transposition)
    if image.mode.startswith("I"):  # 16 bits, which PIL would clip at 255; mode "I" may hold 8-bit values
        numbers = np.asarray(image).astype(np.float64)
        values = numbers if image.mode == "I" and numbers.max() <= 255 else numbers / 257
        return Image.fromarray(values.clip(0, 255).round().astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        return _picture_from_array(np.asarray(image)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _picture_from_array(array: np.ndarray) -> Image.Image:
    shape = array.shape
    if array.ndim > 1 and shape[0] * shape[1] > MAX_PIXELS:
        raise InputError(_too_large_message("the picture", f"{shape[1]}×{shape[0]}"))
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.ndim == 3 and shape[2] == 1:
        array = array[:, :, 0]
    if array.size == 0 or array.ndim not in (2, 3) or (array.ndim == 3 and shape[2] not in (3, 4)):
        raise InputError(
            f"an array of shape {list(shape)} is not a picture: pass H×W, H×W×3 or H×W×4. "
            "A prepared batch must be a torch tensor."
        )
    if array.dtype == np.uint16:
        array = (array / 65535.0).astype(np.float64)
    if array.dtype == bool:
        array = array.astype(np.float64)
    if np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all():
            raise InputError("the picture contains NaN or infinite values: replace them first.")
        if array.min() < 0 or array.max() > 1:
            raise InputError(
                f"floats in a picture must lie in [0, 1]; these range from {array.min():.4g} to {array.max():.4g}: "
                "rescale them to [0, 1], or pass uint8."
            )
        array = (array * 255).round().astype(np.uint8)
    if array.dtype != np.uint8:
        raise InputError(f"an array of type {array.dtype} is not a picture: pass uint8, uint16, or floats in [0, 1].")
    return Image.fromarray(array)


def picture_to_tensor(image: Image.Image, preprocessing: Preprocessing, crop: str | None = None) -> Tensor:
    """Resize a picture and normalize it: (pixels / 255 - mean) / std, per channel.

    Args:
        image: an RGB picture; converted to one gray channel if the preprocessing has one mean.
        preprocessing: size, normalization, crop fraction and interpolation.
        crop: "model": center crop; None: the whole picture is resized.

    Returns:
        [3 or 1, H, W].

    Raises:
        OptionError: the interpolation does not exist.
    """
    height, width = preprocessing.size
    resampling = RESAMPLING[check_choice("interpolation", preprocessing.interpolation, RESAMPLING)]
    if crop == "model":
        # as timm does: resize until the picture covers size / crop fraction, then cut out the center
        high, wide = int(height / preprocessing.crop), int(width / preprocessing.crop)
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
    image = image.convert("L") if len(preprocessing.mean) == 1 else image
    pixels = np.atleast_3d(np.asarray(image, dtype=np.float32))
    values = torch.from_numpy(pixels / 255).permute(2, 0, 1)
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (preprocessing.mean, preprocessing.std))
    return (values - mean) / std
