"""The CAM methods: relations to each other and to the score, and masks of a layer."""

import pytest
import torch
from tests.networks import observed, random_input, small_classifier, with_random_weights
from torch import nn
from torch.nn import functional as F

import seewhy
from seewhy.errors import ModelError, OptionError

CAM_METHODS = ["gradcam", "gradcam++", "hirescam", "layercam", "xgradcam", "eigencam", "guided_gradcam", "fullgrad",
          "scorecam", "ablationcam", "recipro_cam"]  # fmt: skip
LAYER_MASK_METHODS = ["ablationcam", "recipro_cam"]


def pooled_classifier(rank=2, classes=4):
    """A classifier that ends with global mean pooling and a linear layer."""
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
    pool = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[rank - 1]
    layers = [conv(3, 5, 3, padding=1), nn.ReLU(), conv(5, 6, 3, padding=1), nn.ReLU(), pool(1), nn.Flatten()]
    return with_random_weights(nn.Sequential(*layers, nn.Linear(6, classes)).double())


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_cam_methods_agree_before_pooling_and_linear_layer(rank):
    net, x = pooled_classifier(rank), random_input(2, 3, *(8, 9, 5)[:rank])
    classes = [0, 1, 2, 3]
    gradcam, hirescam, xgradcam, ablation = (
        seewhy.explain(net, x, name, target=classes, upsample="none").values
        for name in ("gradcam", "hirescam", "xgradcam", "ablationcam")
    )
    assert hirescam.min() < -0.01 < 0.01 < hirescam.max()
    assert torch.allclose(hirescam, xgradcam, rtol=1e-10, atol=1e-12)
    assert torch.allclose(hirescam.relu(), gradcam, rtol=1e-10, atol=1e-12)
    with torch.no_grad():
        features, head = net[:4](x), net[6]
        residual = hirescam.flatten(2).sum(2) - (net(x) - head.bias)
        expected = torch.einsum("kc,nc,nc...->nk...", head.weight, features.flatten(2).mean(2), features).relu()
    assert residual.abs().max() < 1e-10
    assert torch.allclose(ablation[:, :, 0], expected, rtol=1e-10, atol=1e-12)


def test_hirescam_sums_to_score_before_linear_layer():
    layers = [nn.Conv2d(3, 5, 3), nn.Tanh(), nn.Conv2d(5, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 4 * 5, 3)]
    net, x = with_random_weights(nn.Sequential(*layers).double()), random_input(2, 3, 8, 9)
    e = seewhy.explain(net, x, "hirescam", target=[0, 1, 2], upsample="none")
    assert e.values.min() < 0
    with torch.no_grad():
        assert torch.allclose(e.values.flatten(2).sum(2), net(x) - net[5].bias, rtol=1e-10)


class ManyBiases(nn.Module):
    """All kinds of biases that FullGrad must observe."""

    def __init__(self, activation):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6)
        self.up, self.plain = nn.ConvTranspose2d(6, 4, 2), nn.Conv2d(4, 4, 1, bias=False)
        self.inplace, self.head, self.activation = nn.ReLU6(inplace=True), nn.Linear(4, 5), activation
        self.scale = nn.Parameter(torch.ones(4, 4, 1, 1))
        self.shift = nn.Parameter(torch.ones(4))

    def forward(self, x):
        h = self.inplace(3 * self.norm(self.conv(x)))
        h = self.activation(self.up(h))
        h = h + F.leaky_relu(F.conv2d(h, self.scale, bias=self.shift), 0.2)
        h = F.max_pool2d(torch.cat([self.plain(h), h], 1)[:, :4], 2)
        return self.head(h.clamp(max=0.5).flatten(2).mean(2))


