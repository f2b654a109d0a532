"""Windows recomputed are what the whole network gives, to rounding, or the engine says that it cannot."""

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
from seewhy.testing import same, state
from seewhy.trace import reuse


def calibrated(net, size, channels=3):
    """Untrained, but every layer passes on what it sees: batch statistics of its own, no vanishing branches."""
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
    """The pictures themselves, [M, C, *S]."""
    many = x.repeat(len(starts), *[1] * (x.ndim - 1))
    for m, start in enumerate(starts.tolist()):
        place = tuple(slice(s, s + n) for s, n in zip(start, patch.shape[2:], strict=True))
        many[(m, slice(None), *place)] = patch[m if len(patch) > 1 else 0]
    return many


def whole(net, x, starts, patch, batch=8):
    with torch.no_grad():
        return torch.cat([net(part) for part in masked(x, starts, patch).split(batch)])


def corners(size, width, step):
    """Starts on a grid, the last ones shifted to end with the picture."""
    ticks = [sorted({*range(0, s - w, step), s - w}) for s, w in zip(size, width, strict=True)]
    return torch.tensor(list(itertools.product(*ticks)))


def run(net, x, starts, patch, **options):
    prepared = reuse.prepare(seewhy.wrap(net), x)
    assert not isinstance(prepared, str), prepared
    found = prepared.run(starts, patch, **options)
    assert not isinstance(found, str), found
    return found


def check(net, x, starts, patch, bound=1e-9, batch=8, **options):
    expected, found = whole(net, x, starts, patch, batch), run(net, x, starts, patch, **options)
    assert found.shape == expected.shape and found.dtype == expected.dtype
    effect = (expected - net(x).detach()).abs().max()
    assert effect > 1e-3 * expected.abs().max() or len(starts) == 1, "the masks do not matter: the test shows nothing"
    assert (found - expected).abs().max() <= bound * effect


class UNet(nn.Module):
    """Down and up again, once by transposed convolution and once by interpolation."""

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


def sound():
    first = [nn.Conv1d(2, 8, 5, stride=2, padding=2), nn.BatchNorm1d(8), nn.ReLU(), nn.MaxPool1d(2)]
    then = [nn.Conv1d(8, 8, 3, dilation=2), nn.GELU(), nn.AvgPool1d(2, ceil_mode=True), nn.Conv1d(8, 8, 3, groups=4)]
    return nn.Sequential(*first, *then, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 5))


def volume():
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
_made = {}


@pytest.fixture(params=NETWORKS)
def network(request):
    make, size = NETWORKS[request.param]
    if request.param not in _made:
        torch.manual_seed(0)
        _made[request.param] = calibrated(make(), size)
    return _made[request.param], size


def test_is_the_whole_network(network):
    """float64: the same to rounding; every corner, and windows that end with the picture."""
    net, size = copy.deepcopy(network[0]).double(), network[1]
    starts = corners(size, (9, 12), 28)
    x = picture(size).double()
    before = state(net)
    check(net, x, starts, torch.zeros(1, 3, 9, 12).double(), masks=7)
    assert same(before, state(net))


def test_is_the_whole_network_in_single_precision(network):
    """As near to double precision as the network itself is, or nearly."""
    net, size = network
    x, starts = picture(size), corners(size, (8, 8), 29)
    patch = picture((8, 8), seed=3).repeat(len(starts), 1, 1, 1) * torch.linspace(-1, 1, len(starts)).view(-1, 1, 1, 1)
    truth = whole(copy.deepcopy(net).double(), x.double(), starts, patch.double())
    noise = (whole(net, x, starts, patch) - truth).abs().max() + 8 * torch.finfo(torch.float32).eps * truth.abs().max()
    assert (run(net, x, starts, patch) - truth).abs().max() <= 4 * noise


@pytest.mark.parametrize(("make", "size", "channels", "width"), [
    (sound, (121,), 2, (11,)), (volume, (11, 14, 9), 1, (3, 2, 4)),
])  # fmt: skip
def test_one_and_three_dimensions(make, size, channels, width):
    torch.manual_seed(0)
    net = make()
    net(torch.randn(2, channels, *size))
    net = calibrated(net, size, channels).double()
    starts = corners(size, width, 3)
    check(net, picture(size, channels).double(), starts, torch.ones(1, channels, *width).double())


