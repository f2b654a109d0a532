"""From similarities to one word. Pure arithmetic: no network, no map."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from seewhy.types import Alike, Finding, Judgement

from .interval import Interval, two_way

if TYPE_CHECKING:
    from jaxtyping import Float

# The thresholds. 0.75: published similarities after the top layer leave guided backprop at 0.86 and more, gradient and
# Grad-CAM at 0.72 and less. 0.25: what is left when nothing was learnt. docs/verdicts.md has the bank of known cases.
STAYS, GONE = 0.75, 0.25
SAME_CLASS, OTHER_CLASS = 0.95, 0.90
SAME_FOR_ALL = 0.95  # chance similarity, as a share of self-similarity, from which a map does not depend on the input
HARDLY = 0.2  # self-similarity, below which a method is noise to itself, and nothing can be compared
FEW = 5  # inputs, below which nothing is concluded

MEANING = (
    "PASS means that the map depends on the weights and the class. It does not mean that the map is faithful (Binder "
    "et al. 2023), nor that unknown shortcuts or counterfactual behaviour can be read from it (Bilodeau et al. 2024, "
    "Adebayo et al. 2022)."
)


Mean = Callable[[np.ndarray], Interval]


@dataclass(frozen=True)
class Similarities:
    """Of one method: rank correlations with the trained network's maps. N inputs, D draws of random weights.

    Attributes:
        same: kind of network -> [N, D], of the same input.
        cross: kind of network -> [N, N, D], of trained map i with randomised map j.
        partial: kind of network -> [N, D], with what the input forces taken out.
        self: [N], of two runs on the trained network (1 where nothing is drawn).
        other: [N, R], of the maps of R other classes; None where there is no other class.
        other_partial: the same with what the input forces taken out.
        gain: [N], by how much deletion by the map beats deletion by its shuffled self; None: not measured.
    """

    same: Mapping[str, Float[np.ndarray, "N D"]]
    cross: Mapping[str, Float[np.ndarray, "N N D"]]
    partial: Mapping[str, Float[np.ndarray, "N D"]]
    self: Float[np.ndarray, " N"]
    other: Float[np.ndarray, "N R"] | None
    other_partial: Float[np.ndarray, "N R"] | None
    gain: Float[np.ndarray, " N"] | None
    no_classes: str = ""  # why `other` is None
    classless: bool = False  # whether one map for all classes is what the method promises
    untaught: str = ""  # why the networks that learnt shuffled labels say nothing


def judge(found: Similarities, *, several: int, needed: int) -> Judgement:
    """One word for a method, by fixed rules.

    Args:
        found: its similarities.
        several: how many methods are judged at once; intervals are widened so that 95 % hold for all together.
        needed: how many inputs are recommended.
    """
    share = 1 - 0.05 / several
    n, draws = next(iter(found.same.values())).shape
    if n < FEW:
        reason = f"{n} input{'s' * (n > 1)}: at least {FEW} are needed for an interval, {needed} are recommended"
        names = ("T0", "T1", "T2", "T3", *(["T4"] if "data" in found.same else []))
        tests = {name: Finding("INCONCLUSIVE", np.nan, np.nan, np.nan, reason) for name in names}
        return Judgement("INCONCLUSIVE", reason, tests, _means(found))

    def excess(kind: str) -> Interval:
        same, cross = found.same[kind], found.cross[kind]

        def statistic(i: np.ndarray, d: np.ndarray) -> float:
            chance = _off_diagonal(cross, i, d)
            top, width = same[np.ix_(i, d)].mean() - chance, found.self[i].mean() - chance
            return float(top / width) if width > 1e-9 else np.nan  # equal maps differ by rounding

        return two_way(statistic, n, draws, share=share)

    def mean(values: np.ndarray) -> Interval:
        return two_way(partial(_mean, values), n, values.shape[1], share=share)

    tests = {"T0": _informative(found, mean)}

    def blind(kind: str) -> Finding | None:
        chance = _off_diagonal(found.cross[kind], np.arange(n), np.arange(draws))
        if chance <= SAME_FOR_ALL * found.self.mean():
            return None
        return Finding("FAIL", *(chance,) * 3, "maps of different inputs are the same: it does not depend on the input")

    ceiling = float(found.self.mean())
    if ceiling < HARDLY:
        reason = f"two runs of the method on one network are hardly alike ({ceiling:.2f}): give it more samples"
        tests |= {name: Finding("INCONCLUSIVE", ceiling, np.nan, np.nan, reason) for name in ("T1", "T2", "T3")}
        return Judgement("INCONCLUSIVE", f"T1: {reason}", tests, _means(found))
    seen, confounded = blind("top"), False
    if seen is None:
        seen, confounded = _top(excess("top"), mean(found.partial["top"]))
    tests["T1"] = seen
    gone, bottom = (mean(found.partial[k]) if confounded else excess(k) for k in ("all", "bottom"))
    tests["T2"] = blind("all") or _cascade(gone, bottom, confounded)
    tests["T3"] = _classes(found, mean, confounded)
    if "data" in found.same:
        tests["T4"] = blind("data") or _labels(mean(found.partial["data"]) if confounded else excess("data"), found)
    verdict, reason = _word(tests, confounded)
    return Judgement(verdict, reason, tests, _means(found))


def _mean(values: np.ndarray, i: np.ndarray, d: np.ndarray) -> float:
    return float(values[np.ix_(i, d)].mean())


def _off_diagonal(cross: np.ndarray, i: np.ndarray, d: np.ndarray) -> float:
    """Mean over pairs of different inputs."""
    part = cross[np.ix_(i, i, d)].mean(2)
    return float(part[i[:, None] != i[None]].mean()) if len(set(i.tolist())) > 1 else np.nan


def _informative(found: Similarities, mean: Mean) -> Finding:
    if found.gain is None:
        return Finding("NOT APPLICABLE", np.nan, np.nan, np.nan, "the score was not measured under deletion")
    gain = mean(found.gain[:, None])
    if gain.low > 0:
        return Finding("PASS", *gain, "deleting by the map lowers the score faster than by its shuffled self")
    if gain.high <= 0:
        return Finding("FAIL", *gain, "deleting by the map is no better than by its shuffled self")
    return Finding("INCONCLUSIVE", *gain, "deleting by the map is not seen to be better than by its shuffled self")


def _top(e: Interval, part: Interval) -> tuple[Finding, bool]:
    if e.low > STAYS and part.low > STAYS:
        return Finding("FAIL", *e, f"it stays although the last layer learnt nothing ({e.low:.2f} > {STAYS})"), False
    if e.low > STAYS:
        why = f"it stays, but only as far as the input forces it to (without that {part.estimate:.2f})"
        return Finding("CONFOUNDED", *e, why), True
    if e.high < STAYS:
        return Finding("PASS", *e, f"it changes with the last layer ({e.high:.2f} < {STAYS})"), False
    return Finding("INCONCLUSIVE", *e, f"the interval holds {STAYS}"), False


def _cascade(gone: Interval, bottom: Interval, confounded: bool) -> Finding:
    what = "without what the input forces, " if confounded else ""
    if gone.low > STAYS:
        return Finding("FAIL", *gone, f"{what}it stays although nothing was learnt ({gone.low:.2f} > {STAYS})")
    if gone.high < GONE and bottom.high < STAYS:
        return Finding("PASS", *gone, f"{what}it is gone when nothing was learnt ({gone.high:.2f} < {GONE})")
    if gone.high < GONE:
        return Finding("INCONCLUSIVE", *bottom, f"{what}much of it stays when only the last layer was learnt")
    return Finding("INCONCLUSIVE", *gone, f"{what}the interval is not below {GONE}")


def _classes(found: Similarities, mean: Mean, confounded: bool) -> Finding:
    values = found.other_partial if confounded else found.other
    if values is None:
        return Finding("NOT APPLICABLE", np.nan, np.nan, np.nan, found.no_classes)
    ceiling = max(float(found.self.mean()), 1e-12)
    s = mean(values.mean(1, keepdims=True) / ceiling)
    if s.low > SAME_CLASS and found.classless:
        return Finding("NOT APPLICABLE", *s, "it shows what is there, the same for every class, by its definition")
    if s.low > SAME_CLASS:
        return Finding("FAIL", *s, f"other classes get the same map ({s.low:.2f} > {SAME_CLASS})")
    if s.high < OTHER_CLASS:
        return Finding("PASS", *s, f"other classes get another map ({s.high:.2f} < {OTHER_CLASS})")
    return Finding("INCONCLUSIVE", *s, f"the interval is not below {OTHER_CLASS}")


def _labels(e: Interval, found: Similarities) -> Finding:
    if found.untaught:
        return Finding("INCONCLUSIVE", *e, found.untaught)
    if e.low > STAYS:
        return Finding("FAIL", *e, f"it stays although the labels meant nothing ({e.low:.2f} > {STAYS})")
    if e.high < STAYS:
        return Finding("PASS", *e, f"it changes with what the labels mean ({e.high:.2f} < {STAYS})")
    return Finding("INCONCLUSIVE", *e, f"the interval holds {STAYS}")


def _word(tests: Mapping[str, Finding], confounded: bool) -> tuple[str, str]:
    """FAIL > CONFOUNDED > INCONCLUSIVE > PASS."""
    for name in ("T1", "T3", "T4"):
        if name in tests and tests[name].verdict == "FAIL":
            return "FAIL", f"{name}: {tests[name].reason}"
    if confounded:
        return "CONFOUNDED", f"T1: {tests['T1'].reason}"
    for name, test in tests.items():
        if test.verdict not in {"PASS", "NOT APPLICABLE"}:
            empty = "are" if test.verdict == "FAIL" else "may be"
            vacuous = f"; later passes {empty} vacuous" if name == "T0" else ""
            return "INCONCLUSIVE", f"{name}: {test.reason}{vacuous}"
    return "PASS", "it is informative, and changes with the weights" + (
        " and the class" if tests["T3"].verdict == "PASS" else f" (classes: {tests['T3'].reason})"
    )


def _means(found: Similarities) -> dict[str, Alike]:
    n = next(iter(found.same.values())).shape[0]
    everything = np.arange(n)
    alike = {}
    for kind, same in found.same.items():
        mean = two_way(partial(_mean, same), n, same.shape[1], share=0.95)
        chance = _off_diagonal(found.cross[kind], everything, np.arange(same.shape[1]))
        alike[kind] = Alike(*mean, chance, float(found.partial[kind].mean()))
    return alike
