"""The default feature layer: on common architectures, and on small networks for single cases."""

import gc
import weakref

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

import seewhy
from seewhy.feature_layers import selection

HINT = "to use another layer, give feature_layer (seewhy.layers lists them)"
RECTIFIED = "the last layer whose features are rectified and have positions"
ALL_PATHS = f"{RECTIFIED}; all paths from the input to the score pass through it"
BYPASSED = f"{RECTIFIED}; other paths from the input to the score bypass it"
TOKENS = "the last token layer through which the patch tokens reach the score"
CONVOLUTION = "the last convolution, because no rectified features have positions"
METHOD = "gradcam"


def seeded(make, *args, **options):
    """A network with random weights; linear layers whose weights are all zero are initialized randomly."""
    torch.manual_seed(0)
    net = make(*args, **options)
    for layer in net.modules():
        if isinstance(layer, nn.Linear) and not layer.weight.any():
            nn.init.normal_(layer.weight)
    return net.eval()


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))


def check(e, name, reason, grid, size):
    """Check the selected layer, the reason, and that the map is not zero and has the input's size."""
    assert e.feature_layer == name
    assert e.layer_reason == f"{name} ({grid}): {reason}; {HINT}"
    assert tuple(e.maps.shape[2:]) == tuple(size)
    assert e.maps.any()
    assert not any("gradient" in note for note in e.notes)


TORCHVISION = {
    "resnet18": ("layer4.1", "fc", {}),
    "vgg11": ("features.19", "classifier.6", {"init_weights": False}),
    "googlenet": ("inception5b", "fc", {"init_weights": False}),
    "inception_v3": ("Mixed_7c", "fc", {"init_weights": False}),
    "densenet121": ("/relu", "classifier", {}),
    "mobilenet_v2": ("features.18.2", "classifier.1", {}),
    "mobilenet_v3_small": ("features.12.2", "classifier.3", {}),
    "efficientnet_b0": ("features.8.2", "classifier.1", {}),
    "convnext_tiny": ("features.7.2", "classifier.2", {}),
    "regnet_y_400mf": ("trunk_output.block4.block4-5.activation", "fc", {}),
    "squeezenet1_0": ("classifier.2", "classifier.3", {}),
    "vit_b_32": ("encoder.layers.encoder_layer_11.ln_1", "heads.head", {"image_size": 64}),
    "swin_t": ("features.7.1", "head", {}),
}
TIMM = {  # some with fewer channels than the originals
    "vit_tiny_patch16_224": ("blocks.11.norm1", "head", {"img_size": 64, "embed_dim": 48}),
    "deit_tiny_distilled_patch16_224": ("blocks.11.norm1", "/div", {"img_size": 64, "embed_dim": 48}),
    # its head takes the mean of the patch tokens
    "vit_little_patch16_reg1_gap_256": ("blocks.13", "head", {"img_size": 64, "embed_dim": 60}),
    "vit_small_patch14_reg4_dinov2": ("blocks.11.norm1", "head", {"img_size": 56, "embed_dim": 48, "num_classes": 10}),
    "swin_tiny_patch4_window7_224": ("layers.3.blocks.1", "head.fc", {"img_size": 64, "embed_dim": 24}),
    "mixer_s32_224": ("norm", "head", {"img_size": 64}),
    "convnext_atto": ("stages.3.blocks.1", "head.fc", {"dims": (16, 24, 32, 48)}),
    "mobilenetv3_small_100": ("blocks.5.0.bn1.act", "classifier", {}),  # the following layers have one position
    "tf_efficientnet_lite0": ("bn2.act", "classifier", {}),
    "resnetv2_50": ("norm.act", "head.fc", {}),
}
GRIDS = {"vgg11": 4, "squeezenet1_0": 3, "vit_tiny_patch16_224": 4, "deit_tiny_distilled_patch16_224": 4}
GRIDS |= {"vit_little_patch16_reg1_gap_256": 4, "vit_small_patch14_reg4_dinov2": 4}  # all others have 2 x 2
PATCHES = {"vit_b_32", "mixer_s32_224", *(name for name in TIMM if name.startswith(("vit", "deit")))}


