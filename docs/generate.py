"""Writes what the docs take from elsewhere: `python docs/generate.py`. A test compares.

docs/methods.md comes from the table of methods; docs/matrix.md and the measured tables in the other pages from
benchmarks/results/.
"""

import csv
import re
from pathlib import Path

from seewhy import METHODS

DOCS = Path(__file__).parent
RESULTS = DOCS.parent / "benchmarks" / "results"
HEAD = """# The methods

Generated from the table in `src/seewhy/methods/__init__.py` by `python docs/generate.py`.

`values` are the raw result, signed, at the method's own resolution. For the gradient methods that is the input's own
size, with channels, and `maps` are sums of the channels' absolute values. For methods that read a layer it is the
layer's, with one channel, and `maps` are brought to the input's size by `upsample`; `feature_layer` and `layer_reason`
say which layer was read and why, and another can be named (`seewhy.layers` lists them). For attention methods it is one
number a patch, on the grid of the patches; `layer_reason` says what attention was followed.

What holds for every method (targets, scores, batches, memory, seeds) stands at `seewhy.explain`.
Around any of them `seewhy.smooth(method)` averages over noisy copies, and `seewhy.tta(method)` over the picture and
its mirror image.
"""


def methods() -> str:
    """The page of methods."""
    parts = [HEAD, "| method | what it gives | needs | sums to score − baseline score | paper |\n|---|---|---|---|---|"]
    for name, m in METHODS.items():
        needs = ", ".join(flag.name.lower() for flag in m.needs)
        parts[-1] += f"\n| [`{name}`](#{name}) | {m.summary} | {needs} | {'yes' if m.complete else '–'} | {m.paper} |"
    for name, m in METHODS.items():
        parts.append(f"\n## {name}\n\n{m.about}" + ("\n" if m.options else ""))
        for key, option in m.options.items():
            default = "" if option.default is None else f" Default: `{option.default}`."
            parts.append(f"- `{key}`: {option.help}{default}")
    return "\n".join(parts) + "\n"


MATRIX = """# Every network × every method

Made by `make matrix`, which runs each method on each of these networks, small and with weights that were drawn, on two
inputs, three targets and few samples; the tests repeat a part of it. What must hold: values and maps are finite, have
the right shape and are not all zero; the map of an input in a batch is the one it has alone; network, input and random
state are left as they were. Else the method refuses, with an error that says why.

✓: all of that holds. 0: it does, but all maps are zero, as the notes of the explanation say (methods that cut off what
speaks against a class may find nothing on such networks). –: refused, the reasons stand below. **wrong**: something
does not hold.
"""


def matrix() -> str:
    """The page of the matrix, from what was recorded; methods with the same column share one."""
    with (RESULTS / "matrix.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    cells = {(r["network"], r["method"]): r for r in rows}
    networks, names = list(dict.fromkeys(r["network"] for r in rows)), list(dict.fromkeys(r["method"] for r in rows))
    marks = {"right": "✓", "empty": "0", "refused": "–", "wrong": "**wrong**"}
    columns: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        column = tuple(marks[cells[n, name]["word"]] if (n, name) in cells else "" for n in networks)
        columns.setdefault(column, []).append(name)
    words = [r["word"] for r in rows]
    parts = [
        MATRIX,
        f"{len(networks)} networks × {len(names)} methods: {words.count('right')} right, {words.count('empty')} empty, "
        f"{words.count('refused')} refused, {words.count('wrong')} wrong.\n",
    ]
    heads = [", ".join(f"`{name}`" for name in same) for same in columns.values()]
    lines = [["network", "kind", *heads], ["---"] * (2 + len(heads))]
    for i, network in enumerate(networks):
        kind = next(r["kind"] for r in rows if r["network"] == network)
        lines.append([network, kind, *(column[i] for column in columns)])
    parts.append("\n".join("| " + " | ".join(line) + " |" for line in lines))
    for title, word in (("Refused", "refused"), ("Wrong", "wrong")):
        said: dict[tuple[str, str], list[str]] = {}  # (network, why) -> methods
        for r in rows:
            if r["word"] == word:
                said.setdefault((r["network"], _alike(r["detail"], r["method"])), []).append(f"`{r['method']}`")
        reasons: dict[tuple[str, str], list[str]] = {}  # (methods, why) -> networks
        for (network, why), who in said.items():
            reasons.setdefault((", ".join(who), why), []).append(network)
        if reasons:
            lines_ = (f"- {'; '.join(where)}: {who}: {why}" for (who, why), where in reasons.items())
            parts.append(f"\n## {title}\n\n" + "\n".join(lines_))
    return "\n".join(parts) + "\n"


def _alike(text: str, method: str) -> str:
    """The first sentence of a message, without the names of the method and of the network."""
    text = "it" + text.removeprefix(method) if text.startswith(method) else text
    return re.sub(r"no attention was seen in \w+", "no attention was seen", text).split(". ")[0].rstrip(".:")


def with_results(text: str) -> str:
    """A page with each `<!-- results: NAME -->` followed by the table that was measured."""
    return re.sub(
        r"<!-- results: (\w+) -->.*?<!-- end -->",
        lambda m: f"<!-- results: {m[1]} -->\n\n{(RESULTS / f'{m[1]}.md').read_text(encoding='utf-8')}\n<!-- end -->",
        text,
        flags=re.DOTALL,
    )


def pages() -> dict[Path, str]:
    """Every page as it should be."""
    measured = {DOCS / name: with_results((DOCS / name).read_text(encoding="utf-8")) for name in MEASURED}
    return {DOCS / "methods.md": methods(), DOCS / "matrix.md": matrix(), **measured}


MEASURED = ("benchmarks.md", "comparison.md", "evidence.md")

if __name__ == "__main__":
    for file, text in pages().items():
        file.write_text(text, encoding="utf-8")
