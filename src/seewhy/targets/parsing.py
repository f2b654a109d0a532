"""Parsing of `target=`: which classes it names, for all samples or per sample, and the labels of classes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from seewhy.errors import OptionError, UnknownNameError, unknown_name_error

if TYPE_CHECKING:
    from seewhy.model import Model

ONE_HOT_ADVICE = "for one-hot labels, give the indices: target=labels.argmax(1)"


@dataclass(frozen=True)
class ClassIndices:
    """Class indices [N, K] that an earlier call determined; unlike a user's array they are never one-hot labels."""

    indices: Tensor


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
    if isinstance(target, ClassIndices):
        return
    if isinstance(target, (list, tuple, range)) and not target:
        raise OptionError(f"target={target!r} is empty: give None, a class, or a list of classes.")
    if is_data_set_labels(target, model) and n is not None:
        raise OptionError(
            "target='label' means the labels y of a data set of pairs (x, y), but the input is a single batch: give "
            "the classes as a tensor [N]."
        )
    if is_per_sample(target):
        _check_per_sample(target, n, model)
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
            "tensor [N] or [N, K], nested lists [[a], [b]], or functions of the output."
        )
    elif not callable(target) and not is_data_set_labels(target, model) and not is_all_classes(target, model):
        for name in target if isinstance(target, (list, tuple, range)) else [target]:
            if isinstance(name, str) and parse_top(target, model.labels) is None:
                class_index(name, model.labels, model)


def is_per_sample(target: Any) -> bool:
    """Whether `target` names classes per sample: a tensor or array, or lists inside a list or tuple."""
    if isinstance(target, (list, tuple)):
        return any(isinstance(row, (list, tuple)) for row in target)
    return isinstance(target, (Tensor, np.ndarray))


def _check_per_sample(target: Any, n: int | None, model: Model) -> None:
    """Refuse per-sample targets that are not one row of indices or labels per sample."""
    if n is None:
        raise OptionError(
            "a target per sample is for a single batch, but the input is a data set: let the data set yield pairs "
            "(x, y), and give target='label'."
        )
    if isinstance(target, (list, tuple)) and not all(isinstance(row, (list, tuple)) for row in target):
        raise OptionError(f"target={target!r} mixes lists and single classes: give one list of classes per sample.")
    if isinstance(target, (list, tuple)) and len({len(row) for row in target}) > 1:
        raise OptionError(f"target={target!r} has rows of unequal length: give equally many classes per sample.")
    shape = list(target.shape) if isinstance(target, (Tensor, np.ndarray)) else [len(target), len(target[0])]
    dtype = target.dtype if isinstance(target, (Tensor, np.ndarray)) else "nested lists"
    allowed = _holds_integers(target) or (
        not isinstance(target, Tensor) and all(map(_is_index_or_label, _flat(target)))
    )
    if not allowed or len(shape) not in (1, 2) or shape[0] != n or 0 in shape:
        advice = "" if allowed or len(shape) != 2 else f" {ONE_HOT_ADVICE[0].upper()}{ONE_HOT_ADVICE[1:]}."
        raise OptionError(
            f"a target per sample holds integers or labels of shape [{n}] or [{n}, K] for {n} samples, but this one is "
            f"{dtype} of shape {shape}.{advice}"
        )
    for name in [] if isinstance(target, Tensor) else _flat(target):
        if isinstance(name, str):
            class_index(name, model.labels, model)


def _holds_integers(target: Any) -> bool:
    if isinstance(target, Tensor):
        return not target.is_floating_point() and not target.is_complex() and target.dtype != torch.bool
    return isinstance(target, np.ndarray) and target.dtype.kind in "iu"


def _flat(target: Any) -> list[Any]:
    """All values of nested lists or of an array."""
    return target.ravel().tolist() if isinstance(target, np.ndarray) else [name for row in target for name in row]


def split_target(target: Any, count: int) -> list[Any]:
    """The target of each sample, for samples that are explained one by one.

    Raises:
        OptionError: the target has one row per sample, but not `count` rows.
    """
    if not is_per_sample(target) or (isinstance(target, Tensor) and not target.ndim):
        return [target] * count
    if len(target) != count:
        raise OptionError(f"the target has {len(target)} rows, but the input has {count} samples: give one per sample.")
    return [target[n : n + 1] for n in range(count)]


