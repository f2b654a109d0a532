"""A copy of a network with some of what it learnt drawn anew; the original is not touched."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from seewhy.errors import ModelError, OptionError, choose, unknown
from seewhy.models import keras3, tree, wrap
from seewhy.trace.forward import quiet
from seewhy.trace.layers import ROOT
from seewhy.trace.layers import layers as list_layers
from seewhy.trace.layout import own
from seewhy.trace.ready import ready

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seewhy.types import Model

HOW = ("init", "permute", "small_normal")
STATISTICS = ("keep", "reset", "estimate")
SMALL = 0.01


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
    """A new model in which a layer, and some that follow or precede it, have learnt nothing.

    Adebayo et al. 2018, section 3: one layer is the independent test, the last one with all before it (a negative
    count) a cascade. Every learnable tensor of a layer is drawn, also those it was not born with a law for; each has a
    random stream of its own, so that two equal layers get different weights. The original, its state and the global
    generators are not touched.

    Args:
        model: a network, or a wrapped one; it must be a torch module.
        layer: name of a layer or of a part that holds several, or the 1-based row of `seewhy.layers`.
        count: so many further rows; negative: preceding rows. Rows with nothing to learn count and are skipped;
            the ends are clamped. Tensors of no layer (class tokens, position embeddings) go with the first row.
        x: an input, which gives the order in which layers run; without one, that of the model's own size, else the
            order in which they were registered. Needed for statistics="estimate".
        how: "init": the law of the layer's own initialiser (normal with the mean and spread of the trained values
            where none is known); "permute": each tensor's trained values, shuffled; "small_normal": 0.01 · N(0, 1).
        statistics: of batch normalisation in and behind the first randomised layer: "keep", "reset" (mean 0,
            variance 1), or "estimate" (from `x`).
        seed: another seed, other weights.

    Returns:
        A model; `randomized` and `untouched` name its parameter tensors.

    Raises:
        UnknownNameError: no such layer.
        OptionError: a row out of range, or a value that is not allowed.
        ModelError: the model is no torch module.
    """
    model = wrap(model)
    choose("how", how, HOW)
    choose("statistics", statistics, STATISTICS)
    if model.module is None:
        raise ModelError(f"{model.name} is a plain function: it has no weights that could be randomised.")
    if statistics == "estimate" and x is None:
        raise OptionError("statistics='estimate' needs inputs to estimate from: give x.")
    rows = rows_of(model, x)
    first, last = _range(rows, layer, count)
    chosen = {name for _, owned in rows[first : last + 1] for name in owned}
    twin = drawn(model, chosen, how, seed)
    if statistics != "keep":
        settle(twin, layers_of(rows[first:]), None if statistics == "reset" else x)
    return twin


def rows_of(model: Model, x: Any = None) -> list[tuple[str, list[str]]]:
    """The rows of `seewhy.layers` with the parameter tensors each owns; tensors of no row go with the first.

    A row that runs twice owns its tensors where it first runs.
    """
    assert model.module is not None
    named = tree.layers(model.module)
    free = list(tree.parameters(model.module))
    found: list[tuple[str, list[str]]] = []
    for row in list_layers(model, x):
        name = "" if row.name == ROOT else row.name.partition("#")[0]
        layer = named.get(name)
        whole = layer is not None and not tree.holds_layers(layer)  # with all that is inside it
        mine = [w for w in free if w.rpartition(".")[0] == name or (whole and w.startswith(f"{name}."))]
        free = [w for w in free if w not in mine]
        found.append((row.name, mine))
    found[0][1].extend(free)
    return found


def layers_of(rows: Sequence[tuple[str, list[str]]]) -> set[str]:
    """Names of the layers of some rows, and of those whose tensors they own."""
    return {name.partition("#")[0] for name, _ in rows} | {w.rpartition(".")[0] for _, owned in rows for w in owned}


def _range(rows: Sequence[tuple[str, list[str]]], layer: str | int, count: int) -> tuple[int, int]:
    """First and last row meant."""
    names = [name for name, _ in rows]
    if isinstance(layer, int):
        if not 1 <= layer <= len(rows):
            raise OptionError(f"layer={layer}: rows go from 1 to {len(rows)}.")
        first = last = layer - 1
    else:
        inside = (f"{layer}.", f"{layer}#", f"{layer}/")
        held = [i for i, name in enumerate(names) if name == layer or name.startswith(inside)]
        if not held:
            raise unknown("layer", layer, names)
        first, last = held[0], held[-1]
    if count >= 0:
        last = min(last + count, len(rows) - 1)
    else:
        first = max(first + count, 0)
    return first, last


def drawn(model: Model, names: set[str], how: str, seed: int) -> Model:
    """A copy of the model in which the tensors `names` are drawn anew."""
    assert model.module is not None
    module = copy.deepcopy(model.module)
    tensors, call = tree.parameters(module), model.call
    with torch.no_grad():
        for number, (name, weight) in enumerate(tensors.items()):
            if name in names:
                owner, _, own = name.rpartition(".")
                weight.copy_(_law(tree.layer(module, owner), own, weight, how, _generator(seed, number)))
    return replace(
        model,
        forward=module if call is None else lambda x: call(module, x),
        module=module,
        randomized=tuple(n for n in tensors if n in names),
        untouched=tuple(n for n in tensors if n not in names),
    )


def settle(model: Model, layers: set[str], x: Any) -> None:
    """Batch statistics of some layers of a copy: those of the inputs, or mean 0 and variance 1 where there are none."""
    assert model.module is not None
    if keras3.is_layer(model.module):
        _settle_keras(model, layers, x)
        return
    norms = [m for name, m in tree.layers(model.module).items() if name in layers and isinstance(m, _BatchNorm)]
    norms = [m for m in norms if m.running_mean is not None]
    for norm in norms:
        norm.reset_running_stats()
    if x is None or not norms:
        return
    _, inputs = ready(model, x)
    if len(inputs) == 1:  # twice, since torch refuses to estimate from a single value a channel
        inputs = torch.cat([inputs, inputs])
    usual = [norm.momentum for norm in norms]
    with quiet(model), torch.no_grad():
        for norm in norms:
            norm.training, norm.momentum = True, None  # all of what this pass sees, and nothing else
        model.forward(own(inputs, model.layout))
    for norm, momentum in zip(norms, usual, strict=True):
        norm.momentum = momentum


def _settle_keras(model: Model, layers: set[str], x: Any) -> None:
    """The same for Keras, whose batch normalisations read their statistics anew in each forward."""
    assert model.module is not None
    wanted = keras3.norms(model.module)
    norms = [part for name, part in tree.layers(model.module).items() if name in layers and part in wanted]
    if x is None:
        for norm in norms:
            keras3.settled(norm, None)
        return
    _, inputs = ready(model, x)
    handles = [norm.register_forward_pre_hook(lambda layer, given: keras3.settled(layer, given[0])) for norm in norms]
    try:
        with quiet(model), torch.no_grad():
            model.forward(own(inputs, model.layout))
    finally:
        for handle in handles:
            handle.remove()


def _law(layer: nn.Module, own_name: str, weight: Tensor, how: str, draw: torch.Generator) -> Tensor:
    """Values for one tensor. What PyTorch's initialisers do, from a generator of ours."""

    def uniform(bound: float) -> Tensor:
        return (2 * torch.rand(weight.shape, generator=draw, dtype=torch.float64) - 1) * bound

    def normal(mean: float, spread: float) -> Tensor:
        return mean + spread * torch.randn(weight.shape, generator=draw, dtype=torch.float64)

    if how == "permute":
        return weight.flatten()[torch.randperm(weight.numel(), generator=draw).to(weight.device)].view_as(weight)
    if how == "small_normal":
        return normal(0, SMALL)
    if keras3.is_layer(layer):
        seed = int(torch.randint(2**31, (), generator=draw))
        found = keras3.fresh(layer, own_name, weight, seed)
        if found is not None:
            return found
    if isinstance(layer, nn.modules.linear.NonDynamicallyQuantizableLinear) and own_name == "bias":
        return torch.zeros_like(weight)  # behind an attention
    if isinstance(layer, (nn.modules.conv._ConvNd, nn.Linear)) and own_name in {"weight", "bias"}:
        return uniform(1 / math.sqrt(max(1, layer.weight[0].numel())))
    if "norm" in type(layer).__name__.lower() and own_name in {"weight", "bias"}:
        return torch.full_like(weight, float(own_name == "weight"))
    if isinstance(layer, nn.MultiheadAttention) and own_name.startswith("bias_"):
        return normal(0, math.sqrt(1 / weight.numel()))
    if isinstance(layer, nn.MultiheadAttention):
        return uniform(math.sqrt(6 / sum(weight.shape))) if weight.ndim == 2 else torch.zeros_like(weight)
    if isinstance(layer, (nn.RNNBase, nn.RNNCellBase)):
        return uniform(1 / math.sqrt(layer.hidden_size))
    if isinstance(layer, (nn.Embedding, nn.EmbeddingBag)):
        found = normal(0, 1)
        if layer.padding_idx is not None:
            found[layer.padding_idx] = 0
        return found
    if isinstance(layer, nn.PReLU):
        return torch.full_like(weight, 0.25)
    mean, spread = float(weight.mean()), float(weight.std(correction=0))
    return normal(mean, spread or abs(mean))  # equal values have no spread: their size instead


def _generator(seed: int, number: int) -> torch.Generator:
    state = int(np.random.SeedSequence((seed, number, 7)).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(state)
