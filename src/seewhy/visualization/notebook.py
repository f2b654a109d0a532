"""HTML of records for Jupyter: all texts are escaped, pictures are embedded."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

from .comparison import agreement_rows, measurement_text
from .evidence import evidence_figure, evidence_headers, evidence_rows
from .sheet import figure, same_input_and_targets
from .tables import layer_rows
from .verdict_badge import MapVerdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from seewhy.model import Model
    from seewhy.results import (
        Comparison,
        Evidence,
        Explanation,
        Explanations,
        LayerTable,
        Measurement,
        MethodVerdict,
        Prediction,
    )

MAX_SHEETS = 8  # explanations of different inputs that are shown at once
NOTEBOOK_DPI = 90  # low, because notebook files store every picture


def explanation_html(e: Explanation) -> str:
    """The sheet, then the feature layer, the convergence delta and the notes."""
    lines = []
    if e.feature_layer is not None:
        reason = "" if e.layer_reason in {None, "given"} else f": {e.layer_reason}"
        lines.append(f"feature layer {e.feature_layer}{reason}")
    if e.convergence_delta is not None:
        delta = ", ".join(f"{v:+.3g}" for v in e.convergence_delta.flatten().tolist()[:8])
        more = ", …" if e.convergence_delta.numel() > 8 else ""
        lines.append(f"convergence delta (sum of the attributions minus (score - baseline score)): {delta}{more}")
    return _figure_html(figure(e), f"{e.title} of {e.model}") + _list_html([*lines, *e.notes])


def explanations_html(explanations: Explanations) -> str:
    """One sheet of all if they explain the same input and targets, else one sheet each; then the notes."""
    if not explanations:
        return ""
    first, count = explanations[0], len(explanations)
    if all(same_input_and_targets(e, first) and e.maps.shape == first.maps.shape for e in explanations):
        notes = dict.fromkeys(f"{e.title}: {note}" for e in explanations for note in e.notes)
        return _figure_html(figure(explanations), "one map per method") + _list_html(notes)
    shown = "".join(explanation_html(e) for e in explanations[:MAX_SHEETS])
    return shown + (f"<p>{count - MAX_SHEETS} more explanations are not shown.</p>" if count > MAX_SHEETS else "")


def evidence_html(evidence: Evidence) -> str:
    """The figure, the table of tests, the reasons for the verdicts, and the notes."""
    rows = [
        [_verdict_html(cell) if n == 1 else escape(cell) for n, cell in enumerate(row)]
        for row in evidence_rows(evidence)
    ]
    reasons = [f"{name}: {one.verdict}. {one.reason}." for name, one in evidence.methods.items()]
    text = _table_html(evidence_headers(evidence), rows) + _list_html([*reasons, *evidence.notes])
    return _figure_html(evidence_figure(evidence), "maps of the trained and of randomized networks") + text


def method_verdict_html(result: MethodVerdict) -> str:
    """The verdict, the reason, and one row per test."""
    rows = [
        (test, one.verdict, f"{one.estimate:.2f} [{one.low:.2f}, {one.high:.2f}]", one.reason)
        for test, one in result.tests.items()
    ]
    table = _text_table_html(("test", "verdict", "estimate", "reason"), rows)
    return f"<p>{_verdict_html(result.verdict)} {escape(result.reason)}</p>{table}"


def comparison_html(comparison: Comparison) -> str:
    """The sheet of all methods, and the table of their agreement."""
    table = _text_table_html(("agreement", *comparison.methods), agreement_rows(comparison))
    return _figure_html(figure(comparison.maps), "methods side by side") + table


def measurement_html(measurement: Measurement) -> str:
    """The measurement as one line, and the notes."""
    return f"<p>{escape(measurement_text(measurement))}</p>" + _list_html(measurement.notes)


def prediction_html(prediction: Prediction) -> str:
    """A table with one row per class, and the notes."""
    rows = [
        (n, label, index, f"{probability:.5g}")
        for n, best in enumerate(prediction)
        for label, index, probability in best
    ]
    return _text_table_html(("sample", "class", "index", "probability"), rows) + _list_html(prediction.notes)


def layer_table_html(table: LayerTable) -> str:
    """A table with one row per layer."""
    return _text_table_html(*layer_rows(table))


def model_html(model: Model) -> str:
    """A table of capabilities, labels, layout and preprocessing, without the modules, and the notes."""
    first_labels = ", ".join((model.labels or ())[:4]) + (", …" if len(model.labels or ()) > 4 else "")
    rows = [
        ("capabilities", ", ".join(str(flag.name).lower() for flag in model.capabilities)),
        ("labels", "none: classes are numbers" if model.labels is None else f"{len(model.labels)}: {first_labels}"),
        ("layout", model.layout or "N first, C second"),
        ("preparation", "none: pass tensors" if model.preparation is None else str(model.preparation)),
    ]
    return _text_table_html((model.name, ""), rows) + _list_html(model.notes)


def _figure_html(page: Figure, text: str) -> str:
    file = io.BytesIO()
    page.savefig(file, format="png", dpi=NOTEBOOK_DPI)
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{escape(text)}" style="max-width:100%">'


def _text_table_html(headers: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A table whose cells are escaped."""
    return _table_html(headers, [[escape(str(cell)) for cell in row] for row in rows])


def _table_html(headers: Sequence[object], rows: Iterable[Sequence[str]]) -> str:
    """A table whose cells are HTML."""
    head = "".join(f'<th style="text-align:left">{escape(str(h))}</th>' for h in headers)
    body = "".join("<tr>" + "".join(f'<td style="text-align:left">{c}</td>' for c in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _list_html(lines: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else ""


def _verdict_html(verdict: str) -> str:
    style = f"background:{MapVerdict(verdict, '').color};color:white;padding:0 .4em;border-radius:.3em"
    return f'<b style="{style}">{escape(verdict)}</b>'
