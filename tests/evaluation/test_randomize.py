"""`randomize`: which parameters, which distribution, batch statistics, and no side effects."""

import math

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

import seewhy
from seewhy import ModelError, OptionError, UnknownNameError
from seewhy.testing import inputs, network, state, states_equal

X = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(3))


class Stages(nn.Module):
    """Layers registered in another order than executed; containers, batch norms, layers without parameters."""

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
    """`Stages` with nontrivial batch statistics and parameters."""
    torch.manual_seed(0)
    stages = Stages().train()
    with torch.no_grad():
        stages(X * 2 + 1)
        for p in stages.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return stages.eval()


def weights(model):
    return dict(model.module.named_parameters())


def changed(model, net):
    """Names of the parameters whose values differ."""
    return {name for name, w in weights(model).items() if not torch.equal(w, dict(net.named_parameters())[name])}


def parameters_of(net, name):
    return {w for w, _ in net.named_parameters() if w.startswith(f"{name}.")}


# --- which parameters


@pytest.mark.row(48, 51)
def test_randomize_layer_by_name_or_row(net):
    rows = seewhy.layers(net, X)
    for row in (r for r in rows if r.learnable):
        by_name, by_row = seewhy.randomize(net, row.name, x=X), seewhy.randomize(net, row.row, x=X)
        assert set(by_row.randomized) == parameters_of(net, row.name)
        assert changed(by_row, net) == set(by_row.randomized)
        assert by_name.randomized == by_row.randomized
        assert states_equal(by_name.module.state_dict(), by_row.module.state_dict())
        every = [name for name, _ in net.named_parameters()]
        assert sorted(by_row.randomized + by_row.untouched) == sorted(every)
    # row 1 is the layer that is executed first
    assert seewhy.randomize(net, 1, x=X).randomized == ("stem.0.weight", "stem.0.bias")


def test_randomize_rows_60_to_67(lite0):
    rows = seewhy.layers(lite0)
    result = seewhy.randomize(lite0, 60, count=7)
    meant = {row.name for row in rows if 60 <= row.row <= 67}
    assert len(meant) == 8
    assert {w.rpartition(".")[0] for w in result.randomized} == {
        row.name for row in rows if row.name in meant and row.learnable
    }
    assert result.randomized


def test_randomize_cascade_forward_backward_and_clamped(net):
    rows = seewhy.layers(net, X)
    names = [row.name for row in rows]
    last = names.index("head") + 1
    both = set(seewhy.randomize(net, "layer4.3", count=1, x=X).randomized)
    assert both == parameters_of(net, "layer4.3")  # the next row is a ReLU
    start = names.index("layer4.0")
    for count in (1, 2, 3, 4, 7):
        meant = set().union(*(parameters_of(net, n) for n in names[start : start + count + 1]))
        assert set(seewhy.randomize(net, start + 1, count, x=X).randomized) == meant
        meant = set().union(*(parameters_of(net, n) for n in names[max(0, start - count) : start + 1]))
        assert set(seewhy.randomize(net, start + 1, -count, x=X).randomized) == meant
    every = {name for name, _ in net.named_parameters()}
    assert set(seewhy.randomize(net, last, -1000, x=X).randomized) == every
    assert set(seewhy.randomize(net, 1, 1000, x=X).randomized) == every
    assert seewhy.randomize(net, 1, 1000, x=X).untouched == ()


def test_randomize_container(net):
    result = seewhy.randomize(net, "layer4", x=X)
    assert set(result.randomized) == parameters_of(net, "layer4") == changed(result, net)
    resnet = timm.create_model("resnet18")
    result = seewhy.randomize(resnet, "layer4")  # without an input: order of registration
    assert set(result.randomized) == parameters_of(resnet, "layer4")
    expected = parameters_of(resnet, "layer4") | parameters_of(resnet, "fc")
    assert set(seewhy.randomize(resnet, "layer4", count=100).randomized) == expected


@pytest.mark.row(50, 51)
def test_randomize_counts_rows_without_parameters(net):
    names = [row.name for row in seewhy.layers(net, X)]
    result = seewhy.randomize(net, "stem.2", x=X)
    assert result.randomized == ()
    assert changed(result, net) == set()
    over = seewhy.randomize(net, "stem.2", count=names.index("layer4.0") - names.index("stem.2"), x=X)
    assert set(over.randomized) == parameters_of(net, "layer4.0")


def test_randomize_execution_order_requires_input(net):
    assert seewhy.randomize(net, 1, x=X).randomized == ("stem.0.weight", "stem.0.bias")
    assert seewhy.randomize(net, "head", count=1).randomized == ("head.weight", "head.bias", "stem.0.weight",
                                                                 "stem.0.bias")  # fmt: skip
    assert seewhy.randomize(net, "head", count=1, x=X).randomized == ("head.weight", "head.bias")


