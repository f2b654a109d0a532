"""Perturbation methods on the command line."""

import json
import re

import pytest
from PIL import Image

from seewhy.cli import main


@pytest.fixture
def cup(tmp_path, shipped, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Image.open(shipped["coffee"]) as picture:
        picture.save("cup.png")
    return "cup.png"


# method: options, forward passes with the prediction
FIVE = {
    "occlusion": ("--mask-size 112 --stride 112 --mask-value blur", 1 + 4),
    "feature_ablation": ("--segments grid --features 4 --mask-value 0.5", 1 + 4),
    "lime": ("--segments grid --features 4 --samples 10 --surrogate linear", 1 + 10),
    "rise": ("--cells 3 --samples 6", 1 + 6),
    "kernel_shap": ("--segments grid --features 4 --samples 8 --mask-value mean", 1 + 1 + 8),
}


@pytest.mark.parametrize("name", FIVE)
def test_explain_command_with_perturbation_method(name, cup, tmp_path, capsys):
    options, passes = FIVE[name]
    arguments = ["explain", cup, "--method", name, "--target", "espresso", "--out", "made", *options.split()]
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == ["made/cup.png"]
    assert f"{name}: {passes} forward, 0 backward passes" in said.err.splitlines()
    assert "note: masked parts: " in said.err
    with Image.open(tmp_path / "made" / "cup.png") as sheet:
        assert min(sheet.size) > 300


def test_explain_command_with_five_perturbation_methods_as_json(cup, capsys):
    chosen = [part for name in FIVE for part in ("--method", name)]
    options = "--mask-size 112 --stride 112 --segments grid --features 4 --samples 8 --surrogate linear --cells 3"
    assert main(["explain", cup, *chosen, *options.split(), "--target", "967", "--target", "cup", "--json"]) == 0
    said = capsys.readouterr()
    lines = [json.loads(line) for line in said.out.splitlines()]
    assert [line["method"] for line in lines] == list(FIVE)
    assert [line["evaluations"] for line in lines] == [{"forward": n, "backward": 0} for n in (5, 5, 9, 9, 10)]
    assert lines[2]["options"]["surrogate"] == "linear"
    assert lines[3]["options"]["cells"] == "3"
    assert all(abs(gap) < 1e-4 for gap in lines[4]["convergence_delta"])
    assert all(line["labels"] == ["espresso", "cup"] for line in lines)
    assert "4 windows of 112 × 112" in lines[0]["notes"]


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("occlusion", "--mask-size 0", "mask_size=0.0: a whole number above 0"),
        ("occlusion", "--mask-size 2.5", "mask_size=2.5: a whole number above 0"),
        ("occlusion", "--stride wide", "stride='wide': a whole number above 0"),
        ("occlusion", "--stride inf", "stride=inf: a whole number above 0"),
        ("occlusion", "--mask-value red", "'red' is not 'mean', 'blur', 'black'"),
        ("feature_ablation", "--features 1", "--features"),
        ("feature_ablation", "--segments squares", "segments='squares' is not 'superpixels', 'grid'"),
        ("feature_ablation", "--segments 4", "segments are torch.float32: whole numbers"),
        ("lime", "--surrogate forest", "forest"),
        ("lime", "--samples many", "--samples"),
        ("lime", "--samples 3", "samples=3: an integer from 4"),
        ("lime", "--segments grid --tolerance 0.1", "a tree has no standard error"),
        ("rise", "--cells 1", "--cells"),
        ("rise", "--tolerance -1", "--tolerance"),
        ("rise", "--surrogate tree", "surrogate"),
        ("kernel_shap", "--segments grid --features 9 --samples 17", "samples=17: 9 segments need at least 18"),
    ],
)
def test_explain_command_with_wrong_perturbation_options(name, options, says, cup, capsys):
    assert main(["explain", cup, "--method", name, *options.split()]) == 2
    said = capsys.readouterr()
    assert not said.out
    assert len(said.err.splitlines()) == 1
    assert re.search(says, said.err), said.err