ACTIVATIONS = {
    "relu": F.relu, "gelu": F.gelu, "silu": nn.SiLU(inplace=True), "tanh": torch.tanh, "method": lambda h: h.sigmoid(),
    "hardswish": F.hardswish, "elu": nn.ELU(), "softplus": F.softplus, "clamp": lambda h: h.clamp(0.1, 1.5),
    "log sigmoid": nn.LogSigmoid(),
}  # fmt: skip


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_fullgrad_parts_sum_to_score(activation):
    net = with_random_weights(ManyBiases(ACTIVATIONS[activation]).double())
    net.norm.running_mean.copy_(random_input(6))
    net.norm.running_var.copy_(random_input(6).abs() + 0.3)
    e = seewhy.explain(net, random_input(2, 3, 11, 9), "fullgrad", target=[0, 1, 2, 3, 4])
    assert e.scores.abs().min() > 1e-3
    assert e.convergence_delta.abs().max() < 1e-10 * e.scores.abs().max()
    total = e.extras["input_part"] + e.extras["bias_parts"].sum(2)
    assert torch.allclose(total, e.scores, rtol=1e-9)
    assert e.extras["bias_parts"].abs().amax((0, 1)).min() > 0  # each bias contributes
    assert not any("sum to" in note for note in e.notes)


def test_fullgrad_notes_incomplete_sum():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.gate, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            h = F.relu(self.conv(x))
            gate = self.gate(h.mean((2, 3))).sigmoid()
            return self.head((h * gate[:, :, None, None]).mean((2, 3)))

    e = seewhy.explain(with_random_weights(Gated().double()), random_input(1, 3, 8, 8), "fullgrad", target=0)
    assert e.convergence_delta.abs().max() > 0.01 * e.scores.abs().max()
    assert any("not piecewise linear" in note for note in e.notes)


def test_eigencam_is_first_principal_component():
    net, x = small_classifier(), random_input(2, 3, 8, 9)
    e = seewhy.explain(net, x, "eigencam", target=[0, 1], upsample="none")
    assert torch.equal(e.values[:, 0], e.values[:, 1])
    assert any("does not depend on the class" in note for note in e.notes)
    features = net[:4](x).detach().flatten(2)
    for n in range(2):
        projection = e.values[n, 0].flatten()
        # its norm is the largest singular value of the layer's features
        assert torch.isclose(projection.norm(), torch.linalg.matrix_norm(features[n], 2), rtol=1e-10)
        assert projection.sum() > 0


def test_maps_of_several_layers_are_averaged_after_resampling():
    net, x = small_classifier(), random_input(2, 3, 8, 12)
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


@pytest.mark.parametrize("name", CAM_METHODS)
def test_cam_methods_with_contrast_target(name):
    net, x = small_classifier(), random_input(2, 3, 8, 12)
    contrast = seewhy.targets.contrast(1, rivals=[0, 2])
    e = seewhy.explain(net, x, name, target=[contrast, lambda z: z[:, 1]])
    assert torch.allclose(e.scores[:, 0], contrast(net(x)).detach())
    assert e.values[:, 0].abs().max() > 0
    if name != "eigencam":
        assert (e.scaled[:, 0] - e.scaled[:, 1]).abs().max() > 1e-3


@pytest.mark.row(149)
def test_cam_methods_in_one_call_equal_single_calls():
    net, x = small_classifier(), random_input(3, 3, 8, 9)
    explanations = seewhy.explain(net, x, [*CAM_METHODS, "gradient", "guided_backprop"], target=[2, 0])
    for e in explanations:
        single = seewhy.explain(net, x, e.method, target=[2, 0])
        assert torch.allclose(e.values, single.values, rtol=1e-12, atol=1e-14), e.method
        assert e.notes == single.notes


class Residual(nn.Module):
    """A skip connection: not all paths pass the layer `two`."""

    def __init__(self):
        super().__init__()
        self.one, self.relu, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)
        self.inplace, self.head = nn.ReLU(inplace=True), nn.Linear(8, 3)

    def forward(self, x):
        h = self.relu(self.one(x))
        side = self.two(h)
        self.inplace(side)
        return self.head(torch.cat([h, side], 1).mean((2, 3)))


class UsesBatchSize(nn.Module):
    """Reads the batch size before the layer and uses it after the layer."""

    def __init__(self):
        super().__init__()
        self.conv, self.relu, self.head = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Linear(4 * 6 * 7, 3)

    def forward(self, x):
        n = len(x)
        return self.head(self.relu(self.conv(x)).reshape(n, -1))


