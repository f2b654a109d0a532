"""Target scores: from a network's output to one number per sample and target.

For class c of logits z, the margin is m = z_c - logsumexp of the other logits, and the probability is
s = sigmoid(m). Hence ds = s(1-s) dm. The margin m does not saturate, so every score is differentiated
through z_c or m, and the factor, such as s(1-s), is applied in the backward pass. If the network ends in
sigmoids, its classes do not compete: m = z_c. If the output has positions (segmentation), the score of a
class is summed over them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from seewhy.axes.layout import class_axis
from seewhy.errors import ModelError, NoGradientError, OptionError, check_choice
from seewhy.inputs.arrays import tensor_of
from seewhy.tracing.final_activation import NetworkOutput
from seewhy.tracing.forward import non_finite_cause
from seewhy.tracing.outputs import describe_output, is_finite, kernel_precision, output_fields

from .parsing import (
    ClassIndices,
    class_index,
    class_names,
    is_all_classes,
    is_per_sample,
    parse_top,
    per_sample_indices,
    score_labels,
)
from .ready_made import LogitFunction, TargetFunction

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    from seewhy.model import Model
    from seewhy.types import Inputs, Values

SCORE_NAMES = ("logit", "probability", "log_probability", "margin")


class Targets(NamedTuple):
    """K targets per sample and the score of each: class indices, or functions of the output."""

    score: str  # one of SCORE_NAMES
    indices: Tensor | None = None  # [N, K], for classes
    functions: tuple[TargetFunction, ...] = ()  # K functions, for any other output
    labels: tuple[tuple[str, ...], ...] = ()  # N rows of K labels, for classes
    notes: tuple[str, ...] = ()  # on how the output was read

    def take(self, samples: Tensor) -> Targets:
        """The targets of the samples with these indices [M], which may repeat."""
        return self if self.indices is None else self._replace(indices=self.indices[samples])


class TargetScore(NamedTuple):
    """The score of one target for a batch of N samples."""

    tensor: Tensor  # [N, *P], the logit or margin that is differentiated
    weight: Tensor  # [N, *P], derivative of the score with respect to `tensor`
    value: Float[Tensor, " N"]  # the score, detached
    rescaled: Bool[Tensor, " N"]  # whether the weight underflowed and was rescaled


def resolve_target(
    target: Any, score: str, model: Model, output: NetworkOutput, samples: slice, layer: str | None = None
) -> Targets:
    """Return the K targets of each sample of a batch.

    Args:
        target: the argument of `explain`: None, classes, "top3", "all", classes per sample, or functions of the output.
        score: the argument of `explain`, one of `SCORE_NAMES`.
        model: the model, for its labels and layout.
        output: the network's output for the batch, or that of `layer`.
        samples: the batch's samples within the whole input, to which classes per sample refer.
        layer: the layer whose output is explained; None: the network's output.

    Raises:
        UnknownNameError: the model has no such label.
        OptionError: a class is out of range, the labels do not fit, or the score is not defined for this output.
        ModelError: the target is a class, but the output is not a tensor of scores.
    """
    if callable(target):
        target = [target]
    if isinstance(target, (list, tuple)) and callable(target[0]):
        if score != "logit":
            raise OptionError(
                f"score={score!r} is for classes; a function of the output is its own score: use score='logit'."
            )
        reads_logits = any(isinstance(function, LogitFunction) for function in target)
        return Targets(score, functions=tuple(target), notes=_activation_notes(output, layer) if reads_logits else ())
    totals = class_scores(output, model).detach()
    totals = totals.flatten(2).sum(2) if totals.ndim > 2 else totals
    count = totals.shape[1]
    if score != "logit" and count < 2 and output.activation != "sigmoid":
        raise OptionError(f"score={score!r} compares classes, but {model.name} returns one number: use score='logit'.")
    labels, notes = score_labels(model, count, layer)
    indices = _class_indices(target, model, totals, samples, labels)
    invalid = indices[(indices < 0) | (indices >= count)]
    if len(invalid):
        raise OptionError(
            f"class {int(invalid[0])} is out of range: {model.name} returns {count} scores, 0 to {count - 1}."
        )
    notes += _activation_notes(output, layer) if score == "logit" else ()
    return Targets(
        check_choice("score", score, SCORE_NAMES),
        indices=indices,
        labels=class_names(indices, labels),
        notes=(*notes, *_class_axis_notes(output, model)),
    )


def _class_indices(target: Any, model: Model, totals: Tensor, samples: slice, labels: tuple[str, ...] | None) -> Tensor:
    """Return the class indices [N, K] that a target names, given the scores [N, classes]."""
    n, count = totals.shape
    if isinstance(target, ClassIndices):
        return target.indices[samples].to(totals.device)
    if is_per_sample(target):
        return per_sample_indices(target, count, labels, model)[samples].to(totals.device)
    if target is None:
        return totals.argmax(1, keepdim=True)
    if is_all_classes(target, model):
        return torch.arange(count, device=totals.device).expand(n, -1)
    if (k := parse_top(target, model.labels)) is not None:
        if not 1 <= k <= count:
            raise OptionError(f"target={target!r} is out of range: {model.name} returns {count} scores.")
        return totals.topk(k, 1).indices
    names = target if isinstance(target, (list, tuple, range)) else [target]
    return torch.tensor([class_index(name, labels, model) for name in names], device=totals.device).expand(n, -1)


def _activation_notes(output: NetworkOutput, layer: str | None) -> tuple[str, ...]:
    """The note that the final activation is left out, if there is one."""
    if output.activation is None:
        return ()
    where = "the network" if layer is None else f"layer {layer!r}"
    return (f"the {output.activation} at the end of {where} is left out: the score is the logit before it",)


def _class_axis_notes(output: NetworkOutput, model: Model) -> tuple[str, ...]:
    """The note on the class axis of an output with positions, if it has some."""
    if class_scores(output, model).ndim <= 2:
        return ()
    shape = list(output.logits.shape)
    axis = class_axis(len(shape), model.layout, model.output_layout)
    return (
        f"the output has shape {shape}: axis {axis} is taken as the class axis, and the score of a class is the sum "
        "over the axes after the batch and the classes",
    )


def class_scores(output: NetworkOutput, model: Model) -> Float[Tensor, "N classes *P"]:
    """Return the scores of the classes before any final activation, with the class axis second.

    Positions are left out if there is only one.

    Raises:
        ModelError: the output is not one floating-point tensor.
    """
    scores = output.logits
    if not isinstance(scores, Tensor):
        first = next(iter(output_fields(scores)), "")
        raise ModelError(
            f"{model.name} returns {describe_output(scores)}, but a class needs one tensor of scores. Give a function: "
            f"target=lambda output: output{first}[:, 3], or seewhy.wrap(network, "
            f"forward=lambda network, x: network(x){first})."
        )
    if not scores.is_floating_point():
        raise ModelError(f"{model.name} returns {scores.dtype}: floating-point scores are needed, not decisions.")
    if scores.ndim == 1:
        return scores.unsqueeze(1)
    scores = classes_second(scores, model)
    return scores.flatten(1) if scores.shape[2:].numel() == 1 else scores


def classes_second(output: Tensor, model: Model) -> Tensor:
    """Return an output with its class axis second, as class targets and ready-made target functions see it."""
    if output.ndim < 3:
        return output
    return output.movedim(class_axis(output.ndim, model.layout, model.output_layout), 1)


def compute_scores(targets: Targets, output: NetworkOutput, model: Model, *, rescale: bool = True) -> list[TargetScore]:
    """Compute the K target scores of a batch.

    Args:
        targets: the targets of the batch's samples.
        output: the network's output for the same samples.
        model: the model.
        rescale: divide weights that underflow by their largest value, per sample. Where gradients at several points
            are summed (a path integral), the weights must not be rescaled.

    Raises:
        OptionError: a target function does not return one number per sample.
    """
    if targets.functions:
        return [_function_score(f, output, model) for f in targets.functions]
    assert targets.indices is not None
    z = class_scores(output, model)
    scores = []
    for classes in targets.indices.T:
        index = classes.view(-1, *[1] * (z.ndim - 1)).expand(-1, 1, *z.shape[2:])
        tensor = z.gather(1, index).squeeze(1)
        if targets.score != "logit" and output.activation != "sigmoid":
            tensor = tensor - z.scatter(1, index, -torch.inf).logsumexp(1)
        scores.append(_class_score(tensor, targets.score, rescale))
    return scores


def _class_score(tensor: Tensor, score: str, rescale: bool) -> TargetScore:
    m = tensor.detach()
    value, log_weight = {
        "logit": lambda: (m, torch.zeros_like(m)),
        "margin": lambda: (m, torch.zeros_like(m)),
        "probability": lambda: (m.sigmoid(), -F.softplus(m) - F.softplus(-m)),
        "log_probability": lambda: (F.logsigmoid(m), -F.softplus(m)),
    }[score]()
    axes = tuple(range(1, m.ndim))
    largest = log_weight.amax(axes) if axes else log_weight
    # below the square root of the smallest normal number, products with a gradient become subnormal and lose digits
    underflow = (largest < 0.5 * float(np.log(torch.finfo(m.dtype).tiny))) & rescale
    shift = torch.where(underflow, largest, torch.zeros_like(largest)).view(-1, *[1] * len(axes))
    return TargetScore(tensor, (log_weight - shift).exp(), value.sum(axes) if axes else value, underflow)


def _function_score(function: TargetFunction, output: NetworkOutput, model: Model) -> TargetScore:
    if isinstance(function, LogitFunction) and isinstance(output.logits, Tensor):
        score = function(classes_second(output.logits, model))
    else:
        score = function(output.value)
    n = len(output.value) if isinstance(output.value, Tensor) else None
    if isinstance(score, np.ndarray):
        score = tensor_of(score)
    if isinstance(score, Tensor) and score.ndim == 2 and score.shape[1] == 1:
        score = score.squeeze(1)
    if not isinstance(score, Tensor) or score.ndim != 1 or (n is not None and len(score) != n):
        count = "N" if n is None else n
        raise OptionError(
            f"the target function returned {describe_output(score)}: one number per sample is needed, [{count}] or "
            f"[{count}, 1]."
        )
    return TargetScore(score, torch.ones_like(score), score.detach(), torch.zeros(len(score), dtype=torch.bool))


def score_gradients(
    scores: list[TargetScore], x: Inputs, model: Model, *, free_graph: bool = True, x_name: str = "the input"
) -> Values:
    """Gradient of every score with respect to the input or a layer's features; one backward pass per score.

    Args:
        scores: the K scores of one forward pass, from `compute_scores`.
        x: the leaf tensor of that pass, or the features.
        model: the model.
        free_graph: free the graph after the last backward pass.
        x_name: the name of `x` in error messages.

    Returns:
        [N, K, C, *S]: `x`'s axes, with the targets second.

    Raises:
        NoGradientError: a score does not depend on `x` through autograd.
        ModelError: a gradient is not finite.
    """
    gradients = []
    for k, score in enumerate(scores):
        keep = not free_graph or k < len(scores) - 1
        gradient = (
            torch.autograd.grad(score.tensor, x, score.weight, retain_graph=keep, allow_unused=True)[0]
            if score.tensor.requires_grad and x.requires_grad
            else None
        )
        if gradient is None:
            raise NoGradientError(
                f"the score does not depend on {x_name} through autograd (a detach, a no_grad, an inference_mode, a "
                "checkpoint with use_reentrant=True, a rounding, or numpy on the way), so there is no gradient."
            )
        if not is_finite(gradient):
            raise ModelError(f"the gradient of target {k} holds NaN or infinite values{non_finite_cause(model)}.")
        gradients.append(gradient)
    return kernel_precision(torch.stack(gradients, dim=1))


def score_values(scores: list[TargetScore]) -> Float[Tensor, "N K"]:
    """The values of K scores as one tensor [N, K]."""
    return torch.stack([score.value for score in scores], 1)
