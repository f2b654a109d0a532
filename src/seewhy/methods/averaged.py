"""Any method, averaged over noisy or flipped copies of the input."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from seewhy import maps
from seewhy.errors import OptionError, unknown
from seewhy.types import Evaluations, Explanation

from . import METHODS
from .draws import normal
from .gradients.moments import Moments, add, mean
from .method import Method

if TYPE_CHECKING:
    from seewhy.types import Inputs, Values


@dataclass(frozen=True)
class Averaged:
    """A method averaged over copies; stands wherever a method's name may stand. Made by `smooth` and `tta`.

    Attributes:
        method: the method that explains each copy.
        kind: "smooth" or "tta".
        options: what was asked.
        copies: how many.
        move: (x, j, seed) -> copy j of a batch.
        back: (values, j) -> the values of copy j, where the input's own would stand.
    """

    method: Method
    name: str
    kind: str
    options: Mapping[str, Any]
    copies: int
    move: Callable[[Inputs, int, int], Inputs]
    back: Callable[[Values, int], Values]


def smooth(method: str | Method, samples: int = 16, sigma: float = 0.1) -> Averaged:
    """A method, averaged over copies of the input with noise; `stderr` is the standard error of that mean.

    Smilkov et al. 2017, section 3, around any method. The classes are those of the input without noise.

    Args:
        method: a name, or a method.
        samples: how many copies, at least 2.
        sigma: standard deviation of the noise, as a share of the input's largest minus smallest value.

    Raises:
        UnknownNameError: no such method.
        OptionError: a value out of range.
    """
    if samples < 2 or sigma < 0:
        raise OptionError(f"samples={samples}, sigma={sigma}: at least 2 copies, and a sigma of 0 or above.")

    def move(x: Inputs, j: int, seed: int) -> Inputs:
        flat = x.flatten(1)
        scale = (sigma * (flat.amax(1) - flat.amin(1))).view(-1, *[1] * (x.ndim - 1))
        return x + scale * normal(seed, x)(j, j + 1)

    name, found = _method(method)
    return Averaged(
        found, name, "smooth", {"samples": samples, "sigma": sigma}, samples, move, lambda values, j: values
    )


def tta(method: str | Method) -> Averaged:
    """A method, averaged over the picture and its mirror image, whose map is mirrored back.

    Raises:
        UnknownNameError: no such method.
    """

    def move(x: Inputs, j: int, seed: int) -> Inputs:
        if x.ndim != 4:
            raise OptionError(f"tta mirrors pictures [N, C, H, W]; this input has {x.ndim} axes: use seewhy.smooth.")
        return x.flip(-1) if j else x

    name, found = _method(method)
    return Averaged(found, name, "tta", {}, 2, move, lambda values, j: values.flip(-1) if j else values)


def average(
    over: Averaged, x: Inputs, seed: int, upsample: str, explain: Callable[[Inputs, Any], Explanation]
) -> Explanation:
    """The mean of `explain(copy, targets)` over the copies; explain(x, None) says which targets."""
    plain = explain(x, None)
    moments, passes, notes = Moments(), plain.evaluations, plain.notes
    for j in range(over.copies):
        e = explain(over.move(x, j, seed), plain.targets)
        moments = add(moments, over.back(e.values, j).unsqueeze(0))
        passes = Evaluations(passes.forward + e.evaluations.forward, passes.backward + e.evaluations.backward)
        notes += e.notes
    values, stderr = mean(moments)
    reduced = over.method.reduce(values)
    if plain.maps.shape != reduced.shape:
        reduced = maps.resample(reduced, plain.maps.shape[2:], upsample)
    return replace(
        plain,
        values=values,
        stderr=stderr,
        maps=reduced.float(),
        scaled=maps.rescale(reduced).float(),
        method=f"{over.kind}({over.name})",
        title=f"{plain.title}, {'smoothed' if over.kind == 'smooth' else 'both ways round'}",
        options={**plain.options, **over.options},
        evaluations=passes,
        completeness=None,
        extras={},
        notes=tuple(dict.fromkeys(notes)),
    )


def average_layers(each: Sequence[Explanation]) -> Explanation:
    """The mean of explanations that read one layer each, at the input's size; as it is, so in units of the score.

    Raises:
        OptionError: no layer was named.
    """
    if not each:
        raise OptionError("feature_layer=[] names no layer: leave it out, or give at least one name.")
    first, alike = each[0], len({e.values.shape for e in each}) == 1
    mean_map = torch.stack([e.maps for e in each]).mean(0)
    return replace(
        first,
        values=torch.stack([e.values for e in each]).mean(0) if alike else mean_map.unsqueeze(2),
        maps=mean_map,
        scaled=maps.rescale(mean_map),
        stderr=None,
        extras={},
        completeness=None,
        feature_layer=", ".join(str(e.feature_layer) for e in each),
        evaluations=Evaluations(*map(sum, zip(*(e.evaluations for e in each), strict=True))),
        seconds=sum(e.seconds for e in each),
        notes=(*dict.fromkeys(note for e in each for note in e.notes), f"the mean of the maps of {len(each)} layers"),
    )


def _method(given: str | Method) -> tuple[str, Method]:
    if isinstance(given, Method):
        return given.kernel.__name__, given
    if given not in METHODS:
        raise unknown("method", given, METHODS)
    return given, METHODS[given]
