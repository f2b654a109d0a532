"""One HTML file that needs nothing else: pictures inside, no address, and a policy that lets nothing in."""

from __future__ import annotations

import base64
import hashlib
import io
import reprlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from seewhy.errors import OptionError
from seewhy.types import Comparison, Explanation

from . import evidence as found
from .colour import colormap
from .comparison import rows as agreement
from .panels import input_picture, strongest_slice
from .places import names as names_of
from .sample import sample
from .scale import scale_of
from .sheet import png, same_question
from .verdicts import Verdict, verdict_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from seewhy.types import Evidence, Prediction

HERE = Path(__file__).parent
CHOICES = {"viridis": "viridis", "white to black": "white_black", "white to red": "white_red", "jet": "jet"}
SLICES = 6


class Drawn(NamedTuple):
    """A map, and what is said under it."""

    name: str
    label: str
    number: str
    picture: str
    signed: bool
    coarse: bool
    span: str
    said: list[tuple[str, str]]
    verdict: Verdict | None


class Section(NamedTuple):
    """One input."""

    name: str
    top: list[tuple[str, str, str]]
    picture: str
    coarse: bool
    drawn: list[Drawn]
    sheets: list[str]  # of what is no picture


class Used(NamedTuple):
    """One method as it was asked."""

    name: str
    about: list[str]
    said: list[tuple[str, str]]
    notes: tuple[str, ...]


def report(
    explanations: Explanation | Sequence[Explanation] | Comparison,
    file: str | Path,
    *,
    evidence: Evidence | None = None,
    prediction: Prediction | None = None,
    names: Sequence[str] | None = None,
    title: str | None = None,
    percentile: float = 99.5,
) -> Path:
    """Write explanations as one HTML file that loads nothing: it can be mailed, and opened anywhere.

    The browser lays maps over their inputs, with sliders for opacity and for a threshold. Below stand the layers that
    were used and why, completeness, error bars, verdicts, options and versions, and what each method can and cannot
    tell. Names and labels are text whatever is in them; without scripts all but the sliders is there.

    Args:
        explanations: of any inputs; those of the same input and targets stand side by side. A `Comparison` brings the
            table of how far methods agree. [] with `evidence`.
        file: where.
        evidence: of `seewhy.check`: its table and figure, and its word on each map that it holds for.
        prediction: of `seewhy.predict` for the same inputs: the best classes of each.
        names: of the inputs, one a sample; default: numbers.
        title: of the page.
        percentile: colours end at this percentile of a map's values (100: at its largest).

    Returns:
        The file.

    Raises:
        OptionError: nothing to report, names or a prediction of another number of inputs, or evidence of another
            network.
    """
    compared = explanations if isinstance(explanations, Comparison) else None
    if isinstance(explanations, Comparison):
        explanations = explanations.maps
    every = [explanations] if isinstance(explanations, Explanation) else list(explanations)
    if not every and evidence is None:
        raise OptionError("nothing to report: give explanations, evidence or both.")
    groups = _groups(every)
    count = sum(len(group[0].input) for group in groups)
    if names is not None and len(names) != count:
        raise OptionError(f"{len(names)} names for {count} inputs: one each.")
    if prediction is not None and len(prediction.labels) != count:
        raise OptionError(f"a prediction of {len(prediction.labels)} inputs for {count} that are explained.")
    called = [str(name) for name in names] if names is not None else [f"Input {n + 1}" for n in range(count)]
    scale_of("own", (), None, percentile)
    tops = _tops(prediction, count)
    verdicts = {id(e): verdict_of(e, evidence) for e in every} if evidence is not None else {}
    sections: list[Section] = []
    for group in groups:
        for n in range(len(group[0].input)):
            at = len(sections)
            sections.append(_section(called[at], tops[at], group, n, verdicts, percentile))
    script = (HERE / "report.js").read_text(encoding="utf-8")
    style = (HERE / "report.css").read_text(encoding="utf-8")
    end = "largest value" if percentile == 100 else f"{percentile:g}th percentile"
    page = _template().render(
        title=title or ("Explanations" if every else "Does the map depend on what the network learnt?"),
        script=script, script_hash=_hash(script), style=style, style_hash=_hash(style),
        sections=sections, used=[_used(e) for e in _distinct(every)], colours=_colours(),
        ramp=_inline(np.arange(256, dtype=np.uint8)[None].repeat(8, 0)),
        agreement=None if compared is None else (("agreement", *compared.methods), agreement(compared)),
        evidence=None if evidence is None else _evidence(evidence), end=end,
        interactive=any(section.picture for section in sections),
        signed=any(d.signed for section in sections for d in section.drawn),
    )  # fmt: skip
    path = Path(file)
    path.write_text(page, encoding="utf-8", errors="backslashreplace")  # file names may hold what is no text
    return path


@cache
def _template() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).get_template("report.html")


def _groups(every: Sequence[Explanation]) -> list[list[Explanation]]:
    """Explanations of the same input and targets, together."""
    groups: list[list[Explanation]] = []
    for e in every:
        mine = next((group for group in groups if same_question(e, group[0])), None)
        if mine is None:
            groups.append([e])
        else:
            mine.append(e)
    return groups


def _alike(group: Sequence[Explanation]) -> list[list[Explanation]]:
    """Those whose maps have one size, together: a sheet needs that."""
    sizes = dict.fromkeys(e.maps.shape for e in group)
    return [[e for e in group if e.maps.shape == size] for size in sizes]


