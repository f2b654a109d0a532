"""Records that kernels and families exchange: the queries of iterative kernels, and the attribution a kernel returns.

An iterative kernel is a generator: it yields queries and is sent the replies, as tensors. M is the number of points or
masks of a query.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

    from seewhy.types import Values


class GradientQuery(NamedTuple):
    """Requests the gradients of all targets at the points [M, N, C, *S]; the reply is [M, N, K, C, *S].

    With `sample_index` all points [M, 1, C, *S] belong to that sample, and the reply is [M, 1, K, C, *S].
    """

    points: Tensor
    sample_index: int | None = None


class ScoreQuery(NamedTuple):
    """Requests the scores of all targets at the points [M, N, C, *S]; the reply is [M, N, K].

    With `sample_index` all points [M, 1, C, *S] belong to that sample, and the reply is [M, 1, K].
    """

    points: Tensor
    sample_index: int | None = None


class LayerMaskQuery(NamedTuple):
    """Requests the scores with the feature layer's output multiplied by each mask; the reply is [M, N, K].

    `masks(start, stop)` returns the masks from `start` to `stop` - 1, [stop - start, C or 1, *S' or 1]. All samples
    share them.
    """

    n_masks: int
    masks: Callable[[int, int], Tensor]


class InputMaskQuery(NamedTuple):
    """Requests the scores with masked parts of the input replaced by `fill` [N, C, *S]; the reply is [M, N, K].

    `masks(start, stop)` returns [stop - start, N or 1, C or 1, *S]: True where the value is replaced, or the fraction
    of the value that is replaced. With `sample_index` only that sample is evaluated, and the reply is [M, 1, K].
    `windows` [M, axes, 2], if known, holds start and stop per axis of a box that contains all masked positions.
    """

    n_masks: int
    masks: Callable[[int, int], Tensor]
    fill: Tensor
    sample_index: int | None = None
    windows: Tensor | None = None


class Attribution(NamedTuple):
    """The result of a kernel that returns more than `values`.

    Attributes:
        values: the attributions [N, K, C, *S].
        convergence_delta: sum of the attributions minus the value that they should sum to, [N, K].
        stderr: standard error of each value, shaped like `values`.
        extras: further results of the method, by name.
        notes: sentences for the user.
    """

    values: Values
    convergence_delta: Tensor | None = None
    stderr: Tensor | None = None
    extras: Mapping[str, Any] = {}
    notes: tuple[str, ...] = ()
