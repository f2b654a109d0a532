"""The records that travel down the line, and the names of their shapes. Free of torch at import.

N samples, K explained targets a sample, C channels, *S the spatial or temporal axes of the input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Flag, auto
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Int64
    from torch import Tensor
    from torch.nn import Module

    Baseline = int | float | str | list[float] | tuple[float, ...] | Tensor | np.ndarray | None

    Inputs = Float[Tensor, "N C *S"]
    Values = Float[Tensor, "N K C *S"]
    Features = Float[Tensor, "N A *R"]  # of a layer with its own channels and positions
    Slopes = Float[Tensor, "N K A *R"]  # the gradient of each target there
    Maps = Float[Tensor, "N K *S"]
    Scores = Float[Tensor, "N K"]
    Indices = Int64[Tensor, "N K"]
else:
    Baseline = Any


class Between(NamedTuple):
    """The range that a number may have; stands in an option's annotation."""

    low: float = float("-inf")
    high: float = float("inf")


class Can(Flag):
    """What a model can give, and what a method needs."""

    SCORES = auto()
    GRADIENTS = auto()  # of a score at the input, through autograd
    LAYERS = auto()  # named layers inside


@dataclass(frozen=True)
class Card:
    """How pictures are prepared for a network: what timm calls its pretrained configuration."""

    size: tuple[int, int]  # height, width
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    interpolation: str = "bicubic"
    crop: float = 1.0  # share of the shorter side that crop="card" keeps


@dataclass(frozen=True)
class Model:
    """Who answers: a network and what is known about it. Made by `seewhy.wrap` and `seewhy.load`.

    Attributes:
        forward: the network's own input (its own layout) -> its output, as it gives it.
        module: the torch module behind it, or None for a plain callable.
        can: what it can give.
        labels: names of the classes, or None.
        layout: one letter an axis of the input, such as "NHWC"; None means "NC" and the other axes ("NF" for two).
        preparation: a `Card`, or a function from anything to a batch; None: tensors only.
        name: how messages and figures call it.
        call: how the module, or a copy of it, is called: (module, input) -> output; None: plainly.
        randomized: parameter tensors that were drawn anew, see `seewhy.randomize`.
        untouched: those that were not.
        notes: what a reader of its maps must know.
        lacks: why it cannot give more, and what would help.
        conversion: of a network that only answers: makes a torch module of it, which is compared before it is believed.
        rows: samples that a pass may hold at most; None: any number.
        batch_axes: of a network that may answer with its samples on another axis than the first: which one it is, by
            the shape of a sample, as far as it was asked; None: the first.
    """

    forward: Callable[[Tensor], Any]
    module: Module | None = None
    can: Can = Can.SCORES | Can.GRADIENTS
    labels: tuple[str, ...] | None = None
    layout: str | None = None
    preparation: Card | Callable[[Any], Tensor] | None = None
    name: str = "network"
    call: Callable[[Any, Tensor], Any] | None = None
    randomized: tuple[str, ...] = ()
    untouched: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    lacks: str = ""
    conversion: Callable[[], Any] | None = None
    rows: int | None = None
    batch_axes: dict[tuple[int, ...], int] | None = field(default=None, compare=False)

    prepare: ClassVar[Callable[..., Tensor]]  # attached in seewhy/__init__.py


class GradientsAt(NamedTuple):
    """A path kernel asks: the gradients at these points [M, N, C, *S]. The answer is [M, N, K, C, *S].

    With `row` the points [M, 1, C, *S] are of that sample alone.
    """

    points: Tensor
    row: int | None = None


class ScoresAt(NamedTuple):
    """A path kernel asks: the scores at these points [M, N, C, *S]. The answer is [M, N, K]. `row` as above."""

    points: Tensor
    row: int | None = None


class ScoresUnder(NamedTuple):
    """A kernel asks: the scores while the feature layer's output is multiplied by each mask. The answer is [M, N, K].

    `masks(start, stop)` gives those from `start` to `stop`, [m, C or 1, *S' or 1]; they are the same for all samples.
    """

    number: int
    masks: Callable[[int, int], Tensor]


