"""ONNX networks: outputs from ONNX Runtime, gradients and layers from a verified conversion to torch."""

import copy
import io
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import seewhy
from seewhy.cli import main
from seewhy.models.onnx import conversion
from seewhy.tracing import onnx_verification

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx2pytorch")

H, FLOAT = onnx.helper, onnx.TensorProto.FLOAT
ARCHITECTURES = {
    "ResNet": ("resnet10t", {}),
    "MobileNetV3": ("mobilenetv3_small_050", {}),
    "EfficientNet": ("tf_efficientnet_lite0", {}),
    "ConvNeXt": ("convnext_atto", {}),
    "ViT": ("vit_tiny_patch16_224", {"img_size": 32, "depth": 3}),
}
FIXED_BATCH = {("ResNet", "dynamo"), ("ViT", "script")}  # exported with a fixed batch size of 1


def timm_network(kind):
    timm = pytest.importorskip("timm")
    name, options = ARCHITECTURES[kind]
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=7, **options).eval()
    with torch.no_grad():  # the output of an untrained network hardly depends on its input
        for parameter in net.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return net


@pytest.fixture(scope="session")
def export_network(tmp_path_factory):
    """A function: (architecture, exporter) -> (file, network)."""
    folder, files = tmp_path_factory.mktemp("onnx"), {}

    def export(kind, exporter):
        file = folder / f"{kind}-{exporter}.onnx"
        if file not in files:
            files[file] = net = timm_network(kind)
            fixed, x = (kind, exporter) in FIXED_BATCH, torch.randn(2, 3, 32, 32)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # warnings of the exporters
                if exporter == "dynamo":
                    free = None if fixed else ({0: torch.export.Dim("n", min=1, max=64)},)
                    torch.onnx.export(
                        net, (x[: 1 if fixed else 2],), file, dynamo=True, dynamic_shapes=free, verbose=False,
                        external_data=False,
                    )  # fmt: skip
                else:
                    axes = None if fixed else {"x": {0: "n"}, "y": {0: "n"}}
                    torch.onnx.export(
                        net, (x[: 1 if fixed else 2],), file, dynamo=False, dynamic_axes=axes, input_names=["x"],
                        output_names=["y"],
                    )  # fmt: skip
        return file, files[file]

    return export


@pytest.mark.parametrize("exporter", ["script", "dynamo"])
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_explain_exported_architectures(kind, exporter, export_network):
    file, net = export_network(kind, exporter)
    model = seewhy.load(f"onnx:{file}")
    x = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    methods = ["gradient", "gradcam"]
    methods += ["attention_gradient"] if kind == "ViT" else ["guided_backprop"] if kind != "ConvNeXt" else []
    found = seewhy.explain(model, x, methods, target=[1, 4])
    expected = seewhy.explain(net, x, methods, target=[1, 4])
    for a, b in zip(found, expected, strict=True):
        assert b.values.any()
        assert float((a.values - b.values).abs().max()) < 1e-4 * float(b.values.abs().max())
        assert any("onnx2pytorch" in note and "of the output's range" in note for note in a.notes)
    assert found[1].feature_layer in {row.name for row in seewhy.layers(model, x)}
    assert seewhy.predict(model, x).notes == seewhy.predict(net, x).notes + model.notes


def test_layers_have_node_names(export_network):
    file, net = export_network("MobileNetV3", "script")
    model, x = seewhy.load(f"onnx:{file}"), torch.randn(9, 3, 32, 32)
    nodes = {node.name for node in onnx.load(file).graph.node}
    assert "/blocks/blocks.5/blocks.5.0/bn1/act/HardSwish" in nodes
    rows = {row.name for row in seewhy.layers(model, x)}
    assert {"blocks_blocks_5_blocks_5_0_bn1_act_HardSwish", "conv_stem_Conv"} <= rows
    found = seewhy.activations(model, x, "blocks_blocks_5_blocks_5_0_bn1_act_HardSwish").values
    assert torch.allclose(found, seewhy.activations(net, x, "blocks.5.0.bn1.act").values, atol=1e-4)


def onnx_bytes(nodes, weights, batch="n", shape=(3, 8, 8), opset=17, domains=(), out=("y",)):
    known = [onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in weights.items()]
    model = H.make_model(
        H.make_graph(
            nodes, "small", [H.make_tensor_value_info("x", FLOAT, [batch, *shape])],
            [H.make_tensor_value_info(o, FLOAT, None) for o in out], known,
        ),
        opset_imports=[H.make_opsetid("", opset), *(H.make_opsetid(name, 1) for name in domains)], ir_version=8,
    )  # fmt: skip
    return model.SerializeToString()


def session(data):
    return runtime.InferenceSession(data, providers=["CPUExecutionProvider"])


