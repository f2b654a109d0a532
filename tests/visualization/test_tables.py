"""Text tables."""

import pytest
import torch

import seewhy
from seewhy.visualization.tables import prediction_table, text_table


@pytest.fixture
def prediction():
    probabilities = torch.tensor(
        [[0.5541912, 0.3963349, 0.0254412], [0.9, 1.23456789e-3, 4.5678912e-6]], dtype=torch.float64
    )
    return seewhy.Prediction(
        indices=torch.tensor([[208, 7, 0], [1, 2, 3]]),
        probabilities=probabilities,
        labels=(("golden retriever", "cock", "tench"), ("[red]", "a\nb", "c")),
        output=None,
    )


def rows(text):
    return [line.split() for line in text.splitlines() if line.strip() and not line.startswith("─")]


@pytest.mark.row(64)
def test_prediction_table_shows_five_significant_digits(prediction):
    lines = rows(str(prediction))
    assert lines[0] == ["sample", "class", "index", "probability"]
    assert [line[-1] for line in lines[1:4]] == ["0.55419", "0.39633", "0.025441"]
    assert lines[1] == ["0", "golden", "retriever", "208", "0.55419"]
    assert "0.0012346" in str(prediction)
    assert "4.5679e-06" in str(prediction)


@pytest.mark.row(64)
def test_prediction_table_of_lite0(lite0, shipped):
    prediction = seewhy.predict(lite0, shipped["chelsea"], top=3)
    assert str(prediction).count("\n") == 4
    for _, index, probability in next(iter(prediction)):
        line = next(line for line in str(prediction).splitlines() if f" {index} " in line)
        assert float(line.split()[-1]) == pytest.approx(probability, rel=5e-5)
        assert len(line.split()[-1].split(".")[1].lstrip("0")) <= 5


def test_prediction_table_with_names(prediction):
    text = prediction_table(prediction, ["cat.png", "dog.png"])
    assert "cat.png" in text
    assert "dog.png" in text


def test_markup_in_labels_is_not_interpreted(prediction):
    assert "[red]" in str(prediction)


def test_text_table_aligns_columns():
    text = text_table(("left", "right"), [("a", 1), ("bbbb", 1000)], right=("right",))
    lines = text.splitlines()
    assert lines[2].startswith("a ")
    assert lines[2].index("1") == lines[3].rindex("0")
    assert all(line == line.rstrip() for line in lines)


def test_text_table_folds_long_cells():
    cell = "x" * 300
    assert text_table(("header",), [(cell,)]).count("x") == 300
