"""The graph of an ONNX network as a torch module, for gradients and layers.

What converts it is imported only here and only when asked, so that answers need none of it. Whether the module answers
as ONNX Runtime does is asked on every input, see `seewhy.trace.converted`.
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
from torch.nn import functional as F

from seewhy.errors import ModelError

from .function import by_name

KINDS = {
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32, 7: torch.int64, 9: torch.bool,
    10: torch.float16, 11: torch.float64,
}  # fmt: skip # of TensorProto.DataType
PACKAGES = ("onnx", "onnxscript.optimizer", "onnx2pytorch")
HIDDEN = "the session does not show the graph it runs; seewhy.load('onnx:FILE') gives gradients and layers too"
CALLED = (
    "the session is called as forward= says, by its run(), which has no gradient: forward may call the network itself, "
    "network(x), and gets its outputs by name"
)


class Converted(NamedTuple):
    """A module, and how it or a copy of it is called: as the session is."""

    module: nn.Module
    call: Callable[[Any, Any], Any]
    dtype: torch.dtype
    by: str
    forwards: dict[Any, Callable[[Tensor], Any]]  # ways to call it, kept: what is known of its layers holds for one


class Graph:
    """A graph as it was converted, called as a `Session` is: by order or by names, with all its outputs by name."""

    def __init__(self, module: Any) -> None:
        self.module = module
        kinds = {i.name: KINDS.get(i.type.tensor_type.elem_type) for i in module.onnx_model.graph.input}
        self.kinds = {name: kinds[name] for name in module.input_names}

    def __call__(self, /, *given: Any, **named: Any) -> dict[str, Tensor]:
        """Its outputs by name."""
        found = self.module(*by_name(self.kinds, given, named).values())
        return dict(zip(self.module.output_names, found if isinstance(found, (list, tuple)) else [found], strict=True))

    def run(self, *_given: Any) -> None:
        """What only the session can do.

        Raises:
            ModelError: always.
        """
        raise ModelError(CALLED)


def conversion(session: Any, answer: Callable[[Any, Any], Any]) -> Callable[[], Converted | str] | None:
    """What converts the graph of an ONNX Runtime session, once: a module, or why there is none.

    None if the session does not show its graph.

    Args:
        session: whose graph it is.
        answer: (what is called as the session is, the input) -> what is explained.
    """
    file, data = getattr(session, "_model_path", None), getattr(session, "_model_bytes", None)
    if not file and not data:
        return None
    source: Any = data or Path(str(file)).resolve()  # the folder may be another one by the time it is read
    lock, made = threading.Lock(), list[Converted | str]()

    def convert() -> Converted | str:
        with lock:
            if not made:
                made.append(_converted(source, answer))
            return made[0]

    return convert


def through(
    conversion: Callable[[], Converted | str] | None,
    change: Callable[[Callable[[Any, Any], Any]], Callable[[Any, Any], Any]],
) -> Callable[[], Converted | str] | None:
    """The same conversion, its module called in another way."""
    if conversion is None:
        return None
    before = conversion

    def changed() -> Converted | str:
        made = before()
        return made if isinstance(made, str) else made._replace(call=change(made.call), forwards={})

    return changed


def outside(onnx: Any, graph: Any, folder: Path) -> str | None:
    """The first of the files that a graph takes its data from which is not in its folder; links are followed."""
    for tensor in onnx.external_data_helper._get_all_tensors(graph):
        for entry in tensor.external_data:
            if entry.key == "location" and not (folder / entry.value).resolve().is_relative_to(folder.resolve()):
                found: str = entry.value
                return found
    return None


def _converted(source: Path | bytes, answer: Callable[[Any, Any], Any]) -> Converted | str:
    try:
        onnx, optimizer, converter = map(import_module, PACKAGES)
    except ImportError as error:
        return f"gradients and layers need a conversion, and {error.name} is not installed: pip install 'seewhy[onnx]'"
    try:
        if isinstance(source, bytes):
            model = onnx.load_from_string(source)
        else:
            asked = outside(onnx, onnx.load(source, load_external_data=False), source.parent)
            if asked is not None:
                return f"its graph asks for data outside its folder ({asked}), which is refused"
            model = onnx.load(source)
    except Exception as error:  # noqa: BLE001 (a file may have changed, or be of another format)
        return f"its graph cannot be read ({type(error).__name__}: {_line(error)})"
    try:
        model = optimizer.optimize(model)
    except Exception:  # noqa: BLE001 (it only makes the graph simpler)
        model = onnx.ModelProto.FromString(model.SerializeToString())
    alien = next((n for n in model.graph.node if n.domain not in ("", "ai.onnx")), None)
    if alien is not None:
        return f"the operator {alien.domain}::{alien.op_type} (node {alien.name!r}) cannot be converted to torch"
    for entry in [entry for entry in model.opset_import if entry.domain not in ("", "ai.onnx")]:
        model.opset_import.remove(entry)  # no node is of these
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what may differ: it is compared
            net = converter.ConvertModel(copy, batch_dim=0)
        _name(net)
    except Exception as error:  # noqa: BLE001 (what it cannot do it tells in many ways)
        return f"the operator {_refused(model)} cannot be converted to torch ({type(error).__name__}: {_line(error)})"
    del copy.graph.initializer[:]  # the module holds them
    net.eval().requires_grad_(False)
    known = {tensor.name for tensor in model.graph.initializer}
    entered = next((i for i in model.graph.input if i.name not in known), None)
    dtype = KINDS.get(entered.type.tensor_type.elem_type if entered is not None else 1, torch.float32)
    dtype = dtype if dtype.is_floating_point else torch.float32  # the input that is looked at is of numbers

    def call(module: Any, x: Any) -> Any:
        return answer(Graph(module), x)

    return Converted(net, call, dtype, f"onnx2pytorch {version('onnx2pytorch')}", {})


class Gather(nn.Module):
    """ONNX Gather: parts of one axis, by their numbers."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, data: Tensor, indices: Tensor) -> Tensor:
        """[*before, n, *after], [*m] -> [*before, *m, *after]."""
        return data[(slice(None),) * (self.axis % data.ndim) + (indices.long(),)]


