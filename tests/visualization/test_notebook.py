"""HTML of records in Jupyter: numbers, pictures, and escaped texts."""

import base64
import io
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tests.networks import small_classifier
from tests.pages import HOSTILE, Page

import seewhy
from seewhy.visualization import figure, figure_to_image, tile_images


@pytest.fixture(scope="module")
def model():
    return seewhy.wrap(small_classifier(2), labels=["ant", "bee", "cat", "dog"], prepare=seewhy.Preprocessing((8, 8)))


@pytest.fixture(scope="module")
def x():
    return torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(2)).double()


def shown(record):
    page = Page(record._repr_html_())
    for attributes in page.all("img"):
        data = attributes["src"].removeprefix("data:image/png;base64,")
        with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
            assert np.asarray(picture.convert("L")).std() > 5
    return page


def test_explanation_html(model, x):
    e = seewhy.explain(model, x[:1], ["gradcam", "integrated_gradients"], target=2, baseline=None)
    gradcam, integrated = map(shown, e)
    assert len(gradcam.all("img")) == len(integrated.all("img")) == 1
    assert e[0].layer_reason in gradcam.words
    assert f"{float(e[1].convergence_delta[0, 0]):+.3g}" in integrated.words
    assert all(note in integrated.words for note in e[1].notes)
    assert e[1].notes


def test_evidence_html_and_method_verdict_html(model, x):
    evidence = seewhy.check(model, x, ["gradient", "gradcam"], target=2)
    page = shown(evidence)
    assert len(page.all("img")) == 1
    for name, one in evidence.methods.items():
        assert f"{name}: {one.verdict}. {one.reason}." in page.words
        part = shown(one).words
        assert part.startswith(f"{one.verdict} {one.reason}")
        for test, result in one.tests.items():
            assert f"{test} {result.verdict} {result.estimate:.2f}" in part
    assert all(note in page.words for note in evidence.notes)
    assert len(page.all("tr")) == 1 + 2 + len(evidence.controls)


def test_comparison_html_and_measurement_html(model, x):
    comparison = seewhy.compare(model, x, ["gradient", "gradcam"])
    page = shown(comparison)
    assert len(page.all("img")) == 1
    assert f"gradient {comparison.agreement[0, 1, 0]:.3g} [" in page.words
    measurement = seewhy.measure(model, comparison.maps[0], "deletion")
    assert shown(measurement).words == str(measurement)


def test_prediction_html_and_layer_table_html(model, x):
    prediction = seewhy.predict(model, x[:2], top=2)
    words = shown(prediction).words
    for n, rows in enumerate(prediction):
        for label, index, probability in rows:
            assert f"{n} {label} {index} {probability:.5g}" in words
    layers = seewhy.layers(model, x[:1])
    page = shown(layers[1:3])
    assert len(page.all("tr")) == 3
    assert all(f"{row.row} {row.name} {row.type}" in page.words for row in layers[1:3])


def test_model_html_omits_the_modules(model):
    words = shown(model).words
    assert model.name in words
    assert "4: ant, bee, cat, dog" in words
    assert "scores, gradients, layers" in words
    assert "size=(8, 8)" in words
    assert "Conv2d" not in words


def test_hostile_texts_are_escaped(model, x):
    hostile = HOSTILE[0] + HOSTILE[2]
    e = seewhy.explain(model, x[:1], "gradcam", target=2)
    comparison = seewhy.compare(model, x, ["gradient", "gradcam"])
    measurement = seewhy.measure(model, comparison.maps[0], "deletion")
    prediction = seewhy.predict(model, x[:1])
    layers = seewhy.layers(model, x[:1])
    records = [
        replace(
            e,
            title=hostile,
            labels=((hostile,),),
            notes=(hostile,),
            feature_layer=hostile,
            layer_reason=hostile,
            model=hostile,
        ),
        replace(comparison, methods=(hostile, hostile)),
        replace(measurement, check=hostile, method=hostile, notes=(hostile,)),
        replace(prediction, labels=((hostile,) * len(prediction.labels[0]),), notes=(hostile,)),
        replace(layers, rows=(layers[0]._replace(name=hostile, type=hostile, description=hostile),)),
        replace(model, name=hostile, labels=(hostile,), notes=(hostile,), preparation=lambda x: x),
    ]
    for record in records:
        page = shown(record)
        assert hostile in page.words, type(record)
        assert {tag for tag, _ in page.elements} <= {
            "img",
            "ul",
            "li",
            "p",
            "b",
            "table",
            "thead",
            "tbody",
            "tr",
            "th",
            "td",
        }
        assert not any(key.startswith("on") for _, a in page.elements for key in a)


def test_figure_to_image(model, x):
    image = figure_to_image(tile_images(torch.rand(2, 3, 4, 5), ["a", "b"]))
    assert isinstance(image, Image.Image)
    e = seewhy.explain(model, x[:1], "gradient")
    assert np.array_equal(np.asarray(figure_to_image(figure(e))), np.asarray(e.show()))


def test_pickle_round_trip_of_every_record(model, x):
    e = seewhy.explain(model, x[:1], "gradcam", target=2).filtered("positive", "clip=99")
    comparison = seewhy.compare(model, x, ["gradient", "gradcam"])
    records = [
        e,
        comparison,
        seewhy.measure(model, comparison.maps[0], "deletion"),
        seewhy.check(model, x[:1], "gradient", target=2),
        seewhy.predict(model, x),
        seewhy.layers(model, x[:1]),
    ]
    for record in records:
        loaded = pickle.loads(pickle.dumps(record))
        assert type(loaded) is type(record)
        assert loaded._repr_html_() == record._repr_html_()
    assert pickle.loads(pickle.dumps(e)).filters == ("positive", "clip=99")
    activations = seewhy.activations(model, x[:1], "0")
    loaded = pickle.loads(pickle.dumps(activations))
    assert torch.equal(loaded.values, activations.values)
    assert loaded._repr_png_() == activations._repr_png_()
