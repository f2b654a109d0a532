"""The number of samples per forward pass, and whether the maps of all classes fit into memory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from seewhy import maps
from seewhy.errors import OptionError
from seewhy.targets.scoring import class_scores
from seewhy.tracing.forward import bytes_per_sample, run_forward

if TYPE_CHECKING:
    from seewhy.feature_layers.selection import LayerInfo
    from seewhy.model import Model
    from seewhy.types import Inputs

    from .batch import BatchLimit, Family, RequestedMethod

# by device type, without and with an autograd graph through the whole network; see docs/decisions.md
DEFAULT_BATCH_SIZES = {"cpu": (8, 4)}
GPU_BATCH_SIZES = (32, 32)  # of every other device type


def check_batch_limits(batch_size: int | str, max_memory: int | None) -> None:
    """Check the arguments `batch_size` and `max_memory`.

    Raises:
        OptionError: a value is neither a positive integer nor its default.
    """
    for name, value, default in (("batch_size", batch_size, "auto"), ("max_memory", max_memory, None)):
        if value != default and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise OptionError(f"{name}={value!r}: it must be a positive integer or {default!r}.")


def choose_batch_size(model: Model, x: Inputs, batch_size: int | str, max_memory: int | None, graph: bool) -> int:
    """Return the number of samples per forward pass.

    Args:
        model: the model; its `max_batch` is an upper limit.
        x: the batch; with `max_memory`, one sample of it is measured.
        batch_size: requested size, or "auto".
        max_memory: bytes that a pass may add, or None.
        graph: whether the pass keeps an autograd graph through the whole network.

    Raises:
        OptionError: one sample needs more than `max_memory`.
    """
    size = batch_size if isinstance(batch_size, int) else DEFAULT_BATCH_SIZES.get(x.device.type, GPU_BATCH_SIZES)[graph]
    size = min(size, model.max_batch or size)
    if max_memory is None:
        return size
    sample_bytes = bytes_per_sample(model, x)
    if sample_bytes > max_memory:
        raise OptionError(
            f"max_memory={max_memory}: one sample of {model.name} needs about {sample_bytes} bytes. Increase the limit."
        )
    return min(size, max_memory // sample_bytes)


def check_all_classes_fit(
    model: Model,
    x: Inputs,
    methods: Sequence[RequestedMethod],
    families: Sequence[Family],
    feature_layer: LayerInfo | None,
    reduction_layer: str | None,
    limit: BatchLimit,
) -> None:
    """Check that the maps of all classes of all samples fit into memory. Runs one sample to count the classes.

    Args:
        model: the model.
        x: all samples of the call.
        methods: the requested methods.
        families: the family of each.
        feature_layer: the layer whose activations are used, if any.
        reduction_layer: the layer whose output is explained; None: the network's output.
        limit: samples per forward pass, and bytes that the call may add.

    Raises:
        OptionError: the estimate exceeds `max_memory` or half of the free memory.
    """
    classes = class_scores(
        run_forward(model, x[:1], graph=False, reduction_layer=reduction_layer).explained, model
    ).shape[1]
    needed = classes * sum(
        bytes_per_class(x, method, family, feature_layer, limit.samples)
        for method, family in zip(methods, families, strict=True)
    )
    free = free_memory(x.device)
    half = None if free is None else free // 2
    allowed = min((bound for bound in (limit.max_memory, half) if bound is not None), default=needed)
    if needed <= allowed:
        return
    reason = (
        f"max_memory={allowed}"
        if allowed == limit.max_memory
        else f"half of the free memory is {_format_bytes(allowed)}"
    )
    step, samples = max(1, classes * allowed // needed), f"{len(x)} sample{'s' * (len(x) > 1)}"
    raise OptionError(
        f"target='all': {samples} with {classes} classes each take about {_format_bytes(needed)} ({needed} bytes), "
        f"but {reason}. Explain fewer samples at once, or loop over the classes: target=range(0, {step}), "
        f"range({step}, {2 * step}) and so on."
    )


def bytes_per_class(
    x: Inputs, requested: RequestedMethod, family: Family, feature_layer: LayerInfo | None, batch_size: int
) -> int:
    """Return an upper estimate of the bytes that one more class of all samples adds, at the peak.

    The estimate is the sum of what is kept until the end of the call and what exists only during one batch.
    """
    method, item = requested.method, max(4, x.element_size())
    positions = x[0, 0].numel()
    size = positions * (1 if method.reduce is maps.channel_sum else x.shape[1])
    # values per batch, concatenated, and absolute; then the reduced, float32 and rescaled maps
    kept = 3 * size * item + positions * (3 * item + 8)
    if method.stochastic:  # sampled methods: the standard error
        kept += 2 * size * item
    temporary = size * family.bytes_per_value(requested, item, len(x), batch_size)
    if feature_layer is not None and feature_layer.shape is not None and "gradients" in method.kernel_inputs:
        temporary += 4 * min(batch_size, len(x)) * item * torch.Size(feature_layer.shape[1:]).numel()
    return len(x) * kept + temporary


def free_memory(device: torch.device) -> int | None:
    """Return the free bytes on the device or on the host, whichever is less; None: unknown."""
    free = [_free_host_memory()]
    if device.type == "cuda":
        free.append(int(torch.cuda.mem_get_info(device)[0]))
    return min((f for f in free if f is not None), default=None)


def _free_host_memory(root: Path = Path("/")) -> int | None:
    """Return the bytes that are available on this machine and within the memory limit of the container."""
    try:
        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return _half_of_total_memory()
    try:
        group = root / "sys/fs/cgroup"
        limit, used = (int((group / name).read_text(encoding="ascii")) for name in ("memory.max", "memory.current"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        return min(free, max(0, limit - used + int(stat.get("inactive_file", 0))))
    except (OSError, ValueError):  # no container, or a limit of "max"
        return free


def _half_of_total_memory() -> int | None:
    """Return half of the physical memory, for systems that do not report the free memory."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, OSError, ValueError):
        return None


def _format_bytes(count: int) -> str:
    return f"{count / 2**30:.3g} GiB" if count >= 2**29 else f"{count / 2**20:.3g} MiB"
