"""Records to files, and explanations from them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from seewhy.errors import InputError, OptionError
from seewhy.types import Card, Comparison, Evaluations, Evidence, Explanation

from . import evidence
from .report import report
from .sheet import DPI, DRAWN, REPORTED, figure

_MARK = "$"  # a key that no option has


def save(explanation: Explanation, file: str | Path, **options: Any) -> None:
    """Write the sheet (.png, .svg, .pdf), the report (.html) or all that is known (.npz, for `Explanation.load`).

    Args:
        explanation: what to write.
        file: where; its ending decides.
        **options: of `seewhy.pictures.figure` for a sheet, of `seewhy.report` for a report.

    Raises:
        OptionError: another ending.
    """

    def packed(path: Path) -> None:
        arrays: dict[str, np.ndarray] = {}
        record = {f.name: _pack(getattr(explanation, f.name), arrays) for f in fields(Explanation)}
        with path.open("wb") as opened:  # by name, numpy would add a second ending to .NPZ
            np.savez_compressed(opened, allow_pickle=False, record=np.array(json.dumps(record)), **arrays)

    _write(file, partial(figure, explanation), partial(report, explanation), options, {".npz": packed})


def save_comparison(given: Comparison, file: str | Path, **options: Any) -> None:
    """Write the sheet (.png, .svg, .pdf) or the report with the table of agreement (.html).

    Raises:
        OptionError: another ending.
    """
    _write(file, partial(figure, given.maps), partial(report, given), options, {})


def save_evidence(given: Evidence, file: str | Path, **options: Any) -> None:
    """Write the figure (.png, .svg, .pdf), the numbers (.json) or the report (.html).

    Raises:
        OptionError: another ending.
    """

    def told(path: Path) -> None:
        path.write_text(json.dumps(evidence.numbers(given), indent=1), encoding="utf-8")

    _write(file, partial(evidence.figure, given), partial(report_evidence, given), options, {".json": told})


def _write(
    file: str | Path,
    drawn: Callable[..., Any],
    reported: Callable[..., Any],
    options: Mapping[str, Any],
    others: Mapping[str, Callable[[Path], None]],
) -> None:
    """The ending decides which of them writes the file."""
    path = Path(file)
    ending = path.suffix.lower()
    if ending in DRAWN:
        drawn(**options).savefig(path, dpi=DPI)
    elif ending in REPORTED:
        reported(path, **options)
    elif ending in others:
        others[ending](path)
    else:
        raise OptionError(f"{path.name}: the ending must be one of {', '.join((*DRAWN, *REPORTED, *others))}.")


def report_evidence(given: Evidence, file: str | Path, **options: Any) -> Path:
    """Write the report; see `seewhy.report`."""
    return report([], file, evidence=given, **options)


def load(file: str | Path) -> Explanation:
    """Read an explanation that was saved as .npz. An output of a make of its own comes back as a dictionary.

    Raises:
        InputError: missing, or no such file.
    """
    try:
        with Path(file).open("rb") as opened, np.load(opened, allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in stored.files}
        record = json.loads(str(arrays.pop("record")))
        known = {f.name for f in fields(Explanation)}
        return Explanation(**{key: _unpack(value, arrays) for key, value in record.items() if key in known})
    except FileNotFoundError:
        raise InputError(f"{file}: no such file.") from None
    except Exception as error:  # damaged archives raise anything
        raise InputError(f"{file}: not an explanation saved as .npz, or damaged.") from error


def _pack(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, np.ndarray) or hasattr(value, "numpy"):
        key, is_array = f"array{len(arrays)}", isinstance(value, np.ndarray)
        if is_array:
            arrays[key] = value
            return {_MARK: "array", "of": key}
        kind = str(value.dtype).removeprefix("torch.")
        arrays[key] = (value.float() if kind == "bfloat16" else value).detach().cpu().numpy()  # numpy has no bfloat16
        return {_MARK: "tensor", "of": key, "kind": kind}
    if isinstance(value, Card):
        return {_MARK: "card", "of": _pack(vars(value), arrays)}
    if isinstance(value, Evaluations):
        return {_MARK: "evaluations", "of": list(value)}
    if is_dataclass(value) and not isinstance(value, type):
        return _pack({f.name: getattr(value, f.name) for f in fields(value)}, arrays)
    if isinstance(value, Mapping):
        return {str(key): _pack(one, arrays) for key, one in value.items()}
    if isinstance(value, tuple):
        return {_MARK: "tuple", "of": [_pack(one, arrays) for one in value]}
    if isinstance(value, list):
        return [_pack(one, arrays) for one in value]
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)


def _unpack(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if isinstance(value, list):
        return [_unpack(one, arrays) for one in value]
    if not isinstance(value, dict):
        return value
    kind: Any = value.get(_MARK)
    of: Any = value.get("of")
    if kind == "tensor":
        import torch

        return torch.from_numpy(arrays[of]).to(getattr(torch, value["kind"]))
    if kind == "array":
        return arrays[of]
    if kind == "card":
        return Card(**_unpack(of, arrays))
    if kind == "evaluations":
        return Evaluations(*of)
    if kind == "tuple":
        return tuple(_unpack(one, arrays) for one in of)
    return {key: _unpack(one, arrays) for key, one in value.items()}
