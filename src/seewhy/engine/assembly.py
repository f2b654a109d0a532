"""Assembly: from the results of a job's batches to one `Explanation` per method, and means and joins of these."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from seewhy import maps
from seewhy.inputs.preprocessing import Preprocessing
from seewhy.methods import method_identity
from seewhy.results import Explanation, MethodCall, sum_evaluations
from seewhy.targets.parsing import is_per_sample
from seewhy.tracing.outputs import concatenate_outputs

from .families import FAMILIES

if TYPE_CHECKING:
    from .job import JobResult


def make_explanations(done: JobResult, seconds: float) -> list[Explanation]:
    """Return the explanation of each method of a job that took so many seconds."""
    job, model = done.job, done.job.model
    indices = _concatenated([batch.indices for batch in done.batches])
    common = {
        "input": job.inputs.cpu(),
        "preparation": model.preparation if isinstance(model.preparation, Preprocessing) else None,
        "output": concatenate_outputs([batch.output for batch in done.batches]),
        "targets": indices,
        "labels": None if indices is None else tuple(row for batch in done.batches for row in batch.labels),
        "probabilities": _concatenated([batch.probabilities for batch in done.batches]),
        "scores": torch.cat([batch.scores for batch in done.batches]).cpu(),
        "seed": job.arguments.seed,
        "score": job.arguments.score,
        "upsample": job.arguments.upsample,
        "model": model.name,
        "versions": _versions(),
        "seconds": seconds,
    }
    return [_make_explanation(done, i, common) for i in range(len(job.methods))]


def _make_explanation(done: JobResult, index: int, common: dict[str, Any]) -> Explanation:
    """Build the explanation of one method; `common` holds the fields that all methods of the job share."""
    job = done.job
    requested, results = job.methods[index], [batch.results[index] for batch in done.batches]
    parts, family = [result.attribution for result in results], FAMILIES[requested.method.family]
    values = torch.cat([part.values.detach().cpu() for part in parts])
    values = values if values.dtype == torch.float64 else values.float()
    reduced = resampled = requested.method.reduce(values)
    if (family.uses_layer or family.uses_attention) and job.arguments.upsample != "none":
        resampled = maps.resample(reduced, job.inputs.shape[2:], job.arguments.upsample)
    feature_layer, layer_reason, reduction_layer = None, None, job.reduction_layer
    if family.uses_attention and done.attention_plan is not None:
        layer_reason = done.attention_plan.description
    if family.uses_layer and done.layers.feature_layer is not None:
        feature_layer, layer_reason = done.layers.feature_layer.name, done.layers.reason
        reduction_layer = done.layers.reduction_layer
    stderr = _concatenated([part.stderr for part in parts])
    call = MethodCall(
        method_identity(requested.method),
        dict(requested.options),
        score=job.arguments.score,
        feature_layer=feature_layer,
        reduction_layer=job.reduction_layer,
        seed=job.arguments.seed,
    )
    return Explanation(
        **common,
        method=requested.name,
        call=call,
        title=requested.method.title,
        description=requested.method.description,
        options=dict(requested.options),
        values=values,
        maps=resampled.float(),
        scaled=maps.rescale(resampled).float(),
        convergence_delta=_concatenated([part.convergence_delta for part in parts]),
        stderr=None if stderr is None else stderr.to(values),
        extras={key: concatenate_padded([part.extras[key] for part in parts]).cpu() for key in parts[0].extras},
        evaluations=sum_evaluations([result.evaluations for result in results]),
        feature_layer=feature_layer,
        layer_reason=layer_reason,
        reduction_layer=reduction_layer,
        notes=(
            *_notes_on_call(done),
            *_notes_on_feature_layer(done, family.uses_layer),
            *dict.fromkeys(note for part in parts for note in part.notes),
            *_notes_on_constant_maps(reduced),
        ),
    )


def _notes_on_call(done: JobResult) -> tuple[str, ...]:
    job = done.job
    notes = job.model.notes + tuple(dict.fromkeys(note for batch in done.batches for note in batch.notes))
    is_list = isinstance(job.target, (list, tuple)) and not is_per_sample(job.target)
    if is_list and 1 < len(job.target) == len(job.inputs):
        notes += (
            f"the list of {len(job.target)} targets was explained for every sample; for one target per sample use a "
            "tensor, an array or nested lists [[a], [b]]",
        )
    return notes


def _notes_on_feature_layer(done: JobResult, uses_layer: bool) -> list[str]:
    where = done.layers.feature_layer.where if uses_layer and done.layers.feature_layer is not None else None
    return [where.convention] if where is not None and where.convention else []


def _notes_on_constant_maps(reduced: Tensor) -> list[str]:
    constant = (maps.value_range(reduced) == 0).nonzero().tolist()
    return [f"the map of sample {n}, target {k} is constant: it shows nothing" for n, k in constant]


@cache
def _versions() -> dict[str, str]:
    """Return the versions of seewhy, torch and Python."""
    try:
        own_version = version("seewhy")
    except PackageNotFoundError:  # a source tree that was not installed
        own_version = "not installed"
    return {"seewhy": own_version, "torch": str(torch.__version__), "python": platform.python_version()}


def average_layers(explanations: Sequence[Explanation]) -> Explanation:
    """Return the mean of explanations that differ in their feature layer, at the size of the input.

    The maps are averaged as they are, in units of the score. A single explanation is returned unchanged.
    """
    if len(explanations) == 1:
        return explanations[0]
    names = tuple(str(e.feature_layer) for e in explanations)
    notes = dict.fromkeys(note for e in explanations for note in e.notes)
    first, same_shape = explanations[0], len({e.values.shape for e in explanations}) == 1
    mean_map = torch.stack([e.maps for e in explanations]).mean(0)
    return replace(
        first,
        values=torch.stack([e.values for e in explanations]).mean(0) if same_shape else mean_map.unsqueeze(2),
        maps=mean_map,
        scaled=maps.rescale(mean_map),
        stderr=None,
        extras={},
        convergence_delta=None,
        feature_layer=", ".join(names),
        call=replace(first.call, feature_layer=names) if first.call else None,
        evaluations=sum_evaluations([e.evaluations for e in explanations]),
        seconds=sum(e.seconds for e in explanations),
        notes=(*notes, f"the mean of the maps of {len(explanations)} layers"),
    )


def join_samples(parts: Sequence[Explanation]) -> Explanation:
    """Join explanations of single samples into one explanation of a batch."""
    first, joined = parts[0], dict[str, Any]()
    for field in fields(Explanation):
        values = [getattr(part, field.name) for part in parts]
        if field.name == "output":
            joined["output"] = concatenate_outputs(values)
        elif isinstance(values[0], Tensor):
            joined[field.name] = torch.cat(values)
    if first.labels is not None:
        joined["labels"] = tuple(names for part in parts for names in part.labels or ())
    return replace(
        first,
        **joined,
        extras={key: concatenate_padded([part.extras[key] for part in parts]) for key in first.extras},
        evaluations=sum_evaluations([part.evaluations for part in parts]),
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
        seconds=sum(part.seconds for part in parts),
    )


def concatenate_padded(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate along the first axis; the last axis is padded with NaN where it is shorter (fewer segments)."""
    if len({p.shape[1:] for p in parts}) == 1:
        return torch.cat(list(parts))
    widest = max(p.shape[-1] for p in parts)
    return torch.cat([F.pad(p, (0, widest - p.shape[-1]), value=torch.nan) for p in parts])


def _concatenated(parts: Sequence[Tensor | None]) -> Tensor | None:
    """Concatenate the parts of all batches, on the CPU; None where there are none."""
    tensors = [part for part in parts if part is not None]
    return torch.cat(tensors).cpu() if tensors else None
