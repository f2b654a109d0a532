"""The attention weights of a forward, in any network, fused or not, and where its blocks end.

Nothing is exchanged in the network: a mode of this thread sees the functions by which attention is computed. Fused
ones are computed step by step instead, so that their weights stand in the graph.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from seewhy.errors import ModelError

from .choice import clearest, grids_of, origin, remembered
from .forward import run
from .graph import nodes_before
from .layout import Place, place
from .outputs import tensors
from .steps import Record, recorded

if TYPE_CHECKING:
    from torch.autograd.graph import Node

    from seewhy.types import Inputs, Model

WEIGH = {"matmul", "rmatmul", "bmm", "einsum"}
CARRY = {"dropout", "to", "type", "type_as", "float", "half", "bfloat16", "double", "contiguous", "clone", "view",
         "reshape", "mul", "masked_fill", "nan_to_num"}  # fmt: skip
ELSE = "use gradcam, integrated_gradients or rise"

_plans: WeakKeyDictionary[nn.Module, dict[Any, Plan]] = WeakKeyDictionary()


class Attended(NamedTuple):
    """The weights of one attention, as they were computed: rows of queries sum to one over the keys."""

    weights: Tensor  # [N, heads, T, T] or [N heads, T, T]; detached
    at: GradientEdge | None  # where they stand in the recorded graph


class Plan(NamedTuple):
    """What one forward showed: where the patches lie among the tokens, and what the blocks are."""

    parts: list[ref[Any]]  # it holds while these are the same
    where: Place
    number: int  # attentions, in the order they ran
    text: str
    layers: tuple[str, ...]  # what each block gives, one name an attention; empty: they cannot be told apart
    reason: str  # why


@contextmanager
def attending() -> Iterator[list[Attended]]:
    """Inside, this thread's forwards write down their attention weights; scripted and compiled parts are not seen."""
    found: list[Attended] = []
    with _Attention(found):
        yield found