class ScoresHiding(NamedTuple):
    """A kernel asks: the scores while parts of the input are replaced by `fill` [N, C, *S]. The answer is [M, N, K].

    `hidden(start, stop)` gives those from `start` to `stop`, [m, N or 1, C or 1, *S]: True or a share, 1 is all of it.
    With `row` only that sample is asked, and the answer is [M, 1, K]. `windows` [M, axes, 2], where they are known,
    are starts and stops of a box that holds all that is hidden.
    """

    number: int
    hidden: Callable[[int, int], Tensor]
    fill: Tensor
    row: int | None = None
    windows: Tensor | None = None


class Attribution(NamedTuple):
    """What a kernel gives; only `values` where there is nothing more to say."""

    values: Values
    completeness: Tensor | None = None
    stderr: Tensor | None = None
    extras: Mapping[str, Any] = {}
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prediction:
    """The best classes of each sample; prints as a table, iterates sample by sample.

    Attributes:
        indices: [N, top] class indices, best first.
        probabilities: [N, top].
        labels: the same as names (the index as text where the model has no labels).
        output: the model's whole output.
        notes: what a reader must know.
    """

    indices: Tensor
    probabilities: Tensor
    labels: tuple[tuple[str, ...], ...]
    output: Any = field(repr=False)
    notes: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[list[tuple[str, int, float]]]:
        for names, index, share in zip(self.labels, self.indices, self.probabilities, strict=True):
            yield list(zip(names, index.tolist(), share.tolist(), strict=True))


class Layer(NamedTuple):
    """One row of `seewhy.layers`: a layer, or a function between layers, each time it ran."""

    row: int  # 1-based, in the order they ran
    name: str
    type: str
    description: str
    shape: tuple[int, ...] | None  # of its output for one sample, batch included; None: not run
    learnable: int  # values of the parameters that are its own and of no row before
    spatial: bool | None  # whether its output has more than one position of the input; None: not run


@dataclass(frozen=True)
class Layers:
    """What ran inside a network, in order; any slice prints as a table."""

    rows: tuple[Layer, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.rows)

    def __getitem__(self, which: Any) -> Any:
        return Layers(self.rows[which]) if isinstance(which, slice) else self.rows[which]


@dataclass(frozen=True)
class Activations:
    """What one layer gives for a batch.

    Attributes:
        values: [N, C, *S'], on the CPU; [N, C] where there are no positions.
        layer: its name.
        input: [N, C, *S] what went in; preparation: the `Card` it was prepared by, if any.
    """

    values: Tensor
    layer: str
    input: Tensor = field(repr=False)
    preparation: Card | None = None

    def strongest(self) -> list[tuple[int, float]]:
        """Per sample the channel that holds the largest value, and that value."""
        peaks = self.values.flatten(2).amax(2) if self.values.ndim > 2 else self.values
        best = peaks.max(1)
        return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))

    montage: ClassVar[Callable[..., Any]]  # these four are attached in seewhy/__init__.py
    show: ClassVar[Callable[..., Any]]
    save: ClassVar[Callable[..., None]]
    _repr_png_: ClassVar[Callable[..., bytes]]


class Evaluations(NamedTuple):
    """Passes of single inputs through the network; a forward shared by methods counts in each."""

    forward: int
    backward: int


