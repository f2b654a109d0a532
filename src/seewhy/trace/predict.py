"""What the network says, before anyone asks why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from seewhy.errors import ModelError, OptionError
from seewhy.types import Prediction

from .forward import quiet, run
from .outputs import join
from .question import class_scores, names_of
from .ready import ready

if TYPE_CHECKING:
    from jaxtyping import Float

    from seewhy.types import Model

BATCH = 8


def predict(model: Any, x: Any, top: int = 3) -> Prediction:
    """The best classes of each sample.

    Args:
        model: a network, or a wrapped one.
        x: a batch of inputs, or what the model's `prepare` takes.
        top: how many classes.

    Raises:
        OptionError: more classes than there are.
        ModelError: the output is not one score a class.
    """
    model, inputs = ready(model, x)
    with quiet(model):
        output = join([run(model, part, graph=False).output for part in inputs.split(BATCH)])
    shares, already = probabilities(output, model)
    if shares is None:
        raise ModelError(f"{model.name} gives one number a sample: there are no classes to rank.")
    if shares.ndim > 2:
        raise ModelError(f"{model.name} gives scores at {list(shares.shape[2:])} positions: predict is for one answer.")
    if not 1 <= top <= shares.shape[1]:
        raise OptionError(f"top={top}: {model.name} has {shares.shape[1]} classes.")
    best = shares.topk(top, 1)
    notes = model.notes + ((ALREADY,) if already else ())
    return Prediction(best.indices, best.values, names_of(best.indices, model.labels), output, notes)


ALREADY = "the output is probabilities already, so no softmax is added; score='logit' explains them as they are"


def probabilities(output: Any, model: Model) -> tuple[Float[Tensor, "N classes *P"] | None, bool]:
    """Softmax over the classes, and whether the output was probabilities already; None for one number a sample."""
    scores = class_scores(output, model)
    if scores.shape[1] < 2:
        return None, False
    already = bool((scores >= 0).all()) and torch.allclose(scores.sum(1), scores.new_ones(()), atol=1e-4)
    return (scores if already else scores.softmax(1)), already
