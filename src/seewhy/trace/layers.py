"""What is inside a network: the list of its layers, and what one of them gives."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from seewhy.errors import ModelError
from seewhy.models import keras3, tree
from seewhy.types import Activations, Can, Card, Layer, Layers, Model

from .choice import find, survey
from .forward import quiet, run
from .layout import arranged, own
from .outputs import join
from .ready import ready
from .tap import unseen

if TYPE_CHECKING:
    from torch import Tensor

BATCH = 8
ROOT = "(network)"


def layers(model: Any, x: Any = None) -> Layers:
    """Every layer in the order they run, each call its own row, and the functions of torch between them.

    A layer that runs twice has the rows "relu#1" and "relu#2", a function is named by the layer that calls it,
    "layer1.0/add"; these names can be given as `feature_layer`. Layers made of others have a row only if
    they own parameters.

    Args:
        model: a network, or a wrapped one.
        x: an input to run; default: zeros of the size on the model's card, if it has one. Without either the order is
            that of registration, and shapes are not known.

    Raises:
        ModelError: the model is a plain function, whose layers cannot be seen.
    """
    model, inputs = _with_input(model, x)
    if model.module is None:
        raise ModelError(unseen(model))
    named = tree.layers(model.module)
    if inputs is None:
        found: list[Any] = [(name or ROOT, layer, None, None) for name, layer in named.items()]
    else:
        with quiet(model):
            seen = survey(model, inputs, None)
        found = [
            (step.name, _module(named, step.name), step.shape, step.where is not None and step.where.spatial)
            for step in seen.steps
        ]
    rows = [
        (name, layer, shape, spatial)
        for name, layer, shape, spatial in found
        if layer is None or not tree.holds_layers(layer) or _own(layer)
    ]
    if _own(model.module) and inputs is not None:  # tokens, position embeddings
        rows.insert(0, (ROOT, model.module, None, None))
    counted: set[int] = set()
    return Layers(
        tuple(
            Layer(n, name, _kind(name, layer), describe(layer, name), shape, _learnable(layer, counted), spatial)
            for n, (name, layer, shape, spatial) in enumerate(rows, 1)
        )
    )


def activations(model: Any, x: Any, layer: str) -> Activations:
    """What a layer gives.

    Args:
        model: a network, or a wrapped one.
        x: a batch, or what the model's `prepare` takes.
        layer: its name, as `seewhy.layers` gives it.

    Raises:
        UnknownNameError: no such layer.
        ModelError: it ran more than once (name the call), or the model is a plain function.
    """
    model, inputs = ready(model, x, needs=Can.LAYERS)
    if model.module is None:
        raise ModelError(unseen(model))
    with quiet(model):
        step = find(survey(model, inputs, None), layer, model)
        parts = [_features(model, part, step.name) for part in inputs.split(min(BATCH, model.rows or BATCH))]
    values: Tensor = join(parts)
    if step.where is not None:
        values = arranged(values, step.where)
    return Activations(
        values, step.name, inputs.cpu(), model.preparation if isinstance(model.preparation, Card) else None
    )


def _features(model: Model, x: Tensor, name: str) -> Tensor:
    features = run(model, x, graph=False, feature=name).features
    assert features is not None
    return features.detach()


def _with_input(model: Any, x: Any) -> tuple[Model, Tensor | None]:
    from seewhy.models import wrap

    wrapped = wrap(model)
    if x is None and isinstance(wrapped.preparation, Card):
        x = own(torch.zeros(1, len(wrapped.preparation.mean), *wrapped.preparation.size), wrapped.layout)
    return (wrapped, None) if x is None else ready(wrapped, x, needs=Can.LAYERS)


def _module(named: dict[str, nn.Module], name: str) -> nn.Module | None:
    return None if "/" in name else named[name.partition("#")[0]]


def _own(layer: nn.Module) -> list[nn.Parameter]:
    """The parameters of a layer that no layer inside it has."""
    return tree.own(layer)


def _learnable(layer: nn.Module | None, counted: set[int]) -> int:
    """Values of its parameters; those of a second call, or shared with a row before, are counted already."""
    fresh = [p for p in (_own(layer) if layer is not None else []) if id(p) not in counted]
    counted |= {id(p) for p in fresh}
    return sum(p.numel() for p in fresh)


def _kind(name: str, layer: nn.Module | None) -> str:
    return name.partition("#")[0].rpartition("/")[2] if layer is None else type(layer).__name__


def describe(layer: nn.Module | None, name: str = "") -> str:
    """A layer in words, such as "64 3x3x16 convolutions with stride [1 1] and padding [1 1]"."""
    if layer is None:
        owner = name.rpartition("/")[0]
        return f"function in {owner}" if owner else "function of the network"
    if keras3.is_layer(layer):
        return keras3.describe(layer)
    for kinds, words in DESCRIPTIONS:
        if isinstance(layer, kinds):
            return words(layer)
    own = layer.extra_repr().replace("\n", " ")
    return own if not tree.holds_layers(layer) else "its own parameters" + (f", {own}" if own else "")


def _convolution(c: Any) -> str:
    kind = "transposed convolutions" if c.transposed else "convolutions"
    size = "x".join(map(str, (*c.kernel_size, c.in_channels // c.groups)))
    many = f"{c.out_channels} {size}" if c.groups == 1 else f"{c.groups} groups of {c.out_channels // c.groups} {size}"
    dilated = f", dilation {_list(c.dilation)}" if max(c.dilation) > 1 else ""
    return f"{many} {kind} with stride {_list(c.stride)} and padding {_list(c.padding)}{dilated}"


def _pool(p: Any) -> str:
    rank = int(re.sub(r"\D", "", type(p).__name__) or 1)
    size, stride, padding = (v if isinstance(v, tuple) else (v,) * rank for v in (p.kernel_size, p.stride, p.padding))
    kind = "max" if "Max" in type(p).__name__ else "average"
    return f"{'x'.join(map(str, size))} {kind} pooling with stride {_list(stride)} and padding {_list(padding)}"


def _list(value: Any) -> str:
    return f"[{' '.join(map(str, value))}]" if isinstance(value, (tuple, list)) else f"[{value}]"


DESCRIPTIONS: list[tuple[tuple[type[nn.Module], ...], Callable[[Any], str]]] = [
    ((nn.modules.conv._ConvNd,), _convolution),
    ((nn.Linear,), lambda layer: f"{layer.out_features} outputs, fully connected to {layer.in_features} inputs"),
    ((nn.modules.batchnorm._BatchNorm,), lambda layer: f"batch normalisation of {layer.num_features} channels"),
    ((nn.LayerNorm,), lambda layer: f"layer normalisation over {_list(layer.normalized_shape)}"),
    ((nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AvgPoolNd), _pool),
    (
        (nn.modules.pooling._AdaptiveAvgPoolNd, nn.modules.pooling._AdaptiveMaxPoolNd),
        lambda layer: f"pooling to {_list(layer.output_size)}",
    ),
    ((nn.Dropout, nn.modules.dropout._DropoutNd), lambda layer: f"{layer.p:.0%} dropout"),
    ((nn.Embedding,), lambda layer: f"{layer.num_embeddings} vectors of {layer.embedding_dim}"),
]
