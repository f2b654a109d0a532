"""One forward pass through a model: its input, its output and, if requested, the autograd graph between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from seewhy.axes.layout import from_canonical
from seewhy.errors import ModelError, OptionError, SeewhyError
from seewhy.models import module_tree
from seewhy.models.eval_mode import module_eval_mode

from .autograd_graph import fix_batch_norm_gradients
from .final_activation import NetworkOutput, observe_final_activations
from .layer_hooks import append_mean_token_copies, intercept_features, record_layer_outputs
from .outputs import describe_output, is_finite, iter_tensors, select_samples

if TYPE_CHECKING:
    from seewhy.model import Model
    from seewhy.types import Inputs


class ForwardPass(NamedTuple):
    """The result of one forward pass.

    Attributes:
        x: the input [N, C, *S], a leaf of the autograd graph.
        output: the model's output.
        explained: the output from which the target scores are computed: the model's, or the reduction layer's.
        features: the output of the feature layer, in its own layout.
        mean_tokens: the mean token of each block [N, 1, D].
        mean_token_outputs: `explained` for these mean tokens, block after block [blocks · N, ...].
    """

    x: Inputs
    output: Any
    explained: NetworkOutput
    features: Tensor | None = None
    mean_tokens: tuple[Tensor, ...] = ()
    mean_token_outputs: NetworkOutput | None = None

    @property
    def target_output(self) -> Any:
        """The output from which the target scores are computed, as the network or layer returned it."""
        return self.explained.value


@contextmanager
def eval_mode(model: Model) -> Iterator[None]:
    """Put the model in evaluation mode, with frozen weights and outside inference mode, and restore it at the end."""
    with module_eval_mode(model.module), torch.inference_mode(False):
        yield


def run_forward(
    model: Model,
    x: Inputs,
    *,
    graph: bool,
    reduction_layer: str | None = None,
    feature_layer: str | None = None,
    replacement: Tensor | None = None,
    mean_token_layers: Sequence[str] = (),
) -> ForwardPass:
    """Run one forward pass of a batch, with the autograd graph back to the input or to a layer, or without a graph.

    Args:
        model: the model.
        x: the batch [N, C, *S].
        graph: whether gradients with respect to the input are needed.
        reduction_layer: the layer whose output is explained; None: the model's output.
        feature_layer: the layer whose features are recorded; without `graph`, the autograd graph starts there.
        replacement: features that replace those of the feature layer, without a graph; the layers after it run with
            the batch size of the replacement.
        mean_token_layers: layers with tokens; the mean token of each is also run through the layers after the last one.

    Raises:
        ModelError: the forward pass fails, the output is not finite or has no batch axis, or a layer did not run
            exactly once.
    """
    leaf = x.detach().clone().requires_grad_(graph)
    count = len(x if replacement is None else replacement)
    with (
        observe_final_activations() as activations,
        # weights are frozen: a graph is recorded only from the input or from the features
        torch.set_grad_enabled(graph or (feature_layer is not None and replacement is None)),
        intercept_features(model, feature_layer, cut=not graph, replacement=replacement) as features,
        append_mean_token_copies(model, mean_token_layers) as mean_tokens,
        record_layer_outputs(model, reduction_layer) as reduction_outputs,
    ):
        # a clone, because the first layer may work in place, which autograd forbids on a leaf
        output = call_model(model, leaf.clone() if graph else leaf)
    for tensor in iter_tensors(output):
        if not is_finite(tensor):
            raise ModelError(
                f"{model.name} returned NaN or infinite values for a finite input{non_finite_cause(model)}."
            )
    if graph or feature_layer is not None:
        fix_batch_norm_gradients(iter_tensors((output, reduction_outputs)))
    total = count * (1 + len(mean_token_layers))
    if isinstance(output, Tensor) and (output.ndim == 0 or len(output) != total):
        raise ModelError(
            f"{model.name} returned {describe_output(output)} for {count} samples: the first axis must be the batch."
        )
    if reduction_layer is not None and len(reduction_outputs) != 1:
        raise ModelError(
            f"layer {reduction_layer!r} ran {len(reduction_outputs)} times in one forward pass: only the output of a "
            "layer that runs exactly once can be explained."
        )
    if feature_layer is not None and len(features) != 1:
        raise ModelError(
            f"layer {feature_layer!r} ran {len(features)} times in one forward pass of this input: a feature layer "
            "must run exactly once."
        )
    explained = activations.output_of(output if reduction_layer is None else reduction_outputs[0], model)
    mean_token_outputs = None
    if mean_token_layers:
        mean_token_outputs = select_samples(explained, count, total, total)
        output, explained = (select_samples(o, 0, count, total) for o in (output, explained))
    layer_features = features[0] if features else None
    return ForwardPass(leaf, output, explained, layer_features, tuple(mean_tokens), mean_token_outputs)


def call_model(model: Model, x: Inputs) -> Any:
    """The model's output for a batch [N, C, *S], in the model's own layout; arrays become tensors.

    Raises:
        ModelError: the forward pass fails; the message contains the type and text of the model's own error, which is
            its cause.
    """
    try:
        output = model.forward(from_canonical(x, model.layout))
    except SeewhyError:
        raise
    except Exception as error:  # a network raises any type of error
        if is_out_of_memory(error):
            raise
        if any(w.is_inference() for w in model_weights(model)):
            raise ModelError(
                f"{model.name} has weights made in inference mode, which autograd cannot use: create or load the "
                "network outside torch.inference_mode()."
            ) from error
        shape = list(from_canonical(x, model.layout).shape)
        reason = f"{type(error).__name__}: {error}".removesuffix(": ")
        raise ModelError(f"{model.name} failed on an input of shape {shape}: {reason}") from error
    return torch.from_numpy(output) if isinstance(output, np.ndarray) else output


def non_finite_cause(model: Model) -> str:
    """The end of a message about NaN or infinite values: the weight that contains some, if there is one."""
    named = [] if model.module is None else list(module_tree.named_tensors(model.module))
    bad = next((name for name, w in named if not is_finite(w)), None)
    if bad:
        return f": its weight {bad!r} contains such values"
    return "; its weights are finite, so these values arise during the computation"


def bytes_per_sample(model: Model, x: Inputs) -> int:
    """Bytes that a forward pass with its autograd graph keeps per sample, measured on the first; without weights."""
    weight_pointers = {w.untyped_storage().data_ptr() for w in model_weights(model)}
    saved_bytes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weight_pointers:
            saved_bytes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run_forward(model, x[:1], graph=True)
    return sum(saved_bytes.values()) + 4 * x[:1].numel() * x.element_size()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that a memory allocation failed, on a GPU or on the CPU."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def resolve_device(model: Model, device: str) -> tuple[Model, torch.device | None]:
    """The model and the device to use; "auto": the device of the model's weights. The model is never moved.

    Args:
        model: the model.
        device: "auto", "cpu", "gpu", "cuda", "cuda:1" and so on.

    Returns:
        The model, and the device; None: "auto" for a model without weights.

    Raises:
        OptionError: the device is not available, or the model is on another device.
    """
    model_device = next((w.device for w in model_weights(model)), None)
    if device == "auto":
        return model, model_device
    try:
        requested = torch.empty(0, device="cuda" if device == "gpu" else device).device
    except (RuntimeError, AssertionError) as error:
        raise OptionError(f"device={device!r} is not available: use 'auto' or 'cpu'. ({error})") from None
    if model_device is None or model_device == requested:
        return model, requested
    raise OptionError(
        f"device={device!r}, but {model.name} is on {model_device}: move it with network.to({device!r}), or use 'auto'."
    )


def model_weights(model: Model) -> Iterator[Tensor]:
    """Parameters and buffers of the model; none for a plain function."""
    if model.module is not None:
        yield from (weight for _, weight in module_tree.named_tensors(model.module))