def per_sample_indices(target: Any, count: int, labels: Sequence[str] | None, model: Model) -> Tensor:
    """Return per-sample targets, which passed `check_target`, as class indices [N, K].

    Args:
        target: the argument of `explain`, for the whole input.
        count: the number of scores.
        labels: the label of each score, or None.
        model: the model.

    Raises:
        OptionError: the target consists of one-hot labels.
        UnknownNameError: the model has no such label.
    """
    if isinstance(target, Tensor):
        indices = target.to(torch.int64)
    elif _holds_integers(target):
        indices = torch.from_numpy(np.array(target, dtype=np.int64, order="C"))
    else:
        rows = target.reshape(len(target), -1).tolist() if isinstance(target, np.ndarray) else target
        indices = torch.tensor([[class_index(name, labels, model) for name in row] for row in rows])
    indices = indices.reshape(len(indices), -1)
    if indices.shape[1] == count > 1 and bool(((indices == 0) | (indices == 1)).all() & (indices.sum(1) == 1).all()):
        both = "; for both classes of each sample use target='all', and for one a column of indices [N, 1]"
        raise OptionError(
            f"the target of shape {list(indices.shape)} has a single 1 and zeros in each row, as many as there are "
            f"scores: {ONE_HOT_ADVICE}{both if count == 2 else ''}."
        )
    return indices


def is_all_classes(target: Any, model: Model) -> bool:
    """Whether `target` means every class; a class labeled "all" takes precedence."""
    return isinstance(target, str) and target == "all" and target not in (model.labels or ())


def is_data_set_labels(target: Any, model: Model) -> bool:
    """Whether `target` means the labels of a data set; a class labeled "label" takes precedence."""
    return isinstance(target, str) and target == "label" and target not in (model.labels or ())


def parse_top(target: Any, labels: Sequence[str] | None) -> int | None:
    """The number k of a target "topk"; None for any other target, also for a label of this form."""
    match = re.fullmatch(r"top(\d+)", target) if isinstance(target, str) and target not in (labels or ()) else None
    return int(match[1]) if match else None


def score_labels(model: Model, count: int, layer: str | None = None) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """The label of each score, or None, and notes on how labels were assigned.

    Args:
        model: the model.
        count: the number of scores.
        layer: the layer whose output is explained; its scores have labels only if there are as many.

    Raises:
        OptionError: the network's output has another number of scores than the model has labels.
    """
    labels = model.labels
    if labels is None or len(labels) == count:
        return labels, ()
    if count == 1 and len(labels) == 2:
        return labels[1:], (f"the network has one score and two labels: the score is that of {labels[1]!r}",)
    if layer is not None:
        return None, ()
    raise OptionError(
        f"{model.name} has {len(labels)} labels but returns {count} scores: give one label per score, in the order of "
        "the scores, where the network is wrapped or loaded (labels=[...])."
    )


def class_names(indices: Tensor, labels: Sequence[str] | None) -> tuple[tuple[str, ...], ...]:
    """The labels of class indices [N, K]; the index as text where there are no labels."""
    return tuple(tuple(str(i) if labels is None else labels[i] for i in row) for row in indices.tolist())


def class_index(name: Any, labels: Sequence[str] | None, model: Model) -> int:
    """The index of a class that is named by its index or label; a part of a label between commas suffices.

    Raises:
        UnknownNameError: there is no such label.
        OptionError: several classes have this label.
    """
    if not isinstance(name, str):
        return int(name)
    if labels is None:
        raise UnknownNameError(f"target={name!r}: {model.name} has no labels: give an index, or wrap(labels=[...]).")
    matches = [i for i, label in enumerate(labels) if label == name] or [
        i
        for i, label in enumerate(labels)
        if name.casefold() in [label.casefold(), *(part.strip().casefold() for part in label.split(","))]
    ]
    if not matches:
        raise unknown_name_error("label", name, labels)
    if len(matches) > 1:
        raise OptionError(f"target={name!r} is the label of several classes: give one of the indices {matches}.")
    return matches[0]


def _is_index_or_label(target: Any) -> bool:
    return isinstance(target, str) or (isinstance(target, (int, np.integer)) and not isinstance(target, bool))
