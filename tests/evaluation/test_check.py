"""`check` on maps with a known verdict, its side effects, and the randomized networks."""

import copy
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
import torch
from tests.evaluation.digits import (
    blob_method,
    deep_network,
    edge_method,
    input_only_method,
    load_digit_images,
    noise_method,
    train_classifier,
)
from tests.networks import small_classifier, with_random_weights
from torch import nn
from torch.nn import functional as F

import seewhy
from seewhy import ModelError, OptionError
from seewhy.evaluation.rank_correlation import normalized_ranks
from seewhy.evaluation.sanity_checks.check import LEVELS
from seewhy.evaluation.sanity_checks.map_similarity import SimilarityTable
from seewhy.evaluation.sanity_checks.randomized_networks import (
    NETWORK_KINDS,
    _degeneracy,
    _supports_channels_last,
    randomized_networks,
)
from seewhy.methods.method import Method
from seewhy.methods.queries import Attribution
from seewhy.models import wrap
from seewhy.testing import state, states_equal
from seewhy.tracing.forward import run_forward
from seewhy.tracing.validation import prepare_model_and_input
from seewhy.types import Capability

TESTS = ("T0", "T1", "T2", "T3")


def verdicts_of(evidence):
    return [evidence.tests[t].verdict for t in TESTS]


@pytest.fixture(scope="module")
def trained_net():
    """A network trained on digits, and 16 test inputs."""
    x, y = load_digit_images()
    net = train_classifier(deep_network(), x[:1000], y[:1000])
    with torch.no_grad():
        assert float((net(x[1400:]).argmax(1) == y[1400:]).float().mean()) > 0.6
    return net, x[1400:1416]


@pytest.fixture(scope="module")
def evidence_of_five(trained_net):
    """The evidence for five methods, computed once."""
    net, x = trained_net
    before = state(net)
    evidence = seewhy.check(net, x, ["gradient", "gradcam", "guided_backprop", "input_x_gradient", "eigencam"], seed=1)
    after = state(net)
    assert all(states_equal(before[key], after[key]) for key in before), "check changed the state of the network"
    return evidence


# --- known verdicts


def test_check_passes_gradient_and_gradcam(evidence_of_five):
    for name in ("gradient", "gradcam"):
        one = evidence_of_five[name]
        assert one.verdict in {"PASS", "INCONCLUSIVE"}, one.reason
        assert verdicts_of(one)[1:] == ["PASS"] * 3
        assert one.tests["T1"].estimate < 0.6
    assert (
        abs(evidence_of_five["gradient"].similarity["all"].same - evidence_of_five["gradient"].similarity["all"].chance)
        < 0.1
    )


def test_check_fails_guided_backprop(evidence_of_five):
    """In deep networks its map depends on the input only."""
    one = evidence_of_five["guided_backprop"]
    assert one.verdict == "FAIL"
    assert one.reason.startswith("T1: the map does not change when the last layer is randomized (similarity ")
    assert one.reason.endswith(", threshold 0.75)")
    assert one.tests["T1"].low > 0.75
    assert one.similarity["top"].same > 0.9
    assert one.similarity["top"].same - evidence_of_five["gradient"].similarity["top"].same > 0.3


def test_check_finds_input_x_gradient_confounded(trained_net, evidence_of_five):
    one = evidence_of_five["input_x_gradient"]
    assert one.verdict == "CONFOUNDED"
    assert one.similarity["top"].same > 0.95
    assert one.similarity["top"].partial < 0.6
    assert verdicts_of(one)[2:] == ["PASS", "PASS"]  # with partial correlations
    net, x = trained_net
    assert seewhy.check(net, x[:5], "integrated_gradients").methods["integrated_gradients"].verdict == "CONFOUNDED"


def test_check_verdicts_of_controls(evidence_of_five):
    assert set(evidence_of_five.controls) == {
        "edges",
        "random",
        "centre",
    }  # the gradient is among the requested methods
    assert evidence_of_five.controls["edges"].verdict == "FAIL"
    assert verdicts_of(evidence_of_five.controls["edges"]) == ["NOT APPLICABLE", "FAIL", "FAIL", "FAIL"]
    assert evidence_of_five.controls["centre"].verdict == "FAIL"
    assert verdicts_of(evidence_of_five.controls["centre"])[1:] == ["FAIL"] * 3
    assert "input" in evidence_of_five.controls["centre"].reason
    assert verdicts_of(evidence_of_five.controls["random"])[1:3] == ["PASS", "PASS"]
    assert verdicts_of(evidence_of_five.controls["random"])[0] != "PASS"
    assert evidence_of_five.controls["random"].verdict != "PASS"


