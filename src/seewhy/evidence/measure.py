"""measure(): one number an explanation, with its error; and compare(): how far methods agree."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
import torch

from seewhy.errors import ModelError, OptionError, unknown
from seewhy.maps import spread
from seewhy.methods.data import is_data
from seewhy.methods.explain import explain
from seewhy.models import wrap
from seewhy.trace.forward import placed, quiet, run
from seewhy.trace.outputs import tensors
from seewhy.types import Comparison, Explanation, Measured, Model

from . import CHECKS
from .interval import two_way
from .similarity import ranks
from .verdict import FEW

# the smallest value of an option
LEAST = {"steps": 1, "ties": 1, "samples": 1, "tolerance": 0, "sigma": 0, "radius": 0, "noise": 0}
WHOLE = ("steps", "ties", "samples", "tolerance")


def measure(model: Any, explanation: Explanation, check: str, **options: Any) -> Measured:
    """What one check says of an explanation: a number for each sample and target, with an interval for their mean.

    Args:
        model: the network that was explained.
        explanation: of `explain`, for classes.
        check: a name of `seewhy.CHECKS` that measures ("deletion", "infidelity", ...).
        **options: the check's own, see its docstring in docs/verdicts.md.

    Raises:
        UnknownNameError: no such check or option.
        OptionError: it is a part of `seewhy.check`, or cannot be had from this explanation.
    """
    if check not in CHECKS:
        raise unknown("check", check, CHECKS)
    line = CHECKS[check]
    if not line.where:
        raise OptionError(f"{check} compares networks: it is a part of seewhy.check(model, x, methods).")
    module, name = line.where.split(":")
    kernel = getattr(import_module(f"seewhy.{module}"), name)
    known = [p.name for p in inspect.signature(kernel).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for key in options:
        if key not in known:
            raise unknown(f"option of {check}", key, known)
        _in_range(key, options[key])
    values, stderr = kernel(_as_explained(wrap(model), explanation), explanation, **options)
    constant = spread(explanation.maps) == 0
    values = values.masked_fill(constant, torch.nan) if line.needs_order else values
    notes = tuple(f"sample {n}, target {k}: undefined" for n, k in values.isnan().nonzero().tolist())
    mean, low, high = _interval(values.numpy())
    return Measured(
        check, explanation.method, values, None if stderr.isnan().all() else stderr, mean, low, high, line.better, notes
    )


def _in_range(key: str, given: Any) -> None:
    if key in LEAST and (
        isinstance(given, bool)
        or not isinstance(given, int if key in WHOLE else (int, float))
        or not LEAST[key] <= given < float("inf")
    ):
        kind = "a whole number" if key in WHOLE else "a number"
        raise OptionError(f"{key}={given!r}: {kind} from {LEAST[key]} on is needed.")


def _as_explained(model: Model, e: Explanation) -> Model:
    """The network as `explain` asked it: plain features [N, F] stand in the record as one channel, [N, 1, F]."""
    if model.layout is not None or e.input.ndim != 3 or e.input.shape[1] != 1:
        return model
    flat = replace(model, layout="NF")
    x = e.input[:1].to(placed(model, "auto")[1] or e.input.device)
    with quiet(flat), torch.no_grad():
        try:
            given = list(tensors(run(flat, x, graph=False).output))
        except (ModelError, AssertionError):
            return model
    known = list(tensors(e.output))
    fits = len(given) == len(known) and all(
        a.shape[1:] == b.shape[1:] and torch.allclose(a.cpu(), b[:1], rtol=1e-2, atol=1e-6)
        for a, b in zip(given, known, strict=True)
    )
    return flat if fits else model


def _interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean over all that is defined, with a 95 % interval over samples; NaN bounds for fewer than five."""
    known = values[~np.isnan(values).all(1)]
    if not len(known):
        return (float("nan"),) * 3
    mean = float(np.nanmean(known))
    if len(known) < FEW:
        return mean, float("nan"), float("nan")
    return tuple(two_way(partial(_mean, known), len(known), 1, share=0.95))  # type: ignore[return-value]


def _mean(values: np.ndarray, i: np.ndarray, _draws: np.ndarray) -> float:
    return float(np.nanmean(values[i]))


def compare(model: Any, x: Any, methods: Sequence[Any], **options: Any) -> Comparison:
    """Several methods on the same inputs, and how far they agree: rank correlation of absolute maps.

    Agreement says nothing of who is right: methods may share a fault.

    Args:
        model: a network, or a wrapped one.
        x: a batch, or what the model's `prepare` takes.
        methods: at least two, as for `explain`.
        **options: of `explain`.

    Raises:
        OptionError: fewer than two methods.
    """
    if isinstance(methods, str) or len(methods) < 2:
        raise OptionError(f"methods={methods!r}: at least two are compared.")
    if isinstance(x, (list, tuple)) and any(isinstance(one, torch.Tensor) for one in x):
        raise OptionError(f"x is a list of {len(x)} tensors: methods are compared on one batch, torch.stack(x).")
    if is_data(x):
        raise OptionError("x is a data set: methods are compared on one batch at a time, in a loop over it.")
    found = list(explain(model, x, list(methods), **options))
    if len({e.maps.shape for e in found}) > 1:
        raise OptionError("upsample='none' gives maps of several sizes, which cannot be compared.")
    placed = [ranks(e.maps.abs().flatten(2)) for e in found]  # [N, K, P]
    agreement = np.array([
        [_interval((a * b).sum(2).masked_fill(_flat(a) | _flat(b), torch.nan).numpy()) for b in placed] for a in placed
    ])  # fmt: skip
    return Comparison(tuple(found), tuple(e.method for e in found), agreement)


def _flat(placed: torch.Tensor) -> torch.Tensor:
    return (placed == 0).all(2)
