"""The `seewhy` command: demo, predict, explain, methods."""

import json
import subprocess
import sys

import pytest
from PIL import Image

import seewhy
from seewhy.cli import main


@pytest.fixture
def cat(tmp_path, shipped, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Image.open(shipped["chelsea"]) as picture:
        picture.save("cat.png")
    return "cat.png"


def test_demo_command(tmp_path, capsys):
    assert main(["demo", "--out", str(tmp_path / "made")]) == 0
    said = capsys.readouterr()
    for line in (("chelsea", "Egyptian cat", "285", "0.773"), ("coffee", "espresso", "967", "0.902"),
                 ("grace_hopper", "military uniform", "652", "0.465")):  # fmt: skip
        assert any(all(part in row for part in line) for row in said.out.splitlines()), line
    files = sorted(p.name for p in (tmp_path / "made").iterdir())
    pictures = [f"{n}{s}.png" for n in ("chelsea", "coffee", "grace_hopper") for s in ("", "-path")]
    assert files == sorted([*pictures, "report.html"])
    assert (tmp_path / "made" / "report.html").stat().st_size > 500_000
    assert "note: baseline: a black picture" in said.err


@pytest.mark.row(64)
def test_predict_command(cat, capsys):
    assert main(["predict", cat, "--top", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert "Egyptian cat" in lines[2]
    assert "0.77334" in lines[2]
    assert main(["predict", cat, "--json", "--crop"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["input"] == "cat.png"
    assert found["top"][0].keys() == {"label", "index", "probability"}
    assert len(found["top"]) == 3


def test_explain_command(cat, tmp_path, capsys):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "cat.png").write_bytes((tmp_path / cat).read_bytes())
    how = "--method gradient --method integrated_gradients --steps 2 --target tabby --target 285 --out made"
    arguments = ["explain", cat, "other/cat.png", *how.split()]
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == ["made/cat.png", "made/cat-2.png"]
    assert all((tmp_path / line).stat().st_size > 10_000 for line in said.out.splitlines())
    assert main([*arguments, "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["input"], line["method"]) for line in lines] == [
        (name, method) for name in (cat, "other/cat.png") for method in ("gradient", "integrated_gradients")
    ]
    assert lines[1]["labels"] == ["tabby", "Egyptian cat"]
    assert lines[1]["options"]["steps"] == "2"
    assert len(lines[1]["convergence_delta"]) == 2


def test_methods_command_prints_the_table(capsys):
    assert main(["methods", "--json"]) == 0
    assert [json.loads(line)["method"] for line in capsys.readouterr().out.splitlines()] == list(seewhy.METHODS)
    assert main(["methods"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in seewhy.METHODS)


def test_explain_options_are_generated_from_the_table(capsys):
    assert main(["explain", "--help"]) == 0
    text = capsys.readouterr().out
    for name, method in seewhy.METHODS.items():
        for option in method.options:
            assert f"--{option.replace('_', '-')}" in text
            assert name in text


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["explain", "cat.png", "--method", "nope"], 2, "unknown method 'nope'"),
        (["explain", "cat.png", "--nope"], 2, "No such option: --nope"),
        (["explain", "cat.png", "--method", "integrated_gradients", "--steps", "0"], 2, "--steps"),
        (
            ["explain", "cat.png", "--steps", "3"],
            2,
            "unknown option 'steps' of gradcam: 'steps' is an option of integrated_gradients",
        ),
        (["explain", "cat.png", "--method", "integrated_gradients", "--baseline", "white"], 2, "baseline='white'"),
        (["explain", "cat.png", "--target", "unicorn"], 2, "unknown label 'unicorn'"),
        (["explain", "cat.png", "--target", "1000"], 2, "class 1000 is out of range"),
        (["explain", "cat.png", "--score", "odds"], 2, "odds"),
        (["explain", "cat.png", "--device", "cuda:9"], 2, "cuda:9"),
        (["predict", "cat.png", "--top", "2000"], 2, "top=2000"),
        (["predict", "cat.png", "--model", "lite9"], 2, "unknown network 'lite9'"),
        (["explain"], 2, "Missing argument"),
        (["paint"], 2, "No such command"),
        (["predict", "missing.png"], 3, "missing.png: no such file"),
        (["explain", "cat.png", "missing.png"], 3, "missing.png: no such file"),
        (["explain", "text.png"], 3, "not a picture"),
        (["explain", "cat.png", "--out", "text.png"], 3, "cannot be created or written"),
    ],
)
def test_explain_command_with_bad_input_prints_one_line(cat, tmp_path, capsys, arguments, code, text):
    (tmp_path / "text.png").write_text("text")
    assert main(arguments) == code
    said = capsys.readouterr()
    assert text in said.err
    assert said.err.count("\n") == 1
    assert not said.out
    assert not list(tmp_path.glob("seewhy-out/*")), "nothing half done is left"


@pytest.mark.parametrize("place", ["factory", "forward"])
def test_error_of_the_users_network_prints_one_line(cat, tmp_path, capsys, monkeypatch, place):
    body = "raise ZeroDivisionError('oh')" if place == "factory" else "return Net()"
    (tmp_path / f"broken_{place}.py").write_text(
        "import torch\n\n\nclass Net(torch.nn.Module):\n    def forward(self, x):\n        raise KeyError('oh')\n\n\n"
        f"def make():\n    {body}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for command in ("predict", "explain"):
        assert main([command, cat, "--model", f"py:broken_{place}:make", "--allow-code"]) == 3
        said = capsys.readouterr()
        assert ("ZeroDivisionError: oh" if place == "factory" else "KeyError: 'oh'") in said.err
        assert "Traceback" not in said.err
        assert said.err.count("\n") == 1
        assert not said.out


def test_internal_error_prints_one_line(cat, capsys, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(seewhy, "load", broken, raising=False)
    assert main(["predict", cat]) == 5
    assert capsys.readouterr().err == "seewhy: internal error (ZeroDivisionError: oh). Rerun with --debug.\n"
    with pytest.raises(ZeroDivisionError):
        main(["predict", cat, "--debug"])


@pytest.mark.parametrize("arguments", [["--help"], ["explain", "--help"]])
def test_help_imports_no_heavy_package(arguments):
    heavy = "[m for m in ('torch', 'numpy', 'matplotlib') if m in sys.modules]"
    code = f"import sys, seewhy.cli; seewhy.cli.main({arguments}); print({heavy})"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.endswith("[]\n")


@pytest.mark.row(139)
def test_explain_command_with_filters_and_report(shipped, tmp_path, capsys):
    file = tmp_path / "r.html"
    arguments = [
        "explain",
        str(shipped["coffee"]),
        "--method",
        "gradient",
        "--method",
        "gradcam",
        "--out",
        str(tmp_path),
    ]
    arguments += [
        "--filter",
        "channel_mean",
        "--filter",
        "absolute_normalize",
        "--filter",
        "clip=98",
        "--report",
        str(file),
    ]
    assert main(arguments) == 0
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "coffee.png"), str(file)]
    text = file.read_text(encoding="utf-8")
    for word in ("channel_mean, absolute_normalize, clip=98", str(shipped["coffee"]), "espresso", "0.9024", "Grad-CAM"):
        assert word in text, word
    assert main(["explain", str(shipped["coffee"]), "--filter", "positiv", "--report", str(file)]) == 2
    assert "unknown filter 'positiv'" in capsys.readouterr().err
    assert (
        main(["explain", str(shipped["coffee"]), "--report", str(tmp_path / "no" / "r.html"), "--out", str(tmp_path)])
        == 3
    )


FIVE = """
import torch, seewhy
def make():
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
    network = torch.nn.Sequential(*layers, torch.nn.Linear(4, 5))
    return seewhy.wrap(network, labels=["a", "b", "c", "d", "e"], prepare=seewhy.Preprocessing(size=(16, 16)))
"""


@pytest.mark.row(135)
def test_explain_command_with_all_classes(cat, tmp_path, capsys, monkeypatch):
    (tmp_path / "five_classes.py").write_text(FIVE)
    monkeypatch.syspath_prepend(tmp_path)
    five = ["explain", cat, "--model", "py:five_classes:make", "--allow-code", "--target", "all", "--json"]
    assert main(five) == 0
    assert json.loads(capsys.readouterr().out)["labels"] == ["a", "b", "c", "d", "e"]
    monkeypatch.setattr("seewhy.engine.memory.free_memory", lambda device: 10**8)
    assert main(["explain", cat, "--target", "all", "--out", "none"]) == 2
    said = capsys.readouterr().err
    assert "1 sample with 1000 classes each take about" in said
    assert "target=range(0, " in said
    assert list((tmp_path / "none").iterdir()) == []
