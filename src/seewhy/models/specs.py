"""Specs such as "timm:resnet18@weights.safetensors" -> networks. Weights are data only, and nothing is downloaded."""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from seewhy.errors import ModelError, OptionError, UnknownNameError, unknown
from seewhy.types import Can, Card, Model

from . import keras3, onnx_graph, wrap

SIZE = (224, 224)
RANDOM = "the weights are random: no file was given (NAME@FILE), and downloads were not allowed"
CARDLESS = "the network has no card"
NO_CARD = f"{CARDLESS}: inputs are resized to {SIZE[0]} × {SIZE[1]} and scaled to 0..1"


def from_spec(
    spec: str,
    *,
    labels: Sequence[str] | None,
    prepare: Card | Callable[[Any], torch.Tensor] | None,
    allow_code: bool,
    allow_download: bool,
) -> Model:
    """The network that a spec names, in eval mode.

    Args:
        spec: KIND:REST, see `seewhy.load`.
        labels: in place of those on its card.
        prepare: in place of its card.
        allow_code: whether a spec may run code of the user's own.
        allow_download: whether published weights may be fetched where no file is named.

    Raises:
        UnknownNameError: no such kind, or no such architecture.
        ModelError: a file that is missing, damaged, or holds code; weights that do not fit; a package that is missing.
        OptionError: code that was not allowed.
    """
    kind, _, rest = spec.partition(":")
    if not rest and spec.endswith(".onnx"):
        kind, rest = "onnx", spec
    if kind not in KINDS or not rest:
        raise unknown("kind of network", kind, ("lite0", *KINDS))
    if kind == "py" and not allow_code:
        raise OptionError(f"{spec!r} runs your code: allow it with --allow-code, or load(..., allow_code=True).")
    fetched = allow_download and kind in PUBLISHED and "@" not in rest
    model = PUBLISHED[kind](rest) if fetched else KINDS[kind](rest)
    if prepare is not None and model.notes:
        model = replace(model, notes=tuple(note for note in model.notes if not note.startswith(CARDLESS)))
    if prepare is not None:
        model = replace(model, preparation=prepare)
    elif model.preparation is None and kind != "keras":
        model = replace(model, preparation=Card(SIZE), notes=(*model.notes, NO_CARD))
    return model if labels is None else replace(model, labels=tuple(map(str, labels)))


def _timm(rest: str, fetch: bool = False) -> Model:
    timm = _package("timm", "timm")
    name, file = _parts(rest)
    if not timm.is_model(name):
        raise unknown("timm architecture", name, timm.list_models())
    module = _fetched(name, lambda: timm.create_model(name, pretrained=fetch))
    card = module.pretrained_cfg
    kept = Card(
        tuple(card["input_size"][1:]), tuple(card["mean"]), tuple(card["std"]), card.get("interpolation", "bicubic"),
        card.get("crop_pct", 1.0),
    )  # fmt: skip
    labels = None
    if card.get("num_classes") == 1000:
        from timm.data.imagenet_info import ImageNetInfo

        labels = tuple(text.split(",")[0] for text in ImageNetInfo().label_descriptions())
    return _filled(module, name, file, kept, labels, fetch)


def _torchvision(rest: str, fetch: bool = False) -> Model:
    models = _package("torchvision.models", "torchvision")
    name, file = _parts(rest)
    if name not in models.list_models():
        raise unknown("torchvision architecture", name, models.list_models())
    module = models.get_model(name, weights=None)
    known = models.get_model_weights(name)
    best = next(iter(known), None)
    if best is None:
        return _filled(module, name, file, None, None)
    if fetch:
        # data only: what torchvision would ask by itself may hold code
        weights = _fetched(name, lambda: best.get_state_dict(progress=False, check_hash=True, weights_only=True))
        module.load_state_dict(weights)
    steps = best.transforms()
    crop, resize = getattr(steps, "crop_size", [SIZE[0]]), getattr(steps, "resize_size", [SIZE[0]])
    kept = None
    if hasattr(steps, "mean"):
        side = crop[0] if crop else SIZE[0]
        mode = getattr(getattr(steps, "interpolation", None), "value", "bilinear")
        kept = Card((side, side), tuple(steps.mean), tuple(steps.std), mode, side / resize[0])
    return _filled(module, name, file, kept, tuple(best.meta.get("categories", ())) or None, fetch)


