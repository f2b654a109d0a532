"""Target scores: from a network's output to one number per sample and target.

For class c of logits z, the margin is m = z_c - logsumexp of the other logits, and the probability is
s = sigmoid(m). Hence ds = s(1-s) dm. The margin m does not saturate, so every score is differentiated
through z_c or m, and the factor, such as s(1-s), is applied in the backward pass. If the output has
positions (segmentation), the score of a class is summed over them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from seewhy.axes.layout import class_axis
from seewhy.errors import ModelError, OptionError, UnknownNameError, check_choice, unknown_name_error
from seewhy.tracing.forward import non_finite_cause
from seewhy.tracing.outputs import describe_output, is_finite, output_fields

from .ready_made import TargetFunction

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

    def take(self, samples: Tensor) -> Targets:
        """The targets of the samples with these indices [M], which may repeat."""
        return self if self.indices is None else self._replace(indices=self.indices[samples])


class TargetScore(NamedTuple):
    """The score of one target for a batch of N samples."""

    tensor: Tensor  # [N, *P], the logit or margin that is differentiated
    weight: Tensor  # [N, *P], derivative of the score with respect to `tensor`
    value: Float[Tensor, " N"]  # the score, detached
    rescaled: Bool[Tensor, " N"]  # whether the weight underflowed and was rescaled


def check_target(target: Any, n: int | None, model: Model) -> None:
    """Check that `target` is a valid target, before any forward pass.

    Args:
        target: the argument of `explain`.
        n: number of samples; None: the batches of a data set.
        model: the model, for its labels.

    Raises:
        OptionError: `target` is invalid.
        UnknownNameError: the model has no such label.
    """
    if isinstance(target, (list, tuple, range)) and not target:
        raise OptionError(f"target={target!r} is empty: give None, a class, or a list of classes.")
    if is_data_set_labels(target, model) and n is not None:
        raise OptionError(
            "target='label' means the labels y of a data set of pairs (x, y), but the input is a single batch: give "
            "the classes as a tensor [N]."
        )
    if isinstance(target, (Tensor, np.ndarray)):
        if n is None:
            raise OptionError(
                "a target tensor is for a single batch, but the input is a data set: let the data set yield pairs "
                "(x, y), and give target='label'."
            )
        shape = list(target.shape)
        integer = not torch.as_tensor(target).is_floating_point() and torch.as_tensor(target).dtype != torch.bool
        if not integer or len(shape) not in (1, 2) or shape[0] != n or 0 in shape:
            raise OptionError(
                f"a target tensor holds integers of shape [{n}] or [{n}, K] for {n} samples, but this one is "
                f"{target.dtype} of shape {shape}."
            )
    elif not (
        target is None
        or _is_index_or_label(target)
        or callable(target)
        or (
            isinstance(target, (list, tuple, range))
            and (all(map(callable, target)) or all(map(_is_index_or_label, target)))
        )
    ):
        raise OptionError(
            f"target={target!r} is not a target: give None, a class index or label, a list of them, 'top3', 'all', a "
            "tensor [N] or [N, K], or functions of the output."
        )
    elif not callable(target) and not is_data_set_labels(target, model) and not is_all_classes(target, model):
        for name in target if isinstance(target, (list, tuple, range)) else [target]:
            if isinstance(name, str) and _parse_top(target, model.labels) is None:
                _class_index(name, model)


def is_all_classes(target: Any, model: Model) -> bool:
    """Whether `target` means every class; a class labeled "all" takes precedence."""
    return isinstance(target, str) and target == "all" and target not in (model.labels or ())


def is_data_set_labels(target: Any, model: Model) -> bool:
    """Whether `target` means the labels of a data set; a class labeled "label" takes precedence."""
    return isinstance(target, str) and target == "label" and target not in (model.labels or ())


def resolve_target(target: Any, score: str, model: Model, output: Any, samples: slice) -> Targets:
    """Return the K targets of each sample of a batch.

    Args:
        target: the argument of `explain`: None, classes, "top3", "all", a tensor, or functions of the output.
        score: the argument of `explain`, one of `SCORE_NAMES`.
        model: the model, for its labels and layout.
        output: the network's output for the batch.
        samples: the batch's samples within the whole input, to which a target tensor refers.

    Raises:
        UnknownNameError: the model has no such label.
        OptionError: a class is out of range, or the score is not defined for this output.
        ModelError: the target is a class, but the output is not a tensor of scores.
    """
    if callable(target):
        target = [target]
    if isinstance(target, (list, tuple)) and callable(target[0]):
        if score != "logit":
            raise OptionError(
                f"score={score!r} is for classes; a function of the output is its own score: use score='logit'."
            )
        return Targets(score, functions=tuple(target))
    totals = class_scores(output, model).detach()
    totals = totals.flatten(2).sum(2) if totals.ndim > 2 else totals
    n, count = totals.shape
    if score != "logit" and count < 2:
        raise OptionError(f"score={score!r} compares classes, but {model.name} returns one number: use score='logit'.")
    if isinstance(target, (Tensor, np.ndarray)):
        indices = torch.as_tensor(target)[samples].to(totals.device, torch.int64).reshape(n, -1)
    elif target is None:
        indices = totals.argmax(1, keepdim=True)
    elif is_all_classes(target, model):
        indices = torch.arange(count, device=totals.device).expand(n, -1)
    elif (k := _parse_top(target, model.labels)) is not None:
        if not 1 <= k <= count:
            raise OptionError(f"target={target!r} is out of range: {model.name} returns {count} scores.")
        indices = totals.topk(k, 1).indices
    else:
        names = target if isinstance(target, (list, tuple, range)) else [target]
        indices = torch.tensor([_class_index(name, model) for name in names], device=totals.device).expand(n, -1)
    invalid = indices[(indices < 0) | (indices >= count)]
    if len(invalid):
        raise OptionError(
            f"class {int(invalid[0])} is out of range: {model.name} returns {count} scores, 0 to {count - 1}."
        )
    return Targets(check_choice("score", score, SCORE_NAMES), indices=indices)


def class_scores(output: Any, model: Model) -> Float[Tensor, "N classes *P"]:
    """Return the output as class scores, with the class axis second.

    Raises:
        ModelError: the output is not one floating-point tensor.
    """
    if not isinstance(output, Tensor):
        first = next(iter(output_fields(output)), "")
        raise ModelError(
            f"{model.name} returns {describe_output(output)}, but a class needs one tensor of scores. Give a function: "
            f"target=lambda output: output{first}[:, 3], or seewhy.wrap(network, "
            f"forward=lambda network, x: network(x){first})."
        )
    if not output.is_floating_point():
        raise ModelError(f"{model.name} returns {output.dtype}: floating-point scores are needed, not decisions.")
    return output.unsqueeze(1) if output.ndim == 1 else output.movedim(class_axis(output.ndim, model.layout), 1)


def compute_scores(targets: Targets, output: Any, model: Model, *, rescale: bool = True) -> list[TargetScore]:
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
        return [_function_score(f, output) for f in targets.functions]
    assert targets.indices is not None
    z = class_scores(output, model)
    scores = []
    for classes in targets.indices.T:
        index = classes.view(-1, *[1] * (z.ndim - 1)).expand(-1, 1, *z.shape[2:])
        tensor = z.gather(1, index).squeeze(1)
        if targets.score != "logit":
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


def _function_score(function: TargetFunction, output: Any) -> TargetScore:
    score = function(output)
    n = len(output) if isinstance(output, Tensor) else None
    if isinstance(score, np.ndarray):
        score = torch.from_numpy(score)
    if not isinstance(score, Tensor) or score.ndim != 1 or (n is not None and len(score) != n):
        raise OptionError(
            f"the target function returned {describe_output(score)}: one number per sample is needed, "
            f"[{'N' if n is None else n}]."
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
        ModelError: a score does not depend on `x` through autograd, or a gradient is not finite.
    """
    gradients = []
    for k, score in enumerate(scores):
        keep = not free_graph or k < len(scores) - 1
        gradient = (
            torch.autograd.grad(score.tensor, x, score.weight, retain_graph=keep, allow_unused=True)[0]
            if score.tensor.requires_grad
            else None
        )
        if gradient is None:
            raise ModelError(
                f"the score does not depend on {x_name} through autograd (a detach, a no_grad, a rounding, or numpy "
                "on the way), so there is no gradient; perturbation methods, such as occlusion, need none."
            )
        if not is_finite(gradient):
            raise ModelError(f"the gradient of target {k} holds NaN or infinite values{non_finite_cause(model)}.")
        gradients.append(gradient)
    return torch.stack(gradients, dim=1)


