"""Incremental inference: outputs equal the network's to rounding, or the reason for refusal is returned."""

import copy
import itertools

import pytest
import timm
import torch
import torchvision.models as zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import seewhy
from seewhy import incremental
from seewhy.testing import state, states_equal


def calibrated(net, size, channels=3):
    """An untrained network that depends on its input: batch statistics of noise, no vanishing branches."""
    draw = torch.Generator().manual_seed(0)
    for part in net.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.momentum = None
            part.weight.data = 0.5 + torch.rand(part.weight.shape, generator=draw)
            part.bias.data = torch.randn(part.bias.shape, generator=draw) / 4
        if hasattr(part, "layer_scale"):
            part.layer_scale.data.fill_(0.5)
    net.train()
    with torch.no_grad():
        net(torch.randn(4, channels, *size, generator=draw))
    return net.eval()


def picture(size, channels=3, seed=1):
    return torch.randn(1, channels, *size, generator=torch.Generator().manual_seed(seed))


def masked(x, starts, patch):
    """The masked pictures [M, C, *S]."""
    pictures = x.repeat(len(starts), *[1] * (x.ndim - 1))
    for m, start in enumerate(starts.tolist()):
        box = tuple(slice(s, s + n) for s, n in zip(start, patch.shape[2:], strict=True))
        pictures[(m, slice(None), *box)] = patch[m if len(patch) > 1 else 0]
    return pictures


def expected_outputs(net, x, starts, patch, batch=8):
    with torch.no_grad():
        return torch.cat([net(part) for part in masked(x, starts, patch).split(batch)])


def window_starts(size, width, step):
    """Window starts on a grid; the last windows are shifted to end at the border of the picture."""
    ticks = [sorted({*range(0, s - w, step), s - w}) for s, w in zip(size, width, strict=True)]
    return torch.tensor(list(itertools.product(*ticks)))


def incremental_outputs(net, x, starts, patch, **options):
    prepared = incremental.prepare_network(seewhy.wrap(net), x)
    assert not isinstance(prepared, str), prepared
    outputs = prepared.masked_outputs(starts, patch, **options)
    assert not isinstance(outputs, str), outputs
    return outputs


def assert_outputs_equal(net, x, starts, patch, bound=1e-9, batch=8, **options):
    expected = expected_outputs(net, x, starts, patch, batch)
    outputs = incremental_outputs(net, x, starts, patch, **options)
    assert outputs.shape == expected.shape and outputs.dtype == expected.dtype
    effect = (expected - net(x).detach()).abs().max()
    assert effect > 1e-3 * expected.abs().max() or len(starts) == 1, "the masks have no effect: the test is void"
    assert (outputs - expected).abs().max() <= bound * effect


