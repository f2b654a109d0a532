"""Grad-CAM: kinds of inputs, outputs and targets; only what is required is computed."""

import pytest
import torch
from captum.attr import LayerGradCam
from tests.networks import random_input, small_classifier, with_random_weights
from torch import nn
from torch.nn import functional as F

import seewhy
from seewhy import maps, visualization


def expected_gradcam(net, features, score):
    """Selvaraju et al. 2017, eq. 1 and 2, from the layer's features and the network after the layer."""
    features = features.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(score(features).sum(), features)
    maps = torch.zeros(len(features), *features.shape[2:], dtype=torch.float64)
    for c in range(features.shape[1]):
        for n in range(len(features)):
            maps[n] += gradient[n, c].mean() * features[n, c].detach()
    return maps.clamp(min=0)


@pytest.mark.row(91, 118, 119)
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("layer", ["1", "3"])
def test_gradcam_equals_paper_and_captum(rank, layer):
    net, x = small_classifier(rank), random_input(2, 3, *(6, 9, 5)[:rank])
    e = seewhy.explain(net, x, "gradcam", target=[0, 1, 2, 3], feature_layer=layer, upsample="none")
    front, back = net[: int(layer) + 1], net[int(layer) + 1 :]
    assert e.values.max() > 1e-3
    for c in range(4):
        expected = expected_gradcam(net, front(x), lambda a, c=c: back(a)[:, c])
        assert torch.allclose(e.values[:, c, 0], expected, rtol=1e-12, atol=1e-12)
        theirs = LayerGradCam(net, net[int(layer)]).attribute(x, target=c, relu_attributions=True)
        assert torch.allclose(e.values[:, c], theirs, rtol=1e-12, atol=1e-12)


def test_gradcam_equals_captum_on_trained_network(lite0, shipped):
    x = lite0.prepare([*shipped.values()])
    e = seewhy.explain(lite0, x, "gradcam", target=285, upsample="none")
    theirs = LayerGradCam(lite0.module, lite0.module.bn2).attribute(x, target=285, relu_attributions=True)
    assert (e.values[:, 0] - theirs).abs().max() <= 1e-5 * theirs.abs().max()


@pytest.mark.row(70, 92, 97)
def test_gradcam_localizes_classes_in_composite_image(lite0, shipped):
    """Two images side by side: the map of each class is larger on its half."""
    both = torch.cat([lite0.prepare(shipped[name]) for name in ("chelsea", "coffee")], 3)
    wide = F.interpolate(both, size=(224, 448), mode="bilinear")
    e = seewhy.explain(lite0, wide, "gradcam", target=["Egyptian cat", "espresso"])
    left, right = e.maps[0, :, :, :224].sum((1, 2)), e.maps[0, :, :, 224:].sum((1, 2))
    assert left[0] > 2 * right[0]
    assert right[1] > 2 * left[1]


@pytest.mark.row(96, 112, 113)
@pytest.mark.parametrize("size", [(9,), (6, 9), (4, 6, 5)])
def test_gradcam_map_sizes(size):
    net, x = small_classifier(len(size)), random_input(2, 3, *size)
    e = seewhy.explain(net, x, "gradcam", target=[0, 2, 3])
    native = tuple(-(-s // 2) for s in size)
    assert e.values.shape == (2, 3, 1, *native)
    assert e.maps.shape == (2, 3, *size)
    assert seewhy.explain(net, x, "gradcam", upsample="none").maps.shape == (2, 1, *native)
    for how in ("bicubic", "linear", "nearest"):
        resampled = seewhy.explain(net, x, "gradcam", target=[0, 2, 3], upsample=how).maps
        assert torch.equal(resampled, maps.resample(e.values[:, :, 0], size, how).float())


@pytest.mark.row(98, 101)
def test_gradcam_on_segmentation_by_class_and_region():
    net = with_random_weights(
        nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 4, 3, padding=1)).double()
    )
    x, mask = random_input(2, 3, 6, 9), torch.zeros(6, 9, dtype=torch.bool)
    mask[1:3, 4:8] = True
    whole = seewhy.explain(net, x, "gradcam", target=1, upsample="none").values[:, 0, 0]
    assert torch.allclose(whole, expected_gradcam(net, net[:2](x), lambda a: net[2](a)[:, 1].sum((1, 2))), atol=1e-12)
    part = seewhy.explain(net, x, "gradcam", target=seewhy.targets.region(1, mask), upsample="none").values[:, 0, 0]
    assert torch.allclose(part, expected_gradcam(net, net[:2](x), lambda a: net[2](a)[:, 1, mask].sum(1)), atol=1e-12)
    assert (whole - part).abs().max() > 1e-3


