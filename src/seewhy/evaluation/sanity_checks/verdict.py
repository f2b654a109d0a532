"""Decide the verdict on a method from the similarities of its maps. Pure arithmetic: no network, no map."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import isnan
from typing import TYPE_CHECKING

import numpy as np

from seewhy.evaluation.confidence_interval import Interval, jackknife_interval
from seewhy.results import CheckResult, MapSimilarity, MethodVerdict

if TYPE_CHECKING:
    from jaxtyping import Float

# docs/verdicts.md explains where the thresholds come from.
CHANGE_THRESHOLD = 0.75  # T1, T2, T4: excess similarity above which a map has not changed, and below which it has
CASCADE_THRESHOLD = 0.25  # T2: excess similarity with all layers randomized, below which the maps are unrelated
SAME_CLASS_THRESHOLD = 0.95  # T3: fraction of the self-similarity above which maps of different classes are the same
OTHER_CLASS_THRESHOLD = 0.90  # T3: fraction of the self-similarity below which maps of different classes differ
INPUT_INDEPENDENCE_FRACTION = 0.95  # chance / self-similarity above which a map does not depend on the input
MIN_SELF_SIMILARITY = 0.2  # of two runs of a method; below, maps cannot be compared
MIN_INPUTS = 5  # with fewer inputs every verdict is INCONCLUSIVE

PASS_MEANING = (
    "PASS means that the map depends on the weights and the class. It does not mean that the map is faithful (Binder "
    "et al. 2023), nor that unknown shortcuts or counterfactual behavior can be read from it (Bilodeau et al. 2024, "
    "Adebayo et al. 2022)."
)

MeanInterval = Callable[[np.ndarray], Interval]


@dataclass(frozen=True)
class Similarities:
    """Rank correlations of one method's maps with those of the trained network; N inputs, D draws of random weights.

    Attributes:
        same_input: kind of network -> [N, D], maps of the same input.
        different_inputs: kind of network -> [N, N, D], trained map i with randomized map j.
        partial: kind of network -> [N, D], maps of the same input, partial correlation given the input.
        self_similarity: [N], two runs on the trained network (1 for deterministic methods).
        other_class: [N, R], maps of R other classes; None where there is no other class.
        other_class_partial: the same, partial correlation given the input.
        deletion_gain: [N], see `deletion_gain`; None: not computed.
        no_other_class_reason: why `other_class` is None.
        class_agnostic: whether the method by definition has one map for all classes.
        label_training_failure: why networks trained on shuffled labels cannot be used; empty: they can.
    """

    same_input: Mapping[str, Float[np.ndarray, "N D"]]
    different_inputs: Mapping[str, Float[np.ndarray, "N N D"]]
    partial: Mapping[str, Float[np.ndarray, "N D"]]
    self_similarity: Float[np.ndarray, " N"]
    other_class: Float[np.ndarray, "N R"] | None
    other_class_partial: Float[np.ndarray, "N R"] | None
    deletion_gain: Float[np.ndarray, " N"] | None
    no_other_class_reason: str = ""
    class_agnostic: bool = False
    label_training_failure: str = ""


def decide_verdict(similarities: Similarities, *, comparisons: int, recommended_inputs: int) -> MethodVerdict:
    """Decide the verdict on one method by fixed rules, described in docs/verdicts.md.

    Args:
        similarities: of the method's maps.
        comparisons: number of methods that are checked together; intervals have confidence 1 - 0.05 / comparisons
            (Bonferroni correction).
        recommended_inputs: number of inputs that is recommended when there are too few.
    """
    confidence = 1 - 0.05 / comparisons
    n, draws = next(iter(similarities.same_input.values())).shape
    if n < MIN_INPUTS:
        required = f"at least {MIN_INPUTS} are required for an interval, {recommended_inputs} are recommended"
        reason = f"{n} input{'s were' if n > 1 else ' was'} checked; {required}"
        names = ("T0", "T1", "T2", "T3", *(["T4"] if "data" in similarities.same_input else []))
        tests = {name: CheckResult("INCONCLUSIVE", np.nan, np.nan, np.nan, reason) for name in names}
        return MethodVerdict("INCONCLUSIVE", reason, tests, _mean_similarities(similarities))

    def excess(kind: str) -> Interval:
        same_input, different_inputs = similarities.same_input[kind], similarities.different_inputs[kind]

        def statistic(i: np.ndarray, d: np.ndarray) -> float:
            chance = _mean_off_diagonal(different_inputs, i, d)
            above_chance = same_input[np.ix_(i, d)].mean() - chance
            max_above_chance = similarities.self_similarity[i].mean() - chance
            # below 1e-9 the difference is rounding error
            return float(above_chance / max_above_chance) if max_above_chance > 1e-9 else np.nan

        return jackknife_interval(statistic, n, draws, confidence=confidence)

    def mean_interval(values: np.ndarray) -> Interval:
        return jackknife_interval(partial(_mean_of_selected, values), n, values.shape[1], confidence=confidence)

    tests = {"T0": _deletion_result(similarities, mean_interval)}

    def input_independent(kind: str) -> CheckResult | None:
        chance = _mean_off_diagonal(similarities.different_inputs[kind], np.arange(n), np.arange(draws))
        threshold = INPUT_INDEPENDENCE_FRACTION * similarities.self_similarity.mean()
        if chance <= threshold:
            return None
        numbers = f"(similarity of the maps of different inputs {chance:.2f}, threshold {threshold:.2f})"
        return CheckResult("FAIL", *(chance,) * 3, f"the map does not depend on the input {numbers}")

    ceiling = float(similarities.self_similarity.mean())
    if ceiling < MIN_SELF_SIMILARITY:
        reason = (
            "two runs of the method on the same network have different maps "
            f"(similarity {ceiling:.2f}, threshold {MIN_SELF_SIMILARITY}); use more samples"
        )
        tests |= {name: CheckResult("INCONCLUSIVE", ceiling, np.nan, np.nan, reason) for name in ("T1", "T2", "T3")}
        return MethodVerdict("INCONCLUSIVE", f"T1: {reason}", tests, _mean_similarities(similarities))
    top_layer, confounded = input_independent("top"), False
    if top_layer is None:
        top_layer, confounded = _top_layer_result(excess("top"), mean_interval(similarities.partial["top"]))
    tests["T1"] = top_layer

    def similarity(kind: str) -> Interval:
        return mean_interval(similarities.partial[kind]) if confounded else excess(kind)

    all_layers, all_but_last = similarity("all"), similarity("bottom")
    tests["T2"] = input_independent("all") or _cascade_result(all_layers, all_but_last, confounded)
    tests["T3"] = _class_result(similarities, mean_interval, confounded)
    if "data" in similarities.same_input:
        tests["T4"] = input_independent("data") or _label_result(similarity("data"), similarities)
    verdict, reason = _overall_verdict(tests, confounded)
    return MethodVerdict(verdict, reason, tests, _mean_similarities(similarities))


def _mean_of_selected(values: np.ndarray, i: np.ndarray, d: np.ndarray) -> float:
    return float(values[np.ix_(i, d)].mean())


def _mean_off_diagonal(different_inputs: np.ndarray, i: np.ndarray, d: np.ndarray) -> float:
    """Mean over pairs of different inputs; NaN for a single input."""
    part = different_inputs[np.ix_(i, i, d)].mean(2)
    return float(part[i[:, None] != i[None]].mean()) if len(set(i.tolist())) > 1 else np.nan


def _numbers(similarity: Interval, threshold: float, name: str = "similarity") -> str:
    return f"({name} {similarity.estimate:.2f}, threshold {threshold})"


def _undecided(similarity: Interval, condition: str, relation: str) -> str:
    """Reason of a test whose interval does not lie on one side of the threshold."""
    if isnan(similarity.low) or isnan(similarity.high):
        return f"the similarity {condition} is undefined: maps of different inputs are as similar as those of two runs"
    return f"the interval of the similarity {condition} ({similarity.low:.2f} to {similarity.high:.2f}) {relation}"


def _deletion_result(similarities: Similarities, mean_interval: MeanInterval) -> CheckResult:
    """T0: is the deletion gain positive?"""
    if similarities.deletion_gain is None:
        return CheckResult("NOT APPLICABLE", np.nan, np.nan, np.nan, "the deletion curve of this map is not computed")
    gain = mean_interval(similarities.deletion_gain[:, None])
    what = "the score faster than deletion guided by a patch-shuffled map"
    numbers = f"(difference of the mean scores {gain.estimate:.3f}, threshold 0)"
    if gain.low > 0:
        return CheckResult("PASS", *gain, f"deletion guided by the map lowers {what} {numbers}")
    if gain.high <= 0:
        return CheckResult("FAIL", *gain, f"deletion guided by the map does not lower {what} {numbers}")
    interval = f"(interval of the difference {gain.low:.3f} to {gain.high:.3f}, threshold 0)"
    return CheckResult("INCONCLUSIVE", *gain, f"deletion guided by the map may or may not lower {what} {interval}")


def _top_layer_result(similarity: Interval, partial_similarity: Interval) -> tuple[CheckResult, bool]:
    """T1, and whether the map is confounded with the input."""
    numbers = _numbers(similarity, CHANGE_THRESHOLD)
    unchanged = f"the map does not change when the last layer is randomized {numbers}"
    if similarity.low > CHANGE_THRESHOLD and partial_similarity.low > CHANGE_THRESHOLD:
        return CheckResult("FAIL", *similarity, unchanged), False
    if similarity.low > CHANGE_THRESHOLD:
        explained = _numbers(partial_similarity, CHANGE_THRESHOLD, "partial correlation given the input")
        return CheckResult("CONFOUNDED", *similarity, f"{unchanged}, but the input can explain this {explained}"), True
    if similarity.high < CHANGE_THRESHOLD:
        return CheckResult("PASS", *similarity, f"the map changes when the last layer is randomized {numbers}"), False
    reason = _undecided(similarity, "with the last layer randomized", f"contains the threshold {CHANGE_THRESHOLD}")
    return CheckResult("INCONCLUSIVE", *similarity, reason), False


def _cascade_result(all_layers: Interval, all_but_last: Interval, confounded: bool) -> CheckResult:
    """T2: from the similarities with all layers, and with all layers but the last, randomized."""
    given = "with the input partialled out, " if confounded else ""
    if all_layers.low > CHANGE_THRESHOLD:
        unchanged = f"the map does not change when all layers are randomized {_numbers(all_layers, CHANGE_THRESHOLD)}"
        return CheckResult("FAIL", *all_layers, given + unchanged)
    if all_layers.high < CASCADE_THRESHOLD and all_but_last.high < CHANGE_THRESHOLD:
        by_all, by_all_but_last = _numbers(all_layers, CASCADE_THRESHOLD), _numbers(all_but_last, CHANGE_THRESHOLD)
        layers = f"all layers {by_all}, and all layers but the last {by_all_but_last}"
        return CheckResult("PASS", *all_layers, f"{given}the map changes when {layers}, are randomized")
    if all_layers.high < CASCADE_THRESHOLD:
        relation = f"is not below the threshold {CHANGE_THRESHOLD}"
        reason = _undecided(all_but_last, "with all layers but the last randomized", relation)
        return CheckResult("INCONCLUSIVE", *all_but_last, given + reason)
    reason = _undecided(all_layers, "with all layers randomized", f"is not below the threshold {CASCADE_THRESHOLD}")
    return CheckResult("INCONCLUSIVE", *all_layers, given + reason)


def _class_result(similarities: Similarities, mean_interval: MeanInterval, confounded: bool) -> CheckResult:
    """T3: from the similarity with the maps of other classes, as a fraction of the self-similarity."""
    values = similarities.other_class_partial if confounded else similarities.other_class
    if values is None:
        return CheckResult("NOT APPLICABLE", np.nan, np.nan, np.nan, similarities.no_other_class_reason)
    ceiling = max(float(similarities.self_similarity.mean()), 1e-12)
    similarity = mean_interval(values.mean(1, keepdims=True) / ceiling)
    if similarity.low > SAME_CLASS_THRESHOLD:
        numbers = _numbers(similarity, SAME_CLASS_THRESHOLD)
        if similarities.class_agnostic:
            reason = f"the method is class-agnostic: by definition its map is the same for every class {numbers}"
            return CheckResult("NOT APPLICABLE", *similarity, reason)
        return CheckResult("FAIL", *similarity, f"the maps of other classes are the same {numbers}")
    if similarity.high < OTHER_CLASS_THRESHOLD:
        numbers = _numbers(similarity, OTHER_CLASS_THRESHOLD)
        return CheckResult("PASS", *similarity, f"the maps of other classes differ {numbers}")
    relation = f"is neither below {OTHER_CLASS_THRESHOLD} nor above {SAME_CLASS_THRESHOLD}"
    return CheckResult("INCONCLUSIVE", *similarity, _undecided(similarity, "with maps of other classes", relation))


def _label_result(similarity: Interval, similarities: Similarities) -> CheckResult:
    """T4: from the similarity with networks trained on shuffled labels."""
    if similarities.label_training_failure:
        return CheckResult("INCONCLUSIVE", *similarity, similarities.label_training_failure)
    condition = f"when the network is trained on shuffled labels {_numbers(similarity, CHANGE_THRESHOLD)}"
    if similarity.low > CHANGE_THRESHOLD:
        return CheckResult("FAIL", *similarity, f"the map does not change {condition}")
    if similarity.high < CHANGE_THRESHOLD:
        return CheckResult("PASS", *similarity, f"the map changes {condition}")
    relation = f"contains the threshold {CHANGE_THRESHOLD}"
    return CheckResult("INCONCLUSIVE", *similarity, _undecided(similarity, "with shuffled labels", relation))


def _overall_verdict(tests: Mapping[str, CheckResult], confounded: bool) -> tuple[str, str]:
    """Verdict and reason from all tests; precedence FAIL, CONFOUNDED, INCONCLUSIVE, PASS."""
    for name in ("T1", "T3", "T4"):
        if name in tests and tests[name].verdict == "FAIL":
            return "FAIL", f"{name}: {tests[name].reason}"
    if confounded:
        return "CONFOUNDED", f"T1: {tests['T1'].reason}"
    for name, test in tests.items():
        if test.verdict not in {"PASS", "NOT APPLICABLE"}:
            certainty = "is" if test.verdict == "FAIL" else "may be"
            vacuous = f"; a PASS of the other tests {certainty} vacuous" if name == "T0" else ""
            return "INCONCLUSIVE", f"{name}: {test.reason}{vacuous}"
    by_class = " and the class" if tests["T3"].verdict == "PASS" else f" (T3 does not apply: {tests['T3'].reason})"
    return "PASS", f"the map is informative and depends on the weights{by_class}"


def _mean_similarities(similarities: Similarities) -> dict[str, MapSimilarity]:
    """Means over inputs and draws for each kind of network, with 95 % intervals."""
    n = next(iter(similarities.same_input.values())).shape[0]
    inputs = np.arange(n)
    means = {}
    for kind, same_input in similarities.same_input.items():
        mean = jackknife_interval(partial(_mean_of_selected, same_input), n, same_input.shape[1], confidence=0.95)
        chance = _mean_off_diagonal(similarities.different_inputs[kind], inputs, np.arange(same_input.shape[1]))
        means[kind] = MapSimilarity(*mean, chance, float(similarities.partial[kind].mean()))
    return means
