"""Data sets: what `explain` gives for one batch after the other, each when it is asked for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
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
from seewhy.models import keras3, wrap
from seewhy.trace import question
from seewhy.trace.forward import placed
from seewhy.trace.tap import check_layer
from seewhy.types import Card

from .averaged import Averaged
from .checks import check_asked, check_needs, is_one, members_of
from .progress import Way, tracked

if TYPE_CHECKING:
    from seewhy.types import Model

One = Callable[..., Any]
ONE_BATCH = (str, bytes, PathLike, IOBase, list, tuple, Mapping)  # iterable, and no data set
END = object()


def is_data(x: Any) -> bool:
    """Whether this gives batches, and is none itself.

    Raises:
        InputError: it is a data set of single samples.
    """
    if isinstance(x, ONE_BATCH) or hasattr(x, "__array__"):
        return False
    if isinstance(x, Iterable) or keras3.is_data_set(x):
        return True
    if isinstance(x, Dataset):
        raise InputError(
            f"a {type(x).__name__} gives single samples, and batches are explained: give "
            "torch.utils.data.DataLoader(data, batch_size=8)."
        )
    return False


class Stream:
    """An iterator of what `explain` gives for each batch of a data set. Between batches nothing is held or running."""

    def __init__(self, explained: Callable[[Any, Callable[..., None]], Any], data: Any, what: str, bar: Any) -> None:
        self._explained, self._data, self._what, self._bar = explained, data, what, bar
        self._source: Iterator[Any] | None = None
        self._way = Way(0.0, 0, 0, _length(data))

    def __iter__(self) -> Stream:
        return self

    def __length_hint__(self) -> int | NotImplementedType:
        """Batches that are still to come, as far as the data set says."""
        whole = self._way.of
        return NotImplemented if whole is None else max(0, whole - self._way.parts)

    def __next__(self) -> Any:
        if self._source is None:
            self._source, self._way = _batches(self._data), self._way._replace(began=time.monotonic())
        number, passed = self._way.parts, 0
        with tracked(self._what, self._bar, self._way) as advance:

            def told(passes: int, reached: str = "") -> None:
                nonlocal passed
                passed += passes
                advance(passes, reached)

            try:
                batch = next(self._source, END)
                if batch is not END:
                    return self._explained(batch, told)
            except SeewhyError as error:
                raise type(error)(f"batch {number}: {error}") from error
            except StopIteration as error:  # of the network's own code; it must not look like the end
                raise RuntimeError(f"batch {number} raised StopIteration") from error
            except Exception as error:
                error.add_note(f"in batch {number} of the data set")
                raise
            finally:
                self._way = self._way._replace(parts=number + 1, passes=self._way.passes + passed)
        raise StopIteration


def stream(explain: One, model: Any, data: Any, method: Any, same: Mapping[str, Any], own: Mapping[str, Any]) -> Stream:
    """What `explain` gives for a data set.

    Args:
        explain: `explain`, of one batch.
        model: who answers.
        data: what gives the batches.
        method: one or several.
        same: what is asked of every method.
        own: the methods' options.

    Raises:
        SeewhyError: as `explain`, for what is wrong whatever the batches hold.
    """
    model = wrap(model)
    names = _check(model, method, same, own)

    def explained(batch: Any, advance: Callable[..., None]) -> Any:
        x, y = _parted(batch, model)
        asked = {**same, "progress": advance}
        if question.is_label(asked["target"], model):
            asked["target"] = _classes(y)
        return explain(model, x, method, **asked, **own)

    return Stream(explained, data, ", ".join(names), same["progress"])


def _check(model: Model, method: Any, same: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
    """Refuse what can be refused without a batch; the names of the methods."""
    methods = [method] if is_one(method) else list(method)
    plain = [one.method if isinstance(one, Averaged) else one for one in methods]
    alone = any(isinstance(one, Averaged) for one in methods)  # then each has to know every option
    layer = same["feature_layer"]
    found = []
    for group in [[one] for one in plain] if alone else [plain]:
        names, members = members_of(group, own)
        for one in layer if isinstance(layer, (list, tuple)) else [layer]:
            check_asked(names, members, {**same, "feature_layer": one})
        if model.conversion is None:  # else it hangs on the input what the network can give
            check_needs(model, names, members)
        found += names
    if same["reduction_layer"] is not None and model.conversion is None:
        check_layer(model, same["reduction_layer"])
    question.check(same["target"], None, model)
    placed(model, same["device"])
    return found


def _length(data: Any) -> int | None:
    try:
        return len(data)
    except (TypeError, NotImplementedError):
        return None


def _batches(data: Any) -> Iterator[Any]:
    """An iterator that goes on behind a batch that could not be read, if the data set can."""
    if not keras3.is_data_set(data):
        return iter(data)
    known = _length(data)
    return map(data.__getitem__, count() if known is None else range(known))


def _parted(batch: Any, model: Model) -> tuple[Any, Any]:
    """A batch as x and y.

    Raises:
        InputError: it holds more than x, y and weights, or another number of y than of x.
    """
    x, y = batch, None
    if isinstance(batch, (tuple, list)) and batch and _is_batch(batch[0]):
        if len(batch) > 3:
            raise InputError(
                f"a {type(batch).__name__} of {len(batch)}: a data set gives x, (x,), (x, y) or (x, y, weights); "
                "several inputs stand inside it, ((a, b), y), and unbatched ones are explained in a loop of your own."
            )
        x, y = batch[0], batch[1] if len(batch) > 1 else None
    samples, labels = _count(x, model), _rows(y)
    if samples is not None and labels is not None and samples != labels:
        raise InputError(f"{samples} samples and {labels} labels: a pair (x, y) holds as many of both.")
    is_array = hasattr(x, "__array__") and not isinstance(x, (Tensor, np.ndarray))
    return (np.array(x) if is_array else x), y


def _is_batch(thing: Any) -> bool:
    return isinstance(thing, (tuple, list, Mapping)) or hasattr(thing, "__array__")


def _count(x: Any, model: Model) -> int | None:
    """Samples of a batch, where that can be said."""
    if isinstance(x, (tuple, Mapping)) and x:
        return _rows(next(iter(x.values() if isinstance(x, Mapping) else x)))
    if isinstance(x, np.ndarray) and isinstance(model.preparation, Card):
        return 1  # a picture
    if len(getattr(x, "shape", ())) > 1:
        return int(x.shape[(model.layout or "N").index("N")])
    return len(x) if isinstance(x, list) else None


def _rows(y: Any) -> int | None:
    shape = getattr(y, "shape", None)
    if shape is not None:
        return int(shape[0]) if len(shape) else None
    return len(y) if isinstance(y, (list, tuple)) else None


def _classes(y: Any) -> Tensor:
    """Labels as the class of each sample [N].

    Raises:
        InputError: there are none, or they are no classes.
    """
    if y is None:
        raise InputError("target='label' needs pairs (x, y), and this batch holds no y.")
    try:
        found = y if isinstance(y, Tensor) else torch.as_tensor(np.asarray(y))
        found = found.squeeze(1) if found.ndim == 2 and found.shape[1] == 1 else found
        what = f"{found.dtype} {list(found.shape)}"
    except (TypeError, ValueError):  # names, say
        found, what = torch.empty(0, 0), f"a {type(y).__name__} of no numbers"
    if found.ndim != 1 or found.is_floating_point() or found.dtype == torch.bool:
        raise InputError(
            f"target='label', but the labels are {what}: the class of each sample is needed, whole numbers [N]; of "
            "one-hot ones y.argmax(1)."
        )
    return found