@dataclass(frozen=True)
class Explanation:
    """Why the network decided what it did, as far as one method can tell.

    Tensors are detached and on the CPU.

    Attributes:
        values: [N, K, C or 1, *S'] the raw result, signed, at the method's own resolution.
        maps: [N, K, *S] channels reduced, resampled, not rescaled.
        scaled: maps rescaled to [0, 1] a map; a constant map gives zeros and a note.
        targets: [N, K] class indices, or None for callables; labels: the same as names.
        scores: [N, K] the explained scores; score: which kind.
        probabilities: [N, K] softmax of the explained classes, or None.
        output: the model's whole output, as it gave it.
        input: [N, C, *S] what was explained; preparation: the `Card` it was prepared by, if any.
        method, options, seed: what was asked, defaults filled in; title: the method's name for people.
        about: what the method computes and what its map can and cannot tell, from its docstring, and its paper.
        upsample: how maps were brought to the input's size; filters: what was done to them since, see `filtered`.
        model: the network's name; versions: of the software that computed it.
        feature_layer, reduction_layer, layer_reason: layers used, and why; of attention methods what was followed.
        stderr: standard error of values, for sampled methods.
        extras: what only this method gives.
        completeness: [N, K] sum of the attributions - (score - baseline score), where promised.
        evaluations: passes spent; seconds: wall time of the call.
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
    preparation: Card | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    score: str = "logit"
    feature_layer: str | None = None
    reduction_layer: str | None = None
    layer_reason: str | None = None
    stderr: Tensor | None = None
    extras: Mapping[str, Any] = field(default_factory=dict)
    completeness: Tensor | None = None
    evaluations: Evaluations = field(default=Evaluations(0, 0))
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    about: str = field(default="", repr=False)
    upsample: str = "bicubic"
    filters: tuple[str, ...] = ()
    model: str = ""
    versions: Mapping[str, str] = field(default_factory=dict, repr=False)

    filtered: ClassVar[Callable[..., Explanation]]  # these are attached in seewhy/__init__.py
    show: ClassVar[Callable[..., Any]]
    save: ClassVar[Callable[..., None]]
    load: ClassVar[Callable[..., Explanation]]
    _repr_png_: ClassVar[Callable[..., bytes]]


class Alike(NamedTuple):
    """How alike maps of the trained network and of a randomised one are: means over inputs and draws.

    Spearman's rank correlation of absolute maps, of the same input with its 95 % interval, of different inputs, and of
    the same input with what the input forces taken out.
    """

    same: float
    low: float
    high: float
    chance: float
    partial: float


class Finding(NamedTuple):
    """What one test found: a word, the number it rests on with its 95 % interval, and why."""

    verdict: str  # PASS, FAIL, INCONCLUSIVE, CONFOUNDED or NOT APPLICABLE
    estimate: float
    low: float
    high: float
    reason: str


@dataclass(frozen=True)
class Judgement:
    """What all tests say of one method on one network and these inputs.

    Attributes:
        verdict: one word.
        reason: one sentence.
        tests: by name, see `seewhy.CHECKS`.
        similarity: kind of network ("top", "half", "all", "bottom") -> how alike its maps are to the trained ones.
    """

    verdict: str
    reason: str
    tests: Mapping[str, Finding]
    similarity: Mapping[str, Alike]


@dataclass(frozen=True)
class Evidence:
    """Whether maps depend on what the network learnt; `evidence["gradient"].verdict`. Prints as a table.

    Attributes:
        methods: name -> what was found.
        controls: the same for maps whose answer is known.
        notes: what a reader must know; the first says what PASS does not mean.
        settings: thresholds, inputs, draws, seed.
        input: [N, C, *S], as the network saw them.
        labels: of the explained class of each input.
        maps: method -> kind of network ("trained", "top", "half", "all", "bottom") -> [N, *S], of the first draw.
        asked: method -> score, layers, options and filters of the maps that were checked.
        seconds: how long it took.
    """

    methods: Mapping[str, Judgement]
    controls: Mapping[str, Judgement]
    notes: tuple[str, ...]
    settings: Mapping[str, Any]
    input: Tensor = field(repr=False)
    labels: tuple[str, ...] = ()
    maps: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict, repr=False)
    preparation: Card | None = field(default=None, repr=False)
    seconds: float = 0.0
    asked: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)

    report: ClassVar[Callable[..., Any]]  # these are attached in seewhy/__init__.py
    save: ClassVar[Callable[..., None]]
    show: ClassVar[Callable[..., Any]]
    _repr_png_: ClassVar[Callable[..., bytes]]

    def __getitem__(self, method: str) -> Judgement:
        return self.methods[method]


@dataclass(frozen=True)
class Measured:
    """What one check says of an explanation; prints as a line.

    Attributes:
        check: its name.
        method: whose explanation it is.
        values: [N, K]; NaN where it is undefined, as for constant maps.
        stderr: standard error of each, where the check draws, else None.
        mean: over samples and targets; `low` and `high` bound it with 95 % (from five samples on, else NaN).
        better: "low", "high", or nothing.
        notes: what a reader must know.
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


@dataclass(frozen=True)
class Comparison:
    """Several methods on the same inputs; prints as a table.

    Attributes:
        maps: one explanation a method.
        methods: their names.
        agreement: [methods, methods, 3]: rank correlation of absolute maps, and the bounds of its 95 % interval over
            samples (NaN for fewer than five).
    """

    maps: tuple[Explanation, ...]
    methods: tuple[str, ...]
    agreement: np.ndarray

    save: ClassVar[Callable[..., None]]  # these are attached in seewhy/__init__.py
    show: ClassVar[Callable[..., Any]]
    _repr_png_: ClassVar[Callable[..., bytes]]
