"""Figures of activations: the montage, and the strongest channel beside the input."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

import seewhy
from seewhy import maps
from seewhy.visualization.activation_figure import strongest_channel_figure


def activations_of(values, *, size=(12, 10)):
    values = torch.as_tensor(values)
    x = torch.randn(len(values), 3, *size, generator=torch.Generator().manual_seed(0))
    return seewhy.Activations(values, "layer", x)


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


def tiles(picture, height, width):
    """The gray value of each position of each tile; tiles are located by their size."""
    pixels = np.asarray(picture)
    factor = max(1, 96 // max(height, width))
    high, wide = height * factor, width * factor
    return [
        pixels[top : top + high, left : left + wide][factor // 2 :: factor, factor // 2 :: factor]
        for top in range(0, len(pixels), high + 2)
        for left in range(0, pixels.shape[1], wide + 2)
    ]


@pytest.mark.row(66)
def test_montage_uses_one_gray_scale_for_all_channels():
    values = random(2, 14, 5, 7)
    values[0, 13] = 100.0  # not among the first twelve channels
    values[1] = 50.0  # another sample
    values[0, 2, 0, 0] = values[0, 9, 4, 6] = 0.25
    picture = activations_of(values).montage(channels=12)
    assert picture.mode == "L"
    assert picture.tobytes() == activations_of(values).montage().tobytes(), "12 channels are the default"
    tile_pixels = tiles(picture, 5, 7)
    assert len(tile_pixels) == 12
    first = values[0, :12].double().numpy()
    expected = (first - first.min()) / (first.max() - first.min()) * 255
    assert np.abs(np.stack(tile_pixels) - expected).max() <= 0.5 + 1e-9
    assert tile_pixels[2][0, 0] == tile_pixels[9][4, 6], "equal values have equal gray levels"
    ranges = [int(tile.max()) - int(tile.min()) for tile in tile_pixels]
    assert min(ranges) < 255, "a tile is not rescaled alone"


@pytest.mark.row(67)
def test_montage_shows_the_maximum_white_and_the_minimum_black():
    values = torch.zeros(1, 3, 4, 4)
    values[0, 1, 2, 3], values[0, 2, 1, 0] = 8.0, -8.0
    tile_pixels = tiles(activations_of(values).montage(), 4, 4)
    assert tile_pixels[1][2, 3] == 255
    assert tile_pixels[2][1, 0] == 0
    assert set(np.unique(tile_pixels[0])) <= {127, 128}, "0 is in the middle"
    weak = torch.zeros(1, 2, 4, 4)
    weak[0, 0, 0, 0], weak[0, 1, 0, 0], weak[0, 1, 1, 1] = 0.5, 10.0, -10.0
    assert 127 < tiles(activations_of(weak).montage(), 4, 4)[0][0, 0] < 140, "the scale is that of all channels"


@pytest.mark.parametrize(
    ("available", "requested", "shown"), [(3, 12, 3), (1, 12, 1), (20, 12, 12), (20, 5, 5), (20, 50, 20)]
)
def test_montage_channel_count(available, requested, shown):
    values = random(1, available, 6, 6)
    pixels = tiles(activations_of(values).montage(requested), 6, 6)
    drawn = [tile for tile in pixels if len(np.unique(tile)) > 1]
    assert len(drawn) == shown
    expected = values[0, :shown].numpy()
    for tile, channel in zip(drawn, expected, strict=True):
        assert np.unravel_index(tile.argmax(), tile.shape) == np.unravel_index(channel.argmax(), channel.shape)
    assert np.concatenate(drawn).max() == 255
    assert np.concatenate(drawn).min() == 0


def test_montage_of_another_sample_and_of_constant_values():
    values = random(3, 4, 5, 5)
    for n in range(3):
        assert (
            activations_of(values).montage(sample=n).tobytes() == activations_of(values[n : n + 1]).montage().tobytes()
        )
    flat = tiles(activations_of(torch.full((1, 4, 5, 5), 3.0)).montage(), 5, 5)
    assert all((tile == 0).all() for tile in flat)
    assert activations_of(random(1, 4, 200, 150)).montage().size == (302, 402), "large channels are not enlarged"


@pytest.mark.parametrize(
    ("values", "options", "text"),
    [
        (torch.zeros(1, 8), {}, r"\[1, 8\]: a montage needs"),
        (torch.zeros(1, 8, 5), {}, r"\[1, 8, 5\]"),
        (torch.zeros(1, 8, 5, 5), {"channels": 0}, "channels=0"),
        (torch.zeros(2, 8, 5, 5), {"sample": 2}, "sample=2"),
        (torch.zeros(2, 8, 5, 5), {"sample": -1}, "sample=-1"),
    ],
)
def test_montage_rejects_other_shapes_and_indices(values, options, text):
    with pytest.raises(seewhy.OptionError, match=text):
        activations_of(values).montage(**options)


@pytest.mark.row(68)
def test_strongest_channel_has_the_largest_value():
    values = torch.zeros(3, 5, 4, 6)
    values[0, 1] = 2.0  # the largest mean
    values[0, 4, 3, 5] = 9.0  # the largest maximum
    values[0, 2] = -20.0  # the largest absolute value
    values[1, 0, 0, 0] = 1.0
    values[2] = -5.0
    values[2, 3, 1, 1] = -0.5  # all below zero
    assert activations_of(values).strongest() == [(4, 9.0), (0, 1.0), (3, -0.5)]
    noise = random(4, 7, 3, 3)
    for n, (channel, value) in enumerate(activations_of(noise).strongest()):
        assert value == noise[n].max().item() == noise[n, channel].max().item()
    flat = torch.tensor([[1.0, 3.0], [5.0, -7.0]])
    assert activations_of(flat).strongest() == [(1, 3.0), (0, 5.0)]


@pytest.mark.row(69)
def test_strongest_channel_figure_of_pictures(lite0, shipped):
    activations = seewhy.activations(lite0, [shipped["chelsea"], shipped["coffee"]], "blocks.2")
    page = strongest_channel_figure(activations)
    assert "blocks.2" in page.get_suptitle()
    assert len(page.axes) == 4
    for n, (channel, value) in enumerate(activations.strongest()):
        left, right = page.axes[2 * n : 2 * n + 2]
        assert left.get_title() == "Input"
        assert right.get_title() == f"channel {channel}, maximum {value:.4g}"
        picture, large = left.images[0].get_array(), right.images[0].get_array()
        assert picture.shape == (224, 224, 3)
        assert large.shape == (224, 224)
        assert np.abs(picture.transpose(2, 0, 1) - (activations.input[n].numpy() / 2 + 0.5)).max() < 1e-6
        expected = maps.resample(activations.values[n, channel][None, None], (224, 224))[0, 0]
        assert np.allclose(large, expected, atol=1e-5)
        assert right.images[0].get_cmap().name == "gray"
        assert left.get_position().x1 <= right.get_position().x0, "side by side"


def test_strongest_position_is_white_in_the_rendered_figure():
    values = torch.zeros(1, 2, 6, 5)
    values[0, 1, 4, 1], values[0, 1, 1, 3] = 5.0, -5.0
    page = strongest_channel_figure(activations_of(values))
    drawn = io.BytesIO()
    page.savefig(drawn, dpi=100)
    pixels = np.asarray(Image.open(drawn).convert("L")).astype(int)
    box = page.axes[1].get_window_extent()

    def gray_at(i, j):
        return pixels[int(len(pixels) - box.y1 + (i + 0.5) / 6 * box.height), int(box.x0 + (j + 0.5) / 5 * box.width)]

    assert gray_at(4, 1) > 240
    assert gray_at(1, 3) < 15
    assert 100 < gray_at(4, 4) < 155


def test_strongest_channel_figure_of_sequences_and_volumes():
    values = random(2, 4, 6)
    page = strongest_channel_figure(activations_of(values, size=(12,)))
    for n, (channel, _) in enumerate(activations_of(values, size=(12,)).strongest()):
        line = page.axes[2 * n + 1].lines[0].get_ydata()
        assert np.allclose(line, maps.resample(values[n, channel][None, None], (12,))[0, 0])
        assert len(page.axes[2 * n].lines) == 3, "one line per input channel"
    values = torch.zeros(1, 2, 4, 4, 4)
    values[0, 1, 3, 2, 1] = 5.0
    page = strongest_channel_figure(activations_of(values, size=(4, 6, 8)))
    shown = page.axes[1].images[0].get_array()
    assert shown.shape == (6, 8)
    assert np.allclose(shown, maps.resample(values[:, 1:], (4, 6, 8))[0, 0, 3])
    assert page.axes[0].images[0].get_array().shape == (6, 8, 3)


def test_activations_show_and_save(tmp_path):
    activations = activations_of(random(2, 3, 4, 5))
    assert isinstance(activations.show(), Image.Image)
    assert activations._repr_png_().startswith(b"\x89PNG")
    for ending in ("png", "svg", "pdf"):
        activations.save(tmp_path / f"page.{ending}")
        assert (tmp_path / f"page.{ending}").stat().st_size > 3000
    with pytest.raises(seewhy.OptionError, match=r"page.bmp: the ending must be one of"):
        activations.save(tmp_path / "page.bmp")
    assert not (tmp_path / "page.bmp").exists()
    for values in (torch.zeros(2, 8), torch.zeros(2, 8, 5)):
        with pytest.raises(seewhy.OptionError, match="no spatial positions to draw"):
            activations_of(values).show()
