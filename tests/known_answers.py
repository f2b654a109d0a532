"""Functions whose explanations are known in closed form, derived from the papers and not from the library.

`KNOWN_ANSWERS` maps (function, method) to a `KnownAnswer`; `compute_explanation(answer)` is seewhy's explanation.
"""

from itertools import product
from math import factorial, sqrt
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

import seewhy
from seewhy.engine.families import FAMILIES
from seewhy.maps import channel_sum
from seewhy.methods import LAYER_CAPABILITIES, Method
from seewhy.methods.cam.gradcam import gradcam

A, B, C = 0.75, 2.5, 2.0
relu = torch.relu


class KnownFunction(NamedTuple):
    """A function of a few features at a point x, and its attributions for the baseline 0."""

    f: Any
    x: tuple
    gradient: tuple
    integrated: tuple
    occlusion: tuple
    shapley: tuple
    steps: int = 50  # number of integration steps for which integrated gradients are exact
    rule: str = "midpoint"


FUNCTIONS = {
    "linear": KnownFunction(
        lambda x: 1.5 * x[:, 0] - 2 * x[:, 1], (A, B), (1.5, -2), (1.5 * A, -2 * B), (1.5 * A, -2 * B),
        (1.5 * A, -2 * B), 1,
    ),
    "a b": KnownFunction(
        lambda x: x[:, 0] * x[:, 1], (A, B), (B, A), (A * B / 2,) * 2, (A * B,) * 2, (A * B / 2,) * 2, 1
    ),
    "a b c": KnownFunction(
        lambda x: x.prod(1), (A, B, C), (B * C, A * C, A * B), (A * B * C / 3,) * 3, (A * B * C,) * 3,
        (A * B * C / 3,) * 3, 2, "gauss",
    ),
    "a b²": KnownFunction(
        lambda x: x[:, 0] * x[:, 1] ** 2, (A, B), (B**2, 2 * A * B), (A * B**2 / 3, 2 * A * B**2 / 3), (A * B**2,) * 2,
        (A * B**2 / 2,) * 2, 2, "gauss",
    ),
    "min(a, b)": KnownFunction(
        lambda x: x[:, 0] - relu(x[:, 0] - x[:, 1]), (A, B), (1, 0), (A, 0), (A, A), (A / 2, A / 2), 3
    ),
    "max(a, b)": KnownFunction(
        lambda x: x[:, 0] + relu(x[:, 1] - x[:, 0]), (A, B), (0, 1), (0, B), (0, B - A), (A / 2, B - A / 2), 3
    ),
    "1 - ReLU(1 - a)": KnownFunction(lambda x: 1 - relu(1 - x[:, 0]), (2.0,), (0,), (1,), (1,), (1,)),
    "ReLU(ReLU(a) - 1 - ReLU(b))": KnownFunction(
        lambda x: relu(relu(x[:, 0]) - 1 - relu(x[:, 1])), (3.0, 1.0), (1, -1), (1.5, -0.5), (1, -1), (1.5, -0.5)
    ),
}  # fmt: skip
GUIDED_GRADIENTS = {  # guided backprop and Zeiler-Fergus, by hand: every ReLU keeps only positive gradients
    "linear": (1.5, -2), "min(a, b)": (1, 0), "max(a, b)": (0, 1), "1 - ReLU(1 - a)": (0,),
    "ReLU(ReLU(a) - 1 - ReLU(b))": (1, 0),
}  # fmt: skip


def coalition_scores(known):
    """The score of every coalition z of features (a tuple of 0 and 1); the other features are 0."""
    x = torch.tensor(known.x, dtype=torch.float64)
    return {z: known.f((x * torch.tensor(z))[None]).item() for z in product((0, 1), repeat=len(x))}


def marginal_contributions(known, i):
    """For all coalitions without feature i: (size of the coalition, marginal contribution of i)."""
    v = coalition_scores(known)
    return [(sum(z), v[(*z[:i], 1, *z[i + 1 :])] - v[z]) for z in v if not z[i]]


def shapley_values(known):
    """Shapley 1953: the marginal contribution, averaged over all orders."""
    n = len(known.x)
    return [
        sum(factorial(s) * factorial(n - s - 1) / factorial(n) * g for s, g in marginal_contributions(known, i))
        for i in range(n)
    ]


