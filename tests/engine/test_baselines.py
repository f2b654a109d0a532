"""Baselines, and the path from a baseline to the input."""

import numpy as np
import pytest
import torch
from torch import nn

import seewhy

X = torch.randn(2, 3, 6, 9, generator=torch.Generator().manual_seed(5))


@pytest.mark.row(26, 27)
def test_path_points_are_equidistant_and_include_ends():
    points = seewhy.path(nn.Flatten(), X, steps=25)
    assert points.shape == (25, 2, 3, 6, 9)
    assert (points[0] == 0).all()
    assert torch.equal(points[-1], X)
    for n in range(25):
        assert torch.allclose(points[n], n / 24 * X, atol=1e-6)
    with pytest.raises(seewhy.OptionError, match="steps=1"):
        seewhy.path(nn.Flatten(), X, steps=1)


@pytest.mark.row(24)
def test_baselines_of_path(lite0, shipped):
    x = lite0.prepare(shipped["coffee"])
    assert (seewhy.path(lite0, x)[0] == -1).all(), "black, in the units of the network"
    assert (seewhy.path(lite0, x[..., :100, :90])[0] == -1).all(), "the same for another size"
    assert (seewhy.path(nn.Flatten(), X, baseline=2)[0] == 2).all()
    mean = seewhy.path(nn.Flatten(), X, baseline="mean")[0]
    assert torch.allclose(mean[..., 0, 0], X.mean((2, 3)))
    assert (mean == mean[..., :1, :1]).all()
    for baseline in (X[0], X * 2, X[0, :, :1, :1], np.ones((3, 1, 1))):
        start = seewhy.path(nn.Flatten(), X, baseline=baseline)[0]
        assert torch.allclose(start, torch.as_tensor(baseline).float().expand_as(X))


def test_baseline_in_model_layout():
    model = seewhy.wrap(nn.Flatten(), layout="NHWC")
    own = torch.randn(6, 9, 3)
    start = seewhy.path(model, X.permute(0, 2, 3, 1), baseline=own)[0]
    assert torch.equal(start[0], own.permute(2, 0, 1))


def test_baseline_is_described_in_notes(lite0, shipped):
    e = seewhy.explain(lite0, shipped["coffee"], "integrated_gradients", steps=1)
    assert e.notes == ("baseline: a black picture",)


def test_black_baseline_with_own_preparation():
    model = seewhy.wrap(
        nn.Flatten(), prepare=lambda picture: torch.as_tensor(picture).permute(2, 0, 1)[None] / 255 - 0.3
    )
    assert torch.allclose(seewhy.path(model, X)[0], torch.tensor(-0.3))
    failing = seewhy.wrap(nn.Flatten(), prepare=lambda path: torch.load(path))
    with pytest.raises(seewhy.OptionError, match="failed on a black picture"):
        seewhy.path(failing, X)
