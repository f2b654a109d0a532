"""Networks whose graph autograd cannot use as it is: values overwritten in place, checkpoints, no gradients."""

import threading

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import seewhy
from seewhy.testing import state, states_equal
from seewhy.types import Capability

X = torch.randn(2, 3, 6, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Layers(nn.Module):
    """Two convolutions and a linear head, which `connect` connects."""

    def __init__(self, connect, place=False):
        super().__init__()
        self.connect, self.place = connect, place
        self.a, self.b, self.head = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, 4, 3, padding=1), nn.Linear(4, 4)
        self.rectifier = nn.ReLU(inplace=place)

    def forward(self, x):
        return self.connect(self, x, self.place)


def decode(net, x, place):
    """Scores at positions, of which some are overwritten, as when boxes are decoded."""
    y = net.b(net.a(x).relu()).flatten(2).transpose(1, 2).sigmoid()
    if place:
        y[..., :2] = y[..., :2] * 2
    else:
        y = torch.cat([y[..., :2] * 2, y[..., 2:]], -1)
    return y.square().sum(1)


def rectify_by_function(net, x, place):
    x = F.relu(net.a(x), inplace=place)
    return net.head(F.relu(net.b(x), inplace=place).mean((2, 3)))


def rectify_after_branch(net, x, place):
    """A rectifier that overwrites the input of the other branch; the other branch has used it before."""
    z = net.a(x)
    other = z.sigmoid()
    other = other * net.rectifier(z)
    return net.head(net.rectifier(net.b(other)).mean((2, 3)))


def add_on_view(net, x, place):
    z = net.a(x).exp()
    if place:
        z[:, :3] += 0.5 * z[:, 1:4]
    else:
        z = torch.cat([z[:, :3] + 0.5 * z[:, 1:4], z[:, 3:]], 1)
    return net.head(net.b(z).relu().mean((2, 3)))


def clamp(net, x, place):
    z = net.a(x).tanh()
    z = z.clamp_(min=-0.2) if place else z.clamp(min=-0.2)
    return net.head(net.b(z).relu().mean((2, 3)))


def assign_by_mask(net, x, place):
    z = net.a(x).sigmoid()
    if place:
        z[z > 0.5] = 0.25
    else:
        z = torch.where(z > 0.5, 0.25, z)
    return net.head(net.b(z).relu().mean((2, 3)))


IN_PLACE = [decode, rectify_by_function, rectify_after_branch, add_on_view, clamp, assign_by_mask]
METHODS = ["gradient", "integrated_gradients", "gradcam", "guided_gradcam", "guided_backprop", "fullgrad", "scorecam"]


def pair(connect):
    """A network that overwrites values in place, and the same one that does not."""
    torch.manual_seed(1)
    nets = [Layers(connect, place).double().eval() for place in (True, False)]
    nets[1].load_state_dict(nets[0].state_dict())
    return nets


def options(method):
    return {"steps": 4} if method == "integrated_gradients" else {}