def rise_values(known):
    """Petsiuk et al. 2018, eq. 6, minus the mean score, with every feature masked independently.

    2 (E[y m] - E[y] / 2) is half of the mean marginal contribution.
    """
    return [np.mean([g for _, g in marginal_contributions(known, i)]) / 2 for i in range(len(known.x))]


def lime_coefficients(known, samples):
    """Ribeiro et al. 2016, eq. 1, ridge 1: the fit to all coalitions, each weighted by its expected frequency."""
    v = coalition_scores(known)
    z, y = np.array(list(v), float), np.array(list(v.values()))
    weights = np.exp(-(((1 - np.sqrt(z.mean(1))) / 0.25) ** 2)) * samples / len(z)
    design = np.column_stack([np.ones(len(z)), z])
    ridge = np.diag([0.0, *[1.0] * len(known.x)])
    return np.linalg.solve(design.T @ (weights[:, None] * design) + ridge, design.T @ (weights * y))[1:]


# --- pictures: a 1 × 1 convolution, a ReLU, and a head, so that the layer and its gradient are known

SIZE = (4, 5)
PICTURE = torch.randn(1, 2, *SIZE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def _layer_network(channels, head, positive=False):
    net = nn.Sequential(nn.Conv2d(2, channels, 1), nn.ReLU(), head, nn.Flatten(), nn.Linear(channels, 2)).double()
    if isinstance(head, nn.Identity):
        net[4] = nn.Linear(channels * SIZE[0] * SIZE[1], 2).double()
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator, dtype=torch.float64))
        if positive:
            net[4].weight.abs_()
    return net.eval()


NETWORKS = {
    "pooled, linear": _layer_network(3, nn.AdaptiveAvgPool2d(1)),
    "one weight per position": _layer_network(3, nn.Identity()),
    "one channel": _layer_network(1, nn.AdaptiveAvgPool2d(1), positive=True),
}


class LayerOracle:
    """Such a network in numpy: layer [C, H, W], the gradient at the layer, the score for any layer output."""

    def __init__(self, net, target=1):
        self.v, self.b = net[0].weight.detach().numpy()[:, :, 0, 0], net[0].bias.detach().numpy()
        self.x = PICTURE[0].numpy()
        before = np.einsum("kc,chw->khw", self.v, self.x) + self.b[:, None, None]
        self.active, self.layer = before > 0, np.maximum(before, 0)
        w, self.bias = net[4].weight.detach().numpy()[target], net[4].bias.detach().numpy()[target]
        pooled = w.size == len(self.layer)
        self.layer_gradient = np.broadcast_to(w[:, None, None] / np.prod(SIZE), self.layer.shape) if pooled else \
            w.reshape(self.layer.shape)  # fmt: skip
        self.gradient = np.einsum("kc,khw->chw", self.v, self.layer_gradient * self.active)

    def score(self, layer):
        return (self.layer_gradient * layer).sum() + self.bias

    def score_at(self, x):
        return self.score(np.maximum(np.einsum("kc,chw->khw", self.v, x) + self.b[:, None, None], 0))


def _weighted_sum(weights, layer):
    return np.einsum("k,khw->hw", weights, layer)


def _gradcam_plus_plus(i):
    gradient, total = i.layer_gradient, i.layer.sum((1, 2), keepdims=True)
    return np.maximum(_weighted_sum((np.maximum(gradient, 0) / (2 + gradient * total)).sum((1, 2)), i.layer), 0)


def _xgradcam(i):
    total = i.layer.sum((1, 2))
    weights = (i.layer_gradient * i.layer).sum((1, 2)) / np.where(total == 0, np.inf, total)
    return _weighted_sum(weights, i.layer)


def _eigencam(i):
    flat = i.layer.reshape(len(i.layer), -1)
    component = np.linalg.svd(flat, full_matrices=False)[0][:, 0]
    projection = (component @ flat).reshape(SIZE)
    return projection * np.sign(projection.sum())


