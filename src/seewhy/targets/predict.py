"""Class predictions of a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from seewhy.errors import ModelError, OptionError
from seewhy.models import wrap
from seewhy.results import Prediction
from seewhy.tracing.final_activation import NetworkOutput
from seewhy.tracing.forward import eval_mode, run_forward
from seewhy.tracing.multi_input import are_several_inputs, model_of_one_input, several_inputs
from seewhy.tracing.outputs import concatenate_outputs
from seewhy.tracing.validation import prepare_model_and_input

from .parsing import class_names, score_labels
from .scoring import class_scores

if TYPE_CHECKING:
    from jaxtyping import Float

    from seewhy.model import Model

PREDICT_BATCH_SIZE = 8
DEFAULT_TOP = 3


def predict(model: Any, x: Any, top: int | None = None) -> Prediction:
    """Return the classes with the largest probabilities of each sample.

    Args:
        model: a network, or a wrapped one.
        x: a batch of inputs, or any source that the model's `prepare` accepts.
        top: number of classes per sample; default: three, or all if there are fewer.

    Raises:
        OptionError: `top` exceeds the number of classes, or the model has another number of labels than of scores.
        ModelError: the output is not one score per class.
    """
    model, output = _outputs(wrap(model), x)
    probabilities, already = class_probabilities(output, model)
    if probabilities is None:
        raise ModelError(f"{model.name} returns one number per sample: there are no classes to rank.")
    if probabilities.ndim > 2:
        positions = list(probabilities.shape[2:])
        raise ModelError(f"{model.name} returns scores at {positions} positions: predict needs one score per class.")
    count = probabilities.shape[1]
    top = min(DEFAULT_TOP, count) if top is None else top
    if not 1 <= top <= count:
        raise OptionError(f"top={top} is out of range: {model.name} has {count} classes.")
    best = probabilities.topk(top, 1)
    labels, notes = score_labels(model, count)
    notes = (*model.notes, *notes, *_probability_notes(output, already))
    return Prediction(best.indices, best.values, class_names(best.indices, labels), output.value, notes)


def _outputs(model: Model, x: Any) -> tuple[Model, NetworkOutput]:
    """Return the model as it was run, and its output for all samples."""
    batches = [(model, x)]
    if are_several_inputs(x):
        inputs = several_inputs(model, x)
        free = next(iter(inputs.varied or inputs.tensors))
        samples = [inputs.sample(n) for n in range(inputs.samples)]
        batches = [(model_of_one_input(model, sample, free, inputs.in_order), sample[free]) for sample in samples]
    outputs = []
    for batch_model, batch in batches:
        model, tensors = prepare_model_and_input(batch_model, batch)
        with eval_mode(model):
            outputs += [run_forward(model, part, graph=False).explained for part in tensors.split(PREDICT_BATCH_SIZE)]
    return model, concatenate_outputs(outputs)


ALREADY_PROBABILITIES = (
    "the output consists of probabilities already, so no softmax is added; score='logit' explains the output unchanged"
)


def _probability_notes(output: NetworkOutput, already: bool) -> tuple[str, ...]:
    """The note on where probabilities come from; none if a softmax was added to the output."""
    if already:
        return (ALREADY_PROBABILITIES,)
    if output.activation == "sigmoid":
        return ("the network ends in sigmoids: each class has a probability of its own, and they need not sum to 1",)
    return (
        () if output.activation is None else ("the probabilities are those of the softmax at the end of the network",)
    )


def class_probabilities(output: NetworkOutput, model: Model) -> tuple[Float[Tensor, "N classes *P"] | None, bool]:
    """Probabilities of the classes, and whether the output consists of probabilities of unknown origin.

    Returns:
        The sigmoids of the logits if the network ends in sigmoids, else their softmax; None for an output of one number
        per sample that is no sigmoid. And True if the output does not end in an activation that was observed, but is
        non-negative and sums to one; in that case it is returned unchanged.
    """
    scores = class_scores(output, model)
    if output.activation == "sigmoid":
        return scores.sigmoid(), False
    if scores.shape[1] < 2:
        return None, False
    already = (
        output.activation is None
        and bool((scores >= 0).all())
        and torch.allclose(scores.sum(1), scores.new_ones(()), atol=1e-4)
    )
    return (scores if already else scores.softmax(1)), already
