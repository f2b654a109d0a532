"""Verdicts from given similarities: every branch of the rules, close to the thresholds."""

import warnings

import numpy as np
import pytest

from seewhy.evaluation.sanity_checks.verdict import (
    CASCADE_THRESHOLD,
    CHANGE_THRESHOLD,
    MIN_INPUTS,
    OTHER_CLASS_THRESHOLD,
    PASS_MEANING,
    SAME_CLASS_THRESHOLD,
    Similarities,
    decide_verdict,
)

KINDS = ("top", "half", "all", "bottom")
N, D = 16, 4
PASSING = {"top": 0.4, "half": 0.2, "all": 0.05, "bottom": 0.3}


def make_similarities(
    same=None, chance=0.0, partial=None, self=1.0, other=0.3, other_partial=0.3, gain=0.2, n=N, spread=0.01, **more
):
    """Similarities around given means; `spread` is the standard deviation over inputs."""
    same = PASSING | (same or {})
    partial = same | (partial or {})
    generator = np.random.default_rng(0)

    def around(mean, *shape):
        noise = generator.normal(size=shape)
        return mean + spread * (noise - noise.mean())  # the sample mean is exact

    def different_inputs():
        values = around(chance, n, n, D)
        for i in range(n):
            values[i, i] = 9  # must be ignored
        return values

    return Similarities(
        same_input={k: around(same[k], n, D) for k in KINDS},
        different_inputs={k: different_inputs() for k in KINDS},
        partial={k: around(partial[k], n, D) for k in KINDS},
        self_similarity=np.full(n, self),
        other_class=None if other is None else around(other, n, 2),
        other_class_partial=None if other_partial is None else around(other_partial, n, 2),
        deletion_gain=None if gain is None else around(gain, n),
        **more,
    )


def verdict_for(comparisons=1, **means):
    return decide_verdict(make_similarities(**means), comparisons=comparisons, recommended_inputs=64)


def verdicts_of(verdict):
    return [verdict.tests[t].verdict for t in ("T0", "T1", "T2", "T3")]


def test_verdict_pass():
    one = verdict_for()
    assert one.verdict == "PASS"
    assert verdicts_of(one) == ["PASS"] * 4
    assert "weights and the class" in one.reason
    assert "faithful" in PASS_MEANING


def test_verdict_fail_by_top_layer():
    one = verdict_for(same={"top": 0.9})
    assert (one.verdict, one.tests["T1"].verdict) == ("FAIL", "FAIL")
    expected = "T1: the map does not change when the last layer is randomized (similarity 0.90, threshold 0.75)"
    assert one.reason == expected
    assert one.tests["T1"].estimate == pytest.approx(0.9, abs=0.01)


def test_verdict_confounded():
    """Unchanged, but with a low partial correlation given the input; the other tests then use partial correlations."""
    unchanged = {"top": 0.97, "half": 0.97, "all": 0.97, "bottom": 0.97}
    one = verdict_for(same=unchanged, partial=dict.fromkeys(KINDS, 0.05), other=0.98, other_partial=0.1)
    assert one.verdict == "CONFOUNDED"
    assert verdicts_of(one) == ["PASS", "CONFOUNDED", "PASS", "PASS"]
    assert "but the input can explain this (partial correlation given the input 0.05, threshold 0.75)" in one.reason
    assert one.tests["T2"].reason.startswith("with the input partialled out, the map changes when all layers ")
    # the same similarities with high partial correlations are a FAIL of T1 and T3
    assert verdicts_of(verdict_for(same=unchanged, other=0.98)) == ["PASS", "FAIL", "FAIL", "FAIL"]
    # the maps of other classes are the same also with partial correlations
    one = verdict_for(same=unchanged, partial=dict.fromkeys(KINDS, 0.05), other=0.98, other_partial=0.99)
    assert (one.verdict, one.tests["T3"].verdict) == ("FAIL", "FAIL")


def test_verdict_fail_by_class():
    one = verdict_for(other=0.99)
    assert (one.verdict, one.reason[:3]) == ("FAIL", "T3:")


def test_verdict_of_class_agnostic_method():
    one = verdict_for(other=0.99, class_agnostic=True)
    assert (one.verdict, one.tests["T3"].verdict) == ("PASS", "NOT APPLICABLE")
    assert one.tests["T3"].estimate == pytest.approx(0.99, abs=0.01)  # reported nevertheless
    assert "by definition its map is the same for every class" in one.reason
    assert "and the class" not in one.reason
    # other tests can still fail, and T3 applies where the maps of classes differ
    assert verdict_for(other=0.99, same={"top": 0.9}, class_agnostic=True).reason.startswith("T1")
    assert verdict_for(other=0.3, class_agnostic=True).tests["T3"].verdict == "PASS"
    assert verdict_for(other=0.92, class_agnostic=True).tests["T3"].verdict == "INCONCLUSIVE"


