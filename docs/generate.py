"""Writes what the docs take from elsewhere: `python docs/generate.py`. A test compares.

docs/methods.md comes from the table of methods; the measured tables in the other pages from
benchmarks/results/.
"""

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
say which layer was read and why, and another can be named (`seewhy.layers` lists them).

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
    return {DOCS / "methods.md": methods(), **measured}


MEASURED = ("benchmarks.md", "comparison.md", "evidence.md")

if __name__ == "__main__":
    for file, text in pages().items():
        file.write_text(text, encoding="utf-8")
