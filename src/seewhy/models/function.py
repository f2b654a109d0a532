"""Things that only answer: functions of tensors or arrays, and ONNX Runtime sessions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from seewhy.errors import ModelError


def tensors_or_arrays(function: Callable[[Any], Any]) -> Callable[[Tensor], Any]:
    """A function that takes tensors, or numpy arrays if it cannot use a tensor; then it has no gradient."""

    def call(x: Tensor) -> Any:
        try:
            return function(x)
        except (TypeError, AttributeError):
            if x.requires_grad:
                raise
            try:
                return _tensor(function(x.cpu().numpy()))
            except (TypeError, AttributeError):
                pass  # it is no function of arrays either: the first error counts
            raise

    return call


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

    def call(x: Tensor) -> Any:
        return _tensor(network.run(None, {inputs[0].name: x.detach().cpu().to(kind).numpy()})[0])

    return call


def _tensor(output: Any) -> Any:
    return torch.as_tensor(output) if hasattr(output, "__array__") else output
