"""ONNX networks: answers by ONNX Runtime, gradients and layers by a conversion that must answer alike."""

import io
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import seewhy
from seewhy.models import onnx_graph
from seewhy.trace import converted

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
FIXED = {("ResNet", "dynamo"), ("ViT", "script")}  # exported with a batch of one and nothing said of it


def architecture(kind):
    timm = pytest.importorskip("timm")
    name, options = ARCHITECTURES[kind]
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=7, **options).eval()
    with torch.no_grad():  # fresh networks hardly depend on their input
        for parameter in net.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return net


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """(architecture, exporter) -> its file."""
    folder, files = tmp_path_factory.mktemp("onnx"), {}

    def export(kind, exporter):
        file = folder / f"{kind}-{exporter}.onnx"
        if file not in files:
            files[file] = net = architecture(kind)
            fixed, x = (kind, exporter) in FIXED, torch.randn(2, 3, 32, 32)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the exporters' own
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
def test_five_architectures_by_both_exporters(kind, exporter, exported):
    file, net = exported(kind, exporter)
    model = seewhy.load(f"onnx:{file}")
    x = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    methods = ["gradient", "gradcam"]
    methods += ["attention_gradient"] if kind == "ViT" else ["guided_backprop"] if kind != "ConvNeXt" else []
    found = seewhy.explain(model, x, methods, target=[1, 4])
    expected = seewhy.explain(net, x, methods, target=[1, 4])
    for a, b in zip(found, expected, strict=True):
        assert b.values.any()
        assert float((a.values - b.values).abs().max()) < 1e-4 * float(b.values.abs().max())
        assert any("onnx2pytorch" in note and "of its range" in note for note in a.notes)
    assert found[1].feature_layer in {row.name for row in seewhy.layers(model, x)}
    assert seewhy.predict(model, x).notes == seewhy.predict(net, x).notes + model.notes


def test_layers_have_the_names_of_the_nodes(exported):
    file, net = exported("MobileNetV3", "script")
    model, x = seewhy.load(f"onnx:{file}"), torch.randn(9, 3, 32, 32)
    nodes = {node.name for node in onnx.load(file).graph.node}
    assert "/blocks/blocks.5/blocks.5.0/bn1/act/HardSwish" in nodes
    rows = {row.name for row in seewhy.layers(model, x)}
    assert {"blocks_blocks_5_blocks_5_0_bn1_act_HardSwish", "conv_stem_Conv"} <= rows
    found = seewhy.activations(model, x, "blocks_blocks_5_blocks_5_0_bn1_act_HardSwish").values
    assert torch.allclose(found, seewhy.activations(net, x, "blocks.5.0.bn1.act").values, atol=1e-4)


def graph(nodes, weights, batch="n", inputs=("x",), shape=(3, 8, 8), opset=17, out=("y",), **domains):
    known = [onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in weights.items()]
    model = H.make_model(
        H.make_graph(
            nodes, "small", [H.make_tensor_value_info(i, FLOAT, [batch, *shape]) for i in inputs],
            [H.make_tensor_value_info(o, FLOAT, None) for o in out], known,
        ),
        opset_imports=[H.make_opsetid("", opset), *(H.make_opsetid(k.replace("_", "."), v) for k, v in domains.items())],
        ir_version=8,
    )  # fmt: skip
    return model.SerializeToString()


def session(data):
    return runtime.InferenceSession(data, providers=["CPUExecutionProvider"])


DRAW = np.random.default_rng(3)
WEIGHTS = {
    "w": DRAW.normal(size=(6, 3, 3, 3)).astype("float32"), "v": DRAW.normal(size=(6, 4)).astype("float32"),
    "b": DRAW.normal(size=4).astype("float32"),
}  # fmt: skip
STEM = [H.make_node("Conv", ["x", "w"], ["c"], name="stem"), H.make_node("Relu", ["c"], ["r"], name="bend")]
HEAD = [H.make_node("Gemm", ["f", "v", "b"], ["y"], name="head")]
POOL = [H.make_node("GlobalAveragePool", ["r"], ["p"]), H.make_node("Flatten", ["p"], ["f"])]
SMALL = STEM + POOL + HEAD
X = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(5))


