"""Deletion gain of a correct map, an inverted map and noise."""

import pytest
import torch
from tests.networks import random_input
from torch import nn

import seewhy
from seewhy.evaluation.metrics.deletion_gain import deletion_gain
from seewhy.evaluation.metrics.perturbation_curves import fill_function, score_function
from seewhy.tracing.validation import prepare_model_and_input


class Corner(nn.Module):
    """The score of class 0 is the brightness of the upper left corner; that of class 1 is constant."""

    def forward(self, x):
        bright = x[:, :, :7, :7].mean((1, 2, 3))
        return torch.stack([8 * bright - 4, torch.zeros_like(bright)], 1)


@pytest.fixture
def functions():
    x = torch.zeros(6, 1, 28, 28, dtype=torch.float64)
    x[:, :, :7, :7] = 1
    model, x = prepare_model_and_input(seewhy.wrap(Corner()), x)
    target = torch.zeros(6, 1, dtype=torch.long)
    return score_function(model, x, target, expected_calls=8), fill_function(model, x, 0.0), x.shape[2:]


def test_deletion_gain_of_correct_and_inverted_map(functions):
    correct = torch.zeros(6, 28, 28, dtype=torch.float64)
    correct[:, :7, :7] = 1
    assert (deletion_gain(*functions[:2], correct, functions[2], 8, 0) > 0.1).all()
    assert (deletion_gain(*functions[:2], -correct, functions[2], 8, 0) < 0).all()


def test_deletion_gain_of_noise(functions):
    assert abs(float(deletion_gain(*functions[:2], random_input(6, 28, 28), functions[2], 8, 0).mean())) < 0.05
