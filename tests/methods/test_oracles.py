"""All methods of the table against their reference implementations (oracles)."""

import numpy as np
import pytest
import torch
from tests.oracles import ORACLES
from tests.oracles.attention import NumpyViT, TorchViT
from tests.oracles.network import NumpyNetwork, TorchNetwork

import seewhy
from seewhy.engine.families import FAMILIES
from seewhy.engine.random_numbers import normal_sampler, uniform_sampler

TARGETS = np.array([[3, 0, 2], [1, 2, 0]])
REFERENCES = np.random.default_rng(2).normal(size=(5, 3, 6, 9))


def draws_of_seed_4(samples):
    """The random numbers of seed 4, for the oracles."""
    x = torch.zeros(1, 3, 6, 9, dtype=torch.float64)
    uniform = uniform_sampler(4)(0, samples).double().numpy()
    return {
        "noise": normal_sampler(4, x)(0, samples).numpy(),
        "at": (np.arange(samples) + uniform[:, 0]) / samples,
        "references": REFERENCES[(uniform[:, 1] * len(REFERENCES)).astype(int)],
    }


SEGMENTS = np.arange(6)[:, None] // 2 * 3 + np.arange(9)[None] // 3  # nine segments of 2 × 3


def masks_of_seed_4(pairs, cells):
    """The soft masks of RISE with seed 4, for the oracle."""
    masks = []
    draws = uniform_sampler(4)(0, pairs, (cells + 1) ** 2 + 2).double().numpy()
    height, width = -(-6 // cells), -(-9 // cells)
    for draw in draws:
        grid = (draw[2:] < 0.5).reshape(cells + 1, cells + 1)
        large = np.zeros(((cells + 1) * height, (cells + 1) * width))
        for i, j in np.ndindex(*large.shape):  # aligned pixel centers, repeated borders
            p, q = (i + 0.5) / height - 0.5, (j + 0.5) / width - 0.5
            for a in range(cells + 1):
                for b in range(cells + 1):
                    inside = [min(max(v, 0), cells) for v in (p, q)]
                    large[i, j] += max(0, 1 - abs(inside[0] - a)) * max(0, 1 - abs(inside[1] - b)) * grid[a, b]
        top, left = int(draw[0] * height), int(draw[1] * width)
        masks.append(large[top : top + 6, left : left + 9])
    return np.array(masks)


# method name: options of the method, options of its oracle
OPTIONS = {
    "deeplift": ({"baseline": REFERENCES[:1]}, {"baseline": REFERENCES[0]}),
    "integrated_gradients": ({"steps": 6, "baseline": 0.0}, {"steps": 6}),
    "smoothgrad": ({"samples": 5, "sigma": 0.2, "seed": 4}, {"sigma": 0.2, "noise": draws_of_seed_4(5)["noise"]}),
    "vargrad": ({"samples": 5, "sigma": 0.2, "seed": 4}, {"sigma": 0.2, "noise": draws_of_seed_4(5)["noise"]}),
    "expected_gradients": (
        {"samples": 6, "references": REFERENCES, "seed": 4},
        {key: draws_of_seed_4(6)[key] for key in ("at", "references")},
    ),
    "occlusion": ({"mask_size": (3, 4), "stride": 2}, {"sides": (3, 4), "steps": (2, 2)}),
    "feature_ablation": ({"segments": SEGMENTS}, {"segments": SEGMENTS}),
    "lime": (
        {"segments": SEGMENTS, "samples": 40, "surrogate": "linear", "seed": 4},
        {"segments": SEGMENTS, "kept": (uniform_sampler(4)(0, 40, 9) < 0.5).double().numpy()},
    ),
    "rise": ({"samples": 12, "cells": 2, "seed": 4}, {"masks": masks_of_seed_4(6, 2)}),
    "random": ({"seed": 4}, {"noise": draws_of_seed_4(1)["noise"][0, 0]}),
    "kernel_shap": ({"segments": SEGMENTS // 2}, {"segments": SEGMENTS // 2}),
    "shapley_sampling": (
        {"segments": SEGMENTS, "samples": 3, "seed": 4},
        {"segments": SEGMENTS, "orders": np.argsort(uniform_sampler(4)(0, 3, 9).numpy(), axis=1)},
    ),
}


@pytest.fixture(scope="module")
def batch():
    """Two signed samples of three channels, 6 × 9."""
    return np.random.default_rng(7).normal(size=(2, 3, 6, 9)) * 2


def test_every_method_has_an_oracle():
    assert set(ORACLES) == set(seewhy.METHODS), "every method needs an oracle"


@pytest.mark.row(11, 13, 14, 23, 136)
@pytest.mark.parametrize("name", seewhy.METHODS)
def test_method_equals_its_oracle(name, batch):
    network, twin = (
        (NumpyViT(), TorchViT)
        if FAMILIES[seewhy.METHODS[name].family].uses_attention
        else (NumpyNetwork(), TorchNetwork)
    )
    options, oracle_options = OPTIONS.get(name, ({}, {}))
    expected = ORACLES[name](network, batch, TARGETS, **oracle_options)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        x = torch.tensor(batch, dtype=dtype)
        e = seewhy.explain(twin(network, dtype), x, name, target=torch.tensor(TARGETS), **options)
        assert e.values.shape == expected.shape
        assert e.values.dtype == dtype
        scale = np.abs(expected).max()
        if seewhy.METHODS[name].family == "masked_scores":  # differences are only as exact as the scores
            scale = max(scale, float(e.scores.abs().max()))
        assert np.abs(e.values.numpy() - expected).max() <= tolerance * max(scale, 1)


@pytest.mark.row(19, 20)
def test_gradient_and_rectifier_rules_differ(batch):
    network = NumpyNetwork()
    x = torch.tensor(batch)
    values = [
        seewhy.explain(TorchNetwork(network), x, name, target=0).values
        for name in ("gradient", "guided_backprop", "zeiler_fergus")
    ]
    for a in range(3):
        for b in range(a):
            assert (values[a] - values[b]).abs().max() > 0.01