def small(x, centred=lambda x: x):
    w, v, b = (torch.from_numpy(WEIGHTS[k]).to(x) for k in "wvb")
    return torch.relu(nn.functional.conv2d(centred(x), w)).mean((2, 3)) @ v + b


def close(a, b, atol=1e-5):
    return torch.allclose(a.values, b.values, atol=atol * float(b.values.abs().max()))


@pytest.mark.parametrize("where", ["bytes", "file"])
def test_a_session_shows_its_graph(where, tmp_path, monkeypatch):
    data = graph(SMALL, WEIGHTS)
    if where == "file":
        (tmp_path / "net.onnx").write_bytes(data)
        monkeypatch.chdir(tmp_path)
    model = seewhy.wrap(session(data if where == "bytes" else "net.onnx"))
    monkeypatch.chdir("/")
    for x in (X, X.double()):
        e = seewhy.explain(model, x, "integrated_gradients", target=2, steps=8)
        assert close(e, seewhy.explain(small, X, "integrated_gradients", target=2, steps=8))
    channels_last = seewhy.wrap(session(data), layout="NCWH")
    turned = seewhy.explain(channels_last, X, "gradient", target=2).values
    assert torch.allclose(turned, seewhy.explain(small, X, "gradient", target=2).values.mT, atol=1e-6)


def test_what_the_session_answers_it_answers_itself(monkeypatch):
    model = seewhy.wrap(session(graph(SMALL, WEIGHTS)))
    options = {"target": 1, "mask_size": 4, "stride": 4}
    alone = seewhy.explain(model, X, "occlusion", **options)
    monkeypatch.setattr(onnx_graph, "first", lambda module, x: 1 / 0)
    monkeypatch.setattr(onnx_graph, "_converted", lambda source: 1 / 0)
    assert torch.equal(seewhy.explain(seewhy.wrap(session(graph(SMALL, WEIGHTS))), X, "occlusion", **options).values,
                       alone.values)  # fmt: skip
    monkeypatch.undo()
    twice = seewhy.explain(model, X, ["gradcam", "occlusion", "gradient"], feature_layer="bend", **options)
    assert [e.method for e in twice] == ["gradcam", "occlusion", "gradient"]
    assert torch.equal(twice[1].values, alone.values)
    assert [any("onnx2pytorch" in note for note in e.notes) for e in twice] == [True, False, True]
    asked = list[int]()
    count = replace(model, forward=lambda x: asked.append(len(x)) or model.forward(x))
    seewhy.explain(count, X, "occlusion", **options)
    assert sum(asked) > len(X), "every mask is a question to the session"


