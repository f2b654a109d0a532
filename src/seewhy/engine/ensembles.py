"""Ensembles: the mean map of any method over noisy or mirrored copies of the input."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from seewhy import maps
from seewhy.errors import OptionError
from seewhy.methods import method_identity
from seewhy.methods.method import Method
from seewhy.methods.running_moments import Moments, add_samples, mean_and_stderr
from seewhy.results import Ensemble, Evaluations, Explanation, sum_evaluations

from .batch import RequestedMethod
from .random_numbers import normal_sampler

if TYPE_CHECKING:
    from seewhy.types import Inputs, Values


@dataclass(frozen=True)
class EnsembleMethod:
    """A method averaged over copies of the input, accepted wherever a method is. Returned by `smooth` and `tta`.

    Attributes:
        method: canonical name, or a `Method`, of the method that explains each copy.
        ensemble: the copies.
    """

    method: str | Method
    ensemble: Ensemble


def smooth(method: str | Method, samples: int = 16, sigma: float = 0.1) -> EnsembleMethod:
    """Average any method over copies of the input with Gaussian noise (SmoothGrad, Smilkov et al. 2017, section 3).

    The field `stderr` of the explanation is the standard error of the mean. Targets such as the best class are
    determined from the input without noise.

    Args:
        method: name of a method, or a `Method`.
        samples: number of copies, at least 2.
        sigma: standard deviation of the noise, as a fraction of the sample's largest minus smallest value; at least 0.

    Returns:
        A method for the argument `method` of `seewhy.explain`.

    Raises:
        UnknownNameError: the method does not exist.
        OptionError: `samples` or `sigma` is out of range.
    """
    if samples < 2 or sigma < 0:
        raise OptionError(f"samples={samples}, sigma={sigma}: samples must be at least 2, and sigma at least 0.")
    return EnsembleMethod(method_identity(method), Ensemble("smooth", samples, sigma))


def tta(method: str | Method) -> EnsembleMethod:
    """Average any method over the picture and its mirror image (test-time augmentation).

    The map of the mirror image is mirrored back first. Targets such as the best class are determined from the picture.

    Args:
        method: name of a method, or a `Method`.

    Returns:
        A method for the argument `method` of `seewhy.explain`.

    Raises:
        UnknownNameError: the method does not exist.
    """
    return EnsembleMethod(method_identity(method), Ensemble("tta", 2))


def copy_of_input(ensemble: Ensemble, x: Inputs, j: int, seed: int) -> Inputs:
    """Return copy j of a batch.

    Raises:
        OptionError: the ensemble mirrors pictures, and the batch does not hold pictures.
    """
    if ensemble.kind == "tta":
        if x.ndim != 4:
            raise OptionError(
                f"tta mirrors pictures [N, C, H, W], but this input has {x.ndim} axes: use seewhy.smooth."
            )
        return x.flip(-1) if j else x
    flat = x.flatten(1)
    scale = (ensemble.sigma * (flat.amax(1) - flat.amin(1))).view(-1, *[1] * (x.ndim - 1))
    return x + scale * normal_sampler(seed, x)(j, j + 1)


def _map_back(ensemble: Ensemble, values: Values, j: int) -> Values:
    """Return the values of copy j at the positions of the original input."""
    return values.flip(-1) if ensemble.kind == "tta" and j else values


class CopyMean(NamedTuple):
    """The explanation of an input, and the running mean over those of its copies, if there are any.

    Attributes:
        requested: the method, with its ensemble.
        original: the explanation of the input itself.
        moments: of the values of the copies.
        evaluations, seconds: of the copies.
        notes: of the copies.
    """

    requested: RequestedMethod
    original: Explanation
    moments: Moments = Moments()
    evaluations: Evaluations = Evaluations(0, 0)
    seconds: float = 0.0
    notes: tuple[str, ...] = ()


def add_copy(mean: CopyMean, e: Explanation, j: int) -> CopyMean:
    """Return the mean with the explanation of copy j added; its values are mapped back to the input's positions."""
    assert mean.requested.ensemble is not None
    values = _map_back(mean.requested.ensemble, e.values, j)
    return mean._replace(
        moments=add_samples(mean.moments, values.unsqueeze(0)),
        evaluations=sum_evaluations([mean.evaluations, e.evaluations]),
        seconds=mean.seconds + e.seconds,
        notes=tuple(dict.fromkeys(mean.notes + e.notes)),
    )


def mean_explanation(mean: CopyMean) -> Explanation:
    """Return the explanation of the input for a method without an ensemble, else the mean over the copies."""
    plain, ensemble = mean.original, mean.requested.ensemble
    if ensemble is None:
        return plain
    values, stderr = mean_and_stderr(mean.moments)
    assert plain.call is not None
    call = replace(plain.call, ensemble=ensemble)
    reduced = mean.requested.method.reduce(values)
    if plain.maps.shape != reduced.shape:
        reduced = maps.resample(reduced, plain.maps.shape[2:], plain.upsample)
    return replace(
        plain,
        values=values,
        stderr=stderr,
        maps=reduced.float(),
        scaled=maps.rescale(reduced).float(),
        method=call.name,
        title=f"{plain.title}, {_ensemble_title(ensemble)}",
        call=call,
        evaluations=sum_evaluations([plain.evaluations, mean.evaluations]),
        seconds=plain.seconds + mean.seconds,
        convergence_delta=None,
        extras={},
        notes=tuple(dict.fromkeys(plain.notes + mean.notes)),
    )


def _ensemble_title(ensemble: Ensemble) -> str:
    if ensemble.kind == "tta":
        return "mean with its mirror image"
    return f"smoothed ({ensemble.samples} samples, sigma {ensemble.sigma:g})"
