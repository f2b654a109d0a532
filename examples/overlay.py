"""Grad-CAM as an overlay: which parts of a picture are evidence for its best class, in colormap jet at alpha 0.5.

The figure shows the preprocessed picture, and beside it the same picture under the map of the best class; the title is
its label and probability. The network and the picture are inside installed packages
(`pip install 'seewhy[demo]'`). Run it: `python examples/overlay.py [OUT_DIR]`.
"""

import sys
from pathlib import Path
from typing import Any

from skimage import data

import seewhy


def main(out: Path) -> dict[str, Any]:
    """Write overlay.png; return the label, its probability and the map."""
    out.mkdir(parents=True, exist_ok=True)
    model = seewhy.load("lite0")
    x = model.prepare(data.chelsea())

    # the probability instead of the logit: the score after the network's softmax
    e = seewhy.explain(model, x, "gradcam", score="probability")
    e.save(out / "overlay.png", alpha=0.5, cmap="jet")

    return {
        "figure": out / "overlay.png",
        "label": e.labels[0][0],
        "probability": float(e.scores[0, 0]),
        "layer": e.layer_reason,
        "map": e.maps[0, 0],
    }


if __name__ == "__main__":
    facts = main(Path(sys.argv[1] if len(sys.argv) > 1 else "seewhy-out"))
    print(f"{facts['label']} ({facts['probability']:.2f}), layer {facts['layer']}")
    print(facts["figure"])
