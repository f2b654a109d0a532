"""Records: documented methods, short texts, the sequence of explanations, and the list of public names."""

import ast
import inspect
from pathlib import Path

import pytest
import torch

import seewhy
from seewhy.results import Evidence, Explanation, Explanations
from tests.networks import random_input, small_classifier

X = random_input(6, 3, 6, 9)


@pytest.fixture(scope="module")
def records():
    net = small_classifier()
    both = seewhy.explain(net, X, ["gradient", "kernel_shap"], target=[0, 1], samples=100, segments="grid", features=4)
    return {
        "Explanation": both[0],
        "Explanations": both,
        "Prediction": seewhy.predict(net, X),
        "LayerTable": seewhy.layers(net, X),
        "Activations": seewhy.activations(net, X, "3"),
        "Evidence": seewhy.check(net, X, ["gradient"]),
        "Measurement": seewhy.measure(net, both[0], "stability", samples=2),
        "Comparison": seewhy.compare(net, X, ["gradient", "gradcam"], target=1),
        "Model": seewhy.wrap(net),
    }


@pytest.mark.parametrize(
    "name", ["Explanation", "Explanations", "Prediction", "LayerTable", "Activations", "Evidence", "Measurement"]
)
def test_record_prints_at_most_20_lines_without_tensors(records, name):
    for text in (repr(records[name]), str(records[name])):
        assert len(text.splitlines()) <= 20
        assert "tensor(" not in text
        assert len(text) < 5000


def test_explanation_prints_what_was_explained(records):
    text = str(records["Explanations"][1])
    for part in ("KernelSHAP", "kernel_shap", "[6, 2, 1, 6, 9]", "samples=100"):
        assert part in text, part
    assert "note" in text


@pytest.mark.parametrize(
    ("record", "methods"),
    [
        (seewhy.Explanation, ("save", "show", "filtered", "report", "load", "call")),
        (Explanations, ("save", "show", "report")),
        (seewhy.Model, ("prepare",)),
        (seewhy.Evidence, ("save", "show", "report", "__getitem__")),
        (seewhy.Activations, ("save", "show", "montage", "strongest")),
        (seewhy.Comparison, ("save", "show")),
    ],
)
def test_record_methods_have_signature_and_docstring(record, methods):
    for name in methods:
        if name == "call":
            continue
        method = inspect.getattr_static(record, name)
        function = getattr(method, "__func__", method)
        assert inspect.isfunction(function), name
        assert function.__module__ in ("seewhy.results", "seewhy.model")
        assert function.__doc__ and len(function.__doc__) > 40, name
        described = [p for p in inspect.signature(function).parameters if p not in ("self",)]
        for parameter in described:
            assert parameter in function.__doc__ or name == "__getitem__", (name, parameter)


def test_public_names_are_listed_once():
    """The stub is the only list: the lazy loader, `dir` and editors use it."""
    stub = Path(seewhy.__file__).with_suffix(".pyi")
    names = [
        alias.asname for n in ast.parse(stub.read_text()).body if isinstance(n, ast.ImportFrom) for alias in n.names
    ]
    assert len(names) == len(set(names))
    assert set(names) == set(seewhy.__all__)
    assert set(names) <= set(dir(seewhy))
    for name in names:
        assert getattr(seewhy, name).__doc__, name
    source = Path(seewhy.__file__).read_text()
    assert not [name for name in names if f'"{name}"' in source]


def test_explanations_is_a_sequence(records):
    both = records["Explanations"]
    assert isinstance(both, Explanations)
    assert len(both) == 2
    first, second = both
    assert both[0] is first
    assert both[-1] is second
    assert both[:1] == Explanations([first])
    assert first in both
    assert both != Explanations([second, first])
    assert hash(both) == hash(Explanations([first, second]))


@pytest.mark.parametrize("ending", ["png", "svg", "pdf", "html"])
def test_explanations_save_one_file(records, tmp_path, ending):
    file = tmp_path / f"both.{ending}"
    records["Explanations"].save(file)
    assert file.stat().st_size > 1000


def test_explanations_save_rejects_other_endings(records, tmp_path):
    with pytest.raises(seewhy.OptionError, match="ending"):
        records["Explanations"].save(tmp_path / "both.docx")


def test_explanations_show_and_report(records, tmp_path):
    assert records["Explanations"].show().size > records["Explanation"].show().size
    records["Explanations"].report(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "KernelSHAP" in page
    assert "Gradient" in page


@pytest.mark.parametrize("name", ["Explanation", "Explanations", "Evidence", "Comparison", "Model", "Prediction"])
def test_record_has_html_for_notebooks(records, name):
    html = records[name]._repr_html_()
    assert html.startswith("<")


def test_explanations_of_different_inputs_have_one_sheet_each_in_html():
    each = seewhy.explain(small_classifier(), [X[0], X[1][:, :4]], "gradient", target=1)
    assert isinstance(each, Explanations)
    assert each._repr_html_().count("<img") == 2


def test_explain_returns_explanations_for_lists():
    net = small_classifier()
    assert isinstance(seewhy.explain(net, X, ["gradient"]), Explanations)
    assert isinstance(seewhy.explain(net, X, [seewhy.smooth("gradient", samples=2)]), Explanations)
    lists = seewhy.explain(net, [X[0], X[1]], ["gradient", "gradcam"])
    assert all(isinstance(each, Explanations) for each in lists)
    assert isinstance(seewhy.explain(net, X, "gradient"), Explanation)


def test_evidence_is_indexed_by_name_method_and_call(records):
    evidence = records["Evidence"]
    assert isinstance(evidence, Evidence)
    assert evidence["gradient"] is evidence[seewhy.METHODS["gradient"]]
    assert evidence["gradient"] is evidence[evidence.calls["gradient"]]


def test_calls_of_the_same_method_are_equal_for_different_targets():
    a = seewhy.explain(small_classifier(), X, "gradcam", target=1)
    b = seewhy.explain(small_classifier(), X, "gradcam", target=2)
    assert a.call == b.call
    assert not torch.equal(a.values, b.values)