@pytest.mark.parametrize(
    "options", [{"share": 0.0}, {"share": 0.3}, {"share": 1.0}, {"masks": 3}, {"max_memory": 10**6}]
)
def test_whichever_way_the_work_is_split(options):
    torch.manual_seed(0)
    net = calibrated(UNet(), (45, 38)).double()
    check(net, picture((45, 38)).double(), corners((45, 38), (8, 5), 9), torch.zeros(1, 3, 8, 5).double(), **options)


@pytest.mark.parametrize("width", [(1, 1), (31, 2), (31, 40)])
def test_masks_of_any_size_at_every_place(width):
    """A single position, stride 1; a stripe; all of the picture."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(6, 4, 2), nn.Flatten(), nn.LazyLinear(3)
    )
    net(picture((31, 40)))
    net = net.double().eval()
    starts = corners((31, 40), width, 1)
    check(net, picture((31, 40)).double(), starts, -torch.ones(1, 3, *width).double(), masks=64)


def test_maxima_at_the_border_do_not_see_the_padding():
    net = nn.Sequential(Do(lambda x: -x.abs() - 1), nn.MaxPool2d(3, 2, 1, ceil_mode=True))
    check(net, picture((12, 11)).double(), corners((12, 11), (3, 2), 2), torch.ones(1, 3, 3, 2).double(), share=1.0)


@pytest.mark.parametrize("counted", [True, False])
def test_averages_that_hang_over_are_divided_as_torch_does(counted):
    net = nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=counted)
    check(net, picture((12, 10)).double(), corners((12, 10), (3, 2), 2), torch.ones(1, 3, 3, 2).double(), share=1.0)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_picture_itself_changed_in_place(share):
    """Through a view, as the first thing that happens."""
    net, x = Do(lambda x: x[:, :, 1:, :-1].relu_()), picture((9, 8)).double()
    before = x.clone()
    check(net, x.clone(), corners((9, 8), (3, 2), 2), -torch.ones(1, 3, 3, 2).double(), share=share)
    prepared = reuse.prepare(seewhy.wrap(net), x)
    prepared.run(torch.tensor([[0, 0]]), torch.ones(1, 3, 3, 2))
    assert torch.equal(x, before)


class Twice(nn.Module):
    """What a step reads is read again later, or changed in place where its own window is too small."""

    def __init__(self):
        super().__init__()
        self.near, self.far = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 5, padding=2)

    def forward(self, x):
        a, b = self.near(x), self.far(x)
        c = F.relu(b) + b * 2
        a += c
        return a.mul_(c)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_values_that_are_needed_twice(share):
    torch.manual_seed(0)
    net, x = Twice().double(), picture((13, 12)).double()
    check(net, x, corners((13, 12), (3, 2), 4), torch.ones(1, 3, 3, 2).double(), share=share)


def test_every_layout_of_channels():
    """A network that takes channels last."""
    torch.manual_seed(0)

    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 5, 3), nn.LayerNorm(5), nn.Linear(5, 4)

        def forward(self, x):
            return self.c(self.b(self.a(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))).mean((1, 2))

    net = Last().double()
    x, starts = picture((20, 17)).double(), corners((20, 17), (4, 4), 5)
    patch = torch.zeros(1, 3, 4, 4).double()
    prepared = reuse.prepare(seewhy.wrap(net, layout="NHWC"), x)
    expected = whole(lambda z: net(z.permute(0, 2, 3, 1)), x, starts, patch)
    assert (prepared.run(starts, patch) - expected).abs().max() <= 1e-12


def half_constant(x):
    ramp = torch.linspace(1, 2, x.shape[3]).to(x)
    return torch.cat([x[:, :2] * ramp, torch.ones_like(x[:, 2:])], 1) + x


def conv(k, s, p, d, g, _):
    return nn.Conv2d(4, 4, (k, 3), (s, 1), (p, 1), (d, 1), groups=g)


def transposed(k, s, p, d, _, __):
    return nn.ConvTranspose2d(4, 4, k, s, min(p, k - 1), s - 1, dilation=d, groups=2)


# kernel, stride, padding, dilation, groups, a coin
KINDS = {
    "convolution": conv,
    "transposed": transposed,
    "maximum": lambda k, s, p, d, _, coin: nn.MaxPool2d(k, s, p, d, ceil_mode=coin),
    "average": lambda k, s, p, d, g, coin: nn.AvgPool2d(k, s, p, coin, g > 1),
    "divided": lambda k, s, p, *_: nn.AvgPool2d(k, s, p, divisor_override=5),
    "norm": lambda *_: nn.BatchNorm2d(4),
    "in place": lambda *_: nn.ReLU(inplace=True),
    "smooth": lambda *_: nn.GELU(),
    "across channels": lambda *_: nn.Softmax(1),
    "slopes": lambda *_: nn.PReLU(4),
    "pad": lambda k, s, *_: nn.ZeroPad2d((k, 0, s, -1)),
    "reflected": lambda *_: nn.ReflectionPad2d((2, 1, 0, 1)),
    "slice": lambda k, s, *_: Do(lambda x: x[:, :, k::s, :-1]),
    "nearest": lambda *_: nn.Upsample(scale_factor=2),
    "bilinear": lambda *more: nn.Upsample(scale_factor=1.6, mode="bilinear", align_corners=more[-1]),
    "bicubic": lambda *_: nn.Upsample(scale_factor=2, mode="bicubic"),
    "residual": lambda *_: Do(lambda x: x + F.avg_pool2d(x, 3, 1, 1) * x),
    "shuffle": lambda *_: nn.ChannelShuffle(2),
    "constant": lambda *_: Do(half_constant),
    "turned": lambda *_: Do(lambda x: x.transpose(2, 3) * 2),
}


@st.composite
def stacks(draw):
    """Small networks of everything that is understood."""
    small = st.integers(1, 3)
    layers = []
    for kind in draw(st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=5)):
        k, s, d = draw(small), draw(small), draw(st.integers(1, 2))
        p, g = draw(st.integers(0, k // 2)), draw(st.sampled_from([1, 2, 4]))
        layers.append((kind, (k, s, p, d, g, draw(st.booleans()))))
    return layers


class Do(nn.Module):
    def __init__(self, do):
        super().__init__()
        self.do = do

    def forward(self, x):
        return self.do(x)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(stacks(), st.integers(9, 17), st.integers(8, 14), st.integers(1, 5), st.integers(1, 5), st.booleans())
def test_any_small_network(layers, height, width, h, w, flat):
    torch.manual_seed(0)
    net = nn.Sequential(*(KINDS[kind](*numbers) for kind, numbers in layers)).double().eval()
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.uniform_(-1, 1)
            part.running_var.uniform_(0.5, 2)
    x = picture((height, width), 4).double()
    try:
        with torch.no_grad():
            net(x)
    except RuntimeError:
        return  # nothing is left of the picture
    if flat:
        net = nn.Sequential(net, nn.Flatten())
    starts, patch = corners((height, width), (h, w), 3), torch.ones(1, 4, h, w).double()
    expected = whole(net, x, starts, patch)
    if not expected.numel() or not expected.isfinite().all():
        return  # nothing is left, or a maximum over padding alone
    found = run(net, x, starts, patch, share=1.0)
    assert torch.allclose(found, expected, rtol=0, atol=1e-11 * float(1 + expected.abs().max()))


# --- what is refused, and what must not be believed


def small(*more):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), *more, nn.Flatten(), nn.LazyLinear(3)).eval()


STARTS, PATCH = torch.tensor([[0, 0], [3, 5], [8, 9]]), torch.zeros(1, 3, 4, 3)


def refused(net, x=None):
    x = picture((12, 12)) if x is None else x
    with torch.no_grad():
        net(x)
    prepared = reuse.prepare(seewhy.wrap(net), x)
    return prepared if isinstance(prepared, str) else prepared.run(STARTS, PATCH)


def test_other_pictures_are_answered_from_the_record(network):
    """float64: whole pictures that have nothing in common with the one that was recorded."""
    net, size = copy.deepcopy(network[0]).double(), network[1]
    prepared = reuse.prepare(seewhy.wrap(net), picture(size).double())
    others = torch.cat([picture(size, seed=s).double() for s in (5, 6, 7)])
    with torch.no_grad():
        truth = net(others)
    assert (prepared.answer(others, ask=True) - truth).abs().max() <= 1e-9 * (truth.max() - truth.min())


def test_a_record_that_is_wrong_is_found_out():
    """A weight changed behind torch's back: with the question to the network, not without."""
    net, x = small(), picture((12, 12))
    net(x)
    stale = reuse.prepare(seewhy.wrap(net), x)
    net[0].weight.data.mul_(-1)
    assert isinstance(stale.answer(x, ask=False), torch.Tensor)
    assert "another answer" in stale.answer(x, ask=True)


