"""Sheets: the input first, titles, and the right pixels."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import seewhy
from seewhy.pictures import figure, path_figure
from seewhy.pictures.sheet import caption


def network(spatial):
    torch.manual_seed(0)
    conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[spatial]
    return nn.Sequential(conv(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))


def explained(*shape, **options):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    net = network(len(shape) - 2) if len(shape) > 2 else nn.Linear(shape[1], 3)
    net(x)
    return seewhy.explain(net, x, "gradient", **options)


def titles(page):
    return [axis.get_title() for axis in page.axes if axis.get_title()]


@pytest.mark.row(7, 18, 22, 31)
def test_titles(lite0, shipped):
    found = seewhy.explain(lite0, shipped["chelsea"], ["gradient", "guided_backprop", "zeiler_fergus"])
    page = figure(found)
    assert titles(page) == ["Input", "Gradient", "Guided backprop", "Zeiler-Fergus"]
    assert page.get_suptitle() == "Egyptian cat (0.77)"
    assert figure(found, title="Gradient techniques").get_suptitle() == "Gradient techniques"
    labels = [axis.get_ylabel() for axis in page.axes]
    assert "each map: 0 its smallest value,\n1 its 99.5th percentile" in labels
    largest = [axis.get_ylabel() for axis in figure(found, percentile=100).axes]
    assert "each map: 0 its smallest value,\n1 its largest value" in largest


def test_a_row_a_sample_and_target():
    e = explained(2, 3, 6, 9, target=[0, 2])
    page = figure(e)
    assert [t for t in titles(page) if t != "Gradient"] == [caption(e, n, k) for n in range(2) for k in range(2)]
    assert not page.get_suptitle()


def test_captions():
    e = explained(1, 3, 6, 9, target=1)
    assert caption(e, 0, 0) == f"1 ({float(e.output.softmax(1)[0, 1]):.2f})"
    e = explained(1, 3, 6, 9, target=lambda z: z[:, 0] * 100)
    assert caption(e, 0, 0) == f"target 0 ({float(e.output[0, 0] * 100):.2f})"


@pytest.mark.row(18)
def test_the_hottest_place_of_the_map_is_the_darkest_pixel_of_the_page():
    e = explained(1, 3, 6, 9)
    page = figure(e, percentile=100)
    drawn = io.BytesIO()
    page.savefig(drawn, dpi=100)
    pixels = np.asarray(Image.open(drawn).convert("L")).astype(int)
    axis = next(a for a in page.axes if a.get_title() == "Gradient")
    box = axis.get_window_extent()
    top, left = len(pixels) - box.y1, box.x0
    height, width = box.height / 6, box.width / 9
    middle = np.array([
        [pixels[int(top + (i + 0.5) * height), int(left + (j + 0.5) * width)] for j in range(9)] for i in range(6)
    ])  # fmt: skip
    assert middle.argmin() == int(e.maps[0, 0].argmax())
    ranks = np.corrcoef(middle.flatten(), -e.scaled[0, 0].flatten().numpy())[0, 1]
    assert ranks > 0.99


def test_the_input_is_shown_in_its_own_colours(lite0, shipped):
    e = seewhy.explain(lite0, shipped["coffee"], "gradient")
    shown = figure(e).axes[0].images[0].get_array()
    with Image.open(shipped["coffee"]) as picture:
        expected = np.asarray(picture.convert("RGB").resize((224, 224), Image.Resampling.BICUBIC)) / 255
    assert np.abs(shown - expected).max() < 1e-5


@pytest.mark.parametrize("shape", [(1, 3, 6, 9), (1, 3, 4, 6, 9), (1, 3, 12), (1, 7)])
def test_every_kind_of_input(shape):
    e = explained(*shape)
    page = figure([e, e])
    assert len(titles(page)) == 3
    png = e._repr_png_()
    assert Image.open(io.BytesIO(png)).format == "PNG"
    if len(shape) == 5:
        hottest = int(e.maps[0, 0].flatten(1).amax(1).argmax())
        assert f"Gradient, slice {hottest}" in titles(page)
        assert np.allclose(page.axes[1].images[0].get_array().shape, (6, 9, 3))
    if len(shape) < 4:
        assert np.allclose(page.axes[1].lines[0].get_ydata(), e.maps[0, 0])


@pytest.mark.row(82)
def test_overlays():
    e = explained(1, 3, 6, 9)
    alone, over = (figure(e, alpha=a, cmap="jet").axes[1].images[0].get_array() for a in (None, 1.0))
    assert (alone == over).all()
    assert (
        figure(e, alpha=0.0).axes[1].images[0].get_array() / 255 - figure(e).axes[0].images[0].get_array() < 0.01
    ).all()


def test_show_gives_a_picture():
    assert isinstance(explained(1, 3, 6, 9).show(), Image.Image)


def test_what_does_not_fit_on_a_sheet():
    with pytest.raises(seewhy.OptionError, match="the same input and the same targets"):
        figure([explained(1, 3, 6, 9), explained(2, 3, 6, 9)])
    with pytest.raises(seewhy.OptionError, match="percentile=0"):
        explained(1, 3, 6, 9).show(percentile=0)


@pytest.mark.row(28)
def test_the_pictures_along_the_path(lite0, shipped):
    x = lite0.prepare(shipped["coffee"])
    page = path_figure(seewhy.path(lite0, x), lite0.preparation)
    assert page.get_suptitle() == "Images along the integration path"
    shown = [axis.images[0].get_array() for axis in page.axes]
    assert len(shown) == 25
    assert shown[0].max() == 0
    means = [float(s.mean()) for s in shown]
    assert means == sorted(means)
