"""Every error that seewhy raises on purpose.

    SeewhyError
    ├── InputError        (also ValueError)   what is looked at cannot be used
    ├── ModelError                            the network cannot give what is asked
    ├── OptionError       (also ValueError)   an argument has a value that is not allowed
    └── UnknownNameError  (also KeyError)     a method, option, label or layer that does not exist

A message gives the value, what is allowed and the next step.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class SeewhyError(Exception):
    """The root of every error raised on purpose."""


class InputError(SeewhyError, ValueError):
    """What is looked at cannot be used."""


class ModelError(SeewhyError):
    """The network cannot give what is asked."""


class OptionError(SeewhyError, ValueError):
    """An argument has a value that is not allowed."""


class UnknownNameError(SeewhyError, KeyError):
    """A method, option, label or layer that does not exist."""

    def __str__(self) -> str:  # KeyError would show the quoted repr
        return str(self.args[0])


def unknown(kind: str, name: object, known: Iterable[object]) -> UnknownNameError:
    """The error for a name that does not exist; near names come first."""
    names = [str(k) for k in known]
    starts = [n for n in names if name and n.casefold().startswith(str(name).casefold())]
    near = [*dict.fromkeys((*starts, *get_close_matches(str(name), names, n=3, cutoff=0.6)))][:3]
    meant = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    listed = ", ".join(names[:40]) + (f", … ({len(names)} in all)" if len(names) > 40 else "")
    return UnknownNameError(f"unknown {kind} {name!r}.{meant} Known: {listed or 'none'}.")


def choose(kind: str, value: str, allowed: Iterable[str]) -> str:
    """Give `value` back if it is one of `allowed`.

    Raises:
        OptionError: it is not; the message lists what is.
    """
    names = tuple(allowed)
    if value not in names:
        raise OptionError(f"{kind}={value!r} is not one of {', '.join(map(repr, names))}.")
    return value
