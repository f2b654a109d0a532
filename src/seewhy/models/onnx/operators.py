"""ONNX operators as torch modules, in place of those that onnx2pytorch creates for the same operators.

Its indexing operators depend on behavior that torch deprecates, its Clip hides a rectifier behind tensor bounds, and
its LayerNormalization spells out the function in single steps.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Gather(nn.Module):
    """ONNX Gather: slices along one axis, selected by index."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, data: Tensor, indices: Tensor) -> Tensor:
        """[*before, n, *after], [*m] -> [*before, *m, *after]."""
        return data[(slice(None),) * (self.axis % data.ndim) + (indices.long(),)]


class Slice(nn.Module):
    """ONNX Slice: start, end and step along some axes."""

    def __init__(self, axes: Any = None, starts: Any = None, ends: Any = None, steps: Any = None) -> None:
        super().__init__()
        self.attributes = (starts, ends, axes, steps)

    def forward(self, data: Tensor, *inputs: Any) -> Tensor:
        """Slice the data; `inputs` are starts, ends, axes and steps, which older opsets store as attributes."""
        pairs = zip((*inputs, None, None, None, None), self.attributes, strict=False)
        starts, ends, axes, steps = (_integers(attribute if value is None else value) for value, attribute in pairs)
        assert starts is not None and ends is not None
        for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
            axis, step = (axes[i] % data.ndim if axes else i), steps[i] if steps else 1
            positions = range(data.shape[axis])[slice(start, end, step)]  # ends may lie far outside the axis
            if step > 0:
                data = data[(slice(None),) * axis + (slice(positions.start, positions.stop, step),)]
            else:  # torch does not support negative steps
                indices = torch.tensor(list(positions), dtype=torch.long, device=data.device)
                data = data.index_select(axis, indices)
        return data


class LayerNorm(nn.Module):
    """ONNX LayerNormalization, computed by `torch.nn.functional.layer_norm`."""

    def __init__(self, axis: int, eps: float) -> None:
        super().__init__()
        self.axis, self.eps = axis, eps

    def forward(self, x: Tensor, scale: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """Normalize to mean 0 and variance 1 over `axis` and all axes after it."""
        return F.layer_norm(x, x.shape[self.axis % x.ndim :], scale, bias, self.eps)


class Clip(nn.Module):
    """ONNX Clip. Constant bounds are passed to torch as numbers, so that a ReLU6 is recognized as a rectifier."""

    def __init__(self, low: float | None, high: float | None) -> None:
        super().__init__()
        self.attributes = (low, high)

    def forward(self, x: Tensor, *inputs: Tensor | None) -> Tensor:
        """Clamp the values; `inputs` are the lower and the upper bound, each optional."""
        pairs = zip((*inputs, None, None), self.attributes, strict=False)
        low, high = (_scalar(attribute if value is None else value) for value, attribute in pairs)
        return x if low is None and high is None else torch.clamp(x, low, high)


def replacement(layer: Any, node: Any) -> Any:
    """Return the module of this file for a node of the graph, or the converter's own layer if there is none."""
    if node.op_type == "Gather":
        return Gather(layer.dim)
    if node.op_type == "Slice":
        return Slice(layer.dim, layer.starts, layer.ends, layer.steps)
    if node.op_type == "Clip":
        return Clip(layer.min, layer.max)
    if node.op_type == "LayerNormalization" and len(node.output) == 1 and layer.stash_type == 1:
        return LayerNorm(layer.axis, layer.eps)
    return layer


def _scalar(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 and not value.requires_grad else value


def _integers(value: Any) -> list[int] | None:
    return value.flatten().tolist() if isinstance(value, Tensor) else [value] if isinstance(value, int) else value
