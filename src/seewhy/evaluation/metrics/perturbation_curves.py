"""Perturbation curves: the score while positions are masked or unmasked in the order of a map."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from seewhy import maps
from seewhy.engine.baselines import resolve_baseline
from seewhy.errors import OptionError
from seewhy.incremental import MIN_SAMPLES_TO_TRACE, PreparedNetwork, output_function, prepare_network
from seewhy.models import module_tree
from seewhy.targets import scoring
from seewhy.targets.parsing import ClassIndices
from seewhy.targets.predict import class_probabilities
from seewhy.tracing.forward import eval_mode, resolve_device, run_forward

if TYPE_CHECKING:
    from torch import Tensor

    from seewhy.model import Model
    from seewhy.results import Explanation
    from seewhy.tracing.final_activation import NetworkOutput
    from seewhy.types import Inputs

PERTURBATION_BATCH_SIZE = 8
FillFunction = Callable[["Tensor"], "Inputs"]  # mask [N, 1, *S] -> inputs [N, C, *S] with masked positions replaced
ScoreFunction = Callable[["Inputs"], "Tensor"]  # perturbed inputs [N, C, *S], one per sample -> scores [N]


def deletion(
    model: Model, e: Explanation, *, steps: int = 16, ties: int = 3, fill: Any = "blur", seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Deletion: mean score while positions are masked, the most important first; lower is better.

    Petsiuk et al. 2018, section 4.1. The score is the class probability if the network returns logits, else the score
    itself. Equal values are put in `ties` random orders; the standard error is that over these orders and does not
    include the error from using few steps (docs/benchmarks.md reports it).

    Args:
        model: the explained network.
        e: the explanation.
        steps: number of steps, up to all positions masked.
        ties: number of random orders of equal values.
        fill: value of masked positions: a baseline, as for the methods.
        seed: of the random orders.

    Returns:
        Values [N, K] and their standard errors [N, K] (NaN for ties=1).
    """
    return _mean_perturbed_score(model, e, steps, ties, fill, seed, lambda ranks, fraction: ranks < fraction)


def insertion(
    model: Model, e: Explanation, *, steps: int = 16, ties: int = 3, fill: Any = "blur", seed: int = 0
) -> Any:
    """Insertion: mean score while positions are unmasked, the most important first; higher is better.

    Petsiuk et al. 2018, section 4.1. The curve starts with all positions masked; otherwise as for `deletion`.

    Args:
        model: the explained network.
        e: the explanation.
        steps: number of steps.
        ties: number of random orders of equal values.
        fill: value of masked positions: a baseline, as for the methods.
        seed: of the random orders.

    Returns:
        Values [N, K] and their standard errors [N, K] (NaN for ties=1).
    """
    return _mean_perturbed_score(model, e, steps, ties, fill, seed, lambda ranks, fraction: ranks >= fraction)


def road(model: Model, e: Explanation, *, steps: int = 8, ties: int = 1, noise: float = 0.01, seed: int = 0) -> Any:
    """ROAD: deletion with noisy linear imputation, so that the mask itself carries no information; lower is better.

    Rong et al. 2022, section 4: each masked position is the weighted mean of its eight neighbors (weight 1/6 along the
    axes, 1/12 along the diagonals), solved as one sparse linear system, plus noise. The masked fractions are
    1/(steps + 1), ..., steps/(steps + 1).

    Args:
        model: the explained network.
        e: the explanation; images only.
        steps: number of steps.
        ties: number of random orders of equal values.
        noise: standard deviation of the noise, in the units of the network's input.
        seed: of the noise and the random orders.

    Returns:
        Values [N, K] and their standard errors [N, K] (NaN for ties=1).

    Raises:
        OptionError: the input is not a batch of images.
    """
    if e.input.ndim != 4:
        raise OptionError(f"road requires images [N, C, H, W]; this input has {e.input.ndim} axes: use deletion.")
    # the same noise for all samples, so that no value depends on the batch
    added = noise * np.random.default_rng((seed, 4)).standard_normal(e.input.shape[1:])

    def impute(masks: Tensor) -> Inputs:
        pairs = zip(e.input, masks, strict=True)
        return torch.stack([_noisy_linear_imputation(image, mask[0], added) for image, mask in pairs])

    fractions = [step / (steps + 1) for step in range(1, steps + 1)]
    return _areas_under_curves(model, e, fractions, ties, seed, lambda ranks, fraction: ranks < fraction, impute)


