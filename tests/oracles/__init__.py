"""Reference implementations of all methods, in float64 with explicit loops, written from the papers.

Nothing here imports seewhy.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from .attention import attention_gradient, legrad, rollout
from .cam import (
    ablationcam,
    cam,
    eigencam,
    fullgrad,
    gradcam,
    gradcam_plus_plus,
    guided_gradcam,
    hirescam,
    layercam,
    recipro_cam,
    scorecam,
    xgradcam,
)
from .controls import centre, edges, random
from .gradient import (
    deeplift,
    expected_gradients,
    gradient,
    guided_backprop,
    input_x_gradient,
    integrated_gradients,
    smoothgrad,
    vargrad,
    zeiler_fergus,
)
from .perturb import feature_ablation, kernel_shap, lime, occlusion, rise, rise_masks, shapley_sampling


class Draws(NamedTuple):
    """The random numbers of one seed: `uniform(start, stop, width)`, and `normal(start, stop)` for 3 × 6 × 9 inputs."""

    uniform: Callable[..., np.ndarray]
    normal: Callable[..., np.ndarray]


class Oracle(NamedTuple):
    """The reference implementation of a method, and how the tests call it.

    Attributes:
        compute: (network, or a transformer for attention methods, x [N, C, H, W], targets [N, K]) -> values
            [N, K, C or 1, H, W].
        options: options of the method in the comparison.
        arguments: further arguments of `compute`, which correspond to these options.
        draw: from the random numbers of the method's seed to further arguments of `compute`.
    """

    compute: Callable[..., np.ndarray]
    options: Mapping[str, Any] = {}
    arguments: Mapping[str, Any] = {}
    draw: Callable[[Draws], Mapping[str, Any]] = lambda draws: {}


SEGMENTS = np.arange(6)[:, None] // 2 * 3 + np.arange(9)[None] // 3  # nine segments of 2 × 3
REFERENCES = np.random.default_rng(2).normal(size=(5, 3, 6, 9))


def _path_points(draws):
    """Points in [0, 1], one in each sixth, and a reference for each."""
    uniform = draws.uniform(0, 6)
    return {
        "at": (np.arange(6) + uniform[:, 0]) / 6,
        "references": REFERENCES[(uniform[:, 1] * len(REFERENCES)).astype(int)],
    }


ORACLES = {
    "gradient": Oracle(gradient),
    "input_x_gradient": Oracle(input_x_gradient),
    "guided_backprop": Oracle(guided_backprop),
    "zeiler_fergus": Oracle(zeiler_fergus),
    "deeplift": Oracle(deeplift, {"baseline": REFERENCES[:1]}, {"baseline": REFERENCES[0]}),
    "integrated_gradients": Oracle(integrated_gradients, {"steps": 6, "baseline": 0.0}, {"steps": 6}),
    "smoothgrad": Oracle(
        smoothgrad, {"samples": 5, "sigma": 0.2}, {"sigma": 0.2}, lambda draws: {"noise": draws.normal(0, 5)}
    ),
    "vargrad": Oracle(
        vargrad, {"samples": 5, "sigma": 0.2}, {"sigma": 0.2}, lambda draws: {"noise": draws.normal(0, 5)}
    ),
    "expected_gradients": Oracle(expected_gradients, {"samples": 6, "references": REFERENCES}, draw=_path_points),
    "cam": Oracle(cam),
    "gradcam": Oracle(gradcam),
    "gradcam++": Oracle(gradcam_plus_plus),
    "hirescam": Oracle(hirescam),
    "layercam": Oracle(layercam),
    "xgradcam": Oracle(xgradcam),
    "eigencam": Oracle(eigencam),
    "guided_gradcam": Oracle(guided_gradcam),
    "fullgrad": Oracle(fullgrad),
    "scorecam": Oracle(scorecam),
    "ablationcam": Oracle(ablationcam),
    "recipro_cam": Oracle(recipro_cam),
    "rollout": Oracle(rollout),
    "attention_gradient": Oracle(attention_gradient),
    "legrad": Oracle(legrad),
    "occlusion": Oracle(occlusion, {"mask_size": (3, 4), "stride": 2}, {"sides": (3, 4), "steps": (2, 2)}),
    "feature_ablation": Oracle(feature_ablation, {"segments": SEGMENTS}, {"segments": SEGMENTS}),
    "lime": Oracle(
        lime, {"segments": SEGMENTS, "samples": 40, "surrogate": "linear"}, {"segments": SEGMENTS},
        lambda draws: {"kept": (draws.uniform(0, 40, 9) < 0.5).astype(float)},
    ),
    "rise": Oracle(
        rise, {"samples": 12, "cells": 2}, draw=lambda draws: {"masks": rise_masks(draws.uniform(0, 6, 3**2 + 2), 2)}
    ),
    "kernel_shap": Oracle(kernel_shap, {"segments": SEGMENTS // 2}, {"segments": SEGMENTS // 2}),
    "shapley_sampling": Oracle(
        shapley_sampling, {"segments": SEGMENTS, "samples": 3}, {"segments": SEGMENTS},
        lambda draws: {"orders": np.argsort(draws.uniform(0, 3, 9), axis=1)},
    ),
    "random": Oracle(random, draw=lambda draws: {"noise": draws.normal(0, 1)[0, 0]}),
    "edges": Oracle(edges),
    "centre": Oracle(centre),
}  # fmt: skip
