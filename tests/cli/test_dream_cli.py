"""The `seewhy dream` command."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import seewhy
from seewhy.cli import main
from seewhy.visualization import tensor_to_image, tile_images

QUICK = ["--size", "48", "--iterations", "2", "--levels", "2", "--out", "made"]


@pytest.fixture(autouse=True)
def known(lite0, tmp_path, monkeypatch):
    """The network is loaded once for all tests."""
    monkeypatch.setattr(seewhy, "load", lambda spec, **_: lite0, raising=False)
    monkeypatch.chdir(tmp_path)


def read(file):
    with Image.open(file) as picture:
        return np.asarray(picture)


@pytest.mark.row(83)
def test_dream_command_writes_pictures_and_sheet(lite0, capsys):
    assert main(["dream", "--layer", "blocks.2", "--channel", "3", "--channel", "11", *QUICK]) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert lines[1::2] == ["made/blocks-2-3.png", "made/blocks-2-11.png"]
    assert lines[0].startswith("channel 3: activation ")
    assert lines[-1] == "made/blocks-2-dreams.png"
    assert not said.err
    made = seewhy.dream(lite0, "blocks.2", [3, 11], size=48, iterations=2, pyramid_levels=2)
    for file, picture in zip(lines[1::2], made, strict=True):
        assert np.array_equal(read(file), (picture * 255).round().byte().permute(1, 2, 0).numpy())


@pytest.mark.row(85, 87)
def test_dream_command_best_of_with_detailed_row(lite0, shipped, capsys):
    best = ["--best-of", str(shipped["chelsea"]), "--layer", "classifier"]
    assert main(["dream", *best, "--detailed", "6", "--json", *QUICK]) == 0
    *rows, last = map(json.loads, capsys.readouterr().out.splitlines())
    labels = seewhy.predict(lite0, shipped["chelsea"]).labels[0]
    assert [row["title"] for row in rows] == [*labels, *(f"{label} (High Resolution)" for label in labels)]
    assert [(row["iterations"], row["pyramid_levels"]) for row in rows] == [(2, 2)] * 3 + [(6, 3)] * 3
    assert [read(row["file"]).shape for row in rows] == [(48, 48, 3)] * 3 + [(67, 67, 3)] * 3
    assert len({row["file"] for row in rows}) == 6
    for row in rows:
        assert row["end"] > row["start"]
    sheet = read(last["sheet"])
    assert sheet.std() > 20
    tiles = tile_images([torch.zeros(3, 4, 4)] * 6, [*labels, *labels], columns=3).axes
    assert len(tiles) == 6


def test_dream_command_maximizes_the_output_by_default(lite0, capsys):
    assert main(["dream", "--channel", "285", "--json", *QUICK, "--parametrization", "pixels", "--seed", "4"]) == 0
    row, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert (row["title"], row["layer"], row["file"]) == ("Egyptian cat", None, "made/output-285.png")
    assert last == {"sheet": "made/output-dreams.png"}
    made = seewhy.dream(lite0, None, 285, size=48, iterations=2, pyramid_levels=2, parametrization="pixels", seed=4)
    assert np.array_equal(read(row["file"]), (made[0] * 255).round().byte().permute(1, 2, 0).numpy())


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--layer", "classifier"], 2, "give --channel, once or more, or --best-of PICTURE"),
        (["--channel", "3", "--best-of", "cat.png"], 2, "give --channel"),
        (["--best-of", "missing.png"], 3, "missing.png: no such file"),
        (["--layer", "clasifier", "--channel", "3"], 2, "'clasifier'. Did you mean 'classifier'"),
        (["--layer", "classifier", "--channel", "1000"], 2, "channel 1000 is out of range"),
        (["--channel", "3", "--scale", "1"], 2, "pyramid_scale=1.0: it must be a number above 1"),
        (["--channel", "3", "--iterations", "0"], 2, "--iterations"),
        (["--channel", "3", "--parametrization", "waves"], 2, "waves"),
        (["--channel", "three"], 2, "valid integer"),
        (["--channel", "3", "--initial", "missing.png"], 3, "missing.png: no such file"),
    ],
)
def test_dream_command_with_bad_input_prints_one_line(tmp_path, capsys, arguments, code, text):
    assert main(["dream", *arguments]) == code
    said = capsys.readouterr()
    assert text in said.err
    assert said.err.count("\n") == 1
    assert not said.out
    assert not list(tmp_path.glob("seewhy-out/*"))


@pytest.mark.row(87)
def test_tile_images_layout_and_errors():
    pictures = [torch.full((3, 5, 8), n / 5) for n in range(6)]
    titles = ["cat", "dog", "$x", *(f"{name}\n(High Resolution)" for name in ("cat", "dog", "$x"))]
    page = tile_images(pictures, titles, columns=3, title="Maximized activation")
    assert [axis.get_title() for axis in page.axes] == titles
    rows = {round(axis.get_subplotspec().rowspan.start) for axis in page.axes[3:]}
    assert rows == {1}
    for n, axis in enumerate(page.axes):
        assert (np.asarray(axis.images[0].get_array()) == round(n / 5 * 255)).all()
    assert tensor_to_image(torch.rand(1, 4, 5)).size == (5, 4)
    for bad in (torch.full((3, 2, 2), 1.5), torch.zeros(2, 3, 3), torch.zeros(3, 3)):
        with pytest.raises(seewhy.OptionError, match=r"a picture must be \[3 or 1, H, W\] in \[0, 1\]"):
            tensor_to_image(bad)
    for wrong in (([], []), (pictures, titles[:2])):
        with pytest.raises(seewhy.OptionError, match="one title per picture"):
            tile_images(*wrong)
