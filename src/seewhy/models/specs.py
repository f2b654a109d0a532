"""Specs such as "timm:resnet18@weights.safetensors" -> networks. Weights are data only, and nothing is downloaded."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from seewhy.errors import ModelError, OptionError, UnknownNameError, unknown
from seewhy.types import Can, Card, Model

from . import keras3, wrap

SIZE = (224, 224)
RANDOM = "the weights are random: no file was given (NAME@FILE)"
CARDLESS = "the network has no card"
NO_CARD = f"{CARDLESS}: inputs are resized to {SIZE[0]} × {SIZE[1]} and scaled to 0..1"


def from_spec(
    spec: str, *, labels: Sequence[str] | None, prepare: Card | Callable[[Any], torch.Tensor] | None, allow_code: bool
) -> Model:
    """The network that a spec names, in eval mode.

    Args:
        spec: KIND:REST, see `seewhy.load`.
        labels: in place of those on its card.
        prepare: in place of its card.
        allow_code: whether a spec may run code of the user's own.

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
    model = KINDS[kind](rest)
    if prepare is not None and model.notes:
        model = replace(model, notes=tuple(note for note in model.notes if not note.startswith(CARDLESS)))
    if prepare is not None:
        model = replace(model, preparation=prepare)
    elif model.preparation is None and kind != "keras":
        model = replace(model, preparation=Card(SIZE), notes=(*model.notes, NO_CARD))
    return model if labels is None else replace(model, labels=tuple(map(str, labels)))


def _timm(rest: str) -> Model:
    timm = _package("timm", "timm")
    name, file = _parts(rest)
    if not timm.is_model(name):
        raise unknown("timm architecture", name, timm.list_models())
    module = timm.create_model(name, pretrained=False)
    card = module.pretrained_cfg
    kept = Card(
        tuple(card["input_size"][1:]), tuple(card["mean"]), tuple(card["std"]), card.get("interpolation", "bicubic"),
        card.get("crop_pct", 1.0),
    )  # fmt: skip
    labels = None
    if card.get("num_classes") == 1000:
        from timm.data.imagenet_info import ImageNetInfo

        labels = tuple(text.split(",")[0] for text in ImageNetInfo().label_descriptions())
    return _filled(module, name, file, kept, labels)


def _torchvision(rest: str) -> Model:
    models = _package("torchvision.models", "torchvision")
    name, file = _parts(rest)
    if name not in models.list_models():
        raise unknown("torchvision architecture", name, models.list_models())
    module = models.get_model(name, weights=None)
    known = models.get_model_weights(name)
    best = next(iter(known), None)
    if best is None:
        return _filled(module, name, file, None, None)
    steps = best.transforms()
    crop, resize = getattr(steps, "crop_size", [SIZE[0]]), getattr(steps, "resize_size", [SIZE[0]])
    kept = None
    if hasattr(steps, "mean"):
        side = crop[0] if crop else SIZE[0]
        mode = getattr(getattr(steps, "interpolation", None), "value", "bilinear")
        kept = Card((side, side), tuple(steps.mean), tuple(steps.std), mode, side / resize[0])
    return _filled(module, name, file, kept, tuple(best.meta.get("categories", ())) or None)


def _scripted(rest: str) -> Model:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that scripting is to be replaced one day
        module = _read(rest, lambda path: torch.jit.load(path, map_location="cpu"))
    return replace(wrap(module.eval()), name=Path(rest).stem)


def _exported(rest: str) -> Model:
    program = _read(rest, torch.export.load)
    return replace(wrap(program.module()), name=Path(rest).stem)


def _onnx(rest: str) -> Model:
    ort = _package("onnxruntime", "onnxruntime")
    path = Path(rest)
    outside = [
        name for name in _outside(path) if not (path.parent / name).resolve().is_relative_to(path.parent.resolve())
    ]
    if outside:
        raise ModelError(f"{rest}: it asks for data outside its folder ({outside[0]}), which is refused.")
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


def _outside(path: Path) -> list[str]:
    """Names of the files that an ONNX network takes its data from."""
    onnx = _package("onnx", "onnx")
    graph = _read(str(path), lambda file: onnx.load(file, load_external_data=False))
    return [
        entry.value
        for tensor in onnx.external_data_helper._get_all_tensors(graph)
        for entry in tensor.external_data
        if entry.key == "location"
    ]


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
    "py": _factory,
}


def _parts(rest: str) -> tuple[str, str | None]:
    name, _, file = rest.partition("@")
    return name, file or None


def _filled(
    module: torch.nn.Module, name: str, file: str | None, card: Card | None, labels: tuple[str, ...] | None
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
    return model if file is not None else replace(model, notes=(RANDOM,))


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