def _tops(prediction: Prediction | None, count: int) -> list[list[tuple[str, str, str]]]:
    if prediction is None:
        return [[] for _ in range(count)]
    return [[(label, str(index), f"{share:.5g}") for label, index, share in best] for best in prediction]


def _section(
    name: str,
    top: list[tuple[str, str, str]],
    group: list[Explanation],
    n: int,
    verdicts: dict[int, Verdict],
    percentile: float,
) -> Section:
    first = group[0]
    called = names_of(group)
    flat = first.input.ndim == 4
    where = strongest_slice(first.maps[n, 0])
    drawn = []
    for k in range(first.maps.shape[1]):
        for e, method in zip(group, called, strict=True):
            drawn.append(_drawn(e, n, k, method, verdicts.get(id(e)), percentile, flat))
    if flat:
        picture = (input_picture(first.input[n], first.preparation, where) * 255).round().astype(np.uint8)
        return Section(name, top, _inline(picture), _coarse(picture), drawn, [])
    options: dict[str, Any] = {"slices": min(SLICES, first.maps.shape[2])} if first.maps.ndim == 5 else {}
    sheets = [png([sample(e, n) for e in one], percentile=percentile, **options) for one in _alike(group)]
    return Section(name, top, "", False, drawn, [_data(sheet) for sheet in sheets])


def _drawn(
    e: Explanation, n: int, k: int, method: str, verdict: Verdict | None, percentile: float, flat: bool
) -> Drawn:
    heat = e.maps[n, k].double().numpy()
    signed = bool((heat < 0).any()) and -heat.min() > 0.05 * heat.max()  # a cubic map may dip below zero
    span = scale_of("own", (), "blue_red" if signed else None, percentile).span(heat)
    grey = (span.share(heat) * 255).round().astype(np.uint8)
    label = f"target {k}" if e.labels is None else e.labels[n][k]
    said = [(e.score if e.labels is not None else "score", f"{float(e.scores[n, k]):.5g}")]
    if e.targets is not None:
        said.insert(0, ("class", str(int(e.targets[n, k]))))
    if e.completeness is not None:
        said.append(
            ("completeness", f"the sum of the parts misses what it promises by {float(e.completeness[n, k]):+.3g}")
        )
    if e.stderr is not None:
        error, size = e.stderr[n, k].double().flatten(), e.values[n, k].double().abs().max()
        share = f"{float(error.nanmedian() / size):.2g}" if size > 0 else "unknown"
        said.append(("error bar", f"standard error {share} of the largest value (median over the map)"))
    if verdict is not None:
        said.append(("check", verdict.reason))
    number = "" if e.probabilities is None else f"{float(e.probabilities[n, k]):.2f}"
    picture = _inline(grey) if flat else ""
    return Drawn(method, label, number, picture, signed, flat and _coarse(grey), str(span), said, verdict)


def _used(e: Explanation) -> Used:
    said = [("method", e.method), ("network", e.model or "unknown")]
    said += [("options", ", ".join(f"{key}={_short(value)}" for key, value in e.options.items()) or "none")]
    if e.feature_layer is not None:
        why = "as was asked" if e.layer_reason == "given" else e.layer_reason
        said.append(("layer read", f"{e.feature_layer}: {why}"))
    if e.reduction_layer is not None:
        said.append(("layer explained", e.reduction_layer))
    said += [("score", e.score), ("seed", str(e.seed)), ("upsample", e.upsample)]
    said.append(("filters", ", ".join(e.filters) or "none"))
    said.append(("passes", f"{e.evaluations.forward} forward, {e.evaluations.backward} backward"))
    said.append(("seconds", f"{e.seconds:.3g}"))
    said.append(("versions", ", ".join(f"{name} {version}" for name, version in e.versions.items()) or "unknown"))
    name = names_of([e])[0].replace("\n", ", ")
    return Used(name, [part for part in e.about.split("\n\n") if part], said, e.notes)


def _distinct(every: Sequence[Explanation]) -> list[Explanation]:
    """One of each method as it was asked: sequences of unequal length are explained one by one."""
    kept: dict[str, Explanation] = {}
    for e in every:
        kept.setdefault(repr((e.method, e.filters, e.feature_layer, str(dict(e.options)), e.notes)), e)
    return list(kept.values())


def _short(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return f"{type(value).__name__}{list(shape)}" if shape else reprlib.repr(value)


def _evidence(given: Evidence) -> dict[str, Any]:
    return {
        "heads": found.heads(given),
        "rows": found.rows(given),
        "reasons": [(name, one.verdict, one.reason) for name, one in given.methods.items()],
        "notes": given.notes,
        "settings": [(key, f"{v:g}" if isinstance(v, float) else str(v)) for key, v in given.settings.items()],
        "figure": _data(found.png(given)),
    }


def _colours() -> list[tuple[str, str, str, str]]:
    """Name, and the red, green and blue of each entry, as an SVG filter takes them; blue to red comes last."""
    tables = {**CHOICES, "blue to red": "blue_red"}
    return [
        (name, *(" ".join(f"{v:.3f}".rstrip("0").rstrip(".") for v in line) for line in colormap(cmap).T))  # type: ignore[misc]
        for name, cmap in tables.items()
    ]


def _coarse(picture: NDArray[np.uint8]) -> bool:
    return bool(min(picture.shape[:2]) < 112)


def _inline(pixels: NDArray[np.uint8]) -> str:
    """[H, W] grey or [H, W, 3] as the address of a picture inside the page."""
    from PIL import Image

    page = io.BytesIO()
    Image.fromarray(pixels).save(page, format="png")
    return _data(page.getvalue())


def _data(png_file: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png_file).decode()


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
