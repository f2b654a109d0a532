"""The records that users hold. Their methods are documented here and import what they need when they are called.

N samples, K explained targets per sample, C channels, *S the spatial or temporal axes of the input.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, overload

from .errors import unknown_name_error

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from PIL.Image import Image
    from torch import Tensor

    from .inputs.preprocessing import Preprocessing
    from .methods.method import Method


class Ensemble(NamedTuple):
    """How a method is averaged over copies of the input.

    Attributes:
        kind: "smooth" (copies with Gaussian noise) or "tta" (the picture and its mirror image).
        samples: number of copies.
        sigma: standard deviation of the noise, as a fraction of the input's range.
    """

    kind: str
    samples: int
    sigma: float = 0.0


@dataclass(frozen=True, eq=False)
class MethodCall:
    """One call of a method as a value: equal and hashed by content (tensors too), and runnable again.

    Attributes:
        method: the canonical name of a method of the table, or the `Method` itself.
        options: the method's own options, defaults filled in.
        ensemble: how the method was averaged over copies of the input, or None.
        score: which score of the class was explained, such as "logit".
        feature_layer: name of the layer whose activations were used, several names where their maps were averaged, or
            None for methods that use no layer.
        reduction_layer: name of the layer whose output was explained; None: the network's output.
        seed: of the random draws.
    """

    method: str | Method
    options: Mapping[str, Any] = field(default_factory=dict)
    ensemble: Ensemble | None = None
    score: str = "logit"
    feature_layer: str | tuple[str, ...] | None = None
    reduction_layer: str | None = None
    seed: int = 0

    def __call__(self, model: Any, x: Any, *, target: Any = None, **arguments: Any) -> Explanation:
        """Run the call again.

        Args:
            model: a network, or a wrapped one.
            x: a batch.
            target: as for `seewhy.explain`.
            **arguments: other common arguments of `seewhy.explain`, such as `upsample`.

        Returns:
            The `Explanation`; with the same network, input and target the same map.
        """
        from .engine.ensembles import EnsembleMethod
        from .engine.explain import explain

        method: Any = self.method if self.ensemble is None else EnsembleMethod(self.method, self.ensemble)
        layers = list(self.feature_layer) if isinstance(self.feature_layer, tuple) else self.feature_layer
        explanation: Explanation = explain(
            model, x, method, target=target, score=self.score, feature_layer=layers,
            reduction_layer=self.reduction_layer, seed=self.seed, **self.options, **arguments,
        )  # fmt: skip
        return explanation

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MethodCall) and content_key(self._fields()) == content_key(other._fields())

    def __hash__(self) -> int:
        return hash(content_key(self._fields()))

    @property
    def name(self) -> str:
        """For display: the method's name, with its ensemble as in "smooth(gradcam)"; another call may have the same."""
        name = self.method if isinstance(self.method, str) else self.method.name
        return name if self.ensemble is None else f"{self.ensemble.kind}({name})"

    def equals_but_for_seed(self, other: MethodCall) -> bool:
        """Whether both compute the same map up to random draws."""
        return replace(self, seed=0) == replace(other, seed=0)

    def _fields(self) -> tuple[Any, ...]:
        layers = (self.feature_layer, self.reduction_layer)
        return self.method, self.options, self.ensemble, self.score, *layers, self.seed


def content_key(value: Any) -> Any:
    """A hashable key that is equal for values of equal content: tensors and arrays by type, shape and bytes."""
    if isinstance(value, Mapping):
        return "mapping", tuple(sorted((str(key), content_key(one)) for key, one in value.items()))
    if isinstance(value, (list, tuple)):
        return "sequence", tuple(content_key(one) for one in value)
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()
    if hasattr(value, "tobytes") and hasattr(value, "shape"):
        return "array", str(value.dtype), tuple(value.shape), hashlib.sha256(value.tobytes()).hexdigest()
    if isinstance(value, float) and value != value:
        return "nan"
    try:
        hash(value)
    except TypeError:
        return "object", id(value)
    return value


def unique_names(names: Sequence[str]) -> list[str]:
    """The names; repetitions are numbered: "lime", "lime#2"."""
    return [name if (n := names[:i].count(name) + 1) == 1 else f"{name}#{n}" for i, name in enumerate(names)]


