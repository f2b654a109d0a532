"""The CAM family: what its members owe to each other and to the score, and masks at a layer."""

import pytest
import torch
from tests.networks import classifier, drawn, noise
from torch import nn
from torch.nn import functional as F

import seewhy
from seewhy.errors import ModelError, OptionError

FAMILY = ["gradcam", "gradcam++", "hirescam", "layercam", "xgradcam", "eigencam", "guided_gradcam", "fullgrad",
          "scorecam", "ablationcam", "recipro_cam"]  # fmt: skip
MASKED = ["ablationcam", "recipro_cam"]


def pooled(rank=2, classes=4):
    """Mean pooling and a linear head."""
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
    pool = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[rank - 1]
    layers = [conv(3, 5, 3, padding=1), nn.ReLU(), conv(5, 6, 3, padding=1), nn.ReLU(), pool(1), nn.Flatten()]
    return drawn(nn.Sequential(*layers, nn.Linear(6, classes)).double())


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_before_pooling_and_a_linear_head_they_agree(rank):
    net, x = pooled(rank), noise(2, 3, *(8, 9, 5)[:rank])
    everything = [0, 1, 2, 3]
    gradcam, hirescam, xgradcam, ablation = (
        seewhy.explain(net, x, name, target=everything, upsample="none").values
        for name in ("gradcam", "hirescam", "xgradcam", "ablationcam")
    )
    assert hirescam.min() < -0.01 < 0.01 < hirescam.max()
    assert torch.allclose(hirescam, xgradcam, rtol=1e-10, atol=1e-12)
    assert torch.allclose(hirescam.relu(), gradcam, rtol=1e-10, atol=1e-12)
    with torch.no_grad():
        features, head = net[:4](x), net[6]
        left = hirescam.flatten(2).sum(2) - (net(x) - head.bias)
        closed = torch.einsum("kc,nc,nc...->nk...", head.weight, features.flatten(2).mean(2), features).relu()
    assert left.abs().max() < 1e-10
    assert torch.allclose(ablation[:, :, 0], closed, rtol=1e-10, atol=1e-12)


def test_hirescam_before_one_linear_layer_sums_to_the_score():
    layers = [nn.Conv2d(3, 5, 3), nn.Tanh(), nn.Conv2d(5, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 4 * 5, 3)]
    net, x = drawn(nn.Sequential(*layers).double()), noise(2, 3, 8, 9)
    e = seewhy.explain(net, x, "hirescam", target=[0, 1, 2], upsample="none")
    assert e.values.min() < 0
    with torch.no_grad():
        assert torch.allclose(e.values.flatten(2).sum(2), net(x) - net[5].bias, rtol=1e-10)


class Many(nn.Module):
    """Every way to add a constant that FullGrad has to find."""

    def __init__(self, bend):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6)
        self.up, self.plain = nn.ConvTranspose2d(6, 4, 2), nn.Conv2d(4, 4, 1, bias=False)
        self.inplace, self.head, self.bend = nn.ReLU6(inplace=True), nn.Linear(4, 5), bend
        self.scale = nn.Parameter(torch.ones(4, 4, 1, 1))
        self.shift = nn.Parameter(torch.ones(4))

    def forward(self, x):
        h = self.inplace(3 * self.norm(self.conv(x)))
        h = self.bend(self.up(h))
        h = h + F.leaky_relu(F.conv2d(h, self.scale, bias=self.shift), 0.2)
        h = F.max_pool2d(torch.cat([self.plain(h), h], 1)[:, :4], 2)
        return self.head(h.clamp(max=0.5).flatten(2).mean(2))


BENDS = {
    "relu": F.relu, "gelu": F.gelu, "silu": nn.SiLU(inplace=True), "tanh": torch.tanh, "method": lambda h: h.sigmoid(),
    "hardswish": F.hardswish, "elu": nn.ELU(), "softplus": F.softplus, "clamp": lambda h: h.clamp(0.1, 1.5),
}  # fmt: skip


