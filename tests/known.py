"""Functions whose explanations are known, with the answers: written from the papers, never from the library.

`CELLS` holds (function, method) -> a cell; `answer(cell)` is the truth as an array, `ask(cell)` what seewhy says.
"""

from itertools import product
from math import factorial, sqrt
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

import seewhy
from seewhy.maps import channel_sum
from seewhy.methods import LAYERS, Method
from seewhy.methods.cam.gradcam import gradcam

A, B, C = 0.75, 2.5, 2.0
relu = torch.relu


class Known(NamedTuple):
    """A function of a few features at a point, baseline 0."""

    f: Any
    x: tuple
    gradient: tuple
    integrated: tuple
    occlusion: tuple
    shapley: tuple
    steps: int = 50  # that are exact
    rule: str = "midpoint"


FUNCTIONS = {
    "linear": Known(
        lambda x: 1.5 * x[:, 0] - 2 * x[:, 1], (A, B), (1.5, -2), (1.5 * A, -2 * B), (1.5 * A, -2 * B),
        (1.5 * A, -2 * B), 1,
    ),
    "a b": Known(
        lambda x: x[:, 0] * x[:, 1], (A, B), (B, A), (A * B / 2,) * 2, (A * B,) * 2, (A * B / 2,) * 2, 1
    ),
    "a b c": Known(
        lambda x: x.prod(1), (A, B, C), (B * C, A * C, A * B), (A * B * C / 3,) * 3, (A * B * C,) * 3,
        (A * B * C / 3,) * 3, 2, "gauss",
    ),
    "a b²": Known(
        lambda x: x[:, 0] * x[:, 1] ** 2, (A, B), (B**2, 2 * A * B), (A * B**2 / 3, 2 * A * B**2 / 3), (A * B**2,) * 2,
        (A * B**2 / 2,) * 2, 2, "gauss",
    ),
    "min(a, b)": Known(
        lambda x: x[:, 0] - relu(x[:, 0] - x[:, 1]), (A, B), (1, 0), (A, 0), (A, A), (A / 2, A / 2), 3
    ),
    "max(a, b)": Known(
        lambda x: x[:, 0] + relu(x[:, 1] - x[:, 0]), (A, B), (0, 1), (0, B), (0, B - A), (A / 2, B - A / 2), 3
    ),
    "1 - ReLU(1 - a)": Known(lambda x: 1 - relu(1 - x[:, 0]), (2.0,), (0,), (1,), (1,), (1,)),
    "ReLU(ReLU(a) - 1 - ReLU(b))": Known(
        lambda x: relu(relu(x[:, 0]) - 1 - relu(x[:, 1])), (3.0, 1.0), (1, -1), (1.5, -0.5), (1, -1), (1.5, -0.5)
    ),
}  # fmt: skip
RECTIFIED = {  # guided backprop and Zeiler-Fergus, by hand: every ReLU passes only what is positive
    "linear": (1.5, -2), "min(a, b)": (1, 0), "max(a, b)": (0, 1), "1 - ReLU(1 - a)": (0,),
    "ReLU(ReLU(a) - 1 - ReLU(b))": (1, 0),
}  # fmt: skip


def game(known):
    """The score of every coalition of features, as a dictionary of tuples of 0 and 1; the others are 0."""
    x = torch.tensor(known.x, dtype=torch.float64)
    return {z: known.f((x * torch.tensor(z))[None]).item() for z in product((0, 1), repeat=len(x))}


def gains(known, i):
    """(size of the coalition without i, what i adds to it) for all of them."""
    v = game(known)
    return [(sum(z), v[(*z[:i], 1, *z[i + 1 :])] - v[z]) for z in v if not z[i]]


def shapley(known):
    """Shapley 1953: the gain, averaged over all orders."""
    n = len(known.x)
    return [sum(factorial(s) * factorial(n - s - 1) / factorial(n) * g for s, g in gains(known, i)) for i in range(n)]


def rise(known):
    """Petsiuk et al. 2018, eq. 6, less the mean score, where every feature is shown or not by itself: E[y m] - E[y]/2,
    times two: half of the mean gain."""
    return [np.mean([g for _, g in gains(known, i)]) / 2 for i in range(len(known.x))]


def lime(known, samples):
    """Ribeiro et al. 2016, eq. 1, ridge 1: the fit to every coalition, each as often as it is expected."""
    v = game(known)
    z, y = np.array(list(v), float), np.array(list(v.values()))
    weights = np.exp(-(((1 - np.sqrt(z.mean(1))) / 0.25) ** 2)) * samples / len(z)
    design = np.column_stack([np.ones(len(z)), z])
    pull = np.diag([0.0, *[1.0] * len(known.x)])
    return np.linalg.solve(design.T @ (weights[:, None] * design) + pull, design.T @ (weights * y))[1:]