def score_values(scores: list[TargetScore]) -> Float[Tensor, "N K"]:
    """The values of K scores as one tensor [N, K]."""
    return torch.stack([score.value for score in scores], 1)


def class_names(indices: Tensor, labels: Sequence[str] | None) -> tuple[tuple[str, ...], ...]:
    """The labels of class indices [N, K]; the index as text where there is no label."""
    return tuple(
        tuple(labels[i] if labels is not None and i < len(labels) else str(i) for i in row) for row in indices.tolist()
    )


def _is_index_or_label(target: Any) -> bool:
    return isinstance(target, str) or (isinstance(target, (int, np.integer)) and not isinstance(target, bool))


def _parse_top(target: Any, labels: Sequence[str] | None) -> int | None:
    match = re.fullmatch(r"top(\d+)", target) if isinstance(target, str) and target not in (labels or ()) else None
    return int(match[1]) if match else None


def _class_index(name: Any, model: Model) -> int:
    if not isinstance(name, str):
        return int(name)
    if model.labels is None:
        raise UnknownNameError(f"target={name!r}: {model.name} has no labels: give an index, or wrap(labels=[...]).")
    matches = [i for i, label in enumerate(model.labels) if label == name] or [
        i
        for i, label in enumerate(model.labels)
        if name.casefold() in [label.casefold(), *(part.strip().casefold() for part in label.split(","))]
    ]
    if not matches:
        raise unknown_name_error("label", name, model.labels)
    if len(matches) > 1:
        raise OptionError(f"target={name!r} is the label of several classes: give one of the indices {matches}.")
    return matches[0]
