"""Conversion of an ONNX graph to a torch module, for gradients and layers.

The packages that convert are imported only when a conversion is requested, since outputs do not need them. On every
input the module is compared with ONNX Runtime, see `seewhy.tracing.onnx_verification`.
"""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from seewhy.errors import ModelError
from seewhy.models.files import first_line

from .operators import replacement
from .session import named_inputs

DTYPE_OF_ELEMENT_TYPE = {
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32, 7: torch.int64, 9: torch.bool,
    10: torch.float16, 11: torch.float64,
}  # fmt: skip # of TensorProto.DataType
CONVERTER_PACKAGES = ("onnx", "onnxscript.optimizer", "onnx2pytorch")
STANDARD_DOMAINS = ("", "ai.onnx")
GRAPH_NOT_AVAILABLE = (
    "the session does not provide the graph that it runs; with seewhy.load('onnx:FILE'), gradients and layers are "
    "available"
)
RUN_HAS_NO_GRADIENT = (
    "the function passed as forward= calls the session's run(), which has no gradient: call the network itself, "
    "network(x), which returns its outputs by name"
)


class ConvertedNetwork(NamedTuple):
    """A converted network.

    Attributes:
        module: the torch module.
        call: (the module or a copy of it, input) -> output, with the calling convention of the session.
        dtype: type of the input.
        converter: name and version of the converting package.
        forward_cache: forward functions that were created for the module. They are reused, since knowledge about the
            network's layers is cached per forward function.
    """

    module: nn.Module
    call: Callable[[Any, Any], Any]
    dtype: torch.dtype
    converter: str
    forward_cache: dict[Any, Callable[[Tensor], Any]]


