"""How many samples a pass may hold, and whether all classes of them fit."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from seewhy import maps
from seewhy.errors import OptionError
from seewhy.trace.forward import bytes_a_sample, run
from seewhy.trace.question import class_scores

from .perturb.rise import BLOCK

if TYPE_CHECKING:
    from seewhy.trace.choice import Seen
    from seewhy.types import Inputs, Model

    from .scene import Member

BATCH = {"cpu": (8, 4)}  # without and with a graph through the whole network, see docs/decisions.md
BATCH_ELSEWHERE = (32, 32)


def check_sizes(batch_size: int | str, max_memory: int | None) -> None:
    """Refuse what is no size.

    Raises:
        OptionError: it is none.
    """
    for name, value, other in (("batch_size", batch_size, "auto"), ("max_memory", max_memory, None)):
        if value != other and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise OptionError(f"{name}={value!r}: a whole number above 0, or {other!r}.")


def room_for(model: Model, x: Inputs, batch_size: int | str, max_memory: int | None, graph: bool) -> int:
    """Samples like `x` that a pass may hold.

    Raises:
        OptionError: one sample needs more than `max_memory`.
    """
    size = batch_size if isinstance(batch_size, int) else BATCH.get(x.device.type, BATCH_ELSEWHERE)[graph]
    size = min(size, model.rows or size)
    if max_memory is None:
        return size
    each = bytes_a_sample(model, x)
    if each > max_memory:
        raise OptionError(f"max_memory={max_memory}: one sample of {model.name} needs about {each} bytes.")
    return min(size, max_memory // each)


def check_every(
    model: Model,
    x: Inputs,
    members: Sequence[Member],
    feature: Seen | None,
    layer: str | None,
    room: int,
    max_memory: int | None,
) -> None:
    """Refuse every class of every sample where they would not fit. One sample is asked how many classes there are.

    Raises:
        OptionError: they take more than `max_memory`, or more than half of what is free.
    """
    classes = class_scores(run(model, x[:1], graph=False, layer=layer).explained, model).shape[1]
    needed = classes * sum(bytes_a_class(x, member, feature, room) for member in members)
    free = free_memory(x.device)
    half = None if free is None else free // 2
    limit = min((bound for bound in (max_memory, half) if bound is not None), default=needed)
    if needed <= limit:
        return
    what = f"max_memory={max_memory}" if limit == max_memory else f"half of the free memory is {_readable(limit)}"
    some, samples = max(1, classes * limit // needed), f"{len(x)} sample{'s' * (len(x) > 1)}"
    raise OptionError(
        f"target='all': {samples} with {classes} classes each take about {_readable(needed)} ({needed} bytes), "
        f"and {what}: give fewer samples, or go through the classes in a loop, target=range(0, {some}), range({some}, "
        f"{2 * some}) and so on."
    )


def bytes_a_class(x: Inputs, member: Member, feature: Seen | None, room: int) -> int:
    """What the maps of one more class of all samples add, while they are made and afterwards; from above."""
    method, size = member.method, max(4, x.element_size())
    positions = x[0, 0].numel()
    one = positions * size * (1 if method.reduce is maps.channel_sum else x.shape[1])
    lasting = 3 * one + positions * (3 * size + 8)  # in batches, together and their absolutes; reduced, maps, scaled
    rows, each = (room if method.feeds == "path_gradient" else min(room, len(x))), 4
    if {"normal", "uniform"} & set(method.reads):  # a standard error, and the powers of what is summed up for it
        lasting, each = lasting + 2 * one, 20
        if method.feeds == "masked_scores":  # in double precision
            own = "segments" in member.options  # a number a segment is summed up, not a map a pair of masks
            rows, each = (0 if own else min(BLOCK, member.options["samples"] // 2 + 1)), each * 8 // size
    passing = each * rows * one  # the gradients of a pass one by one, side by side, and what a kernel makes of them
    if feature is not None and feature.shape is not None and "gradients" in method.reads:
        passing += 4 * rows * size * torch.Size(feature.shape[1:]).numel()
    return len(x) * lasting + passing


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be had there and, for what is gathered, on this machine; None: it does not say."""
    found = [_free_here()]
    if device.type == "cuda":
        found.append(int(torch.cuda.mem_get_info(device)[0]))
    return min((f for f in found if f is not None), default=None)


def _free_here(root: Path = Path("/")) -> int | None:
    """Memory that is free or easily freed, and no more than the container may still take."""
    try:
        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return _half_of_all()
    try:
        group = root / "sys/fs/cgroup"
        most, used = (int((group / name).read_text(encoding="ascii")) for name in ("memory.max", "memory.current"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        return min(free, max(0, most - used + int(stat.get("inactive_file", 0))))
    except (OSError, ValueError):  # no container, or no limit: "max"
        return free


def _half_of_all() -> int | None:
    """Where a system does not say what is free."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, OSError, ValueError):
        return None


def _readable(count: int) -> str:
    return f"{count / 2**30:.3g} GiB" if count >= 2**29 else f"{count / 2**20:.3g} MiB"