@pytest.mark.row(71, 94, 128)
@pytest.mark.parametrize("name", [*TORCHVISION, *TIMM])
def test_default_layer_of_common_architectures(name, monkeypatch):
    monkeypatch.setattr(nn.init, "trunc_normal_", lambda w, mean=0.0, std=1.0: nn.init.normal_(w, mean, std))  # faster
    if name in TORCHVISION:
        layer, end, options = TORCHVISION[name]
        net = seeded(getattr(torchvision.models, name), weights=None, **options)
    else:
        layer, end, options = TIMM[name]
        net = seeded(timm.create_model, name, **options)
    side = 128 if name == "inception_v3" else options.get("img_size", 64)
    e = seewhy.explain(net, noise(1, 3, side, side), METHOD, target=list(range(8)))
    reason = TOKENS if name in PATCHES else ALL_PATHS
    check(e, layer, reason, " × ".join([str(GRIDS.get(name, 2))] * 2), (side, side))
    assert e.reduction_layer == end


def test_default_layer_of_vision_transformer():
    """After the selected layer no patch token reaches the score; the map excludes the class token."""
    net = seeded(timm.create_model, "vit_tiny_patch16_224", embed_dim=48)
    x, outputs = noise(1, 3, 224, 224), {}
    e = seewhy.explain(net, x, METHOD, target=3, upsample="none")
    check(e, "blocks.11.norm1", TOKENS, "14 × 14", (14, 14))
    assert e.values.shape == (1, 1, 1, 14, 14)

    def keep(name):
        return lambda _layer, _args, output: outputs.update({name: output})

    names = ["blocks.10", "blocks.11.norm1", "blocks.11.norm2", "blocks.11.mlp", "blocks.11", "norm"]
    for name in names:
        net.get_submodule(name).register_forward_hook(keep(name))
    gradients = dict(zip(names, torch.autograd.grad(net(x)[0, 3], [outputs[n] for n in names]), strict=False))
    assert all(g[:, 0].any() for g in gradients.values())
    assert [name for name in names if gradients[name][:, 1:].any()] == ["blocks.10", "blocks.11.norm1"]

    features, gradient = outputs[e.feature_layer].detach()[0, 1:], gradients[e.feature_layer][0, 1:]
    expected = (features @ gradient.mean(0)).relu().reshape(14, 14)
    assert torch.allclose(e.values[0, 0, 0], expected, rtol=1e-4, atol=1e-4 * float(expected.max()))


@pytest.mark.row(71)
def test_default_layer_skips_layers_with_one_position():
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3, stride=2), nn.ReLU()]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Conv2d(6, 6, 1), nn.ReLU(), nn.Flatten(), nn.Linear(6, 4)]
    e = seewhy.explain(seeded(nn.Sequential, *layers), noise(1, 3, 9, 11), METHOD, target=[0, 1, 2, 3])
    check(e, "3", ALL_PATHS, "3 × 4", (9, 11))


@pytest.mark.parametrize(("size", "grid"), [((9,), "5"), ((6, 9), "3 × 5"), ((4, 6, 7), "2 × 3 × 4")])
def test_default_layer_for_sequences_pictures_and_volumes(size, grid):
    rank = len(size)
    conv = [nn.Conv1d, nn.Conv2d, nn.Conv3d][rank - 1]
    pool = [nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d][rank - 1]
    torch.manual_seed(0)
    layers = [conv(3, 4, 3, padding=1), nn.ReLU(), conv(4, 6, 3, 2, padding=1), nn.ReLU(), pool(1), nn.Flatten()]
    e = seewhy.explain(nn.Sequential(*layers, nn.Linear(6, 4)), noise(2, 3, *size), METHOD, target=[0, 1, 2, 3])
    check(e, "3", ALL_PATHS, grid, size)
    assert e.reduction_layer == "6"


class UNet(nn.Module):
    """A segmentation network with a skip connection."""

    def __init__(self, rectified=True, last=torch.clone):
        super().__init__()
        self.last = last
        self.down, self.deep = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, 2, padding=1)
        self.up, self.mix, self.out = nn.ConvTranspose2d(8, 4, 2, 2), nn.Conv2d(8, 6, 3, padding=1), nn.Conv2d(6, 3, 1)
        self.rectified = rectified

    def forward(self, x):
        fine = F.relu(self.down(x))
        mixed = self.mix(torch.cat([self.up(F.relu(self.deep(fine))), fine], 1))
        return self.last(self.out(F.relu(mixed) if self.rectified else mixed))


