"""The verdict on cases with a known answer: few of them here, all of them in tests/evidence/bank.py."""

from tests.evidence.bank import NEVER_FAIL, NEVER_PASS, cases, rates, table


def test_known_cases():
    """None is wrong; over the whole bank at most one in twenty may be, see docs/verdicts.md."""
    found = list(cases([7], "4 conv"))
    wrong = rates(found)
    assert wrong[NEVER_PASS] == (0, 14)
    assert wrong[NEVER_FAIL] == (0, 5)
    assert all(c.verdict == "FAIL" for c in found if c.method in {"edges", "blob"})
    assert all(c.verdict == "CONFOUNDED" for c in found if c.method == "input_x_gradient")
    text = table(found)
    assert text.startswith("| map | network | must | PASS |")
    assert "| blob | trained, 4 convolutions | never PASS |  |  |  | 3 |  |" in text
