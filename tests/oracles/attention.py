"""The attention methods on a small transformer in NumPy, and the same transformer in torch.

Derivatives are computed by complex steps, df/dw = Im f(w + i h) / h, without autograd; h is so small that there is no
cancellation. Images [3, H, W], patches of 3 × 3, two blocks with two heads.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

COMPLEX_STEP = 1e-40


class NumpyViT:
    """Forward pass as written in the papers; a complex step can be added to any attention weight."""

    patch, width, heads, depth, classes = 3, 8, 2, 2, 4

    def __init__(self, prefix=1, pooling="first", grid=(2, 3), seed=0):
        generator = np.random.default_rng(seed)
        self.prefix, self.pooling = prefix, pooling
        self.tokens = prefix + grid[0] * grid[1]
        d = self.width
        shapes = {"embed": (d, 27), "embed_b": (d,), "extra": (prefix, d), "position": (self.tokens, d)}
        for b in range(self.depth):
            shapes |= {f"g1{b}": (d,), f"b1{b}": (d,), f"qkv{b}": (3 * d, d), f"qkv_b{b}": (3 * d,), f"out{b}": (d, d)}
            shapes |= {f"out_b{b}": (d,), f"g2{b}": (d,), f"b2{b}": (d,), f"up{b}": (12, d), f"up_b{b}": (12,)}
            shapes |= {f"down{b}": (d, 12), f"down_b{b}": (d,)}
        shapes |= {"g": (d,), "b": (d,), "head": (self.classes, d), "head_b": (self.classes,)}
        self.weights = {name: generator.normal(size=shape) * 0.7 for name, shape in shapes.items()}

    def pooled_tokens(self):
        """Indices of the tokens that the head uses."""
        return {"first": [0], "two": [0, 1], "patches": list(range(self.prefix, self.tokens))}[self.pooling]

    def embed(self, x):
        """Tokens of the prefix and of the patches, with position embedding."""
        w, p = self.weights, self.patch
        tokens = [w["extra"][i] for i in range(self.prefix)]
        for i in range(x.shape[1] // p):
            for j in range(x.shape[2] // p):
                tokens.append(w["embed"] @ x[:, i * p : i * p + p, j * p : j * p + p].reshape(-1) + w["embed_b"])
        return np.array(tokens) + w["position"]

    def layer_norm(self, z, name, b=""):
        centered = z - z.mean(-1, keepdims=True)
        std = np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-6)
        return centered / std * self.weights[f"g{name}{b}"] + self.weights[f"b{name}{b}"]

    def block(self, z, b, perturbed=None):
        """Output tokens of block b and its attention weights [heads, T, T].

        `perturbed` = (head, query, key) is the attention weight that a complex step is added to.
        """
        w, width = self.weights, self.width // self.heads
        qkv = self.layer_norm(z, "1", b) @ w[f"qkv{b}"].T + w[f"qkv_b{b}"]
        q, k, v = (qkv[:, i * self.width : (i + 1) * self.width] for i in range(3))
        heads, weights = [], []
        for h in range(self.heads):
            part = slice(h * width, (h + 1) * width)
            scores = q[:, part] @ k[:, part].T / np.sqrt(width)
            attention = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
            if perturbed is not None and perturbed[0] == h:
                attention = attention.astype(complex)
                attention[perturbed[1], perturbed[2]] += 1j * COMPLEX_STEP
            weights.append(attention)
            heads.append(attention @ v[:, part])
        z = z + np.concatenate(heads, 1) @ w[f"out{b}"].T + w[f"out_b{b}"]
        inner = self.layer_norm(z, "2", b) @ w[f"up{b}"].T + w[f"up_b{b}"]
        inner = 0.5 * inner * (1 + np.tanh(np.sqrt(2 / np.pi) * (inner + 0.044715 * inner**3)))
        return z + inner @ w[f"down{b}"].T + w[f"down_b{b}"], np.array(weights)

    def head(self, z):
        """Class scores from the tokens after the last block."""
        z = self.layer_norm(z, "")
        return self.weights["head"] @ z[self.pooled_tokens()].mean(0) + self.weights["head_b"]

    def run_blocks(self, x):
        """Tokens before the first and after each block, and the attention weights of each block."""
        z = [self.embed(x)]
        weights = []
        for b in range(self.depth):
            output, attention = self.block(z[-1], b)
            z.append(output)
            weights.append(attention)
        return z, weights

    def scores(self, x):
        return self.head(self.run_blocks(x)[0][-1])

    def attention_gradients(self, x, per_block):
        """Derivatives of the class scores with respect to the attention weights, [depth, classes, heads, T, T].

        With `per_block` the scores are those that the head computes from the mean token of each block.
        """
        z, weights = self.run_blocks(x)
        gradients = np.zeros((self.depth, self.classes, *weights[0].shape))
        for b in range(self.depth):
            for weight in np.ndindex(*weights[0].shape):
                tokens = self.block(z[b], b, weight)[0]
                for later in [] if per_block else range(b + 1, self.depth):
                    tokens = self.block(tokens, later)[0]
                if per_block:
                    mean = sum(tokens[t] for t in range(self.tokens)) / self.tokens
                    tokens = np.array([mean] * self.tokens)
                gradients[(b, slice(None), *weight)] = self.head(tokens).imag / COMPLEX_STEP
        return gradients


def _patch_maps(vit, x, targets, token_map):
    """Maps [N, K, 1, rows, columns] of the patches from token_map(sample)(target) -> [T]."""
    grid = (x.shape[2] // vit.patch, x.shape[3] // vit.patch)
    maps = np.zeros((*targets.shape, 1, *grid))
    for n in range(len(x)):
        of_target = token_map(x[n])
        for k, target in enumerate(targets[n]):
            maps[n, k, 0] = of_target(target)[vit.prefix :].reshape(grid)
    return maps


def _pooled_row(vit, matrix):
    """Mean of the matrix rows of the tokens that the head uses."""
    return sum(matrix[row] for row in vit.pooled_tokens()) / len(vit.pooled_tokens())


def rollout(vit, x, targets):
    """Abnar and Zuidema 2020, eq. 1, with full matrices."""

    def token_map(sample):
        joint = np.eye(vit.tokens)
        for weights in vit.run_blocks(sample)[1]:
            joint = (0.5 * sum(weights) / len(weights) + 0.5 * np.eye(vit.tokens)) @ joint
        return lambda target: _pooled_row(vit, joint)

    return _patch_maps(vit, x, targets, token_map)


def attention_gradient(vit, x, targets):
    """Chefer et al. 2021, eq. 5 and 6."""

    def token_map(sample):
        weights, gradients = vit.run_blocks(sample)[1], vit.attention_gradients(sample, per_block=False)

        def relevance(target):
            r = np.eye(vit.tokens)
            for b in range(vit.depth):
                mean = sum(np.maximum(gradients[b, target, h] * weights[b][h], 0) for h in range(vit.heads)) / vit.heads
                r = r + mean @ r
            return _pooled_row(vit, r)

        return relevance

    return _patch_maps(vit, x, targets, token_map)


def legrad(vit, x, targets):
    """Bousselham et al. 2025, section 3, before the rescaling."""

    def token_map(sample):
        gradients = vit.attention_gradients(sample, per_block=True)

        def of_target(target):
            total = np.zeros(vit.tokens)
            for b, h, i in np.ndindex(vit.depth, vit.heads, vit.tokens):
                total += np.maximum(gradients[b, target, h, i], 0) / (vit.heads * vit.tokens)
            return total / vit.depth

        return of_target

    return _patch_maps(vit, x, targets, token_map)


class Block(nn.Module):
    """One transformer block; `kind` selects one of four implementations of attention."""

    def __init__(self, width, heads, kind):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.heads, self.kind = heads, kind
        if kind == "module":
            self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        else:
            self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 12), nn.GELU(approximate="tanh"), nn.Linear(12, width))
        self.drop = nn.Dropout(0.3)

    def attend(self, z):
        if self.kind == "module":
            return self.attention(z, z, z, need_weights=False)[0]
        n, t, d = z.shape
        q, k, v = self.qkv(z).reshape(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if self.kind == "fused":
            z = F.scaled_dot_product_attention(q, k, v)
        elif self.kind == "plain":
            z = self.drop((q @ k.transpose(-2, -1) * (d // self.heads) ** -0.5).softmax(-1)) @ v
        else:  # "flat": heads and samples on one axis
            q, k, v = (a.flatten(0, 1) for a in (q, k, v))
            weights = F.softmax(torch.bmm(q, k.mT) / (d // self.heads) ** 0.5, dim=2)
            z = torch.einsum("bij,bjd->bid", weights, v).unflatten(0, (n, self.heads))
        return self.proj(z.transpose(1, 2).reshape(n, t, d))

    def forward(self, z):
        z = z + self.drop(self.attend(self.norm1(z)))
        return z + self.drop(self.mlp(self.norm2(z)))


class TorchViT(nn.Module):
    """The same transformer in torch; `kind` of attention: "fused", "plain", "flat" or "module"."""

    def __init__(self, vit, dtype=torch.float64, kind="fused"):
        super().__init__()
        d = vit.width
        self.prefix, self.pooled_tokens = vit.prefix, vit.pooled_tokens()
        self.embed = nn.Conv2d(3, d, vit.patch, vit.patch)
        self.extra, self.position = nn.Parameter(torch.zeros(vit.prefix, d)), nn.Parameter(torch.zeros(vit.tokens, d))
        self.blocks = nn.Sequential(*(Block(d, vit.heads, kind) for _ in range(vit.depth)))
        self.norm, self.head = nn.LayerNorm(d, eps=1e-6), nn.Linear(d, vit.classes)
        self.to(dtype)
        w = {name: torch.tensor(weight) for name, weight in vit.weights.items()}
        parameters = [(self.embed.weight, w["embed"].view(d, 3, 3, 3)), (self.embed.bias, w["embed_b"])]
        parameters += [(self.extra, w["extra"]), (self.position, w["position"])]
        for b, block in enumerate(self.blocks):
            inside = block.attention if kind == "module" else block
            pairs = [(inside.in_proj_weight, inside.in_proj_bias), (inside.out_proj.weight, inside.out_proj.bias)] \
                if kind == "module" else [(m.weight, m.bias) for m in (block.qkv, block.proj)]  # fmt: skip
            pairs += [(m.weight, m.bias) for m in (block.norm1, block.norm2, block.mlp[0], block.mlp[2])]
            names = [("qkv", "qkv_b"), ("out", "out_b"), ("g1", "b1"), ("g2", "b2"), ("up", "up_b"), ("down", "down_b")]
            for pair, both in zip(pairs, names, strict=True):
                parameters += [(weight, w[f"{name}{b}"]) for weight, name in zip(pair, both, strict=True)]
        parameters += [(self.norm.weight, w["g"]), (self.norm.bias, w["b"])]
        parameters += [(self.head.weight, w["head"]), (self.head.bias, w["head_b"])]
        with torch.no_grad():
            for weight, value in parameters:
                weight.copy_(value)

    def forward(self, x):
        z = self.embed(x).flatten(2).transpose(1, 2)
        z = torch.cat([self.extra.expand(len(z), -1, -1), z], 1) + self.position
        return self.head(self.norm(self.blocks(z))[:, self.pooled_tokens].mean(1))
