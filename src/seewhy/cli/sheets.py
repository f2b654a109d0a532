"""One figure an input, in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from seewhy.errors import InputError

if TYPE_CHECKING:
    from seewhy.types import Explanation


def sheet(found: list[Explanation], file: Path, **options: Any) -> None:
    """Draw explanations of one input into a file."""
    from seewhy.pictures import figure
    from seewhy.pictures.sheet import DPI

    figure(found, **options).savefig(file, dpi=DPI)


def sample(e: Explanation, n: int) -> Explanation:
    """One input's part of an explanation."""
    from dataclasses import replace

    part = slice(n, n + 1)
    return replace(
        e, values=e.values[part], maps=e.maps[part], scaled=e.scaled[part], scores=e.scores[part], input=e.input[part],
        targets=None if e.targets is None else e.targets[part], labels=None if e.labels is None else e.labels[part],
        probabilities=None if e.probabilities is None else e.probabilities[part],
        completeness=None if e.completeness is None else e.completeness[part],
        stderr=None if e.stderr is None else e.stderr[part],
        extras={key: value[part] for key, value in e.extras.items()},
    )  # fmt: skip


def writable(folder: Path) -> Path:
    """The folder, made if it is missing.

    Raises:
        InputError: it cannot be one.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {folder}: not a folder that can be written ({error.strerror}).") from error
    return folder
