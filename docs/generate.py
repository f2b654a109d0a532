"""Generate parts of the docs: `python docs/generate.py`. A test compares the files with the output.

docs/methods.md is generated from the table of methods; docs/matrix.md and the measured tables in other pages from
benchmarks/results/.
"""

import csv
import re
from pathlib import Path

from seewhy import METHODS

DOCS = Path(__file__).parent
RESULTS = DOCS.parent / "benchmarks" / "results"
HEADER = """# Methods

Generated from the table in `src/seewhy/methods/__init__.py` by `python docs/generate.py`.

`values` is the raw result, signed, at the method's own resolution. For gradient methods that is the input's size,
with channels, and `maps` sum the channels' absolute values. For methods that use a layer it is the layer's size, with
one channel, and `maps` are resampled to the input's size by `upsample`; `feature_layer` and `layer_reason` state
which layer was used and why, and another can be named (`seewhy.layers` lists them). For attention methods it is one
value per patch, on the grid of the patches; `layer_reason` states which attentions were used.

What applies to every method (targets, scores, batches, memory, seeds) is documented at `seewhy.explain`.
`seewhy.smooth(method)` averages any method over noisy copies of the input, and `seewhy.tta(method)` over the picture
and its mirror image. Case, "-", "_" and spaces in a name do not matter.
"""


def methods() -> str:
    """The text of docs/methods.md."""
    parts = [
        HEADER,
        "| method | what it computes | requires | sums to score − baseline score | paper |\n|---|---|---|---|---|",
    ]
    for name, m in METHODS.items():
        requires = ", ".join(flag.name.lower() for flag in m.requires)
        parts[-1] += (
            f"\n| [`{name}`](#{name}) | {m.summary} | {requires} | {'yes' if m.complete else '–'} | {m.paper} |"
        )
    for name, m in METHODS.items():
        aliases = f"\n\nAlso called {', '.join(f'`{alias}`' for alias in m.aliases)}." if m.aliases else ""
        parts.append(f"\n## {name}\n\n{m.description}{aliases}" + ("\n" if m.options else ""))
        for key, option in m.options.items():
            default = "" if option.default is None else f" Default: `{option.default}`."
            parts.append(f"- `{key}`: {option.help}{default}")
    return "\n".join(parts) + "\n"


MATRIX = """# Networks × methods

Made by `make matrix`, which runs each method on each of these networks, small and with random weights, on two inputs,
three targets and few samples; the tests repeat a part of it. Requirements: values and maps are finite, have the right
shape and are not all zero; the map of an input in a batch equals its map alone; network, input and random state are
unchanged. Otherwise the method must refuse, with an error that states the reason.

✓: all requirements hold. 0: they hold, but all maps are zero, as the notes of the explanation state (methods that cut
off negative evidence may find nothing on such networks). –: refused, the reasons are listed below. **wrong**: a
requirement does not hold.
"""


def matrix() -> str:
    """The text of docs/matrix.md, from the recorded results; methods with equal columns share one."""
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
    headers = [", ".join(f"`{name}`" for name in same) for same in columns.values()]
    lines = [["network", "kind", *headers], ["---"] * (2 + len(headers))]
    for i, network in enumerate(networks):
        kind = next(r["kind"] for r in rows if r["network"] == network)
        lines.append([network, kind, *(column[i] for column in columns)])
    parts.append("\n".join("| " + " | ".join(line) + " |" for line in lines))
    for title, word in (("Refused", "refused"), ("Wrong", "wrong")):
        methods_of: dict[tuple[str, str], list[str]] = {}  # (network, why) -> methods
        for r in rows:
            if r["word"] == word:
                methods_of.setdefault((r["network"], _general_reason(r["detail"], r["method"])), []).append(
                    f"`{r['method']}`"
                )
        reasons: dict[tuple[str, str], list[str]] = {}  # (methods, why) -> networks
        for (network, why), refusing in methods_of.items():
            reasons.setdefault((", ".join(refusing), why), []).append(network)
        if reasons:
            lines_ = (f"- {'; '.join(networks_)}: {names_}: {why}" for (names_, why), networks_ in reasons.items())
            parts.append(f"\n## {title}\n\n" + "\n".join(lines_))
    return "\n".join(parts) + "\n"


def _general_reason(text: str, method: str) -> str:
    """The first sentence of a message, without the names of the method and of the network."""
    text = "it" + text.removeprefix(method) if text.startswith(method) else text
    return re.sub(r"(no attention was (?:seen|found)) in \w+", r"\1", text).split(". ")[0].rstrip(".:")


def with_results(text: str) -> str:
    """Insert the measured table after each `<!-- results: NAME -->` of a page."""
    return re.sub(
        r"<!-- results: (\w+) -->.*?<!-- end -->",
        lambda m: f"<!-- results: {m[1]} -->\n\n{(RESULTS / f'{m[1]}.md').read_text(encoding='utf-8')}\n<!-- end -->",
        text,
        flags=re.DOTALL,
    )


def pages() -> dict[Path, str]:
    """The text of every generated page."""
    measured = {DOCS / name: with_results((DOCS / name).read_text(encoding="utf-8")) for name in MEASURED}
    return {DOCS / "methods.md": methods(), DOCS / "matrix.md": matrix(), **measured}


MEASURED = ("benchmarks.md", "comparison.md", "evidence.md")

if __name__ == "__main__":
    for file, text in pages().items():
        file.write_text(text, encoding="utf-8")
