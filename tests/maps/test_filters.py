"""Filters against their definitions: single filters, compositions, labels, invalid filters."""

import math

import numpy as np
import pytest
import torch
from tests.networks import network_for, random_input
from torch import nn

import seewhy
from seewhy.maps import resample
from seewhy.maps.filters import FILTERS
from seewhy.visualization import figure


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def rescaled(numbers):
    low, high = min(numbers), max(numbers)
    return [(v - low) / (high - low) if high > low else 0.0 for v in numbers]


def percentile(numbers, percent):
    """Linear interpolation between sorted values (Hyndman and Fan 1996, definition 7)."""
    ordered = sorted(numbers)
    rank = percent / 100 * (len(ordered) - 1)
    below = math.floor(rank)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (rank - below) * (ordered[above] - ordered[below])


def clipped(numbers, percent):
    limit = percentile([abs(v) for v in numbers], percent)
    return [max(-limit, min(limit, v)) for v in numbers]


def largest(numbers, fraction):
    count = math.ceil(fraction * len(numbers))
    threshold = sorted((abs(v) for v in numbers), reverse=True)[count - 1]
    return [v if abs(v) >= threshold else 0.0 for v in numbers]


# from one map, as a list of numbers, to the filtered map
ORACLES = {
    "positive": lambda m: [v if v > 0 else 0.0 for v in m],
    "negative": lambda m: [-v if v < 0 else 0.0 for v in m],
    "magnitude": lambda m: [v if v > 0 else -v for v in m],
    "normalize": rescaled,
    "positive_normalize": lambda m: rescaled([max(v, 0) for v in m]),
    "negative_normalize": lambda m: rescaled([max(-v, 0) for v in m]),
    "absolute_normalize": lambda m: rescaled([abs(v) for v in m]),
    "clip": lambda m: clipped(m, 99),
    "top": lambda m: largest(m, 0.1),
}
# from the channels of one position to one number
CHANNELS = {
    "channel_sum": sum,
    "channel_mean": lambda c: sum(c) / len(c),
    "channel_max": max,
    "absolute_sum": lambda c: sum(abs(v) for v in c),
    "absolute_max": lambda c: max(abs(v) for v in c),
}
SHAPES = [(2, 3, 6, 9), (1, 2, 11), (2, 1, 3, 4, 5)]


def apply_filter(name, maps, *number):
    row = FILTERS[name]
    return row.apply(maps, *(number or (() if row.default is None else (row.default,))))


def test_every_filter_has_an_oracle():
    assert set(FILTERS) == set(ORACLES) | set(CHANNELS) | {"smooth"}
    assert {name for name, row in FILTERS.items() if row.reduces_channels} == set(CHANNELS)
    assert all(row.apply.__doc__ for row in FILTERS.values())


@pytest.mark.row(138)
@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("shape", SHAPES)
def test_map_filters_equal_definition(name, shape):
    maps = noise(*shape)
    result = apply_filter(name, maps)
    assert result.shape == maps.shape
    for one, other in zip(maps.flatten(0, 1), result.flatten(0, 1), strict=True):
        expected = ORACLES[name](one.flatten().tolist())
        assert other.flatten().tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", CHANNELS)
def test_channel_filters_equal_definition(name):
    values = noise(2, 3, 4, 5, 6)
    result = apply_filter(name, values)
    for n, k, i, j in np.ndindex(2, 3, 5, 6):
        assert float(result[n, k, i, j]) == pytest.approx(CHANNELS[name](values[n, k, :, i, j].tolist()), abs=1e-12)


@pytest.mark.parametrize(("percent", "fraction"), [(1.0, 0.01), (50.0, 0.5), (90.0, 0.33), (100.0, 1.0)])
@pytest.mark.parametrize("shape", SHAPES)
def test_clip_and_top_with_numbers(percent, fraction, shape):
    maps = noise(*shape)
    for one, clip, top in zip(
        maps.flatten(0, 1),
        apply_filter("clip", maps, percent).flatten(0, 1),
        apply_filter("top", maps, fraction).flatten(0, 1),
        strict=True,
    ):
        numbers = one.flatten().tolist()
        assert clip.flatten().tolist() == pytest.approx(clipped(numbers, percent), abs=1e-12)
        assert top.flatten().tolist() == largest(numbers, fraction)


def test_top_keeps_ties():
    """Otherwise the result would depend on the order of equal values."""
    maps = torch.tensor([[[3.0, -3.0, 1.0, 3.0, 0.0]]])
    assert apply_filter("top", maps, 0.2).tolist() == [[[3, -3, 0, 3, 0]]]
    assert apply_filter("top", torch.zeros(1, 1, 4), 0.5).tolist() == [[[0] * 4]]


@pytest.mark.parametrize("shape", [(1, 2, 15), (2, 1, 7, 9), (1, 1, 4, 5, 6)])
@pytest.mark.parametrize("sigma", [0.5, 2.0])
def test_smooth_is_gaussian_with_mirrored_edges(shape, sigma):
    """Per axis: weights exp(-d²/2σ²) up to four σ, normalized to sum one."""
    maps = noise(*shape)
    reach = int(4 * sigma + 0.5)
    weights = [math.exp(-(d**2) / (2 * sigma**2)) for d in range(-reach, reach + 1)]
    expected = maps
    for axis in range(2, maps.ndim):
        size = maps.shape[axis]
        blurred = torch.zeros_like(expected)
        for i in range(size):
            for d, weight in zip(range(-reach, reach + 1), weights, strict=True):
                j = (i + d) % (2 * size)
                source = min(j, 2 * size - 1 - j)
                blurred.select(axis, i).add_(expected.select(axis, source), alpha=weight / sum(weights))
        expected = blurred
    assert (apply_filter("smooth", maps, sigma) - expected).abs().max() < 1e-12


