"""Layer table of a network, and the activations of one layer."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from seewhy.axes.feature_layout import to_feature_grid
from seewhy.axes.layout import from_canonical
from seewhy.errors import ModelError
from seewhy.inputs.preprocessing import Preprocessing
from seewhy.model import Model
from seewhy.models import keras, module_tree, wrap
from seewhy.results import Activations, LayerRow, LayerTable
from seewhy.tracing.forward import eval_mode, run_forward
from seewhy.tracing.layer_hooks import layers_unavailable_reason
from seewhy.tracing.multi_input import are_several_inputs, model_of_one_input, several_inputs
from seewhy.tracing.outputs import concatenate_outputs
from seewhy.tracing.validation import prepare_model_and_input
from seewhy.types import Capability

from .selection import find_layer, survey_layers

if TYPE_CHECKING:
    from torch import Tensor

ACTIVATIONS_BATCH_SIZE = 8
ROOT_NAME = "(network)"


def layers(model: Any, x: Any = None) -> LayerTable:
    """List the layers of a network, and the torch functions called between them, in execution order.

    Every call of a layer has a row. A layer that runs twice has the rows "relu#1" and "relu#2". A function is named
    after the layer that calls it, such as "layer1.0/add". These names can be given as `feature_layer`. A layer that
    contains other layers has a row only if it has parameters of its own.

    Args:
        model: a network, or a wrapped one.
        x: an input for the forward pass; default: zeros of the input size in the model's preprocessing, if it is
            known. Without either, the order is that of registration, and output shapes are unknown.

    Raises:
        ModelError: the model is a plain function, whose layers are unknown.
    """
    model, inputs = _with_input(model, x)
    if model.module is None:
        raise ModelError(layers_unavailable_reason(model))
    named = module_tree.named_layers(model.module)
    if inputs is None:
        calls: list[Any] = [(name or ROOT_NAME, layer, None, None) for name, layer in named.items()]
    else:
        with eval_mode(model):
            survey = survey_layers(model, inputs, None)
        calls = [
            (info.name, _module(named, info.name), info.shape, info.where is not None and info.where.spatial)
            for info in survey.layers
        ]
    rows = [
        (name, layer, shape, spatial)
        for name, layer, shape, spatial in calls
        if layer is None or not module_tree.has_child_layers(layer) or _own_parameters(layer)
    ]
    if _own_parameters(model.module) and inputs is not None:  # class tokens, position embeddings
        rows.insert(0, (ROOT_NAME, model.module, None, None))
    counted: set[int] = set()
    return LayerTable(
        tuple(
            LayerRow(
                n,
                name,
                _type_name(name, layer),
                describe_layer(layer, name),
                shape,
                _count_learnable(layer, counted),
                spatial,
            )
            for n, (name, layer, shape, spatial) in enumerate(rows, 1)
        )
    )


def activations(model: Any, x: Any, layer: str) -> Activations:
    """Return the activations of a layer.

    Args:
        model: a network, or a wrapped one.
        x: a batch, or any source that the model's `prepare` accepts.
        layer: the layer's name, as in `seewhy.layers`.

    Raises:
        UnknownNameError: the model has no such layer.
        ModelError: the layer ran more than once (name the call), or the model is a plain function.
    """
    parts, inputs = [], []
    for batch_model, batch in _batches_of_one_input(wrap(model), x):
        prepared, tensors = prepare_model_and_input(batch_model, batch, requires=Capability.LAYERS)
        if prepared.module is None:
            raise ModelError(layers_unavailable_reason(prepared))
        with eval_mode(prepared):
            info = find_layer(survey_layers(prepared, tensors, None), layer, prepared)
            for part in tensors.split(min(ACTIVATIONS_BATCH_SIZE, prepared.max_batch or ACTIVATIONS_BATCH_SIZE)):
                output = _layer_output(prepared, part, info.name)
                parts.append(output if info.where is None else to_feature_grid(output, info.where))
        inputs.append(tensors.cpu())
    preparation = prepared.preparation if isinstance(prepared.preparation, Preprocessing) else None
    return Activations(concatenate_outputs(parts), info.name, torch.cat(inputs), preparation)


def _batches_of_one_input(model: Model, x: Any) -> list[tuple[Model, Any]]:
    """Return the batches to run: the input itself, or of several inputs, sample by sample, that with most axes."""
    if not are_several_inputs(x):
        return [(model, x)]
    inputs = several_inputs(model, x)
    free = max(inputs.varied or inputs.tensors, key=lambda name: inputs.tensors[name].ndim)
    samples = [inputs.sample(n) for n in range(inputs.samples)]
    return [(model_of_one_input(model, sample, free, inputs.in_order), sample[free]) for sample in samples]


def _layer_output(model: Model, x: Tensor, name: str) -> Tensor:
    features = run_forward(model, x, graph=False, feature_layer=name).features
    assert features is not None
    return features.detach()


def _with_input(model: Any, x: Any) -> tuple[Model, Tensor | None]:
    wrapped = wrap(model)
    if are_several_inputs(x):
        wrapped, x = _batches_of_one_input(wrapped, x)[0]
    if x is None and isinstance(wrapped.preparation, Preprocessing):
        x = from_canonical(torch.zeros(1, len(wrapped.preparation.mean), *wrapped.preparation.size), wrapped.layout)
    return (wrapped, None) if x is None else prepare_model_and_input(wrapped, x, requires=Capability.LAYERS)


def _module(named: dict[str, nn.Module], name: str) -> nn.Module | None:
    return None if "/" in name else named[name.partition("#")[0]]


def _own_parameters(layer: nn.Module) -> list[nn.Parameter]:
    """The parameters of a layer that belong to no layer inside it."""
    return module_tree.own_parameters(layer)


def _count_learnable(layer: nn.Module | None, counted: set[int]) -> int:
    """Number of values in a layer's own parameters, without the parameters in `counted`, which is updated."""
    parameters = [p for p in (_own_parameters(layer) if layer is not None else []) if id(p) not in counted]
    counted |= {id(p) for p in parameters}
    return sum(p.numel() for p in parameters)


