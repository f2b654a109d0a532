"""The layer table, and the activations of a layer."""

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

import seewhy
from seewhy.feature_layers.table import describe_layer
from seewhy.testing import inputs, network, state, states_equal

X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))


def count_learnable(table):
    return sum(row.learnable for row in table)


def count_parameters(net):
    return sum(p.numel() for p in net.parameters())


def names(table):
    return [row.name for row in table]


class Block(nn.Module):
    """A nested block with a parameter of its own, a ReLU module that runs twice, and several functions."""

    def __init__(self):
        super().__init__()
        self.late = nn.Conv2d(4, 4, 3, padding=1)  # registered first, runs last
        self.early = nn.Conv2d(4, 4, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.scale = nn.Parameter(torch.full((4, 1, 1), 0.5))

    def forward(self, x):
        y = self.act(self.early(x)) * self.scale
        y = self.act(self.late(y))
        return F.relu(x + y)


class Net(nn.Module):
    """A network whose head is registered first, with a parameter of the root module."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(8, 5)
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.stage = nn.Sequential(Block(), nn.MaxPool2d(2), Block())
        self.token = nn.Parameter(torch.randn(1, 4, 1, 1))

    def forward(self, x):
        y = self.stem(x)
        y += self.token
        y = self.stage(y)
        y = torch.cat([y, y.permute(0, 1, 3, 2)], 1).reshape(len(x), 8, -1)
        y = y.unflatten(2, (8, 8)) - 1
        y = y.relu_()
        return self.head(y.mean((2, 3)).flatten(1))


ORDER = [
    "(network)", "stem", "/add",
    *(f"stage.0{n}" for n in (".early", ".act#1", "/mul", ".late", ".act#2", "/add", "/relu", "")),
    "stage.1",
    *(f"stage.2{n}" for n in (".early", ".act#1", "/mul", ".late", ".act#2", "/add", "/relu", "")),
    "/cat", "/sub", "/relu", "/mean", "head",
]  # fmt: skip


@pytest.mark.row(54)
def test_layers_in_execution_order():
    table = seewhy.layers(Net(), X)
    assert names(table) == ORDER
    assert [row.row for row in table] == list(range(1, len(ORDER) + 1))
    by = {row.name: row for row in table}
    assert by["stem"].type == "Conv2d"
    assert by["stem"].description == "4 3x3x3 convolutions with stride [1 1] and padding [1 1]"
    assert by["stage.0/relu"].type == "relu"
    assert by["stage.0/relu"].description == "function in stage.0"
    assert by["/cat"].description == "function of the network"
    assert by["stage.2.act#1"].type == "ReLU"
    assert by["stage.0"].type == "Block"
    assert by["stage.0"].description == "its own parameters"

    tail = table[-10:]
    assert isinstance(tail, seewhy.LayerTable)
    assert names(tail) == ORDER[-10:]
    assert [row.row for row in tail] == list(range(len(ORDER) - 9, len(ORDER) + 1)), "row numbers do not change"
    assert table[-1] == tail[-1] == by["head"]
    lines = str(tail).splitlines()
    assert lines[0].split() == ["row", "name", "type", "description", "output", "learnable", "spatial"]
    body = [line.split() for line in lines[2:]]
    for row in tail:
        line = next(b for b in body if b[:2] == [str(row.row), row.name])
        assert line[2] == row.type
    assert "fully connected to 8 inputs" in str(tail)
    assert "stem" not in str(tail)
    assert str(table[2:2]).splitlines()[0].split()[0] == "row"


def test_layers_omits_views():
    class Views(nn.Module):
        def forward(self, x):
            y = x.permute(0, 2, 3, 1).flatten(1, 2).transpose(1, 2).reshape(len(x), 3, 16, 16)
            return y[:, :, ::2].unsqueeze(1).squeeze(1)[:, :1].expand(-1, 3, -1, -1).sum((1, 2, 3))

    assert names(seewhy.layers(Views(), X)) == ["/sum"]


@pytest.mark.parametrize("expression", ["x + 1", "1 + x", "x.add(1)", "torch.add(x, 1)", "(x * 1).add_(1)"])
def test_function_name_is_independent_of_call_syntax(expression):
    code = compile(expression, "expression", "eval")

    class Called(nn.Module):
        def forward(self, x):
            return eval(code, {"torch": torch}, {"x": x})

    assert names(seewhy.layers(Called(), X))[-1] == "/add"


@pytest.mark.row(131)
def test_layer_shapes_are_of_one_sample():
    by = {row.name: row for row in seewhy.layers(Net(), X)}
    shapes = {
        "stem": (1, 4, 16, 16), "stage.0": (1, 4, 16, 16), "stage.1": (1, 4, 8, 8), "stage.2.late": (1, 4, 8, 8),
        "/cat": (1, 8, 8, 8), "/mean": (1, 8), "head": (1, 5),
    }  # fmt: skip
    for name, shape in shapes.items():
        assert by[name].shape == shape
        assert by[name].spatial == (len(shape) == 4)
    net = network()
    outputs, hooks = [], []
    for layer in net:
        hooks.append(layer.register_forward_hook(lambda _m, _a, output: outputs.append((1, *output.shape[1:]))))
    net(inputs())
    for hook in hooks:
        hook.remove()
    table = seewhy.layers(net, inputs())
    assert [row.shape for row in table] == outputs
    assert "4 × 6 × 9" in str(table)


@pytest.mark.row(127)
@pytest.mark.parametrize("count", [17, 10])
def test_learnable_counts_of_sequential(count):
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()]
    while len(layers) < count - 3:
        layers += [(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())[len(layers) % 3]]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    table = seewhy.layers(net, X)
    assert len(table) == len(net) == count
    assert [row.learnable for row in table] == [count_parameters(layer) for layer in net]
    assert count_learnable(table) == count_parameters(net)
    lines = str(table).splitlines()[2:]
    assert sum("112" in line.split() for line in lines) == 1, "3·3·3·4 + 4"
    assert sum("15" in line.split() for line in lines if "Linear" in line) == 1


@pytest.mark.parametrize("x", [X, None])
def test_learnable_counts_of_blocks_and_root(x):
    net = Net()
    table = seewhy.layers(net, x)
    counts = {row.name: row.learnable for row in table}
    assert counts["(network)"] == counts["stage.0"] == counts["stage.2"] == 4
    assert counts["stem"] == 112
    assert counts["head"] == 45
    assert count_learnable(table) == count_parameters(net)


def test_layers_without_input_in_registration_order():
    table = seewhy.layers(Net())
    assert names(table) == [
        "(network)", "head", "stem", "stage.0", "stage.0.late", "stage.0.early", "stage.0.act", "stage.1",
        "stage.2", "stage.2.late", "stage.2.early", "stage.2.act",
    ]  # fmt: skip
    assert all(row.shape is None and row.spatial is None for row in table)
    assert "None" not in str(table)


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (nn.Conv2d(16, 64, 3, padding=1), "64 3x3x16 convolutions with stride [1 1] and padding [1 1]"),
        (nn.Conv2d(3, 8, (5, 7), (2, 3), (0, 1)), "8 5x7x3 convolutions with stride [2 3] and padding [0 1]"),
        (nn.Conv2d(8, 8, 3, groups=8), "8 groups of 1 3x3x1 convolutions with stride [1 1] and padding [0 0]"),
        (nn.Conv2d(8, 16, 3, groups=2), "2 groups of 8 3x3x4 convolutions with stride [1 1] and padding [0 0]"),
        (nn.Conv1d(6, 4, 5, 2), "4 5x6 convolutions with stride [2] and padding [0]"),
        (nn.Conv3d(2, 4, 3), "4 3x3x3x2 convolutions with stride [1 1 1] and padding [0 0 0]"),
        (
            nn.Conv2d(3, 4, 3, dilation=2),
            "4 3x3x3 convolutions with stride [1 1] and padding [0 0], dilation [2 2]",
        ),
        (
            nn.ConvTranspose2d(6, 4, 2, 2),
            "4 2x2x6 transposed convolutions with stride [2 2] and padding [0 0]",
        ),
        (nn.MaxPool2d((3, 3), (2, 2), (1, 1)), "3x3 max pooling with stride [2 2] and padding [1 1]"),
        (nn.AvgPool2d((2, 3), (2, 3), (0, 0)), "2x3 average pooling with stride [2 3] and padding [0 0]"),
        (nn.AdaptiveAvgPool2d((1, 1)), "pooling to [1 1]"),
        (nn.BatchNorm2d(7), "batch normalization of 7 channels"),
        (nn.LayerNorm((4, 5)), "layer normalization over [4 5]"),
        (nn.Linear(16, 5), "5 outputs, fully connected to 16 inputs"),
        (nn.Dropout(0.5), "50% dropout"),
        (nn.Embedding(9, 4), "9 vectors of 4"),
        (nn.ReLU(inplace=True), "inplace=True"),
    ],
)
def test_layer_descriptions(layer, text):
    assert describe_layer(layer) == text
    (row,) = seewhy.layers(nn.Sequential(layer))
    assert row.description == text
    assert row.learnable == count_parameters(layer)


@pytest.mark.parametrize(
    ("net", "shape", "first"),
    [
        (nn.Sequential(nn.Conv1d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(40, 2)), (1, 3, 12), (1, 4, 10)),
        (nn.Sequential(nn.Conv3d(3, 4, 3), nn.Flatten(), nn.Linear(256, 2)), (1, 3, 6, 6, 6), (1, 4, 4, 4, 4)),
        (nn.Sequential(nn.ConvTranspose2d(3, 4, 2, 2), nn.AdaptiveAvgPool2d(1)), (1, 3, 4, 5), (1, 4, 8, 10)),
    ],
)
def test_layers_for_one_and_three_spatial_axes(net, shape, first):
    table = seewhy.layers(net, torch.randn(shape))
    assert table[0].shape == first
    assert table[0].spatial is True
    assert table[-1].spatial is False
    assert names(table) == [str(n) for n in range(len(net))]


def test_layers_of_lite0_without_input(lite0):
    table = seewhy.layers(lite0)
    by = {row.name: row for row in table}
    assert by["conv_stem"].shape == (1, 32, 112, 112)
    assert by["classifier"].shape == (1, 1000)
    assert names(table)[-1] == "classifier"
    assert by["conv_stem"].description == "32 3x3x3 convolutions with stride [2 2] and padding [0 0]"
    assert count_learnable(table) == count_parameters(lite0.module) == 4_652_008
    assert "409,600" in str(table[-10:])


@pytest.mark.row(121)
def test_listed_layer_names_are_valid_feature_layers(lite0, shipped):
    net = Net().eval()
    table = seewhy.layers(net, X)
    assert sum(row.spatial is True for row in table) > 15
    for row in table:
        if row.spatial:
            e = seewhy.explain(net, X, "gradcam", target=1, feature_layer=row.name)
            assert e.feature_layer == row.name
            assert e.values.shape[3:] == row.shape[2:]
        elif row.spatial is False:
            with pytest.raises(seewhy.ModelError, match="does not correspond to positions"):
                seewhy.explain(net, X, "gradcam", target=1, feature_layer=row.name)
    rows = seewhy.layers(lite0)
    feature = [row.name for row in rows if row.spatial][-1]
    reduction = rows[-1].name
    e = seewhy.explain(lite0, shipped["chelsea"], feature_layer=feature, reduction_layer=reduction)
    assert (e.feature_layer, e.reduction_layer, e.layer_reason) == (feature, reduction, "given")
    assert e.maps.max() > 0


@pytest.mark.row(150)
def test_feature_layer_at_input_or_output_of_nested_layer():
    net, recorded = Net().eval(), {}

    def keep(_layer, args, output):
        recorded.update(into=args[0], out=output)
        return output.clone()  # the next layer is an in-place ReLU

    hook = net.stage[2].late.register_forward_hook(keep)
    scores = net(X)
    hook.remove()
    rows = names(seewhy.layers(net, X))
    before = rows[rows.index("stage.2.late") - 1]  # the input of a layer is the output of the row before it
    for name, features in {"stage.2.late": recorded["out"], before: recorded["into"]}.items():
        e = seewhy.explain(net, X, "gradcam", target=list(range(5)), feature_layer=name, upsample="none")
        for k in range(5):
            (gradient,) = torch.autograd.grad(scores[:, k].sum(), features, retain_graph=True)
            expected = (gradient.mean((2, 3), keepdim=True) * features).sum(1).relu()
            assert torch.allclose(e.values[:, k, 0], expected, rtol=1e-4, atol=1e-8)
        assert e.values.max() > 1e-4
    with pytest.raises(seewhy.OptionError, match="layer 'late' is ambiguous"):
        seewhy.explain(net, X, "gradcam", target=0, feature_layer="late")


def test_layers_and_activations_reject_plain_function():
    for call in (seewhy.layers, lambda f, x: seewhy.activations(f, x, "0")):
        with pytest.raises(seewhy.ModelError, match="plain function"):
            call(lambda x: x.mean((2, 3)), X)


CALLS = [seewhy.layers, lambda net, x: seewhy.activations(net, x, "3"), lambda net, x: seewhy.activations(net, x, "2")]


@pytest.mark.parametrize("call", CALLS)
def test_no_side_effects(call):
    net, x = network(), inputs()
    before, given = state(net), x.clone()
    call(net, x)
    after = state(net)
    for key in before:
        assert states_equal(before[key], after[key]), key
    assert torch.equal(x, given)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("index", [0, 3, 8])
def test_no_side_effects_after_error(call, index):
    def raise_error(*_):
        raise ZeroDivisionError

    net = network()
    handle = net[index].register_forward_hook(raise_error)
    before = state(net)
    with pytest.raises(seewhy.ModelError, match="ZeroDivisionError"):
        call(net, inputs())
    after = state(net)
    for key in before:
        assert states_equal(before[key], after[key]), key
    handle.remove()
    assert len(seewhy.layers(net, inputs())) == len(net)


@pytest.fixture(scope="module")
def vit():
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", num_classes=10, img_size=64, depth=2).eval()


def test_layers_of_transformer(vit):
    table = seewhy.layers(vit, torch.zeros(1, 3, 64, 64))
    by = {row.name: row for row in table}
    assert names(table)[:2] == ["(network)", "patch_embed.proj"]
    assert by["(network)"].learnable == vit.cls_token.numel() + vit.pos_embed.numel()
    assert by["patch_embed.proj"].description == "192 16x16x3 convolutions with stride [16 16] and padding [0 0]"
    assert by["/cat"].shape == by["blocks.1/add#2"].shape == (1, 17, 192)
    assert by["blocks.0.norm1"].spatial is True
    assert by["head"].spatial is False
    assert {"blocks.0/add#1", "blocks.0/add#2", "blocks.0.attn/scaled_dot_product_attention"} < by.keys()
    assert "blocks.0" not in by, "a block without parameters of its own has no row"
    assert not any(name.rpartition("/")[2] in {"reshape", "permute", "transpose", "flatten"} for name in by)
    assert count_learnable(table) == count_parameters(vit)


# Activations.


def hooked(net, layer, x):
    """Outputs of a layer by a torch forward hook, copied before an in-place operation can change them."""
    outputs = []
    hook = layer.register_forward_hook(lambda _m, _a, output: outputs.append(output.detach().clone()))
    with torch.no_grad():
        net(x)
    hook.remove()
    return outputs


@pytest.mark.row(65)
def test_activations_equal_forward_hook(lite0, shipped):
    x = lite0.prepare([shipped["chelsea"], shipped["coffee"]])
    given = seewhy.activations(lite0, x, "blocks.2")
    (expected,) = hooked(lite0.module, lite0.module.blocks[2], x)
    assert torch.allclose(given.values, expected, atol=1e-4)
    assert given.values.shape == (2, 40, 28, 28)
    assert given.layer == "blocks.2"
    assert given.preparation == lite0.preparation
    assert torch.equal(given.input, x)
    assert not given.values.requires_grad
    last = seewhy.activations(lite0, shipped["chelsea"], "conv_head")
    assert f"{list(last.values.shape[1:])}" == "[1280, 7, 7]"


def test_activations_of_all_calls_and_functions():
    net = Net().eval()
    by = {row.name: row for row in seewhy.layers(net, X) if row.name != "(network)"}
    for name, row in by.items():
        assert seewhy.activations(net, X, name).values.shape == (2, *row.shape[1:]), name
    block = net.stage[0]
    first, second = hooked(net, block.act, X)
    assert torch.allclose(seewhy.activations(net, X, "stage.0.act#1").values, first)
    assert torch.allclose(seewhy.activations(net, X, "stage.0.act#2").values, second)
    assert torch.allclose(seewhy.activations(net, X, "stage.0/mul").values, first * block.scale)
    with torch.no_grad():
        stem = net.stem(X)
    assert torch.allclose(seewhy.activations(net, X, "/add").values, stem + net.token)


def test_activations_before_in_place_operations():
    net = Net().eval()
    (stem,) = hooked(net, net.stem, X)  # "+=" follows
    assert torch.equal(seewhy.activations(net, X, "stem").values, stem)
    (late,) = hooked(net, net.stage[2].late, X)  # an in-place ReLU follows
    given = seewhy.activations(net, X, "stage.2.late").values
    assert torch.allclose(given, late)
    assert given.min() < 0
    assert seewhy.activations(net, X, "/sub").values.min() < 0
    assert seewhy.activations(net, X, "/relu").values.min() == 0


def test_activations_in_several_batches():
    net, x = Net().eval(), torch.randn(19, 3, 16, 16)
    given = seewhy.activations(net, x, "stage.1")
    assert torch.allclose(given.values, hooked(net, net.stage[1], x)[0], atol=1e-6)
    assert len(given.strongest()) == 19


class ChannelsLast(nn.Module):
    """A network like a Swin transformer: the input is [N, C, H, W], the features are [N, h, w, C]."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.patches = nn.Conv2d(3, 12, 4, 4)
        self.norm = nn.LayerNorm(12)
        self.mix = nn.Linear(12, 6)
        self.wide = nn.Linear(6, 24)
        self.head = nn.Linear(24, 3)

    def forward(self, x):
        y = self.mix(self.norm(self.patches(x).permute(0, 2, 3, 1)))
        return self.head(F.relu(self.wide(y)).mean((1, 2)))


@pytest.mark.parametrize(
    ("layer", "channels"),
    [
        ("norm", 12),
        ("wide", 24),
        ("mix", 6),
    ],
)
def test_activations_of_channels_last_features(layer, channels):
    net, x = ChannelsLast(), torch.randn(2, 3, 16, 20)
    given = seewhy.activations(net, x, layer)
    (expected,) = hooked(net, net.get_submodule(layer), x)
    assert expected.shape == (2, 4, 5, channels)
    assert torch.equal(given.values, expected.permute(0, 3, 1, 2))


def test_activations_of_channels_last_network():
    net = nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 5), nn.Flatten(), nn.Linear(120, 2))
    x = torch.randn(2, 4, 6, 3)
    given = seewhy.activations(seewhy.wrap(net, layout="NHWC"), x, "1")
    assert torch.equal(given.values, hooked(net, net[1], x)[0].permute(0, 3, 1, 2))
    assert torch.equal(given.input, x.permute(0, 3, 1, 2)), "results are [N, C, *S]"


