"""Models: `wrap` for a network in memory, `load` for a network by name or from a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from seewhy.errors import ModelError, OptionError
from seewhy.inputs.preprocessing import Preprocessing
from seewhy.model import Model
from seewhy.types import Capability

from . import keras
from .callables import accept_tensors_or_arrays
from .exported_programs import FIXED_BATCH, fixed_batch_size, in_fixed_batches
from .onnx import conversion as onnx_conversion
from .onnx.session import Session, first_output
from .torchscript import NO_LAYERS
from .zoo import load

__all__ = ["load", "wrap"]


def wrap(
    network: Any,
    *,
    labels: Sequence[str] | None = None,
    prepare: Preprocessing | Callable[[Any], torch.Tensor] | None = None,
    layout: str | Sequence[str] | Mapping[str, str] | None = None,
    output_layout: str | None = None,
    data_layout: str | None = None,
    forward: Callable[[Any, torch.Tensor], Any] | None = None,
) -> Model:
    """Wrap a network together with its labels, preprocessing, layout and calling convention.

    The network is not changed. For a compiled or parallel network the original module is used.

    Args:
        network: one of

            - a `torch.nn.Module`, or a program of `torch.export`; layers of TorchScript are not available;
            - a Keras 3 model; gradients and layers are available on the torch backend only;
            - a function from a tensor or numpy array to scores;
            - an ONNX Runtime session. Gradients and layers come from a conversion to torch, which is compared with the
              session on every input; of several outputs the first one is explained.
            - a `Model`, which is returned unchanged.
        labels: class names, in the order of the scores.
        prepare: a `Preprocessing`, or a function from any source to a batch of inputs.
        layout: one letter per axis of the input: N is the batch, C the channels, other letters are free ("NHWC", "NTC";
            "NF": features without channels). A list or dictionary for several inputs. Default: read from the network's
            operations, else N first, C second.
        output_layout: one letter per axis of the output, C the classes. Default: read from the network's operations.
        data_layout: one letter per axis of the data that is passed, if it differs from `layout`: "HWC", "CT", "TC",
            "SSCB" (S a position, B the batch). Data without N or B is one sample; it is permuted to `layout`.
        forward: how the network is called: `forward(network, x)`, for example with keyword arguments, or to select
            one of several outputs. An ONNX Runtime session is called like a torch module, with inputs in order or by
            name, and returns a dictionary of its outputs:
            `lambda net, x: net(input=x, state=torch.zeros(2, len(x), 128))["output"]`.

    Returns:
        The wrapped network.

    Raises:
        ModelError: the network cannot be called, or is a Keras model that has not been built.
        OptionError: the layout is not valid, or the network is wrapped already.
    """
    if isinstance(network, Model):
        if any(v is not None for v in (labels, prepare, layout, output_layout, data_layout, forward)):
            raise OptionError("the network is wrapped already: pass the options where the original network is wrapped.")
        return network
    if not callable(network) and not hasattr(network, "get_inputs"):
        raise ModelError(f"a {type(network).__name__} cannot be called: pass a torch module or a function.")
    input_layouts = None
    if layout is not None and not isinstance(layout, str):
        input_layouts = dict(layout) if isinstance(layout, Mapping) else dict(enumerate(layout))
        layout = None
    stated = [*(input_layouts or {}).values(), layout]
    for argument, value in (*(("layout", value) for value in stated), ("output_layout", output_layout)):
        if value is not None and (len(set(value)) != len(value) or "N" not in value):
            raise OptionError(
                f"{argument}={value!r} must have one letter per axis, N among them, such as 'NHWC' or 'NTC'."
            )
    if keras.is_layer(network):
        model = _wrap_keras(network, labels, prepare, layout, forward)
        return replace(model, output_layout=output_layout, data_layout=data_layout, input_layouts=input_layouts)
    if isinstance(network, torch.export.ExportedProgram):
        network = network.module()
    if isinstance(network, torch.nn.Module):
        network = _original_module(network)
    module = network if isinstance(network, torch.nn.Module) else None
    name = getattr(network, "__name__", type(network).__name__)
    lacks, conversion, call_network = "", None, forward
    if module is not None and _is_quantized(module):
        call, capabilities, lacks = network, Capability.SCORES, QUANTIZED
    elif isinstance(module, torch.jit.ScriptModule):
        call, capabilities, lacks = network, Capability.SCORES | Capability.GRADIENTS, NO_LAYERS
    elif hasattr(network, "get_inputs") and hasattr(network, "run"):
        call_network = first_output if forward is None else forward
        network, conversion = Session(network), onnx_conversion.lazy_conversion(network, call_network)
        call, capabilities, lacks = (
            network,
            Capability.SCORES,
            "" if conversion else onnx_conversion.GRAPH_NOT_AVAILABLE,
        )
    elif module is None:
        call, capabilities = accept_tensors_or_arrays(network), Capability.SCORES | Capability.GRADIENTS
    else:
        call, capabilities = network, Capability.SCORES | Capability.GRADIENTS | Capability.LAYERS
    call = call if call_network is None else partial(call_network, network)
    axis = (layout or "N").index("N")
    batch = fixed_batch_size(module, axis)
    if batch is not None:
        call = in_fixed_batches(call, batch, axis)
    if batch is not None and batch > 1:
        capabilities, lacks = capabilities & ~Capability.LAYERS, FIXED_BATCH.format(size=batch)
    return Model(
        forward=call,
        module=module,
        capabilities=capabilities,
        lacks=lacks,
        labels=None if labels is None else tuple(map(str, labels)),
        layout=layout,
        input_layouts=input_layouts,
        output_layout=output_layout,
        data_layout=data_layout,
        preparation=prepare,
        name=name,
        call=call_network,
        conversion=conversion,
        max_batch=batch,
        batch_axes={} if call_network is first_output else None,
    )


def _original_module(network: torch.nn.Module) -> torch.nn.Module:
    """Return the original module of a network that is compiled (torch.compile) or parallel (over devices)."""
    while True:
        if isinstance(network, (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)):
            network = network.module
        elif hasattr(network, "_orig_mod"):
            network = network._orig_mod  # type: ignore[assignment]
        else:
            return network


def _is_quantized(network: torch.nn.Module) -> bool:
    return any(".quantized" in type(part).__module__ for part in network.modules())


QUANTIZED = (
    "the network is quantized, and integers have no gradient: explain the network before quantization, or use a method "
    "that needs scores only"
)


def _wrap_keras(
    network: Any,
    labels: Sequence[str] | None,
    prepare: Preprocessing | Callable[[Any], torch.Tensor] | None,
    layout: str | None,
    forward: Callable[[Any, torch.Tensor], Any] | None,
) -> Model:
    keras.require_built(network)
    known: dict[str, Any] = {
        "labels": None if labels is None else tuple(map(str, labels)),
        "layout": keras.input_layout(network) if layout is None else layout,
        "preparation": prepare,
        "name": network.name,
    }
    if not isinstance(network, torch.nn.Module):
        function = (
            accept_tensors_or_arrays(lambda x: forward(network, x)) if forward else keras.tensor_function(network)
        )
        lacks = keras.NOT_ON_TORCH.format(backend=keras.backend_name())
        return Model(function, None, Capability.SCORES, lacks=lacks, **known)

    call = keras.call_in_inference_mode if forward is None else forward
    return Model(
        forward=partial(call, network),
        module=network,
        capabilities=Capability.SCORES | Capability.GRADIENTS | Capability.LAYERS,
        call=call,
        **known,
    )
