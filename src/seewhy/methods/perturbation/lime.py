"""LIME."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from seewhy.errors import OptionError
from seewhy.methods.queries import Attribution, InputMaskQuery
from seewhy.types import Baseline, Range

from .occlusion import pad_importances
from .segments import importances_to_maps

if TYPE_CHECKING:
    from torch import Tensor

    from seewhy.types import Inputs, Scores

KERNEL_WIDTH = 0.25  # in cosine distance
RIDGE_PENALTY = 1.0
MAX_SAMPLE_FACTOR = 64  # with a tolerance, at most this many times `samples` masks are evaluated


def lime(
    x: Inputs,
    score: Scores,
    uniform: Callable[..., Tensor],
    *,
    segments: Any = "superpixels",
    features: Annotated[int, Range(2)] = 49,
    samples: Annotated[int, Range(4)] = 2048,
    surrogate: Literal["tree", "linear"] = "tree",
    mask_value: Baseline = None,
    tolerance: Annotated[float, Range(0)] | None = None,
) -> Generator[InputMaskQuery, Tensor, Attribution]:
    """LIME: importance of each segment in a simple model fitted to the scores of randomly masked inputs.

    Ribeiro et al. 2016, eq. 1 and section 3.4: each segment is kept or masked with probability 1/2, z in {0, 1}^F. The
    sample weight is exp(-d²/0.25²), with d = 1 - sqrt(mean z) the cosine distance from the unmasked input.

    "linear": ridge regression (penalty 1, with intercept); signed, in units of the score. `stderr` is the
    heteroscedastic standard error of the weighted fit. It does not include the bias of the penalty towards 0, which
    vanishes with more masks: the interval value ± 1.96 stderr contains the expected value for this number of masks in
    93 to 97% of cases, from 4 masks per segment on. "tree": fraction of the explained variance that a regression tree
    attributes to a segment, 0 to 1; it has no sign and no standard error. `extras`: `segments`, `importances` [N, K, F]
    and `fit`, the weighted R²: with a low R² the simple model does not describe the network.

    Args:
        x: the input.
        score: the target scores of the input.
        uniform: function that draws uniform numbers in [0, 1).
        segments: as for `feature_ablation`.
        features: approximate number of segments.
        samples: number of masks.
        surrogate: the simple model, "tree" or "linear".
        mask_value: value that replaces masked positions, as for `occlusion`.
        tolerance: masks are added until the standard error is below this fraction of the importances' range ("linear"
            only).

    Raises:
        OptionError: a tolerance for a tree.
    """
    import torch

    if tolerance is not None and surrogate == "tree":
        raise OptionError(
            f"tolerance={tolerance:g}: a tree has no standard error; use surrogate='linear', or more samples."
        )
    values, errors, importances, fits, notes = [], [], [], [], []
    for n, labels in enumerate(cast("Tensor", segments)):
        count, number = int(labels.max()) + 1, samples
        kept, y = torch.zeros(0, count, dtype=torch.bool), torch.zeros(0, score.shape[1], dtype=torch.float64)
        while True:
            new_kept = uniform(len(kept), number, count) < 0.5
            scores = (yield segment_mask_query(new_kept, labels, cast("Tensor", mask_value), n))[:, 0].double().cpu()
            kept, y = torch.cat([kept, new_kept]), torch.cat([y, scores])
            weights = torch.exp(-(((1 - kept.double().mean(1).sqrt()) / KERNEL_WIDTH) ** 2))
            importance, error, fit = (_fit_linear if surrogate == "linear" else _fit_tree)(
                kept.double(), y, weights, torch.finfo(x.dtype).eps
            )
            if tolerance is None or (relative_error := relative_stderr(importance, error)) <= tolerance:
                break
            if number >= MAX_SAMPLE_FACTOR * samples:
                notes.append(tolerance_note(n, number, "masks", relative_error, tolerance))
                break
            number = next_sample_count(number, relative_error, tolerance, MAX_SAMPLE_FACTOR * samples)
        values.append(importances_to_maps(importance, labels))
        errors.append(importances_to_maps(error, labels))
        importances.append(importance)
        fits.append(fit)
    extras = {
        "segments": cast("Tensor", segments),
        "importances": pad_importances(importances),
        "fit": torch.stack(fits),
    }
    stderr = torch.stack(errors).to(x) if surrogate == "linear" else None
    return Attribution(torch.stack(values).to(x), stderr=stderr, extras=extras, notes=tuple(notes))


def segment_mask_query(kept: Tensor, labels: Tensor, fill: Tensor, sample_index: int) -> InputMaskQuery:
    """Query for one sample with segments kept (True) or masked, `kept` [M, F]."""
    return InputMaskQuery(len(kept), lambda a, b: ~kept[a:b][:, labels][:, None, None], fill, sample_index=sample_index)


def next_sample_count(count: int, error: float, tolerance: float, max_count: int) -> int:
    """Number of samples to try next if `count` samples have `error`, which decreases with the root of the count."""
    growth = 4.0 if error >= 2 * tolerance else 1.1 * (error / tolerance) ** 2
    return min(max_count, max(count + 64, int(count * growth)))


def tolerance_note(n: int, count: int, unit: str, error: float, tolerance: float) -> str:
    """The note for sample n whose standard error is above the tolerance with the largest allowed count."""
    reached = f"after {count} {unit} the standard error is {error:.3g} of the range"
    return f"sample {n}: the tolerance {tolerance:g} was not reached; {reached}"


def relative_stderr(importances: Tensor, stderr: Tensor) -> float:
    """Root mean square of the standard errors [K, F] divided by the importances' range; the largest over targets."""
    rms = (stderr**2).mean(1).sqrt()
    return float((rms / (importances.amax(1) - importances.amin(1))).nan_to_num(0).max())