class UNet(nn.Module):
    """Encoder and decoder; upsampling by a transposed convolution and by interpolation."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(i, o, 3, padding=1) for i, o in ((3, 8), (8, 12), (12, 16)))
        self.up = nn.ConvTranspose2d(16, 12, 3, stride=2, padding=1, output_padding=1)
        self.d, self.e = nn.Conv2d(24, 8, 3, padding=1), nn.Conv2d(16, 4, 1)
        self.norm = nn.BatchNorm2d(12)

    def forward(self, x):
        a = F.relu(self.a(x))
        b = self.norm(F.silu(self.b(F.max_pool2d(a, 2))))
        c = F.leaky_relu(self.c(F.avg_pool2d(b, 2)))
        d = self.d(torch.cat([F.pad(self.up(c), (0, 1, 0, 0))[..., : b.shape[2], : b.shape[3]], b], 1)).relu_()
        d = F.interpolate(d, size=a.shape[2:], mode="bilinear", align_corners=False)
        return self.e(torch.cat([d, a], 1))


def network_1d():
    layers = [nn.Conv1d(2, 8, 5, stride=2, padding=2), nn.BatchNorm1d(8), nn.ReLU(), nn.MaxPool1d(2)]
    layers += [nn.Conv1d(8, 8, 3, dilation=2), nn.GELU(), nn.AvgPool1d(2, ceil_mode=True), nn.Conv1d(8, 8, 3, groups=4)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 5))


def network_3d():
    return nn.Sequential(
        nn.Conv3d(1, 6, 3, padding=1), nn.BatchNorm3d(6), nn.ReLU(inplace=True), nn.MaxPool3d(2, ceil_mode=True),
        nn.Conv3d(6, 8, 3, stride=(1, 2, 1)), nn.ELU(), nn.AvgPool3d(2, padding=1), nn.Flatten(), nn.LazyLinear(4),
    )  # fmt: skip


def convnext():
    blocks = [zoo.convnext.CNBlockConfig(i, o, 2) for i, o in ((16, 24), (24, 32), (32, None))]
    return zoo.ConvNeXt(blocks, num_classes=7)


NETWORKS = {
    "resnet18": (lambda: zoo.resnet18(), (64, 75)),
    "resnet50": (lambda: zoo.resnet50(), (64, 64)),
    "regnet": (lambda: zoo.regnet_y_400mf(), (64, 64)),
    "regnet_x": (lambda: zoo.regnet_x_400mf(), (69, 64)),
    "vgg11": (lambda: zoo.vgg11_bn(dropout=0.0).features.append(nn.Flatten()).append(nn.Linear(2048, 9)), (64, 64)),
    "densenet": (lambda: zoo.DenseNet(8, (2, 3, 2), 16, num_classes=9), (70, 64)),
    "googlenet": (lambda: zoo.googlenet(aux_logits=False, init_weights=False), (64, 64)),
    "mobilenet_v2": (lambda: zoo.mobilenet_v2(), (64, 64)),
    "mobilenet_v3": (lambda: zoo.mobilenet_v3_small(), (64, 64)),
    "shufflenet": (lambda: zoo.shufflenet_v2_x0_5(), (64, 64)),
    "lite0": (lambda: timm.create_model("tf_efficientnet_lite0"), (71, 64)),
    "b0": (lambda: timm.create_model("efficientnet_b0"), (64, 64)),
    "convnext": (convnext, (64, 64)),
    "squeezenet": (lambda: zoo.squeezenet1_1(dropout=0.0), (75, 64)),
    "unet": (UNet, (45, 38)),
}  # fmt: skip
_networks = {}


@pytest.fixture(params=NETWORKS)
def network(request):
    make, size = NETWORKS[request.param]
    if request.param not in _networks:
        torch.manual_seed(0)
        _networks[request.param] = calibrated(make(), size)
    return _networks[request.param], size


def test_masked_outputs_equal_network(network):
    """In float64, equal to rounding; windows in every corner and at the border."""
    net, size = copy.deepcopy(network[0]).double(), network[1]
    starts = window_starts(size, (9, 12), 28)
    x = picture(size).double()
    before = state(net)
    assert_outputs_equal(net, x, starts, torch.zeros(1, 3, 9, 12).double(), batch_size=7)
    assert states_equal(before, state(net))


def test_masked_outputs_in_single_precision(network):
    """The rounding error is at most four times that of the network itself."""
    net, size = network
    x, starts = picture(size), window_starts(size, (8, 8), 29)
    patch = picture((8, 8), seed=3).repeat(len(starts), 1, 1, 1) * torch.linspace(-1, 1, len(starts)).view(-1, 1, 1, 1)
    reference = expected_outputs(copy.deepcopy(net).double(), x.double(), starts, patch.double())
    noise = (expected_outputs(net, x, starts, patch) - reference).abs().max()
    noise += 8 * torch.finfo(torch.float32).eps * reference.abs().max()
    assert (incremental_outputs(net, x, starts, patch) - reference).abs().max() <= 4 * noise


@pytest.mark.parametrize(("make", "size", "channels", "width"), [
    (network_1d, (121,), 2, (11,)), (network_3d, (11, 14, 9), 1, (3, 2, 4)),
])  # fmt: skip
def test_masked_outputs_in_1d_and_3d(make, size, channels, width):
    torch.manual_seed(0)
    net = make()
    net(torch.randn(2, channels, *size))
    net = calibrated(net, size, channels).double()
    starts = window_starts(size, width, 3)
    assert_outputs_equal(net, picture(size, channels).double(), starts, torch.ones(1, channels, *width).double())


@pytest.mark.parametrize(
    "options",
    [{"max_fraction": 0.0}, {"max_fraction": 0.3}, {"max_fraction": 1.0}, {"batch_size": 3}, {"max_memory": 10**6}],
)
def test_masked_outputs_with_every_option(options):
    torch.manual_seed(0)
    net = calibrated(UNet(), (45, 38)).double()
    starts, patch = window_starts((45, 38), (8, 5), 9), torch.zeros(1, 3, 8, 5).double()
    assert_outputs_equal(net, picture((45, 38)).double(), starts, patch, **options)


@pytest.mark.parametrize("width", [(1, 1), (31, 2), (31, 40)])
def test_masked_outputs_with_any_mask_size(width):
    """A single position, a stripe, and the full picture; stride 1."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(6, 4, 2), nn.Flatten(), nn.LazyLinear(3)
    )
    net(picture((31, 40)))
    net = net.double().eval()
    starts = window_starts((31, 40), width, 1)
    assert_outputs_equal(net, picture((31, 40)).double(), starts, -torch.ones(1, 3, *width).double(), batch_size=64)