def _scorecam(i):
    scores = []
    for a in i.layer:
        mask = (a - a.min()) / (a.max() - a.min())
        scores.append(i.score_at(i.x * mask))
    weights = np.exp(np.array(scores) - max(scores))
    return np.maximum(_weighted_sum(weights / weights.sum(), i.layer), 0)


def _ablationcam(i):
    weights = []
    for c in range(len(i.layer)):
        ablated = i.layer.copy()
        ablated[c] = 0
        weights.append(i.score(i.layer) - i.score(ablated))
    return np.maximum(_weighted_sum(np.array(weights), i.layer), 0)


def _recipro_cam(i):
    scores = np.zeros(SIZE)
    for center in np.ndindex(*SIZE):
        mask = np.zeros(SIZE)
        for position in np.ndindex(*SIZE):
            distance = abs(np.array(position) - center)
            if distance.max() <= 1:
                mask[position] = 2.0 ** -(2 + distance.sum())
        scores[center] = i.score(i.layer * mask)
    return scores


def _guided_backprop(i):
    gradient = np.where(i.active & (i.layer_gradient > 0), i.layer_gradient, 0)
    return np.einsum("kc,khw->chw", i.v, gradient)


def _rescaled_magnitude(values):
    magnitude = abs(values)
    value_range = magnitude.max() - magnitude.min()
    return (magnitude - magnitude.min()).sum(0) / (value_range or np.inf)


def _fullgrad(i):
    return _rescaled_magnitude(i.x * i.gradient) + _rescaled_magnitude(i.b[:, None, None] * i.layer_gradient * i.active)


def _gradcam(i):
    return np.maximum(_weighted_sum(i.layer_gradient.mean((1, 2)), i.layer), 0)


def _occlusion(i):
    """Decrease of the score when one position is replaced by 0."""
    differences = np.zeros(SIZE)
    for position in np.ndindex(*SIZE):
        x = i.x.copy()
        x[(slice(None), *position)] = 0
        differences[position] = i.score_at(i.x) - i.score_at(x)
    return differences


PICTURE_ORACLES = {
    "gradient": lambda i: i.gradient,
    "input_x_gradient": lambda i: i.x * i.gradient,
    "guided_backprop": _guided_backprop,
    "gradcam": _gradcam,
    "gradcam++": _gradcam_plus_plus,
    "hirescam": lambda i: (i.layer_gradient * i.layer).sum(0),
    "layercam": lambda i: np.maximum((np.maximum(i.layer_gradient, 0) * i.layer).sum(0), 0),
    "xgradcam": _xgradcam,
    "eigencam": _eigencam,
    "guided_gradcam": lambda i: _guided_backprop(i) * _gradcam(i),
    "fullgrad": _fullgrad,
    "scorecam": _scorecam,
    "ablationcam": _ablationcam,
    "recipro_cam": _recipro_cam,
    "occlusion": _occlusion,
    "feature_ablation": _occlusion,
    "kernel_shap": _occlusion,  # positions do not interact
    "shapley_sampling": _occlusion,
}
REFERENCE = (1.0, 0.5, 0.25)  # the only reference of expected gradients
SAMPLES = 1000
OPTIONS = {  # of the known answers; every method masks with zeros
    "smoothgrad": {"samples": 100, "sigma": 0.5}, "vargrad": {"samples": 100, "sigma": 0.5},
    "occlusion": {"mask_size": 1, "stride": 1}, "kernel_shap": {"samples": 64}, "rise": {"samples": SAMPLES},
    "lime": {"surrogate": "linear", "samples": SAMPLES}, "shapley_sampling": {"samples": 100},
    "expected_gradients": {"samples": 100},
}  # fmt: skip


class KnownAnswer(NamedTuple):
    """The known attributions of a method; `exact`: to rounding, else within four standard errors."""

    function: str
    method: str
    expected: Any
    exact: bool = True


