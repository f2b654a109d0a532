"""Model outputs of any structure: a tensor, or nested tuples, lists, dictionaries and dataclasses of tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor


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
    if isinstance(output, Tensor):
        yield output
    for value in output_fields(output).values():
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


def concatenate_outputs(outputs: list[Any], graph: bool = False) -> Any:
    """Concatenate the outputs of consecutive batches, field by field.

    Args:
        outputs: outputs of the same structure; fields that are no tensors are taken from the first.
        graph: keep the autograd graph and the device; else the result is detached and on the CPU.
    """
    first = outputs[0]
    if isinstance(first, Tensor):
        joined = first if len(outputs) == 1 else torch.cat(outputs) if first.ndim else torch.stack(outputs)
        return joined if graph else joined.detach().cpu()
    if isinstance(first, Mapping):
        return _rebuild_mapping(first, {key: concatenate_outputs([o[key] for o in outputs], graph) for key in first})
    if is_dataclass(first) and not isinstance(first, type):
        return type(first)(
            **{f.name: concatenate_outputs([getattr(o, f.name) for o in outputs], graph) for f in fields(first)}
        )
    if isinstance(first, (tuple, list)):
        values = [concatenate_outputs([o[i] for o in outputs], graph) for i in range(len(first))]
        construct: Callable[..., Any] = type(first)
        return construct(*values) if hasattr(first, "_fields") else construct(values)
    return first


def select_samples(output: Any, start: int, stop: int, count: int) -> Any:
    """The samples from `start` to `stop` of an output, field by field; the structure is kept.

    Args:
        output: an output for `count` samples.
        start: index of the first sample.
        stop: index after the last sample.
        count: number of samples; tensors whose first axis has another size are returned unchanged.
    """
    if isinstance(output, Tensor):
        return output[start:stop] if output.ndim and len(output) == count else output
    if isinstance(output, Mapping):
        return _rebuild_mapping(
            output, {key: select_samples(value, start, stop, count) for key, value in output.items()}
        )
    values = [select_samples(value, start, stop, count) for value in output_fields(output).values()]
    if is_dataclass(output) and not isinstance(output, type):
        return type(output)(**dict(zip((f.name for f in fields(output)), values, strict=True)))
    if isinstance(output, (tuple, list)):
        construct: Callable[..., Any] = type(output)
        return construct(*values) if hasattr(output, "_fields") else construct(values)
    return output


def _rebuild_mapping(first: Mapping[Any, Any], values: dict[Any, Any]) -> Any:
    try:
        return type(first)(values)  # type: ignore[call-arg]
    except TypeError:  # a mapping whose constructor has other parameters
        return values