RNG = np.random.default_rng(3)
WEIGHTS = {
    "w": RNG.normal(size=(6, 3, 3, 3)).astype("float32"), "v": RNG.normal(size=(6, 4)).astype("float32"),
    "b": RNG.normal(size=4).astype("float32"),
}  # fmt: skip
STEM = [H.make_node("Conv", ["x", "w"], ["c"], name="stem"), H.make_node("Relu", ["c"], ["r"], name="relu")]
HEAD = [H.make_node("Gemm", ["f", "v", "b"], ["y"], name="head")]
POOL = [H.make_node("GlobalAveragePool", ["r"], ["p"]), H.make_node("Flatten", ["p"], ["f"])]
SMALL = STEM + POOL + HEAD
X = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(5))


def torch_network(x, change=lambda x: x):
    w, v, b = (torch.from_numpy(WEIGHTS[k]).to(x) for k in "wvb")
    return torch.relu(nn.functional.conv2d(change(x), w)).mean((2, 3)) @ v + b


def close(a, b, atol=1e-5):
    return torch.allclose(a.values, b.values, atol=atol * float(b.values.abs().max()))


@pytest.mark.parametrize("where", ["bytes", "file"])
def test_wrap_session_reads_graph(where, tmp_path, monkeypatch):
    data = onnx_bytes(SMALL, WEIGHTS)
    if where == "file":
        (tmp_path / "net.onnx").write_bytes(data)
        monkeypatch.chdir(tmp_path)
    model = seewhy.wrap(session(data if where == "bytes" else "net.onnx"))
    monkeypatch.chdir("/")
    for x in (X, X.double()):
        e = seewhy.explain(model, x, "integrated_gradients", target=2, steps=8)
        assert close(e, seewhy.explain(torch_network, X, "integrated_gradients", target=2, steps=8))


def test_explain_session_with_channels_last():
    turn = H.make_node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2])
    nodes = [turn, H.make_node("Conv", ["t", "w"], ["c"]), STEM[1], *POOL, *HEAD]
    model = seewhy.wrap(session(onnx_bytes(nodes, WEIGHTS, shape=(8, 8, 3))), layout="NHWC")
    found, expected = (
        seewhy.explain(m, x, "gradient", target=2) for m, x in ((model, X.permute(0, 2, 3, 1)), (torch_network, X))
    )
    assert close(found, expected)


def test_scores_are_computed_by_onnx_runtime(monkeypatch):
    model = seewhy.wrap(session(onnx_bytes(SMALL, WEIGHTS)))
    options = {"target": 1, "mask_size": 4, "stride": 4}
    expected = seewhy.explain(model, X, "occlusion", **options).values
    monkeypatch.setattr(conversion, "ConvertedSession", lambda module: 1 / 0)
    monkeypatch.setattr(conversion, "_convert", lambda source, call_network: 1 / 0)
    unconverted = seewhy.wrap(session(onnx_bytes(SMALL, WEIGHTS)))
    assert torch.equal(seewhy.explain(unconverted, X, "occlusion", **options).values, expected)
    monkeypatch.undo()
    several = seewhy.explain(model, X, ["gradcam", "occlusion", "gradient"], feature_layer="relu", **options)
    assert [e.method for e in several] == ["gradcam", "occlusion", "gradient"]
    assert torch.equal(several[1].values, expected)
    assert [any("onnx2pytorch" in note for note in e.notes) for e in several] == [True, False, True]
    calls = list[int]()
    count = replace(model, forward=lambda x: calls.append(len(x)) or model.forward(x))
    seewhy.explain(count, X, "occlusion", **options)
    assert sum(calls) > len(X), "the session runs for every mask"


