"""Similarities between the maps of the trained network and those of the randomized networks, for all methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from seewhy import maps
from seewhy.engine.baselines import resolve_baseline
from seewhy.evaluation.rank_correlation import RankedMaps, normalized_ranks, partial_rank_correlation, rank_maps

from .randomized_networks import NETWORK_KINDS, RandomizedNetwork
from .verdict import Similarities

if TYPE_CHECKING:
    from torch import Tensor

    from seewhy.model import Model
    from seewhy.results import Explanation
    from seewhy.types import Inputs


class SimilarityTable:
    """Similarities of all methods, accumulated network by network; only the maps of the first draw are kept.

    Args:
        model: the trained network.
        x: the inputs.
        trained: method -> explanation of the trained network, for the class and others to compare it with.
        again: sampled method -> explanation with another seed.
        draws: number of draws.
        kinds: kinds of networks that will be added.
    """

    def __init__(
        self,
        model: Model,
        x: Inputs,
        trained: Mapping[str, Explanation],
        again: Mapping[str, Explanation],
        draws: int,
        kinds: Sequence[str] = NETWORK_KINDS,
    ) -> None:
        n = len(x)
        flat = {name: e.maps.abs().flatten(2) for name, e in trained.items()}
        self.maps = {name: [rank_maps(one) for one in each.unbind(1)] for name, each in flat.items()}  # one per class
        self.baseline_distances = {name: rank_maps(_baseline_distance(model, x, e)) for name, e in trained.items()}
        self.self_similarities = {name: _self_similarity(self.maps[name][0], again.get(name)) for name in trained}
        self.same_input = {name: {k: np.zeros((n, draws)) for k in kinds} for name in self.maps}
        self.partial = {name: {k: np.zeros((n, draws)) for k in kinds} for name in self.maps}
        self.different_inputs = {name: {k: np.zeros((n, n, draws)) for k in kinds} for name in self.maps}
        self.label_training_failure = ""
        self.example_maps = {name: {"trained": e.maps[:, 0]} for name, e in trained.items()}
        self.constant_counts: dict[str, list[int]] = {name: [0, 0] for name in self.maps}

    def add(self, network: RandomizedNetwork, explanations: Mapping[str, Explanation]) -> None:
        """Add the maps of one randomized network, for all of its draws."""
        if network.kind == "data":
            self.label_training_failure = self.label_training_failure or network.failure
        for name, e in explanations.items():
            trained = self.maps[name][0]
            for column, draw in enumerate(network.draws):
                randomized = rank_maps(e.maps[:, column].abs().flatten(1))
                cross = trained.ranks @ randomized.ranks.T
                self.different_inputs[name][network.kind][:, :, draw] = cross.numpy()
                self.same_input[name][network.kind][:, draw] = cross.diagonal().numpy()
                self.partial[name][network.kind][:, draw] = partial_rank_correlation(
                    trained, randomized, self.baseline_distances[name]
                )
                self.constant_counts[name][0] += int((randomized.ranks == 0).all(1).sum())
                self.constant_counts[name][1] += len(randomized.maps)
            if 0 in network.draws:
                self.example_maps[name][network.kind] = e.maps[:, 0]

    def similarities(
        self, name: str, deletion_gain: np.ndarray | None, no_other_class_reason: str, class_agnostic: bool = False
    ) -> Similarities:
        """The similarities of one method."""
        first, *others = self.maps[name]
        distance = self.baseline_distances[name]
        partials = [partial_rank_correlation(first, o, distance) for o in others]
        return Similarities(
            same_input=self.same_input[name],
            different_inputs=self.different_inputs[name],
            partial=self.partial[name],
            self_similarity=self.self_similarities[name],
            other_class=np.stack([(first.ranks * o.ranks).sum(1).numpy() for o in others], 1) if others else None,
            other_class_partial=np.stack(partials, 1) if others else None,
            deletion_gain=deletion_gain,
            no_other_class_reason=no_other_class_reason,
            class_agnostic=class_agnostic,
            label_training_failure=self.label_training_failure,
        )

    def notes(self) -> list[str]:
        """One note per method for which more than 5 % of the randomized networks' maps are constant."""
        return [
            f"{name}: {constant} of {count} maps of the randomized networks are constant; their similarity counts as 0"
            for name, (constant, count) in self.constant_counts.items()
            if constant > 0.05 * count
        ]


def _self_similarity(first: RankedMaps, again: Explanation | None) -> np.ndarray:
    """Similarity [N] of two runs of a sampled method; 1 for deterministic methods."""
    if again is None:
        return np.ones(len(first.maps))
    products: np.ndarray = (first.ranks * normalized_ranks(again.maps[:, 0].abs().flatten(1))).sum(1).numpy()
    return products


def _baseline_distance(model: Model, x: Inputs, e: Explanation) -> Tensor:
    """Distance [N, P] of the input from the method's baseline at the map's resolution: the controlled map."""
    baseline = resolve_baseline(model, x, e.options["baseline"])[0] if "baseline" in e.options else 0.0
    distance = (x - baseline).abs().sum(1, keepdim=True).cpu()
    size = e.maps.shape[2:]
    return (distance if distance.shape[2:] == size else maps.resample(distance, size, "linear")).flatten(1).clamp(min=0)