def test_activations_of_tokens_on_patch_grid(vit):
    x = torch.randn(2, 3, 64, 64)
    given = seewhy.activations(vit, x, "blocks.1.norm1")
    (expected,) = hooked(vit, vit.blocks[1].norm1, x)
    assert given.values.shape == (2, 192, 4, 4)
    for i in range(4):
        for j in range(4):
            assert torch.allclose(given.values[:, :, i, j], expected[:, 1 + 4 * i + j], atol=1e-5)


def test_activations_of_sequences():
    net = nn.Sequential(nn.Conv1d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(40, 2))
    x = torch.randn(2, 3, 12)
    given = seewhy.activations(net, x, "1")
    assert torch.equal(given.values, hooked(net, net[1], x)[0])
    peaks = given.values.amax(2).max(1)
    assert given.strongest() == list(zip(peaks.indices.tolist(), peaks.values.tolist(), strict=True))


def test_activations_of_layer_without_positions():
    net = Net().eval()
    given = seewhy.activations(net, X, "/mean")
    assert given.values.shape == (2, 8)
    best = given.values.max(1)
    assert given.strongest() == list(zip(best.indices.tolist(), best.values.tolist(), strict=True))


def test_activations_rejects_invalid_layers():
    net = Net()
    net.never = nn.ReLU()
    with pytest.raises(seewhy.UnknownNameError, match=r"unknown layer 'stage.0.erly'. Did you mean 'stage.0.early'"):
        seewhy.activations(net, X, "stage.0.erly")
    with pytest.raises(seewhy.ModelError, match=r"ran 2 times.*stage.0.act#1, stage.0.act#2"):
        seewhy.activations(net, X, "stage.0.act")
    with pytest.raises(seewhy.UnknownNameError, match=r"unknown layer 'stage\.0\.act#3'"):
        seewhy.activations(net, X, "stage.0.act#3")
    with pytest.raises(seewhy.ModelError, match="did not run"):
        seewhy.activations(net, X, "never")
    for wrong in ("(network)", "/tanh", "stem#1"):
        with pytest.raises(seewhy.UnknownNameError, match="unknown layer"):
            seewhy.activations(net, X, wrong)
    with pytest.raises(seewhy.InputError):
        seewhy.activations(net, X * torch.nan, "stem")
    with pytest.raises(seewhy.ModelError, match="failed on an input of shape"):
        seewhy.activations(net, X[:, :2], "stem")


