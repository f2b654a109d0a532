"""What `seewhy.check` found: as a table, as a figure, as numbers."""

from __future__ import annotations

import io
import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from seewhy import maps
from seewhy.errors import OptionError
from seewhy.evidence import CHECKS

from .panels import draw_input, draw_map, input_picture, strongest_slice
from .scale import scale_of
from .sheet import DPI, PANEL
from .table import table
from .verdicts import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from seewhy.types import Evidence, Finding, Judgement

KINDS = {"trained": "Trained", "top": "Last layer\ndrawn anew", "half": "Upper half\ndrawn anew",
         "all": "Everything\ndrawn anew"}  # fmt: skip


def text(given: Evidence) -> str:
    """A row a method: the word, the four tests with their intervals, the reason; then the controls and the notes."""
    said = [f"{key} {value:g}" for key, value in given.settings.items() if isinstance(value, float)]
    used = f"{given.settings['inputs']} inputs, {given.settings['draws']} draws; {', '.join(said)}"
    reasons = [
        f"{name}: {one.verdict}. {one.reason[0].upper()}{one.reason[1:]}." for name, one in given.methods.items()
    ]
    return "\n".join([table(heads(given), rows(given)), "", *reasons, "", used, *given.notes])


def heads(given: Evidence) -> tuple[str, ...]:
    """What stands over `rows`."""
    return ("method", "verdict", *(f"{name} {CHECKS[name].title.lower()}" for name in _known(given)))


def rows(given: Evidence) -> list[tuple[str, ...]]:
    """A row a method, the controls last."""
    known = _known(given)
    return [
        (name + mark, one.verdict, *(_cell(one.tests[test]) for test in known))
        for group, mark in ((given.methods, ""), (given.controls, " (control)"))
        for name, one in group.items()
    ]


def _known(given: Evidence) -> list[str]:
    """The tests that were run."""
    return [name for name in CHECKS if name in next(iter(given.methods.values())).tests]


def _cell(found: Finding) -> str:
    word = {"INCONCLUSIVE": "OPEN", "NOT APPLICABLE": "–"}.get(found.verdict, found.verdict)
    if math.isnan(found.estimate):
        return word
    return f"{word} {found.estimate:.2f} [{found.low:.2f}, {found.high:.2f}]"


def figure(given: Evidence, *, sample: int = 0, cmap: Any = "white_black", percentile: float = 99.5) -> Figure:
    """Trained and randomised maps of one input side by side, a row a method, with its word; below, how alike they are.

    Args:
        given: of `seewhy.check`.
        sample: of which input.
        cmap: colormap of the maps.
        percentile: each map's colours end at this percentile of its values.

    Raises:
        OptionError: a sample that is not there.
    """
    from matplotlib.figure import Figure

    if not 0 <= sample < len(given.input):
        raise OptionError(f"sample={sample}: there are {len(given.input)} inputs, 0 to {len(given.input) - 1}.")
    names = list(given.maps)
    scale = scale_of("own", (), cmap, percentile)
    page = Figure(figsize=(PANEL * (1 + len(KINDS)), (PANEL + 0.45) * len(names) + 3.0), layout="constrained")
    parts: Any = page.subfigures(2, 1, height_ratios=[(PANEL + 0.45) * len(names), 2.8])
    above, below = parts
    axes = above.subplots(len(names), 1 + len(KINDS), squeeze=False)
    for line, name in zip(axes, names, strict=True):
        size = given.input.shape[2:]
        every = {k: maps.resample(m[sample : sample + 1, None], size)[0, 0] for k, m in given.maps[name].items()}
        where = strongest_slice(every["trained"])
        picture = input_picture(given.input[sample], given.preparation, where)
        draw_input(line[0], picture)
        verdict = given.methods[name].verdict
        head = f"{name}: {verdict}"  # as wide as its panel
        points = min(10.0, 230 / len(head))
        line[0].set_title(head, fontsize=points, color=COLOURS[verdict], weight="bold", parse_math=False)
        for axis, (kind, title) in zip(line[1:], KINDS.items(), strict=True):
            axis.set_title(title, fontsize=9)
            if kind in every:
                draw_map(axis, every[kind], where, picture, cmap, None, scale)
            else:  # a network that could not be explained
                axis.set_axis_off()
                axis.text(0.5, 0.5, "none", ha="center", va="center", fontsize=9, transform=axis.transAxes)
    _curves(below.subplots(), given)
    label = f"Does the map depend on what the network learnt? {given.labels[sample] if given.labels else ''}".strip()
    page.suptitle(label, fontsize=13, parse_math=False)
    return page


def _curves(axis: Axes, given: Evidence) -> None:
    """Rank correlation with the trained map, after each step of the cascade, and the chance level."""
    steps = range(len(KINDS))
    styles = [("o-", 2.0), ("s-", 2.0), ("^-", 2.0), ("D-", 2.0), ("v-", 2.0), ("P-", 2.0)]
    for number, (name, one) in enumerate(given.methods.items()):
        style, width = styles[number % len(styles)]
        low, middle, high = _band(one)
        (line,) = axis.plot(steps, middle, style, linewidth=width, label=name)
        axis.fill_between(steps, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        chance = [float("nan"), *(one.similarity[k].chance for k in list(KINDS)[1:])]
        axis.plot(steps, chance, ":", color=line.get_color(), linewidth=1)
    for name, dash in (("edges", "--"), ("random", "-.")):
        if name in given.controls:
            axis.plot(steps, _band(given.controls[name])[1], dash, color="0.4", linewidth=1, label=f"{name} (control)")
    axis.set_xticks(list(steps), [title.replace("\n", " ") for title in KINDS.values()], fontsize=8)
    axis.set_ylabel("rank correlation\nwith the trained map", fontsize=8)
    axis.set_ylim(-0.35, 1.05)
    axis.tick_params(axis="y", labelsize=8)
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    axis.set_title("dotted: what maps of different inputs share by chance; shaded: 95 % intervals", fontsize=8)


def _band(one: Judgement) -> tuple[list[float], list[float], list[float]]:
    kinds = list(KINDS)[1:]
    return tuple(  # type: ignore[return-value]
        [1.0, *(getattr(one.similarity[k], part) for k in kinds)] for part in ("low", "same", "high")
    )


def numbers(given: Evidence) -> dict[str, Any]:
    """All but the pictures, ready for JSON; what was not measured is null."""
    groups = {"methods": given.methods, "controls": given.controls}
    found: dict[str, Any] = {
        key: {
            name: asdict(one) | {
                "tests": {test: f._asdict() for test, f in one.tests.items()},
                "similarity": {kind: s._asdict() for kind, s in one.similarity.items()},
            }
            for name, one in group.items()
        }
        for key, group in groups.items()
    }  # fmt: skip
    whole = found | {"notes": list(given.notes), "settings": dict(given.settings), "labels": list(given.labels),
                     "seconds": given.seconds}  # fmt: skip
    cleaned: dict[str, Any] = json.loads(json.dumps(whole), parse_constant=lambda _name: None)
    return cleaned


def show(given: Evidence, **options: Any) -> Any:
    """The figure as a PIL picture."""
    from PIL import Image

    return Image.open(io.BytesIO(png(given, **options)))


def png(given: Evidence, **options: Any) -> bytes:
    """The figure as the bytes of a PNG file."""
    page = io.BytesIO()
    figure(given, **options).savefig(page, format="png", dpi=DPI)
    return page.getvalue()
