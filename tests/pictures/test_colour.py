"""Numbers become the colours that are promised."""

import numpy as np
import pytest
import torch
from torch import nn

import seewhy
from seewhy.pictures import COLORMAPS, colormap, colour, overlay

WHITE, BLACK, RED = [255, 255, 255], [0, 0, 0], [255, 0, 0]
TWO = np.array([[0.0, 0.0, 1.0], [1.0, 1.0, 0.0]])


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(5)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 9, 4))


@pytest.fixture(scope="module")
def signed():
    return np.random.default_rng(1).normal(size=(6, 9)) * 3 + 1


@pytest.mark.parametrize("name", COLORMAPS)
def test_255_entries_within_range(name):
    table = colormap(name)
    assert table.shape == (255, 3)
    assert table.min() >= 0
    assert table.max() <= 1
    assert len({tuple(row) for row in table.tolist()}) > 200


@pytest.mark.row(17)
def test_white_is_nothing_and_black_is_all():
    assert colour([0.0, 0.5, 1.0]).tolist() == [WHITE, [128] * 3, BLACK]
    every = colour(np.linspace(0, 1, 255), "white_black")
    assert every.shape == (255, 3)
    assert (np.diff(every[:, 0].astype(int)) < 0).all()
    assert (every[:, 0] == every[:, 1]).all()
    assert (every[:, 0] == every[:, 2]).all()


@pytest.mark.row(59)
def test_white_to_red():
    every = colour(np.linspace(0, 1, 255), "white_red")
    assert every.dtype == np.uint8
    assert len(np.unique(every, axis=0)) == 255
    assert every[[0, -1]].tolist() == [WHITE, RED]
    assert (every[:, 0] == 255).all()
    assert (every[:, 1] == every[:, 2]).all()
    assert (np.diff(every[:, 1].astype(int)) < 0).all()


def test_zero_is_the_middle_of_a_diverging_map():
    table = (colormap("blue_red") * 255).round()
    below, zero, above = colour([-3.0, 0.0, 3.0], "blue_red", low=-3, high=3).astype(int)
    assert (zero == table[127]).all()
    assert zero.min() > 240
    assert np.ptp(zero) <= 2
    assert below[2] > below[0] + 50
    assert above[0] > above[2] + 50
    small = colour([-0.5, 0.5], "blue_red", low=-3, high=3).astype(int)
    assert small[0, 2] > small[0, 0]
    assert small[1, 0] > small[1, 2]


@pytest.mark.parametrize("name", ["jet", "viridis", "magma"])
def test_matplotlibs_own(name):
    import matplotlib as mpl

    at = np.linspace(0, 1, 255)
    assert (colour(at, name) == (mpl.colormaps[name](at)[:, :3] * 255).round()).all()


def test_an_array_as_colormap():
    assert colour([0.0, 0.49, 0.51, 1.0], TWO).tolist() == [[0, 0, 255], [0, 0, 255], [255, 255, 0], [255, 255, 0]]
    assert colour([[0.0]], TWO.tolist()).shape == (1, 1, 3)


@pytest.mark.parametrize(
    "table", [np.zeros((3, 4)), np.zeros(3), np.zeros((1, 3)), np.full((2, 3), 1.1), np.full((2, 3), -0.1)]
)
def test_an_array_that_is_no_colormap(table):
    with pytest.raises(seewhy.OptionError, match=r"a colormap is an array \[entries, 3\] in 0..1, this one is \["):
        colormap(table)


def test_unknown_colormap():
    with pytest.raises(seewhy.UnknownNameError, match=r"unknown colormap 'white_blak'. Did you mean 'white_black'"):
        colour([0.0], "white_blak")


def test_low_and_high():
    values = [-9.0, -2.0, 1.0, 4.0, 99.0, np.inf, -np.inf]
    found = colour(values, low=-2, high=4)
    assert found.tolist() == [WHITE, WHITE, [128] * 3, BLACK, BLACK, BLACK, WHITE]
    assert colour([5.0, 5.0], low=5, high=5).tolist() == [WHITE, WHITE]


@pytest.mark.parametrize("cmap", ["white_black", "white_red", "viridis"])
def test_the_hottest_place_is_the_hottest_colour(signed, cmap):
    drawn = colour(signed, cmap, signed.min(), signed.max())
    assert drawn.shape == (6, 9, 3)
    last = (colormap(cmap)[-1] * 255).round()
    assert np.argwhere((drawn == last).all(2)).tolist() == [list(np.unravel_index(signed.argmax(), signed.shape))]


@pytest.mark.parametrize("cmap", ["jet", "white_red", TWO])
def test_overlay_is_the_weighted_mean(signed, cmap):
    picture = np.random.default_rng(2).random((6, 9, 3))
    scaled = (signed - signed.min()) / np.ptp(signed)
    heat = colour(scaled, cmap)
    assert (overlay(picture, scaled, 0, cmap) == (picture * 255).round()).all()
    assert (overlay(picture, scaled, 1, cmap) == heat).all()
    assert (overlay(picture, scaled, 0.5, cmap) == (0.5 * (picture * 255) + 0.5 * heat).round()).all()
    assert (overlay(picture, scaled, 0.25, cmap) == (0.75 * (picture * 255) + 0.25 * heat).round()).all()
    assert overlay(picture, scaled, 1, cmap).dtype == np.uint8


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_alpha_out_of_range(signed, alpha):
    with pytest.raises(seewhy.OptionError, match=rf"alpha={alpha}: from 0 \(picture\) to 1 \(map\)"):
        overlay(np.zeros((6, 9, 3)), signed, alpha)


def test_overlay_of_another_size(signed):
    with pytest.raises(seewhy.OptionError, match=r"the picture is \[9, 6, 3\], the map \[6, 9\]: \[H, W, 3\] over"):
        overlay(np.zeros((9, 6, 3)), signed)


@pytest.mark.row(15)
def test_sum_or_mean_over_channels_looks_the_same(network):
    e = seewhy.explain(network, torch.randn(2, 3, 6, 9), "gradient")
    assert torch.equal(e.maps, e.values.abs().sum(2))
    mean = e.values.abs().mean(2)
    rescaled = (mean - mean.amin((2, 3), True)) / (mean.amax((2, 3), True) - mean.amin((2, 3), True))
    assert (rescaled - e.scaled).abs().max() < 1e-6


@pytest.mark.row(16)
def test_scaled_maps_span_white_to_black(network):
    """A constant map is all white, and a note says that it shows nothing."""
    x = torch.randn(2, 3, 6, 9)
    e = seewhy.explain(network, x, "gradient", target=[0, 2])
    for drawn in colour(e.scaled).reshape(4, -1):
        assert drawn.min() == 0
        assert drawn.max() == 255
    both = lambda x: torch.stack([x.sum((1, 2, 3)), x.square().sum((1, 2, 3))], 1)  # noqa: E731
    flat = seewhy.explain(both, x, "gradient", target=[0, 1])
    assert (colour(flat.scaled[:, 0]) == 255).all()
    assert [n for n in flat.notes if "constant" in n] == [
        f"the map of sample {n}, target 0 is constant: it shows nothing" for n in range(2)
    ]


@pytest.mark.row(45)
def test_eight_bits_exist_only_in_pictures(network):
    e = seewhy.explain(network, torch.randn(1, 3, 6, 9), "gradient")
    assert e.scaled.shape == (1, 1, 6, 9)
    assert (e.values.dtype, e.maps.dtype, e.scaled.dtype) == (torch.float32,) * 3
    assert colour(e.scaled).dtype == np.uint8
