"""Grad-CAM of the same class at a deep and at a shallow layer.

The deep layer is the default: few positions, and features that are specific to classes. The shallow layer is selected
from the list of layers, the last rectifier with at least a quarter of the picture's resolution: a finer map, but its
features are edges and textures, which occur all over the picture.
The network and the picture are inside installed packages (`pip install 'seewhy[demo]'`).
Run it: `python examples/deep_and_shallow.py [OUT_DIR]`.
"""

import sys
from pathlib import Path
from typing import Any

from skimage import data

import seewhy
from seewhy import visualization


def main(out: Path) -> dict[str, Any]:
    """Explain one picture at two layers, write deep_and_shallow.png."""
    out.mkdir(parents=True, exist_ok=True)
    model = seewhy.load("lite0")
    x = model.prepare(data.chelsea())

    rows = seewhy.layers(model, x)
    rectifiers = [row for row in rows if "ReLU" in row.type and row.spatial]
    shallow = [row for row in rectifiers if row.shape[-1] >= x.shape[-1] / 4][-1]

    deep = seewhy.explain(model, x, "gradcam")
    both = [deep, seewhy.explain(model, x, "gradcam", feature_layer=shallow.name)]
    visualization.figure(both, alpha=0.5, cmap="jet").savefig(out / "deep_and_shallow.png", dpi=150)
    return {
        "figure": out / "deep_and_shallow.png",
        "label": deep.labels[0][0],
        "layers": rows,
        "feature_layers": [e.feature_layer for e in both],
        "reasons": [e.layer_reason for e in both],
        "grids": [tuple(e.values.shape[3:]) for e in both],
        "maps": [e.maps[0, 0] for e in both],
    }


if __name__ == "__main__":
    facts = main(Path(sys.argv[1] if len(sys.argv) > 1 else "seewhy-out"))
    for layer, grid, reason in zip(facts["feature_layers"], facts["grids"], facts["reasons"], strict=True):
        print(f"{layer}, {grid[0]} x {grid[1]} positions: {reason}")
    print(facts["figure"])
