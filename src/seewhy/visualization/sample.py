"""Select one sample of an explained batch."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seewhy.results import Explanation


def select_sample(e: Explanation, n: int) -> Explanation:
    """Return the explanation of sample `n` alone, as a batch of one."""
    part = slice(n, n + 1)
    return replace(
        e, values=e.values[part], maps=e.maps[part], scaled=e.scaled[part], scores=e.scores[part], input=e.input[part],
        targets=None if e.targets is None else e.targets[part], labels=None if e.labels is None else e.labels[part],
        probabilities=None if e.probabilities is None else e.probabilities[part],
        convergence_delta=None if e.convergence_delta is None else e.convergence_delta[part],
        stderr=None if e.stderr is None else e.stderr[part],
        extras={key: value[part] for key, value in e.extras.items()},
    )  # fmt: skip
