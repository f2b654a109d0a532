"""Show why a neural network decided what it did, and how far the picture can be trusted.

The line that data walks: input -> model -> method -> map -> evidence -> picture.
What stands here is the table of contents; nothing heavy is imported before it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import InputError, ModelError, OptionError, SeewhyError, UnknownNameError
from .methods import METHODS
from .types import (
    Activations,
    Card,
    Comparison,
    Evidence,
    Explanation,
    Judgement,
    Layers,
    Measured,
    Model,
    Prediction,
)

if TYPE_CHECKING:
    from . import pictures as pictures
    from . import testing as testing
    from .evidence import CHECKS as CHECKS
    from .evidence.check import check as check
    from .evidence.measure import compare as compare
    from .evidence.measure import measure as measure
    from .evidence.randomize import randomize as randomize
    from .maps.filters import FILTERS as FILTERS
    from .methods.ascent.dream import dream as dream
    from .methods.averaged import smooth as smooth
    from .methods.averaged import tta as tta
    from .methods.explain import explain as explain
    from .models import load as load
    from .models import wrap as wrap
    from .pictures.report import report as report
    from .trace import targets as targets
    from .trace.layers import activations as activations
    from .trace.layers import layers as layers
    from .trace.path import path as path
    from .trace.predict import predict as predict

__version__ = "0.1.0"

_WHERE = {
    "CHECKS": "evidence:CHECKS",
    "FILTERS": "maps.filters:FILTERS",
    "activations": "trace.layers:activations",
    "check": "evidence.check:check",
    "compare": "evidence.measure:compare",
    "dream": "methods.ascent.dream:dream",
    "explain": "methods.explain:explain",
    "layers": "trace.layers:layers",
    "load": "models:load",
    "measure": "evidence.measure:measure",
    "path": "trace.path:path",
    "pictures": "pictures:",
    "smooth": "methods.averaged:smooth",
    "tta": "methods.averaged:tta",
    "randomize": "evidence.randomize:randomize",
    "report": "pictures.report:report",
    "predict": "trace.predict:predict",
    "targets": "trace.targets:",
    "testing": "testing:",
    "wrap": "models:wrap",
}

__all__ = [
    "METHODS",
    "Activations",
    "Card",
    "Comparison",
    "Evidence",
    "Explanation",
    "InputError",
    "Layers",
    "Measured",
    "Model",
    "ModelError",
    "OptionError",
    "Prediction",
    "SeewhyError",
    "UnknownNameError",
    *_WHERE,
]


def _fetch(place: str) -> Any:
    module, name = place.split(":")
    found = import_module(f"{__name__}.{module}")
    return getattr(found, name) if name else found


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return _fetch(_WHERE[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


def _attached(place: str) -> Any:
    """A method of a record that lives in a room the record must not know."""

    def call(self: Any, *args: Any, **options: Any) -> Any:
        return _fetch(place)(self, *args, **options)

    return call


Model.prepare = _attached("inputs:prepare")
Explanation.filtered = _attached("maps.filters:filtered")
Explanation.show = _attached("pictures:show")
Explanation.save = _attached("pictures:save")
Explanation.load = staticmethod(lambda file: _fetch("pictures:load")(file))
Explanation._repr_png_ = _attached("pictures:png")
Comparison.__str__ = _attached("pictures.comparison:text")  # type: ignore[method-assign]
Comparison.show = _attached("pictures.comparison:sheet")
Comparison.save = _attached("pictures.files:save_comparison")
Comparison._repr_png_ = _attached("pictures.comparison:picture")
Measured.__str__ = _attached("pictures.comparison:measured")  # type: ignore[method-assign]
Evidence.__str__ = _attached("pictures.evidence:text")  # type: ignore[method-assign]
Evidence.show = _attached("pictures.evidence:show")
Evidence.report = _attached("pictures.files:report_evidence")
Evidence.save = _attached("pictures.files:save_evidence")
Evidence._repr_png_ = _attached("pictures.evidence:png")
Prediction.__str__ = _attached("pictures.table:prediction")  # type: ignore[method-assign]
Layers.__str__ = _attached("pictures.table:layers")  # type: ignore[method-assign]
Activations.montage = _attached("pictures.channels:montage")
Activations.show = _attached("pictures.channels:show")
Activations.save = _attached("pictures.channels:save")
Activations._repr_png_ = _attached("pictures.channels:png")
_SHOWN: tuple[tuple[Any, str], ...] = (
    (Model, "model"),
    (Prediction, "prediction"),
    (Layers, "layers"),
    (Explanation, "explanation"),
    (Evidence, "evidence"),
    (Judgement, "judgement"),
    (Measured, "measured"),
    (Comparison, "comparison"),
)
for _record, _name in _SHOWN:
    _record._repr_html_ = _attached(f"pictures.notebook:{_name}")
