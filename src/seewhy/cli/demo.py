"""The main job, end to end, on pictures and weights that installed packages carry."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

from seewhy.errors import ModelError

from .sheets import sheet, writable

PICTURES = {
    "chelsea": ("skimage", "data/chelsea.png"),
    "coffee": ("skimage", "data/coffee.png"),
    "grace_hopper": ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
}
METHODS = ["gradcam", "gradient", "guided_backprop", "zeiler_fergus", "integrated_gradients"]


def pictures() -> dict[str, Path]:
    """The shipped pictures: name -> file.

    Raises:
        ModelError: a package that carries one is not installed.
    """
    found = {}
    for name, (package, file) in PICTURES.items():
        spec = find_spec(package)
        if spec is None or spec.origin is None or not (path := Path(spec.origin).parent / file).is_file():
            raise ModelError(f"{package} does not carry {file}: pip install 'seewhy[demo]'.")
        found[name] = path
    return found


def run(out: Path) -> None:
    """Print what the network says of each picture; write its sheet and its path, and a report of all."""
    import seewhy
    from seewhy.pictures import path_figure
    from seewhy.pictures.sample import sample
    from seewhy.pictures.sheet import DPI
    from seewhy.pictures.table import prediction

    files = pictures()
    network = seewhy.load("lite0")
    x = network.prepare(list(files.values()))
    best = seewhy.predict(network, x)
    print(prediction(best, list(files)))
    print()
    folder = writable(out)
    along = seewhy.path(network, x)
    found = seewhy.explain(network, x, METHODS)
    for n, name in enumerate(files):
        sheet([sample(e, n) for e in found], folder / f"{name}.png")
        path_figure(along, found[0].preparation, sample=n).savefig(folder / f"{name}-path.png", dpi=DPI)
        print(folder / f"{name}.png")
        print(folder / f"{name}-path.png")
    print(seewhy.report(found, folder / "report.html", prediction=best, names=list(files)))
    for note in dict.fromkeys(note for e in found for note in e.notes):
        print(f"note: {note}", file=sys.stderr)
