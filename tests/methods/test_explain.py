"""What holds for every method."""

import pytest
import torch
from torch import nn

import seewhy
from seewhy import maps
from seewhy.methods.families import FAMILIES

EVERY = [name for name, m in seewhy.METHODS.items() if not FAMILIES[m.feeds].attention]  # on a convolutional network
ONE_CHANNEL = [name for name, m in seewhy.METHODS.items() if m.reduce is maps.channel_sum]
PATH = "integrated_gradients"
FEW = {name: {"samples": 4} for name in ("smoothgrad", "vargrad", "expected_gradients")} | {PATH: {"steps": 4}}
FEW |= {name: {"samples": 60, "segments": "grid", "features": 9} for name in ("lime", "kernel_shap")}
FEW |= {"rise": {"samples": 20, "cells": 3}, "feature_ablation": {"segments": "grid", "features": 9}}


class Counted(nn.Module):
    """Counts samples that pass forwards, and backward passes that reach the input."""

    def __init__(self, inside):
        super().__init__()
        self.inside, self.forwards, self.backwards = inside, 0, 0

    def forward(self, x):
        self.forwards += len(x)
        if x.requires_grad:
            x = x * 1.0
            x.register_hook(self.back)
        return self.inside(x)

    def back(self, gradient):
        self.backwards += len(gradient)


