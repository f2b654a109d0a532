"""Documents: generated pages are current, examples run, named files exist."""

import re
import runpy
import shutil
from pathlib import Path

import pytest

import seewhy

ROOT = Path(__file__).parent.parent


@pytest.mark.row(90)
def test_generated_pages_are_current():
    pages = runpy.run_path(str(ROOT / "docs" / "generate.py"))["pages"]()
    assert {file.name for file in pages} == {"methods.md", "matrix.md", "benchmarks.md", "comparison.md", "evidence.md"}
    for file, text in pages.items():
        assert file.read_text(encoding="utf-8") == text, f"{file.name}: run python docs/generate.py"


def test_readme_example_runs(shipped, tmp_path, monkeypatch, capsys):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    code = re.search(r"<!-- run by the tests -->\n```python\n(.*?)```", text, re.DOTALL)[1]
    shutil.copy(shipped["chelsea"], tmp_path / "cat.png")
    monkeypatch.chdir(tmp_path)
    scope = {}
    exec(code, scope)
    assert "Egyptian cat" in capsys.readouterr().out
    assert (tmp_path / "why.png").stat().st_size > 10_000
    assert scope["both"][0].maps.shape == (1, 2, 224, 224)


def test_readme_contains_commands_and_valid_links():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make demo" in text
    assert "make test" in text
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (ROOT / target).exists(), target


def test_comparison_names_existing_tests():
    text = (ROOT / "docs" / "comparison.md").read_text(encoding="utf-8")
    files = set(re.findall(r"`(tests/[^`]+)`", text))
    assert files
    for file in files:
        assert (ROOT / file).exists(), file


def test_version_equals_pyproject():
    assert f'version = "{seewhy.__version__}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_acceptance_rows_are_numbered_and_described():
    import csv

    with (ROOT / "tests" / "rows.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [int(r["row"]) for r in rows] == list(range(1, 151))
    assert all(r["what"] for r in rows)
