"""stdout and stderr of the command, and the packages that it loads."""

import json
import os
import re
import subprocess
import sys

import pytest
from PIL import Image

import seewhy
from seewhy.cli import main

HEAVY = ("torch", "numpy", "matplotlib", "PIL", "timm", "torchvision", "keras", "onnx", "ray", "gradio")


def python(*arguments, **options):
    wide = {**os.environ, "COLUMNS": "240", "TERMINAL_WIDTH": "240"}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=wide, **options)


@pytest.fixture
def known(lite0, monkeypatch):
    """The network is loaded once for all tests."""
    monkeypatch.setattr(seewhy, "load", lambda spec, **_: lite0, raising=False)


def test_import_loads_no_heavy_package():
    said = python("-c", f"import sys, seewhy; print([m for m in {HEAVY} if m in sys.modules])")
    assert said.stdout == "[]\n"
    assert not said.stderr


def test_new_method_adds_its_options_to_the_command():
    said = python("-c", """
from seewhy.methods import METHODS, Method
def toy(gradient, *, how_many: int = 4):
    '''A toy.

    Args:
        how_many: of what there are several.
    '''
METHODS["toy"] = Method(toy, "input_gradient", "Toy", "nobody")
from seewhy.cli import main
main(["explain", "--help"])
""")  # fmt: skip
    for part in ("Options of toy", "--how-many", "of what there are several. (default: 4)"):
        assert part in said.stdout


@pytest.mark.row(148)
def test_stdout_has_only_data_and_stderr_no_warnings(shipped, tmp_path):
    said = python("-m", "seewhy", "explain", str(shipped["chelsea"]), "--json", "--out", str(tmp_path))
    assert said.returncode == 0
    assert re.fullmatch(r"layer: bn2\.act \(7 × 7\): .*\n", said.stderr)  # why this layer, and nothing else
    (line,) = [json.loads(line) for line in said.stdout.splitlines()]
    fields = {"input", "sheet", "method", "labels", "score", "scores", "options", "convergence_delta", "notes"}
    fields |= {"feature_layer", "reduction_layer", "evaluations", "filters"}
    assert line.keys() == fields
    assert (line["method"], line["labels"], line["score"]) == ("gradcam", ["Egyptian cat"], "logit")
    with Image.open(line["sheet"]) as sheet:
        assert sheet.format == "PNG"


def test_json_scores_belong_to_their_picture(known, shipped, tmp_path, capsys):
    """Scores of a batch belong to the picture beside them."""
    files = [str(shipped[name]) for name in ("coffee", "chelsea")]
    assert main(["explain", *files, "--json", "--out", str(tmp_path)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["labels"] for line in lines] == [["espresso"], ["Egyptian cat"]]
    top = seewhy.predict(seewhy.load("lite0"), files).output.max(1).values
    assert [line["scores"][0] for line in lines] == pytest.approx(top.tolist(), rel=1e-5)


def test_command_without_arguments_shows_help(capsys):
    assert main([]) == 2
    said = capsys.readouterr()
    assert "explain" in said.out + said.err
    assert "Traceback" not in said.out + said.err


def test_keyboard_interrupt_exits_with_130(known, capsys, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(seewhy, "load", stopped)
    assert main(["predict", "cat.png"]) == 130
    assert capsys.readouterr().err in {"", "seewhy: stopped\n"}


def test_pictures_of_equal_name_get_distinct_sheets(known, shipped, tmp_path, capsys):
    for name in ("a/cat.png", "b/cat.png", "cat-2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        with Image.open(shipped["chelsea"]) as whole:
            whole.resize((30, 20)).save(tmp_path / name)
    names = [str(tmp_path / name) for name in ("a/cat.png", "b/cat.png", "cat-2.png")]
    assert main(["explain", *names, "--out", str(tmp_path / "made")]) == 0
    assert len(set(capsys.readouterr().out.splitlines())) == 3
