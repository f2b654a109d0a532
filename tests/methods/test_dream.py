"""Deep dream: the ascent against closed forms and a slow one, what it leaves behind, what it refuses."""

import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from tests.oracles import dream as slow
from tests.oracles.network import Network, Twin
from torch import nn

import seewhy
from seewhy import testing
from seewhy.methods.ascent import dream as module
from seewhy.methods.ascent.uphill import EDGE, SPREAD, colour_matrix, filtered, spectrum, unit, uphill, variation_slope
from seewhy.methods.draws import normal, shifts
from seewhy.trace.layers import activations

CARD = seewhy.Card((6, 9), (0.4, 0.5, 0.6), (0.2, 0.25, 0.5))
CLASSES = [285, 967, 430]
SMALL = {"iterations": 2, "pyramid_levels": 2, "size": (12, 16), "jitter": 2}


def small(seed=0, dtype=torch.float64):
    """Takes any size."""
    layers = [nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.ReLU()]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).to(dtype)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_(torch.randn(weight.shape, generator=draw, dtype=torch.float64) * 0.5)
    return net


def ends(reached):
    """Level -> activations [K] before its first step, and after its last."""
    levels = {}
    for told in reached:
        levels.setdefault(told.level, {}).setdefault(told.iteration, []).append(told.activations)
    return [[torch.cat(of[i]) for i in (0, max(of))] for of in levels.values()]


# ---- against closed forms