@pytest.mark.row(93, 99, 100)
def test_gradcam_with_function_target_and_reduction_layer():
    net, x = small_classifier(), random_input(2, 3, 6, 9)
    by_class = seewhy.explain(net, x, "gradcam", target=3)
    by_function = seewhy.explain(net, x, "gradcam", target=lambda z: z[:, 3])
    assert torch.equal(by_class.values, by_function.values)
    one = seewhy.explain(small_classifier(classes=1), x, "gradcam", target=lambda z: z[:, 0])  # regression: identity
    assert one.values.max() > 0
    inner = seewhy.explain(net, x, "gradcam", feature_layer="1", reduction_layer="2", target=4, upsample="none")
    assert (inner.feature_layer, inner.reduction_layer) == ("1", "2")
    assert torch.allclose(
        inner.values[:, 0, 0], expected_gradcam(net, net[:2](x), lambda a: net[2](a)[:, 4].sum((1, 2)))
    )
    shapes = []
    seewhy.explain(net, x, "gradcam", reduction_layer="2", target=lambda z: shapes.append(z.shape) or z.sum((1, 2, 3)))
    assert set(shapes) == {(2, 6, 3, 5)}
    with pytest.raises(seewhy.OptionError, match="one number per sample"):
        seewhy.explain(net, x, "gradcam", target=lambda z: z)


@pytest.mark.row(126)
def test_gradcam_on_sequences_of_unequal_length():
    net = small_classifier(1)
    lengths = [9, 14, 5]
    each = seewhy.explain(net, [random_input(3, n) for n in lengths], "gradcam", target=1)
    assert [tuple(e.maps.shape) for e in each] == [(1, 1, n) for n in lengths]
    assert torch.equal(each[1].values, seewhy.explain(net, random_input(3, 14)[None], "gradcam", target=1).values)


