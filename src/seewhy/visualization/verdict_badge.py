"""Which verdict of `seewhy.check` applies to a map, and the badge that shows it."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, NamedTuple

from seewhy.errors import OptionError
from seewhy.results import content_key

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from seewhy.results import Evidence, Explanation

NOT_CHECKED = "NOT CHECKED"
VERDICT_COLORS = {
    "PASS": "#1b7837",
    "FAIL": "#b2182b",
    "CONFOUNDED": "#8c510a",
    "INCONCLUSIVE": "#555555",
    "INVALID": "#762a83",
}


class MapVerdict(NamedTuple):
    """The verdict that applies to one map, and the reason in one sentence."""

    verdict: str
    reason: str

    @property
    def color(self) -> str:
        """Background color of the badge; dark enough for white text."""
        return VERDICT_COLORS.get(self.verdict, "#777777")


def map_verdict(e: Explanation, evidence: Evidence) -> MapVerdict:
    """Look up the verdict on a map; NOT CHECKED if method, options or filters differ from those that were checked.

    Raises:
        OptionError: the evidence belongs to another network, or to inputs of another shape.
    """
    name = evidence.settings.get("model")
    if (e.model and name and e.model != name) or e.input.shape[1:] != evidence.input.shape[1:]:
        checked, explained = tuple(evidence.input.shape[1:]), tuple(e.input.shape[1:])
        raise OptionError(
            f"the evidence belongs to {name} with inputs {checked}, the explanation to {e.model} with inputs "
            f"{explained}: run seewhy.check on the network that is explained."
        )
    name = None if e.call is None else evidence.name_of(e.call)
    if name is None:
        different = _call_difference(e, evidence)
        only = f"only {', '.join(evidence.methods)} {'was' if len(evidence.methods) == 1 else 'were'} checked"
        return MapVerdict(NOT_CHECKED, f"the method was checked with different {different}" if different else only)
    if e.filters:
        return MapVerdict(NOT_CHECKED, f"the map was checked without the filters {', '.join(e.filters)}")
    one = evidence.methods[name]
    return MapVerdict(one.verdict, one.reason)


def _call_difference(e: Explanation, evidence: Evidence) -> str:
    """Fields that differ from the checked call of the same method; empty if the method was not checked."""
    checked = next((call for call in evidence.calls.values() if e.call and call.method == e.call.method), None)
    if checked is None or e.call is None:
        return ""
    different = [
        f.name for f in fields(e.call) if content_key(getattr(e.call, f.name)) != content_key(getattr(checked, f.name))
    ]
    return ", ".join(name for name in different if name != "seed")


def draw_badge(axis: Axes, verdict: MapVerdict) -> None:
    """Write the verdict into the upper left corner of a map."""
    axis.text(
        0.03, 0.97, verdict.verdict, transform=axis.transAxes, ha="left", va="top", fontsize=7, weight="bold",
        color="white", bbox={"boxstyle": "round,pad=0.25", "facecolor": verdict.color, "edgecolor": "white"},
    )  # fmt: skip
