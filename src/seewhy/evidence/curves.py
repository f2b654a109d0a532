"""What happens to the score when positions are hidden or shown in the order of a map."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from seewhy import maps
from seewhy.errors import OptionError
from seewhy.models import tree
from seewhy.trace import question
from seewhy.trace.forward import placed, quiet
from seewhy.trace.path import resolve_baseline
from seewhy.trace.predict import probabilities
from seewhy.trace.reuse import MANY, answering, prepare

if TYPE_CHECKING:
    from torch import Tensor

    from seewhy.types import Explanation, Inputs, Model

BATCH = 8
Filled = Callable[["Tensor"], "Inputs"]  # the inputs with what a mask hides filled in
Scores = Callable[["Inputs"], "Tensor"]  # of points, one for each sample


def deletion(
    model: Model, e: Explanation, *, steps: int = 16, ties: int = 3, fill: Any = "blur", seed: int = 0
) -> tuple[Tensor, Tensor]:
    """The mean score while positions are hidden, the most important first; low is good.

    Petsiuk et al. 2018, section 4.1. The score is the class's probability where the network gives logits, else the
    score itself. Equal values are put in `ties` random orders, whose spread is the standard error; that few steps
    stand for the whole curve is not in it (docs/benchmarks.md says by how much areas of few steps are off).

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

    def filled(hidden: Tensor) -> Inputs:
        return torch.stack([_imputed(one, mask[0], added) for one, mask in zip(e.input, hidden, strict=True)])

    shares = [step / (steps + 1) for step in range(1, steps + 1)]
    return _areas(model, e, shares, ties, seed, lambda ranked, share: ranked < share, filled)


def _curve(
    model: Model, e: Explanation, steps: int, ties: int, fill: Any, seed: int, hides: Callable[[Tensor, float], Tensor]
) -> tuple[Tensor, Tensor]:
    x = e.input
    return _areas(model, e, [step / steps for step in range(1, steps + 1)], ties, seed, hides, filling(model, x, fill))


def filling(model: Model, x: Inputs, fill: Any = "blur") -> Filled:
    """Puts something else where a mask [N, 1, *S] is true."""
    start, _ = resolve_baseline(model, x, 0.0 if model.layout == "NF" and fill == "blur" else fill)
    return lambda hidden: torch.where(hidden.to(x.device), start.to(x), x)


def _areas(
    model: Model, e: Explanation, shares: list[float], ties: int, seed: int,
    hides: Callable[[Tensor, float], Tensor], filled: Filled,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """[N, K]: means over the curve, and their standard errors from the order of equal values."""
    whole = at_input(e)
    found = torch.zeros(ties, *whole.shape[:2], dtype=torch.float64)
    for k in range(whole.shape[1]):
        scores = explained_scores(model, e, k, count=ties * len(shares))
        before = None
        for t in range(ties):
            ranked = order(whole[:, k], np.random.default_rng((seed, t)))
            if before is not None and torch.equal(ranked, before):  # no two values are equal
                found[t, :, k] = found[t - 1, :, k]
                continue
            before, found[t, :, k] = ranked, area(scores, (filled(hides(ranked, share)) for share in shares))
    error = found.std(0) / ties**0.5 if ties > 1 else torch.full_like(found[0], torch.nan)
    return found.mean(0), error


def area(scores: Scores, stages: Iterable[Inputs]) -> Tensor:
    """[N]: the mean score over the stages of one curve, each the inputs [N, C, *S] with more hidden."""
    found = [scores(points) for points in stages]
    return torch.stack(found).mean(0)


def at_input(e: Explanation) -> Tensor:
    """The maps at the input's size [N, K, *S]."""
    size = e.input.shape[2:]
    return (e.maps if e.maps.shape[2:] == size else maps.resample(e.maps, size, "linear")).double()


def order(flat: Tensor, draw: np.random.Generator) -> Tensor:
    """Of maps [N, *S] the place of each position [N, 1, *S], 0 for the largest value, up to 1; equals at random."""
    shape, flat = flat.shape, flat.flatten(1)
    # one random order for all samples, so that no number depends on its batch
    ties = torch.from_numpy(draw.permutation(flat.shape[1])).expand(flat.shape)
    first = ties.gather(1, (-flat.gather(1, ties)).argsort(dim=1, stable=True))
    return (first.argsort(1) / flat.shape[1]).view(len(flat), 1, *shape[1:])


def explained_scores(model: Model, e: Explanation, k: int, *, count: int, score: str | None = None) -> Scores:
    """How target k of an explanation is scored at other points of its samples."""
    if e.targets is None:
        raise OptionError("this explains a function of the output: only explanations of classes can be measured.")
    return scorer(model, e.input, e.targets[:, k : k + 1], count=count, score=score, layer=reduction(model, e))


def scorer(
    model: Model, x: Inputs, target: Any, *, count: int, score: str | None = None, layer: str | None = None
) -> Scores:
    """A function from other points [N, C, *S], one for each sample, to the score of each [N].

    Args:
        model: who answers.
        x: the inputs.
        target: the class of each [N, 1], or a function of the output.
        count: how often it will be asked; many times make a record of the network worth it.
        score: of a class; default: its probability where the network gives logits, else the score itself.
        layer: whose output is scored; None: the network's own.
    """
    place = placed(model, "auto")[1] or x.device
    many = model.module is not None and layer is None and count * len(x) >= MANY
    outputs = answering(model, prepare(model, x[:1].to(place)) if many else "few", layer)

    def scores(points: Inputs) -> Tensor:
        found = []
        with quiet(model), torch.no_grad():
            for start in range(0, len(points), BATCH):
                part = slice(start, start + BATCH)
                output = outputs(points[part].to(place))
                rows = target if callable(target) else target[part].to(place)
                how = score or ("logit" if callable(target) or _bare(output, model) else "probability")
                asked = question.resolve(rows, how, model, output, slice(None))
                found.append(question.values_of(question.scored(asked, output, model, rescue=False))[:, 0])
        return torch.cat(found).double().cpu()

    return scores


def _bare(output: Any, model: Model) -> bool:
    """Whether the scores are no logits of several classes."""
    shares, already = probabilities(output, model)
    return shares is None or already or shares.ndim > 2 or shares.shape[1] < 2


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
