"""explain(): attribution maps of a network's output for a batch of inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

from seewhy.methods import DEFAULT_METHOD

from .data_sets import ExplanationStream, explain_data_set, is_batch_iterable
from .dispatch import run_call
from .validation import Arguments

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module
    from torch.utils.data import DataLoader

    from seewhy.methods.method import Method
    from seewhy.results import Explanation, Explanations

    from .ensembles import EnsembleMethod


@overload
def explain(model: Any, x: list[Tensor], method: Any = ..., **options: Any) -> list[Any]: ...
@overload
def explain(model: Any, x: tuple[Any, ...], method: Any = ..., **options: Any) -> tuple[Any, ...]: ...
@overload
def explain(model: Any, x: Mapping[str, Any], method: Any = ..., **options: Any) -> dict[str, Any]: ...
@overload
def explain(model: Any, x: DataLoader[Any] | Iterator[Any], method: Any = ..., **options: Any) -> ExplanationStream: ...
@overload
def explain(model: Any, x: Any, method: str | Method | EnsembleMethod = ..., **options: Any) -> Explanation: ...
@overload
def explain(model: Any, x: Any, method: Sequence[str | Method | EnsembleMethod], **options: Any) -> Explanations: ...
def explain(
    model: Any,
    x: Any,
    method: str | Method | EnsembleMethod | Sequence[str | Method | EnsembleMethod] = DEFAULT_METHOD,
    *,
    target: Any = None,
    score: str = "logit",
    feature_layer: str | Module | Sequence[str | Module] | None = None,
    reduction_layer: str | Module | None = None,
    upsample: str = "bicubic",
    batch_size: int | str = "auto",
    max_memory: int | None = None,
    device: str = "auto",
    seed: int = 0,
    probe: bool = True,
    progress: bool | Callable[..., None] | None = None,
    **options: Any,
) -> Any:
    """Compute attribution maps: how much each position of an input contributes to a score of a neural network.

    Shapes: N is the number of samples, K the number of targets per sample, C the number of channels, and *S the spatial
    or temporal axes of the input. The methods and targets of a call share forward passes where possible. The network
    runs in eval mode; its state is the same after the call as before.

    Args:
        model: the network: a torch module, a function, or the result of `seewhy.wrap` or `seewhy.load`.
        x: the input, one of:

            - A batch [N, C, *S], or in the layout of the model, preprocessed as the network expects.
            - Anything else that the model's `prepare` accepts, such as the path of a picture.
            - A list of unbatched tensors [C, *S], which may differ in size.
            - A tuple or dictionary of batches, for a network with several inputs. The network is called as network(*x)
              or network(**x); for an ONNX network, the order or the names are those of its graph.
            - A data set: a torch DataLoader, a Keras PyDataset, or another iterable of batches. A batch is x, (x,),
              (x, y) or (x, y, weights); several inputs are nested, as in ((a, b), y).
        method: name of a method in `seewhy.METHODS`, a `Method`, a method averaged with `seewhy.smooth` or
            `seewhy.tta`, or a list of these. Default: "gradcam".
        target: the output values that are explained, one of:

            - None: the class with the highest score of each sample. This is the default.
            - A class index or a label: this class, for every sample.
            - A list or range of K class indices or labels: all of them, for every sample.
            - A tensor or array [N] or [N, K] of class indices or labels, or nested lists [[a], [b]]: the classes of
              each sample. One-hot labels are refused.
            - "top3", or another number: the three classes with the highest scores of each sample.
            - "all": every class. If the maps would take more than `max_memory` or half of the free memory, the call is
              refused. Then use ranges of classes, such as target=range(0, 50).
            - "label": the class y of each sample, for a data set of pairs (x, y).
            - A function of the output that returns [N] or [N, 1], or a list of K such functions. It is called with
              parts of the batch.
        score: which value of a class is explained: "logit" (the output, before a final softmax or sigmoid),
            "probability" (its softmax; if the network ends in sigmoids, its sigmoid), "log_probability", or "margin"
            (the logit minus the log-sum-exp of the other logits; for sigmoids the logit). For an output with positions,
            as in segmentation, the values are summed over the positions.
        feature_layer: name of the layer whose activations the method uses, as listed by `seewhy.layers`, or the module
            itself. In transformers, the patch tokens of the layer are used. Several layers in a list: their maps are
            averaged at the size of the input. Default: a suitable layer is selected; see `layer_reason` of the result.
        reduction_layer: name of the layer whose output is explained, or the module itself. Default: the output of the
            network.
        upsample: interpolation of maps to the size of the input: "bicubic" (cubic along every axis; it may overshoot
            the range of the map), "linear", "nearest" or "none". It has no effect on maps that have the size of the
            input already.
        batch_size: largest number of samples per forward pass. "auto": on a CPU 4, or 8 if no method needs gradients
            at the input; on other devices 32. The number is halved whenever memory runs out.
        max_memory: bytes that the call may allocate. The batch size is reduced accordingly, based on a measurement of
            one sample. Default: unlimited.
        device: "auto": the device of the network. Otherwise a device such as "cpu" or "cuda:1"; a network with weights
            must be on this device.
        seed: seed of the random numbers. The same seed yields the same map, whatever the batch.
        probe: whether to test, once per network and input size, if the samples of a batch mix and if two runs differ;
            notes say so. It takes two forward passes of three samples. Plain functions are not tested.
        progress: whether to show a progress bar on stderr after two seconds. Default: only if stderr is a terminal. Or
            a function, which is called after each forward pass with its number of samples.
        **options: options of the methods; `seewhy.METHODS[name].options` lists them. With several methods, each
            receives the options that it has.

    Returns:
        An `Explanation` for a batch and one method. Its `values` [N, K, C or 1, *S'] are signed and have the resolution
        of the method; `seewhy.METHODS[name].description` states their unit. Its `maps` [N, K, *S] are the values
        reduced to one channel and resampled to the size of the input. In other cases:

        - A list of methods: `Explanations`, a sequence with one item per method.
        - A list of unbatched tensors: `Explanations` with one item per tensor. With a list of methods too, a list with
          one such sequence per method.
        - A tuple or dictionary of inputs: a tuple or dictionary with one result per input, computed with the other
          inputs unchanged. It is None for an input without a map (whole numbers, or no suitable layer); the notes of
          the other results give the reason.
        - A data set: an iterator. Each call of `next` loads a batch and returns its result; no results are kept, so the
          memory does not grow. Use `itertools.islice(results, 10)` for the first ten batches. Arguments are checked
          before the first batch is loaded. The error of a batch states its number, counted from 0, and the next call
          continues with the next batch. All batches share one progress bar.

    Raises:
        UnknownNameError: a method, option, label or layer does not exist.
        OptionError: an argument or option has a value that is not allowed.
        InputError: the input is empty, contains NaN or infinite values, or does not fit the network.
        ModelError: the network does not support the method, or its forward pass failed.
    """
    arguments = Arguments(
        target, score, feature_layer, reduction_layer, upsample, batch_size, max_memory, device, seed, probe, progress
    )
    if is_batch_iterable(x):
        return explain_data_set(model, x, method, options, arguments)
    return run_call(model, x, method, options, arguments)
