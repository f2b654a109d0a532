"""Cases with a known answer, and the words that `check` finds for them: python -m tests.evidence.bank."""

import sys
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple
from unittest.mock import patch

import torch
from tests.evidence.digits import blob, deep, digits, noise, slopes, taught

import seewhy
from seewhy.evidence import check as room
from seewhy.evidence.verdict import judge

# whatever the network, these maps know nothing of it
FAKES = {
    "edges": [slopes(1), slopes(2)],
    "noise": [noise("grain", 1), noise("fog", 5)],
    "blob": [blob((0.5, 0.5), 0.15), blob((0.3, 0.6), 0.25), blob((0.8, 0.2), 0.1)],
}
NEVER_PASS, NEVER_FAIL = "never PASS", "never FAIL"
WORDS = ("PASS", "INCONCLUSIVE", "CONFOUNDED", "FAIL", "INVALID")


class Case(NamedTuple):
    network: str
    method: str
    truth: str
    verdict: str


def networks(seeds, which="") -> Iterator[tuple[str, torch.nn.Module, torch.Tensor]]:
    """Name, network and 16 inputs; in the deep ones that have learnt, guided backprop is known to keep to the input."""
    x, y = digits()
    for seed in seeds:
        unseen = x[1400 + 16 * seed : 1416 + 16 * seed]
        dense = torch.randn(16, 1, 20, 20, generator=torch.Generator().manual_seed(seed))
        kinds = {
            "trained, 10 convolutions": (lambda net: taught(net, x[:1000], y[:1000], seed=seed), 10, unseen),
            "trained, 4 convolutions": (lambda net: taught(net, x[:1000], y[:1000], seed=seed), 4, unseen),
            "drawn, 10 convolutions": (lambda net: calibrated(net, x[:256]), 10, unseen),
            "drawn, 4 convolutions, noise": (lambda net: calibrated(net, dense), 4, dense),
        }
        for name, (ready, depth, inputs) in kinds.items():
            if which in name:
                yield name, ready(deep(depth, 12 if depth == 10 else 8, seed)), inputs


def calibrated(net, x):
    """With the batch statistics of some inputs."""
    net.train()
    with torch.no_grad():
        for _ in range(20):
            net(x)
    return net.eval()


def cases(seeds, which="") -> Iterator[Case]:
    """Each word as if its method had been asked for alone, which is the least careful."""
    for name, net, x in networks(seeds, which):
        fakes = {m.kernel.__name__: kind for kind, group in FAKES.items() for m in group}
        truths = dict.fromkeys(fakes, NEVER_PASS) | {"gradient": NEVER_FAIL, "gradcam": NEVER_FAIL}
        methods = [m for group in FAKES.values() for m in group] + ["gradient", "gradcam"]
        if name == "trained, 10 convolutions":
            methods.append("guided_backprop")
            truths["guided_backprop"] = NEVER_PASS
        if "noise" not in name:
            methods.append("input_x_gradient")
            truths["input_x_gradient"] = NEVER_FAIL
        with patch.object(room, "judge", partial(_alone, len(methods))):
            found = seewhy.check(net, x, methods, progress=False)
        for method, one in found.methods.items():
            yield Case(name, fakes.get(method, method), truths[method], one.verdict)


def _alone(together, found, *, several, needed):
    return judge(found, several=several // together, needed=needed)


def rates(found) -> dict[str, tuple[int, int]]:
    """Truth -> how many are wrong, of how many."""
    wrong = {NEVER_PASS: "PASS", NEVER_FAIL: "FAIL"}
    return {
        truth: (sum(c.verdict == word for c in found if c.truth == truth), sum(c.truth == truth for c in found))
        for truth, word in wrong.items()
    }


def table(found) -> str:
    """How often each word was said, by map and by network, as Markdown."""
    lines = [["map", "network", "must", *WORDS], ["---"] * (3 + len(WORDS))]
    for key in dict.fromkeys((c.method, c.network, c.truth) for c in sorted(found)):
        words = [c.verdict for c in found if (c.method, c.network, c.truth) == key]
        lines.append([*key, *(str(words.count(w) or "") for w in WORDS)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def main() -> None:
    torch.set_num_threads(2)
    found = []
    for case in cases(range(5)):
        found.append(case)
        print(*case, sep=" | ", file=sys.stderr, flush=True)
    print(table(found))
    for truth, (wrong, count) in rates(found).items():
        print(f"{truth}: {wrong} of {count} wrong ({wrong / count:.1%})")


if __name__ == "__main__":
    main()
