"""Saving and loading an explanation in which every field differs from its default."""

import pickle
from dataclasses import MISSING, fields, replace

import numpy as np
import pytest
import torch
from torch import nn

import seewhy
from seewhy.results import Evaluations


def same(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@pytest.fixture(scope="module")
def full():
    """Every field differs from its default."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 9, 4))
    model = seewhy.wrap(net, labels=["ä", "b$", "c", "d"], prepare=seewhy.Preprocessing((6, 9), std=(0.5, 0.25, 2.0)))
    x = torch.randn(2, 3, 6, 9)
    options = {
        "upsample": "linear",
        "steps": 3,
        "baseline": torch.full((3, 1, 1), 0.25),
        "target": [2, 0],
        "seed": 7,
        "score": "margin",
    }
    e = seewhy.explain(model, x, "integrated_gradients", **options)
    return replace(
        e,
        output={"logits": torch.rand(2, 4), "more": [torch.arange(3), (1, "a", None, True)]},
        stderr=torch.rand(2, 2, 3, 6, 9),
        feature_layer="0",
        reduction_layer="3",
        layer_reason="the only layer",
        filters=("positive", "clip=99"),
        extras={"segments": np.arange(6).reshape(2, 3), "fit": {"r2": 0.5, "kept": (1, 2)}, "zero": torch.tensor(3.0)},
    )


def test_full_explanation_has_no_default_field(full):
    for f in fields(full):
        default = f.default_factory() if f.default_factory is not MISSING else f.default
        assert default is MISSING or not same(getattr(full, f.name), default), f.name
    assert isinstance(full.evaluations, Evaluations)
    assert isinstance(full.options["baseline"], torch.Tensor)


@pytest.mark.parametrize("file_format", ["npz", "pickle"])
def test_round_trip_of_every_field(full, tmp_path, file_format):
    full.save(tmp_path / "e.npz")
    loaded = seewhy.Explanation.load(tmp_path / "e.npz") if file_format == "npz" else pickle.loads(pickle.dumps(full))
    for f in fields(full):
        assert same(getattr(loaded, f.name), getattr(full, f.name)), f.name


def test_loaded_explanation_draws_the_same_sheet(full, tmp_path):
    full.save(tmp_path / "e.npz")
    assert np.array_equal(seewhy.Explanation.load(tmp_path / "e.npz").show(), full.show())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", ["text", "zip", "array", "other"])
def test_load_rejects_other_files(tmp_path, kind):
    file = tmp_path / "e.npz"
    if kind == "array":
        with file.open("wb") as stream:
            np.save(stream, np.zeros(3))
    elif kind == "other":
        np.savez(file, a=np.zeros(3))
    else:
        file.write_bytes(b"PK\x03\x04aaaa" if kind == "zip" else b"garbage")
    with pytest.raises(seewhy.InputError, match="not an explanation saved"):
        seewhy.Explanation.load(file)


@pytest.mark.parametrize("kind", ["empty", "list"])
def test_load_rejects_empty_files_and_other_records(tmp_path, kind):
    file = tmp_path / "e.npz"
    if kind == "list":
        np.savez(file, record=np.array("[1, 2]"))
    else:
        file.touch()
    with pytest.raises(seewhy.InputError, match="not an explanation saved"):
        seewhy.Explanation.load(file)


def test_save_with_ending_in_capitals(full, tmp_path):
    full.save(tmp_path / "E.NPZ")
    assert [file.name for file in tmp_path.iterdir()] == ["E.NPZ"]


def test_round_trip_of_bfloat16_output(full, tmp_path):
    output = torch.rand(2, 4).bfloat16()
    replace(full, output=output).save(tmp_path / "e.npz")
    assert torch.equal(seewhy.Explanation.load(tmp_path / "e.npz").output.float(), output.float())