def test_max_pooling_at_border():
    net = nn.Sequential(Apply(lambda x: -x.abs() - 1), nn.MaxPool2d(3, 2, 1, ceil_mode=True))
    starts, patch = window_starts((12, 11), (3, 2), 2), torch.ones(1, 3, 3, 2).double()
    assert_outputs_equal(net, picture((12, 11)).double(), starts, patch, max_fraction=1.0)


@pytest.mark.parametrize("count_include_pad", [True, False])
def test_avg_pooling_divisor_at_border(count_include_pad):
    net = nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=count_include_pad)
    starts, patch = window_starts((12, 10), (3, 2), 2), torch.ones(1, 3, 3, 2).double()
    assert_outputs_equal(net, picture((12, 10)).double(), starts, patch, max_fraction=1.0)


@pytest.mark.parametrize("max_fraction", [0.0, 1.0])
def test_input_changed_in_place(max_fraction):
    """Through a view, in the first operation."""
    net, x = Apply(lambda x: x[:, :, 1:, :-1].relu_()), picture((9, 8)).double()
    before = x.clone()
    starts, patch = window_starts((9, 8), (3, 2), 2), -torch.ones(1, 3, 3, 2).double()
    assert_outputs_equal(net, x.clone(), starts, patch, max_fraction=max_fraction)
    prepared = incremental.prepare_network(seewhy.wrap(net), x)
    prepared.masked_outputs(torch.tensor([[0, 0]]), torch.ones(1, 3, 3, 2))
    assert torch.equal(x, before)


class ReusedValues(nn.Module):
    """Values that are used again later, or changed in place where their own window is too small."""

    def __init__(self):
        super().__init__()
        self.small, self.large = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 5, padding=2)

    def forward(self, x):
        a, b = self.small(x), self.large(x)
        c = F.relu(b) + b * 2
        a += c
        return a.mul_(c)


@pytest.mark.parametrize("max_fraction", [0.0, 1.0])
def test_value_with_several_users(max_fraction):
    torch.manual_seed(0)
    net, x = ReusedValues().double(), picture((13, 12)).double()
    starts, patch = window_starts((13, 12), (3, 2), 4), torch.ones(1, 3, 3, 2).double()
    assert_outputs_equal(net, x, starts, patch, max_fraction=max_fraction)


def test_channels_last_network():
    """A network whose input layout is NHWC."""
    torch.manual_seed(0)

    class ChannelsLast(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 5, 3), nn.LayerNorm(5), nn.Linear(5, 4)

        def forward(self, x):
            return self.c(self.b(self.a(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))).mean((1, 2))

    net = ChannelsLast().double()
    x, starts = picture((20, 17)).double(), window_starts((20, 17), (4, 4), 5)
    patch = torch.zeros(1, 3, 4, 4).double()
    prepared = incremental.prepare_network(seewhy.wrap(net, layout="NHWC"), x)
    expected = expected_outputs(lambda z: net(z.permute(0, 2, 3, 1)), x, starts, patch)
    assert (prepared.masked_outputs(starts, patch) - expected).abs().max() <= 1e-12