@pytest.mark.parametrize("bend", BENDS)
def test_the_parts_of_fullgrad_sum_to_the_score(bend):
    net = drawn(Many(BENDS[bend]).double())
    net.norm.running_mean.copy_(noise(6))
    net.norm.running_var.copy_(noise(6).abs() + 0.3)
    e = seewhy.explain(net, noise(2, 3, 11, 9), "fullgrad", target=[0, 1, 2, 3, 4])
    assert e.scores.abs().min() > 1e-3
    assert e.completeness.abs().max() < 1e-10 * e.scores.abs().max()
    total = e.extras["input_part"] + e.extras["bias_parts"].sum(2)
    assert torch.allclose(total, e.scores, rtol=1e-9)
    assert e.extras["bias_parts"].abs().amax((0, 1)).min() > 0  # every one of them counts
    assert not any("sum to" in note for note in e.notes)


def test_fullgrad_says_what_it_cannot_see():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.gate, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            h = F.relu(self.conv(x))
            gate = self.gate(h.mean((2, 3))).sigmoid()
            return self.head((h * gate[:, :, None, None]).mean((2, 3)))

    e = seewhy.explain(drawn(Gated().double()), noise(1, 3, 8, 8), "fullgrad", target=0)
    assert e.completeness.abs().max() > 0.01 * e.scores.abs().max()
    assert any("not linear in pieces" in note for note in e.notes)


def test_eigencam_is_the_best_map_of_one_pattern():
    net, x = classifier(), noise(2, 3, 8, 9)
    e = seewhy.explain(net, x, "eigencam", target=[0, 1], upsample="none")
    assert torch.equal(e.values[:, 0], e.values[:, 1])
    assert any("no class" in note for note in e.notes)
    features = net[:4](x).detach().flatten(2)
    for n in range(2):
        found = e.values[n, 0].flatten()
        # no other pattern along the channels explains more of the layer
        assert torch.isclose(found.norm(), torch.linalg.matrix_norm(features[n], 2), rtol=1e-10)
        assert found.sum() > 0


def test_several_layers_are_averaged_after_resampling():
    net, x = classifier(), noise(2, 3, 8, 12)
    both = seewhy.explain(net, x, ["gradcam", "guided_gradcam"], target=[0, 1], feature_layer=["1", "3"])
    for i, name in enumerate(("gradcam", "guided_gradcam")):
        each = [seewhy.explain(net, x, name, target=[0, 1], feature_layer=layer) for layer in ("1", "3")]
        assert torch.allclose(both[i].maps, (each[0].maps + each[1].maps) / 2)
        assert both[i].maps.std() > 0
        assert both[i].feature_layer == "1, 3"
        assert both[i].values.shape == (2, 2, 3 if i else 1, 8, 12)
    with pytest.raises(OptionError, match="upsample"):
        seewhy.explain(net, x, "gradcam", feature_layer=["1", "3"], upsample="none")
    with pytest.raises(OptionError, match="names no layer"):
        seewhy.explain(net, x, "gradcam", feature_layer=[])


@pytest.mark.parametrize("name", FAMILY)
def test_contrast_targets_work_with_all(name):
    net, x = classifier(), noise(2, 3, 8, 12)
    contrast = seewhy.targets.contrast(1, rivals=[0, 2])
    e = seewhy.explain(net, x, name, target=[contrast, lambda z: z[:, 1]])
    assert torch.allclose(e.scores[:, 0], contrast(net(x)).detach())
    assert e.values[:, 0].abs().max() > 0
    if name != "eigencam":
        assert (e.scaled[:, 0] - e.scaled[:, 1]).abs().max() > 1e-3


@pytest.mark.row(149)
def test_together_is_as_alone():
    net, x = classifier(), noise(3, 3, 8, 9)
    together = seewhy.explain(net, x, [*FAMILY, "gradient", "guided_backprop"], target=[2, 0])
    for e in together:
        alone = seewhy.explain(net, x, e.method, target=[2, 0])
        assert torch.allclose(e.values, alone.values, rtol=1e-12, atol=1e-14), e.method
        assert e.notes == alone.notes


class Residual(nn.Module):
    """A layer that is no bottleneck: what goes in also goes round it."""

    def __init__(self):
        super().__init__()
        self.one, self.relu, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)
        self.inplace, self.head = nn.ReLU(inplace=True), nn.Linear(8, 3)

    def forward(self, x):
        h = self.relu(self.one(x))
        side = self.two(h)
        self.inplace(side)
        return self.head(torch.cat([h, side], 1).mean((2, 3)))


