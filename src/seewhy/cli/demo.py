"""`seewhy demo`: explain pictures with a network, both of which installed packages contain."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

from seewhy.errors import ModelError

from .sheet_files import save_sheet, writable_folder

DEMO_PICTURES = {
    "chelsea": ("skimage", "data/chelsea.png"),
    "coffee": ("skimage", "data/coffee.png"),
    "grace_hopper": ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
}
DEMO_METHODS = ["gradcam", "gradient", "guided_backprop", "zeiler_fergus", "integrated_gradients"]


def pictures() -> dict[str, Path]:
    """Pictures inside installed packages: name -> file.

    Raises:
        ModelError: a package that contains one is not installed.
    """
    found = {}
    for name, (package, file) in DEMO_PICTURES.items():
        spec = find_spec(package)
        if spec is None or spec.origin is None or not (path := Path(spec.origin).parent / file).is_file():
            raise ModelError(f"{package} does not contain {file}: pip install 'seewhy[demo]'.")
        found[name] = path
    return found


def run_demo(out: Path) -> None:
    """Print the prediction for each picture; write its sheet, its integration path, and a report of all."""
    import seewhy
    from seewhy.visualization import path_figure
    from seewhy.visualization.sample import select_sample
    from seewhy.visualization.sheet import DPI
    from seewhy.visualization.tables import prediction_table

    files = pictures()
    network = seewhy.load("lite0")
    x = network.prepare(list(files.values()))
    best = seewhy.predict(network, x)
    print(prediction_table(best, list(files)))
    print()
    folder = writable_folder(out)
    along = seewhy.path(network, x)
    found = seewhy.explain(network, x, DEMO_METHODS)
    for n, name in enumerate(files):
        save_sheet([select_sample(e, n) for e in found], folder / f"{name}.png")
        path_figure(along, found[0].preparation, sample=n).savefig(folder / f"{name}-path.png", dpi=DPI)
        print(folder / f"{name}.png")
        print(folder / f"{name}-path.png")
    print(seewhy.report(found, folder / "report.html", prediction=best, names=list(files)))
    for note in dict.fromkeys(note for e in found for note in e.notes):
        print(f"note: {note}", file=sys.stderr)