class Overwriting(nn.Module):
    """An in-place operation directly after the feature layer."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, padding=1)
        self.head = nn.Linear(5, 4)

    def forward(self, x):
        return self.head(F.relu(self.conv(x), inplace=True).mean((2, 3)))


@pytest.mark.parametrize("others", [[], ["gradient"]])  # graph from the layer only, and from the input
def test_gradcam_with_inplace_operation_after_layer(others):
    net, x = with_random_weights(Overwriting().double()), random_input(2, 3, 6, 9)
    features = net.conv(x)
    expected = expected_gradcam(net, features, lambda a: net.head(F.relu(a).mean((2, 3)))[:, 1])
    e = seewhy.explain(net, x, ["gradcam", *others], target=1, feature_layer="conv", upsample="none")[0]
    assert torch.allclose(e.values[:, 0, 0], expected, atol=1e-12)
    again = seewhy.explain(net, x, "gradcam", target=1, feature_layer="/relu", upsample="none")
    expected = expected_gradcam(net, F.relu(features), lambda a: net.head(a.mean((2, 3)))[:, 1])
    assert torch.allclose(again.values[:, 0, 0], expected, atol=1e-12)


def test_no_graph_before_feature_layer():
    net, x, requires_grad = small_classifier(), random_input(2, 3, 6, 9), []
    seewhy.explain(net, x, "gradcam", target=0)  # selects and caches the layer
    for number in (0, 2, 6):
        net[number].register_forward_hook(lambda _m, _a, out: requires_grad.append(out.requires_grad))
    e = seewhy.explain(net, x, "gradcam", target=[0, 1, 2])
    assert requires_grad == [False, False, True]
    assert e.evaluations == (2, 6)


def test_gradcam_on_network_that_runs_under_no_grad():
    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = small_classifier()[:4], small_classifier()[4:]

        def forward(self, x):
            with torch.no_grad():
                return self.head(self.body(x))

    plain = nn.Sequential(*small_classifier())
    e = seewhy.explain(Frozen().eval(), random_input(2, 3, 6, 9), "gradcam", feature_layer="body.3", target=1)
    assert torch.equal(e.values, seewhy.explain(plain, random_input(2, 3, 6, 9), "gradcam", target=1).values)


@pytest.mark.row(42)
def test_gradcam_is_the_default_method():
    net, x = small_classifier(), random_input(2, 3, 6, 9)
    assert torch.equal(seewhy.explain(net, x).values, seewhy.explain(net, x, "gradcam").values)
    with pytest.raises(seewhy.ModelError, match="Methods that work: gradient"):
        seewhy.explain(lambda x: x.flatten(1), x)


def test_zero_gradient_at_layer_is_noted():
    class ConstantOutput(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 5, 3), nn.Linear(5, 4)

        def forward(self, x):
            return self.head((F.relu(self.conv(x)) * 0).mean((2, 3)))

    e = seewhy.explain(
        with_random_weights(ConstantOutput().double()),
        random_input(2, 3, 6, 9),
        "gradcam",
        feature_layer="conv",
        target=1,
    )
    assert "the gradient of sample 0, target 0 is zero everywhere in layer 'conv'" in e.notes
    assert e.scaled.max() == 0


@pytest.mark.row(102, 103, 104, 109)
@pytest.mark.parametrize("layout", ["NHWC", "HWCN", "NDHWC", "NTC", "CNT"])
def test_gradcam_with_layout(layout):
    net, order = small_classifier(len(layout) - 2), "NC" + "".join(a for a in layout if a not in "NC")
    x = random_input(2, 3, *(6, 9, 5)[: len(layout) - 2])
    expected = seewhy.explain(net, x, "gradcam", target=[1, 3])
    permuted = x.permute([order.index(a) for a in layout])
    model = seewhy.wrap(net, layout=layout, forward=lambda n, x: n(x.permute([layout.index(a) for a in order])))
    e = seewhy.explain(model, permuted, "gradcam", target=lambda z: z[:, 1])
    assert torch.allclose(e.values[:, 0], expected.values[:, 0], atol=1e-12)
    assert e.maps.shape == (2, 1, *x.shape[2:])


@pytest.mark.row(105)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16,
                                  torch.float32, torch.float64])  # fmt: skip
def test_gradcam_with_input_dtype(dtype):
    net, x = small_classifier(), (random_input(2, 3, 6, 9) * 9).abs().round()
    expected = seewhy.explain(net, x, "gradcam", target=1).values
    assert torch.equal(seewhy.explain(net, x.to(dtype), "gradcam", target=1).values, expected)


@pytest.mark.row(108, 120)
def test_gradcam_with_dict_output_and_default_layers():
    net, x = small_classifier(), random_input(2, 3, 6, 9)
    e = seewhy.explain(net, x, "gradcam", target=1)
    assert (e.feature_layer, e.reduction_layer) == ("3", "6")
    model = seewhy.wrap(net, forward=lambda n, x: {"scores": n(x)})
    other = seewhy.explain(model, x, "gradcam", target=lambda out: out["scores"].exp().sum(1), upsample="none")
    assert torch.allclose(
        other.values[:, 0, 0], expected_gradcam(net, net[:4](x), lambda a: net[4:](a).exp().sum(1)), atol=1e-12
    )


@pytest.mark.row(72)
def test_gradcam_of_deep_and_shallow_layer_on_one_figure(lite0, shipped):
    x = lite0.prepare(shipped["chelsea"])
    both = [seewhy.explain(lite0, x, "gradcam", feature_layer=name) for name in ("bn2.act", "blocks.2")]
    figure = visualization.figure(both, alpha=0.5, cmap="jet")
    assert [a.get_title() for a in figure.axes[:3]] == ["Input", "Grad-CAM, bn2.act", "Grad-CAM, blocks.2"]
    assert (both[0].maps - both[1].maps).abs().max() > 0.1 * both[0].maps.max()