@dataclass(frozen=True)
class Prediction:
    """The best classes of each sample; prints as a table, iterates sample by sample.

    Attributes:
        indices: [N, top] class indices, best first.
        probabilities: [N, top].
        labels: class names, [N][top] (the index as text where the model has no labels).
        output: the model's whole output.
        notes: what a reader must know.
    """

    indices: Tensor
    probabilities: Tensor
    labels: tuple[tuple[str, ...], ...]
    output: Any = field(repr=False)
    notes: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[list[tuple[str, int, float]]]:
        for names, index, probability in zip(self.labels, self.indices, self.probabilities, strict=True):
            yield list(zip(names, index.tolist(), probability.tolist(), strict=True))

    def __str__(self) -> str:
        from .visualization.tables import prediction_table

        return prediction_table(self)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        from .visualization.notebook import prediction_html

        return prediction_html(self)


class LayerRow(NamedTuple):
    """One row of `seewhy.layers`: one execution of a layer, or of a function between layers."""

    row: int  # 1-based, in order of execution
    name: str
    type: str
    description: str
    shape: tuple[int, ...] | None  # of its output for one sample, batch axis included; None: not executed
    learnable: int  # number of values in its own parameters that no earlier row counts
    spatial: bool | None  # whether its output has more than one position of the input; None: not executed


@dataclass(frozen=True)
class LayerTable:
    """The layers of a network in order of execution; prints as a table, and so does any slice."""

    rows: tuple[LayerRow, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[LayerRow]:
        return iter(self.rows)

    def __getitem__(self, which: Any) -> Any:
        return LayerTable(self.rows[which]) if isinstance(which, slice) else self.rows[which]

    def __str__(self) -> str:
        from .visualization.tables import layer_table_text

        return layer_table_text(self)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        from .visualization.notebook import layer_table_html

        return layer_table_html(self)


@dataclass(frozen=True)
class Activations:
    """The output of one layer for a batch.

    Attributes:
        values: [N, C, *S'], on the CPU; [N, C] where the layer has no positions.
        layer: its name.
        input: [N, C, *S] the batch.
        preparation: the `Preprocessing` of the input, if any.
    """

    values: Tensor
    layer: str
    input: Tensor = field(repr=False)
    preparation: Preprocessing | None = None

    def strongest(self) -> list[tuple[int, float]]:
        """Per sample the channel with the largest value, and that value."""
        peaks = self.values.flatten(2).amax(2) if self.values.ndim > 2 else self.values
        best = peaks.max(1)
        return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))

    def montage(self, channels: int = 12, *, sample: int = 0) -> Image:
        """The first channels as tiles on one joint gray scale: white the largest value, black the smallest.

        Args:
            channels: how many; all, where the layer has fewer.
            sample: index of the sample.

        Raises:
            OptionError: a layer without two spatial axes, or a sample or channel that does not exist.
        """
        from .visualization.activation_figure import montage

        return montage(self, channels, sample=sample)

    def show(self, **options: Any) -> Image:
        """The montage, and the strongest channel beside the input, as a PIL picture.

        Args:
            **options: none are supported yet.
        """
        from .visualization.activation_figure import show_activations

        return show_activations(self, **options)

    def save(self, file: str | Path, **options: Any) -> None:
        """Write the figure; the file's ending decides the format: .png, .svg, .pdf.

        Args:
            file: path.
            **options: none are supported yet.

        Raises:
            OptionError: another ending.
        """
        from .visualization.activation_figure import save_activations

        save_activations(self, file, **options)

    def __repr__(self) -> str:
        return f"Activations(layer={self.layer!r}, values={list(self.values.shape)})"

    def _repr_png_(self) -> bytes:
        from .visualization.activation_figure import activations_png

        return activations_png(self)


class Evaluations(NamedTuple):
    """Number of samples passed through the network; a forward pass that methods share counts in each of them."""

    forward: int
    backward: int


def sum_evaluations(parts: Sequence[Evaluations]) -> Evaluations:
    """The total numbers of forward and backward passes."""
    return Evaluations(*map(sum, zip(*parts, strict=True)))