def _hugging_face(rest: str) -> Model:
    transformers = _package("transformers", "transformers")
    folder = Path(rest)
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file() and not (folder / f"{name}.index.json").is_file():
            raise ModelError(f"hf:{rest}: {name} is not there; weights other than safetensors are not read.")
    try:
        module = transformers.AutoModelForImageClassification.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, trust_remote_code=False
        )
    except Exception as error:  # damaged and hostile files raise anything
        first = str(error).strip().split("\n")[0]
        raise ModelError(
            f"hf:{rest}: cannot be read as an image classifier ({type(error).__name__}: {first})"
        ) from error
    names = getattr(module.config, "id2label", None) or {}
    labels = [names.get(i, str(i)) for i in range(len(names))]
    given = all(label != f"LABEL_{i}" for i, label in enumerate(labels))
    model = wrap(
        module.eval(),
        labels=labels if given and labels else None,
        forward=lambda net, x: net(**{net.main_input_name: x}).logits,
    )
    return replace(model, preparation=_processing(folder), name=folder.resolve().name)


def _processing(folder: Path) -> Card | None:
    """The card that a preprocessor_config.json writes down: (value · rescale_factor - mean) / std of 0..255."""
    file = folder / "preprocessor_config.json"
    if not file.is_file():
        return None
    given = _read(str(file), lambda path: json.loads(Path(path).read_text(encoding="utf-8")))
    size, cut = _side(given.get("size")), _side(given.get("crop_size"))
    short = min(size) if size else None
    if given.get("do_center_crop") and cut:
        shown, share = cut, min(1.0, min(cut) / short) if short else 1.0
    else:
        shown, share = size or SIZE, float(given.get("crop_pct") or 1.0)
    scale = 255 * given.get("rescale_factor", 1 / 255) if given.get("do_rescale", True) else 255.0
    normal = given.get("do_normalize", True) and "image_mean" in given
    mean, std = (given["image_mean"], given["image_std"]) if normal else ([0.0] * 3, [1.0] * 3)
    filters = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
    return Card(
        shown, tuple(m / scale for m in mean), tuple(s / scale for s in std),
        filters.get(given.get("resample", 2), "bilinear"), share,
    )  # fmt: skip


def _side(given: Any) -> tuple[int, int] | None:
    """Height and width of what a processor's file calls a size."""
    if isinstance(given, int):
        return given, given
    if isinstance(given, dict) and "height" in given and "width" in given:
        return given["height"], given["width"]
    if isinstance(given, dict) and "shortest_edge" in given:
        return given["shortest_edge"], given["shortest_edge"]
    return None


def _scripted(rest: str) -> Model:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that scripting is to be replaced one day
        module = _read(rest, lambda path: torch.jit.load(path, map_location="cpu"))
    return replace(wrap(module.eval()), name=Path(rest).stem)


def _exported(rest: str) -> Model:
    program = _read(rest, _program)
    return replace(wrap(program.module()), name=Path(rest).stem)


def _program(path: str) -> Any:
    """Torch logs a traceback for what is no archive of its own, and then tries older formats."""
    with zipfile.ZipFile(path) as archive:
        if not any(Path(name).name == "archive_format" for name in archive.namelist()):
            raise ModelError(f"{path}: no archive of torch.export.save.")
    return torch.export.load(path)


