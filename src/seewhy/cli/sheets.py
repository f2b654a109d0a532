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
