"""Use somebody's module for a while and leave no trace on it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from . import keras3

_lock = threading.Lock()
# what is held: id -> [object, attribute, value before, how many calls hold it]. Overlapping calls (threads, shared
# parts) count; the last one out puts the value back.
_held: dict[int, list[Any]] = {}


@contextmanager
def borrowed(module: torch.nn.Module | None) -> Iterator[None]:
    """Evaluation mode and frozen weights inside, everything as before outside, also after an error.

    Flags are set one by one: `.eval()` may be overridden and do work of its own. Frozen weights spare
    autograd their gradients. Threads may overlap; training the module meanwhile is not supported.
    """
    if module is None:
        yield
        return
    parts = list(module.modules())
    # one walk, tied weights once; `parameters()` would cost as much as a small layer
    weights: dict[int, torch.Tensor]
    weights = {id(w): w for part in parts for w in part._parameters.values() if w is not None}
    if keras3.is_layer(module):
        weights |= {id(w): w for _, w in keras3.variables(module)}
    flags: list[tuple[Any, str, bool]] = [(part, "training", False) for part in parts]
    flags += [(w, "requires_grad", False) for w in weights.values() if w.is_leaf and not w.is_inference()]
    with _lock:
        for thing, name, value in flags:
            entry = _held.setdefault(id(thing), [thing, name, getattr(thing, name), 0])
            entry[3] += 1
            if getattr(thing, name) != value:
                setattr(thing, name, value)
    try:
        yield
    finally:
        with _lock:
            for thing, name, _ in flags:
                entry = _held[id(thing)]
                entry[3] -= 1
                if entry[3] == 0:
                    del _held[id(thing)]
                    if getattr(thing, name) != entry[2]:
                        setattr(thing, name, entry[2])
