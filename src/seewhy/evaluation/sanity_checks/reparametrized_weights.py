"""Weights that a layer computes from other parameters: spectral normalization and weight normalization of torch.

Both exist as parametrizations (`torch.nn.utils.parametrizations`) and as hooks (`torch.nn.utils.spectral_norm` and
`weight_norm`). When the parameters change, what was derived from them must follow: the singular vectors of a spectral
normalization, and the norms g = ||v|| of a weight normalization, with which its weight is v.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm, _WeightNorm
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from seewhy.models import module_tree


def copy_module(module: nn.Module) -> nn.Module:
    """A deep copy of a module; a weight that a hook computed in the last forward pass is copied by value."""
    computed = [t for m in module.modules() for t in vars(m).values() if isinstance(t, Tensor) and not t.is_leaf]
    return copy.deepcopy(module, {id(t): t.detach().clone() for t in computed})


def initialized_parameter(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The layer whose initializer determines a parameter, and the name of the weight there.

    They are those of the original weight, also if the parameter is what a normalization made of it.
    """
    owner, _, parameter = name.rpartition(".")
    prefix, parametrized, weight = owner.rpartition("parametrizations.")
    if parametrized:
        return module_tree.get_layer(module, prefix.removesuffix(".")), weight
    layer = module_tree.get_layer(module, owner)
    for hook in _normalization_hooks(layer):
        if parameter in (f"{hook.name}_orig", f"{hook.name}_v"):
            return layer, hook.name
    return layer, parameter


def update_derived_values(module: nn.Module, names: set[str], how: str) -> None:
    """Make the singular vectors and norms of all normalized weights fit the parameters `names`, which have changed.

    Args:
        module: the module, which is changed.
        names: full names of the changed parameters.
        how: how they were randomized; permuted norms of a weight normalization are kept.
    """
    for layer_name, layer in module.named_modules():
        prefix = f"{layer_name}." if layer_name else ""
        if isinstance(layer, ParametrizationList) and any(name.rpartition(".")[0] == layer_name for name in names):
            _update_parametrizations(layer, how)
        for hook in _normalization_hooks(layer):
            if {f"{prefix}{hook.name}_orig", f"{prefix}{hook.name}_v"} & names:
                _update_hook(layer, hook, how)


def _normalization_hooks(layer: nn.Module) -> list[Any]:
    return [hook for hook in layer._forward_pre_hooks.values() if isinstance(hook, (SpectralNorm, WeightNorm))]


def _update_parametrizations(parametrizations: Any, how: str) -> None:
    first = parametrizations[0]
    if isinstance(first, _WeightNorm) and how != "permute":
        parametrizations.original0.copy_(torch.norm_except_dim(parametrizations.original1, 2, first.dim))
    if parametrizations.is_tensor:
        values: list[Any] = [parametrizations.original]
    else:
        values = [getattr(parametrizations, f"original{i}") for i in range(parametrizations.ntensors)]
    for parametrization in parametrizations:
        if isinstance(parametrization, _SpectralNorm) and values[0].ndim > 1:
            matrix = parametrization._reshape_weight_to_matrix(values[0])
            _set_singular_vectors(matrix, parametrization._u, parametrization._v)
        values = [parametrization(*values)]


def _update_hook(layer: nn.Module, hook: Any, how: str) -> None:
    if isinstance(hook, SpectralNorm):
        matrix = hook.reshape_weight_to_matrix(getattr(layer, f"{hook.name}_orig"))
        _set_singular_vectors(matrix, getattr(layer, f"{hook.name}_u"), getattr(layer, f"{hook.name}_v"))
    elif how != "permute":
        getattr(layer, f"{hook.name}_g").copy_(torch.norm_except_dim(getattr(layer, f"{hook.name}_v"), 2, hook.dim))
    hook(layer, None)  # computes the weight


def _set_singular_vectors(matrix: Tensor, u: Tensor, v: Tensor) -> None:
    """Set u and v to the singular vectors of the largest singular value."""
    matrix = matrix.detach().double()
    tall = matrix.shape[0] > matrix.shape[1]
    small = matrix.T if tall else matrix
    first = torch.linalg.eigh(small @ small.T).eigenvectors[:, -1]
    second = nn.functional.normalize(small.T @ first, dim=0)
    u.copy_(second if tall else first)
    v.copy_(first if tall else second)
