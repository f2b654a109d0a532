"""What exactly is asked: from a network's output to one number a sample.

Class c of logits z, with the margin m = z_c - logsumexp of the others: probability s = sigmoid(m). Hence
ds = s(1-s) dm, and m never saturates, so every score is traced through z_c or m, and the factor is
applied on the way back. A class that has positions (segmentation) is summed over them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from seewhy.errors import ModelError, OptionError, UnknownNameError, choose, unknown

from .forward import suspect
from .layout import class_axis
from .outputs import describe, finite, parts

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    from seewhy.types import Inputs, Model, Values

SCORES = ("logit", "probability", "log_probability", "margin")
Callback = Callable[[Any], Tensor]


class Asked(NamedTuple):
    """K questions: class indices [N, K] of each sample, or K functions of the output."""

    score: str
    indices: Tensor | None = None
    functions: tuple[Callback, ...] = ()

    def take(self, rows: Tensor) -> Asked:
        """The questions of some samples, repeated as often as they are named."""
        return self if self.indices is None else self._replace(indices=self.indices[rows])


class Scored(NamedTuple):
    """One question's answer for a batch."""

    traced: Tensor  # [N, *P], differentiable
    weight: Tensor  # [N, *P], derivative of the score by what is traced
    value: Float[Tensor, " N"]  # the score, detached
    rescued: Bool[Tensor, " N"]  # where the weight underflowed and was rescaled


def check(target: Any, n: int | None, model: Model) -> None:
    """Refuse what cannot be a target, before any compute; `n` samples, None: batches of a data set.

    Raises:
        OptionError: it cannot.
        UnknownNameError: a label that does not exist.
    """
    if isinstance(target, (list, tuple, range)) and not target:
        raise OptionError(f"target={target!r} asks for nothing: give None, a class, or a list of classes.")
    if is_label(target, model) and n is not None:
        raise OptionError(
            "target='label' means the labels y of a data set of pairs (x, y), and this is one batch: give its classes "
            "as a tensor [N]."
        )
    if isinstance(target, (Tensor, np.ndarray)):
        if n is None:
            raise OptionError(
                "a target tensor is for one batch, and this is a data set: let it give pairs (x, y), and ask for "
                "target='label'."
            )
        shape = list(target.shape)
        integer = not torch.as_tensor(target).is_floating_point() and torch.as_tensor(target).dtype != torch.bool
        if not integer or len(shape) not in (1, 2) or shape[0] != n or 0 in shape:
            kind = f"{target.dtype} of shape {shape}"
            raise OptionError(f"a target tensor holds integers, [{n}] or [{n}, K] for {n} samples; this is {kind}.")
    elif not (
        target is None
        or _is_name(target)
        or callable(target)
        or (isinstance(target, (list, tuple, range)) and (all(map(callable, target)) or all(map(_is_name, target))))
    ):
        raise OptionError(
            f"target={target!r}: give None, a class index or label, a list of them, 'top3', 'all', a tensor [N] or "
            "[N, K], or functions of the output."
        )
    elif not callable(target) and not is_label(target, model) and not is_all(target, model):
        for name in target if isinstance(target, (list, tuple, range)) else [target]:
            if isinstance(name, str) and _top(target, model.labels) is None:
                _index(name, model)


def is_all(target: Any, model: Model) -> bool:
    """Whether every class is asked for; a class that has this name comes first."""
    return isinstance(target, str) and target == "all" and target not in (model.labels or ())


def is_label(target: Any, model: Model) -> bool:
    """Whether the labels of a data set are asked for; a class that has this name comes first."""
    return isinstance(target, str) and target == "label" and target not in (model.labels or ())


def resolve(target: Any, score: str, model: Model, output: Any, rows: slice) -> Asked:
    """The questions for the samples `rows` of a call, given the network's output for them.

    Raises:
        UnknownNameError: a label that does not exist.
        OptionError: a class out of range, or a score that the output cannot have.
        ModelError: a class was asked of an output that is no tensor of scores.
    """
    if callable(target):
        target = [target]
    if isinstance(target, (list, tuple)) and callable(target[0]):
        if score != "logit":
            raise OptionError(f"score={score!r} is for classes; a function of the output is explained as it is.")
        return Asked(score, functions=tuple(target))
    totals = class_scores(output, model).detach()
    totals = totals.flatten(2).sum(2) if totals.ndim > 2 else totals
    n, count = totals.shape
    if score != "logit" and count < 2:
        raise OptionError(f"score={score!r} compares classes, but {model.name} gives one number: use score='logit'.")
    if isinstance(target, (Tensor, np.ndarray)):
        chosen = torch.as_tensor(target)[rows].to(totals.device, torch.int64).reshape(n, -1)
    elif target is None:
        chosen = totals.argmax(1, keepdim=True)
    elif is_all(target, model):
        chosen = torch.arange(count, device=totals.device).expand(n, -1)
    elif (best := _top(target, model.labels)) is not None:
        if not 1 <= best <= count:
            raise OptionError(f"target={target!r}: {model.name} gives {count} scores.")
        chosen = totals.topk(best, 1).indices
    else:
        names = target if isinstance(target, (list, tuple, range)) else [target]
        chosen = torch.tensor([_index(name, model) for name in names], device=totals.device).expand(n, -1)
    wrong = chosen[(chosen < 0) | (chosen >= count)]
    if len(wrong):
        raise OptionError(
            f"class {int(wrong[0])} is out of range: {model.name} gives {count} scores, 0 to {count - 1}."
        )
    return Asked(choose("score", score, SCORES), indices=chosen)


