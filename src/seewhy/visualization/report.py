"""The report: one self-contained HTML file with embedded pictures and a strict content security policy."""

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
from seewhy.results import Comparison, Explanation

from .color_scale import make_color_scale
from .colormaps import colormap
from .comparison import agreement_rows
from .evidence import evidence_headers, evidence_png, evidence_rows
from .panels import input_picture
from .sample import select_sample
from .sheet import png, same_input_and_targets
from .sheet_layout import explanation_names
from .verdict_badge import MapVerdict, map_verdict

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from seewhy.results import Evidence, Prediction

TEMPLATE_FOLDER = Path(__file__).parent
COLORMAP_CHOICES = {"viridis": "viridis", "white to black": "white_black", "white to red": "white_red", "jet": "jet"}
MAX_SLICES = 6


class MapPanel(NamedTuple):
    """One map with its caption.

    Attributes:
        method: name of the method.
        label: label of the explained class.
        probability: its probability as text, or empty.
        picture: the map in gray levels as a data URL; empty where the map is part of a sheet.
        signed: whether zero gets the middle color.
        low_resolution: whether to enlarge it without smoothing.
        color_range: the values of the first and the last color as text.
        details: lines of the caption, (name, text).
        verdict: verdict of `seewhy.check` on this map, if evidence was given.
    """

    method: str
    label: str
    probability: str
    picture: str
    signed: bool
    low_resolution: bool
    color_range: str
    details: list[tuple[str, str]]
    verdict: MapVerdict | None


class InputSection(NamedTuple):
    """One input with its maps.

    Attributes:
        name: name of the input.
        best_classes: the predicted classes, (label, index, probability).
        picture: the input as a data URL; empty for inputs other than pictures.
        low_resolution: whether to enlarge the picture without smoothing.
        maps: the maps of this input.
        sheets: for inputs other than pictures: rendered sheets as data URLs.
    """

    name: str
    best_classes: list[tuple[str, str, str]]
    picture: str
    low_resolution: bool
    maps: list[MapPanel]
    sheets: list[str]


class MethodSection(NamedTuple):
    """One method with its settings: title, paragraphs of its description, (name, text) lines, and notes."""

    title: str
    description: list[str]
    details: list[tuple[str, str]]
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
    """Write explanations as one self-contained HTML file that loads nothing from elsewhere.

    The page shows maps over their inputs, with sliders for opacity and threshold, and lists the layers used,
    completeness, standard errors, verdicts, options, versions, and the limits of each method. Names and labels are
    escaped. Everything but the sliders works without scripts.

    Args:
        explanations: one or more, of any inputs; those of the same input and targets are shown side by side. A
            `Comparison` adds the table of agreement between methods. May be [] if `evidence` is given.
        file: path of the HTML file.
        evidence: result of `seewhy.check`; adds its table and figure, and a verdict to each map that was checked.
        prediction: result of `seewhy.predict` for the same inputs; adds the best classes of each.
        names: names of the inputs, one per sample; default: numbers.
        title: title of the page.
        percentile: the last color stands for this percentile of a map's values (100: for the largest value).

    Returns:
        The path of the file.

    Raises:
        OptionError: there is nothing to report, the number of names or predictions differs from the number of inputs,
            or the evidence belongs to another network.
    """
    comparison = explanations if isinstance(explanations, Comparison) else None
    if isinstance(explanations, Comparison):
        explanations = explanations.maps
    every = [explanations] if isinstance(explanations, Explanation) else list(explanations)
    if not every and evidence is None:
        raise OptionError("there is nothing to report: pass explanations, evidence, or both.")
    groups = _group_by_input(every)
    count = sum(len(group[0].input) for group in groups)
    if names is not None and len(names) != count:
        raise OptionError(f"{len(names)} names for {count} inputs: pass one name per input.")
    if prediction is not None and len(prediction.labels) != count:
        raise OptionError(
            f"a prediction for {len(prediction.labels)} inputs, but {count} inputs are explained: they must match."
        )
    input_names = [str(name) for name in names] if names is not None else [f"Input {n + 1}" for n in range(count)]
    make_color_scale("own", (), None, percentile)  # checks the percentile
    best_classes = _best_classes(prediction, count)
    verdicts = {id(e): map_verdict(e, evidence) for e in every} if evidence is not None else {}
    sections: list[InputSection] = []
    for group in groups:
        for n in range(len(group[0].input)):
            i = len(sections)
            sections.append(_input_section(input_names[i], best_classes[i], group, n, verdicts, percentile))
    script = (TEMPLATE_FOLDER / "report.js").read_text(encoding="utf-8")
    style = (TEMPLATE_FOLDER / "report.css").read_text(encoding="utf-8")
    end = "largest value" if percentile == 100 else f"{percentile:g}th percentile"
    page = _template().render(
        title=title or ("Explanations" if every else "Does the map depend on what the network learned?"),
        script=script, script_hash=_csp_hash(script), style=style, style_hash=_csp_hash(style),
        sections=sections, methods=[_method_section(e) for e in _distinct_methods(every)], colormaps=_colormap_tables(),
        color_bar=_image_url(np.arange(256, dtype=np.uint8)[None].repeat(8, 0)),
        agreement=None if comparison is None else (("agreement", *comparison.methods), agreement_rows(comparison)),
        evidence=None if evidence is None else _evidence_section(evidence), end=end,
        interactive=any(section.picture for section in sections),
        signed=any(panel.signed for section in sections for panel in section.maps),
    )  # fmt: skip
    path = Path(file)
    path.write_text(page, encoding="utf-8", errors="backslashreplace")  # file names may contain undecodable bytes
    return path


