"""What the axes of a tensor mean, followed through the operations that made it.

An axis is a product of factors, such as samples × time steps after a reshape. Each rule in `OPERATION_RULES` maps the
axes of the inputs of a torch operation to those of its output. The letters of factors:

- "N": samples.
- "C": channels or features.
- "0", "1", ...: positions along this spatial axis of the network's input.
- "M": positions that a linear map mixed with each other.
- "?": unknown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple


class Factor(NamedTuple):
    """A factor of an axis.

    Attributes:
        letter: its meaning.
        size: number of values.
        step: distance of neighboring values, in values of the unsplit factor: 12 positions that are split into 3 × 4
            have the factors (3, step 4) and (4, step 1).
    """

    letter: str
    size: int
    step: int = 1


class Tokens(NamedTuple):
    """A factor of an axis: positions, with other values before and after them, such as a class token."""

    positions: tuple[Factor, ...]
    prefix: int
    suffix: int

    @property
    def size(self) -> int:
        """The number of values."""
        return self.prefix + math.prod(f.size for f in self.positions) + self.suffix


class Axis(NamedTuple):
    """An axis: its factors, the slowest first; none for an axis of size 1."""

    factors: tuple[Factor | Tokens, ...] = ()

    @property
    def size(self) -> int:
        """The number of values."""
        return math.prod(f.size for f in self.factors)

    @property
    def letters(self) -> set[str]:
        """The letters of all factors."""
        flat = [g for f in self.factors for g in (f.positions if isinstance(f, Tokens) else (f,))]
        return {f.letter for f in flat}

    @property
    def tokens(self) -> Tokens:
        """The whole axis as positions with values before and after them."""
        if len(self.factors) == 1 and isinstance(self.factors[0], Tokens):
            return self.factors[0]
        return Tokens(tuple(f for f in self.factors if isinstance(f, Factor)), 0, 0)


Axes = tuple[Axis, ...]
Shape = Sequence[int]


def make_axis(letter: str, size: int) -> Axis:
    """Return an axis with one meaning; without a factor if its size is 1, except for samples."""
    return Axis((Factor(letter, size),)) if size != 1 or letter == "N" else Axis()


def unknown_axes(shape: Shape) -> Axes:
    """Return axes without a known meaning."""
    return tuple(make_axis("?", size) for size in shape)


def is_position(letter: str) -> bool:
    """Whether a letter means positions along an axis of the input."""
    return letter.isdigit()


def _are_neighbors(major: Factor, minor: Factor) -> bool:
    """Whether two factors are the parts of one; the order within channels does not matter."""
    ordered = is_position(major.letter)
    return major.letter == minor.letter != "N" and (not ordered or major.step == minor.size * minor.step)


def _merged(factors: Sequence[Factor | Tokens]) -> Axis:
    """Return an axis; neighboring factors that are the parts of one factor are joined, and those of size 1 dropped."""
    result: list[Factor | Tokens] = []
    for f in factors:
        last = result[-1] if result else None
        if f.size == 1 and not (isinstance(f, Factor) and f.letter == "N"):
            continue
        if isinstance(f, Factor) and isinstance(last, Factor) and _are_neighbors(last, f):
            result[-1] = Factor(f.letter, last.size * f.size, f.step)
            continue
        result.append(f)
    return Axis(tuple(result))


def reshape(axes: Axes, shape: tuple[int, ...]) -> Axes:
    """Return the axes after a reshape; unknown where a factor would be cut into unequal parts."""
    parts = [f for axis in axes for f in axis.factors]
    result = []
    for i, size in enumerate(shape):
        taken: list[Factor | Tokens] = []
        missing = size
        while parts and (missing > 1 or (size == 1 and not taken and parts[0].size == 1)):
            part = parts.pop(0)
            if missing % part.size == 0:
                taken.append(part)
                missing //= part.size
            elif isinstance(part, Factor) and part.size % missing == 0:
                inner = part.size // missing
                taken.append(Factor(part.letter, missing, part.step * inner if is_position(part.letter) else 1))
                parts.insert(0, Factor(part.letter, inner, part.step))
                missing = 1
            else:
                return unknown_axes(shape)
        if missing > 1:
            return unknown_axes(shape)
        # one sample in the middle belongs to the axis before it, as where time steps and samples are joined
        if taken and parts and parts[0].size == 1 and shape[i + 1 : i + 2] != (1,):
            taken.append(parts.pop(0))
        result.append(_merged(taken))
    return tuple(result)


def resized(axis: Axis, size: int) -> Axis:
    """Return an axis after an operation along it that keeps the order of its values, such as a convolution."""
    if axis.size == size:
        return axis
    single = axis.factors[0] if len(axis.factors) == 1 else None
    return make_axis(single.letter if isinstance(single, Factor) else "?", size)


def _sliced(axis: Axis, start: int, stop: int, step: int) -> Axis:
    """Return an axis from `start` to `stop`; values before and after its positions may be cut off."""
    size = len(range(start, stop, step))
    if size == axis.size:
        return axis
    positions, prefix, suffix = axis.tokens
    first, last = prefix, axis.size - suffix
    if step == 1 and start <= first and stop >= last:
        return _with_tokens(positions, first - start, stop - last)
    if (prefix or suffix) and (stop <= first or start >= last):
        return make_axis("?", size)
    return resized(axis, size)


def _with_tokens(positions: tuple[Factor, ...], prefix: int, suffix: int) -> Axis:
    return Axis((Tokens(positions, prefix, suffix),)) if prefix or suffix else Axis(positions)


def combine(operands: Sequence[Axes], shape: Shape) -> Axes:
    """Return the axes of an elementwise operation with broadcasting; unknown where operands contradict each other."""
    result = []
    for i, size in enumerate(shape):
        candidates = [axes[i - len(shape)] for axes in operands if len(axes) >= len(shape) - i]
        known = [a for a in candidates if a.size == size and a.factors]
        result.append(_agreed(known, size))
    return tuple(result)


def _agreed(candidates: Sequence[Axis], size: int) -> Axis:
    """The meaning on which axes agree; a definite one is preferred to unknown or mixed values."""
    for vague in ("?", "M"):
        definite = [axis for axis in candidates if vague not in axis.letters]
        candidates = definite or candidates
    if not candidates:
        return make_axis("?", size)
    meanings = {tuple(_meaning(f) for f in axis.factors) for axis in candidates}
    return candidates[0] if len(meanings) == 1 else make_axis("?", size)


def _meaning(factor: Factor | Tokens) -> tuple[Any, ...]:
    """A factor without its step, which is 1 again after cropping or padding."""
    if isinstance(factor, Tokens):
        return (factor.prefix, factor.suffix, *map(_meaning, factor.positions))
    return factor.letter, factor.size


def after_linear_map(axis: Axis, other_axes: Sequence[Axis], size: int) -> Axis:
    """Return the axis that a linear map along `axis` makes.

    A map of channels, or of the values within a patch, makes channels; a map of all positions mixes these.
    """
    letters = axis.letters
    positions = [letter for letter in letters if is_position(letter) or letter == "M"]
    elsewhere = {letter for other in other_axes for letter in other.letters}
    mixes = positions and letters <= {*positions} and not (letters & elsewhere)
    return make_axis("M" if mixes else "C", size)


def matrix_product(a: Axes | None, b: Axes | None, shape: Shape) -> Axes:
    """Return the axes of a product of matrices, [..., rows, inner] @ [..., inner, columns]; None: a constant."""
    batch = combine([axes[:-2] for axes in (a, b) if axes is not None], shape[:-2])
    if a is not None and b is not None:
        return (*batch, a[-2], b[-1])
    if a is not None:
        return (*batch, a[-2], after_linear_map(a[-1], a[:-1], shape[-1]))
    assert b is not None
    return (*batch, after_linear_map(b[-2], [*b[:-2], b[-1]], shape[-2]), b[-1])


def concatenate(parts: Sequence[Axes | None], sizes: Sequence[int], axis: int, shape: Shape) -> Axes:
    """Return the axes of a concatenation; parts are None where they are constants, such as class tokens."""
    known = [part for part in parts if part is not None]
    axis %= len(shape)
    result = list(combine([(*p[:axis], Axis(), *p[axis + 1 :]) for p in known], [*shape[:axis], 1, *shape[axis + 1 :]]))
    along = [None if part is None else part[axis] for part in parts]
    with_positions = [i for i, a in enumerate(along) if a is not None and any(map(is_position, a.letters))]
    if len(with_positions) == 1:
        i = with_positions[0]
        tokens = along[i]
        assert tokens is not None
        positions, prefix, suffix = tokens.tokens
        result[axis] = _with_tokens(positions, prefix + sum(sizes[:i]), suffix + sum(sizes[i + 1 :]))
    else:
        letters = {letter for a in along if a is not None for letter in a.letters} or {"?"}
        result[axis] = make_axis(letters.pop() if letters <= {"C"} else "?", shape[axis])
    return tuple(result)


# --- rules: (arguments of the operation by name, axes of each tensor argument, shape of the output) -> output axes


class Operation(NamedTuple):
    """One executed operation.

    Attributes:
        arguments: its arguments by name; tensors are replaced by their shapes.
        axes: the axes of each tensor argument that depends on the input, by name; a list of tensors has a list.
        shape: of the output.
    """

    arguments: Mapping[str, Any]
    axes: Mapping[str, Any]
    shape: tuple[int, ...]

    @property
    def source(self) -> Axes:
        """The axes of the first tensor argument that depends on the input."""
        first = next(iter(self.axes.values()))
        return next(a for a in first if a is not None) if isinstance(first, list) else first


def _dims(op: Operation, name: str = "dim") -> list[int]:
    dims, rank = op.arguments.get(name), len(op.source)
    if dims is None or dims == []:
        return list(range(rank))
    return [d % rank for d in ([dims] if isinstance(dims, int) else dims)]


def _reduction(op: Operation) -> Axes:
    removed = _dims(op)
    if len(op.shape) == len(op.source):
        return tuple(Axis() if i in removed else axis for i, axis in enumerate(op.source))
    return tuple(axis for i, axis in enumerate(op.source) if i not in removed)


def _permute(op: Operation) -> Axes:
    return tuple(op.source[i] for i in _dims(op, "dims"))


def _transpose(op: Operation) -> Axes:
    axes, rank = list(op.source), len(op.source)
    i, j = (op.arguments.get(name, default) % rank for name, default in (("dim0", 0), ("dim1", 1)))
    axes[i], axes[j] = axes[j], axes[i]
    return tuple(axes)


def _squeeze(op: Operation) -> Axes:
    dims = _dims(op)
    return tuple(axis for i, axis in enumerate(op.source) if not (i in dims and axis.size == 1))


def _unsqueeze(op: Operation) -> Axes:
    axes = list(op.source)
    axes.insert(op.arguments["dim"] % (len(axes) + 1), Axis())
    return tuple(axes)


def _select(op: Operation) -> Axes:
    removed = _dims(op) if "dim" in op.arguments else [0]
    return tuple(axis for i, axis in enumerate(op.source) if i not in removed)


def _slice(op: Operation) -> Axes:
    (dim,) = _dims(op) if op.arguments.get("dim") is not None else [0]
    size = op.source[dim].size
    bounds = slice(op.arguments.get("start"), op.arguments.get("end"), op.arguments.get("step", 1)).indices(size)
    return (*op.source[:dim], _sliced(op.source[dim], *bounds), *op.source[dim + 1 :])


def _same(op: Operation) -> Axes:
    return tuple(resized(axis, size) for axis, size in zip(op.source, op.shape, strict=True))


def _grid_operation(op: Operation) -> Axes:
    """Convolution, pooling and resampling with channels on axis 1: positions keep their order."""
    return (op.source[0], make_axis("C", op.shape[1]), *map(resized, op.source[2:], op.shape[2:]))


def _pooling(op: Operation) -> Axes:
    return tuple(map(resized, op.source, op.shape))


def _channels_on_axis_1(op: Operation) -> Axes:
    axis = op.source[1] if op.source[1].letters - {"?"} else make_axis("C", op.shape[1])
    return (op.source[0], axis, *op.source[2:])


def _layer_norm(op: Operation) -> Axes:
    if len(op.arguments["normalized_shape"]) > 1 or op.source[-1].letters - {"?"}:
        return op.source
    return (*op.source[:-1], make_axis("C", op.shape[-1]))


def _embedding(op: Operation) -> Axes:
    return (*op.axes["indices"], make_axis("C", op.shape[-1]))


def _attention(op: Operation) -> Axes:
    query, value = op.axes["query"], op.axes.get("value")
    return (*query[:-1], query[-1] if value is None else value[-1])


def _unfold(op: Operation) -> Axes:
    dim, size, step = op.arguments["dimension"] % len(op.source), op.arguments["size"], op.arguments["step"]
    axis, count = op.source[dim], op.shape[op.arguments["dimension"] % len(op.source)]
    if size == step and count * size == axis.size:
        outer, inner = reshape((axis,), (count, size))
    else:
        outer, inner = resized(axis, count), make_axis("?", size)
    return (*op.source[:dim], outer, *op.source[dim + 1 :], inner)


def _im2col(op: Operation) -> Axes:
    sizes = []
    for i, axis in enumerate(op.source[2:]):
        kernel, dilation, padding, stride = (
            op.arguments[n][i] for n in ("kernel_size", "dilation", "padding", "stride")
        )
        sizes.append((axis.size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1)
    factors = [f for axis, size in zip(op.source[2:], sizes, strict=True) for f in resized(axis, size).factors]
    return (op.source[0], make_axis("C", op.shape[1]), _merged(factors))


def _col2im(op: Operation) -> Axes:
    letters = [f.letter for f in op.source[2].factors if isinstance(f, Factor)]
    rank = len(op.shape) - 2
    positions = letters if len(letters) == rank else ["?"] * rank
    return (op.source[0], make_axis("C", op.shape[1]), *map(make_axis, positions, op.shape[2:]))


def _pad(op: Operation) -> Axes:
    pads, axes = op.arguments["pad"], list(op.source)
    for i in range(len(pads) // 2):
        before, after, axis = pads[2 * i], pads[2 * i + 1], axes[-1 - i]
        tokens = axis.tokens
        if (before or after) and len(tokens.positions) > 1 and min(before, after) >= 0:
            axes[-1 - i] = _with_tokens(tokens.positions, tokens.prefix + before, tokens.suffix + after)
        else:
            axes[-1 - i] = resized(axis, op.shape[-1 - i])
    return tuple(axes)


def _expand(op: Operation) -> Axes:
    new = len(op.shape) - len(op.source)
    axes = (*(Axis() for _ in range(new)), *op.source)
    return tuple(axis if axis.size == size else make_axis("?", size) for axis, size in zip(axes, op.shape, strict=True))


def _stack(op: Operation) -> Axes:
    dim = op.arguments.get("dim", 0) % len(op.shape)
    rest = [*op.shape[:dim], *op.shape[dim + 1 :]]
    axes = list(combine([a for a in op.axes["tensors"] if a is not None], rest))
    axes.insert(dim, make_axis("?", op.shape[dim]))
    return tuple(axes)


def _cat(op: Operation) -> Axes:
    dim = op.arguments.get("dim", 0)
    sizes = [shape[dim] for shape in op.arguments["tensors"]]
    return concatenate(op.axes["tensors"], sizes, dim, op.shape)


def _product(op: Operation) -> Axes:
    names = [n for n in ("self", "mat1", "batch1", "mat2", "batch2") if n in op.arguments]
    a, b = (op.axes.get(name) for name in names[-2:])
    return matrix_product(a, b, op.shape)


def _recurrent(op: Operation) -> Axes:
    return (*op.source[:2], make_axis("C", op.shape[2]))


def _elementwise(op: Operation) -> Axes:
    operands = [a for axes in op.axes.values() for a in (axes if isinstance(axes, list) else [axes]) if a is not None]
    return combine(operands, op.shape)


OPERATION_RULES: dict[str, Callable[[Operation], Axes]] = {
    **dict.fromkeys(
        ["mean", "sum", "amax", "amin", "var", "std", "max", "min", "logsumexp", "any", "all", "prod", "median",
         "linalg_vector_norm", "norm", "argmax", "argmin"],
        _reduction,
    ),
    **dict.fromkeys(["view", "_unsafe_view", "reshape", "_reshape_alias"], lambda op: reshape(op.source, op.shape)),
    **dict.fromkeys(["squeeze", "squeeze_"], _squeeze),
    **dict.fromkeys(["select", "unbind"], _select),
    **dict.fromkeys(
        ["_softmax", "_log_softmax", "flip", "roll", "cumsum", "glu", "native_dropout", "bernoulli",
         "reflection_pad1d", "reflection_pad2d", "reflection_pad3d", "replication_pad1d", "replication_pad2d",
         "replication_pad3d", "split", "split_with_sizes", "index_select", "alias", "detach", "clone", "_to_copy",
         "contiguous", "copy", "masked_fill", "cumprod", "sort", "repeat_interleave", "fill", "relu", "_safe_softmax",
         "hardswish", "hardsigmoid", "hardtanh", "index_put", "_index_put_impl", "masked_scatter", "scatter",
         "as_strided", "logcumsumexp"],
        _same,
    ),
    **dict.fromkeys(
        ["convolution", "_convolution", "mkldnn_convolution", "pixel_shuffle", "pixel_unshuffle", "conv2d",
         "cudnn_convolution", "slow_conv_transpose2d", "convolution_overrideable", "_slow_conv2d_forward",
         "conv_depthwise3d", "slow_conv3d", "thnn_conv2d"],
        _grid_operation,
    ),
    **dict.fromkeys(
        ["max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool1d", "avg_pool2d", "avg_pool3d", "max_pool2d",
         "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_max_pool2d", "adaptive_max_pool3d",
         "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "_upsample_nearest_exact1d",
         "_upsample_nearest_exact2d", "upsample_bilinear2d", "upsample_linear1d", "upsample_trilinear3d",
         "upsample_bicubic2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", "mkldnn_max_pool2d"],
        _pooling,
    ),
    **dict.fromkeys(
        ["native_batch_norm", "_native_batch_norm_legit_no_training", "_native_batch_norm_legit", "cudnn_batch_norm",
         "native_group_norm", "_batch_norm_with_update", "_batch_norm_no_update", "_prelu_kernel"],
        _channels_on_axis_1,
    ),
    **dict.fromkeys(["native_layer_norm", "_fused_rms_norm", "rms_norm"], _layer_norm),
    **dict.fromkeys(["addmm", "mm", "bmm", "baddbmm"], _product),
    **dict.fromkeys(
        ["_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention",
         "_scaled_dot_product_efficient_attention", "_scaled_dot_product_attention_math",
         "_scaled_dot_product_cudnn_attention", "_scaled_dot_product_attention_math_for_mps"],
        _attention,
    ),
    "permute": _permute, "transpose": _transpose, "t": _transpose, "unsqueeze": _unsqueeze, "slice": _slice,
    "embedding": _embedding, "unfold": _unfold, "im2col": _im2col, "col2im": _col2im, "constant_pad_nd": _pad,
    "expand": _expand, "stack": _stack, "cat": _cat,
    "mkldnn_rnn_layer": _recurrent,
}  # fmt: skip


def output_axes(name: str, pointwise: bool, op: Operation) -> Axes:
    """Return the axes of an operation's output.

    Args:
        name: the operation's name, such as "convolution".
        pointwise: whether torch marks it as elementwise.
        op: the operation.
    """
    rule = OPERATION_RULES.get(name.removesuffix("_"), _elementwise if pointwise else None)
    if rule is None:
        return unknown_axes(op.shape)
    axes = rule(op)
    fits = len(axes) == len(op.shape) and all(a.size == size for a, size in zip(axes, op.shape, strict=True))
    return axes if fits else unknown_axes(op.shape)


def channel_letter(name: str, op: Operation) -> str | None:
    """Return the letter of the axis that an operation treats as channels; "": channels are none of the input's axes.

    Convolutions and batch norm have channels on axis 1, layer norm and recurrent layers on the last axis; attention has
    tokens on the axis before the last, so that the other axis of a sequence holds channels.

    Args:
        name: the operation's name.
        op: the operation; every axis of the network's input has the letter of a position.

    Returns:
        None if the operation does not decide.
    """
    rule, source = OPERATION_RULES.get(name.removesuffix("_")), op.source
    if rule is _grid_operation or rule is _channels_on_axis_1:
        axis, others = source[1], source[2:]
    elif (rule is _layer_norm and len(op.arguments["normalized_shape"]) == 1) or rule is _recurrent:
        axis, others = source[-1], source[1:-1]
    else:
        return None
    positions = axis.tokens.positions  # with other values beside them, where several inputs are concatenated
    if len(positions) == len(axis.factors) == 1 and is_position(positions[0].letter):
        return positions[0].letter
    return "" if not axis.factors and any(map(is_position, set().union(*(a.letters for a in others)))) else None


def token_letter(name: str, op: Operation) -> str | None:
    """Return the letter of the axis along which an attention works; None if it is none of the input's axes."""
    if OPERATION_RULES.get(name.removesuffix("_")) is not _attention:
        return None
    tokens = op.axes["query"][-2] if "query" in op.axes else Axis()
    letters = tokens.letters
    return letters.pop() if len(letters) == 1 and all(map(is_position, letters)) else None