def test_converter_is_required_for_gradients_only(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx2pytorch", None)
    model = seewhy.wrap(session(onnx_bytes(SMALL, WEIGHTS)))
    assert seewhy.explain(model, X, "occlusion", mask_size=4).values.any()
    with pytest.raises(seewhy.ModelError, match=r"onnx2pytorch is not installed: pip install 'seewhy\[onnx\]'\. Meth"):
        seewhy.explain(model, X, "gradient")


@pytest.mark.parametrize("count", [1, 3])
def test_fixed_batch_size_does_not_mix_samples(count):
    """The graph averages over the batch axis, which has no effect in a batch of one sample."""
    mix = [H.make_node("ReduceMean", ["x"], ["m"], axes=[0]), H.make_node("Mul", ["x", "m"], ["z"], name="mix")]
    stem = [H.make_node("Conv", ["z", "w"], ["c"]), STEM[1]]
    model = seewhy.wrap(session(onnx_bytes(mix + stem + POOL + HEAD, WEIGHTS, batch=1)))
    x = X[:count]
    for method, options in (("gradient", {}), ("integrated_gradients", {"steps": 8}), ("smoothgrad", {"samples": 4})):
        e = seewhy.explain(model, x, method, target=2, **options)
        assert close(e, seewhy.explain(lambda x: torch_network(x, lambda x: x * x), x, method, target=2, **options))
    for method in ("gradcam", "scorecam", "recipro_cam"):
        e = seewhy.explain(model, x, method, target=2, feature_layer="relu")
        assert e.values.shape == (count, 1, 1, 6, 6)
        each = [seewhy.explain(model, one, method, target=2, feature_layer="relu").values for one in x.split(1)]
        assert torch.equal(e.values, torch.cat(each))
    assert seewhy.activations(model, x, "relu").values.shape == (count, 6, 6, 6)


def test_reshape_with_constant_batch_size():
    flat = [H.make_node("Reshape", ["r", "s"], ["q"]), H.make_node("ReduceMean", ["q"], ["f"], axes=[2], keepdims=0)]
    weights = WEIGHTS | {"s": np.array([1, 6, -1])}
    model = seewhy.wrap(session(onnx_bytes(STEM + flat + HEAD, weights, 1)))
    assert close(seewhy.explain(model, X, "gradient", target=0), seewhy.explain(torch_network, X, "gradient", target=0))


def test_first_of_several_outputs_is_explained():
    model = seewhy.wrap(session(onnx_bytes(SMALL, WEIGHTS, out=("y", "f"))))
    assert close(seewhy.explain(model, X, "gradient", target=3), seewhy.explain(torch_network, X, "gradient", target=3))


def test_graph_with_shape_operators():
    """Operators with a scalar output are not listed as layers with spatial axes."""
    nodes = [
        H.make_node("Shape", ["p"], ["s"]), H.make_node("Gather", ["s", "zero"], ["n"], name="number"),
        H.make_node("Unsqueeze", ["n", "first"], ["u"]), H.make_node("Concat", ["u", "rest"], ["to"], axis=0),
        H.make_node("Reshape", ["p", "to"], ["f"]),
    ]  # fmt: skip
    weights = WEIGHTS | {"zero": np.array(0), "first": np.array([0]), "rest": np.array([6])}
    model = seewhy.wrap(session(onnx_bytes([*STEM, POOL[0], *nodes, *HEAD], weights)))
    assert {row.name: row.spatial for row in seewhy.layers(model, X)}["relu"]
    assert seewhy.explain(model, X, "gradcam").feature_layer == "relu"


def test_operator_of_other_domain_is_rejected_by_name():
    custom = H.make_node("QuickGelu", ["c"], ["r"], name="gelu", domain="com.microsoft", alpha=1.0)
    model = seewhy.wrap(session(onnx_bytes([STEM[0], custom, *POOL, *HEAD], WEIGHTS, domains=["com.microsoft"])))
    message = r"com\.microsoft::QuickGelu \(node 'gelu'\) cannot be converted to torch\. Methods that work: occlusion"
    with pytest.raises(seewhy.ModelError, match=message):
        seewhy.explain(model, X, "gradcam")
    with pytest.raises(seewhy.ModelError, match=r"not accessible: the operator com\.microsoft::QuickGelu"):
        seewhy.layers(model, X)
    with pytest.raises(seewhy.ModelError, match=r"dream needs .*QuickGelu"):
        seewhy.dream(model, None, 0, initial=X[:1], iterations=1, pyramid_levels=1)
    assert seewhy.explain(model, X, "occlusion", mask_size=4).values.any()


def test_unconvertible_operator_is_rejected_by_name():
    """A recurrent layer whose weights depend on the input."""
    weights = {"w": RNG.normal(size=(1, 15, 6)).astype("float32"), "r": RNG.normal(size=(1, 15, 5)).astype("float32")}
    nodes = [
        H.make_node("ReduceMean", ["x"], ["m"], keepdims=0), H.make_node("Mul", ["w", "m"], ["ww"]),
        H.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        H.make_node("GRU", ["t", "ww", "r"], ["", "h"], hidden_size=5, name="step"),
        H.make_node("Squeeze", ["h", "zero"], ["y"]),
    ]  # fmt: skip
    model = seewhy.wrap(session(onnx_bytes(nodes, weights | {"zero": np.array([0])}, shape=(4, 6))), layout="NTC")
    x = torch.randn(2, 4, 6)
    assert seewhy.explain(model, x, "lime", samples=16, segments="grid", features=4).values.any()
    with pytest.raises(seewhy.ModelError, match=r"he operator GRU \(node 'step', opset 17\) cannot be converted"):
        seewhy.explain(model, x, "gradient")


def changed_weight(module):
    module.stem.weight.data[0, 0, 0, 0] += 0.01


def changed_activation(module):
    module.relu = nn.LeakyReLU(0.01)


def wrong_shape(module):
    module.head = nn.Linear(5, 4)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (changed_weight, r"differs from ONNX Runtime on this input by 0\.\d+ of the output's range, more than 0\.0001"),
        (
            changed_activation,
            r"differs from ONNX Runtime on this input by 0\.\d+ of the output's range, more than 0\.0001",
        ),
        (wrong_shape, "converted to torch fails at 'head'"),
    ],
)
def test_wrong_conversion_is_rejected(fault, message):
    model = seewhy.wrap(session(onnx_bytes(SMALL, WEIGHTS)))
    assert seewhy.explain(model, X, "gradient").values.any()
    fault(model.conversion().module)
    with pytest.raises(seewhy.ModelError, match=message + ".*Methods that work: occlusion, feature_ablation, lime"):
        seewhy.explain(model, X, "gradient")
    with pytest.raises(seewhy.ModelError, match="not accessible: the graph as"):
        seewhy.activations(model, X, "relu")
    with pytest.raises(seewhy.ModelError, match=r"differs|fails"):
        seewhy.layers(model, X)


