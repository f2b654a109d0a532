"""Be told of every layer and function that runs, in this thread's calls only, and answer in their place if need be."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name

from seewhy.models import tree

from .outputs import tensors

OPERATORS = {"add", "sub", "mul", "div", "truediv", "matmul", "pow"}  # in place or from the right: iadd, radd
COPIES = {"to", "float", "double", "half", "clone", "contiguous", "detach", "reshape", "type_as"}

# (name, layer or None for a function, what it gave) -> what stands for that, or None
Tell = Callable[[str, nn.Module | None, Any], Any]


@contextmanager
def watched(module: nn.Module, tell: Tell) -> Iterator[None]:
    """Inside, every step of this thread's calls is told when it ends; "owner/function" names a function."""
    running, named = [""], tree.layers(module)

    def enter(name: str) -> None:
        running.append(name)

    def leave(name: str, layer: nn.Module | None, output: Any) -> Any:
        running.pop()
        return tell(name, layer, output)

    def called(name: str, output: Tensor) -> Any:
        owner = named[running[-1]]
        return tell(f"{running[-1]}/{name}", None, output) if owner is module or tree.holds_layers(owner) else None

    with told(module, leave, enter), _Functions(called):
        yield


@contextmanager
def told(module: nn.Module, tell: Tell, before: Callable[[str], None] | None = None) -> Iterator[None]:
    """Inside, every layer that this thread's calls run is told when it ends, and by name when it begins."""
    me = threading.get_ident()
    names = {layer: name for name, layer in tree.layers(module).items()}

    def begins(layer: nn.Module, _args: Any) -> None:
        if before is not None and threading.get_ident() == me:
            before(names[layer])

    def ends(layer: nn.Module, _args: Any, output: Any) -> Any:
        return tell(names[layer], layer, output) if threading.get_ident() == me else None

    with ExitStack() as stack:
        for layer, name in names.items():
            if name:
                stack.callback(layer.register_forward_pre_hook(begins).remove)
                stack.callback(layer.register_forward_hook(ends).remove)
        yield


class _Functions(TorchFunctionMode):
    """Tells of every function of torch that computes new numbers."""

    def __init__(self, told: Callable[[str, Tensor], Any]) -> None:
        super().__init__()
        self.told = told

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called by torch in place of `func`."""
        given = [(t, t._version) for a in args for t in ((a,) if isinstance(a, Tensor) else tensors(a))]
        result = func(*args, **(kwargs or {}))
        name = (resolve_name(func) or getattr(func, "__name__", "")).split(".")[-1].strip("_")
        if not isinstance(result, Tensor) or name in COPIES or name == "get":
            return result
        if any(result._version == version if result is t else _shares(result, t) for t, version in given):
            return result  # a view, or a flag that was set
        instead = self.told(name[1:] if name[1:] in OPERATORS else name, result)
        if instead is None:
            return result
        return result.copy_(instead) if any(result is t for t, _ in given) else instead


def _shares(a: Tensor, b: Tensor) -> bool:
    try:
        return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):  # tensors of other makes have no storage
        return False
