"""TorchScript networks, executed without fusion so that autograd records every operation."""

from __future__ import annotations

import io
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from seewhy.model import Model


def without_fusion(model: Model) -> Model:
    """Return the model unchanged, or for a scripted module a copy whose operations are never fused.

    From its second call on, the TorchScript executor fuses operations, and autograd records several of them as one. The
    setting that disables this applies to the current thread only, and to a module that has not been called yet.
    """
    if not isinstance(model.module, torch.jit.ScriptModule) or model.forward is not model.module:
        return model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # TorchScript is deprecated
        buffer = io.BytesIO()
        torch.jit.save(model.module, buffer)
        buffer.seek(0)
        copy = torch.jit.load(buffer)

    def forward(x: torch.Tensor) -> Any:
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            return copy(x)

    return replace(model, module=copy, forward=forward)