def _mean_perturbed_score(
    model: Model, e: Explanation, steps: int, ties: int, fill: Any, seed: int,
    is_masked: Callable[[Tensor, float], Tensor],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    fractions = [step / steps for step in range(1, steps + 1)]
    return _areas_under_curves(model, e, fractions, ties, seed, is_masked, fill_function(model, e.input, fill))


def fill_function(model: Model, x: Inputs, fill: Any = "blur") -> FillFunction:
    """Return a function that replaces the positions where a mask [N, 1, *S] is true by a baseline."""
    baseline, _ = resolve_baseline(model, x, 0.0 if model.layout == "NF" and fill == "blur" else fill)
    return lambda mask: torch.where(mask.to(x.device), baseline.to(x), x)


def _areas_under_curves(
    model: Model, e: Explanation, fractions: list[float], ties: int, seed: int,
    is_masked: Callable[[Tensor, float], Tensor], fill_fn: FillFunction,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Mean score of each curve [N, K], and its standard error over the random orders of equal values [N, K]."""
    heatmaps = maps_at_input_size(e)
    areas = torch.zeros(ties, *heatmaps.shape[:2], dtype=torch.float64)
    for k in range(heatmaps.shape[1]):
        score_fn = explained_score_function(model, e, k, expected_calls=ties * len(fractions))
        previous = None
        for t in range(ties):
            ranks = descending_ranks(heatmaps[:, k], np.random.default_rng((seed, t)))
            if previous is not None and torch.equal(ranks, previous):  # no two values are equal
                areas[t, :, k] = areas[t - 1, :, k]
                continue
            previous = ranks
            areas[t, :, k] = area_under_curve(score_fn, (fill_fn(is_masked(ranks, f)) for f in fractions))
    error = areas.std(0) / ties**0.5 if ties > 1 else torch.full_like(areas[0], torch.nan)
    return areas.mean(0), error


def area_under_curve(score_fn: ScoreFunction, steps: Iterable[Inputs]) -> Tensor:
    """Mean score [N] over the steps of one curve; each step is a batch [N, C, *S] of perturbed inputs."""
    scores = [score_fn(points) for points in steps]
    return torch.stack(scores).mean(0)


def maps_at_input_size(e: Explanation) -> Tensor:
    """The maps resampled to the input's size, [N, K, *S]."""
    size = e.input.shape[2:]
    return (e.maps if e.maps.shape[2:] == size else maps.resample(e.maps, size, "linear")).double()


def descending_ranks(heatmaps: Tensor, generator: np.random.Generator) -> Tensor:
    """Relative rank of each position of maps [N, *S]: [N, 1, *S] in [0, 1), 0 for the largest value; ties at random."""
    shape, heatmaps = heatmaps.shape, heatmaps.flatten(1)
    # one random order for all samples, so that no value depends on the batch
    ties = torch.from_numpy(generator.permutation(heatmaps.shape[1])).expand(heatmaps.shape)
    order = ties.gather(1, (-heatmaps.gather(1, ties)).argsort(dim=1, stable=True))
    return (order.argsort(1) / heatmaps.shape[1]).view(len(heatmaps), 1, *shape[1:])


def explained_score_function(
    model: Model, e: Explanation, k: int, *, expected_calls: int, score: str | None = None
) -> ScoreFunction:
    """Return the function that scores target k of an explanation at perturbed inputs."""
    if e.targets is None:
        raise OptionError(
            "this explanation is of a function of the output; only explanations of classes can be measured."
        )
    target, layer = e.targets[:, k : k + 1], reduction_layer_name(model, e)
    return score_function(model, e.input, target, expected_calls=expected_calls, score=score, layer=layer)


def score_function(
    model: Model, x: Inputs, target: Any, *, expected_calls: int, score: str | None = None, layer: str | None = None
) -> ScoreFunction:
    """Return a function that maps perturbed inputs [N, C, *S], one per sample, to their scores [N].

    Args:
        model: the network.
        x: the unperturbed inputs [N, C, *S].
        target: class of each input [N, 1], or a function of the output.
        expected_calls: how often the result will be called; incremental inference is prepared if this is often.
        score: score of a class; default: its probability if the network returns logits, else the score itself.
        layer: name of the layer whose output is scored; None: the network's output.
    """
    device = resolve_device(model, "auto")[1] or x.device
    use_incremental = model.module is not None and layer is None and expected_calls * len(x) >= MIN_SAMPLES_TO_TRACE
    prepared: PreparedNetwork | str = "few calls"
    if use_incremental:
        with eval_mode(model):
            activation = run_forward(model, x[:1].to(device), graph=False).explained.activation
        prepared = prepare_network(model, x[:1].to(device), activation)
    outputs = output_function(model, prepared, layer)

    def scores(points: Inputs) -> Tensor:
        batches = []
        with eval_mode(model), torch.no_grad():
            for start in range(0, len(points), PERTURBATION_BATCH_SIZE):
                part = slice(start, start + PERTURBATION_BATCH_SIZE)
                output = outputs(points[part].to(device))
                batch_target = target if callable(target) else ClassIndices(target[part].to(device))
                score_kind = score or ("logit" if callable(target) else _default_score(output, model))
                resolved = scoring.resolve_target(batch_target, score_kind, model, output, slice(None), layer)
                batches.append(
                    scoring.score_values(scoring.compute_scores(resolved, output, model, rescale=False))[:, 0]
                )
        return torch.cat(batches).double().cpu()

    return scores


def _default_score(output: NetworkOutput, model: Model) -> str:
    """The score that is a probability, if the network has one per class; else the output itself."""
    probabilities, already = class_probabilities(output, model)
    return "logit" if probabilities is None or already or probabilities.ndim > 2 else "probability"


def reduction_layer_name(model: Model, e: Explanation) -> str | None:
    """Name of the layer whose output is explained; None: the network's output, or a name that is not a module."""
    modules = {} if model.module is None else module_tree.named_layers(model.module)
    return e.reduction_layer if e.reduction_layer in modules else None


def _noisy_linear_imputation(image: Tensor, masked: Tensor, noise: np.ndarray) -> Tensor:
    """Replace masked positions [H, W] of an image [C, H, W] by the weighted mean of their neighbors, plus noise."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.linalg import spsolve

    mask = masked.numpy()
    count, (height, width) = int(mask.sum()), mask.shape
    if count == 0:
        return image
    index = np.full(mask.shape, -1)  # number of the unknown at each masked position
    index[mask] = np.arange(count)
    rows, columns = np.nonzero(mask)
    values = image.double().numpy()
    equations, unknowns, weights = [], [], []
    known, total = np.zeros((count, len(values))), np.zeros(count)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            weight = {1: 1 / 6, 2: 1 / 12}.get(abs(down) + abs(right))
            i, j = rows + down, columns + right
            inside = (i >= 0) & (i < height) & (j >= 0) & (j < width)
            if weight is None:
                continue
            total[inside] += weight
            i, j, equation = i[inside], j[inside], np.nonzero(inside)[0]
            neighbor = index[i, j]
            visible = neighbor < 0
            known[equation[visible]] += weight * values[:, i[visible], j[visible]].T
            equations.append(equation[~visible])
            unknowns.append(neighbor[~visible])
            weights.append(np.full((~visible).sum(), -weight))
    diagonal = np.arange(count)
    places = np.concatenate([diagonal, *equations]), np.concatenate([diagonal, *unknowns])
    system = coo_matrix((np.concatenate([total, *weights]), places), shape=(count, count)).tocsc()
    solution = spsolve(system, known).reshape(count, len(values))
    imputed = image.clone()
    imputed[:, masked] = torch.from_numpy(solution.T + noise[:, mask]).to(image)
    return imputed
