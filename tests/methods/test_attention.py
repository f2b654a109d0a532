"""Rollout, attention × gradient and LeGrad on transformers of several implementations."""

import numpy as np
import pytest
import timm
import torch
from tests.oracles import ORACLES
from tests.oracles.attention import NumpyViT, TorchViT
from torch import nn
from torch.nn import functional as F

import seewhy
from seewhy.testing import state, states_equal
from seewhy.tracing.attention import record_attention

ATTENTION_METHODS = ("rollout", "attention_gradient", "legrad")
TARGETS = np.array([[3, 0, 2], [1, 2, 0]])
X = np.random.default_rng(7).normal(size=(2, 3, 6, 9)) * 2
ATTENTION_KINDS = ("fused", "plain", "flat", "module")


def relative_error(values, expected):
    return np.abs(values.numpy() - expected).max() / np.abs(expected).max()


@pytest.fixture(
    scope="module", params=[(1, "first"), (0, "patches"), (1, "patches"), (2, "two"), (4, "first")], ids=str
)
def vit_and_expected(request):
    """A NumPy transformer and the expected maps per method; parameters: tokens before the patches, pooled tokens."""
    vit = NumpyViT(*request.param)
    return vit, {name: ORACLES[name].compute(vit, X, TARGETS) for name in ATTENTION_METHODS}


@pytest.mark.parametrize("kind", ATTENTION_KINDS)
def test_attention_methods_equal_their_oracles(vit_and_expected, kind):
    vit, expected = vit_and_expected
    net, x = TorchViT(vit, kind=kind).train(), torch.tensor(X)
    before = state(net)
    for e in seewhy.explain(net, x, ATTENTION_METHODS, target=torch.tensor(TARGETS)):
        assert relative_error(e.values, expected[e.method]) <= 1e-12
        assert np.abs(e.scores.numpy() - [vit.scores(one)[t] for one, t in zip(X, TARGETS, strict=True)]).max() < 1e-12
        assert e.layer_reason.startswith(f"2 attention layers with {vit.tokens} tokens: 2 × 3 patches")
    assert states_equal(before, state(net))


def test_legrad_with_probability_score(vit_and_expected):
    """By the chain rule, per block: s (1 - s) times the gradient of the margin, at the score of that block."""
    vit = vit_and_expected[0]
    e = seewhy.explain(TorchViT(vit), torch.tensor(X), "legrad", target=1, score="probability")
    for n, sample in enumerate(X):
        total, z = np.zeros(vit.tokens), vit.run_blocks(sample)[0]
        for b, gradients in enumerate(vit.attention_gradients(sample, per_block=True)):
            probabilities = np.exp(vit.head(np.array([z[b + 1].mean(0)] * vit.tokens)))
            probabilities = probabilities / probabilities.sum()
            gradient = probabilities[1] * (gradients[1] - np.einsum("c,chij->hij", probabilities, gradients))
            total += np.maximum(gradient, 0).mean((0, 1)) / vit.depth
        assert np.abs(e.values[n].numpy().ravel() - total[vit.prefix :]).max() <= 1e-12 * total.max()


def test_attention_methods_share_one_forward_pass():
    net = Counted(TorchViT(NumpyViT()))
    seewhy.explain(net, torch.tensor(X), ATTENTION_METHODS, target=[0, 1])
    net.samples = 0  # the plan of the network is cached by the first call
    e = seewhy.explain(net, torch.tensor(X), ATTENTION_METHODS, target=[0, 1])
    assert net.samples == 2
    assert all(one.evaluations == (2, 4) for one in e)


class Counted(nn.Module):
    """Counts the samples that are passed to a network."""

    def __init__(self, net):
        super().__init__()
        self.net, self.samples = net, 0

    def forward(self, x):
        self.samples += len(x)
        return self.net(x)


