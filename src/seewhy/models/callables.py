"""Functions of tensors or numpy arrays, called with tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from seewhy.errors import NoGradientError
from seewhy.inputs.arrays import tensor_of

NUMPY_FUNCTION = "the function computes with numpy arrays, so it has no gradient."


def accept_tensors_or_arrays(function: Callable[[Any], Any]) -> Callable[[Tensor], Any]:
    """Return a function of tensors; numpy arrays are passed to `function` where it cannot use tensors.

    Args:
        function: from a tensor or a numpy array to the network's output.

    Returns:
        A function that raises `NoGradientError` if a gradient is required and `function` computes with numpy arrays.
    """

    def call(x: Tensor) -> Any:
        try:
            return as_tensor(function(x))
        except (TypeError, AttributeError, ValueError) as error:
            output = _call_with_array(function, x)
            if output is None:
                raise
            if x.requires_grad:
                raise NoGradientError(NUMPY_FUNCTION) from error
            return output
        except RuntimeError as error:
            if x.requires_grad and "Can't call numpy()" in str(error):
                raise NoGradientError(NUMPY_FUNCTION) from error
            raise

    return call


def _call_with_array(function: Callable[[Any], Any], x: Tensor) -> Any:
    """Return the function's output for an array, or None if it fails there as well."""
    try:
        return as_tensor(function(x.detach().cpu().numpy()))
    except (TypeError, AttributeError, ValueError):
        return None


def as_tensor(output: Any) -> Any:
    """Return an array as a tensor, and anything else unchanged."""
    return tensor_of(output) if hasattr(output, "__array__") else output