def test_check_of_class_agnostic_method(evidence_of_five, trained_net):
    """EigenCAM is class-agnostic by definition, so T3 does not apply; T3 fails for any other method with such maps."""
    assert {name for name, m in seewhy.METHODS.items() if m.class_agnostic} >= {"eigencam", "rollout"}
    test = evidence_of_five["eigencam"].tests["T3"]
    assert (test.verdict, test.estimate) == ("NOT APPLICABLE", pytest.approx(1))
    assert not evidence_of_five["eigencam"].reason.startswith("T3")
    net, x = trained_net
    class_specific = seewhy.check(net, x, replace(seewhy.METHODS["eigencam"], class_agnostic=False), seed=1)
    (one,) = class_specific.methods.values()
    assert one.tests["T3"].verdict == one.verdict == "FAIL"
    smoothed = seewhy.check(net, x[:5], seewhy.smooth("eigencam", samples=2), seed=1)
    (one,) = smoothed.methods.values()
    assert one.tests["T3"].verdict == "NOT APPLICABLE"


def test_check_never_passes_maps_independent_of_the_network(trained_net):
    net, x = trained_net
    independent = [blob_method((0.3, 0.6), 0.2), edge_method(1)]
    independent += [noise_method("smooth_noise", 5), noise_method("white_noise", 1)]
    evidence = seewhy.check(net, x, independent)
    assert not [name for name, one in evidence.methods.items() if one.verdict == "PASS"]
    assert evidence["blob_0.3_0.6_0.2"].verdict == evidence["edge_filter_1"].verdict == "FAIL"
    assert "gradient" in evidence.controls


@pytest.mark.row(56, 57)
def test_known_similarities_of_lite0(lite0, shipped):
    """Adebayo et al. 2018, Sixt et al. 2020: the gradient changes, the modified backpropagation methods do not."""
    more = Path(sklearn.datasets.__file__).parent / "images"
    files = [*shipped.values(), more / "china.jpg", more / "flower.jpg"]
    evidence = seewhy.check(lite0, [str(f) for f in files], ["gradient", "guided_backprop", "zeiler_fergus", "gradcam"])
    assert len(evidence.input) == len(files)
    assert evidence.labels[:2] == ("Egyptian cat", "espresso")  # the class predicted by the trained network
    top = {name: one.similarity["top"] for name, one in evidence.methods.items()}
    assert 0.3 < top["gradient"].same < 0.6
    assert top["guided_backprop"].same > 0.99
    assert top["zeiler_fergus"].same > 0.99
    assert abs(top["gradcam"].same - top["gradcam"].chance) < 0.3
    assert {n: one.verdict for n, one in evidence.methods.items() if one.verdict != "INCONCLUSIVE"} == {
        "guided_backprop": "FAIL",
        "zeiler_fergus": "FAIL",
    }
    assert evidence["gradient"].tests["T1"].verdict == "PASS"
    for maps in evidence.maps.values():
        assert list(maps) == ["trained", *NETWORK_KINDS]
        assert all(len(m) == len(files) for m in maps.values())


# --- chance level and targets


def test_check_corrects_for_chance_similarity(trained_net):
    """A blob with a small part that depends on the weights: most of its similarity is shared by different inputs."""
    net, x = trained_net

    def kernel(x, gradient):
        """A large blob plus a fraction of the gradient."""
        rows = torch.arange(x.shape[-1], dtype=x.dtype) - x.shape[-1] / 2
        return torch.exp(-(rows[:, None] ** 2 + rows**2) / 60) + 0.5 * gradient / gradient.abs().amax((2, 3, 4), True)

    evidence = seewhy.check(net, x, Method(kernel, "input_gradient", "Blob", "none"))["kernel"]
    assert evidence.similarity["top"].same > 0.75  # the uncorrected value would fail
    assert evidence.similarity["top"].chance > 0.6
    assert evidence.tests["T1"].estimate < evidence.similarity["top"].same - 0.1


