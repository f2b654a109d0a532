"""Networks of several inputs: a map of each, with the others as they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from seewhy.errors import InputError, ModelError
from seewhy.models import wrap
from seewhy.models.onnx_graph import through
from seewhy.trace.outputs import join
from seewhy.types import Evaluations, Explanation

from .checks import is_one

if TYPE_CHECKING:
    from seewhy.types import Model

One = Callable[..., Any]


def explain_each(one: One, model: Any, x: Mapping[str, Any] | tuple[Any, ...], method: Any, **options: Any) -> Any:
    """What `explain` gives for each input of numbers, in the structure of the inputs; whole numbers are only held.

    Args:
        one: `explain`, of a network with one input.
        model: called as network(*inputs) or network(**inputs), an ONNX network in the order or by the names of its
            graph; with its own `forward`, as forward(network, inputs).
        x: the inputs, each with the batch first.
        method: one or several.
        **options: of `explain`.

    Raises:
        ModelError: a plain function, which is called with one input unless it is wrapped.
        InputError: they are no tensors, of unequal number, or none has a gradient or could be hidden.
    """
    model, inputs = wrap(model), {k: _tensor(k, v) for k, v in _named(x).items()}
    counts = {name: len(tensor) for name, tensor in inputs.items()}
    if len(set(counts.values())) != 1:
        raise InputError(f"inputs of {counts} samples: each needs the same number; {HOLD}.")
    if model.module is None and model.call is None:
        raise ModelError(f"{model.name} is a plain function: seewhy.wrap(f, forward=lambda f, inputs: f(*inputs)).")
    shown = [name for name, tensor in inputs.items() if tensor.is_floating_point()]
    if not shown:
        raise InputError(f"the inputs {list(inputs)} are whole numbers: explain what their embedding gives instead.")
    found = {}
    for name in shown:
        each = []
        for n in range(counts[name]):
            rows = {key: tensor[n : n + 1] for key, tensor in inputs.items()}
            asked = dict(options)
            if isinstance(asked["target"], Tensor) and asked["target"].ndim:
                asked["target"] = asked["target"][n : n + 1]
            each.append(one(_holding(model, rows, name, isinstance(x, tuple)), rows[name], method, **asked))
        found[name] = joined(each) if is_one(method) else [joined(list(same)) for same in zip(*each, strict=True)]
    return tuple(found[name] for name in shown) if isinstance(x, tuple) else found


def _named(x: Mapping[str, Any] | tuple[Any, ...]) -> dict[Any, Any]:
    return dict(x) if isinstance(x, Mapping) else dict(enumerate(x))


def _tensor(name: Any, given: Any) -> Tensor:
    found = given if isinstance(given, Tensor) else torch.as_tensor(given) if hasattr(given, "__array__") else None
    if found is None or found.ndim == 0:
        raise InputError(
            f"input {name!r} is a {type(given).__name__}: tensors with the batch first are needed; {HOLD}."
        )
    return found


HOLD = "what holds no samples is given in seewhy.wrap(network, forward=lambda net, x: net(x, it))"


def _holding(model: Model, rows: Mapping[Any, Tensor], free: Any, in_order: bool) -> Model:
    """The network as a function of one of its inputs, the others held at one sample."""

    def together(z: Tensor) -> Any:
        def held(t: Tensor) -> Tensor:
            t = t.to(z.device, z.dtype if t.is_floating_point() else t.dtype)
            return t.expand(len(z), *t.shape[1:])

        inputs = {name: z if name == free else held(t) for name, t in rows.items()}
        return tuple(inputs.values()) if in_order else inputs

    def call(network: Any, z: Tensor) -> Any:
        inputs = together(z)
        if model.module is None:
            return model.forward(inputs)
        if model.call is not None:
            return model.call(network, inputs)
        return network(*inputs) if in_order else network(**inputs)

    def held_in(ask: Callable[[Any, Any], Any]) -> Callable[[Any, Tensor], Any]:
        return lambda network, z: ask(network, together(z))

    return replace(
        model,
        forward=lambda z: call(model.module, z),
        call=None if model.module is None else call,
        conversion=through(model.conversion, held_in),
    )


def joined(parts: Sequence[Explanation]) -> Explanation:
    """Explanations of single samples as one of a batch."""
    first, together = parts[0], dict[str, Any]()
    for field in fields(Explanation):
        values = [getattr(part, field.name) for part in parts]
        if field.name == "output":
            together["output"] = join(values)
        elif isinstance(values[0], Tensor):
            together[field.name] = torch.cat(values)
        elif isinstance(values[0], Evaluations):
            together[field.name] = Evaluations(*map(sum, zip(*values, strict=True)))
    if first.labels is not None:
        together["labels"] = tuple(row for part in parts for row in part.labels or ())
    return replace(
        first,
        **together,
        extras={key: padded([part.extras[key] for part in parts]) for key in first.extras},
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
        seconds=sum(part.seconds for part in parts),
    )


def padded(parts: Sequence[Tensor]) -> Tensor:
    """The batches' parts as one; the last axis filled up with NaN where it is shorter (unequal numbers of segments)."""
    if len({p.shape[1:] for p in parts}) == 1:
        return torch.cat(list(parts))
    widest = max(p.shape[-1] for p in parts)
    return torch.cat([F.pad(p, (0, widest - p.shape[-1]), value=torch.nan) for p in parts])
