"""Output of `seewhy.check`: text table, figure, and a dictionary for JSON."""

from __future__ import annotations

import io
import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from seewhy import maps
from seewhy.errors import OptionError
from seewhy.evaluation import CHECKS

from .color_scale import make_color_scale
from .panels import draw_input, draw_map, input_picture, strongest_slice
from .sheet import DPI, PANEL_INCHES
from .tables import text_table
from .verdict_badge import VERDICT_COLORS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image

    from seewhy.results import CheckResult, Evidence, MethodVerdict

# kind of network in `Evidence.maps` -> title of its column
NETWORK_TITLES = {"trained": "Trained", "top": "Last layer\nrandomized", "half": "Upper half\nrandomized",
                  "all": "All layers\nrandomized"}  # fmt: skip
# short forms for the cells of the text table
_SHORT_VERDICTS = {"INCONCLUSIVE": "INCONCL.", "NOT APPLICABLE": "–"}


def evidence_text(evidence: Evidence) -> str:
    """Format the results as text: the table of tests, the reason for each verdict, the settings and the notes."""
    thresholds = [f"{key} {value:g}" for key, value in evidence.settings.items() if isinstance(value, float)]
    settings = f"{evidence.settings['inputs']} inputs, {evidence.settings['draws']} draws; {', '.join(thresholds)}"
    reasons = [
        f"{name}: {one.verdict}. {one.reason[0].upper()}{one.reason[1:]}." for name, one in evidence.methods.items()
    ]
    table = text_table(evidence_headers(evidence), evidence_rows(evidence))
    return "\n".join([table, "", *reasons, "", settings, *evidence.notes])


def evidence_headers(evidence: Evidence) -> tuple[str, ...]:
    """The headers of the columns of `evidence_rows`."""
    return ("method", "verdict", *(f"{name} {CHECKS[name].title.lower()}" for name in _executed_tests(evidence)))


def evidence_rows(evidence: Evidence) -> list[tuple[str, ...]]:
    """The rows of the table, one per method: name, verdict, and one cell per test; the controls come last."""
    tests = _executed_tests(evidence)
    return [
        (name + suffix, one.verdict, *(_test_result_cell(one.tests[test]) for test in tests))
        for group, suffix in ((evidence.methods, ""), (evidence.controls, " (control)"))
        for name, one in group.items()
    ]


def _executed_tests(evidence: Evidence) -> list[str]:
    return [name for name in CHECKS if name in next(iter(evidence.methods.values())).tests]


def _test_result_cell(result: CheckResult) -> str:
    verdict = _SHORT_VERDICTS.get(result.verdict, result.verdict)
    if math.isnan(result.estimate):
        return verdict
    return f"{verdict} {result.estimate:.2f} [{result.low:.2f}, {result.high:.2f}]"


def evidence_figure(
    evidence: Evidence, *, sample: int = 0, cmap: Any = "white_black", percentile: float = 99.5
) -> Figure:
    """Draw the maps of the trained and the randomized networks, one row per method, and the similarity curves.

    Args:
        evidence: result of `seewhy.check`.
        sample: index of the input whose maps are shown.
        cmap: colormap of the maps.
        percentile: the last color stands for this percentile of each map's values.

    Raises:
        OptionError: `sample` is out of range.
    """
    from matplotlib.figure import Figure

    if not 0 <= sample < len(evidence.input):
        raise OptionError(f"sample={sample}: it must be from 0 to {len(evidence.input) - 1}.")
    names = list(evidence.maps)
    scale = make_color_scale("own", (), cmap, percentile)
    columns, maps_height = 1 + len(NETWORK_TITLES), (PANEL_INCHES + 0.45) * len(names)
    page = Figure(figsize=(PANEL_INCHES * columns, maps_height + 3.0), layout="constrained")
    subfigures: Any = page.subfigures(2, 1, height_ratios=[maps_height, 2.8])
    upper, lower = subfigures
    axes = upper.subplots(len(names), columns, squeeze=False)
    for row, name in zip(axes, names, strict=True):
        size = evidence.input.shape[2:]
        resampled = {
            kind: maps.resample(m[sample : sample + 1, None], size)[0, 0] for kind, m in evidence.maps[name].items()
        }
        slice_index = strongest_slice(resampled["trained"])
        picture = input_picture(evidence.input[sample], evidence.preparation, slice_index)
        draw_input(row[0], picture)
        verdict = evidence.methods[name].verdict
        title = f"{name}: {verdict}"
        font_size = min(10.0, 230 / len(title))  # not wider than the panel
        row[0].set_title(title, fontsize=font_size, color=VERDICT_COLORS[verdict], weight="bold", parse_math=False)
        for axis, (kind, network_title) in zip(row[1:], NETWORK_TITLES.items(), strict=True):
            axis.set_title(network_title, fontsize=9)
            if kind in resampled:
                draw_map(axis, resampled[kind], slice_index, picture, cmap, None, scale)
            else:  # this network could not be explained
                axis.set_axis_off()
                axis.text(0.5, 0.5, "no map", ha="center", va="center", fontsize=9, transform=axis.transAxes)
    _draw_similarity_curves(lower.subplots(), evidence)
    label = evidence.labels[sample] if evidence.labels else ""
    heading = f"Does the map depend on what the network learned? {label}".strip()
    page.suptitle(heading, fontsize=13, parse_math=False)
    return page


