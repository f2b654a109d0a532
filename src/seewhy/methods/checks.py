"""What is asked of `explain`, looked through before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from seewhy.errors import ModelError, OptionError, choose, unknown
from seewhy.trace import question
from seewhy.trace.choice import Seen, find, survey

from . import METHODS
from .averaged import Averaged
from .families import FAMILIES
from .method import Method, fill
from .room import check_sizes
from .scene import Member

if TYPE_CHECKING:
    from seewhy.types import Inputs, Model


UPSAMPLING = ("bicubic", "linear", "nearest", "none")


def is_one(method: Any) -> bool:
    """Whether one method is asked for, so that one explanation is given."""
    return isinstance(method, (str, Method, Averaged))


def members_of(method: Any, options: Mapping[str, Any]) -> tuple[list[str], list[Member]]:
    """The methods asked for, each with those of the options that it knows."""
    asked = [method] if is_one(method) else list(method)
    if not asked:
        raise OptionError("method=[] asks for nothing: give at least one name.")
    names, methods = [], []
    for one in asked:
        if not isinstance(one, Method) and one not in METHODS:
            raise unknown("method", one, METHODS)
        names.append(one.kernel.__name__ if isinstance(one, Method) else one)
        methods.append(one if isinstance(one, Method) else METHODS[one])
    known = {key for m in methods for key in m.options}
    for key in options:
        if key not in known:
            raise unknown("option of " + ", ".join(names), key, sorted(known))
    return names, [
        Member(m, fill(name, m, {k: v for k, v in options.items() if k in m.options}))
        for name, m in zip(names, methods, strict=True)
    ]


def check_asked(names: list[str], members: list[Member], asked: Mapping[str, Any]) -> None:
    """Refuse values that no network and no input would make right.

    Raises:
        OptionError: a value that is not allowed.
    """
    if asked["seed"] < 0:
        raise OptionError(f"seed={asked['seed']}: 0 or a whole number above it.")
    choose("score", asked["score"], question.SCORES)
    choose("upsample", asked["upsample"], UPSAMPLING)
    layer = asked["feature_layer"]
    if layer is not None and not isinstance(layer, str):
        raise OptionError(f"feature_layer={layer!r}: the name of a layer is needed, or a list of names.")
    if layer is not None and not any(FAMILIES[member.method.feeds].layer for member in members):
        raise OptionError(f"feature_layer={layer!r}: {', '.join(names)} read no layer; leave it out.")
    check_sizes(asked["batch_size"], asked["max_memory"])


def check_needs(model: Model, names: list[str], members: list[Member]) -> None:
    """Refuse what the model cannot give.

    Raises:
        ModelError: a method needs it.
    """
    for name, member in zip(names, members, strict=True):
        if member.method.needs not in model.can:
            works = [n for n, m in METHODS.items() if m.needs in model.can]
            raise ModelError(
                f"{name} needs {member.method.needs}, {model.name} can give {model.can}. "
                + (f"{model.lacks[0].upper()}{model.lacks[1:]}. " if model.lacks else "")
                + f"Methods that work: {', '.join(works) or 'none'}."
            )


class Layers(NamedTuple):
    """The layer that is read and the one that is explained, for methods that read one."""

    feature: Seen | None = None
    reason: str | None = None
    reduction: str | None = None


def layers_for(model: Model, x: Inputs, feature: str | None, reduction: str | None) -> Layers:
    """The feature layer asked for, or the one to choose.

    Raises:
        UnknownNameError: no such layer.
        ModelError: it has no positions, or there is no suitable layer.
    """
    seen = survey(model, x, reduction)
    if feature is None:
        if seen.chosen is None:
            families = {n: FAMILIES[m.feeds] for n, m in METHODS.items()}
            works = ", ".join(n for n, f in families.items() if not (f.layer or f.attention))
            raise ModelError(
                f"{seen.reason}, so {model.name} has no layer for a class activation map: give feature_layer if you "
                f"know one (seewhy.layers lists them), or use {works}."
            )
        return Layers(seen.chosen, seen.reason, seen.output)
    found = find(seen, feature, model)
    if found.where is None or not found.where.spatial:
        raise ModelError(
            f"layer {feature!r} gives {list(found.shape or ())}, in which no positions of the input "
            f"{list(x.shape[2:])} can be recognised: name a layer with axes [N, C, *S], or whose tokens form a grid"
            + (f", such as {seen.chosen.name!r}." if seen.chosen else ".")
        )
    return Layers(found, "given", seen.output)