@cache
def _template() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(TEMPLATE_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("report.html")


def _group_by_input(every: Sequence[Explanation]) -> list[list[Explanation]]:
    """Group explanations of the same input and targets."""
    groups: list[list[Explanation]] = []
    for e in every:
        match = next((group for group in groups if same_input_and_targets(e, group[0])), None)
        if match is None:
            groups.append([e])
        else:
            match.append(e)
    return groups


def _group_by_size(group: Sequence[Explanation]) -> list[list[Explanation]]:
    """Group explanations whose maps have the same size, as a sheet requires."""
    sizes = dict.fromkeys(e.maps.shape for e in group)
    return [[e for e in group if e.maps.shape == size] for size in sizes]


def _best_classes(prediction: Prediction | None, count: int) -> list[list[tuple[str, str, str]]]:
    if prediction is None:
        return [[] for _ in range(count)]
    return [[(label, str(index), f"{value:.5g}") for label, index, value in best] for best in prediction]


def _input_section(
    name: str,
    best_classes: list[tuple[str, str, str]],
    group: list[Explanation],
    n: int,
    verdicts: dict[int, MapVerdict],
    percentile: float,
) -> InputSection:
    first = group[0]
    is_picture = first.input.ndim == 4
    panels = [
        _map_panel(e, n, k, method, verdicts.get(id(e)), percentile, is_picture)
        for k in range(first.maps.shape[1])
        for e, method in zip(group, explanation_names(group), strict=True)
    ]
    if is_picture:
        picture = (input_picture(first.input[n], first.preparation, None) * 255).round().astype(np.uint8)
        return InputSection(name, best_classes, _image_url(picture), _is_low_resolution(picture), panels, [])
    options: dict[str, Any] = {"slices": min(MAX_SLICES, first.maps.shape[2])} if first.maps.ndim == 5 else {}
    sheets = [
        png([select_sample(e, n) for e in one], percentile=percentile, **options) for one in _group_by_size(group)
    ]
    return InputSection(name, best_classes, "", False, panels, [_png_url(sheet) for sheet in sheets])


def _map_panel(
    e: Explanation, n: int, k: int, method: str, verdict: MapVerdict | None, percentile: float, is_picture: bool
) -> MapPanel:
    """The map of sample `n` and target `k` with its caption."""
    heat = e.maps[n, k].double().numpy()
    signed = bool((heat < 0).any()) and -heat.min() > 0.05 * heat.max()  # resampling may undershoot zero
    color_range = make_color_scale("own", (), "blue_red" if signed else None, percentile).range_of(heat)
    gray = (color_range.normalize(heat) * 255).round().astype(np.uint8)
    label = f"target {k}" if e.labels is None else e.labels[n][k]
    details = [(e.score if e.labels is not None else "score", f"{float(e.scores[n, k]):.5g}")]
    if e.targets is not None:
        details.insert(0, ("class", str(int(e.targets[n, k]))))
    if e.convergence_delta is not None:
        delta = f"{float(e.convergence_delta[n, k]):+.3g}"
        details.append(("convergence delta", f"{delta} (sum of the attributions minus (score - baseline score))"))
    if e.stderr is not None:
        error, size = e.stderr[n, k].double().flatten(), e.values[n, k].double().abs().max()
        fraction = f"{float(error.nanmedian() / size):.2g}" if size > 0 else "unknown"
        details.append(("standard error", f"{fraction} of the largest absolute value (median over the map)"))
    if verdict is not None:
        details.append(("check", verdict.reason))
    probability = "" if e.probabilities is None else f"{float(e.probabilities[n, k]):.2f}"
    picture, low_resolution = (_image_url(gray), _is_low_resolution(gray)) if is_picture else ("", False)
    return MapPanel(method, label, probability, picture, signed, low_resolution, str(color_range), details, verdict)


def _method_section(e: Explanation) -> MethodSection:
    details = [("method", e.method), ("network", e.model or "unknown")]
    details += [("options", ", ".join(f"{key}={_option_text(value)}" for key, value in e.options.items()) or "none")]
    if e.feature_layer is not None:
        reason = "as requested" if e.layer_reason == "given" else e.layer_reason
        details.append(("feature layer", f"{e.feature_layer}: {reason}"))
    if e.reduction_layer is not None:
        details.append(("explained layer", e.reduction_layer))
    details += [("score", e.score), ("seed", str(e.seed)), ("upsample", e.upsample)]
    details.append(("filters", ", ".join(e.filters) or "none"))
    details.append(("samples evaluated", f"{e.evaluations.forward} forward, {e.evaluations.backward} backward"))
    details.append(("seconds", f"{e.seconds:.3g}"))
    details.append(("versions", ", ".join(f"{name} {version}" for name, version in e.versions.items()) or "unknown"))
    title = explanation_names([e])[0].replace("\n", ", ")
    return MethodSection(title, [part for part in e.description.split("\n\n") if part], details, e.notes)


def _distinct_methods(every: Sequence[Explanation]) -> list[Explanation]:
    """One explanation per method and settings; sequences of unequal length have one explanation each."""
    distinct: dict[str, Explanation] = {}
    for e in every:
        distinct.setdefault(repr((e.method, e.filters, e.feature_layer, str(dict(e.options)), e.notes)), e)
    return list(distinct.values())


def _option_text(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return f"{type(value).__name__}{list(shape)}" if shape else reprlib.repr(value)


def _evidence_section(evidence: Evidence) -> dict[str, Any]:
    return {
        "headers": evidence_headers(evidence),
        "rows": evidence_rows(evidence),
        "reasons": [(name, one.verdict, one.reason) for name, one in evidence.methods.items()],
        "notes": evidence.notes,
        "settings": [(key, f"{v:g}" if isinstance(v, float) else str(v)) for key, v in evidence.settings.items()],
        "figure": _png_url(evidence_png(evidence)),
    }


def _colormap_tables() -> list[tuple[str, str, str, str]]:
    """Name and red, green and blue tables of each colormap, in the format of SVG filters; blue to red is the last."""
    tables = {**COLORMAP_CHOICES, "blue to red": "blue_red"}
    return [
        (name, *(" ".join(f"{v:.3f}".rstrip("0").rstrip(".") for v in line) for line in colormap(cmap).T))  # type: ignore[misc]
        for name, cmap in tables.items()
    ]


def _is_low_resolution(picture: NDArray[np.uint8]) -> bool:
    return bool(min(picture.shape[:2]) < 112)


def _image_url(pixels: NDArray[np.uint8]) -> str:
    """Encode gray levels [H, W] or RGB [H, W, 3] as a data URL."""
    from PIL import Image

    page = io.BytesIO()
    Image.fromarray(pixels).save(page, format="png")
    return _png_url(page.getvalue())


def _png_url(png_file: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png_file).decode()


def _csp_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
