"""Computations with backward passes, which are repeated or refused where autograd cannot use the recorded values."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch
from torch.utils.checkpoint import CheckpointError

from seewhy.errors import NoGradientError

from .autograd_graph import CHECKPOINT_REFUSED

CallArguments = ParamSpec("CallArguments")
Returned = TypeVar("Returned")


class Attempt(NamedTuple):
    """How a computation with backward passes is run.

    Attributes:
        copy_saved_values: copy every value that is saved for the backward pass.
        graph_from_input: record the graph from the input on, not from a layer.
    """

    copy_saved_values: bool = False
    graph_from_input: bool = False


def next_attempt(attempt: Attempt, error: Exception) -> Attempt:
    """Return how to repeat a computation that failed; where that does not help, raise the error.

    A backward pass needs values of the forward pass. Autograd raises an error where one of them was overwritten since:
    in the repetition every value is copied when it is saved, which takes more time and memory, but only for a network
    that needs it. (`torch.autograd.graph.allow_mutation_on_saved_tensors` copies less, but only one thread of a process
    may use it.) A checkpointed block recomputes its values with a graph from its input on.

    Raises:
        NoGradientError: the network uses gradient checkpointing of a kind that `torch.autograd.grad` does not support
            (use_reentrant=True), or that recomputes other values.
    """
    if not attempt.copy_saved_values and "modified by an inplace operation" in str(error):
        return attempt._replace(copy_saved_values=True)
    if not attempt.graph_from_input and isinstance(error, CheckpointError):
        return attempt._replace(graph_from_input=True)
    if "torch.utils.checkpoint" in str(error) or isinstance(error, CheckpointError):
        raise NoGradientError(CHECKPOINT_REFUSED) from error
    raise error


def saved_value_copies(attempt: Attempt) -> AbstractContextManager[Any]:
    """Context manager: values that are saved for a backward pass are copied, if the attempt says so."""
    if not attempt.copy_saved_values:
        return nullcontext()
    return torch.autograd.graph.saved_tensors_hooks(torch.Tensor.clone, lambda saved: saved)


def repeat_with_saved_copies(compute: Callable[CallArguments, Returned]) -> Callable[CallArguments, Returned]:
    """Return `compute`, which is repeated with copies of all saved values if the network overwrites some in place.

    Args:
        compute: a function without side effects, which runs forward passes and the backward passes through them.

    Raises:
        NoGradientError: raised by the returned function, see `next_attempt`.
    """

    @wraps(compute)
    def repeated(*args: CallArguments.args, **kwargs: CallArguments.kwargs) -> Returned:
        attempt = Attempt(graph_from_input=True)
        while True:
            try:
                with saved_value_copies(attempt):
                    return compute(*args, **kwargs)
            except RuntimeError as error:
                attempt = next_attempt(attempt, error)

    return repeated