def small(spatial=2, channels=3, classes=5):
    torch.manual_seed(0)
    conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[spatial]
    pool = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}[spatial]
    layers = [conv(channels, 4, 3, padding=1), nn.ReLU(), conv(4, 6, 3, padding=1), nn.ReLU(), pool(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Dropout(0.5), nn.Linear(6, classes)).double()


X = torch.randn(3, 3, 6, 9, generator=torch.Generator().manual_seed(5)).double()


@pytest.mark.row(41, 38, 39, 40)
def test_three_maps_of_one_input_cost_one_forward_and_three_backwards():
    net = Counted(small())
    found = seewhy.explain(net, X[:1], ["gradient", "guided_backprop", "zeiler_fergus"])
    assert (net.forwards, net.backwards) == (1, 3)
    assert [e.method for e in found] == ["gradient", "guided_backprop", "zeiler_fergus"]
    for e in found:
        assert e.evaluations == (1, 1)
        assert torch.equal(e.values, seewhy.explain(net, X[:1], e.method).values)


@pytest.mark.row(136)
def test_k_targets_share_one_forward():
    net = Counted(small())
    e = seewhy.explain(net, X, "gradient", target=[0, 1, 2, 4])
    assert (net.forwards, net.backwards) == (3, 12)
    assert e.evaluations == (3, 12)


def test_gradient_and_input_times_gradient_share_the_backward():
    net = Counted(small())
    seewhy.explain(net, X, ["gradient", "input_x_gradient"])
    assert (net.forwards, net.backwards) == (3, 3)


@pytest.mark.row(26)
def test_integrated_gradients_cost_what_they_say():
    net = Counted(small())
    e = seewhy.explain(net, X[:2], "integrated_gradients", steps=7, target=[1, 2])
    assert e.evaluations == (net.forwards, net.backwards) == (2 * (1 + 7 + 1), 2 * 7 * 2)


@pytest.mark.row(12)
@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("shape", [(2, 3, 9), (2, 3, 6, 9), (2, 3, 4, 6, 5)])
def test_sequences_pictures_and_volumes(name, shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).double()
    e = seewhy.explain(small(len(shape) - 2), x, name, target=[1, 3], **FEW.get(name, {}))
    channels = 1 if name in ONE_CHANNEL else 3
    assert e.values.shape == (2, 2, channels, *shape[2:])
    assert e.maps.shape == e.scaled.shape == (2, 2, *shape[2:])
    assert torch.equal(e.input, x)


@pytest.mark.row(12)
@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_map_does_not_depend_on_its_batch(name, size):
    options = FEW.get(name, {})
    whole = seewhy.explain(small(), X, name, batch_size=size, **options)
    for n in range(3):
        alone = seewhy.explain(small(), X[n : n + 1], name, **options)
        assert (whole.values[n] - alone.values[0]).abs().max() < 1e-10 * alone.values.abs().max()


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("layout", ["NHWC", "CNHW", "HWCN"])
def test_layouts(name, layout):
    """Axes may stand anywhere; values are N K C and the others."""
    net, order = small(), ["NCHW".index(letter) for letter in layout]
    back = [layout.index(letter) for letter in "NCHW"]
    model = seewhy.wrap(net, layout=layout, forward=lambda net, x: net(x.permute(back)))
    ours = seewhy.explain(model, X.permute(order), name, target=2, **FEW.get(name, {}))
    assert torch.allclose(ours.values, seewhy.explain(net, X, name, target=2, **FEW.get(name, {})).values)
    assert torch.equal(ours.input, X)


def test_classes_last_for_channels_last_networks():
    conv = nn.Conv2d(3, 4, 3, padding=1).double()
    model = seewhy.wrap(conv, layout="NHWC", forward=lambda net, x: net(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
    ours = seewhy.explain(model, X.permute(0, 2, 3, 1), "gradient", target=3)
    assert torch.allclose(ours.values, seewhy.explain(conv, X, "gradient", target=3).values)


@pytest.mark.row(105)
def test_integer_inputs_are_taken():
    x = torch.randint(0, 255, (2, 3, 6, 9), dtype=torch.uint8)
    assert torch.equal(
        seewhy.explain(small(), x, "gradient").values, seewhy.explain(small(), x.double(), "gradient").values
    )


@pytest.mark.row(12)
def test_features_have_one_channel():
    e = seewhy.explain(nn.Linear(4, 2), torch.ones(3, 4), "gradient")
    assert e.values.shape == (3, 1, 1, 4)
    assert e.maps.shape == (3, 1, 4)


@pytest.mark.row(126)
def test_a_list_of_unequal_inputs_gives_a_list():
    net = small(1)
    sequences = [torch.randn(3, t, generator=torch.Generator().manual_seed(t)).double() for t in (5, 9, 7)]
    found = seewhy.explain(net, sequences, "gradient", target=1)
    assert [e.maps.shape[-1] for e in found] == [5, 9, 7]
    both = seewhy.explain(net, sequences, ["gradient", "guided_backprop"], target=1)
    assert [[e.method for e in one] for one in both] == [["gradient"] * 3, ["guided_backprop"] * 3]
    assert torch.equal(both[0][1].values, found[1].values)


@pytest.mark.row(15, 16, 45)
def test_maps_and_scaled():
    e = seewhy.explain(small(), X, "gradient", target=[1, 2])
    assert torch.equal(e.maps, e.values.abs().sum(2).float())
    assert e.maps.dtype == e.scaled.dtype == torch.float32
    assert (e.scaled.flatten(2).amin(2) == 0).all()
    assert (e.scaled.flatten(2).amax(2) == 1).all()
    assert torch.equal(e.scaled.flatten(2).argsort(2), e.maps.flatten(2).argsort(2))


@pytest.mark.row(16)
def test_a_constant_map_gives_zeros_and_a_note():
    e = seewhy.explain(lambda x: x.sum((1, 2, 3)) * torch.tensor([1.0, 0.0, 1.0]).double(), X, "gradient")
    assert (e.scaled == 0).all()
    assert "the map of sample 1, target 0 is constant: it shows nothing" in e.notes


def test_tiny_maps_are_not_flattened():
    """No absolute epsilon: a map of 1e-30 rescales as one of 1."""
    big = seewhy.explain(lambda x: x.square().sum((1, 2, 3)), X, "gradient").scaled
    tiny = seewhy.explain(lambda x: 1e-30 * x.square().sum((1, 2, 3)), X, "gradient").scaled
    assert torch.allclose(big, tiny)


@pytest.mark.row(5, 146)
def test_output_and_scores_are_those_of_the_network():
    net = small()
    e = seewhy.explain(net, X, "gradient", target="top3")
    expected = net.eval()(X).detach()
    assert torch.equal(e.output, expected)
    assert torch.equal(e.scores, expected.gather(1, e.targets))


def test_default_is_the_best_class():
    e = seewhy.explain(small(), X, "gradient")
    assert torch.equal(e.targets[:, 0], small().eval()(X).argmax(1))


@pytest.mark.parametrize("name", EVERY)
def test_the_users_surroundings_do_not_matter(name):
    net, options = small().train(), FEW.get(name, {})
    expected = seewhy.explain(net, X, name, target=1, **options).values
    for around in (torch.no_grad, torch.inference_mode):
        with around():
            assert torch.equal(seewhy.explain(net, X.clone(), name, target=1, **options).values, expected)
    assert net.training
    assert all(w.grad is None and w.requires_grad for w in net.parameters())
    for w in net.parameters():
        w.requires_grad_(False)
    assert torch.equal(seewhy.explain(net, X.clone().requires_grad_(), name, target=1, **options).values, expected)


def test_weights_made_in_inference_mode_are_refused():
    with torch.inference_mode():
        net = small()
    with pytest.raises(seewhy.ModelError, match="weights made in inference mode"):
        seewhy.explain(net, X, "gradient")


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"method": "grad"}, seewhy.UnknownNameError, "Did you mean 'gradient' or 'gradcam' or 'gradcam.+'"),
        ({"method": []}, seewhy.OptionError, "asks for nothing"),
        ({"setps": 3, "method": PATH}, seewhy.UnknownNameError, f"option of {PATH} 'setps'. Did you mean 'steps'"),
        ({"steps": 3}, seewhy.UnknownNameError, "unknown option of gradient 'steps'"),
        ({"steps": 0, "method": PATH}, seewhy.OptionError, "steps=0: an integer from 1"),
        ({"steps": 2.5, "method": PATH}, seewhy.OptionError, "steps=2.5: an integer"),
        ({"rule": "simpson", "method": PATH}, seewhy.OptionError, "'simpson' is not one of 'midpoint'"),
        ({"score": "odds"}, seewhy.OptionError, "score='odds' is not one of 'logit'"),
        ({"upsample": "cubic"}, seewhy.OptionError, "upsample='cubic' is not one of"),
        ({"batch_size": 0}, seewhy.OptionError, "batch_size=0"),
        ({"batch_size": "big"}, seewhy.OptionError, "batch_size='big'"),
        ({"max_memory": 10}, seewhy.OptionError, "one sample of Sequential needs about"),
        ({"device": "cuda:7"}, seewhy.OptionError, "device='cuda:7' is not there"),
        ({"device": "abacus"}, seewhy.OptionError, "device='abacus' is not there"),
        ({"feature_layer": "0"}, seewhy.OptionError, "read no layer"),
        ({"baseline": "white", "method": PATH}, seewhy.OptionError, "'white' is not 'mean', 'blur', 'black'"),
        ({"baseline": "black", "method": PATH}, seewhy.OptionError, "give a number or a tensor"),
        ({"baseline": torch.ones(7), "method": PATH}, seewhy.OptionError, "does not fit"),
        ({"baseline": float("nan"), "method": PATH}, seewhy.OptionError, "NaN"),
        ({"x": X * float("nan")}, seewhy.InputError, "486 NaN or infinite values of 486"),
        ({"x": X[:0]}, seewhy.InputError, "nothing in it to explain"),
        ({"x": X[0, 0, 0]}, seewhy.InputError, "give a batch"),
        ({"x": X[:, :2]}, seewhy.ModelError, r"failed on an input of shape \[3, 2, 6, 9\]"),
        ({"x": X[0]}, seewhy.ModelError, "failed on an input|first axis must be the batch"),
        ({"x": "cat.png"}, seewhy.ModelError, "given no preparation"),
        ({"x": X.to(torch.complex128)}, seewhy.InputError, "complex"),
    ],
)  # fmt: skip
def test_bad_values(arguments, error, text):
    with pytest.raises(error, match=text) as caught:
        seewhy.explain(small(), **{"x": X, "method": "gradient"} | arguments)
    assert isinstance(caught.value, seewhy.SeewhyError)
    assert isinstance(
        caught.value, {seewhy.UnknownNameError: KeyError, seewhy.ModelError: Exception}.get(error, ValueError)
    )


