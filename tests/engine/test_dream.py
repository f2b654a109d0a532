"""Activation maximization (`seewhy.dream`): closed forms, a reference implementation, side effects, errors."""

import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from tests.oracles import dream as reference
from tests.oracles.network import NumpyNetwork, TorchNetwork
from torch import nn

import seewhy
from seewhy import testing
from seewhy.engine import dream as dream_module
from seewhy.engine.random_numbers import normal_sampler, shift_sampler
from seewhy.feature_layers.table import activations
from seewhy.methods.activation_maximization.update import (
    OPPONENT_STD,
    TV_EPSILON,
    color_covariance,
    filter_frequencies,
    frequency_weights,
    normalize_rms,
    total_variation_gradient,
    update_direction,
)

PREPROCESSING = seewhy.Preprocessing((6, 9), (0.4, 0.5, 0.6), (0.2, 0.25, 0.5))
CLASSES = [285, 967, 430]
FAST_OPTIONS = {"iterations": 2, "pyramid_levels": 2, "size": (12, 16), "jitter": 2}


def small_network(seed=0, dtype=torch.float64):
    """A network that accepts pictures of any size."""
    layers = [nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.ReLU()]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).to(dtype)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_(torch.randn(weight.shape, generator=draw, dtype=torch.float64) * 0.5)
    return net


def first_and_last_activations(history):
    """For each level the activations [K] before its first step and after its last."""
    levels = {}
    for progress in history:
        levels.setdefault(progress.level, {}).setdefault(progress.iteration, []).append(progress.activations)
    return [[torch.cat(by_iteration[i]) for i in (0, max(by_iteration))] for by_iteration in levels.values()]


# ---- closed forms and reference implementation