def with_constant_channels(x):
    ramp = torch.linspace(1, 2, x.shape[3]).to(x)
    return torch.cat([x[:, :2] * ramp, torch.ones_like(x[:, 2:])], 1) + x


def conv(k, s, p, d, g, _):
    return nn.Conv2d(4, 4, (k, 3), (s, 1), (p, 1), (d, 1), groups=g)


def transposed(k, s, p, d, _, __):
    return nn.ConvTranspose2d(4, 4, k, s, min(p, k - 1), s - 1, dilation=d, groups=2)


# arguments: kernel, stride, padding, dilation, groups, flag
LAYERS = {
    "convolution": conv,
    "transposed": transposed,
    "maximum": lambda k, s, p, d, _, flag: nn.MaxPool2d(k, s, p, d, ceil_mode=flag),
    "average": lambda k, s, p, d, g, flag: nn.AvgPool2d(k, s, p, flag, g > 1),
    "divided": lambda k, s, p, *_: nn.AvgPool2d(k, s, p, divisor_override=5),
    "norm": lambda *_: nn.BatchNorm2d(4),
    "in place": lambda *_: nn.ReLU(inplace=True),
    "gelu": lambda *_: nn.GELU(),
    "across channels": lambda *_: nn.Softmax(1),
    "prelu": lambda *_: nn.PReLU(4),
    "pad": lambda k, s, *_: nn.ZeroPad2d((k, 0, s, -1)),
    "reflected": lambda *_: nn.ReflectionPad2d((2, 1, 0, 1)),
    "slice": lambda k, s, *_: Apply(lambda x: x[:, :, k::s, :-1]),
    "nearest": lambda *_: nn.Upsample(scale_factor=2),
    "bilinear": lambda *more: nn.Upsample(scale_factor=1.6, mode="bilinear", align_corners=more[-1]),
    "bicubic": lambda *_: nn.Upsample(scale_factor=2, mode="bicubic"),
    "residual": lambda *_: Apply(lambda x: x + F.avg_pool2d(x, 3, 1, 1) * x),
    "shuffle": lambda *_: nn.ChannelShuffle(2),
    "constant": lambda *_: Apply(with_constant_channels),
    "transpose": lambda *_: Apply(lambda x: x.transpose(2, 3) * 2),
}