@pytest.mark.parametrize("connect", IN_PLACE)
def test_gradient_with_values_overwritten_in_place_is_that_of_finite_differences(connect):
    net = pair(connect)[0]
    e = seewhy.explain(net, X, "gradient", target=1)
    step = 1e-6
    for c, i, j in [(0, 0, 0), (1, 3, 4), (2, 5, 8), (1, 2, 7)]:
        d = torch.zeros_like(X)
        d[:, c, i, j] = step
        difference = (net(X + d) - net(X - d))[:, 1].detach() / (2 * step)
        torch.testing.assert_close(e.values[:, 0, c, i, j], difference, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("connect", IN_PLACE)
def test_values_overwritten_in_place_change_no_map(connect, method):
    net, expected = (seewhy.explain(net, X, method, target=[1, 3], **options(method)) for net in pair(connect))
    torch.testing.assert_close(net.values, expected.values, rtol=1e-10, atol=1e-12)


def test_saved_values_are_copied_only_where_needed(monkeypatch):
    calls = []
    hooks = torch.autograd.graph.saved_tensors_hooks
    monkeypatch.setattr(torch.autograd.graph, "saved_tensors_hooks", lambda *a: calls.append(a) or hooks(*a))
    overwriting, clean = pair(decode)
    seewhy.explain(clean, X, "gradient", batch_size=2)
    assert not calls
    seewhy.explain(overwriting, X, "gradient", batch_size=2)
    assert len(calls) == 1


def test_network_that_overwrites_values_is_left_as_it_was_and_may_run_in_threads():
    net = pair(decode)[0].train()
    before, maps = state(net), {}

    def run(n):
        maps[n] = seewhy.explain(net, X, "gradient", target=1).values

    threads = [threading.Thread(target=run, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(maps) == 4
    assert all(torch.equal(maps[0], m) for m in maps.values())
    assert states_equal(before, state(net))
    with pytest.raises(ZeroDivisionError):
        seewhy.explain(net, X, "gradient", target=lambda output: 1 / 0)
    assert states_equal(before, state(net))


@pytest.mark.parametrize("call", [seewhy.layers, lambda n, x: seewhy.activations(n, x, "b"), seewhy.predict])
def test_other_calls_with_values_overwritten_in_place(call):
    call(pair(decode)[0], X)


def test_dream_with_values_overwritten_in_place():
    nets = [net.float() for net in pair(rectify_after_branch)]
    pictures = [seewhy.dream(net, "b", 2, size=(6, 9), iterations=3, pyramid_levels=1) for net in nets]
    torch.testing.assert_close(*pictures)


class Checkpointed(nn.Module):
    """Two convolutions in one checkpointed block; `reentrant` is None: without a checkpoint."""

    def __init__(self, reentrant):
        super().__init__()
        self.reentrant = reentrant
        self.block = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3, padding=1), nn.ReLU())
        self.after, self.head = nn.Conv2d(5, 5, 1), nn.Linear(5, 4)

    def forward(self, x):
        z = self.block(x) if self.reentrant is None else checkpoint(self.block, x, use_reentrant=self.reentrant)
        return self.head((z + self.after(z).relu()).mean((2, 3)))


def checkpointed_pair(reentrant):
    torch.manual_seed(2)
    nets = [Checkpointed(mode).double().eval() for mode in (reentrant, None)]
    nets[1].load_state_dict(nets[0].state_dict())
    return nets


GRADIENT_METHODS = ["gradient", "integrated_gradients", "guided_backprop", "gradcam", "guided_gradcam", "fullgrad"]


@pytest.mark.parametrize("layer", [None, "block.0", "block.1", "block.3", "after"])
@pytest.mark.parametrize("method", ["gradcam", "guided_gradcam", "scorecam", "ablationcam"])
def test_checkpoint_changes_no_map_of_a_layer(method, layer):
    net, expected = (
        seewhy.explain(n, X, method, target=[1, 3], feature_layer=layer) for n in checkpointed_pair(reentrant=False)
    )
    assert net.feature_layer == expected.feature_layer
    torch.testing.assert_close(net.values, expected.values, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("method", GRADIENT_METHODS)
def test_checkpoint_changes_no_gradient(method):
    net, expected = (
        seewhy.explain(n, X, method, target=[1, 3], **options(method)) for n in checkpointed_pair(reentrant=False)
    )
    torch.testing.assert_close(net.values, expected.values, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("method", GRADIENT_METHODS)
@pytest.mark.parametrize("layer", [None, "block.1"])
def test_reentrant_checkpoint_is_refused_by_name(method, layer):
    net = checkpointed_pair(reentrant=True)[0]
    before = state(net)
    uses_layer = "gradcam" in method
    with pytest.raises(seewhy.ModelError, match=r"(?i)checkpoint") as e:
        seewhy.explain(net, X, method, **({"feature_layer": layer} if uses_layer else {}))
    assert "Traceback" not in str(e.value)
    assert states_equal(before, state(net))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")  # of torch
def test_methods_of_scores_work_with_a_reentrant_checkpoint():
    net, plain = checkpointed_pair(reentrant=True)
    assert [row.name for row in seewhy.layers(net, X)][:4] == ["block.0", "block.1", "block.2", "block.3"]
    for method, layer in (("occlusion", {}), ("scorecam", {"feature_layer": "block.3"})):
        values = [seewhy.explain(n, X, method, target=1, **layer).values for n in (net, plain)]
        torch.testing.assert_close(*values)
    values = [seewhy.explain(n, X, "gradcam", target=1, feature_layer="after").values for n in (net, plain)]
    torch.testing.assert_close(*values)


def test_checkpoint_in_attention_blocks_is_refused_or_changes_no_map():
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    net = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, num_classes=5).eval()
    x = torch.randn(1, 3, 32, 32)
    expected = {k: seewhy.explain(net, x, k, target=1).values for k in ("gradient", "gradcam", "fullgrad")}
    net.set_grad_checkpointing(True)
    for method, values in expected.items():
        torch.testing.assert_close(seewhy.explain(net, x, method, target=1).values, values)
    for method in ("rollout", "attention_gradient", "legrad"):
        with pytest.raises(seewhy.ModelError, match="gradient checkpointing"):
            seewhy.explain(net, x, method, target=1)


def test_checkpoints_of_libraries_change_no_map():
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    nets = [models.DenseNet(8, (2, 2), 8, num_classes=4, memory_efficient=m).eval() for m in (True, False)]
    nets[1].load_state_dict(nets[0].state_dict())
    x = torch.randn(1, 3, 32, 32)
    for method in ("gradient", "fullgrad", "guided_gradcam"):
        torch.testing.assert_close(*(seewhy.explain(net, x, method, target=1).values for net in nets))


class WithoutGradients(nn.Module):
    """A network of which a part runs in another gradient mode."""

    def __init__(self, mode, part):
        super().__init__()
        self.mode, self.part = mode, part
        self.a, self.head = nn.Conv2d(3, 5, 3), nn.Linear(5, 4)

    def forward(self, x):
        if self.part == "whole":
            with self.mode():
                return self.head(self.a(x).relu().mean((2, 3)))
        with self.mode():
            z = self.a(x).relu()
        return self.head(z.mean((2, 3)))


@pytest.mark.parametrize("part", ["whole", "stem"])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_network_without_gradients_names_methods_that_work(mode, part):
    torch.manual_seed(0)
    net = WithoutGradients(mode, part).double()
    before = state(net)
    works = set()
    for method, record in seewhy.METHODS.items():
        samples = {"samples": 64} if record.family == "masked_scores" and "samples" in record.options else {}
        try:
            seewhy.explain(net, X[:1, :, :4, :4], method, target=1, **samples)
            works.add(method)
        except seewhy.ModelError as error:
            if "attention was found" in str(error):
                continue
            listed = str(error).rpartition("Methods that need no gradient: ")[2].rstrip(".").split(", ")
            without_gradients = Capability.SCORES | Capability.LAYERS
            assert listed == [k for k, m in seewhy.METHODS.items() if m.requires in without_gradients]
    assert works <= set(listed)
    assert {k for k, m in seewhy.METHODS.items() if m.requires in Capability.SCORES} <= works
    assert states_equal(before, state(net))
    assert torch.is_grad_enabled()
