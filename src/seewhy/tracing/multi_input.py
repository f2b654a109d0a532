"""Networks with several inputs: one input is varied, and the others are held at the values of one sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from seewhy.errors import InputError, ModelError
from seewhy.inputs.arrays import tensor_of
from seewhy.models.onnx.conversion import with_changed_call

if TYPE_CHECKING:
    from seewhy.model import Model

FIXED_INPUT_ADVICE = (
    "pass an input without a batch axis inside the function: seewhy.wrap(network, forward=lambda net, x: net(x, it))"
)


class SeveralInputs(NamedTuple):
    """The inputs of a network, by position or by name.

    Attributes:
        tensors: the inputs, each with the batch on its first axis.
        varied: the names of the floating-point inputs; whole numbers are held fixed.
        samples: number of samples.
        in_order: whether the network is called as network(*inputs), else as network(**inputs).
    """

    tensors: dict[Any, Tensor]
    varied: list[Any]
    samples: int
    in_order: bool

    def sample(self, n: int) -> dict[Any, Tensor]:
        """The inputs of one sample."""
        return {name: tensor[n : n + 1] for name, tensor in self.tensors.items()}


def are_several_inputs(x: Any) -> bool:
    """Whether `x` holds the inputs of a network with several inputs."""
    return isinstance(x, (Mapping, tuple)) and len(x) > 0


def several_inputs(model: Model, x: Mapping[str, Any] | tuple[Any, ...]) -> SeveralInputs:
    """Return the inputs of a network with several inputs.

    Args:
        model: called as network(*inputs) or network(**inputs), an ONNX network in the order or by the names of its
            graph; with a `forward` of its own, as forward(network, inputs).
        x: the inputs, a tuple or a mapping of tensors, each with the batch on its first axis.

    Raises:
        ModelError: the model is a plain function without a `forward`.
        InputError: an input is not a tensor, or the inputs differ in their number of samples.
    """
    tensors = {name: _as_tensor(name, value) for name, value in _inputs_by_name(x).items()}
    counts = {name: len(tensor) for name, tensor in tensors.items()}
    if len(set(counts.values())) != 1:
        raise InputError(f"the inputs have {counts} samples: all must have the same number. Or {FIXED_INPUT_ADVICE}.")
    if model.module is None and model.call is None:
        raise ModelError(
            f"{model.name} is a plain function, which is called with one input: use "
            "seewhy.wrap(f, forward=lambda f, inputs: f(*inputs))."
        )
    varied = [name for name, tensor in tensors.items() if tensor.is_floating_point()]
    return SeveralInputs(tensors, varied, next(iter(counts.values())), isinstance(x, tuple))


def _inputs_by_name(x: Mapping[str, Any] | tuple[Any, ...]) -> dict[Any, Any]:
    return dict(x) if isinstance(x, Mapping) else dict(enumerate(x))


def _as_tensor(name: Any, value: Any) -> Tensor:
    tensor = value if isinstance(value, Tensor) else tensor_of(value) if hasattr(value, "__array__") else None
    if tensor is None or tensor.ndim == 0:
        raise InputError(
            f"input {name!r} is a {type(value).__name__}: a tensor with the batch first is needed. "
            f"Or {FIXED_INPUT_ADVICE}."
        )
    return tensor


def model_of_one_input(model: Model, sample: Mapping[Any, Tensor], free: Any, in_order: bool) -> Model:
    """Return the network as a function of the input `free`, with the other inputs fixed at the values of one sample."""

    def all_inputs(z: Tensor) -> Any:
        def repeated(t: Tensor) -> Tensor:
            t = t.to(z.device, z.dtype if t.is_floating_point() else t.dtype)
            return t.expand(len(z), *t.shape[1:])

        inputs = {name: z if name == free else repeated(t) for name, t in sample.items()}
        return tuple(inputs.values()) if in_order else inputs

    def call(network: Any, z: Tensor) -> Any:
        inputs = all_inputs(z)
        if model.module is None:
            return model.forward(inputs)
        if model.call is not None:
            return model.call(network, inputs)
        return network(*inputs) if in_order else network(**inputs)

    def with_fixed_inputs(call_network: Callable[[Any, Any], Any]) -> Callable[[Any, Tensor], Any]:
        return lambda network, z: call_network(network, all_inputs(z))

    layouts = model.input_layouts or {}
    return replace(
        model,
        layout=layouts.get(free, model.layout),
        input_layouts=None,
        forward=lambda z: call(model.module, z),
        call=None if model.module is None else call,
        conversion=with_changed_call(model.conversion, with_fixed_inputs),
    )