@dataclass(frozen=True)
class Explanation:
    """The result of one attribution method for a batch. Tensors are detached and on the CPU.

    Attributes:
        values: [N, K, C or 1, *S'] the raw result, signed, at the method's own resolution.
        maps: [N, K, *S] channels reduced, resampled, not rescaled.
        scaled: maps rescaled to [0, 1] per map; a constant map gives zeros and a note.
        targets: [N, K] class indices, or None for callables.
        labels: class names, [N][K].
        scores: [N, K] the explained scores.
        score: which score of a class: "logit", "probability", "log_probability", "margin".
        probabilities: [N, K] softmax, or sigmoid, of the explained classes, or None.
        output: the model's whole output, unchanged.
        input: [N, C, *S] what was explained.
        preparation: the `Preprocessing` of the input, if any.
        call: the `MethodCall`; `e.call(model, x, target=...)` computes the map again.
        method: the method's canonical name.
        title: the method's name for display.
        description: what the method computes, what its map can and cannot tell, and its paper.
        options: the method's own options, defaults filled in.
        seed: of the random draws.
        upsample: how maps were resampled to the input's size.
        filters: filters that were applied since, see `filtered`.
        model: the network's name.
        versions: of the software that computed it.
        feature_layer, reduction_layer, layer_reason: layers used, and why; for attention methods which attentions.
        stderr: standard error of `values`, for sampled methods.
        extras: results that only this method has.
        convergence_delta: [N, K] sum of the attributions minus (score - baseline score), for methods that promise
            completeness.
        evaluations: number of forward and backward passes.
        seconds: duration of the call.
        notes: what a reader must know before trusting the map.
    """

    values: Tensor
    maps: Tensor
    scaled: Tensor
    scores: Tensor
    method: str
    title: str
    input: Tensor = field(repr=False)
    targets: Tensor | None = None
    labels: tuple[tuple[str, ...], ...] | None = None
    probabilities: Tensor | None = None
    output: Any = field(default=None, repr=False)
    preparation: Preprocessing | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    score: str = "logit"
    feature_layer: str | None = None
    reduction_layer: str | None = None
    layer_reason: str | None = None
    stderr: Tensor | None = None
    extras: Mapping[str, Any] = field(default_factory=dict)
    convergence_delta: Tensor | None = None
    evaluations: Evaluations = field(default=Evaluations(0, 0))
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    description: str = field(default="", repr=False)
    upsample: str = "bicubic"
    filters: tuple[str, ...] = ()
    model: str = ""
    versions: Mapping[str, str] = field(default_factory=dict, repr=False)
    call: MethodCall | None = None

    def filtered(self, *steps: str | Callable[[Any], Any]) -> Explanation:
        """Apply filters to the maps; the network is not run again.

        Args:
            *steps: applied in order. Names of `seewhy.FILTERS`, with a number where the filter takes one ("smooth=2",
                "clip=99", "top=0.1"), or functions maps [N, K, *S] -> maps. A filter that reduces channels
                ("channel_mean") must be the first and starts from `values`; the others start from `maps`.

        Returns:
            `Explanation` with other `maps`, `scaled` and `filters`, which every figure names.

        Raises:
            UnknownNameError: no such filter.
            OptionError: no step, a number out of range, a channel filter that is not the first, or a function that
                returns another shape.
        """
        from .maps.filters import apply_filters

        return apply_filters(self, *steps)

    def show(self, **options: Any) -> Image:
        """The sheet (the input, then its maps) as a PIL picture, which a notebook displays.

        Args:
            **options: of `seewhy.visualization.figure`: `title`, `titles`, `cmap`, `alpha`, `percentile`, `scale`,
                `layout`, `columns`, `slices`, `evidence`.
        """
        from .visualization.sheet import show

        return show(self, **options)

    def save(self, file: str | Path, **options: Any) -> None:
        """Write a file; its ending decides what: .png, .svg, .pdf the sheet; .html the report; .npz the whole record.

        Args:
            file: path.
            **options: for a sheet those of `show`; for a report those of `seewhy.report`.

        Raises:
            OptionError: another ending, or an unknown option.
        """
        from .visualization.serialization import save_explanation

        save_explanation(self, file, **options)

    @staticmethod
    def load(file: str | Path) -> Explanation:
        """Read an explanation that was saved as .npz.

        Args:
            file: path.

        Raises:
            InputError: the file is missing, damaged, or not such a record.
        """
        from .visualization.serialization import load_explanation

        return load_explanation(file)

    def report(self, file: str | Path, **options: Any) -> Path:
        """Write one HTML file with all pictures inside.

        Args:
            file: path.
            **options: of `seewhy.report`.
        """
        from .visualization.report import report

        return report(self, file, **options)

    def __str__(self) -> str:
        from .visualization.tables import explanation_text

        return explanation_text(self)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        from .visualization.notebook import explanation_html

        return explanation_html(self)

    def _repr_png_(self) -> bytes:
        from .visualization.sheet import png

        return png(self)


