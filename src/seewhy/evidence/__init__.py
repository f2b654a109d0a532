"""6. Is the map worth anything? This is THE SECOND TABLE: one line a check. Free of torch at import."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["CHECKS", "Check"]


class Check(NamedTuple):
    """One line of the table: a part of `seewhy.check`, with a word, or a number of `seewhy.measure`."""

    title: str
    question: str
    passes: str
    fails: str
    paper: str
    better: str = ""  # of a number: "low" or "high"
    where: str = ""  # of a number: who measures it
    needs_order: bool = True  # whether a map that is the same everywhere has none


def _number(title: str, question: str, better: str, where: str, paper: str, *, needs_order: bool = True) -> Check:
    return Check(title, question, "", "", paper, better, f"evidence.{where}", needs_order)


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
    "T4": Check(
        "Data", "Does the map change when the labels meant nothing?",
        "excess similarity below 0.75", "above 0.75, against networks that learnt shuffled labels by heart",
        "Adebayo et al. 2018, sec. 3.2",
    ),
    "deletion": _number(
        "Deletion", "How high is the score while the most important is hidden first?", "low", "curves:deletion",
        "Petsiuk et al. 2018, sec. 4.1",
    ),
    "insertion": _number(
        "Insertion", "How high is the score while the most important is shown first?", "high", "curves:insertion",
        "Petsiuk et al. 2018, sec. 4.1",
    ),
    "road": _number(
        "ROAD", "As deletion, with what is hidden filled in from its neighbours", "low", "curves:road",
        "Rong et al. 2022, sec. 4",
    ),
    "infidelity": _number(
        "Infidelity", "Does the map say what small changes do to the score?", "low", "nearby:infidelity",
        "Yeh et al. 2019, def. 2.1",
    ),
    "sensitivity": _number(
        "Sensitivity", "How far does the map change when the input moves a little?", "low", "nearby:sensitivity",
        "Yeh et al. 2019, def. 3.1", needs_order=False,
    ),
    "stability": _number(
        "Stability", "Do noisy copies of the input get the same map?", "high", "nearby:stability",
        "Alvarez-Melis and Jaakkola 2018, sec. 2",
    ),
    "completeness": _number(
        "Completeness", "Do the parts sum to what they promise?", "low", "nearby:completeness",
        "Sundararajan et al. 2017, prop. 1", needs_order=False,
    ),
    "pointing": _number(
        "Pointing game", "Does the largest value lie where the answer is known to be?", "high", "truth:pointing",
        "Zhang et al. 2018, sec. 4.1",
    ),
    "energy": _number(
        "Energy", "How much of the map lies where the answer is known to be?", "high", "truth:energy",
        "Wang et al. 2020, sec. 4.3",
    ),
}  # fmt: skip
