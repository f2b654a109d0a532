"""Every method of the table against its slow oracle."""

import numpy as np
import pytest
import torch
from tests.oracles import ORACLES
from tests.oracles.attention import Vit, VitTwin
from tests.oracles.network import Network, Twin

import seewhy
from seewhy.methods.draws import normal, uniform
from seewhy.methods.families import FAMILIES

TARGETS = np.array([[3, 0, 2], [1, 2, 0]])
REFERENCES = np.random.default_rng(2).normal(size=(5, 3, 6, 9))


def same_draws(samples):
    """The random numbers that seed 4 gives, for the oracle."""
    x = torch.zeros(1, 3, 6, 9, dtype=torch.float64)
    where = uniform(4)(0, samples).double().numpy()
    return {
        "noise": normal(4, x)(0, samples).numpy(),
        "at": (np.arange(samples) + where[:, 0]) / samples,
        "references": REFERENCES[(where[:, 1] * len(REFERENCES)).astype(int)],
    }


SEGMENTS = np.arange(6)[:, None] // 2 * 3 + np.arange(9)[None] // 3  # nine of two by three


def same_masks(pairs, cells):
    """The soft masks that seed 4 gives, for the oracle."""
    found = []
    draws = uniform(4)(0, pairs, (cells + 1) ** 2 + 2).double().numpy()
    tall, wide = -(-6 // cells), -(-9 // cells)
    for draw in draws:
        grid = (draw[2:] < 0.5).reshape(cells + 1, cells + 1)
        large = np.zeros(((cells + 1) * tall, (cells + 1) * wide))
        for i, j in np.ndindex(*large.shape):  # pixel centres aligned, edges repeated
            p, q = (i + 0.5) / tall - 0.5, (j + 0.5) / wide - 0.5
            for a in range(cells + 1):
                for b in range(cells + 1):
                    near = [min(max(v, 0), cells) for v in (p, q)]
                    large[i, j] += max(0, 1 - abs(near[0] - a)) * max(0, 1 - abs(near[1] - b)) * grid[a, b]
        top, left = int(draw[0] * tall), int(draw[1] * wide)
        found.append(large[top : top + 6, left : left + 9])
    return np.array(found)


# name: options of the method, options of its oracle
OPTIONS = {
    "integrated_gradients": ({"steps": 6, "baseline": 0.0}, {"steps": 6}),
    "smoothgrad": ({"samples": 5, "sigma": 0.2, "seed": 4}, {"sigma": 0.2, "noise": same_draws(5)["noise"]}),
    "vargrad": ({"samples": 5, "sigma": 0.2, "seed": 4}, {"sigma": 0.2, "noise": same_draws(5)["noise"]}),
    "expected_gradients": (
        {"samples": 6, "references": REFERENCES, "seed": 4},
        {key: same_draws(6)[key] for key in ("at", "references")},
    ),
    "occlusion": ({"mask_size": (3, 4), "stride": 2}, {"sides": (3, 4), "steps": (2, 2)}),
    "feature_ablation": ({"segments": SEGMENTS}, {"segments": SEGMENTS}),
    "lime": (
        {"segments": SEGMENTS, "samples": 40, "surrogate": "linear", "seed": 4},
        {"segments": SEGMENTS, "kept": (uniform(4)(0, 40, 9) < 0.5).double().numpy()},
    ),
    "rise": ({"samples": 12, "cells": 2, "seed": 4}, {"masks": same_masks(6, 2)}),
    "random": ({"seed": 4}, {"noise": same_draws(1)["noise"][0, 0]}),
    "kernel_shap": ({"segments": SEGMENTS // 2}, {"segments": SEGMENTS // 2}),
}


@pytest.fixture(scope="module")
def odd():
    """Two samples of three channels, six by nine, signed."""
    return np.random.default_rng(7).normal(size=(2, 3, 6, 9)) * 2


def test_every_method_has_an_oracle():
    assert set(ORACLES) == set(seewhy.METHODS), "a method without an oracle is refused"


@pytest.mark.row(11, 13, 14, 23, 136)
@pytest.mark.parametrize("name", seewhy.METHODS)
def test_method_equals_its_oracle(name, odd):
    network, twin = (Vit(), VitTwin) if FAMILIES[seewhy.METHODS[name].feeds].attention else (Network(), Twin)
    ours, theirs = OPTIONS.get(name, ({}, {}))
    expected = ORACLES[name](network, odd, TARGETS, **theirs)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        x = torch.tensor(odd, dtype=dtype)
        e = seewhy.explain(twin(network, dtype), x, name, target=torch.tensor(TARGETS), **ours)
        assert e.values.shape == expected.shape
        assert e.values.dtype == dtype
        scale = np.abs(expected).max()
        if seewhy.METHODS[name].feeds == "masked_scores":  # differences of scores are as exact as the scores are
            scale = max(scale, float(e.scores.abs().max()))
        assert np.abs(e.values.numpy() - expected).max() <= tolerance * max(scale, 1)


@pytest.mark.row(19, 20)
def test_the_four_rules_differ_where_rectifiers_are(odd):
    network = Network()
    x = torch.tensor(odd)
    found = [
        seewhy.explain(Twin(network), x, name, target=0).values
        for name in ("gradient", "guided_backprop", "zeiler_fergus")
    ]
    for a in range(3):
        for b in range(a):
            assert (found[a] - found[b]).abs().max() > 0.01
