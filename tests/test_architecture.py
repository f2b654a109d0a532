"""Architecture: packages import in one direction only, and `import seewhy` loads no heavy package."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import seewhy
from seewhy.methods.method import Method

SOURCE = Path(seewhy.__file__).parent
EVERYWHERE = {"errors", "types", "model", "results"}  # any package may import these
TRACING = {"inputs", "models", "axes"}
LAYERS = {*TRACING, "tracing", "targets"}
ENGINE = {*LAYERS, "feature_layers", "incremental", "maps", "methods"}
ALLOWED = {
    "errors": set(),
    "types": set(),
    "model": {"inputs"},
    "results": {"inputs", "methods"},
    "inputs": set(),
    "models": {"inputs"},
    "axes": set(),
    "tracing": TRACING,
    "targets": {*TRACING, "tracing"},
    "feature_layers": LAYERS,
    "incremental": {*TRACING, "tracing"},
    "maps": set(),
    "methods": {"maps", "axes", "inputs"},
    "engine": ENGINE,
    "evaluation": {*ENGINE, "engine"},
    "visualization": {"maps", "evaluation", "inputs", "methods"},
    "testing": {*ENGINE, "engine"},
    "jobs": {*ENGINE, "engine", "evaluation", "visualization"},
    "cli": {*ENGINE, "engine", "evaluation", "visualization", "jobs"},
    "app": {*ENGINE, "engine", "evaluation", "visualization", "jobs"},
}
# records whose documented methods import their implementation when they are called
LATE = {Path("results.py"), Path("model.py")}


def imported_packages(path: Path, source: Path, late: bool = True) -> set[str]:
    """The packages of seewhy that a file imports; "" is the public namespace; `late`: inside functions too."""
    package = ["seewhy", *path.relative_to(source).parent.parts]
    found = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {n for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for n in ast.walk(f)} if not late else set()
    for node in ast.walk(tree):
        if node in inside:
            continue
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            names = [stem] if stem != "seewhy" else [f"seewhy.{alias.name}" for alias in node.names]
        found |= {[*name.split("."), ""][1] for name in names if name.split(".")[0] == "seewhy"}
    return found


def violations(source: Path) -> list[str]:
    """Every import against the direction."""
    wrong = []
    for path in sorted(source.rglob("*.py")):
        relative = path.relative_to(source)
        package = relative.parts[0].removesuffix(".py")
        if package in {"__init__", "__main__"}:
            continue
        for other in imported_packages(path, source, late=relative not in LATE) - EVERYWHERE - {package}:
            public_namespace = other == "" and package in {"cli", "app", "jobs"}
            if other not in ALLOWED[package] and not public_namespace:
                wrong.append(f"{relative} imports {other or 'the public namespace'}")
    return wrong


def test_imports_go_in_one_direction():
    assert violations(SOURCE) == []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("maps/planted.py", "from seewhy.methods import METHODS"),
        ("tracing/planted.py", "from ..methods.method import Method"),
        ("visualization/planted.py", "def late():\n    import seewhy.engine.explain"),
        ("methods/gradient/planted.py", "from ... import visualization"),
        ("methods/planted.py", "import seewhy"),
        ("results.py", "from seewhy.visualization import figure"),
        ("engine/planted.py", "from seewhy.evaluation import CHECKS"),
    ],
)
def test_planted_import_violation_is_found(tmp_path, file, line):
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(line)
    assert len(violations(tmp_path)) == 1


def test_import_seewhy_loads_no_heavy_package():
    heavy = [
        "torch", "numpy", "matplotlib", "timm", "torchvision", "keras", "onnx", "onnxruntime", "ray", "gradio",
        "fastapi", "sklearn", "skimage", "jinja2", "rich",
    ]  # fmt: skip
    code = f"import sys, seewhy; seewhy.METHODS; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_common_calls_load_only_what_they_need():
    """Explanations without a picture, predictions and the layer table load no library of plots, trees or filters."""
    unused = [
        "sklearn", "jinja2", "skimage", "matplotlib", "rich", "scipy", "timm", "torchvision", "transformers", "keras",
        "onnx", "onnxruntime",
    ]  # fmt: skip
    code = f"""
import sys, torch, seewhy
from torch.nn import AdaptiveAvgPool2d, Conv2d, Flatten, Linear, ReLU, Sequential
net, x = Sequential(Conv2d(3, 4, 3), ReLU(), AdaptiveAvgPool2d(1), Flatten(), Linear(4, 5)), torch.ones(1, 3, 8, 8)
for method in ("gradient", "gradcam", "integrated_gradients", "occlusion"):
    seewhy.explain(net, x, method)
seewhy.predict(net, x), seewhy.layers(net, x)
print([m for m in {unused} if m in sys.modules])
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_source_has_no_dangerous_calls():
    """No .backward(), no module backward hooks, no unsafe loading, no use of the global random generator."""
    banned = (
        r"\.backward\(|register_(full_)?backward_hook|weights_only\s*=\s*False|torch\.manual_seed|allow_pickle=True"
    )
    for path in SOURCE.rglob("*.py"):
        assert not re.search(banned, path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize("name", seewhy.METHODS)
def test_method_table_entry_is_complete(name):
    method = seewhy.METHODS[name]
    assert isinstance(method, Method)
    assert re.search(r"(19|20)\d\d", method.paper), "the year of the paper"
    assert method.summary.endswith("."), "the first line of the kernel's docstring is a sentence"
    assert method.title[0].isupper()
    for option in method.options.values():
        assert option.help, "every option has a help text"


def test_public_names_exist_and_have_docstrings():
    for name in seewhy.__all__:
        assert getattr(seewhy, name).__doc__, name
    assert set(seewhy.__all__) <= set(dir(seewhy))
    with pytest.raises(AttributeError, match="nonsense"):
        seewhy.nonsense


def test_shape_annotations_are_checked_at_run_time():
    """The gradient lacks the axes of the input."""
    import torch

    with pytest.raises(Exception, match="Type-check error"):
        seewhy.METHODS["input_x_gradient"].kernel(torch.ones(1, 3, 4), torch.ones(1, 3))
