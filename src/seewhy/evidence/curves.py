"""What happens to the score when positions are hidden or shown in the order of a map."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from seewhy import maps
from seewhy.errors import OptionError
from seewhy.models import tree
from seewhy.trace import question
from seewhy.trace.forward import placed, quiet, run
from seewhy.trace.path import resolve_baseline
from seewhy.trace.predict import probabilities

if TYPE_CHECKING:
    from torch import Tensor

    from seewhy.types import Explanation, Inputs, Model

BATCH = 8


def deletion(
    model: Model, e: Explanation, *, steps: int = 16, ties: int = 3, fill: Any = "blur", seed: int = 0
) -> tuple[Tensor, Tensor]:
    """The mean score while positions are hidden, the most important first; low is good.

    Petsiuk et al. 2018, section 4.1. The score is the class's probability where the network gives logits, else the
    score itself. Equal values are put in `ties` random orders, whose spread is the standard error.

    Args:
        model: who answers.
        e: what it explains.
        steps: how many parts are hidden, one after the other, up to everything.
        ties: random orders of equal values.
        fill: what stands where something is hidden, as a baseline.
        seed: of those orders.
    """
    return _curve(model, e, steps, ties, fill, seed, lambda ranked, share: ranked < share)


def insertion(
    model: Model, e: Explanation, *, steps: int = 16, ties: int = 3, fill: Any = "blur", seed: int = 0
) -> Any:
    """The mean score while positions are shown, the most important first, from nothing to everything; high is good.

    Petsiuk et al. 2018, section 4.1; otherwise as deletion.

    Args:
        model: who answers.
        e: what it explains.
        steps: how many parts are shown, one after the other.
        ties: random orders of equal values.
        fill: what stands where something is hidden, as a baseline.
        seed: of those orders.
    """
    return _curve(model, e, steps, ties, fill, seed, lambda ranked, share: ranked >= share)


def road(model: Model, e: Explanation, *, steps: int = 8, ties: int = 1, noise: float = 0.01, seed: int = 0) -> Any:
    """Deletion where what is hidden is filled in from its neighbours: the mask itself tells nothing; low is good.

    Rong et al. 2022, section 4: each hidden position is the weighted mean of its eight neighbours (1/6 along the axes,
    1/12 across), solved as one sparse linear system, plus noise. Shares go from 1/(steps + 1) up, never to everything.

    Args:
        model: who answers.
        e: what it explains; pictures only.
        steps: how many parts are hidden, one after the other.
        ties: random orders of equal values.
        noise: its standard deviation, in the network's units.
        seed: of the noise and the orders.

    Raises:
        OptionError: the input is no picture.
    """
    if e.input.ndim != 4:
        raise OptionError(f"road fills in pictures [N, C, H, W]; this input has {e.input.ndim} axes: use deletion.")
    # the same for all samples, so that no number depends on its batch
    added = noise * np.random.default_rng((seed, 4)).standard_normal(e.input.shape[1:])

    def filled(x: Inputs, hidden: Tensor) -> Inputs:
        return torch.stack([_imputed(one, mask[0], added) for one, mask in zip(x, hidden, strict=True)])

    shares = [step / (steps + 1) for step in range(1, steps + 1)]
    return _areas(model, e, shares, ties, seed, lambda ranked, share: ranked < share, filled)


def _curve(
    model: Model, e: Explanation, steps: int, ties: int, fill: Any, seed: int, hides: Callable[[Tensor, float], Tensor]
) -> tuple[Tensor, Tensor]:
    x = e.input
    start, _ = resolve_baseline(model, x, 0.0 if model.layout == "NF" and fill == "blur" else fill)

    def filled(points: Inputs, hidden: Tensor) -> Inputs:
        return torch.where(hidden, start.to(points), points)

    return _areas(model, e, [step / steps for step in range(1, steps + 1)], ties, seed, hides, filled)


def _areas(
    model: Model, e: Explanation, shares: list[float], ties: int, seed: int,
    hides: Callable[[Tensor, float], Tensor], filled: Callable[[Inputs, Tensor], Inputs],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """[N, K]: means over the curve, and their standard errors from the order of equal values."""
    x, whole = e.input, at_input(e)
    found = torch.zeros(ties, *whole.shape[:2], dtype=torch.float64)
    for t in range(ties):
        for k in range(whole.shape[1]):
            ranked = order(whole[:, k], np.random.default_rng((seed, t))).view(len(x), 1, *x.shape[2:])
            for share in shares:
                hidden = hides(ranked, share)
                found[t, :, k] += answers(model, filled(x, hidden), e, k) / len(shares)
    error = found.std(0) / ties**0.5 if ties > 1 else torch.full_like(found[0], torch.nan)
    return found.mean(0), error


def at_input(e: Explanation) -> Tensor:
    """The maps at the input's size [N, K, *S]."""
    size = e.input.shape[2:]
    return (e.maps if e.maps.shape[2:] == size else maps.resample(e.maps, size, "linear")).double()


