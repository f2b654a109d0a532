"""Image classifiers in a folder that transformers saved."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import seewhy

transformers = pytest.importorskip("transformers")
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8))


def small_vit(**options):
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=20, image_size=32, patch_size=8,
        **options,
    )  # fmt: skip
    return transformers.ViTForImageClassification(config).eval()


def small_resnet(**options):
    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic", **options
    )
    return transformers.ResNetForImageClassification(config).eval()


LABELS = {"id2label": {0: "cat", 1: "dog", 2: "bird"}, "label2id": {"cat": 0, "dog": 1, "bird": 2}}


@pytest.mark.parametrize("make", [small_vit, small_resnet])
def test_load_folder(make, tmp_path):
    net = make(**LABELS)
    net.save_pretrained(tmp_path)
    given = {"size": {"height": 32, "width": 32}, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4],
             "resample": 2, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}  # fmt: skip
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(given))
    model = seewhy.load(f"hf:{tmp_path}")
    assert model.labels == ("cat", "dog", "bird")
    assert model.notes == ()
    x = model.prepare(PICTURE)
    pixels = torch.from_numpy(np.asarray(PICTURE.resize((32, 32), Image.Resampling.BILINEAR)).copy()).float() / 255
    mean, std = torch.tensor(given["image_mean"]), torch.tensor(given["image_std"])
    torch.testing.assert_close(x[0], ((pixels - mean) / std).permute(2, 0, 1))
    leaf = x.clone().requires_grad_()
    logits = net(pixel_values=leaf).logits
    torch.testing.assert_close(model.forward(x), logits)
    (direct,) = torch.autograd.grad(logits[:, 1].sum(), leaf)
    e = seewhy.explain(model, x, "gradient", target="dog")
    torch.testing.assert_close(e.values[:, 0], direct, rtol=1e-5, atol=1e-8)
    assert e.labels == (("dog",),)
    cam = seewhy.explain(model, x, target="cat")
    assert cam.maps.shape == (1, 1, 32, 32)
    assert cam.feature_layer.startswith(("vit", "resnet"))
    other = seewhy.randomize(model, "classifier" if make is small_vit else "classifier.1", x=x)
    assert not torch.equal(other.forward(x), model.forward(x))
    assert seewhy.load(f"hf:{tmp_path}", labels="abc", prepare=seewhy.Preprocessing((64, 64))).labels == ("a", "b", "c")


@pytest.mark.parametrize(
    ("given", "size", "crop", "std"),
    [
        ({"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}, "do_center_crop": True}, 32, 0.8, 1),
        ({"size": 32, "do_rescale": False}, 32, 1.0, 1 / 255),
        ({"size": {"height": 48, "width": 48}, "rescale_factor": 1 / 127.5}, 48, 1.0, 0.5),
    ],
)
def test_load_reads_preprocessing(given, size, crop, std, tmp_path):
    small_vit().save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(given))
    model = seewhy.load(f"hf:{tmp_path}")
    assert model.labels is None  # the default names "LABEL_0" are not labels
    assert model.preparation.size == (size, size)
    assert model.preparation.crop == pytest.approx(crop)
    assert model.preparation.std == pytest.approx((std,) * 3)


def test_load_without_preprocessor_adds_note(tmp_path):
    small_vit().save_pretrained(tmp_path)
    assert any("no preprocessing configuration" in note for note in seewhy.load(f"hf:{tmp_path}").notes)


def test_load_rejects_invalid_folder(tmp_path):
    with pytest.raises(seewhy.ModelError, match=r"config\.json is missing"):
        seewhy.load(f"hf:{tmp_path}")
    net = small_vit()
    net.save_pretrained(tmp_path)
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").unlink()
    torch.save(net.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(seewhy.ModelError, match="Only safetensors weights are supported"):
        seewhy.load(f"hf:{tmp_path}")
    (tmp_path / "model.safetensors").write_bytes(weights[:100])
    with pytest.raises(seewhy.ModelError, match="cannot be read"):
        seewhy.load(f"hf:{tmp_path}")
    (tmp_path / "model.safetensors").write_bytes(weights)
    config = json.loads((tmp_path / "config.json").read_text())
    marker = tmp_path / "was-here"
    (tmp_path / "mine.py").write_text(f"import os; os.mkdir({str(marker)!r})")
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.A", "AutoModelForImageClassification": "mine.B"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(seewhy.ModelError, match="cannot be read"):
        seewhy.load(f"hf:{tmp_path}")
    assert not marker.exists()
