"""One cell of the matrix: run a method on a network and check the requirements."""

from typing import NamedTuple

import torch

import seewhy
from seewhy import maps
from seewhy.engine.families import FAMILIES
from seewhy.testing import state, states_equal

TARGETS = [0, 1, 3]


class Cell(NamedTuple):
    """Outcome of a method on a network.

    Attributes:
        outcome: "right"; "empty" (all maps are zero, and the notes state it); "refused"; or "wrong".
        detail: the error message, or the requirement that is violated.
    """

    outcome: str
    detail: str = ""


def example_inputs(network):
    """Two inputs of normally distributed values."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, *network.shape, generator=generator, dtype=torch.float64)
    return x if network.double else x.float()


def warm_up(model, network):
    """Run one forward pass, because a network may create state in its first call, which is not a side effect."""
    seewhy.explain(model, example_inputs(network), "centre", target=0)


def run_method(model, network, method):
    """Run a method on a model made by `build(network)`, and return the cell."""
    x = example_inputs(network)
    module = model.module if isinstance(model, seewhy.Model) else model
    module = module if isinstance(module, torch.nn.Module) else None
    before, original = module and state(module), x.clone()
    options = {"target": TARGETS, "seed": 2, **seewhy.METHODS[method].quick_options}
    try:
        e = seewhy.explain(model, x, method, **options)
        alone = seewhy.explain(model, x[1:], method, **options)
    except seewhy.OptionError as error:  # these options are valid for every method
        return Cell("wrong", f"OptionError: {error}")
    except seewhy.SeewhyError as error:
        violation = _side_effects(module, before, x, original)
        return Cell("wrong", violation) if violation else Cell("refused", str(error).replace("\n", " "))
    except Exception as error:  # noqa: BLE001 (any exception is recorded)
        return Cell("wrong", f"{type(error).__name__}: {error}".replace("\n", " ")[:300])
    violation = _violated_requirement(e, alone, x, model, method, network) or _side_effects(module, before, x, original)
    if violation:
        return Cell("wrong", violation)
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
        return "all values are zero, without a note"
    # in estimates from few samples, differences of scores nearly cancel; they are only as exact as the scores
    estimated = bool(seewhy.METHODS[method].quick_options)
    scale = max(float(e.values[1].abs().max()), float(e.scores.abs().max()) * estimated)
    difference = float((e.values[1] - alone.values[0]).abs().max())
    if difference > (1e-8 if network.double else 1e-3) * scale:
        return f"the map in a batch differs from that of the input alone by {difference:.2g} (scale {scale:.2g})"
    return ""


def _side_effects(module, before, x, original):
    if not torch.equal(x, original):
        return "the input was modified"
    if module is None:
        return ""
    after = state(module)
    changed = [key for key in before if not states_equal(before[key], after[key])]
    return f"side effects on {', '.join(changed)}" if changed else ""