def class_scores(output: Any, model: Model) -> Float[Tensor, "N classes *P"]:
    """The output as scores of classes, class axis second.

    Raises:
        ModelError: it is not one floating-point tensor.
    """
    if not isinstance(output, Tensor):
        first = next(iter(parts(output)), "")
        raise ModelError(
            f"{model.name} returns {describe(output)}: a class is asked of one tensor. Give a function, such as "
            f"target=lambda output: output{first}[:, 3], or seewhy.wrap(network, "
            f"forward=lambda network, x: network(x){first})."
        )
    if not output.is_floating_point():
        raise ModelError(f"{model.name} returns {output.dtype}: scores are needed, not decisions.")
    return output.unsqueeze(1) if output.ndim == 1 else output.movedim(class_axis(output.ndim, model.layout), 1)


def scored(asked: Asked, output: Any, model: Model, *, rescue: bool = True) -> list[Scored]:
    """The K answers for a batch whose samples are those of `asked`.

    Args:
        asked: the questions.
        output: the network's output for the same samples.
        model: who gave it.
        rescue: rescale a factor that underflows, sample by sample (along a path it must be kept).

    Raises:
        OptionError: a function did not give one number a sample.
    """
    if asked.functions:
        return [_called(f, output) for f in asked.functions]
    assert asked.indices is not None
    z = class_scores(output, model)
    answers = []
    for chosen in asked.indices.T:
        index = chosen.view(-1, *[1] * (z.ndim - 1)).expand(-1, 1, *z.shape[2:])
        traced = z.gather(1, index).squeeze(1)
        if asked.score != "logit":
            traced = traced - z.scatter(1, index, -torch.inf).logsumexp(1)
        answers.append(_weighed(traced, asked.score, rescue))
    return answers


def _weighed(traced: Tensor, score: str, rescue: bool) -> Scored:
    m = traced.detach()
    value, log_weight = {
        "logit": lambda: (m, torch.zeros_like(m)),
        "margin": lambda: (m, torch.zeros_like(m)),
        "probability": lambda: (m.sigmoid(), -F.softplus(m) - F.softplus(-m)),
        "log_probability": lambda: (F.logsigmoid(m), -F.softplus(m)),
    }[score]()
    axes = tuple(range(1, m.ndim))
    top = log_weight.amax(axes) if axes else log_weight
    # below the root of the smallest normal number a product with a gradient would lose digits
    lost = (top < 0.5 * float(np.log(torch.finfo(m.dtype).tiny))) & rescue
    shift = torch.where(lost, top, torch.zeros_like(top)).view(-1, *[1] * len(axes))
    return Scored(traced, (log_weight - shift).exp(), value.sum(axes) if axes else value, lost)


def _called(function: Callback, output: Any) -> Scored:
    given = function(output)
    n = len(output) if isinstance(output, Tensor) else None
    if isinstance(given, np.ndarray):
        given = torch.from_numpy(given)
    if not isinstance(given, Tensor) or given.ndim != 1 or (n is not None and len(given) != n):
        raise OptionError(
            f"the target function gave {describe(given)}: one number a sample is needed, [{'N' if n is None else n}]."
        )
    return Scored(given, torch.ones_like(given), given.detach(), torch.zeros(len(given), dtype=torch.bool))


def gradients(answers: list[Scored], x: Inputs, model: Model, *, last: bool = True, what: str = "the input") -> Values:
    """[N, K, C, *S]: derivative of every score by the input or by a layer's features; one retained backward a score.

    Args:
        answers: from `scored`, of one forward.
        x: the leaf that went in, or the features.
        model: whose they are.
        what: how a message calls x.
        last: whether the graph may be freed afterwards.

    Raises:
        ModelError: a score does not depend on the input through autograd, or a gradient is not finite.
    """
    found = []
    for number, answer in enumerate(answers, 1):
        keep = not last or number < len(answers)
        got = (
            torch.autograd.grad(answer.traced, x, answer.weight, retain_graph=keep, allow_unused=True)[0]
            if answer.traced.requires_grad
            else None
        )
        if got is None:
            raise ModelError(
                f"the score does not depend on {what} through autograd (a detach, a no_grad, a rounding, or numpy "
                "on the way), so there is no gradient; occlusion, lime, rise and kernel_shap need none."
            )
        if not finite(got):
            raise ModelError(f"the gradient of target {number - 1} holds NaN or infinite values{suspect(model)}.")
        found.append(got)
    return torch.stack(found, dim=1)


def values_of(answers: list[Scored]) -> Float[Tensor, "N K"]:
    """The scores themselves."""
    return torch.stack([a.value for a in answers], 1)


def names_of(indices: Tensor, labels: Sequence[str] | None) -> tuple[tuple[str, ...], ...]:
    """Class indices [N, K] as names; the index itself where there is none."""
    return tuple(
        tuple(labels[i] if labels is not None and i < len(labels) else str(i) for i in row) for row in indices.tolist()
    )


def _is_name(target: Any) -> bool:
    return isinstance(target, str) or (isinstance(target, (int, np.integer)) and not isinstance(target, bool))


def _top(target: Any, labels: Sequence[str] | None) -> int | None:
    found = re.fullmatch(r"top(\d+)", target) if isinstance(target, str) and target not in (labels or ()) else None
    return int(found[1]) if found else None


def _index(name: Any, model: Model) -> int:
    if not isinstance(name, str):
        return int(name)
    if model.labels is None:
        raise UnknownNameError(f"target={name!r}: {model.name} has no labels; give an index, or wrap(labels=[...]).")
    found = [i for i, label in enumerate(model.labels) if label == name] or [
        i
        for i, label in enumerate(model.labels)
        if name.casefold() in [label.casefold(), *(part.strip().casefold() for part in label.split(","))]
    ]
    if not found:
        raise unknown("label", name, model.labels)
    if len(found) > 1:
        raise OptionError(f"target={name!r} names several classes: give one of the indices {found}.")
    return found[0]
