"""Save records to files, and load explanations."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from seewhy.errors import InputError, OptionError
from seewhy.inputs.preprocessing import Preprocessing
from seewhy.methods.method import Method
from seewhy.results import Comparison, Ensemble, Evaluations, Evidence, Explanation, Explanations, MethodCall

from .evidence import evidence_figure, evidence_to_dict
from .report import report
from .sheet import DPI, FIGURE_ENDINGS, REPORT_ENDINGS, figure

_TYPE_KEY = "$"  # marks an encoded value; no option has this name


def save_explanation(explanation: Explanation, file: str | Path, **options: Any) -> None:
    """Write the sheet (.png, .svg, .pdf), the report (.html) or the whole record (.npz, for `Explanation.load`).

    Args:
        explanation: the record.
        file: path; its ending decides the format.
        **options: options of `seewhy.visualization.figure` for a sheet, of `seewhy.report` for a report.

    Raises:
        OptionError: another ending.
    """

    def write_npz(path: Path) -> None:
        arrays: dict[str, np.ndarray] = {}
        record = {f.name: _pack(getattr(explanation, f.name), arrays) for f in fields(Explanation)}
        with path.open("wb") as stream:  # given a path, numpy appends .npz to "E.NPZ"
            np.savez_compressed(stream, allow_pickle=False, record=np.array(json.dumps(record)), **arrays)

    _write(file, partial(figure, explanation), partial(report, explanation), options, {".npz": write_npz})


def save_explanations(explanations: Explanations, file: str | Path, **options: Any) -> None:
    """Write one sheet (.png, .svg, .pdf) or one report (.html) of all explanations.

    Raises:
        OptionError: another ending.
    """
    _write(file, partial(figure, explanations), partial(report, explanations), options, {})


def save_comparison(comparison: Comparison, file: str | Path, **options: Any) -> None:
    """Write the sheet (.png, .svg, .pdf), or the report with the table of agreement (.html).

    Raises:
        OptionError: another ending.
    """
    _write(file, partial(figure, comparison.maps), partial(report, comparison), options, {})


def save_evidence(evidence: Evidence, file: str | Path, **options: Any) -> None:
    """Write the figure (.png, .svg, .pdf), the numbers (.json) or the report (.html).

    Raises:
        OptionError: another ending.
    """

    def write_json(path: Path) -> None:
        path.write_text(json.dumps(evidence_to_dict(evidence), indent=1), encoding="utf-8")

    figure_function, report_function = partial(evidence_figure, evidence), partial(report_evidence, evidence)
    _write(file, figure_function, report_function, options, {".json": write_json})


def _write(
    file: str | Path,
    figure_function: Callable[..., Any],
    report_function: Callable[..., Any],
    options: Mapping[str, Any],
    other_formats: Mapping[str, Callable[[Path], None]],
) -> None:
    """Write a file by the function for its ending.

    Args:
        file: path.
        figure_function: returns a matplotlib figure.
        report_function: writes a report to a path.
        options: keyword arguments of either function.
        other_formats: ending -> function that writes the file.

    Raises:
        OptionError: no function for this ending.
    """
    path = Path(file)
    ending = path.suffix.lower()
    if ending in FIGURE_ENDINGS:
        figure_function(**options).savefig(path, dpi=DPI)
    elif ending in REPORT_ENDINGS:
        report_function(path, **options)
    elif ending in other_formats:
        other_formats[ending](path)
    else:
        endings = ", ".join((*FIGURE_ENDINGS, *REPORT_ENDINGS, *other_formats))
        raise OptionError(f"{path.name}: the ending must be one of {endings}.")


def report_evidence(evidence: Evidence, file: str | Path, **options: Any) -> Path:
    """Write a report of the evidence alone; see `seewhy.report`."""
    return report([], file, evidence=evidence, **options)


def load_explanation(file: str | Path) -> Explanation:
    """Load an explanation that was saved as .npz.

    A model output that is a dataclass is loaded as a dictionary; a custom `Method` is loaded as its name.

    Raises:
        InputError: the file is missing, damaged, or not a saved explanation.
    """
    try:
        with Path(file).open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in stored.files}
        record = json.loads(str(arrays.pop("record")))
        known = {f.name for f in fields(Explanation)}
        return Explanation(**{key: _unpack(value, arrays) for key, value in record.items() if key in known})
    except FileNotFoundError:
        raise InputError(f"{file}: no such file.") from None
    except Exception as error:  # damaged archives raise errors of many types
        raise InputError(f"{file}: the file is not an explanation saved as .npz, or it is damaged.") from error


def _pack(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Encode a value for JSON; arrays and tensors are added to `arrays` and replaced by their key."""
    if isinstance(value, np.ndarray) or hasattr(value, "numpy"):
        key, is_array = f"array{len(arrays)}", isinstance(value, np.ndarray)
        if is_array:
            arrays[key] = value
            return {_TYPE_KEY: "array", "of": key}
        kind = str(value.dtype).removeprefix("torch.")
        arrays[key] = (value.float() if kind == "bfloat16" else value).detach().cpu().numpy()  # numpy has no bfloat16
        return {_TYPE_KEY: "tensor", "of": key, "kind": kind}
    if isinstance(value, Preprocessing):
        return {_TYPE_KEY: "preprocessing", "of": _pack(vars(value), arrays)}
    if isinstance(value, MethodCall):
        return {_TYPE_KEY: "call", "of": _pack(vars(value), arrays)}
    if isinstance(value, Method):  # code is not stored: the loaded call has the name only and cannot be run
        return f"{value.name} (own method)"
    if isinstance(value, Ensemble):
        return {_TYPE_KEY: "ensemble", "of": list(value)}
    if isinstance(value, Evaluations):
        return {_TYPE_KEY: "evaluations", "of": list(value)}
    if is_dataclass(value) and not isinstance(value, type):
        return _pack({f.name: getattr(value, f.name) for f in fields(value)}, arrays)
    if isinstance(value, Mapping):
        return {str(key): _pack(one, arrays) for key, one in value.items()}
    if isinstance(value, tuple):
        return {_TYPE_KEY: "tuple", "of": [_pack(one, arrays) for one in value]}
    if isinstance(value, list):
        return [_pack(one, arrays) for one in value]
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)


def _unpack(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """Decode a value that `_pack` encoded."""
    if isinstance(value, list):
        return [_unpack(one, arrays) for one in value]
    if not isinstance(value, dict):
        return value
    kind: Any = value.get(_TYPE_KEY)
    of: Any = value.get("of")
    if kind == "tensor":
        import torch

        return torch.from_numpy(arrays[of]).to(getattr(torch, value["kind"]))
    if kind == "array":
        return arrays[of]
    if kind == "preprocessing":
        return Preprocessing(**_unpack(of, arrays))
    if kind == "call":
        return MethodCall(**_unpack(of, arrays))
    if kind == "ensemble":
        return Ensemble(*of)
    if kind == "evaluations":
        return Evaluations(*of)
    if kind == "tuple":
        return tuple(_unpack(one, arrays) for one in of)
    return {key: _unpack(one, arrays) for key, one in value.items()}