class Shaped(nn.Module):
    """It looks at the batch before the layer and uses it behind."""

    def __init__(self):
        super().__init__()
        self.conv, self.relu, self.head = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Linear(4 * 6 * 7, 3)

    def forward(self, x):
        n = len(x)
        return self.head(self.relu(self.conv(x)).reshape(n, -1))


def by_hand(net, x, name, layer):
    """Every mask by itself, through the whole network, with an ordinary hook."""
    features = []
    handle = net.get_submodule(layer).register_forward_hook(lambda m, i, o: features.append(o.clone()))
    with torch.no_grad():
        full = net(x)
    handle.remove()
    (a,) = features

    def under(mask):
        def hook(_module, _args, output):
            return output.copy_(a * mask)

        handle = net.get_submodule(layer).register_forward_hook(hook)
        with torch.no_grad():
            z = net(x)
        handle.remove()
        return z

    if name == "ablationcam":
        found = 0
        for c in range(a.shape[1]):
            mask = torch.ones_like(a)
            mask[:, c] = 0
            found = found + (full - under(mask))[:, :, None, None] * a[:, None, c]
        return found.relu()
    found = torch.zeros(*full.shape, *a.shape[2:], dtype=x.dtype)
    for i in range(a.shape[2]):
        for j in range(a.shape[3]):
            mask = torch.zeros_like(a)
            for di in (-1, 0, 1):
                for dj in (-1, 0, 1):
                    if 0 <= i + di < a.shape[2] and 0 <= j + dj < a.shape[3]:
                        mask[:, :, i + di, j + dj] = 2.0 ** -(2 + abs(di) + abs(dj))
            found[:, :, i, j] = under(mask)
    return found


@pytest.mark.parametrize("name", MASKED)
@pytest.mark.parametrize(
    ("net", "layer", "whole"),
    [(classifier(), "3", False), (classifier(), "1", False), (Residual(), "two", True), (Residual(), "inplace", True),
     (Residual(), "one", False), (Shaped(), "relu", True)],
)  # fmt: skip
def test_masks_go_the_short_way_only_where_it_is_right(net, layer, whole, name):
    net, x = drawn(net.double()), noise(2, 3, 8, 9)
    forwards = []
    handle = net.register_forward_pre_hook(lambda m, a: forwards.append(len(a[0])))
    e = seewhy.explain(net, x, name, target=[0, 1, 2], feature_layer=layer, upsample="none")
    handle.remove()
    assert torch.allclose(e.values[:, :, 0], by_hand(net, x, name, layer)[:, :3], rtol=1e-9, atol=1e-11)
    assert e.values.abs().max() > 1e-3
    assert any("whole network" in note for note in e.notes) == whole
    masks = e.evaluations.forward - 2
    assert masks == 2 * (5 if layer == "1" and name == "ablationcam" else masks // 2)
    if whole:
        assert sum(forwards) >= masks
    else:
        assert sum(forwards) <= 2 + 1 + 1 + 2 + 2  # the batch, the layers, the proof, its check, once a sample


def test_masks_on_tokens_keep_the_class_token():
    import timm

    torch.manual_seed(0)
    net = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=5).eval().double()
    x = noise(1, 3, 64, 64)
    e = seewhy.explain(net, x, MASKED, target=[0, 1], upsample="none")
    layer = e[0].feature_layer
    features = []
    handle = net.get_submodule(layer).register_forward_hook(lambda m, i, o: features.append(o.detach().clone()))
    net(x)
    handle.remove()
    a = features[0]
    for place in (0, 5, 15):
        mask = torch.zeros(4, 4, dtype=torch.float64)
        i, j = divmod(place, 4)
        for di in (-1, 0, 1):
            for dj in (-1, 0, 1):
                if 0 <= i + di < 4 and 0 <= j + dj < 4:
                    mask[i + di, j + dj] = 2.0 ** -(2 + abs(di) + abs(dj))
        shown = torch.cat([torch.ones(1, dtype=torch.float64), mask.flatten()])[None, :, None]
        handle = net.get_submodule(layer).register_forward_hook(lambda m, i, o, shown=shown: a * shown)
        with torch.no_grad():
            expected = net(x)[0, :2]
        handle.remove()
        assert torch.allclose(e[1].values[0, :, 0].flatten(1)[:, place], expected, rtol=1e-9)
    assert e[0].values.shape == (1, 2, 1, 4, 4)
    assert e[1].values.std() > 0


