"""Evaluation of maps: the table of the sanity checks and metrics. Does not import torch."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["CHECKS", "Check"]


class Check(NamedTuple):
    """A test of `seewhy.check`, which has a verdict, or a metric of `seewhy.measure`, which has a value."""

    title: str
    question: str
    passes: str  # criterion of a test for PASS
    fails: str  # criterion of a test for FAIL
    paper: str
    better: str = ""  # of a metric: "low" or "high"
    function: str = ""  # of a metric: "module:function"
    undefined_if_constant: bool = True  # whether a metric is undefined for constant maps


def _metric(
    title: str, question: str, better: str, function: str, paper: str, *, undefined_if_constant: bool = True
) -> Check:
    return Check(title, question, "", "", paper, better, f"evaluation.metrics.{function}", undefined_if_constant)


CHECKS: dict[str, Check] = {
    "T0": Check(
        "Informative", "Does deletion guided by the map lower the score faster than by its patch-shuffled copy?",
        "the difference of the areas under the deletion curves is above 0", "it is at most 0",
        "Petsiuk et al. 2018; Binder et al. 2023",
    ),
    "T1": Check(
        "Top layer", "Does the map change when the last layer is randomized?",
        "excess similarity below 0.75", "above 0.75, and partial correlation given the input above 0.75",
        "Adebayo et al. 2018, sec. 3",
    ),
    "T2": Check(
        "Cascade", "Is the map unrelated to the original one when all layers are randomized?",
        "excess similarity below 0.25 (below 0.75 with all layers but the last randomized)", "above 0.75",
        "Adebayo et al. 2018, sec. 3; Binder et al. 2023",
    ),
    "T3": Check(
        "Class contrast", "Does the map of another class differ?",
        "similarity below 0.90 times the self-similarity of the method", "above 0.95 times the self-similarity",
        "Sixt et al. 2020, sec. 4",
    ),
    "T4": Check(
        "Data", "Does the map change when the network is trained on shuffled labels?",
        "excess similarity below 0.75", "above 0.75",
        "Adebayo et al. 2018, sec. 3.2",
    ),
    "deletion": _metric(
        "Deletion", "What is the mean score while positions are masked, the most important first?", "low",
        "perturbation_curves:deletion",
        "Petsiuk et al. 2018, sec. 4.1",
    ),
    "insertion": _metric(
        "Insertion", "What is the mean score while positions are unmasked, the most important first?", "high",
        "perturbation_curves:insertion",
        "Petsiuk et al. 2018, sec. 4.1",
    ),
    "road": _metric(
        "ROAD", "What is the mean score under deletion with noisy linear imputation from the neighbors?", "low",
        "perturbation_curves:road",
        "Rong et al. 2022, sec. 4",
    ),
    "infidelity": _metric(
        "Infidelity", "Does the map predict how input noise changes the score?", "low", "robustness:infidelity",
        "Yeh et al. 2019, def. 2.1",
    ),
    "sensitivity": _metric(
        "Sensitivity", "How much does the map change under small input perturbations?", "low", "robustness:sensitivity",
        "Yeh et al. 2019, def. 3.1", undefined_if_constant=False,
    ),
    "stability": _metric(
        "Stability", "Are the maps of noisy copies of the input similar?", "high", "robustness:stability",
        "Alvarez-Melis and Jaakkola 2018, sec. 2",
    ),
    "completeness": _metric(
        "Completeness", "Do the attributions sum to score - baseline score?", "low", "robustness:completeness",
        "Sundararajan et al. 2017, prop. 1", undefined_if_constant=False,
    ),
    "pointing": _metric(
        "Pointing game", "Does the largest value lie on the mask of the relevant region?", "high",
        "localization:pointing",
        "Zhang et al. 2018, sec. 4.1",
    ),
    "energy": _metric(
        "Energy", "Which fraction of the positive values lies on the mask?", "high", "localization:energy",
        "Wang et al. 2020, sec. 4.3",
    ),
}  # fmt: skip
