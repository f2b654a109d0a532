"""Plans for calls with several inputs: one map per input, with the other inputs unchanged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from seewhy.errors import InputError
from seewhy.results import Explanations
from seewhy.targets.parsing import split_target
from seewhy.tracing.multi_input import model_of_one_input, several_inputs

from .assembly import join_samples

if TYPE_CHECKING:
    from seewhy.model import Model
    from seewhy.results import Explanation


class InputItem(NamedTuple):
    """One batch that is explained on its own, with its model and target."""

    model: Model
    x: Any
    target: Any


class InputPlan(NamedTuple):
    """The batches that are explained one after the other, and how their results form the result of a call.

    Attributes:
        items: the batches.
        arrange: receives the explanations by method and batch, and whether a single method was requested. A batch
            without a suitable layer has the reason instead of an explanation.
        layers_optional: whether batches may lack a suitable layer.
    """

    items: list[InputItem]
    arrange: Callable[[list[list[Any]], bool], Any]
    layers_optional: bool = False


def plan_multi_input(model: Model, x: Mapping[str, Any] | tuple[Any, ...], target: Any) -> InputPlan:
    """Plan to explain each floating-point input in turn, sample by sample; whole numbers are held fixed.

    Args:
        model: the model, see `several_inputs`.
        x: the inputs.
        target: as for `seewhy.explain`.

    Returns:
        The plan; the results have the structure of `x`, with None for inputs without a map.

    Raises:
        InputError: all inputs are whole numbers.
    """
    inputs = several_inputs(model, x)
    if not inputs.varied:
        raise InputError(
            f"all inputs {list(inputs.tensors)} are whole numbers, which have no gradient: explain the output of their "
            "embedding instead."
        )
    items, targets = [], split_target(target, inputs.samples)
    for name in inputs.varied:
        for n in range(inputs.samples):
            sample = inputs.sample(n)
            one_input = model_of_one_input(model, sample, name, inputs.in_order)
            items.append(InputItem(one_input, sample[name], targets[n]))
    fixed = [name for name in inputs.tensors if name not in inputs.varied]
    notes = [f"input {name!r} holds whole numbers, so it has no map" for name in fixed]

    def arrange(by_method: list[list[Any]], single: bool) -> Any:
        joined = [_join_by_input(by_item, inputs.varied, inputs.samples, notes) for by_item in by_method]
        results = {name: joined[0][name] if single else _without_none(joined, name) for name in inputs.varied}
        in_place = {name: results.get(name) for name in inputs.tensors}
        return tuple(in_place.values()) if inputs.in_order else in_place

    return InputPlan(items, arrange, layers_optional=True)


def _join_by_input(by_item: list[Any], names: list[Any], count: int, notes: list[str]) -> dict[Any, Explanation | None]:
    """The explanation of each input for one method, or None; all of them have the reasons why others have none."""
    parts = {name: by_item[i * count : (i + 1) * count] for i, name in enumerate(names)}
    reasons = {name: next((p for p in part if isinstance(p, str)), None) for name, part in parts.items()}
    missing = [f"input {name!r} has no map: {reason}" for name, reason in reasons.items() if reason is not None]
    result: dict[Any, Explanation | None] = {}
    for name, part in parts.items():
        joined = None if reasons[name] is not None else join_samples(part)
        result[name] = joined and replace(joined, notes=(*joined.notes, *notes, *missing))
    return result


def _without_none(joined: list[dict[Any, Explanation | None]], name: Any) -> Explanations | None:
    """The explanations of one input by all methods; None if a method has none."""
    explanations = [by_name[name] for by_name in joined]
    return Explanations([e for e in explanations if e is not None]) if all(explanations) else None
