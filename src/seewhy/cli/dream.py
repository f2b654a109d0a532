"""`seewhy dream`: pictures that maximize channels, one file per channel and one sheet of all."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seewhy.errors import OptionError

from .sheet_files import writable_folder

if TYPE_CHECKING:
    from torch import Tensor

    from seewhy.engine.activation_maximization import OptimizationProgress
    from seewhy.model import Model


def dream_lines(
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
    """Compute the pictures; yield one record per picture, then the sheet.

    Args:
        spec: model spec of the network.
        code: whether the spec may run the user's code.
        download: whether published weights may be downloaded.
        layer: name of the layer; None: the network's output.
        channels: channel indices; None: the classes of `best_of`.
        best_of: picture file whose three best classes are the channels.
        kinds: suffix of the titles -> options; one row of the sheet each.
        options: options of all rows.
        out: output folder.

    Raises:
        OptionError: neither channels nor a picture is given, or both are.
    """
    import seewhy
    from seewhy.visualization import tensor_to_image, tile_images
    from seewhy.visualization.sheet import DPI

    if (not channels) == (best_of is None):
        raise OptionError("give --channel, once or more, or --best-of PICTURE.")
    folder = writable_folder(out)
    network = seewhy.load(spec, allow_code=code, allow_download=download)
    wanted = channels or seewhy.predict(network, network.prepare(best_of)).indices[0].tolist()
    names = _channel_names(network, layer, wanted)
    stem = re.sub(r"\W+", "-", layer or "output").strip("-")
    pictures: list[Tensor] = []
    titles = []
    size = options["size"]
    for kind, more in kinds.items():
        history: list[OptimizationProgress] = []
        if pictures:  # one more level makes the picture larger
            size = tuple(round(side * options["pyramid_scale"]) for side in pictures[0].shape[1:])
        made = seewhy.dream(network, layer, wanted, **{**options, **more, "size": size}, callback=history.append)
        mark = "-" + re.sub(r"\W+", "-", kind).strip("-").lower() if kind else ""
        for n, (channel, name) in enumerate(zip(wanted, names, strict=True)):
            file = folder / f"{stem}-{channel}{mark}.png"
            tensor_to_image(made[n]).save(file)
            start, end = _first_and_last(history, channel)
            title = f"{name}\n{kind}".strip()
            yield {"channel": channel, "title": " ".join(title.split()), "layer": layer, "start": start, "end": end,
                   "file": str(file), **more}  # fmt: skip
            pictures.append(made[n])
            titles.append(title)
    file = folder / f"{stem}-dreams.png"
    tile_images(pictures, titles, columns=len(wanted), title=f"Maximized activation: {layer or network.name}").savefig(
        file, dpi=DPI
    )
    yield {"sheet": str(file)}


def _first_and_last(history: list[OptimizationProgress], channel: int) -> tuple[float, float]:
    """The activation of a channel before the first and after the last step."""
    own = [float(r.activations[r.channels.index(channel)]) for r in history if channel in r.channels]
    return own[0], own[-1]


def _channel_names(network: Model, layer: str | None, channels: list[int]) -> list[str]:
    """Class labels where the layer has one unit per class, else channel numbers."""
    import seewhy

    labels = network.labels
    shapes = {row.name: row.shape or () for row in seewhy.layers(network)}
    classes = labels is not None and (layer is None or prod(shapes.get(layer, ())[1:]) == len(labels))
    return [labels[c] if labels and classes and 0 <= c < len(labels) else f"channel {c}" for c in channels]
