"""Rollout, attention times gradient and LeGrad, in networks of every make."""

import numpy as np
import pytest
import timm
import torch
from tests.oracles import ORACLES
from tests.oracles.attention import Vit, VitTwin
from torch import nn
from torch.nn import functional as F

import seewhy
from seewhy.testing import same, state
from seewhy.trace.attention import attending

METHODS = ("rollout", "attention_gradient", "legrad")
TARGETS = np.array([[3, 0, 2], [1, 2, 0]])
ODD = np.random.default_rng(7).normal(size=(2, 3, 6, 9)) * 2
KINDS = ("fused", "plain", "flat", "module")


def off(values, expected):
    return np.abs(values.numpy() - expected).max() / np.abs(expected).max()


@pytest.fixture(
    scope="module", params=[(1, "first"), (0, "patches"), (1, "patches"), (2, "two"), (4, "first")], ids=str
)
def written(request):
    """A transformer written out by hand, with what each method must give; tokens before the patches, who is read."""
    vit = Vit(*request.param)
    return vit, {name: ORACLES[name](vit, ODD, TARGETS) for name in METHODS}


@pytest.mark.parametrize("kind", KINDS)
def test_every_way_to_compute_attention_and_to_read_tokens(written, kind):
    vit, expected = written
    net, x = VitTwin(vit, kind=kind).train(), torch.tensor(ODD)
    before = state(net)
    for e in seewhy.explain(net, x, METHODS, target=torch.tensor(TARGETS)):
        assert off(e.values, expected[e.method]) <= 1e-12
        assert (
            np.abs(e.scores.numpy() - [vit.scores(one)[t] for one, t in zip(ODD, TARGETS, strict=True)]).max() < 1e-12
        )
        assert e.layer_reason.startswith(f"2 attentions of {vit.tokens} tokens: 2 × 3 patches")
    assert same(before, state(net))


def test_the_probability_is_read_off_every_block(written):
    """Chain rule: s (1 - s) times the slope of the margin, block by block, at the score read there."""
    vit = written[0]
    e = seewhy.explain(VitTwin(vit), torch.tensor(ODD), "legrad", target=1, score="probability")
    for n, sample in enumerate(ODD):
        total, z = np.zeros(vit.tokens), vit.follow(sample)[0]
        for b, slopes in enumerate(vit.slopes(sample, own=True)):
            share = np.exp(vit.readout(np.array([z[b + 1].mean(0)] * vit.tokens)))
            share = share / share.sum()
            slope = share[1] * (slopes[1] - np.einsum("c,chij->hij", share, slopes))
            total += np.maximum(slope, 0).mean((0, 1)) / vit.depth
        assert np.abs(e.values[n].numpy().ravel() - total[vit.prefix :]).max() <= 1e-12 * total.max()


def test_one_forward_and_partial_backwards():
    net = Counted(VitTwin(Vit()))
    seewhy.explain(net, torch.tensor(ODD), METHODS, target=[0, 1])
    net.samples = 0  # what is known of the network stays known
    e = seewhy.explain(net, torch.tensor(ODD), METHODS, target=[0, 1])
    assert net.samples == 2
    assert all(one.evaluations == (2, 4) for one in e)


class Counted(nn.Module):
    def __init__(self, inside):
        super().__init__()
        self.inside, self.samples = inside, 0

    def forward(self, x):
        self.samples += len(x)
        return self.inside(x)


