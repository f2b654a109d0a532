"""The exceptions that seewhy raises on purpose.

    SeewhyError
    ├── InputError        (also ValueError)   the input cannot be used
    ├── ModelError                            the model cannot compute what is requested
    │   ├── NoFeatureLayerError               no layer has positions of this input
    │   └── NoGradientError                   a score has no gradient at the input or a layer
    ├── OptionError       (also ValueError)   an argument has a value that is not allowed
    └── UnknownNameError  (also KeyError)     a method, option, label or layer that does not exist

A message contains the value, what is allowed and the next step.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class SeewhyError(Exception):
    """The base class of every exception raised on purpose."""


class InputError(SeewhyError, ValueError):
    """The input cannot be used."""


class ModelError(SeewhyError):
    """The model cannot compute what is requested."""


class NoFeatureLayerError(ModelError):
    """No layer, or not the named one, has positions of this input."""


class NoGradientError(ModelError):
    """A score does not depend through autograd on the input or layer whose gradient is needed."""


class OptionError(SeewhyError, ValueError):
    """An argument has a value that is not allowed."""


class UnknownNameError(SeewhyError, KeyError):
    """A method, option, label or layer that does not exist."""

    def __str__(self) -> str:  # KeyError would show the quoted repr
        return str(self.args[0])


def unknown_name_error(kind: str, name: object, known: Iterable[object]) -> UnknownNameError:
    """Build the error for a name that does not exist, with up to three similar names as suggestions.

    Args:
        kind: what the name should denote, such as "method".
        name: the unknown name.
        known: the names that exist.
    """
    names = [str(k) for k in known]
    completions = [n for n in names if name and n.casefold().startswith(str(name).casefold())]
    similar = [*dict.fromkeys((*completions, *get_close_matches(str(name), names, n=3, cutoff=0.6)))][:3]
    suggestion = f" Did you mean {' or '.join(map(repr, similar))}?" if similar else ""
    listed = ", ".join(names[:40]) + (f", … ({len(names)} in all)" if len(names) > 40 else "")
    return UnknownNameError(f"unknown {kind} {name!r}.{suggestion} Known: {listed or 'none'}.")


def check_choice(argument: str, value: str, allowed: Iterable[str]) -> str:
    """Return `value` if it is one of `allowed`.

    Args:
        argument: the argument's name, for the message.
        value: its value.
        allowed: the values that are allowed.

    Raises:
        OptionError: the value is not allowed; the message lists the values that are.
    """
    names = tuple(allowed)
    if value not in names:
        raise OptionError(f"{argument}={value!r} is not one of {', '.join(map(repr, names))}.")
    return value
