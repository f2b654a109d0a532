"""Observe, and replace, the torch functions that are called in this thread."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from torch.overrides import TorchFunctionMode, resolve_name

# (function, its plain name, arguments, keyword arguments) -> what the caller receives
FunctionHandler = Callable[[Any, str, tuple[Any, ...], dict[str, Any]], Any]


class FunctionObserver(TorchFunctionMode):
    """Context manager: each torch function called in this thread is passed to a handler, which calls it itself.

    The plain name is the function's name without module and underscores: "add" for `torch.add` and `Tensor.add_`.
    Functions that the handler calls, or that are called inside a torch function, are not observed.
    """

    def __init__(self, handler: FunctionHandler) -> None:
        super().__init__()
        self.handler = handler

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called by torch in place of `func`."""
        return self.handler(func, _plain_name(func), args, kwargs or {})


@lru_cache(maxsize=1024)  # resolving a name takes longer than a small operation
def _plain_name(func: Any) -> str:
    name: str = resolve_name(func) or getattr(func, "__name__", "")
    return name.rpartition(".")[2].strip("_")