# Special cases.


def test_layer_shapes_for_different_input_sizes():
    net = network()
    sizes = [seewhy.layers(net, x)[0].shape for x in (inputs(), inputs().repeat(1, 1, 2, 1))]
    assert sizes == [(1, 4, 6, 9), (1, 4, 12, 9)]


def test_layers_of_one_module_with_different_forwards():
    net = nn.ModuleDict({name: nn.Conv2d(3, 4, 3) for name in "cd"})
    for name in "cdccddcdcdddcc":
        model = seewhy.wrap(net, forward=lambda m, x, name=name: m[name](x).mean((2, 3)))
        assert names(seewhy.layers(model, X)) == [name, "/mean"]


def test_learnable_counts_of_layer_that_runs_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x):
            return self.conv(self.conv(x)).mean((2, 3))

    net = Twice()
    table = seewhy.layers(net, X)
    assert names(table) == ["conv#1", "conv#2", "/mean"]
    assert count_learnable(table) == count_parameters(net)


def test_learnable_counts_of_attention_without_input():
    net = nn.Sequential(nn.MultiheadAttention(8, 2))
    assert count_learnable(seewhy.layers(net)) == count_parameters(net)


def test_layers_of_single_layer_network():
    net = nn.Conv2d(3, 2, 3)
    assert count_learnable(seewhy.layers(net, X)) == count_parameters(net)