def drawn(net, seed=0):
    """Nothing is zero, as heads and class tokens of fresh networks are."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in net.named_parameters():
            noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
            weight.copy_(noise * 0.2 + ("norm" in name or "ln" in name) * ("weight" in name))
    return net.double().eval()


def timm_vit(name="vit_tiny_patch16_224", **options):
    return drawn(timm.create_model(name, num_classes=5, **{"img_size": 48, "depth": 3, **options}))


def by_hand(block, q):
    """Attention weights [N, heads, T, T] of one timm attention, from its input."""
    n, t, _ = q.shape
    qkv = block.qkv(q).reshape(n, t, 3, block.num_heads, -1)
    q, k = qkv[:, :, 0].transpose(1, 2), qkv[:, :, 1].transpose(1, 2)
    return torch.softmax(q @ k.transpose(2, 3) * block.scale, -1)


@pytest.mark.parametrize("fused", [True, False])
def test_timm_fused_or_not(fused):
    net = timm_vit()
    seen = []
    for block in net.blocks:
        block.attn.fused_attn = fused
        block.attn.register_forward_pre_hook(lambda layer, args: seen.append(by_hand(layer, args[0]).mean(1)))
    x = torch.randn(2, 3, 48, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        net(x)
    flow = torch.eye(10, dtype=torch.float64)
    for weights in seen:
        flow = (weights + torch.eye(10)) / 2 @ flow
    expected = flow[:, 0, 1:].reshape(2, 1, 1, 3, 3)
    e = seewhy.explain(net, x, "rollout", target=1)
    assert (e.values - expected).abs().max() <= 1e-12
    assert e.maps.shape == (2, 1, 48, 48)


@pytest.mark.parametrize(
    ("name", "options", "tokens"),
    [
        ("vit_tiny_patch16_224", {"class_token": False, "global_pool": "avg"}, "9 tokens: 3 × 3 patches"),
        ("vit_tiny_patch16_224", {"reg_tokens": 3}, "13 tokens: 3 × 3 patches behind 4 others"),
        ("deit_tiny_distilled_patch16_224", {}, "11 tokens: 3 × 3 patches behind 2 others"),
        ("beit_base_patch16_224", {"embed_dim": 48, "num_heads": 4}, "10 tokens: 3 × 3 patches behind 1 other"),
        ("eva02_tiny_patch14_224", {"img_size": 42}, "10 tokens: 3 × 3 patches behind 1 other"),
        ("vit_tiny_patch16_224", {"img_size": (32, 64)}, "9 tokens: 2 × 4 patches behind 1 other"),
    ],
)
def test_tokens_before_the_patches(name, options, tokens):
    net = timm_vit(name, **options)
    size = options.get("img_size", 48)
    x = torch.randn(2, 3, *((size, size) if isinstance(size, int) else size), dtype=torch.float64)
    for e in seewhy.explain(net, x, METHODS, target=[0, 3]):
        assert e.layer_reason == f"3 attentions of {tokens}"
        assert e.values.flatten(2).amax(2).gt(0).all()
        alone = seewhy.explain(net, x[1:], e.method, target=3).values
        assert (e.values[1:, 1:] - alone).abs().max() <= 1e-10 * alone.abs().max()


def torchvision_vit(**options):
    """As torchvision builds it; its attention is nn.MultiheadAttention without weights, and has a fast path."""
    from torchvision.models import VisionTransformer

    small = {"image_size": 32, "patch_size": 8, "num_layers": 3, "num_heads": 2, "hidden_dim": 12, "mlp_dim": 16}
    return drawn(VisionTransformer(**{**small, "num_classes": 5, **options}))


def test_torchvision_beside_torchcam():
    torchcam = pytest.importorskip("torchcam.methods")
    net, x = torchvision_vit(), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    ours = seewhy.explain(net, x, "legrad", target=torch.tensor([1, 4])).values[:, 0, 0]
    with torchcam.LeGrad(net, list(net.encoder.layers)) as cam:
        net(x)
        theirs = cam.compute_cams([1, 4], normalized=False)[0]
    assert (ours - theirs).abs().max() <= 1e-12 * theirs.max()


def test_the_fast_path_is_not_taken_and_not_switched_off():
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, dropout=0.1)
    net = drawn(Sequence(nn.TransformerEncoder(layer, 3, enable_nested_tensor=False), 8))
    x = torch.randn(2, 8, 5, dtype=torch.float64)
    enabled = torch.backends.mha.get_fastpath_enabled()
    with torch.no_grad():
        found = seewhy.explain(net, x, METHODS, target=[0, 1])
    assert torch.backends.mha.get_fastpath_enabled() == enabled
    for e in found:
        assert e.values.shape == (2, 2, 1, 5)
        assert e.values.flatten(1).amax(1).gt(0).all()


class Sequence(nn.Module):
    """[N, C, T] through an encoder of T tokens, read by their mean."""

    def __init__(self, encoder, width):
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(width, 4)

    def forward(self, x):
        return self.head(self.encoder(x.transpose(1, 2)).mean(1))


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_hugging_face(implementation):
    """transformers gives attentions of its own when it is asked and computes them eagerly."""
    transformers = pytest.importorskip("transformers")
    small = {"hidden_size": 12, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.ViTConfig(**small, image_size=32, patch_size=8, num_labels=5)
    config._attn_implementation = implementation
    net = drawn(transformers.ViTForImageClassification(config))
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    model = seewhy.wrap(net, forward=lambda net, x: net(x).logits)
    e = seewhy.explain(model, x, METHODS, target=[0, 3])
    assert e[0].layer_reason == "3 attentions of 17 tokens: 4 × 4 patches behind 1 other"
    whole = seewhy.explain(net, x, METHODS, target=lambda output: output.logits[:, 3])  # the output as it is
    for one, other in zip(whole, e, strict=True):
        assert torch.allclose(one.values[:, 0], other.values[:, 1], rtol=1e-10)
        assert one.output.logits.shape == (2, 5)
    net.set_attn_implementation("eager")
    done = net(x, output_attentions=True)
    slopes = torch.autograd.grad(done.logits[:, 3].sum(), done.attentions, retain_graph=True)
    relevance = torch.eye(17, dtype=torch.float64)
    flow = torch.eye(17, dtype=torch.float64)
    for weights, slope in zip(done.attentions, slopes, strict=True):
        flow = (weights.mean(1) + torch.eye(17)) / 2 @ flow
        relevance = relevance + (weights * slope).clamp(min=0).mean(1) @ relevance
    for ours, theirs in ((e[0], flow), (e[1], relevance)):
        wanted = theirs[:, 0, 1:].detach()
        # its eager attention takes the softmax in single precision; when it is asked eagerly, so is ours
        digits = 1e-12 if implementation == "eager" else 1e-6
        assert (ours.values[:, 1].flatten(1) - wanted).abs().max() <= digits * wanted.max()
    assert e[2].values.gt(0).any()


DRAW = torch.Generator().manual_seed(3)
Q, K, V = (torch.randn(2, 4, 5, 6, generator=DRAW, dtype=torch.float64) for _ in range(3))
MASK = torch.rand(2, 1, 5, 5, generator=DRAW) > 0.3
MASK[..., 0] = True


@pytest.mark.parametrize(
    "options",
    [
        {}, {"scale": 0.3}, {"is_causal": True}, {"attn_mask": MASK}, {"attn_mask": 2.0 * MASK.double(), "scale": 1.5},
        {"enable_gqa": True},
    ],
)  # fmt: skip
def test_fused_attention_step_by_step_is_what_it_was(options):
    key, value = (K[:, :2], V[:, :2]) if "enable_gqa" in options else (K, V)
    with attending() as found:
        ours = F.scaled_dot_product_attention(Q, key, value, **options)
    assert (ours - F.scaled_dot_product_attention(Q, key, value, **options)).abs().max() <= 1e-12
    wide = value.repeat_interleave(4 // value.shape[1], 1)
    assert (found[0].weights @ wide - ours).abs().max() <= 1e-12
    assert (found[0].weights.sum(-1) - 1).abs().max() <= 1e-12


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("average", [True, False])
def test_multihead_attention_gives_what_it_was_asked_for(weights, average):
    layer, z = drawn(nn.MultiheadAttention(8, 2, batch_first=True)), torch.randn(2, 5, 8, dtype=torch.float64)
    options = {"need_weights": weights, "average_attn_weights": average}
    with attending() as found:
        ours = layer(z, z, z, **options)
    for one, other in zip(ours, layer(z, z, z, **options), strict=True):
        assert (one is None) == (other is None)
        assert one is None or (one - other).abs().max() <= 1e-12
    assert len(found) == 1
    assert found[0].weights.shape == (2, 2, 5, 5)


class Tokens(nn.Module):
    """Patches of 4 × 4, something that mixes them, and a mean."""

    def __init__(self, mix, width=8):
        super().__init__()
        self.embed, self.mix, self.head = nn.Conv2d(3, width, 4, 4), mix, nn.Linear(width, 4)

    def forward(self, x):
        return self.head(self.mix(self.embed(x).flatten(2).transpose(1, 2)).mean(1))


def windows(z):
    parts = z.unflatten(1, (4, -1)).flatten(0, 1)
    return z + F.scaled_dot_product_attention(parts, parts, parts).unflatten(0, (-1, 4)).flatten(1, 2)


def channels(z):
    return z + ((z.transpose(1, 2) @ z).softmax(-1) @ z.transpose(1, 2)).transpose(1, 2)


def reduced(z):
    return z + F.scaled_dot_product_attention(z, z[:, ::4], z[:, ::4])


def none(z):
    return z + z.mean(1, keepdim=True).softmax(-1)


def without_graph(z):
    with torch.no_grad():
        weights = (z @ z.transpose(1, 2)).softmax(-1)
    return z + weights @ z


def heads_first(z):
    parts = torch.cat(z.chunk(2, 2))
    mixed = (parts @ parts.transpose(1, 2)).softmax(-1) @ parts
    return z + torch.cat(mixed.chunk(2), 2)


@pytest.mark.parametrize(
    ("mix", "words"),
    [
        (none, "no attention was seen in Tokens"),
        (windows, r"\[4, 4, 4\].*not one matrix a head over a grid"),
        (channels, r"\[1, 8, 8\].*not one matrix a head over a grid"),
        (reduced, "attention of 16 queries to 4 keys"),
        (without_graph, "does not depend on all of its attention"),
        (heads_first, "heads before samples"),
        (lambda z: reduced(F.scaled_dot_product_attention(z, z, z)), "attention of 16 queries to 4 keys"),
    ],
)
@pytest.mark.parametrize("name", METHODS)
def test_what_is_no_attention_of_all_to_all_is_refused(mix, words, name):
    net, x = drawn(Tokens(mix)), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    before = state(net)
    with pytest.raises(seewhy.ModelError, match=words):
        seewhy.explain(net, x, name, target=0)
    assert same(before, state(net))


def test_windowed_and_staged_networks_are_refused():
    x = torch.randn(2, 3, 32, 32)
    swin = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=32, window_size=4, num_classes=5, depths=(2, 1, 1, 1)
    )
    with pytest.raises(seewhy.ModelError, match="not of all tokens to all tokens"):
        seewhy.explain(swin, x, "rollout")
    with pytest.raises(seewhy.ModelError, match="queries to"):
        seewhy.explain(timm.create_model("pvt_v2_b0", num_classes=5), x, "legrad")
    with pytest.raises(seewhy.ModelError, match="no attention was seen in ResNet"):
        seewhy.explain(timm.create_model("resnet10t", num_classes=5), x, "attention_gradient")
    with pytest.raises(seewhy.ModelError, match="rollout needs"):
        seewhy.explain(lambda x: x.mean((2, 3)), x, "rollout")


class Skips(nn.Module):
    """Two blocks, and a head that reads what went into the second too."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(16, 4)

    def forward(self, x):
        z = self.embed(x).flatten(2).transpose(1, 2)
        one = z + F.scaled_dot_product_attention(z, z, z)
        two = one + F.scaled_dot_product_attention(one, one, one)
        return self.head(torch.cat([one, two], 2).mean(1))


