"""Vocabulary: standard terms in code, messages and documents, and one meaning per name."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

import seewhy

SOURCE = Path(seewhy.__file__).parent
ROOT = SOURCE.parent.parent
# metaphors and private terms, and British spellings: each has a standard term
BANNED = (
    r"anew|undrawn|redrawn|learnt|untaught|pleases?|pleasing|by heart|who answers|speaks (?:for|against)|a number an?|"
    r"conversations?|scenes?|borrow(?:s|ed|ing)?|tapes?|climb(?:s|ed|ing)?|uphill|desk|shelf|shelves|nearby|kin|"
    r"colours?|coloured|grey|greys|greyscale|randomis\w+|normalis\w+|neighbour\w*|judgements?|behaviour\w*|"
    r"licence|initialis\w+|recognis\w+|quantis\w+|visualis\w+|optimis\w+|generalis\w+|summaris\w+|analys(?:e|es|ed|ing)|"
    r"localis\w+|centred|favour\w*"
)
BANNED_WORD = re.compile(rf"(?<![A-Za-z0-9])(?:{BANNED})(?![A-Za-z0-9])", re.IGNORECASE)
# what other projects are called, and colors as matplotlib and CSS spell them
ALLOWED = re.compile(r"matplotlib|`?grey_\w+|torchscript|localise_")

PYTHON = sorted(SOURCE.rglob("*.py"))
DOCUMENTS = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted(SOURCE.rglob("*.md")),
    *sorted(SOURCE.rglob("*.html")),
    *sorted((ROOT / "examples").glob("*.py")),
    *sorted((ROOT / "examples").glob("*.ipynb")),
]


def banned_words(text: str) -> list[str]:
    """Banned words with their line numbers; parts of snake_case names count as words."""
    return [
        f"{number}: {match[0]!r} in {line.strip()[:80]!r}"
        for number, line in enumerate(text.splitlines(), 1)
        for match in BANNED_WORD.finditer(line)
        if not ALLOWED.search(line)
    ]


@pytest.mark.parametrize("path", [*PYTHON, *DOCUMENTS], ids=lambda p: str(p.relative_to(ROOT)))
def test_text_uses_standard_terms(path):
    assert banned_words(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("word", ["drawn anew", "colour_map", "the Tape", "nearby", "Randomised", "it was learnt."])
def test_planted_banned_word_is_found(word):
    assert banned_words(f"x = 1\n# {word}")


@pytest.mark.parametrize("word", ["color_map", "tapered", "kinetic", "scenery", "greyhound", "neighbor"])
def test_other_words_are_not_banned(word):
    assert not banned_words(word)


def definitions(paths: list[Path], source: Path) -> dict[str, list[str]]:
    """Module-level names and where each is defined; commands have the names of the functions that they run."""
    found = defaultdict(list)
    for path in paths:
        relative = path.relative_to(source)
        if relative.parts[0] == "cli":
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            targets = [node] if isinstance(node, ast.FunctionDef | ast.ClassDef) else []
            names = [t.name for t in targets]
            if isinstance(node, ast.Assign):
                names = [t.id for t in node.targets if isinstance(t, ast.Name)]
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names = [node.target.id]
            for name in dict.fromkeys(names):
                if not name.startswith("__") and str(relative) not in found[name]:
                    found[name].append(str(relative))
    return found


def test_no_module_level_name_has_two_meanings():
    repeated = {name: files for name, files in definitions(PYTHON, SOURCE).items() if len(files) > 1}
    assert repeated == {}


def test_planted_repeated_name_is_found(tmp_path):
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text("def figure(): ...\n__all__ = []\n")
    files = sorted(tmp_path.glob("*.py"))
    assert {name: len(at) for name, at in definitions(files, tmp_path).items()} == {"figure": 2}


@pytest.mark.parametrize("name", seewhy.METHODS)
def test_method_summary_names_the_method_and_says_what_it_computes(name):
    method = seewhy.METHODS[name]
    head, colon, formula = method.summary.partition(": ")
    assert colon, f"{method.summary!r}: the usual name, a colon, what it computes"
    assert re.sub(r"\W", "", head).casefold() == re.sub(r"\W", "", method.title.partition(" (")[0]).casefold()
    assert len(formula) > 20
    assert method.summary.endswith(".")


def test_test_names_say_unit_and_case():
    """Half sentences begin with an article or a question word."""
    wrong = re.compile(r"test_(?:an?|the|what|who|it|its|how|where|when|which|nothing)_")
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                assert not wrong.match(node.name), f"{path.name}: {node.name}"
