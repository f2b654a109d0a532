"""2. Who answers: `wrap` for what you have, `load` for what has a name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from seewhy.errors import ModelError, OptionError
from seewhy.types import Can, Card, Model

from . import keras3, onnx_graph
from .function import Session, first_output, tensors_or_arrays
from .zoo import load

__all__ = ["load", "wrap"]


def wrap(
    network: Any,
    *,
    labels: Sequence[str] | None = None,
    prepare: Card | Callable[[Any], torch.Tensor] | None = None,
    layout: str | None = None,
    forward: Callable[[Any, torch.Tensor], Any] | None = None,
) -> Model:
    """Say what is known about a network. The network itself is not touched; behind a compiled or
    parallel one the original is used.

    Args:
        network: a `torch.nn.Module`, a Keras 3 model (with gradients and layers where Keras runs on torch; a softmax
            at its end is left out, so that logits are explained), any callable tensor or array -> scores, or an ONNX
            Runtime session (gradients and layers by a conversion that is compared with it on every input; of several
            outputs the first). A `Model` comes back as it is.
        labels: names of the classes, in the order of the scores.
        prepare: a `Card`, or a function that turns whatever you have into a batch of inputs.
        layout: one letter an axis of the input: N the batch, C the channels, any others ("NHWC", "NTC"; "NF": features
            without channels). Default: N first, C second; of a Keras model its own.
        forward: how to call the network, `forward(network, x)`; for keyword arguments, say, or to pick
            one of several outputs. An ONNX Runtime session is called as torch modules are, in the order of its inputs
            or by their names, and gives a dictionary of its outputs:
            `lambda net, x: net(input=x, state=torch.zeros(2, len(x), 128))["output"]`.

    Raises:
        ModelError: it cannot be called, or is a Keras model without weights yet.
        OptionError: the layout is none, or the network is wrapped already.
    """
    if isinstance(network, Model):
        if any(v is not None for v in (labels, prepare, layout, forward)):
            raise OptionError("this network is wrapped already: give the options to the bare network.")
        return network
    if not callable(network) and not hasattr(network, "get_inputs"):
        raise ModelError(f"a {type(network).__name__} cannot be called: give a torch module or a function.")
    if layout is not None and (len(set(layout)) != len(layout) or "N" not in layout):
        raise OptionError(f"layout={layout!r}: one letter an axis, N among them, such as 'NHWC' or 'NTC'.")
    if keras3.is_layer(network):
        return _keras(network, labels, prepare, layout, forward)
    if isinstance(network, torch.nn.Module):
        network = _inside(network)
    module = network if isinstance(network, torch.nn.Module) else None
    name = getattr(network, "__name__", type(network).__name__)
    lacks, conversion, answer = "", None, forward
    if module is not None and _quantised(module):
        call, can, lacks = network, Can.SCORES, QUANTISED
    elif hasattr(network, "get_inputs") and hasattr(network, "run"):
        answer = first_output if forward is None else forward
        network, conversion = Session(network), onnx_graph.conversion(network, answer)
        call, can, lacks = network, Can.SCORES, "" if conversion else onnx_graph.HIDDEN
    elif module is None:
        call, can = tensors_or_arrays(network), Can.SCORES | Can.GRADIENTS
    else:
        call, can = network, Can.SCORES | Can.GRADIENTS | Can.LAYERS
    return Model(
        forward=call if answer is None else partial(answer, network),
        module=module,
        can=can,
        lacks=lacks,
        labels=None if labels is None else tuple(map(str, labels)),
        layout=layout,
        preparation=prepare,
        name=name,
        call=answer,
        conversion=conversion,
        batch_axes={} if answer is first_output else None,
    )


def _inside(network: torch.nn.Module) -> torch.nn.Module:
    """What torch.compile compiles, which can be looked into, and what is spread over devices: a map is of one."""
    while True:
        if isinstance(network, (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)):
            network = network.module
        elif hasattr(network, "_orig_mod"):
            network = network._orig_mod  # type: ignore[assignment]
        else:
            return network


def _quantised(network: torch.nn.Module) -> bool:
    return any(".quantized" in type(part).__module__ for part in network.modules())


QUANTISED = "it is quantised: whole numbers have no gradient; explain the network from before, or the scores alone"


def _keras(
    network: Any,
    labels: Sequence[str] | None,
    prepare: Card | Callable[[Any], torch.Tensor] | None,
    layout: str | None,
    forward: Callable[[Any, torch.Tensor], Any] | None,
) -> Model:
    keras3.check(network)
    known: dict[str, Any] = {
        "labels": None if labels is None else tuple(map(str, labels)),
        "layout": keras3.layout(network) if layout is None else layout,
        "preparation": prepare,
        "name": network.name,
    }
    if not isinstance(network, torch.nn.Module):
        call = keras3.answers(network) if forward is None else tensors_or_arrays(lambda x: forward(network, x))
        return Model(call, None, Can.SCORES, lacks=keras3.ELSEWHERE.format(backend=keras3.backend()), **known)

    def logits(model: Any, x: torch.Tensor) -> Any:
        return keras3.logits(model, x, forward)

    note = keras3.ending(network)
    return Model(
        forward=lambda x: logits(network, x),
        module=network,
        can=Can.SCORES | Can.GRADIENTS | Can.LAYERS,
        call=logits,
        notes=() if note is None else (note,),
        **known,
    )
