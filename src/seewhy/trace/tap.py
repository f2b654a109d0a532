"""Record what a named layer gives, in this thread's call only."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from seewhy.errors import ModelError, unknown

if TYPE_CHECKING:
    from seewhy.types import Model


def check_layer(model: Model, name: str) -> None:
    """Refuse a layer that does not exist.

    Raises:
        ModelError: the model has no layers at all.
        UnknownNameError: it has no layer of that name.
    """
    if model.module is None:
        raise ModelError(f"{model.name} is a plain function, its layers cannot be seen: wrap the torch module itself.")
    layers = dict(model.module.named_modules())
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

    handle = model.module.get_submodule(name).register_forward_hook(record)
    try:
        yield outputs
    finally:
        handle.remove()
