"""Baselines and the pictures between them and the input."""

import numpy as np
import pytest
import torch
from torch import nn

import seewhy

X = torch.randn(2, 3, 6, 9, generator=torch.Generator().manual_seed(5))


@pytest.mark.row(25, 26, 27)
def test_path_has_both_ends():
    along = seewhy.path(nn.Flatten(), X, steps=25)
    assert along.shape == (25, 2, 3, 6, 9)
    assert (along[0] == 0).all()
    assert torch.equal(along[-1], X)
    for n in range(25):
        assert torch.allclose(along[n], n / 24 * X, atol=1e-6)
    with pytest.raises(seewhy.OptionError, match="steps=1"):
        seewhy.path(nn.Flatten(), X, steps=1)


@pytest.mark.row(24)
def test_baselines(lite0, shipped):
    x = lite0.prepare(shipped["coffee"])
    assert (seewhy.path(lite0, x)[0] == -1).all(), "black, in the network's units"
    assert (seewhy.path(lite0, x[..., :100, :90])[0] == -1).all(), "also of another size"
    assert (seewhy.path(nn.Flatten(), X, baseline=2)[0] == 2).all()
    mean = seewhy.path(nn.Flatten(), X, baseline="mean")[0]
    assert torch.allclose(mean[..., 0, 0], X.mean((2, 3)))
    assert (mean == mean[..., :1, :1]).all()
    for given in (X[0], X * 2, X[0, :, :1, :1], np.ones((3, 1, 1))):
        found = seewhy.path(nn.Flatten(), X, baseline=given)[0]
        assert torch.allclose(found, torch.as_tensor(given).float().expand_as(X))


def test_a_baseline_in_the_networks_own_layout():
    model = seewhy.wrap(nn.Flatten(), layout="NHWC")
    own = torch.randn(6, 9, 3)
    found = seewhy.path(model, X.permute(0, 2, 3, 1), baseline=own)[0]
    assert torch.equal(found[0], own.permute(2, 0, 1))


def test_the_baseline_is_named(lite0, shipped):
    e = seewhy.explain(lite0, shipped["coffee"], "integrated_gradients", steps=1)
    assert e.notes == ("baseline: a black picture",)


def test_black_through_the_users_own_preparation():
    model = seewhy.wrap(
        nn.Flatten(), prepare=lambda picture: torch.as_tensor(picture).permute(2, 0, 1)[None] / 255 - 0.3
    )
    assert torch.allclose(seewhy.path(model, X)[0], torch.tensor(-0.3))
    stubborn = seewhy.wrap(nn.Flatten(), prepare=lambda path: torch.load(path))
    with pytest.raises(seewhy.OptionError, match="refused a black picture"):
        seewhy.path(stubborn, X)
