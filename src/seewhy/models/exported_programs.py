"""Programs of `torch.export`, which may accept batches of one size only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

FIXED_BATCH = (
    "the program was exported for batches of exactly {size} samples, so a layer has no values per sample: export it "
    "with a dynamic batch (dynamic_shapes of torch.export.export), or for one sample"
)


def fixed_batch_size(module: torch.nn.Module | None, axis: int) -> int | None:
    """The only batch size that an exported program accepts; None: any size, or another kind of module.

    Args:
        module: the module of a program.
        axis: the batch axis of its first input.
    """
    if not isinstance(module, torch.fx.GraphModule):
        return None
    example = next((node.meta.get("val") for node in module.graph.nodes if node.op == "placeholder"), None)
    size = example.shape[axis] if isinstance(example, Tensor) and example.ndim > axis else None
    return size if isinstance(size, int) else None  # a dynamic size is a symbol


def in_fixed_batches(forward: Callable[[Tensor], Any], size: int, axis: int) -> Callable[[Tensor], Any]:
    """Return a function that runs batches of any size in batches of `size`, of which the last is filled by repetition.

    Args:
        forward: a function of a batch, with the samples on the first axis of its output.
        size: number of samples that it accepts.
        axis: the batch axis of its input.
    """

    def call(x: Tensor) -> Any:
        count = x.shape[axis]
        missing = -count % size
        padded = torch.cat([x, *[x.narrow(axis, count - 1, 1)] * missing], axis) if missing else x
        return _join([forward(part) for part in padded.split(size, axis)], count)

    return call


def _join(outputs: list[Any], count: int) -> Any:
    """Concatenate the outputs of several batches, and keep the first `count` samples."""
    first = outputs[0]
    if isinstance(first, Tensor):
        return torch.cat(outputs)[:count] if first.ndim else first
    if isinstance(first, dict):
        return {key: _join([output[key] for output in outputs], count) for key in first}
    if isinstance(first, (tuple, list)):
        return type(first)(_join(list(values), count) for values in zip(*outputs, strict=True))
    return first
