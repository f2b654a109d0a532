"""The attention methods, on a small transformer written out by hand, and the same transformer in torch.

Derivatives are complex steps: df/dw = Im f(w + i h) / h with h so small that nothing is cancelled, so no gradient of
anyone is used. Pictures [3, H, W], patches 3 × 3, two blocks of two heads.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

STEP = 1e-40


class Vit:
    """Forward with every sum as it stands in the papers; any attention weight can be moved by a complex step."""

    patch, width, heads, depth, classes = 3, 8, 2, 2, 4

    def __init__(self, prefix=1, read="first", grid=(2, 3), seed=0):
        draw = np.random.default_rng(seed)
        self.prefix, self.read = prefix, read
        self.tokens = prefix + grid[0] * grid[1]
        d = self.width
        shapes = {"embed": (d, 27), "embed_b": (d,), "extra": (prefix, d), "place": (self.tokens, d)}
        for b in range(self.depth):
            shapes |= {f"g1{b}": (d,), f"b1{b}": (d,), f"qkv{b}": (3 * d, d), f"qkv_b{b}": (3 * d,), f"out{b}": (d, d)}
            shapes |= {f"out_b{b}": (d,), f"g2{b}": (d,), f"b2{b}": (d,), f"up{b}": (12, d), f"up_b{b}": (12,)}
            shapes |= {f"down{b}": (d, 12), f"down_b{b}": (d,)}
        shapes |= {"g": (d,), "b": (d,), "head": (self.classes, d), "head_b": (self.classes,)}
        self.weights = {name: draw.normal(size=shape) * 0.7 for name, shape in shapes.items()}

    def rows(self):
        """The tokens that the head reads."""
        return {"first": [0], "two": [0, 1], "patches": list(range(self.prefix, self.tokens))}[self.read]

    def patches(self, x):
        w, p = self.weights, self.patch
        found = [w["extra"][i] for i in range(self.prefix)]
        for i in range(x.shape[1] // p):
            for j in range(x.shape[2] // p):
                found.append(w["embed"] @ x[:, i * p : i * p + p, j * p : j * p + p].reshape(-1) + w["embed_b"])
        return np.array(found) + w["place"]

    def normal(self, z, name, b=""):
        centred = z - z.mean(-1, keepdims=True)
        spread = np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
        return centred / spread * self.weights[f"g{name}{b}"] + self.weights[f"b{name}{b}"]

    def block(self, z, b, move=None):
        """One block; `move` = (head, query, key). Gives the tokens behind it and the weights [heads, T, T]."""
        w, each = self.weights, self.width // self.heads
        qkv = self.normal(z, "1", b) @ w[f"qkv{b}"].T + w[f"qkv_b{b}"]
        q, k, v = (qkv[:, i * self.width : (i + 1) * self.width] for i in range(3))
        heads, weights = [], []
        for h in range(self.heads):
            part = slice(h * each, (h + 1) * each)
            scores = q[:, part] @ k[:, part].T / np.sqrt(each)
            share = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
            if move is not None and move[0] == h:
                share = share.astype(complex)
                share[move[1], move[2]] += 1j * STEP
            weights.append(share)
            heads.append(share @ v[:, part])
        z = z + np.concatenate(heads, 1) @ w[f"out{b}"].T + w[f"out_b{b}"]
        inner = self.normal(z, "2", b) @ w[f"up{b}"].T + w[f"up_b{b}"]
        inner = 0.5 * inner * (1 + np.tanh(np.sqrt(2 / np.pi) * (inner + 0.044715 * inner**3)))
        return z + inner @ w[f"down{b}"].T + w[f"down_b{b}"], np.array(weights)

    def readout(self, z):
        z = self.normal(z, "")
        return self.weights["head"] @ z[self.rows()].mean(0) + self.weights["head_b"]

    def follow(self, x):
        """Tokens before and behind each block, and the weights of each."""
        z = [self.patches(x)]
        weights = []
        for b in range(self.depth):
            after, share = self.block(z[-1], b)
            z.append(after)
            weights.append(share)
        return z, weights

    def scores(self, x):
        return self.readout(self.follow(x)[0][-1])

    def slopes(self, x, own):
        """[depth, classes, heads, T, T]: derivatives of the scores, or of those read off each block's mean."""
        z, weights = self.follow(x)
        found = np.zeros((self.depth, self.classes, *weights[0].shape))
        for b in range(self.depth):
            for move in np.ndindex(*weights[0].shape):
                moved = self.block(z[b], b, move)[0]
                for later in [] if own else range(b + 1, self.depth):
                    moved = self.block(moved, later)[0]
                if own:
                    mean = sum(moved[t] for t in range(self.tokens)) / self.tokens
                    moved = np.array([mean] * self.tokens)
                found[(b, slice(None), *move)] = self.readout(moved).imag / STEP
        return found


