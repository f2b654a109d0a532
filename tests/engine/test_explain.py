"""explain(): properties that hold for every method, costs, and errors."""

import pytest
import torch
from tests.networks import observed
from torch import nn

import seewhy
from seewhy import maps
from seewhy.engine.families import FAMILIES

CONVOLUTIONAL_METHODS = [name for name, m in seewhy.METHODS.items() if not FAMILIES[m.family].uses_attention]
INTEGRATED = "integrated_gradients"


class CountingModel(nn.Module):
    """Counts forward passes, and backward passes that reach the input, per sample."""

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


def counting(x):
    """A counting network that has had its one-time passes for inputs of this size."""
    net = observed(CountingModel(small()), x)
    net.forwards = net.backwards = 0
    return net


def small(spatial=2, channels=3, classes=5):
    torch.manual_seed(0)
    conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[spatial]
    pool = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}[spatial]
    layers = [conv(channels, 4, 3, padding=1), nn.ReLU(), conv(4, 6, 3, padding=1), nn.ReLU(), pool(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Dropout(0.5), nn.Linear(6, classes)).double()


X = torch.randn(3, 3, 6, 9, generator=torch.Generator().manual_seed(5)).double()


@pytest.mark.row(41, 38, 39, 40)
def test_three_methods_share_one_forward_pass():
    net = counting(X)
    results = seewhy.explain(net, X[:1], ["gradient", "guided_backprop", "zeiler_fergus"])
    assert (net.forwards, net.backwards) == (1, 3)
    assert [e.method for e in results] == ["gradient", "guided_backprop", "zeiler_fergus"]
    for e in results:
        assert e.evaluations == (1, 1)
        assert torch.equal(e.values, seewhy.explain(net, X[:1], e.method).values)


@pytest.mark.row(136)
def test_targets_share_one_forward_pass():
    net = counting(X)
    e = seewhy.explain(net, X, "gradient", target=[0, 1, 2, 4])
    assert (net.forwards, net.backwards) == (3, 12)
    assert e.evaluations == (3, 12)


def test_gradient_and_input_x_gradient_share_backward_pass():
    net = counting(X)
    seewhy.explain(net, X, ["gradient", "input_x_gradient"])
    assert (net.forwards, net.backwards) == (3, 3)


@pytest.mark.row(26)
def test_integrated_gradients_evaluations_are_exact():
    net = counting(X)
    e = seewhy.explain(net, X[:2], "integrated_gradients", steps=7, target=[1, 2])
    assert e.evaluations == (net.forwards, net.backwards) == (2 * (1 + 7 + 1), 2 * 7 * 2)


@pytest.mark.row(12)
@pytest.mark.parametrize("name", CONVOLUTIONAL_METHODS)
@pytest.mark.parametrize("shape", [(2, 3, 9), (2, 3, 6, 9), (2, 3, 4, 6, 5)])
def test_shapes_for_sequences_pictures_and_volumes(name, shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).double()
    e = seewhy.explain(small(len(shape) - 2), x, name, target=[1, 3], **seewhy.METHODS[name].quick_options)
    channels = 1 if seewhy.METHODS[name].reduce is maps.channel_sum else 3
    assert e.values.shape == (2, 2, channels, *shape[2:])
    assert e.maps.shape == e.scaled.shape == (2, 2, *shape[2:])
    assert torch.equal(e.input, x)


@pytest.mark.row(12)
@pytest.mark.parametrize("name", CONVOLUTIONAL_METHODS)
@pytest.mark.parametrize("size", [1, 2, 5])
def test_map_does_not_depend_on_batch(name, size):
    options = seewhy.METHODS[name].quick_options
    whole = seewhy.explain(small(), X, name, batch_size=size, **options)
    for n in range(3):
        alone = seewhy.explain(small(), X[n : n + 1], name, **options)
        assert (whole.values[n] - alone.values[0]).abs().max() < 1e-10 * alone.values.abs().max()


@pytest.mark.parametrize("name", CONVOLUTIONAL_METHODS)
@pytest.mark.parametrize("layout", ["NHWC", "CNHW", "HWCN"])
def test_any_axis_layout(name, layout):
    """Axes may be in any order; values have the order N, K, C, and the others."""
    net, order = small(), ["NCHW".index(letter) for letter in layout]
    back = [layout.index(letter) for letter in "NCHW"]
    model = seewhy.wrap(net, layout=layout, forward=lambda net, x: net(x.permute(back)))
    ours = seewhy.explain(model, X.permute(order), name, target=2, **seewhy.METHODS[name].quick_options)
    assert torch.allclose(
        ours.values, seewhy.explain(net, X, name, target=2, **seewhy.METHODS[name].quick_options).values
    )
    assert torch.equal(ours.input, X)


def test_class_axis_is_last_for_channels_last_model():
    conv = nn.Conv2d(3, 4, 3, padding=1).double()
    model = seewhy.wrap(conv, layout="NHWC", forward=lambda net, x: net(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
    ours = seewhy.explain(model, X.permute(0, 2, 3, 1), "gradient", target=3)
    assert torch.allclose(ours.values, seewhy.explain(conv, X, "gradient", target=3).values)


@pytest.mark.row(105)
def test_integer_input_is_converted():
    x = torch.randint(0, 255, (2, 3, 6, 9), dtype=torch.uint8)
    assert torch.equal(
        seewhy.explain(small(), x, "gradient").values, seewhy.explain(small(), x.double(), "gradient").values
    )


@pytest.mark.row(12)
def test_plain_features_have_one_channel():
    e = seewhy.explain(nn.Linear(4, 2), torch.ones(3, 4), "gradient")
    assert e.values.shape == (3, 1, 1, 4)
    assert e.maps.shape == (3, 1, 4)


@pytest.mark.row(126)
def test_list_of_inputs_with_different_sizes():
    net = small(1)
    sequences = [torch.randn(3, t, generator=torch.Generator().manual_seed(t)).double() for t in (5, 9, 7)]
    results = seewhy.explain(net, sequences, "gradient", target=1)
    assert [e.maps.shape[-1] for e in results] == [5, 9, 7]
    both = seewhy.explain(net, sequences, ["gradient", "guided_backprop"], target=1)
    assert [[e.method for e in one] for one in both] == [["gradient"] * 3, ["guided_backprop"] * 3]
    assert torch.equal(both[0][1].values, results[1].values)


@pytest.mark.row(15, 16, 45)
def test_maps_and_scaled_of_gradient():
    e = seewhy.explain(small(), X, "gradient", target=[1, 2])
    assert torch.equal(e.maps, e.values.abs().sum(2).float())
    assert e.maps.dtype == e.scaled.dtype == torch.float32
    assert (e.scaled.flatten(2).amin(2) == 0).all()
    assert (e.scaled.flatten(2).amax(2) == 1).all()
    assert torch.equal(e.scaled.flatten(2).argsort(2), e.maps.flatten(2).argsort(2))


@pytest.mark.row(16)
def test_constant_map_has_zeros_and_note():
    e = seewhy.explain(lambda x: x.sum((1, 2, 3)) * torch.tensor([1.0, 0.0, 1.0]).double(), X, "gradient")
    assert (e.scaled == 0).all()
    assert "the map of sample 1, target 0 is constant: it shows nothing" in e.notes


def test_scaled_of_tiny_map():
    """Rescaling uses no absolute epsilon: a map of size 1e-30 is rescaled like a map of size 1."""
    big = seewhy.explain(lambda x: x.square().sum((1, 2, 3)), X, "gradient").scaled
    tiny = seewhy.explain(lambda x: 1e-30 * x.square().sum((1, 2, 3)), X, "gradient").scaled
    assert torch.allclose(big, tiny)


@pytest.mark.row(5, 146)
def test_output_and_scores_equal_network_output():
    net = small()
    e = seewhy.explain(net, X, "gradient", target="top3")
    expected = net.eval()(X).detach()
    assert torch.equal(e.output, expected)
    assert torch.equal(e.scores, expected.gather(1, e.targets))


def test_default_target_is_best_class():
    e = seewhy.explain(small(), X, "gradient")
    assert torch.equal(e.targets[:, 0], small().eval()(X).argmax(1))


@pytest.mark.parametrize("name", CONVOLUTIONAL_METHODS)
def test_map_does_not_depend_on_grad_mode_or_requires_grad(name):
    net, options = small().train(), seewhy.METHODS[name].quick_options
    expected = seewhy.explain(net, X, name, target=1, **options).values
    for grad_mode in (torch.no_grad, torch.inference_mode):
        with grad_mode():
            assert torch.equal(seewhy.explain(net, X.clone(), name, target=1, **options).values, expected)
    assert net.training
    assert all(w.grad is None and w.requires_grad for w in net.parameters())
    for w in net.parameters():
        w.requires_grad_(False)
    assert torch.equal(seewhy.explain(net, X.clone().requires_grad_(), name, target=1, **options).values, expected)


def test_weights_from_inference_mode_are_rejected():
    with torch.inference_mode():
        net = small()
    with pytest.raises(seewhy.ModelError, match="weights made in inference mode"):
        seewhy.explain(net, X, "gradient")


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"method": "grad"}, seewhy.UnknownNameError, "Did you mean 'gradient' or 'gradcam' or 'gradcam.+'"),
        ({"method": []}, seewhy.OptionError, "is empty"),
        ({"setps": 3, "method": INTEGRATED}, seewhy.UnknownNameError, f"{INTEGRATED} 'setps'. Did you mean 'steps'"),
        ({"steps": 3}, seewhy.UnknownNameError, "unknown option 'steps' of gradient"),
        ({"steps": 0, "method": INTEGRATED}, seewhy.OptionError, "steps=0: an integer from 1"),
        ({"steps": 2.5, "method": INTEGRATED}, seewhy.OptionError, "steps=2.5: an integer"),
        ({"rule": "simpson", "method": INTEGRATED}, seewhy.OptionError, "'simpson' is not one of 'midpoint'"),
        ({"score": "odds"}, seewhy.OptionError, "score='odds' is not one of 'logit'"),
        ({"upsample": "cubic"}, seewhy.OptionError, "upsample='cubic' is not one of"),
        ({"batch_size": 0}, seewhy.OptionError, "batch_size=0"),
        ({"batch_size": "big"}, seewhy.OptionError, "batch_size='big'"),
        ({"max_memory": 10}, seewhy.OptionError, "one sample of Sequential needs about"),
        ({"device": "cuda:7"}, seewhy.OptionError, "device='cuda:7' is not available"),
        ({"device": "abacus"}, seewhy.OptionError, "device='abacus' is not available"),
        ({"feature_layer": "0"}, seewhy.OptionError, r"no method of this call \(gradient\) uses a layer"),
        ({"baseline": "white", "method": INTEGRATED}, seewhy.OptionError, "'white' is not 'mean', 'blur', 'black'"),
        ({"baseline": "black", "method": INTEGRATED}, seewhy.OptionError, "give a number or a tensor"),
        ({"baseline": torch.ones(7), "method": INTEGRATED}, seewhy.OptionError, "does not fit"),
        ({"baseline": float("nan"), "method": INTEGRATED}, seewhy.OptionError, "NaN"),
        ({"x": X * float("nan")}, seewhy.InputError, "486 of the 486 values of the input are NaN or infinite"),
        ({"x": X[:0]}, seewhy.InputError, "it is empty"),
        ({"x": X[0, 0, 0]}, seewhy.InputError, "pass a batch"),
        ({"x": X[:, :2]}, seewhy.ModelError, r"failed on an input of shape \[3, 2, 6, 9\]"),
        ({"x": "cat.png"}, seewhy.ModelError, "has no preprocessing"),
        ({"x": X.to(torch.complex128)}, seewhy.InputError, "complex"),
    ],
)  # fmt: skip
def test_invalid_arguments_are_rejected(arguments, error, text):
    with pytest.raises(error, match=text) as caught:
        seewhy.explain(small(), **{"x": X, "method": "gradient"} | arguments)
    assert isinstance(caught.value, seewhy.SeewhyError)
    assert isinstance(
        caught.value, {seewhy.UnknownNameError: KeyError, seewhy.ModelError: Exception}.get(error, ValueError)
    )