def randomized(net, seed=0):
    """The network with random parameters; in new networks heads and class tokens may be zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in net.named_parameters():
            noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
            weight.copy_(noise * 0.2 + ("norm" in name or "ln" in name) * ("weight" in name))
    return net.double().eval()


def timm_vit(name="vit_tiny_patch16_224", **options):
    return randomized(timm.create_model(name, num_classes=5, **{"img_size": 48, "depth": 3, **options}))


def timm_attention_weights(block, q):
    """Attention weights [N, heads, T, T] of one timm attention, from its input."""
    n, t, _ = q.shape
    qkv = block.qkv(q).reshape(n, t, 3, block.num_heads, -1)
    q, k = qkv[:, :, 0].transpose(1, 2), qkv[:, :, 1].transpose(1, 2)
    return torch.softmax(q @ k.transpose(2, 3) * block.scale, -1)


@pytest.mark.parametrize("fused", [True, False])
def test_rollout_on_timm_with_and_without_fused_attention(fused):
    net = timm_vit()
    observed = []
    for block in net.blocks:
        block.attn.fused_attn = fused
        block.attn.register_forward_pre_hook(
            lambda layer, args: observed.append(timm_attention_weights(layer, args[0]).mean(1))
        )
    x = torch.randn(2, 3, 48, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        net(x)
    flow = torch.eye(10, dtype=torch.float64)
    for weights in observed:
        flow = (weights + torch.eye(10)) / 2 @ flow
    expected = flow[:, 0, 1:].reshape(2, 1, 1, 3, 3)
    e = seewhy.explain(net, x, "rollout", target=1)
    assert (e.values - expected).abs().max() <= 1e-12
    assert e.maps.shape == (2, 1, 48, 48)


@pytest.mark.parametrize(
    ("name", "options", "tokens"),
    [
        ("vit_tiny_patch16_224", {"class_token": False, "global_pool": "avg"}, "9 tokens: 3 × 3 patches"),
        ("vit_tiny_patch16_224", {"reg_tokens": 3}, "13 tokens: 3 × 3 patches after 4 other tokens"),
        ("deit_tiny_distilled_patch16_224", {}, "11 tokens: 3 × 3 patches after 2 other tokens"),
        ("beit_base_patch16_224", {"embed_dim": 48, "num_heads": 4}, "10 tokens: 3 × 3 patches after 1 other token"),
        ("eva02_tiny_patch14_224", {"img_size": 42}, "10 tokens: 3 × 3 patches after 1 other token"),
        ("vit_tiny_patch16_224", {"img_size": (32, 64)}, "9 tokens: 2 × 4 patches after 1 other token"),
    ],
)
def test_tokens_before_the_patches_are_left_out(name, options, tokens):
    net = timm_vit(name, **options)
    size = options.get("img_size", 48)
    x = torch.randn(2, 3, *((size, size) if isinstance(size, int) else size), dtype=torch.float64)
    for e in seewhy.explain(net, x, ATTENTION_METHODS, target=[0, 3]):
        assert e.layer_reason == f"3 attention layers with {tokens}"
        assert e.values.flatten(2).amax(2).gt(0).all()
        alone = seewhy.explain(net, x[1:], e.method, target=3).values
        assert (e.values[1:, 1:] - alone).abs().max() <= 1e-10 * alone.abs().max()


def torchvision_vit(**options):
    """A torchvision transformer; its attention is nn.MultiheadAttention without weights, with a fast path."""
    from torchvision.models import VisionTransformer

    small = {"image_size": 32, "patch_size": 8, "num_layers": 3, "num_heads": 2, "hidden_dim": 12, "mlp_dim": 16}
    return randomized(VisionTransformer(**{**small, "num_classes": 5, **options}))


def test_legrad_equals_torchcam():
    torchcam = pytest.importorskip("torchcam.methods")
    net, x = torchvision_vit(), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    ours = seewhy.explain(net, x, "legrad", target=torch.tensor([1, 4])).values[:, 0, 0]
    with torchcam.LeGrad(net, list(net.encoder.layers)) as cam:
        net(x)
        theirs = cam.compute_cams([1, 4], normalized=False)[0]
    assert (ours - theirs).abs().max() <= 1e-12 * theirs.max()


def test_fast_path_setting_is_not_changed():
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, dropout=0.1)
    net = randomized(Sequence(nn.TransformerEncoder(layer, 3, enable_nested_tensor=False), 8))
    x = torch.randn(2, 8, 5, dtype=torch.float64)
    enabled = torch.backends.mha.get_fastpath_enabled()
    with torch.no_grad():
        explanations = seewhy.explain(net, x, ATTENTION_METHODS, target=[0, 1])
    assert torch.backends.mha.get_fastpath_enabled() == enabled
    for e in explanations:
        assert e.values.shape == (2, 2, 1, 5)
        assert e.values.flatten(1).amax(1).gt(0).all()


class Sequence(nn.Module):
    """Encoder of T tokens for inputs [N, C, T], with a head on the mean token."""

    def __init__(self, encoder, width):
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(width, 4)

    def forward(self, x):
        return self.head(self.encoder(x.transpose(1, 2)).mean(1))


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_hugging_face_equals_its_own_attentions(implementation):
    """transformers returns attention weights with output_attentions=True and the eager implementation."""
    transformers = pytest.importorskip("transformers")
    small = {"hidden_size": 12, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.ViTConfig(**small, image_size=32, patch_size=8, num_labels=5)
    config._attn_implementation = implementation
    net = randomized(transformers.ViTForImageClassification(config))
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    model = seewhy.wrap(net, forward=lambda net, x: net(x).logits)
    e = seewhy.explain(model, x, ATTENTION_METHODS, target=[0, 3])
    assert e[0].layer_reason == "3 attention layers with 17 tokens: 4 × 4 patches after 1 other token"
    whole = seewhy.explain(net, x, ATTENTION_METHODS, target=lambda output: output.logits[:, 3])  # on the raw output
    for one, other in zip(whole, e, strict=True):
        assert torch.allclose(one.values[:, 0], other.values[:, 1], rtol=1e-10)
        assert one.output.logits.shape == (2, 5)
    net.set_attn_implementation("eager")
    output = net(x, output_attentions=True)
    gradients = torch.autograd.grad(output.logits[:, 3].sum(), output.attentions, retain_graph=True)
    relevance = torch.eye(17, dtype=torch.float64)
    flow = torch.eye(17, dtype=torch.float64)
    for weights, gradient in zip(output.attentions, gradients, strict=True):
        flow = (weights.mean(1) + torch.eye(17)) / 2 @ flow
        relevance = relevance + (weights * gradient).clamp(min=0).mean(1) @ relevance
    for ours, theirs in ((e[0], flow), (e[1], relevance)):
        expected = theirs[:, 0, 1:].detach()
        # its eager attention computes the softmax in single precision, as ours does with the eager implementation
        tolerance = 1e-12 if implementation == "eager" else 1e-6
        assert (ours.values[:, 1].flatten(1) - expected).abs().max() <= tolerance * expected.max()
    assert e[2].values.gt(0).any()


GENERATOR = torch.Generator().manual_seed(3)
Q, K, V = (torch.randn(2, 4, 5, 6, generator=GENERATOR, dtype=torch.float64) for _ in range(3))
MASK = torch.rand(2, 1, 5, 5, generator=GENERATOR) > 0.3
MASK[..., 0] = True


@pytest.mark.parametrize(
    "options",
    [
        {}, {"scale": 0.3}, {"is_causal": True}, {"attn_mask": MASK}, {"attn_mask": 2.0 * MASK.double(), "scale": 1.5},
        {"enable_gqa": True},
    ],
)  # fmt: skip
def test_observed_fused_attention_equals_torch(options):
    key, value = (K[:, :2], V[:, :2]) if "enable_gqa" in options else (K, V)
    with record_attention() as attentions:
        ours = F.scaled_dot_product_attention(Q, key, value, **options)
    assert (ours - F.scaled_dot_product_attention(Q, key, value, **options)).abs().max() <= 1e-12
    repeated = value.repeat_interleave(4 // value.shape[1], 1)
    assert (attentions[0].weights @ repeated - ours).abs().max() <= 1e-12
    assert (attentions[0].weights.sum(-1) - 1).abs().max() <= 1e-12


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("average", [True, False])
def test_observed_multihead_attention_returns_the_requested_weights(weights, average):
    layer, z = randomized(nn.MultiheadAttention(8, 2, batch_first=True)), torch.randn(2, 5, 8, dtype=torch.float64)
    options = {"need_weights": weights, "average_attn_weights": average}
    with record_attention() as attentions:
        ours = layer(z, z, z, **options)
    for one, other in zip(ours, layer(z, z, z, **options), strict=True):
        assert (one is None) == (other is None)
        assert one is None or (one - other).abs().max() <= 1e-12
    assert len(attentions) == 1
    assert attentions[0].weights.shape == (2, 2, 5, 5)


class Tokens(nn.Module):
    """Patches of 4 × 4, a function that mixes them, and a head on the mean token."""

    def __init__(self, mix, width=8):
        super().__init__()
        self.embed, self.mix, self.head = nn.Conv2d(3, width, 4, 4), mix, nn.Linear(width, 4)

    def forward(self, x):
        return self.head(self.mix(self.embed(x).flatten(2).transpose(1, 2)).mean(1))


def windowed_attention(z):
    parts = z.unflatten(1, (4, -1)).flatten(0, 1)
    return z + F.scaled_dot_product_attention(parts, parts, parts).unflatten(0, (-1, 4)).flatten(1, 2)


def channel_attention(z):
    return z + ((z.transpose(1, 2) @ z).softmax(-1) @ z.transpose(1, 2)).transpose(1, 2)


def attention_to_fewer_keys(z):
    return z + F.scaled_dot_product_attention(z, z[:, ::4], z[:, ::4])


def no_attention(z):
    return z + z.mean(1, keepdim=True).softmax(-1)


def attention_without_graph(z):
    with torch.no_grad():
        weights = (z @ z.transpose(1, 2)).softmax(-1)
    return z + weights @ z


def heads_before_samples(z):
    parts = torch.cat(z.chunk(2, 2))
    mixed = (parts @ parts.transpose(1, 2)).softmax(-1) @ parts
    return z + torch.cat(mixed.chunk(2), 2)


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        (no_attention, "no attention was found in Tokens"),
        (windowed_attention, r"\[4, 4, 4\].*not one matrix per head over a grid"),
        (channel_attention, r"\[1, 8, 8\].*not one matrix per head over a grid"),
        (attention_to_fewer_keys, "attention of 16 queries to 4 keys"),
        (attention_without_graph, "does not depend on its attention"),
        (lambda z: F.scaled_dot_product_attention(z, z, z).detach() + z, "does not depend on its attention"),
        (heads_before_samples, "heads before samples"),
        (
            lambda z: attention_to_fewer_keys(F.scaled_dot_product_attention(z, z, z)),
            "attention of 16 queries to 4 keys",
        ),
    ],
)
@pytest.mark.parametrize("name", ATTENTION_METHODS)
def test_unsupported_attention_is_refused(mix, message, name):
    net, x = randomized(Tokens(mix)), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    before = state(net)
    with pytest.raises(seewhy.ModelError, match=message):
        seewhy.explain(net, x, name, target=0)
    assert states_equal(before, state(net))


def test_windowed_and_hierarchical_transformers_are_refused():
    x = torch.randn(2, 3, 32, 32)
    swin = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=32, window_size=4, num_classes=5, depths=(2, 1, 1, 1)
    )
    with pytest.raises(seewhy.ModelError, match="not between all tokens"):
        seewhy.explain(swin, x, "rollout")
    with pytest.raises(seewhy.ModelError, match="queries to"):
        seewhy.explain(timm.create_model("pvt_v2_b0", num_classes=5), x, "legrad")
    with pytest.raises(seewhy.ModelError, match="no attention was found in ResNet"):
        seewhy.explain(timm.create_model("resnet10t", num_classes=5), x, "attention_gradient")
    with pytest.raises(seewhy.ModelError, match="rollout requires"):
        seewhy.explain(lambda x: x.mean((2, 3)), x, "rollout")


class Skips(nn.Module):
    """Two blocks, and a head that also uses the input of the second block."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(16, 4)

    def forward(self, x):
        z = self.embed(x).flatten(2).transpose(1, 2)
        one = z + F.scaled_dot_product_attention(z, z, z)
        two = one + F.scaled_dot_product_attention(one, one, one)
        return self.head(torch.cat([one, two], 2).mean(1))