@pytest.mark.row(117)
def test_devices():
    assert torch.equal(
        seewhy.explain(small(), X, "gradient", device="cpu").values, seewhy.explain(small(), X, "gradient").values
    )


def test_a_callable_that_raises_shows_its_own_error():
    def broken(x):
        raise KeyError("no such key")

    with pytest.raises(KeyError, match="no such key"):
        seewhy.explain(broken, X, "gradient")


def test_nan_in_the_weights_is_refused():
    net = small()
    with torch.no_grad():
        net[0].weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(seewhy.ModelError, match=r"NaN or infinite values on a finite input: its '0.weight' holds some"):
        seewhy.explain(net, X, "gradient")


def test_a_gradient_that_is_not_finite_is_refused():
    with pytest.raises(
        seewhy.ModelError, match="the gradient of target 0 holds NaN or infinite values; its weights are"
    ):
        seewhy.explain(lambda x: x.sum(1).sqrt(), torch.zeros(1, 3), "gradient")


def test_float32_maps_hardly_depend_on_the_batch(lite0, shipped):
    """Kinks of rectifiers turn rounding into small jumps; a thousandth is their noise."""
    x = lite0.prepare(list(shipped.values()))
    whole = seewhy.explain(lite0, x, "gradient", batch_size=3)
    for n in range(3):
        alone = seewhy.explain(lite0, x[n : n + 1], "gradient")
        assert (whole.values[n] - alone.values[0]).norm() < 1e-3 * alone.values.norm()


