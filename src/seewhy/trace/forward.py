"""One pass through a network: what went in, what came out, and the graph between if it is wanted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from seewhy.errors import ModelError, OptionError, SeewhyError
from seewhy.models import tree
from seewhy.models.borrow import borrowed

from .graph import straightened
from .layout import own
from .outputs import describe, finite, rows, tensors
from .tap import opened, tapped, widened

if TYPE_CHECKING:
    from seewhy.types import Inputs, Model


class Pass(NamedTuple):
    """One forward: the leaf that went in, the network's output, and the part of it that is explained."""

    x: Inputs
    output: Any
    explained: Any
    features: Tensor | None = None  # what the feature layer gave, as it gave it
    means: tuple[Tensor, ...] = ()  # the mean token of each block [N, 1, D]
    readouts: Any = None  # what is explained, for these means, block by block [blocks N, ...]


@contextmanager
def quiet(model: Model) -> Iterator[None]:
    """Everything that touches the network happens inside: eval mode, frozen weights, ordinary tensors."""
    with borrowed(model.module), torch.inference_mode(False):
        yield


def run(
    model: Model,
    x: Inputs,
    *,
    graph: bool,
    layer: str | None = None,
    feature: str | None = None,
    instead: Tensor | None = None,
    widen: Sequence[str] = (),
) -> Pass:
    """One forward of a batch, with the autograd graph back to the input, to a layer, or without.

    Args:
        model: who answers.
        x: the batch.
        graph: whether gradients at the input will be asked.
        layer: the layer whose output is explained; None: the network's own output.
        feature: the layer whose features are read; without `graph`, the graph goes back to it only.
        instead: what takes the place of those features, without a graph; its first axis is the batch from there on.
        widen: layers of tokens whose means go through what follows the last of them.

    Raises:
        ModelError: the network refuses the input, its output is not finite or has lost the batch, or the
            layer did not run exactly once.
    """
    leaf = x.detach().clone().requires_grad_(graph)
    count = len(x if instead is None else instead)
    with (
        # no weight and no input asks for a graph by itself
        torch.set_grad_enabled(graph or (feature is not None and instead is None)),
        opened(model, feature, cut=not graph, instead=instead) as features,
        widened(model, widen) as means,
        tapped(model, layer) as seen,
    ):
        # a leaf cannot be changed in place, which a first layer may want
        output = answer(model, leaf.clone() if graph else leaf)
    for tensor in tensors(output):
        if not finite(tensor):
            raise ModelError(f"{model.name} gave NaN or infinite values on a finite input{suspect(model)}.")
    if graph or feature is not None:
        straightened(tensors((output, seen)))
    whole = count * (1 + len(widen))
    if isinstance(output, Tensor) and (output.ndim == 0 or len(output) != whole):
        raise ModelError(f"{model.name} gave {describe(output)} for {count} samples: the first axis must be the batch.")
    if layer is not None and len(seen) != 1:
        raise ModelError(f"layer {layer!r} ran {len(seen)} times in one forward: one that runs once can be explained.")
    if feature is not None and len(features) != 1:
        raise ModelError(f"layer {feature!r} ran {len(features)} times in one forward of this input.")
    explained, readouts = output if layer is None else seen[0], None
    if widen:
        readouts = rows(explained, count, whole, whole)
        output, explained = rows(output, 0, count, whole), rows(explained, 0, count, whole)
    return Pass(leaf, output, explained, features[0] if features else None, tuple(means), readouts)


def answer(model: Model, x: Inputs) -> Any:
    """What the network gives, as it gives it, or one line on why it does not.

    Raises:
        ModelError: the network refuses the input.
    """
    try:
        output = model.forward(own(x, model.layout))
    except SeewhyError:
        raise
    except (RuntimeError, ValueError, IndexError) as error:
        if out_of_memory(error):
            raise
        if any(w.is_inference() for w in weights(model)):
            raise ModelError(
                f"{model.name} has weights made in inference mode, which autograd cannot use: build or load it "
                "outside torch.inference_mode()."
            ) from error
        shape = list(own(x, model.layout).shape)
        raise ModelError(f"{model.name} failed on an input of shape {shape}: {error}") from error
    return torch.from_numpy(output) if isinstance(output, np.ndarray) else output


def suspect(model: Model) -> str:
    """Where NaN or infinite values come from, looked for only once there are some."""
    named = [] if model.module is None else list(tree.weights(model.module))
    bad = next((name for name, w in named if not finite(w)), None)
    return f": its {bad!r} holds some" if bad else "; its weights are finite, so they arise on the way"


def bytes_a_sample(model: Model, x: Inputs) -> int:
    """What a pass with its graph keeps for one sample, measured on the first one; weights are not counted."""
    own_weights = {w.untyped_storage().data_ptr() for w in weights(model)}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own_weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run(model, x[:1], graph=True)
    return sum(kept.values()) + 4 * x[:1].numel() * x.element_size()


def out_of_memory(error: BaseException) -> bool:
    """Whether an allocator, of a GPU or of this machine, refused."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def placed(model: Model, device: str) -> tuple[Model, torch.device | None]:
    """The network and the device to use; "auto": where the network lies. Nobody's network is ever moved.

    Raises:
        OptionError: there is no such device, or the network lies elsewhere.
    """
    here = next((w.device for w in weights(model)), None)
    if device == "auto":
        return model, here
    try:
        place = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise OptionError(f"device={device!r} is not there: use 'auto' or 'cpu'. ({error})") from None
    if here is None or here == place:
        return model, place
    raise OptionError(
        f"device={device!r}, but {model.name} lies on {here}: move it with network.to({device!r}), or use 'auto'."
    )


def weights(model: Model) -> Iterator[Tensor]:
    """Parameters and buffers of the network, where it has any."""
    if model.module is not None:
        yield from (weight for _, weight in tree.weights(model.module))
