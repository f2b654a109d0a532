"""Convolutions that pad and activate by themselves give what the network gives; what oneDNN lacks stays as it is."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import seewhy
from seewhy.trace import reuse
from seewhy.trace.reuse import engine, fused

ACTIVATIONS = {
    "relu": nn.ReLU(), "relu6": nn.ReLU6(), "hardtanh": nn.Hardtanh(-0.2, 0.7), "sigmoid": nn.Sigmoid(),
    "tanh": nn.Tanh(), "silu": nn.SiLU(), "hardswish": nn.Hardswish(), "hardsigmoid": nn.Hardsigmoid(),
    "gelu": nn.GELU(), "gelu, tanh": nn.GELU("tanh"),
}  # fmt: skip


class Padded(nn.Module):
    """Zeros of any number at each end, then a convolution."""

    def __init__(self, pads, dims=2, then=None, **options):
        super().__init__()
        torch.manual_seed(0)
        kind = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dims]
        self.pads, self.convolution, self.then = pads, kind(4, 6, 3, **options), then or nn.Identity()

    def forward(self, x):
        return self.then(self.convolution(F.pad(x, self.pads)))


def prepared(net, x):
    found = reuse.prepare(seewhy.wrap(net.eval()), x[:1])
    assert not isinstance(found, str), found
    return found


def names(steps):
    return [step.name.removeprefix("aten::") for step, *_ in steps]


def pictures(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3), dtype=dtype)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("options", [{}, {"stride": 2, "groups": 2, "bias": False}, {"dilation": 2, "padding": 3}])
def test_an_activation_is_part_of_the_convolution(name, options):
    net = Padded((0, 0), then=ACTIVATIONS[name], **options)
    net.convolution.weight.data.mul_(3)  # so that every part of the activation is met
    x = pictures(5, 4, 11, 12)
    known = prepared(net, x)
    assert "activated_convolution" in names(known.steps) and len(known.steps) == 1
    assert (known.answer(x, ask=True) - net(x)).abs().max() <= 2e-6 * net(x).abs().max()


PADS = [(0, 1, 0, 1), (1, 2, 0, 3), (3, 1, 2, 0), (2, 2), (0, 3)]


@pytest.mark.parametrize("pads", PADS)
@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"padding": (2, 1)}, {"groups": 2, "stride": (1, 3)}])
def test_zeros_that_are_padded_are_part_of_the_kernel(pads, options):
    """In double precision, where nothing else is fused: 1e-12, and no padding is left."""
    net, x = Padded(pads, **options).double(), pictures(3, 4, 9, 10, dtype=torch.float64)
    known = prepared(net, x)
    assert names(known.steps) == ["convolution"]
    assert known.answer(x, ask=True).shape == net(x).shape
    assert (known.answer(x, ask=True) - net(x)).abs().max() <= 1e-12


def test_with_gaps_only_whole_gaps_are_shifted():
    x = pictures(2, 4, 12, 12, dtype=torch.float64)
    even, odd = Padded((1, 3), dilation=2).double(), Padded((1, 2), dilation=2).double()
    assert names(prepared(even, x).steps) == ["convolution"]
    assert names(prepared(odd, x).steps) == ["constant_pad_nd", "convolution"]
    for net in (even, odd):
        assert (prepared(net, x).answer(x, ask=True) - net(x)).abs().max() <= 1e-12


@pytest.mark.parametrize("dims", [1, 3])
def test_in_other_ranks(dims):
    net, x = Padded((1, 2), dims=dims, then=nn.ReLU()).double(), pictures(3, 4, *[8] * dims, dtype=torch.float64)
    assert names(prepared(net, x).steps) == ["convolution", "relu"]
    assert (prepared(net, x).answer(x, ask=True) - net(x)).abs().max() <= 1e-12
    single = net.float()
    assert (prepared(single, x.float()).answer(x.float(), ask=True) - single(x.float())).abs().max() <= 1e-5


class Twice(nn.Module):
    """Something else reads what stands between the two."""

    def __init__(self, between):
        super().__init__()
        self.convolution, self.between = nn.Conv2d(4, 4, 3), between

    def forward(self, x):
        if self.between == "activation":
            y = self.convolution(x)
            return F.relu(y) + y
        padded = F.pad(x, (1, 1, 1, 1), value=1.0 if self.between == "ones" else 0.0)
        y = self.convolution(padded)
        return y + padded.mean((1, 2, 3), keepdim=True) if self.between == "padding" else y


@pytest.mark.parametrize("between", ["activation", "padding", "ones", "negative"])
def test_what_others_read_too_stays(between):
    net, x = Twice(between), pictures(3, 4, 9, 9)
    if between == "negative":
        net = Padded((-1, 2))
    known = prepared(net, x)
    kept = "relu" if between == "activation" else "constant_pad_nd"
    assert kept in names(known.steps)
    assert (known.answer(x, ask=True) - net(x)).abs().max() <= 1e-5


class Tiles(nn.Module):
    """Parts of one picture stand where samples do."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(4, 6, 3)

    def forward(self, x):
        tiles = x.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).reshape(-1, 4, 4, 4)
        return self.convolution(tiles).relu().flatten(1).reshape(len(x), -1)