def test_check_explains_class_of_trained_network():
    """Also where the randomized networks predict another class."""
    net, x = small_classifier(2), torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(2)).double()
    recorded = []

    def kernel(x, score):
        """Any map; records the explained scores."""
        recorded.append(score.detach().clone())
        slope = torch.arange(x[0].numel()).view(1, 1, *x.shape[1:]).to(x)
        return Attribution(slope.repeat(len(x), score.shape[1], 1, 1, 1))

    with torch.no_grad():
        best = net(x).argmax(1)
        outputs = [
            one.model.forward(x)
            for one in randomized_networks(*prepare_model_and_input(net, x), 4, 0, share_trunk=False)
        ]
        assert sum(int((z.argmax(1) != best).sum()) for z in outputs) > len(outputs)  # most predictions differ
    seewhy.check(net, x, input_only_method(kernel))
    explained = torch.cat([a.flatten() for a in recorded])
    for z in outputs:
        expected, predicted = z.gather(1, best[:, None])[:, 0], z.amax(1)
        for n in range(len(x)):
            assert (explained - expected[n]).abs().min() < 1e-9
            if predicted[n] != expected[n]:
                assert (explained - predicted[n]).abs().min() > 1e-9


def test_check_targets():
    net, x = small_classifier(2), torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(2)).double()
    fixed = seewhy.check(net, x, "gradient", target=2)
    each = seewhy.check(net, x, "gradient", target=torch.tensor([2, 2, 2, 2, 2]))
    assert fixed["gradient"] == each["gradient"] or verdicts_of(fixed["gradient"]) == verdicts_of(each["gradient"])
    assert fixed.labels == ("2",) * 5
    assert states_equal(fixed.maps["gradient"]["all"], each.maps["gradient"]["all"])
    function = seewhy.check(net, x, "gradient", target=lambda z: z[:, 2])
    assert function["gradient"].tests["T3"].verdict == "NOT APPLICABLE"
    assert "function" in function["gradient"].tests["T3"].reason
    for kind in ("trained", *NETWORK_KINDS):  # the same target as a function, without the shared trunk
        torch.testing.assert_close(function.maps["gradient"][kind], fixed.maps["gradient"][kind])
    with pytest.raises(OptionError, match="one class per input"):
        seewhy.check(net, x, "gradient", target=[1, 2])


class HiddenSoftmax(nn.Module):
    """A softmax that is not recognized as one."""

    def forward(self, z):
        return z.exp() / z.exp().sum(1, keepdim=True)


@pytest.mark.parametrize(("classes", "end", "why"), [
    (1, nn.Identity(), "one score"), (2, HiddenSoftmax(), "two probabilities"), (2, nn.Softmax(1), ""),
    (2, nn.Identity(), ""), (3, HiddenSoftmax(), "")])  # fmt: skip
def test_check_without_other_class(classes, end, why):
    net = nn.Sequential(small_classifier(2, classes), end)
    x = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(2)).double()
    one = seewhy.check(net, x, "gradient")["gradient"].tests["T3"]
    assert (one.verdict == "NOT APPLICABLE") == bool(why)
    assert why in one.reason


# --- degenerate networks


class Gate(nn.Module):
    """The output is scaled by the only positive one of 400 parameters; randomized, it is almost never positive."""

    def __init__(self, how):
        super().__init__()
        self.body = small_classifier(2).float()
        self.gate = nn.Parameter(torch.full((400,), -1.0))
        self.how = how
        with torch.no_grad():
            self.gate[0] = 1

    def forward(self, x):
        return self.body(x) * self.how(self.gate[:1])


@pytest.mark.parametrize(("how", "why"), [(torch.relu, "the same for every input"), (torch.sqrt, "NaN")])
def test_check_invalid_for_degenerate_network(how, why):
    x = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evidence = seewhy.check(Gate(how), x, ["gradient", "gradcam"])
    for name in ("gradient", "gradcam"):
        assert evidence[name].verdict == "INVALID"
        assert why in evidence[name].reason
    assert any(note.startswith("INVALID") for note in evidence.notes)
    assert "INVALID" in str(evidence)
    assert evidence.show().size[0] > 100


