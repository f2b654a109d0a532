"""Colormaps and overlays: each value gets the documented color."""

import numpy as np
import pytest
import torch
from torch import nn

import seewhy
from seewhy.visualization import COLORMAPS, apply_colormap, colormap, overlay

WHITE, BLACK, RED = [255, 255, 255], [0, 0, 0], [255, 0, 0]
TWO_COLORS = np.array([[0.0, 0.0, 1.0], [1.0, 1.0, 0.0]])


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(5)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 9, 4))


@pytest.fixture(scope="module")
def signed():
    return np.random.default_rng(1).normal(size=(6, 9)) * 3 + 1


@pytest.mark.parametrize("name", COLORMAPS)
def test_colormap_has_255_entries_in_range(name):
    table = colormap(name)
    assert table.shape == (255, 3)
    assert table.min() >= 0
    assert table.max() <= 1
    assert len({tuple(row) for row in table.tolist()}) > 200


@pytest.mark.row(17)
def test_white_black_runs_from_white_to_black():
    assert apply_colormap([0.0, 0.5, 1.0]).tolist() == [WHITE, [128] * 3, BLACK]
    every = apply_colormap(np.linspace(0, 1, 255), "white_black")
    assert every.shape == (255, 3)
    assert (np.diff(every[:, 0].astype(int)) < 0).all()
    assert (every[:, 0] == every[:, 1]).all()
    assert (every[:, 0] == every[:, 2]).all()


@pytest.mark.row(59)
def test_white_red_runs_from_white_to_red():
    every = apply_colormap(np.linspace(0, 1, 255), "white_red")
    assert every.dtype == np.uint8
    assert len(np.unique(every, axis=0)) == 255
    assert every[[0, -1]].tolist() == [WHITE, RED]
    assert (every[:, 0] == 255).all()
    assert (every[:, 1] == every[:, 2]).all()
    assert (np.diff(every[:, 1].astype(int)) < 0).all()


def test_zero_has_the_middle_color_of_a_diverging_colormap():
    table = (colormap("blue_red") * 255).round()
    below, zero, above = apply_colormap([-3.0, 0.0, 3.0], "blue_red", low=-3, high=3).astype(int)
    assert (zero == table[127]).all()
    assert zero.min() > 240
    assert np.ptp(zero) <= 2
    assert below[2] > below[0] + 50
    assert above[0] > above[2] + 50
    small = apply_colormap([-0.5, 0.5], "blue_red", low=-3, high=3).astype(int)
    assert small[0, 2] > small[0, 0]
    assert small[1, 0] > small[1, 2]


@pytest.mark.parametrize("name", ["jet", "viridis", "magma"])
def test_matplotlib_colormaps(name):
    import matplotlib as mpl

    at = np.linspace(0, 1, 255)
    assert (apply_colormap(at, name) == (mpl.colormaps[name](at)[:, :3] * 255).round()).all()


def test_colormap_from_array():
    assert apply_colormap([0.0, 0.49, 0.51, 1.0], TWO_COLORS).tolist() == [
        [0, 0, 255],
        [0, 0, 255],
        [255, 255, 0],
        [255, 255, 0],
    ]
    assert apply_colormap([[0.0]], TWO_COLORS.tolist()).shape == (1, 1, 3)


@pytest.mark.parametrize(
    "table", [np.zeros((3, 4)), np.zeros(3), np.zeros((1, 3)), np.full((2, 3), 1.1), np.full((2, 3), -0.1)]
)
def test_colormap_rejects_other_arrays(table):
    with pytest.raises(seewhy.OptionError, match=r"a colormap array must be \[entries, 3\] in 0..1 .* this one is \["):
        colormap(table)


def test_unknown_colormap_name():
    with pytest.raises(seewhy.UnknownNameError, match=r"unknown colormap 'white_blak'. Did you mean 'white_black'"):
        apply_colormap([0.0], "white_blak")