class DependsOnBatchSize(nn.Module):
    """Uses the number of input samples after the blocks."""

    def __init__(self):
        super().__init__()
        self.embed, self.block, self.head = nn.Conv2d(3, 8, 4, 4), nn.Identity(), nn.Linear(8, 4)

    def forward(self, x):
        z = self.embed(x).flatten(2).transpose(1, 2)
        z = self.block(z + F.scaled_dot_product_attention(z, z, z))
        return self.head(z.reshape(len(x), 16, -1).mean(1)[:, :8])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Skips, "last block differs from the others"),
        (DependsOnBatchSize, "fail on additional samples|depends on the number"),
    ],
)
def test_legrad_refuses_blocks_without_a_score(make, message):
    net, x = randomized(make()), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    with pytest.raises(seewhy.ModelError, match=f"legrad computes a score from the output of each block.*({message})"):
        seewhy.explain(net, x, "legrad", target=0)
    for e in seewhy.explain(net, x, ATTENTION_METHODS[:2], target=0):
        assert e.values.gt(0).any()


def test_legrad_on_blocks_without_modules():
    """Attention and linear layers in a list: the output of a block is a sum, not the output of a module."""

    class BlockList(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.norm, self.head = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8), nn.Linear(8, 4)
            self.layers = nn.ModuleList(
                nn.ModuleList([nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 8)]) for _ in range(3)
            )

        def forward(self, x):
            z = self.embed(x).flatten(2).transpose(1, 2)
            for attention, linear in self.layers:
                z = attention(z, z, z, need_weights=False)[0] + z
                z = linear(z).tanh() + z
            return self.head(self.norm(z).mean(1))

    net, x = randomized(BlockList()), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    e = seewhy.explain(net, x, "legrad", target=2)
    z = net.embed(x).flatten(2).transpose(1, 2)
    expected = 0
    for attention, linear in net.layers:
        z = z.detach()
        q, k, v = attention.in_proj_weight.chunk(3)
        bq, bk, bv = attention.in_proj_bias.chunk(3)
        split = lambda t: t.unflatten(2, (2, 4)).transpose(1, 2)  # noqa: E731
        scores = split(z @ q.T + bq) @ split(z @ k.T + bk).transpose(2, 3) / 2
        weights = scores.softmax(-1).detach().requires_grad_()
        mixed = (weights @ split(z @ v.T + bv)).transpose(1, 2).flatten(2)
        z = attention.out_proj(mixed) + z
        z = linear(z).tanh() + z
        score = net.head(net.norm(z.mean(1)))[:, 2].sum()
        expected = expected + torch.autograd.grad(score, weights)[0].clamp(min=0).mean((1, 2)) / 3
    assert (e.values.flatten(1) - expected).abs().max() <= 1e-12 * expected.max()


