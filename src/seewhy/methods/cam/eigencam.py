"""EigenCAM."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seewhy.methods.queries import Attribution

if TYPE_CHECKING:
    from seewhy.types import Features, Scores


def eigencam(activations: Features, score: Scores) -> Attribution:
    """EigenCAM: projection of the layer's activations on their first principal component; class-agnostic.

    Muhammad and Yeasin 2020, eq. 4: A (positions × channels) = U S V^T, map = A v_1, without centering. A singular
    vector has no sign; the sign is chosen such that the map's sum is positive. No gradient is used. The map is the
    same for every class: it shows the dominant pattern of the layer's features, not evidence for a class.
    """
    import torch

    grid = activations.shape[2:]
    left, singular_values, _ = torch.linalg.svd(activations.flatten(2).transpose(1, 2), full_matrices=False)
    projection = left[:, :, 0] * singular_values[:, :1]
    projection = projection * projection.sum(1, keepdim=True).sign()
    values = projection.reshape(-1, 1, 1, *grid).expand(-1, score.shape[1], -1, *(-1 for _ in grid))
    note = "this map shows the dominant pattern of the layer's features and does not depend on the class"
    return Attribution(values.contiguous(), notes=(note,))
