"""Expected gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

from seewhy.types import Attribution, Baseline, Between, GradientsAt, ScoresAt

from .moments import Moments, add, mean

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from torch import Tensor

    from seewhy.types import Inputs, Scores


def expected_gradients(
    x: Inputs,
    score: Scores,
    block: int,
    normal: Callable[[int, int], Tensor],
    uniform: Callable[[int, int], Tensor],
    *,
    references: Baseline = None,
    samples: Annotated[int, Between(2)] = 50,
) -> Generator[GradientsAt | ScoresAt, Tensor, Attribution]:
    """Integrated gradients averaged over many baselines: what each input value adds to the score beyond the usual.

    Mean of (x - b) · d score / d x at b + a (x - b) over references b and a uniform in 0..1. Signed, in score units.
    The parts sum to score - mean reference score, up to `completeness`; `stderr` is the standard error of the mean.

    Args:
        x: the input.
        score: its scores.
        block: how many points fit at once.
        normal: draws.
        uniform: draws in 0..1.
        references: what is usual: a tensor [R, ...] of inputs in the network's own units. Default: noise with the mean
            and spread of each channel of the sample itself.
        samples: how many draws.
    """
    flat = x.flatten(2)
    shape = (*x.shape[:2], *[1] * (x.ndim - 2))
    centre, spread = (v.view(shape) for v in (flat.mean(2), flat.std(2, correction=0)))
    moments, usual = Moments(), Moments()
    for start in range(0, samples, block):
        stop = min(start + block, samples)
        draw = uniform(start, stop).to(x)  # [M, 2]: where on the way, which reference
        at = ((draw.new_tensor(range(start, stop)) + draw[:, 0]) / samples).view(-1, *[1] * x.ndim)  # one a stratum
        if references is None:
            begin = centre + spread * normal(start, stop).unsqueeze(1)
        else:
            given = cast("Tensor", references)
            begin = given[(draw[:, 1] * len(given)).long()].unsqueeze(1)
        way = x - begin
        gradients = yield GradientsAt(begin + at * way)
        moments = add(moments, way.unsqueeze(2) * gradients)
        usual = add(usual, (yield ScoresAt(begin.expand_as(way))).double())
    values, stderr = mean(moments)
    missing = values.double().flatten(2).sum(2) - (score.double() - mean(usual)[0])
    return Attribution(values, missing, stderr)
