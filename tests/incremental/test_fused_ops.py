"""Fused ops: outputs are those of the network, and ops that oneDNN does not support stay separate."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import seewhy
from seewhy import incremental
from seewhy.incremental import fused_ops, inference

ACTIVATIONS = {
    "relu": nn.ReLU(), "relu6": nn.ReLU6(), "hardtanh": nn.Hardtanh(-0.2, 0.7), "sigmoid": nn.Sigmoid(),
    "tanh": nn.Tanh(), "silu": nn.SiLU(), "hardswish": nn.Hardswish(), "hardsigmoid": nn.Hardsigmoid(),
    "gelu": nn.GELU(), "gelu, tanh": nn.GELU("tanh"),
}  # fmt: skip


class Padded(nn.Module):
    """Zero padding of any width at each end, then a convolution, then an optional activation."""

    def __init__(self, pads, dims=2, activation=None, **options):
        super().__init__()
        torch.manual_seed(0)
        convolution = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dims]
        self.pads, self.convolution = pads, convolution(4, 6, 3, **options)
        self.activation = activation or nn.Identity()

    def forward(self, x):
        return self.activation(self.convolution(F.pad(x, self.pads)))


def prepared(net, x):
    result = incremental.prepare_network(seewhy.wrap(net.eval()), x[:1])
    assert not isinstance(result, str), result
    return result


def op_names(ops):
    return [op.name.removeprefix("aten::") for op, *_ in ops]


def pictures(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3), dtype=dtype)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("options", [{}, {"stride": 2, "groups": 2, "bias": False}, {"dilation": 2, "padding": 3}])
def test_fuse_activations_every_activation(name, options):
    net = Padded((0, 0), activation=ACTIVATIONS[name], **options)
    net.convolution.weight.data.mul_(3)  # so that every branch of the activation is used
    x = pictures(5, 4, 11, 12)
    network = prepared(net, x)
    assert "activated_convolution" in op_names(network.full_ops) and len(network.full_ops) == 1
    assert (network.outputs_for(x, verify=True) - net(x)).abs().max() <= 2e-6 * net(x).abs().max()


PADS = [(0, 1, 0, 1), (1, 2, 0, 3), (3, 1, 2, 0), (2, 2), (0, 3)]


@pytest.mark.parametrize("pads", PADS)
@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"padding": (2, 1)}, {"groups": 2, "stride": (1, 3)}])
def test_fuse_padding_asymmetric_pads(pads, options):
    """In double precision, where nothing else is fused: no padding op is left, and outputs agree to 1e-12."""
    net, x = Padded(pads, **options).double(), pictures(3, 4, 9, 10, dtype=torch.float64)
    network = prepared(net, x)
    assert op_names(network.full_ops) == ["convolution"]
    assert network.outputs_for(x, verify=True).shape == net(x).shape
    assert (network.outputs_for(x, verify=True) - net(x)).abs().max() <= 1e-12


def test_fuse_padding_with_dilation():
    x = pictures(2, 4, 12, 12, dtype=torch.float64)
    even, odd = Padded((1, 3), dilation=2).double(), Padded((1, 2), dilation=2).double()
    assert op_names(prepared(even, x).full_ops) == ["convolution"]
    assert op_names(prepared(odd, x).full_ops) == ["constant_pad_nd", "convolution"]
    for net in (even, odd):
        assert (prepared(net, x).outputs_for(x, verify=True) - net(x)).abs().max() <= 1e-12


@pytest.mark.parametrize("dims", [1, 3])
def test_fused_ops_in_1d_and_3d(dims):
    net, x = Padded((1, 2), dims=dims, activation=nn.ReLU()).double(), pictures(3, 4, *[8] * dims, dtype=torch.float64)
    assert op_names(prepared(net, x).full_ops) == ["convolution", "relu"]
    assert (prepared(net, x).outputs_for(x, verify=True) - net(x)).abs().max() <= 1e-12
    single = net.float()
    assert (prepared(single, x.float()).outputs_for(x.float(), verify=True) - single(x.float())).abs().max() <= 1e-5


class SecondUser(nn.Module):
    """The value between convolution and activation, or between padding and convolution, has a second user."""

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
def test_fusion_skipped_with_second_user_or_other_padding(between):
    net, x = SecondUser(between), pictures(3, 4, 9, 9)
    if between == "negative":
        net = Padded((-1, 2))
    network = prepared(net, x)
    unfused = "relu" if between == "activation" else "constant_pad_nd"
    assert unfused in op_names(network.full_ops)
    assert (network.outputs_for(x, verify=True) - net(x)).abs().max() <= 1e-5


class Tiles(nn.Module):
    """Tiles of one picture on the batch axis."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(4, 6, 3)

    def forward(self, x):
        tiles = x.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).reshape(-1, 4, 4, 4)
        return self.convolution(tiles).relu().flatten(1).reshape(len(x), -1)