@pytest.mark.parametrize(("rectified", "layer"), [(True, "/relu#3"), (False, "/cat")])
def test_default_layer_of_segmentation_with_skip_connection(rectified, layer):
    e = seewhy.explain(seeded(UNet, rectified), noise(1, 3, 8, 12), METHOD, target=1)
    check(e, layer, ALL_PATHS, "8 × 12", (8, 12))
    assert e.targets.tolist() == [[1]]
    assert e.reduction_layer == "out"


@pytest.mark.parametrize(
    "last", [torch.sigmoid, nn.Sigmoid(), lambda y: torch.sigmoid(y).permute(0, 2, 3, 1).contiguous()]
)
def test_default_layer_is_not_the_output(last):
    e = seewhy.explain(seeded(UNet, True, last), noise(1, 3, 8, 12), METHOD, target=lambda y: y.sum((1, 2, 3)))
    check(e, "/relu#3", ALL_PATHS, "8 × 12", (8, 12))


def test_default_layer_is_the_output_without_alternative():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()).double()
    assert seewhy.explain(net, noise(1, 3, 8, 12), METHOD, target=1).feature_layer == "1"


def test_default_layer_ignores_empty_outputs():
    """Converted graphs contain empty padding."""

    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x):
            y = F.relu(self.conv(x))
            return torch.cat([y, F.relu(y[..., :0])], -1).mean((2, 3))

    e = seewhy.explain(seeded(Padded), noise(1, 3, 8, 12), METHOD, target=1)
    assert e.values.any() and e.layer_reason.startswith("/cat (8 × 12)")


def test_default_layer_of_nested_network():
    torch.manual_seed(0)
    whole = torchvision.models.resnet18(weights=None)
    backbone = nn.Sequential()
    for name, layer in list(whole.named_children())[:-2]:
        backbone.add_module(name, layer)
    net = seeded(nn.Sequential, backbone, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 4))
    e = seewhy.explain(net, noise(1, 3, 64, 64), METHOD, target=[0, 1, 2, 3])
    check(e, "0.layer4.1", ALL_PATHS, "2 × 2", (64, 64))


class Functional(nn.Module):
    """A network whose activation is a function, unless `act` is a module."""

    def __init__(self, act=F.relu):
        super().__init__()
        self.a, self.b, self.head, self.act = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3), nn.Linear(5, 4), act

    def forward(self, x):
        return self.head(self.act(self.b(self.act(self.a(x)))).mean((2, 3)))


X = noise(1, 3, 8, 10)


def test_default_layer_is_a_function():
    e = seewhy.explain(seeded(Functional), X, METHOD, target=[0, 1, 2, 3])
    check(e, "/relu#2", ALL_PATHS, "4 × 6", (8, 10))


def test_feature_layer_before_in_place_activation():
    net = seeded(Functional)
    plain = seewhy.explain(net, X, METHOD, target=[0, 1], feature_layer="b")
    net.act = lambda x: F.relu(x, inplace=True)
    e = seewhy.explain(net, X, METHOD, target=[0, 1], feature_layer="b")
    assert e.values.any()
    assert torch.equal(e.values, plain.values)
    assert seewhy.explain(net, X, METHOD, target=[0, 1]).feature_layer == "/relu#2"


class Swish(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(x)


def test_default_layer_is_custom_activation():
    e = seewhy.explain(seeded(Functional, Swish()), X, METHOD, target=[0, 1, 2, 3])
    check(e, "act#2", ALL_PATHS, "4 × 6", (8, 10))


@pytest.mark.row(107, 128)
def test_default_layer_without_activation_is_last_convolution():
    layers = [nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(5, 4, 1), nn.Flatten()]
    e = seewhy.explain(seeded(nn.Sequential, *layers), X, METHOD, target=[0, 1, 2, 3])
    check(e, "1", CONVOLUTION, "4 × 6", (8, 10))


@pytest.mark.parametrize("shape", [(2, 12), (2, 3, 2, 2)])
def test_no_default_layer_without_positions(shape):
    net = seeded(nn.Sequential, nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3))
    with pytest.raises(seewhy.ModelError, match="no layer keeps the input's positions") as caught:
        seewhy.explain(net, noise(*shape), METHOD)
    works = str(caught.value).rpartition("or use ")[2].rstrip(".").split(", ")
    assert "gradient" in works
    assert "integrated_gradients" in works
    assert METHOD not in works
    for name in works[:2]:
        assert seewhy.explain(net, noise(*shape), name).values.any()


