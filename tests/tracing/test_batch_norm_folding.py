"""Op traces and batch norm folding: outputs equal the network's, and the network does not change."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from seewhy.testing import state, states_equal
from seewhy.tracing.batch_norm_folding import fold_batch_norms
from seewhy.tracing.op_trace import TraceError, execute_op, store_outputs, trace_ops


def trace_output(trace, x):
    """The output of a trace for a batch; the ops are executed sample by sample with `vmap`."""

    def sample_output(sample):
        values = {trace.input_id: sample}
        for op in trace.ops:
            store_outputs(op, execute_op(op, values.__getitem__), values)
        return values[trace.output_id]

    return torch.func.vmap(sample_output, randomness="error")(x.unsqueeze(1)).squeeze(1)


def with_random_batch_norms(net):
    """The network in double precision and eval mode, with random batch norm statistics, scales and shifts."""
    torch.manual_seed(0)
    for part in net.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.running_mean.uniform_(-1, 1)
            part.running_var.uniform_(0.5, 2)
            if part.affine:
                part.weight.data.uniform_(-2, 2)
                part.bias.data.uniform_(-1, 1)
    return net.double().eval()


class ReusedModules(nn.Module):
    """Reused modules, functions, operators, and a batch norm registered before its convolution."""

    def __init__(self):
        super().__init__()
        self.norm, self.first, self.shared = (
            nn.BatchNorm2d(6),
            nn.Conv2d(3, 6, 3, bias=False),
            nn.Conv2d(6, 6, 3, padding=1),
        )
        self.plain = nn.BatchNorm2d(6, affine=False, eps=0.3)

    def forward(self, x):
        a = F.relu(self.norm(self.first(x)), inplace=True)
        b = self.shared(a)
        c = self.plain(self.shared(b))
        return (c + b).mean((2, 3)) if len(x) else c


FOLDS = {
    "bias": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), 1),
    "groups, no bias, no affine": (
        lambda: nn.Sequential(nn.Conv2d(3, 6, 3, groups=3, bias=False), nn.BatchNorm2d(6, affine=False)), 1),
    "transposed": (lambda: nn.Sequential(nn.ConvTranspose2d(3, 5, 3, 2), nn.BatchNorm2d(5)), 1),
    "transposed in groups": (lambda: nn.Sequential(nn.ConvTranspose2d(3, 6, 3, 2, groups=3), nn.BatchNorm2d(6)), 0),
    "norm first": (lambda: nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)), 0),
    "two norms": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4, eps=0.1)), 1),
    "any names and order": (ReusedModules, 2),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDS)
def test_fold_batch_norms_every_case(name):
    make, folds = FOLDS[name]
    net = with_random_batch_norms(make())
    x = torch.randn(5, 3, 9, 8, generator=torch.Generator().manual_seed(0)).double()
    before = state(net)
    trace = trace_ops(net, x[:1])
    folded = fold_batch_norms(trace)
    assert len(trace.ops) - len(folded.ops) == folds
    expected = net(x).detach()
    for t in (trace, folded):
        assert (trace_output(t, x) - expected).abs().max() <= 1e-12 * expected.abs().max()
        for value_id in (t.output_id, *(op.outputs[0] for op in t.ops)):  # saved values stay valid
            values = {t.input_id: t.saved_values[t.input_id]}
            for op in t.ops:
                store_outputs(op, execute_op(op, values.__getitem__), values)
            assert torch.allclose(t.reference_value(value_id), values[value_id], rtol=0, atol=1e-12)
    assert states_equal(before, state(net))


def test_fold_batch_norms_skips_convolution_with_second_user():
    class SecondUser(ReusedModules):
        def forward(self, x):
            a = self.first(x)
            return self.norm(a) + a

    net, x = with_random_batch_norms(SecondUser()), torch.randn(2, 3, 9, 8).double()
    trace = trace_ops(net, x[:1])
    assert len(fold_batch_norms(trace).ops) == len(trace.ops)
    assert torch.allclose(trace_output(fold_batch_norms(trace), x), net(x))


def test_fold_batch_norms_skips_batch_statistics():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)).double().eval()
    trace = trace_ops(net, torch.randn(1, 3, 9, 8).double())
    assert len(fold_batch_norms(trace).ops) == len(trace.ops)


def test_fold_batch_norms_with_tiny_variance():
    net = with_random_batch_norms(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=1e-30)))
    net[1].running_var.fill_(1e-20)
    x = torch.randn(2, 3, 5, 5).double()
    assert torch.allclose(trace_output(fold_batch_norms(trace_ops(net, x[:1])), x), net(x), rtol=1e-9)


def test_fold_batch_norms_copies_weights_to_channels_last():
    net = with_random_batch_norms(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    weight = fold_batch_norms(trace_ops(net, torch.randn(1, 3, 5, 5).double())).ops[0].arguments["weight"]
    assert weight.is_contiguous(memory_format=torch.channels_last) and torch.equal(weight, net[0].weight)
    assert net[0].weight.is_contiguous()


def test_weights_unchanged_detects_in_place_change():
    net = with_random_batch_norms(ReusedModules())
    trace = trace_ops(net, torch.randn(1, 3, 9, 8).double())
    assert trace.weights_unchanged()
    net.norm.running_var.mul_(1)
    assert not trace.weights_unchanged()
    assert not fold_batch_norms(trace).weights_unchanged()


def test_trace_ops_with_views_changed_in_place():
    def function(x):
        y = x * 2
        y[:, 0].mul_(3)
        return y + 1

    x = torch.randn(4, 3, 5)
    try:
        output = trace_output(trace_ops(function, x[:1]), x)
    except TraceError as reason:
        pytest.fail(str(reason))
    assert torch.equal(output, function(x))


def test_trace_ops_rejects_constant_changed_after_use():
    def function(x):
        count = torch.ones(1)
        y = x * count
        count.add_(1)
        return y * count

    with pytest.raises(TraceError, match="changes a constant in place"):
        trace_ops(function, torch.randn(1, 3, 5))


def test_trace_ops_rejects_uninitialized_memory():
    with pytest.raises(TraceError, match="initialized by an unrecorded operation"):
        trace_ops(lambda x: x + torch.empty(3, 5), torch.randn(1, 3, 5))