def test_the_converter_is_needed_for_gradients_only(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx2pytorch", None)
    model = seewhy.wrap(session(graph(SMALL, WEIGHTS)))
    assert seewhy.explain(model, X, "occlusion", mask_size=4).values.any()
    with pytest.raises(seewhy.ModelError, match=r"onnx2pytorch is not installed: pip install 'seewhy\[onnx\]'\. Meth"):
        seewhy.explain(model, X, "gradient")


@pytest.mark.parametrize("batch", ["n", 1, 2])
@pytest.mark.parametrize("rows", [1, 3])
def test_a_batch_that_is_fixed_in_the_graph_mixes_no_samples(batch, rows):
    """The mean over the first axis is the sample itself in a batch of one, and so with ONNX Runtime."""
    mix = [H.make_node("ReduceMean", ["x"], ["m"], axes=[0]), H.make_node("Mul", ["x", "m"], ["z"], name="mix")]
    stem = [H.make_node("Conv", ["z", "w"], ["c"]), STEM[1]]
    model = seewhy.wrap(session(graph(mix + stem + POOL + HEAD, WEIGHTS, batch)))
    alone = lambda x: small(x, lambda x: x * x)  # noqa: E731
    if batch == 1:
        for method, options in (("gradient", {}), ("integrated_gradients", {"steps": 8}), ("smoothgrad", {"samples": 4})):
            e = seewhy.explain(model, X[:rows], method, target=2, **options)
            assert close(e, seewhy.explain(alone, X[:rows], method, target=2, **options))
        for method in ("gradcam", "scorecam"):
            e = seewhy.explain(model, X[:rows], method, target=2, feature_layer="bend")
            assert e.values.shape == (rows, 1, 1, 6, 6)
            each = [seewhy.explain(model, one, method, target=2, feature_layer="bend").values for one in X[:rows].split(1)]
            assert torch.equal(e.values, torch.cat(each))
        assert seewhy.activations(model, X[:rows], "bend").values.shape == (rows, 6, 6, 6)
    elif rows == 1 and batch == "n":  # what a batch says there is what the network says
        pair = torch.cat([X[:1], X[:1] / 2])
        with torch.no_grad():
            assert torch.allclose(model.forward(pair), small(pair, lambda x: x * x.mean(0, keepdim=True)), atol=1e-4)


def test_a_shape_that_holds_the_batch():
    flat = [H.make_node("Reshape", ["r", "s"], ["q"]), H.make_node("ReduceMean", ["q"], ["f"], axes=[2], keepdims=0)]
    weights = WEIGHTS | {"s": np.array([1, 6, -1])}
    model = seewhy.wrap(session(graph(STEM + flat + HEAD, weights, 1)))
    assert close(seewhy.explain(model, X, "gradient", target=0), seewhy.explain(small, X, "gradient", target=0))


def test_another_domain_is_refused_by_its_name():
    odd = H.make_node("QuickGelu", ["c"], ["r"], name="odd", domain="com.microsoft", alpha=1.0)
    model = seewhy.wrap(session(graph([STEM[0], odd, *POOL, *HEAD], WEIGHTS, com_microsoft=1)))
    message = r"com\.microsoft::QuickGelu \(node 'odd'\) cannot be converted to torch\. Methods that work: occlusion"
    with pytest.raises(seewhy.ModelError, match=message):
        seewhy.explain(model, X, "gradcam")
    with pytest.raises(seewhy.ModelError, match="layers of .* cannot be seen: the operator com.microsoft::QuickGelu"):
        seewhy.layers(model, X)
    with pytest.raises(seewhy.ModelError, match="dream needs .*QuickGelu"):
        seewhy.dream(model, None, 0, initial=X[:1], iterations=1, pyramid_levels=1)
    assert seewhy.explain(model, X, "occlusion", mask_size=4).values.any()


def test_an_operator_that_cannot_be_converted_is_refused_by_its_name():
    """A recurrent step whose weights depend on the input."""
    weights = {"w": DRAW.normal(size=(1, 15, 6)).astype("float32"), "r": DRAW.normal(size=(1, 15, 5)).astype("float32")}
    nodes = [
        H.make_node("ReduceMean", ["x"], ["m"], keepdims=0), H.make_node("Mul", ["w", "m"], ["ww"]),
        H.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        H.make_node("GRU", ["t", "ww", "r"], ["", "h"], hidden_size=5, name="step"),
        H.make_node("Squeeze", ["h", "zero"], ["y"]),
    ]  # fmt: skip
    model = seewhy.wrap(session(graph(nodes, weights | {"zero": np.array([0])}, shape=(4, 6))), layout="NTC")
    x = torch.randn(2, 4, 6)
    assert seewhy.explain(model, x, "lime", samples=16, segments="grid", features=4).values.any()
    with pytest.raises(seewhy.ModelError, match=r"the operator GRU \(node 'step', opset 17\) cannot be converted"):
        seewhy.explain(model, x, "gradient")


def wrong_weight(module):
    module.stem.weight.data[0, 0, 0, 0] += 0.01


def wrong_step(module):
    module.bend = nn.LeakyReLU(0.01)


def failing_step(module):
    module.head = nn.Linear(5, 4)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (wrong_weight, r"differs from ONNX Runtime on this input by 0\.\d+ of the output's range, more than 0\.0001"),
        (wrong_step, r"differs from ONNX Runtime on this input by 0\.\d+ of the output's range, more than 0\.0001"),
        (failing_step, "converted to torch fails at 'head'"),
    ],
)
def test_a_conversion_that_answers_otherwise_is_not_believed(fault, message):
    model = seewhy.wrap(session(graph(SMALL, WEIGHTS)))
    assert seewhy.explain(model, X, "gradient").values.any()
    fault(model.conversion().module)
    with pytest.raises(seewhy.ModelError, match=message + ".*Methods that work: occlusion, feature_ablation, lime"):
        seewhy.explain(model, X, "gradient")
    with pytest.raises(seewhy.ModelError, match="layers of .* cannot be seen: the graph as"):
        seewhy.activations(model, X, "bend")
    with pytest.raises(seewhy.ModelError, match="differs|fails"):
        seewhy.layers(model, X)


