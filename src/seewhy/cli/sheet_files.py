"""Files of the command: one sheet per input, in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from seewhy.errors import InputError

if TYPE_CHECKING:
    from seewhy.results import Explanation


def save_sheet(explanations: list[Explanation], file: Path, **options: Any) -> None:
    """Draw explanations of one input and write the sheet to a file."""
    from seewhy.visualization import figure
    from seewhy.visualization.sheet import DPI

    figure(explanations, **options).savefig(file, dpi=DPI)


def writable_folder(folder: Path) -> Path:
    """The folder, created if it is missing.

    Raises:
        InputError: it cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {folder}: cannot be created or written ({error.strerror}).") from error
    return folder