def test_conversion_is_compared_on_each_input():
    """The wrong conversion differs only for values above 2, which only the last sample contains."""
    clip = H.make_node("Clip", ["x", "", "two"], ["z"], name="clip")
    nodes = [clip, H.make_node("Conv", ["z", "w"], ["c"]), STEM[1], *POOL, *HEAD]
    model = seewhy.wrap(session(onnx_bytes(nodes, WEIGHTS | {"two": np.float32(2)})))
    low = X.clamp(-1, 1)
    high = torch.cat([low, low[:1] + 3])
    assert seewhy.explain(model, high, "gradient").values.any()
    model.conversion().module.clip = _IgnoreBounds()
    assert seewhy.explain(model, low, "gradient").values.any()
    with pytest.raises(seewhy.ModelError, match="differs from ONNX Runtime on this input"):
        seewhy.explain(model, high, "gradient")


class _IgnoreBounds(nn.Module):
    def forward(self, x, *limits):
        return x


def test_tolerance_is_relative_to_range_of_each_sample():
    """A float32 rounding error of a large offset is tolerated, a thousandth of a small range is not."""

    def difference(expected, found):
        model = seewhy.wrap(lambda x: expected)
        twin = replace(model, forward=lambda x: found, module=nn.Identity())
        return onnx_verification._compare_outputs(model, twin, torch.ones(2, 3))

    offset = torch.tensor([[1000.0, 1001.0], [5.0, 6.0]])
    assert difference(offset, offset) == 0
    assert 0 < difference(offset, offset + torch.tensor([[6e-5, 0], [0, 0]])) < 1
    assert difference(offset, offset + torch.tensor([[0, 0], [1e-3, 0]])) > 1
    assert difference(torch.zeros(2, 2), torch.tensor([[0, 0], [0, 1e-9]])) == float("inf")
    assert "returns a tensor [2, 1], but ONNX Runtime returns a tensor [2, 2]" in difference(offset, offset[:, :1])


SLICES = {
    "from the end": (([-3], [-1], [-1], [1]), lambda x: x[..., -3:-1]),
    "by steps, beyond the end": (([1, 0], [99, 7], [3, 2], [3, 2]), lambda x: x[:, :, 0:7:2, 1::3]),
    "backwards": (([-1], [-99], [2], [-3]), lambda x: x.flip(2)[:, :, ::3]),
    "the first axes": (([0, 1], [9, 3]), lambda x: x[0:9, 1:3]),
}


@pytest.mark.parametrize("kind", SLICES)
def test_slice_operator(kind):
    numbers, same = SLICES[kind]
    names = ["starts", "ends", "axes", "steps"][: len(numbers)]
    nodes = [H.make_node("Slice", ["x", *names], ["s"]), H.make_node("Flatten", ["s"], ["y"])]
    model = seewhy.wrap(session(onnx_bytes(nodes, {n: np.array(v) for n, v in zip(names, numbers, strict=True)})))
    found, expected = (
        seewhy.explain(m, X, "gradient", target=[0, 3]).values for m in (model, lambda x: same(x).flatten(1))
    )
    assert torch.equal(found, expected)


def test_slice_operator_with_attributes():
    nodes = [H.make_node("Slice", ["x"], ["s"], starts=[2], ends=[-1], axes=[3]), H.make_node("Flatten", ["s"], ["y"])]
    model = seewhy.wrap(session(onnx_bytes(nodes, {}, opset=9)))
    found, expected = (
        seewhy.explain(m, X, "gradient", target=[0, 3]).values for m in (model, lambda x: x[..., 2:-1].flatten(1))
    )
    assert torch.equal(found, expected)


@pytest.mark.parametrize("where", ["inputs", "attributes"])
@pytest.mark.parametrize("bounds", [(0, 6), (0, None), (None, 0.2)])
def test_clip_operator_is_recognized_as_rectifier(bounds, where):
    named = {name: np.float32(v) for name, v in zip(("min", "max"), bounds, strict=True) if v is not None}
    if where == "inputs":
        clip = H.make_node("Clip", ["c", *(name if name in named else "" for name in ("min", "max"))], ["r"])
    else:
        clip = H.make_node("Clip", ["c"], ["r"], **{name: float(v) for name, v in named.items()})
    weights = WEIGHTS | (named if where == "inputs" else {})
    model = seewhy.wrap(
        session(onnx_bytes([STEM[0], clip, *POOL, *HEAD], weights, opset=17 if where == "inputs" else 9))
    )

    def same(x):
        w, v, b = (torch.from_numpy(WEIGHTS[k]) for k in "wvb")
        return nn.functional.conv2d(x, w).clamp(*bounds).mean((2, 3)) @ v + b

    methods = ["gradient", "guided_backprop"] if bounds[0] == 0 else ["gradient"]
    for method in methods:
        assert close(*(seewhy.explain(m, X, method, target=1) for m in (model, same)))