def test_randomize_all_parameters_of_transformer():
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", depth=2, img_size=32, init_values=1e-5, num_classes=5)
    x = torch.randn(2, 3, 32, 32)
    last = len(seewhy.layers(vit, x))
    result = seewhy.randomize(vit, last, -1000, x=x)
    assert result.untouched == ()
    special = {"cls_token", "pos_embed", "blocks.0.ls1.gamma", "blocks.1.ls2.gamma", "patch_embed.proj.weight"}
    assert special <= set(result.randomized)
    # an initializer with a constant value may leave a parameter unchanged
    constant = {n for n, p in vit.named_parameters() if "norm" in n}
    assert changed(result, vit) == set(result.randomized) - constant
    first = seewhy.randomize(vit, 1, x=x)
    assert {"cls_token", "pos_embed"} <= set(first.randomized)
    assert not {"cls_token", "pos_embed"} & set(seewhy.randomize(vit, last, x=x).randomized)


def test_randomize_constant_parameters():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nn.PReLU(init=0.7)
            self.temperature = nn.Parameter(torch.tensor(3.0))
            self.gamma = nn.Parameter(torch.full((6,), 1e-5))

        def forward(self, x):
            return self.act(x).mean((2, 3)) * self.temperature + self.gamma[:3]

    net = Scaled()
    result = weights(seewhy.randomize(net, 1, 100, x=X))
    assert result["act.weight"].item() == 0.25  # the initial value of nn.PReLU
    assert result["temperature"] != 3
    assert result["gamma"].std() > 0
    assert result["gamma"].abs().max() < 1e-4


# --- which distribution


def test_randomize_equal_layers_differently():
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 8))
    for how in ("init", "small_normal"):
        result = weights(seewhy.randomize(net, 1, 3, how=how))
        for kind in ("weight", "bias"):
            a, b, c = (result[f"{n}.{kind}"] for n in (0, 2, 3))
            assert not (torch.isin(a, b).any() or torch.isin(b, c).any())