def _type_name(name: str, layer: nn.Module | None) -> str:
    return name.partition("#")[0].rpartition("/")[2] if layer is None else type(layer).__name__


def describe_layer(layer: nn.Module | None, name: str = "") -> str:
    """Description of a layer, such as "64 3x3x16 convolutions with stride [1 1] and padding [1 1]"."""
    if layer is None:
        owner = name.rpartition("/")[0]
        return f"function in {owner}" if owner else "function of the network"
    if keras.is_layer(layer):
        return keras.describe_keras_layer(layer)
    for types, describe in DESCRIPTIONS:
        if isinstance(layer, types):
            return describe(layer)
    settings = layer.extra_repr().replace("\n", " ")
    if not module_tree.has_child_layers(layer):
        return settings
    return "its own parameters" + (f", {settings}" if settings else "")


def _describe_convolution(c: Any) -> str:
    kind = "transposed convolutions" if c.transposed else "convolutions"
    size = "x".join(map(str, (*c.kernel_size, c.in_channels // c.groups)))
    many = f"{c.out_channels} {size}" if c.groups == 1 else f"{c.groups} groups of {c.out_channels // c.groups} {size}"
    dilated = f", dilation {_bracket_list(c.dilation)}" if max(c.dilation) > 1 else ""
    return f"{many} {kind} with stride {_bracket_list(c.stride)} and padding {_bracket_list(c.padding)}{dilated}"


def _describe_pooling(p: Any) -> str:
    rank = int(re.sub(r"\D", "", type(p).__name__) or 1)
    size, stride, padding = (v if isinstance(v, tuple) else (v,) * rank for v in (p.kernel_size, p.stride, p.padding))
    kind = "max" if "Max" in type(p).__name__ else "average"
    shape = "x".join(map(str, size))
    return f"{shape} {kind} pooling with stride {_bracket_list(stride)} and padding {_bracket_list(padding)}"


def _bracket_list(value: Any) -> str:
    return f"[{' '.join(map(str, value))}]" if isinstance(value, (tuple, list)) else f"[{value}]"


DESCRIPTIONS: list[tuple[tuple[type[nn.Module], ...], Callable[[Any], str]]] = [
    ((nn.modules.conv._ConvNd,), _describe_convolution),
    ((nn.Linear,), lambda layer: f"{layer.out_features} outputs, fully connected to {layer.in_features} inputs"),
    ((nn.modules.batchnorm._BatchNorm,), lambda layer: f"batch normalization of {layer.num_features} channels"),
    ((nn.LayerNorm,), lambda layer: f"layer normalization over {_bracket_list(layer.normalized_shape)}"),
    ((nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AvgPoolNd), _describe_pooling),
    (
        (nn.modules.pooling._AdaptiveAvgPoolNd, nn.modules.pooling._AdaptiveMaxPoolNd),
        lambda layer: f"pooling to {_bracket_list(layer.output_size)}",
    ),
    ((nn.Dropout, nn.modules.dropout._DropoutNd), lambda layer: f"{layer.p:.0%} dropout"),
    ((nn.Embedding,), lambda layer: f"{layer.num_embeddings} vectors of {layer.embedding_dim}"),
]