@pytest.mark.parametrize("name", [*MASKED, "scorecam"])
def test_batches_are_bounded_where_asked(name):
    net, x = classifier(), noise(2, 3, 8, 9)
    sizes = []
    handle = net[4].register_forward_pre_hook(lambda m, a: sizes.append(len(a[0])))
    free = seewhy.explain(net, x, name, target=0)
    sizes.clear()
    bound = seewhy.explain(net, x, name, target=0, batch_size=2)
    handle.remove()
    assert max(sizes) <= 2
    assert torch.allclose(free.values, bound.values, rtol=1e-10)


def test_dead_channels_have_no_weight_in_scorecam():
    net, x = classifier(), noise(1, 3, 8, 9)
    with torch.no_grad():
        net[2].weight[1], net[2].bias[1] = 0, 3.0  # the same everywhere
    e = seewhy.explain(net, x, "scorecam", target=0, upsample="none")
    changed = classifier()
    with torch.no_grad():
        changed[2].weight[1], changed[2].bias[1] = 0, 3.0
        changed[6].weight[:, 4:8] *= 1  # as it is
    features = net[:4](x).detach()
    shares = []
    for c in range(6):
        a = features[:, c : c + 1]
        if a.max() == a.min():
            shares.append(torch.tensor(-torch.inf, dtype=torch.float64))
            continue
        big = F.interpolate(a, (8, 9), mode="bilinear")
        big = (big - big.min()) / (big.max() - big.min())
        shares.append(net(x * big)[0, 0].detach())
    weights = torch.stack(shares).softmax(0)
    assert weights[1] == 0
    expected = torch.einsum("c,nchw->nhw", weights, features).relu()
    assert torch.allclose(e.values[0, 0], expected, rtol=1e-9)
    with torch.no_grad():
        net[2].weight.zero_()
        net[2].bias.fill_(1.0)
    e = seewhy.explain(net, x, "scorecam", target=0)
    assert not e.values.any()
    assert any("constant" in note for note in e.notes)


@pytest.mark.parametrize("name", [name for name in FAMILY if name != "fullgrad"])
def test_a_plain_function_is_refused_with_what_works(name):
    with pytest.raises(ModelError, match="Methods that work"):
        seewhy.explain(seewhy.wrap(lambda x: x.mean((2, 3))), noise(1, 3, 8, 8), name)


def test_they_find_the_cat(lite0, shipped):
    """Two pictures side by side: each class is looked for where it is."""
    both = torch.cat([lite0.prepare(shipped[name]) for name in ("chelsea", "coffee")], 3)
    wide = F.interpolate(both, size=(112, 224), mode="bilinear")
    names = ["gradcam++", "hirescam", "layercam", "xgradcam", "guided_gradcam", "recipro_cam"]
    for e in seewhy.explain(lite0, wide, names, target=["Egyptian cat", "espresso"]):
        maps = (e.maps - e.maps.amin((2, 3), keepdim=True) * (e.method == "recipro_cam")).clamp(min=0)
        left, right = maps[0, :, :, :112].sum((1, 2)), maps[0, :, :, 112:].sum((1, 2))
        assert left[0] / right[0] > left[1] / right[1], e.method
        assert left[0] > right[0], e.method
        assert right[1] > left[1], e.method


def test_guided_gradcam_at_a_layer_that_works_in_place():
    """What a rectifier in place keeps for the way back is not written over."""
    layers = [nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 4, 3, padding=1), nn.ReLU(), nn.Flatten()]
    plain = drawn(nn.Sequential(*layers, nn.Linear(4 * 48, 3)).double())
    other = nn.Sequential(*(nn.ReLU(inplace=True) if isinstance(m, nn.ReLU) else m for m in plain))
    for name in ("guided_gradcam", "gradcam"):
        for target in (0, [1, 2]):
            # with the gradient the graph goes back to the input
            ours = seewhy.explain(other, noise(2, 3, 6, 8), [name, "gradient"], target=target, feature_layer="3")
            expected = seewhy.explain(plain, noise(2, 3, 6, 8), [name, "gradient"], target=target, feature_layer="3")
            for one, two in zip(ours, expected, strict=True):
                assert torch.equal(one.values, two.values)
                assert one.values.any()