def _feature_answers():
    for name, k in FUNCTIONS.items():
        product_ = tuple(g * x for g, x in zip(k.gradient, k.x, strict=True))
        for method, expected in (
            ("gradient", k.gradient), ("input_x_gradient", product_), ("integrated_gradients", k.integrated),
            ("occlusion", k.occlusion), ("feature_ablation", k.occlusion), ("kernel_shap", k.shapley),
        ):  # fmt: skip
            yield KnownAnswer(name, method, expected)
        # the contributions are the same in all orders only if the features do not interact
        yield KnownAnswer(name, "shapley_sampling", k.shapley, name in ("linear", "1 - ReLU(1 - a)"))
        yield KnownAnswer(name, "rise", rise_values(k), False)
        yield KnownAnswer(name, "lime", lime_coefficients(k, SAMPLES), False)
    for name, expected in GUIDED_GRADIENTS.items():
        yield KnownAnswer(name, "guided_backprop", expected)
        yield KnownAnswer(name, "zeiler_fergus", expected)
    # DeepLIFT by hand: a ReLU whose input changes its sign passes on the ratio of its differences of output and input
    for name, expected in {
        "linear": (1.5 * A, -2 * B), "min(a, b)": (A, 0), "max(a, b)": (0, B), "1 - ReLU(1 - a)": (1,),
        "ReLU(ReLU(a) - 1 - ReLU(b))": (1.5, -0.5),
    }.items():  # fmt: skip
        yield KnownAnswer(name, "deeplift", expected)
    # noise e does not change the gradient of a linear function; it adds e_b and e_a to the gradient of a b
    width = 0.5 * (B - A)
    yield KnownAnswer("linear", "smoothgrad", (1.5, -2))
    yield KnownAnswer("a b", "smoothgrad", (B, A), False)
    yield KnownAnswer("a b²", "smoothgrad", (B**2 + width**2, 2 * A * B), False)
    p = _normal_cdf(sqrt(2))  # b - a = 2 widths, and e_b - e_a has the standard deviation sqrt(2) widths
    yield KnownAnswer("min(a, b)", "smoothgrad", (p, 1 - p), False)
    yield KnownAnswer("linear", "vargrad", (0, 0))
    yield KnownAnswer("linear", "expected_gradients", (1.5 * (A - REFERENCE[0]), -2 * (B - REFERENCE[1])))
    a, b = REFERENCE[:2]
    yield KnownAnswer("a b", "expected_gradients", ((A - a) * (B + b) / 2, (B - b) * (A + a) / 2), False)


def _normal_cdf(t):
    from scipy.stats import norm

    return norm.cdf(t)


def _picture_answers():
    for name, net in NETWORKS.items():
        for method, oracle in PICTURE_ORACLES.items():
            yield KnownAnswer(name, method, oracle(LayerOracle(net)))


class UniformAttention(nn.Module):
    """A class token and the pixels as tokens, with uniform attention weights 1/T and a linear head."""

    def __init__(self, readout):
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        self.readout = readout
        self.pixel = nn.Conv2d(2, 3, 1, bias=False).double()
        self.value, self.head = nn.Linear(3, 3, bias=False).double(), nn.Linear(3, 2).double()
        with torch.no_grad():
            for weight in self.parameters():
                weight.copy_(torch.randn(weight.shape, generator=generator, dtype=torch.float64))

    def forward(self, x):
        z = self.pixel(x).flatten(2).transpose(1, 2)
        z = torch.cat([torch.zeros_like(z[:, :1]), z], 1)
        zero = 0 * z
        z = z + nn.functional.scaled_dot_product_attention(zero, zero, self.value(z))
        return self.head(z[:, 0] if self.readout == "class token" else z[:, 1:].mean(1))


UNIFORM_ATTENTION = {f"uniform attention, readout: {r}": UniformAttention(r) for r in ("class token", "patches")}


def _uniform_attention_answers():
    """y = h · (z_i + sum_j v_j / T) for the readout token i, or the mean over several; hence dy/dW_ij = h · v_j."""
    count = SIZE[0] * SIZE[1]
    for name, net in UNIFORM_ATTENTION.items():
        head, value, pixel = (m.weight.detach().numpy() for m in (net.head, net.value, net.pixel))
        positive = np.maximum(np.einsum("c,cd,de,ehw->hw", head[1], value, pixel[:, :, 0, 0], PICTURE[0].numpy()), 0)
        first = net.readout == "class token"
        # with patch readout, each patch keeps half of itself (residual connection); the other half is the uniform mean
        yield KnownAnswer(name, "rollout", np.full(SIZE, 0.5 / (count + 1) + (0 if first else 0.5 / count)))
        # with readout from n tokens, the gradient at each of their rows is 1/n of it
        relevance = positive / (count + 1)
        yield KnownAnswer(name, "attention_gradient", relevance if first else relevance / count + 1 / count)
        yield KnownAnswer(name, "legrad", relevance)