@pytest.mark.parametrize(("gain", "expected"), [(0.2, "PASS"), (-0.2, "FAIL"), (0.0, "INCONCLUSIVE"),
                                                (None, "NOT APPLICABLE")])  # fmt: skip
def test_verdict_by_deletion_gain(gain, expected):
    one = verdict_for(gain=gain)
    assert one.tests["T0"].verdict == expected
    assert one.verdict == ("PASS" if expected in {"PASS", "NOT APPLICABLE"} else "INCONCLUSIVE")
    if expected in {"FAIL", "INCONCLUSIVE"}:
        assert "vacuous" in one.reason
    if gain is not None:
        assert "threshold 0" in one.tests["T0"].reason


def test_verdict_by_cascade():
    assert verdict_for(same={"all": 0.4}).verdict == "INCONCLUSIVE"
    one = verdict_for(same={"all": 0.9, "bottom": 0.9})
    assert (one.verdict, one.tests["T2"].verdict) == ("INCONCLUSIVE", "FAIL")
    one = verdict_for(same={"bottom": 0.8})  # all layers but the last are randomized
    assert (one.verdict, one.tests["T2"].verdict) == ("INCONCLUSIVE", "INCONCLUSIVE")
    assert "all layers but the last" in one.reason
    assert verdict_for(same={"half": 1.0}).verdict == "PASS"  # shown in the figure only


# --- thresholds


@pytest.mark.parametrize("spread", [0.001, 0.1])
def test_verdict_follows_interval_bounds(spread):
    """The verdict depends on the bounds of the interval, not on the estimate."""
    for mean in np.arange(0.6, 0.95, 0.02):
        one = verdict_for(same={"top": mean}, spread=spread).tests["T1"]
        expected = "FAIL" if one.low > CHANGE_THRESHOLD else "PASS" if one.high < CHANGE_THRESHOLD else "INCONCLUSIVE"
        assert one.verdict == expected
    for mean in np.arange(0.1, 0.5, 0.02):
        one = verdict_for(same={"all": mean}, spread=spread).tests["T2"]
        assert one.verdict == ("PASS" if one.high < CASCADE_THRESHOLD else "INCONCLUSIVE")
    for mean in np.arange(0.8, 1, 0.01):
        one = verdict_for(other=mean, spread=spread).tests["T3"]
        expected = (
            "FAIL" if one.low > SAME_CLASS_THRESHOLD else "PASS" if one.high < OTHER_CLASS_THRESHOLD else "INCONCLUSIVE"
        )
        assert one.verdict == expected


@pytest.mark.parametrize(("mean", "expected"), [(0.74, "PASS"), (0.76, "FAIL")])
def test_verdict_close_to_threshold(mean, expected):
    assert verdict_for(same={"top": mean}, spread=0.0005).tests["T1"].verdict == expected
    assert verdict_for(same={"top": mean}, spread=0.2).tests["T1"].verdict == "INCONCLUSIVE"


def test_verdict_fail_requires_partial_correlation():
    for part, expected in ((0.76, "FAIL"), (0.74, "CONFOUNDED")):
        assert verdict_for(same={"top": 0.95}, partial={"top": part}, spread=0.0005).verdict == expected


# --- chance level and self-similarity


def test_excess_similarity_subtracts_chance():
    """A similarity of 0.72 is low if maps of different inputs have a similarity of 0.7."""
    one = verdict_for(same=dict.fromkeys(KINDS, 0.8), partial=dict.fromkeys(KINDS, 0.8))
    assert one.tests["T1"].verdict == "FAIL"
    one = verdict_for(same=dict.fromkeys(KINDS, 0.72), chance=0.7, partial=dict.fromkeys(KINDS, 0.0))
    assert one.tests["T1"].estimate == pytest.approx(0.02 / 0.3, abs=0.01)
    assert verdicts_of(one)[1:3] == ["PASS", "PASS"]
    assert one.similarity["top"].chance == pytest.approx(0.7, abs=0.01)  # without the diagonal


def test_excess_similarity_is_relative_to_self_similarity():
    one = verdict_for(same={"top": 0.5}, partial={"top": 0.5}, self=0.55, other=0.3)
    assert one.tests["T1"].estimate == pytest.approx(0.5 / 0.55, abs=0.01)
    assert verdict_for(other=0.53, self=0.55).tests["T3"].verdict == "FAIL"