def test_device_cpu():
    assert torch.equal(
        seewhy.explain(small(), X, "gradient", device="cpu").values, seewhy.explain(small(), X, "gradient").values
    )


class OwnError(Exception):
    """An error that only the network knows."""


@pytest.mark.parametrize("error", [TypeError, KeyError, AttributeError, AssertionError, NotImplementedError, OwnError])
@pytest.mark.parametrize("method", ["gradient", "gradcam", "occlusion"])
def test_error_of_any_type_in_the_network_is_a_model_error(error, method):
    def fail(*_):
        raise error("no such key")

    net = small()
    net[1].register_forward_hook(fail)
    with pytest.raises(
        seewhy.ModelError, match=rf"failed on an input of shape .*: {error.__name__}: .*no such key"
    ) as e:
        seewhy.explain(net, X, method)
    assert type(e.value.__cause__) is error


def test_error_without_text_is_named_by_its_type():
    def fail(_x):
        raise OwnError

    with pytest.raises(seewhy.ModelError, match=r"fail failed on an input of shape \[3, 3, 6, 9\]: OwnError$"):
        seewhy.predict(fail, X)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError])
def test_interrupts_and_memory_errors_in_the_network_are_raised_unchanged(error):
    def stop(_x):
        raise error

    with pytest.raises(error):
        seewhy.explain(stop, X, "gradient", batch_size=1)


