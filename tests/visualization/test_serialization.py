"""Saving explanations as sheets and records, and loading them."""

import pickle
from dataclasses import fields

import pytest
import torch
from PIL import Image
from torch import nn

import seewhy


@pytest.fixture(scope="module")
def e():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 4 * 7, 3))
    model = seewhy.wrap(net, labels=["a", "b", "c"], prepare=seewhy.Preprocessing((6, 9)))
    x = torch.randn(2, 3, 6, 9, generator=torch.Generator().manual_seed(0))
    return seewhy.explain(model, x, "integrated_gradients", target=[0, 2], steps=3, baseline=torch.ones(3, 1, 1))


def same(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("file_format", ["npz", "pickle"])
def test_round_trip(e, tmp_path, file_format):
    if file_format == "npz":
        e.save(tmp_path / "e.npz")
        loaded = seewhy.Explanation.load(tmp_path / "e.npz")
    else:
        loaded = pickle.loads(pickle.dumps(e))
    for name in [f.name for f in fields(e)]:
        assert same(getattr(e, name), getattr(loaded, name)), name


def test_round_trip_of_nested_outputs(tmp_path):
    model = seewhy.wrap(lambda x: {"a": x * 2, "b": (x, 3, "text", None)})
    e = seewhy.explain(model, torch.ones(2, 3), "gradient", target=lambda out: out["a"].sum(1))
    e.save(tmp_path / "e.npz")
    loaded = seewhy.Explanation.load(tmp_path / "e.npz")
    assert torch.equal(loaded.output["a"], e.output["a"])
    assert loaded.output["b"][1:] == (3, "text", None)


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_save_sheet(e, tmp_path, ending):
    e.save(tmp_path / f"e.{ending}", cmap="white_red")
    start = (tmp_path / f"e.{ending}").read_bytes()[:200]
    assert {"png": b"PNG", "svg": b"<?xml", "pdf": b"%PDF"}[ending] in start
    if ending == "png":
        with Image.open(tmp_path / "e.png") as picture:
            assert min(picture.size) > 300


def test_save_rejects_other_endings_and_load_other_files(e, tmp_path):
    with pytest.raises(seewhy.OptionError, match=r"the ending must be one of .png, .svg, .pdf, .html, .htm, .npz"):
        e.save(tmp_path / "e.gif")
    with pytest.raises(seewhy.InputError, match="no such file"):
        seewhy.Explanation.load(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("text")
    with pytest.raises(seewhy.InputError, match="not an explanation"):
        seewhy.Explanation.load(tmp_path / "text.npz")
