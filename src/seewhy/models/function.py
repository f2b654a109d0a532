"""Things that only answer: functions of tensors or arrays, and ONNX Runtime sessions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seewhy.errors import ModelError


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


def session(network: Any) -> Callable[[Tensor], Any]:
    """An ONNX Runtime session with one input; its first output counts.

    Raises:
        ModelError: it has several inputs.
    """
    inputs = network.get_inputs()
    if len(inputs) != 1:
        named = ", ".join(i.name for i in inputs)
        raise ModelError(f"the session has {len(inputs)} inputs ({named}): give a function of the one to explain.")
    kind = {"tensor(double)": torch.float64, "tensor(float16)": torch.float16}.get(inputs[0].type, torch.float32)
    fixed = inputs[0].shape[0] if isinstance(inputs[0].shape[0], int) else None  # the batch it was exported with

    def call(x: Tensor) -> Any:
        array = x.detach().cpu().to(kind).numpy()
        size = fixed or len(array)
        parts = []
        for start in range(0, len(array), size):
            part = array[start : start + size]
            full = np.concatenate([part, np.repeat(part[-1:], size - len(part), 0)])
            try:
                given = network.run(None, {inputs[0].name: full})[0]
            except Exception as error:  # its errors are of a family of their own
                raise RuntimeError(str(error).strip().split("\n")[0]) from error
            given = np.asarray(given)
            padded = len(full) > len(part) and given.ndim > 0 and len(given) == len(full)
            parts.append(given[: len(part)] if padded else given)
        return _tensor(np.concatenate(parts) if len(parts) > 1 else parts[0])

    return call


def _tensor(output: Any) -> Any:
    """An array as a tensor, copied: it may be read-only, or run backwards."""
    is_array = hasattr(output, "__array__") and not isinstance(output, Tensor)
    return torch.from_numpy(np.array(output)) if is_array else output