class Counts(nn.Module):
    """Remembers how many samples came in."""

    def __init__(self):
        super().__init__()
        self.embed, self.block, self.head = nn.Conv2d(3, 8, 4, 4), nn.Identity(), nn.Linear(8, 4)

    def forward(self, x):
        z = self.embed(x).flatten(2).transpose(1, 2)
        z = self.block(z + F.scaled_dot_product_attention(z, z, z))
        return self.head(z.reshape(len(x), 16, -1).mean(1)[:, :8])


@pytest.mark.parametrize(
    ("make", "words"), [(Skips, "last block is not like the others"), (Counts, "other tokens cannot|changes")]
)
def test_legrad_says_why_blocks_cannot_be_read(make, words):
    net, x = drawn(make()), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    with pytest.raises(seewhy.ModelError, match=f"legrad reads a score off every block.*({words})"):
        seewhy.explain(net, x, "legrad", target=0)
    for e in seewhy.explain(net, x, METHODS[:2], target=0):
        assert e.values.gt(0).any()


def test_blocks_that_are_no_layers():
    """Attention and linear layers side by side in a list; what a block gives is a sum in between."""

    class Lists(nn.Module):
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

    net, x = drawn(Lists()), torch.randn(2, 3, 16, 16, dtype=torch.float64)
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