@pytest.mark.parametrize(("axis", "numbers"), [(-1, 1), (2, [3, -1]), (3, [[5, 7], [-8, 0]])])
def test_gather_operator_with_scalar_vector_and_matrix_indices(axis, numbers):
    nodes = [H.make_node("Gather", ["x", "i"], ["g"], axis=axis), H.make_node("Flatten", ["g"], ["y"])]
    model = seewhy.wrap(session(onnx_bytes(nodes, {"i": np.array(numbers)})))

    def same(x):
        return torch.stack([x.select(axis, int(i) % 8) for i in np.ravel(numbers)], axis).flatten(1)

    found, expected = (seewhy.explain(m, X, "gradient", target=[0, 3]).values for m in (model, same))
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("given", "message"),
    [("forward", r"calls the session\'s run\(\), which has no gradient"), ("hidden", "does not provide the graph")],
)
def test_session_without_convertible_graph(given, message):
    class Hidden:
        def __init__(self, inside):
            self.get_inputs, self.get_outputs, self.run = inside.get_inputs, inside.get_outputs, inside.run

    inside = session(onnx_bytes(SMALL, WEIGHTS))
    model = seewhy.wrap(Hidden(inside)) if given == "hidden" else seewhy.wrap(
        inside, forward=lambda s, x: s.run(None, {"x": x.numpy()})[0]
    )  # fmt: skip
    assert seewhy.explain(model, X, "occlusion", mask_size=4).values.any()
    with pytest.raises(seewhy.ModelError, match=message):
        seewhy.explain(model, X, "gradient")


def time_first_session(batch="n", out=("y",)):
    """tanh of a linear map per time step, with time as the first axis of the output: [N, 4, 6] -> [4, N, 6]."""
    nodes = [H.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]), H.make_node("MatMul", ["t", "m"], ["u"]),
             H.make_node("Tanh", ["u"], ["y"], name="tanh")]  # fmt: skip
    return session(onnx_bytes(nodes, {"m": MATRIX}, batch, (4, 6), out=out))


MATRIX = RNG.normal(size=(6, 6)).astype("float32")


@pytest.mark.parametrize("count", [1, 3, 4])
def test_batch_axis_is_determined(count):
    """Includes as many samples as time steps, where the shape alone is ambiguous."""
    model, x = seewhy.wrap(time_first_session()), torch.randn(count, 4, 6, generator=torch.Generator().manual_seed(2))

    def same(x):
        return torch.tanh(x @ torch.from_numpy(MATRIX))

    def target(y):
        return y[:, 1, 2] + y[:, 3, 0]

    options = {"target": target, "mask_size": 1, "stride": 1}
    for method, more in (
        ("gradient", {}),
        ("occlusion", {"mask_size": 1, "stride": 1}),
        ("smoothgrad", {"samples": 3}),
    ):
        e = seewhy.explain(model, x, method, target=target, **more)
        assert e.output.shape == (count, 4, 6)
        assert close(e, seewhy.explain(same, x, method, target=target, **more))
        assert sum("are on axis 1 of the output" in note for note in e.notes) == 1
    both = seewhy.explain(model, x, ["gradient", "occlusion"], **options)
    assert all(sum("are on axis 1" in note for note in e.notes) == 1 for e in both)


@pytest.mark.parametrize("batch", ["n", 1])
def test_forward_function_is_reused_for_cached_layers(batch):
    model = seewhy.wrap(session(onnx_bytes(SMALL, WEIGHTS, batch)))
    first, second = (onnx_verification.with_verified_conversion(model, x)[0] for x in (X, X + 1))
    assert first.forward is second.forward


def test_wrapped_session_can_be_copied():
    model = copy.copy(seewhy.wrap(session(onnx_bytes(SMALL, WEIGHTS))).forward.args[0])
    assert model(X)["y"].shape == (3, 4)
    assert [i.name for i in model.get_inputs()] == ["x"]


def test_no_note_if_batch_is_first_axis():
    model = seewhy.wrap(session(onnx_bytes(SMALL, WEIGHTS)))
    e = seewhy.explain(model, torch.cat([X, X[:1]]), "occlusion", mask_size=4, target=0)
    assert e.output.shape == (4, 4)
    assert not any("axis" in note for note in e.notes)


def test_batch_axis_is_determined_once():
    calls = list[int]()
    model = seewhy.wrap(time_first_session())
    counting = replace(model, forward=lambda x: calls.append(len(x)) or model.forward(x))
    for _ in range(2):
        seewhy.explain(counting, torch.randn(5, 4, 6), "edges", target=lambda y: y[:, 1, 2])
    assert calls[:2] == [1, 2] and sum(calls) == 3 + 2 * 5


