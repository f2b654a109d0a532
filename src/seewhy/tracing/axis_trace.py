"""The meaning of the axes of every tensor of a forward pass, recorded while it runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from seewhy.axes.factors import (
    Axes,
    Operation,
    channel_letter,
    make_axis,
    output_axes,
    token_letter,
    unknown_axes,
)


class AxisTrace:
    """The axes of the tensors of one forward pass, by memory, shape and strides; `axes_of` reads them.

    Attributes:
        channels: the letter of the axis that the first operation with such a rule treats as channels; "": none of the
            input's axes; None: unknown.
        tokens: the letter of the axis along which the first attention works, or None.
    """

    def __init__(self) -> None:
        self.channels: str | None = None
        self.tokens: str | None = None
        self._axes: dict[Any, Axes] = {}
        self._keep_alive: list[Tensor] = []  # memory must not be used again during the pass

    def set_axes(self, tensor: Tensor, axes: Axes) -> None:
        """Record the axes of a tensor."""
        if (key := _memory_key(tensor)) is not None:
            self._axes[key] = axes
            self._keep_alive.append(tensor.detach())

    def note_roles(self, name: str, operation: Operation) -> None:
        """Remember what the first operation that decides it does to the axes of the input."""
        if self.channels is None:
            self.channels = channel_letter(name, operation)
        if self.tokens is None:
            self.tokens = token_letter(name, operation)

    def axes_of(self, tensor: Tensor) -> Axes | None:
        """Return the axes of a tensor, or None if it does not depend on the input."""
        return self._axes.get(_memory_key(tensor))


@contextmanager
def trace_axes(module: nn.Module, x: Tensor, axes: Axes) -> Iterator[AxisTrace]:
    """Record the axes of all tensors that depend on `x`, in this thread.

    Args:
        module: the network.
        x: its input.
        axes: the axes of the input.
    """
    trace, thread = AxisTrace(), threading.get_ident()
    trace.set_axes(x, axes)

    def hook(layer: nn.RNNBase, args: Any, output: Any) -> None:
        # torch computes recurrent layers step by step, so their output is a stack of unrelated steps
        if threading.get_ident() == thread and isinstance(args[0], Tensor) and isinstance(output[0], Tensor):
            before = trace.axes_of(args[0])
            if before is not None and len(before) == output[0].ndim:
                trace.note_roles("mkldnn_rnn_layer", Operation({}, {"input": before}, tuple(output[0].shape)))
                trace.set_axes(output[0], (*before[:-1], make_axis("C", output[0].shape[-1])))

    with ExitStack() as stack:
        for layer in module.modules():
            if isinstance(layer, nn.RNNBase):
                stack.callback(layer.register_forward_hook(hook, prepend=True).remove)
        stack.enter_context(_AxisMode(trace))
        yield trace


def _memory_key(tensor: Tensor) -> Any:
    try:
        storage = tensor.untyped_storage()._cdata
    except (RuntimeError, NotImplementedError):  # some tensor subclasses have no storage
        return None
    return storage, tensor.storage_offset(), tuple(tensor.shape), tensor.stride()


class _AxisMode(TorchDispatchMode):
    """Applies the rule of each operation to the axes of its inputs."""

    def __init__(self, trace: AxisTrace) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.trace = trace

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Hook that torch calls instead of `func`."""
        kwargs = kwargs or {}
        arguments = {a.name: a.default_value for a in func._schema.arguments if a.has_default_value()}
        arguments |= dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
        axes = {name: self._axes(value) for name, value in arguments.items()}
        known = {name: value for name, value in axes.items() if value is not None}
        shapes = {name: _shape(value) for name, value in arguments.items()}  # before the operation changes them
        result = func(*args, **kwargs)
        if not known:
            return result
        pointwise = torch.Tag.pointwise in func.tags
        name = str(func._schema.name).rpartition("::")[2]
        outputs = result if isinstance(result, (tuple, list)) else (result,)
        for i, output in enumerate(outputs):
            if isinstance(output, Tensor):
                operation = Operation(shapes, known, tuple(output.shape))
                listed = func._schema.returns and len(func._schema.returns) == 1  # a list of equal parts
                first = i == 0 or listed
                if i == 0:
                    self.trace.note_roles(name, operation)
                new = output_axes(name, pointwise, operation) if first else unknown_axes(output.shape)
                self.trace.set_axes(output, new)
        return result

    def _axes(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self.trace.axes_of(value)
        if isinstance(value, (list, tuple)) and any(isinstance(v, Tensor) for v in value):
            axes = [self.trace.axes_of(v) if isinstance(v, Tensor) else None for v in value]
            return axes if any(a is not None for a in axes) else None
        return None


def _shape(value: Any) -> Any:
    if isinstance(value, Tensor):
        return tuple(value.shape)
    if isinstance(value, (list, tuple)):
        return [_shape(v) for v in value]
    return value


def axes_of_layout(shape: tuple[int, ...], layout: str | None) -> Axes:
    """Return the axes of an input in the model's own layout; None: samples, channels, positions."""
    letters = layout or ("NC" + "S" * (len(shape) - 2))
    axes, position = [], 0
    for letter, size in zip(letters, shape, strict=True):
        if letter in "NC":
            axes.append(make_axis(letter, size))
        else:
            axes.append(make_axis(str(position), size))
            position += 1
    return tuple(axes)
