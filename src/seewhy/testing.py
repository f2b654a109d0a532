"""The contract that every method keeps, open to methods of other people."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from seewhy.errors import InputError
from seewhy.methods import METHODS, Method
from seewhy.methods.explain import explain
from seewhy.methods.families import FAMILIES


def check_method(method: str | Method, **options: Any) -> None:
    """Run the contract suite on one method: no trace, determinism, batches, precision, targets, refusals.

    Args:
        method: a name of the table, or a `Method` of your own.
        **options: the method's own, to keep it small.

    Raises:
        AssertionError: the first part of the contract that does not hold, in words.
    """
    known = METHODS[method] if isinstance(method, str) else method
    make = transformer if FAMILIES[known.feeds].attention else network
    for check in CHECKS:
        check(lambda model, x, **more: explain(model, x, method, **{"target": 1, "seed": 3, **options, **more}), make)


Explainer = Callable[..., Any]
Maker = Callable[..., nn.Sequential]


def network(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """A small network with every kind of state: batch statistics, dropout, an in-place rectifier, a frozen weight."""
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 5, 3), nn.ReLU()]
    return _drawn(
        nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.5), nn.Linear(20, 4)), dtype
    )


def transformer(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """A small network of attention over 2 × 3 patches and a class token, with the same kinds of state."""
    blocks = [_Block(8, 2), _Block(8, 2)]
    return _drawn(
        nn.Sequential(_Patches(8), *blocks, nn.LayerNorm(8), _First(), nn.Dropout(0.5), nn.Linear(8, 4)), dtype
    )


class _Patches(nn.Module):
    """Pictures -> tokens, the class token first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.zeros(1, 1, width))
        self.embed = nn.Sequential(nn.Conv2d(3, width, 3, 3), nn.BatchNorm2d(width), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        patches = self.embed(x).flatten(2).transpose(1, 2)
        return torch.cat([self.first.expand(len(x), -1, -1), patches], 1)


class _Block(nn.Module):
    """Attention and two linear layers, each added to what came in."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, dropout=0.2, batch_first=True)
        self.inner = nn.Sequential(nn.Linear(width, 12), nn.GELU(), nn.Dropout(0.2), nn.Linear(12, width))

    def forward(self, z: Tensor) -> Tensor:
        q = self.before(z)
        z = z + self.attention(q, q, q, need_weights=False)[0]
        whole: Tensor = z + self.inner(self.between(z))
        return whole


class _First(nn.Module):
    """The class token."""

    def forward(self, z: Tensor) -> Tensor:
        return z[:, 0]


def _drawn(net: nn.Sequential, dtype: torch.dtype) -> nn.Sequential:
    """Weights and buffers drawn, the first weight frozen, in training mode."""
    net = net.to(dtype)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in net.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(0.2 + 0.4 * torch.rand(tensor.shape, generator=generator, dtype=torch.float64))
        for weight in net.parameters():
            weight.sub_(0.4)
    next(net.parameters()).requires_grad_(False)
    return net.train()


def inputs(count: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    """[count, 3, 6, 9], signed."""
    return torch.randn(count, 3, 6, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def state(net: nn.Module) -> dict[str, Any]:
    """All that a call could leave behind, on the network and around it."""
    return {
        "tensors": {name: (id(t), t._version, t.clone()) for name, t in _tensors(net)},
        "gradients": {name: w.grad for name, w in net.named_parameters()},
        "requires_grad": {name: w.requires_grad for name, w in net.named_parameters()},
        "modes": [(name, id(m), m.training) for name, m in net.named_modules()],
        "hooks": [
            (name, key, len(value))
            for name, m in net.named_modules()
            for key, value in vars(m).items()
            if key.endswith("_hooks")
        ],
        "attributes": [(name, sorted(vars(m))) for name, m in net.named_modules()],
        "random": torch.get_rng_state(),
        "flags": (
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.get_default_dtype(),
            torch.get_num_threads(),
            torch.are_deterministic_algorithms_enabled(),
            torch.backends.cudnn.benchmark,
            torch.backends.mkldnn.enabled,
            torch.is_autocast_enabled("cpu"),
        ),
    }


def same(a: Any, b: Any) -> bool:
    """Whether two states are equal to the bit."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def _tensors(net: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from net.named_parameters()
    yield from net.named_buffers()


def _need(holds: bool, what: str) -> None:
    if not holds:
        raise AssertionError(what)


def _check_no_trace(run: Explainer, make: Maker) -> None:
    net, x = make(), inputs()
    before, given = state(net), x.clone()
    run(net, x)
    after = state(net)
    for key in before:
        _need(same(before[key], after[key]), f"the call left a trace on the network or around it: {key}")
    _need(torch.equal(x, given), "the call changed the input")


def _check_no_trace_after_an_error(run: Explainer, make: Maker) -> None:
    net = make()
    for place in range(len(list(net.children()))):
        bomb = net[place].register_forward_hook(_explode)
        before = state(net)
        try:
            run(net, inputs())
            raise AssertionError(f"an error raised in part {place} of the network was swallowed")
        except ZeroDivisionError:
            pass
        after = state(net)
        for key in before:
            _need(same(before[key], after[key]), f"an error in part {place} of the network left a trace: {key}")
        bomb.remove()


def _explode(*_: Any) -> None:
    raise ZeroDivisionError


def _check_shapes(run: Explainer, make: Maker) -> None:
    e = run(make(), inputs(), target=[0, 2])
    _need(e.values.ndim == 5 and e.values.shape[:2] == (3, 2), f"values are {list(e.values.shape)}, not [N, K, C, *S]")
    _need(e.maps.shape == (3, 2, 6, 9), f"maps are {list(e.maps.shape)}, not the input's size [3, 2, 6, 9]")
    _need(bool(e.values.isfinite().all()), "values hold NaN or infinite numbers")
    # one map may be: some methods cut off what speaks against a class
    _need(bool(e.values.abs().flatten(1).amax(1).gt(0).all()), "all maps of a sample are zero everywhere")
    _need(e.stderr is None or e.stderr.shape == e.values.shape, "stderr has not the shape of values")
    _need(not e.values.requires_grad, "values still hang on a graph")


def _check_determinism(run: Explainer, make: Maker) -> None:
    first, second = run(make(), inputs()).values, run(make(), inputs()).values
    _need(torch.equal(first, second), "two equal calls gave different maps")


def _check_batches(run: Explainer, make: Maker) -> None:
    whole = run(make(), inputs()).values
    for size in (1, 2):
        part = run(make(), inputs(), batch_size=size).values
        _need(_close(whole, part), f"the map depends on batch_size={size}")
    for n in range(3):
        alone = run(make(), inputs()[n : n + 1]).values
        _need(_close(whole[n : n + 1], alone), f"the map of sample {n} depends on its neighbours")


def _close(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= 1e-10 * a.abs().max())


def _check_precision(run: Explainer, make: Maker) -> None:
    for dtype in (torch.float32, torch.float64):
        e = run(make(dtype), inputs(dtype=dtype))
        _need(e.values.dtype == dtype, f"a {dtype} network gave {e.values.dtype} values")
        _need(e.values.device.type == "cpu", "values are not on the CPU")


def _check_targets(run: Explainer, make: Maker) -> None:
    together = run(make(), inputs(), target=[0, 3]).values
    for k, c in enumerate((0, 3)):
        _need(_close(together[:, k], run(make(), inputs(), target=c).values[:, 0]), "K targets differ from each alone")
        same_question = run(make(), inputs(), target=lambda z, c=c: z[:, c]).values[:, 0]
        _need(_close(together[:, k], same_question), "a function of the output differs from the class it picks")
    mixed = run(make(), inputs(), target=torch.tensor([0, 3, 0])).values[:, 0]
    expected = torch.stack([together[0, 0], together[1, 1], together[2, 0]])
    _need(_close(expected, mixed), "a target a sample differs from the same target for all")


def _check_refusals(run: Explainer, make: Maker) -> None:
    for bad in (torch.nan, torch.inf):
        x = inputs()
        x[1, 2, 3, 4] = bad
        try:
            run(make(), x)
        except InputError:
            continue
        raise AssertionError(f"an input with {bad} was explained")


CHECKS = (
    _check_shapes,
    _check_no_trace,
    _check_no_trace_after_an_error,
    _check_determinism,
    _check_batches,
    _check_precision,
    _check_targets,
    _check_refusals,
)
