"""Expected gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

from seewhy.methods.queries import Attribution, GradientQuery, ScoreQuery
from seewhy.methods.running_moments import Moments, add_samples, mean_and_stderr
from seewhy.types import Baseline, Range

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from torch import Tensor

    from seewhy.types import Inputs, Scores


def expected_gradients(
    x: Inputs,
    score: Scores,
    max_points: int,
    normal: Callable[[int, int], Tensor],
    uniform: Callable[[int, int], Tensor],
    *,
    references: Baseline = None,
    samples: Annotated[int, Range(2)] = 50,
) -> Generator[GradientQuery | ScoreQuery, Tensor, Attribution]:
    """Expected gradients: integrated gradients averaged over random references, with one random point per path.

    Mean of (x - b) · d score / d x at b + a (x - b) over references b and over a uniform in [0, 1]. Signed, in units of
    the score. The values sum to score - mean score of the references, up to `convergence_delta`. `stderr` is the
    standard error of the mean. The map depends on the choice of the references.

    Args:
        x: the input.
        score: the target scores of the input.
        max_points: largest number of points per query.
        normal: function that draws standard normal numbers.
        uniform: function that draws uniform numbers in [0, 1).
        references: inputs to compare with, a tensor [R, ...] in the network's own units. Default: normal noise with the
            mean and standard deviation of each channel of the sample itself.
        samples: number of random points.
    """
    flat = x.flatten(2)
    shape = (*x.shape[:2], *[1] * (x.ndim - 2))
    channel_mean, channel_std = (v.view(shape) for v in (flat.mean(2), flat.std(2, correction=0)))
    moments, reference_moments = Moments(), Moments()
    for start in range(0, samples, max_points):
        stop = min(start + max_points, samples)
        draw = uniform(start, stop).to(x)  # [M, 2]: position on the path, reference
        # stratified: one position in each of `samples` equal intervals
        alpha = ((draw.new_tensor(range(start, stop)) + draw[:, 0]) / samples).view(-1, *[1] * x.ndim)
        if references is None:
            reference = channel_mean + channel_std * normal(start, stop).unsqueeze(1)
        else:
            given = cast("Tensor", references)
            reference = given[(draw[:, 1] * len(given)).long()].unsqueeze(1)
        difference = x - reference
        gradients = yield GradientQuery(reference + alpha * difference)
        moments = add_samples(moments, difference.unsqueeze(2) * gradients)
        reference_scores = yield ScoreQuery(reference.expand_as(difference))
        reference_moments = add_samples(reference_moments, reference_scores.double())
    values, stderr = mean_and_stderr(moments)
    delta = values.double().flatten(2).sum(2) - (score.double() - mean_and_stderr(reference_moments)[0])
    return Attribution(values, delta, stderr)
