"""The house stands as it was drawn: imports go one way, nothing heavy comes in by itself."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import seewhy
from seewhy.methods.method import Method

SOURCE = Path(seewhy.__file__).parent
EVERYONE = {"errors", "types"}
MAY = {
    "errors": set(),
    "types": set(),
    "inputs": set(),
    "models": set(),
    "maps": set(),
    "trace": {"models"},
    "methods": {"trace", "models", "maps"},
    "evidence": {"methods", "trace", "models", "maps"},
    "pictures": {"maps", "evidence"},
    "jobs": {"inputs", "models", "trace", "methods", "maps", "evidence", "pictures"},
    "testing": {"methods", "trace", "models", "maps"},
    "cli": {"inputs", "models", "trace", "methods", "maps", "evidence", "pictures", "jobs"},
    "web": {"inputs", "models", "trace", "methods", "maps", "evidence", "pictures", "jobs"},
}


def rooms_imported(path: Path, source: Path) -> set[str]:
    """The rooms of seewhy that a file imports, wherever in the file it does; "" is the front door."""
    package = ["seewhy", *path.relative_to(source).parent.parts]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
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
        room = path.relative_to(source).parts[0].removesuffix(".py")
        if room in {"__init__", "__main__"}:
            continue
        for other in rooms_imported(path, source) - EVERYONE - {room}:
            front_door = other == "" and room in {"cli", "web", "jobs"}
            if other not in MAY[room] and not front_door:
                wrong.append(f"{path.relative_to(source)} imports {other or 'the front door'}")
    return wrong


def test_imports_go_one_way():
    assert violations(SOURCE) == []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("maps/planted.py", "from seewhy.methods import METHODS"),
        ("trace/planted.py", "from ..methods.method import Method"),
        ("pictures/planted.py", "def late():\n    import seewhy.models.zoo"),
        ("methods/gradients/planted.py", "from ... import pictures"),
        ("methods/planted.py", "import seewhy"),
    ],
)
def test_a_planted_violation_is_found(tmp_path, file, line):
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(line)
    assert len(violations(tmp_path)) == 1


def test_import_loads_nothing_heavy():
    heavy = [
        "torch",
        "numpy",
        "matplotlib",
        "timm",
        "torchvision",
        "keras",
        "onnx",
        "onnxruntime",
        "ray",
        "gradio",
        "fastapi",
        "sklearn",
        "skimage",
    ]
    code = f"import sys, seewhy; seewhy.METHODS; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_core_does_not_import_torchvision():
    use = "seewhy.explain(torch.nn.Linear(3, 2), torch.ones(1, 3), 'gradient')"
    code = f"import sys, torch, seewhy; {use}; print('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_no_dangerous_calls():
    """No .backward(), no module backward hooks, no unsafe loading, no drawing from the global generator."""
    banned = (
        r"\.backward\(|register_(full_)?backward_hook|weights_only\s*=\s*False|torch\.manual_seed|allow_pickle=True"
    )
    for path in SOURCE.rglob("*.py"):
        assert not re.search(banned, path.read_text(encoding="utf-8")), path


@pytest.mark.row(37)
@pytest.mark.parametrize("name", seewhy.METHODS)
def test_a_line_of_the_table_is_complete(name):
    method = seewhy.METHODS[name]
    assert isinstance(method, Method)
    assert re.search(r"(19|20)\d\d", method.paper), "the paper and its year"
    assert method.summary.endswith("."), "the kernel's docstring"
    assert method.title[0].isupper()
    for option in method.options.values():
        assert option.help, "every option is explained"


def test_every_public_name_is_there_and_documented():
    for name in seewhy.__all__:
        assert getattr(seewhy, name).__doc__, name
    assert set(seewhy.__all__) <= set(dir(seewhy))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        seewhy.nonsense


def test_shapes_are_checked_in_this_run():
    """The annotations bite: the second tensor lacks its axes."""
    import torch

    with pytest.raises(Exception, match="Type-check error"):
        seewhy.METHODS["input_x_gradient"].kernel(torch.ones(1, 3, 4), torch.ones(1, 3))