def _each(vit, x, targets, one):
    """one(sample, target) -> [T], as maps [N, K, 1, rows, columns] of the patches."""
    grid = (x.shape[2] // vit.patch, x.shape[3] // vit.patch)
    found = np.zeros((*targets.shape, 1, *grid))
    for n in range(len(x)):
        tokens = one(x[n])
        for k, target in enumerate(targets[n]):
            found[n, k, 0] = tokens(target)[vit.prefix :].reshape(grid)
    return found


def _read(vit, matrix):
    return sum(matrix[row] for row in vit.rows()) / len(vit.rows())


def rollout(vit, x, targets):
    """Abnar and Zuidema 2020, eq. 1, matrix by matrix."""

    def one(sample):
        joint = np.eye(vit.tokens)
        for weights in vit.follow(sample)[1]:
            joint = (0.5 * sum(weights) / len(weights) + 0.5 * np.eye(vit.tokens)) @ joint
        return lambda target: _read(vit, joint)

    return _each(vit, x, targets, one)


def attention_gradient(vit, x, targets):
    """Chefer et al. 2021, eq. 5 and 6."""

    def one(sample):
        weights, slopes = vit.follow(sample)[1], vit.slopes(sample, own=False)

        def relevance(target):
            r = np.eye(vit.tokens)
            for b in range(vit.depth):
                mean = sum(np.maximum(slopes[b, target, h] * weights[b][h], 0) for h in range(vit.heads)) / vit.heads
                r = r + mean @ r
            return _read(vit, r)

        return relevance

    return _each(vit, x, targets, one)


def legrad(vit, x, targets):
    """Bousselham et al. 2025, section 3, before the rescaling."""

    def one(sample):
        slopes = vit.slopes(sample, own=True)

        def map_(target):
            total = np.zeros(vit.tokens)
            for b, h, i in np.ndindex(vit.depth, vit.heads, vit.tokens):
                total += np.maximum(slopes[b, target, h, i], 0) / (vit.heads * vit.tokens)
            return total / vit.depth

        return map_

    return _each(vit, x, targets, one)


class Block(nn.Module):
    """One block; its attention is computed in one of four ways."""

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

    def mix(self, z):
        if self.kind == "module":
            return self.attention(z, z, z, need_weights=False)[0]
        n, t, d = z.shape
        q, k, v = self.qkv(z).reshape(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if self.kind == "fused":
            z = F.scaled_dot_product_attention(q, k, v)
        elif self.kind == "plain":
            z = self.drop((q @ k.transpose(-2, -1) * (d // self.heads) ** -0.5).softmax(-1)) @ v
        else:  # heads and samples on one axis
            q, k, v = (a.flatten(0, 1) for a in (q, k, v))
            weights = F.softmax(torch.bmm(q, k.mT) / (d // self.heads) ** 0.5, dim=2)
            z = torch.einsum("bij,bjd->bid", weights, v).unflatten(0, (n, self.heads))
        return self.proj(z.transpose(1, 2).reshape(n, t, d))

    def forward(self, z):
        z = z + self.drop(self.mix(self.norm1(z)))
        return z + self.drop(self.mlp(self.norm2(z)))


class VitTwin(nn.Module):
    """The same transformer in torch; kind: "fused", "plain", "flat" or "module"."""

    def __init__(self, vit, dtype=torch.float64, kind="fused"):
        super().__init__()
        d = vit.width
        self.prefix, self.rows = vit.prefix, vit.rows()
        self.embed = nn.Conv2d(3, d, vit.patch, vit.patch)
        self.extra, self.place = nn.Parameter(torch.zeros(vit.prefix, d)), nn.Parameter(torch.zeros(vit.tokens, d))
        self.blocks = nn.Sequential(*(Block(d, vit.heads, kind) for _ in range(vit.depth)))
        self.norm, self.head = nn.LayerNorm(d, eps=1e-6), nn.Linear(d, vit.classes)
        self.to(dtype)
        w = {name: torch.tensor(weight) for name, weight in vit.weights.items()}
        places = [(self.embed.weight, w["embed"].view(d, 3, 3, 3)), (self.embed.bias, w["embed_b"])]
        places += [(self.extra, w["extra"]), (self.place, w["place"])]
        for b, block in enumerate(self.blocks):
            inside = block.attention if kind == "module" else block
            pairs = [(inside.in_proj_weight, inside.in_proj_bias), (inside.out_proj.weight, inside.out_proj.bias)] \
                if kind == "module" else [(m.weight, m.bias) for m in (block.qkv, block.proj)]  # fmt: skip
            pairs += [(m.weight, m.bias) for m in (block.norm1, block.norm2, block.mlp[0], block.mlp[2])]
            names = [("qkv", "qkv_b"), ("out", "out_b"), ("g1", "b1"), ("g2", "b2"), ("up", "up_b"), ("down", "down_b")]
            for pair, both in zip(pairs, names, strict=True):
                places += [(weight, w[f"{name}{b}"]) for weight, name in zip(pair, both, strict=True)]
        places += [(self.norm.weight, w["g"]), (self.norm.bias, w["b"])]
        places += [(self.head.weight, w["head"]), (self.head.bias, w["head_b"])]
        with torch.no_grad():
            for weight, value in places:
                weight.copy_(value)

    def forward(self, x):
        z = self.embed(x).flatten(2).transpose(1, 2)
        z = torch.cat([self.extra.expand(len(z), -1, -1), z], 1) + self.place
        return self.head(self.norm(self.blocks(z))[:, self.rows].mean(1))