def test_attention_methods_with_reduction_layer():
    net = timm_vit()
    x = torch.randn(1, 3, 48, 48, dtype=torch.float64)
    whole = seewhy.explain(net, x, ATTENTION_METHODS, target=2)
    part = seewhy.explain(net, x, ATTENTION_METHODS, reduction_layer="head", target=2)
    for one, other in zip(whole, part, strict=True):
        assert torch.allclose(one.values, other.values, rtol=1e-12)
    e = seewhy.explain(net, x, "rollout", reduction_layer="blocks.0.mlp", target=lambda z: z.sum((1, 2)))
    with torch.no_grad(), record_attention() as attentions:
        net(x)
    weights = attentions[0].weights.mean(1)  # the score does not depend on the attentions of later blocks
    expected = (weights.mean(1) + 1 / weights.shape[-1]) / 2
    torch.testing.assert_close(e.values.flatten(), expected[0, -e.values.numel() :])


class UnusedAttention(nn.Module):
    """A transformer of two blocks, with attentions whose results are not used before, between and after them."""

    def __init__(self, unused):
        super().__init__()
        self.unused = unused
        self.embed, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 4)
        self.blocks = nn.ModuleList(nn.MultiheadAttention(8, 2, batch_first=True) for _ in range(2))
        self.other = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        z = self.embed(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            if self.unused:
                self.other(z, z[:, ::3], z[:, ::3])
            z = z + block(z, z, z, need_weights=False)[0]
        if self.unused:
            F.scaled_dot_product_attention(z, z, z)
        return self.head(z.mean(1))


@pytest.mark.parametrize("name", ATTENTION_METHODS)
def test_attention_that_is_not_used_changes_no_map(name):
    torch.manual_seed(0)
    nets = [UnusedAttention(unused).double().eval() for unused in (True, False)]
    nets[1].load_state_dict(nets[0].state_dict())
    x = torch.randn(3, 3, 16, 12, dtype=torch.float64)
    e, expected = (seewhy.explain(net, x, name, target=[1, 3], batch_size=2) for net in nets)
    torch.testing.assert_close(e.values, expected.values, rtol=1e-12, atol=0)
    assert e.layer_reason == expected.layer_reason + "; 3 not on the way from the input to the score are not used"


def test_score_independent_of_attention_is_noted():
    net = timm_vit()
    with torch.no_grad():
        net.head.weight[1] = 0
    e = seewhy.explain(net, torch.randn(2, 3, 48, 48, dtype=torch.float64), "attention_gradient", target=[0, 1])
    assert [note for note in e.notes if "last attention" in note] == [
        f"the score of sample {n}, target 1 does not depend on the last attention" for n in (0, 1)
    ]
    assert e.values[:, 0].gt(0).any()
    assert not e.values[:, 1].any()


def test_occlusion_of_multihead_attention_equals_plain_function():
    """Incremental inference on a network gives the same map as full forward passes of a plain function."""
    net, x = torchvision_vit(), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    options = {"target": [0, 3], "mask_size": 8, "stride": 8}
    ours = seewhy.explain(net, x, "occlusion", **options).values
    plain = seewhy.explain(lambda x: net(x), x, "occlusion", **options).values
    assert (ours - plain).abs().max() <= 1e-12 * plain.abs().max()


def test_fullgrad_refuses_window_batches_and_works_without_biases():
    class Windows(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.inner, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 8), nn.Linear(8, 4)

        def forward(self, x):
            parts = self.embed(x).flatten(2).transpose(1, 2).unflatten(1, (4, 4)).flatten(0, 1)
            return self.head(self.inner(parts).tanh().unflatten(0, (len(x), 4)).mean((1, 2)))

    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    with pytest.raises(seewhy.ModelError, match=r"adds a bias to a tensor \[8, 8, 4\] for 2 samples"):
        seewhy.explain(randomized(Windows()), x, "fullgrad", target=0)
    bare = randomized(
        nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 196, 3, bias=False))
    )
    e = seewhy.explain(bare, x, "fullgrad", target=[0, 1])
    assert e.convergence_delta.abs().max() <= 1e-10 * e.scores.abs().max()