def test_memory_is_held():
    from seewhy.trace.forward import bytes_a_sample

    net = small()
    each = bytes_a_sample(seewhy.wrap(net), X)
    sizes = []
    net.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    e = seewhy.explain(net, X, "gradient", max_memory=2 * each)
    assert sizes == [1, 2, 1]
    assert torch.allclose(e.values, seewhy.explain(small(), X, "gradient").values)


def test_batches_are_halved_where_memory_ends():
    inside, sizes = small(), []

    def tight(x):
        sizes.append(len(x))
        if len(x) > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
        return inside(x)

    inside.eval()
    x = X.repeat(3, 1, 1, 1)
    e = seewhy.explain(tight, x, "integrated_gradients", steps=3, target=1, baseline=0)
    assert torch.allclose(
        e.values, seewhy.explain(inside, x, "integrated_gradients", steps=3, target=1, baseline=0).values
    )
    assert max(sizes) > 2

    def never(x):
        raise torch.OutOfMemoryError("no")

    with pytest.raises(torch.OutOfMemoryError):
        seewhy.explain(never, x, "gradient")


def test_progress_on_stderr_only(capsys, monkeypatch):
    from seewhy.methods import progress

    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    seewhy.explain(small(), X, "integrated_gradients", steps=5, progress=True)
    seen = capsys.readouterr()
    assert "passes" in seen.err
    assert not seen.out
    seewhy.explain(small(), X, "integrated_gradients", steps=5)
    assert capsys.readouterr() == ("", "")


def test_other_peoples_methods_are_taken():
    def sign(gradient):
        """Only the sign of the gradient."""
        return gradient.sign()

    method = seewhy.methods.Method(sign, "input_gradient", "Sign", "nobody 2000")
    e = seewhy.explain(small(), X, method)
    assert e.method == "sign"
    assert torch.equal(e.values, seewhy.explain(small(), X, "gradient").values.sign())
