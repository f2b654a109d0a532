"""What a network did with one sample, operation by operation, to be looked at and done again for many.

What ran is recorded below autograd, so control flow, functions, operators and reused modules are all the same to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._python_dispatch import TorchDispatchMode

# Doors through which numbers leave torch unseen, and may come back as a constant.
DOORS = {"numpy", "__array__", "tolist", "data_ptr", "untyped_storage", "__dlpack__", "apply_", "map_", "set_"}
UNFILLED = ("aten::empty", "aten::new_empty", "aten::empty_like", "aten::empty_strided", "aten::new_empty_strided")


class Unrecorded(Exception):  # noqa: N818  never leaves the package: it carries a reason
    """The network does something that cannot be done again from a record."""


class _Aliased(Unrecorded):
    """A tensor was changed in place while another view of it was still read."""


class At(NamedTuple):
    """Stands in an argument for a value that depends on the input."""

    value: int


class Step(NamedTuple):
    """One operation: what it was called with, and the numbers of the values it gave (None: no tensor)."""

    call: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    gives: tuple[int | None, ...]
    single: bool  # whether it gave one tensor, and not a tuple of them

    @property
    def name(self) -> str:
        """Such as "aten::relu"; without the underscore of operations in place."""
        schema = getattr(self.call, "_schema", None)
        return self.call.__name__ if schema is None else str(schema.name).removesuffix("_")

    @property
    def given(self) -> dict[str, Any]:
        """Its arguments by name, defaults filled in."""
        schema = getattr(self.call, "_schema", None)
        if schema is None:
            return dict(self.kwargs)
        named = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
        return named | dict(zip((a.name for a in schema.arguments), self.args, strict=False)) | self.kwargs

    def reads(self) -> list[int]:
        """The values among its arguments, in order."""
        return [a.value for a in _flat((self.args, self.kwargs)) if isinstance(a, At)]


@dataclass(frozen=True)
class Tape:
    """All steps between one sample and the output, those that nothing hangs on left out.

    Attributes:
        steps: in the order they ran.
        source, result: the numbers of the input and of the output.
        shapes: of every value.
        kept: the values themselves, for this sample; not those that were changed in place afterwards.
        constants: tensors read that do not depend on the input, with their versions; weights above all.
    """

    steps: tuple[Step, ...]
    source: int
    result: int
    shapes: Mapping[int, tuple[int, ...]]
    kept: dict[int, Tensor]
    constants: tuple[tuple[Tensor, int], ...]

    def clean(self, value: int) -> Tensor:
        """A value for the recorded sample; computed again where it was overwritten."""
        if value not in self.kept:
            step = next(s for s in self.steps if value in s.gives)
            store(step, done(step, self.clean), self.kept)
        return self.kept[value]

    def users(self) -> dict[int, list[Step]]:
        """Value -> the steps that read it."""
        found: dict[int, list[Step]] = {value: [] for value in self.shapes}
        for step in self.steps:
            for value in step.reads():
                found[value].append(step)
        return found

    def unchanged(self) -> bool:
        """Whether every weight still has the version that was recorded."""
        return all(tensor._version == version for tensor, version in self.constants)


def record(call: Callable[[Tensor], Any], x: Tensor) -> Tape:
    """Run a network once on one sample [1, ...] and write down what it does. No graph is kept.

    Raises:
        Unrecorded: it cannot be done again from a record; the message says which operation is to blame.
    """
    with torch.no_grad():
        try:
            return _recorded(call, x)
        except _Aliased:  # torch can tell views apart, at some cost
            return _recorded(torch.func.functionalize(call), x)


def _recorded(call: Callable[[Tensor], Any], x: Tensor) -> Tape:
    recorder = _Recorder(x)
    with _Doors(), recorder:
        output = call(x)
    result = recorder.number(output) if isinstance(output, Tensor) else None
    if result is None:
        kind = "does not depend on the input" if isinstance(output, Tensor) else f"is a {type(output).__name__}"
        raise Unrecorded(f"its output {kind}")
    steps = _needed(recorder.steps, result)
    alive = {0, result} | {v for s in steps for v in s.gives if v is not None}
    shapes = {v: shape for v, shape in recorder.shapes.items() if v in alive}
    constants = {id(c): c for s in steps for c in _flat((s.args, s.kwargs)) if isinstance(c, Tensor)}
    return Tape(
        steps, 0, result, shapes, {v: t for v, t in recorder.kept.items() if v in alive},
        tuple((c, c._version) for c in constants.values()),
    )  # fmt: skip


def done(step: Step, value: Callable[[int], Any]) -> Any:
    """Do a step again, on other values."""

    def filled(a: Any) -> Any:
        if isinstance(a, At):
            return value(a.value)
        return type(a)(map(filled, a)) if type(a) in {list, tuple} else a

    return step.call(*map(filled, step.args), **{k: filled(a) for k, a in step.kwargs.items()})


def store(step: Step, output: Any, values: dict[int, Any]) -> None:
    """Keep what a step gave."""
    for number, tensor in zip(step.gives, (output,) if step.single else output, strict=True):
        if number is not None:
            values[number] = tensor


def last_reads(steps: tuple[Step, ...], keep: set[int]) -> list[list[int]]:
    """For each step the values that nothing reads after it."""
    seen, last = set(keep), []
    for step in reversed(steps):
        over = {v for v in (*step.reads(), *step.gives) if v is not None} - seen
        seen |= over
        last.append(sorted(over))
    return last[::-1]


def replay(tape: Tape, x: Tensor) -> Tensor:
    """The same steps on other samples [N, ...], each by itself; differentiable at `x`."""
    over = last_reads(tape.steps, {tape.result})

    def one(sample: Tensor) -> Tensor:
        values = {tape.source: sample}
        for step, gone in zip(tape.steps, over, strict=True):
            store(step, done(step, values.__getitem__), values)
            for value in gone:
                values.pop(value, None)
        return values[tape.result]

    output = torch.func.vmap(one, randomness="error")(x.unsqueeze(1))
    return output.squeeze(1)


def replaced(tape: Tape, changes: Mapping[int, Step | None]) -> Tape:
    """The tape with some steps, by their number, exchanged or taken out."""
    steps = (changes.get(i, step) for i, step in enumerate(tape.steps))
    return replace(tape, steps=tuple(s for s in steps if s is not None))


def _needed(steps: list[Step], result: int) -> tuple[Step, ...]:
    """Those that the result hangs on."""
    wanted, kept = {result}, []
    for step in reversed(steps):
        if wanted.intersection(step.gives):
            wanted.update(step.reads())
            kept.append(step)
    return tuple(reversed(kept))


def _flat(tree: Any) -> Iterator[Any]:
    if isinstance(tree, At) or not isinstance(tree, (tuple, list, dict)):
        yield tree
    else:
        for part in tree.values() if isinstance(tree, dict) else tree:
            yield from _flat(part)


class _Doors(TorchFunctionMode):
    """Refuses to let numbers out of torch."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called by torch in place of `func`."""
        name = getattr(func, "__name__", "")
        if name in DOORS:
            raise Unrecorded(f"its numbers leave torch through {resolve_name(func) or name}")
        return func(*args, **(kwargs or {}))