def orthogonal(depth):
    """Deep network of scaled orthogonal layers; with the default initializer its output vanishes."""
    torch.manual_seed(0)
    net = nn.Sequential(*(layer for _ in range(depth) for layer in (nn.Linear(12, 12, bias=False), nn.Tanh())),
                        nn.Linear(12, 5, bias=False))  # fmt: skip
    with torch.no_grad():
        for layer in net:
            if isinstance(layer, nn.Linear):
                nn.init.orthogonal_(layer.weight).mul_(1.5)
    return net


def test_randomized_networks_fall_back_to_permuted_values():
    net, x = orthogonal(16), torch.randn(6, 12, generator=torch.Generator().manual_seed(2))
    networks = {one.kind: one for one in randomized_networks(*prepare_model_and_input(net, x), 1, 0, share_trunk=False)}
    assert networks["all"].failure == ""
    for (_, new), (name, old) in zip(networks["all"].model.module.named_parameters(), net.named_parameters(),
                                     strict=True):  # fmt: skip
        assert torch.equal(new.flatten().sort().values, old.flatten().sort().values), name
    top = dict(networks["top"].model.module.named_parameters())["32.weight"]  # not degenerate: drawn by the initializer
    assert not torch.equal(top.flatten().sort().values, net[32].weight.flatten().sort().values)


@pytest.mark.parametrize(("now", "why"), [
    ([1, 1, 1, 1], ""), ([20, 20, 20, 20], ""), ([0.05, 0.05, 0.05, 0.05], ""), ([99, 1, 1, 1e-9], ""),
    ([0.02, 0.02, 0.02, 0.02], "degenerate"), ([40, 40, 40, 40], "degenerate"), ([1, 1, 1, 0], "same for every input"),
    ([1, 1, float("nan"), 1], "NaN"), ([1, float("inf"), 1, 1], "NaN"),
])  # fmt: skip
def test_degeneracy_thresholds(now, why):
    """The median ratio of the standard deviations must be within a factor of 30, and the output must vary."""
    reason = _degeneracy([1, 1, 1, 1], now)
    assert why in reason
    assert bool(reason) == bool(why)


def test_check_invalid_if_scores_do_not_depend_on_weights():
    """The rank order of the scores is fixed and does not depend on the weights."""

    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.full((1,), 1e-3))
            self.register_buffer("scale", torch.arange(1.0, 9))

        def forward(self, x):
            return (x.relu().mean((1, 2, 3))[:, None] + self.weight) * self.scale

    x = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(2)) + 0.3
    evidence = seewhy.check(Fixed(), x, "gradient")
    assert evidence["gradient"].verdict == "INVALID"
    assert "the scores keep their rank order" in evidence["gradient"].reason


def test_check_invalid_if_control_is_misjudged(trained_net, monkeypatch):
    from seewhy.evaluation.sanity_checks import check as check_module

    net, x = trained_net
    informative = lambda score_fn, fill_fn, heatmaps, *_: 1 + np.arange(len(heatmaps)) / 100  # noqa: E731
    monkeypatch.setattr(check_module, "deletion_gain", informative)
    evidence = seewhy.check(net, x[:6], "gradient")
    assert evidence["gradient"].verdict == "INVALID"
    assert "T0 is PASS for the control 'random'" in evidence["gradient"].reason
    assert "noise is not informative" in evidence["gradient"].reason


# --- few inputs, errors


def test_check_one_input(trained_net):
    net, x = trained_net
    evidence = seewhy.check(net, x[:1], "gradient")
    assert evidence["gradient"].verdict == "INCONCLUSIVE"
    assert "at least 5" in evidence["gradient"].reason
    assert str(LEVELS["full"][0]) in evidence["gradient"].reason
    assert np.isfinite(evidence["gradient"].similarity["top"].same)
    assert evidence.show().size[0] > 100


