"""KernelSHAP with pairs of coalitions, sampled by leverage."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator
from math import comb
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, cast

from seewhy.errors import OptionError
from seewhy.methods.queries import Attribution, InputMaskQuery
from seewhy.types import Baseline, Range

from .lime import MAX_SAMPLE_FACTOR, next_sample_count, relative_stderr, segment_mask_query, tolerance_note
from .occlusion import pad_importances
from .segments import importances_to_maps

if TYPE_CHECKING:
    from torch import Tensor

    from seewhy.types import Inputs, Scores

MIN_COALITIONS_PER_SEGMENT = 4  # with fewer, the residuals are too few for an accurate standard error
DRAW_OFFSET = 2**32  # between the indices of the random numbers of two coalition sizes


def kernel_shap(
    x: Inputs,
    score: Scores,
    uniform: Callable[..., Tensor],
    *,
    segments: Any = "superpixels",
    features: Annotated[int, Range(2)] = 49,
    samples: Annotated[int, Range(4)] = 2048,
    mask_value: Baseline = None,
    tolerance: Annotated[float, Range(0)] | None = None,
) -> Generator[InputMaskQuery, Tensor, Attribution]:
    """KernelSHAP: Shapley values of the segments, estimated by weighted least squares over sampled coalitions.

    The Shapley value is the mean change of the score when the segment is unmasked, over all orders of unmasking. It is
    the solution of a least-squares problem over coalitions of segments (Lundberg and Lee 2017, eq. 8). Coalitions are
    sampled without replacement and together with their complements (Covert and Lee 2021, Improving KernelSHAP:
    practical Shapley value estimation using linear regression). Their sizes are sampled by leverage, which makes all
    sizes equally likely (Musco and Witter 2025).

    Signed, in units of the score. The values sum exactly to the score minus the score of the fully masked input.
    `stderr` is the standard error; it is 0 if all coalitions were evaluated, as for few features. The interval
    value ± 1.96 stderr contains the exact value in 93 to 98% of cases, from 4 coalitions per segment on; a note reports
    fewer coalitions. The values depend on the segments and on the value that replaces masked positions. `extras`:
    `segments`, `importances` [N, K, F].

    Args:
        x: the input.
        score: the target scores of the input.
        uniform: function that draws uniform numbers in [0, 1).
        segments: as for `feature_ablation`.
        features: approximate number of segments.
        samples: number of coalitions, at least twice the number of segments.
        mask_value: value that replaces masked positions, as for `occlusion`.
        tolerance: coalitions are added until the standard error (root mean square over segments) is below this fraction
            of the values' range.

    Raises:
        OptionError: too few samples for the number of segments.
    """
    import torch

    fill = cast("Tensor", mask_value)
    values, errors, importances, deltas, notes = [], [], [], [], []
    for n, labels in enumerate(cast("Tensor", segments)):
        count, number = int(labels.max()) + 1, samples
        if samples < min(2 * count, 2**count - 2):
            raise OptionError(f"samples={samples}: {count} segments need at least {min(2 * count, 2**count - 2)}.")
        none_kept = torch.zeros(1, count, dtype=torch.bool)
        masked_score = (yield segment_mask_query(none_kept, labels, fill, n))[0, 0].double().cpu()
        total = score[n].double().cpu() - masked_score
        evaluated: dict[bytes, Tensor] = {}  # score per coalition, so that none is evaluated twice
        shapley, error = total[:, None], torch.zeros(len(total), 1, dtype=torch.float64)
        while count > 1:  # a single segment has the total
            strata = _sample_strata(count, number // 2, uniform)
            coalitions = torch.cat([torch.cat([s.kept, ~s.kept]) for s in strata])
            keys = [coalition.tobytes() for coalition in coalitions.numpy()]
            new = [i for i, key in enumerate(keys) if key not in evaluated]
            if new:
                scores = (yield segment_mask_query(coalitions[new], labels, fill, n))[:, 0].double().cpu()
                evaluated |= {keys[i]: one for i, one in zip(new, scores, strict=True)}
            shapley, error = _solve_shapley(strata, torch.stack([evaluated[key] for key in keys]), total)
            if tolerance is None or (relative_error := relative_stderr(shapley, error)) <= tolerance:
                break
            if number >= MAX_SAMPLE_FACTOR * samples:
                notes.append(tolerance_note(n, number, "coalitions", relative_error, tolerance))
                break
            number = next_sample_count(number, relative_error, tolerance, MAX_SAMPLE_FACTOR * samples)
        if number < min(MIN_COALITIONS_PER_SEGMENT * count, 2**count - 2):
            required = f"{MIN_COALITIONS_PER_SEGMENT * count} coalitions, {MIN_COALITIONS_PER_SEGMENT} per segment"
            notes.append(f"sample {n}: the standard error is inaccurate with fewer than {required}")
        values.append(importances_to_maps(shapley, labels))
        errors.append(importances_to_maps(error, labels))
        importances.append(shapley)
        deltas.append(shapley.sum(1) - total)
    extras = {"segments": cast("Tensor", segments), "importances": pad_importances(importances)}
    stderr = torch.stack(errors).to(x)
    delta = torch.stack(deltas)
    return Attribution(torch.stack(values).to(x), delta, stderr, extras=extras, notes=tuple(notes))


class Stratum(NamedTuple):
    """Sampled coalitions of one size; each represents a pair with its complement."""

    size: int
    population: int  # number of pairs that exist
    kept: Tensor  # [m, F], True for the segments of the coalition


def _sample_strata(count: int, pairs: int, uniform: Callable[..., Tensor]) -> list[Stratum]:
    """Sample pairs of coalitions, the same number for each size; small sizes are complete.

    A larger number of pairs contains the pairs of a smaller number.
    """
    import torch

    sampled, population = _pairs_per_size(count, pairs)
    for attempt in itertools.count():
        strata = [_sample_stratum(count, s, sampled[s], population[s], attempt, uniform) for s in sampled]
        design = torch.cat([s.kept for s in strata]).double() - 0.5
        design -= design.mean(1, keepdim=True)
        # few coalitions may have a lower rank; the fit would be wrong, but without residuals
        if torch.linalg.matrix_rank(design.T @ design, rtol=1e-9, hermitian=True) == count - 1:
            return strata
    raise AssertionError


def _pairs_per_size(count: int, pairs: int) -> tuple[dict[int, int], dict[int, int]]:
    """Number of pairs to sample per coalition size, and number of pairs that exist per size."""
    sizes = range(1, count // 2 + 1)
    # at the middle size a coalition and its complement have the same size: half as many pairs, half the leverage
    population = {s: comb(count, s) // (2 if 2 * s == count else 1) for s in sizes}
    leverage = {s: 0.5 if 2 * s == count else 1.0 for s in sizes}
    sampled: dict[int, int] = {}
    remaining, open_sizes = pairs, list(sizes)
    while open_sizes:  # pairs that a complete size does not need are distributed over the other sizes
        unit = remaining / sum(leverage[s] for s in open_sizes)
        complete = [s for s in open_sizes if population[s] <= unit * leverage[s]]
        if not complete:
            ends = [round(unit * sum(leverage[t] for t in open_sizes[: i + 1])) for i in range(len(open_sizes))]
            sampled |= {s: b - a for s, a, b in zip(open_sizes, [0, *ends], ends, strict=False)}
            break
        for s in complete:
            sampled[s] = population[s]
            remaining -= population[s]
        open_sizes = [s for s in open_sizes if s not in complete]
    return {s: sampled[s] for s in sizes}, population


def _sample_stratum(
    count: int, size: int, n_pairs: int, population: int, attempt: int, uniform: Callable[..., Tensor]
) -> Stratum:
    """Sample `n_pairs` different coalitions of one size; at the middle size, those that contain the first segment."""
    import torch

    if n_pairs == population:
        members = [c for c in itertools.combinations(range(count), size) if 2 * size < count or c[0] == 0]
        kept = torch.zeros(len(members), count, dtype=torch.bool)
        kept[torch.arange(len(members))[:, None], torch.tensor(members)] = True
        return Stratum(size, population, kept)
    coalitions: dict[bytes, Tensor] = {}
    start = (attempt * count + size) * DRAW_OFFSET
    while len(coalitions) < n_pairs:
        # the first `size` segments of a random order
        order = uniform(start, start + n_pairs, count).argsort(1)
        start += n_pairs
        kept = torch.zeros(n_pairs, count, dtype=torch.bool).scatter_(1, order[:, :size], True)
        if 2 * size == count:
            kept = torch.where(kept[:, :1], kept, ~kept)
        coalitions |= {row.numpy().tobytes(): row for row in kept}
    return Stratum(size, population, torch.stack(list(coalitions.values())[:n_pairs]))


def _solve_shapley(strata: list[Stratum], y: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    """Shapley values phi [K, F] that sum to `total` [K], and their standard errors.

    Each pair is one equation, (z - 1/2)·phi = (y(z) - y(1 - z)) / 2. With the mean total / F subtracted from phi, this
    is an unconstrained weighted least-squares problem in the F - 1 directions that sum to zero.
    """
    import torch

    count = strata[0].kept.shape[1]
    design = torch.cat([s.kept for s in strata]).double() - 0.5
    halves, start = [], 0
    for s in strata:
        m = len(s.kept)
        halves.append((y[start : start + m] - y[start + m : start + 2 * m]) / 2)
        start += 2 * m
    half_difference = torch.cat(halves)  # [m, K]
    # the Shapley kernel's weight of a coalition, times the number of pairs that a sampled pair represents
    weights = torch.cat([
        torch.full((len(s.kept),), s.population / len(s.kept) / (comb(count, s.size) * s.size * (count - s.size)),
                   dtype=torch.float64)
        for s in strata
    ])  # fmt: skip
    weights = weights / weights.max()
    mean = total / count
    centered = design - design.mean(1, keepdim=True)
    target = half_difference - design.sum(1, keepdim=True) * mean
    gram = centered.T @ (weights[:, None] * centered)
    # gram is singular in the direction (1, ..., 1); a constant makes it invertible, and the target has no part there
    inverse = torch.linalg.inv(gram + gram.trace() / count**2)
    deviations = inverse @ (centered.T @ (weights[:, None] * target))  # from the mean
    residuals = target - centered @ deviations
    influence = (weights[:, None] * centered) @ inverse  # [m, F]
    leverage = (influence * centered).sum(1, keepdim=True)
    residuals = residuals / (1 - leverage).clamp(min=1e-6)
    variance, start = torch.zeros(count, y.shape[1], dtype=torch.float64), 0
    for s in strata:
        m = len(s.kept)
        if m < s.population:
            part = influence[start : start + m, :, None] * residuals[start : start + m, None]  # [m, F, K]
            difference = part - part.mean(0) if m > 2 else part
            variance += (difference**2).sum(0) * (m / (m - 1) if m > 2 else 1) * (1 - m / s.population)
        start += m
    return (deviations + mean).T, variance.T.sqrt()
