"""Where a network looks: Grad-CAM laid over a picture of a cat, in the colours of jet at half weight.

The figure shows the picture as the network takes it, and beside it the same picture under the map of the best class;
the title gives its label and probability. The network and the picture come with installed packages
(`pip install 'seewhy[demo]'`). Run it: `python examples/overlay.py [OUT_DIR]`.
"""

import sys
from pathlib import Path
from typing import Any

from skimage import data

import seewhy


def main(out: Path) -> dict[str, Any]:
    """Write overlay.png and say what the network saw."""
    out.mkdir(parents=True, exist_ok=True)
    model = seewhy.load("lite0")
    x = model.prepare(data.chelsea())

    # the probability and not the logit, so the map is that of the network's softmax
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
    print(f"{facts['label']} ({facts['probability']:.2f}), read at {facts['layer']}")
    print(facts["figure"])