def test_check_one_input_with_batch_norm_of_single_values():
    """Batch statistics cannot be estimated from one value."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(4),
                        nn.Linear(4, 3)).eval()  # fmt: skip
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    assert seewhy.check(net, x, "gradient")["gradient"].verdict in {"INCONCLUSIVE", "INVALID"}


def test_check_notes_number_of_inputs_used(trained_net):
    net, x = trained_net
    evidence = seewhy.check(net, torch.cat([x, x[:2]]), "gradient")
    assert len(evidence.input) == 16
    assert any("first 16 of 18" in note for note in evidence.notes)


def test_check_rejects_invalid_arguments(trained_net):
    net, x = trained_net
    with pytest.raises(ModelError, match="plain function"):
        seewhy.check(lambda x: net(x), x, "gradient")
    with pytest.raises(OptionError, match="quick"):
        seewhy.check(net, x, "gradient", level="slow")
    with pytest.raises(seewhy.UnknownNameError, match="gradient"):
        seewhy.check(net, x, "gradiant")
    with pytest.raises(OptionError, match="at least one"):
        seewhy.check(net, x, [])
    with pytest.raises(ModelError, match="no weights"):
        seewhy.check(nn.Sequential(nn.Flatten(), nn.ReLU()), x, "gradient")


def test_check_rejects_method_with_missing_capability():
    net, x = small_classifier(2), torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(2)).double()
    model = replace(wrap(net), capabilities=Capability.SCORES | Capability.LAYERS)
    with pytest.raises(ModelError, match="gradient requires"):
        seewhy.check(model, x, "gradient")
    evidence = seewhy.check(model, x, "occlusion")
    assert "gradient" not in evidence.controls
    assert evidence["occlusion"].verdict in {"PASS", "INCONCLUSIVE"}


# --- side effects


@pytest.mark.row(53)
def test_check_restores_state_after_exception():
    net, x = seewhy.testing.network(), seewhy.testing.inputs(5)
    calls = []

    def kernel(gradient):
        """Raises in the sixth call."""
        calls.append(1)
        if len(calls) == 6:
            raise ZeroDivisionError
        return gradient

    before = state(net)
    with pytest.raises(ZeroDivisionError):
        seewhy.check(net, x, Method(kernel, "input_gradient", "Raises", "none"))
    after = state(net)
    assert [key for key in before if not states_equal(before[key], after[key])] == []
    seewhy.check(net, x, ["gradient", "gradcam"])
    after = state(net)
    assert [key for key in before if not states_equal(before[key], after[key])] == []


def test_check_is_reproducible_with_seed():
    net, x = small_classifier(2), torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(2)).double()
    first, again, other = (seewhy.check(net, x, ["gradient", seewhy.smooth("gradient", 2)], seed=s) for s in (3, 3, 4))
    torch.manual_seed(7)
    for name in first.methods:
        assert repr(first[name]) == repr(again[name])
        assert states_equal(dict(first.maps[name]), dict(again.maps[name]))
        assert first[name].similarity != other[name].similarity
    assert first["smooth(gradient)"].tests["T1"].estimate != first["gradient"].tests["T1"].estimate


# --- shared trunk


def similarity_table(net, x, methods, share_trunk):
    """The similarities with the draws of the last layer as one network, or as separate networks."""
    model, inputs = prepare_model_and_input(net, x)
    with torch.no_grad():
        best = net(x).argmax(1, keepdim=True)
    trained = seewhy.explain(model, x, methods, target=best, upsample="none")
    classes = net(x[:1]).shape[1]
    table = SimilarityTable(model, inputs, dict(zip(methods, trained, strict=True)), {}, 3)
    for one in randomized_networks(model, inputs, 3, 0, share_trunk=share_trunk):
        target = best + torch.tensor(one.draws) * classes if len(one.draws) > 1 else best
        maps = seewhy.explain(one.model, x, methods, target=target, upsample="none")
        table.add(one, dict(zip(methods, maps, strict=True)))
    return table


def test_shared_trunk_has_same_similarities():
    net, x = small_classifier(2), torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(2)).double()
    model, inputs = prepare_model_and_input(net, x)
    assert next(randomized_networks(model, inputs, 3, 0, share_trunk=True)).draws == [0, 1, 2]
    # methods with few forward passes
    methods = ["gradient", "input_x_gradient", "guided_backprop", "zeiler_fergus", "gradcam",
               "layercam", "fullgrad", "guided_gradcam", "recipro_cam", "scorecam", "eigencam"]  # fmt: skip
    shared, separate = (similarity_table(net, x, methods, share_trunk) for share_trunk in (True, False))
    for name in methods:
        for kind in NETWORK_KINDS:
            for part in ("same_input", "different_inputs", "partial"):
                a, b = getattr(shared, part)[name][kind], getattr(separate, part)[name][kind]
                np.testing.assert_allclose(a, b, atol=2e-3, err_msg=f"{name}, {kind}, {part}")


class PostprocessedOutput(nn.Module):
    """Networks whose output is computed from the output of the last layer."""

    def __init__(self, how):
        super().__init__()
        self.body = small_classifier(2).double()
        self.how = how

    def forward(self, x):
        return {"soft": lambda z: z.softmax(1), "scaled": lambda z: z * 2, "tuple": lambda z: z[:, :3]}[self.how](
            self.body(x)
        )


@pytest.mark.parametrize("how", ["soft", "scaled", "tuple"])
def test_trunk_not_shared_if_last_layer_is_not_output(how):
    x = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(2)).double()
    assert [
        one.draws
        for one in randomized_networks(*prepare_model_and_input(PostprocessedOutput(how), x), 2, 0, share_trunk=True)
        if one.kind == "top"
    ] == [[0], [1]]


# --- ensembles, other inputs


def test_check_ensemble_methods(trained_net):
    net, x = trained_net
    evidence = seewhy.check(net, x[:5], [seewhy.smooth("gradient", 4), seewhy.tta("gradcam"), "gradient"])
    assert list(evidence.methods) == ["smooth(gradient)", "tta(gradcam)", "gradient"]
    assert evidence["smooth(gradient)"].tests["T1"].verdict != "FAIL"
    assert list(evidence.maps) == list(evidence.methods)
    assert "smooth(gradient)" in str(evidence)


@pytest.mark.parametrize("shape", [(5, 3, 24), (5, 3, 6, 6, 6), (6, 9)])
def test_check_sequences_volumes_and_features(shape):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(2)).double()
    net = small_classifier(len(shape) - 2) if len(shape) > 2 else with_random_weights(
        nn.Sequential(nn.Linear(9, 12), nn.ReLU(), nn.Linear(12, 4)).double()
    )  # fmt: skip
    methods = ["gradient", "gradcam"] if len(shape) > 2 else ["gradient"]
    evidence = seewhy.check(net, x, methods)
    assert evidence["gradient"].verdict in {"PASS", "INCONCLUSIVE", "CONFOUNDED"}
    assert evidence.controls["random"].verdict != "PASS"
    assert evidence.show().size[0] > 100


def test_check_channels_last_layout():
    net = small_classifier(2)
    model = seewhy.wrap(net, layout="NHWC", forward=lambda module, x: module(x.permute(0, 3, 1, 2)))
    x = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(2)).double()
    evidence, plain = seewhy.check(model, x.permute(0, 2, 3, 1), "gradient"), seewhy.check(net, x, "gradient")
    assert states_equal(evidence.maps["gradient"]["trained"], plain.maps["gradient"]["trained"])
    assert verdicts_of(evidence["gradient"]) == verdicts_of(plain["gradient"])


# --- randomized networks


def test_similarity_excludes_trained_network():
    """The similarity of the trained network with itself, 1, is not part of any mean."""
    net, x = small_classifier(2), torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(2)).double()
    evidence = seewhy.check(net, x, "gradient")
    model, inputs = prepare_model_and_input(net, x)
    with torch.no_grad():
        best = net(x).argmax(1)
    trained = seewhy.explain(net, x, "gradient", target=best).maps[:, 0].abs().flatten(1)
    for kind in NETWORK_KINDS:
        networks = randomized_networks(model, inputs, 4, 0, share_trunk=False)
        explanations = [seewhy.explain(n.model, x, "gradient", target=best) for n in networks if n.kind == kind]
        ranks = [normalized_ranks(e.maps[:, 0].abs().flatten(1)) for e in explanations]
        expected = [float((normalized_ranks(trained) * r).sum(1).mean()) for r in ranks]
        assert len(expected) == 4
        assert evidence["gradient"].similarity[kind].same == pytest.approx(np.mean(expected), abs=1e-6)


def test_randomized_networks_differ_in_every_parameter_and_draw():
    net = nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU(), nn.Conv2d(3, 3, 3), nn.Flatten(), nn.Linear(48, 3)).double()
    x = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(2)).double()
    networks = [
        n for n in randomized_networks(*prepare_model_and_input(net, x), 3, 0, share_trunk=False) if n.kind == "all"
    ]
    every = [dict(n.model.module.named_parameters()) for n in networks]
    for one in every:
        assert not torch.equal(one["0.weight"], one["2.weight"])  # equal shapes
        assert one["0.weight"].min() < 0 < one["0.weight"].max()  # both signs
    for name in every[0]:
        assert not torch.equal(every[0][name], every[1][name])
        assert not torch.equal(every[1][name], every[2][name])
    assert all(n.model.untouched == () for n in networks)


def test_randomized_networks_parameters_of_each_kind():
    """Last layer, upper half, all layers, and all layers but the last."""
    net = small_classifier(2)
    x = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(2)).double()
    networks = {n.kind: n.model for n in randomized_networks(*prepare_model_and_input(net, x), 1, 0, share_trunk=False)}
    names = [name for name, _ in net.named_parameters()]
    assert networks["top"].randomized == ("6.weight", "6.bias")
    assert networks["half"].randomized == ("2.weight", "2.bias", "6.weight", "6.bias")
    assert networks["all"].randomized == tuple(names)
    assert networks["bottom"].untouched == ("6.weight", "6.bias")


def test_constant_maps_have_similarity_zero(trained_net):
    """Not 1, as with image similarities; a note reports it."""
    net, x = trained_net

    def kernel(x, score):
        """A constant map."""
        return Attribution(torch.ones(len(x), score.shape[1], 1, *x.shape[2:]))

    evidence = seewhy.check(net, x[:5], input_only_method(kernel))
    assert evidence["kernel"].similarity["top"].same == 0
    assert evidence["kernel"].verdict != "PASS"
    assert any("constant" in note for note in evidence.notes)


def test_randomized_networks_estimate_batch_statistics():
    """With the statistics of the trained network, randomized networks would saturate."""
    net = deep_network(4, 8)
    x = load_digit_images()[0][:6]
    with torch.no_grad():
        for m in net.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.running_mean.fill_(50)
    randomized = next(
        n.model.module
        for n in randomized_networks(*prepare_model_and_input(net, x), 1, 0, share_trunk=False)
        if n.kind == "all"
    )
    input_means = {}
    bns = [m for m in randomized.modules() if isinstance(m, nn.BatchNorm2d)]
    for n, m in enumerate(bns):
        m.register_forward_pre_hook(lambda _m, args, n=n: input_means.update({n: args[0].mean((0, 2, 3))}))
    with torch.no_grad():
        randomized(x)
    for n, m in enumerate(bns):
        torch.testing.assert_close(m.running_mean, input_means[n], atol=1e-3, rtol=1e-3)


def test_check_does_not_change_the_network_while_running(trained_net):
    """Copies are randomized, not the network itself."""
    net, x = trained_net
    original = copy.deepcopy(net).state_dict()
    unchanged = []

    def kernel(gradient):
        """The gradient; records whether the network of the caller is unchanged."""
        unchanged.append(all(torch.equal(value, original[name]) for name, value in net.state_dict().items()))
        return gradient

    seewhy.check(net, x[:5], Method(kernel, "input_gradient", "Records", "none"))
    assert all(unchanged)
    assert len(unchanged) > 10
    assert F.cross_entropy(net(x), net(x).argmax(1)).isfinite()


class ContiguousView(nn.Module):
    """Its features are reshaped with `view`, which requires contiguous memory."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Linear(400, 3)

    def forward(self, x):
        h = self.a(x).relu()
        return self.b(h.view(len(h), -1))


@pytest.mark.parametrize(("net", "x", "works"), [
    (ContiguousView(), torch.randn(3, 3, 12, 12), False),
    (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(400, 3)), torch.randn(3, 3, 12, 12), True),
    (nn.Sequential(nn.Conv3d(1, 4, 3), nn.Flatten(), nn.Linear(32, 3)), torch.randn(3, 1, 4, 4, 4), False),
    (nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), torch.randn(3, 3, 2, 2), False),
])  # fmt: skip
def test_randomized_networks_use_channels_last_if_supported(net, x, works):
    """The memory format of the network itself does not change."""
    model, x = prepare_model_and_input(net.eval(), x)
    strides = [w.stride() for w in net.parameters()]
    assert _supports_channels_last(model, x) == works
    assert [w.stride() for w in net.parameters()] == strides
    for one in randomized_networks(model, x, 1, 0, share_trunk=False):
        channels_last = [w for w in one.model.module.parameters() if w.ndim == 4 and not w.is_contiguous()]
        assert bool(channels_last) == works
        run_forward(one.model, x, graph=False)
