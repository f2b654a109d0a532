"""A test of a network, once per input size: do samples of a batch mix, and do two runs differ?"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary, ref

import numpy as np
import torch
from torch import Tensor, nn

from seewhy.errors import ModelError

from .forward import call_model, eval_mode, model_weights
from .network_cache import cached_per_network
from .outputs import iter_tensors

if TYPE_CHECKING:
    from seewhy.model import Model
    from seewhy.types import Inputs

SAMPLES_MIX = (
    "the score of a sample depends on the other samples of its batch, so every sample was run alone (for a recurrent "
    "layer, batch_first may be missing)"
)
RUNS_DIFFER = (
    "two runs of the network on the same input differ, because it draws random numbers (such as dropout that stays "
    "on): the map belongs to one draw"
)
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-5}  # allowed difference of outputs, as a fraction of the largest


class ProbeResult(NamedTuple):
    """What a probe found."""

    network_parts: list[ref[Any]]  # valid while these are the same objects: forward and modules
    weight_versions: int
    samples_mix: bool
    runs_differ: bool


_probes: WeakKeyDictionary[nn.Module, dict[Any, ProbeResult]] = WeakKeyDictionary()


def with_probe(model: Model, x: Inputs) -> Model:
    """Return the model with notes if its samples mix or its runs differ; mixing samples are run one by one.

    The result is remembered per network and input size, until a weight or module changes.

    Args:
        model: the model.
        x: the batch; the first sample is run twice, each time between other ones.
    """
    if model.module is None or model.max_batch == 1:
        return model
    found = cached_per_network(_probes, _probe, model, x, None)
    if found.weight_versions != _weight_versions(model):
        _probes.pop(model.module)
        found = cached_per_network(_probes, _probe, model, x, None)
    if found.samples_mix:
        return replace(model, max_batch=1, notes=(*model.notes, SAMPLES_MIX))
    return replace(model, notes=(*model.notes, RUNS_DIFFER)) if found.runs_differ else model


def _probe(model: Model, x: Inputs, _reduction_layer: str | None) -> ProbeResult:
    sample, versions = x[:1], _weight_versions(model)
    neighbors = (sample.roll(1, -1), sample.flip(-1) if not sample.is_floating_point() else 0.1 - sample / 2)
    try:
        with eval_mode(model), torch.no_grad(), _random_state_restored():
            first, second = (_middle_output(model, sample, neighbor) for neighbor in neighbors)
            if _equal(first, second):
                return ProbeResult([], versions, False, False)
            again = _middle_output(model, sample, neighbors[1])
            return ProbeResult([], versions, _equal(second, again), not _equal(second, again))
    except ModelError:  # a fixed batch size, for example; the pass that computes the scores reports an error
        return ProbeResult([], versions, False, False)


def _middle_output(model: Model, sample: Tensor, neighbor: Tensor) -> list[Tensor]:
    """The output for `sample` in a batch between two others, since samples may depend on earlier or later ones only."""
    output = call_model(model, torch.cat([neighbor, sample, neighbor]))
    return [t[1:2].detach() for t in iter_tensors(output) if t.ndim and len(t) == 3 and t.is_floating_point()]


def _equal(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(
        bool((a - b).abs().amax() <= TOLERANCES.get(a.dtype, 1e-2) * a.abs().amax())
        for a, b in zip(first, second, strict=True)
        if a.numel()
    )


def _weight_versions(model: Model) -> int:
    return sum(0 if weight.is_inference() else weight._version for weight in model_weights(model))


@contextmanager
def _random_state_restored() -> Iterator[None]:
    """Restore the state of the global random generators of torch, numpy and Python at the end."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)
