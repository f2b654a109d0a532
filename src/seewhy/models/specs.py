"""Networks from specifications such as "timm:resnet18@weights.safetensors". Files that contain code are refused."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from seewhy.errors import ModelError, OptionError, unknown_name_error
from seewhy.inputs.preprocessing import DEFAULT_SIZE, Preprocessing
from seewhy.model import Model
from seewhy.types import Capability

from . import keras, wrap
from .files import first_line, import_package, read_file
from .hugging_face import load_hugging_face
from .onnx import conversion

RANDOM_WEIGHTS = "the weights are random: no file was specified (NAME@FILE), and downloads were not allowed"
NO_PREPROCESSING = "the network has no preprocessing configuration"
DEFAULT_PREPROCESSING = (
    f"{NO_PREPROCESSING}: inputs are resized to {DEFAULT_SIZE[0]} × {DEFAULT_SIZE[1]} and scaled to [0, 1]"
)


def load_spec(
    spec: str,
    *,
    labels: Sequence[str] | None,
    prepare: Preprocessing | Callable[[Any], torch.Tensor] | None,
    allow_code: bool,
    allow_download: bool,
) -> Model:
    """Load the network that a specification describes, in evaluation mode.

    Args:
        spec: TYPE:NAME or TYPE:FILE, see `seewhy.load`.
        labels: class names, in place of the network's own.
        prepare: preprocessing, in place of the network's own.
        allow_code: whether "py:" may execute the user's code.
        allow_download: whether published weights may be downloaded if no file is specified.

    Raises:
        UnknownNameError: there is no such type or architecture.
        ModelError: a file is missing, damaged, or contains code; the weights do not fit; a package is not installed.
        OptionError: the specification would execute code, which was not allowed.
    """
    prefix, _, source = spec.partition(":")
    if not source and spec.endswith(".onnx"):
        prefix, source = "onnx", spec
    if prefix not in LOADERS or not source:
        raise unknown_name_error("network type", prefix, ("lite0", *LOADERS))
    if prefix == "py" and not allow_code:
        raise OptionError(f"{spec!r} executes your code: allow it with --allow-code, or load(..., allow_code=True).")
    download = allow_download and prefix in DOWNLOADERS and "@" not in source
    model = DOWNLOADERS[prefix](source) if download else LOADERS[prefix](source)
    if prepare is not None and model.notes:
        model = replace(model, notes=tuple(note for note in model.notes if not note.startswith(NO_PREPROCESSING)))
    if prepare is not None:
        model = replace(model, preparation=prepare)
    elif model.preparation is None and prefix != "keras":
        model = replace(model, preparation=Preprocessing(DEFAULT_SIZE), notes=(*model.notes, DEFAULT_PREPROCESSING))
    return model if labels is None else replace(model, labels=tuple(map(str, labels)))


def _load_timm(source: str, download: bool = False) -> Model:
    timm = import_package("timm", "timm")
    name, file = _name_and_file(source)
    if not timm.is_model(name):
        raise unknown_name_error("timm architecture", name, timm.list_models())
    module = _create_or_download(name, lambda: timm.create_model(name, pretrained=download))
    config = module.pretrained_cfg
    preprocessing = Preprocessing(
        tuple(config["input_size"][1:]), tuple(config["mean"]), tuple(config["std"]),
        config.get("interpolation", "bicubic"), config.get("crop_pct", 1.0),
    )  # fmt: skip
    labels = None
    if config.get("num_classes") == 1000:
        from timm.data.imagenet_info import ImageNetInfo

        labels = tuple(text.split(",")[0] for text in ImageNetInfo().label_descriptions())
    return _with_weights(module, name, file, preprocessing, labels, download)


def _load_torchvision(source: str, download: bool = False) -> Model:
    models = import_package("torchvision.models", "torchvision")
    name, file = _name_and_file(source)
    if name not in models.list_models():
        raise unknown_name_error("torchvision architecture", name, models.list_models())
    module = models.get_model(name, weights=None)
    published = next(iter(models.get_model_weights(name)), None)
    if published is None:
        return _with_weights(module, name, file, None, None)
    if download:
        # weights_only: by default, torchvision would also accept a file that contains code
        weights = _create_or_download(
            name, lambda: published.get_state_dict(progress=False, check_hash=True, weights_only=True)
        )
        module.load_state_dict(weights)
    transforms, default = published.transforms(), [DEFAULT_SIZE[0]]
    crop, resize = getattr(transforms, "crop_size", default), getattr(transforms, "resize_size", default)
    preprocessing = None
    if hasattr(transforms, "mean"):
        side = crop[0] if crop else DEFAULT_SIZE[0]
        mode = getattr(getattr(transforms, "interpolation", None), "value", "bilinear")
        mean, std = tuple(transforms.mean), tuple(transforms.std)
        preprocessing = Preprocessing((side, side), mean, std, mode, side / resize[0])
    return _with_weights(
        module, name, file, preprocessing, tuple(published.meta.get("categories", ())) or None, download
    )


def _load_torchscript(source: str) -> Model:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        module = read_file(source, lambda path: torch.jit.load(path, map_location="cpu"))
    return replace(wrap(module.eval()), name=Path(source).stem)


def _load_exported_program(source: str) -> Model:
    program = read_file(source, _read_exported_program)
    return replace(wrap(program.module()), name=Path(source).stem)


def _read_exported_program(path: str) -> Any:
    """Read an archive of torch.export.save.

    The archive is checked first: for any other file, `torch.export.load` logs a traceback and tries older formats.
    """
    with zipfile.ZipFile(path) as archive:
        if not any(Path(name).name == "archive_format" for name in archive.namelist()):
            raise ModelError(f"{path}: not an archive of torch.export.save.")
    return torch.export.load(path)


def _load_onnx(source: str) -> Model:
    ort = import_package("onnxruntime", "onnxruntime")
    path = Path(source)
    onnx = import_package("onnx", "onnx")
    graph = read_file(source, lambda file: onnx.load(file, load_external_data=False))
    location = conversion.data_outside_folder(onnx, graph, path.parent)
    if location is not None:
        raise ModelError(f"{source}: the file refers to data outside its folder ({location}), which is not allowed.")
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = read_file(source, lambda file: ort.InferenceSession(file, options, providers=["CPUExecutionProvider"]))
    return replace(wrap(session), name=path.stem, capabilities=Capability.SCORES)


def _load_keras(source: str) -> Model:
    keras.import_with_torch_backend()
    network = read_file(source, keras.load_keras_file)
    model = replace(wrap(network), name=Path(source).stem)
    preprocessing, note = keras.default_preprocessing(network)
    return model if preprocessing is None else replace(model, preparation=preprocessing, notes=(*model.notes, note))


def _call_factory(source: str) -> Model:
    module, _, name = source.partition(":")
    if not name:
        raise OptionError(f"py:{source}: the form py:package.module:factory is required.")
    try:
        network = getattr(import_module(module), name)()
    except Exception as error:  # the user's code raises any type of error
        raise ModelError(f"py:{source} failed: {type(error).__name__}: {error}") from error
    return replace(wrap(network.eval() if isinstance(network, torch.nn.Module) else network), name=name)


LOADERS: dict[str, Callable[[str], Model]] = {
    "timm": _load_timm,
    "torchvision": _load_torchvision,
    "ts": _load_torchscript,
    "pt2": _load_exported_program,
    "onnx": _load_onnx,
    "keras": _load_keras,
    "hf": load_hugging_face,
    "py": _call_factory,
}


DOWNLOADERS: dict[str, Callable[[str], Model]] = {
    "timm": partial(_load_timm, download=True),
    "torchvision": partial(_load_torchvision, download=True),
}


def _create_or_download(name: str, function: Callable[[], Any]) -> Any:
    """Return `function()`, which creates a network or downloads its weights; any failure is a `ModelError`."""
    try:
        return function()
    except Exception as error:  # downloads raise many types of errors
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise ModelError(f"{name}: the network cannot be created or its weights downloaded ({reason})") from error


def _name_and_file(source: str) -> tuple[str, str | None]:
    name, _, file = source.partition("@")
    return name, file or None


def _with_weights(
    module: torch.nn.Module,
    name: str,
    file: str | None,
    preprocessing: Preprocessing | None,
    labels: tuple[str, ...] | None,
    downloaded: bool = False,
) -> Model:
    """Wrap an architecture with the weights of a file; without weights the model has a note that they are random."""
    if file is not None:
        weights = read_file(file, _load_state_dict)
        weights = next((weights[k] for k in ("state_dict", "model") if isinstance(weights.get(k), dict)), weights)
        try:
            module.load_state_dict({key.removeprefix("module."): value for key, value in weights.items()})
        except (RuntimeError, AttributeError) as error:
            raise ModelError(f"{file}: the weights do not fit {name}: {error}") from error
    model = replace(wrap(module.eval(), labels=labels), preparation=preprocessing, name=name)
    return model if downloaded or file is not None else replace(model, notes=(RANDOM_WEIGHTS,))


def _load_state_dict(file: str) -> Any:
    """Load a state dictionary; a pickle that contains anything but data is always refused."""
    if file.endswith(".safetensors"):
        weights: Any = import_package("safetensors.torch", "safetensors").load_file(file)
        return weights
    return torch.load(file, weights_only=True, map_location="cpu")
