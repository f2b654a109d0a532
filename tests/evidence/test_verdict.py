"""From similarities to one word: every branch, at its edge, on numbers and not on networks."""

import warnings

import numpy as np
import pytest

from seewhy.evidence.verdict import FEW, GONE, MEANING, OTHER_CLASS, SAME_CLASS, STAYS, Similarities, judge

KINDS = ("top", "half", "all", "bottom")
N, D = 16, 4
GOOD = {"top": 0.4, "half": 0.2, "all": 0.05, "bottom": 0.3}


def found(
    same=None, chance=0.0, partial=None, self=1.0, other=0.3, other_partial=0.3, gain=0.2, n=N, spread=0.01, **more
):
    """Similarities around given means; `spread` is the standard deviation over inputs."""
    same = GOOD | (same or {})
    partial = same | (partial or {})
    generator = np.random.default_rng(0)

    def around(mean, *shape):
        noise = generator.normal(size=shape)
        return mean + spread * (noise - noise.mean())  # the mean itself is exact

    def crossed(kind):
        whole = around(chance, n, n, D)
        for i in range(n):
            whole[i, i] = 9  # never counted
        return whole

    return Similarities(
        same={k: around(same[k], n, D) for k in KINDS},
        cross={k: crossed(k) for k in KINDS},
        partial={k: around(partial[k], n, D) for k in KINDS},
        self=np.full(n, self),
        other=None if other is None else around(other, n, 2),
        other_partial=None if other_partial is None else around(other_partial, n, 2),
        gain=None if gain is None else around(gain, n),
        **more,
    )


def word(several=1, **given):
    return judge(found(**given), several=several, needed=64)


def words(judgement):
    return [judgement.tests[t].verdict for t in ("T0", "T1", "T2", "T3")]


def test_pass():
    one = word()
    assert one.verdict == "PASS"
    assert words(one) == ["PASS"] * 4
    assert "weights and the class" in one.reason
    assert "faithful" in MEANING


def test_fail_by_the_top_layer():
    one = word(same={"top": 0.9})
    assert (one.verdict, one.tests["T1"].verdict) == ("FAIL", "FAIL")
    assert one.reason.startswith("T1: ")
    assert one.tests["T1"].estimate == pytest.approx(0.9, abs=0.01)


def test_confounded():
    """It stays, but not once the input is taken out; then the other tests look at what is left."""
    stays = {"top": 0.97, "half": 0.97, "all": 0.97, "bottom": 0.97}
    one = word(same=stays, partial=dict.fromkeys(KINDS, 0.05), other=0.98, other_partial=0.1)
    assert one.verdict == "CONFOUNDED"
    assert words(one) == ["PASS", "CONFOUNDED", "PASS", "PASS"]
    assert "input forces" in one.reason
    # the same numbers with nothing to take out are a FAIL, of the weights and of the class
    assert words(word(same=stays, other=0.98)) == ["PASS", "FAIL", "FAIL", "FAIL"]
    # a class that is not told apart even so
    one = word(same=stays, partial=dict.fromkeys(KINDS, 0.05), other=0.98, other_partial=0.99)
    assert (one.verdict, one.tests["T3"].verdict) == ("FAIL", "FAIL")


def test_fail_by_the_class():
    one = word(other=0.99)
    assert (one.verdict, one.reason[:3]) == ("FAIL", "T3:")


def test_a_map_that_asks_for_no_class_is_not_failed_for_it():
    one = word(other=0.99, classless=True)
    assert (one.verdict, one.tests["T3"].verdict) == ("PASS", "NOT APPLICABLE")
    assert one.tests["T3"].estimate == pytest.approx(0.99, abs=0.01)  # it is said all the same
    assert "by its definition" in one.reason
    assert "and the class" not in one.reason
    # it is no excuse for anything else, and nothing to hide behind where classes do get other maps
    assert word(other=0.99, same={"top": 0.9}, classless=True).reason.startswith("T1")
    assert word(other=0.3, classless=True).tests["T3"].verdict == "PASS"
    assert word(other=0.92, classless=True).tests["T3"].verdict == "INCONCLUSIVE"


