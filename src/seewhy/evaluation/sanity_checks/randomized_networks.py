"""The networks that the trained one is compared with: randomized copies that are not degenerate."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from seewhy.axes.layout import from_canonical
from seewhy.errors import ModelError, OptionError
from seewhy.evaluation.rank_correlation import normalized_ranks
from seewhy.feature_layers.selection import copy_survey
from seewhy.models import module_tree
from seewhy.tracing.final_activation import observe_final_activations
from seewhy.tracing.forward import call_model, eval_mode, run_forward
from seewhy.tracing.observer import observe_layers
from seewhy.tracing.outputs import concatenate_outputs, iter_tensors
from seewhy.tracing.validation import prepare_model_and_input

from .randomize import layers_of_rows, parameters_by_row, randomize_parameters, recompute_batch_statistics
from .verdict import MIN_INPUTS

if TYPE_CHECKING:
    from seewhy.model import Model
    from seewhy.types import Inputs

NETWORK_KINDS = ("top", "half", "all", "bottom")
MAX_SPREAD_RATIO = 30.0  # largest factor between the standard deviations of randomized and trained layer outputs
MAX_SCORE_CORRELATION = 0.5  # largest rank correlation of the scores with those of the fully randomized network
FORWARD_BATCH_SIZE = 8
MIN_TRAINING_ACCURACY = 0.95  # of networks trained on shuffled labels
SPREAD_SAMPLES = 2  # number of inputs for the standard deviations of the layer outputs

TrainFunction = Callable[[Any, Tensor], torch.nn.Module]


class RandomizedNetwork(NamedTuple):
    """A randomized network, or several draws of the last layer as one network with several heads.

    Attributes:
        kind: of `NETWORK_KINDS`, or "data" for a network trained on shuffled labels.
        draws: numbers of the draws.
        model: the network; with several draws its scores are [N, draws · classes].
        failure: why its maps cannot be used; empty: they can.
    """

    kind: str
    draws: list[int]
    model: Model
    failure: str = ""


def randomized_networks(
    model: Model, x: Inputs, draws: int, seed: int, *, share_trunk: bool
) -> Iterator[RandomizedNetwork]:
    """Yield the randomized networks of all kinds and draws, one at a time.

    Parameters are drawn from the distributions of the layers' initializers. If the network is then degenerate, the
    trained values are shuffled instead.

    Args:
        model: the trained network.
        x: inputs, for the batch statistics and the test for degeneracy.
        draws: number of draws.
        seed: of the random numbers.
        share_trunk: whether the networks with a randomized last layer may be one network with several heads, so that
            the layers before are executed once.

    Raises:
        ModelError: the network has no weights.
    """
    rows = parameters_by_row(model, from_canonical(x[:1], model.layout))
    parameters = [names for _, names in rows if names]
    if not parameters:
        raise ModelError(f"{model.name} has no weights that could be randomized.")
    half = len(parameters) // 2
    parts = {"top": parameters[-1:], "half": parameters[half:], "all": parameters, "bottom": parameters[:-1]}
    trained_spreads, scores, correlations = _output_spreads(model, x), _scores(model, x), list[float]()
    channels_last = _supports_channels_last(model, x)
    multi_head = _multi_head_model(model, x, parameters[-1], draws, seed) if share_trunk else None
    if multi_head is not None:
        yield RandomizedNetwork("top", list(range(draws)), multi_head)
        del parts["top"]
    for draw in range(draws):
        for kind, part in parts.items():
            randomized, failure = _responsive_copy(
                model, x, rows, part, trained_spreads, seed + 1 + draw, channels_last
            )
            if not failure and kind == "all" and scores.shape[1] >= MIN_INPUTS:
                products = normalized_ranks(scores) * normalized_ranks(_scores(randomized, x))
                correlations.append(float(products.sum(-1).mean()))
                # mean over all draws: with few classes the order of a single network can agree by chance
                correlation = sum(correlations) / draws
                if correlation > MAX_SCORE_CORRELATION:
                    numbers = f"(rank correlation {correlation:.2f}, threshold {MAX_SCORE_CORRELATION})"
                    failure = f"the scores keep their rank order when all layers are randomized {numbers}"
            copy_survey(model, randomized)
            yield RandomizedNetwork(kind, [draw], randomized, failure)


def label_permuted_networks(
    model: Model, train: TrainFunction, data: tuple[Tensor, Tensor], draws: int, seed: int
) -> Iterator[RandomizedNetwork]:
    """Yield networks trained on the same inputs with shuffled labels, one per draw.

    Adebayo et al. 2018, section 3.2. A network with a training accuracy below 95 % has a `failure`.

    Raises:
        OptionError: `train` does not return a new torch module.
    """
    inputs, labels = data
    for draw in range(draws):
        order = np.random.default_rng((seed, 6, draw)).permutation(len(labels))
        shuffled = labels[torch.from_numpy(order)]
        network = train(inputs, shuffled)
        if not isinstance(network, torch.nn.Module) or network is model.module:
            raise OptionError(
                f"train returned a {type(network).__name__}: it must return a new torch module that was trained."
            )
        call = model.call
        forward = network if call is None else partial(call, network)
        retrained = replace(model, forward=forward, module=network, name=f"{model.name}, labels shuffled")
        _, prepared = prepare_model_and_input(retrained, inputs)
        accuracy = float((_scores(retrained, prepared).argmax(1) == shuffled).double().mean())
        failure = (
            f"a network trained on shuffled labels has a training accuracy of {accuracy:.0%}, at least "
            f"{MIN_TRAINING_ACCURACY:.0%} is required: train it longer"
        )
        copy_survey(model, retrained)
        yield RandomizedNetwork("data", [draw], retrained, failure if accuracy < MIN_TRAINING_ACCURACY else "")


def check_training_data(train: Any, data: Any) -> None:
    """Check the arguments `train` and `data` of `seewhy.check`.

    Raises:
        OptionError: one without the other, or the labels are not integers, one per input.
    """
    if train is None and data is None:
        return
    if not callable(train) or not isinstance(data, tuple) or len(data) != 2:
        raise OptionError(
            "train and data are required together: a function train(inputs, labels) that returns a network, and "
            "data=(inputs, labels)."
        )
    inputs, labels = data
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.shape != (len(inputs),):
        given = list(labels.shape) if isinstance(labels, Tensor) else type(labels).__name__
        raise OptionError(f"data: the labels are {given}; a tensor of {len(inputs)} integers is required.")
    if len(labels.unique()) < 2:
        raise OptionError("data: all labels are equal; at least two different labels are required.")


def _multi_head_model(model: Model, x: Inputs, last_parameters: list[str], draws: int, seed: int) -> Model | None:
    """A model with one head per draw of the last layer; its scores are [N, draws · classes].

    None if the output of the last layer is not the output of the network.
    """
    layer_name = {w.rpartition(".")[0] for w in last_parameters}
    if len(layer_name) != 1 or not all(layer_name) or model.module is None:
        return None
    layer, thread = module_tree.get_layer(model.module, *layer_name), threading.get_ident()
    layer_calls: list[tuple[Any, Any]] = []

    def record(_layer: Any, args: Any, output: Any) -> None:
        if threading.get_ident() == thread:
            layer_calls.append((args, output))

    def trunk(x: Tensor) -> Any:
        layer_calls.clear()
        handle = layer.register_forward_hook(record)
        try:
            output = model.forward(x)
        finally:
            handle.remove()
        is_last = len(layer_calls) == 1 and layer_calls[-1][1] is output and output.ndim == 2
        return layer_calls[-1][0] if is_last else None

    with eval_mode(model), torch.no_grad():
        # the softmax of several heads is not the softmax of their joint scores
        if (
            run_forward(model, x[:1], graph=False).explained.activation
            or trunk(from_canonical(x[:1], model.layout)) is None
        ):
            return None
    names = set(last_parameters)
    copies = [randomize_parameters(model, names, "init", seed + 1 + draw).module for draw in range(draws)]
    heads = [module_tree.get_layer(module, *layer_name).eval() for module in copies if module is not None]

    def forward(x: Tensor) -> Tensor:
        args = trunk(x)
        return torch.cat([head(*args) for head in heads], 1)

    for head in heads:
        head.requires_grad_(False)
    return replace(model, forward=forward, labels=None)


def _supports_channels_last(model: Model, x: Inputs) -> bool:
    """Whether a copy of the model works in the channels-last memory format, in which convolutions are faster."""
    copied = randomize_parameters(model, set(), "init", 0)
    assert copied.module is not None
    weights = list(copied.module.parameters())
    if x.ndim != 4 or not any(w.ndim == 4 for w in weights) or any(w.ndim == 5 for w in weights):
        return False
    copied.module.to(memory_format=torch.channels_last)
    try:
        _scores(copied, x[:2])
    except ModelError:  # such as a view that requires contiguous features
        return False
    return True


def _responsive_copy(
    model: Model, x: Inputs, rows: list[tuple[str, list[str]]], parameters: list[list[str]],
    trained_spreads: list[float], seed: int, channels_last: bool,
) -> tuple[Model, str]:  # fmt: skip
    """A copy with randomized parameters, shuffled if the initializers leave it degenerate; and its failure, or ""."""
    names = {name for each in parameters for name in each}
    first = next((n for n, (_, each) in enumerate(rows) if each in parameters), len(rows))
    layers = layers_of_rows(rows[first:])
    failure = ""
    for how in ("init", "permute"):
        randomized = randomize_parameters(model, names, how, seed)
        if channels_last and randomized.module is not None:
            randomized.module.to(memory_format=torch.channels_last)
        recompute_batch_statistics(randomized, layers, from_canonical(x, model.layout))
        failure = _degeneracy(trained_spreads, _output_spreads(randomized, x))
        if not failure:
            break
    return randomized, failure


def _scores(model: Model, x: Inputs) -> Tensor:
    """The first output, flattened: [N, at most 10000]."""
    with eval_mode(model), torch.no_grad():
        output = concatenate_outputs(
            [run_forward(model, part, graph=False).explained.logits for part in x.split(FORWARD_BATCH_SIZE)]
        )
    first = next(iter(iter_tensors(output)))
    return first.detach().cpu().flatten(1)[:, :10000]


def _output_spreads(model: Model, x: Inputs) -> list[float]:
    """Standard deviation of the output of each layer; last, that of the network's output over inputs."""
    spreads: list[float] = []

    def record(_name: str, layer: Any, output: Any) -> None:
        first = next(iter(iter_tensors(output)), None)
        if layer is not None and first is not None and first.is_floating_point() and first.numel() > 1:
            spreads.append(float(first.detach().std()))

    assert model.module is not None
    with eval_mode(model), torch.no_grad(), observe_layers(model.module, record):
        with observe_final_activations() as activations:  # outputs may be NaN, which a forward pass would refuse
            output = call_model(model, x[:SPREAD_SAMPLES])
        output = activations.output_of(output, model).logits
    last = next(iter(iter_tensors(output))).detach()
    return [*spreads, float(last.std(0).mean()) if len(last) > 1 else float(last.std())]


def _degeneracy(trained_spreads: list[float], spreads: list[float]) -> str:
    """Why a randomized network is degenerate; empty: it is not."""
    if not np.isfinite(spreads).all():
        return "the randomized network has NaN or infinite outputs"
    if trained_spreads[-1] > 0 and spreads[-1] == 0:
        return "the output of the randomized network is the same for every input"
    ratios = [b / a for a, b in zip(trained_spreads, spreads, strict=False) if a > 0]
    typical = float(np.median(ratios)) if ratios else 1.0
    if not 1 / MAX_SPREAD_RATIO <= typical <= MAX_SPREAD_RATIO:
        return (
            f"the randomized network is degenerate: the standard deviation of its layer outputs is {typical:.2g} times "
            f"that of the trained network (allowed: 1/{MAX_SPREAD_RATIO:g} to {MAX_SPREAD_RATIO:g})"
        )
    return ""
