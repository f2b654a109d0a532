"""`Method`, one entry of the table of methods: the kernel, the family that calls it, and what it requires."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, get_args, get_origin

from seewhy.errors import OptionError, check_choice, unknown_name_error
from seewhy.maps import absolute_sum
from seewhy.types import BackwardRule, Capability, Range, positional_parameters

if TYPE_CHECKING:
    from seewhy.types import Maps, Values


@dataclass(frozen=True)
class Method:
    """One entry of the table of methods.

    Attributes:
        kernel: the function that computes the formula. Its positional parameters name the values that its family
            passes to it; its keyword-only parameters are the method's options.
        family: name of the family that calls the kernel (`seewhy.engine.families`).
        title: the method's name for display.
        paper: the paper that defines the method, with section or equation.
        requires: the capabilities that the model must have.
        reduce: function that reduces the channels of the raw result to one map.
        signed: whether the raw result can be negative by definition, for some of its options.
        complete: whether the attributions sum to score - baseline score; the kernel then returns the difference as
            `convergence_delta`.
        class_agnostic: whether the map is the same for every class by definition.
        rules: backward rules, for families that compute a gradient at the input; without rules it is the ordinary one.
        quick_options: options for a quick run, such as a small number of samples. They are used by tests, by
            `seewhy.testing.check_method` and by the matrix of networks, and do not change what the method is.
        aliases: other names of the method, such as "saliency"; case, "-", "_" and spaces do not matter.
    """

    kernel: Callable[..., Any]
    family: str
    title: str
    paper: str
    _: KW_ONLY
    requires: Capability = Capability.SCORES | Capability.GRADIENTS
    reduce: Callable[[Values], Maps] = absolute_sum
    signed: bool = False
    complete: bool = False
    class_agnostic: bool = False
    rules: tuple[BackwardRule, ...] = ()
    quick_options: Mapping[str, Any] = field(default_factory=dict, compare=False)
    aliases: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The kernel's name, for display. Methods are not compared by it."""
        return getattr(self.kernel, "__name__", type(self.kernel).__name__)

    @property
    def kernel_inputs(self) -> tuple[str, ...]:
        """Names of the kernel's positional parameters: the values that its family must pass."""
        return positional_parameters(self.kernel)

    @property
    def stochastic(self) -> bool:
        """Whether the result depends on the seed: the kernel is passed random numbers."""
        return bool({"normal", "uniform"} & set(self.kernel_inputs))

    @property
    def options(self) -> Mapping[str, Option]:
        """The kernel's keyword-only parameters, with type, default and help."""
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
    def description(self) -> str:
        """The kernel's docstring without the `Args:` section, followed by the paper."""
        text = (inspect.getdoc(self.kernel) or "").split("\nArgs:")[0].strip()
        return f"{text}\n\n{self.paper}."


class Option(NamedTuple):
    """One keyword-only parameter of a kernel."""

    kind: Any  # int, float, bool, str for a choice; Any if only the kernel can validate the value
    default: Any
    help: str
    choices: tuple[str, ...] = ()
    allowed_range: Range = Range()


def options_with_defaults(name: str, method: Method, given: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a method: the given values, validated, and the defaults of the others.

    Args:
        name: name of the method, for error messages.
        method: the method.
        given: option names and values.

    Raises:
        UnknownNameError: the method has no option of that name.
        OptionError: a value has the wrong type or is out of range.
    """
    known = method.options
    for key in given:
        if key not in known:
            raise unknown_name_error(f"option of {name}", key, known)
    return {key: _checked(key, given.get(key, option.default), option) for key, option in known.items()}


def _checked(name: str, value: Any, option: Option) -> Any:
    if option.choices:
        return check_choice(name, value, option.choices)
    if value is None and option.default is None:
        return None
    if option.kind in (int, float):
        allowed = (int,) if option.kind is int else (int, float)
        low, high = option.allowed_range
        if isinstance(value, bool) or not isinstance(value, allowed) or not low <= value <= high:
            kind = "an integer" if option.kind is int else "a number"
            raise OptionError(f"{name}={value!r}: {kind} from {low:g} to {high:g} is needed.")
    return value


def _parameters(method: Method) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(method.kernel).parameters


def _option(kernel: Callable[..., Any], parameter: inspect.Parameter, text: str) -> Option:
    hint = parameter.annotation
    if isinstance(hint, str):  # evaluated in the kernel's module, as typing.get_type_hints does
        hint = eval(hint, inspect.unwrap(kernel).__globals__)
    allowed_range = Range()
    if get_origin(hint) is Annotated:
        hint, allowed_range = get_args(hint)[:2]
    choices = get_args(hint) if get_origin(hint) is Literal else ()
    if get_origin(hint) is UnionType and len(get_args(hint)) == 2:  # float | None
        hint = next(h for h in get_args(hint) if h is not type(None))
    kind = str if choices else hint if hint in (int, float, bool) else Any
    return Option(kind, parameter.default, text, choices, allowed_range)


def _argument_helps(kernel: Callable[..., Any]) -> dict[str, str]:
    """Help text per parameter name, from the `Args:` section of the kernel's docstring."""
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
