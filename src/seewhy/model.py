"""`Model`, the record of a wrapped network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from seewhy.types import Capability

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from seewhy.inputs.preprocessing import Preprocessing


@dataclass(frozen=True)
class Model:
    """A network with its labels, preprocessing, layout and capabilities. Created by `seewhy.wrap` and `seewhy.load`.

    Attributes:
        forward: maps an input in the network's own layout to the network's output.
        module: the torch module, or None for a plain callable.
        capabilities: what the network can compute: scores, gradients, layers.
        labels: class names, or None.
        layout: one letter per axis of the input, such as "NHWC"; None means "NC" followed by the other axes ("NF" for
            two axes).
        input_layouts: for several inputs, the layout of each by position or name.
        output_layout: one letter per axis of the output, such as "NHWC"; None: unknown, or one axis of classes.
        data_layout: one letter per axis of the data that users pass, if it differs from `layout`; without N, the data
            is one sample.
        preparation: a `Preprocessing`, or a function that turns any source into a batch; None: only tensors are
            accepted.
        name: the network's name in messages and figures.
        call: how the module, or a copy of it, is called: (module, input) -> output; None: module(input).
        randomized: names of the parameters that were randomized, see `seewhy.randomize`.
        untouched: names of the parameters that were not randomized.
        notes: remarks for the user, which every explanation of the network repeats.
        lacks: why a capability is missing, and how to obtain it.
        conversion: for a network without gradients: returns an equivalent torch module, which is compared with the
            network before it is used.
        max_batch: the largest number of samples per forward pass; None: unlimited.
        batch_axes: for a network whose output may have its batch on another axis than the first: shape of one sample ->
            batch axis of the output, as far as determined; None: the batch is always the first axis.
    """

    forward: Callable[[Tensor], Any]
    module: Module | None = None
    capabilities: Capability = Capability.SCORES | Capability.GRADIENTS
    labels: tuple[str, ...] | None = None
    layout: str | None = None
    input_layouts: Mapping[Any, str] | None = None
    output_layout: str | None = None
    data_layout: str | None = None
    preparation: Preprocessing | Callable[[Any], Tensor] | None = None
    name: str = "network"
    call: Callable[[Any, Tensor], Any] | None = None
    randomized: tuple[str, ...] = ()
    untouched: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    lacks: str = ""
    conversion: Callable[[], Any] | None = None
    max_batch: int | None = None
    batch_axes: dict[tuple[int, ...], int] | None = field(default=None, compare=False)

    def prepare(self, source: Any, *, crop: str | None = None) -> Tensor:
        """Turn a picture, or a list of pictures, into a batch that the network accepts.

        The whole picture is resized to the network's input, so that a map covers all of it.

        Args:
            source: path, PIL picture, array (H×W or H×W×channels; uint8, uint16, or floats in [0, 1]),
                or a list of them. A model with a `prepare` function of its own passes it the source unchanged.
            crop: "model": center crop of the network's published preprocessing; None: no crop.

        Returns:
            [N, 3, H, W], or the same axes in the model's layout, normalized as the network expects.

        Raises:
            InputError: the picture is missing, unreadable, too large, or of an unsupported kind.
            ModelError: the model has no preprocessing.
        """
        from seewhy.inputs import prepare

        return prepare(self, source, crop=crop)

    def _repr_html_(self) -> str:
        from seewhy.visualization.notebook import model_html

        return model_html(self)
