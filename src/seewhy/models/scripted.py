"""Scripted networks, made so that autograd records every step."""

from __future__ import annotations

import io
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from seewhy.types import Model


def step_by_step(model: Model) -> Model:
    """The model itself, or for a scripted one a fresh copy that is never fused.

    From its second call on, a scripted network records whole pieces of itself as one step. The executor's switch holds
    for this thread only, and only a copy that has not run yet obeys it.
    """
    if not isinstance(model.module, torch.jit.ScriptModule) or model.forward is not model.module:
        return model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # that scripting is to be replaced one day
        written = io.BytesIO()
        torch.jit.save(model.module, written)
        written.seek(0)
        copy = torch.jit.load(written)

    def forward(x: torch.Tensor) -> Any:
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            return copy(x)

    return replace(model, module=copy, forward=forward)
