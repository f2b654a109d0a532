"""What `check` found as a table, a figure, and a file."""

import json
import math

import pytest
import torch
from PIL import Image
from tests.networks import classifier

import seewhy
from seewhy import OptionError
from seewhy.pictures.evidence import COLOURS, KINDS, figure, numbers


def checked(count, methods, **options):
    x = torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(2)).double()
    model = seewhy.wrap(classifier(2), labels=["ant", "bee", "$c$", "dog"])
    return seewhy.check(model, x, methods, target=2, **options)


@pytest.fixture(scope="module")
def found():
    return checked(6, ["gradient", "gradcam"])


@pytest.fixture(scope="module")
def alone():
    """Of one input hardly anything is known."""
    return checked(1, "gradient")


@pytest.mark.row(56)
def test_trained_and_randomised_maps_stand_side_by_side(found):
    page = figure(found, sample=1)
    titles = [axis.get_title() for axis in page.axes]
    for row, name in enumerate(("gradient", "gradcam")):
        start = row * 5
        assert titles[start] == f"{name}: {found[name].verdict}"
        assert page.axes[start].title.get_color() == COLOURS[found[name].verdict]
        assert titles[start + 1 : start + 5] == list(KINDS.values())
        assert all(axis.images for axis in page.axes[start : start + 5])
    shown = [axis.images[-1].get_array() for axis in page.axes[1:5]]
    assert shown[0].shape[:2] == (8, 8)
    assert not any((shown[0] == other).all() for other in shown[1:])
    assert page.get_suptitle() == "Does the map depend on what the network learnt? $c$"
    assert not page._suptitle.get_parse_math()


@pytest.mark.row(56)
def test_curves(found):
    below = figure(found).axes[-1]
    assert "rank correlation" in below.get_ylabel()
    assert [tick.get_text() for tick in below.get_xticklabels()] == [t.replace("\n", " ") for t in KINDS.values()]
    lines = {line.get_label(): line.get_ydata() for line in below.lines}
    assert {"gradient", "gradcam", "edges (control)", "random (control)"} <= set(lines)
    for name in ("gradient", "gradcam"):
        similar = found[name].similarity
        assert list(lines[name]) == [1.0, *(similar[k].same for k in ("top", "half", "all"))]
    chance = [line.get_ydata() for line in below.lines if line.get_linestyle() == ":"]
    assert [list(c)[1:] for c in chance] == [
        [found[name].similarity[k].chance for k in ("top", "half", "all")] for name in ("gradient", "gradcam")
    ]
    assert len(below.collections) == 2  # a band a method
    assert "dotted" in below.get_title()
    assert [t.get_text() for t in below.get_legend().get_texts()][:2] == ["gradient", "gradcam"]


def test_the_table(found):
    text = str(found)
    lines = text.splitlines()
    assert all(word in lines[0] for word in ("method", "verdict", "T0", "T1", "T2", "T3"))
    for name in ("gradient", "gradcam"):
        one = found[name]
        assert any(line.startswith(f"{name}: {one.verdict}. ") for line in lines)
        row = next(line for line in lines if line.startswith(f"{name} "))
        assert one.verdict in row
        assert f"{one.tests['T1'].estimate:.2f}" in row
    for name in ("edges", "random", "centre"):
        assert any(line.startswith(f"{name} (control)") for line in lines)
    assert "6 inputs, 4 draws" in text
    assert "PASS means" in text
    assert "faithful" in text


def test_numbers_hold_everything_and_no_nan(found, tmp_path):
    found.save(tmp_path / "check.json")
    text = (tmp_path / "check.json").read_text(encoding="utf-8")
    read = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert read == numbers(found)
    assert set(read["methods"]) == {"gradient", "gradcam"}
    assert set(read["controls"]) == {"edges", "random", "centre"}
    one = read["methods"]["gradient"]
    assert one["verdict"] == found["gradient"].verdict
    assert one["tests"]["T1"]["low"] == found["gradient"].tests["T1"].low
    assert one["similarity"]["all"]["chance"] == found["gradient"].similarity["all"].chance
    assert read["controls"]["edges"]["tests"]["T0"]["estimate"] is None  # not measured
    assert read["settings"]["stays"] == 0.75
    assert read["labels"] == ["$c$"] * 6


def test_endings(found, alone, tmp_path):
    for given, ending in ((found, "png"), (alone, "svg"), (alone, "pdf")):
        given.save(tmp_path / f"check.{ending}", sample=0)
        assert (tmp_path / f"check.{ending}").stat().st_size > 5000
    with Image.open(tmp_path / "check.png") as picture:
        assert picture.width > picture.height / 2 > 100
    assert alone._repr_png_()[:4] == b"\x89PNG"
    with pytest.raises(OptionError, match=r"\.json"):
        found.save(tmp_path / "check.txt")
    with pytest.raises(OptionError, match="0 to 5"):
        figure(found, sample=6)


def test_one_input(alone, tmp_path):
    """No interval: no band, no number, and no NaN in the file."""
    assert alone["gradient"].verdict == "INCONCLUSIVE"
    assert math.isnan(alone["gradient"].similarity["top"].low)
    assert "nan" not in str(alone).lower()
    assert "at least 5" in str(alone)
    assert figure(alone).axes[0].get_title() == "gradient: INCONCLUSIVE"
    alone.save(tmp_path / "one.json")
    json.loads((tmp_path / "one.json").read_text(), parse_constant=lambda name: pytest.fail(name))


def test_every_word_has_a_colour():
    assert set(COLOURS) == {"PASS", "FAIL", "CONFOUNDED", "INCONCLUSIVE", "INVALID"}
    assert len(set(COLOURS.values())) == 5


@pytest.mark.parametrize("shape", [(5, 3, 24), (5, 3, 6, 6, 6)])
def test_sequences_and_volumes_are_drawn(shape):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(2)).double()
    found = seewhy.check(classifier(len(shape) - 2), x, "gradient")
    page = figure(found)
    assert all(axis.images or axis.lines for axis in page.axes[:5])
    assert found.show().size[0] > 100