def test_each_input_is_compared():
    """Two networks that are one below 2: only an input above it tells them apart, and only in its own row."""
    clip = H.make_node("Clip", ["x", "", "two"], ["z"], name="clip")
    nodes = [clip, H.make_node("Conv", ["z", "w"], ["c"]), STEM[1], *POOL, *HEAD]
    model = seewhy.wrap(session(graph(nodes, WEIGHTS | {"two": np.float32(2)})))
    low = X.clamp(-1, 1)
    high = torch.cat([low, low[:1] + 3])
    assert seewhy.explain(model, high, "gradient").values.any()
    model.conversion().module.clip = _Ignoring()
    assert seewhy.explain(model, low, "gradient").values.any()
    with pytest.raises(seewhy.ModelError, match="differs from ONNX Runtime on this input"):
        seewhy.explain(model, high, "gradient")


class _Ignoring(nn.Module):
    def forward(self, x, *limits):
        return x


def test_the_tolerance_is_of_each_samples_range():
    """float32 noise of a large offset is allowed, a thousandth of a small range is not."""

    def apart(expected, found):
        model = seewhy.wrap(lambda x: expected)
        twin = replace(model, forward=lambda x: found, module=nn.Identity())
        return converted._apart(model, twin, torch.ones(2, 3))

    offset = torch.tensor([[1000.0, 1001.0], [5.0, 6.0]])
    assert apart(offset, offset) == 0
    assert 0 < apart(offset, offset + torch.tensor([[6e-5, 0], [0, 0]])) < 1
    assert apart(offset, offset + torch.tensor([[0, 0], [1e-3, 0]])) > 1
    assert apart(torch.zeros(2, 2), torch.tensor([[0, 0], [0, 1e-9]])) == float("inf")
    assert "gives [2, 1] where ONNX Runtime gives [2, 2]" in apart(offset, offset[:, :1])


