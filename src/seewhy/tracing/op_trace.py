"""Op traces: the torch operations a network executes for one sample, to be analyzed and executed again for others.

The operations are recorded below autograd (`TorchDispatchMode`). Control flow, functions, operators and modules that
are used several times therefore need no special treatment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import resolve_name
from torch.utils._python_dispatch import TorchDispatchMode

from seewhy.models.function_observer import FunctionObserver

# Functions that pass values of a tensor out of torch; the dispatcher does not see them, and the values may come back
# as a constant.
EXPORTING_FUNCTIONS = {
    "numpy", "__array__", "tolist", "data_ptr", "untyped_storage", "__dlpack__", "apply_", "map_", "set_",
}  # fmt: skip
UNINITIALIZED_OPS = (
    "aten::empty", "aten::new_empty", "aten::empty_like", "aten::empty_strided", "aten::new_empty_strided",
)  # fmt: skip


class TraceError(Exception):
    """The network cannot be traced, or its trace cannot be executed; the message is the reason, a clause.

    It does not leave the package: callers return or report the reason and use the network itself.
    """


class _AliasedWriteError(TraceError):
    """A tensor was changed in place while another view of it is still used."""


class ValueRef(NamedTuple):
    """Reference to a value that depends on the input; it replaces the tensor in the arguments of an op."""

    value_id: int


class Op(NamedTuple):
    """One executed operation.

    Attributes:
        function: the torch operator, or a Python function that replaces several operators.
        args, kwargs: its arguments; a `ValueRef` for each tensor that depends on the input.
        outputs: ids of the values it returned; None for an output that is not a tensor.
        single_output: whether it returned one tensor and not a tuple.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[int | None, ...]
    single_output: bool

    @property
    def name(self) -> str:
        """Operator name such as "aten::relu", without the trailing underscore of in-place operators."""
        schema = getattr(self.function, "_schema", None)
        return self.function.__name__ if schema is None else str(schema.name).removesuffix("_")

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments by name, defaults included."""
        schema = getattr(self.function, "_schema", None)
        if schema is None:
            return dict(self.kwargs)
        named = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
        return named | dict(zip((a.name for a in schema.arguments), self.args, strict=False)) | self.kwargs

    def inputs(self) -> list[int]:
        """Ids of the values among the arguments, in order; an id may occur several times."""
        return [a.value_id for a in _leaves((self.args, self.kwargs)) if isinstance(a, ValueRef)]


@dataclass(frozen=True)
class OpTrace:
    """The ops that lead from one sample (the reference sample) to the network's output; unused ops are removed.

    Attributes:
        ops: in the order of execution.
        input_id, output_id: ids of the input and of the output value.
        shapes: shape of every value.
        saved_values: the values of the reference sample, except those that were changed in place afterwards.
        constants: tensors used that do not depend on the input (mostly weights), each with its version counter.
    """

    ops: tuple[Op, ...]
    input_id: int
    output_id: int
    shapes: Mapping[int, tuple[int, ...]]
    saved_values: dict[int, Tensor]
    constants: tuple[tuple[Tensor, int], ...]

    def reference_value(self, value_id: int) -> Tensor:
        """The value for the reference sample; recomputed where it was overwritten."""
        if value_id not in self.saved_values:
            op = next(o for o in self.ops if value_id in o.outputs)
            store_outputs(op, execute_op(op, self.reference_value), self.saved_values)
        return self.saved_values[value_id]

    def users(self) -> dict[int, list[Op]]:
        """For each value the ops that use it."""
        users: dict[int, list[Op]] = {value_id: [] for value_id in self.shapes}
        for op in self.ops:
            for value_id in op.inputs():
                users[value_id].append(op)
        return users

    def weights_unchanged(self) -> bool:
        """Whether every constant still has the version counter it had during tracing."""
        return all(tensor._version == version for tensor, version in self.constants)


def trace_ops(function: Callable[[Tensor], Any], x: Tensor) -> OpTrace:
    """Run a function once on one sample and record its ops, without an autograd graph.

    Args:
        function: from a batch [N, ...] to one tensor.
        x: [1, ...] the reference sample.

    Raises:
        TraceError: an operation cannot be recorded or repeated; the message names it.
    """
    with torch.no_grad():
        try:
            return _trace_once(function, x)
        except _AliasedWriteError:  # functionalization tracks views, at some cost
            return _trace_once(torch.func.functionalize(function), x)


def _trace_once(function: Callable[[Tensor], Any], x: Tensor) -> OpTrace:
    recorder = _OpRecorder(x)
    with FunctionObserver(_refuse_export), recorder:
        output = function(x)
    output_id = recorder.value_id(output) if isinstance(output, Tensor) else None
    if output_id is None:
        problem = (
            "does not depend on the input"
            if isinstance(output, Tensor)
            else f"is a {type(output).__name__}, not a tensor"
        )
        raise TraceError(f"the network's output {problem}")
    ops = _ops_before(recorder.ops, output_id)
    live = {0, output_id} | {v for op in ops for v in op.outputs if v is not None}
    shapes = {v: shape for v, shape in recorder.shapes.items() if v in live}
    constants = {id(c): c for op in ops for c in _leaves((op.args, op.kwargs)) if isinstance(c, Tensor)}
    return OpTrace(
        ops, 0, output_id, shapes, {v: tensor for v, tensor in recorder.saved_values.items() if v in live},
        tuple((c, c._version) for c in constants.values()),
    )  # fmt: skip


def execute_op(op: Op, value_of: Callable[[int], Any]) -> Any:
    """Execute an op on other values; `value_of` returns the value for an id."""

    def with_values(a: Any) -> Any:
        if isinstance(a, ValueRef):
            return value_of(a.value_id)
        return type(a)(map(with_values, a)) if type(a) in {list, tuple} else a

    return op.function(*map(with_values, op.args), **{k: with_values(a) for k, a in op.kwargs.items()})


def store_outputs(op: Op, output: Any, values: dict[int, Any]) -> None:
    """Store the output of an op in `values`, by value id."""
    for value_id, tensor in zip(op.outputs, (output,) if op.single_output else output, strict=True):
        if value_id is not None:
            values[value_id] = tensor


def last_uses(ops: tuple[Op, ...], keep: set[int]) -> list[list[int]]:
    """For each op the ids of the values that no later op uses and that are not in `keep`."""
    used, result = set(keep), []
    for op in reversed(ops):
        freed = {v for v in (*op.inputs(), *op.outputs) if v is not None} - used
        used |= freed
        result.append(sorted(freed))
    return result[::-1]


def replace_ops(trace: OpTrace, replacements: Mapping[int, Op | None]) -> OpTrace:
    """The trace with some ops, given by their index, replaced or (None) removed."""
    ops = (replacements.get(i, op) for i, op in enumerate(trace.ops))
    return replace(trace, ops=tuple(op for op in ops if op is not None))


def _ops_before(ops: list[Op], output_id: int) -> tuple[Op, ...]:
    """The ops that the output depends on (dead code elimination)."""
    needed, result = {output_id}, []
    for op in reversed(ops):
        if needed.intersection(op.outputs):
            needed.update(op.inputs())
            result.append(op)
    return tuple(reversed(result))


def _leaves(tree: Any) -> Iterator[Any]:
    if isinstance(tree, ValueRef) or not isinstance(tree, (tuple, list, dict)):
        yield tree
    else:
        for part in tree.values() if isinstance(tree, dict) else tree:
            yield from _leaves(part)


def _refuse_export(func: Any, _name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a torch function, unless it passes values of a tensor out of torch (`TraceError`)."""
    name = getattr(func, "__name__", "")
    if name in EXPORTING_FUNCTIONS:
        raise TraceError(f"the network passes tensor values out of torch through {resolve_name(func) or name}")
    return func(*args, **kwargs)


