"""Networks that have learnt nothing, or only some of it: which tensors, which law, and nothing else touched."""

import math

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

import seewhy
from seewhy import ModelError, OptionError, UnknownNameError
from seewhy.testing import inputs, network, same, state

X = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(3))


class Stages(nn.Module):
    """Registered in another order than it runs; containers, batch statistics, and rows with nothing to learn."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 5)
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.layer4 = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
        self.norm = nn.BatchNorm2d(8, affine=False)

    def forward(self, x):
        return self.head(self.norm(self.layer4(self.stem(x))).mean((2, 3)))


@pytest.fixture
def net():
    """With statistics of its own."""
    torch.manual_seed(0)
    found = Stages().train()
    with torch.no_grad():
        found(X * 2 + 1)
        for p in found.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return found.eval()


def weights(model):
    return dict(model.module.named_parameters())


def changed(model, net):
    """What really has other values."""
    return {name for name, w in weights(model).items() if not torch.equal(w, dict(net.named_parameters())[name])}


def near(net, name):
    return {w for w, _ in net.named_parameters() if w.startswith(f"{name}.")}


# --- which tensors


@pytest.mark.row(48, 51)
def test_one_layer_by_name_or_by_row(net):
    rows = seewhy.layers(net, X)
    for row in (r for r in rows if r.learnable):
        by_name, by_row = seewhy.randomize(net, row.name, x=X), seewhy.randomize(net, row.row, x=X)
        assert set(by_row.randomized) == near(net, row.name)
        assert changed(by_row, net) == set(by_row.randomized)
        assert by_name.randomized == by_row.randomized
        assert same(by_name.module.state_dict(), by_row.module.state_dict())
        every = [name for name, _ in net.named_parameters()]
        assert sorted(by_row.randomized + by_row.untouched) == sorted(every)
    assert seewhy.randomize(net, 1, x=X).randomized == (
        "stem.0.weight",
        "stem.0.bias",
    )  # rows start at 1, and run first


@pytest.mark.row(49)
def test_rows_60_to_67(lite0):
    rows = seewhy.layers(lite0)
    found = seewhy.randomize(lite0, 60, count=7)
    meant = {row.name for row in rows if 60 <= row.row <= 67}
    assert len(meant) == 8
    assert {w.rpartition(".")[0] for w in found.randomized} == {
        row.name for row in rows if row.name in meant and row.learnable
    }
    assert found.randomized


def test_a_cascade_goes_on_or_back_and_is_clamped(net):
    rows = seewhy.layers(net, X)
    names = [row.name for row in rows]
    last = names.index("head") + 1
    both = set(seewhy.randomize(net, "layer4.3", count=1, x=X).randomized)
    assert both == near(net, "layer4.3")  # the row behind is a rectifier
    start = names.index("layer4.0")
    for count in (1, 2, 3, 4, 7):
        meant = set().union(*(near(net, n) for n in names[start : start + count + 1]))
        assert set(seewhy.randomize(net, start + 1, count, x=X).randomized) == meant
        meant = set().union(*(near(net, n) for n in names[max(0, start - count) : start + 1]))
        assert set(seewhy.randomize(net, start + 1, -count, x=X).randomized) == meant
    every = {name for name, _ in net.named_parameters()}
    assert set(seewhy.randomize(net, last, -1000, x=X).randomized) == every
    assert set(seewhy.randomize(net, 1, 1000, x=X).randomized) == every
    assert seewhy.randomize(net, 1, 1000, x=X).untouched == ()


def test_a_container(net):
    found = seewhy.randomize(net, "layer4", x=X)
    assert set(found.randomized) == near(net, "layer4") == changed(found, net)
    resnet = timm.create_model("resnet18")
    found = seewhy.randomize(resnet, "layer4")  # without an input: as they were registered
    assert set(found.randomized) == near(resnet, "layer4")
    assert set(seewhy.randomize(resnet, "layer4", count=100).randomized) == near(resnet, "layer4") | near(resnet, "fc")


@pytest.mark.row(50, 51)
def test_rows_with_nothing_to_learn(net):
    names = [row.name for row in seewhy.layers(net, X)]
    found = seewhy.randomize(net, "stem.2", x=X)
    assert found.randomized == ()
    assert changed(found, net) == set()
    over = seewhy.randomize(net, "stem.2", count=names.index("layer4.0") - names.index("stem.2"), x=X)
    assert set(over.randomized) == near(net, "layer4.0")


def test_the_running_order_needs_an_input(net):
    assert seewhy.randomize(net, 1, x=X).randomized == ("stem.0.weight", "stem.0.bias")
    assert seewhy.randomize(net, "head", count=1).randomized == ("head.weight", "head.bias", "stem.0.weight",
                                                                 "stem.0.bias")  # fmt: skip
    assert seewhy.randomize(net, "head", count=1, x=X).randomized == ("head.weight", "head.bias")


def test_every_learnable_tensor_of_a_transformer():
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", depth=2, img_size=32, init_values=1e-5, num_classes=5)
    x = torch.randn(2, 3, 32, 32)
    last = len(seewhy.layers(vit, x))
    found = seewhy.randomize(vit, last, -1000, x=x)
    assert found.untouched == ()
    special = {"cls_token", "pos_embed", "blocks.0.ls1.gamma", "blocks.1.ls2.gamma", "patch_embed.proj.weight"}
    assert special <= set(found.randomized)
    # what an initialiser sets to a constant is drawn as that constant: only there may nothing have changed
    constant = {n for n, p in vit.named_parameters() if "norm" in n}
    assert changed(found, vit) == set(found.randomized) - constant
    first = seewhy.randomize(vit, 1, x=x)
    assert {"cls_token", "pos_embed"} <= set(first.randomized)
    assert not {"cls_token", "pos_embed"} & set(seewhy.randomize(vit, last, x=x).randomized)


def test_tensors_without_spread_are_not_kept():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nn.PReLU(init=0.7)
            self.temperature = nn.Parameter(torch.tensor(3.0))
            self.gamma = nn.Parameter(torch.full((6,), 1e-5))

        def forward(self, x):
            return self.act(x).mean((2, 3)) * self.temperature + self.gamma[:3]

    net = Scaled()
    found = weights(seewhy.randomize(net, 1, 100, x=X))
    assert found["act.weight"].item() == 0.25  # the law of its own
    assert found["temperature"] != 3
    assert found["gamma"].std() > 0
    assert found["gamma"].abs().max() < 1e-4


# --- which law


def test_equal_layers_get_different_weights():
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 8))
    for how in ("init", "small_normal"):
        found = weights(seewhy.randomize(net, 1, 3, how=how))
        for kind in ("weight", "bias"):
            a, b, c = (found[f"{n}.{kind}"] for n in (0, 2, 3))
            assert not (torch.isin(a, b).any() or torch.isin(b, c).any())


FRESH = {
    "Conv1d": lambda: nn.Conv1d(12, 40, 5),
    "Conv2d": lambda: nn.Conv2d(12, 40, 3, groups=2),
    "Conv3d": lambda: nn.Conv3d(6, 40, 3),
    "ConvTranspose1d": lambda: nn.ConvTranspose1d(12, 40, 5),
    "ConvTranspose2d": lambda: nn.ConvTranspose2d(40, 12, 3, groups=2),
    "ConvTranspose3d": lambda: nn.ConvTranspose3d(6, 40, 3),
    "Linear": lambda: nn.Linear(50, 70),
    "BatchNorm2d": lambda: nn.BatchNorm2d(70),
    "LayerNorm": lambda: nn.LayerNorm(70),
    "GroupNorm": lambda: nn.GroupNorm(7, 70),
    "InstanceNorm2d": lambda: nn.InstanceNorm2d(70, affine=True),
    "MultiheadAttention": lambda: nn.MultiheadAttention(60, 4, add_bias_kv=True),
    "MultiheadAttention, other sizes": lambda: nn.MultiheadAttention(60, 4, kdim=20, vdim=30),
    "LSTM": lambda: nn.LSTM(20, 30, 2, bidirectional=True),
    "GRUCell": lambda: nn.GRUCell(20, 30),
    "Embedding": lambda: nn.Embedding(200, 20, padding_idx=3),
}


@pytest.mark.row(52)
@pytest.mark.parametrize("name", FRESH)
def test_the_law_of_the_layer_itself(name):
    """Bounds and spread of many draws, beside many fresh layers; what was learnt before is nowhere in it."""
    make = FRESH[name]
    torch.manual_seed(0)
    learnt = make()
    with torch.no_grad():
        for w in learnt.parameters():
            w.copy_(torch.randn(w.shape) * 5 + 3)
    fresh = [make() for _ in range(8)]
    drawn = [seewhy.randomize(learnt, 1, 100, seed=s).module for s in range(8)]
    assert {n for n, _ in drawn[0].named_parameters()} == {n for n, _ in fresh[0].named_parameters()}
    for tensor, _ in learnt.named_parameters():
        theirs, mine = (torch.stack([dict(m.named_parameters())[tensor].detach() for m in ms]).double()
                        for ms in (fresh, drawn))  # fmt: skip
        if theirs.std() == 0:
            assert torch.equal(mine, theirs), tensor
            continue
        count, spread = theirs.numel(), theirs.std()
        assert abs(mine.mean() - theirs.mean()) < 6 * spread / math.sqrt(count), tensor
        # the spread of a normal law is known to sd/sqrt(2 n), that of a uniform one better
        assert abs(mine.std() / spread - 1) < 6 / math.sqrt(2 * count), tensor
        peak = theirs.abs().max()
        if peak < 2 * spread:  # uniform: bounds agree
            assert abs(mine.abs().max() / peak - 1) < 0.05, tensor
        assert ((mine == 0) == (theirs == 0)).all(), tensor  # the padding of an embedding


def test_no_law_known():
    """The mean and the spread of what was learnt."""

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Parameter(torch.randn(4000, generator=torch.Generator().manual_seed(0)) * 3 + 7)

        def forward(self, x):
            return x.mean((2, 3)) * self.table.mean()

    found = weights(seewhy.randomize(Own(), 1))["table"]
    assert abs(found.mean() - 7) < 0.3
    assert abs(found.std() - 3) < 0.2


def test_permute_keeps_the_values(net):
    found = seewhy.randomize(net, 1, 1000, x=X, how="permute")
    for name, w in weights(found).items():
        old = dict(net.named_parameters())[name]
        assert torch.equal(w.flatten().sort().values, old.flatten().sort().values)
        assert not torch.equal(w, old)


@pytest.mark.row(52)
def test_small_normal():
    net = nn.Sequential(nn.Conv2d(3, 60, 5), nn.BatchNorm2d(60), nn.Flatten(), nn.LazyLinear(50))
    net(X)
    found = weights(seewhy.randomize(net, 1, 1000, x=X, how="small_normal"))
    whole = torch.cat([w.detach().flatten() for w in found.values()])
    assert abs(whole.std() - 0.01) < 1e-4
    assert abs(whole.mean()) < 1e-4
    for w in found.values():
        assert abs(w.std() - 0.01) < 0.04 / math.sqrt(w.numel())


# --- batch statistics


def statistics(module):
    return {name: b for name, b in module.named_buffers() if "running" in name}


def test_statistics_keep_and_reset(net):
    for layer in ("layer4.0", "head"):
        assert same(statistics(seewhy.randomize(net, layer, x=X).module), statistics(net))
    found = statistics(seewhy.randomize(net, "layer4.0", x=X, statistics="reset").module)
    for name, value in found.items():
        if name.startswith("stem"):  # before the first layer that was drawn
            assert torch.equal(value, statistics(net)[name])
        else:
            assert torch.equal(value, torch.full_like(value, float(name.endswith("var"))))


def test_statistics_estimate(net):
    found = seewhy.randomize(net, "layer4.0", x=X, statistics="estimate").module
    expected = seewhy.randomize(net, "layer4.0", x=X, statistics="reset").module
    for layer in (expected.layer4[1], expected.norm):
        layer.train()
        layer.momentum = 1.0
    with torch.no_grad():
        expected(X)
    assert statistics(found).keys() == statistics(expected).keys()
    for name, value in statistics(found).items():
        torch.testing.assert_close(value, statistics(expected)[name], msg=name)
        assert torch.equal(value, statistics(net)[name]) == name.startswith("stem")
    assert [m.training for m in found.modules()] == [m.training for m in net.modules()]
    assert found.norm.momentum == net.norm.momentum


# --- nothing else touched


@pytest.mark.row(53)
@pytest.mark.parametrize("how", ["init", "permute", "small_normal"])
@pytest.mark.parametrize("statistics", ["keep", "reset", "estimate"])
def test_the_original_and_the_world_are_as_before(how, statistics):
    net = network()
    x = inputs()
    before, given = state(net), x.clone()
    found = seewhy.randomize(net, 1, 100, x=x, how=how, statistics=statistics)
    after = state(net)
    assert all(same(before[key], after[key]) for key in before)
    assert torch.equal(x, given)
    own = {w.data_ptr() for w in net.state_dict().values()}
    assert not own & {w.data_ptr() for w in found.module.state_dict().values()}
    assert [p.requires_grad for p in found.module.parameters()] == [p.requires_grad for p in net.parameters()]
    assert [m.training for m in found.module.modules()] == [m.training for m in net.modules()]


def test_another_seed_other_weights(net):
    a, b, c = (seewhy.randomize(net, 1, 100, x=X, seed=s).module.state_dict() for s in (4, 4, 5))
    assert same(a, b)
    torch.manual_seed(99)
    assert same(seewhy.randomize(net, 1, 100, x=X, seed=4).module.state_dict(), a)
    assert not any(torch.equal(a[k], c[k]) for k in a if k.startswith(("stem.0", "layer4.0", "head")))


def test_what_is_drawn_does_not_depend_on_what_else_is(net):
    whole, one = (weights(seewhy.randomize(net, "head", count, x=X)) for count in (-100, 0))
    assert torch.equal(whole["head.weight"], one["head.weight"])


def test_tied_weights():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(F.relu(self.a(x)))

    net = Tied()
    found = seewhy.randomize(net, "a", x=torch.randn(2, 6))
    assert found.module.a.weight is found.module.b.weight
    assert set(found.randomized) == {"a.weight", "a.bias"}
    assert not torch.equal(found.module.b.weight, net.b.weight)


def test_the_network_is_called_as_before(net):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = net

        def forward(self, x, scale):
            return {"scores": self.body(x) * scale}

    two = Two()
    model = seewhy.wrap(two, labels=list("abcde"), forward=lambda module, x: module(x, scale=2.0)["scores"])
    found = seewhy.randomize(model, "body.head", x=X)
    assert found.labels == tuple("abcde")
    assert set(found.randomized) == {"body.head.weight", "body.head.bias"}
    with torch.no_grad():
        expected = found.module.body(X) * 2
        assert torch.equal(found.forward(X), expected)
        assert not torch.equal(found.forward(X), model.forward(X))


@pytest.mark.row(55)
def test_maps_of_the_randomised_network(net):
    found = seewhy.explain(seewhy.randomize(net, "head", x=X), X, ["gradient", "guided_backprop", "gradcam"], target=1)
    trained = seewhy.explain(net, X, ["gradient", "guided_backprop", "gradcam"], target=1)
    assert [e.method for e in found] == ["gradient", "guided_backprop", "gradcam"]
    assert not any(torch.allclose(a.maps, b.maps) for a, b in zip(found, trained, strict=True))


# --- refusals


def test_refusals(net):
    with pytest.raises(ModelError, match="plain function"):
        seewhy.randomize(lambda x: x.mean((2, 3)), 1)
    with pytest.raises(UnknownNameError, match=r"layer4\.3"):
        seewhy.randomize(net, "layer4.33", x=X)
    rows = len(seewhy.layers(net, X))
    for row in (0, -1, rows + 1):
        with pytest.raises(OptionError, match=f"1 to {rows}"):
            seewhy.randomize(net, row, x=X)
    with pytest.raises(OptionError, match="give x"):
        seewhy.randomize(net, 1, statistics="estimate")
    with pytest.raises(OptionError, match="permute"):
        seewhy.randomize(net, 1, x=X, how="zeros")
    with pytest.raises(OptionError, match="reset"):
        seewhy.randomize(net, 1, x=X, statistics="forget")