@pytest.mark.parametrize(("gain", "expected"), [(0.2, "PASS"), (-0.2, "FAIL"), (0.0, "INCONCLUSIVE"),
                                                (None, "NOT APPLICABLE")])  # fmt: skip
def test_informative(gain, expected):
    one = word(gain=gain)
    assert one.tests["T0"].verdict == expected
    assert one.verdict == ("PASS" if expected in {"PASS", "NOT APPLICABLE"} else "INCONCLUSIVE")
    if expected in {"FAIL", "INCONCLUSIVE"}:
        assert "vacuous" in one.reason


def test_cascade():
    assert word(same={"all": 0.4}).verdict == "INCONCLUSIVE"
    one = word(same={"all": 0.9, "bottom": 0.9})
    assert (one.verdict, one.tests["T2"].verdict) == ("INCONCLUSIVE", "FAIL")
    one = word(same={"bottom": 0.8})  # bottom-up: only the last layer has learnt anything
    assert (one.verdict, one.tests["T2"].verdict) == ("INCONCLUSIVE", "INCONCLUSIVE")
    assert "last layer" in one.reason
    assert word(same={"half": 1.0}).verdict == "PASS"  # it is drawn in the figure, and decides nothing


# --- thresholds, at the edge


@pytest.mark.parametrize("spread", [0.001, 0.1])
def test_edges_of_the_intervals(spread):
    """A word follows from the interval's end, and not from the estimate."""
    for mean in np.arange(0.6, 0.95, 0.02):
        one = word(same={"top": mean}, spread=spread).tests["T1"]
        expected = "FAIL" if one.low > STAYS else "PASS" if one.high < STAYS else "INCONCLUSIVE"
        assert one.verdict == expected
    for mean in np.arange(0.1, 0.5, 0.02):
        one = word(same={"all": mean}, spread=spread).tests["T2"]
        assert one.verdict == ("PASS" if one.high < GONE else "INCONCLUSIVE")
    for mean in np.arange(0.8, 1, 0.01):
        one = word(other=mean, spread=spread).tests["T3"]
        expected = "FAIL" if one.low > SAME_CLASS else "PASS" if one.high < OTHER_CLASS else "INCONCLUSIVE"
        assert one.verdict == expected


@pytest.mark.parametrize(("mean", "expected"), [(0.74, "PASS"), (0.76, "FAIL")])
def test_just_beside_the_threshold(mean, expected):
    assert word(same={"top": mean}, spread=0.0005).tests["T1"].verdict == expected
    assert word(same={"top": mean}, spread=0.2).tests["T1"].verdict == "INCONCLUSIVE"


def test_both_must_stay_for_a_fail():
    for part, expected in ((0.76, "FAIL"), (0.74, "CONFOUNDED")):
        assert word(same={"top": 0.95}, partial={"top": part}, spread=0.0005).verdict == expected


# --- the anchors


def test_chance_is_taken_off():
    """0.8 is much where different inputs share nothing, and little where they share 0.7."""
    one = word(same=dict.fromkeys(KINDS, 0.8), partial=dict.fromkeys(KINDS, 0.8))
    assert one.tests["T1"].verdict == "FAIL"
    one = word(same=dict.fromkeys(KINDS, 0.72), chance=0.7, partial=dict.fromkeys(KINDS, 0.0))
    assert one.tests["T1"].estimate == pytest.approx(0.02 / 0.3, abs=0.01)
    assert words(one)[1:3] == ["PASS", "PASS"]
    assert one.similarity["top"].chance == pytest.approx(0.7, abs=0.01)  # and not with the 9s of the diagonal


def test_two_runs_of_the_method_are_the_ceiling():
    one = word(same={"top": 0.5}, partial={"top": 0.5}, self=0.55, other=0.3)
    assert one.tests["T1"].estimate == pytest.approx(0.5 / 0.55, abs=0.01)
    assert word(other=0.53, self=0.55).tests["T3"].verdict == "FAIL"


