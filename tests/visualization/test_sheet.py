"""Sheets: titles, layouts, color scales, and pixels."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import seewhy
from seewhy.visualization import apply_colormap, figure, path_figure, png
from seewhy.visualization.sheet_layout import caption


def network(spatial):
    torch.manual_seed(0)
    conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[spatial]
    return nn.Sequential(conv(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))


def explain_gradient(*shape, **options):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    net = network(len(shape) - 2) if len(shape) > 2 else nn.Linear(shape[1], 3)
    net(x)
    return seewhy.explain(net, x, "gradient", **options)


def bars(page):
    """The color bars, which are child axes of map panels."""
    return [bar for axis in page.axes for bar in axis.child_axes if bar.get_ylabel()]


def bar_labels(page):
    return [bar.get_ylabel() for bar in bars(page)]


def titles(page):
    return [axis.get_title() for axis in page.axes if axis.get_title()]


@pytest.mark.row(7, 18, 22, 31)
def test_sheet_titles(lite0, shipped):
    explanations = seewhy.explain(lite0, shipped["chelsea"], ["gradient", "guided_backprop", "zeiler_fergus"])
    page = figure(explanations)
    assert titles(page) == ["Input", "Gradient", "Guided backprop", "Zeiler-Fergus"]
    assert page.get_suptitle() == "Egyptian cat (0.77)"
    assert figure(explanations, title="Gradient techniques").get_suptitle() == "Gradient techniques"
    assert bar_labels(page) == ["each map: 0 is its smallest value,\n1 is its 99.5th percentile"]
    assert bar_labels(figure(explanations, percentile=100)) == [
        "each map: 0 is its smallest value,\n1 is its largest value"
    ]


def test_sheet_has_one_row_per_sample_and_target():
    e = explain_gradient(2, 3, 6, 9, target=[0, 2])
    page = figure(e)
    assert [t for t in titles(page) if t != "Gradient"] == [caption(e, n, k) for n in range(2) for k in range(2)]
    assert not page.get_suptitle()


def test_caption_with_probability_or_score():
    e = explain_gradient(1, 3, 6, 9, target=1)
    assert caption(e, 0, 0) == f"1 ({float(e.output.softmax(1)[0, 1]):.2f})"
    e = explain_gradient(1, 3, 6, 9, target=lambda z: z[:, 0] * 100)
    assert caption(e, 0, 0) == f"target 0 ({float(e.output[0, 0] * 100):.2f})"


@pytest.mark.row(18)
def test_largest_value_is_the_darkest_pixel_of_the_rendered_sheet():
    e = explain_gradient(1, 3, 6, 9)
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


def test_input_is_shown_in_its_original_colors(lite0, shipped):
    e = seewhy.explain(lite0, shipped["coffee"], "gradient")
    shown = figure(e).axes[0].images[0].get_array()
    with Image.open(shipped["coffee"]) as picture:
        expected = np.asarray(picture.convert("RGB").resize((224, 224), Image.Resampling.BICUBIC)) / 255
    assert np.abs(shown - expected).max() < 1e-5


@pytest.mark.parametrize("shape", [(1, 3, 6, 9), (1, 3, 4, 6, 9), (1, 3, 12), (1, 7)])
def test_sheets_of_pictures_volumes_sequences_and_features(shape):
    e = explain_gradient(*shape)
    page = figure([e, e])
    assert len(titles(page)) == 3
    png = e._repr_png_()
    assert Image.open(io.BytesIO(png)).format == "PNG"
    if len(shape) == 5:
        strongest = int(e.maps[0, 0].flatten(1).amax(1).argmax())
        assert f"Gradient, slice {strongest}" in titles(page)
        assert np.allclose(page.axes[1].images[0].get_array().shape, (6, 9, 3))
    if len(shape) < 4:
        for axis in page.axes[1:]:
            (curve,) = axis.child_axes[0].lines
            assert np.allclose(curve.get_ydata(), e.maps[0, 0])
            lines = [line.get_ydata() for line in axis.lines]
            assert np.allclose(lines, e.input[0])
            scaled = (e.maps[0, 0] - e.maps.min()) / (np.percentile(e.maps[0, 0], 99.5) - e.maps.min())
            background = axis.images[0].get_array()[0, :, 0]  # from white (1) down to 0.4
            assert np.abs(background - (1 - 0.6 * scaled.clip(0, 1).numpy())).max() < 0.6 / 254


@pytest.mark.row(82)
def test_overlays_on_sheets():
    e = explain_gradient(1, 3, 6, 9)
    alone, overlaid = (figure(e, alpha=a, cmap="jet").axes[1].images[0].get_array() for a in (None, 1.0))
    assert (alone == overlaid).all()
    difference = figure(e, alpha=0.0).axes[1].images[0].get_array() / 255 - figure(e).axes[0].images[0].get_array()
    assert np.abs(difference).max() < 0.01


def test_show_returns_an_image():
    assert isinstance(explain_gradient(1, 3, 6, 9).show(), Image.Image)


def test_sheet_rejects_different_inputs_and_percentile_out_of_range():
    with pytest.raises(seewhy.OptionError, match="the same input and the same targets"):
        figure([explain_gradient(1, 3, 6, 9), explain_gradient(2, 3, 6, 9)])
    with pytest.raises(seewhy.OptionError, match="percentile=0"):
        explain_gradient(1, 3, 6, 9).show(percentile=0)


@pytest.mark.row(28)
def test_path_figure_of_integrated_gradients(lite0, shipped):
    x = lite0.prepare(shipped["coffee"])
    page = path_figure(seewhy.path(lite0, x), lite0.preparation)
    assert page.get_suptitle() == "Images along the integration path"
    shown = [axis.images[0].get_array() for axis in page.axes]
    assert len(shown) == 25
    assert shown[0].max() == 0
    means = [float(s.mean()) for s in shown]
    assert means == sorted(means)


def test_color_bar_is_as_tall_as_its_map():
    for shape in ((1, 3, 6, 9), (3, 3, 9, 6)):
        page = figure(explain_gradient(*shape))
        page.savefig(io.BytesIO(), dpi=100)
        (bar,) = bars(page)
        box, beside = bar.get_window_extent(), page.axes[1].get_window_extent()
        assert (box.y0, box.y1) == pytest.approx((beside.y0, beside.y1), abs=1)
        assert beside.x1 < box.x0 < beside.x1 + 30


def test_own_scale_labels_each_map_with_its_color_range():
    e = explain_gradient(2, 3, 6, 9)
    page = figure(e, percentile=90)
    for n in range(2):
        low, high = float(e.maps[n].min()), float(np.percentile(e.maps[n, 0], 90))
        assert page.axes[2 * n + 1].get_xlabel() == f"{low:.2g} to {high:.2g}"
    (bar,) = bars(page)
    assert [tick.get_text() for tick in bar.get_yticklabels()] == ["0", "0.5", "1"]


@pytest.mark.parametrize("cmap", ["white_black", "blue_red"])
def test_shared_scale_for_all_maps(cmap):
    e = explain_gradient(2, 3, 6, 9, target=[0, 1]).filtered("channel_sum")
    page = figure(e, scale="shared", percentile=95, cmap=cmap)
    numbers = e.maps.flatten().double().numpy()
    low, high = numbers.min(), np.percentile(numbers, 95)
    if cmap == "blue_red":
        high = np.percentile(abs(numbers), 95)
        low = -high
    panels = [axis for axis in page.axes if axis.get_title().startswith("Gradient")]
    for axis, heat in zip(panels, e.maps.flatten(0, 1), strict=True):
        assert (axis.images[0].get_array() == apply_colormap(heat, cmap, low, high)).all()
        assert not axis.get_xlabel()
    (bar,) = bars(page)
    assert [tick.get_text() for tick in bar.get_yticklabels()] == [f"{v:.2g}" for v in (low, (low + high) / 2, high)]
    label = bar.get_ylabel()
    assert label.startswith("all maps")
    assert ("the middle is 0" in label) == (cmap == "blue_red")
    assert "95th percentile" in label


def test_sheet_with_diverging_colormap_is_symmetric_around_zero():
    e = explain_gradient(1, 3, 6, 9).filtered("channel_sum")
    page = figure(e, cmap="blue_red", percentile=100)
    end = float(e.maps.abs().max())
    assert (page.axes[1].images[0].get_array() == apply_colormap(e.maps[0, 0], "blue_red", -end, end)).all()
    assert page.axes[1].get_xlabel() == f"{-end:.2g} to {end:.2g}"
    assert "the middle is 0, the ends are\n± the largest of absolute values" in bar_labels(page)[0]


@pytest.mark.row(145, 147)
@pytest.mark.parametrize("columns", [None, 2, 5])
def test_grid_layout_shows_all_inputs_then_all_maps(columns):
    explanations = [
        explain_gradient(3, 3, 6, 9, target=1),
        explain_gradient(3, 3, 6, 9, target=1).filtered("normalize"),
    ]
    page = figure(explanations, layout="grid", columns=columns, alpha=0.75, titles=["A", "B"])
    wide = columns or 3
    assert page.axes[0].get_subplotspec().get_gridspec().ncols == wide
    expected = [f"Input {n + 1}" for n in range(3)]
    expected += [f"{name}\n{caption(explanations[0], n, 0)}" for name in "AB" for n in range(3)]
    assert titles(page) == expected
    for n in range(3):
        picture, overlaid = page.axes[n].images[0].get_array(), page.axes[3 + n].images[0].get_array()
        heat = explanations[0].maps[n, 0].double().numpy()
        colored = apply_colormap(heat, "white_black", heat.min(), np.percentile(heat, 99.5))
        assert (overlaid == (0.25 * picture * 255 + 0.75 * colored).round()).all()


def test_class_layout():
    e = explain_gradient(2, 3, 6, 9, target=[2, 0, 1])
    page = figure(e, layout="classes", scale="shared")
    assert titles(page) == [t for n in range(2) for t in ("Input", *(caption(e, n, k) for k in range(3)))]
    low, high = float(e.maps.min()), float(np.percentile(e.maps, 99.5))
    for n in range(2):
        for k in range(3):
            shown = page.axes[4 * n + 1 + k].images[0].get_array()
            assert (shown == apply_colormap(e.maps[n, k], "white_black", low, high)).all()


@pytest.mark.parametrize("slices", [2, 3, 9])
def test_slices_of_a_volume(slices):
    e = explain_gradient(1, 3, 5, 6, 9)
    page = figure([e, e], slices=slices, titles=["A", "B"], percentile=100)
    best = int(e.maps[0, 0].flatten(1).amax(1).argmax())
    shown = [int(t.split()[-1]) for t in titles(page) if t.startswith("Input")]
    assert len(shown) == min(slices, 5)
    assert best in shown
    assert shown == sorted(set(shown))
    assert [t for t in titles(page) if t[0] in "AB"] == [f"{name}, slice {where}" for name in "AB" for where in shown]
    for i, where in enumerate(shown):
        drawn = page.axes[len(shown) + i].images[0].get_array()
        assert (drawn == apply_colormap(e.scaled[0, 0, where], "white_black")).all()
        picture = page.axes[i].images[0].get_array()
        x = e.input[0]
        assert np.abs(picture - ((x[:, where] - x.min()) / (x.max() - x.min())).movedim(0, -1).numpy()).max() < 1e-6


@pytest.mark.row(145)
def test_saved_file_equals_png_bytes(tmp_path):
    e = explain_gradient(1, 3, 6, 9)
    e.save(tmp_path / "e.png", layout="grid", columns=1)
    with Image.open(tmp_path / "e.png") as written, Image.open(io.BytesIO(png(e, layout="grid", columns=1))) as buffer:
        assert np.array_equal(np.asarray(written), np.asarray(buffer))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"scale": "common"}, "scale='common' is not one of 'own', 'shared'"),
        ({"layout": "rows"}, "layout='rows' is not one of"),
        ({"columns": 2}, "columns=2, layout='methods'"),
        ({"layout": "grid", "columns": 0}, "columns=0"),
        ({"slices": 3}, "slices=3, layout='methods'.*maps of volumes"),
        ({"titles": ["a", "b"]}, "2 titles for 1 explanations"),
    ],
)
def test_sheet_rejects_layout_options(options, text):
    with pytest.raises(seewhy.OptionError, match=text):
        figure(explain_gradient(1, 3, 6, 9), **options)


def test_shared_scale_rejects_different_units():
    e = explain_gradient(1, 3, 6, 9)
    with pytest.raises(seewhy.OptionError, match="different units"):
        figure([e, e.filtered("normalize")], scale="shared")
    assert figure([e, e], scale="shared")


def test_sheet_rejects_too_many_panels():
    many = explain_gradient(2, 3, target=[0, 1, 2] * 80)
    with pytest.raises(seewhy.OptionError, match=r"480 rows .*fewer targets or samples"):
        figure(many)
    with pytest.raises(seewhy.OptionError, match="241 columns"):
        figure(many, layout="classes")