class Streams(nn.Module):
    """A network with two paths from the input to the head."""

    def __init__(self):
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.b = nn.Sequential(nn.Conv2d(3, 5, 5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(9, 4)

    def forward(self, x):
        return self.head(torch.cat([self.a(x), self.b(x)], 1))


@pytest.mark.row(128)
def test_default_layer_with_bypass():
    e = seewhy.explain(seeded(Streams), X, METHOD, target=[0, 1, 2, 3])
    check(e, "b.1", BYPASSED, "4 × 6", (8, 10))


class Stem(nn.Module):
    """A stem before two streams: all paths pass through it, so it is selected although the streams come later."""

    def __init__(self):
        super().__init__()
        self.stem, self.streams = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()), Streams()

    def forward(self, x):
        return self.streams(self.stem(x))


def test_default_layer_prefers_all_paths_over_depth():
    check(seewhy.explain(seeded(Stem), X, METHOD, target=[0, 1, 2, 3]), "stem.1", ALL_PATHS, "8 × 10", (8, 10))


class Sequence(nn.Module):
    """A transformer for inputs [N, T, C]."""

    def __init__(self):
        super().__init__()
        block = nn.TransformerEncoderLayer(16, 2, 32, activation="gelu", batch_first=True, norm_first=True)
        self.embed, self.head = nn.Linear(5, 16), nn.Linear(16, 3)
        self.blocks = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)

    def forward(self, x):
        return self.head(self.blocks(self.embed(x)).mean(1))


@pytest.mark.parametrize("length", [9, 16])  # 16: as many positions as channels
def test_default_layer_of_channels_last_sequences(length):
    net = seewhy.wrap(seeded(Sequence), layout="NTC")
    e = seewhy.explain(net, noise(2, length, 5), METHOD, target=[0, 1, 2], upsample="none")
    check(e, "blocks.layers.1", ALL_PATHS, str(length), (length,))
    assert e.values.shape == (2, 3, 1, length)


class Counted(nn.Module):
    """A network that counts its forward passes."""

    def __init__(self):
        super().__init__()
        self.forwards, self.inside = 0, seeded(nn.Sequential, nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3))
        self.act, self.head = nn.ReLU(), nn.Linear(5, 4)

    def forward(self, x):
        self.forwards += 1
        return self.head(self.act(self.inside(x)).mean((2, 3)))

    def cost(self, **options):
        before = self.forwards
        e = seewhy.explain(self, X, METHOD, target=1, probe=False, **options)
        return e.feature_layer, self.forwards - before


def test_selection_is_cached():
    net = seeded(Counted)
    # the layout of the input, the selection, and the batch
    assert [net.cost() for _ in range(3)] == [("act", 3), ("act", 1), ("act", 1)]
    assert net.cost(feature_layer="inside.1") == ("inside.1", 1)
    before, net.act = net.act, nn.Identity()
    assert [net.cost(), net.cost()] == [("inside.1", 3), ("inside.1", 1)]
    net.act = before
    assert net.cost() == ("act", 3)
    assert net.cost(reduction_layer="head") == ("act", 2)
    assert [net.cost(reduction_layer="head"), net.cost()] == [("act", 1), ("act", 1)]


def test_selection_is_cached_per_network():
    first, second = seeded(Counted), seeded(Counted)
    assert [first.cost(), second.cost(), first.cost()] == [("act", 3), ("act", 3), ("act", 1)]