PAIRWISE_PRODUCTS = [  # products of all pairs of samples, at each time step
    H.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]), H.make_node("Transpose", ["x"], ["s"], perm=[1, 2, 0]),
    H.make_node("MatMul", ["t", "s"], ["y"]),
]  # fmt: skip
SUM_OVER_SAMPLES = H.make_node("ReduceSum", ["x", "a"], ["y"], keepdims=0)
WITHOUT_BATCH_AXIS = {
    "a fixed batch": (lambda: time_first_session(1), r"has shape \[4, 1, 6\] for one sample and \[8, 1, 6\] for two"),
    "all samples in one": (
        lambda: session(onnx_bytes([SUM_OVER_SAMPLES], {"a": [0]}, shape=(4, 6))),
        r"has shape \[4, 6\] for one sample and \[4, 6\] for two",
    ),
    "two axes": (
        lambda: session(onnx_bytes(PAIRWISE_PRODUCTS, {}, shape=(4, 6))),
        r"has shape \[4, 1, 1\] for one sample and \[4, 2, 2\] for two",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", WITHOUT_BATCH_AXIS)
@pytest.mark.parametrize("count", [1, 4])
def test_output_without_batch_axis_is_rejected(kind, count):
    make, message = WITHOUT_BATCH_AXIS[kind]
    model = seewhy.wrap(make())
    for method in ("occlusion", "gradient"):
        with pytest.raises(
            seewhy.ModelError, match=message + ".*the first axis, or exactly one other axis, must be the batch axis"
        ):
            seewhy.explain(model, torch.randn(count, 4, 6), method, target=lambda y: y[:, 0, 0])


def test_forward_can_move_batch_axis():
    """Required for a fixed batch size, where the batch axis cannot be determined."""

    def batch_first(net, x):
        return torch.cat([net(one)["y"].movedim(1, 0) for one in x.split(1)])

    x = torch.randn(3, 4, 6)
    for method, more in (("gradient", {}), ("occlusion", {"mask_size": 1, "stride": 1})):
        found, expected = (
            seewhy.explain(m, x, method, target=lambda y: y[:, 1, 2], **more)
            for m in (seewhy.wrap(time_first_session(1), forward=batch_first), time_first_session())
        )
        assert close(found, expected)


def two_input_session(sizes=("n", "n"), names=("a", "b.1"), kinds=(FLOAT, FLOAT), out=("y", "half")):
    """Session with the inputs a and b.1 and the outputs y = tanh(a w) · (b v) and half = y / 2."""
    known = [
        onnx.numpy_helper.from_array(v, k)
        for k, v in {"w": MATRIX[:, :4], "v": MATRIX[:5, :4], "c": np.float32(0.5).reshape(1)}.items()
    ]
    a, b = names
    nodes = [
        H.make_node("Cast", [b], ["bf"], to=FLOAT), H.make_node("MatMul", [a, "w"], ["aw"]),
        H.make_node("Tanh", ["aw"], ["t"], name="tanh"), H.make_node("MatMul", ["bf", "v"], ["bv"], name="linear"),
        H.make_node("Mul", ["t", "bv"], ["y"], name="product"),
        H.make_node("Mul", ["y", "c"], ["half"], name="halve"),
    ]  # fmt: skip
    shapes = [(sizes[0], 6), (sizes[1], 5)]
    inputs = [H.make_tensor_value_info(*each) for each in zip(names, kinds, shapes, strict=True)]
    outputs = [H.make_tensor_value_info(o, FLOAT, None) for o in out]
    model = H.make_model(
        H.make_graph(nodes, "two", inputs, outputs, known), opset_imports=[H.make_opsetid("", 17)], ir_version=8
    )
    return session(model.SerializeToString())


class TwoInputNetwork(nn.Module):
    def forward(self, a, b):
        return torch.tanh(a @ torch.from_numpy(MATRIX[:, :4])) * (b.float() @ torch.from_numpy(MATRIX[:5, :4]))


A, B = (torch.randn(3, k, generator=torch.Generator().manual_seed(k)) for k in (6, 5))
METHODS = {"gradient": {}, "integrated_gradients": {"steps": 4}, "occlusion": {"mask_size": 1, "stride": 1},
           "kernel_shap": {"samples": 40, "segments": "grid", "features": 4}}  # fmt: skip


@pytest.mark.parametrize("batch", ["n", 1, 2])
@pytest.mark.parametrize("method", METHODS)
def test_explain_several_inputs_returns_one_map_per_input(method, batch):
    """With a free and a fixed batch size; inputs in order and by name."""
    model = seewhy.wrap(two_input_session((batch, batch)))
    expected = seewhy.explain(TwoInputNetwork(), (A, B), method, target=[2, 0], **METHODS[method])
    positional = seewhy.explain(model, (A, B), method, target=[2, 0], **METHODS[method])
    by_name = seewhy.explain(model, {"b.1": B.double(), "a": A.numpy()}, method, target=[2, 0], **METHODS[method])
    assert isinstance(positional, tuple) and list(by_name) == ["b.1", "a"]
    for name, found, expected in zip(("a", "b.1"), positional, expected, strict=True):
        assert expected.values.any() and found.values.shape == expected.values.shape
        assert close(found, expected) and torch.allclose(by_name[name].values.float(), found.values, atol=1e-6)
        assert any("onnx2pytorch" in note for note in found.notes) == (method in ("gradient", "integrated_gradients"))


def test_explain_several_inputs_with_several_methods():
    found = seewhy.explain(
        seewhy.wrap(two_input_session()), (A, B), ["gradient", "occlusion"], target=1, mask_size=1, stride=1
    )
    for name, (gradient, hidden) in zip(("a", "b"), found, strict=True):
        assert [gradient.method, hidden.method] == ["gradient", "occlusion"]
        assert any("onnx2pytorch" in note for note in gradient.notes) and not any(
            "onnx" in note for note in hidden.notes
        ), name


def test_integer_inputs_are_held_constant():
    numbers = torch.tensor([[1, 0, 2, -1, 3]] * 3)
    model = seewhy.wrap(two_input_session(kinds=(FLOAT, onnx.TensorProto.INT64)))
    for method in ("gradient", "occlusion"):
        options = METHODS[method] | {"target": 2}
        found = seewhy.explain(model, {"a": A, "b.1": numbers}, method, **options)
        assert list(found) == ["a", "b.1"]
        assert found["b.1"] is None
        assert close(found["a"], seewhy.explain(TwoInputNetwork(), (A, numbers), method, **options)[0])
        with pytest.raises(seewhy.InputError, match=r"input 'b\.1' has type torch\.int64.*received torch\.float32"):
            seewhy.explain(model, (A, numbers.float()), method, **options)


@pytest.mark.parametrize(("given", "message"), [
    (A, "graph requires 2 inputs, as a tuple in this order or a dictionary: 'a', 'b.1'; it received 1 without a name"),
    ((A,), "2 inputs.*received 1 without"), ((A, B, B), "2 inputs.*received 3 without"),
    ({"a": A}, "2 inputs.*received 'a'"), ({"a": A, "b.1": B, "c": B}, r"2 inputs.*received 'a', 'b\.1', 'c'"),
    ({"a": A, "b": B}, "2 inputs.*received 'a', 'b'"), ((A, B[:2]), r"same number.*net\(x, it\)"),
    ((A, torch.tensor(3)), r"batch first is needed.*net\(x, it\)"),
])  # fmt: skip
@pytest.mark.parametrize("method", ["gradient", "occlusion"])
def test_explain_rejects_inconsistent_inputs(given, message, method):
    with pytest.raises(seewhy.InputError, match=message):
        seewhy.explain(seewhy.wrap(two_input_session()), given, method)


FORWARDS = {
    "in order": lambda net, a: net(a, B[:1].expand(len(a), -1))["half"],
    "by names": lambda net, a: net(**{"b.1": B[:1].expand(len(a), -1), "a": a})["half"],
    "mixed": lambda net, a: net(a, **{"b.1": B[:1].expand(len(a), -1)})["half"],
    "all outputs": lambda net, a: net(a, B[:1].expand(len(a), -1)),
}  # fmt: skip


@pytest.mark.parametrize("batch", ["n", 1])
@pytest.mark.parametrize("kind", FORWARDS)
def test_forward_with_constant_input_and_selected_output(kind, batch):
    model = seewhy.wrap(two_input_session((batch, batch)), forward=FORWARDS[kind])
    target = (lambda y: y["half"][:, 2]) if kind == "all outputs" else 2
    for method, more in METHODS.items():
        e = seewhy.explain(model, A, method, target=target, **more)
        expected = seewhy.explain(
            lambda a: TwoInputNetwork()(a, B[:1].expand(len(a), -1)) / 2, A, method, target=2, **more
        )
        assert close(e, expected)
    assert {row.name for row in seewhy.layers(model, A)} >= {"tanh", "linear", "product"}


def test_wrong_second_output_is_rejected():
    """The conversion differs in the second output only."""
    model = seewhy.wrap(two_input_session(), forward=FORWARDS["all outputs"])
    assert seewhy.explain(model, A, "gradient", target=lambda y: y["y"][:, 1]).values.any()
    model.conversion().module.halve = _IgnoreBounds()
    with pytest.raises(seewhy.ModelError, match="differs from ONNX Runtime"):
        seewhy.explain(model, A, "gradient", target=lambda y: y["y"][:, 1])


def test_several_inputs_with_time_as_first_axis():
    """Includes as many samples as time steps."""
    nodes = [
        H.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]), H.make_node("MatMul", ["t", "m"], ["u"]),
        H.make_node("MatMul", ["b", "v"], ["bv"]), H.make_node("Mul", ["u", "bv"], ["z"]),
        H.make_node("Tanh", ["z"], ["y"], name="tanh"),
    ]  # fmt: skip
    known = [onnx.numpy_helper.from_array(v, k) for k, v in {"m": MATRIX, "v": MATRIX[:5]}.items()]
    inputs = [H.make_tensor_value_info("x", FLOAT, ["n", 4, 6]), H.make_tensor_value_info("b", FLOAT, ["n", 5])]
    graph = H.make_graph(nodes, "both", inputs, [H.make_tensor_value_info("y", FLOAT, None)], known)
    data = H.make_model(graph, opset_imports=[H.make_opsetid("", 17)], ir_version=8).SerializeToString()

    class Same(nn.Module):
        def forward(self, x, b):
            return torch.tanh(x @ torch.from_numpy(MATRIX) * (b @ torch.from_numpy(MATRIX[:5])).unsqueeze(1))

    draw = torch.Generator().manual_seed(4)
    x = (torch.randn(4, 4, 6, generator=draw), torch.randn(4, 5, generator=draw))
    for method, options in METHODS.items():
        options = options | {"target": lambda y: y[:, 1, 2]}
        found, expected = (seewhy.explain(m, x, method, **options) for m in (seewhy.wrap(session(data)), Same()))
        for a, b in zip(found, expected, strict=True):
            assert close(a, b), method
            assert sum("are on axis 1" in note for note in a.notes) == 1


