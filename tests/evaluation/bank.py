"""Cases with a known verdict, and the verdicts of `check`: python -m tests.evaluation.bank."""

import sys
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple
from unittest.mock import patch

import torch
from tests.evaluation.digits import (
    blob_method,
    deep_network,
    edge_method,
    load_digit_images,
    noise_method,
    train_classifier,
)

import seewhy
from seewhy.evaluation.sanity_checks import check as check_module
from seewhy.evaluation.sanity_checks.verdict import decide_verdict

NETWORK_INDEPENDENT_METHODS = {
    "edges": [edge_method(1), edge_method(2)],
    "noise": [noise_method("white_noise", 1), noise_method("smooth_noise", 5)],
    "blob": [blob_method((0.5, 0.5), 0.15), blob_method((0.3, 0.6), 0.25), blob_method((0.8, 0.2), 0.1)],
}
NEVER_PASS, NEVER_FAIL = "never PASS", "never FAIL"
VERDICTS = ("PASS", "INCONCLUSIVE", "CONFOUNDED", "FAIL", "INVALID")


class Case(NamedTuple):
    """The verdict on one method and network, and the known truth: never PASS or never FAIL."""

    network: str
    method: str
    truth: str
    verdict: str


def known_networks(seeds, which="") -> Iterator[tuple[str, torch.nn.Module, torch.Tensor]]:
    """Yield name, network and 16 inputs; in deep trained networks guided backprop depends on the input only."""
    x, y = load_digit_images()
    for seed in seeds:
        unseen = x[1400 + 16 * seed : 1416 + 16 * seed]
        dense = torch.randn(16, 1, 20, 20, generator=torch.Generator().manual_seed(seed))
        kinds = {
            "trained, 10 convolutions": (lambda net: train_classifier(net, x[:1000], y[:1000], seed=seed), 10, unseen),
            "trained, 4 convolutions": (lambda net: train_classifier(net, x[:1000], y[:1000], seed=seed), 4, unseen),
            "initial weights, 10 convolutions": (lambda net: with_batch_statistics(net, x[:256]), 10, unseen),
            "initial weights, 4 convolutions, noise inputs": (lambda net: with_batch_statistics(net, dense), 4, dense),
        }
        for name, (prepare, depth, inputs) in kinds.items():
            if which in name:
                yield name, prepare(deep_network(depth, 12 if depth == 10 else 8, seed)), inputs


def with_batch_statistics(net, x):
    """Estimate the batch statistics of a network from inputs."""
    net.train()
    with torch.no_grad():
        for _ in range(20):
            net(x)
    return net.eval()


def known_cases(seeds, which="") -> Iterator[Case]:
    """Yield each verdict with the confidence level of a single method, which has the narrowest intervals."""
    for name, net, x in known_networks(seeds, which):
        independent = {m.kernel.__name__: kind for kind, group in NETWORK_INDEPENDENT_METHODS.items() for m in group}
        truths = dict.fromkeys(independent, NEVER_PASS) | {"gradient": NEVER_FAIL, "gradcam": NEVER_FAIL}
        methods = [m for group in NETWORK_INDEPENDENT_METHODS.values() for m in group] + ["gradient", "gradcam"]
        if name == "trained, 10 convolutions":
            methods.append("guided_backprop")
            truths["guided_backprop"] = NEVER_PASS
        if "noise" not in name:
            methods.append("input_x_gradient")
            truths["input_x_gradient"] = NEVER_FAIL
        with patch.object(check_module, "decide_verdict", partial(_verdict_alone, len(methods))):
            evidence = seewhy.check(net, x, methods, progress=False)
        for method, one in evidence.methods.items():
            yield Case(name, independent.get(method, method), truths[method], one.verdict)


def _verdict_alone(method_count, similarities, *, comparisons, recommended_inputs):
    return decide_verdict(similarities, comparisons=comparisons // method_count, recommended_inputs=recommended_inputs)


def error_counts(cases) -> dict[str, tuple[int, int]]:
    """Truth -> number of wrong verdicts, number of verdicts."""
    wrong = {NEVER_PASS: "PASS", NEVER_FAIL: "FAIL"}
    return {
        truth: (sum(c.verdict == verdict for c in cases if c.truth == truth), sum(c.truth == truth for c in cases))
        for truth, verdict in wrong.items()
    }


def markdown_table(cases) -> str:
    """Number of each verdict, per map and network, as Markdown."""
    lines = [["map", "network", "must", *VERDICTS], ["---"] * (3 + len(VERDICTS))]
    for key in dict.fromkeys((c.method, c.network, c.truth) for c in sorted(cases)):
        verdicts = [c.verdict for c in cases if (c.method, c.network, c.truth) == key]
        lines.append([*key, *(str(verdicts.count(v) or "") for v in VERDICTS)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def main() -> None:
    torch.set_num_threads(2)
    cases = []
    for case in known_cases(range(5)):
        cases.append(case)
        print(*case, sep=" | ", file=sys.stderr, flush=True)
    print(markdown_table(cases))
    for truth, (wrong, count) in error_counts(cases).items():
        print(f"{truth}: {wrong} of {count} wrong ({wrong / count:.1%})")


if __name__ == "__main__":
    main()
