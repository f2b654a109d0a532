"""Worked examples: each runs offline, writes a complete figure, and its statements are true."""

import ast
import re
import runpy
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import PIL.Image
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.stats import spearmanr
from skimage.transform import rotate
from sklearn.datasets import load_digits

import seewhy

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "examples").glob("*.py"))
DRAW = Figure.savefig


class Ran(NamedTuple):
    facts: dict[str, Any]
    page: Figure
    folder: Path
    scope: dict[str, Any]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Run an example once, without network access, and keep the figure that it saves."""
    done = {}

    def run(name):
        if name not in done:
            pages, folder = [], tmp_path_factory.mktemp(name) / "new"

            def refused(*_):
                raise AssertionError(f"{name}.py opens a network connection")

            def saved(page, *given, **options):
                pages.append(page)
                return DRAW(page, *given, **options)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(socket.socket, "connect", refused)
                patch.setattr(Figure, "savefig", saved)
                scope = runpy.run_path(str(ROOT / "examples" / f"{name}.py"))
                facts = scope["main"](folder)
            (page,) = pages
            done[name] = Ran(facts, page, folder, scope)
        return done[name]

    return run


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_example_writes_a_figure_and_has_a_test(file, ran):
    assert f"test_{file.stem}" in globals(), "this example has no test"
    done = ran(file.stem)
    assert done.facts["figure"] == done.folder / f"{file.stem}.png"
    assert [*done.folder.iterdir()] == [done.facts["figure"]]

    pixels = np.asarray(PIL.Image.open(done.facts["figure"]).convert("RGB"))
    drawn = (pixels < 250).any(2)
    high, wide = drawn.shape
    rows, columns = drawn.any(1).nonzero()[0], drawn.any(0).nonzero()[0]
    assert wide >= 800
    assert np.ptp(rows) > 0.9 * high - 20, "an empty margin above or below"
    assert np.ptp(columns) > 0.95 * wide - 20, "an empty margin at a side"
    assert drawn.mean() > 0.1
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 500

    whole = done.page.get_tightbbox(FigureCanvasAgg(done.page).get_renderer())  # inches
    assert whole.x0 >= -0.02
    assert whole.y0 >= -0.02
    assert whole.x1 <= done.page.get_figwidth() + 0.02, "cut off at the right"
    assert whole.y1 <= done.page.get_figheight() + 0.02, "cut off above"
    titles = [axis.title.get_window_extent() for axis in done.page.axes if axis.get_title()]
    assert not any(a.overlaps(b) for n, a in enumerate(titles) for b in titles[:n]), "titles over one another"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_example_is_documented(file):
    text = file.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert f"`python examples/{file.name} [OUT_DIR]`" in ast.get_docstring(tree)
    assert f"`{file.name}`" in (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
    assert "pyplot" not in text
    imported = set(re.findall(r"^(?:import|from) seewhy.*$", text, re.MULTILINE))
    assert "import seewhy" in imported
    assert imported <= {"import seewhy", "from seewhy import visualization"}, "public names only"


def test_example_runs_as_a_script(tmp_path):
    command = [sys.executable, "-W", "error", str(ROOT / "examples" / "overlay.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(Path("seewhy-out") / "overlay.png")
    assert (tmp_path / "seewhy-out" / "overlay.png").stat().st_size > 10_000


def shown(axis):
    """The images of an axis as arrays."""
    return [np.asarray(image.get_array(), dtype=float) for image in axis.images]


@pytest.mark.row(106, 123)
def test_overlay(ran, lite0):
    facts, page = ran("overlay").facts, ran("overlay").page
    (label, _, share), *_ = next(iter(seewhy.predict(lite0, lite0.prepare(ran("overlay").scope["data"].chelsea()))))
    assert facts["label"] == label == "Egyptian cat"
    assert facts["probability"] == pytest.approx(share, rel=1e-4)
    assert page.get_suptitle() == f"Egyptian cat ({share:.2f})"
    assert facts["layer"].startswith("bn2.act (7 × 7)")
    (picture,), (over,) = shown(page.axes[0]), shown(page.axes[1])
    heat = facts["map"].numpy()
    scaled = ((heat - heat.min()) / (np.percentile(heat, 99.5) - heat.min())).clip(0, 1)
    expected = 0.5 * picture * 255 + 0.5 * mpl.colormaps["jet"](scaled)[:, :, :3] * 255
    assert np.abs(over - expected).mean() < 2
    face, corner = heat[40:200, 20:200].mean(), heat[200:, 200:].mean()
    assert face > 5 * corner


@pytest.mark.row(124, 127)
def test_digit_angle(ran):
    facts, page = ran("digit_angle").facts, ran("digit_angle").page
    assert facts["naive_error"] > 20
    assert facts["error"] < facts["naive_error"] / 4
    assert abs(facts["true"] - 29) < 1
    assert abs(facts["predicted"] - facts["true"]) < 10
    assert (facts["feature_layer"], facts["reduction_layer"]) == ("relu_4", "fc")
    assert facts["map"].shape == (28, 28)
    assert facts["map"].max() > 2.5 * facts["map"].mean() > 0
    gray, jet = page.axes[:2]
    assert gray.get_title() == f"true angle {facts['true']:.1f}°"
    assert jet.get_title() == f"predicted angle {facts['predicted']:.1f}°"
    assert [image.get_cmap().name for image in (*gray.images, *jet.images)] == ["gray", "gray", "jet"]
    assert jet.images[1].get_alpha() == 0.5
    assert np.array_equal(shown(jet)[1], facts["map"].double().numpy())
    assert len(facts["layers"]) == 17
    text = str(facts["layers"])
    assert re.search(r"1\s+conv_1\s+Conv2d\s+8 3x3x1 convolutions.*8 × 28 × 28\s+80", text)
    assert re.search(r"17\s+fc\s+Linear\s+1 outputs, fully connected to 1568 inputs\s+1\s+1,569", text)


def test_digit_angle_positive_angles_are_anticlockwise(ran):
    rotated = ran("digit_angle").scope["rotated"]
    digits = torch.tensor(load_digits().images[:20] / 16, dtype=torch.float32)[:, None]
    straight, found = rotated(digits, torch.zeros(20)), rotated(digits, torch.full((20,), 30.0))

    def likeness(angle):
        other = np.stack([rotate(digit[0].numpy(), angle) for digit in straight])
        return np.corrcoef(other.ravel(), found.numpy().ravel())[0, 1]

    assert likeness(30) > 0.97
    assert likeness(-30) < 0.8


@pytest.mark.row(106, 125, 126, 127)
def test_japanese_vowels(ran):
    facts, page = ran("japanese_vowels").facts, ran("japanese_vowels").page
    assert facts["accuracy"] > 0.85
    assert facts["lengths"] == [len(curve) for curve in facts["maps"]] == [19, 7, 29]
    assert [row.name for row in facts["layers"]] == [
        "conv_1", "relu_1", "norm_1", "conv_2", "relu_2", "norm_2", "pool", "flatten", "fc"]  # fmt: skip
    assert facts["layer"].startswith("relu_2 (19)")
    above, below = page.axes[:3], page.axes[3:]
    for top, bottom, curve, true, predicted in zip(
        above, below, facts["maps"], facts["speakers"], facts["predicted"], strict=True
    ):
        assert len(top.lines) == 12
        assert {len(line.get_ydata()) for line in top.lines} == {len(curve)}
        assert len({line.get_color() for line in top.lines}) == 12
        assert np.array_equal(bottom.lines[0].get_ydata(), curve.numpy())
        assert curve.max() > 2 * curve.min() >= 0
        assert top.get_position().y0 > bottom.get_position().y1
        assert top.get_title() == f"speaker {true + 1},\npredicted speaker {predicted + 1}"
    (legend,) = page.legends
    assert [text.get_text() for text in legend.texts] == [f"coefficient {n}" for n in range(1, 13)]
    sequences, speakers = ran("japanese_vowels").scope["read"]("TRAIN")
    assert np.bincount(speakers).tolist() == [30] * 9
    assert len(ran("japanese_vowels").scope["read"]("TEST")[0]) == 370
    assert {s.shape[0] for s in sequences} == {12}


@pytest.mark.row(103, 106)
def test_volume(ran):
    facts, page = ran("volume").facts, ran("volume").page
    assert facts["accuracy"] > 0.9
    assert min(facts["found"].values()) > 0.8  # by chance it would be a tenth
    assert facts["grid"] == (6, 12, 12)
    e = facts["explanation"]
    assert e.maps.shape == (90, 1, 12, 24, 24)
    slices = np.array(page.axes).reshape(4, 12)
    for n, (plain, under) in zip(facts["shown"], (slices[:2], slices[2:]), strict=True):
        for z in range(12):
            assert np.array_equal(shown(plain[z])[0], e.input[n, 0, z].double().numpy())
            assert np.array_equal(shown(under[z])[1], e.maps[n, 0, z].double().numpy())
        assert [axis.get_title() for axis in plain] == [f"slice {z}" for z in range(12)]
        assert len({image.get_clim() for image in (axis.images[1] for axis in under)}) == 1
        crossed = [z for z, axis in enumerate(under) if axis.lines]
        strongest = int(np.argmax([shown(axis)[1].max() for axis in under]))
        assert len(crossed) == 1
        assert abs(strongest - crossed[0]) <= 3
        (cross,) = under[crossed[0]].lines
        row, column = np.unravel_index(shown(under[strongest])[1].argmax(), (24, 24))
        assert abs(row - cross.get_ydata()[0]) <= 4
        assert abs(column - cross.get_xdata()[0]) <= 4


@pytest.mark.row(98, 101)
def test_segmentation(ran):
    facts, page = ran("segmentation").facts, ran("segmentation").page
    assert min(facts["overlap"].values()) > 0.9
    by_index, by_mask = facts["fractions"]["index"], facts["fractions"]["mask"]
    assert by_index["own"] > 1.5 * facts["area"]
    assert by_mask["own"] > 2 * facts["area"]
    assert by_mask["other"] < 0.4 * by_index["other"]
    index, mask = facts["shown"]
    for k in (0, 1):
        scores, pixels = facts["output"][k + 1], facts["predicted"] == k + 1
        assert torch.isclose(index.scores[0, k], scores.sum(), rtol=1e-4)
        assert torch.isclose(mask.scores[0, k], scores[pixels].sum(), rtol=1e-4)
        by_index, by_mask = (e.values[0, k, 0] for e in facts["last_rectifier"])
        scale = by_index.max() / by_mask.max()
        assert torch.allclose(by_index, by_mask * scale, atol=1e-4 * float(by_index.max()))
        for axis, e in ((page.axes[3 * k + 1], index), (page.axes[3 * k + 2], mask)):
            assert np.array_equal(shown(axis)[1], e.maps[0, k].double().numpy())
    assert facts["last_rectifier"][0].feature_layer == "up_1.relu_2"
    assert np.array_equal(shown(page.axes[3])[0], facts["predicted"].numpy())


@pytest.mark.row(72, 121, 128)
def test_deep_and_shallow(ran):
    facts, page = ran("deep_and_shallow").facts, ran("deep_and_shallow").page
    assert facts["feature_layers"] == ["bn2.act", "blocks.2.0.bn1.act"]
    assert facts["grids"] == [(7, 7), (56, 56)]
    assert "seewhy.layers lists them" in facts["reasons"][0]
    assert facts["reasons"][1] == "given"
    assert set(facts["feature_layers"]) < {row.name for row in facts["layers"]}
    assert [axis.get_title() for axis in page.axes[:3]] == [
        "Input", "Grad-CAM, bn2.act", "Grad-CAM, blocks.2.0.bn1.act"]  # fmt: skip
    deep, shallow = ((m.diff(dim=0).abs().mean() / m.std()) for m in facts["maps"])
    assert shallow > 3 * deep


@pytest.mark.row(35, 144)
def test_many_pictures(ran):
    facts, page = ran("many_pictures").facts, ran("many_pictures").page
    found, (x, y) = facts["means"], facts["pictures"]
    assert found.count.tolist() == y.bincount().tolist()
    for digit in range(10):
        mine = x[y == digit, 0]
        assert torch.allclose(found.picture[digit], mine.mean(0), atol=1e-5)
        e = seewhy.explain(facts["net"], mine[:, None], "integrated_gradients", target=digit, score="margin",
                           steps=32, baseline=0, batch_size=100)  # fmt: skip
        assert torch.allclose(found.positions[digit], e.values[:, 0, 0].mean(0), atol=1e-4)
    assert torch.allclose(found.positions.sum((1, 2)), found.gain, rtol=0.02), (
        "the gain is distributed over the positions"
    )
    with torch.no_grad():
        margins = [one - torch.logsumexp(torch.cat([z[:k], z[k + 1 :]]), 0) for z in facts["net"](x) for k, one in
                   enumerate(z)]  # fmt: skip
        none = facts["net"](torch.zeros(1, 1, 8, 8))[0]
    margins = torch.stack(margins).view(-1, 10)
    for digit in range(10):
        empty = none[digit] - torch.logsumexp(torch.cat([none[:digit], none[digit + 1 :]]), 0)
        assert found.gain[digit] == pytest.approx(float(margins[y == digit, digit].mean() - empty), rel=1e-3)

    similarity = facts["similarity"]
    assert similarity.argmax(1).tolist() == list(range(10)), "both halves of the pictures give similar maps"
    assert similarity.diag().min() > 0.9
    accuracy = facts["accuracy"]
    assert accuracy["unmasked"] > 0.95
    assert accuracy["most contributing positions masked"] < accuracy["positions with most ink masked"] - 0.05
    assert accuracy["most contributing positions masked"] < accuracy["random positions masked"] - 0.3

    for digit, axis in enumerate(page.axes[:10]):
        assert axis.get_title() == f"{digit}: {int(found.count[digit])} pictures"
        channel = facts["channels"][digit]
        assert channel == int(found.channels[digit].argmax())
        assert np.array_equal(shown(page.axes[20 + digit])[0], found.active[digit, channel].double().numpy())
    assert len(set(facts["channels"])) > 3


@pytest.mark.row(88)
def test_several_views(ran, lite0):
    facts, page = ran("several_views").facts, ran("several_views").page
    assert facts["label"] == "Egyptian cat"
    assert facts["layers"] == ["conv_stem", "bn2.act"]
    x = facts["explained"].input
    for layer, (name, values), axis in zip(facts["layers"], facts["channels"], page.axes[1:3], strict=True):
        every = seewhy.activations(lite0, x, layer).values[0]
        channel = int(every.flatten(1).amax(1).argmax())
        assert name == f"{layer},\nchannel {channel}" == axis.get_title()
        assert torch.equal(values, every[channel])
    maps = torch.stack([*facts["maps"].values()])
    ranks = maps.abs().flatten(1).numpy()
    for i in range(4):
        for j in range(4):
            assert facts["agreement"][i, j] == pytest.approx(spearmanr(ranks[i], ranks[j])[0], abs=1e-4)
    assert facts["agreement"][0, 2] > 0.4, "Grad-CAM and LIME agree"
    assert np.abs(facts["agreement"][3, :3]).max() < 0.2, "the gradient ranks positions differently"

    area = 160 * 180 / 224**2
    share = {name: float(m[40:200, 20:200].sum() / m.sum()) for name, m in zip(facts["maps"], maps.clamp(min=0))}
    assert share["gradcam"] > 1.3 * area, "on the face"
    assert share["lime"] > 1.1 * area
    assert share["gradient"] < 1.1 * area, "spread"
    assert share["occlusion"] < 0.7 * area, "masking the corners lowers the score more than masking the face"

    shown_dream = torch.tensor(shown(page.axes[7])[0]).permute(2, 0, 1)
    assert torch.allclose(shown_dream.float(), facts["dream"])
    assert [text.get_text() for text in page.axes[8].texts][:2] == ["1.00", f"{facts['agreement'][0, 1]:.2f}"]