class Slice(nn.Module):
    """ONNX Slice: from start to end by steps, along some axes."""

    def __init__(self, axes: Any = None, starts: Any = None, ends: Any = None, steps: Any = None) -> None:
        super().__init__()
        self.given = (starts, ends, axes, steps)

    def forward(self, data: Tensor, *asked: Any) -> Tensor:
        """The data, and what older opsets keep as attributes: starts, ends, axes, steps."""
        both = zip((*asked, None, None, None, None), self.given, strict=False)
        starts, ends, axes, steps = (_numbers(held if new is None else new) for new, held in both)
        assert starts is not None and ends is not None
        for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
            axis, step = (axes[i] % data.ndim if axes else i), steps[i] if steps else 1
            which = range(data.shape[axis])[slice(start, end, step)]  # ends may lie far outside
            if step > 0:
                data = data[(slice(None),) * axis + (slice(which.start, which.stop, step),)]
            else:  # torch walks forwards only
                back = torch.tensor(list(which), dtype=torch.long, device=data.device)
                data = data.index_select(axis, back)
        return data


class LayerNorm(nn.Module):
    """ONNX LayerNormalization, as the function that torch knows it by."""

    def __init__(self, axis: int, eps: float) -> None:
        super().__init__()
        self.axis, self.eps = axis, eps

    def forward(self, x: Tensor, scale: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """Mean 0 and variance 1 over all axes from `axis` on."""
        return F.layer_norm(x, x.shape[self.axis % x.ndim :], scale, bias, self.eps)


class Clip(nn.Module):
    """ONNX Clip, with numbers for bounds wherever they are constants, so that a ReLU6 is known for a rectifier."""

    def __init__(self, low: float | None, high: float | None) -> None:
        super().__init__()
        self.given = (low, high)

    def forward(self, x: Tensor, *asked: Tensor | None) -> Tensor:
        """What lies outside the bounds is moved there; either may be missing."""
        both = zip((*asked, None, None), self.given, strict=False)
        low, high = (_number(held if new is None else new) for new, held in both)
        return x if low is None and high is None else torch.clamp(x, low, high)


def _number(given: Any) -> Any:
    return given.item() if isinstance(given, Tensor) and given.numel() == 1 and not given.requires_grad else given


def _numbers(given: Any) -> list[int] | None:
    return given.flatten().tolist() if isinstance(given, Tensor) else [given] if isinstance(given, int) else given


def _ours(layer: Any, node: Any) -> Any:
    """A layer in place of one whose indexing torch is about to read otherwise, or that spells a function out."""
    if node.op_type == "Gather":
        return Gather(layer.dim)
    if node.op_type == "Slice":
        return Slice(layer.dim, layer.starts, layer.ends, layer.steps)
    if node.op_type == "Clip":
        return Clip(layer.min, layer.max)
    if node.op_type == "LayerNormalization" and len(node.output) == 1 and layer.stash_type == 1:
        return LayerNorm(layer.axis, layer.eps)
    return layer


def _name(net: Any) -> None:
    """Give the layers the names of the graph's nodes, with _ for what cannot stand in the name of a layer."""
    for number, node in enumerate(net.onnx_model.graph.node):
        old = net.mapping[node.output[0]]
        layer = _ours(getattr(net, old), node)
        if isinstance(layer, nn.Module):
            name = re.sub(r"[^\w-]+", "_", node.name or f"{node.op_type}_{node.output[0]}").strip("_")
            delattr(net, old)
            if not name or hasattr(net, name):
                name = f"{name or node.op_type}_{number}"
            net.add_module(name, layer)
            net.mapping[node.output[0]] = name


def _refused(model: Any) -> str:
    """The node that the conversion stops at."""
    operations = import_module("onnx2pytorch.convert.operations")
    names = import_module("onnx2pytorch.convert.model")
    done = 0
    try:
        for _ in operations.convert_operations(model.graph, names.get_opset_version(model), 0, False):
            done += 1
    except Exception:  # noqa: BLE001 (the one that was met before)
        return _operator(model.graph.node[done], model)
    return "graph"


def _operator(node: Any, model: Any) -> str:
    opset = next((entry.version for entry in model.opset_import if entry.domain == node.domain), "?")
    return f"{node.op_type} (node {node.name!r}, opset {opset})"


def _line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]


def where_stopped(module: nn.Module, ask: Callable[[], Any]) -> str:
    """The layer of the module in which what is asked stops; "" if it does not."""
    entered: list[str] = []
    hooks = [
        layer.register_forward_pre_hook(lambda _layer, _given, name=name: entered.append(name))
        for name, layer in module.named_children()
    ]
    try:
        with torch.no_grad():
            ask()
    except Exception:  # noqa: BLE001 (where, not what)
        return entered[-1] if entered else ""
    finally:
        for hook in hooks:
            hook.remove()
    return ""
