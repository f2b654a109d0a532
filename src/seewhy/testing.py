"""Contract tests for explanation methods, including methods of your own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from seewhy.engine.explain import explain
from seewhy.engine.families import FAMILIES
from seewhy.errors import InputError, ModelError
from seewhy.methods import METHODS, Method


def check_method(method: str | Method, **options: Any) -> None:
    """Run the contract tests on one method: side effects, determinism, batches, precision, targets, invalid input.

    Args:
        method: a name in `seewhy.METHODS`, or a `Method` of your own.
        **options: the method's options. They override its `quick_options`, such as a small number of samples.

    Raises:
        AssertionError: a test fails; the message names the first requirement that is not met.
    """
    record = METHODS[method] if isinstance(method, str) else method
    make = contract_network(record)
    options = {"target": 1, "seed": 3, **record.quick_options, **options}
    for check in CONTRACT_CHECKS:
        check(lambda model, x, **more: explain(model, x, method, **{**options, **more}), make)


ExplainFunction = Callable[..., Any]
NetworkFactory = Callable[..., nn.Sequential]


def contract_network(method: Method) -> NetworkFactory:
    """The function that makes a network on which the method runs, according to its family."""
    family = FAMILIES[method.family]
    return transformer if family.uses_attention else partial(network, pooled_size=1 if family.needs_pooled_head else 2)


def network(dtype: torch.dtype = torch.float64, pooled_size: int = 2) -> nn.Sequential:
    """A small network with all types of state: batch statistics, dropout, an in-place ReLU, a frozen weight."""
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 5, 3), nn.ReLU()]
    return _initialize(
        nn.Sequential(
            *layers, nn.AdaptiveAvgPool2d(pooled_size), nn.Flatten(), nn.Dropout(0.5), nn.Linear(5 * pooled_size**2, 4)
        ),
        dtype,
    )


def transformer(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """A small vision transformer with 2 × 3 patches and a class token, and the same types of state as `network`."""
    blocks = [_TransformerBlock(8, 2), _TransformerBlock(8, 2)]
    return _initialize(
        nn.Sequential(_PatchEmbedding(8), *blocks, nn.LayerNorm(8), _ClassToken(), nn.Dropout(0.5), nn.Linear(8, 4)),
        dtype,
    )


class _PatchEmbedding(nn.Module):
    """Patch embedding: pictures to tokens, the class token first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.zeros(1, 1, width))
        self.embed = nn.Sequential(nn.Conv2d(3, width, 3, 3), nn.BatchNorm2d(width), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        patches = self.embed(x).flatten(2).transpose(1, 2)
        return torch.cat([self.first.expand(len(x), -1, -1), patches], 1)


class _TransformerBlock(nn.Module):
    """Attention and a two-layer perceptron, each with a residual connection."""

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


class _ClassToken(nn.Module):
    """Select the class token."""

    def forward(self, z: Tensor) -> Tensor:
        return z[:, 0]


def _initialize(net: nn.Sequential, dtype: torch.dtype) -> nn.Sequential:
    """Set weights and buffers to random values, freeze the first weight, and switch to training mode."""
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
    """Return random inputs [count, 3, 6, 9] from a standard normal distribution."""
    return torch.randn(count, 3, 6, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def state(net: nn.Module) -> dict[str, Any]:
    """Record everything that a call could change: the network's tensors, modes and hooks, and torch's global state."""
    return {
        "tensors": {name: (id(t), t._version, t.clone()) for name, t in _named_tensors(net)},
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


def states_equal(a: Any, b: Any) -> bool:
    """Whether two states are bitwise equal."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(states_equal(a[k], b[k]) for k in a)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(states_equal, a, b))
    return bool(a == b)


def _named_tensors(net: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from net.named_parameters()
    yield from net.named_buffers()


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)


def _check_no_side_effects(run: ExplainFunction, make: NetworkFactory) -> None:
    net, x = make(), inputs()
    before, given = state(net), x.clone()
    run(net, x)
    after = state(net)
    for key in before:
        _require(states_equal(before[key], after[key]), f"the call changed the state of the network or of torch: {key}")
    _require(torch.equal(x, given), "the call changed the input")


def _check_no_side_effects_after_error(run: ExplainFunction, make: NetworkFactory) -> None:
    net = make()
    for index in range(len(list(net.children()))):
        handle = net[index].register_forward_hook(_raise_error)
        before = state(net)
        try:
            run(net, inputs())
            raise AssertionError(f"an error raised in layer {index} of the network was suppressed")
        except ModelError as error:
            _require(isinstance(error.__cause__, ZeroDivisionError), f"the cause is not the error of layer {index}")
        after = state(net)
        for key in before:
            _require(
                states_equal(before[key], after[key]),
                f"an error in layer {index} of the network changed the state: {key}",
            )
        handle.remove()


def _raise_error(*_: Any) -> None:
    raise ZeroDivisionError


def _check_shapes(run: ExplainFunction, make: NetworkFactory) -> None:
    e = run(make(), inputs(), target=[0, 2])
    _require(
        e.values.ndim == 5 and e.values.shape[:2] == (3, 2), f"values are {list(e.values.shape)}, not [N, K, C, *S]"
    )
    _require(e.maps.shape == (3, 2, 6, 9), f"maps are {list(e.maps.shape)}, not the input's size [3, 2, 6, 9]")
    _require(bool(e.values.isfinite().all()), "values hold NaN or infinite numbers")
    # a single map may be zero: some methods remove negative evidence
    _require(bool(e.values.abs().flatten(1).amax(1).gt(0).all()), "all maps of a sample are zero everywhere")
    _require(e.stderr is None or e.stderr.shape == e.values.shape, "stderr does not have the shape of values")
    _require(not e.values.requires_grad, "values still require gradients")


def _check_determinism(run: ExplainFunction, make: NetworkFactory) -> None:
    first, second = run(make(), inputs()).values, run(make(), inputs()).values
    _require(torch.equal(first, second), "two identical calls returned different maps")


def _check_batch_independence(run: ExplainFunction, make: NetworkFactory) -> None:
    whole = run(make(), inputs()).values
    for size in (1, 2):
        part = run(make(), inputs(), batch_size=size).values
        _require(_close(whole, part), f"the map depends on batch_size={size}")
    for n in range(3):
        alone = run(make(), inputs()[n : n + 1]).values
        _require(_close(whole[n : n + 1], alone), f"the map of sample {n} depends on the other samples of the batch")


def _close(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= 1e-10 * a.abs().max())


def _check_precision(run: ExplainFunction, make: NetworkFactory) -> None:
    for dtype in (torch.float32, torch.float64):
        e = run(make(dtype), inputs(dtype=dtype))
        _require(e.values.dtype == dtype, f"a {dtype} network has {e.values.dtype} values")
        _require(e.values.device.type == "cpu", "values are not on the CPU")


def _check_targets(run: ExplainFunction, make: NetworkFactory) -> None:
    together = run(make(), inputs(), target=[0, 3]).values
    for k, c in enumerate((0, 3)):
        _require(
            _close(together[:, k], run(make(), inputs(), target=c).values[:, 0]),
            "maps of K targets differ from the maps of each target alone",
        )
        as_function = run(make(), inputs(), target=lambda z, c=c: z[:, c]).values[:, 0]
        _require(
            _close(together[:, k], as_function),
            "the map of a target function differs from the map of the class it selects",
        )
    mixed = run(make(), inputs(), target=torch.tensor([0, 3, 0])).values[:, 0]
    expected = torch.stack([together[0, 0], together[1, 1], together[2, 0]])
    _require(
        _close(expected, mixed), "maps with one target per sample differ from maps with the same target for all samples"
    )


def _check_invalid_inputs(run: ExplainFunction, make: NetworkFactory) -> None:
    for bad in (torch.nan, torch.inf):
        x = inputs()
        x[1, 2, 3, 4] = bad
        try:
            run(make(), x)
        except InputError:
            continue
        raise AssertionError(f"an input with {bad} was explained instead of rejected")


CONTRACT_CHECKS = (
    _check_shapes,
    _check_no_side_effects,
    _check_no_side_effects_after_error,
    _check_determinism,
    _check_batch_independence,
    _check_precision,
    _check_targets,
    _check_invalid_inputs,
)