def test_another_layer_than_the_output_can_be_explained():
    net = timm_vit()
    x = torch.randn(1, 3, 48, 48, dtype=torch.float64)
    whole = seewhy.explain(net, x, METHODS, target=2)
    part = seewhy.explain(net, x, METHODS, reduction_layer="head", target=2)
    for one, other in zip(whole, part, strict=True):
        assert torch.allclose(one.values, other.values, rtol=1e-12)
    with pytest.raises(seewhy.ModelError, match="does not depend on all of its attention"):
        seewhy.explain(net, x, "rollout", reduction_layer="blocks.0.mlp", target=lambda z: z.sum((1, 2)))


def test_a_score_that_reads_no_attention_is_noted():
    net = timm_vit()
    with torch.no_grad():
        net.head.weight[1] = 0
    e = seewhy.explain(net, torch.randn(2, 3, 48, 48, dtype=torch.float64), "attention_gradient", target=[0, 1])
    assert [note for note in e.notes if "last attention" in note] == [
        f"the score of sample {n}, target 1 does not depend on the last attention" for n in (0, 1)
    ]
    assert e.values[:, 0].gt(0).any()
    assert not e.values[:, 1].any()


def test_occlusion_behind_multihead_attention():
    """What is known of a network is used again for every mask; a plain function is asked mask by mask."""
    net, x = torchvision_vit(), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    options = {"target": [0, 3], "mask_size": 8, "stride": 8}
    ours = seewhy.explain(net, x, "occlusion", **options).values
    plain = seewhy.explain(lambda x: net(x), x, "occlusion", **options).values
    assert (ours - plain).abs().max() <= 1e-12 * plain.abs().max()


def test_fullgrad_refuses_windows_and_does_without_biases():
    class Windows(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.inner, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 8), nn.Linear(8, 4)

        def forward(self, x):
            parts = self.embed(x).flatten(2).transpose(1, 2).unflatten(1, (4, 4)).flatten(0, 1)
            return self.head(self.inner(parts).tanh().unflatten(0, (len(x), 4)).mean((1, 2)))

    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    with pytest.raises(seewhy.ModelError, match=r"adds a bias to \[8, 8, 4\] for 2 samples"):
        seewhy.explain(drawn(Windows()), x, "fullgrad", target=0)
    bare = drawn(
        nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 196, 3, bias=False))
    )
    e = seewhy.explain(bare, x, "fullgrad", target=[0, 1])
    assert e.completeness.abs().max() <= 1e-10 * e.scores.abs().max()