def test_fuse_activations_skips_convolution_of_several_samples():
    net, x = Tiles(), pictures(3, 4, 8, 8)
    network = prepared(net, x)
    assert "convolution" in op_names(network.full_ops)
    assert (network.outputs_for(x, verify=True) - net(x)).abs().max() <= 1e-5


def test_fuse_activations_skips_input_dependent_weights():
    class DynamicWeights(nn.Module):
        def forward(self, x):
            return F.relu(F.conv2d(x, x.mean((2, 3))[:, :, None, None].expand(1, 4, 3, 3)))

    network = prepared(DynamicWeights(), pictures(1, 4, 9, 9))
    assert "relu" in op_names(network.full_ops)


def test_no_fusion_without_onednn(monkeypatch):
    net, x = Padded((0, 1, 0, 1), activation=nn.ReLU()), pictures(3, 4, 9, 9)
    with monkeypatch.context() as patch:
        patch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
        network = prepared(net, x)
        assert op_names(network.full_ops) == ["convolution", "relu"]
        assert (network.outputs_for(x, verify=True) - net(x)).abs().max() <= 1e-5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the flags warn where there is no GPU
        with torch.backends.mkldnn.flags(enabled=False):
            assert op_names(prepared(net, x).full_ops) == ["convolution", "relu"]


def test_fusion_leaves_network_weights_unchanged():
    net, x = Padded((0, 1, 0, 1), activation=nn.ReLU()), pictures(3, 4, 9, 9)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    network = prepared(net, x)
    network.outputs_for(x, verify=True)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert net.convolution.weight.layout == torch.strided
    net.convolution.weight.data = net.convolution.weight.data * 2
    assert (network.outputs_for(x, verify=False) - prepared(net, x).outputs_for(x, verify=False)).abs().max() > 0.1


class Branches(nn.Module):
    """A large value is used again after small ones, and one value has no batch axis."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(8, 8, 3, 2, 1), nn.Linear(8, 5)

    def forward(self, x):
        a = self.a(x).relu()
        b = F.interpolate(self.b(a), scale_factor=2).relu() + a
        rows = b.flatten(2).transpose(1, 2)
        return self.c(rows.reshape(-1, 8)).reshape(len(x), -1, 5).mean(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("chunk_elements", "small_elements"), [(600, 200), (1, 1), (10**9, 10**9), (1200, 0), (1, 10**9)]
)
def test_outputs_for_in_chunks(monkeypatch, chunk_elements, small_elements, dtype):
    monkeypatch.setattr(inference, "CPU_CHUNK_ELEMENTS", chunk_elements)
    monkeypatch.setattr(inference, "SMALL_VALUE_ELEMENTS", small_elements)
    torch.manual_seed(0)
    net, x = Branches().to(dtype), pictures(7, 4, 6, 6, dtype=dtype)
    network = prepared(net, x)
    count = len(network.full_ops)
    first_linear = op_names(network.full_ops).index("linear_over_last_axis")
    assert network.num_chunked_ops == {200: first_linear, 10**9: 0}.get(small_elements, count)
    bound = 1e-12 if dtype == torch.float64 else 1e-5
    assert (network.outputs_for(x, verify=True) - net(x)).abs().max() <= bound


def test_masked_outputs_with_packed_weights():
    net, x = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.ReLU()), pictures(1, 4, 20, 20)
    network = prepared(net, x)
    assert {op.name for op in network.windowed_trace.ops} == {fused_ops.ACTIVATED_CONVOLUTION_OP}
    starts = torch.tensor([[0, 0], [3, 9], [15, 15]])
    outputs = network.masked_outputs(starts, torch.zeros(1, 4, 5, 5))
    for output, (i, j) in zip(outputs, starts.tolist(), strict=True):
        masked = x.clone()
        masked[..., i : i + 5, j : j + 5] = 0
        assert (output - net(masked)[0]).abs().max() <= 1e-5
