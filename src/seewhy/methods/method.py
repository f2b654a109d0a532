"""What a method is: a kernel, how it is fed, and what it needs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, get_args, get_origin

from seewhy.errors import OptionError, choose, unknown
from seewhy.maps import absolute_sum
from seewhy.types import Between, Can

if TYPE_CHECKING:
    from seewhy.types import Maps, Values


@dataclass(frozen=True)
class Method:
    """One line of the table.

    Attributes:
        kernel: the paper's formula. Its positional parameters name what it reads, its keyword-only
            parameters are the method's options.
        feeds: the family that feeds it, by name (`seewhy.methods.families`).
        title: its name for people.
        paper: where it comes from.
        needs: what the model must be able to give.
        reduce: how the channels of the raw result become one map.
        complete: whether the attributions promise to sum to score - baseline score.
        classless: whether its map asks for no class, by its definition, so that classes may all get the same one.
    """

    kernel: Callable[..., Any]
    feeds: str
    title: str
    paper: str
    needs: Can = Can.SCORES | Can.GRADIENTS
    reduce: Callable[[Values], Maps] = absolute_sum
    complete: bool = False
    classless: bool = False

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of what the kernel reads."""
        return tuple(n for n, p in _parameters(self).items() if p.kind is not p.KEYWORD_ONLY)

    @property
    def options(self) -> Mapping[str, Option]:
        """The kernel's keyword arguments, with kind, default and help."""
        helps = _argument_helps(self.kernel)
        return {
            name: _option(self.kernel, p, helps.get(name, ""))
            for name, p in _parameters(self).items()
            if p.kind is p.KEYWORD_ONLY
        }

    @property
    def summary(self) -> str:
        """The first line of the kernel's docstring."""
        return (inspect.getdoc(self.kernel) or "").split("\n")[0]

    @property
    def about(self) -> str:
        """The kernel's docstring without its arguments, then the paper."""
        text = (inspect.getdoc(self.kernel) or "").split("\nArgs:")[0].strip()
        return f"{text}\n\n{self.paper}."


class Option(NamedTuple):
    """One keyword argument of a kernel."""

    kind: Any  # int, float, bool, or Any for what only the method understands
    default: Any
    help: str
    choices: tuple[str, ...] = ()
    between: Between = Between()


def fill(name: str, method: Method, given: Mapping[str, Any]) -> dict[str, Any]:
    """The method's options, defaults filled in.

    Raises:
        UnknownNameError: it has no option of that name.
        OptionError: a value of the wrong kind or out of range.
    """
    known = method.options
    for key in given:
        if key not in known:
            raise unknown(f"option of {name}", key, known)
    return {key: _checked(key, given.get(key, option.default), option) for key, option in known.items()}


def _checked(name: str, value: Any, option: Option) -> Any:
    if option.choices:
        return choose(name, value, option.choices)
    if value is None and option.default is None:
        return None
    if option.kind in (int, float):
        allowed = (int,) if option.kind is int else (int, float)
        low, high = option.between
        if isinstance(value, bool) or not isinstance(value, allowed) or not low <= value <= high:
            kind = "an integer" if option.kind is int else "a number"
            raise OptionError(f"{name}={value!r}: {kind} from {low:g} to {high:g} is needed.")
    return value


def _parameters(method: Method) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(method.kernel).parameters


def _option(kernel: Callable[..., Any], parameter: inspect.Parameter, text: str) -> Option:
    hint = parameter.annotation
    if isinstance(hint, str):
        hint = eval(
            hint, inspect.unwrap(kernel).__globals__
        )  # the kernel's own annotation, as typing.get_type_hints would
    between = Between()
    if get_origin(hint) is Annotated:
        hint, between = get_args(hint)[:2]
    choices = get_args(hint) if get_origin(hint) is Literal else ()
    if get_origin(hint) is UnionType and len(get_args(hint)) == 2:  # float | None
        hint = next(h for h in get_args(hint) if h is not type(None))
    kind = str if choices else hint if hint in (int, float, bool) else Any
    return Option(kind, parameter.default, text, choices, between)


def _argument_helps(kernel: Callable[..., Any]) -> dict[str, str]:
    """The `Args:` section of a docstring, one sentence a name."""
    lines = (inspect.getdoc(kernel) or "").split("\n")
    helps: dict[str, str] = {}
    inside, name = False, ""
    for line in lines:
        if not line.startswith(" "):
            inside = line.strip() == "Args:" or (inside and not line.strip())
        elif inside and line[:5].strip() and ": " in line:
            name, text = line.strip().split(": ", 1)
            helps[name] = text
        elif inside and name:
            helps[name] += " " + line.strip()
    return helps
