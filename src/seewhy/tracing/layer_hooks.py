"""Forward hooks on named layers: record or replace their outputs, in calls of this thread only."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from seewhy.errors import ModelError, unknown_name_error
from seewhy.models import module_tree

from .observer import CallObserver, observe_calls
from .outputs import iter_tensors

if TYPE_CHECKING:
    from seewhy.model import Model


def layers_unavailable_reason(model: Model) -> str:
    """The error message for a model whose layers are not accessible."""
    if model.module is not None or model.conversion is not None:
        reason = model.lacks or (
            "they are the layers of its conversion to torch, which is verified on an input: pass x"
        )
        return f"the layers of {model.name} are not accessible: {reason}."
    return f"{model.name} is a plain function, so its layers are not accessible: wrap the torch module itself."


def check_layer(model: Model, name: str) -> None:
    """Refuse the name of a layer that does not exist.

    Raises:
        ModelError: the model's layers are not accessible.
        UnknownNameError: the model has no layer of that name.
    """
    if model.module is None:
        raise ModelError(layers_unavailable_reason(model))
    layers = module_tree.named_layers(model.module)
    if name not in layers or not name:
        raise unknown_name_error("layer", name, [n for n in layers if n])


@contextmanager
def record_layer_outputs(model: Model, name: str | None) -> Iterator[list[Any]]:
    """Record each output of layer `name`, in execution order; calls by other threads are ignored."""
    outputs: list[Any] = []
    if name is None or model.module is None:
        yield outputs
        return
    thread = threading.get_ident()

    def record(_module: Any, _args: Any, output: Any) -> None:
        if threading.get_ident() == thread:
            outputs.append(output)

    handle = module_tree.get_layer(model.module, name).register_forward_hook(record)
    try:
        yield outputs
    finally:
        handle.remove()


@contextmanager
def intercept_features(
    model: Model, name: str | None, *, cut: bool, replacement: Tensor | None = None
) -> Iterator[list[Tensor]]:
    """Record the features of layer `name` as tensors with respect to which scores can be differentiated.

    The layers after it receive a copy of the features, so that in-place operations do not change the recorded ones.

    Args:
        model: the model.
        name: a layer, "relu#2" for its second call, "layer1.0/add" for a function; None: no layer.
        cut: start the autograd graph here: the features are leaves, and operations before them are not recorded.
        replacement: features that replace those of the layer; no graph is started.
    """
    features: list[Tensor] = []
    if name is None or model.module is None:
        yield features
        return
    base, _, number = name.partition("#")
    thread, calls = threading.get_ident(), 0

    def intercept(called: str, _layer: Any, output: Any) -> Any:
        nonlocal calls
        if called != base or threading.get_ident() != thread:
            return None
        calls += 1
        first = next(iter(iter_tensors(output)), None)
        if first is None or (number and calls != int(number)):
            return None
        if replacement is not None:
            features.append(replacement)
            return replace_first_tensor(output, first, replacement.clone())
        torch.set_grad_enabled(True)  # also where the model itself disabled it
        recorded = first.detach().clone().requires_grad_(first.is_floating_point()) if cut else first.clone()
        features.append(recorded)
        return replace_first_tensor(output, first, recorded.clone())

    if "/" in base:
        with observe_calls(model.module, intercept):
            yield features
        return
    layer = module_tree.get_layer(model.module, base)
    in_place = getattr(layer, "inplace", False)
    original_input: list[Tensor] = []

    def copy_input(_layer: Any, args: Any) -> Any:
        # an in-place layer works on a copy, because the output hook below overwrites the original input, and autograd
        # refuses a backward pass through saved tensors that were overwritten
        if threading.get_ident() != thread or not args:
            return None
        original_input[:] = args[:1]
        return (args[0].clone(), *args[1:])

    def hook(_layer: Any, args: Any, output: Any) -> Any:
        new = intercept(base, layer, output)
        if original_input and threading.get_ident() == thread:
            return original_input.pop().copy_(output if new is None else new)
        if new is not None and in_place and any(output is a for a in args):
            # other users of the same tensor must see the new values too
            return output.copy_(new) if replacement is None else output.set_(new)
        return new

    with ExitStack() as stack:
        if in_place and not cut and replacement is None:
            stack.callback(layer.register_forward_pre_hook(copy_input).remove)
        stack.callback(layer.register_forward_hook(hook).remove)
        yield features


@contextmanager
def append_mean_token_copies(model: Model, names: Sequence[str]) -> Iterator[list[Tensor]]:
    """Append copies of the batch, with all tokens replaced by a mean token, to the output of the last of these layers.

    The batch size after that layer is (1 + number of layers) · N: the unchanged samples, and then, layer by layer, the
    samples with each token replaced by the mean over all tokens of that layer.

    Args:
        model: the model.
        names: layers or functions with outputs [N, T, D], in execution order; "block#2" for a second call.

    Yields:
        A list that the forward pass fills with the mean tokens [N, 1, D] of each layer.
    """
    mean_tokens: list[Tensor] = []
    if not names or model.module is None:
        yield mean_tokens
        return
    thread, calls = threading.get_ident(), Counter[str]()
    layer_names = {name.partition("#")[0] for name in names}

    def append_copies(called: str, _layer: Any, output: Any) -> Any:
        if called not in layer_names or threading.get_ident() != thread:
            return None
        calls[called] += 1
        if not {called, f"{called}#{calls[called]}"} & set(names):
            return None
        tokens = next(iter_tensors(output))
        mean_tokens.append(tokens.mean(1, keepdim=True))
        if len(mean_tokens) < len(names):
            return None
        copies = (mean.expand_as(tokens) for mean in mean_tokens)
        return replace_first_tensor(output, tokens, torch.cat([tokens, *copies]))

    with ExitStack() as stack:
        if any("/" in name for name in names):
            stack.enter_context(observe_calls(model.module, append_copies))
        else:
            for name in layer_names:
                hook = partial(_call_observer, append_copies, name)
                stack.callback(model.module.get_submodule(name).register_forward_hook(hook).remove)
        yield mean_tokens


def _call_observer(observer: CallObserver, name: str, layer: nn.Module, _args: Any, output: Any) -> Any:
    return observer(name, layer, output)


def replace_first_tensor(output: Any, old: Tensor, new: Tensor) -> Any:
    """The output with its first tensor replaced: a tensor, or a tuple or list of tensors.

    Raises:
        ModelError: the output has another type.
    """
    if output is old:
        return new
    if isinstance(output, (tuple, list)) and not hasattr(output, "_fields"):
        return type(output)(new if value is old else value for value in output)
    raise ModelError(
        f"the layer returns a {type(output).__name__}, which is not supported: name the layer before it or inside it."
    )
