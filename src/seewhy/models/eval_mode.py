"""Evaluation mode and frozen weights of a module, restored after use."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from . import keras

_lock = threading.Lock()
# id of a module or tensor -> [module or tensor, attribute, original value, number of active calls]. Calls may overlap
# (threads, shared submodules); the last one to exit restores the original value.
_saved_flags: dict[int, list[Any]] = {}


@contextmanager
def module_eval_mode(module: torch.nn.Module | None) -> Iterator[None]:
    """Set evaluation mode and frozen weights inside, and restore both on exit, also after an error.

    The flags are set one by one, since `.eval()` may be overridden and do more. With frozen weights, autograd computes
    no gradients for them. Calls from several threads may overlap; training the module at the same time is not
    supported.

    Args:
        module: the network, or None: nothing is done.
    """
    if module is None:
        yield
        return
    submodules = list(module.modules())
    # one traversal, tied weights once; `parameters()` would take as long as a small layer
    weights: dict[int, torch.Tensor]
    weights = {id(w): w for part in submodules for w in part._parameters.values() if w is not None}
    if keras.is_layer(module):
        weights |= {id(w): w for _, w in keras.named_variables(module)}
    # frozen TorchScript has no modes
    flags: list[tuple[Any, str, bool]] = [(part, "training", False) for part in submodules if hasattr(part, "training")]
    flags += [(w, "requires_grad", False) for w in weights.values() if w.is_leaf and not w.is_inference()]
    with _lock:
        for owner, name, value in flags:
            entry = _saved_flags.setdefault(id(owner), [owner, name, getattr(owner, name), 0])
            entry[3] += 1
            if getattr(owner, name) != value:
                setattr(owner, name, value)
    try:
        yield
    finally:
        with _lock:
            for owner, name, _ in flags:
                entry = _saved_flags[id(owner)]
                entry[3] -= 1
                if entry[3] == 0:
                    del _saved_flags[id(owner)]
                    if getattr(owner, name) != entry[2]:
                        setattr(owner, name, entry[2])
