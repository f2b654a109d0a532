"""Checks of the arguments of `explain`, before anything is computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple

from torch.nn import Module

from seewhy.errors import (
    ModelError,
    NoFeatureLayerError,
    NoGradientError,
    OptionError,
    UnknownNameError,
    check_choice,
    unknown_name_error,
)
from seewhy.feature_layers.selection import NO_GRADIENT, LayerInfo, find_layer, survey_layers
from seewhy.methods import METHODS, canonical_name, method_identity, name_note, normalized_name
from seewhy.methods.method import Method, options_with_defaults
from seewhy.targets import scoring
from seewhy.tracing.autograd_graph import CHECKPOINT_REFUSED
from seewhy.types import Capability

from .batch import RequestedMethod
from .ensembles import EnsembleMethod
from .families import FAMILIES
from .memory import check_batch_limits

if TYPE_CHECKING:
    from seewhy.model import Model
    from seewhy.types import Inputs


@dataclass(frozen=True)
class Arguments:
    """The common arguments of `seewhy.explain`, which documents them."""

    target: Any = None
    score: str = "logit"
    feature_layer: str | Module | Sequence[str | Module] | None = None
    reduction_layer: str | Module | None = None
    upsample: str = "bicubic"
    batch_size: int | str = "auto"
    max_memory: int | None = None
    device: str = "auto"
    seed: int = 0
    probe: bool = True
    progress: bool | Callable[..., None] | None = None

    @property
    def layers(self) -> list[str | Module | None]:
        """The feature layers; None: the default one."""
        return list(self.feature_layer) if isinstance(self.feature_layer, (list, tuple)) else [self.feature_layer]  # type: ignore[list-item]


COMMON_ARGUMENTS = tuple(field.name for field in fields(Arguments))
# names of these arguments in other libraries, normalized
ARGUMENT_SYNONYMS = {
    "outputupsampling": "upsample", "interpolation": "upsample", "interpolatemode": "upsample",
    "classidx": "target", "class": "target", "classes": "target", "label": "target", "labels": "target",
    "targets": "target", "targetclass": "target", "reductionfcn": "target", "channel": "target",
    "targetlayer": "feature_layer", "targetlayers": "feature_layer", "layer": "feature_layer",
    "executionenvironment": "device", "minibatchsize": "batch_size", "internalbatchsize": "batch_size",
    "perturbationsperforward": "batch_size", "randomseed": "seed", "randomstate": "seed", "verbose": "progress",
    "nsteps": "steps", "numsteps": "steps", "numiterations": "steps", "nsamples": "samples", "numsamples": "samples",
    "baselines": "baseline", "numfeatures": "features", "segmentation": "segments", "featuremask": "segments",
    "windowsize": "mask_size", "slidingwindowshapes": "mask_size", "strides": "stride", "stdevs": "sigma",
    "noiselevel": "sigma",
}  # fmt: skip
UPSAMPLE_MODES = ("bicubic", "linear", "nearest", "none")


def is_single_method(method: Any) -> bool:
    """Whether `method` is a single method, so that the result is a single explanation."""
    return isinstance(method, (str, Method, EnsembleMethod))


def requested_methods(method: Any, options: Mapping[str, Any]) -> list[RequestedMethod]:
    """Return the requested methods, each with those of the options that it has, defaults filled in.

    Args:
        method: a method, or a list of methods: names, aliases, `Method` or ensembles.
        options: options of all methods together.

    Raises:
        UnknownNameError: a method does not exist, or none of the methods has an option.
        OptionError: the list of methods is empty, or the value of an option is not allowed.
    """
    found = [_requested_method(one) for one in ([method] if is_single_method(method) else list(method))]
    if not found:
        raise OptionError("method=[] is empty: give at least one method.")
    known_options = {key for requested in found for key in requested.method.options}
    for key in options:
        if key not in known_options:
            raise unknown_option(key, [requested.name for requested in found], sorted(known_options))
    return [requested._replace(options=_options_of(requested, options)) for requested in found]


def method_names(methods: Sequence[RequestedMethod]) -> str:
    """The names of the methods, for messages and the progress bar."""
    return ", ".join(requested.name for requested in methods)


def _requested_method(method: Any) -> RequestedMethod:
    if isinstance(method, EnsembleMethod):
        return _requested_method(method.method)._replace(ensemble=method.ensemble)
    if isinstance(method, Method):
        identity = method_identity(method)
        return RequestedMethod(identity if isinstance(identity, str) else method.name, method, {})
    note = name_note(method)
    return RequestedMethod(name := canonical_name(method), METHODS[name], {}, () if note is None else (note,))


def _options_of(requested: RequestedMethod, options: Mapping[str, Any]) -> dict[str, Any]:
    own = {key: value for key, value in options.items() if key in requested.method.options}
    return options_with_defaults(requested.name, requested.method, own)


def unknown_option(key: str, names: list[str], known: list[str]) -> UnknownNameError:
    """Return the error for an option that these methods do not have; it names the right option or method, if any."""
    methods = ", ".join(names)
    options = [option for method in METHODS.values() for option in method.options]
    names_here = ARGUMENT_SYNONYMS | {normalized_name(name): name for name in (*options, *known, *COMMON_ARGUMENTS)}
    right = names_here.get(normalized_name(key))
    if right in COMMON_ARGUMENTS or right in known:
        return UnknownNameError(f"unknown option {key!r} of {methods}: it is called {right!r} here.")
    owners = [name for name, m in METHODS.items() if key in m.options or right in m.options]
    if owners:
        option = right or key
        return UnknownNameError(
            f"unknown option {key!r} of {methods}: {option!r} is an option of {', '.join(owners)}. "
            f"Options of {methods}: {', '.join(known) or 'none'}."
        )
    return unknown_name_error(f"option of {methods}", key, (*known, *COMMON_ARGUMENTS))


def check_arguments(methods: list[RequestedMethod], arguments: Arguments) -> None:
    """Check the common arguments of `explain`, as far as this is possible without a network and an input.

    Raises:
        OptionError: a value is not allowed.
    """
    if arguments.seed < 0:
        raise OptionError(f"seed={arguments.seed}: it must be an integer of at least 0.")
    check_choice("score", arguments.score, scoring.SCORE_NAMES)
    several_layers = isinstance(arguments.feature_layer, (list, tuple))
    # maps of several layers are averaged at the size of the input
    check_choice("upsample", arguments.upsample, UPSAMPLE_MODES[:-1] if several_layers else UPSAMPLE_MODES)
    if not arguments.layers:
        raise OptionError("feature_layer=[] names no layer: omit the argument, or give at least one layer.")
    for layer in arguments.layers:
        if layer is not None and not isinstance(layer, (str, Module)):
            raise OptionError(f"feature_layer={layer!r}: it must be the name of a layer, a module, or a list of these.")
        if layer is not None and not any(FAMILIES[requested.method.family].uses_layer for requested in methods):
            raise OptionError(
                f"feature_layer={layer!r}: no method of this call ({method_names(methods)}) uses a layer. Omit the "
                "argument."
            )
    check_batch_limits(arguments.batch_size, arguments.max_memory)


def check_capabilities(model: Model, methods: list[RequestedMethod]) -> None:
    """Check that the model has the capabilities that the methods require.

    Raises:
        ModelError: a capability is missing; the message lists the methods that work.
    """
    for requested in methods:
        if requested.method.requires not in model.capabilities:
            raise ModelError(
                f"{requested.name} requires {requested.method.requires}, {model.name} has {model.capabilities}. "
                + (f"{model.lacks[0].upper()}{model.lacks[1:]}. " if model.lacks else "")
                + f"Methods that work: {methods_that_work(model.capabilities)}."
            )


def methods_that_work(capabilities: Capability) -> str:
    """The names of the methods that require no more than these capabilities."""
    return ", ".join(name for name, method in METHODS.items() if method.requires in capabilities) or "none"


class ResolvedLayers(NamedTuple):
    """The layers of a call, for methods that use a feature layer."""

    feature_layer: LayerInfo | None = None  # the layer whose activations are used
    reason: str | None = None  # why it was selected; "given" if the caller named it
    reduction_layer: str | None = None  # the layer whose output is explained


def resolve_layers(model: Model, x: Inputs, feature_layer: str | None, reduction_layer: str | None) -> ResolvedLayers:
    """Return the requested feature layer, or select a suitable one.

    Args:
        model: the model.
        x: the batch.
        feature_layer: name of the layer, or None.
        reduction_layer: name of the layer whose output is explained; None: the network's output.

    Raises:
        UnknownNameError: the feature layer does not exist.
        ModelError: the output of the feature layer has no positions, or there is no suitable layer.
    """
    survey = survey_layers(model, x, reduction_layer)
    if feature_layer is None:
        if survey.reason in (NO_GRADIENT, CHECKPOINT_REFUSED):
            raise NoGradientError(f"no feature layer can be selected, because {survey.reason}")
        if survey.selected is None:
            families = {name: FAMILIES[m.family] for name, m in METHODS.items()}
            works = ", ".join(name for name, f in families.items() if not (f.uses_layer or f.uses_attention))
            raise NoFeatureLayerError(
                f"{survey.reason}, so {model.name} has no layer for a class activation map: give feature_layer if you "
                f"know one (seewhy.layers lists them), or use {works}."
            )
        return ResolvedLayers(survey.selected, survey.reason, survey.output_layer)
    layer = find_layer(survey, feature_layer, model)
    if layer.axes is None:
        raise NoFeatureLayerError(f"layer {feature_layer!r} does not depend on this input. Name another layer.")
    if layer.where is None or not layer.where.spatial:
        raise NoFeatureLayerError(
            f"layer {feature_layer!r} has the output shape {list(layer.shape or ())}, which does not correspond to "
            f"positions of the input {list(x.shape[2:])}. Choose a layer with the axes [N, C, *S], or with tokens that "
            "form a grid" + (f", such as {survey.selected.name!r}." if survey.selected else ".")
        )
    return ResolvedLayers(layer, "given", survey.output_layer)
