"""Observe every layer and torch function that a model calls in this thread, and replace outputs where needed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from seewhy.models import module_tree
from seewhy.models.function_observer import FunctionObserver

from .outputs import iter_tensors

# Operators also have in-place and reflected forms, such as iadd and radd, which are reported under the plain name.
OPERATOR_NAMES = {"add", "sub", "mul", "div", "truediv", "matmul", "pow"}
COPY_FUNCTIONS = {"to", "float", "double", "half", "clone", "contiguous", "detach", "reshape", "type_as"}

# (name, layer or None for a function, output) -> replacement of the output, or None
CallObserver = Callable[[str, nn.Module | None, Any], Any]


@contextmanager
def observe_calls(module: nn.Module, observer: CallObserver) -> Iterator[None]:
    """Call `observer` at the end of each call of a layer or of a function between layers, in this thread.

    A function is named after the layer that calls it, such as "layer1.0/add"; functions inside layers without child
    layers are not reported.

    Args:
        module: the module that is run inside the context.
        observer: called with (name, layer or None, output); its return value replaces the output unless it is None.
    """
    running, layers = [""], module_tree.named_layers(module)

    def enter(name: str) -> None:
        running.append(name)

    def leave(name: str, layer: nn.Module | None, output: Any) -> Any:
        running.pop()
        return observer(name, layer, output)

    def on_function(func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        owner = layers[running[-1]]
        if owner is not module and not module_tree.has_child_layers(owner):
            return func(*args, **kwargs)
        versions = [(t, _version(t)) for t in iter_tensors(args)]
        result = func(*args, **kwargs)
        if not _has_new_values(result, name, versions):
            return result
        name = name[1:] if name[1:] in OPERATOR_NAMES else name
        replacement = observer(f"{running[-1]}/{name}", None, result)
        if replacement is None:
            return result
        return result.copy_(replacement) if any(result is t for t, _ in versions) else replacement

    with observe_layers(module, leave, enter), FunctionObserver(on_function):
        yield


@contextmanager
def observe_layers(
    module: nn.Module, on_end: CallObserver, on_start: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Call `on_start` and `on_end` for each call of a layer in this thread.

    Args:
        module: the module that is run inside the context.
        on_end: called with (name, layer, output); its return value replaces the output unless it is None.
        on_start: called with the layer's name before the layer runs.
    """
    thread = threading.get_ident()
    names = {layer: name for name, layer in module_tree.named_layers(module).items()}

    def pre_hook(layer: nn.Module, _args: Any) -> None:
        if on_start is not None and threading.get_ident() == thread:
            on_start(names[layer])

    def hook(layer: nn.Module, _args: Any, output: Any) -> Any:
        return on_end(names[layer], layer, output) if threading.get_ident() == thread else None

    with ExitStack() as stack:
        for layer, name in names.items():
            if name and not isinstance(layer, torch.jit.ScriptModule):  # which refuses hooks
                stack.callback(layer.register_forward_pre_hook(pre_hook).remove)
                stack.callback(layer.register_forward_hook(hook).remove)
        yield


def _has_new_values(result: Any, name: str, versions: list[tuple[Tensor, int | float]]) -> bool:
    """Whether a function computed new values: its result is no view or copy, nor a tensor of which only a flag was set.

    Args:
        result: what the function returned.
        name: the function's plain name.
        versions: the tensors among its arguments, each with its version before the call.
    """
    if not isinstance(result, Tensor) or name in COPY_FUNCTIONS or name == "get":
        return False
    return not any(_version(result) == version if result is t else _share_storage(result, t) for t, version in versions)


def _version(tensor: Tensor) -> int | float:
    """The number of in-place changes; NaN for tensors of inference mode, which do not count them."""
    return float("nan") if tensor.is_inference() else tensor._version


def _share_storage(a: Tensor, b: Tensor) -> bool:
    try:
        return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):  # some tensor subclasses have no storage
        return False