@pytest.mark.parametrize("self_similarity", [-0.05, 0.0, 0.19])
def test_verdict_with_low_self_similarity(self_similarity):
    """The maps of two runs differ, so a change with the weights is not conclusive."""
    one = verdict_for(self=self_similarity, same=dict.fromkeys(KINDS, 0.0), other=0.0)
    assert verdicts_of(one) == ["PASS", *["INCONCLUSIVE"] * 3]
    assert one.verdict == "INCONCLUSIVE"
    assert "two runs of the method on the same network have different maps" in one.reason
    assert "threshold 0.2" in one.reason
    assert verdict_for(self=0.21, same=dict.fromkeys(KINDS, 0.0), other=0.0).verdict == "PASS"


def test_verdict_fail_if_map_does_not_depend_on_input():
    one = verdict_for(same=dict.fromkeys(KINDS, 1.0), chance=0.99, partial=dict.fromkeys(KINDS, 0.0))
    assert one.verdict == "FAIL"  # not CONFOUNDED
    assert "does not depend on the input" in one.reason
    for rounding in (0, 1e-16, -1e-16):  # 0/0 must not become a PASS
        one = verdict_for(same=dict.fromkeys(KINDS, 1.0), chance=1.0 - rounding, spread=0)
        assert verdicts_of(one)[1:3] == ["FAIL", "FAIL"]


def test_verdict_with_self_similarity_below_chance():
    """Neither a warning nor a PASS if two runs are less similar than maps of different inputs."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        below_chance = make_similarities(self=0.25, same={"top": 0.05}, other=0.01)
        below_chance.different_inputs["all"][:] = 0.5
        one = decide_verdict(below_chance, comparisons=1, recommended_inputs=64)
        below_chance = make_similarities(self=0.25, same={"top": 0.05}, other=0.01)
        below_chance.different_inputs["bottom"][:] = 0.5
        other = decide_verdict(below_chance, comparisons=1, recommended_inputs=64)
    assert [v.tests["T2"].verdict for v in (one, other)] == ["FAIL", "INCONCLUSIVE"]
    assert "with all layers but the last randomized is undefined" in other.tests["T2"].reason
    assert [v.verdict for v in (one, other)] == ["INCONCLUSIVE", "INCONCLUSIVE"]


# --- precedence and special cases


def test_verdict_precedence():
    """FAIL, then CONFOUNDED, then INCONCLUSIVE, then PASS."""
    confounded = {"same": dict.fromkeys(KINDS, 0.97), "partial": dict.fromkeys(KINDS, 0.05)}
    assert verdict_for(**confounded, other_partial=0.99, gain=-1).verdict == "FAIL"
    assert verdict_for(**confounded, gain=-1).verdict == "CONFOUNDED"
    assert verdict_for(**confounded | {"partial": {"top": 0.05, "all": 0.6, "bottom": 0.1}}).verdict == "CONFOUNDED"
    assert verdict_for(gain=-1).verdict == "INCONCLUSIVE"
    assert verdict_for(gain=-1, same={"top": 0.9}).verdict == "FAIL"
    assert verdict_for(gain=-1, other=0.99).verdict == "FAIL"
    assert verdict_for(same={"top": 0.75}, spread=0.1).verdict == "INCONCLUSIVE"


def test_verdict_without_other_class():
    one = verdict_for(other=None, other_partial=None, no_other_class_reason="the network has only one score")
    assert (one.verdict, one.tests["T3"].verdict) == ("PASS", "NOT APPLICABLE")
    assert "only one score" in one.reason
    assert np.isnan(one.tests["T3"].estimate)


@pytest.mark.parametrize("n", range(1, MIN_INPUTS))
def test_verdict_with_few_inputs(n):
    one = verdict_for(n=n)
    assert one.verdict == "INCONCLUSIVE"
    assert set(verdicts_of(one)) == {"INCONCLUSIVE"}
    assert one.reason.startswith(f"{n} input")
    assert f"at least {MIN_INPUTS}" in one.reason
    assert "64 are recommended" in one.reason
    assert one.similarity["top"].same == pytest.approx(0.4, abs=0.01)
    assert verdict_for(n=MIN_INPUTS).verdict == "PASS"


def test_interval_widens_with_number_of_comparisons():
    single, corrected = verdict_for().tests["T1"], verdict_for(comparisons=10).tests["T1"]
    assert corrected.low < single.low < single.estimate == corrected.estimate < single.high < corrected.high
    assert (
        verdict_for(comparisons=10).similarity == verdict_for().similarity
    )  # the bands of the figure are not corrected


def test_other_classes_are_averaged_per_input():
    """Two other classes per input with similarities 0.7 and 0.1: the interval is that of their mean over inputs."""
    similarities = make_similarities(spread=0.01)
    similarities.other_class[:] = [0.7, 0.1]
    one = decide_verdict(similarities, comparisons=1, recommended_inputs=64).tests["T3"]
    assert one.verdict == "PASS"
    assert one.high - one.low < 0.05
