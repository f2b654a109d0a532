"""Resampling against its definition, MATLAB's results, Pillow, and torch."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate

from seewhy.errors import OptionError
from seewhy.maps.resample import resample

MODES = ["bicubic", "linear", "nearest"]


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def cubic(x):
    """Keys 1981, equation 4 with a = -1/2 (equation 15)."""
    x = abs(x)
    if x < 1:
        return 3 / 2 * x**3 - 5 / 2 * x**2 + 1
    return -1 / 2 * x**3 + 5 / 2 * x**2 - 4 * x + 2 if x < 2 else 0.0


def triangle(x):
    return max(0.0, 1 - abs(x))


def mirrored(j, n):
    """Index j mirrored at the edges: ... 1 0 | 0 1 ... n-1 | n-1 n-2 ..."""
    while not 0 <= j < n:
        j = -1 - j if j < 0 else 2 * n - 1 - j
    return j


def row(n, out, i, mode):
    """Weights of the old pixels in the new pixel i, as a dictionary."""
    if n == out:
        return {i: 1.0}
    u = (i + 0.5) * n / out - 0.5
    if mode == "nearest":
        return {math.floor((i + 0.5) * n / out): 1.0}
    s = min(1, out / n)
    kernel = {"bicubic": cubic, "linear": triangle}[mode]
    radius = math.ceil(2 / s) + 2
    weights = {}
    for j in range(math.floor(u) - radius, math.floor(u) + radius + 1):
        weights[mirrored(j, n)] = weights.get(mirrored(j, n), 0) + s * kernel(s * (u - j))
    total = sum(weights.values())
    return {j: w / total for j, w in weights.items()}


def oracle(one, size, mode):
    """One resampled map, by loops: every new pixel is the sum over all products of the weights of its axes."""
    rows = [[row(n, out, i, mode) for i in range(out)] for n, out in zip(one.shape, size, strict=True)]
    new = torch.zeros(*size, dtype=torch.float64)
    for position in product(*map(range, size)):
        for taps in product(*(rows[axis][i].items() for axis, i in enumerate(position))):
            new[position] += math.prod(w for _, w in taps) * one[tuple(j for j, _ in taps)].item()
    return new


SIZES = [
    ((5,), (13,)),
    ((13,), (5,)),
    ((1,), (6,)),
    ((7,), (1,)),
    ((2,), (31,)),
    ((40,), (3,)),
    ((2,), (1,)),
    ((6, 9), (17, 5)),
    ((3, 3), (8, 7)),
    ((9, 8), (4, 3)),
    ((4, 5), (4, 11)),
    ((1, 2), (5, 1)),
    ((2, 3, 4), (5, 4, 7)),
    ((5, 4, 3), (2, 3, 1)),
    ((3, 6, 1), (7, 2, 3)),
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("old", "new"), SIZES)
def test_resample_equals_definition(old, new, mode):
    maps = noise(2, 2, *old)
    result = resample(maps, new, mode)
    for n, k in product(range(2), range(2)):
        assert (result[n, k] - oracle(maps[n, k], new, mode)).abs().max() < 1e-12


@pytest.mark.row(113, 142)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("old", "new"),
    [((10,), (299,)), ((10, 10), (299, 299)), ((7, 7), (224, 320)), ((300, 301), (299, 299)), ((3, 4, 5), (16, 9, 30))],
)
def test_resample_to_given_size(old, new, mode):
    assert resample(noise(2, 3, *old), new, mode).shape == (2, 3, *new)
    assert resample(noise(2, 3, *old), torch.Size(new), mode).is_contiguous()


# Two pixels to four: new centers at u = -1/4, 1/4, 3/4, 5/4.
# Cubic: k(1/4) = 111/128, k(3/4) = 29/128, k(5/4) = -9/128, k(7/4) = -3/128.
# [0 1] mirrored is 1 0 | 0 1 | 1 0, at -2 -1 0 1 2 3. At u = -1/4 the ones have distance 7/4, 5/4: -3/128 - 9/128.
# At u = 1/4 they have distance 3/4 and 7/4 (at 1 and 2): 29/128 - 3/128. The other two by symmetry.
# Four to two, cubic: k(x/2)/2, s = 1/2; u = 1/2, 5/2. Of [0 0 0 1], mirrored 0 0 0 | 0 0 0 1 | 1 0 0 0:
# u = 1/2: ones at 3 and 4, distance 5/2 and 7/2: (k(5/4) + k(7/4))/2 = -6/128; u = 5/2: 1/2 and 3/2: 70/128.
# The mirrored indices -1 -2 -3 -4 = 0 1 2 3 add -4, at distance 9/2 from u = 1/2: outside the kernel.
EXACT = [
    ("linear", [0, 1], [0, 0.25, 0.75, 1]),
    ("linear", [0, 2, 1], [0, 0.5, 1.5, 1.75, 1.25, 1]),
    ("linear", [0, 0, 0, 8], [0.0, 4.0]),  # weights 1/8 3/8 3/8 1/8, and the mirrored 1/8: 8 (3/8 + 1/8)
    ("bicubic", [0, 1], [-12 / 128, 26 / 128, 102 / 128, 140 / 128]),
    ("bicubic", [0, 0, 0, 1], [-6 / 128, 70 / 128]),
    ("nearest", [3, 8], [3, 3, 8, 8]),
    ("nearest", [1, 2, 3], [1, 3]),  # floor(0.75), floor(2.25)
    ("nearest", [1, 2, 3], [1, 1, 2, 3, 3]),  # floor of 0.3 0.9 1.5 2.1 2.7
]


@pytest.mark.row(110)
@pytest.mark.parametrize(("mode", "old", "new"), EXACT)
def test_resample_equals_exact_values(mode, old, new):
    result = resample(torch.tensor([[old]], dtype=torch.float64), [len(new)], mode)
    assert result.flatten().tolist() == pytest.approx(new, abs=1e-14)


@pytest.mark.row(110)
@pytest.mark.parametrize(("old", "new"), [((12, 15), (40, 37)), ((7, 7), (299, 299)), ((64, 50), (20, 31))])
@pytest.mark.parametrize(
    ("mode", "filter_"), [("bicubic", Image.Resampling.BICUBIC), ("linear", Image.Resampling.BILINEAR)]
)
def test_resample_equals_pillow_inside(old, new, mode, filter_):
    """Pillow truncates the kernel at the border, where MATLAB mirrors the image."""
    one = noise(*old).float()
    ours = resample(one[None, None], new, mode)[0, 0]
    pillow = torch.from_numpy(np.array(Image.fromarray(one.numpy(), "F").resize(new[::-1], filter_)))
    margins = [math.ceil(2 * max(1, out / n)) + 1 for n, out in zip(old, new, strict=True)]
    inside = tuple(slice(m, -m) for m in margins)
    difference = (ours - pillow).abs()
    assert difference[inside].numel() > 100
    assert difference[inside].max() < 1e-5
    assert (difference.max() > 1e-3) == (mode == "bicubic" or new[0] < old[0])


def test_resample_against_torch():
    maps = noise(1, 2, 6, 7)
    assert (resample(maps, (20, 30)) - interpolate(maps, (20, 30), mode="bicubic")).abs().max() > 0.01
    assert (resample(maps, (20, 30), "linear") - interpolate(maps, (20, 30), mode="bilinear")).abs().max() < 1e-12


@pytest.mark.row(114)
@pytest.mark.parametrize("axis", [2, 3, 4])
def test_cubic_along_each_axis(axis):
    """The exact values along each axis, and an outer product of three lines, which remains one."""
    line = torch.tensor([0.0, 1.0]).double()
    known = torch.tensor([-12, 26, 102, 140]).double() / 128
    maps = line.reshape([2 if a == axis else 1 for a in range(5)]).expand(
        1, 1, *(2 if a == axis else 3 for a in (2, 3, 4))
    )
    size = [4 if a == axis else 5 for a in (2, 3, 4)]
    result = resample(maps, size).movedim(axis, -1)
    assert (result - known).abs().max() < 1e-14
    a, b, c = noise(1, 1, 3), noise(1, 1, 4) + 1, noise(1, 1, 5) - 1
    cube = torch.einsum("nki,nkj,nkl->nkijl", a, b, c)
    lines = [resample(m, [n]) for m, n in ((a, 8), (b, 9), (c, 7))]
    assert (resample(cube, (8, 9, 7)) - torch.einsum("nki,nkj,nkl->nkijl", *lines)).abs().max() < 1e-13


@pytest.mark.row(111)
def test_nearest_repeats_values():
    maps = noise(2, 2, 3, 4)
    assert torch.equal(resample(maps, (9, 8), "nearest"), maps.repeat_interleave(3, 2).repeat_interleave(2, 3))
    for size in ((10, 7), (2, 3), (1, 1)):
        assert set(resample(maps, size, "nearest").flatten().tolist()) <= set(maps.flatten().tolist())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("old", "new"), SIZES)
def test_resample_of_constant_map(old, new, mode):
    """Exactly constant, so that `rescale` detects it."""
    for dtype in (torch.float64, torch.float32, torch.float16):
        result = resample(torch.full((1, 1, *old), -3.7, dtype=dtype), new, mode)
        assert torch.equal(result, torch.full((1, 1, *new), -3.7, dtype=dtype))


@pytest.mark.parametrize("mode", MODES)
def test_resample_to_same_size(mode):
    for size in ((5,), (5, 6), (5, 6, 7)):
        maps = noise(2, 2, *size)
        assert torch.equal(resample(maps, size, mode), maps)
    one = noise(1, 1, 1, 6).expand(1, 1, 4, 6)
    assert torch.equal(resample(one, (4, 9), mode), resample(one[:, :, :1], (1, 9), mode).expand(1, 1, 4, 9))


def test_bicubic_overshoot_is_not_clipped():
    step = torch.tensor([[[0.0, 0, 0, 1, 1, 1]]])
    result = resample(step, [24])
    assert result.min() < -0.05
    assert result.max() > 1.05
    assert resample(step, [24], "linear").min() == 0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 0), (torch.float32, 1e-6), (torch.float16, 1e-2), (torch.bfloat16, 5e-2)]
)
def test_resample_keeps_dtype(mode, dtype, tolerance):
    maps = noise(1, 2, 7, 6).to(dtype)
    result = resample(maps, (12, 4), mode)
    assert result.dtype == dtype
    assert (result.double() - resample(maps.double(), (12, 4), mode)).abs().max() <= tolerance


def test_resample_of_long_signal():
    """A matrix of 200,000 by 20,000 weights would take 32 GB."""
    assert resample(torch.ones(1, 1, 20_000), [200_000]).shape == (1, 1, 200_000)


@pytest.mark.parametrize(
    ("old", "size", "mode"),
    [
        ((4, 4), (8,), "linear"),
        ((4,), (8, 8), "linear"),
        ((4,), (0,), "linear"),
        ((4,), (8,), "cubic"),
        ((), (), "linear"),
    ],
)
def test_resample_rejects_invalid_size_and_mode(old, size, mode):
    with pytest.raises(OptionError):
        resample(torch.ones(1, 1, *old), size, mode)
