"""Writes docs/methods.md from the table: `python docs/generate.py`. A test compares the two."""

import inspect
from pathlib import Path

from seewhy import METHODS

HEAD = """# The methods

Generated from the table in `src/seewhy/methods/__init__.py` by `python docs/generate.py`.

All maps of this family have the input's own size. `values` keep sign and channels; `maps` are sums of the channels'
absolute values. Units: score units per unit of the network's input for the three gradients, score units for
input × gradient and integrated gradients.
"""


def page() -> str:
    """The whole page."""
    parts = [HEAD, "| method | what it gives | needs | sums to score − baseline score | paper |\n|---|---|---|---|---|"]
    for name, m in METHODS.items():
        needs = ", ".join(flag.name.lower() for flag in m.needs)
        parts[-1] += f"\n| [`{name}`](#{name}) | {m.summary} | {needs} | {'yes' if m.complete else '–'} | {m.paper} |"
    for name, m in METHODS.items():
        text = (inspect.getdoc(m.kernel) or "").split("\nArgs:")[0].strip()
        parts.append(f"\n## {name}\n\n{text}\n\n{m.paper}." + ("\n" if m.options else ""))
        for key, option in m.options.items():
            default = "" if option.default is None else f" Default: `{option.default}`."
            parts.append(f"- `{key}`: {option.help}{default}")
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    (Path(__file__).parent / "methods.md").write_text(page(), encoding="utf-8")
