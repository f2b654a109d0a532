"""How many samples a pass may hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seewhy.errors import OptionError
from seewhy.trace.forward import bytes_a_sample

if TYPE_CHECKING:
    from seewhy.types import Inputs, Model

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
