"""The `seewhy` command. Heavy packages are imported only when they are used.

stdout carries data, stderr everything else. Exit codes: 0 done, 2 usage, 3 input or model refused, 5 internal error,
130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from typer.exceptions import TyperException

from seewhy.errors import InputError, ModelError, SeewhyError

from .commands import command

USAGE, REFUSED, INTERNAL = 2, 3, 5


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; without --debug a user never sees a traceback."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    try:
        code = command.main([a for a in given if a != "--debug"], prog_name="seewhy", standalone_mode=False)
    except (TyperException, SeewhyError, OSError, KeyboardInterrupt) as error:
        if debug:
            raise
        return _report_error(error)
    except Exception as error:  # one line instead of a traceback
        if debug:
            raise
        print(
            f"seewhy: internal error ({type(error).__name__}: {_one_line(error)}). Rerun with --debug.", file=sys.stderr
        )
        return INTERNAL
    return code if isinstance(code, int) else 0


def _report_error(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        print("seewhy: interrupted", file=sys.stderr)
        return 130
    if isinstance(error, TyperException):
        message = error.format_message()
        if message:
            print(f"seewhy: {message} See 'seewhy --help'.", file=sys.stderr)
        return USAGE
    print(f"seewhy: {_one_line(error)}", file=sys.stderr)
    return REFUSED if isinstance(error, (InputError, ModelError, OSError)) else USAGE


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