class _Attention(TorchFunctionMode):
    def __init__(self, found: list[Attended]) -> None:
        super().__init__()
        self.found = found
        self.waiting: dict[int, Tensor] = {}  # what came out of a softmax and has not weighed anything yet

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called by torch in place of `func`."""
        given = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self.product(*args, **given)
        if func is F.multi_head_attention_forward:
            return self.heads(func, args, given)
        name = getattr(func, "__name__", "").strip("_")
        if name in WEIGH and self.waiting:
            for one in args:
                for tensor in one if isinstance(one, (tuple, list)) else (one,):
                    if self.waiting.pop(id(tensor), None) is not None:
                        self.write(tensor)
        result = func(*args, **given)
        if not isinstance(result, Tensor) or not args or not isinstance(args[0], Tensor):
            return result
        if name == "softmax":
            axis = given.get("dim", args[1] if len(args) > 1 else None)
            if result.ndim > 2 and axis in (-1, result.ndim - 1):
                self.waiting[id(result)] = result
        elif name in CARRY and id(args[0]) in self.waiting and result.shape[-2:] == args[0].shape[-2:]:
            self.waiting[id(result)] = result
        return result

    def write(self, weights: Tensor) -> None:
        self.found.append(Attended(weights.detach(), get_gradient_edge(weights) if weights.requires_grad else None))

    def product(self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None,
                dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None,
                enable_gqa: bool = False) -> Tensor:  # fmt: skip
        """softmax(Q K^T · scale + mask) V, with the weights written down."""
        if enable_gqa:
            key, value = (t.repeat_interleave(query.shape[-3] // t.shape[-3], -3) for t in (key, value))
        scores = (query * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)) @ key.transpose(-2, -1)
        if is_causal:
            scores = scores.masked_fill(~torch.ones_like(scores, dtype=torch.bool).tril(), -torch.inf)
        if attn_mask is not None:
            scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
        weights = scores.softmax(-1)
        if dropout_p:
            weights = F.dropout(weights, dropout_p)
        self.write(weights)
        return weights @ value

    def heads(self, func: Any, args: Any, given: Any) -> tuple[Tensor, Tensor | None]:
        """The attention of `nn.MultiheadAttention`, asked for its weights."""
        asked = given.get("need_weights", True), given.get("average_attn_weights", True)
        output, weights = func(*args, **given | {"need_weights": True, "average_attn_weights": False})
        # the weights it gives are a view; what the values were weighed with stands before that
        before = weights.grad_fn.next_functions[0] if weights.grad_fn is not None else None
        self.found.append(Attended(weights.detach(), None if before is None else GradientEdge(*before)))
        if not asked[0]:
            return output, None
        return output, weights.mean(-3) if asked[1] else weights


def attention_plan(model: Model, x: Inputs, end: str | None) -> Plan:
    """What is known of a network's attention for inputs like these; runs it once, then remembers.

    Args:
        model: who answers.
        x: the batch.
        end: the layer whose output is explained; None: the network's output.

    Raises:
        ModelError: it has no attention of all tokens to all tokens that could be seen.
    """
    return remembered(_plans, _planned, model, x, end)


def _planned(model: Model, x: Inputs, end: str | None) -> Plan:
    with attending() as found:
        record = recorded(model, x, end)
    name = model.name
    if not found:
        raise ModelError(
            f"no attention was seen in {name}: neither scaled_dot_product_attention, nor nn.MultiheadAttention, nor a "
            f"softmax whose result weighs values (compiled and scripted parts cannot be seen); {ELSE}."
        )
    shapes = ", ".join(dict.fromkeys(str(list(a.weights.shape)) for a in found))
    before = nodes_before([t.grad_fn for t in record.explained if t.grad_fn is not None])
    if any(a.at is None or a.at.node not in before for a in found):
        raise ModelError(f"the score of {name} does not depend on all of its attention through autograd; {ELSE}.")
    oblong = next((a for a in found if a.weights.shape[-2] != a.weights.shape[-1]), None)
    if oblong is not None:
        queries, keys = oblong.weights.shape[-2:]
        raise ModelError(
            f"{name} has attention of {queries} queries to {keys} keys (pooled, reduced or from another source), so "
            f"tokens cannot be followed from attention to attention; {ELSE}."
        )
    count = found[0].weights.shape[-1]
    if len({a.weights.shape[-1] for a in found}) > 1 or any(a.weights.ndim not in (3, 4) for a in found):
        raise ModelError(
            f"the attention of {name} is not of all tokens to all tokens: its weights are {shapes}, as in windows or "
            f"stages; {ELSE}."
        )
    where = _patches(record, count, x, model)
    if where is None or any(a.weights.ndim == 4 and a.weights.shape[0] != 1 for a in found):
        raise ModelError(
            f"the attention weights of {name} are {shapes} for one input of {list(x.shape[2:])}: that is not one "
            f"matrix a head over a grid of patches (windows or channels, perhaps); {ELSE}."
        )
    if any(a.weights.ndim == 3 for a in found):
        _check_order(model, x, found)
    grid = " × ".join(map(str, where.grid))
    text = f"{len(found)} attentions of {count} tokens: {grid} patches" + (
        f" behind {where.prefix} other{'s' * (where.prefix > 1)}" if where.prefix else ""
    )
    layers, reason = _blocks(record, found, count)
    if layers:
        reason = _unfit(model, x, end, layers, record)
    return Plan([], where, len(found), text, () if reason else layers, reason)


def _patches(record: Record, count: int, x: Inputs, model: Model) -> Place | None:
    """Where the patches lie among `count` tokens [N, T, D]."""
    size, last = tuple(x.shape[2:]), model.layout is not None and model.layout.endswith("C")
    grids = grids_of(record.steps, x, last)
    for width in dict.fromkeys(
        s.shape[2] for s in record.steps if s.shape is not None and len(s.shape) == 3 and s.shape[1] == count
    ):
        found = place((1, count, width), size, grids, last)
        if found is not None and found.channels == 2 and found.spatial:
            return found._replace(prefix=found.prefix or 0)
    return None


def _check_order(model: Model, x: Inputs, found: Sequence[Attended]) -> None:
    """Refuse [N heads, T, T] that do not stand sample by sample."""
    two = torch.cat([x[:1], torch.zeros_like(x[:1])])
    with attending() as both:
        run(model, two, graph=False)
    for one, pair in zip(found, both, strict=True):
        if one.weights.ndim == 3 and not torch.allclose(pair.weights[: len(one.weights)], one.weights, atol=1e-4):
            raise ModelError(
                f"{model.name} computes its attention {list(pair.weights.shape)} with heads before samples: it cannot "
                f"be told which is whose; {ELSE}."
            )


def _blocks(record: Record, found: Sequence[Attended], count: int) -> tuple[tuple[str, ...], str]:
    """The names of what each block gives, or why they cannot be told.

    Everything passes what a block gives, and it hangs on just the attentions up to its own. Behind an attention that
    holds twice, for the sum before the block's own layers and for that behind them; the last before the next attention
    is the block's. Behind the last attention, where more may follow, it is the one of the same number.
    """
    ends = [t.grad_fn for t in record.explained if t.grad_fn is not None]
    before = nodes_before(ends)
    steps = {
        s.edge: s
        for s in reversed(record.steps)
        if s.shape is not None and len(s.shape) == 3 and s.shape[:2] == (1, count) and s.edge is not None
    }
    nodes = [a.at.node for a in found if a.at is not None]
    behind: list[list[GradientEdge]] = [[] for _ in range(len(found) + 1)]
    for edge in reversed(steps):
        if edge.node in before and record.leaf not in nodes_before(ends, without=edge.node):
            reach: set[Node] = nodes_before([edge.node])
            behind[sum(node in reach for node in nodes)].append(edge)
    blocks = behind[1:]
    if not all(blocks):
        return (), "not everything passes the output of each block"
    if len(blocks) > 1:
        number = len(blocks[-2])
        ends_ = [block[-1] for block in blocks[:-1]]
        ends_.append(blocks[-1][min(number, len(blocks[-1])) - 1])
        if len(blocks[-1]) < number or len({steps[edge].shape for edge in ends_}) > 1:
            return (), "its last block is not like the others"
    else:
        sums = [edge for edge in blocks[0] if origin(edge.node).name() == "AddBackward0"]
        if not sums:
            return (), "its block cannot be told from what follows"
        ends_ = [sums[-1]]
    return tuple(clearest([s for s in record.steps if s.edge == edge]).name for edge in ends_), ""


def _unfit(model: Model, x: Inputs, end: str | None, layers: tuple[str, ...], record: Record) -> str:
    """Why other tokens cannot go through what follows the last block; empty if they can and nothing else changes."""
    try:
        done = run(model, x[:1], graph=False, layer=end, widen=layers)
    except ModelError as error:
        return f"other tokens cannot go through what follows the last block ({error})"
    for now, known in zip((t for t in tensors(done.explained) if t.is_floating_point()), record.explained, strict=True):
        known = known.detach()
        if now.shape != known.shape or not bool((now - known).abs().max() <= 1e-3 * known.abs().max()):
            return "what follows the last block changes with the number of samples"
    return ""


def checked(found: Sequence[Attended], plan: Plan, count: int, model: Model) -> list[Attended]:
    """The attentions of `count` samples as [N, heads, T, T].

    Raises:
        ModelError: they are not those that were planned with.
    """
    tokens = math.prod(plan.where.grid) + (plan.where.prefix or 0)
    wrong = [
        a for a in found
        if a.weights.shape[-2:] != (tokens, tokens) or a.weights.shape[0] % count
        or (a.weights.ndim == 4 and len(a.weights) != count)
    ]  # fmt: skip
    if wrong or len(found) != plan.number:
        shapes = [list(a.weights.shape) for a in wrong or found]
        raise ModelError(
            f"{model.name} gave {len(found)} attentions {shapes[:3]} for {count} samples, but {plan.number} of "
            f"{tokens} tokens for the first alone: its attention depends on the batch."
        )
    return [Attended(a.weights.reshape(count, -1, tokens, tokens), a.at) for a in found]