@pytest.mark.parametrize("likeness", [-0.05, 0.0, 0.19])
def test_a_method_that_is_noise_to_itself(likeness):
    """Then a map that changes with the weights says nothing: it changes without them as well."""
    one = word(self=likeness, same=dict.fromkeys(KINDS, 0.0), other=0.0)
    assert words(one) == ["PASS", *["INCONCLUSIVE"] * 3]
    assert one.verdict == "INCONCLUSIVE"
    assert "hardly alike" in one.reason
    assert word(self=0.21, same=dict.fromkeys(KINDS, 0.0), other=0.0).verdict == "PASS"


def test_a_map_that_does_not_depend_on_the_input():
    one = word(same=dict.fromkeys(KINDS, 1.0), chance=0.99, partial=dict.fromkeys(KINDS, 0.0))
    assert one.verdict == "FAIL"  # and not CONFOUNDED
    assert "does not depend on the input" in one.reason
    for rounding in (0, 1e-16, -1e-16):  # 0/0 is no number near 0, which would be a pass
        one = word(same=dict.fromkeys(KINDS, 1.0), chance=1.0 - rounding, spread=0)
        assert words(one)[1:3] == ["FAIL", "FAIL"]


def test_below_chance_is_no_warning_and_no_pass():
    """A method that is less like itself than what others share by chance."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        strange = found(self=0.25, same={"top": 0.05}, other=0.01)
        strange.cross["all"][:] = 0.5
        one = judge(strange, several=1, needed=64)
        strange = found(self=0.25, same={"top": 0.05}, other=0.01)
        strange.cross["bottom"][:] = 0.5
        other = judge(strange, several=1, needed=64)
    assert [j.tests["T2"].verdict for j in (one, other)] == ["FAIL", "INCONCLUSIVE"]
    assert [j.verdict for j in (one, other)] == ["INCONCLUSIVE", "INCONCLUSIVE"]


# --- which word comes first


def test_precedence():
    """FAIL, then CONFOUNDED, then INCONCLUSIVE, then PASS."""
    confounded = {"same": dict.fromkeys(KINDS, 0.97), "partial": dict.fromkeys(KINDS, 0.05)}
    assert word(**confounded, other_partial=0.99, gain=-1).verdict == "FAIL"
    assert word(**confounded, gain=-1).verdict == "CONFOUNDED"
    assert word(**confounded | {"partial": {"top": 0.05, "all": 0.6, "bottom": 0.1}}).verdict == "CONFOUNDED"
    assert word(gain=-1).verdict == "INCONCLUSIVE"
    assert word(gain=-1, same={"top": 0.9}).verdict == "FAIL"
    assert word(gain=-1, other=0.99).verdict == "FAIL"
    assert word(same={"top": 0.75}, spread=0.1).verdict == "INCONCLUSIVE"


def test_no_other_class():
    one = word(other=None, other_partial=None, no_classes="there is one score only")
    assert (one.verdict, one.tests["T3"].verdict) == ("PASS", "NOT APPLICABLE")
    assert "one score only" in one.reason
    assert np.isnan(one.tests["T3"].estimate)


@pytest.mark.parametrize("n", range(1, FEW))
def test_few_inputs(n):
    one = word(n=n)
    assert one.verdict == "INCONCLUSIVE"
    assert set(words(one)) == {"INCONCLUSIVE"}
    assert one.reason.startswith(f"{n} input")
    assert f"at least {FEW}" in one.reason
    assert "64 are recommended" in one.reason
    assert one.similarity["top"].same == pytest.approx(0.4, abs=0.01)
    assert word(n=FEW).verdict == "PASS"


def test_several_methods_widen_the_intervals():
    alone, among = word().tests["T1"], word(several=10).tests["T1"]
    assert among.low < alone.low < alone.estimate == among.estimate < alone.high < among.high
    assert word(several=10).similarity == word().similarity  # the figure's bands are those of one


def test_the_classes_of_an_input_are_no_draws():
    """Two rivals an input, one alike and one not: their mean is what counts, with the spread over inputs."""
    given = found(spread=0.01)
    given.other[:] = [0.7, 0.1]
    one = judge(given, several=1, needed=64).tests["T3"]
    assert one.verdict == "PASS"
    assert one.high - one.low < 0.05