def test_slices_and_gathers_of_every_kind():
    """Backwards, from the end, by steps, along given axes or the first ones; numbers, rows and tables of rows."""
    takes = {"t1": [-1, -3], "t2": [[5, 7], [3, 9]], "t3": [1, 2], "t4": [-1, -2]}
    weights = {k: np.array(v) for k, v in takes.items()} | {"i": np.array([2, -1]), "one": np.array(1)}
    weights |= {"h0": np.array([0]), "h1": np.array([100]), "h2": np.array([3])}
    nodes = [
        H.make_node("Slice", ["x", "t1", "t1e", "t3", "t4"], ["a"], name="back"),
        H.make_node("Slice", ["x", "h0", "h1", "h2"], ["s"], name="rows"),
        H.make_node("Gather", ["a", "i"], ["g"], axis=2, name="table"),
        H.make_node("Gather", ["g", "one"], ["k"], axis=-1, name="number"),
        H.make_node("Flatten", ["k"], ["y"]),
    ]
    weights["t1e"] = np.array([-6, 1])
    weights["t3"], weights["t4"] = np.array([3, 2]), np.array([-2, -1])
    nodes.pop(1)
    model = seewhy.wrap(session(graph(nodes, weights)))
    e = seewhy.explain(model, X, "gradient", target=0)
    assert model.conversion().module.back(torch.arange(8.0).expand(1, 1, 8, 8), *(
        torch.tensor(v) for v in ([-1], [-9], [3], [-3]))).flatten().tolist() == [7, 4, 1]  # fmt: skip
    assert e.values.any()


@pytest.mark.parametrize(("given", "message"), [("forward", "forward= says how"), ("hidden", "does not show the graph")])
def test_a_graph_that_cannot_be_had(given, message):
    class Hidden:
        def __init__(self, inside):
            self.get_inputs, self.run = inside.get_inputs, inside.run

    inside = session(graph(SMALL, WEIGHTS))
    model = seewhy.wrap(Hidden(inside)) if given == "hidden" else seewhy.wrap(
        inside, forward=lambda s, x: s.run(None, {"x": x.numpy()})[0]
    )  # fmt: skip
    assert seewhy.explain(model, X, "occlusion", mask_size=4).values.any()
    with pytest.raises(seewhy.ModelError, match=message):
        seewhy.explain(model, X, "gradient")


def test_an_answer_without_the_batch_first_is_not_cut_to_it():
    turn = [H.make_node("Transpose", ["x"], ["y"], perm=[1, 0, 2])]
    model = seewhy.wrap(session(graph(turn, {}, shape=(4, 6))))
    for method in ("occlusion", "gradient"):
        with pytest.raises(seewhy.ModelError, match="the first axis must be the batch"):
            seewhy.explain(model, torch.randn(2, 4, 6), method, target=lambda y: y[:, 0, 0])


def test_what_onnx_runtime_refuses_is_told_in_a_line():
    model = seewhy.wrap(session(graph(SMALL, WEIGHTS, shape=(3, 8, 8))))
    for method in ("occlusion", "gradient"):
        with pytest.raises(seewhy.ModelError, match="failed on an input of shape") as told:
            seewhy.explain(model, torch.randn(1, 3, 9, 8), method)
        assert "\n" not in str(told.value)


def test_dreams_of_a_converted_network():
    model = seewhy.wrap(session(graph(SMALL, WEIGHTS)))
    kept = {"initial": X[:1], "iterations": 3, "pyramid_levels": 1, "scaling": "none"}
    found = seewhy.dream(model, "bend", 2, **kept)
    net = nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.ReLU())
    net[0].weight.data = torch.from_numpy(WEIGHTS["w"])
    assert torch.allclose(found, seewhy.dream(net, "1", 2, **kept), atol=1e-4)


def test_data_outside_the_folder_is_refused_for_the_graph_too(tmp_path):
    """The file may be another one by the time its graph is read."""
    file = tmp_path / "inside" / "net.onnx"
    file.parent.mkdir()
    file.write_bytes(graph(SMALL, WEIGHTS))
    model = seewhy.load(f"onnx:{file}", prepare=lambda x: x)
    other = onnx.load(io.BytesIO(file.read_bytes()))
    onnx.external_data_helper.set_external_data(other.graph.initializer[0], location="../secret.bin")
    other.graph.initializer[0].ClearField("raw_data")
    (tmp_path / "secret.bin").write_bytes(bytes(6 * 27 * 4))
    file.write_bytes(other.SerializeToString())
    with pytest.raises(seewhy.ModelError, match=r"data outside its folder \(\.\./secret\.bin\), which is refused"):
        seewhy.explain(model, X, "gradient")
