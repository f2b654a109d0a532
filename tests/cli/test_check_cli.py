"""`seewhy check` and `seewhy checks`."""

import json

import pytest
import torch
from PIL import Image
from torch import nn

import seewhy
from seewhy.cli import main
from seewhy.evaluation import CHECKS
from seewhy.inputs.preprocessing import Preprocessing


@pytest.fixture
def six_pictures(tmp_path, shipped, monkeypatch):
    """Parts of the shipped pictures, in the working folder."""
    monkeypatch.chdir(tmp_path)
    names = []
    for name, file in shipped.items():
        with Image.open(file) as picture:
            for k, box in enumerate(((40, 40, 200, 200), (100, 60, 260, 220))):
                picture.convert("RGB").crop(box).save(f"{name}{k}.png")
                names.append(f"{name}{k}.png")
    return names


@pytest.fixture
def small_model(monkeypatch):
    """A small network instead of the embedded one."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
                        nn.Flatten(), nn.Linear(32, 4)).eval()  # fmt: skip
    model = seewhy.wrap(
        net, labels=["ant", "bee", "cat", "dog"], prepare=Preprocessing((16, 16), (0.5,) * 3, (0.25,) * 3)
    )
    monkeypatch.setattr(seewhy, "load", lambda *_, **__: model, raising=False)


def test_check_command_on_embedded_network(tmp_path, shipped, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["check", str(shipped["chelsea"]), "--method", "gradient", "--out", "made"]) == 0
    captured = capsys.readouterr()
    assert "gradient: INCONCLUSIVE" in captured.out
    assert "at least 5" in captured.out
    assert captured.out.splitlines()[-2:] == ["made/check.json", "made/check.png"]
    read = json.loads((tmp_path / "made" / "check.json").read_text())
    assert read["labels"] == ["Egyptian cat"]
    assert (tmp_path / "made" / "check.png").stat().st_size > 20_000


@pytest.mark.row(56)
def test_check_command_exits_with_zero_for_every_verdict(six_pictures, small_model, tmp_path, capsys):
    """The exit code tells whether the check ran; its verdict is in the table and in the file."""
    arguments = ["check", *six_pictures, "--method", "edges", "--method", "gradient", "--target", "cat", "--seed", "3"]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert "edges: FAIL." in captured.out
    assert "random (control)" in captured.out
    assert captured.out.splitlines()[-2:] == ["seewhy-out/check.json", "seewhy-out/check.png"]
    read = json.loads((tmp_path / "seewhy-out" / "check.json").read_text())
    assert read["methods"]["edges"]["verdict"] == "FAIL"
    assert read["labels"] == ["cat"] * 6
    assert read["settings"]["seed"] == 3
    assert main([*arguments, "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["method"] for line in lines] == ["edges", "gradient"]
    assert [line["verdict"] for line in lines] == [read["methods"][n]["verdict"] for n in ("edges", "gradient")]
    assert lines[0]["files"] == ["seewhy-out/check.json", "seewhy-out/check.png"]


def test_check_command_writes_report(six_pictures, small_model, tmp_path, capsys):
    assert main(["check", *six_pictures, "--method", "gradient", "--report", "r.html"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "r.html"
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "T1 top layer" in text
    assert "gradient" in text


def test_checks_command_prints_the_table(capsys):
    assert main(["checks", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["check"].split()[0] for line in lines] == list(CHECKS)
    assert all(line["question"] and line["paper"] for line in lines)
    assert main(["checks"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in CHECKS)


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--method", "gradiant"], 2, "unknown method 'gradiant'"),
        (["--method", "gradient", "--level", "slow"], 2, "slow"),
        (["--method", "gradient", "--target", "unicorn"], 2, "unknown label 'unicorn'"),
        (["--method", "gradient", "--target", "77"], 2, "class 77 is out of range"),
        ([], 2, "--method"),
        (["missing.png", "--method", "gradient"], 3, "missing.png: no such file"),
        (["--method", "gradient", "--out", "text.png"], 3, "cannot be created or written"),
    ],
)
def test_check_command_with_bad_input_prints_one_line(
    six_pictures, small_model, tmp_path, capsys, arguments, code, text
):
    (tmp_path / "text.png").write_text("text")
    assert main(["check", six_pictures[0], *arguments]) == code
    captured = capsys.readouterr()
    assert text in captured.err
    assert captured.err.count("\n") == 1
    assert not captured.out
    assert not list(tmp_path.glob("seewhy-out/*")), "nothing half done is left"