class ConvertedSession:
    """A converted graph with the call interface of `Session`: inputs in order or by name, all outputs by name."""

    def __init__(self, module: Any) -> None:
        self.module = module
        dtypes = {
            i.name: DTYPE_OF_ELEMENT_TYPE.get(i.type.tensor_type.elem_type) for i in module.onnx_model.graph.input
        }
        self.dtypes = {name: dtypes[name] for name in module.input_names}

    def __call__(self, /, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Return the outputs by name."""
        output = self.module(*named_inputs(self.dtypes, args, kwargs).values())
        outputs = output if isinstance(output, (list, tuple)) else [output]
        return dict(zip(self.module.output_names, outputs, strict=True))

    def run(self, *_args: Any) -> None:
        """Refuse the call, which only an ONNX Runtime session supports.

        Raises:
            ModelError: always.
        """
        raise ModelError(RUN_HAS_NO_GRADIENT)


def lazy_conversion(
    session: Any, call_network: Callable[[Any, Any], Any]
) -> Callable[[], ConvertedNetwork | str] | None:
    """Return a function that converts the graph of an ONNX Runtime session on its first call.

    Args:
        session: the ONNX Runtime session.
        call_network: (an object with the call interface of `Session`, input) -> the output that is explained.

    Returns:
        A function that returns the converted network, or the reason why there is none; None if the session does not
        provide its graph.
    """
    file, data = getattr(session, "_model_path", None), getattr(session, "_model_bytes", None)
    if not file and not data:
        return None
    source: Any = data or Path(str(file)).resolve()  # the working directory may change before the file is read
    lock, results = threading.Lock(), list[ConvertedNetwork | str]()

    def convert() -> ConvertedNetwork | str:
        with lock:
            if not results:
                results.append(_convert(source, call_network))
            return results[0]

    return convert


def with_changed_call(
    conversion: Callable[[], ConvertedNetwork | str] | None,
    change: Callable[[Callable[[Any, Any], Any]], Callable[[Any, Any], Any]],
) -> Callable[[], ConvertedNetwork | str] | None:
    """Return the same conversion with `call` replaced by `change(call)`; None stays None."""
    if conversion is None:
        return None
    original = conversion

    def changed() -> ConvertedNetwork | str:
        network = original()
        return network if isinstance(network, str) else network._replace(call=change(network.call), forward_cache={})

    return changed


def data_outside_folder(onnx: Any, graph: Any, folder: Path) -> str | None:
    """Return the first external data file of a graph that lies outside `folder`, or None; links are resolved."""
    for tensor in onnx.external_data_helper._get_all_tensors(graph):
        for entry in tensor.external_data:
            if entry.key == "location" and not (folder / entry.value).resolve().is_relative_to(folder.resolve()):
                location: str = entry.value
                return location
    return None


def _convert(source: Path | bytes, call_network: Callable[[Any, Any], Any]) -> ConvertedNetwork | str:
    try:
        onnx, optimizer, converter = map(import_module, CONVERTER_PACKAGES)
    except ImportError as error:
        return f"gradients and layers need a conversion, and {error.name} is not installed: pip install 'seewhy[onnx]'"
    try:
        if isinstance(source, bytes):
            model = onnx.load_from_string(source)
        else:
            location = data_outside_folder(onnx, onnx.load(source, load_external_data=False), source.parent)
            if location is not None:
                return f"the graph refers to data outside its folder ({location}), which is not allowed"
            model = onnx.load(source)
    except Exception as error:  # noqa: BLE001 (the file may have changed, or have another format)
        return f"the graph cannot be read ({_summary(error)})"
    try:
        model = optimizer.optimize(model)
    except Exception:  # noqa: BLE001 (the optimizer only simplifies the graph)
        model = onnx.ModelProto.FromString(model.SerializeToString())
    custom = next((n for n in model.graph.node if n.domain not in STANDARD_DOMAINS), None)
    if custom is not None:
        return f"the operator {custom.domain}::{custom.op_type} (node {custom.name!r}) cannot be converted to torch"
    for entry in [entry for entry in model.opset_import if entry.domain not in STANDARD_DOMAINS]:
        model.opset_import.remove(entry)  # no node uses it
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the converter warns of differences, which are measured later
            net = converter.ConvertModel(copy, batch_dim=0)
        _rename_layers(net)
    except Exception as error:  # noqa: BLE001 (the converter raises many types of errors)
        return f"the operator {_unconvertible_operator(model)} cannot be converted to torch ({_summary(error)})"
    del copy.graph.initializer[:]  # the module has its own copy of them
    net.eval().requires_grad_(False)
    constants = {tensor.name for tensor in model.graph.initializer}
    first_input = next((i for i in model.graph.input if i.name not in constants), None)
    element_type = 1 if first_input is None else first_input.type.tensor_type.elem_type
    dtype = DTYPE_OF_ELEMENT_TYPE.get(element_type, torch.float32)
    dtype = dtype if dtype.is_floating_point else torch.float32  # the input that is explained holds floats

    def call(module: Any, x: Any) -> Any:
        return call_network(ConvertedSession(module), x)

    return ConvertedNetwork(net, call, dtype, f"onnx2pytorch {version('onnx2pytorch')}", {})


def _rename_layers(net: Any) -> None:
    """Name the layers after the nodes of the graph, with "_" for characters that a layer name cannot contain."""
    for number, node in enumerate(net.onnx_model.graph.node):
        old_name = net.mapping[node.output[0]]
        layer = replacement(getattr(net, old_name), node)
        if isinstance(layer, nn.Module):
            name = re.sub(r"[^\w-]+", "_", node.name or f"{node.op_type}_{node.output[0]}").strip("_")
            delattr(net, old_name)
            if not name or hasattr(net, name):
                name = f"{name or node.op_type}_{number}"
            net.add_module(name, layer)
            net.mapping[node.output[0]] = name


def _unconvertible_operator(model: Any) -> str:
    """Describe the node at which the conversion fails."""
    operations = import_module("onnx2pytorch.convert.operations")
    convert_model = import_module("onnx2pytorch.convert.model")
    count = 0
    try:
        for _ in operations.convert_operations(model.graph, convert_model.get_opset_version(model), 0, False):
            count += 1
    except Exception:  # noqa: BLE001 (the error of the first attempt)
        return _describe_node(model.graph.node[count], model)
    return "graph"


def _describe_node(node: Any, model: Any) -> str:
    opset = next((entry.version for entry in model.opset_import if entry.domain == node.domain), "?")
    return f"{node.op_type} (node {node.name!r}, opset {opset})"


def _summary(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)[:200]}"


def failing_layer(module: nn.Module, forward: Callable[[], Any]) -> str:
    """Return the name of the layer of the module in which `forward()` fails; "" if it does not fail."""
    entered: list[str] = []
    hooks = [
        layer.register_forward_pre_hook(lambda _layer, _args, name=name: entered.append(name))
        for name, layer in module.named_children()
    ]
    try:
        with torch.no_grad():
            forward()
    except Exception:  # noqa: BLE001 (only the position matters)
        return entered[-1] if entered else ""
    finally:
        for hook in hooks:
            hook.remove()
    return ""