class _OpRecorder(TorchDispatchMode):
    """Records every operation that depends on the input."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ops: list[Op] = []
        self.saved_values: dict[int, Tensor] = {}
        self.shapes: dict[int, tuple[int, ...]] = {}
        self._value_ids: dict[int, int] = {}  # id(tensor) -> value id; the tensor is kept alive
        self._keep_alive: list[Tensor] = []
        self._aliases: dict[int, set[int]] = {}  # storage -> id(tensor) of each dependent tensor in it
        self._stale: set[int] = set()  # id(tensor) of tensors overwritten through another view
        self._uninitialized: set[int] = set()  # storages allocated without initial values
        self._used_constants: set[int] = set()  # storages of constants that an op has used
        self.saved_values[self._register_value(x)] = x.clone()  # the only value that cannot be recomputed

    def value_id(self, tensor: Tensor) -> int | None:
        """Id of the value that a tensor holds now; None for a constant."""
        if id(tensor) in self._stale:
            raise _AliasedWriteError("the network changes a tensor in place through one view and reads another view")
        value_id = self._value_ids.get(id(tensor))
        if value_id is None and _storage_id(tensor) in self._aliases:
            raise TraceError("the network creates tensors that share memory in a way torch does not report")
        if value_id is None and _storage_id(tensor) in self._uninitialized:
            raise TraceError("the network reads memory that was initialized by an unrecorded operation")
        return value_id

    def _register_value(self, tensor: Tensor) -> int:
        value_id = len(self.shapes)
        self.shapes[value_id] = tuple(tensor.shape)
        self.saved_values[value_id] = tensor
        self._keep_alive.append(tensor)
        self._value_ids[id(tensor)] = value_id
        self._aliases.setdefault(_storage_id(tensor), set()).add(id(tensor))
        return value_id

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Hook that torch calls instead of `func`."""
        kwargs = kwargs or {}
        schema = func._schema
        written = [a for a, s in zip(args, schema.arguments, strict=False) if s.alias_info and s.alias_info.is_write]
        written_names = {s.name for s in schema.arguments if s.alias_info and s.alias_info.is_write}
        if not written and not written_names & kwargs.keys():
            return self._run_out_of_place(func, args, kwargs)
        if len(written) != 1 or written_names & kwargs.keys() or not isinstance(written[0], Tensor):
            return self._run_unsupported(func, args, kwargs)
        return self._run_in_place(func, args, kwargs)

    def _run_out_of_place(self, func: Any, args: Any, kwargs: Any) -> Any:
        arguments, depends = self._with_value_refs((args, kwargs))
        _reject_random_op(func, args, kwargs)
        if depends and func is torch.ops.aten._local_scalar_dense.default:
            raise TraceError("the network depends on computed values (it converts a tensor to a Python number)")
        output = func(*args, **kwargs)
        if depends:
            self._append_op(func, arguments, output)
        elif func._schema.name in UNINITIALIZED_OPS:
            self._uninitialized.add(_storage_id(output))
            self._keep_alive.append(output)
        return output

    def _run_in_place(self, func: Any, args: Any, kwargs: Any) -> Any:
        target = args[0]
        if func is torch.ops.aten.as_strided_.default:
            return self._run_as_strided(func, args, kwargs)
        _reject_random_op(func, args, kwargs)
        arguments, depends = self._with_value_refs((args, kwargs), overwrites_first=True)
        if not depends:
            if _storage_id(target) in self._used_constants:
                raise TraceError(
                    f"the network changes a constant in place after an operation used it ({func._schema.name})"
                )
            self._uninitialized.discard(_storage_id(target))
            return func(*args, **kwargs)
        if self._value_ids.get(id(target)) is None:
            raise _AliasedWriteError(f"the network writes computed values into a constant tensor ({func._schema.name})")
        out_of_place = _out_of_place_variant(func)
        if out_of_place is None:
            raise _AliasedWriteError(f"{func._schema.name} changes a tensor in place and has no out-of-place variant")
        old_id = self._value_ids[id(target)]
        shape = tuple(target.shape)
        multiple_tensors = sum(isinstance(a, Tensor) for a in _leaves((args, kwargs))) > 1
        if multiple_tensors and old_id:  # other values may have to be recomputed from the old value
            self.saved_values[old_id] = target.clone()
        output = func(*args, **kwargs)
        if output is not target or tuple(target.shape) != shape:
            raise TraceError(f"{func._schema.name} changes a tensor in an unsupported way")
        if not multiple_tensors and old_id:
            self.saved_values.pop(old_id, None)
        self._stale |= self._aliases[_storage_id(target)] - {id(target)}
        for other in self._stale:  # tensors in the same memory were overwritten as well
            if self._value_ids[other]:
                self.saved_values.pop(self._value_ids[other], None)
        self._append_op(out_of_place, arguments, target)
        return output

    def _run_as_strided(self, func: Any, args: Any, kwargs: Any) -> Any:
        target, size, strides, *_ = args
        same = all(n == m and (n == 1 or a == b) for n, m, a, b in zip(
            target.shape, size, target.stride(), strides, strict=False))  # fmt: skip
        if not same or len(size) != target.ndim:
            return self._run_unsupported(func, args, kwargs)
        return func(*args, **kwargs)

    def _run_unsupported(self, func: Any, args: Any, kwargs: Any) -> Any:
        _, depends = self._with_value_refs((args, kwargs))
        if depends:
            raise TraceError(f"{func._schema.name} changes tensors in an unsupported way")
        return func(*args, **kwargs)

    def _with_value_refs(self, tree: Any, overwrites_first: bool = False) -> tuple[Any, bool]:
        """The arguments with a `ValueRef` for each tensor that depends on the input, and whether there is one.

        `overwrites_first`: the op overwrites its first argument, which may therefore be uninitialized.
        """
        depends = False

        def convert(a: Any) -> Any:
            nonlocal depends
            if isinstance(a, Tensor):
                if overwrites_first and a is tree[0][0] and _storage_id(a) in self._uninitialized:
                    return a
                value_id = self.value_id(a)
                depends |= value_id is not None
                return a if value_id is None else ValueRef(value_id)
            if isinstance(a, dict):
                return {k: convert(v) for k, v in a.items()}
            return type(a)(map(convert, a)) if type(a) in {list, tuple} else a

        return convert(tree), depends

    def _append_op(self, func: Any, arguments: Any, output: Any) -> None:
        args, kwargs = arguments
        for constant in _leaves(arguments):
            if isinstance(constant, Tensor):
                self._used_constants.add(_storage_id(constant))
        single_output = isinstance(output, Tensor)
        tensors = (output,) if single_output else output
        if not isinstance(tensors, (tuple, list)):
            raise TraceError(f"{func._schema.name} returns a {type(output).__name__}, not tensors")
        output_ids = tuple(self._register_value(t) if isinstance(t, Tensor) else None for t in tensors)
        if func in {torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default}:
            func = torch.ops.aten.reshape.default  # other inputs may have another memory layout
        self.ops.append(Op(func, tuple(args), kwargs, output_ids, single_output))


def _reject_random_op(func: Any, args: Any, kwargs: Any) -> None:
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return
    named = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
    if "attention" not in func._schema.name or named.get("dropout_p"):
        raise TraceError(f"the network draws random numbers ({func._schema.name})")


def _out_of_place_variant(func: Any) -> Any:
    """The out-of-place operator that corresponds to an in-place operator; None where torch has none."""
    namespace, name = func._schema.name.split("::")
    packet = getattr(getattr(torch.ops, namespace), name.removesuffix("_"), None) if name.endswith("_") else None
    return getattr(packet, func._overloadname, None)


def _storage_id(tensor: Tensor) -> int:
    try:
        return int(tensor.untyped_storage()._cdata)
    except (RuntimeError, NotImplementedError):  # some tensor subclasses have no storage
        raise TraceError(f"the network uses tensors without storage ({type(tensor).__name__})") from None
