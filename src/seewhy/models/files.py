"""Model files and optional packages; every failure is reported as a `ModelError` with a message of one line."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from seewhy.errors import ModelError, UnknownNameError


def read_file(file: str, reader: Callable[[str], Any]) -> Any:
    """Return `reader(file)`.

    Raises:
        ModelError: the file does not exist, or the reader fails on it.
        UnknownNameError: raised by the reader.
    """
    if not Path(file).is_file():
        raise ModelError(f"{file}: no such file.")
    try:
        return reader(file)
    except (ModelError, UnknownNameError):
        raise
    except Exception as error:  # readers raise any type of error on damaged or malicious files
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise ModelError(f"{file}: cannot be read as weights or a network ({reason})") from error


def import_package(module: str, package: str) -> Any:
    """Import a module of an optional package.

    Raises:
        ModelError: the package is not installed.
    """
    try:
        return import_module(module)
    except ImportError:
        raise ModelError(f"{package} is not installed: pip install {package}.") from None


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message."""
    return str(error).strip().split("\n")[0]
