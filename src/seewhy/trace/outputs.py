"""Outputs of any make: a tensor, or tuples, lists, dictionaries and dataclasses of tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor


def parts(output: Any) -> dict[str, Any]:
    """The fields of an output, by the expression that reaches each: "[0]", "['logits']", ".logits"."""
    if isinstance(output, Mapping):
        return {f"[{key!r}]": value for key, value in output.items()}
    if is_dataclass(output) and not isinstance(output, type):
        return {f".{f.name}": getattr(output, f.name) for f in fields(output)}
    if isinstance(output, (tuple, list)):
        names = getattr(output, "_fields", None)
        return {f".{names[i]}" if names else f"[{i}]": value for i, value in enumerate(output)}
    return {}


def tensors(output: Any) -> Iterator[Tensor]:
    """Every tensor of an output."""
    if isinstance(output, Tensor):
        yield output
    for value in parts(output).values():
        yield from tensors(value)


def describe(output: Any) -> str:
    """One line for a message: the type, and each field with its shape."""
    if isinstance(output, Tensor):
        return f"a tensor {list(output.shape)}"
    inside = ", ".join(
        f"{name} {list(v.shape) if isinstance(v, Tensor) else type(v).__name__}" for name, v in parts(output).items()
    )
    return f"a {type(output).__name__}" + (f" with {inside}" if inside else "")


def finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite; a sum that is finite proves it at a tenth of the cost."""
    if not tensor.is_floating_point():
        return True
    with torch.no_grad():
        return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def join(outputs: list[Any], graph: bool = False) -> Any:
    """The outputs of consecutive batches as one, of the same make, detached and on the CPU unless the graph is kept."""
    first = outputs[0]
    if isinstance(first, Tensor):
        whole = first if len(outputs) == 1 else torch.cat(outputs) if first.ndim else torch.stack(outputs)
        return whole if graph else whole.detach().cpu()
    if isinstance(first, Mapping):
        return _rebuilt(first, {key: join([o[key] for o in outputs], graph) for key in first})
    if is_dataclass(first) and not isinstance(first, type):
        return type(first)(**{f.name: join([getattr(o, f.name) for o in outputs], graph) for f in fields(first)})
    if isinstance(first, (tuple, list)):
        values = [join([o[i] for o in outputs], graph) for i in range(len(first))]
        make: Callable[..., Any] = type(first)
        return make(*values) if hasattr(first, "_fields") else make(values)
    return first


def rows(output: Any, start: int, stop: int, count: int) -> Any:
    """Some samples of an output of `count` ones, of the same make; what has no such batch is left as it is."""
    if isinstance(output, Tensor):
        return output[start:stop] if output.ndim and len(output) == count else output
    if isinstance(output, Mapping):
        return _rebuilt(output, {key: rows(value, start, stop, count) for key, value in output.items()})
    values = [rows(value, start, stop, count) for value in parts(output).values()]
    if is_dataclass(output) and not isinstance(output, type):
        return type(output)(**dict(zip((f.name for f in fields(output)), values, strict=True)))
    if isinstance(output, (tuple, list)):
        make: Callable[..., Any] = type(output)
        return make(*values) if hasattr(output, "_fields") else make(values)
    return output


def _rebuilt(first: Mapping[Any, Any], values: dict[Any, Any]) -> Any:
    try:
        return type(first)(values)  # type: ignore[call-arg]
    except TypeError:  # a mapping whose constructor asks for something else
        return values
