"""Records as Jupyter shows them: HTML in which every text is text, pictures inside."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

from . import comparison as compared
from . import evidence as found
from .sheet import figure
from .table import layer_rows
from .verdicts import Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from seewhy.types import Comparison, Evidence, Explanation, Judgement, Layers, Measured, Model, Prediction

SMALL = 90  # dots an inch: a notebook keeps every picture that it ever showed


def explanation(e: Explanation) -> str:
    """The sheet, then what was read, how far the sum misses its promise, and the notes."""
    lines = []
    if e.feature_layer is not None:
        lines.append(f"read at {e.feature_layer if e.layer_reason in {None, 'given'} else e.layer_reason}")
    if e.completeness is not None:
        off = ", ".join(f"{v:+.3g}" for v in e.completeness.flatten().tolist()[:8])
        more = ", …" if e.completeness.numel() > 8 else ""
        lines.append(f"completeness: the sum of the parts misses what it promises by {off}{more}")
    return _picture(figure(e), f"{e.title} of {e.model}") + _list([*lines, *e.notes])


def evidence(given: Evidence) -> str:
    """The figure, the table of tests, and what a reader must know."""
    rows = [[_word(cell) if n == 1 else escape(cell) for n, cell in enumerate(row)] for row in found.rows(given)]
    reasons = [f"{name}: {one.verdict}. {one.reason}." for name, one in given.methods.items()]
    whole = _rows(found.heads(given), rows) + _list([*reasons, *given.notes])
    return _picture(found.figure(given), "trained beside randomised") + whole


def judgement(given: Judgement) -> str:
    """The word, the reason, and a line a test."""
    rows = [
        (test, one.verdict, f"{one.estimate:.2f} [{one.low:.2f}, {one.high:.2f}]", one.reason)
        for test, one in given.tests.items()
    ]
    return f"<p>{_word(given.verdict)} {escape(given.reason)}</p>" + _table(
        ("test", "verdict", "estimate", "reason"), rows
    )


def comparison(given: Comparison) -> str:
    """The sheet of all methods and the table of their agreement."""
    table = _table(("agreement", *given.methods), compared.rows(given))
    return _picture(figure(given.maps), "methods side by side") + table


def measured(given: Measured) -> str:
    """The line that it prints, and the notes."""
    return f"<p>{escape(compared.measured(given))}</p>" + _list(given.notes)


def prediction(given: Prediction) -> str:
    """A row a class."""
    rows = [
        (n, label, index, f"{share:.5g}") for n, best in enumerate(given) for label, index, share in best
    ]  # as in text
    return _table(("sample", "class", "index", "probability"), rows) + _list(given.notes)


def layers(given: Layers) -> str:
    """A row a layer."""
    return _table(*layer_rows(given))


def model(given: Model) -> str:
    """What is known of the network; not its modules."""
    can = ", ".join(str(flag.name).lower() for flag in given.can)
    some = ", ".join((given.labels or ())[:4]) + (", …" if len(given.labels or ()) > 4 else "")
    labels = "none: classes are numbers" if given.labels is None else f"{len(given.labels)}: {some}"
    prepared = "none: give tensors" if given.preparation is None else str(given.preparation)
    rows = [
        ("can give", can),
        ("labels", labels),
        ("layout", given.layout or "N first, C second"),
        ("preparation", prepared),
    ]
    return _table((given.name, ""), rows) + _list(given.notes)


def _picture(page: Figure, text: str) -> str:
    file = io.BytesIO()
    page.savefig(file, format="png", dpi=SMALL)
    inside = base64.b64encode(file.getvalue()).decode()
    return f'<img src="data:image/png;base64,{inside}" alt="{escape(text)}" style="max-width:100%">'


def _table(heads: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    return _rows(heads, [[escape(str(cell)) for cell in row] for row in rows])


def _rows(heads: Sequence[object], rows: Iterable[Sequence[str]]) -> str:
    """Cells that are HTML already."""
    head = "".join(f'<th style="text-align:left">{escape(str(h))}</th>' for h in heads)
    body = "".join("<tr>" + "".join(f'<td style="text-align:left">{c}</td>' for c in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _list(lines: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else ""


def _word(word: str) -> str:
    style = f"background:{Verdict(word, '').colour};color:white;padding:0 .4em;border-radius:.3em"
    return f'<b style="{style}">{escape(word)}</b>'
