"""Verdicts on cases with a known truth: a few of those in tests/evaluation/bank.py."""

from tests.evaluation.bank import NEVER_FAIL, NEVER_PASS, error_counts, known_cases, markdown_table


def test_bank_known_cases():
    """No verdict is wrong; docs/verdicts.md has the whole bank."""
    cases = list(known_cases([7], "4 conv"))
    wrong = error_counts(cases)
    assert wrong[NEVER_PASS] == (0, 14)
    assert wrong[NEVER_FAIL] == (0, 5)
    assert all(c.verdict == "FAIL" for c in cases if c.method in {"edges", "blob"})
    assert all(c.verdict == "CONFOUNDED" for c in cases if c.method == "input_x_gradient")
    text = markdown_table(cases)
    assert text.startswith("| map | network | must | PASS |")
    assert "| blob | trained, 4 convolutions | never PASS |  |  |  | 3 |  |" in text
