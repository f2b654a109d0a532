"""Model outputs of any structure: a tensor, or nested tuples, lists, dictionaries and dataclasses of tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_iter, tree_map


def output_fields(output: Any) -> dict[str, Any]:
    """The fields of an output, each under the expression that accesses it: "[0]", "['logits']", ".logits"."""
    if isinstance(output, Mapping):
        return {f"[{key!r}]": value for key, value in output.items()}
    if is_dataclass(output) and not isinstance(output, type):
        return {f".{f.name}": getattr(output, f.name) for f in fields(output)}
    if isinstance(output, (tuple, list)):
        names = getattr(output, "_fields", None)
        return {f".{names[i]}" if names else f"[{i}]": value for i, value in enumerate(output)}
    return {}


def iter_tensors(output: Any) -> Iterator[Tensor]:
    """Iterate over all tensors of an output, at any depth."""
    for leaf in tree_iter(output):
        if isinstance(leaf, Tensor):
            yield leaf
        else:  # pytree does not know every structure, see `map_outputs`
            for value in output_fields(leaf).values():
                yield from iter_tensors(value)


def describe_output(output: Any) -> str:
    """Describe an output in one line, for a message: its type, and each field with its shape."""
    if isinstance(output, Tensor):
        return f"a tensor {list(output.shape)}"
    described = ", ".join(
        f"{name} {list(v.shape) if isinstance(v, Tensor) else type(v).__name__}"
        for name, v in output_fields(output).items()
    )
    return f"a {type(output).__name__}" + (f" with {described}" if described else "")


def is_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite. The sum is tested first: if it is finite, so are all values."""
    if not tensor.is_floating_point():
        return True
    with torch.no_grad():
        return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def map_outputs(function: Callable[..., Tensor], first: Any, *others: Any) -> Any:
    """The output with each tensor replaced by `function(tensor, *tensors at the same place of the others)`.

    The structure, and all that is no tensor, is that of the first output. Dataclasses, mappings that are no plain
    dictionaries, and subclasses of tuple and list are leaves for pytree, and opened here.
    """

    def map_leaf(leaf: Any, *rest: Any) -> Any:
        if isinstance(leaf, Tensor):
            return function(leaf, *rest)
        construct: Callable[..., Any] = type(leaf)
        if isinstance(leaf, Mapping):
            values = {key: map_outputs(function, leaf[key], *(r[key] for r in rest)) for key in leaf}
            try:
                return construct(values)
            except TypeError:  # a mapping whose constructor has other parameters
                return values
        if is_dataclass(leaf) and not isinstance(leaf, type):
            names = (f.name for f in fields(leaf))
            return construct(**{n: map_outputs(function, *(getattr(o, n) for o in (leaf, *rest))) for n in names})
        if isinstance(leaf, (tuple, list)):
            return construct(map_outputs(function, list(leaf), *map(list, rest)))
        return leaf

    return tree_map(map_leaf, first, *others)


def concatenate_outputs(outputs: list[Any], graph: bool = False) -> Any:
    """Concatenate the outputs of consecutive batches, field by field.

    Args:
        outputs: outputs of the same structure; fields that are no tensors are taken from the first.
        graph: keep the autograd graph and the device; else the result is detached and on the CPU.
    """

    def join(*tensors: Tensor) -> Tensor:
        first = tensors[0]
        joined = first if len(tensors) == 1 else torch.cat(tensors) if first.ndim else torch.stack(tensors)
        return joined if graph else joined.detach().cpu()

    return map_outputs(join, *outputs)


def select_samples(output: Any, start: int, stop: int, count: int) -> Any:
    """The samples from `start` to `stop` of an output, field by field; the structure is kept.

    Args:
        output: an output for `count` samples.
        start: index of the first sample.
        stop: index after the last sample.
        count: number of samples; tensors whose first axis has another size are returned unchanged.
    """
    return map_outputs(lambda t: t[start:stop] if t.ndim and len(t) == count else t, output)


def kernel_precision(values: Tensor) -> Tensor:
    """Values in the precision in which kernels compute: half precision becomes single, others are unchanged."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
