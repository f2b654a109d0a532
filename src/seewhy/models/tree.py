"""What a network is made of: its layers by name and their weights, alike for torch modules and Keras models.

Keras models are torch modules, but hide their layers from torch: only what they list themselves is complete.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from seewhy.errors import unknown

from . import keras3


def layers(module: nn.Module) -> dict[str, nn.Module]:
    """Every layer by its name, dots between the levels; the module itself is "". A shared layer has its first name."""
    if not keras3.is_layer(module):
        return dict(module.named_modules())
    found: dict[str, nn.Module] = {}
    _walk(module, "", found, set())
    return found


def _walk(layer: nn.Module, name: str, found: dict[str, nn.Module], seen: set[int]) -> None:
    if id(layer) in seen:
        return
    seen.add(id(layer))
    found[name] = layer
    for own_name, inside in children(layer).items():
        _walk(inside, f"{name}.{own_name}" if name else own_name, found, seen)


def children(layer: nn.Module) -> dict[str, nn.Module]:
    """The layers that a layer is made of; containers of weights alone are none."""
    if keras3.is_layer(layer):
        return keras3.children(layer)
    return {n: m for n, m in layer.named_children() if not isinstance(m, (nn.ParameterDict, nn.ParameterList))}


def holds_layers(layer: nn.Module) -> bool:
    """Whether a layer is made of others that run."""
    return not isinstance(layer, nn.MultiheadAttention) and bool(children(layer))


def layer(module: nn.Module, name: str) -> nn.Module:
    """The layer of that name.

    Raises:
        UnknownNameError: there is none.
    """
    if not keras3.is_layer(module):
        return module.get_submodule(name)
    found = layers(module)
    if name not in found:
        raise unknown("layer", name, [n for n in found if n])
    return found[name]


def parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """What the network learns, by the name of the layer that owns it, a dot, and its own."""
    if not keras3.is_layer(module):
        return dict(module.named_parameters())
    found: dict[str, nn.Parameter] = {}
    for name, part in layers(module).items():
        for own, weight in keras3.learnt(part).items():
            if all(weight is not other for other in found.values()):
                found[f"{name}.{own}" if name else own] = weight
    return found


def own(layer: nn.Module) -> list[nn.Parameter]:
    """What a layer learns that no layer inside it has."""
    if keras3.is_layer(layer):
        return list(keras3.learnt(layer).values())
    return list(layer.parameters(recurse=not holds_layers(layer)))


def weights(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every tensor that the network holds, learnt or not."""
    if keras3.is_layer(module):
        yield from keras3.variables(module)
        return
    yield from module.named_parameters()
    yield from module.named_buffers()