@st.composite
def layer_lists(draw):
    """Lists of layers that have a rule, with their arguments."""
    small = st.integers(1, 3)
    layers = []
    for kind in draw(st.lists(st.sampled_from(sorted(LAYERS)), min_size=1, max_size=5)):
        k, s, d = draw(small), draw(small), draw(st.integers(1, 2))
        p, g = draw(st.integers(0, k // 2)), draw(st.sampled_from([1, 2, 4]))
        layers.append((kind, (k, s, p, d, g, draw(st.booleans()))))
    return layers


class Apply(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(layer_lists(), st.integers(9, 17), st.integers(8, 14), st.integers(1, 5), st.integers(1, 5), st.booleans())
def test_random_small_networks(layers, height, width, h, w, flat):
    torch.manual_seed(0)
    net = nn.Sequential(*(LAYERS[kind](*numbers) for kind, numbers in layers)).double().eval()
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.uniform_(-1, 1)
            part.running_var.uniform_(0.5, 2)
    x = picture((height, width), 4).double()
    try:
        with torch.no_grad():
            net(x)
    except RuntimeError:
        return  # the kernels are larger than the picture
    if flat:
        net = nn.Sequential(net, nn.Flatten())
    starts, patch = window_starts((height, width), (h, w), 3), torch.ones(1, 4, h, w).double()
    expected = expected_outputs(net, x, starts, patch)
    if not expected.numel() or not expected.isfinite().all():
        return  # empty, or a maximum over padding only
    outputs = incremental_outputs(net, x, starts, patch, max_fraction=1.0)
    assert torch.allclose(outputs, expected, rtol=0, atol=1e-11 * float(1 + expected.abs().max()))


# --- refusals and verification


def small_network(*more):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), *more, nn.Flatten(), nn.LazyLinear(3)).eval()


STARTS, PATCH = torch.tensor([[0, 0], [3, 5], [8, 9]]), torch.zeros(1, 3, 4, 3)


def refusal_reason(net, x=None):
    x = picture((12, 12)) if x is None else x
    with torch.no_grad():
        net(x)
    prepared = incremental.prepare_network(seewhy.wrap(net), x)
    return prepared if isinstance(prepared, str) else prepared.masked_outputs(STARTS, PATCH)


def test_outputs_for_other_pictures(network):
    """In float64, pictures that have nothing in common with the reference picture."""
    net, size = copy.deepcopy(network[0]).double(), network[1]
    prepared = incremental.prepare_network(seewhy.wrap(net), picture(size).double())
    others = torch.cat([picture(size, seed=s).double() for s in (5, 6, 7)])
    with torch.no_grad():
        reference = net(others)
    difference = (prepared.outputs_for(others, verify=True) - reference).abs().max()
    assert difference <= 1e-9 * (reference.max() - reference.min())


def test_outputs_for_verification_detects_stale_trace():
    """A weight changed through `.data`, without a new version: detected only with `verify`."""
    net, x = small_network(), picture((12, 12))
    net(x)
    stale = incremental.prepare_network(seewhy.wrap(net), x)
    net[0].weight.data.mul_(-1)
    assert isinstance(stale.outputs_for(x, verify=False), torch.Tensor)
    assert "differs from the network's output" in stale.outputs_for(x, verify=True)


@pytest.mark.parametrize(("function", "reason"), [
    (lambda x: x * 1.0 if x.sum() > 0 else x, "converts a tensor to a Python number"),
    (lambda x: x + torch.rand_like(x), "random numbers (aten::rand_like)"),
    (lambda x: x + float(x.mean()), "converts a tensor to a Python number"),
    (lambda x: x + torch.from_numpy(x.numpy() * 1), "out of torch through torch.Tensor.numpy"),
    (lambda x: F.dropout(x, 0.5, True), "random numbers (aten::"),
    (lambda x: F.pad(x, (1, 1, 2, 2), mode="circular"), "in place through one view"),
])  # fmt: skip
def test_prepare_network_rejects_untraceable(function, reason):
    assert reason in refusal_reason(small_network(Apply(function)))


def test_prepare_network_rejects_non_tensor_output():
    assert "output is a tuple, not a tensor" in refusal_reason(Apply(lambda x: (x, x)))
    assert "does not depend" in refusal_reason(Apply(lambda x: torch.zeros(1, 3)))


def test_masked_outputs_names_op_that_cannot_be_batched():
    assert "aten::_unique2" in refusal_reason(small_network(Apply(lambda x: x * torch.unique(x).sum())))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.roll(1, 2),
        lambda x: F.unfold(x, 3),
        lambda x: torch.einsum("nchw,ndhw->ncd", x, x),
        lambda x: F.group_norm(x, 2),
        lambda x: F.local_response_norm(x, 3),
        lambda x: F.adaptive_max_pool2d(x, 3),
        lambda x: F.scaled_dot_product_attention(x, x, x),
        lambda x: x.reshape(4, -1).T.reshape(1, -1),
        lambda x: x[0, 1][None],
        lambda x: torch.fft.rfft2(x).abs(),
        lambda x: F.pad(x, (1, 1, 2, 2), value=3.0),
        lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2),
        lambda x: x * x.amax(1, keepdim=True) + x.mean(1, keepdim=True),
        lambda x: F.pixel_shuffle(x, 2),
        lambda x: x.cumsum(2),
        lambda x: x - x.sort(dim=2).values.flip(3),
        lambda x: x.transpose(2, 3).contiguous().view(1, 4, -1),
        lambda x: x * x.mean((2, 3), keepdim=True),
        lambda x: x.split(2, 1)[1] * x.unbind(1)[0][:, None],
        lambda x: x * torch.linspace(0, 1, 10).to(x).view(1, 1, 10, 1) + torch.ones(4, 10, 10).to(x),
    ],
)
def test_ops_without_rule_run_on_full_values(function):
    """Outputs are exact without a rule as well."""
    net = small_network(Apply(function))
    net(picture((12, 12)))
    assert_outputs_equal(net.double(), picture((12, 12)).double(), STARTS, PATCH.double(), batch=1)


