"""`load` downloads weights only if allowed, and only as data."""

import socket

import pytest
import torch

import seewhy


def test_test_run_blocks_network_access():
    with pytest.raises(PermissionError, match="tests must not use the network"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    with pytest.raises(PermissionError, match="tests must not use the network"):
        socket.getaddrinfo("example.org", 80)
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()


def test_load_downloads_only_if_allowed(monkeypatch):
    import timm
    import torchvision

    calls = []
    state = torchvision.models.get_model("squeezenet1_1", weights=None).state_dict()
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *args, **more: calls.append(args) or state)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url",
                        lambda *args, **more: calls.append(more) or state)  # fmt: skip
    create_model = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: calls.append(pretrained) or create_model(name))
    assert "random" in seewhy.load("torchvision:squeezenet1_1").notes[0]
    assert calls == []
    model = seewhy.load("torchvision:squeezenet1_1", allow_download=True)
    assert calls == [{"progress": False, "check_hash": True, "weights_only": True}]
    assert model.notes == ()
    assert all(torch.equal(a, b) for a, b in zip(state.values(), model.module.state_dict().values(), strict=True))
    calls.clear()
    seewhy.load("timm:mobilenetv3_small_050")
    assert seewhy.load("timm:mobilenetv3_small_050", allow_download=True).notes == ()
    assert calls == [False, True]


@pytest.mark.parametrize("spec", ["timm:mobilenetv3_small_050", "torchvision:squeezenet1_1"])
def test_load_reports_failed_download(spec, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr("time.sleep", lambda _seconds: None)  # between retries
    with pytest.raises(seewhy.ModelError, match="its weights downloaded"):
        seewhy.load(spec, allow_download=True)
