"""Record what a named layer gives, in this thread's call only, or start the graph there."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from seewhy.errors import ModelError, unknown
from seewhy.models import tree

from .outputs import tensors
from .watch import watched

if TYPE_CHECKING:
    from seewhy.types import Model


def unseen(model: Model) -> str:
    """Why no layer of a network can be seen."""
    if model.conversion is not None:
        why = model.lacks or "they are those of its conversion to torch, which is compared on an input: give x"
        return f"the layers of {model.name} cannot be seen: {why}."
    return f"{model.name} is a plain function, its layers cannot be seen: wrap the torch module itself."


def check_layer(model: Model, name: str) -> None:
    """Refuse a layer that does not exist.

    Raises:
        ModelError: the model has no layers at all.
        UnknownNameError: it has no layer of that name.
    """
    if model.module is None:
        raise ModelError(unseen(model))
    layers = tree.layers(model.module)
    if name not in layers or not name:
        raise unknown("layer", name, [n for n in layers if n])


@contextmanager
def tapped(model: Model, name: str | None) -> Iterator[list[Any]]:
    """The outputs of layer `name`, in the order it runs; other threads' calls of the same model are not seen."""
    outputs: list[Any] = []
    if name is None or model.module is None:
        yield outputs
        return
    me = threading.get_ident()

    def record(_module: Any, _args: Any, output: Any) -> None:
        if threading.get_ident() == me:
            outputs.append(output)

    handle = tree.layer(model.module, name).register_forward_hook(record)
    try:
        yield outputs
    finally:
        handle.remove()


@contextmanager
def opened(model: Model, name: str | None, *, cut: bool, instead: Tensor | None = None) -> Iterator[list[Tensor]]:
    """The features that layer `name` gives, as tensors by which the score can be derived.

    What goes on through the network is a copy of them, so that an in-place step behind the layer spoils nothing.

    Args:
        model: who answers.
        name: of `steps`: a layer, "relu#2" for its second call, "layer1.0/add" for a function; None: none.
        cut: start the graph here; the features are leaves, and nothing before them is recorded.
        instead: what goes on through the network in their place; no graph is started.
    """
    features: list[Tensor] = []
    if name is None or model.module is None:
        yield features
        return
    base, _, number = name.partition("#")
    me, calls = threading.get_ident(), 0

    def tell(called: str, _layer: Any, output: Any) -> Any:
        nonlocal calls
        if called != base or threading.get_ident() != me:
            return None
        calls += 1
        first = next(iter(tensors(output)), None)
        if first is None or (number and calls != int(number)):
            return None
        if instead is not None:
            features.append(instead)
            return replaced(output, first, instead.clone())
        torch.set_grad_enabled(True)  # also where the network itself switched it off
        start = first.detach().clone().requires_grad_(first.is_floating_point()) if cut else first.clone()
        features.append(start)
        return replaced(output, first, features[-1].clone())

    if "/" in base:
        with watched(model.module, tell):
            yield features
        return
    layer = tree.layer(model.module, base)
    own = not cut and instead is None and getattr(layer, "inplace", False)
    given: list[Tensor] = []

    def before(_layer: Any, args: Any) -> Any:
        # a layer in place works on a copy: what it keeps for the way back must not be written over below
        if threading.get_ident() != me or not args:
            return None
        given[:] = args[:1]
        return (args[0].clone(), *args[1:])

    def hook(_layer: Any, args: Any, output: Any) -> Any:
        other = tell(base, _layer, output)
        if given and threading.get_ident() == me:
            return given.pop().copy_(output if other is None else other)
        if other is not None and getattr(layer, "inplace", False) and any(output is a for a in args):
            return output.copy_(other) if instead is None else output.set_(other)  # who goes on with it has it too
        return other

    with ExitStack() as stack:
        if own:
            stack.callback(layer.register_forward_pre_hook(before).remove)
        stack.callback(layer.register_forward_hook(hook).remove)
        yield features


@contextmanager
def widened(model: Model, names: Sequence[str]) -> Iterator[list[Tensor]]:
    """Behind the last of these layers of tokens, each sample goes on more than once.

    First as it is; then, layer by layer, with the mean of all tokens of that layer [N, 1, D] in the place of each of
    them. The batch is (1 + layers) N from there on. The means are given.

    Args:
        model: who answers.
        names: of `steps`, in the order they run.
    """
    means: list[Tensor] = []
    if not names or model.module is None:
        yield means
        return
    me, calls = threading.get_ident(), Counter[str]()
    wanted = {name.partition("#")[0] for name in names}

    def tell(called: str, _layer: Any, output: Any) -> Any:
        if called not in wanted or threading.get_ident() != me:
            return None
        calls[called] += 1
        if not {called, f"{called}#{calls[called]}"} & set(names):
            return None
        tokens = next(tensors(output))
        means.append(tokens.mean(1, keepdim=True))
        if len(means) < len(names):
            return None
        return replaced(output, tokens, torch.cat([tokens, *(mean.expand_as(tokens) for mean in means)]))

    with ExitStack() as stack:
        if any("/" in name for name in names):
            stack.enter_context(watched(model.module, tell))
        else:
            for name in wanted:
                hook = partial(_tell_of, tell, name)
                stack.callback(model.module.get_submodule(name).register_forward_hook(hook).remove)
        yield means


def _tell_of(tell: Any, name: str, layer: Any, _args: Any, output: Any) -> Any:
    return tell(name, layer, output)


def replaced(output: Any, old: Tensor, new: Tensor) -> Any:
    """The output with another first tensor."""
    if output is old:
        return new
    if isinstance(output, (tuple, list)) and not hasattr(output, "_fields"):
        return type(output)(new if value is old else value for value in output)
    raise ModelError(f"a {type(output).__name__} as output of a layer cannot be read: name the layer before or in it.")
