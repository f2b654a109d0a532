"""A network's record does what the network does, folded or not, and leaves the network alone."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from seewhy.models.folded import folded
from seewhy.models.tape import Unrecorded, record, replay
from seewhy.testing import same, state


def lively(net):
    """Batch norms with statistics, scales and shifts of their own; evaluation mode."""
    torch.manual_seed(0)
    for part in net.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.running_mean.uniform_(-1, 1)
            part.running_var.uniform_(0.5, 2)
            if part.affine:
                part.weight.data.uniform_(-2, 2)
                part.bias.data.uniform_(-1, 1)
    return net.double().eval()


class Named(nn.Module):
    """Reused modules, functions, operators, and a norm that stands before its convolution in the list."""

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
    "any names and order": (Named, 2),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDS)
def test_folding_changes_nothing(name):
    make, folds = FOLDS[name]
    net = lively(make())
    x = torch.randn(5, 3, 9, 8, generator=torch.Generator().manual_seed(0)).double()
    before = state(net)
    tape = record(net, x[:1])
    short = folded(tape)
    assert len(tape.steps) - len(short.steps) == folds
    expected = net(x).detach()
    for t in (tape, short):
        assert (replay(t, x) - expected).abs().max() <= 1e-12 * expected.abs().max()
        for value in (t.result, *(s.gives[0] for s in t.steps)):  # what was kept stays good
            again = {t.source: t.kept[t.source]}
            for step in t.steps:
                from seewhy.models.tape import done, store

                store(step, done(step, again.__getitem__), again)
            assert torch.allclose(t.clean(value), again[value], rtol=0, atol=1e-12)
    assert same(before, state(net))


def test_a_convolution_that_others_read_is_not_folded():
    class Read(Named):
        def forward(self, x):
            a = self.first(x)
            return self.norm(a) + a

    net, x = lively(Read()), torch.randn(2, 3, 9, 8).double()
    tape = record(net, x[:1])
    assert len(folded(tape).steps) == len(tape.steps)
    assert torch.allclose(replay(folded(tape), x), net(x))


def test_statistics_of_the_batch_are_not_folded():
    net = (
        lively(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)))
        if False
        else nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)).double().eval()
    )
    tape = record(net, torch.randn(1, 3, 9, 8).double())
    assert len(folded(tape).steps) == len(tape.steps)


def test_a_tiny_variance_is_folded_like_any_other():
    net = lively(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=1e-30)))
    net[1].running_var.fill_(1e-20)
    x = torch.randn(2, 3, 5, 5).double()
    assert torch.allclose(replay(folded(record(net, x[:1])), x), net(x), rtol=1e-9)


def test_weights_are_laid_out_channels_last_in_a_copy():
    net = lively(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    weight = folded(record(net, torch.randn(1, 3, 5, 5).double())).steps[0].given["weight"]
    assert weight.is_contiguous(memory_format=torch.channels_last) and torch.equal(weight, net[0].weight)
    assert net[0].weight.is_contiguous()


def test_a_record_can_be_differentiated():
    net, x = lively(Named()), torch.randn(3, 3, 9, 8).double()
    tape = folded(record(net, x[:1]))
    leaves = [x.clone().requires_grad_() for _ in range(2)]
    ours = torch.autograd.grad(replay(tape, leaves[0])[:, 2].sum(), leaves[0])[0]
    assert torch.allclose(ours, torch.autograd.grad(net(leaves[1])[:, 2].sum(), leaves[1])[0])


def test_a_record_knows_whether_weights_have_changed():
    net = lively(Named())
    tape = record(net, torch.randn(1, 3, 9, 8).double())
    assert tape.unchanged()
    net.norm.running_var.mul_(1)
    assert not tape.unchanged()
    assert not folded(tape).unchanged()


def test_views_changed_in_place_are_told_apart():
    def odd(x):
        y = x * 2
        y[:, 0].mul_(3)
        return y + 1

    x = torch.randn(4, 3, 5)
    try:
        found = replay(record(odd, x[:1]), x)
    except Unrecorded as reason:
        pytest.fail(str(reason))
    assert torch.equal(found, odd(x))


def test_constants_that_change_after_they_were_read_are_refused():
    def odd(x):
        count = torch.ones(1)
        y = x * count
        count.add_(1)
        return y * count

    with pytest.raises(Unrecorded, match="constant that was read"):
        record(odd, torch.randn(1, 3, 5))


def test_memory_filled_unseen_is_refused():
    with pytest.raises(Unrecorded, match="filled unseen"):
        record(lambda x: x + torch.empty(3, 5), torch.randn(1, 3, 5))