def _fit_linear(z: Tensor, y: Tensor, weights: Tensor, _precision: float) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted ridge regression: coefficients [K, F], their standard errors, weighted R² [K]."""
    import torch

    y = y - y[:1]  # a constant score is exactly 0
    fraction = (weights / weights.sum())[:, None]
    zc, yc = z - (fraction * z).sum(0), y - (fraction * y).sum(0)
    inverse = torch.linalg.inv(zc.T @ (weights[:, None] * zc) + RIDGE_PENALTY * torch.eye(z.shape[1], dtype=z.dtype))
    coefficients = inverse @ zc.T @ (weights[:, None] * yc)
    residuals = yc - zc @ coefficients
    influence = (weights[:, None] * zc) @ inverse  # [M, F]: contribution of each sample to the coefficients
    leverage = (influence * zc).sum(1, keepdim=True) + fraction
    error = (influence**2).T @ (residuals / (1 - leverage).clamp(min=1e-6)) ** 2
    return coefficients.T, error.T.sqrt(), _weighted_r2(residuals, yc, fraction)


def _fit_tree(z: Tensor, y: Tensor, weights: Tensor, precision: float) -> tuple[Tensor, Tensor, Tensor]:
    """Importances of a regression tree [K, F], zeros for standard errors, weighted R² [K]."""
    import torch
    from sklearn.tree import DecisionTreeRegressor

    importances, residuals = [], []
    y = y - y[:1]  # a constant score is exactly 0
    # scores are rounded well above rounding errors of the forward passes, which must not decide between equal splits
    step = (y.amax(0) - y.amin(0)) * precision**0.5
    for column in torch.where(step > 0, (y / step).round() * step, y).T.numpy():
        tree = DecisionTreeRegressor(min_samples_split=10, random_state=0).fit(z.numpy(), column, weights.numpy())
        importances.append(torch.from_numpy(tree.feature_importances_))
        residuals.append(torch.from_numpy(column - tree.predict(z.numpy())))
    fraction = (weights / weights.sum())[:, None]
    r2 = _weighted_r2(torch.stack(residuals, 1), y - (fraction * y).sum(0), fraction)
    return torch.stack(importances), torch.zeros(len(importances), z.shape[1], dtype=torch.float64), r2


def _weighted_r2(residuals: Tensor, centered: Tensor, fraction: Tensor) -> Tensor:
    """Weighted R² [K]; 1 for a constant score."""
    import torch

    variance = (fraction * centered**2).sum(0)
    return torch.where(variance > 0, 1 - (fraction * residuals**2).sum(0) / variance, torch.ones_like(variance))
