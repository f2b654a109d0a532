"""Sheets in unusual cases: volumes, long titles, labels with special characters."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import seewhy
from seewhy.visualization import apply_colormap, figure, path_figure, png
from seewhy.visualization.sheet import DPI


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(2)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 9, 4))


@pytest.fixture(scope="module")
def x():
    return torch.randn(2, 3, 6, 9, generator=torch.Generator().manual_seed(3))


def rendered(page, axis):
    """The rendered pixels of one axis as gray levels."""
    file = io.BytesIO()
    page.savefig(file, dpi=DPI)
    with Image.open(file) as image:
        gray = np.asarray(image.convert("L")).astype(int)
    box = axis.get_position()
    high, wide = gray.shape
    return gray[round(high * (1 - box.y1)) : round(high * (1 - box.y0)), round(wide * box.x0) : round(wide * box.x1)]


def darkest(gray, shape):
    """The position of the darkest pixels, in units of the map."""
    positions = np.argwhere(gray == gray.min())
    return tuple(int(v) for v in np.median(positions, 0) / gray.shape * shape)


def test_largest_value_of_a_volume_is_the_darkest_pixel():
    torch.manual_seed(4)
    net = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 5 * 6 * 9, 3))
    e = seewhy.explain(net, torch.randn(1, 1, 5, 6, 9), "gradient")
    depth, row, column = np.unravel_index(int(e.maps[0, 0].argmax()), (5, 6, 9))
    page = figure(e, percentile=100)
    assert page.axes[1].get_title() == f"Gradient, slice {depth}"
    assert darkest(rendered(page, page.axes[1]), (6, 9)) == (row, column)


def test_each_row_shows_its_sample(net, x):
    e = seewhy.explain(net, x, "gradient")
    page = figure(e, percentile=100)
    for n in range(2):
        shown = page.axes[2 * n].images[0].get_array()
        expected = (x[n] - x[n].min()) / (x[n].max() - x[n].min())
        assert np.abs(shown - expected.movedim(0, -1).numpy()).max() < 1e-6
        position = np.unravel_index(int(e.maps[n, 0].argmax()), (6, 9))
        assert darkest(rendered(page, page.axes[2 * n + 1]), (6, 9)) == position


def test_last_color_is_the_percentile(net, x):
    e = seewhy.explain(net, x[:1], "gradient")
    heat = e.maps[0, 0].double().numpy()
    for percentile in (50, 90, 100):
        shown = figure(e, percentile=percentile).axes[1].images[0].get_array()
        expected = apply_colormap(heat, "white_black", heat.min(), np.percentile(heat, percentile))
        assert (shown == expected).all()


@pytest.mark.row(73, 145)
@pytest.mark.parametrize("cmap", ["jet", np.array([[1.0, 1.0, 1.0], [0.0, 0.0, 1.0]])])
def test_sheet_of_picture_and_two_overlays(net, x, cmap):
    explanations = seewhy.explain(net, x[:1], ["gradient", "input_x_gradient"])
    page = figure(explanations, alpha=0.75, cmap=cmap, percentile=100)
    picture, *overlaid = (axis.images[0].get_array() for axis in page.axes[:3])
    for e, shown in zip(explanations, overlaid, strict=True):
        assert (shown == (0.25 * picture * 255 + 0.75 * apply_colormap(e.scaled[0, 0], cmap)).round()).all()


@pytest.mark.row(74, 145)
@pytest.mark.parametrize(
    "title",
    [
        "Gradient Attribution Map (Egyptian cat)",
        "Guided Backpropagation (Egyptian cat)",
        "Integrated Gradients (Egyptian cat)",
        "Gradient Attribution Techniques",
        "Independent Layer Randomization",
        "Cascading Randomization",
        "Images Along Integration Path",
        "Egyptian cat (77%)",
        "two\nlines",
        "",
    ],
)
def test_sheet_title(net, x, title):
    e = seewhy.explain(net, x[:1], "gradient")
    page = figure(e, title=title, cmap="white_red")
    assert page.get_suptitle() == title
    assert path_figure(torch.rand(3, 1, 3, 4, 4), None, title=title).get_suptitle() == title
    assert png(e, title=title).startswith(b"\x89PNG")


def test_two_line_title_takes_more_space(net, x):
    e = seewhy.explain(net, x[:1], "gradient")
    pages = [figure(e, title=title) for title in ("one", "one\ntwo")]
    for page in pages:
        page.savefig(io.BytesIO())
    assert pages[1].axes[0].get_position().y1 < pages[0].axes[0].get_position().y1


def test_dollar_signs_in_the_label_of_one_row(net, x):
    assert replace(seewhy.explain(net, x[:1], "gradient"), labels=(("cost $x^$",),)).show().size > (0, 0)


@pytest.mark.parametrize("where", ["labels", "title"])
def test_dollar_signs_in_labels_and_titles(net, x, where):
    e = seewhy.explain(net, x, "gradient")
    replace(e, **{where: (("cost $x^$",), ("b",)) if where == "labels" else "$x^$"}).show()


@pytest.mark.parametrize("other", ["input", "target", "size"])
def test_sheet_rejects_different_inputs_targets_and_sizes(net, x, other):
    one = seewhy.explain(net, x, "gradient", target=0)
    more = {
        "input": lambda: seewhy.explain(net, x + 1, "gradient", target=0),
        "target": lambda: seewhy.explain(net, x, "gradient", target=1),
        "size": lambda: replace(one, input=one.input[..., :5], maps=one.maps[..., :5]),
    }[other]()
    with pytest.raises(seewhy.OptionError, match="the same input and the same targets"):
        figure([one, more])


def test_path_figure_without_preprocessing(net, x):
    page = path_figure(seewhy.path(net, x, steps=5), None)
    ranges = [float(np.ptp(axis.images[0].get_array())) for axis in page.axes if axis.images]
    assert ranges == sorted(ranges)
    assert ranges[1] < 0.5 * ranges[-1]


def test_path_figure_of_one_step():
    assert len(path_figure(torch.rand(1, 1, 3, 4, 4), None).axes) == 5
