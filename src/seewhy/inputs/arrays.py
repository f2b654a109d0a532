"""Arrays of any kind as tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from seewhy.errors import InputError

# number types that torch cannot compute with -> types that hold the same values
WIDER_TYPES = {"uint16": "int32", "uint32": "int64", "uint64": "int64", "longdouble": "float64", "float128": "float64"}


def tensor_of(values: Any) -> Tensor:
    """Return an array, or nested lists of numbers, as a tensor; tensors are returned unchanged.

    Negative strides, foreign byte order and read-only memory are accepted; the memory is shared where possible.

    Raises:
        InputError: the values are not numbers.
    """
    if isinstance(values, Tensor):
        return values
    if not hasattr(values, "__array__") and not isinstance(values, (list, tuple)):
        return torch.as_tensor(values)
    array = np.asarray(values)
    if array.dtype.kind not in "biufc":
        raise InputError(f"an array of {array.dtype} was given, but numbers are needed.")
    native = np.dtype(WIDER_TYPES.get(array.dtype.name, array.dtype.newbyteorder("=")))
    return torch.from_numpy(np.require(array, native, ["C_CONTIGUOUS", "WRITEABLE"]))