LAYER_FACTORIES = {
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
@pytest.mark.parametrize("name", LAYER_FACTORIES)
def test_randomize_init_matches_layer_initializer(name):
    """Bounds, mean and standard deviation match those of new layers and do not depend on the previous values."""
    make = LAYER_FACTORIES[name]
    torch.manual_seed(0)
    layer = make()
    with torch.no_grad():
        for w in layer.parameters():
            w.copy_(torch.randn(w.shape) * 5 + 3)
    new = [make() for _ in range(8)]
    randomized = [seewhy.randomize(layer, 1, 100, seed=s).module for s in range(8)]
    assert {n for n, _ in randomized[0].named_parameters()} == {n for n, _ in new[0].named_parameters()}
    for tensor, _ in layer.named_parameters():
        expected, actual = (torch.stack([dict(m.named_parameters())[tensor].detach() for m in ms]).double()
                            for ms in (new, randomized))  # fmt: skip
        if expected.std() == 0:
            assert torch.equal(actual, expected), tensor
            continue
        count, std = expected.numel(), expected.std()
        assert abs(actual.mean() - expected.mean()) < 6 * std / math.sqrt(count), tensor
        # standard error of the standard deviation: sd/sqrt(2 n) for a normal distribution, less for a uniform one
        assert abs(actual.std() / std - 1) < 6 / math.sqrt(2 * count), tensor
        peak = expected.abs().max()
        if peak < 2 * std:  # uniform: the bounds match
            assert abs(actual.abs().max() / peak - 1) < 0.05, tensor
        assert ((actual == 0) == (expected == 0)).all(), tensor  # padding of an embedding


def test_randomize_unknown_parameter_keeps_mean_and_std():
    """The mean and standard deviation of the trained values."""

    class CustomParameter(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Parameter(torch.randn(4000, generator=torch.Generator().manual_seed(0)) * 3 + 7)

        def forward(self, x):
            return x.mean((2, 3)) * self.table.mean()

    result = weights(seewhy.randomize(CustomParameter(), 1))["table"]
    assert abs(result.mean() - 7) < 0.3
    assert abs(result.std() - 3) < 0.2


def test_randomize_permute_keeps_values(net):
    result = seewhy.randomize(net, 1, 1000, x=X, how="permute")
    for name, w in weights(result).items():
        old = dict(net.named_parameters())[name]
        assert torch.equal(w.flatten().sort().values, old.flatten().sort().values)
        assert not torch.equal(w, old)


@pytest.mark.row(52)
def test_randomize_small_normal():
    net = nn.Sequential(nn.Conv2d(3, 60, 5), nn.BatchNorm2d(60), nn.Flatten(), nn.LazyLinear(50))
    net(X)
    result = weights(seewhy.randomize(net, 1, 1000, x=X, how="small_normal"))
    whole = torch.cat([w.detach().flatten() for w in result.values()])
    assert abs(whole.std() - 0.01) < 1e-4
    assert abs(whole.mean()) < 1e-4
    for w in result.values():
        assert abs(w.std() - 0.01) < 0.04 / math.sqrt(w.numel())


# --- batch statistics


def statistics(module):
    return {name: b for name, b in module.named_buffers() if "running" in name}


def test_randomize_statistics_keep_and_reset(net):
    for layer in ("layer4.0", "head"):
        assert states_equal(statistics(seewhy.randomize(net, layer, x=X).module), statistics(net))
    result = statistics(seewhy.randomize(net, "layer4.0", x=X, statistics="reset").module)
    for name, value in result.items():
        if name.startswith("stem"):  # before the first randomized layer
            assert torch.equal(value, statistics(net)[name])
        else:
            assert torch.equal(value, torch.full_like(value, float(name.endswith("var"))))


def test_randomize_statistics_estimate(net):
    result = seewhy.randomize(net, "layer4.0", x=X, statistics="estimate").module
    expected = seewhy.randomize(net, "layer4.0", x=X, statistics="reset").module
    for layer in (expected.layer4[1], expected.norm):
        layer.train()
        layer.momentum = 1.0
    with torch.no_grad():
        expected(X)
    assert statistics(result).keys() == statistics(expected).keys()
    for name, value in statistics(result).items():
        torch.testing.assert_close(value, statistics(expected)[name], msg=name)
        assert torch.equal(value, statistics(net)[name]) == name.startswith("stem")
    assert [m.training for m in result.modules()] == [m.training for m in net.modules()]
    assert result.norm.momentum == net.norm.momentum


# --- side effects


@pytest.mark.row(53)
@pytest.mark.parametrize("how", ["init", "permute", "small_normal"])
@pytest.mark.parametrize("statistics", ["keep", "reset", "estimate"])
def test_randomize_has_no_side_effects(how, statistics):
    net = network()
    x = inputs()
    before, original = state(net), x.clone()
    result = seewhy.randomize(net, 1, 100, x=x, how=how, statistics=statistics)
    after = state(net)
    assert all(states_equal(before[key], after[key]) for key in before)
    assert torch.equal(x, original)
    pointers = {w.data_ptr() for w in net.state_dict().values()}
    assert not pointers & {w.data_ptr() for w in result.module.state_dict().values()}
    assert [p.requires_grad for p in result.module.parameters()] == [p.requires_grad for p in net.parameters()]
    assert [m.training for m in result.module.modules()] == [m.training for m in net.modules()]


def test_randomize_depends_on_seed_only(net):
    a, b, c = (seewhy.randomize(net, 1, 100, x=X, seed=s).module.state_dict() for s in (4, 4, 5))
    assert states_equal(a, b)
    torch.manual_seed(99)
    assert states_equal(seewhy.randomize(net, 1, 100, x=X, seed=4).module.state_dict(), a)
    assert not any(torch.equal(a[k], c[k]) for k in a if k.startswith(("stem.0", "layer4.0", "head")))


def test_randomize_layer_values_independent_of_count(net):
    all_layers, one_layer = (weights(seewhy.randomize(net, "head", count, x=X)) for count in (-100, 0))
    assert torch.equal(all_layers["head.weight"], one_layer["head.weight"])


def test_randomize_tied_weights():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(F.relu(self.a(x)))

    net = Tied()
    result = seewhy.randomize(net, "a", x=torch.randn(2, 6))
    assert result.module.a.weight is result.module.b.weight
    assert set(result.randomized) == {"a.weight", "a.bias"}
    assert not torch.equal(result.module.b.weight, net.b.weight)


def test_randomize_keeps_labels_and_call(net):
    class TwoArguments(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = net

        def forward(self, x, scale):
            return {"scores": self.body(x) * scale}

    model = seewhy.wrap(TwoArguments(), labels=list("abcde"), forward=lambda module, x: module(x, scale=2.0)["scores"])
    result = seewhy.randomize(model, "body.head", x=X)
    assert result.labels == tuple("abcde")
    assert set(result.randomized) == {"body.head.weight", "body.head.bias"}
    with torch.no_grad():
        expected = result.module.body(X) * 2
        assert torch.equal(result.forward(X), expected)
        assert not torch.equal(result.forward(X), model.forward(X))


@pytest.mark.row(55)
def test_randomized_network_has_other_maps(net):
    explanations = seewhy.explain(
        seewhy.randomize(net, "head", x=X), X, ["gradient", "guided_backprop", "gradcam"], target=1
    )
    trained = seewhy.explain(net, X, ["gradient", "guided_backprop", "gradcam"], target=1)
    assert [e.method for e in explanations] == ["gradient", "guided_backprop", "gradcam"]
    assert not any(torch.allclose(a.maps, b.maps) for a, b in zip(explanations, trained, strict=True))


# --- errors


def test_randomize_rejects_invalid_arguments(net):
    with pytest.raises(ModelError, match="plain function"):
        seewhy.randomize(lambda x: x.mean((2, 3)), 1)
    with pytest.raises(UnknownNameError, match=r"layer4\.3"):
        seewhy.randomize(net, "layer4.33", x=X)
    rows = len(seewhy.layers(net, X))
    for row in (0, -1, rows + 1):
        with pytest.raises(OptionError, match=f"1 to {rows}"):
            seewhy.randomize(net, row, x=X)
    with pytest.raises(OptionError, match="pass x"):
        seewhy.randomize(net, 1, statistics="estimate")
    with pytest.raises(OptionError, match="permute"):
        seewhy.randomize(net, 1, x=X, how="zeros")
    with pytest.raises(OptionError, match="reset"):
        seewhy.randomize(net, 1, x=X, statistics="forget")


# --- weights that are computed from other parameters


def old_spectral_norm(layer):
    return torch.nn.utils.spectral_norm(layer)


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
def old_weight_norm(layer):
    return torch.nn.utils.weight_norm(layer)


def normalized_network(normalize):
    torch.manual_seed(0)
    net = nn.Sequential(
        normalize(nn.Conv2d(3, 6, 3)), nn.ReLU(), normalize(nn.ConvTranspose2d(6, 4, 3)), nn.AdaptiveAvgPool2d(2),
        nn.Flatten(), normalize(nn.Linear(16, 5)),
    )  # fmt: skip
    for _ in range(20):
        net(X)
    with torch.no_grad():
        for name, w in net.named_parameters():
            if name.endswith(("_g", "original0")):
                w.mul_(torch.rand_like(w) + 0.5)
    return net.eval()


@pytest.mark.parametrize("how", ["init", "permute", "small_normal"])
@pytest.mark.parametrize("normalize", [nn.utils.parametrizations.spectral_norm, old_spectral_norm])
@pytest.mark.parametrize("training", [False, True])
def test_randomized_weight_has_spectral_norm_one(normalize, how, training):
    net = normalized_network(normalize).train(training)
    before = state(net)
    randomized = seewhy.randomize(net, 1, 30, x=X, how=how, seed=2).module
    assert states_equal(before, state(net))
    assert randomized.training == training
    randomized.eval()(X)
    for i, axis in ((0, 0), (2, 1), (5, 0)):
        matrix = randomized[i].weight.detach().movedim(axis, 0).flatten(1)
        assert not torch.allclose(matrix, net[i].weight.detach().movedim(axis, 0).flatten(1), atol=1e-2)
        assert torch.linalg.svdvals(matrix)[0] == pytest.approx(1, abs=1e-4)


def test_only_the_vectors_of_randomized_layers_change():
    net = normalized_network(nn.utils.parametrizations.spectral_norm)
    randomized = seewhy.randomize(net, "2", x=X).module
    equal = {n: torch.equal(t, dict(net.named_buffers())[n]) for n, t in randomized.named_buffers()}
    assert [n for n, same in equal.items() if not same] == [f"2.parametrizations.weight.0._{v}" for v in "uv"]


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
@pytest.mark.parametrize("normalize", [nn.utils.parametrizations.weight_norm, old_weight_norm])
def test_randomized_weight_norm_has_the_initial_distribution(normalize):
    """With g = ||v|| the weight is v, of the same values as a layer without normalization."""
    net, plain = normalized_network(normalize), normalized_network(lambda layer: layer)
    randomized = seewhy.randomize(net, 1, 30, x=X, seed=2)
    for i in (0, 2, 5):
        layer, bound = randomized.module[i], 1 / math.sqrt(plain[i].weight[0].numel())
        names = {n.rpartition(".")[2]: w for n, w in layer.named_parameters()}
        g, v = (
            (names["weight_g"], names["weight_v"]) if "weight_g" in names else (names["original0"], names["original1"])
        )
        torch.testing.assert_close(g, torch.norm_except_dim(v, 2, 0))
        torch.testing.assert_close(layer.weight, v)
        assert 0.8 * bound < v.abs().max() <= bound
    randomized.forward(X)
    permuted = seewhy.randomize(net, 1, 30, x=X, how="permute")
    for (name, w), other in zip(net.named_parameters(), permuted.module.parameters(), strict=True):
        torch.testing.assert_close(w.flatten().sort().values, other.flatten().sort().values, msg=name)


def test_check_of_a_network_with_spectral_norm():
    net = normalized_network(old_spectral_norm)
    net(X)  # its weights are no leaves of the graph
    assert seewhy.check(net, X, "gradient") is not None
