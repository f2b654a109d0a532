"""6. Is the map worth anything? This is THE SECOND TABLE: one line a check. Free of torch at import."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["CHECKS", "Check"]


class Check(NamedTuple):
    """One test of a method on a network."""

    title: str
    question: str
    passes: str
    fails: str
    paper: str


CHECKS: dict[str, Check] = {
    "T0": Check(
        "Informative", "Does hiding what the map calls important matter more than hiding elsewhere?",
        "deletion by the map beats deletion by the same map with its patches shuffled",
        "it does not", "Petsiuk et al. 2018; Binder et al. 2023",
    ),
    "T1": Check(
        "Top layer", "Does the map change when the last layer has learnt nothing?",
        "excess similarity below 0.75", "above 0.75, also with what the input forces taken out",
        "Adebayo et al. 2018, sec. 3",
    ),
    "T2": Check(
        "Cascade", "Is the map gone when no layer has learnt anything?",
        "excess similarity below 0.25 (below 0.75 with only the last layer left)", "above 0.75",
        "Adebayo et al. 2018, sec. 3; Binder et al. 2023",
    ),
    "T3": Check(
        "Class contrast", "Does the map of another class differ?",
        "similarity below 0.90 of what two runs of the method share", "above 0.95 of it",
        "Sixt et al. 2020, sec. 4",
    ),
}  # fmt: skip