def _onnx(rest: str) -> Model:
    ort = _package("onnxruntime", "onnxruntime")
    path = Path(rest)
    onnx = _package("onnx", "onnx")
    graph = _read(rest, lambda file: onnx.load(file, load_external_data=False))
    outside = onnx_graph.outside(onnx, graph, path.parent)
    if outside is not None:
        raise ModelError(f"{rest}: it asks for data outside its folder ({outside}), which is refused.")
    options = ort.SessionOptions()
    options.log_severity_level = 4
    found = _read(rest, lambda file: ort.InferenceSession(file, options, providers=["CPUExecutionProvider"]))
    return replace(wrap(found), name=path.stem, can=Can.SCORES)


def _keras(rest: str) -> Model:
    keras3.on_torch()
    found = _read(rest, lambda file: keras3.read(file, _package))
    model = replace(wrap(found), name=Path(rest).stem)
    card, note = keras3.card(found, SIZE)
    return model if card is None else replace(model, preparation=card, notes=(*model.notes, note))


def _factory(rest: str) -> Model:
    place, _, name = rest.partition(":")
    if not name:
        raise OptionError(f"py:{rest}: package.module:factory is needed.")
    try:
        made = getattr(import_module(place), name)()
    except (ImportError, AttributeError) as error:
        raise ModelError(f"py:{rest}: {error}") from error
    return replace(wrap(made.eval() if isinstance(made, torch.nn.Module) else made), name=name)


KINDS: dict[str, Callable[[str], Model]] = {
    "timm": _timm,
    "torchvision": _torchvision,
    "ts": _scripted,
    "pt2": _exported,
    "onnx": _onnx,
    "keras": _keras,
    "hf": _hugging_face,
    "py": _factory,
}


PUBLISHED: dict[str, Callable[[str], Model]] = {
    "timm": partial(_timm, fetch=True),
    "torchvision": partial(_torchvision, fetch=True),
}


def _fetched(name: str, work: Callable[[], Any]) -> Any:
    """What needs the network, or one line on why it could not be had."""
    try:
        return work()
    except Exception as error:  # what fails on the way is of many kinds
        first = str(error).strip().split("\n")[0]
        raise ModelError(f"{name}: cannot be made or its weights fetched ({type(error).__name__}: {first})") from error


def _parts(rest: str) -> tuple[str, str | None]:
    name, _, file = rest.partition("@")
    return name, file or None


def _filled(
    module: torch.nn.Module,
    name: str,
    file: str | None,
    card: Card | None,
    labels: tuple[str, ...] | None,
    fetched: bool = False,
) -> Model:
    """The architecture with the weights of a file."""
    if file is not None:
        weights = _read(file, _weights)
        weights = next((weights[k] for k in ("state_dict", "model") if isinstance(weights.get(k), dict)), weights)
        try:
            module.load_state_dict({key.removeprefix("module."): value for key, value in weights.items()})
        except (RuntimeError, AttributeError) as error:
            raise ModelError(f"{file}: the weights do not fit {name}: {error}") from error
    model = replace(wrap(module.eval(), labels=labels), preparation=card, name=name)
    return model if fetched or file is not None else replace(model, notes=(RANDOM,))


def _weights(file: str) -> Any:
    """A state dictionary; pickles with anything but data in them are refused, without a way round."""
    if file.endswith(".safetensors"):
        found: Any = _package("safetensors.torch", "safetensors").load_file(file)
        return found
    return torch.load(file, weights_only=True, map_location="cpu")


def _read(file: str, reader: Callable[[str], Any]) -> Any:
    """What a reader makes of a file; whatever it raises is told in one line."""
    if not Path(file).is_file():
        raise ModelError(f"{file}: no such file.")
    try:
        return reader(file)
    except (ModelError, UnknownNameError):
        raise
    except Exception as error:  # damaged and hostile files raise anything
        first = str(error).strip().split("\n")[0]
        raise ModelError(f"{file}: cannot be read as weights or a network ({type(error).__name__}: {first})") from error


def _package(module: str, name: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        raise ModelError(f"{name} is not installed: pip install {name}.") from None