def test_filters_treat_maps_independently():
    maps = noise(2, 3, 6, 9)
    for name, row in FILTERS.items():
        if not row.reduces_channels:
            one = apply_filter(name, maps[1:, 2:])
            assert torch.equal(apply_filter(name, maps)[1:, 2:], one), name


@pytest.mark.row(138)
def test_positive_and_negative_filters_differ():
    """In keras-explainable 0.0.2, `negative` returns the same as `positive`."""
    maps = torch.tensor([[[0.0, -1, 2, -3]]])
    assert apply_filter("negative", maps).tolist() == [[[0, 1, 0, 3]]]
    assert apply_filter("positive", maps).tolist() == [[[0, 0, 2, 0]]]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(3)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 54, 3))
    return seewhy.wrap(net)


@pytest.fixture(scope="module")
def x():
    return noise(2, 3, 6, 9).float()


@pytest.fixture(scope="module")
def e(model, x):
    return seewhy.explain(model, x, "gradient", target=[0, 2])


@pytest.mark.row(137, 139)
@pytest.mark.parametrize("name", seewhy.METHODS)
def test_filtered_for_every_method(name):
    result = seewhy.explain(network_for(name), random_input(2, 3, 6, 9), name, target=[0, 2])
    filtered = result.filtered("channel_mean", "absolute_normalize")
    assert filtered.maps.shape == (2, 2, 6, 9)
    assert float(filtered.maps.min()) == 0
    assert float(filtered.maps.max()) == pytest.approx(1)
    assert torch.equal(filtered.values, result.values)
    assert filtered.evaluations == result.evaluations


@pytest.mark.row(139)
def test_filtered_composition(e, model):
    signed = e.filtered("channel_mean")
    assert torch.equal(signed.maps, e.values.mean(2))
    assert signed.maps.min() < 0
    both = e.filtered("channel_mean", "negative", "normalize")
    successive = signed.filtered("negative").filtered("normalize")
    assert torch.equal(both.maps, successive.maps)
    assert both.filters == successive.filters == ("channel_mean", "negative", "normalize")
    assert torch.equal(both.maps, torch.stack([  # each map independently
        torch.stack([(m - m.min()) / (m.max() - m.min()) for m in row]) for row in (-e.values.mean(2)).clamp(min=0)
    ]))  # fmt: skip
    again = both.filtered("absolute_max")
    assert again.filters == ("absolute_max",)
    assert torch.equal(again.maps, e.values.abs().amax(2))
    assert torch.equal(again.scaled, seewhy.explain(model, e.input, "gradient", target=[0, 2])
                       .filtered("absolute_max", "normalize").maps)  # fmt: skip
    assert e.filters == ()


@pytest.mark.parametrize("upsample", ["bicubic", "linear", "nearest", "none"])
def test_filtered_layer_maps_use_upsample(x, upsample):
    torch.manual_seed(4)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))
    result = seewhy.explain(net, x, "hirescam", upsample=upsample)
    filtered = result.filtered("channel_sum", "positive")
    expected = result.values.sum(2)
    if upsample != "none":
        expected = resample(expected, (6, 9), upsample)
    assert torch.equal(filtered.maps, expected.clamp(min=0))


def test_filtered_with_function(e):
    def halved(maps):
        return maps / 2

    filtered = e.filtered("channel_sum", halved, "magnitude")
    assert torch.equal(filtered.maps, (e.values.sum(2) / 2).abs())
    assert filtered.filters == ("channel_sum", "halved", "magnitude")


def test_figure_names_filters(e):
    titles = [axis.get_title() for axis in figure(e.filtered("channel_mean", "clip", "smooth=1.50")).axes]
    assert "Gradient\nchannel_mean, clip=99, smooth=1.5" in titles


def test_filtered_notes_constant_maps(model, x):
    result = seewhy.explain(model, x, "gradcam")
    filtered = result.filtered("negative")
    assert not filtered.maps.any()
    assert filtered.notes[-2:] == tuple(
        f"the map of sample {n}, target 0 is constant after the filters: it shows nothing" for n in range(2)
    )
    assert filtered.filtered("positive").notes == filtered.notes


@pytest.mark.parametrize(
    ("filters", "error", "text"),
    [
        ((), seewhy.OptionError, "no filter is given"),
        (("positiv",), seewhy.UnknownNameError, "unknown filter 'positiv'. Did you mean 'positive'"),
        (("positive=2",), seewhy.OptionError, "positive takes no number"),
        (("clip=101",), seewhy.OptionError, "give a number above 0, up to 100 after clip="),
        (("clip=",), seewhy.OptionError, "filter 'clip=' is not valid: give a number"),
        (("top=0",), seewhy.OptionError, "give a number above 0, up to 1 after top="),
        (("top=nan",), seewhy.OptionError, "give a number above 0, up to 1 after top="),
        (("smooth=inf",), seewhy.OptionError, "give a finite number above 0 after smooth="),
        (("smooth=-1",), seewhy.OptionError, "give a finite number above 0 after smooth="),
        (("positive", "channel_mean"), seewhy.OptionError, "it must be the first filter, not number 2"),
        (
            (lambda m: m[..., 1:],),
            seewhy.OptionError,
            r"returns .*it must return the shape of its argument, \(2, 2, 6, 9\)",
        ),
        ((lambda m: None,), seewhy.OptionError, "returns NoneType"),
    ],
)
def test_filtered_rejects_invalid_filters(e, filters, error, text):
    with pytest.raises(error, match=text):
        e.filtered(*filters)
