"""What families share: one batch with its forward and its answers, and how a kernel is called."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from seewhy.errors import ModelError, OptionError
from seewhy.trace.attention import Attended, Plan
from seewhy.trace.choice import Seen
from seewhy.trace.forward import Pass, out_of_memory
from seewhy.trace.layout import arranged
from seewhy.trace.question import Asked, Scored
from seewhy.types import Attribution, Evaluations

if TYPE_CHECKING:
    from torch import Tensor

    from seewhy.types import Model

    from .method import Method

T = TypeVar("T")


class Member(NamedTuple):
    """A method with its options."""

    method: Method
    options: Mapping[str, Any]


class Scene(NamedTuple):
    """One batch: its forward, its questions and its answers, and how many samples fit at once."""

    model: Model
    done: Pass
    asked: Asked
    answers: list[Scored]
    room: list[int]  # samples a pass, one number that all batches of a call share
    bounded: bool  # whether the caller bounded it
    memory: int | None  # bytes that the call may add
    layer: str | None
    seed: int
    advance: Callable[[int], None]
    feature: Seen | None = None
    plan: Plan | None = None
    attended: Sequence[Attended] = ()


class Given(NamedTuple):
    """What a kernel gave, and what it cost."""

    attribution: Attribution
    evaluations: Evaluations


def activations(scene: Scene) -> Tensor:
    """The feature layer's output [N, C, *S']."""
    features, seen = scene.done.features, scene.feature
    assert features is not None and seen is not None and seen.where is not None
    if len(features) != len(scene.done.x):
        raise ModelError(f"layer {seen.name!r} gave {list(features.shape)} for {len(scene.done.x)} samples: no batch.")
    return arranged(features.detach(), seen.where)


def called(member: Member, **facts: Any) -> Any:
    """The kernel, with what it reads and its options."""
    missing = [name for name in member.method.reads if name not in facts]
    if missing:
        raise OptionError(f"a kernel fed by {member.method.feeds!r} reads {', '.join(facts)}; {missing} is not there.")
    return member.method.kernel(*(facts[name] for name in member.method.reads), **member.options)


def batches(work: Callable[[int, int], T], count: int, room: list[int]) -> Iterator[T]:
    """work(start, stop) over 0..count in pieces of room[0], which is halved for good wherever an allocator refuses."""
    start = 0
    while start < count:
        stop = min(start + room[0], count)
        try:
            result = work(start, stop)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error) or stop - start == 1:
                raise
            room[0] = max(1, (stop - start) // 2)
            continue
        yield result
        start = stop
