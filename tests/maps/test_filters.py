"""Filters against their definitions, place by place; composed, named, refused."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import seewhy
from seewhy.maps import resample
from seewhy.maps.filters import FILTERS
from seewhy.pictures import figure


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def to_unit(numbers):
    low, high = min(numbers), max(numbers)
    return [(v - low) / (high - low) if high > low else 0.0 for v in numbers]


def percentile(numbers, share):
    """Linear between the two nearest of the sorted numbers (Hyndman and Fan 1996, definition 7)."""
    ordered = sorted(numbers)
    place = share / 100 * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def cut(numbers, share):
    end = percentile([abs(v) for v in numbers], share)
    return [max(-end, min(end, v)) for v in numbers]


def best(numbers, share):
    keep = math.ceil(share * len(numbers))
    least = sorted((abs(v) for v in numbers), reverse=True)[keep - 1]
    return [v if abs(v) >= least else 0.0 for v in numbers]


# one map as a list of numbers -> another
ORACLES = {
    "positive": lambda m: [v if v > 0 else 0.0 for v in m],
    "negative": lambda m: [-v if v < 0 else 0.0 for v in m],
    "magnitude": lambda m: [v if v > 0 else -v for v in m],
    "normalize": to_unit,
    "positive_normalize": lambda m: to_unit([max(v, 0) for v in m]),
    "negative_normalize": lambda m: to_unit([max(-v, 0) for v in m]),
    "absolute_normalize": lambda m: to_unit([abs(v) for v in m]),
    "clip": lambda m: cut(m, 99),
    "top": lambda m: best(m, 0.1),
}
# the channels of one place -> a number
CHANNELS = {
    "channel_sum": sum,
    "channel_mean": lambda c: sum(c) / len(c),
    "channel_max": max,
    "absolute_sum": lambda c: sum(abs(v) for v in c),
    "absolute_max": lambda c: max(abs(v) for v in c),
}
SHAPES = [(2, 3, 6, 9), (1, 2, 11), (2, 1, 3, 4, 5)]


def applied(name, maps, *number):
    line = FILTERS[name]
    return line.apply(maps, *(number or (() if line.number is None else (line.number,))))


def test_every_filter_has_an_oracle():
    assert set(FILTERS) == set(ORACLES) | set(CHANNELS) | {"smooth"}
    assert {name for name, line in FILTERS.items() if line.channels} == set(CHANNELS)
    assert all(line.apply.__doc__ for line in FILTERS.values())


@pytest.mark.row(138)
@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("shape", SHAPES)
def test_maps_by_their_definition(name, shape):
    maps = noise(*shape)
    found = applied(name, maps)
    assert found.shape == maps.shape
    for one, other in zip(maps.flatten(0, 1), found.flatten(0, 1), strict=True):
        expected = ORACLES[name](one.flatten().tolist())
        assert other.flatten().tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", CHANNELS)
def test_channels_by_their_definition(name):
    values = noise(2, 3, 4, 5, 6)
    found = applied(name, values)
    for n, k, i, j in np.ndindex(2, 3, 5, 6):
        assert float(found[n, k, i, j]) == pytest.approx(CHANNELS[name](values[n, k, :, i, j].tolist()), abs=1e-12)


@pytest.mark.parametrize(("percent", "share"), [(1.0, 0.01), (50.0, 0.5), (90.0, 0.33), (100.0, 1.0)])
@pytest.mark.parametrize("shape", SHAPES)
def test_numbers(percent, share, shape):
    maps = noise(*shape)
    for one, cut_off, kept in zip(
        maps.flatten(0, 1),
        applied("clip", maps, percent).flatten(0, 1),
        applied("top", maps, share).flatten(0, 1),
        strict=True,
    ):
        numbers = one.flatten().tolist()
        assert cut_off.flatten().tolist() == pytest.approx(cut(numbers, percent), abs=1e-12)
        assert kept.flatten().tolist() == best(numbers, share)


def test_ties_stay_together():
    """Which of two equal places were kept would hang on their order."""
    maps = torch.tensor([[[3.0, -3.0, 1.0, 3.0, 0.0]]])
    assert applied("top", maps, 0.2).tolist() == [[[3, -3, 0, 3, 0]]]
    assert applied("top", torch.zeros(1, 1, 4), 0.5).tolist() == [[[0] * 4]]


@pytest.mark.parametrize("shape", [(1, 2, 15), (2, 1, 7, 9), (1, 1, 4, 5, 6)])
@pytest.mark.parametrize("sigma", [0.5, 2.0])
def test_smooth_is_a_gaussian_with_mirrored_edges(shape, sigma):
    """Axis by axis: weights exp(-d²/2σ²) up to four σ, of sum one."""
    maps = noise(*shape)
    reach = int(4 * sigma + 0.5)
    weights = [math.exp(-(d**2) / (2 * sigma**2)) for d in range(-reach, reach + 1)]
    expected = maps
    for axis in range(2, maps.ndim):
        size = maps.shape[axis]
        made = torch.zeros_like(expected)
        for i in range(size):
            for d, weight in zip(range(-reach, reach + 1), weights, strict=True):
                j = (i + d) % (2 * size)
                source = min(j, 2 * size - 1 - j)
                made.select(axis, i).add_(expected.select(axis, source), alpha=weight / sum(weights))
        expected = made
    assert (applied("smooth", maps, sigma) - expected).abs().max() < 1e-12


def test_each_map_for_itself():
    maps = noise(2, 3, 6, 9)
    for name, line in FILTERS.items():
        if not line.channels:
            one = applied(name, maps[1:, 2:])
            assert torch.equal(applied(name, maps)[1:, 2:], one), name


@pytest.mark.row(138)
def test_negative_is_what_speaks_against():
    """keras-explainable 0.0.2 gives for `negative` what `positive` gives."""
    maps = torch.tensor([[[0.0, -1, 2, -3]]])
    assert applied("negative", maps).tolist() == [[[0, 1, 0, 3]]]
    assert applied("positive", maps).tolist() == [[[0, 0, 2, 0]]]


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
@pytest.mark.parametrize("name", [n for n, m in seewhy.METHODS.items() if m.feeds != "attention"])
def test_one_engine_and_the_same_filters_for_every_method(name, model, x):
    found = seewhy.explain(model, x, name, target=[0, 2])
    made = found.filtered("channel_mean", "absolute_normalize")
    assert made.maps.shape == (2, 2, 6, 9)
    assert float(made.maps.min()) == 0
    assert float(made.maps.max()) == pytest.approx(1)
    assert torch.equal(made.values, found.values)
    assert made.evaluations == found.evaluations


@pytest.mark.row(139)
def test_filters_are_exchanged_without_the_network(e, model):
    signed = e.filtered("channel_mean")
    assert torch.equal(signed.maps, e.values.mean(2))
    assert signed.maps.min() < 0
    both = e.filtered("channel_mean", "negative", "normalize")
    step = signed.filtered("negative").filtered("normalize")
    assert torch.equal(both.maps, step.maps)
    assert both.filters == step.filters == ("channel_mean", "negative", "normalize")
    assert torch.equal(both.maps, torch.stack([  # of each map by itself
        torch.stack([(m - m.min()) / (m.max() - m.min()) for m in row]) for row in (-e.values.mean(2)).clamp(min=0)
    ]))  # fmt: skip
    again = both.filtered("absolute_max")
    assert again.filters == ("absolute_max",)
    assert torch.equal(again.maps, e.values.abs().amax(2))
    assert torch.equal(again.scaled, seewhy.explain(model, e.input, "gradient", target=[0, 2])
                       .filtered("absolute_max", "normalize").maps)  # fmt: skip
    assert e.filters == ()


@pytest.mark.parametrize("upsample", ["bicubic", "linear", "nearest", "none"])
def test_layers_maps_are_brought_to_size_as_asked(x, upsample):
    torch.manual_seed(4)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))
    found = seewhy.explain(net, x, "hirescam", upsample=upsample)
    made = found.filtered("channel_sum", "positive")
    expected = found.values.sum(2)
    if upsample != "none":
        expected = resample(expected, (6, 9), upsample)
    assert torch.equal(made.maps, expected.clamp(min=0))


def test_functions(e):
    def halved(maps):
        return maps / 2

    made = e.filtered("channel_sum", halved, "magnitude")
    assert torch.equal(made.maps, (e.values.sum(2) / 2).abs())
    assert made.filters == ("channel_sum", "halved", "magnitude")


def test_every_picture_names_its_filters(e):
    titles = [axis.get_title() for axis in figure(e.filtered("channel_mean", "clip", "smooth=1.50")).axes]
    assert "Gradient\nchannel_mean, clip=99, smooth=1.5" in titles


def test_a_map_that_nothing_is_left_of(model, x):
    found = seewhy.explain(model, x, "gradcam")
    made = found.filtered("negative")
    assert not made.maps.any()
    assert made.notes[-2:] == tuple(
        f"the filters leave the map of sample {n}, target 0 constant: it shows nothing" for n in range(2)
    )
    assert made.filtered("positive").notes == made.notes


@pytest.mark.parametrize(
    ("steps", "error", "text"),
    [
        ((), seewhy.OptionError, "no filter is named"),
        (("positiv",), seewhy.UnknownNameError, "unknown filter 'positiv'. Did you mean 'positive'"),
        (("positive=2",), seewhy.OptionError, "positive takes no number"),
        (("clip=101",), seewhy.OptionError, "a number above 0, up to 100, is needed behind clip="),
        (("clip=",), seewhy.OptionError, "clip='?: a number|is needed behind clip="),
        (("top=0",), seewhy.OptionError, "a number above 0, up to 1, is needed"),
        (("top=nan",), seewhy.OptionError, "a number above 0, up to 1, is needed"),
        (("smooth=inf",), seewhy.OptionError, "a number above 0 is needed"),
        (("smooth=-1",), seewhy.OptionError, "a number above 0 is needed"),
        (("positive", "channel_mean"), seewhy.OptionError, "it stands first, not at 2"),
        ((lambda m: m[..., 1:],), seewhy.OptionError, r"gives .*\(2, 2, 6, 9\), as it got, is needed"),
        ((lambda m: None,), seewhy.OptionError, "gives NoneType"),
    ],
)
def test_what_is_refused(e, steps, error, text):
    with pytest.raises(error, match=text):
        e.filtered(*steps)
