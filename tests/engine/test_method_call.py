"""MethodCall: equality by content, and running a call again."""

import pickle

import pytest
import torch
from tests.networks import random_input, small_classifier

import seewhy
from seewhy.results import Ensemble, MethodCall, content_key, unique_names


def ones(gradient):
    """Kernel of an own method that returns ones and has the name of a method of the table."""
    return torch.ones_like(gradient)


ones.__name__ = "gradient"
OWN_METHOD = seewhy.Method(ones, "input_gradient", "Mine", "none")


def test_calls_are_equal_and_hashed_by_content():
    a = MethodCall("integrated_gradients", {"baseline": torch.zeros(3), "steps": 8})
    b = MethodCall("integrated_gradients", {"steps": 8, "baseline": torch.zeros(3)})
    assert a == b
    assert hash(a) == hash(b)
    others = [
        MethodCall("gradient", a.options),
        MethodCall(a.method, {**a.options, "baseline": torch.ones(3)}),
        MethodCall(a.method, {**a.options, "baseline": torch.zeros(3, dtype=torch.float64)}),
        MethodCall(a.method, {**a.options, "baseline": torch.zeros(1, 3)}),
        MethodCall(a.method, a.options, ensemble=Ensemble("smooth", 4, 0.1)),
        MethodCall(a.method, a.options, score="probability"),
        MethodCall(a.method, a.options, feature_layer="layer4"),
        MethodCall(a.method, a.options, reduction_layer="fc"),
        MethodCall(a.method, a.options, seed=1),
    ]
    assert len({a, b, *others}) == 1 + len(others)
    assert a.equals_but_for_seed(others[-1])
    assert not a.equals_but_for_seed(others[0])


@pytest.mark.parametrize("value", [torch.arange(3).bfloat16(), torch.tensor(2.0), float("nan"), {"a": [1, (2,)]}, None])
def test_content_key_of_equal_values_is_equal(value):
    assert content_key(value) == content_key(pickle.loads(pickle.dumps(value)))
    hash(content_key(value))


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("gradcam", {}),
        ("integrated_gradients", {"steps": 5, "baseline": 0.25}),
        ("occlusion", {"mask_size": 3}),
        ("smoothgrad", {"samples": 4, "seed": 7}),
        (seewhy.smooth("gradient", samples=4, sigma=0.2), {"seed": 3}),
        (seewhy.tta("gradcam"), {}),
        (OWN_METHOD, {}),
        ("gradient", {"reduction_layer": "6", "score": "margin"}),
    ],
)
def test_call_computes_the_same_map_again(method, options):
    if options.get("reduction_layer"):
        options["reduction_layer"] = [name for name, _ in small_classifier().named_modules()][-1]
    e = seewhy.explain(small_classifier(), random_input(2, 3, 6, 9), method, target=1, **options)
    again = e.call(small_classifier(), random_input(2, 3, 6, 9), target=1)
    assert torch.equal(e.values, again.values)
    assert torch.equal(e.maps, again.maps)
    assert e.call == again.call


def test_call_of_averaged_layers_computes_the_same_map_again():
    layers = ["1", "3"]
    e = seewhy.explain(small_classifier(), random_input(2, 3, 6, 9), "gradcam", target=1, feature_layer=layers)
    assert e.call.feature_layer == tuple(layers)
    assert torch.equal(e.maps, e.call(small_classifier(), random_input(2, 3, 6, 9), target=1).maps)


def test_own_method_differs_from_table_method_of_same_name():
    e = seewhy.explain(small_classifier(), random_input(2, 3, 6, 9), OWN_METHOD, target=1)
    plain = seewhy.explain(small_classifier(), random_input(2, 3, 6, 9), "gradient", target=1)
    assert e.call.method is OWN_METHOD
    assert e.call != plain.call
    assert float(seewhy.measure(small_classifier(), e, "sensitivity", samples=3).values.abs().max()) == 0
    assert float(seewhy.measure(small_classifier(), plain, "sensitivity", samples=3).values.abs().max()) > 0


def test_check_distinguishes_calls_of_same_name():
    x = random_input(6, 3, 6, 9)
    methods = [
        seewhy.smooth("gradient", samples=4, sigma=0.01),
        seewhy.smooth("gradient", samples=4, sigma=2.0),
        "gradient",
        OWN_METHOD,
    ]
    evidence = seewhy.check(small_classifier(), x, methods)
    names = ["smooth(gradient)", "smooth(gradient)#2", "gradient", "gradient#2"]
    assert list(evidence.methods) == list(evidence.calls) == names
    assert all(str(evidence).count(name) for name in names)
    assert evidence[OWN_METHOD] is evidence.methods["gradient#2"]
    assert evidence["Saliency"] is evidence["gradient"] is evidence.methods["gradient"]
    assert evidence[seewhy.METHODS["gradient"]] is evidence["gradient"]
    assert (
        evidence[seewhy.explain(small_classifier(), x, methods[1], seed=9).call]
        is evidence.methods["smooth(gradient)#2"]
    )
    with pytest.raises(seewhy.UnknownNameError, match=r"smooth\(gradient\)#2"):
        evidence["gradcam"]
    # the maps belong to the right calls: a constant map has no spread, and the noise level changes the map
    assert float(evidence.maps["gradient#2"]["trained"].std()) == 0
    assert not torch.equal(evidence.maps["smooth(gradient)"]["trained"], evidence.maps[names[1]]["trained"])


def test_verdict_badge_belongs_to_exact_call():
    from seewhy.visualization.verdict_badge import NOT_CHECKED, map_verdict

    x = random_input(6, 3, 6, 9)
    evidence = seewhy.check(small_classifier(), x, ["gradient", "integrated_gradients"])
    checked = seewhy.explain(small_classifier(), x, "integrated_gradients")
    assert map_verdict(checked, evidence).verdict == evidence["integrated_gradients"].verdict
    other = map_verdict(seewhy.explain(small_classifier(), x, "integrated_gradients", baseline=0.3), evidence)
    assert other.verdict == NOT_CHECKED
    assert "options" in other.reason
    assert map_verdict(seewhy.explain(small_classifier(), x, OWN_METHOD), evidence).verdict == NOT_CHECKED


def test_compare_distinguishes_calls_of_same_name():
    comparison = seewhy.compare(small_classifier(), random_input(2, 3, 6, 9), ["gradient", OWN_METHOD], target=1)
    assert comparison.methods == ("gradient", "gradient#2")
    assert comparison.calls[1].method is OWN_METHOD


def test_saved_explanation_contains_its_call(tmp_path):
    e = seewhy.explain(
        small_classifier(),
        random_input(2, 3, 6, 9),
        seewhy.smooth("ig", samples=3, sigma=0.2),
        target=1,
        baseline=torch.ones(3, 1, 1),
    )
    e.save(tmp_path / "e.npz")
    loaded = seewhy.Explanation.load(tmp_path / "e.npz")
    assert loaded.call == e.call
    assert torch.equal(loaded.call(small_classifier(), random_input(2, 3, 6, 9), target=1).values, e.values)
    seewhy.explain(small_classifier(), random_input(2, 3, 6, 9), OWN_METHOD).save(tmp_path / "mine.npz")
    assert seewhy.Explanation.load(tmp_path / "mine.npz").call.method == "gradient (own method)"


def test_unique_names_number_repetitions():
    assert unique_names(["a", "b", "a", "a"]) == ["a", "b", "a#2", "a#3"]