def test_smooth_with_time_as_first_axis():
    """The batch axis is moved once, before noise is added."""
    x, options = torch.randn(4, 4, 6), {"target": lambda y: y[:, 1, 2]}
    method = seewhy.smooth("gradient", samples=3)
    found = seewhy.explain(seewhy.wrap(time_first_session()), x, method, **options)
    assert close(found, seewhy.explain(lambda x: torch.tanh(x @ torch.from_numpy(MATRIX)), x, method, **options))


def test_output_of_graph_as_reduction_layer():
    model = seewhy.wrap(two_input_session())
    a, b = seewhy.explain(model, (A, B), "gradient", target=2, reduction_layer="halve")
    expected = seewhy.explain(TwoInputNetwork(), (A, B), "gradient", target=2)
    assert torch.allclose(2 * a.values, expected[0].values) and torch.allclose(2 * b.values, expected[1].values)


def test_onnx_runtime_error_is_reported_in_one_line():
    model = seewhy.wrap(session(onnx_bytes(SMALL, WEIGHTS, shape=(3, 8, 8))))
    for method in ("occlusion", "gradient"):
        with pytest.raises(seewhy.ModelError, match="failed on an input of shape") as raised:
            seewhy.explain(model, torch.randn(1, 3, 9, 8), method)
        assert "\n" not in str(raised.value)