# --- pictures: a 1 × 1 convolution, a ReLU, and a head, so that the layer and its slopes are known

SIZE = (4, 5)
PICTURE = torch.randn(1, 2, *SIZE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def _net(channels, head, positive=False):
    net = nn.Sequential(nn.Conv2d(2, channels, 1), nn.ReLU(), head, nn.Flatten(), nn.Linear(channels, 2)).double()
    if isinstance(head, nn.Identity):
        net[4] = nn.Linear(channels * SIZE[0] * SIZE[1], 2).double()
    draw = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_(torch.randn(weight.shape, generator=draw, dtype=torch.float64))
        if positive:
            net[4].weight.abs_()
    return net.eval()


NETS = {
    "pooled, linear": _net(3, nn.AdaptiveAvgPool2d(1)),
    "a weight a position": _net(3, nn.Identity()),
    "one channel": _net(1, nn.AdaptiveAvgPool2d(1), positive=True),
}


class Inside:
    """What is known of such a network, in numpy: layer [C, H, W], slopes there, score of any layer."""

    def __init__(self, net, target=1):
        self.v, self.b = net[0].weight.detach().numpy()[:, :, 0, 0], net[0].bias.detach().numpy()
        self.x = PICTURE[0].numpy()
        before = np.einsum("kc,chw->khw", self.v, self.x) + self.b[:, None, None]
        self.open, self.layer = before > 0, np.maximum(before, 0)
        w, self.bias = net[4].weight.detach().numpy()[target], net[4].bias.detach().numpy()[target]
        pooled = w.size == len(self.layer)
        self.slopes = np.broadcast_to(w[:, None, None] / np.prod(SIZE), self.layer.shape) if pooled else \
            w.reshape(self.layer.shape)  # fmt: skip
        self.gradient = np.einsum("kc,khw->chw", self.v, self.slopes * self.open)

    def score(self, layer):
        return (self.slopes * layer).sum() + self.bias

    def score_at(self, x):
        return self.score(np.maximum(np.einsum("kc,chw->khw", self.v, x) + self.b[:, None, None], 0))


def _weighed(weights, layer):
    return np.einsum("k,khw->hw", weights, layer)


def _pp(i):
    slopes, total = i.slopes, i.layer.sum((1, 2), keepdims=True)
    return np.maximum(_weighed((np.maximum(slopes, 0) / (2 + slopes * total)).sum((1, 2)), i.layer), 0)


def _x(i):
    total = i.layer.sum((1, 2))
    weights = (i.slopes * i.layer).sum((1, 2)) / np.where(total == 0, np.inf, total)
    return _weighed(weights, i.layer)


def _eigen(i):
    flat = i.layer.reshape(len(i.layer), -1)
    left = np.linalg.svd(flat, full_matrices=False)[0][:, 0]
    found = (left @ flat).reshape(SIZE)
    return found * np.sign(found.sum())


def _score(i):
    shares = []
    for a in i.layer:
        mask = (a - a.min()) / (a.max() - a.min())
        shares.append(i.score_at(i.x * mask))
    weights = np.exp(np.array(shares) - max(shares))
    return np.maximum(_weighed(weights / weights.sum(), i.layer), 0)


def _ablation(i):
    falls = []
    for c in range(len(i.layer)):
        without = i.layer.copy()
        without[c] = 0
        falls.append(i.score(i.layer) - i.score(without))
    return np.maximum(_weighed(np.array(falls), i.layer), 0)


def _recipro(i):
    found = np.zeros(SIZE)
    for at in np.ndindex(*SIZE):
        mask = np.zeros(SIZE)
        for place in np.ndindex(*SIZE):
            far = abs(np.array(place) - at)
            if far.max() <= 1:
                mask[place] = 2.0 ** -(2 + far.sum())
        found[at] = i.score(i.layer * mask)
    return found


def _guided(i):
    arriving = np.where(i.open & (i.slopes > 0), i.slopes, 0)
    return np.einsum("kc,khw->chw", i.v, arriving)


def _psi(part):
    size = abs(part)
    width = size.max() - size.min()
    return (size - size.min()).sum(0) / (width or np.inf)


def _full(i):
    return _psi(i.x * i.gradient) + _psi(i.b[:, None, None] * i.slopes * i.open)


def _cam(i):
    return np.maximum(_weighed(i.slopes.mean((1, 2)), i.layer), 0)


def _falls(i):
    """One position hidden at a time, 0 in its place."""
    found = np.zeros(SIZE)
    for at in np.ndindex(*SIZE):
        x = i.x.copy()
        x[(slice(None), *at)] = 0
        found[at] = i.score_at(i.x) - i.score_at(x)
    return found


PICTURES = {
    "gradient": lambda i: i.gradient,
    "input_x_gradient": lambda i: i.x * i.gradient,
    "guided_backprop": _guided,
    "gradcam": _cam,
    "gradcam++": _pp,
    "hirescam": lambda i: (i.slopes * i.layer).sum(0),
    "layercam": lambda i: np.maximum((np.maximum(i.slopes, 0) * i.layer).sum(0), 0),
    "xgradcam": _x,
    "eigencam": _eigen,
    "guided_gradcam": lambda i: _guided(i) * _cam(i),
    "fullgrad": _full,
    "scorecam": _score,
    "ablationcam": _ablation,
    "recipro_cam": _recipro,
    "occlusion": _falls,
    "feature_ablation": _falls,
    "kernel_shap": _falls,  # no position changes what another adds
}
FIRST = (1.0, 0.5, 0.25)  # the one reference
SAMPLES = 1000
OPTIONS = {
    "smoothgrad": {"samples": 100, "sigma": 0.5}, "vargrad": {"samples": 100, "sigma": 0.5},
    "occlusion": {"mask_size": 1, "stride": 1, "mask_value": 0}, "feature_ablation": {"mask_value": 0},
    "kernel_shap": {"mask_value": 0, "samples": 64}, "rise": {"mask_value": 0, "samples": SAMPLES},
    "lime": {"mask_value": 0, "surrogate": "linear", "samples": SAMPLES},
    "expected_gradients": {"samples": 100},
}  # fmt: skip


class Cell(NamedTuple):
    """A question with a known answer; `sure`: to the last digits, else within four standard errors."""

    function: str
    method: str
    truth: Any
    sure: bool = True


def _features():
    for name, k in FUNCTIONS.items():
        product_ = tuple(g * x for g, x in zip(k.gradient, k.x, strict=True))
        for method, truth in (
            ("gradient", k.gradient), ("input_x_gradient", product_), ("integrated_gradients", k.integrated),
            ("occlusion", k.occlusion), ("feature_ablation", k.occlusion), ("kernel_shap", k.shapley),
        ):  # fmt: skip
            yield Cell(name, method, truth)
        yield Cell(name, "rise", rise(k), False)
        yield Cell(name, "lime", lime(k, SAMPLES), False)
    for name, truth in RECTIFIED.items():
        yield Cell(name, "guided_backprop", truth)
        yield Cell(name, "zeiler_fergus", truth)
    # noise does not change the gradient of what is linear; of a b it adds e_b and e_a
    width = 0.5 * (B - A)
    yield Cell("linear", "smoothgrad", (1.5, -2))
    yield Cell("a b", "smoothgrad", (B, A), False)
    yield Cell("a b²", "smoothgrad", (B**2 + width**2, 2 * A * B), False)
    yield Cell("min(a, b)", "smoothgrad", (_phi(sqrt(2)), 1 - _phi(sqrt(2))), False)  # b - a = 2 widths, e: sqrt 2
    yield Cell("linear", "vargrad", (0, 0))
    yield Cell("linear", "expected_gradients", (1.5 * (A - FIRST[0]), -2 * (B - FIRST[1])))
    a, b = FIRST[:2]
    yield Cell("a b", "expected_gradients", ((A - a) * (B + b) / 2, (B - b) * (A + a) / 2), False)


def _phi(t):
    from scipy.stats import norm

    return norm.cdf(t)


def _pictures():
    for name, net in NETS.items():
        for method, truth in PICTURES.items():
            yield Cell(name, method, truth(Inside(net)))


class Uniform(nn.Module):
    """A class token and the pixels as tokens; attention is the same everywhere, 1/T, and the head is linear."""

    def __init__(self, read):
        super().__init__()
        draw = torch.Generator().manual_seed(2)
        self.read = read
        self.pixel = nn.Conv2d(2, 3, 1, bias=False).double()
        self.value, self.head = nn.Linear(3, 3, bias=False).double(), nn.Linear(3, 2).double()
        with torch.no_grad():
            for weight in self.parameters():
                weight.copy_(torch.randn(weight.shape, generator=draw, dtype=torch.float64))

    def forward(self, x):
        z = self.pixel(x).flatten(2).transpose(1, 2)
        z = torch.cat([torch.zeros_like(z[:, :1]), z], 1)
        zero = 0 * z
        z = z + nn.functional.scaled_dot_product_attention(zero, zero, self.value(z))
        return self.head(z[:, 0] if self.read == "first" else z[:, 1:].mean(1))


UNIFORM = {f"uniform attention, {read} read": Uniform(read) for read in ("first", "patches")}


def _uniform():
    """y = h · (z_i + sum_j v_j / T), for the token i that is read or their mean, so dy/dW_ij = h · v_j."""
    count = SIZE[0] * SIZE[1]
    for name, net in UNIFORM.items():
        head, value, pixel = (m.weight.detach().numpy() for m in (net.head, net.value, net.pixel))
        speaks = np.maximum(np.einsum("c,cd,de,ehw->hw", head[1], value, pixel[:, :, 0, 0], PICTURE[0].numpy()), 0)
        first = net.read == "first"
        # of the patches that are read each keeps half of itself, and passes on half of everything evenly
        yield Cell(name, "rollout", np.full(SIZE, 0.5 / (count + 1) + (0 if first else 0.5 / count)))
        # the gradient at a row that is one of n read is an n-th
        share = speaks / (count + 1)
        yield Cell(name, "attention_gradient", share if first else share / count + 1 / count)
        yield Cell(name, "legrad", share)


CELLS = {(c.function, c.method): c for c in (*_features(), *_pictures(), *_uniform())}


def ask(cell, dtype=torch.float64):
    """What seewhy says: an explanation."""
    options = dict(OPTIONS.get(cell.method, {}))
    if cell.function in NETS:
        if cell.method == "feature_ablation":
            options["segments"] = torch.arange(SIZE[0] * SIZE[1]).view(SIZE)
        if cell.method == "kernel_shap":
            options["segments"] = torch.arange(SIZE[0] * SIZE[1]).view(SIZE)
        net = NETS[cell.function]
        return seewhy.explain(net, PICTURE, cell.method, target=1, upsample="none", **LAYER.get(cell.method, {}),
                              **options)  # fmt: skip
    if cell.function in UNIFORM:
        return seewhy.explain(UNIFORM[cell.function], PICTURE, cell.method, target=1, upsample="none")
    known = FUNCTIONS[cell.function]
    x = torch.tensor([known.x], dtype=dtype)
    if cell.method == "integrated_gradients":
        options |= {"steps": known.steps, "rule": known.rule, "baseline": 0}
    if cell.method == "expected_gradients":
        options["references"] = torch.tensor([FIRST[: len(known.x)]], dtype=dtype)
    if cell.method == "rise":
        options["cells"] = max(2, len(known.x))  # every feature is shown or hidden by itself
    return seewhy.explain(known.f, x, cell.method, **options)


READERS = ("gradcam", "gradcam++", "hirescam", "layercam", "xgradcam", "eigencam", "guided_gradcam", "scorecam",
           "ablationcam", "recipro_cam")  # fmt: skip
LAYER = {name: {"feature_layer": "1"} for name in READERS}


def off(cell, values, stderr=None):
    """How far an answer is off: as a share of the largest true value, or in standard errors."""
    truth, found = np.asarray(cell.truth, float).ravel(), np.asarray(values, float).ravel()
    gap = abs(truth - found)
    if cell.sure:
        return float(gap.max() / max(1.0, abs(truth).max()))
    error = np.asarray(stderr, float).ravel()
    # a fit without residuals has no error of its own; its penalty depends on how often each coalition came up
    error = error + 0.01 * (cell.method == "lime") * max(1.0, abs(truth).max())
    return float((gap / np.where(error == 0, np.inf if not gap.any() else 1e-300, error)).max())


# --- mosaics: DiFull of Rao et al. 2022


class Mosaic(nn.Module):
    """Four pictures in one, each seen by itself; class 2 j + c is class c of picture j. Its layers are mosaics too."""

    def __init__(self, side=8, kernel=3):
        super().__init__()
        self.first, self.one = nn.Conv2d(3, 5, kernel, padding=kernel // 2), nn.ReLU()
        self.second, self.two = nn.Conv2d(5, 4, kernel, padding=kernel // 2), nn.ReLU()
        self.head = nn.Linear(4 * side * side, 2)

    def each(self, x, layer):
        if layer.kernel_size == (1, 1):  # it sees no neighbours anyway
            return layer(x)
        rows = [torch.cat([layer(cell) for cell in row.chunk(2, 3)], 3) for row in x.chunk(2, 2)]
        return torch.cat(rows, 2)

    def forward(self, x):
        h = self.one(self.each(x, self.first))
        h = self.two(self.each(h, self.second))
        cells = [cell for row in h.chunk(2, 2) for cell in row.chunk(2, 3)]
        return torch.cat([self.head(cell.flatten(1)) for cell in cells], 1)


def outside(values, j):
    """What lies outside cell j of a mosaic's values, as a share of all."""
    size, inside = values.abs(), torch.zeros(values.shape[-2:], dtype=torch.bool)
    tall, wide = (s // 2 for s in inside.shape)
    inside[j // 2 * tall :][:tall, j % 2 * wide :][:, :wide] = True
    return float((size * ~inside).sum() / size.sum())


class Apart(nn.Module):
    """A mosaic whose cells have channels of their own, too: they are zero outside of their cell, in every layer.

    So one weight a channel makes no leak. A frame of one dead position around each cell keeps masks of three positions
    a side apart. Behind the first layer there are no constants, so that the score of a cell with nothing in it is zero.
    """

    def __init__(self, side=8, width=6):
        super().__init__()
        self.first, self.one = nn.Conv2d(12, 4 * width, 3, padding=1, groups=4), nn.ReLU()
        self.second = nn.Conv2d(4 * width, 4 * width, 3, padding=1, groups=4, bias=False)
        self.two = nn.ReLU()
        self.head = nn.Parameter(torch.zeros(2, width, 2 * side, 2 * side))
        cells = torch.zeros(4, 2, side, 2, side, dtype=torch.float64)
        for j in range(4):
            cells[j, j // 2, 1:-1, j % 2, 1:-1] = 1
        self.register_buffer("cells", cells.view(4, 1, 2 * side, 2 * side))

    def own(self, h):
        return (h.unflatten(1, (4, -1)) * self.cells).flatten(1, 2)

    def forward(self, x):
        h = self.own(x.repeat(1, 4, 1, 1))
        h = self.one(self.own(self.first(h)))
        h = self.two(self.own(self.second(h)))
        # products and sums row by row: a matrix product may round otherwise in another batch
        parts = h.unflatten(1, (4, 1, -1)) * self.head
        return parts.flatten(3).sum(3).flatten(1)


class Attending(nn.Module):
    """A mosaic of tokens that attend to those of their own cell only; class 2 j + c is class c of cell j."""

    def __init__(self, side=4):
        super().__init__()
        self.patch = nn.Conv2d(3, 6, 4, stride=4)
        self.parts = nn.ModuleList(nn.Linear(6, 18) for _ in range(2))
        self.heads = nn.ModuleList(nn.Linear(6, 2) for _ in range(4))
        half = (torch.arange(side) >= side // 2).long()
        self.register_buffer("cell", (2 * half[:, None] + half).flatten())

    def forward(self, x):
        z = self.patch(x).flatten(2).transpose(1, 2)
        among = self.cell[:, None] == self.cell
        for part in self.parts:
            z = z + nn.functional.scaled_dot_product_attention(*part(z).chunk(3, 2), attn_mask=among)
        return torch.cat([head(z[:, self.cell == j].mean(1)) for j, head in enumerate(self.heads)], 1)


# four samples, four classes each, in another order: a map of another class, of another sample, or with what was left
# over from the class before lies in another cell
TURNS = [[(n + k) % 4 for k in range(4)] for n in range(4)]


def leaks(net, method, turns=TURNS, **options):
    """[samples, 4 classes]: what lies outside the cell of the class, all asked in one call."""
    x = torch.randn(len(turns), 3, 16, 16, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    e = seewhy.explain(net, x, method, target=2 * torch.tensor(turns) + 1, **options)
    return [[outside(e.values[n, k], j) for k, j in enumerate(row)] for n, row in enumerate(turns)]


def _planted(spoil, doc):
    def kernel(activations, gradients):
        return gradcam(*spoil(activations, gradients))

    kernel.__doc__ = doc
    return Method(kernel, "layer_gradient", doc, "planted", LAYERS, channel_sum)


PLANTED = {  # Grad-CAM with a fault, to show that the mosaic can tell
    "the class of a neighbour": lambda a, g: (a, g.roll(1, 1)),
    "the channels of a neighbour": lambda a, g: (a, g.roll(3, 2)),
    "the sample of a neighbour": lambda a, g: (a, g.roll(1, 0)),
    "gradients left over from the class before": lambda a, g: (a, g.cumsum(1)),
    "a thousandth of what is left over": lambda a, g: (a, g + 1e-3 * g.roll(1, 1)),
}
PLANTED = {f"Grad-CAM, with {what}": _planted(spoil, what) for what, spoil in PLANTED.items()}
