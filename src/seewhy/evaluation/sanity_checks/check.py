"""check(): does the map of a method depend on the learned weights? A verdict per method, validated by controls."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from seewhy.axes.layout import from_canonical
from seewhy.engine.ensembles import EnsembleMethod
from seewhy.engine.explain import explain
from seewhy.engine.progress import track_progress
from seewhy.engine.validation import check_capabilities, requested_methods
from seewhy.errors import ModelError, OptionError, check_choice
from seewhy.evaluation.metrics.deletion_gain import deletion_gain
from seewhy.evaluation.metrics.perturbation_curves import fill_function, score_function
from seewhy.inputs.preprocessing import Preprocessing
from seewhy.methods import METHODS, Method, method_identity
from seewhy.models import wrap
from seewhy.results import Evidence, MethodVerdict, unique_names
from seewhy.targets import scoring
from seewhy.targets.parsing import ClassIndices, check_target
from seewhy.targets.predict import class_probabilities
from seewhy.tracing.forward import eval_mode, run_forward
from seewhy.tracing.outputs import concatenate_outputs
from seewhy.tracing.validation import prepare_model_and_input
from seewhy.types import Capability

from .map_similarity import SimilarityTable
from .randomized_networks import (
    FORWARD_BATCH_SIZE,
    NETWORK_KINDS,
    check_training_data,
    label_permuted_networks,
    randomized_networks,
)
from .verdict import (
    CASCADE_THRESHOLD,
    CHANGE_THRESHOLD,
    OTHER_CLASS_THRESHOLD,
    PASS_MEANING,
    SAME_CLASS_THRESHOLD,
    decide_verdict,
)

if TYPE_CHECKING:
    from torch import Tensor

    from seewhy.model import Model
    from seewhy.results import Explanation
    from seewhy.types import Inputs

LEVELS = {"quick": (16, 4, 8), "full": (64, 8, 16)}  # inputs, draws, deletion steps
CONTROLS = ("edges", "random", "centre")
NOISE_CONTROL_COMPARISONS = 20  # factor on the number of comparisons for the noise control: wider intervals


class CheckTarget(NamedTuple):
    """What is explained, the same for every network.

    Attributes:
        with_other_classes: explained class and R other classes [N, 1 + R], or a function of the output.
        target: explained class [N, 1], or a function of the output.
        labels: names of the explained classes.
        no_other_class_reason: why there are no other classes; empty: there are.
        class_count: number of classes of the network.
    """

    with_other_classes: Any
    target: Any
    labels: tuple[str, ...]
    no_other_class_reason: str
    class_count: int = 0


def check(
    model: Any, x: Any, methods: Any, *, target: Any = None, level: str = "quick", seed: int = 0,
    progress: bool | None = None, train: Callable[[Any, Tensor], torch.nn.Module] | None = None,
    data: tuple[Any, Tensor] | None = None,
) -> Evidence:  # fmt: skip
    """Check whether the maps of methods depend on the learned weights: a verdict per method, intervals and controls.

    Three comparisons are made. The maps of the network are compared with those of copies in which the last layer, the
    upper half, all layers, or all layers but the last are randomized, for the same class (Adebayo et al. 2018). The map
    of a class is compared with those of other classes (Sixt et al. 2020). Deletion guided by the map is compared with
    deletion guided by a patch-shuffled map. Similarity is Spearman's rank correlation of absolute maps at the method's
    own resolution, corrected for the similarity of maps of different inputs. Three controls (edges of the input, a blob
    in the center, noise) are checked as well: if a test misjudges one of them, the verdict is INVALID.

    Args:
        model: a network, or a wrapped one; it must be a torch module, since its weights are randomized.
        x: inputs, at least 5 for a conclusion; "quick" uses the first 16, "full" the first 64.
        methods: one or several, as for `seewhy.explain`.
        target: the explained class, or one per input, or a function of the output; default: the predicted classes.
        level: "quick" (16 inputs, 4 draws) or "full" (64 inputs, 8 draws).
        seed: of all random numbers.
        progress: whether to show a progress bar for calls of more than two seconds; default: on a terminal.
        train: function of inputs and labels that returns a new network, trained until it has memorized them. It is
            called once per draw with shuffled labels, for T4.
        data: training inputs and their labels [M] (integers), for T4.

    Returns:
        `Evidence`: a verdict per method and control, and the maps of the first draw.

    Raises:
        OptionError: a level, target or data that are not allowed, or `train` does not return a new network.
        ModelError: a plain function, or a method that requires a capability the model lacks.
    """
    began = time.perf_counter()
    check_training_data(train, data)
    count, draws, steps = LEVELS[check_choice("level", level, LEVELS)]
    model = wrap(model)
    given = list(methods) if isinstance(methods, (list, tuple)) else [methods]
    if not given:
        raise OptionError("methods=[]: at least one method is required.")
    if model.module is None:
        raise ModelError(f"{model.name} is a plain function: it has no weights that could be randomized.")
    check_capabilities(model, requested_methods(given, {}))
    model, inputs = prepare_model_and_input(model, x)
    notes = [PASS_MEANING]
    if len(inputs) > count:
        notes.append(f"the first {count} of {len(inputs)} inputs were used (level={level!r})")
    inputs = inputs[:count]
    requested = [m if isinstance(m, EnsembleMethod) else method_identity(m) for m in given]
    reference = ["gradient"] if Capability.GRADIENTS in model.capabilities else []
    all_methods = [*requested, *(c for c in (*reference, *CONTROLS) if c not in requested)]

    with track_progress("check", progress) as advance:

        def maps_of(network: Model, target: Any, seed: int, methods: Sequence[Any]) -> list[Explanation]:
            batch = from_canonical(inputs, model.layout)
            target = target if callable(target) else ClassIndices(target)
            result = explain(network, batch, list(methods), target=target, upsample="none", seed=seed, progress=False)
            advance(len(inputs))
            return list(result)

        targets = _resolve_check_target(model, inputs, target, seed)
        first_run = maps_of(model, targets.with_other_classes, seed, all_methods)
        names = unique_names([str(e.method) for e in first_run])
        trained = dict(zip(names, first_run, strict=True))
        sampled = {name: m for name, m in zip(names, all_methods, strict=True) if _is_sampled(m)}
        second_run = maps_of(model, targets.target, seed + 1, list(sampled.values())) if sampled else ()
        again = dict(zip(sampled, second_run, strict=True))
        kinds = NETWORK_KINDS if train is None else (*NETWORK_KINDS, "data")
        table = SimilarityTable(model, inputs, trained, again, draws, kinds)
        failure = ""
        networks = randomized_networks(model, inputs, draws, seed, share_trunk=not callable(targets.target))
        if train is not None and data is not None:
            networks = itertools.chain(networks, label_permuted_networks(model, train, data, draws, seed))
        for network in networks:
            failure = failure or ("" if network.kind == "data" else network.failure)
            network_target = targets.target
            if len(network.draws) > 1 and not callable(network_target):
                network_target = network_target + torch.tensor(network.draws) * targets.class_count
            try:
                explanations = maps_of(network.model, network_target, seed + 2 + network.draws[0], all_methods)
                table.add(network, dict(zip(names, explanations, strict=True)))
            except ModelError as error:
                failure = failure or f"the maps of the randomized network {network.kind!r} cannot be computed: {error}"
        score_fn = score_function(model, inputs, targets.target, expected_calls=2 * steps)
        fill_fn = fill_function(model, inputs)
        gains = {}
        for name, method in zip(names, all_methods, strict=True):
            if method not in ("edges", "centre"):
                heatmaps = _deletion_maps(trained[name], method == "random", seed)
                gains[name] = deletion_gain(score_fn, fill_fn, heatmaps, inputs.shape[2:], steps, seed)
                advance(2 * steps * len(inputs))

    verdicts = {}
    for name, method in zip(names, all_methods, strict=True):
        class_agnostic = _method_record(method).class_agnostic
        similarities = table.similarities(name, gains.get(name), targets.no_other_class_reason, class_agnostic)
        comparisons = len(given) * (NOISE_CONTROL_COMPARISONS if method == "random" else 1)
        verdicts[name] = decide_verdict(similarities, comparisons=comparisons, recommended_inputs=LEVELS["full"][0])
    checked = names[: len(requested)]
    controls = {c: names[all_methods.index(c)] for c in (*reference, *CONTROLS)}
    failure = failure or _misjudged_control({c: verdicts[name] for c, name in controls.items()})
    if failure:
        notes.append(f"INVALID: {failure}")
        verdicts |= {name: replace(verdicts[name], verdict="INVALID", reason=failure) for name in checked}
    notes += table.notes()
    return Evidence(
        methods={name: verdicts[name] for name in checked},
        controls={name: verdicts[name] for c, name in controls.items() if c != "gradient" or c not in requested},
        notes=tuple(notes),
        settings={
            "model": model.name, "level": level, "inputs": len(inputs), "draws": draws, "steps": steps, "seed": seed,
            "change threshold": CHANGE_THRESHOLD, "cascade threshold": CASCADE_THRESHOLD,
            "same class threshold": SAME_CLASS_THRESHOLD, "other class threshold": OTHER_CLASS_THRESHOLD,
            "confidence level": 1 - 0.05 / len(given),
        },
        input=inputs.cpu(),
        labels=targets.labels,
        maps={name: table.example_maps[name] for name in checked},
        preparation=model.preparation if isinstance(model.preparation, Preprocessing) else None,
        seconds=time.perf_counter() - began,
        calls={name: call for name in checked if (call := trained[name].call) is not None},
    )  # fmt: skip


def _deletion_maps(e: Explanation, is_noise: bool, seed: int) -> Tensor:
    """The maps [N, *S'] that guide deletion; for the noise control, whose map is one for all inputs, one per input."""
    heatmaps = e.maps[:, 0]
    if not is_noise:
        return heatmaps
    generator = np.random.default_rng((seed, 4))
    return torch.from_numpy(generator.normal(size=tuple(heatmaps.shape)))


def _is_sampled(method: str | Method | EnsembleMethod) -> bool:
    """Whether the map of a method depends on the seed."""
    if isinstance(method, EnsembleMethod):
        return method.ensemble.kind == "smooth" or _is_sampled(method.method)
    return _method_record(method).stochastic and method != "random"


def _method_record(method: str | Method | EnsembleMethod) -> Method:
    """The `Method` of a requested method."""
    plain = method.method if isinstance(method, EnsembleMethod) else method
    return METHODS[plain] if isinstance(plain, str) else plain


def _resolve_check_target(model: Model, x: Inputs, target: Any, seed: int) -> CheckTarget:
    """The class of each input and the classes to compare it with: the highest-scoring other one, and a random one."""
    check_target(target, len(x), model)
    with eval_mode(model), torch.no_grad():
        output = concatenate_outputs(
            [run_forward(model, part, graph=False).explained for part in x.split(FORWARD_BATCH_SIZE)]
        )
    resolved = scoring.resolve_target(target, "logit", model, output, slice(0, len(x)))
    if resolved.indices is None or resolved.indices.shape[1] != 1:
        if resolved.indices is not None or len(resolved.functions) != 1:
            raise OptionError(f"target={target!r}: check takes exactly one class per input.")
        return CheckTarget(target, target, ("",) * len(x), "the target is a function of the output, not a class")
    chosen = resolved.indices.cpu()
    labels = tuple(row[0] for row in resolved.labels)
    totals = scoring.class_scores(output, model).detach().cpu()
    totals = totals.flatten(2).sum(2) if totals.ndim > 2 else totals
    classes = totals.shape[1]
    _, are_probabilities = class_probabilities(output, model)
    if classes == 1:
        return CheckTarget(chosen, chosen, labels, "the network has only one score", 1)
    if classes == 2 and are_probabilities:
        reason = "the two probabilities sum to one, so the absolute maps of both classes are equal"
        return CheckTarget(chosen, chosen, labels, reason, 2)
    rivals = totals.scatter(1, chosen, -torch.inf).argmax(1, keepdim=True)
    if classes > 2:
        generator = np.random.default_rng((seed, 5))
        third = [int(generator.choice([c for c in range(classes) if c not in row])) for row in
                 torch.cat([chosen, rivals], 1).tolist()]  # fmt: skip
        rivals = torch.cat([rivals, torch.tensor(third)[:, None]], 1)
    return CheckTarget(torch.cat([chosen, rivals], 1), chosen, labels, "", classes)


def _misjudged_control(verdicts: dict[str, MethodVerdict]) -> str:
    """Message for the first control that a test misjudges, which makes the tests invalid; empty: there is none."""
    wrong = [
        ("edges", "T1", "PASS", "edges of the input do not depend on the weights"),
        ("centre", "T1", "PASS", "a blob in the center does not depend on the weights"),
        ("random", "T1", "FAIL", "the noise is different for each network"),
        ("random", "T2", "FAIL", "the noise is different for each network"),
        ("random", "T0", "PASS", "noise is not informative"),
    ]
    for name, test, verdict, fact in wrong:
        if verdicts[name].tests[test].verdict == verdict:
            error = f"{test} is {verdict} for the control {name!r}, although {fact}"
            return f"{error}; the test is not valid for this network and these inputs"
    return ""
