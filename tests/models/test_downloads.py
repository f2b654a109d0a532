"""Nothing is downloaded unless it is allowed, and then it is asked for as data only."""

import socket

import pytest
import torch

import seewhy


def test_the_network_is_blocked():
    with pytest.raises(PermissionError, match="nothing may be downloaded"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    with pytest.raises(PermissionError, match="nothing may be downloaded"):
        socket.getaddrinfo("example.org", 80)
    with socket.create_server(("127.0.0.1", 0)) as here:
        socket.create_connection(here.getsockname()).close()


def test_published_weights_need_leave(monkeypatch):
    import timm
    import torchvision

    asked = []
    state = torchvision.models.get_model("squeezenet1_1", weights=None).state_dict()
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *args, **more: asked.append(args) or state)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url",
                        lambda *args, **more: asked.append(more) or state)  # fmt: skip
    usual = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: asked.append(pretrained) or usual(name))
    assert "random" in seewhy.load("torchvision:squeezenet1_1").notes[0]
    assert asked == []
    model = seewhy.load("torchvision:squeezenet1_1", allow_download=True)
    assert asked == [{"progress": False, "check_hash": True, "weights_only": True}]
    assert model.notes == ()
    assert all(torch.equal(a, b) for a, b in zip(state.values(), model.module.state_dict().values(), strict=True))
    asked.clear()
    seewhy.load("timm:mobilenetv3_small_050")
    assert seewhy.load("timm:mobilenetv3_small_050", allow_download=True).notes == ()
    assert asked == [False, True]


@pytest.mark.parametrize("spec", ["timm:mobilenetv3_small_050", "torchvision:squeezenet1_1"])
def test_without_a_network_it_is_said(spec, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr("time.sleep", lambda _seconds: None)  # between several tries
    with pytest.raises(seewhy.ModelError, match="fetched"):
        seewhy.load(spec, allow_download=True)
