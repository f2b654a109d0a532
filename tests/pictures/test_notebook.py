"""What Jupyter shows of each record: the right numbers, and text that stays text."""

import base64
import io
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tests.networks import classifier
from tests.pages import HOSTILE, Page

import seewhy
from seewhy.pictures import drawn, figure, gallery


@pytest.fixture(scope="module")
def model():
    return seewhy.wrap(classifier(2), labels=["ant", "bee", "cat", "dog"], prepare=seewhy.Card((8, 8)))


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


def test_an_explanation(model, x):
    e = seewhy.explain(model, x[:1], ["gradcam", "integrated_gradients"], target=2, baseline=None)
    read, summed = map(shown, e)
    assert len(read.all("img")) == len(summed.all("img")) == 1
    assert e[0].layer_reason in read.words
    assert f"{float(e[1].completeness[0, 0]):+.3g}" in summed.words
    assert all(note in summed.words for note in e[1].notes)
    assert e[1].notes


def test_evidence_and_its_parts(model, x):
    found = seewhy.check(model, x, ["gradient", "gradcam"], target=2)
    page = shown(found)
    assert len(page.all("img")) == 1
    for name, one in found.methods.items():
        assert f"{name}: {one.verdict}. {one.reason}." in page.words
        part = shown(one).words
        assert part.startswith(f"{one.verdict} {one.reason}")
        for test, result in one.tests.items():
            assert f"{test} {result.verdict} {result.estimate:.2f}" in part
    assert all(note in page.words for note in found.notes)
    assert len(page.all("tr")) == 1 + 2 + len(found.controls)


def test_a_comparison_and_a_measure(model, x):
    compared = seewhy.compare(model, x, ["gradient", "gradcam"])
    page = shown(compared)
    assert len(page.all("img")) == 1
    assert f"gradient {compared.agreement[0, 1, 0]:.3g} [" in page.words
    measured = seewhy.measure(model, compared.maps[0], "deletion")
    assert shown(measured).words == str(measured)


def test_tables(model, x):
    best = seewhy.predict(model, x[:2], top=2)
    words = shown(best).words
    for n, rows in enumerate(best):
        for label, index, share in rows:
            assert f"{n} {label} {index} {share:.5g}" in words
    layers = seewhy.layers(model, x[:1])
    page = shown(layers[1:3])
    assert len(page.all("tr")) == 3
    assert all(f"{row.row} {row.name} {row.type}" in page.words for row in layers[1:3])


def test_a_model_is_shown_without_its_modules(model):
    words = shown(model).words
    assert model.name in words
    assert "4: ant, bee, cat, dog" in words
    assert "scores, gradients, layers" in words
    assert "size=(8, 8)" in words
    assert "Conv2d" not in words


def test_hostile_text_stays_text(model, x):
    evil = HOSTILE[0] + HOSTILE[2]
    e = seewhy.explain(model, x[:1], "gradcam", target=2)
    compared = seewhy.compare(model, x, ["gradient", "gradcam"])
    measured = seewhy.measure(model, compared.maps[0], "deletion")
    best = seewhy.predict(model, x[:1])
    layers = seewhy.layers(model, x[:1])
    records = [
        replace(e, title=evil, labels=((evil,),), notes=(evil,), feature_layer=evil, layer_reason=evil, model=evil),
        replace(compared, methods=(evil, evil)),
        replace(measured, check=evil, method=evil, notes=(evil,)),
        replace(best, labels=((evil,) * len(best.labels[0]),), notes=(evil,)),
        replace(layers, rows=(layers[0]._replace(name=evil, type=evil, description=evil),)),
        replace(model, name=evil, labels=(evil,), notes=(evil,), preparation=lambda x: x),
    ]
    for record in records:
        page = shown(record)
        assert evil in page.words, type(record)
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


def test_figures_become_pictures(model, x):
    made = drawn(gallery(torch.rand(2, 3, 4, 5), ["a", "b"]))
    assert isinstance(made, Image.Image)
    e = seewhy.explain(model, x[:1], "gradient")
    assert np.array_equal(np.asarray(drawn(figure(e))), np.asarray(e.show()))


def test_every_record_comes_back_from_a_pickle(model, x):
    e = seewhy.explain(model, x[:1], "gradcam", target=2).filtered("positive", "clip=99")
    compared = seewhy.compare(model, x, ["gradient", "gradcam"])
    records = [
        e,
        compared,
        seewhy.measure(model, compared.maps[0], "deletion"),
        seewhy.check(model, x[:1], "gradient", target=2),
        seewhy.predict(model, x),
        seewhy.layers(model, x[:1]),
    ]
    for record in records:
        back = pickle.loads(pickle.dumps(record))
        assert type(back) is type(record)
        assert back._repr_html_() == record._repr_html_()
    assert pickle.loads(pickle.dumps(e)).filters == ("positive", "clip=99")
    held = seewhy.activations(model, x[:1], "0")
    back = pickle.loads(pickle.dumps(held))
    assert torch.equal(back.values, held.values)
    assert back._repr_png_() == held._repr_png_()
