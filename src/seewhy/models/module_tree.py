"""Layers of a network by name, and their weights; the same functions for torch modules and Keras models.

A Keras model on the torch backend is a torch module, but does not register all of its layers with torch. Only Keras'
own lists of layers and variables are complete.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from seewhy.errors import OptionError, unknown_name_error

from . import keras

if TYPE_CHECKING:
    from seewhy.model import Model


def named_layers(module: nn.Module) -> dict[str, nn.Module]:
    """Return every layer by its full name, with dots between the levels; the module itself is "".

    A shared layer is listed once, under its first name.
    """
    if not keras.is_layer(module):
        return dict(module.named_modules())
    layers: dict[str, nn.Module] = {}
    _collect_layers(module, "", layers, set())
    return layers


def _collect_layers(layer: nn.Module, name: str, layers: dict[str, nn.Module], seen: set[int]) -> None:
    if id(layer) in seen:
        return
    seen.add(id(layer))
    layers[name] = layer
    for child_name, child in child_layers(layer).items():
        _collect_layers(child, f"{name}.{child_name}" if name else child_name, layers, seen)


def child_layers(layer: nn.Module) -> dict[str, nn.Module]:
    """Return the direct sublayers of a layer by name; parameter lists and dictionaries are not layers."""
    if keras.is_layer(layer):
        return keras.sublayers(layer)
    return {n: m for n, m in layer.named_children() if not isinstance(m, (nn.ParameterDict, nn.ParameterList))}


def has_child_layers(layer: nn.Module) -> bool:
    """Whether a layer is composed of sublayers; `nn.MultiheadAttention` counts as a single layer."""
    return not isinstance(layer, nn.MultiheadAttention) and bool(child_layers(layer))


def get_layer(module: nn.Module, name: str) -> nn.Module:
    """Return the layer with this full name.

    Raises:
        UnknownNameError: there is no layer with this name.
    """
    if not keras.is_layer(module):
        return module.get_submodule(name)
    layers = named_layers(module)
    if name not in layers:
        raise unknown_name_error("layer", name, [n for n in layers if n])
    return layers[name]


def resolve_layer_name(model: Model, layer: Any) -> Any:
    """Return the full name of a layer that is given as a module or by the end of its name.

    Anything else (None, an operation "layer/relu", an unknown name) is returned unchanged.

    Raises:
        OptionError: the module is not part of the network, or several layer names have this end.
    """
    if layer is None or model.module is None or not isinstance(layer, (str, nn.Module)):
        return layer
    named = named_layers(model.module)
    if isinstance(layer, nn.Module):
        name = next((name for name, module in named.items() if module is layer), None)
        if name is None:
            raise OptionError(f"the layer {type(layer).__name__} is not part of {model.name}: pass one of its layers.")
        return name
    stem, mark, call = layer.partition("#")
    matches = [name for name in named if name.endswith(f".{stem}")]
    if stem in named or "/" in layer or not stem or not matches:
        return layer
    if len(matches) > 1:
        raise OptionError(
            f"layer {layer!r} is ambiguous: {len(matches)} layer names end with it ({', '.join(matches[:6])}). "
            "Pass a longer part of the name."
        )
    return matches[0] + mark + call


def named_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters of the network by full name (layer name, dot, parameter name); shared ones once."""
    if not keras.is_layer(module):
        return dict(module.named_parameters())
    parameters: dict[str, nn.Parameter] = {}
    for name, part in named_layers(module).items():
        for own_name, weight in keras.own_named_parameters(part).items():
            if all(weight is not other for other in parameters.values()):
                parameters[f"{name}.{own_name}" if name else own_name] = weight
    return parameters


def own_parameters(layer: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of a layer itself, without those of its sublayers."""
    if keras.is_layer(layer):
        return list(keras.own_named_parameters(layer).values())
    return list(layer.parameters(recurse=not has_child_layers(layer)))


def named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield every parameter and buffer of the network with its name."""
    if keras.is_layer(module):
        yield from keras.named_variables(module)
        return
    yield from module.named_parameters()
    yield from module.named_buffers()
