"""TorchScript networks, executed without fusion so that autograd records every operation."""

from __future__ import annotations

import io
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from seewhy.errors import ModelError

from .files import first_line

if TYPE_CHECKING:
    from seewhy.model import Model

NO_LAYERS = "a TorchScript network runs as one graph, whose layers cannot be observed: wrap the original network"


def without_fusion(model: Model) -> Model:
    """Return the model unchanged, or for a scripted module a copy whose operations are never fused.

    From its second call on, the TorchScript executor fuses operations, and autograd records several of them as one. The
    setting that disables this applies to the current thread only, and to a module that has not been called yet.

    Raises:
        ModelError: the module cannot be copied, as after `torch.jit.optimize_for_inference`.
    """
    if not isinstance(model.module, torch.jit.ScriptModule) or model.forward is not model.module:
        return model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # TorchScript is deprecated
        buffer = io.BytesIO()
        try:
            torch.jit.save(model.module, buffer)
            buffer.seek(0)
            copy = torch.jit.load(buffer)
        except RuntimeError as error:
            raise ModelError(
                f"{model.name} cannot be copied, as is needed to observe its rectifiers: use the network before "
                f"torch.jit.optimize_for_inference, or method 'gradient'. ({first_line(error)})"
            ) from error

    def forward(x: torch.Tensor) -> Any:
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            return copy(x)

    return replace(model, module=copy, forward=forward)
