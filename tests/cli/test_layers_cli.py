"""The `layers` and `activations` commands, and the layer options of `explain`."""

import json

import numpy as np
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


def test_layers_command(lite0, capsys):
    assert main(["layers"]) == 0
    said = capsys.readouterr()
    assert said.out.rstrip("\n") == str(seewhy.layers(lite0))
    assert not said.err
    assert "blocks.2.0.conv_pw" in said.out
    assert all(len(line) <= 120 for line in said.out.splitlines())


@pytest.mark.row(54, 131)
def test_layers_command_as_json(lite0, capsys):
    assert main(["layers", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    expected = [row._asdict() for row in seewhy.layers(lite0)]
    assert rows == [row | {"shape": row["shape"] and list(row["shape"])} for row in expected]
    assert rows[0].keys() == {"row", "name", "type", "description", "shape", "learnable", "spatial"}
    assert rows[0]["shape"] == [1, 32, 112, 112]


@pytest.mark.row(65, 66, 69)
def test_activations_command(cat, tmp_path, lite0, capsys):
    arguments = ["activations", cat, "--layer", "blocks.2", "--out", "made"]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    found = seewhy.activations(lite0, cat, "blocks.2")
    channel, value = found.strongest()[0]
    assert lines == [
        f"cat.png: output of blocks.2 is 40 × 28 × 28; channel {channel} has the largest value, {value:.4g}",
        "made/cat-channels.png",
        "made/cat-strongest.png",
    ]
    for file in lines[1:]:
        with Image.open(tmp_path / file) as picture:
            assert np.asarray(picture.convert("L")).std() > 10, f"{file} is blank"
    with Image.open(tmp_path / lines[1]) as picture:
        assert picture.tobytes() == found.montage().tobytes()
    assert main([*arguments, "--channels", "4", "--json"]) == 0
    (said,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert said["shape"] == [40, 28, 28]
    assert (said["input"], said["layer"], said["strongest"]) == (cat, "blocks.2", channel)
    assert said["value"] == pytest.approx(value, rel=1e-5)
    assert said["files"] == lines[1:]
    with Image.open(tmp_path / lines[1]) as picture:
        assert picture.tobytes() == found.montage(4).tobytes()


def test_activations_command_on_several_pictures(cat, tmp_path, shipped, lite0, capsys):
    (tmp_path / "other").mkdir()
    with Image.open(shipped["coffee"]) as picture:
        picture.save("other/cat.png")
    assert main(["activations", cat, "other/cat.png", "--layer", "blocks.4", "--out", "made", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["files"][0] for row in rows] == ["made/cat-channels.png", "made/cat-2-channels.png"]
    for row in rows:
        alone = seewhy.activations(lite0, row["input"], "blocks.4")
        assert row["strongest"] == alone.strongest()[0][0]
        with Image.open(row["files"][0]) as one:
            difference = np.asarray(one).astype(int) - np.asarray(alone.montage())
            assert np.abs(difference).max() <= 1


def test_explain_command_with_feature_layer(cat, tmp_path, lite0, capsys):
    how = "--method gradcam --feature-layer blocks.4 --target 281 --target tabby --json --out made"
    assert main(["explain", cat, *how.split()]) == 0
    said = capsys.readouterr()
    (found,) = map(json.loads, said.out.splitlines())
    assert (found["method"], found["feature_layer"]) == ("gradcam", "blocks.4")
    assert found["labels"] == ["tabby", "tabby"], "281 is tabby"
    assert found["scores"][0] == found["scores"][1]
    assert "layer:" not in said.err, "it was given"
    assert (tmp_path / found["sheet"]).stat().st_size > 10_000
    e = seewhy.explain(lite0, cat, "gradcam", feature_layer="blocks.4", target=281)
    assert found["scores"][0] == pytest.approx(e.scores.item(), rel=1e-5)
    assert found["reduction_layer"] == e.reduction_layer


def test_explain_command_prints_the_chosen_layer(cat, lite0, capsys):
    assert main(["explain", cat, "--json"]) == 0
    said = capsys.readouterr()
    (found,) = map(json.loads, said.out.splitlines())
    assert found["method"] == "gradcam"
    reason = seewhy.explain(lite0, cat).layer_reason
    assert f"layer: {reason}\n" in said.err
    assert reason.startswith(found["feature_layer"])
    assert main(["explain", cat, "--upsample", "nearest", "--reduction-layer", "classifier", "--json"]) == 0
    (other,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert other["reduction_layer"] == "classifier"
    assert other["feature_layer"] == found["feature_layer"]


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["activations", "cat.png", "--layer", "block.2"], 2, "unknown layer 'block.2'. Did you mean 'blocks.2"),
        (["explain", "cat.png", "--feature-layer", "conv_hed"], 2, "'conv_hed'. Did you mean 'conv_head'"),
        (["explain", "cat.png", "--reduction-layer", "clasifier"], 2, "'clasifier'. Did you mean 'classifier'"),
        (["explain", "cat.png", "--method", "gradient", "--feature-layer", "blocks.2"], 2, "uses a layer"),
        (["explain", "cat.png", "--feature-layer", "classifier"], 3, "does not correspond to positions"),
        (["explain", "cat.png", "--upsample", "cubic"], 2, "cubic"),
        (["activations", "cat.png", "--layer", "classifier"], 2, "a montage needs"),
        (["activations", "cat.png", "--layer", "blocks.2", "--channels", "0"], 2, "--channels"),
        (["activations", "cat.png"], 2, "--layer"),
        (["activations", "missing.png", "--layer", "blocks.2"], 3, "missing.png: no such file"),
        (["layers", "--model", "lite9"], 2, "unknown network 'lite9'"),
    ],
)
def test_layer_commands_with_bad_input_print_one_line(cat, tmp_path, capsys, arguments, code, text):
    assert main(arguments) == code
    said = capsys.readouterr()
    assert text in said.err
    assert said.err.count("\n") == 1
    assert "Traceback" not in said.err
    assert not said.out
    assert not list(tmp_path.glob("seewhy-out/*")), "nothing half done is left"