def test_error_of_target_function_is_raised_unchanged():
    with pytest.raises(ZeroDivisionError):
        seewhy.explain(small(), X, "gradient", target=lambda output: 1 / 0)


def test_nan_in_weights_is_rejected():
    net = small()
    with torch.no_grad():
        net[0].weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(
        seewhy.ModelError, match=r"NaN or infinite values for a finite input: its weight '0.weight' contains such"
    ):
        seewhy.explain(net, X, "gradient")


def test_non_finite_gradient_is_rejected():
    with pytest.raises(
        seewhy.ModelError, match="the gradient of target 0 holds NaN or infinite values; its weights are"
    ):
        seewhy.explain(lambda x: x.sum(1).sqrt(), torch.zeros(1, 3), "gradient")


def test_float32_map_differs_by_rounding_between_batches(lite0, shipped):
    """Rectifiers amplify rounding at zero to about a thousandth of the map."""
    x = lite0.prepare(list(shipped.values()))
    whole = seewhy.explain(lite0, x, "gradient", batch_size=3)
    for n in range(3):
        alone = seewhy.explain(lite0, x[n : n + 1], "gradient")
        assert (whole.values[n] - alone.values[0]).norm() < 1e-3 * alone.values.norm()


def test_max_memory_limits_batch_size():
    from seewhy.tracing.forward import bytes_per_sample

    net = observed(small(), X)
    sample_bytes = bytes_per_sample(seewhy.wrap(net), X)
    sizes = []
    net.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    e = seewhy.explain(net, X, "gradient", max_memory=2 * sample_bytes)
    assert sizes == [1, 2, 1]
    assert torch.allclose(e.values, seewhy.explain(small(), X, "gradient").values)


