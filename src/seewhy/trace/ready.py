"""What every call begins with: a network that can answer and an input that it can take."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from seewhy.errors import InputError, ModelError
from seewhy.models import tree, wrap
from seewhy.types import Can

from .batch import batch_first
from .converted import converted
from .forward import placed, weights
from .layout import canonical, check_rank
from .outputs import finite

if TYPE_CHECKING:
    from seewhy.types import Inputs, Model


def ready(model: Any, x: Any, device: str = "auto", needs: Can = Can.SCORES) -> tuple[Model, Inputs]:
    """Wrap the network, prepare the input, and bring it to N C S, to the network's device and precision.

    A network that only answers is converted to torch if more is needed and it answers alike on this input; if not,
    it comes back with what it `lacks`.

    Raises:
        InputError: the input is empty, not finite, or has an impossible number of axes.
    """
    model = wrap(model)
    if not isinstance(x, Tensor):
        bare = model.preparation is None and isinstance(x, np.ndarray)
        x = torch.from_numpy(x) if bare else model.prepare(x)
    if not isinstance(x, Tensor):
        raise InputError(f"the preparation of {model.name} gave a {type(x).__name__}: a tensor is needed.")
    check_rank(x, model.layout)
    if model.layout is None and x.ndim == 2:  # a plain feature vector: one channel, F positions
        model = replace(model, layout="NF")
    if x.numel() == 0:
        raise InputError(f"the input has shape {list(x.shape)}: there is nothing in it to explain.")
    if x.is_complex():
        raise InputError("the input is complex: give its real and imaginary parts as channels.")
    if not finite(x):
        bad = int((~x.isfinite()).sum())
        raise InputError(f"the input holds {bad} NaN or infinite values of {x.numel()}: clean it first.")
    _check_weights(model)
    model, place = placed(model, device)
    weight = next((w for w in weights(model) if w.is_floating_point()), x)
    dtype = weight.dtype if weight.is_floating_point() else torch.float32
    inputs = canonical(x.detach().to(place or x.device, dtype), model.layout)
    if model.batch_axes is not None:
        model = batch_first(model, inputs)
    if needs in model.can or model.conversion is None:
        return model, inputs
    return converted(model, inputs)


def _check_weights(model: Model) -> None:
    """Refuse weights without values, before a forward could make some.

    Raises:
        ModelError: there are such.
    """
    for name, weight in () if model.module is None else tree.weights(model.module):
        if is_lazy(weight):
            raise ModelError(f"{model.name} has no values for {name!r} yet (a lazy layer): call it once on an input.")
        if weight.is_meta:
            raise ModelError(
                f"{model.name} has no values for {name!r}: it lies on the meta device. Load weights first, with "
                "network.to_empty(device='cpu') and load_state_dict, or load_state_dict(..., assign=True)."
            )