def _draw_similarity_curves(axis: Axes, evidence: Evidence) -> None:
    """Plot the rank correlation with the trained network's map per randomized network, and the chance level."""
    steps = range(len(NETWORK_TITLES))
    styles = [("o-", 2.0), ("s-", 2.0), ("^-", 2.0), ("D-", 2.0), ("v-", 2.0), ("P-", 2.0)]
    for number, (name, one) in enumerate(evidence.methods.items()):
        style, width = styles[number % len(styles)]
        low, middle, high = _similarity_curve(one)
        (line,) = axis.plot(steps, middle, style, linewidth=width, label=name)
        axis.fill_between(steps, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        chance = [float("nan"), *(one.similarity[kind].chance for kind in list(NETWORK_TITLES)[1:])]
        axis.plot(steps, chance, ":", color=line.get_color(), linewidth=1)
    for name, dash in (("edges", "--"), ("random", "-.")):
        if name in evidence.controls:
            middle = _similarity_curve(evidence.controls[name])[1]
            axis.plot(steps, middle, dash, color="0.4", linewidth=1, label=f"{name} (control)")
    axis.set_xticks(list(steps), [title.replace("\n", " ") for title in NETWORK_TITLES.values()], fontsize=8)
    axis.set_ylabel("rank correlation\nwith the trained map", fontsize=8)
    axis.set_ylim(-0.35, 1.05)
    axis.tick_params(axis="y", labelsize=8)
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    axis.set_title("dotted: similarity of maps of different inputs (chance level); shaded: 95 % intervals", fontsize=8)


def _similarity_curve(one: MethodVerdict) -> tuple[list[float], list[float], list[float]]:
    """Lower bound, mean and upper bound of the similarity, from the trained to the fully randomized network."""
    kinds = list(NETWORK_TITLES)[1:]
    return tuple(  # type: ignore[return-value]
        [1.0, *(getattr(one.similarity[kind], part) for kind in kinds)] for part in ("low", "same", "high")
    )


def evidence_to_dict(evidence: Evidence) -> dict[str, Any]:
    """Convert everything but inputs and maps to a dictionary for JSON; values that were not measured are None."""
    groups = {"methods": evidence.methods, "controls": evidence.controls}
    verdicts: dict[str, Any] = {
        key: {
            name: asdict(one) | {
                "tests": {test: result._asdict() for test, result in one.tests.items()},
                "similarity": {kind: similarity._asdict() for kind, similarity in one.similarity.items()},
            }
            for name, one in group.items()
        }
        for key, group in groups.items()
    }  # fmt: skip
    content = verdicts | {"notes": list(evidence.notes), "settings": dict(evidence.settings),
                          "labels": list(evidence.labels), "seconds": evidence.seconds}  # fmt: skip
    without_nan: dict[str, Any] = json.loads(json.dumps(content), parse_constant=lambda _name: None)
    return without_nan


def show_evidence(evidence: Evidence, **options: Any) -> Image:
    """Render the figure as a PIL image; see `evidence_figure` for the options."""
    from PIL import Image

    return Image.open(io.BytesIO(evidence_png(evidence, **options)))


def evidence_png(evidence: Evidence, **options: Any) -> bytes:
    """Encode the figure as PNG; see `evidence_figure` for the options."""
    page = io.BytesIO()
    evidence_figure(evidence, **options).savefig(page, format="png", dpi=DPI)
    return page.getvalue()
