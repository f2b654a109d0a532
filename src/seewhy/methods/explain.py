"""explain(): a question in, an `Explanation` out."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cache, reduce
from importlib.metadata import PackageNotFoundError, version
from operator import or_
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import torch
from torch import Tensor

from seewhy import maps
from seewhy.errors import ModelError, OptionError, choose
from seewhy.models import wrap
from seewhy.models.scripted import step_by_step
from seewhy.trace import question
from seewhy.trace.attention import Plan, attending, attention_plan
from seewhy.trace.choice import Seen
from seewhy.trace.forward import quiet, run
from seewhy.trace.layout import own
from seewhy.trace.outputs import join
from seewhy.trace.predict import ALREADY, probabilities
from seewhy.trace.ready import ready
from seewhy.trace.tap import check_layer
from seewhy.types import Can, Card, Evaluations, Explanation

from . import DEFAULT
from .averaged import Averaged, average, average_layers
from .checks import UPSAMPLING, Layers, check_asked, check_needs, is_one, layers_for, members_of
from .data import Stream, is_data, stream
from .families import FAMILIES
from .method import Method
from .progress import tracked
from .room import check_every, room_for
from .scene import Given, Member, Scene, batches
from .several import explain_each, padded

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

    from seewhy.types import Indices, Inputs, Model, Scores


@overload
def explain(model: Any, x: list[Tensor], method: Any = ..., **options: Any) -> list[Any]: ...
@overload
def explain(model: Any, x: tuple[Any, ...], method: Any = ..., **options: Any) -> tuple[Any, ...]: ...
@overload
def explain(model: Any, x: Mapping[str, Any], method: Any = ..., **options: Any) -> dict[str, Any]: ...
@overload
def explain(model: Any, x: DataLoader[Any] | Iterator[Any], method: Any = ..., **options: Any) -> Stream: ...
@overload
def explain(model: Any, x: Any, method: str | Method | Averaged = ..., **options: Any) -> Explanation: ...
@overload
def explain(model: Any, x: Any, method: Sequence[str | Method | Averaged], **options: Any) -> list[Explanation]: ...
def explain(
    model: Any,
    x: Any,
    method: str | Method | Averaged | Sequence[str | Method | Averaged] = DEFAULT,
    *,
    target: Any = None,
    score: str = "logit",
    feature_layer: str | list[str] | tuple[str, ...] | None = None,
    reduction_layer: str | None = None,
    upsample: str = "bicubic",
    batch_size: int | str = "auto",
    max_memory: int | None = None,
    device: str = "auto",
    seed: int = 0,
    progress: bool | Callable[..., None] | None = None,
    **options: Any,
) -> Any:
    """Show why the network decided what it did.

    Args:
        model: a network, or a wrapped one.
        x: a batch in the network's own layout, or what the model's `prepare` takes. A list of unbatched
            tensors gives a list of explanations, one an input. A tuple or dictionary of batches: a network of several
            inputs, called as network(*x) or network(**x); an ONNX network in the order or by the names of its graph.
            A data set (a torch DataLoader, a Keras PyDataset, any other iterable of batches): an iterator, see below.
        method: a name, or a list of them, which share forward passes; a list gives a list.
        target: None: the best class of each sample. Class index or label; a list of them: K targets, each on its
            own. Tensor [N] or [N, K]: per sample. "top3". Function(output) -> [N], or a list of them; it sees any
            part of the batch at a time. "label": of a data set of pairs (x, y), the class y of each sample. "all":
            every class of each sample, refused where that takes more than `max_memory` or half of the free memory;
            then go through them in a loop, target=range(0, 50) and so on, which shares a forward among the fifty.
        score: "logit", "probability", "log_probability" or "margin" of a class.
        feature_layer: name of the layer whose activations are read, as `seewhy.layers` gives it; default: chosen, with
            `layer_reason`. Of a transformer's tokens the patches are read, on their grid. A list of names: the maps of
            each, brought to the input's size, are averaged.
        reduction_layer: name of the layer whose output is explained; default: the network's output.
        upsample: how a map is brought to the input's size: "bicubic" (cubic in every rank; it may undershoot),
            "linear", "nearest", "none". Maps of the gradient methods have it already.
        batch_size: samples a pass; "auto": on a CPU 4, or 8 for methods that need no gradient at the input. Halved
            wherever an allocator refuses.
        max_memory: bytes the call may add; the batch is chosen to hold it, from one measured sample.
        device: "auto": where the network lies; "cpu", "cuda", "cuda:1".
        seed: of methods that draw; same seed, same map.
        progress: show a bar on work over two seconds; default: on a terminal. Or a function, called with the number
            of samples that have passed through the network since it was called last.
        **options: the method's own, see `seewhy.METHODS[name].options`.

    Returns:
        `Explanation`; a list of them for a list of methods or of unbatched tensors (methods outermost). Of several
        inputs one each, in the structure of x, with the others held as they are; whole numbers have none.

        Of a data set an iterator that computes one of these for each batch when it is asked for the next, and keeps
        none, so memory does not grow with the set. What is to be done with each stands in the body of your loop;
        `itertools.islice(found, 10)` stops after ten batches. A batch is x, or (x,), (x, y) or (x, y, weights) as a
        tuple or list; several inputs stand inside it: ((a, b), y). y is used by target="label" only. Options are
        checked at the call. A batch that cannot be explained raises with its number, the first being 0, and the
        iterator goes on behind it. All batches share one bar.

    Raises:
        UnknownNameError: no such method, option, label or layer.
        OptionError: a value that is not allowed.
        InputError: the input cannot be used.
        ModelError: the network cannot give what the method needs.
    """
    began = time.perf_counter()
    same = {"target": target, "score": score, "feature_layer": feature_layer, "reduction_layer": reduction_layer}
    same |= {"upsample": upsample, "batch_size": batch_size, "max_memory": max_memory}
    same |= {"device": device, "seed": seed, "progress": progress}
    if is_data(x):
        return stream(explain, model, x, method, same, options)
    if isinstance(x, (Mapping, tuple)) and x:
        return explain_each(explain, model, x, method, **same, **options)
    if isinstance(x, list) and x and all(isinstance(one, Tensor) for one in x):
        axis = (wrap(model).layout or "N").index("N")
        each = [explain(model, one.unsqueeze(axis), method, **same, **options) for one in x]
        return each if is_one(method) else [list(one) for one in zip(*each, strict=True)]
    if isinstance(method, (list, tuple)) and any(isinstance(one, Averaged) for one in method):
        return [explain(model, x, one, **same, **options) for one in method]
    if isinstance(feature_layer, (list, tuple)):
        choose("upsample", upsample, UPSAMPLING[:-1])
        by_layer: list[Any] = [
            explain(model, x, method, **(same | {"feature_layer": one}), **options) for one in feature_layer
        ]
        return average_layers(by_layer) if is_one(method) else [average_layers(m) for m in zip(*by_layer, strict=True)]
    if isinstance(method, Averaged):
        model, inputs = ready(model, x, device)

        def one_copy(copy: Inputs, fixed: Any) -> Explanation:
            asked = same | {"target": same["target"] if fixed is None else fixed}
            found = explain(model, own(copy, model.layout), method.method, **asked, **options)
            return replace(found, method=method.name)

        return replace(average(method, inputs, seed, upsample, one_copy), seconds=time.perf_counter() - began)
    names, members = members_of(method, options)
    check_asked(names, members, same)
    families = [FAMILIES[member.method.feeds] for member in members]
    reads = any(family.layer for family in families)
    model = wrap(model)
    answered = [member.method.needs in model.can for member in members]
    if model.conversion is not None and reduction_layer is None and any(answered) and not all(answered):
        return _each_by_its_own(model, x, method, members, answered, same, options)
    needs = reduce(or_, (member.method.needs for member in members))
    model, inputs = ready(model, x, device, needs if reduction_layer is None else needs | Can.LAYERS)
    check_needs(model, names, members)
    if any(family.rules for family in families):
        model = step_by_step(model)
    question.check(target, len(inputs), model)
    if reduction_layer is not None:
        check_layer(model, reduction_layer)

    with quiet(model), tracked(", ".join(names), progress) as advance:
        graph = any(family.graph for family in families)
        layers = layers_for(model, inputs, feature_layer, reduction_layer) if reads else Layers()
        plan = _plan_for(model, inputs, reduction_layer, names, members)
        room = [room_for(model, inputs, batch_size, max_memory, graph or any(family.heavy for family in families))]
        if question.is_all(target, model):
            check_every(model, inputs, members, layers.feature, reduction_layer, room[0], max_memory)
        bounded = batch_size != "auto" or max_memory is not None
        call = _Call(
            model,
            members,
            target,
            score,
            reduction_layer,
            layers.feature,
            graph,
            room,
            bounded,
            max_memory,
            seed,
            advance,
            plan,
        )
        pieces = list(batches(lambda a, b: _explain_batch(call, inputs[a:b], slice(a, b)), len(inputs), room))

    shared = _shared(model, inputs, pieces, target)
    shared |= {"seed": seed, "score": score, "reduction_layer": reduction_layer, "upsample": upsample}
    shared |= {"model": model.name, "versions": _versions()}
    shared |= {"seconds": time.perf_counter() - began}
    found = [
        _assembled(name, member, [piece.given[i] for piece in pieces], shared, upsample, layers, plan)
        for i, (name, member) in enumerate(zip(names, members, strict=True))
    ]
    return found[0] if is_one(method) else found


def _each_by_its_own(
    model: Model,
    x: Any,
    method: Any,
    members: list[Member],
    answered: list[bool],
    same: Mapping[str, Any],
    options: Mapping[str, Any],
) -> list[Explanation]:
    """Methods that the network answers itself, and those that its conversion has to answer, each in a call."""
    found: dict[int, Explanation] = {}
    for by_itself in (True, False):
        mine = [i for i, own_answer in enumerate(answered) if own_answer is by_itself]
        known = {key for i in mine for key in members[i].method.options}
        asked = {**same, "feature_layer": None} if by_itself else same
        given = {key: value for key, value in options.items() if key in known}
        found |= dict(zip(mine, explain(model, x, [method[i] for i in mine], **asked, **given), strict=True))
    return [found[i] for i in range(len(members))]


@cache
def _versions() -> dict[str, str]:
    """Of what computed it."""
    try:
        own_version = version("seewhy")
    except PackageNotFoundError:  # a source tree that was not installed
        own_version = "not installed"
    return {"seewhy": own_version, "torch": str(torch.__version__), "python": platform.python_version()}


class _Piece(NamedTuple):
    """What is known of one batch."""

    output: Any
    indices: Indices | None
    scores: Scores
    probabilities: Tensor | None
    given: list[Given]
    notes: tuple[str, ...]


class _Call(NamedTuple):
    """What is the same for every batch of a call."""

    model: Model
    members: list[Member]
    target: Any
    score: str
    layer: str | None
    feature: Seen | None
    graph: bool
    room: list[int]
    bounded: bool
    memory: int | None
    seed: int
    advance: Callable[[int], None]
    plan: Plan | None = None


def _plan_for(model: Model, x: Inputs, end: str | None, names: list[str], members: list[Member]) -> Plan | None:
    """How to follow attention, where a method needs it; blocks are named only if one reads them."""
    if not any(FAMILIES[member.method.feeds].attention for member in members):
        return None
    plan = attention_plan(model, x, end)
    blind = [n for n, m in zip(names, members, strict=True) if "own_gradients" in m.method.reads]
    if blind and not plan.layers:
        raise ModelError(
            f"{blind[0]} reads a score off every block of {model.name}, which cannot be done: {plan.reason}. rollout "
            "and attention_gradient need no blocks."
        )
    return plan if blind else plan._replace(layers=())


def _explain_batch(call: _Call, x: Inputs, rows: slice) -> _Piece:
    model, members = call.model, call.members
    feature = None if call.feature is None else call.feature.name
    plan = call.plan
    with attending() if plan else nullcontext(()) as attended:
        done = run(model, x, graph=call.graph, layer=call.layer, feature=feature, widen=plan.layers if plan else ())
    call.advance(len(x))
    asked = question.resolve(call.target, call.score, model, done.explained, rows)
    answers = question.scored(asked, done.explained, model)
    shares, notes = _shares(asked, done.explained, model)
    scene = Scene(
        model,
        done,
        asked,
        answers,
        call.room,
        call.bounded,
        call.memory,
        call.layer,
        call.seed,
        call.advance,
        call.feature,
        plan,
        attended,
    )
    given: dict[int, Given] = {}
    for feed in dict.fromkeys(family.feed for family in FAMILIES.values()):
        mine = [i for i, m in enumerate(members) if FAMILIES[m.method.feeds].feed is feed]
        if mine:
            given |= dict(zip(mine, feed(scene, [members[i] for i in mine]), strict=True))
    scores = torch.stack([a.value for a in answers], 1)
    return _Piece(join([done.output]), asked.indices, scores, shares, [given[i] for i in range(len(members))], notes)


def _shares(asked: question.Asked, explained: Any, model: Model) -> tuple[Tensor | None, tuple[str, ...]]:
    """Softmax of the explained classes, where classes compete for one answer a sample."""
    if asked.indices is None:
        return None, ()
    shares, already = probabilities(explained.detach(), model)
    if already and asked.score != "logit":
        raise OptionError(f"score={asked.score!r} adds a softmax, but {ALREADY}.")
    return (None if shares is None or shares.ndim > 2 else shares.gather(1, asked.indices)), (ALREADY,) * already


def _shared(model: Model, x: Inputs, pieces: list[_Piece], target: Any) -> dict[str, Any]:
    """What all methods of a call have in common."""
    indices = _whole([p.indices for p in pieces])
    notes = model.notes + tuple(dict.fromkeys(note for p in pieces for note in p.notes))
    if isinstance(target, (list, tuple)) and 1 < len(target) == len(x):
        notes += (
            f"a list of {len(target)} targets explains each of them for every sample; for one target a sample give a "
            "tensor",
        )
    return {
        "input": x.cpu(),
        "preparation": model.preparation if isinstance(model.preparation, Card) else None,
        "output": join([p.output for p in pieces]),
        "targets": indices,
        "labels": None if indices is None else question.names_of(indices, model.labels),
        "probabilities": _whole([p.probabilities for p in pieces]),
        "scores": torch.cat([p.scores for p in pieces]).cpu(),
        "notes": notes,
    }


def _assembled(
    name: str,
    member: Member,
    given: list[Given],
    shared: Mapping[str, Any],
    upsample: str,
    layers: Layers,
    plan: Plan | None,
) -> Explanation:
    """One method's batches as one record."""
    parts = [g.attribution for g in given]
    values = torch.cat([p.values.detach().cpu() for p in parts])
    values = values if values.dtype == torch.float64 else values.float()
    reduced = member.method.reduce(values)
    flat = (maps.spread(reduced) == 0).nonzero().tolist()
    constant = tuple(f"the map of sample {n}, target {k} is constant: it shows nothing" for n, k in flat)
    shown, used = reduced, dict[str, str | None]()
    family = FAMILIES[member.method.feeds]
    if (family.layer or family.attention) and upsample != "none":
        shown = maps.resample(reduced, shared["input"].shape[2:], upsample)
    if family.attention and plan is not None:
        used = {"layer_reason": plan.text}
    if family.layer and layers.feature is not None:
        used = {
            "feature_layer": layers.feature.name,
            "layer_reason": layers.reason,
            "reduction_layer": layers.reduction,
        }
    stderr = _whole([p.stderr for p in parts])
    notes = tuple(dict.fromkeys(note for p in parts for note in p.notes))
    return Explanation(
        **{k: v for k, v in shared.items() if k != "notes"} | used,
        method=name,
        title=member.method.title,
        about=member.method.about,
        options=dict(member.options),
        values=values,
        maps=shown.float(),
        scaled=maps.rescale(shown).float(),
        completeness=_whole([p.completeness for p in parts]),
        stderr=None if stderr is None else stderr.to(values),
        extras={key: padded([p.extras[key] for p in parts]).cpu() for key in parts[0].extras},
        evaluations=Evaluations(*map(sum, zip(*(g.evaluations for g in given), strict=True))),
        notes=shared["notes"] + notes + constant,
    )


def _whole(parts: Sequence[Tensor | None]) -> Tensor | None:
    """The batches' parts as one, on the CPU; None where there are none."""
    some = [p for p in parts if p is not None]
    return torch.cat(some).cpu() if some else None
