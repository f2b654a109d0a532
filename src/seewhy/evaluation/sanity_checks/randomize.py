"""randomize(): a copy of a network with some parameters randomized; the original is not changed."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from seewhy.errors import ModelError, OptionError, check_choice, unknown_name_error
from seewhy.feature_layers.table import ROOT_NAME
from seewhy.feature_layers.table import layers as list_layers
from seewhy.models import keras, module_tree, wrap
from seewhy.tracing.forward import call_model, eval_mode
from seewhy.tracing.validation import prepare_model_and_input

from .reparametrized_weights import copy_module, initialized_parameter, update_derived_values

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seewhy.model import Model

RANDOMIZATION_MODES = ("init", "permute", "small_normal")
BATCH_STATISTICS_MODES = ("keep", "reset", "estimate")
SMALL_NORMAL_STD = 0.01


def randomize(
    model: Any,
    layer: str | int,
    count: int = 0,
    *,
    x: Any = None,
    how: str = "init",
    statistics: str = "keep",
    seed: int = 0,
) -> Model:
    """Randomize the parameters of a layer, and of some that follow or precede it, in a copy of the model.

    Adebayo et al. 2018, section 3: one layer is independent randomization; the last layer with all preceding ones (a
    negative count) is cascading randomization. All parameters of a layer are randomized, and each has its own random
    generator, so equal layers get different weights. The original, its state and the global generators are not changed.

    Args:
        model: a network, or a wrapped one; it must be a torch module.
        layer: name of a layer or of a module that contains layers, or the 1-based row of `seewhy.layers`.
        count: number of additional rows: following ones, or preceding ones if negative. Rows without parameters are
            counted; the range is clamped to the table. Parameters outside layers (class tokens, position embeddings)
            belong to the first row.
        x: an input that determines the order of execution of the layers; without it, an input of the model's own size
            is used, or else the order of registration. Required for statistics="estimate".
        how: "init": the distribution of the layer's initializer (where it is unknown, a normal distribution with the
            mean and standard deviation of the trained values); "permute": the trained values of each parameter,
            shuffled; "small_normal": 0.01 · N(0, 1).
        statistics: batch normalization statistics in and after the first randomized layer: "keep", "reset" (mean 0,
            variance 1), or "estimate" (from `x`).
        seed: of the random numbers.

    Returns:
        A model; its `randomized` and `untouched` list the names of the parameters.

    Raises:
        UnknownNameError: no such layer.
        OptionError: a row out of range, or a value that is not allowed.
        ModelError: the model is not a torch module.
    """
    model = wrap(model)
    check_choice("how", how, RANDOMIZATION_MODES)
    check_choice("statistics", statistics, BATCH_STATISTICS_MODES)
    if model.module is None:
        raise ModelError(f"{model.name} is a plain function: it has no weights that could be randomized.")
    if statistics == "estimate" and x is None:
        raise OptionError("statistics='estimate' requires inputs: pass x.")
    rows = parameters_by_row(model, x)
    first, last = _row_range(rows, layer, count)
    chosen = {name for _, parameters in rows[first : last + 1] for name in parameters}
    randomized = randomize_parameters(model, chosen, how, seed)
    if statistics != "keep":
        recompute_batch_statistics(randomized, layers_of_rows(rows[first:]), None if statistics == "reset" else x)
    return randomized


def parameters_by_row(model: Model, x: Any = None) -> list[tuple[str, list[str]]]:
    """Layer name and parameter names of each row of `seewhy.layers`.

    Parameters of a layer that is executed twice belong to its first row. Parameters that belong to no row are assigned
    to the first row.
    """
    assert model.module is not None
    named = module_tree.named_layers(model.module)
    unassigned = list(module_tree.named_parameters(model.module))
    result: list[tuple[str, list[str]]] = []
    for row in list_layers(model, x):
        name = "" if row.name == ROOT_NAME else row.name.partition("#")[0]
        layer = named.get(name)
        is_leaf = layer is not None and not module_tree.has_child_layers(layer)  # including its submodules
        parameters = [w for w in unassigned if w.rpartition(".")[0] == name or (is_leaf and w.startswith(f"{name}."))]
        unassigned = [w for w in unassigned if w not in parameters]
        result.append((row.name, parameters))
    result[0][1].extend(unassigned)
    return result


def layers_of_rows(rows: Sequence[tuple[str, list[str]]]) -> set[str]:
    """Names of the layers of rows, and of the modules that own their parameters."""
    return {name.partition("#")[0] for name, _ in rows} | {w.rpartition(".")[0] for _, each in rows for w in each}


def _row_range(rows: Sequence[tuple[str, list[str]]], layer: str | int, count: int) -> tuple[int, int]:
    """Indices of the first and the last row to randomize."""
    names = [name for name, _ in rows]
    if isinstance(layer, int):
        if not 1 <= layer <= len(rows):
            raise OptionError(f"layer={layer}: the row must be from 1 to {len(rows)}.")
        first = last = layer - 1
    else:
        prefixes = (f"{layer}.", f"{layer}#", f"{layer}/")
        matches = [i for i, name in enumerate(names) if name == layer or name.startswith(prefixes)]
        if not matches:
            raise unknown_name_error("layer", layer, names)
        first, last = matches[0], matches[-1]
    if count >= 0:
        last = min(last + count, len(rows) - 1)
    else:
        first = max(first + count, 0)
    return first, last


def randomize_parameters(model: Model, names: set[str], how: str, seed: int) -> Model:
    """Copy the model and randomize the parameters `names`; `how` as for `randomize`."""
    assert model.module is not None
    module = copy_module(model.module)
    tensors, call = module_tree.named_parameters(module), model.call
    with torch.no_grad():
        for index, (name, weight) in enumerate(tensors.items()):
            if name in names:
                layer, parameter = initialized_parameter(module, name)
                weight.copy_(_initial_values(layer, parameter, weight, how, _parameter_generator(seed, index)))
        update_derived_values(module, names, how)
    return replace(
        model,
        forward=module if call is None else lambda x: call(module, x),
        module=module,
        randomized=tuple(n for n in tensors if n in names),
        untouched=tuple(n for n in tensors if n not in names),
    )


def recompute_batch_statistics(model: Model, layers: set[str], x: Any) -> None:
    """Set the batch statistics of layers of a copy, in place: estimated from `x`, or mean 0 and variance 1 if None."""
    assert model.module is not None
    if keras.is_layer(model.module):
        _recompute_keras_statistics(model, layers, x)
        return
    selected = [m for name, m in module_tree.named_layers(model.module).items() if name in layers]
    norms = [m for m in selected if isinstance(m, _BatchNorm) and m.running_mean is not None]
    for norm in norms:
        norm.reset_running_stats()
    if x is None or not norms:
        return
    _, inputs = prepare_model_and_input(model, x)
    if len(inputs) == 1:  # duplicated: torch requires more than one value per channel
        inputs = torch.cat([inputs, inputs])
    momenta = [norm.momentum for norm in norms]
    with eval_mode(model), torch.no_grad():
        for norm in norms:
            norm.training, norm.momentum = True, None  # statistics of this forward pass only
        call_model(model, inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def _recompute_keras_statistics(model: Model, layers: set[str], x: Any) -> None:
    """The same for Keras, whose batch normalization layers read their statistics in every forward pass."""
    assert model.module is not None
    batch_norms = keras.batch_norm_layers(model.module)
    selected = [m for name, m in module_tree.named_layers(model.module).items() if name in layers]
    norms = [m for m in selected if m in batch_norms]
    if x is None:
        for norm in norms:
            keras.set_batch_statistics(norm, None)
        return
    _, inputs = prepare_model_and_input(model, x)
    handles = [
        norm.register_forward_pre_hook(lambda layer, given: keras.set_batch_statistics(layer, given[0]))
        for norm in norms
    ]
    try:
        with eval_mode(model), torch.no_grad():
            call_model(model, inputs)
    finally:
        for handle in handles:
            handle.remove()


def _initial_values(layer: nn.Module, parameter: str, weight: Tensor, how: str, generator: torch.Generator) -> Tensor:
    """New values for one parameter: the distributions of PyTorch's initializers, from the given generator."""

    def uniform(bound: float) -> Tensor:
        return (2 * torch.rand(weight.shape, generator=generator, dtype=torch.float64) - 1) * bound

    def normal(mean: float, std: float) -> Tensor:
        return mean + std * torch.randn(weight.shape, generator=generator, dtype=torch.float64)

    if how == "permute":
        return weight.flatten()[torch.randperm(weight.numel(), generator=generator).to(weight.device)].view_as(weight)
    if how == "small_normal":
        return normal(0, SMALL_NORMAL_STD)
    if keras.is_layer(layer):
        seed = int(torch.randint(2**31, (), generator=generator))
        values = keras.initial_values(layer, parameter, weight, seed)
        if values is not None:
            return values
    if isinstance(layer, nn.modules.linear.NonDynamicallyQuantizableLinear) and parameter == "bias":
        return torch.zeros_like(weight)  # output projection of nn.MultiheadAttention
    if isinstance(layer, (nn.modules.conv._ConvNd, nn.Linear)) and parameter in {"weight", "bias"}:
        return uniform(1 / math.sqrt(max(1, layer.weight[0].numel())))
    if "norm" in type(layer).__name__.lower() and parameter in {"weight", "bias"}:
        return torch.full_like(weight, float(parameter == "weight"))
    if isinstance(layer, nn.MultiheadAttention) and parameter.startswith("bias_"):
        return normal(0, math.sqrt(1 / weight.numel()))
    if isinstance(layer, nn.MultiheadAttention):
        return uniform(math.sqrt(6 / sum(weight.shape))) if weight.ndim == 2 else torch.zeros_like(weight)
    if isinstance(layer, (nn.RNNBase, nn.RNNCellBase)):
        return uniform(1 / math.sqrt(layer.hidden_size))
    if isinstance(layer, (nn.Embedding, nn.EmbeddingBag)):
        values = normal(0, 1)
        if layer.padding_idx is not None:
            values[layer.padding_idx] = 0
        return values
    if isinstance(layer, nn.PReLU):
        return torch.full_like(weight, 0.25)
    mean, std = float(weight.mean()), float(weight.std(correction=0))
    return normal(mean, std or abs(mean))  # equal values have a standard deviation of 0: use their magnitude


def _parameter_generator(seed: int, index: int) -> torch.Generator:
    """The random generator of parameter number `index`."""
    state = int(np.random.SeedSequence((seed, index, 7)).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(state)
