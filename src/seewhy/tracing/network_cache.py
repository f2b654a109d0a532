"""Results of one forward pass that are kept per network, input size and reduction layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary, ref

from torch import nn

from seewhy.models import module_tree

if TYPE_CHECKING:
    from seewhy.model import Model
    from seewhy.types import Inputs

MAX_CACHED_ENTRIES = 64  # per network; one entry per input size and reduction layer
Entry = TypeVar("Entry", bound=Any)  # a NamedTuple with a field `network_parts`


def cached_per_network(
    cache: WeakKeyDictionary[nn.Module, dict[Any, Entry]],
    compute: Callable[[Model, Inputs, str | None], Entry],
    model: Model,
    x: Inputs,
    reduction_layer: str | None,
) -> Entry:
    """Return compute(model, x, reduction_layer), cached per network and input size.

    An entry is used as long as the model's forward function and its layers are the same objects. Weights may change.

    Args:
        cache: network -> entries.
        compute: computes an entry.
        model: the model; must have a module.
        x: the batch.
        reduction_layer: the layer whose output is explained; None: the model's output.
    """
    assert model.module is not None
    parts = [model.forward, *module_tree.named_layers(model.module).values()]
    entries = cache.setdefault(model.module, {})
    key = (reduction_layer, tuple(x.shape[1:]), model.layout)
    entry = entries.get(key)
    if (
        entry is None
        or len(entry.network_parts) != len(parts)
        or any(a() is not b for a, b in zip(entry.network_parts, parts, strict=True))
    ):
        if len(entries) >= MAX_CACHED_ENTRIES:
            entries.clear()
        computed: Entry = compute(model, x, reduction_layer)._replace(network_parts=[ref(part) for part in parts])
        entries[key] = entry = computed
    return entry