def test_apply_colormap_clips_to_low_and_high():
    values = [-9.0, -2.0, 1.0, 4.0, 99.0, np.inf, -np.inf]
    colors = apply_colormap(values, low=-2, high=4)
    assert colors.tolist() == [WHITE, WHITE, [128] * 3, BLACK, BLACK, BLACK, WHITE]
    assert apply_colormap([5.0, 5.0], low=5, high=5).tolist() == [WHITE, WHITE]


@pytest.mark.parametrize("cmap", ["white_black", "white_red", "viridis"])
def test_largest_value_has_the_last_color(signed, cmap):
    drawn = apply_colormap(signed, cmap, signed.min(), signed.max())
    assert drawn.shape == (6, 9, 3)
    last = (colormap(cmap)[-1] * 255).round()
    assert np.argwhere((drawn == last).all(2)).tolist() == [list(np.unravel_index(signed.argmax(), signed.shape))]


@pytest.mark.parametrize("cmap", ["jet", "white_red", TWO_COLORS])
def test_overlay_is_the_weighted_mean(signed, cmap):
    picture = np.random.default_rng(2).random((6, 9, 3))
    scaled = (signed - signed.min()) / np.ptp(signed)
    heat = apply_colormap(scaled, cmap)
    assert (overlay(picture, scaled, 0, cmap) == (picture * 255).round()).all()
    assert (overlay(picture, scaled, 1, cmap) == heat).all()
    assert (overlay(picture, scaled, 0.5, cmap) == (0.5 * (picture * 255) + 0.5 * heat).round()).all()
    assert (overlay(picture, scaled, 0.25, cmap) == (0.75 * (picture * 255) + 0.25 * heat).round()).all()
    assert overlay(picture, scaled, 1, cmap).dtype == np.uint8


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_overlay_rejects_alpha_out_of_range(signed, alpha):
    with pytest.raises(seewhy.OptionError, match=rf"alpha={alpha}: it must be from 0 \(picture\) to 1 \(map\)"):
        overlay(np.zeros((6, 9, 3)), signed, alpha)


def test_overlay_rejects_different_sizes(signed):
    with pytest.raises(seewhy.OptionError, match=r"the picture is \[9, 6, 3\], the map \[6, 9\]: they must be"):
        overlay(np.zeros((9, 6, 3)), signed)


@pytest.mark.row(15)
def test_channel_sum_and_mean_have_the_same_scaled_map(network):
    e = seewhy.explain(network, torch.randn(2, 3, 6, 9), "gradient")
    assert torch.equal(e.maps, e.values.abs().sum(2))
    mean = e.values.abs().mean(2)
    rescaled = (mean - mean.amin((2, 3), True)) / (mean.amax((2, 3), True) - mean.amin((2, 3), True))
    assert (rescaled - e.scaled).abs().max() < 1e-6


@pytest.mark.row(16)
def test_scaled_map_uses_the_full_color_range(network):
    """A constant map is white everywhere, and a note reports it."""
    x = torch.randn(2, 3, 6, 9)
    e = seewhy.explain(network, x, "gradient", target=[0, 2])
    for drawn in apply_colormap(e.scaled).reshape(4, -1):
        assert drawn.min() == 0
        assert drawn.max() == 255
    both = lambda x: torch.stack([x.sum((1, 2, 3)), x.square().sum((1, 2, 3))], 1)  # noqa: E731
    flat = seewhy.explain(both, x, "gradient", target=[0, 1])
    assert (apply_colormap(flat.scaled[:, 0]) == 255).all()
    assert [n for n in flat.notes if "constant" in n] == [
        f"the map of sample {n}, target 0 is constant: it shows nothing" for n in range(2)
    ]


@pytest.mark.row(45)
def test_only_rendered_pictures_are_quantized(network):
    e = seewhy.explain(network, torch.randn(1, 3, 6, 9), "gradient")
    assert e.scaled.shape == (1, 1, 6, 9)
    assert (e.values.dtype, e.maps.dtype, e.scaled.dtype) == (torch.float32,) * 3
    assert apply_colormap(e.scaled).dtype == np.uint8