def expected_masked_maps(net, x, name, layer):
    """Maps of Ablation-CAM or Recipro-CAM from full forward passes, one per mask, with a forward hook."""
    features = []
    handle = net.get_submodule(layer).register_forward_hook(lambda m, i, o: features.append(o.clone()))
    with torch.no_grad():
        scores = net(x)
    handle.remove()
    (a,) = features

    def masked_scores(mask):
        def hook(_module, _args, output):
            return output.copy_(a * mask)

        handle = net.get_submodule(layer).register_forward_hook(hook)
        with torch.no_grad():
            z = net(x)
        handle.remove()
        return z

    if name == "ablationcam":
        maps = 0
        for c in range(a.shape[1]):
            mask = torch.ones_like(a)
            mask[:, c] = 0
            maps = maps + (scores - masked_scores(mask))[:, :, None, None] * a[:, None, c]
        return maps.relu()
    maps = torch.zeros(*scores.shape, *a.shape[2:], dtype=x.dtype)
    for i in range(a.shape[2]):
        for j in range(a.shape[3]):
            mask = torch.zeros_like(a)
            for di in (-1, 0, 1):
                for dj in (-1, 0, 1):
                    if 0 <= i + di < a.shape[2] and 0 <= j + dj < a.shape[3]:
                        mask[:, :, i + di, j + dj] = 2.0 ** -(2 + abs(di) + abs(dj))
            maps[:, :, i, j] = masked_scores(mask)
    return maps


@pytest.mark.parametrize("name", LAYER_MASK_METHODS)
@pytest.mark.parametrize(
    ("net", "layer", "full_passes"),
    [(small_classifier(), "3", False), (small_classifier(), "1", False), (Residual(), "two", True),
     (Residual(), "inplace", True), (Residual(), "one", False), (UsesBatchSize(), "relu", True)],
)  # fmt: skip
def test_layer_masks_start_from_layer_only_without_bypass(net, layer, full_passes, name):
    net, x = with_random_weights(net.double()), random_input(2, 3, 8, 9)
    observed(net, x)
    forwards = []
    handle = net.register_forward_pre_hook(lambda m, a: forwards.append(len(a[0])))
    e = seewhy.explain(net, x, name, target=[0, 1, 2], feature_layer=layer, upsample="none")
    handle.remove()
    assert torch.allclose(e.values[:, :, 0], expected_masked_maps(net, x, name, layer)[:, :3], rtol=1e-9, atol=1e-11)
    assert e.values.abs().max() > 1e-3
    assert any("whole network" in note for note in e.notes) == full_passes
    masks = e.evaluations.forward - 2
    assert masks == 2 * (5 if layer == "1" and name == "ablationcam" else masks // 2)
    if full_passes:
        assert sum(forwards) >= masks
    else:
        assert sum(forwards) <= 2 + 1 + 1 + 2 + 2  # batch, layer selection, bypass test and its check, one per sample


def test_layer_masks_on_tokens_keep_class_token():
    import timm

    torch.manual_seed(0)
    net = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=5).eval().double()
    x = random_input(1, 3, 64, 64)
    e = seewhy.explain(net, x, LAYER_MASK_METHODS, target=[0, 1], upsample="none")
    layer = e[0].feature_layer
    features = []
    handle = net.get_submodule(layer).register_forward_hook(lambda m, i, o: features.append(o.detach().clone()))
    net(x)
    handle.remove()
    a = features[0]
    for position in (0, 5, 15):
        mask = torch.zeros(4, 4, dtype=torch.float64)
        i, j = divmod(position, 4)
        for di in (-1, 0, 1):
            for dj in (-1, 0, 1):
                if 0 <= i + di < 4 and 0 <= j + dj < 4:
                    mask[i + di, j + dj] = 2.0 ** -(2 + abs(di) + abs(dj))
        token_mask = torch.cat([torch.ones(1, dtype=torch.float64), mask.flatten()])[None, :, None]
        handle = net.get_submodule(layer).register_forward_hook(lambda m, i, o, token_mask=token_mask: a * token_mask)
        with torch.no_grad():
            expected = net(x)[0, :2]
        handle.remove()
        assert torch.allclose(e[1].values[0, :, 0].flatten(1)[:, position], expected, rtol=1e-9)
    assert e[0].values.shape == (1, 2, 1, 4, 4)
    assert e[1].values.std() > 0