class Explanations(Sequence[Explanation]):
    """Several explanations, in the order of the methods or inputs; a read-only sequence.

    Slices are `Explanations` too. Two are equal if they hold the same records.
    """

    __slots__ = ("_items",)

    def __init__(self, items: Sequence[Explanation]) -> None:
        self._items = tuple(items)

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> Explanation: ...
    @overload
    def __getitem__(self, index: slice) -> Explanations: ...
    def __getitem__(self, index: int | slice) -> Explanation | Explanations:
        return Explanations(self._items[index]) if isinstance(index, slice) else self._items[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Explanations) and list(map(id, self._items)) == list(map(id, other._items))

    def __hash__(self) -> int:
        return hash(tuple(map(id, self._items)))

    def show(self, **options: Any) -> Image:
        """One sheet of all as a PIL picture; they must explain the same input and targets.

        Args:
            **options: as for `Explanation.show`.
        """
        from .visualization.sheet import show

        return show(self, **options)

    def save(self, file: str | Path, **options: Any) -> None:
        """Write one sheet (.png, .svg, .pdf) or one report (.html) of all.

        Args:
            file: path; its ending decides the format.
            **options: as for `Explanation.save`.

        Raises:
            OptionError: another ending, or explanations of different inputs on one sheet.
        """
        from .visualization.serialization import save_explanations

        save_explanations(self, file, **options)

    def report(self, file: str | Path, **options: Any) -> Path:
        """Write one HTML file with all pictures inside.

        Args:
            file: path.
            **options: of `seewhy.report`.
        """
        from .visualization.report import report

        return report(self, file, **options)

    def __repr__(self) -> str:
        from .visualization.tables import explanations_text

        return explanations_text(self)

    def _repr_html_(self) -> str:
        from .visualization.notebook import explanations_html

        return explanations_html(self)


class MapSimilarity(NamedTuple):
    """Similarity of the maps of the trained network and of a randomized one: means over inputs and draws.

    Spearman's rank correlation of absolute maps: of the same input with its 95 % interval, of different inputs, and of
    the same input after partialling out what the input alone determines.
    """

    same: float
    low: float
    high: float
    chance: float
    partial: float


class CheckResult(NamedTuple):
    """The result of one test: verdict, estimate with its 95 % interval, and the reason."""

    verdict: str  # PASS, FAIL, INCONCLUSIVE, CONFOUNDED or NOT APPLICABLE
    estimate: float
    low: float
    high: float
    reason: str


@dataclass(frozen=True)
class MethodVerdict:
    """The verdict of `seewhy.check` for one method on one network and these inputs.

    Attributes:
        verdict: PASS, FAIL, CONFOUNDED, INCONCLUSIVE or INVALID.
        reason: one sentence.
        tests: test name -> result, see `seewhy.CHECKS`.
        similarity: kind of network ("top", "half", "all", "bottom") -> similarity of its maps to the trained ones.
    """

    verdict: str
    reason: str
    tests: Mapping[str, CheckResult]
    similarity: Mapping[str, MapSimilarity]

    def _repr_html_(self) -> str:
        from .visualization.notebook import method_verdict_html

        return method_verdict_html(self)