def test_a_convolution_of_many_parts_stays():
    net, x = Tiles(), pictures(3, 4, 8, 8)
    known = prepared(net, x)
    assert "convolution" in names(known.steps)
    assert (known.answer(x, ask=True) - net(x)).abs().max() <= 1e-5


def test_weights_that_hang_on_the_input_stay():
    class Own(nn.Module):
        def forward(self, x):
            return F.relu(F.conv2d(x, x.mean((2, 3))[:, :, None, None].expand(1, 4, 3, 3)))

    known = prepared(Own(), pictures(1, 4, 9, 9))
    assert "relu" in names(known.steps)


def test_without_onednn_nothing_is_fused(monkeypatch):
    net, x = Padded((0, 1, 0, 1), then=nn.ReLU()), pictures(3, 4, 9, 9)
    with monkeypatch.context() as patch:
        patch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
        known = prepared(net, x)
        assert names(known.steps) == ["convolution", "relu"]
        assert (known.answer(x, ask=True) - net(x)).abs().max() <= 1e-5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the flags, that there is no such GPU
        with torch.backends.mkldnn.flags(enabled=False):
            assert names(prepared(net, x).steps) == ["convolution", "relu"]


def test_the_network_keeps_its_weights():
    net, x = Padded((0, 1, 0, 1), then=nn.ReLU()), pictures(3, 4, 9, 9)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    known = prepared(net, x)
    known.answer(x, ask=True)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert net.convolution.weight.layout == torch.strided
    net.convolution.weight.data = net.convolution.weight.data * 2
    assert (known.answer(x, ask=False) - prepared(net, x).answer(x, ask=False)).abs().max() > 0.1


class Branches(nn.Module):
    """A large layer is read again behind small ones, and one value loses its first axis."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(8, 8, 3, 2, 1), nn.Linear(8, 5)

    def forward(self, x):
        a = self.a(x).relu()
        b = F.interpolate(self.b(a), scale_factor=2).relu() + a
        rows = b.flatten(2).transpose(1, 2)
        return self.c(rows.reshape(-1, 8)).reshape(len(x), -1, 5).mean(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("work", "little"), [(600, 200), (1, 1), (10**9, 10**9), (1200, 0), (1, 10**9)])
def test_in_portions_and_then_together(monkeypatch, work, little, dtype):
    monkeypatch.setattr(engine, "WORK", work)
    monkeypatch.setattr(engine, "LITTLE", little)
    torch.manual_seed(0)
    net, x = Branches().to(dtype), pictures(7, 4, 6, 6, dtype=dtype)
    known = prepared(net, x)
    count = len(known.steps)
    assert known.early == {200: names(known.steps).index("linear_last"), 10**9: 0}.get(little, count)
    bound = 1e-12 if dtype == torch.float64 else 1e-5
    assert (known.answer(x, ask=True) - net(x)).abs().max() <= bound


def test_packed_weights_answer_for_windows_too():
    net, x = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.ReLU()), pictures(1, 4, 20, 20)
    known = prepared(net, x)
    assert {step.name for step in known.packed.steps} == {fused.ACTIVATED}
    starts = torch.tensor([[0, 0], [3, 9], [15, 15]])
    found = known.run(starts, torch.zeros(1, 4, 5, 5))
    for output, (i, j) in zip(found, starts.tolist(), strict=True):
        hidden = x.clone()
        hidden[..., i : i + 5, j : j + 5] = 0
        assert (output - net(hidden)[0]).abs().max() <= 1e-5
