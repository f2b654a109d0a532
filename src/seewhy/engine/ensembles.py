"""Ensembles: the mean map of any method over noisy or mirrored copies of the input, or over layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from seewhy import maps
from seewhy.errors import OptionError
from seewhy.methods import METHODS, method_identity
from seewhy.methods.method import Method
from seewhy.methods.running_moments import Moments, add_samples, mean_and_stderr
from seewhy.results import Ensemble, Evaluations, Explanation

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


def _copy(ensemble: Ensemble, x: Inputs, j: int, seed: int) -> Inputs:
    """Return copy j of a batch."""
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


def average_copies(
    ensemble_method: EnsembleMethod, x: Inputs, seed: int, upsample: str, explain: Callable[[Inputs, Any], Explanation]
) -> Explanation:
    """Return the mean of `explain(copy, targets)` over the copies; the targets are those of `explain(x, None)`.

    Args:
        ensemble_method: the method and the kind of copies.
        x: the batch [N, C, *S].
        seed: seed of the noise.
        upsample: how the mean is brought to the size of the maps.
        explain: function of a batch and its targets; None: targets are determined from the batch.
    """
    ensemble = ensemble_method.ensemble
    plain = explain(x, None)
    moments, passes, notes = Moments(), plain.evaluations, plain.notes
    for j in range(ensemble.samples):
        e = explain(_copy(ensemble, x, j, seed), plain.targets)
        moments = add_samples(moments, _map_back(ensemble, e.values, j).unsqueeze(0))
        passes = Evaluations(passes.forward + e.evaluations.forward, passes.backward + e.evaluations.backward)
        notes += e.notes
    values, stderr = mean_and_stderr(moments)
    assert plain.call is not None
    call = replace(plain.call, ensemble=ensemble)
    method = METHODS[ensemble_method.method] if isinstance(ensemble_method.method, str) else ensemble_method.method
    reduced = method.reduce(values)
    if plain.maps.shape != reduced.shape:
        reduced = maps.resample(reduced, plain.maps.shape[2:], upsample)
    return replace(
        plain,
        values=values,
        stderr=stderr,
        maps=reduced.float(),
        scaled=maps.rescale(reduced).float(),
        method=call.name,
        title=f"{plain.title}, {_ensemble_title(ensemble)}",
        call=call,
        evaluations=passes,
        convergence_delta=None,
        extras={},
        notes=tuple(dict.fromkeys(notes)),
    )


def _ensemble_title(ensemble: Ensemble) -> str:
    if ensemble.kind == "tta":
        return "mean with its mirror image"
    return f"smoothed ({ensemble.samples} samples, sigma {ensemble.sigma:g})"


def average_layers(explanations: Sequence[Explanation]) -> Explanation:
    """Return the mean of explanations that differ in their feature layer, at the size of the input.

    The maps are averaged as they are, in units of the score.

    Raises:
        OptionError: there are no explanations, since no layer was given.
    """
    if not explanations:
        raise OptionError("feature_layer=[] names no layer: omit the argument, or give at least one layer.")
    names = tuple(str(e.feature_layer) for e in explanations)
    notes = dict.fromkeys(note for e in explanations for note in e.notes)
    first, same_shape = explanations[0], len({e.values.shape for e in explanations}) == 1
    mean_map = torch.stack([e.maps for e in explanations]).mean(0)
    return replace(
        first,
        values=torch.stack([e.values for e in explanations]).mean(0) if same_shape else mean_map.unsqueeze(2),
        maps=mean_map,
        scaled=maps.rescale(mean_map),
        stderr=None,
        extras={},
        convergence_delta=None,
        feature_layer=", ".join(names),
        call=replace(first.call, feature_layer=names) if first.call else None,
        evaluations=Evaluations(*map(sum, zip(*(e.evaluations for e in explanations), strict=True))),
        seconds=sum(e.seconds for e in explanations),
        notes=(*notes, f"the mean of the maps of {len(explanations)} layers"),
    )