def test_selection_is_cached_per_input_size():
    net = seeded(timm.create_model, "vit_tiny_patch16_224", depth=2, embed_dim=48, dynamic_img_size=True)
    for height, width in [(64, 64), (48, 80), (64, 64)]:
        e = seewhy.explain(net, noise(1, 3, height, width), METHOD, target=[0, 1, 2], upsample="none")
        check(e, "blocks.1.norm1", TOKENS, f"{height // 16} × {width // 16}", (height // 16, width // 16))


def test_cache_does_not_keep_networks_alive():
    net = seeded(Counted)
    net.cost()
    gc.collect()
    cached, reference = len(selection._surveys), weakref.ref(net)
    assert net in selection._surveys
    del net
    gc.collect()
    assert reference() is None
    assert len(selection._surveys) == cached - 1


@pytest.mark.row(94)
def test_explanation_reports_layer_names():
    net = seeded(Counted)
    names = [("act", None, "head"), ("inside.1", "inside.1", "head"), ("inside.2", "inside.2", "head")]
    for layer, given, end in names:
        e = seewhy.explain(net, X, METHOD, target=1, feature_layer=given)
        assert (e.feature_layer, e.reduction_layer) == (layer, end)
        assert (e.layer_reason == "given") == (given is not None)
    e = seewhy.explain(net, X, METHOD, target=1, reduction_layer="inside.2")
    assert (e.feature_layer, e.reduction_layer) == ("inside.1", "inside.2")
    e = seewhy.explain(net, X, "gradient", target=1)
    assert (e.feature_layer, e.reduction_layer, e.layer_reason) == (None, None, None)


class Twice(nn.Module):
    """A network with a ReLU module that runs twice, and a branch that does not reach the output."""

    def __init__(self):
        super().__init__()
        self.conv, self.last, self.side = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3), nn.Conv2d(4, 2, 1)
        self.relu, self.idle, self.flat, self.head = nn.ReLU(), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(5, 4)

    def forward(self, x):
        first = self.relu(self.conv(x))
        self.side(first)
        return self.head(self.flat(self.relu(self.last(first)).mean((2, 3), keepdim=True)))


@pytest.mark.row(107)
@pytest.mark.parametrize("name", ["flat", "head", "/mean"])
def test_explain_rejects_feature_layer_without_positions(name):
    with pytest.raises(
        seewhy.ModelError, match=rf"layer '{name}' has the output shape \[1, .*\[8, 10\].* such as 'relu#2'"
    ):
        seewhy.explain(seeded(Twice), X, METHOD, feature_layer=name)


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("relu", seewhy.ModelError, "layer 'relu' ran 2 times in one forward pass: name the call, relu#1, relu#2"),
        ("idle", seewhy.ModelError, "layer 'idle' exists, but it did not run in the forward pass"),
        ("side", seewhy.ModelError, "the score does not depend on layer 'side'"),
        ("cnv", seewhy.UnknownNameError, "unknown layer 'cnv'. Did you mean 'conv'\\? Known: conv, relu#1, side, last"),
        ("relu#3", seewhy.UnknownNameError, "Did you mean 'relu#[12]' or 'relu#[12]'"),
    ],
)
def test_explain_rejects_invalid_feature_layer(name, error, text):
    with pytest.raises(error, match=text):
        seewhy.explain(seeded(Twice), X, METHOD, feature_layer=name)


def test_feature_layer_is_one_call_of_a_layer():
    net = seeded(Twice)
    one, two = (seewhy.explain(net, X, METHOD, target=0, feature_layer=f"relu#{n}", upsample="none") for n in (1, 2))
    assert (one.feature_layer, two.feature_layer) == ("relu#1", "relu#2")
    assert one.values.shape[-2:] == (6, 8)
    assert two.values.shape[-2:] == (4, 6)
    assert seewhy.explain(net, X, METHOD, target=0).feature_layer == "relu#2"
    assert torch.equal(seewhy.explain(net, X, METHOD, target=0, upsample="none").values, two.values)


def test_explain_rejects_detached_score():
    net = seeded(Twice)
    net.head.register_forward_hook(lambda _layer, _args, output: output.detach())
    with pytest.raises(seewhy.ModelError, match="does not depend on the input through autograd"):
        seewhy.explain(net, X, METHOD)


def test_explain_notes_zero_gradient():
    net = seeded(Twice)
    nn.init.zeros_(net.head.weight[2:3])
    e = seewhy.explain(net, X, METHOD, target=[2, 3])
    assert "the gradient of sample 0, target 0 is zero everywhere in layer 'relu#2'" in e.notes
    assert not any("gradient of sample 0, target 1" in note for note in e.notes)