def test_batches_are_halved_when_memory_runs_out():
    inside, sizes = small(), []

    def limited_model(x):
        sizes.append(len(x))
        if len(x) > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
        return inside(x)

    inside.eval()
    x = X.repeat(3, 1, 1, 1)
    e = seewhy.explain(limited_model, x, "integrated_gradients", steps=3, target=1, baseline=0)
    assert torch.allclose(
        e.values, seewhy.explain(inside, x, "integrated_gradients", steps=3, target=1, baseline=0).values
    )
    assert max(sizes) > 2

    def always_out_of_memory(x):
        raise torch.OutOfMemoryError("no")

    with pytest.raises(torch.OutOfMemoryError):
        seewhy.explain(always_out_of_memory, x, "gradient")


def test_progress_bar_on_stderr(capsys, monkeypatch):
    from seewhy.engine import progress

    monkeypatch.setattr(progress, "BAR_DELAY", 0.0)
    seewhy.explain(small(), X, "integrated_gradients", steps=5, progress=True)
    seen = capsys.readouterr()
    assert "passes" in seen.err
    assert not seen.out
    seewhy.explain(small(), X, "integrated_gradients", steps=5)
    assert capsys.readouterr() == ("", "")


def test_own_method():
    def sign(gradient):
        """Sign of the gradient."""
        return gradient.sign()

    method = seewhy.methods.Method(sign, "input_gradient", "Sign", "nobody 2000")
    e = seewhy.explain(small(), X, method)
    assert e.method == "sign"
    assert torch.equal(e.values, seewhy.explain(small(), X, "gradient").values.sign())
