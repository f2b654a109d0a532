"""Similarities of all methods, gathered network by network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from seewhy import maps
from seewhy.trace.path import resolve_baseline

from .networks import KINDS, Net
from .similarity import Ranked, partial, ranked, ranks
from .verdict import Similarities

if TYPE_CHECKING:
    from torch import Tensor

    from seewhy.types import Explanation, Inputs, Model


class Table:
    """Similarities as they come in; ranks of the trained maps are kept, those of the others are not."""

    def __init__(
        self,
        model: Model,
        x: Inputs,
        trained: list[Explanation],
        again: dict[str, Explanation],
        draws: int,
        kinds: Sequence[str] = KINDS,
    ) -> None:
        n = len(x)
        flat = {e.method: e.maps.abs().flatten(2) for e in trained}
        self.maps = {name: [ranked(one) for one in found.unbind(1)] for name, found in flat.items()}  # class by class
        self.forced = {e.method: ranked(_forced(model, x, e)) for e in trained}
        self.own = {e.method: _products(self.maps[e.method][0], again.get(e.method)) for e in trained}
        self.same = {name: {k: np.zeros((n, draws)) for k in kinds} for name in self.maps}
        self.partial = {name: {k: np.zeros((n, draws)) for k in kinds} for name in self.maps}
        self.cross = {name: {k: np.zeros((n, n, draws)) for k in kinds} for name in self.maps}
        self.untaught = ""
        self.shown = {e.method: {"trained": e.maps[:, 0]} for e in trained}
        self.constant: dict[str, list[int]] = {name: [0, 0] for name in self.maps}

    def add(self, net: Net, found: list[Explanation]) -> None:
        """The maps of one network, of all its draws."""
        if net.kind == "data":
            self.untaught = self.untaught or net.trouble
        for e in found:
            trained = self.maps[e.method][0]
            for column, draw in enumerate(net.draws):
                drawn = ranked(e.maps[:, column].abs().flatten(1))
                cross = trained.ranks @ drawn.ranks.T
                self.cross[e.method][net.kind][:, :, draw] = cross.numpy()
                self.same[e.method][net.kind][:, draw] = cross.diagonal().numpy()
                self.partial[e.method][net.kind][:, draw] = partial(trained, drawn, self.forced[e.method])
                self.constant[e.method][0] += int((drawn.ranks == 0).all(1).sum())
                self.constant[e.method][1] += len(drawn.maps)
            if 0 in net.draws:
                self.shown[e.method][net.kind] = e.maps[:, 0]

    def similarities(
        self, name: str, gained: np.ndarray | None, no_classes: str, classless: bool = False
    ) -> Similarities:
        """All that is known of one method."""
        first, *others = self.maps[name]
        forced = self.forced[name]
        return Similarities(
            same=self.same[name],
            cross=self.cross[name],
            partial=self.partial[name],
            self=self.own[name],
            other=np.stack([(first.ranks * o.ranks).sum(1).numpy() for o in others], 1) if others else None,
            other_partial=np.stack([partial(first, o, forced) for o in others], 1) if others else None,
            gain=gained,
            no_classes=no_classes,
            classless=classless,
            untaught=self.untaught,
        )

    def notes(self) -> list[str]:
        """Maps that show nothing."""
        return [
            f"{name}: {none} of {count} maps of the randomised networks are constant; they count as different"
            for name, (none, count) in self.constant.items()
            if none > 0.05 * count
        ]


def _products(first: Ranked, again: Explanation | None) -> np.ndarray:
    """Self-similarity of a method that draws; 1 for the others."""
    if again is None:
        return np.ones(len(first.maps))
    found: np.ndarray = (first.ranks * ranks(again.maps[:, 0].abs().flatten(1))).sum(1).numpy()
    return found


def _forced(model: Model, x: Inputs, e: Explanation) -> Tensor:
    """How far the input is from the method's baseline, at the map's resolution [N, P]: what a product forces."""
    start = resolve_baseline(model, x, e.options["baseline"])[0] if "baseline" in e.options else 0.0
    away = (x - start).abs().sum(1, keepdim=True).cpu()
    size = e.maps.shape[2:]
    return (away if away.shape[2:] == size else maps.resample(away, size, "linear")).flatten(1).clamp(min=0)