@pytest.mark.parametrize("function", [
    lambda x: x[:, :2].mul_(2).sum(1, keepdim=True) + x, lambda x: x.view(1, -1).add_(1).view(x.shape) * x,
    lambda x: x.relu_().add_(x) * 2, lambda x: torch.zeros_like(x).copy_(x), lambda x: x.clone().fill_(2) * x,
])  # fmt: skip
def test_in_place_changes_exact_or_refused(function):
    net = small_network(Apply(lambda x: function(x.clone())))
    net(picture((12, 12)))
    net, x = net.double(), picture((12, 12)).double()
    prepared = incremental.prepare_network(seewhy.wrap(net), x)
    outputs = prepared if isinstance(prepared, str) else prepared.masked_outputs(STARTS, PATCH.double())
    expected = expected_outputs(net, x, STARTS, PATCH.double(), 1)
    assert isinstance(outputs, str) or (outputs - expected).abs().max() < 1e-12


def test_weight_changed_in_place_requires_new_preparation():
    net, x = small_network(), picture((12, 12))
    net(x)
    first = incremental_outputs(net, x, STARTS, PATCH)
    stale = incremental.prepare_network(seewhy.wrap(net), x)
    with torch.no_grad():
        net[0].weight.mul_(-1)
    assert "weights have changed" in stale.masked_outputs(STARTS, PATCH)
    second = incremental_outputs(net, x, STARTS, PATCH)
    assert (second - first).abs().max() > 1e-3
    assert (second - expected_outputs(net, x, STARTS, PATCH)).abs().max() < 1e-5


def test_masked_outputs_verification_detects_stale_trace():
    net, x = small_network(), picture((12, 12))
    net(x)
    stale = incremental.prepare_network(seewhy.wrap(net), x)
    net[0].weight.data.mul_(-1)
    reason = stale.masked_outputs(STARTS, PATCH)
    assert "differs from the network's output" in reason or "changed" in reason


def test_training_mode_and_requires_grad_restored():
    net = small_network(nn.Dropout())
    net(picture((12, 12)))
    net.train()
    net[0].bias.requires_grad_(False)
    before = state(net)
    prepared = incremental.prepare_network(seewhy.wrap(net), picture((12, 12)))
    outputs = prepared.masked_outputs(STARTS, PATCH)
    assert states_equal(before, state(net))
    net.eval()
    assert (outputs - expected_outputs(net, picture((12, 12)), STARTS, PATCH)).abs().max() < 1e-5


def test_tail_ops_run_in_several_batches():
    from seewhy.incremental import inference

    net, x = small_network(), picture((12, 12))
    net(x)
    starts = window_starts((12, 12), (2, 2), 1).repeat(6, 1)
    assert len(starts) > inference.TAIL_BATCH_SIZE
    patch = torch.zeros(1, 3, 2, 2)
    expected = expected_outputs(net, x, starts, patch, 128)
    assert (incremental_outputs(net, x, starts, patch) - expected).abs().max() < 1e-5


def test_prepare_network_rejects_autocast():
    with torch.autocast("cpu"):
        assert "autocast" in incremental.prepare_network(seewhy.wrap(small_network()), picture((12, 12)))


def test_prepare_network_rejects_half_precision():
    assert "bfloat16" in incremental.prepare_network(seewhy.wrap(small_network()), picture((12, 12)).bfloat16())