@dataclass(frozen=True)
class Evidence:
    """Whether maps depend on what the network learned; `evidence["gradient"].verdict`. Prints as a table.

    Attributes:
        methods: name -> verdict; where two calls share a name the later ones are called "name#2", "name#3".
        controls: the same for control maps, whose verdict is known.
        calls: name -> the `MethodCall` that was checked.
        notes: what a reader must know; the first states what PASS does not mean.
        settings: thresholds, number of inputs and draws, seed.
        input: [N, C, *S], preprocessed.
        labels: of the explained class of each input.
        maps: method -> kind of network ("trained", "top", "half", "all", "bottom") -> [N, *S], of the first draw.
        preparation: the `Preprocessing` of the input, if any.
        seconds: duration.
    """

    methods: Mapping[str, MethodVerdict]
    controls: Mapping[str, MethodVerdict]
    notes: tuple[str, ...]
    settings: Mapping[str, Any]
    input: Tensor = field(repr=False)
    labels: tuple[str, ...] = ()
    maps: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict, repr=False)
    preparation: Preprocessing | None = field(default=None, repr=False)
    seconds: float = 0.0
    calls: Mapping[str, MethodCall] = field(default_factory=dict, repr=False)

    def __getitem__(self, method: str | Method | MethodCall) -> MethodVerdict:
        """The verdict of a method, by name or alias, by `Method`, or by `MethodCall` (its seed is not compared).

        Raises:
            UnknownNameError: it was not checked.
        """
        name = self.name_of(method)
        if name is None:
            shown = method if isinstance(method, str) else getattr(method, "title", method)
            raise unknown_name_error("checked method", str(shown), self.methods)
        return self.methods[name]

    def name_of(self, method: str | Method | MethodCall) -> str | None:
        """The name under which a method was checked, or None."""
        if isinstance(method, str):
            from .methods import canonical_name

            return (
                method
                if method in self.methods
                else next((n for n in self.methods if n == canonical_name(method)), None)
            )
        if isinstance(method, MethodCall):
            return next((n for n, call in self.calls.items() if call.equals_but_for_seed(method)), None)
        from .methods import method_identity

        plain = method_identity(method)
        return next((n for n, c in self.calls.items() if c.method == plain and c.ensemble is None), None)

    def show(self, **options: Any) -> Image:
        """The figure (maps of the trained and the randomized networks, similarity curves) as a PIL picture.

        Args:
            **options: `sample`, `cmap`, `percentile`.
        """
        from .visualization.evidence import show_evidence

        return show_evidence(self, **options)

    def save(self, file: str | Path, **options: Any) -> None:
        """Write the figure (.png, .svg, .pdf), the numbers (.json) or the report (.html).

        Args:
            file: path; its ending decides.
            **options: of `show`, or of `seewhy.report`.

        Raises:
            OptionError: another ending.
        """
        from .visualization.serialization import save_evidence

        save_evidence(self, file, **options)

    def report(self, file: str | Path, **options: Any) -> Path:
        """Write one HTML file; see `seewhy.report`.

        Args:
            file: path.
            **options: of `seewhy.report`.
        """
        from .visualization.serialization import report_evidence

        return report_evidence(self, file, **options)

    def __str__(self) -> str:
        from .visualization.evidence import evidence_text

        return evidence_text(self)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        from .visualization.notebook import evidence_html

        return evidence_html(self)

    def _repr_png_(self) -> bytes:
        from .visualization.evidence import evidence_png

        return evidence_png(self)


@dataclass(frozen=True)
class Measurement:
    """The value of one metric for an explanation; prints as a line.

    Attributes:
        check: the metric's name.
        method: name of the method whose explanation was measured.
        values: [N, K]; NaN where undefined, as for constant maps.
        stderr: standard error of each value, where the metric is sampled, else None.
        mean: over samples and targets.
        low, high: 95 % interval of the mean (from five samples on, else NaN).
        better: "low", "high", or empty.
        notes: what a reader must know.
        call: the `MethodCall` of the explanation.
    """

    check: str
    method: str
    values: Tensor
    stderr: Tensor | None
    mean: float
    low: float
    high: float
    better: str = ""
    notes: tuple[str, ...] = ()
    call: MethodCall | None = None

    def __str__(self) -> str:
        from .visualization.comparison import measurement_text

        return measurement_text(self)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        from .visualization.notebook import measurement_html

        return measurement_html(self)


@dataclass(frozen=True)
class Comparison:
    """Several methods on the same inputs; prints as a table.

    Attributes:
        maps: one explanation per method.
        methods: their names; repetitions are numbered ("name#2").
        agreement: [methods, methods, 3]: rank correlation of absolute maps, and the bounds of its 95 % interval over
            samples (NaN for fewer than five).
        calls: the `MethodCall` of each.
    """

    maps: tuple[Explanation, ...]
    methods: tuple[str, ...]
    agreement: np.ndarray
    calls: tuple[MethodCall, ...] = field(default=(), repr=False)

    def show(self, **options: Any) -> Image:
        """One sheet with the input and a map per method, as a PIL picture.

        Args:
            **options: as for `Explanation.show`.
        """
        from .visualization.comparison import show_comparison

        return show_comparison(self, **options)

    def save(self, file: str | Path, **options: Any) -> None:
        """Write the sheet (.png, .svg, .pdf), or the report with the table of agreement (.html).

        Args:
            file: path; its ending decides.
            **options: as for `Explanation.save`.

        Raises:
            OptionError: another ending.
        """
        from .visualization.serialization import save_comparison

        save_comparison(self, file, **options)

    def __str__(self) -> str:
        from .visualization.comparison import comparison_text

        return comparison_text(self)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        from .visualization.notebook import comparison_html

        return comparison_html(self)

    def _repr_png_(self) -> bytes:
        from .visualization.comparison import comparison_png

        return comparison_png(self)