def test_one_step_on_a_linear_layer_goes_along_its_weights():
    net = nn.Sequential(nn.Flatten(), nn.Linear(24, 3)).double()
    start = torch.randn(1, 2, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = seewhy.dream(net, "1", [2, 0], initial=start, iterations=1, pyramid_levels=1, step=0.3, jitter=0,
                         parametrisation="pixels", scaling="none")  # fmt: skip
    for picture, row in zip(found, net[1].weight[[2, 0]], strict=True):
        along = (row / row.square().mean().sqrt()).reshape(2, 3, 4)
        assert torch.allclose(picture, start[0] + 0.3 * along, atol=1e-14)


def test_steps_shrink_in_a_straight_line():
    """On a linear layer the way is the same each time: 1 + 3/4 + 2/4 + 1/4 steps in all."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(24, 3)).double()
    start = torch.zeros(1, 2, 3, 4, dtype=torch.float64)
    found = seewhy.dream(net, None, 1, initial=start, iterations=4, pyramid_levels=1, step=0.2, jitter=0,
                         parametrisation="pixels", scaling="none")  # fmt: skip
    assert found.square().mean().sqrt().item() == pytest.approx(0.5, rel=1e-12)


@pytest.mark.parametrize("kind", ["fourier", "pixels"])
def test_it_equals_the_slow_ascent(kind):
    network, draw = Network(), np.random.default_rng(3)
    start = draw.uniform(0.2, 0.8, size=(3, 6, 9))
    mean, std = (np.reshape(v, (3, 1, 1)) for v in (CARD.mean, CARD.std))
    roll = shifts(7, 2, 2)
    rolls = [roll(j) for j in range(3)]
    assert len({tuple(r) for r in rolls}) > 1

    def gradient(z, target):
        picture = 1 / (1 + np.exp(-4 * z))
        return network.backward((picture - mean) / std, target) / std * 4 * picture * (1 - picture)

    own = {"fourier": {"blur": 0.8}, "pixels": {"total_variation": 0.3}}[kind]
    model = seewhy.wrap(Twin(network), prepare=CARD)
    x = torch.tensor((start - mean) / std).unsqueeze(0)
    found = seewhy.dream(model, None, [3, 1], initial=x, iterations=3, pyramid_levels=1, step=0.2, jitter=2, seed=7,
                         parametrisation=kind, scaling="none", **own)  # fmt: skip
    how = {"iterations": 3, "step": 0.2, "shifts": rolls, **own}
    for picture, target in zip(found, (3, 1), strict=True):
        z = np.log(start / (1 - start)) / 4
        if kind == "fourier":
            z = slow.fourier_ascent(lambda z, t=target: gradient(z, t), z, spread=SPREAD, **how)
        else:
            z = slow.pixel_ascent(lambda z, t=target: gradient(z, t), z, edge=EDGE, **how)
        assert np.abs(picture.numpy() - 1 / (1 + np.exp(-4 * z))).max() < 1e-11
        assert np.abs(picture.numpy() - start).max() > 0.05


# ---- the pure parts


@pytest.mark.parametrize("size", [(12,), (6, 9), (7, 4), (4, 5, 6), (1, 8)])
def test_the_fourier_basis_there_and_back(size):
    z = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    power = spectrum(size, fourier=True)
    assert torch.allclose(filtered(filtered(z, power), 1 / power), z, atol=1e-12)
    assert torch.allclose(filtered(z, torch.ones_like(power)), z, atol=1e-12)
    a, b = filtered(z[:1], power), filtered(z[1:], power)
    assert torch.allclose((a * z[1:]).sum(), (b * z[:1]).sum()), "symmetric"


def test_one_wave_is_scaled_by_its_power():
    place = torch.arange(16, dtype=torch.float64)
    for cycles in (1, 3, 8):
        wave = torch.cos(2 * torch.pi * cycles * place / 16).expand(1, 1, 16, 16)
        assert torch.allclose(filtered(wave, spectrum((16, 16), True)), wave * (16 / cycles) ** 2)
        smooth = wave * np.exp(-2 * (np.pi * 1.5 * cycles / 16) ** 2)
        assert torch.allclose(filtered(wave, spectrum((16, 16), False, 1.5)), smooth)


def test_colours_keep_grey_and_damp_the_others():
    values, axes = torch.linalg.eigh(colour_matrix())
    assert torch.allclose(values, torch.tensor(SPREAD, dtype=torch.float64).square().flip(0))
    assert torch.allclose(axes[:, 2].abs(), torch.full((3,), 3**-0.5, dtype=torch.float64))


def test_the_slope_of_the_total_variation():
    z = torch.randn(2, 3, 5, 6, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64).requires_grad_()
    squares = 0
    for axis in (2, 3, 4):
        wide = torch.cat([z, z.narrow(axis, -1, 1)], axis)
        squares = squares + wide.diff(dim=axis) ** 2
    total = (squares + EDGE**2).sqrt().sum()
    assert torch.allclose(torch.autograd.grad(total, z)[0], variation_slope(z.detach()), atol=1e-12)


def test_a_way_has_size_one_whatever_the_gradient():
    g = torch.randn(4, 3, 6, 9, generator=torch.Generator().manual_seed(0))
    g = g * torch.tensor([1e-30, 1.0, 1e30, 0.0]).view(4, 1, 1, 1)
    for how in ({}, {"parametrisation": "fourier", "colours": True}, {"blur": 2.0}):
        way = uphill(g, torch.zeros_like(g), **how)
        assert torch.allclose(way.square().flatten(1).mean(1).sqrt(), torch.tensor([1.0, 1.0, 1.0, 0.0]), atol=1e-5)
    assert torch.equal(unit(torch.zeros(1, 1, 3)), torch.zeros(1, 1, 3))


# ---- what comes out


@pytest.fixture(scope="module")
def classes(lite0):
    """Pictures of three classes with all defaults, and what was told on the way."""
    reached = []
    return seewhy.dream(lite0, "classifier", CLASSES, watch=reached.append, scaling="none", batch_size=3), reached


@pytest.mark.row(83, 86)
def test_the_last_layer_gives_pictures_of_its_classes(lite0, classes):
    pictures, reached = classes
    assert pictures.shape == (3, 3, 224, 224)
    assert pictures.dtype == torch.float32
    assert 0 <= pictures.min() < 0.05
    assert 0.9 < pictures.max() <= 1
    top = seewhy.predict(lite0, (pictures - 0.5) / 0.5, top=1)
    assert top.indices[:, 0].tolist() == CLASSES
    assert (top.probabilities > 0.95).all()
    logits = top.output[range(3), CLASSES]
    assert torch.allclose(logits, reached[-1].activations, rtol=1e-3), "what was told is what the picture gives"


def test_the_activation_rises_at_every_level(classes):
    levels = ends(classes[1])
    assert len(levels) == 3
    for before, after in levels:
        assert (after > before + 3).all()
    assert (levels[0][0].abs() < 1).all()
    assert (levels[-1][1] > 15).all()


@pytest.mark.parametrize("kind", ["fourier", "pixels"])
def test_it_rises_on_a_small_network_too(kind):
    reached = []
    seewhy.dream(small(), "2", [0, 3, 7], size=(20, 30), parametrisation=kind, watch=reached.append)
    levels = ends(reached)
    assert len(levels) == 3
    for before, after in levels:
        assert (after > before).all()
    assert (levels[-1][1] > levels[0][0] + 0.2).all()


def test_pictures_look_like_photographs_rather_than_noise(lite0, classes):
    """Neighbours agree, and the colours are mostly those of real things; single pixels give neither."""
    noisy = seewhy.dream(lite0, "classifier", 430, size=112, parametrisation="pixels", scaling="none")

    def roughness(picture):
        return (picture.diff(dim=-1).square().mean() / picture.var()).item()

    assert max(map(roughness, classes[0])) < 0.3
    assert roughness(noisy) > 0.6
    assert (classes[0].std((1, 2, 3)) > 0.1).all(), "no grey"


@pytest.mark.row(85)
def test_the_sources_numbers():
    import inspect

    defaults = {k: p.default for k, p in inspect.signature(seewhy.dream).parameters.items()}
    assert (defaults["iterations"], defaults["pyramid_levels"], defaults["pyramid_scale"]) == (10, 3, 1.4)
    reached = []
    picture = seewhy.dream(small(), "6", 1, iterations=100, pyramid_levels=4, size=16, watch=reached.append)
    assert picture.shape == (1, 3, 16, 16)
    assert [r.iteration for r in reached] == [*range(101)] * 4
    assert [r.level for r in reached] == [n for n in range(4) for _ in range(101)]
    sides = []
    net = small()
    net.register_forward_hook(lambda _m, given, _o: sides.append(tuple(given[0].shape[2:])))
    seewhy.dream(net, "6", 1, size=(28, 42))
    assert list(dict.fromkeys(sides[-30:])) == [(14, 21), (20, 30), (28, 42)]


@pytest.mark.row(84)
def test_progress(monkeypatch, capsys):
    monkeypatch.setattr("seewhy.methods.progress.PATIENCE", 0.0)
    seewhy.dream(small(), "6", 1, **SMALL, progress=True)
    assert "dream" in (said := capsys.readouterr()).err
    assert "level 2 of 2, activation" in said.err
    assert not said.out
    for terminal in (True, False):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal, raising=False)
        seewhy.dream(small(), "6", 1, **SMALL, progress=False)
        assert not capsys.readouterr().err
        seewhy.dream(small(), "6", 1, **SMALL)
        assert ("dream" in capsys.readouterr().err) == terminal


def test_same_seed_same_picture_whatever_the_batch():
    net = small()
    how = {"iterations": 4, "pyramid_levels": 2, "size": (16, 20), "jitter": 3, "seed": 5}
    whole = seewhy.dream(net, "4", [7, 0, 3], batch_size=3, **how)
    assert torch.equal(whole, seewhy.dream(net, "4", [7, 0, 3], batch_size=3, **how))
    for size in (1, 2, "auto"):
        assert torch.allclose(seewhy.dream(net, "4", [7, 0, 3], batch_size=size, **how), whole, atol=1e-9)
    for n, channel in enumerate((7, 0, 3)):
        assert torch.allclose(seewhy.dream(net, "4", channel, **how)[0], whole[n], atol=1e-9)
    assert (seewhy.dream(net, "4", [7, 0, 3], **{**how, "seed": 6}) - whole).abs().max() > 0.01
    bounded = seewhy.dream(net, "4", [7, 0, 3], max_memory=10**5, **how)
    assert torch.allclose(bounded, whole, atol=1e-9)


def test_the_same_to_the_bit_whatever_is_asked_along(lite0):
    """Passes of one picture: rounding that depends on the number of rows would grow into other details."""
    how = {"iterations": 4, "pyramid_levels": 2, "size": 64}
    for layer in ("classifier", "blocks.4"):
        whole = seewhy.dream(lite0, layer, [9, 1, 9], **how)
        assert torch.equal(whole[0], whole[2])
        for n, channel in enumerate((9, 1)):
            assert torch.equal(seewhy.dream(lite0, layer, channel, **how)[0], whole[n])


def test_no_more_than_a_batch_goes_through_at_once():
    net, rows = small(), []
    net.register_forward_hook(lambda _m, given, _o: rows.append(len(given[0])))
    seewhy.dream(net, "2", [0, 1, 2, 3, 4], batch_size=2, **SMALL)
    assert max(rows) == 2
    rows.clear()
    seewhy.dream(net, "2", list(range(8)), **SMALL)
    assert max(rows) == 1


# ---- layers of every make


def test_a_channel_is_the_mean_over_its_positions(lite0):
    for layer, channel in (("blocks.2", 3), ("bn2.act", 7), ("blocks.1.1/add", 5), ("classifier", 9)):
        reached = []
        picture = seewhy.dream(lite0, layer, channel, iterations=3, pyramid_levels=1, size=64, scaling="none",
                               watch=reached.append)  # fmt: skip
        values = activations(lite0, (picture - 0.5) / 0.5, layer).values[0, channel]
        assert values.mean().item() == pytest.approx(reached[-1].activations.item(), rel=1e-4)
        assert reached[-1].activations > reached[0].activations


def test_the_output_and_the_last_layer_are_the_same_question(lite0):
    how = {"iterations": 2, "pyramid_levels": 1, "size": 64}
    assert torch.equal(seewhy.dream(lite0, None, 9, **how), seewhy.dream(lite0, "classifier", 9, **how))


def test_one_call_of_a_layer_that_runs_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.relu, self.out = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)

        def forward(self, x):
            return self.relu(self.out(self.relu(self.conv(x) + 1)) + 1)

    net = Twice().double()
    reached = []
    seewhy.dream(net, "relu#2", 1, **SMALL, watch=reached.append)
    assert reached[-1].activations > reached[0].activations
    with pytest.raises(seewhy.ModelError, match="name the call, relu#1, relu#2"):
        seewhy.dream(net, "relu", 1, **SMALL)
    with pytest.raises(seewhy.OptionError, match="channel 2 is out of range: layer 'relu#2' has 2 channels, 0 to 1"):
        seewhy.dream(net, "relu#2", 2, **SMALL)


def test_tokens_and_a_network_of_one_size():
    """Its 32 × 32 come from every level; the class token is no position."""
    net = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=1, embed_dim=24, num_heads=2,
                            num_classes=7).double().eval()  # fmt: skip
    model = seewhy.wrap(net, prepare=seewhy.Card((32, 32), (0.5,) * 3, (0.5,) * 3))
    reached = []
    how = {"iterations": 3, "jitter": 2, "scaling": "none", "watch": reached.append, "batch_size": 2}
    pictures = seewhy.dream(model, "blocks.0", [3, 20], **how)
    values = activations(model, (pictures - 0.5) / 0.5, "blocks.0").values
    assert values.shape == (2, 24, 4, 4)
    own = torch.stack([values[0, 3].mean(), values[1, 20].mean()])
    assert torch.allclose(own, reached[-1].activations, rtol=1e-9)
    reached.clear()
    assert seewhy.dream(model, "head", 3, **how, size=(50, 40)).shape == (1, 3, 50, 40)
    assert reached[-1].activations[0] > reached[0].activations[0] + 0.01


@pytest.mark.parametrize("rank", [1, 3])
def test_sequences_and_volumes(rank):
    conv = {1: nn.Conv1d, 3: nn.Conv3d}[rank]
    net = nn.Sequential(conv(2, 4, 3, padding=1), nn.Tanh(), conv(4, 3, 3, padding=1)).double()
    size = (20,) if rank == 1 else (6, 8, 10)
    for kind in ("fourier", "pixels"):
        reached = []
        found = seewhy.dream(net, "2", [0, 2], size=size, jitter=1, parametrisation=kind, total_variation=0.05,
                             watch=reached.append, batch_size=2)  # fmt: skip
        assert found.shape == (2, 2, *size)
        assert (found.flatten(1).amin(1) == 0).all()
        assert (found.flatten(1).amax(1) == 1).all()
        assert (reached[-1].activations > reached[0].activations).all()
    with pytest.raises(seewhy.OptionError, match=f"size=None: Sequential takes inputs of {rank} axes"):
        seewhy.dream(net, "2", 0)


def test_channels_last_and_plain_functions():
    net = small()
    last = seewhy.wrap(net, layout="NHWC", forward=lambda net, x: net(x.permute(0, 3, 1, 2)))
    how = {"iterations": 2, "pyramid_levels": 2, "jitter": 1, "size": 12}
    assert torch.allclose(seewhy.dream(last, "2", 3, **how), seewhy.dream(net, "2", 3, **how), atol=1e-12)
    start = torch.zeros(1, 3, 12, 12, dtype=torch.float64)
    found = seewhy.dream(lambda x: net(x), None, 3, initial=start, **how)
    assert torch.allclose(found, seewhy.dream(net, None, 3, initial=start, **how), atol=1e-12)


# ---- where it starts, and how it is shown


def test_the_start_is_the_picture_given(lite0, shipped):
    how = {"iterations": 1, "step": 1e-6, "scaling": "none", "jitter": 0}
    start = lite0.prepare(shipped["chelsea"])
    for given in (shipped["chelsea"], start):
        found = seewhy.dream(lite0, "conv_stem", [0, 1], initial=given, **how)
        assert (found - (start * 0.5 + 0.5)).abs().max() < 0.003, "fine detail comes back at the last level"
    two = torch.cat([start, -start])
    each = seewhy.dream(lite0, "conv_stem", [0, 1], initial=two, **how)
    assert (each - (two * 0.5 + 0.5)).abs().max() < 0.003
    with pytest.raises(seewhy.InputError, match="initial holds 2 pictures for 3 channels"):
        seewhy.dream(lite0, "conv_stem", [0, 1, 2], initial=two)
    larger = seewhy.dream(lite0, "conv_stem", 0, initial=start, size=(250, 260), **how)
    assert larger.shape == (1, 3, 250, 260)


def test_the_start_is_quiet_noise_of_the_seed():
    found = seewhy.dream(seewhy.wrap(small(), prepare=CARD), "2", [0, 1], iterations=1, pyramid_levels=1, step=1e-9,
                         seed=3, scaling="none")  # fmt: skip
    z = 0.02 * normal(3, torch.zeros(1, 3, 6, 9, dtype=torch.float64))(0, 1)
    assert torch.allclose(found, (4 * z).sigmoid().expand(2, -1, -1, -1), atol=1e-8)


def test_the_cards_size_else_224(monkeypatch):
    assert seewhy.dream(seewhy.wrap(small(), prepare=CARD), "2", 0, iterations=1).shape == (1, 3, 6, 9)
    assert seewhy.dream(small(), "2", 0, iterations=1).shape == (1, 3, 224, 224)


def test_scaling():
    model = seewhy.wrap(small(), prepare=CARD)
    raw = seewhy.dream(model, "2", [0, 1], scaling="none", **SMALL)
    shown = seewhy.dream(model, "2", [0, 1], **SMALL)
    for a, b in zip(raw, shown, strict=True):
        assert torch.allclose((a - a.min()) / (a.max() - a.min()), b, atol=1e-12)
    assert raw.min() > 0
    free = seewhy.dream(small(), "2", 0, scaling="none", step=5.0, **SMALL)
    assert free.abs().max() > 1.5, "without a card in the network's own units"


# ---- what it leaves behind


def test_no_trace():
    net = testing.network()
    before = testing.state(net)
    assert seewhy.dream(net, "3", [0, 3], size=(9, 12), iterations=2, jitter=1).shape == (2, 3, 9, 12)
    assert testing.same(before, testing.state(net))
    start = testing.inputs(1)
    kept = start.clone()
    seewhy.dream(net, "8", [0, 3], initial=start, iterations=2)
    assert torch.equal(start, kept)
    assert testing.same(before, testing.state(net))


@pytest.mark.parametrize("place", range(9))
def test_no_trace_after_an_error(place):
    net, calls = testing.network(), []

    def explode(*_):
        calls.append(1)
        if len(calls) > 6:  # in the middle of the ascent
            raise ZeroDivisionError

    bomb = net[place].register_forward_hook(explode)
    before = testing.state(net)
    with pytest.raises(ZeroDivisionError):
        seewhy.dream(net, "8", [0, 3], size=(9, 12), iterations=20)
    assert testing.same(before, testing.state(net))
    bomb.remove()


# ---- what it refuses


class Blocked(nn.Module):
    """Nothing comes back from its head."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.conv(x).mean((2, 3)).detach())


@pytest.mark.parametrize(
    ("layer", "channels", "options", "error", "text"),
    [
        ("cnv", 0, {}, seewhy.UnknownNameError, "unknown layer 'cnv'. Did you mean 'conv'"),
        ("", 0, {}, seewhy.UnknownNameError, "unknown layer ''"),
        ("conv", 4, {}, seewhy.OptionError, "channel 4 is out of range: layer 'conv' has 4 channels, 0 to 3."),
        ("conv", [0, -1], {}, seewhy.OptionError, "channel -1 is out of range"),
        ("conv", [], {}, seewhy.OptionError, r"channels=\[\]: a whole number, or a list of at least one"),
        ("conv", True, {}, seewhy.OptionError, "channels=True"),
        ("head", 0, {}, seewhy.ModelError, "no picture can be made for layer 'head' of Blocked: it does not depend"),
        (None, 0, {}, seewhy.ModelError, "no picture can be made for the output of Blocked"),
        ("conv", 0, {"iterations": 0}, seewhy.OptionError, "iterations=0: a whole number, at least 1"),
        ("conv", 0, {"pyramid_levels": 0}, seewhy.OptionError, "pyramid_levels=0: a whole number, at least 1"),
        ("conv", 0, {"pyramid_scale": 1}, seewhy.OptionError, "pyramid_scale=1: a number above 1"),
        ("conv", 0, {"step": 0}, seewhy.OptionError, "step=0: a number above 0"),
        ("conv", 0, {"step": float("nan")}, seewhy.OptionError, "step=nan"),
        ("conv", 0, {"jitter": -1}, seewhy.OptionError, "jitter=-1: a whole number, at least 0"),
        ("conv", 0, {"blur": -0.1}, seewhy.OptionError, "blur=-0.1: 0 or a number above it"),
        ("conv", 0, {"parametrisation": "wavelets"}, seewhy.OptionError, "is not one of 'fourier', 'pixels'"),
        ("conv", 0, {"scaling": "log"}, seewhy.OptionError, "is not one of 'linear', 'none'"),
        ("conv", 0, {"seed": -1}, seewhy.OptionError, "seed=-1: a whole number, at least 0"),
        ("conv", 0, {"size": 0}, seewhy.OptionError, "size=0: a whole number above 0, or 2 of them"),
        ("conv", 0, {"size": (3, 4, 5)}, seewhy.OptionError, r"size=\(3, 4, 5\)"),
        ("conv", 0, {"batch_size": 0}, seewhy.OptionError, "batch_size=0"),
        ("conv", 0, {"max_memory": 5}, seewhy.OptionError, "max_memory=5: one sample of Blocked needs about"),
        ("conv", 0, {"initial": torch.full((1, 3, 8, 8), torch.nan)}, seewhy.InputError, "192 NaN or infinite values"),
        ("conv", 0, {"initial": "cat.png"}, seewhy.ModelError, "no preparation"),
        ("conv", 0, {"initial": torch.zeros(1, 5, 8, 8)}, seewhy.ModelError, "failed on an input of shape"),
        ("conv", 0, {"device": "cuda:7"}, seewhy.OptionError, "device='cuda:7'"),
    ],
)
def test_refusals_come_before_the_ascent(monkeypatch, layer, channels, options, error, text):
    monkeypatch.setattr(module, "climb", lambda *_: pytest.fail("it climbed"))
    with pytest.raises(error, match=text):
        seewhy.dream(Blocked(), layer, channels, **{"size": 8, **options})


def test_values_of_the_wrong_kind():
    """In a process of their own: here annotations are checked before."""
    wrong = [{"channels": 1.5}, {"channels": "0"}, {"iterations": 2.0}, {"pyramid_scale": "a"}, {"size": "big"}]
    wrong += [{"total_variation": None}, {"step": True}, {"seed": "x"}, {"jitter": None}, {"parametrisation": 3}]
    code = f"""
import seewhy, torch
for bad in {wrong}:
    try:
        seewhy.dream(torch.nn.Conv2d(3, 4, 3), None, **{{"channels": 0, "size": 8, **bad}})
    except seewhy.OptionError as error:
        print(*bad, str(error).startswith(f"{{[*bad][0]}}={{[*bad.values()][0]!r}}"))
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.splitlines() == [f"{next(iter(bad))} True" for bad in wrong]


def test_refusals_of_models():
    with pytest.raises(seewhy.ModelError, match="has no layers that can be seen: use layer=None"):
        seewhy.dream(lambda x: x, "conv", 0)
    with pytest.raises(seewhy.OptionError, match="nothing says what Linear takes"):
        seewhy.dream(nn.Linear(3, 2), None, 0)
    scores = seewhy.types.Model(forward=lambda x: x, can=seewhy.types.Can.SCORES)
    with pytest.raises(seewhy.ModelError, match=r"dream needs Can.GRADIENTS, network can give Can.SCORES"):
        seewhy.dream(scores, None, 0)
    with pytest.raises(seewhy.OptionError, match=r"is probabilities, which hardly move.*name the layer before"):
        seewhy.dream(nn.Sequential(small(), nn.Softmax(1)), None, 0, size=8)
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, embed_dim=24, num_heads=2).eval()
    with pytest.raises(seewhy.ModelError, match=r"VisionTransformer refuses an input of \[1, 3, 40, 40\]"):
        seewhy.dream(vit, "head", 0, size=40)


def test_a_channel_that_never_answers_is_named():
    net = small()
    with torch.no_grad():
        net[2].bias[5] = -1e6
    with pytest.raises(seewhy.ModelError, match="channel 5 of layer '3' has a gradient of zero at every picture tried"):
        seewhy.dream(net, "3", [1, 5, 0], size=12, iterations=2)


def test_behind_a_closed_rectifier_it_looks_for_a_way():
    """The gradient is zero at the grey start; the way is that of the open one."""
    net = nn.Sequential(nn.Conv2d(3, 1, 1), nn.ReLU()).double()
    with torch.no_grad():
        net[0].weight.fill_(1.0)
        net[0].bias.fill_(-0.5)
    reached = []
    seewhy.dream(net, "1", 0, size=10, step=0.5, watch=reached.append)
    assert reached[0].activations == 0
    assert reached[-1].activations > 1
