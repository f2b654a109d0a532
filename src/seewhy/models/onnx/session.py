"""ONNX Runtime sessions with the call interface of torch modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seewhy.errors import InputError
from seewhy.models.callables import as_tensor
from seewhy.models.files import first_line

DTYPE_OF_RUNTIME_TYPE = {
    "tensor(float)": torch.float32, "tensor(double)": torch.float64, "tensor(float16)": torch.float16,
    "tensor(int64)": torch.int64, "tensor(int32)": torch.int32, "tensor(int16)": torch.int16,
    "tensor(int8)": torch.int8, "tensor(uint8)": torch.uint8, "tensor(bool)": torch.bool,
}  # fmt: skip


class Session:
    """An ONNX Runtime session, called like a torch module: session(*inputs) in the graph's order, or by input name.

    The attributes of the session itself, such as `run`, remain available.
    """

    def __init__(self, session: Any) -> None:
        self._session = session
        self._dtypes = {i.name: DTYPE_OF_RUNTIME_TYPE.get(i.type) for i in session.get_inputs()}
        self._output_names = [o.name for o in session.get_outputs()]
        first_axes = [i.shape[0] if i.shape else None for i in session.get_inputs()]
        sizes = {size for size in first_axes if isinstance(size, int)}
        self._batch_size = sizes.pop() if len(sizes) == 1 else None  # if the graph was exported with a fixed one

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # `copy` looks up attributes before `_session` exists
            raise AttributeError(name)
        return getattr(self._session, name)

    def __call__(self, /, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Return the outputs by name. A graph with a fixed batch size runs on parts of the batch of that size.

        Raises:
            InputError: an input is missing, unknown, or has the wrong type.
            RuntimeError: ONNX Runtime fails on the inputs.
        """
        inputs = named_inputs(self._dtypes, args, kwargs)
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in inputs.items()}
        counts = {len(array) if array.ndim else 0 for array in arrays.values()}
        count, size = max(counts), self._batch_size
        if size is None or len(counts) > 1 or count in (0, size):
            return self._run(arrays)
        parts = []
        for start in range(0, count, size):
            n = min(size, count - start)
            part = {name: array[start : start + size] for name, array in arrays.items()}
            padded = {name: np.concatenate([a, np.repeat(a[-1:], size - n, 0)]) for name, a in part.items()}
            outputs = self._run(padded)
            parts.append({k: _without_padding(v, n, size) for k, v in outputs.items() if isinstance(v, Tensor)})
        return {k: torch.cat([p[k] for p in parts]) if v.ndim else v for k, v in parts[0].items()}

    def _run(self, arrays: dict[str, Any]) -> dict[str, Any]:
        try:
            outputs = self._session.run(None, arrays)
        except Exception as error:  # the exceptions of ONNX Runtime have no common base class
            raise RuntimeError(first_line(error)) from error
        return {name: as_tensor(output) for name, output in zip(self._output_names, outputs, strict=True)}


def _without_padding(output: Tensor, n: int, size: int) -> Tensor:
    """Return the first n of `size` samples; an output whose first axis is not the batch is returned unchanged."""
    return output[:n] if output.ndim and len(output) == size else output


def named_inputs(
    dtypes: Mapping[str, torch.dtype | None], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Tensor]:
    """Return the inputs of a graph by name, as tensors of the graph's types.

    Args:
        dtypes: input name -> type, in the graph's order; None: the type is not converted.
        args: inputs in the graph's order.
        kwargs: inputs by name.

    Raises:
        InputError: an input is missing, unknown, passed twice, or a float where the graph requires integers.
    """
    inputs = dict(zip(dtypes, args, strict=False)) | dict(kwargs)
    if len(inputs) != len(args) + len(kwargs) or set(inputs) != set(dtypes):
        required = ", ".join(map(repr, dtypes))
        count = "one input" if len(dtypes) == 1 else f"{len(dtypes)} inputs, as a tuple in this order or a dictionary"
        passed = ", ".join(map(repr, kwargs)) or f"{len(args)} without a name"
        raise InputError(f"the graph requires {count}: {required}; it received {passed}.")
    return {name: _cast_input(name, inputs[name], dtype) for name, dtype in dtypes.items()}


def _cast_input(name: str, value: Any, dtype: torch.dtype | None) -> Tensor:
    tensor = value if isinstance(value, Tensor) else torch.as_tensor(value)
    if dtype is not None and tensor.is_floating_point() and not dtype.is_floating_point:
        raise InputError(
            f"the graph's input {name!r} has type {dtype} and no gradient; it received {tensor.dtype}: pass {dtype}."
        )
    return tensor if dtype is None else tensor.to(dtype)


def first_output(network: Any, x: Any) -> Any:
    """Return the first output of a graph; x is its input, a tuple in the graph's order, or a dictionary by name."""
    outputs = network(*x) if isinstance(x, tuple) else network(**x) if isinstance(x, Mapping) else network(x)
    return next(iter(outputs.values()))