def order(flat: Tensor, draw: np.random.Generator) -> Tensor:
    """Of maps [N, *S] the place of each position [N, P], 0 for the largest value, up to 1; equal values at random."""
    flat = flat.flatten(1)
    # one random order for all samples, so that no number depends on its batch
    ties = torch.from_numpy(draw.permutation(flat.shape[1])).expand(flat.shape)
    first = ties.gather(1, (-flat.gather(1, ties)).argsort(dim=1, stable=True))
    return first.argsort(1) / flat.shape[1]


def answers(model: Model, points: Inputs, e: Explanation, k: int, *, score: str | None = None) -> Tensor:
    """[N]: the score of target k of each sample at other points; the class's probability, where there are logits."""
    if e.targets is None:
        raise OptionError("this explains a function of the output: only explanations of classes can be measured.")
    found = []
    layer, place = reduction(model, e), placed(model, "auto")[1] or points.device
    with quiet(model), torch.no_grad():
        for start in range(0, len(points), BATCH):
            part = slice(start, start + BATCH)
            done = run(model, points[part].to(place), graph=False, layer=layer)
            shares, already = probabilities(done.explained, model)
            plain = shares is None or already or shares.ndim > 2
            asked = question.Asked(score or ("logit" if plain else "probability"), e.targets[part, k : k + 1].to(place))
            found.append(question.values_of(question.scored(asked, done.explained, model, rescue=False))[:, 0])
    return torch.cat(found).double().cpu()


def reduction(model: Model, e: Explanation) -> str | None:
    """The layer whose output is explained; None: the network's own output, also where that is named as no layer."""
    modules = {} if model.module is None else tree.layers(model.module)
    return e.reduction_layer if e.reduction_layer in modules else None


def _imputed(one: Tensor, hidden: Tensor, added: np.ndarray) -> Tensor:
    """A picture [C, H, W] whose hidden positions [H, W] follow from their neighbours, with something added."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.linalg import spsolve

    mask = hidden.numpy()
    count, (tall, wide) = int(mask.sum()), mask.shape
    if count == 0:
        return one
    number = np.full(mask.shape, -1)
    number[mask] = np.arange(count)
    rows, columns = np.nonzero(mask)
    values = one.double().numpy()
    at, to, weights = [], [], []
    known, total = np.zeros((count, len(values))), np.zeros(count)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            weight = {1: 1 / 6, 2: 1 / 12}.get(abs(down) + abs(right))
            i, j = rows + down, columns + right
            inside = (i >= 0) & (i < tall) & (j >= 0) & (j < wide)
            if weight is None:
                continue
            total[inside] += weight
            i, j, own = i[inside], j[inside], np.nonzero(inside)[0]
            other = number[i, j]
            seen = other < 0
            known[own[seen]] += weight * values[:, i[seen], j[seen]].T
            at.append(own[~seen])
            to.append(other[~seen])
            weights.append(np.full((~seen).sum(), -weight))
    everything = np.arange(count)
    system = coo_matrix(
        (np.concatenate([total, *weights]), (np.concatenate([everything, *at]), np.concatenate([everything, *to]))),
        shape=(count, count),
    ).tocsc()
    solved = spsolve(system, known).reshape(count, len(values))
    filled = one.clone()
    filled[:, hidden] = torch.from_numpy(solved.T + added[:, mask]).to(one)
    return filled
