"""Class predictions of a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from seewhy.errors import ModelError, OptionError
from seewhy.results import Prediction
from seewhy.tracing.forward import eval_mode, run_forward
from seewhy.tracing.outputs import concatenate_outputs
from seewhy.tracing.validation import prepare_model_and_input

from .scoring import class_names, class_scores

if TYPE_CHECKING:
    from jaxtyping import Float

    from seewhy.model import Model

PREDICT_BATCH_SIZE = 8


def predict(model: Any, x: Any, top: int = 3) -> Prediction:
    """Return the classes with the largest probabilities of each sample.

    Args:
        model: a network, or a wrapped one.
        x: a batch of inputs, or any source that the model's `prepare` accepts.
        top: number of classes per sample.

    Raises:
        OptionError: `top` exceeds the number of classes.
        ModelError: the output is not one score per class.
    """
    model, inputs = prepare_model_and_input(model, x)
    with eval_mode(model):
        output = concatenate_outputs(
            [run_forward(model, part, graph=False).output for part in inputs.split(PREDICT_BATCH_SIZE)]
        )
    probabilities, already = class_probabilities(output, model)
    if probabilities is None:
        raise ModelError(f"{model.name} returns one number per sample: there are no classes to rank.")
    if probabilities.ndim > 2:
        positions = list(probabilities.shape[2:])
        raise ModelError(f"{model.name} returns scores at {positions} positions: predict needs one score per class.")
    if not 1 <= top <= probabilities.shape[1]:
        raise OptionError(f"top={top} is out of range: {model.name} has {probabilities.shape[1]} classes.")
    best = probabilities.topk(top, 1)
    notes = model.notes + ((ALREADY_PROBABILITIES,) if already else ())
    return Prediction(best.indices, best.values, class_names(best.indices, model.labels), output, notes)


ALREADY_PROBABILITIES = (
    "the output consists of probabilities already, so no softmax is added; score='logit' explains the output unchanged"
)


def class_probabilities(output: Any, model: Model) -> tuple[Float[Tensor, "N classes *P"] | None, bool]:
    """Softmax over the classes, and whether the output consists of probabilities already.

    Returns:
        The probabilities, None for an output of one number per sample; and True if the output itself is non-negative
        and sums to one, in which case it is returned unchanged.
    """
    scores = class_scores(output, model)
    if scores.shape[1] < 2:
        return None, False
    already = bool((scores >= 0).all()) and torch.allclose(scores.sum(1), scores.new_ones(()), atol=1e-4)
    return (scores if already else scores.softmax(1)), already
