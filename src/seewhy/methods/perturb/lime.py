"""LIME."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from seewhy.errors import OptionError
from seewhy.types import Attribution, Baseline, Between, ScoresHiding

from .occlusion import padded
from .segments import paint

if TYPE_CHECKING:
    from torch import Tensor

    from seewhy.types import Inputs, Scores

WIDTH = 0.25  # of the kernel, in cosine distance
RIDGE = 1.0
LIMIT = 64  # times `samples`, where a tolerance is given


def lime(
    x: Inputs,
    score: Scores,
    uniform: Callable[..., Tensor],
    *,
    segments: Any = "superpixels",
    features: Annotated[int, Between(2)] = 49,
    samples: Annotated[int, Between(4)] = 2048,
    surrogate: Literal["tree", "linear"] = "tree",
    mask_value: Baseline = None,
    tolerance: Annotated[float, Between(0)] | None = None,
) -> Generator[ScoresHiding, Tensor, Attribution]:
    """What a simple model, fitted to the scores of the input with random segments hidden, says of each segment.

    Ribeiro et al. 2016, eq. 1 and section 3.4: each segment is kept or hidden with equal chance, z in {0, 1}^F, and
    weighed by exp(-d²/0.25²), d = 1 - sqrt(mean z) the cosine distance from the whole input. "linear": ridge
    regression (penalty 1, with intercept); signed, in units of the score; `stderr` is that of the weighted fit
    (heteroscedastic), without the penalty's pull towards 0, which fades with more masks: value ± 1.96 stderr holds what
    so many masks give on average 93 to 97 times of 100 from 4 masks a segment on. "tree": the share of the explained
    variance that a regression tree owes to a segment, 0 to 1, without a sign and without a standard error. `extras`:
    `segments`, `importances` [N, K, F] and `fit`, the weighted R².

    Args:
        x: the input.
        score: its scores.
        uniform: draws in 0..1.
        segments: as for `feature_ablation`.
        features: about how many segments.
        samples: how many masks.
        surrogate: "tree" or "linear".
        mask_value: what stands where a part is hidden, as for `occlusion`.
        tolerance: go on until the standard error is below that share of the importances' range (linear only).

    Raises:
        OptionError: a tolerance for a tree.
    """
    import torch

    if tolerance is not None and surrogate == "tree":
        raise OptionError("tolerance: a tree has no standard error; use surrogate='linear', or more samples.")
    values, errors, importances, fits, notes = [], [], [], [], []
    for n, labels in enumerate(cast("Tensor", segments)):
        count, number = int(labels.max()) + 1, samples
        kept, y = torch.zeros(0, count, dtype=torch.bool), torch.zeros(0, score.shape[1], dtype=torch.float64)
        while True:
            more = uniform(len(kept), number, count) < 0.5
            shown = (yield hiding(more, labels, cast("Tensor", mask_value), n))[:, 0].double().cpu()
            kept, y = torch.cat([kept, more]), torch.cat([y, shown])
            weights = torch.exp(-(((1 - kept.double().mean(1).sqrt()) / WIDTH) ** 2))
            found, error, fit = (_linear if surrogate == "linear" else _tree)(
                kept.double(), y, weights, torch.finfo(x.dtype).eps
            )
            if tolerance is None or (far := relative(found, error)) <= tolerance:
                break
            if number >= LIMIT * samples:
                notes.append(f"sample {n}: after {number} masks the standard error is {far:.3g} of the range")
                break
            number = enough(number, far, tolerance, LIMIT * samples)
        values.append(paint(found, labels))
        errors.append(paint(error, labels))
        importances.append(found)
        fits.append(fit)
    extras = {"segments": cast("Tensor", segments), "importances": padded(importances), "fit": torch.stack(fits)}
    stderr = torch.stack(errors).to(x) if surrogate == "linear" else None
    return Attribution(torch.stack(values).to(x), stderr=stderr, extras=extras, notes=tuple(notes))


def hiding(kept: Tensor, labels: Tensor, fill: Tensor, row: int) -> ScoresHiding:
    """The question for one sample with segments kept or hidden, [M, F]."""
    return ScoresHiding(len(kept), lambda a, b: ~kept[a:b][:, labels][:, None, None], fill, row=row)


def enough(number: int, far: float, tolerance: float, most: int) -> int:
    """How many to try next where `number` gave `far` instead of `tolerance`: the error falls with the root of it."""
    growth = 4.0 if far >= 2 * tolerance else 1.1 * (far / tolerance) ** 2
    return min(most, max(number + 64, int(number * growth)))


def relative(found: Tensor, error: Tensor) -> float:
    """Root mean square of the standard errors [K, F] as a share of the importances' range; the worst target's."""
    typical = (error**2).mean(1).sqrt()
    return float((typical / (found.amax(1) - found.amin(1))).nan_to_num(0).max())


def _linear(z: Tensor, y: Tensor, weights: Tensor, _precision: float) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted ridge regression: coefficients [K, F], their standard errors, weighted R² [K]."""
    import torch

    y = y - y[:1]  # a constant score is exactly 0
    share = (weights / weights.sum())[:, None]
    zc, yc = z - (share * z).sum(0), y - (share * y).sum(0)
    inverse = torch.linalg.inv(zc.T @ (weights[:, None] * zc) + RIDGE * torch.eye(z.shape[1], dtype=z.dtype))
    found = inverse @ zc.T @ (weights[:, None] * yc)
    left = yc - zc @ found
    pull = (weights[:, None] * zc) @ inverse  # [M, F]: what each sample adds to the coefficients
    leverage = (pull * zc).sum(1, keepdim=True) + share
    error = (pull**2).T @ (left / (1 - leverage).clamp(min=1e-6)) ** 2
    return found.T, error.T.sqrt(), _fit(left, yc, share)


def _tree(z: Tensor, y: Tensor, weights: Tensor, precision: float) -> tuple[Tensor, Tensor, Tensor]:
    """Importances of a regression tree [K, F], no standard errors, weighted R² [K]."""
    import torch
    from sklearn.tree import DecisionTreeRegressor

    found, left = [], []
    y = y - y[:1]  # a constant score is exactly 0
    # rounded well above the noise of the passes: which of two equally good splits comes first must not hang on it
    step = (y.amax(0) - y.amin(0)) * precision**0.5
    for column in torch.where(step > 0, (y / step).round() * step, y).T.numpy():
        tree = DecisionTreeRegressor(min_samples_split=10, random_state=0).fit(z.numpy(), column, weights.numpy())
        found.append(torch.from_numpy(tree.feature_importances_))
        left.append(torch.from_numpy(column - tree.predict(z.numpy())))
    share = (weights / weights.sum())[:, None]
    importances = torch.stack(found)
    return importances, torch.zeros_like(importances), _fit(torch.stack(left, 1), y - (share * y).sum(0), share)


def _fit(left: Tensor, centred: Tensor, share: Tensor) -> Tensor:
    """Weighted R²; 1 where there was nothing to explain."""
    import torch

    whole = (share * centred**2).sum(0)
    return torch.where(whole > 0, 1 - (share * left**2).sum(0) / whole, torch.ones_like(whole))