class _Recorder(TorchDispatchMode):
    """Writes down every operation that depends on the input."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.steps: list[Step] = []
        self.kept: dict[int, Tensor] = {}
        self.shapes: dict[int, tuple[int, ...]] = {}
        self._numbers: dict[int, int] = {}  # id of a tensor -> its value, while it is held
        self._held: list[Tensor] = []
        self._aliases: dict[int, set[int]] = {}  # storage -> ids of the tensors in it that depend on the input
        self._stale: set[int] = set()
        self._unfilled: set[int] = set()
        self._used: set[int] = set()  # storages of constants that a step has read
        self.kept[self._new(x)] = x.clone()  # the only value that cannot be made again

    def number(self, tensor: Tensor) -> int | None:
        """The value that a tensor is now, or None for a constant."""
        if id(tensor) in self._stale:
            raise _Aliased("it changes a tensor in place through one view and reads it through another")
        number = self._numbers.get(id(tensor))
        if number is None and _storage(tensor) in self._aliases:
            raise Unrecorded("it makes tensors that share memory in a way torch does not tell")
        if number is None and _storage(tensor) in self._unfilled:
            raise Unrecorded("it reads memory that was filled unseen")
        return number

    def _new(self, tensor: Tensor) -> int:
        number = len(self.shapes)
        self.shapes[number] = tuple(tensor.shape)
        self.kept[number] = tensor
        self._held.append(tensor)
        self._numbers[id(tensor)] = number
        self._aliases.setdefault(_storage(tensor), set()).add(id(tensor))
        return number

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called by torch in place of `func`."""
        kwargs = kwargs or {}
        schema = func._schema
        written = [a for a, s in zip(args, schema.arguments, strict=False) if s.alias_info and s.alias_info.is_write]
        named = {s.name for s in schema.arguments if s.alias_info and s.alias_info.is_write}
        if not written and not named & kwargs.keys():
            return self._plain(func, args, kwargs)
        if len(written) != 1 or named & kwargs.keys() or not isinstance(written[0], Tensor):
            return self._unknown(func, args, kwargs)
        return self._in_place(func, args, kwargs)

    def _plain(self, func: Any, args: Any, kwargs: Any) -> Any:
        given, depends = self._given((args, kwargs))
        _refuse_random(func, args, kwargs)
        if depends and func is torch.ops.aten._local_scalar_dense.default:
            raise Unrecorded("what it does depends on computed values (a tensor is turned into a number)")
        output = func(*args, **kwargs)
        if depends:
            self._write(func, given, output)
        elif func._schema.name in UNFILLED:
            self._unfilled.add(_storage(output))
            self._held.append(output)
        return output

    def _in_place(self, func: Any, args: Any, kwargs: Any) -> Any:
        target = args[0]
        if func is torch.ops.aten.as_strided_.default:
            return self._restrided(func, args, kwargs)
        _refuse_random(func, args, kwargs)
        given, depends = self._given((args, kwargs), filled=True)
        if not depends:
            if _storage(target) in self._used:
                raise Unrecorded(f"it changes in place a constant that was read before ({func._schema.name})")
            self._unfilled.discard(_storage(target))
            return func(*args, **kwargs)
        if self._numbers.get(id(target)) is None:
            raise _Aliased(f"it writes computed values into memory of its own ({func._schema.name})")
        plain = _functional(func)
        if plain is None:
            raise _Aliased(f"{func._schema.name} changes a tensor in place")
        before = self._numbers[id(target)]
        shape = tuple(target.shape)
        several = sum(isinstance(a, Tensor) for a in _flat((args, kwargs))) > 1
        if several and before:  # others are made again from what was before them, should they be needed
            self.kept[before] = target.clone()
        output = func(*args, **kwargs)
        if output is not target or tuple(target.shape) != shape:
            raise Unrecorded(f"{func._schema.name} changes a tensor in a way that is not known")
        if not several and before:
            self.kept.pop(before, None)
        self._stale |= self._aliases[_storage(target)] - {id(target)}
        for other in self._stale:  # what lies in the same memory was overwritten too
            if self._numbers[other]:
                self.kept.pop(self._numbers[other], None)
        self._write(plain, given, target)
        return output

    def _restrided(self, func: Any, args: Any, kwargs: Any) -> Any:
        target, size, strides, *_ = args
        same = all(n == m and (n == 1 or a == b) for n, m, a, b in zip(
            target.shape, size, target.stride(), strides, strict=False))  # fmt: skip
        if not same or len(size) != target.ndim:
            return self._unknown(func, args, kwargs)
        return func(*args, **kwargs)

    def _unknown(self, func: Any, args: Any, kwargs: Any) -> Any:
        _, depends = self._given((args, kwargs))
        if depends:
            raise Unrecorded(f"{func._schema.name} changes tensors in a way that is not known")
        return func(*args, **kwargs)

    def _given(self, tree: Any, filled: bool = False) -> tuple[Any, bool]:
        """The arguments with values in place of tensors, and whether there is any."""
        depends = False

        def put(a: Any) -> Any:
            nonlocal depends
            if isinstance(a, Tensor):
                if filled and a is tree[0][0] and _storage(a) in self._unfilled:
                    return a
                number = self.number(a)
                depends |= number is not None
                return a if number is None else At(number)
            if isinstance(a, dict):
                return {k: put(v) for k, v in a.items()}
            return type(a)(map(put, a)) if type(a) in {list, tuple} else a

        return put(tree), depends

    def _write(self, func: Any, given: Any, output: Any) -> None:
        args, kwargs = given
        for constant in _flat(given):
            if isinstance(constant, Tensor):
                self._used.add(_storage(constant))
        single = isinstance(output, Tensor)
        parts = (output,) if single else output
        if not isinstance(parts, (tuple, list)):
            raise Unrecorded(f"{func._schema.name} gives a {type(output).__name__}")
        gives = tuple(self._new(t) if isinstance(t, Tensor) else None for t in parts)
        if func in {torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default}:
            func = torch.ops.aten.reshape.default  # memory may be laid out in another way next time
        self.steps.append(Step(func, tuple(args), kwargs, gives, single))


def _refuse_random(func: Any, args: Any, kwargs: Any) -> None:
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return
    named = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
    if "attention" not in func._schema.name or named.get("dropout_p"):
        raise Unrecorded(f"it draws random numbers ({func._schema.name})")


def _functional(func: Any) -> Any:
    """The operation that gives what this one writes, or None."""
    namespace, name = func._schema.name.split("::")
    packet = getattr(getattr(torch.ops, namespace), name.removesuffix("_"), None) if name.endswith("_") else None
    return getattr(packet, func._overloadname, None)


def _storage(tensor: Tensor) -> int:
    try:
        return int(tensor.untyped_storage()._cdata)
    except (RuntimeError, NotImplementedError):  # tensors of other makes have no storage
        raise Unrecorded(f"it computes with tensors of a special make ({type(tensor).__name__})") from None
