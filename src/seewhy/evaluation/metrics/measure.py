"""measure(): one metric of an explanation; compare(): rank correlation between the maps of several methods."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
import torch

from seewhy.engine.data_sets import is_batch_iterable
from seewhy.engine.explain import explain
from seewhy.errors import ModelError, OptionError, unknown_name_error
from seewhy.evaluation import CHECKS
from seewhy.evaluation.confidence_interval import jackknife_interval
from seewhy.evaluation.rank_correlation import normalized_ranks
from seewhy.evaluation.sanity_checks.verdict import MIN_INPUTS
from seewhy.maps import value_range
from seewhy.model import Model
from seewhy.models import wrap
from seewhy.results import Comparison, Explanation, Measurement, unique_names
from seewhy.tracing.forward import eval_mode, resolve_device, run_forward
from seewhy.tracing.outputs import iter_tensors

MIN_OPTION_VALUES = {"steps": 1, "ties": 1, "samples": 1, "tolerance": 0, "sigma": 0, "radius": 0, "noise": 0}
INTEGER_OPTIONS = ("steps", "ties", "samples", "tolerance")


def measure(model: Any, explanation: Explanation, check: str, **options: Any) -> Measurement:
    """Compute one metric of an explanation: one value per sample and target, and the 95 % interval of their mean.

    Args:
        model: the explained network.
        explanation: result of `seewhy.explain` for classes.
        check: name of a metric of `seewhy.CHECKS`, such as "deletion" or "infidelity".
        **options: keyword arguments of the metric's function in `seewhy.evaluation.metrics`.

    Returns:
        A `Measurement`; values are NaN where the metric is undefined, for most metrics on constant maps.

    Raises:
        UnknownNameError: no such metric or option.
        OptionError: the name is a test of `seewhy.check`, an option is out of range, or the metric is not defined for
            this explanation.
    """
    if check not in CHECKS:
        raise unknown_name_error("check", check, CHECKS)
    metric = CHECKS[check]
    if not metric.function:
        raise OptionError(f"{check} compares several networks and is part of seewhy.check(model, x, methods).")
    module, name = metric.function.split(":")
    kernel = getattr(import_module(f"seewhy.{module}"), name)
    known = [p.name for p in inspect.signature(kernel).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for key in options:
        if key not in known:
            raise unknown_name_error(f"option of {check}", key, known)
        _check_option(key, options[key])
    values, stderr = kernel(_with_explained_layout(wrap(model), explanation), explanation, **options)
    constant = value_range(explanation.maps) == 0
    values = values.masked_fill(constant, torch.nan) if metric.undefined_if_constant else values
    notes = tuple(f"sample {n}, target {k}: undefined" for n, k in values.isnan().nonzero().tolist())
    mean, low, high = _mean_interval(values.numpy())
    return Measurement(
        check, explanation.method, values, None if stderr.isnan().all() else stderr, mean, low, high, metric.better,
        notes, explanation.call,
    )  # fmt: skip


def _check_option(name: str, value: Any) -> None:
    if name in MIN_OPTION_VALUES and (
        isinstance(value, bool)
        or not isinstance(value, int if name in INTEGER_OPTIONS else (int, float))
        or not MIN_OPTION_VALUES[name] <= value < float("inf")
    ):
        kind = "an integer" if name in INTEGER_OPTIONS else "a finite number"
        raise OptionError(f"{name}={value!r}: {kind} of at least {MIN_OPTION_VALUES[name]} is required.")


def _with_explained_layout(model: Model, e: Explanation) -> Model:
    """The model with the layout of the explained call: features [N, F] are recorded in `e.input` as [N, 1, F]."""
    if model.layout is not None or e.input.ndim != 3 or e.input.shape[1] != 1:
        return model
    flat = replace(model, layout="NF")
    x = e.input[:1].to(resolve_device(model, "auto")[1] or e.input.device)
    with eval_mode(flat), torch.no_grad():
        try:
            outputs = list(iter_tensors(run_forward(flat, x, graph=False).output))
        except ModelError:
            return model
    expected = list(iter_tensors(e.output))
    matches = len(outputs) == len(expected) and all(
        a.shape[1:] == b.shape[1:] and torch.allclose(a.cpu(), b[:1], rtol=1e-2, atol=1e-6)
        for a, b in zip(outputs, expected, strict=True)
    )
    return flat if matches else model


def _mean_interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean of the defined values and its 95 % interval over samples; NaN bounds for fewer than five samples."""
    defined = values[~np.isnan(values).all(1)]
    if not len(defined):
        return (float("nan"),) * 3
    mean = float(np.nanmean(defined))
    if len(defined) < MIN_INPUTS:
        return mean, float("nan"), float("nan")
    return tuple(jackknife_interval(partial(_nan_mean, defined), len(defined), 1, confidence=0.95))  # type: ignore[return-value]


def _nan_mean(values: np.ndarray, i: np.ndarray, _draws: np.ndarray) -> float:
    return float(np.nanmean(values[i]))


def compare(model: Any, x: Any, methods: Sequence[Any], **options: Any) -> Comparison:
    """Explain the same inputs with several methods and compute the rank correlation of their absolute maps.

    Agreement does not show that the maps are correct: methods may share an error.

    Args:
        model: a network, or a wrapped one.
        x: one batch, or any source that the model's `prepare` accepts.
        methods: at least two, as for `seewhy.explain`.
        **options: of `seewhy.explain`.

    Raises:
        OptionError: fewer than two methods, several batches, or maps of different sizes.
    """
    if isinstance(methods, str) or len(methods) < 2:
        raise OptionError(f"methods={methods!r}: at least two methods are required.")
    if isinstance(x, (list, tuple)) and any(isinstance(one, torch.Tensor) for one in x):
        raise OptionError(f"x is a list of {len(x)} tensors; compare requires one batch, such as torch.stack(x).")
    if is_batch_iterable(x):
        raise OptionError("x is a data set; compare requires one batch. Call it in a loop over the data set.")
    explanations = list(explain(model, x, list(methods), **options))
    if len({e.maps.shape for e in explanations}) > 1:
        raise OptionError(
            "the maps have different sizes with upsample='none' and cannot be compared; choose another upsample."
        )
    ranks = [normalized_ranks(e.maps.abs().flatten(2)) for e in explanations]  # [N, K, P]
    agreement = np.array([
        [_mean_interval((a * b).sum(2).masked_fill(_is_constant(a) | _is_constant(b), torch.nan).numpy())
         for b in ranks] for a in ranks
    ])  # fmt: skip
    names = unique_names([e.method for e in explanations])
    return Comparison(
        tuple(explanations), tuple(names), agreement, tuple(e.call for e in explanations if e.call is not None)
    )


def _is_constant(ranks: torch.Tensor) -> torch.Tensor:
    return (ranks == 0).all(2)
