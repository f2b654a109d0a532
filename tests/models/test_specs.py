"""`load` from files: every file type, published preprocessing, and files that must be rejected."""

import io
import os
import pickle
import warnings
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import seewhy
from seewhy.cli import main

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8))


class SmallNetwork(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.relu, self.head = nn.Conv2d(3, 6, 3, stride=4), nn.ReLU(), nn.Linear(6, 4)

    def forward(self, x):
        return self.head(self.relu(self.conv(x)).mean((2, 3)))


def small_network():
    torch.manual_seed(0)
    return SmallNetwork().eval()


@pytest.fixture
def files(tmp_path):
    """A folder with the same network as a TorchScript file and as an exported program."""
    net, x = small_network(), torch.randn(2, 3, 224, 224)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # TorchScript is deprecated
        torch.jit.trace(net, x).save(str(tmp_path / "net.ts"))
    batch = torch.export.Dim("batch", min=1, max=64)
    torch.export.save(torch.export.export(net, (x,), dynamic_shapes=({0: batch},)), tmp_path / "net.pt2")
    return tmp_path


@pytest.mark.parametrize("ending", ["safetensors", "pth", "wrapped.pth", "parallel.pth"])
@pytest.mark.parametrize("kind", ["timm", "torchvision"])
def test_load_weights_from_file(kind, ending, tmp_path):
    from safetensors.torch import save_file

    torch.manual_seed(3)
    name = "mobilenetv3_small_050" if kind == "timm" else "squeezenet1_1"
    if kind == "timm":
        import timm

        net = timm.create_model(name).eval()
    else:
        import torchvision

        net = torchvision.models.get_model(name, weights=None).eval()
    file, state = tmp_path / f"w.{ending}", net.state_dict()
    if ending == "safetensors":
        save_file(state, file)
    elif ending == "wrapped.pth":
        torch.save({"state_dict": state, "epoch": 3}, file)
    else:
        torch.save({"module." + k: v for k, v in state.items()} if "parallel" in ending else state, file)
    model = seewhy.load(f"{kind}:{name}@{file}")
    x = model.prepare(PICTURE)
    with torch.no_grad():
        assert torch.equal(model.forward(x), net(x))
    assert model.notes == ()
    assert model.labels[285] == "Egyptian cat"
    assert model.preparation.size == (224, 224)
    e = seewhy.explain(model, x)
    assert e.labels[0][0] in model.labels
    assert e.maps.shape == (1, 1, 224, 224)


def test_load_without_weights_adds_note():
    model = seewhy.load("torchvision:squeezenet1_1")
    assert any("random" in note for note in seewhy.explain(model, model.prepare(PICTURE), "gradient").notes)
    assert any("random" in note for note in seewhy.predict(model, PICTURE).notes)


def test_load_uses_published_preprocessing():
    import torchvision

    preprocessing = seewhy.load("torchvision:resnet18").preparation
    transforms = torchvision.models.ResNet18_Weights.DEFAULT.transforms()
    assert (preprocessing.mean, preprocessing.std, preprocessing.size) == (
        tuple(transforms.mean),
        tuple(transforms.std),
        (224, 224),
    )
    assert preprocessing.crop == pytest.approx(224 / 256)
    preprocessing = seewhy.load("timm:resnet18").preparation
    assert preprocessing.size == (224, 224)
    assert preprocessing.interpolation in {"bilinear", "bicubic"}


@pytest.mark.parametrize("kind", ["ts", "pt2"])
def test_load_torchscript_and_exported_program(kind, files):
    model, net = seewhy.load(f"{kind}:{files / f'net.{kind}'}", labels=["a", "b", "c", "d"]), small_network()
    x = model.prepare([PICTURE, PICTURE])
    expected = seewhy.explain(seewhy.wrap(net), x, ["gradient", "guided_backprop"], target=[1, 3])
    found = seewhy.explain(model, x, ["gradient", "guided_backprop"], target=["b", "d"])
    for a, b in zip(expected, found, strict=True):
        assert torch.allclose(a.values, b.values, atol=1e-7)
    assert any("no preprocessing configuration" in note and "[0, 1]" in note for note in found[0].notes)
    assert float(x.min()) >= 0
    assert float(x.max()) <= 1


def write_onnx_file(path, location=None):
    """Write `SmallNetwork` as an ONNX file with the onnx package alone; `location`: of external weights."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    net = small_network()
    make, numpy = onnx.helper, onnx.numpy_helper
    weights = [
        numpy.from_array(net.conv.weight.detach().numpy(), "w"),
        numpy.from_array(net.conv.bias.detach().numpy(), "b"),
        numpy.from_array(net.head.weight.detach().numpy(), "v"),
        numpy.from_array(net.head.bias.detach().numpy(), "c"),
    ]
    nodes = [
        make.make_node("Conv", ["x", "w", "b"], ["h"], strides=[4, 4]),
        make.make_node("Relu", ["h"], ["r"]),
        make.make_node("GlobalAveragePool", ["r"], ["p"]),
        make.make_node("Flatten", ["p"], ["f"]),
        make.make_node("Gemm", ["f", "v", "c"], ["y"], transB=1),
    ]
    shape = ["n", 3, 224, 224]
    graph = make.make_graph(
        nodes, "net", [make.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [make.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 4])], weights,
    )  # fmt: skip
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=9)
    if location is not None:
        onnx.external_data_helper.set_external_data(model.graph.initializer[0], location=location)
        model.graph.initializer[0].ClearField("raw_data")
        path.write_bytes(model.SerializeToString())
    else:
        onnx.save(model, path)
    return net


def test_load_onnx_file(tmp_path):
    net = write_onnx_file(tmp_path / "net.onnx")
    for spec in (f"onnx:{tmp_path / 'net.onnx'}", str(tmp_path / "net.onnx")):
        model = seewhy.load(spec)
        x = model.prepare(PICTURE)
        with torch.no_grad():
            assert torch.allclose(model.forward(x), net(x), atol=1e-6)
        e = seewhy.explain(model, x, "occlusion", target=2, mask_size=80, stride=80)
        other = seewhy.explain(seewhy.wrap(net), x, "occlusion", target=2, mask_size=80, stride=80)
        assert torch.allclose(e.values, other.values, atol=1e-5)
        e, other = (seewhy.explain(m, x, "gradient", target=2) for m in (model, seewhy.wrap(net)))
        assert torch.allclose(e.values, other.values, atol=1e-7)


def test_load_rejects_onnx_data_outside_folder(tmp_path):
    (tmp_path / "secret.bin").write_bytes(bytes(6 * 27 * 4))
    (tmp_path / "folder").mkdir()
    write_onnx_file(tmp_path / "folder" / "net.onnx", location="../secret.bin")
    with pytest.raises(seewhy.ModelError, match="outside its folder"):
        seewhy.load(f"onnx:{tmp_path / 'folder' / 'net.onnx'}")


class Bomb:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("kind", ["raw pickle", "zip", "module"])
def test_load_rejects_files_that_contain_code(kind, tmp_path, shipped, monkeypatch, capsys):
    file, marker = tmp_path / "evil.pth", tmp_path / "was-here"
    if kind == "raw pickle":
        file.write_bytes(pickle.dumps(Bomb(marker)))
    elif kind == "module":
        torch.save(small_network(), file)
    else:
        buffer = io.BytesIO()
        torch.save({"w": torch.zeros(1)}, buffer)
        with zipfile.ZipFile(buffer) as good, zipfile.ZipFile(file, "w") as bad:
            for name in good.namelist():
                bad.writestr(name, pickle.dumps(Bomb(marker)) if name.endswith("data.pkl") else good.read(name))
    for spec in ("timm:resnet18", "torchvision:resnet18"):
        with pytest.raises(seewhy.ModelError, match="cannot be read"):
            seewhy.load(f"{spec}@{file}")
    monkeypatch.chdir(tmp_path)
    for spec in (f"timm:resnet18@{file}", f"torchvision:resnet18@{file}", f"ts:{file}", f"pt2:{file}"):
        assert main(["explain", str(shipped["chelsea"]), "--model", spec]) == 3
        captured = capsys.readouterr()
        assert captured.out == ""
        assert len(captured.err.splitlines()) == 1
    assert not marker.exists()


@pytest.mark.parametrize(
    ("spec", "error", "text"),
    [
        ("timm:resnet19", seewhy.UnknownNameError, "Did you mean 'resnet18'"),
        ("torchvision:vgg17", seewhy.UnknownNameError, "Did you mean 'vgg1"),
        ("tmm:resnet18", seewhy.UnknownNameError, "Did you mean 'timm"),
        ("resnet18", seewhy.UnknownNameError, "unknown network 'resnet18'"),
        ("timm:resnet18@none.pth", seewhy.ModelError, "none.pth: no such file"),
        ("onnx:none.onnx", seewhy.ModelError, "none.onnx: no such file"),
        ("py:os:getcwd", seewhy.OptionError, "--allow-code"),
        ("ts:", seewhy.UnknownNameError, "unknown network type 'ts'"),
    ],
)
def test_load_rejects_invalid_specification(spec, error, text):
    with pytest.raises(error, match=text):
        seewhy.load(spec)


def test_load_rejects_weights_that_do_not_fit(tmp_path):
    torch.save({"w": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(seewhy.ModelError, match="do not fit resnet18"):
        seewhy.load(f"timm:resnet18@{tmp_path / 'w.pth'}")
    for name in ("w.safetensors", "w.ts", "w.pt2"):
        (tmp_path / name).write_bytes(b"not a network")
    for spec in ("timm:resnet18@{}/w.safetensors", "ts:{}/w.ts", "pt2:{}/w.pt2"):
        with pytest.raises(seewhy.ModelError, match="cannot be read"):
            seewhy.load(spec.format(tmp_path))


def test_load_calls_factory_if_code_is_allowed(tmp_path, monkeypatch):
    (tmp_path / "mine_for_a_test.py").write_text("import torch\ndef make():\n    return torch.nn.Flatten()\n")
    monkeypatch.syspath_prepend(tmp_path)
    model = seewhy.load("py:mine_for_a_test:make", allow_code=True)
    assert isinstance(model.module, nn.Flatten)
    for bad in ("py:mine_for_a_test:none", "py:no_such_package_here:make"):
        with pytest.raises(seewhy.ModelError, match="no"):
            seewhy.load(bad, allow_code=True)
    with pytest.raises(seewhy.OptionError, match=r"package\.module:factory"):
        seewhy.load("py:mine_for_a_test", allow_code=True)


def test_load_with_labels_and_preprocessing():
    model = seewhy.load("lite0", labels=[str(i) for i in range(1000)], prepare=seewhy.Preprocessing((64, 64)))
    assert model.labels[285] == "285"
    assert model.prepare(PICTURE).shape == (1, 3, 64, 64)
