"""One cell of the matrix: one method on one network, and what must hold."""

from typing import NamedTuple

import torch

import seewhy
from seewhy import maps
from seewhy.engine.families import FAMILIES
from seewhy.testing import state, states_equal

OPTIONS = {name: {"samples": 2} for name in ("smoothgrad", "expected_gradients")}
OPTIONS["integrated_gradients"], OPTIONS["vargrad"] = {"steps": 2}, {"samples": 4}
OPTIONS |= {name: {"samples": 24, "segments": "grid", "features": 9} for name in ("lime", "kernel_shap")}
OPTIONS |= {"rise": {"samples": 12, "cells": 3}, "feature_ablation": {"segments": "grid", "features": 9}}
TARGETS = [0, 1, 3]


class Cell(NamedTuple):
    """What came of it: "right"; "empty": all maps are zero, and the notes say so; "refused" or "wrong", and why."""

    outcome: str
    detail: str = ""


def example_inputs(network):
    """Two inputs, signed."""
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(2, *network.shape, generator=draw, dtype=torch.float64)
    return x if network.double else x.float()


def warm_up(model, network):
    """One forward: what a network makes in its first call is no trace."""
    seewhy.explain(model, example_inputs(network), "centre", target=0)


def run_method(model, network, method):
    """The cell of a network, as `built` gives it, and a method."""
    x = example_inputs(network)
    module = model.module if isinstance(model, seewhy.Model) else model
    module = module if isinstance(module, torch.nn.Module) else None
    before, given = module and state(module), x.clone()
    options = {"target": TARGETS, "seed": 2, **OPTIONS.get(method, {})}
    try:
        e = seewhy.explain(model, x, method, **options)
        alone = seewhy.explain(model, x[1:], method, **options)
    except seewhy.OptionError as error:  # what is asked here is allowed
        return Cell("wrong", f"OptionError: {error}")
    except seewhy.SeewhyError as error:
        wrong = _side_effects(module, before, x, given)
        return Cell("wrong", wrong) if wrong else Cell("refused", str(error).replace("\n", " "))
    except Exception as error:  # noqa: BLE001 (whatever a network brings forth is shown)
        return Cell("wrong", f"{type(error).__name__}: {error}".replace("\n", " ")[:300])
    wrong = _violated_requirement(e, alone, x, model, method, network) or _side_effects(module, before, x, given)
    if wrong:
        return Cell("wrong", wrong)
    return Cell("right" if e.values.any() else "empty")


def _violated_requirement(e, alone, x, model, method, network):
    shape = tuple(e.input.shape)
    channels = 1 if seewhy.METHODS[method].reduce is maps.channel_sum else shape[1]
    if e.values.shape[:3] != (2, len(TARGETS), channels):
        return f"values are {list(e.values.shape)}"
    family = FAMILIES[seewhy.METHODS[method].family]
    if not (family.uses_layer or family.uses_attention) and e.values.shape[3:] != shape[2:]:
        return f"values are {list(e.values.shape)} for an input of {list(shape)}"
    if e.maps.shape != (2, len(TARGETS), *shape[2:]):
        return f"maps are {list(e.maps.shape)} for an input of {list(shape)}"
    if not e.values.isfinite().all() or not e.maps.isfinite().all():
        return "not finite"
    if not e.values.any() and sum("is constant" in note for note in e.notes) != 2 * len(TARGETS):
        return "zero everywhere, and no note"
    scale = max(float(e.values[1].abs().max()), float(e.scores.abs().max()) * (method in OPTIONS))
    gap = float((e.values[1] - alone.values[0]).abs().max())
    if gap > (1e-8 if network.double else 1e-3) * scale:
        return f"the map in a batch differs from the one alone by {gap:.2g} of {scale:.2g}"
    return ""


def _side_effects(module, before, x, given):
    if not torch.equal(x, given):
        return "the input was changed"
    if module is None:
        return ""
    after = state(module)
    left = [key for key in before if not states_equal(before[key], after[key])]
    return f"left a trace: {', '.join(left)}" if left else ""
