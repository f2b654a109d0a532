"""Explanations of a data set, computed batch by batch on request."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from io import IOBase
from itertools import count
from os import PathLike
from types import NotImplementedType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from seewhy.errors import InputError, SeewhyError
from seewhy.inputs.arrays import tensor_of
from seewhy.inputs.preprocessing import Preprocessing
from seewhy.models import keras, wrap
from seewhy.models.module_tree import resolve_layer_name
from seewhy.targets.parsing import check_target, is_data_set_labels
from seewhy.tracing.forward import resolve_device
from seewhy.tracing.layer_hooks import check_layer

from .dispatch import run_call
from .progress import StreamProgress, track_progress
from .validation import Arguments, check_arguments, check_capabilities, method_names, requested_methods

if TYPE_CHECKING:
    from seewhy.model import Model

SINGLE_BATCH_TYPES = (str, bytes, PathLike, IOBase, list, tuple, Mapping)  # iterable, but not a data set
END_OF_DATA = object()


def is_batch_iterable(x: Any) -> bool:
    """Whether `x` is a data set that yields batches, as opposed to a single batch.

    Raises:
        InputError: `x` is a data set of single samples.
    """
    if isinstance(x, SINGLE_BATCH_TYPES) or hasattr(x, "__array__"):
        return False
    if isinstance(x, Iterable) or keras.is_data_set(x):
        return True
    if isinstance(x, Dataset):
        raise InputError(
            f"a {type(x).__name__} returns single samples, but explain needs batches: use "
            "torch.utils.data.DataLoader(data, batch_size=8)."
        )
    return False


class ExplanationStream:
    """Iterator over the results of `explain` for the batches of a data set.

    Between two batches it keeps no result, and nothing runs in the background. An error in a batch does not end the
    iteration: the next call of `next` continues with the next batch.
    """

    def __init__(
        self,
        explain_batch: Callable[[Any, Callable[..., None]], Any],
        data: Any,
        label: str,
        progress: bool | Callable[..., None] | None,
    ) -> None:
        self._explain_batch, self._data, self._label, self._progress = explain_batch, data, label, progress
        self._iterator: Iterator[Any] | None = None
        self._position = StreamProgress(0.0, 0, 0, _length_of(data))

    def __iter__(self) -> ExplanationStream:
        return self

    def __length_hint__(self) -> int | NotImplementedType:
        """Number of remaining batches; NotImplemented where the data set has no length."""
        total = self._position.total_batches
        return NotImplemented if total is None else max(0, total - self._position.batches)

    def __next__(self) -> Any:
        if self._iterator is None:
            self._iterator = _batch_iterator(self._data)
            self._position = self._position._replace(start_time=time.monotonic())
        number, batch_passes = self._position.batches, 0
        with track_progress(self._label, self._progress, self._position) as advance:

            def count_passes(passes: int, detail: str = "") -> None:
                nonlocal batch_passes
                batch_passes += passes
                advance(passes, detail)

            try:
                batch = next(self._iterator, END_OF_DATA)
                if batch is not END_OF_DATA:
                    return self._explain_batch(batch, count_passes)
            except SeewhyError as error:
                raise type(error)(f"batch {number}: {error}") from error
            except StopIteration as error:  # raised by user code; unchanged it would end the iteration
                raise RuntimeError(f"batch {number} raised StopIteration") from error
            except Exception as error:
                error.add_note(f"in batch {number} of the data set")
                raise
            finally:
                self._position = self._position._replace(
                    batches=number + 1, passes=self._position.passes + batch_passes
                )
        raise StopIteration


def explain_data_set(
    model: Any, data: Any, method: Any, options: Mapping[str, Any], arguments: Arguments
) -> ExplanationStream:
    """Return an iterator over the results of `explain` for the batches of a data set.

    Args:
        model: a network, or a wrapped one.
        data: the data set, an iterable of batches.
        method: one method, or a list of methods.
        options: options of the methods.
        arguments: the common arguments of `explain`.

    Raises:
        SeewhyError: an argument that is wrong for every batch; the same errors as in `explain`.
    """
    model = wrap(model)
    methods = requested_methods(method, options)
    check_arguments(methods, arguments)
    if model.conversion is None:  # otherwise the capabilities are known only after a conversion with a batch
        check_capabilities(model, methods)
        if arguments.reduction_layer is not None:
            check_layer(model, resolve_layer_name(model, arguments.reduction_layer))
    check_target(arguments.target, None, model)
    resolve_device(model, arguments.device)

    def explain_batch(batch: Any, advance: Callable[..., None]) -> Any:
        x, y = _split_batch(batch, model)
        target = _class_targets(y) if is_data_set_labels(arguments.target, model) else arguments.target
        return run_call(model, x, method, options, replace(arguments, target=target, progress=advance))

    return ExplanationStream(explain_batch, data, method_names(methods), arguments.progress)


def _length_of(data: Any) -> int | None:
    try:
        return len(data)
    except (TypeError, NotImplementedError):
        return None


def _batch_iterator(data: Any) -> Iterator[Any]:
    """Return an iterator that can continue after a batch that failed to load, if the data set supports it."""
    if not keras.is_data_set(data):
        return iter(data)
    length = _length_of(data)
    return map(data.__getitem__, count() if length is None else range(length))


def _split_batch(batch: Any, model: Model) -> tuple[Any, Any]:
    """Return x and y of a batch; y is None where the batch has no labels.

    Raises:
        InputError: the batch has more items than x, y and weights, or x and y differ in length.
    """
    x, y = batch, None
    if isinstance(batch, (tuple, list)) and batch and _is_batch(batch[0]):
        if len(batch) > 3:
            raise InputError(
                f"the batch is a {type(batch).__name__} of {len(batch)} items: a data set must yield x, (x,), (x, y) "
                "or (x, y, weights). Nest several inputs, as in ((a, b), y); explain unbatched inputs in a loop."
            )
        x, y = batch[0], batch[1] if len(batch) > 1 else None
    samples, labels = _sample_count(x, model), _first_axis_length(y)
    if samples is not None and labels is not None and samples != labels:
        raise InputError(f"the batch (x, y) has {samples} samples and {labels} labels: both numbers must be equal.")
    is_foreign_array = hasattr(x, "__array__") and not isinstance(x, (Tensor, np.ndarray))
    return (np.array(x) if is_foreign_array else x), y


def _is_batch(item: Any) -> bool:
    return isinstance(item, (tuple, list, Mapping)) or hasattr(item, "__array__")


def _sample_count(x: Any, model: Model) -> int | None:
    """Number of samples in a batch, or None where it is not determined."""
    if isinstance(x, (tuple, Mapping)) and x:
        return _first_axis_length(next(iter(x.values() if isinstance(x, Mapping) else x)))
    if isinstance(x, np.ndarray) and isinstance(model.preparation, Preprocessing):
        return 1  # a single picture
    if len(getattr(x, "shape", ())) > 1:
        return int(x.shape[(model.layout or "N").index("N")])
    return len(x) if isinstance(x, list) else None


def _first_axis_length(values: Any) -> int | None:
    shape = getattr(values, "shape", None)
    if shape is not None:
        return int(shape[0]) if len(shape) else None
    return len(values) if isinstance(values, (list, tuple)) else None


def _class_targets(y: Any) -> Tensor:
    """Return labels as class indices [N].

    Raises:
        InputError: there are no labels, or they are not class indices.
    """
    if y is None:
        raise InputError("target='label' needs pairs (x, y), but this batch has no y.")
    try:
        labels = tensor_of(y)
        labels = labels.squeeze(1) if labels.ndim == 2 and labels.shape[1] == 1 else labels
        description = f"{labels.dtype} {list(labels.shape)}"
    except (TypeError, ValueError, InputError):  # for example names
        labels, description = torch.empty(0, 0), f"a {type(y).__name__} without numbers"
    if labels.ndim != 1 or labels.is_floating_point() or labels.dtype == torch.bool:
        raise InputError(
            f"target='label' needs one class index per sample, integers [N], but the labels are {description}. "
            "Convert one-hot labels with y.argmax(1)."
        )
    return labels