@pytest.mark.parametrize("name", [*LAYER_MASK_METHODS, "scorecam"])
def test_batch_size_limits_forward_passes(name):
    net, x = small_classifier(), random_input(2, 3, 8, 9)
    sizes = []
    handle = net[4].register_forward_pre_hook(lambda m, a: sizes.append(len(a[0])))
    unlimited = seewhy.explain(net, x, name, target=0)
    sizes.clear()
    limited = seewhy.explain(net, x, name, target=0, batch_size=2)
    handle.remove()
    assert max(sizes) <= 2
    assert torch.allclose(unlimited.values, limited.values, rtol=1e-10)


def test_scorecam_gives_constant_channels_weight_zero():
    net, x = small_classifier(), random_input(1, 3, 8, 9)
    with torch.no_grad():
        net[2].weight[1], net[2].bias[1] = 0, 3.0  # constant output
    e = seewhy.explain(net, x, "scorecam", target=0, upsample="none")
    changed = small_classifier()
    with torch.no_grad():
        changed[2].weight[1], changed[2].bias[1] = 0, 3.0
        changed[6].weight[:, 4:8] *= 1  # as it is
    features = net[:4](x).detach()
    scores = []
    for c in range(6):
        a = features[:, c : c + 1]
        if a.max() == a.min():
            scores.append(torch.tensor(-torch.inf, dtype=torch.float64))
            continue
        big = F.interpolate(a, (8, 9), mode="bilinear")
        big = (big - big.min()) / (big.max() - big.min())
        scores.append(net(x * big)[0, 0].detach())
    weights = torch.stack(scores).softmax(0)
    assert weights[1] == 0
    expected = torch.einsum("c,nchw->nhw", weights, features).relu()
    assert torch.allclose(e.values[0, 0], expected, rtol=1e-9)
    with torch.no_grad():
        net[2].weight.zero_()
        net[2].bias.fill_(1.0)
    e = seewhy.explain(net, x, "scorecam", target=0)
    assert not e.values.any()
    assert any("constant" in note for note in e.notes)


@pytest.mark.parametrize("name", [name for name in CAM_METHODS if name != "fullgrad"])
def test_cam_methods_refuse_plain_function(name):
    with pytest.raises(ModelError, match="Methods that work"):
        seewhy.explain(seewhy.wrap(lambda x: x.mean((2, 3))), random_input(1, 3, 8, 8), name)


def test_cam_methods_localize_classes_in_composite_image(lite0, shipped):
    """Two images side by side: the map of each class is larger on its half."""
    both = torch.cat([lite0.prepare(shipped[name]) for name in ("chelsea", "coffee")], 3)
    wide = F.interpolate(both, size=(112, 224), mode="bilinear")
    names = ["gradcam++", "hirescam", "layercam", "xgradcam", "guided_gradcam", "recipro_cam"]
    for e in seewhy.explain(lite0, wide, names, target=["Egyptian cat", "espresso"]):
        maps = (e.maps - e.maps.amin((2, 3), keepdim=True) * (e.method == "recipro_cam")).clamp(min=0)
        left, right = maps[0, :, :, :112].sum((1, 2)), maps[0, :, :, 112:].sum((1, 2))
        assert left[0] / right[0] > left[1] / right[1], e.method
        assert left[0] > right[0], e.method
        assert right[1] > left[1], e.method


def test_guided_gradcam_at_inplace_layer():
    """The output that an in-place rectifier saves for its backward pass is not overwritten."""
    layers = [nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 4, 3, padding=1), nn.ReLU(), nn.Flatten()]
    plain = with_random_weights(nn.Sequential(*layers, nn.Linear(4 * 48, 3)).double())
    other = nn.Sequential(*(nn.ReLU(inplace=True) if isinstance(m, nn.ReLU) else m for m in plain))
    for name in ("guided_gradcam", "gradcam"):
        for target in (0, [1, 2]):
            # with "gradient" the graph reaches the input
            ours = seewhy.explain(other, random_input(2, 3, 6, 8), [name, "gradient"], target=target, feature_layer="3")
            expected = seewhy.explain(
                plain, random_input(2, 3, 6, 8), [name, "gradient"], target=target, feature_layer="3"
            )
            for one, two in zip(ours, expected, strict=True):
                assert torch.equal(one.values, two.values)
                assert one.values.any()