@pytest.mark.parametrize(("do", "why"), [
    (lambda x: x * 1.0 if x.sum() > 0 else x, "turned into a number"),
    (lambda x: x + torch.rand_like(x), "random numbers (aten::rand_like)"),
    (lambda x: x + float(x.mean()), "turned into a number"),
    (lambda x: x + torch.from_numpy(x.numpy() * 1), "leave torch through torch.Tensor.numpy"),
    (lambda x: F.dropout(x, 0.5, True), "random numbers (aten::"),
    (lambda x: F.pad(x, (1, 1, 2, 2), mode="circular"), "in place through one view"),
])  # fmt: skip
def test_what_cannot_be_done_again_is_refused(do, why):
    assert why in refused(small(Do(do)))


def test_outputs_that_are_no_tensor_are_refused():
    assert "its output is a tuple" in refused(Do(lambda x: (x, x)))
    assert "does not depend" in refused(Do(lambda x: torch.zeros(1, 3)))


def test_an_operation_that_cannot_be_batched_is_named():
    found = refused(small(Do(lambda x: x * torch.unique(x).sum())))
    assert "aten::_unique2" in found


@pytest.mark.parametrize(
    "do",
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
def test_anything_else_is_done_on_whole_tensors(do):
    """Not known, not needed: exact all the same."""
    net = small(Do(do))
    net(picture((12, 12)))
    check(net.double(), picture((12, 12)).double(), STARTS, PATCH.double(), batch=1)


@pytest.mark.parametrize("do", [
    lambda x: x[:, :2].mul_(2).sum(1, keepdim=True) + x, lambda x: x.view(1, -1).add_(1).view(x.shape) * x,
    lambda x: x.relu_().add_(x) * 2, lambda x: torch.zeros_like(x).copy_(x), lambda x: x.clone().fill_(2) * x,
])  # fmt: skip
def test_changes_in_place_are_followed_or_refused(do):
    net = small(Do(lambda x: do(x.clone())))
    net(picture((12, 12)))
    net, x = net.double(), picture((12, 12)).double()
    prepared = reuse.prepare(seewhy.wrap(net), x)
    found = prepared if isinstance(prepared, str) else prepared.run(STARTS, PATCH.double())
    assert isinstance(found, str) or (found - whole(net, x, STARTS, PATCH.double(), 1)).abs().max() < 1e-12


def test_a_weight_changed_in_place_gives_the_new_answer():
    net, x = small(), picture((12, 12))
    net(x)
    first = run(net, x, STARTS, PATCH)
    stale = reuse.prepare(seewhy.wrap(net), x)
    with torch.no_grad():
        net[0].weight.mul_(-1)
    assert "weights have changed" in stale.run(STARTS, PATCH)
    second = run(net, x, STARTS, PATCH)
    assert (second - first).abs().max() > 1e-3
    assert (second - whole(net, x, STARTS, PATCH)).abs().max() < 1e-5


def test_a_weight_changed_behind_torch_is_noticed():
    net, x = small(), picture((12, 12))
    net(x)
    stale = reuse.prepare(seewhy.wrap(net), x)
    net[0].weight.data.mul_(-1)
    assert "another answer" in stale.run(STARTS, PATCH) or "changed" in stale.run(STARTS, PATCH)


def test_training_mode_and_frozen_weights_are_as_before():
    net = small(nn.Dropout())
    net(picture((12, 12)))
    net.train()
    net[0].bias.requires_grad_(False)
    before = state(net)
    prepared = reuse.prepare(seewhy.wrap(net), picture((12, 12)))
    found = prepared.run(STARTS, PATCH)
    assert same(before, state(net))
    net.eval()
    assert (found - whole(net, picture((12, 12)), STARTS, PATCH)).abs().max() < 1e-5


def test_memory_is_bounded_for_many_masks():
    """Also what waits for the last layers."""
    from seewhy.trace.reuse import engine

    net, x = small(), picture((12, 12))
    net(x)
    starts = corners((12, 12), (2, 2), 1).repeat(6, 1)
    assert len(starts) > engine.LATE
    patch = torch.zeros(1, 3, 2, 2)
    assert (run(net, x, starts, patch) - whole(net, x, starts, patch, 128)).abs().max() < 1e-5


def test_a_mixed_precision_is_refused():
    with torch.autocast("cpu"):
        assert "autocast" in reuse.prepare(seewhy.wrap(small()), picture((12, 12)))


def test_half_precision_is_refused():
    assert "bfloat16" in reuse.prepare(seewhy.wrap(small()), picture((12, 12)).bfloat16())