def test_dream_of_converted_network():
    model = seewhy.wrap(session(onnx_bytes(SMALL, WEIGHTS)))
    options = {"initial": X[:1], "iterations": 3, "pyramid_levels": 1, "scaling": "none"}
    found = seewhy.dream(model, "relu", 2, **options)
    net = nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.ReLU())
    net[0].weight.data = torch.from_numpy(WEIGHTS["w"])
    assert torch.allclose(found, seewhy.dream(net, "1", 2, **options), atol=1e-4)


def test_conversion_rejects_data_outside_folder(tmp_path):
    """The file may be replaced between loading and conversion."""
    file = tmp_path / "folder" / "net.onnx"
    file.parent.mkdir()
    file.write_bytes(onnx_bytes(SMALL, WEIGHTS))
    model = seewhy.load(f"onnx:{file}", prepare=lambda x: x)
    other = onnx.load(io.BytesIO(file.read_bytes()))
    onnx.external_data_helper.set_external_data(other.graph.initializer[0], location="../secret.bin")
    other.graph.initializer[0].ClearField("raw_data")
    (tmp_path / "secret.bin").write_bytes(bytes(6 * 27 * 4))
    file.write_bytes(other.SerializeToString())
    with pytest.raises(seewhy.ModelError, match=r"data outside its folder \(\.\./secret\.bin\), which is not allowed"):
        seewhy.explain(model, X, "gradient")


def test_cli_with_onnx_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(RNG.integers(0, 255, (50, 60, 3), np.uint8)).save("cat.png")
    (tmp_path / "net.onnx").write_bytes(onnx_bytes(SMALL, WEIGHTS, shape=(3, "h", "w")))
    custom = H.make_node("QuickGelu", ["c"], ["r"], name="gelu", domain="com.microsoft", alpha=1.0)
    data = onnx_bytes([STEM[0], custom, *POOL, *HEAD], WEIGHTS, shape=(3, "h", "w"), domains=["com.microsoft"])
    (tmp_path / "custom.onnx").write_bytes(data)
    assert main(["explain", "cat.png", "--model", "onnx:net.onnx", "--method", "gradcam"]) == 0
    captured = capsys.readouterr()
    assert (tmp_path / captured.out.strip()).stat().st_size > 1000
    assert "onnx2pytorch" in captured.err
    assert main(["layers", "--model", "net.onnx"]) == 0
    assert "relu" in capsys.readouterr().out
    assert main(["activations", "cat.png", "--model", "net.onnx", "--layer", "relu"]) == 0
    capsys.readouterr()
    assert main(["explain", "cat.png", "--model", "custom.onnx", "--method", "gradcam"]) == 3
    captured = capsys.readouterr().err.strip().splitlines()
    assert len(captured) == 1
    assert "com.microsoft::QuickGelu" in captured[0]
    assert "Methods that work: occlusion" in captured[0]
    assert main(["layers", "--model", "custom.onnx"]) == 3
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