def test_step_on_linear_layer_follows_its_weights():
    net = nn.Sequential(nn.Flatten(), nn.Linear(24, 3)).double()
    start = torch.randn(1, 2, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    result = seewhy.dream(net, "1", [2, 0], initial=start, iterations=1, pyramid_levels=1, step=0.3, jitter=0,
                         parametrization="pixels", scaling="none")  # fmt: skip
    for picture, row in zip(result, net[1].weight[[2, 0]], strict=True):
        direction = (row / row.square().mean().sqrt()).reshape(2, 3, 4)
        assert torch.allclose(picture, start[0] + 0.3 * direction, atol=1e-14)


def test_step_size_decreases_linearly():
    """On a linear layer the direction is constant: 1 + 3/4 + 2/4 + 1/4 steps in total."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(24, 3)).double()
    start = torch.zeros(1, 2, 3, 4, dtype=torch.float64)
    result = seewhy.dream(net, None, 1, initial=start, iterations=4, pyramid_levels=1, step=0.2, jitter=0,
                         parametrization="pixels", scaling="none")  # fmt: skip
    assert result.square().mean().sqrt().item() == pytest.approx(0.5, rel=1e-12)


@pytest.mark.parametrize("parametrization", ["fourier", "pixels"])
def test_dream_equals_reference_implementation(parametrization):
    network, draw = NumpyNetwork(), np.random.default_rng(3)
    start = draw.uniform(0.2, 0.8, size=(3, 6, 9))
    mean, std = (np.reshape(v, (3, 1, 1)) for v in (PREPROCESSING.mean, PREPROCESSING.std))
    draw_shift = shift_sampler(7, 2, 2)
    all_shifts = [draw_shift(j) for j in range(3)]
    assert len({tuple(r) for r in all_shifts}) > 1

    def gradient(z, target):
        picture = 1 / (1 + np.exp(-4 * z))
        return network.backward((picture - mean) / std, target) / std * 4 * picture * (1 - picture)

    options = {"fourier": {"blur": 0.8}, "pixels": {"total_variation": 0.3}}[parametrization]
    model = seewhy.wrap(TorchNetwork(network), prepare=PREPROCESSING)
    x = torch.tensor((start - mean) / std).unsqueeze(0)
    result = seewhy.dream(model, None, [3, 1], initial=x, iterations=3, pyramid_levels=1, step=0.2, jitter=2, seed=7,
                         parametrization=parametrization, scaling="none", **options)  # fmt: skip
    settings = {"iterations": 3, "step": 0.2, "shifts": all_shifts, **options}
    for picture, target in zip(result, (3, 1), strict=True):
        z = np.log(start / (1 - start)) / 4
        if parametrization == "fourier":
            z = reference.fourier_gradient_ascent(
                lambda z, t=target: gradient(z, t), z, opponent_std=OPPONENT_STD, **settings
            )
        else:
            z = reference.pixel_gradient_ascent(lambda z, t=target: gradient(z, t), z, epsilon=TV_EPSILON, **settings)
        assert np.abs(picture.numpy() - 1 / (1 + np.exp(-4 * z))).max() < 1e-11
        assert np.abs(picture.numpy() - start).max() > 0.05


# ---- steps


@pytest.mark.parametrize("size", [(12,), (6, 9), (7, 4), (4, 5, 6), (1, 8)])
def test_filter_frequencies_is_invertible_and_symmetric(size):
    z = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    power = frequency_weights(size, fourier=True)
    assert torch.allclose(filter_frequencies(filter_frequencies(z, power), 1 / power), z, atol=1e-12)
    assert torch.allclose(filter_frequencies(z, torch.ones_like(power)), z, atol=1e-12)
    a, b = filter_frequencies(z[:1], power), filter_frequencies(z[1:], power)
    assert torch.allclose((a * z[1:]).sum(), (b * z[:1]).sum()), "symmetric"


def test_frequency_weights_of_single_wave():
    place = torch.arange(16, dtype=torch.float64)
    for cycles in (1, 3, 8):
        wave = torch.cos(2 * torch.pi * cycles * place / 16).expand(1, 1, 16, 16)
        assert torch.allclose(filter_frequencies(wave, frequency_weights((16, 16), True)), wave * (16 / cycles) ** 2)
        smooth = wave * np.exp(-2 * (np.pi * 1.5 * cycles / 16) ** 2)
        assert torch.allclose(filter_frequencies(wave, frequency_weights((16, 16), False, 1.5)), smooth)


def test_color_covariance_eigenvalues_and_gray_axis():
    values, axes = torch.linalg.eigh(color_covariance())
    assert torch.allclose(values, torch.tensor(OPPONENT_STD, dtype=torch.float64).square().flip(0))
    assert torch.allclose(axes[:, 2].abs(), torch.full((3,), 3**-0.5, dtype=torch.float64))


def test_total_variation_gradient_equals_autograd():
    z = torch.randn(2, 3, 5, 6, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64).requires_grad_()
    squares = 0
    for axis in (2, 3, 4):
        extended = torch.cat([z, z.narrow(axis, -1, 1)], axis)
        squares = squares + extended.diff(dim=axis) ** 2
    total = (squares + TV_EPSILON**2).sqrt().sum()
    assert torch.allclose(torch.autograd.grad(total, z)[0], total_variation_gradient(z.detach()), atol=1e-12)


def test_update_direction_has_unit_rms_for_any_gradient():
    g = torch.randn(4, 3, 6, 9, generator=torch.Generator().manual_seed(0))
    g = g * torch.tensor([1e-30, 1.0, 1e30, 0.0]).view(4, 1, 1, 1)
    for options in ({}, {"parametrization": "fourier", "decorrelate_colors": True}, {"blur": 2.0}):
        direction = update_direction(g, torch.zeros_like(g), **options)
        assert torch.allclose(
            direction.square().flatten(1).mean(1).sqrt(), torch.tensor([1.0, 1.0, 1.0, 0.0]), atol=1e-5
        )
    assert torch.equal(normalize_rms(torch.zeros(1, 1, 3)), torch.zeros(1, 1, 3))


# ---- results


@pytest.fixture(scope="module")
def classes(lite0):
    """Pictures of three classes with default options, and the progress of the optimization."""
    history = []
    return seewhy.dream(lite0, "classifier", CLASSES, callback=history.append, scaling="none", batch_size=3), history


@pytest.mark.row(83, 86)
def test_dream_of_last_layer_is_classified_as_its_class(lite0, classes):
    pictures, history = classes
    assert pictures.shape == (3, 3, 224, 224)
    assert pictures.dtype == torch.float32
    assert 0 <= pictures.min() < 0.05
    assert 0.9 < pictures.max() <= 1
    top = seewhy.predict(lite0, (pictures - 0.5) / 0.5, top=1)
    assert top.indices[:, 0].tolist() == CLASSES
    assert (top.probabilities > 0.95).all()
    logits = top.output[range(3), CLASSES]
    assert torch.allclose(logits, history[-1].activations, rtol=1e-3), "the reported activation is that of the picture"


def test_activation_increases_at_every_level(classes):
    levels = first_and_last_activations(classes[1])
    assert len(levels) == 3
    for before, after in levels:
        assert (after > before + 3).all()
    assert (levels[0][0].abs() < 1).all()
    assert (levels[-1][1] > 15).all()


@pytest.mark.parametrize("parametrization", ["fourier", "pixels"])
def test_activation_increases_on_small_network(parametrization):
    history = []
    seewhy.dream(
        small_network(), "2", [0, 3, 7], size=(20, 30), parametrization=parametrization, callback=history.append
    )
    levels = first_and_last_activations(history)
    assert len(levels) == 3
    for before, after in levels:
        assert (after > before).all()
    assert (levels[-1][1] > levels[0][0] + 0.2).all()


def test_fourier_pictures_are_smooth_and_colored(lite0, classes):
    """Adjacent pixels are similar and colors vary; with the parametrization "pixels" they do not."""
    noisy = seewhy.dream(lite0, "classifier", 430, size=112, parametrization="pixels", scaling="none")

    def roughness(picture):
        return (picture.diff(dim=-1).square().mean() / picture.var()).item()

    assert max(map(roughness, classes[0])) < 0.3
    assert roughness(noisy) > 0.6
    assert (classes[0].std((1, 2, 3)) > 0.1).all(), "not gray"


@pytest.mark.row(85)
def test_default_options_and_level_sizes():
    import inspect

    defaults = {k: p.default for k, p in inspect.signature(seewhy.dream).parameters.items()}
    assert (defaults["iterations"], defaults["pyramid_levels"], defaults["pyramid_scale"]) == (10, 3, 1.4)
    history = []
    picture = seewhy.dream(small_network(), "6", 1, iterations=100, pyramid_levels=4, size=16, callback=history.append)
    assert picture.shape == (1, 3, 16, 16)
    assert [r.iteration for r in history] == [*range(101)] * 4
    assert [r.level for r in history] == [n for n in range(4) for _ in range(101)]
    sides = []
    net = small_network()
    net.register_forward_hook(lambda _m, given, _o: sides.append(tuple(given[0].shape[2:])))
    seewhy.dream(net, "6", 1, size=(28, 42))
    assert list(dict.fromkeys(sides[-30:])) == [(14, 21), (20, 30), (28, 42)]


@pytest.mark.row(84)
def test_progress_bar(monkeypatch, capsys):
    monkeypatch.setattr("seewhy.engine.progress.BAR_DELAY", 0.0)
    seewhy.dream(small_network(), "6", 1, **FAST_OPTIONS, progress=True)
    assert "dream" in (output := capsys.readouterr()).err
    assert "level 2 of 2, activation" in output.err
    assert not output.out
    for terminal in (True, False):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal, raising=False)
        seewhy.dream(small_network(), "6", 1, **FAST_OPTIONS, progress=False)
        assert not capsys.readouterr().err
        seewhy.dream(small_network(), "6", 1, **FAST_OPTIONS)
        assert ("dream" in capsys.readouterr().err) == terminal


def test_same_seed_yields_same_picture_for_any_batch_size():
    net = small_network()
    options = {"iterations": 4, "pyramid_levels": 2, "size": (16, 20), "jitter": 3, "seed": 5}
    together = seewhy.dream(net, "4", [7, 0, 3], batch_size=3, **options)
    assert torch.equal(together, seewhy.dream(net, "4", [7, 0, 3], batch_size=3, **options))
    for size in (1, 2, "auto"):
        assert torch.allclose(seewhy.dream(net, "4", [7, 0, 3], batch_size=size, **options), together, atol=1e-9)
    for n, channel in enumerate((7, 0, 3)):
        assert torch.allclose(seewhy.dream(net, "4", channel, **options)[0], together[n], atol=1e-9)
    assert (seewhy.dream(net, "4", [7, 0, 3], **{**options, "seed": 6}) - together).abs().max() > 0.01
    limited = seewhy.dream(net, "4", [7, 0, 3], max_memory=10**5, **options)
    assert torch.allclose(limited, together, atol=1e-9)


def test_pictures_are_bitwise_equal_with_other_channels(lite0):
    """With one picture per pass, rounding does not depend on the number of channels."""
    options = {"iterations": 4, "pyramid_levels": 2, "size": 64}
    for layer in ("classifier", "blocks.4"):
        together = seewhy.dream(lite0, layer, [9, 1, 9], **options)
        assert torch.equal(together[0], together[2])
        for n, channel in enumerate((9, 1)):
            assert torch.equal(seewhy.dream(lite0, layer, channel, **options)[0], together[n])


def test_batch_size_limits_pictures_per_pass():
    net, sizes = small_network(), []
    net.register_forward_hook(lambda _m, given, _o: sizes.append(len(given[0])))
    seewhy.dream(net, "2", [0, 1, 2, 3, 4], batch_size=2, **FAST_OPTIONS)
    assert max(sizes) == 2
    sizes.clear()
    seewhy.dream(net, "2", list(range(8)), **FAST_OPTIONS)
    assert max(sizes) == 1


# ---- kinds of layers and inputs


def test_activation_is_mean_over_positions(lite0):
    for layer, channel in (("blocks.2", 3), ("bn2.act", 7), ("blocks.1.1/add", 5), ("classifier", 9)):
        history = []
        picture = seewhy.dream(lite0, layer, channel, iterations=3, pyramid_levels=1, size=64, scaling="none",
                               callback=history.append)  # fmt: skip
        values = activations(lite0, (picture - 0.5) / 0.5, layer).values[0, channel]
        assert values.mean().item() == pytest.approx(history[-1].activations.item(), rel=1e-4)
        assert history[-1].activations > history[0].activations


def test_output_equals_last_layer(lite0):
    options = {"iterations": 2, "pyramid_levels": 1, "size": 64}
    assert torch.equal(seewhy.dream(lite0, None, 9, **options), seewhy.dream(lite0, "classifier", 9, **options))


def test_single_execution_of_repeated_layer():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.relu, self.out = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)

        def forward(self, x):
            return self.relu(self.out(self.relu(self.conv(x) + 1)) + 1)

    net = Twice().double()
    history = []
    seewhy.dream(net, "relu#2", 1, **FAST_OPTIONS, callback=history.append)
    assert history[-1].activations > history[0].activations
    with pytest.raises(seewhy.ModelError, match="name the call, relu#1, relu#2"):
        seewhy.dream(net, "relu", 1, **FAST_OPTIONS)
    with pytest.raises(seewhy.OptionError, match="channel 2 is out of range: layer 'relu#2' has 2 channels, 0 to 1"):
        seewhy.dream(net, "relu#2", 2, **FAST_OPTIONS)


def test_vision_transformer_with_fixed_input_size():
    """Pictures of every level are resampled to 32 × 32; the class token is not a position."""
    net = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=1, embed_dim=24, num_heads=2,
                            num_classes=7).double().eval()  # fmt: skip
    model = seewhy.wrap(net, prepare=seewhy.Preprocessing((32, 32), (0.5,) * 3, (0.5,) * 3))
    history = []
    options = {"iterations": 3, "jitter": 2, "scaling": "none", "callback": history.append, "batch_size": 2}
    pictures = seewhy.dream(model, "blocks.0", [3, 20], **options)
    values = activations(model, (pictures - 0.5) / 0.5, "blocks.0").values
    assert values.shape == (2, 24, 4, 4)
    expected = torch.stack([values[0, 3].mean(), values[1, 20].mean()])
    assert torch.allclose(expected, history[-1].activations, rtol=1e-9)
    history.clear()
    assert seewhy.dream(model, "head", 3, **options, size=(50, 40)).shape == (1, 3, 50, 40)
    assert history[-1].activations[0] > history[0].activations[0] + 0.01


@pytest.mark.parametrize("rank", [1, 3])
def test_sequences_and_volumes(rank):
    conv = {1: nn.Conv1d, 3: nn.Conv3d}[rank]
    net = nn.Sequential(conv(2, 4, 3, padding=1), nn.Tanh(), conv(4, 3, 3, padding=1)).double()
    size = (20,) if rank == 1 else (6, 8, 10)
    for parametrization in ("fourier", "pixels"):
        history = []
        result = seewhy.dream(net, "2", [0, 2], size=size, jitter=1, parametrization=parametrization,
                             total_variation=0.05, callback=history.append, batch_size=2)  # fmt: skip
        assert result.shape == (2, 2, *size)
        assert (result.flatten(1).amin(1) == 0).all()
        assert (result.flatten(1).amax(1) == 1).all()
        assert (history[-1].activations > history[0].activations).all()
    with pytest.raises(seewhy.OptionError, match=f"size=None: Sequential expects inputs with {rank} axes"):
        seewhy.dream(net, "2", 0)


def test_channels_last_layout_and_plain_function():
    net = small_network()
    last = seewhy.wrap(net, layout="NHWC", forward=lambda net, x: net(x.permute(0, 3, 1, 2)))
    options = {"iterations": 2, "pyramid_levels": 2, "jitter": 1, "size": 12}
    assert torch.allclose(seewhy.dream(last, "2", 3, **options), seewhy.dream(net, "2", 3, **options), atol=1e-12)
    start = torch.zeros(1, 3, 12, 12, dtype=torch.float64)
    result = seewhy.dream(lambda x: net(x), None, 3, initial=start, **options)
    assert torch.allclose(result, seewhy.dream(net, None, 3, initial=start, **options), atol=1e-12)


# ---- initial picture and scaling


def test_initial_picture_is_the_start(lite0, shipped):
    options = {"iterations": 1, "step": 1e-6, "scaling": "none", "jitter": 0}
    start = lite0.prepare(shipped["chelsea"])
    for initial in (shipped["chelsea"], start):
        result = seewhy.dream(lite0, "conv_stem", [0, 1], initial=initial, **options)
        assert (result - (start * 0.5 + 0.5)).abs().max() < 0.003, "fine details are restored at the last level"
    two = torch.cat([start, -start])
    each = seewhy.dream(lite0, "conv_stem", [0, 1], initial=two, **options)
    assert (each - (two * 0.5 + 0.5)).abs().max() < 0.003
    with pytest.raises(seewhy.InputError, match="initial holds 2 pictures for 3 channels"):
        seewhy.dream(lite0, "conv_stem", [0, 1, 2], initial=two)
    larger = seewhy.dream(lite0, "conv_stem", 0, initial=start, size=(250, 260), **options)
    assert larger.shape == (1, 3, 250, 260)


def test_default_start_is_seeded_noise():
    model = seewhy.wrap(small_network(), prepare=PREPROCESSING)
    result = seewhy.dream(model, "2", [0, 1], iterations=1, pyramid_levels=1, step=1e-9, seed=3, scaling="none")
    z = 0.02 * normal_sampler(3, torch.zeros(1, 3, 6, 9, dtype=torch.float64))(0, 1)
    assert torch.allclose(result, (4 * z).sigmoid().expand(2, -1, -1, -1), atol=1e-8)


def test_default_size_is_that_of_preprocessing_or_224(monkeypatch):
    assert seewhy.dream(seewhy.wrap(small_network(), prepare=PREPROCESSING), "2", 0, iterations=1).shape == (1, 3, 6, 9)
    assert seewhy.dream(small_network(), "2", 0, iterations=1).shape == (1, 3, 224, 224)


def test_scaling_options():
    model = seewhy.wrap(small_network(), prepare=PREPROCESSING)
    raw = seewhy.dream(model, "2", [0, 1], scaling="none", **FAST_OPTIONS)
    shown = seewhy.dream(model, "2", [0, 1], **FAST_OPTIONS)
    for a, b in zip(raw, shown, strict=True):
        assert torch.allclose((a - a.min()) / (a.max() - a.min()), b, atol=1e-12)
    assert raw.min() > 0
    free = seewhy.dream(small_network(), "2", 0, scaling="none", step=5.0, **FAST_OPTIONS)
    assert free.abs().max() > 1.5, "without Preprocessing the picture is in the network's own units"


# ---- side effects


def test_dream_does_not_change_network_or_input():
    net = testing.network()
    before = testing.state(net)
    assert seewhy.dream(net, "3", [0, 3], size=(9, 12), iterations=2, jitter=1).shape == (2, 3, 9, 12)
    assert testing.states_equal(before, testing.state(net))
    start = testing.inputs(1)
    kept = start.clone()
    seewhy.dream(net, "8", [0, 3], initial=start, iterations=2)
    assert torch.equal(start, kept)
    assert testing.states_equal(before, testing.state(net))


@pytest.mark.parametrize("place", range(9))
def test_dream_does_not_change_network_after_error(place):
    net, calls = testing.network(), []

    def fail_in_ascent(*_):
        calls.append(1)
        if len(calls) > 6:
            raise ZeroDivisionError

    handle = net[place].register_forward_hook(fail_in_ascent)
    before = testing.state(net)
    with pytest.raises(seewhy.ModelError, match="ZeroDivisionError"):
        seewhy.dream(net, "8", [0, 3], size=(9, 12), iterations=20)
    assert testing.states_equal(before, testing.state(net))
    handle.remove()


# ---- errors


class DetachedHead(nn.Module):
    """A network whose head has no gradient to its input."""

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
        ("conv", [], {}, seewhy.OptionError, r"channels=\[\]: it must be an integer or a list of at least one"),
        ("conv", True, {}, seewhy.OptionError, "channels=True"),
        (
            "head",
            0,
            {},
            seewhy.ModelError,
            "no picture can be made for layer 'head' of DetachedHead: it does not depend",
        ),
        (None, 0, {}, seewhy.ModelError, "no picture can be made for the output of DetachedHead"),
        ("conv", 0, {"iterations": 0}, seewhy.OptionError, "iterations=0: it must be an integer of at least 1"),
        ("conv", 0, {"pyramid_levels": 0}, seewhy.OptionError, "pyramid_levels=0: it must be an integer of at least 1"),
        ("conv", 0, {"pyramid_scale": 1}, seewhy.OptionError, "pyramid_scale=1: it must be a number above 1"),
        ("conv", 0, {"step": 0}, seewhy.OptionError, "step=0: it must be a number above 0"),
        ("conv", 0, {"step": float("nan")}, seewhy.OptionError, "step=nan"),
        ("conv", 0, {"jitter": -1}, seewhy.OptionError, "jitter=-1: it must be an integer of at least 0"),
        ("conv", 0, {"blur": -0.1}, seewhy.OptionError, "blur=-0.1: it must be a number of at least 0"),
        ("conv", 0, {"parametrization": "wavelets"}, seewhy.OptionError, "is not one of 'fourier', 'pixels'"),
        ("conv", 0, {"scaling": "log"}, seewhy.OptionError, "is not one of 'linear', 'none'"),
        ("conv", 0, {"seed": -1}, seewhy.OptionError, "seed=-1: it must be an integer of at least 0"),
        ("conv", 0, {"size": 0}, seewhy.OptionError, "size=0: it must be a positive integer, or 2 of them"),
        ("conv", 0, {"size": (3, 4, 5)}, seewhy.OptionError, r"size=\(3, 4, 5\)"),
        ("conv", 0, {"batch_size": 0}, seewhy.OptionError, "batch_size=0"),
        ("conv", 0, {"max_memory": 5}, seewhy.OptionError, "max_memory=5: one sample of DetachedHead needs about"),
        ("conv", 0, {"initial": torch.full((1, 3, 8, 8), torch.nan)}, seewhy.InputError, "192 of the 192 values"),
        ("conv", 0, {"initial": "cat.png"}, seewhy.ModelError, "has no preprocessing"),
        ("conv", 0, {"initial": torch.zeros(1, 5, 8, 8)}, seewhy.ModelError, "failed on an input of shape"),
        ("conv", 0, {"device": "cuda:7"}, seewhy.OptionError, "device='cuda:7'"),
    ],
)
def test_invalid_arguments_are_rejected_before_ascent(monkeypatch, layer, channels, options, error, text):
    monkeypatch.setattr(dream_module, "maximize_activations", lambda *_: pytest.fail("the ascent started"))
    with pytest.raises(error, match=text):
        seewhy.dream(DetachedHead(), layer, channels, **{"size": 8, **options})


def test_values_of_wrong_type_are_rejected():
    """Runs in a process of its own, since in this process type checks of annotations would raise first."""
    wrong = [{"channels": 1.5}, {"channels": "0"}, {"iterations": 2.0}, {"pyramid_scale": "a"}, {"size": "big"}]
    wrong += [{"total_variation": None}, {"step": True}, {"seed": "x"}, {"jitter": None}, {"parametrization": 3}]
    code = f"""
import seewhy, torch
for bad in {wrong}:
    try:
        seewhy.dream(torch.nn.Conv2d(3, 4, 3), None, **{{"channels": 0, "size": 8, **bad}})
    except seewhy.OptionError as error:
        print(*bad, str(error).startswith(f"{{[*bad][0]}}={{[*bad.values()][0]!r}}"))
"""
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert output.stdout.splitlines() == [f"{next(iter(bad))} True" for bad in wrong]


def test_unsuitable_models_are_rejected():
    with pytest.raises(seewhy.ModelError, match="has no accessible layers: use layer=None"):
        seewhy.dream(lambda x: x, "conv", 0)
    with pytest.raises(seewhy.OptionError, match="the input shape of Linear is unknown"):
        seewhy.dream(nn.Linear(3, 2), None, 0)
    scores = seewhy.Model(forward=lambda x: x, capabilities=seewhy.types.Capability.SCORES)
    with pytest.raises(seewhy.ModelError, match="dream needs gradients, network has scores"):
        seewhy.dream(scores, None, 0)
    with pytest.raises(seewhy.OptionError, match=r"consists of probabilities, which saturate.*name the layer before"):
        seewhy.dream(seewhy.wrap(small_network(), forward=lambda n, x: 2 ** n(x) / (2 ** n(x)).sum(1, True)), None, 0,
                     size=8)  # fmt: skip
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, embed_dim=24, num_heads=2).eval()
    with pytest.raises(seewhy.ModelError, match=r"VisionTransformer failed on an input of shape \[1, 3, 40, 40\]"):
        seewhy.dream(vit, "head", 0, size=40)


def test_final_softmax_is_left_out():
    plain, soft = small_network(), nn.Sequential(small_network(), nn.Softmax(1))
    a, b = (seewhy.dream(net, None, 2, size=8, iterations=2, pyramid_levels=1) for net in (plain, soft))
    torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_error_names_channel_with_zero_gradient():
    net = small_network()
    with torch.no_grad():
        net[2].bias[5] = -1e6
    with pytest.raises(seewhy.ModelError, match="channel 5 of layer '3' has a gradient of zero in every step"):
        seewhy.dream(net, "3", [1, 5, 0], size=12, iterations=2)


def test_closed_rectifier_is_opened():
    """The gradient at the gray start is zero; the gradient without the rectifier is used instead."""
    net = nn.Sequential(nn.Conv2d(3, 1, 1), nn.ReLU()).double()
    with torch.no_grad():
        net[0].weight.fill_(1.0)
        net[0].bias.fill_(-0.5)
    history = []
    seewhy.dream(net, "1", 0, size=10, step=0.5, callback=history.append)
    assert history[0].activations == 0
    assert history[-1].activations > 1