KNOWN_ANSWERS = {
    (c.function, c.method): c for c in (*_feature_answers(), *_picture_answers(), *_uniform_attention_answers())
}


def compute_explanation(answer, dtype=torch.float64):
    """The explanation that seewhy computes."""
    method = seewhy.METHODS[answer.method]
    options = {"mask_value": 0} if "mask_value" in method.options else {}
    options |= OPTIONS.get(answer.method, {})
    if answer.function in NETWORKS:
        options |= {"segments": torch.arange(SIZE[0] * SIZE[1]).view(SIZE)} if "segments" in method.options else {}
        options |= {"feature_layer": "1"} if FAMILIES[method.family].uses_layer else {}
        return seewhy.explain(NETWORKS[answer.function], PICTURE, answer.method, target=1, upsample="none", **options)
    if answer.function in UNIFORM_ATTENTION:
        return seewhy.explain(UNIFORM_ATTENTION[answer.function], PICTURE, answer.method, target=1, upsample="none")
    known = FUNCTIONS[answer.function]
    x = torch.tensor([known.x], dtype=dtype)
    if answer.method == "integrated_gradients":
        options |= {"steps": known.steps, "rule": known.rule, "baseline": 0}
    if answer.method == "expected_gradients":
        options["references"] = torch.tensor([REFERENCE[: len(known.x)]], dtype=dtype)
    if answer.method == "rise":
        options["cells"] = max(2, len(known.x))  # every feature is masked independently
    return seewhy.explain(known.f, x, answer.method, **options)


def answer_error(answer, values, stderr=None):
    """Largest error: relative to the largest expected value, or in standard errors."""
    expected, result = np.asarray(answer.expected, float).ravel(), np.asarray(values, float).ravel()
    difference = abs(expected - result)
    if answer.exact:
        return float(difference.max() / max(1.0, abs(expected).max()))
    error = np.asarray(stderr, float).ravel()
    # a fit without residuals has no standard error, but its ridge penalty depends on how often each coalition was drawn
    error = error + 0.01 * (answer.method == "lime") * max(1.0, abs(expected).max())
    return float((difference / np.where(error == 0, np.inf if not difference.any() else 1e-300, error)).max())


# --- mosaics: DiFull of Rao et al. 2022