def test_description_of_pooling_with_scalar_size():
    assert describe_layer(nn.MaxPool2d(2)) == "2x2 max pooling with stride [2 2] and padding [0 0]"


@pytest.mark.parametrize("call", [seewhy.layers, lambda net, x: seewhy.activations(net, x, "conv")])
def test_layers_and_activations_of_integer_output(call):
    class Classes(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return self.conv(x).mean((2, 3)).argmax(1)

    call(Classes(), X)


def test_activations_of_boolean_function():
    class Masked(nn.Module):
        def forward(self, x):
            return (x * (x > 0)).mean((2, 3))

    assert names(seewhy.layers(Masked(), X)) == ["/gt", "/mul", "/mean"]
    assert torch.equal(seewhy.activations(Masked(), X, "/gt").values, X > 0)


def test_in_place_operation_with_unused_result():
    class Dropped(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            y = self.conv(x)
            y.relu_()
            return y.mean((2, 3))

    net = Dropped()
    assert names(seewhy.layers(net, X)) == ["conv", "/relu", "/mean"]
    assert seewhy.explain(net, X, "gradcam", target=0).maps.max() > 0


def test_layers_with_in_place_first_layer():
    net = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 4, 3))
    assert names(seewhy.layers(net, X.clone())) == ["0", "1"]


def test_activations_rejects_empty_name():
    with pytest.raises(seewhy.UnknownNameError, match="unknown layer"):
        seewhy.activations(Net(), X, "")


def test_layers_with_few_positions_in_three_axes():
    class Rows(nn.Module):
        def forward(self, x):
            return x.mean(3).sum((1, 2))

    assert names(seewhy.layers(Rows(), X)) == ["/mean", "/sum"]
