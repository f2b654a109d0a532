"""Things that only answer: functions of tensors or arrays, and ONNX Runtime sessions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seewhy.errors import InputError, ModelError


def tensors_or_arrays(function: Callable[[Any], Any]) -> Callable[[Tensor], Any]:
    """A function that takes tensors, or numpy arrays if it cannot use a tensor; then it has no gradient."""

    def call(x: Tensor) -> Any:
        try:
            return _tensor(function(x))
        except (TypeError, AttributeError, ValueError) as error:
            answer = _of_array(function, x)
            if answer is None:
                raise
            if x.requires_grad:
                raise ModelError(NO_GRADIENT) from error
            return answer
        except RuntimeError as error:
            if x.requires_grad and "Can't call numpy()" in str(error):
                raise ModelError(NO_GRADIENT) from error
            raise

    return call


NO_GRADIENT = (
    "the function computes with numpy arrays, so there is no gradient; occlusion, feature_ablation, lime, rise and "
    "kernel_shap need none."
)


def _of_array(function: Callable[[Any], Any], x: Tensor) -> Any:
    """What it says of an array; None if it is no function of arrays either, and its first error counts."""
    try:
        return _tensor(function(x.detach().cpu().numpy()))
    except (TypeError, AttributeError, ValueError):
        return None


KINDS = {
    "tensor(float)": torch.float32, "tensor(double)": torch.float64, "tensor(float16)": torch.float16,
    "tensor(int64)": torch.int64, "tensor(int32)": torch.int32, "tensor(int16)": torch.int16,
    "tensor(int8)": torch.int8, "tensor(uint8)": torch.uint8, "tensor(bool)": torch.bool,
}  # fmt: skip


class Session:
    """An ONNX Runtime session, called as a torch module is: session(*inputs) in the graph's order, or by its names.

    What is the session's own, such as `run`, it still has.
    """

    def __init__(self, network: Any) -> None:
        self._network = network
        self._kinds = {i.name: KINDS.get(i.type) for i in network.get_inputs()}
        self._outputs = [o.name for o in network.get_outputs()]
        firsts = [i.shape[0] if i.shape else None for i in network.get_inputs()]
        sizes = {size for size in firsts if isinstance(size, int)}
        self._size = sizes.pop() if len(sizes) == 1 else None  # of the batch it was exported with

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # a copy asks before it holds the session
            raise AttributeError(name)
        return getattr(self._network, name)

    def __call__(self, /, *given: Any, **named: Any) -> dict[str, Tensor]:
        """Its outputs by name. A graph that holds the size of the batch is asked in passes of that size.

        Raises:
            InputError: an input is missing, unknown, or not of its kind.
            RuntimeError: ONNX Runtime refuses them.
        """
        inputs = by_name(self._kinds, given, named)
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in inputs.items()}
        counts = {len(array) if array.ndim else 0 for array in arrays.values()}
        count, size = max(counts), self._size
        if size is None or len(counts) > 1 or count in (0, size):
            return self._answers(arrays)
        parts = []
        for start in range(0, count, size):
            own = min(size, count - start)
            part = {name: array[start : start + size] for name, array in arrays.items()}
            full = {name: np.concatenate([a, np.repeat(a[-1:], size - own, 0)]) for name, a in part.items()}
            parts.append({k: _cut(v, own, size) for k, v in self._answers(full).items() if isinstance(v, Tensor)})
        return {k: torch.cat([p[k] for p in parts]) if v.ndim else v for k, v in parts[0].items()}

    def _answers(self, arrays: dict[str, Any]) -> dict[str, Any]:
        try:
            given = self._network.run(None, arrays)
        except Exception as error:  # its errors are of a family of their own
            raise RuntimeError(str(error).strip().split("\n")[0]) from error
        return {name: _tensor(one) for name, one in zip(self._outputs, given, strict=True)}


def _cut(given: Tensor, own: int, size: int) -> Tensor:
    """Without the samples that filled a pass up, where they stand first."""
    return given[:own] if given.ndim and len(given) == size else given


def by_name(
    kinds: Mapping[str, torch.dtype | None], given: Sequence[Any], named: Mapping[str, Any]
) -> dict[str, Tensor]:
    """What a graph is given, in order or by name: every input by its name, as a tensor of its kind.

    Raises:
        InputError: one is missing, unknown, given twice, or holds fractions where whole numbers are taken.
    """
    found = dict(zip(kinds, given, strict=False)) | dict(named)
    if len(found) != len(given) + len(named) or set(found) != set(kinds):
        taken = ", ".join(map(repr, kinds))
        many = "one input" if len(kinds) == 1 else f"{len(kinds)} inputs, as a tuple in this order or a dictionary"
        told = ", ".join(map(repr, named)) or f"{len(given)} without a name"
        raise InputError(f"the graph takes {many}: {taken}; it was given {told}.")
    return {name: _of_kind(name, found[name], kind) for name, kind in kinds.items()}


def _of_kind(name: str, given: Any, kind: torch.dtype | None) -> Tensor:
    tensor = given if isinstance(given, Tensor) else torch.as_tensor(given)
    if kind is not None and tensor.is_floating_point() and not kind.is_floating_point:
        raise InputError(f"the graph's input {name!r} takes {kind}, and was given {tensor.dtype}: it has no gradient.")
    return tensor if kind is None else tensor.to(kind)


def first_output(network: Any, x: Any) -> Any:
    """The first of a graph's outputs; x is its input, a tuple in its order, or a dictionary by its names."""
    given = network(*x) if isinstance(x, tuple) else network(**x) if isinstance(x, Mapping) else network(x)
    return next(iter(given.values()))


def _tensor(output: Any) -> Any:
    """An array as a tensor, copied: it may be read-only, or run backwards."""
    is_array = hasattr(output, "__array__") and not isinstance(output, Tensor)
    return torch.from_numpy(np.array(output)) if is_array else output