class Mosaic(nn.Module):
    """Four pictures in one, processed independently; class 2 j + c is class c of picture j. All layers are mosaics."""

    def __init__(self, side=8, kernel=3):
        super().__init__()
        self.first, self.one = nn.Conv2d(3, 5, kernel, padding=kernel // 2), nn.ReLU()
        self.second, self.two = nn.Conv2d(5, 4, kernel, padding=kernel // 2), nn.ReLU()
        self.head = nn.Linear(4 * side * side, 2)

    def apply_per_cell(self, x, layer):
        if layer.kernel_size == (1, 1):  # its receptive field is one pixel
            return layer(x)
        rows = [torch.cat([layer(cell) for cell in row.chunk(2, 3)], 3) for row in x.chunk(2, 2)]
        return torch.cat(rows, 2)

    def forward(self, x):
        h = self.one(self.apply_per_cell(x, self.first))
        h = self.two(self.apply_per_cell(h, self.second))
        cells = [cell for row in h.chunk(2, 2) for cell in row.chunk(2, 3)]
        return torch.cat([self.head(cell.flatten(1)) for cell in cells], 1)


def fraction_outside(values, j):
    """Fraction of the absolute values outside cell j of a mosaic."""
    magnitude, inside = values.abs(), torch.zeros(values.shape[-2:], dtype=torch.bool)
    height, width = (s // 2 for s in inside.shape)
    inside[j // 2 * height :][:height, j % 2 * width :][:, :width] = True
    return float((magnitude * ~inside).sum() / magnitude.sum())


class SeparateMosaic(nn.Module):
    """A mosaic whose cells also have separate channels, which are zero outside their cell in every layer.

    Thus methods with one weight per channel do not leak between cells. A border of one masked position around each
    cell separates masks of 3 × 3 positions. After the first layer there are no biases, so that the score of an empty
    cell is zero.
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

    def mask_cells(self, h):
        return (h.unflatten(1, (4, -1)) * self.cells).flatten(1, 2)

    def forward(self, x):
        h = self.mask_cells(x.repeat(1, 4, 1, 1))
        h = self.one(self.mask_cells(self.first(h)))
        h = self.two(self.mask_cells(self.second(h)))
        # products and sums per sample, because the rounding of a matrix product may depend on the batch size
        parts = h.unflatten(1, (4, 1, -1)) * self.head
        return parts.flatten(3).sum(3).flatten(1)


class AttentionMosaic(nn.Module):
    """A mosaic of tokens that attend only to tokens of their own cell; class 2 j + c is class c of cell j."""

    def __init__(self, side=4):
        super().__init__()
        self.patch = nn.Conv2d(3, 6, 4, stride=4)
        self.parts = nn.ModuleList(nn.Linear(6, 18) for _ in range(2))
        self.heads = nn.ModuleList(nn.Linear(6, 2) for _ in range(4))
        half = (torch.arange(side) >= side // 2).long()
        self.register_buffer("cell", (2 * half[:, None] + half).flatten())

    def forward(self, x):
        z = self.patch(x).flatten(2).transpose(1, 2)
        mask = self.cell[:, None] == self.cell
        for part in self.parts:
            z = z + nn.functional.scaled_dot_product_attention(*part(z).chunk(3, 2), attn_mask=mask)
        return torch.cat([head(z[:, self.cell == j].mean(1)) for j, head in enumerate(self.heads)], 1)


# four samples with four classes each, in different orders: the map of another class or sample, or a map with residual
# gradients of the previous class, lies in another cell
CELL_ORDERS = [[(n + k) % 4 for k in range(4)] for n in range(4)]


def mosaic_options(name, layer="two", mask_value=0):
    """Options of a method for the mosaics: maps at their own resolution, few noisy copies, 16 segments in cells."""
    method = seewhy.METHODS[name]
    options = {"samples": 6} if method.stochastic and method.family == "path_gradient" else {}
    options |= {"segments": "grid", "features": 16} if "segments" in method.options else {}
    options |= {"mask_value": mask_value} if "mask_value" in method.options else {}
    if FAMILIES[method.family].uses_layer:
        options |= {"feature_layer": layer}
    return options | ({"upsample": "none"} if method.reduce is channel_sum else {})


def leakage(net, method, orders=CELL_ORDERS, **options):
    """[samples, 4 classes]: fraction of each map outside the cell of its class; all maps from one call."""
    x = torch.randn(len(orders), 3, 16, 16, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    e = seewhy.explain(net, x, method, target=2 * torch.tensor(orders) + 1, **options)
    return [[fraction_outside(e.values[n, k], j) for k, j in enumerate(row)] for n, row in enumerate(orders)]


def _faulty_gradcam(fault, doc):
    def kernel(activations, gradients):
        return gradcam(*fault(activations, gradients))

    kernel.__doc__ = doc
    return Method(kernel, "layer_gradient", doc, "faulty", requires=LAYER_CAPABILITIES, reduce=channel_sum)


FAULTY_GRADCAM = {  # Grad-CAM with a fault, to verify that the mosaic detects it
    "the gradients of another class": lambda a, g: (a, g.roll(1, 1)),
    "the gradients of other channels": lambda a, g: (a, g.roll(3, 2)),
    "the gradients of another sample": lambda a, g: (a, g.roll(1, 0)),
    "gradients accumulated over classes": lambda a, g: (a, g.cumsum(1)),
    "0.001 of the gradients of another class": lambda a, g: (a, g + 1e-3 * g.roll(1, 1)),
}
FAULTY_GRADCAM = {f"Grad-CAM, with {name}": _faulty_gradcam(fault, name) for name, fault in FAULTY_GRADCAM.items()}
