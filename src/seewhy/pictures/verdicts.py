"""Which word of `seewhy.check` holds for which map, and its colour."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from seewhy.errors import OptionError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from seewhy.types import Evidence, Explanation

UNCHECKED = "NOT CHECKED"
ASKED = ("score", "feature_layer", "reduction_layer", "options", "filters")  # where these differ, so may the map
COLOURS = {
    "PASS": "#1b7837",
    "FAIL": "#b2182b",
    "CONFOUNDED": "#8c510a",
    "INCONCLUSIVE": "#555555",
    "INVALID": "#762a83",
}


class Verdict(NamedTuple):
    """A word and a sentence."""

    word: str
    reason: str

    @property
    def colour(self) -> str:
        """Dark enough for white letters."""
        return COLOURS.get(self.word, "#777777")


def verdict_of(e: Explanation, evidence: Evidence) -> Verdict:
    """What was found of just this method, asked and filtered as it was checked; otherwise NOT CHECKED, and why.

    Raises:
        OptionError: the evidence is of another network, or of inputs of another shape.
    """
    name = evidence.settings.get("model")
    if (e.model and name and e.model != name) or e.input.shape[1:] != evidence.input.shape[1:]:
        found, asked = tuple(evidence.input.shape[1:]), tuple(e.input.shape[1:])
        raise OptionError(
            f"the evidence is of {name} and inputs {found}, the explanation of {e.model} and inputs {asked}: "
            "run seewhy.check on the network that is explained."
        )
    if e.method not in evidence.methods:
        return Verdict(UNCHECKED, f"the check was of {', '.join(evidence.methods)}")
    checked = evidence.asked.get(e.method, {})
    other = [what for what in ASKED if what not in checked or str(checked[what]) != str(getattr(e, what))]
    if other:
        return Verdict(UNCHECKED, f"the check was of {e.method} with other {', '.join(other)}")
    one = evidence.methods[e.method]
    return Verdict(one.verdict, one.reason)


def badge(axis: Axes, verdict: Verdict) -> None:
    """The word in a corner of a map; a word, so that it can be read in grey."""
    axis.text(
        0.03, 0.97, verdict.word, transform=axis.transAxes, ha="left", va="top", fontsize=7, weight="bold",
        color="white", bbox={"boxstyle": "round,pad=0.25", "facecolor": verdict.colour, "edgecolor": "white"},
    )  # fmt: skip
