"""Pictures that please channels: one file each, and a sheet."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seewhy.errors import OptionError

from .sheets import writable

if TYPE_CHECKING:
    from torch import Tensor

    from seewhy.methods.ascent.climb import Reached
    from seewhy.types import Model


def run(
    spec: str,
    code: bool,
    download: bool,
    layer: str | None,
    channels: list[int] | None,
    best_of: str | None,
    kinds: Mapping[str, Mapping[str, Any]],
    options: Mapping[str, Any],
    out: Path,
) -> Iterator[dict[str, Any]]:
    """What the command tells: a line a picture, then the sheet.

    Args:
        spec: the network.
        code: whether it may run code of the user's own.
        download: whether published weights may be fetched.
        layer: its name, or None.
        channels: which; None: those of `best_of`.
        best_of: a picture whose three best classes are the channels.
        kinds: what follows a title -> options; one row of the sheet each.
        options: those of all rows.
        out: the folder.

    Raises:
        OptionError: neither channels nor a picture, or both.
    """
    import seewhy
    from seewhy.pictures import gallery, image
    from seewhy.pictures.sheet import DPI

    if (not channels) == (best_of is None):
        raise OptionError("give --channel, once or more, or --best-of PICTURE.")
    folder = writable(out)
    network = seewhy.load(spec, allow_code=code, allow_download=download)
    wanted = channels or seewhy.predict(network, network.prepare(best_of)).indices[0].tolist()
    names = _names(network, layer, wanted)
    stem = re.sub(r"\W+", "-", layer or "output").strip("-")
    pictures: list[Tensor] = []
    titles = []
    size = options["size"]
    for kind, more in kinds.items():
        reached: list[Reached] = []
        if pictures:  # a level more makes the picture larger
            size = tuple(round(side * options["pyramid_scale"]) for side in pictures[0].shape[1:])
        made = seewhy.dream(network, layer, wanted, **{**options, **more, "size": size}, watch=reached.append)
        mark = "-" + re.sub(r"\W+", "-", kind).strip("-").lower() if kind else ""
        for n, (channel, name) in enumerate(zip(wanted, names, strict=True)):
            file = folder / f"{stem}-{channel}{mark}.png"
            image(made[n]).save(file)
            start, end = _ends(reached, channel)
            title = f"{name}\n{kind}".strip()
            yield {"channel": channel, "title": " ".join(title.split()), "layer": layer, "start": start, "end": end,
                   "file": str(file), **more}  # fmt: skip
            pictures.append(made[n])
            titles.append(title)
    file = folder / f"{stem}-dreams.png"
    gallery(pictures, titles, columns=len(wanted), title=f"What pleases {layer or network.name}").savefig(file, dpi=DPI)
    yield {"sheet": str(file)}


def _ends(reached: list[Reached], channel: int) -> tuple[float, float]:
    """The activation of a channel before the first step and after the last."""
    own = [float(r.activations[r.channels.index(channel)]) for r in reached if channel in r.channels]
    return own[0], own[-1]


def _names(network: Model, layer: str | None, channels: list[int]) -> list[str]:
    """Labels where the layer has a unit a class, else numbers."""
    import seewhy

    labels = network.labels
    shapes = {row.name: row.shape or () for row in seewhy.layers(network)}
    classes = labels is not None and (layer is None or prod(shapes.get(layer, ())[1:]) == len(labels))
    return [labels[c] if labels and classes and 0 <= c < len(labels) else f"channel {c}" for c in channels]
