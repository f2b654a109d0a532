"""Evidence as a text table, a figure, and a JSON file."""

import json
import math

import pytest
import torch
from PIL import Image
from tests.networks import small_classifier

import seewhy
from seewhy import OptionError
from seewhy.visualization.evidence import NETWORK_TITLES, evidence_figure, evidence_to_dict
from seewhy.visualization.verdict_badge import VERDICT_COLORS


def check_classifier(count, methods, **options):
    x = torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(2)).double()
    model = seewhy.wrap(small_classifier(2), labels=["ant", "bee", "$c$", "dog"])
    return seewhy.check(model, x, methods, target=2, **options)


@pytest.fixture(scope="module")
def evidence():
    return check_classifier(6, ["gradient", "gradcam"])


@pytest.fixture(scope="module")
def single():
    """Evidence of one input, too few for an interval."""
    return check_classifier(1, "gradient")


@pytest.mark.row(56)
def test_evidence_figure_shows_trained_and_randomized_maps(evidence):
    page = evidence_figure(evidence, sample=1)
    titles = [axis.get_title() for axis in page.axes]
    for row, name in enumerate(("gradient", "gradcam")):
        start = row * 5
        assert titles[start] == f"{name}: {evidence[name].verdict}"
        assert page.axes[start].title.get_color() == VERDICT_COLORS[evidence[name].verdict]
        assert titles[start + 1 : start + 5] == list(NETWORK_TITLES.values())
        assert all(axis.images for axis in page.axes[start : start + 5])
    shown = [axis.images[-1].get_array() for axis in page.axes[1:5]]
    assert shown[0].shape[:2] == (8, 8)
    assert not any((shown[0] == other).all() for other in shown[1:])
    assert page.get_suptitle() == "Does the map depend on what the network learned? $c$"
    assert not page._suptitle.get_parse_math()


@pytest.mark.row(56)
def test_similarity_curves(evidence):
    below = evidence_figure(evidence).axes[-1]
    assert "rank correlation" in below.get_ylabel()
    assert [tick.get_text() for tick in below.get_xticklabels()] == [
        t.replace("\n", " ") for t in NETWORK_TITLES.values()
    ]
    lines = {line.get_label(): line.get_ydata() for line in below.lines}
    assert {"gradient", "gradcam", "edges (control)", "random (control)"} <= set(lines)
    for name in ("gradient", "gradcam"):
        similarity = evidence[name].similarity
        assert list(lines[name]) == [1.0, *(similarity[k].same for k in ("top", "half", "all"))]
    chance = [line.get_ydata() for line in below.lines if line.get_linestyle() == ":"]
    assert [list(c)[1:] for c in chance] == [
        [evidence[name].similarity[k].chance for k in ("top", "half", "all")] for name in ("gradient", "gradcam")
    ]
    assert len(below.collections) == 2  # one band per method
    assert "dotted" in below.get_title()
    assert [t.get_text() for t in below.get_legend().get_texts()][:2] == ["gradient", "gradcam"]


def test_evidence_text(evidence):
    text = str(evidence)
    lines = text.splitlines()
    assert all(header in lines[0] for header in ("method", "verdict", "T0", "T1", "T2", "T3"))
    for name in ("gradient", "gradcam"):
        one = evidence[name]
        assert any(line.startswith(f"{name}: {one.verdict}. ") for line in lines)
        row = next(line for line in lines if line.startswith(f"{name} "))
        assert one.verdict in row
        assert f"{one.tests['T1'].estimate:.2f}" in row
    for name in ("edges", "random", "centre"):
        assert any(line.startswith(f"{name} (control)") for line in lines)
    assert "6 inputs, 4 draws" in text
    assert "PASS means" in text
    assert "faithful" in text


def test_evidence_json_is_complete_without_nan(evidence, tmp_path):
    evidence.save(tmp_path / "check.json")
    text = (tmp_path / "check.json").read_text(encoding="utf-8")
    read = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert read == evidence_to_dict(evidence)
    assert set(read["methods"]) == {"gradient", "gradcam"}
    assert set(read["controls"]) == {"edges", "random", "centre"}
    one = read["methods"]["gradient"]
    assert one["verdict"] == evidence["gradient"].verdict
    assert one["tests"]["T1"]["low"] == evidence["gradient"].tests["T1"].low
    assert one["similarity"]["all"]["chance"] == evidence["gradient"].similarity["all"].chance
    assert read["controls"]["edges"]["tests"]["T0"]["estimate"] is None  # not measured
    assert read["settings"]["change threshold"] == 0.75
    assert read["labels"] == ["$c$"] * 6


def test_evidence_save_endings(evidence, single, tmp_path):
    for record, ending in ((evidence, "png"), (single, "svg"), (single, "pdf")):
        record.save(tmp_path / f"check.{ending}", sample=0)
        assert (tmp_path / f"check.{ending}").stat().st_size > 5000
    with Image.open(tmp_path / "check.png") as picture:
        assert picture.width > picture.height / 2 > 100
    assert single._repr_png_()[:4] == b"\x89PNG"
    with pytest.raises(OptionError, match=r"\.json"):
        evidence.save(tmp_path / "check.txt")
    with pytest.raises(OptionError, match="0 to 5"):
        evidence_figure(evidence, sample=6)


def test_evidence_of_one_input(single, tmp_path):
    """Without an interval no band and no number are shown, and the file contains no NaN."""
    assert single["gradient"].verdict == "INCONCLUSIVE"
    assert math.isnan(single["gradient"].similarity["top"].low)
    assert "nan" not in str(single).lower()
    assert "at least 5" in str(single)
    assert evidence_figure(single).axes[0].get_title() == "gradient: INCONCLUSIVE"
    single.save(tmp_path / "one.json")
    json.loads((tmp_path / "one.json").read_text(), parse_constant=lambda name: pytest.fail(name))


def test_every_verdict_has_a_color():
    assert set(VERDICT_COLORS) == {"PASS", "FAIL", "CONFOUNDED", "INCONCLUSIVE", "INVALID"}
    assert len(set(VERDICT_COLORS.values())) == 5


@pytest.mark.parametrize("shape", [(5, 3, 24), (5, 3, 6, 6, 6)])
def test_evidence_figure_of_sequences_and_volumes(shape):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(2)).double()
    evidence = seewhy.check(small_classifier(len(shape) - 2), x, "gradient")
    page = evidence_figure(evidence)
    assert all(axis.images or axis.lines for axis in page.axes[:5])
    assert evidence.show().size[0] > 100
