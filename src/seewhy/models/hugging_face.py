"""Image classifiers of Hugging Face transformers, loaded from a local folder with safetensors weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from seewhy.errors import ModelError
from seewhy.inputs.preprocessing import DEFAULT_SIZE, Preprocessing
from seewhy.model import Model

from . import wrap
from .files import first_line, import_package, read_file


def load_hugging_face(folder: str) -> Model:
    """Load an image classifier from the folder that `save_pretrained` wrote; no code from the folder is executed.

    Raises:
        ModelError: transformers is not installed, a file is missing, or the folder is not a readable image classifier.
    """
    transformers = import_package("transformers", "transformers")
    path = Path(folder)
    for name in ("config.json", "model.safetensors"):
        if not (path / name).is_file() and not (path / f"{name}.index.json").is_file():
            raise ModelError(f"hf:{folder}: {name} is missing. Only safetensors weights are supported.")
    try:
        module = transformers.AutoModelForImageClassification.from_pretrained(
            path, local_files_only=True, use_safetensors=True, trust_remote_code=False
        )
    except Exception as error:  # transformers raises any type of error on damaged or malicious files
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise ModelError(f"hf:{folder}: cannot be read as an image classifier ({reason})") from error
    names = getattr(module.config, "id2label", None) or {}
    labels = [names.get(i, str(i)) for i in range(len(names))]
    has_labels = all(label != f"LABEL_{i}" for i, label in enumerate(labels))  # not those that transformers fills in
    model = wrap(
        module.eval(),
        labels=labels if has_labels and labels else None,
        forward=lambda net, x: net(**{net.main_input_name: x}).logits,
    )
    return replace(model, preparation=_read_preprocessing(path), name=path.resolve().name)


def _read_preprocessing(folder: Path) -> Preprocessing | None:
    """Read the preprocessing from preprocessor_config.json; None if there is no such file.

    The image processor computes (value · rescale_factor - mean) / std of values in [0, 255]; `Preprocessing` applies
    mean and std to values in [0, 1].
    """
    file = folder / "preprocessor_config.json"
    if not file.is_file():
        return None
    config = read_file(str(file), lambda path: json.loads(Path(path).read_text(encoding="utf-8")))
    resized, cropped = _height_and_width(config.get("size")), _height_and_width(config.get("crop_size"))
    short_side = min(resized) if resized else None
    if config.get("do_center_crop") and cropped:
        size, crop = cropped, min(1.0, min(cropped) / short_side) if short_side else 1.0
    else:
        size, crop = resized or DEFAULT_SIZE, float(config.get("crop_pct") or 1.0)
    scale = 255 * config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 255.0
    normalized = config.get("do_normalize", True) and "image_mean" in config
    mean, std = (config["image_mean"], config["image_std"]) if normalized else ([0.0] * 3, [1.0] * 3)
    filters = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
    return Preprocessing(
        size, tuple(m / scale for m in mean), tuple(s / scale for s in std),
        filters.get(config.get("resample", 2), "bilinear"), crop,
    )  # fmt: skip


def _height_and_width(size: Any) -> tuple[int, int] | None:
    """Return height and width of a size in a processor's configuration: a number, or a dictionary of either form."""
    if isinstance(size, int):
        return size, size
    if isinstance(size, dict) and "height" in size and "width" in size:
        return size["height"], size["width"]
    if isinstance(size, dict) and "shortest_edge" in size:
        return size["shortest_edge"], size["shortest_edge"]
    return None
