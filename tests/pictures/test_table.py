"""Records print as tables."""

import pytest
import torch

import seewhy
from seewhy.pictures.table import prediction, table


@pytest.fixture
def given():
    shares = torch.tensor([[0.5541912, 0.3963349, 0.0254412], [0.9, 1.23456789e-3, 4.5678912e-6]], dtype=torch.float64)
    return seewhy.Prediction(
        indices=torch.tensor([[208, 7, 0], [1, 2, 3]]),
        probabilities=shares,
        labels=(("golden retriever", "cock", "tench"), ("[red]", "a\nb", "c")),
        output=None,
    )


def rows(text):
    return [line.split() for line in text.splitlines() if line.strip() and not line.startswith("─")]


@pytest.mark.row(64)
def test_five_significant_digits(given):
    found = rows(str(given))
    assert found[0] == ["sample", "class", "index", "probability"]
    assert [line[-1] for line in found[1:4]] == ["0.55419", "0.39633", "0.025441"]
    assert found[1] == ["0", "golden", "retriever", "208", "0.55419"]
    assert "0.0012346" in str(given)
    assert "4.5679e-06" in str(given)


@pytest.mark.row(64)
def test_what_lite0_says(lite0, shipped):
    found = seewhy.predict(lite0, shipped["chelsea"], top=3)
    assert str(found).count("\n") == 4
    for _, index, share in next(iter(found)):
        line = next(line for line in str(found).splitlines() if f" {index} " in line)
        assert float(line.split()[-1]) == pytest.approx(share, rel=5e-5)
        assert len(line.split()[-1].split(".")[1].lstrip("0")) <= 5


def test_names_stand_for_samples(given):
    found = prediction(given, ["cat.png", "dog.png"])
    assert "cat.png" in found
    assert "dog.png" in found


def test_markup_in_a_label_is_text(given):
    assert "[red]" in str(given)


def test_columns_are_aligned():
    text = table(("left", "right"), [("a", 1), ("bbbb", 1000)], right=("right",))
    lines = text.splitlines()
    assert lines[2].startswith("a ")
    assert lines[2].index("1") == lines[3].rindex("0")
    assert all(line == line.rstrip() for line in lines)


def test_long_cells_are_folded_not_cut():
    word = "x" * 300
    assert table(("what",), [(word,)]).count("x") == 300
