"""What `check` says of maps whose answer is known, and what it leaves behind."""

import copy
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
import torch
from tests.evidence.digits import blob, deep, digits, from_input, noise, slopes, taught
from tests.networks import classifier, drawn
from torch import nn
from torch.nn import functional as F

import seewhy
from seewhy import ModelError, OptionError
from seewhy.evidence.check import LEVELS
from seewhy.evidence.networks import KINDS, _dead, _works_channels_last, networks
from seewhy.evidence.similarity import ranks
from seewhy.evidence.table import Table
from seewhy.methods.method import Method
from seewhy.models import wrap
from seewhy.testing import same, state
from seewhy.trace.forward import run
from seewhy.trace.ready import ready
from seewhy.types import Attribution, Can

TESTS = ("T0", "T1", "T2", "T3")


def words(judgement):
    return [judgement.tests[t].verdict for t in TESTS]


@pytest.fixture(scope="module")
def ten():
    """A network that learnt digits, and 16 of those it has not seen."""
    x, y = digits()
    net = taught(deep(), x[:1000], y[:1000])
    with torch.no_grad():
        assert float((net(x[1400:]).argmax(1) == y[1400:]).float().mean()) > 0.6
    return net, x[1400:1416]


@pytest.fixture(scope="module")
def seen(ten):
    """The check of several methods, once."""
    net, x = ten
    before = state(net)
    found = seewhy.check(net, x, ["gradient", "gradcam", "guided_backprop", "input_x_gradient", "eigencam"], seed=1)
    after = state(net)
    assert all(same(before[key], after[key]) for key in before), "the check left a trace"
    return found


# --- known answers


def test_gradient_and_gradcam_depend_on_the_weights(seen):
    for name in ("gradient", "gradcam"):
        one = seen[name]
        assert one.verdict in {"PASS", "INCONCLUSIVE"}, one.reason
        assert words(one)[1:] == ["PASS"] * 3
        assert one.tests["T1"].estimate < 0.6
    assert abs(seen["gradient"].similarity["all"].same - seen["gradient"].similarity["all"].chance) < 0.1


def test_guided_backprop_fails(seen):
    """Deep enough, it is about the input only, whatever the last layer says."""
    one = seen["guided_backprop"]
    assert one.verdict == "FAIL"
    assert one.reason.startswith("T1: it stays")
    assert one.tests["T1"].low > 0.75
    assert one.similarity["top"].same > 0.9
    assert one.similarity["top"].same - seen["gradient"].similarity["top"].same > 0.3


def test_a_product_with_sparse_input_is_confounded_and_never_fails(ten, seen):
    one = seen["input_x_gradient"]
    assert one.verdict == "CONFOUNDED"
    assert one.similarity["top"].same > 0.95
    assert one.similarity["top"].partial < 0.6
    assert words(one)[2:] == ["PASS", "PASS"]  # on what is left
    net, x = ten
    assert seewhy.check(net, x[:5], "integrated_gradients").methods["integrated_gradients"].verdict == "CONFOUNDED"


def test_the_controls_are_told_for_what_they_are(seen):
    assert set(seen.controls) == {"edges", "random", "centre"}  # gradient is asked for
    assert seen.controls["edges"].verdict == "FAIL"
    assert words(seen.controls["edges"]) == ["NOT APPLICABLE", "FAIL", "FAIL", "FAIL"]
    assert seen.controls["centre"].verdict == "FAIL"
    assert words(seen.controls["centre"])[1:] == ["FAIL"] * 3
    assert "input" in seen.controls["centre"].reason
    assert words(seen.controls["random"])[1:3] == ["PASS", "PASS"]
    assert words(seen.controls["random"])[0] != "PASS"
    assert seen.controls["random"].verdict != "PASS"


def test_a_map_that_knows_no_class(seen, ten):
    """EigenCAM promises no class, so that is not what it is failed for; a method that promised one would be."""
    assert {name for name, m in seewhy.METHODS.items() if m.classless} == {"eigencam", "rollout"}
    test = seen["eigencam"].tests["T3"]
    assert (test.verdict, test.estimate) == ("NOT APPLICABLE", pytest.approx(1))
    assert not seen["eigencam"].reason.startswith("T3")
    net, x = ten
    promised = seewhy.check(net, x, replace(seewhy.METHODS["eigencam"], classless=False), seed=1)
    (one,) = promised.methods.values()
    assert one.tests["T3"].verdict == one.verdict == "FAIL"
    smoothed = seewhy.check(net, x[:5], seewhy.smooth("eigencam", samples=2), seed=1)
    (one,) = smoothed.methods.values()
    assert one.tests["T3"].verdict == "NOT APPLICABLE"


def test_maps_that_are_no_explanations_never_pass(ten):
    net, x = ten
    fakes = [blob((0.3, 0.6), 0.2), slopes(1), noise("fog", 5), noise("grain", 1)]
    found = seewhy.check(net, x, fakes)
    assert not [name for name, one in found.methods.items() if one.verdict == "PASS"]
    assert found["blob_0.3_0.6_0.2"].verdict == found["slopes_1"].verdict == "FAIL"
    assert "gradient" in found.controls


@pytest.mark.row(44, 56, 57)
def test_known_similarities_of_lite0(lite0, shipped):
    """Adebayo et al. 2018 and Sixt et al. 2020, on pictures: gradient changes, the two with changed rectifiers stay."""
    more = Path(sklearn.datasets.__file__).parent / "images"
    files = [*shipped.values(), more / "china.jpg", more / "flower.jpg"]
    found = seewhy.check(lite0, [str(f) for f in files], ["gradient", "guided_backprop", "zeiler_fergus", "gradcam"])
    assert len(found.input) == len(files)
    assert found.labels[:2] == ("Egyptian cat", "espresso")  # and the class stays that, whatever the others say
    top = {name: one.similarity["top"] for name, one in found.methods.items()}
    assert 0.3 < top["gradient"].same < 0.6
    assert top["guided_backprop"].same > 0.99
    assert top["zeiler_fergus"].same > 0.99
    assert abs(top["gradcam"].same - top["gradcam"].chance) < 0.3
    assert {n: one.verdict for n, one in found.methods.items() if one.verdict != "INCONCLUSIVE"} == {
        "guided_backprop": "FAIL",
        "zeiler_fergus": "FAIL",
    }
    assert found["gradient"].tests["T1"].verdict == "PASS"
    for maps in found.maps.values():  # side by side
        assert list(maps) == ["trained", *KINDS]
        assert all(len(m) == len(files) for m in maps.values())


# --- chance, class, classes


def test_chance_level_matters(ten):
    """A blob that moves a little with the weights is alike for all inputs: much of the likeness is chance."""
    net, x = ten

    def kernel(x, gradient):
        """A large blob with some gradient on it."""
        rows = torch.arange(x.shape[-1], dtype=x.dtype) - x.shape[-1] / 2
        return torch.exp(-(rows[:, None] ** 2 + rows**2) / 60) + 0.5 * gradient / gradient.abs().amax((2, 3, 4), True)

    found = seewhy.check(net, x, Method(kernel, "input_gradient", "Blob", "none"))["kernel"]
    assert found.similarity["top"].same > 0.75  # the naive number condemns it
    assert found.similarity["top"].chance > 0.6
    assert found.tests["T1"].estimate < found.similarity["top"].same - 0.1


def test_the_class_is_that_of_the_trained_network():
    """Also where the networks with drawn weights say something else."""
    net, x = classifier(2), torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(2)).double()
    asked = []

    def kernel(x, score):
        """Any slope, and a note of the scores that were explained."""
        asked.append(score.detach().clone())
        slope = torch.arange(x[0].numel()).view(1, 1, *x.shape[1:]).to(x)
        return Attribution(slope.repeat(len(x), score.shape[1], 1, 1, 1))

    with torch.no_grad():
        best = net(x).argmax(1)
        drawn_ones = [one.model.forward(x) for one in networks(*ready(net, x), 4, 0, heads=False)]
        assert sum(int((z.argmax(1) != best).sum()) for z in drawn_ones) > len(drawn_ones)  # most of them flip
    seewhy.check(net, x, from_input(kernel))
    explained = torch.cat([a.flatten() for a in asked])
    for z in drawn_ones:
        mine, theirs = z.gather(1, best[:, None])[:, 0], z.amax(1)
        for n in range(len(x)):
            assert (explained - mine[n]).abs().min() < 1e-9
            if theirs[n] != mine[n]:
                assert (explained - theirs[n]).abs().min() > 1e-9


def test_targets():
    net, x = classifier(2), torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(2)).double()
    fixed = seewhy.check(net, x, "gradient", target=2)
    each = seewhy.check(net, x, "gradient", target=torch.tensor([2, 2, 2, 2, 2]))
    assert fixed["gradient"] == each["gradient"] or words(fixed["gradient"]) == words(each["gradient"])
    assert fixed.labels == ("2",) * 5
    assert same(fixed.maps["gradient"]["all"], each.maps["gradient"]["all"])
    function = seewhy.check(net, x, "gradient", target=lambda z: z[:, 2])
    assert function["gradient"].tests["T3"].verdict == "NOT APPLICABLE"
    assert "function" in function["gradient"].tests["T3"].reason
    for kind in ("trained", *KINDS):  # the same question, asked in another way, and without the shared heads
        torch.testing.assert_close(function.maps["gradient"][kind], fixed.maps["gradient"][kind])
    with pytest.raises(OptionError, match="one class an input"):
        seewhy.check(net, x, "gradient", target=[1, 2])


@pytest.mark.parametrize(("classes", "soft", "why"), [(1, False, "one score"), (2, True, "two probabilities"),
                                                      (2, False, ""), (3, True, "")])  # fmt: skip
def test_where_there_is_no_other_class(classes, soft, why):
    net = classifier(2, classes)
    net = nn.Sequential(net, nn.Softmax(1)) if soft else net
    x = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(2)).double()
    one = seewhy.check(net, x, "gradient")["gradient"].tests["T3"]
    assert (one.verdict == "NOT APPLICABLE") == bool(why)
    assert why in one.reason


# --- networks that say nothing


class Gate(nn.Module):
    """One of many values is let through; drawn anew or shuffled, hardly ever one above 0."""

    def __init__(self, how):
        super().__init__()
        self.body = classifier(2).float()
        self.gate = nn.Parameter(torch.full((400,), -1.0))
        self.how = how
        with torch.no_grad():
            self.gate[0] = 1

    def forward(self, x):
        return self.body(x) * self.how(self.gate[:1])


@pytest.mark.parametrize(("how", "why"), [(torch.relu, "the same for every input"), (torch.sqrt, "NaN")])
def test_a_dead_network_makes_it_invalid(how, why):
    x = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = seewhy.check(Gate(how), x, ["gradient", "gradcam"])
    for name in ("gradient", "gradcam"):
        assert found[name].verdict == "INVALID"
        assert why in found[name].reason
    assert any(note.startswith("INVALID") for note in found.notes)
    assert "INVALID" in str(found)
    assert found.show().size[0] > 100


def orthogonal(depth):
    """Linear layers that keep lengths; those of the usual law shrink them to nothing on the way."""
    torch.manual_seed(0)
    net = nn.Sequential(*(layer for _ in range(depth) for layer in (nn.Linear(12, 12, bias=False), nn.Tanh())),
                        nn.Linear(12, 5, bias=False))  # fmt: skip
    with torch.no_grad():
        for layer in net:
            if isinstance(layer, nn.Linear):
                nn.init.orthogonal_(layer.weight).mul_(1.5)
    return net


def test_where_the_usual_law_kills_a_network_its_values_are_shuffled():
    net, x = orthogonal(16), torch.randn(6, 12, generator=torch.Generator().manual_seed(2))
    found = {one.kind: one for one in networks(*ready(net, x), 1, 0, heads=False)}
    assert found["all"].trouble == ""
    for (_, new), (name, old) in zip(found["all"].model.module.named_parameters(), net.named_parameters(),
                                     strict=True):  # fmt: skip
        assert torch.equal(new.flatten().sort().values, old.flatten().sort().values), name
    top = dict(found["top"].model.module.named_parameters())["32.weight"]  # alive: drawn by the law
    assert not torch.equal(top.flatten().sort().values, net[32].weight.flatten().sort().values)


@pytest.mark.parametrize(("now", "why"), [
    ([1, 1, 1, 1], ""), ([20, 20, 20, 20], ""), ([0.05, 0.05, 0.05, 0.05], ""), ([99, 1, 1, 1e-9], ""),
    ([0.02, 0.02, 0.02, 0.02], "dead"), ([40, 40, 40, 40], "dead"), ([1, 1, 1, 0], "same for every input"),
    ([1, 1, float("nan"), 1], "NaN"), ([1, float("inf"), 1, 1], "NaN"),
])  # fmt: skip
def test_dead_or_alive(now, why):
    """Within a factor of 30 of what the layers gave, and another answer for another input."""
    said = _dead([1, 1, 1, 1], now)
    assert why in said
    assert bool(said) == bool(why)


def test_a_network_that_learnt_nothing_is_invalid():
    """If scores rank as before without any learnt weight, the answer does not come from them."""

    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.full((1,), 1e-3))
            self.register_buffer("scale", torch.arange(1.0, 9))

        def forward(self, x):
            return (x.relu().mean((1, 2, 3))[:, None] + self.weight) * self.scale

    x = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(2)) + 0.3
    found = seewhy.check(Fixed(), x, "gradient")
    assert found["gradient"].verdict == "INVALID"
    assert "still rank as before" in found["gradient"].reason


def test_a_control_that_is_misjudged_makes_it_invalid(ten, monkeypatch):
    from seewhy.evidence import check as room

    net, x = ten
    monkeypatch.setattr(room, "gain", lambda scores, filled, m, *_: np.ones(len(m)) + np.arange(len(m)) / 100)
    found = seewhy.check(net, x[:6], "gradient")
    assert found["gradient"].verdict == "INVALID"
    assert "noise is informative" in found["gradient"].reason


# --- few inputs, refusals


def test_one_input(ten):
    net, x = ten
    found = seewhy.check(net, x[:1], "gradient")
    assert found["gradient"].verdict == "INCONCLUSIVE"
    assert "at least 5" in found["gradient"].reason
    assert str(LEVELS["full"][0]) in found["gradient"].reason
    assert np.isfinite(found["gradient"].similarity["top"].same)
    assert found.show().size[0] > 100


def test_one_input_and_batch_statistics_of_single_values():
    """Statistics cannot be estimated from one value."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(4),
                        nn.Linear(4, 3)).eval()  # fmt: skip
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    assert seewhy.check(net, x, "gradient")["gradient"].verdict in {"INCONCLUSIVE", "INVALID"}


def test_the_first_inputs_are_used_and_it_is_said(ten):
    net, x = ten
    found = seewhy.check(net, torch.cat([x, x[:2]]), "gradient")
    assert len(found.input) == 16
    assert any("first 16 of 18" in note for note in found.notes)


def test_refusals(ten):
    net, x = ten
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


def test_a_method_that_needs_what_the_model_cannot_give():
    net, x = classifier(2), torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(2)).double()
    model = replace(wrap(net), can=Can.SCORES | Can.LAYERS)
    with pytest.raises(ModelError, match="gradient needs"):
        seewhy.check(model, x, "gradient")
    found = seewhy.check(model, x, "occlusion")
    assert "gradient" not in found.controls
    assert found["occlusion"].verdict in {"PASS", "INCONCLUSIVE"}


# --- nothing left behind


@pytest.mark.row(53)
def test_a_method_that_raises_leaves_no_trace():
    net, x = seewhy.testing.network(), seewhy.testing.inputs(5)
    calls = []

    def kernel(gradient):
        """Explodes on the third network."""
        calls.append(1)
        if len(calls) == 6:
            raise ZeroDivisionError
        return gradient

    before = state(net)
    with pytest.raises(ZeroDivisionError):
        seewhy.check(net, x, Method(kernel, "input_gradient", "Bomb", "none"))
    after = state(net)
    assert [key for key in before if not same(before[key], after[key])] == []
    seewhy.check(net, x, ["gradient", "gradcam"])
    after = state(net)
    assert [key for key in before if not same(before[key], after[key])] == []


def test_same_seed_same_evidence():
    net, x = classifier(2), torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(2)).double()
    first, again, other = (seewhy.check(net, x, ["gradient", seewhy.smooth("gradient", 2)], seed=s) for s in (3, 3, 4))
    torch.manual_seed(7)
    for name in first.methods:
        assert repr(first[name]) == repr(again[name])
        assert same(dict(first.maps[name]), dict(again.maps[name]))
        assert first[name].similarity != other[name].similarity
    assert first["smooth(gradient)"].tests["T1"].estimate != first["gradient"].tests["T1"].estimate


# --- sharing


def gathered(net, x, methods, heads):
    """The similarities with the networks run together or one by one."""
    model, inputs = ready(net, x)
    with torch.no_grad():
        best = net(x).argmax(1, keepdim=True)
    trained = seewhy.explain(model, x, methods, target=best, upsample="none")
    classes = net(x[:1]).shape[1]
    table = Table(model, inputs, trained, {}, 3)
    for one in networks(model, inputs, 3, 0, heads=heads):
        aim = best + torch.tensor(one.draws) * classes if len(one.draws) > 1 else best
        table.add(one, seewhy.explain(one.model, x, methods, target=aim, upsample="none"))
    return table


def test_heads_that_share_a_trunk_give_the_same_numbers():
    net, x = classifier(2), torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(2)).double()
    model, inputs = ready(net, x)
    assert next(networks(model, inputs, 3, 0, heads=True)).draws == [0, 1, 2]
    # every method that needs no long run of its own
    methods = ["gradient", "input_x_gradient", "guided_backprop", "zeiler_fergus", "gradcam",
               "layercam", "fullgrad", "guided_gradcam", "recipro_cam", "scorecam", "eigencam"]  # fmt: skip
    together, alone = (gathered(net, x, methods, heads) for heads in (True, False))
    for name in methods:
        for kind in KINDS:
            for part in ("same", "cross", "partial"):
                a, b = getattr(together, part)[name][kind], getattr(alone, part)[name][kind]
                np.testing.assert_allclose(a, b, atol=2e-3, err_msg=f"{name}, {kind}, {part}")


class Odd(nn.Module):
    """Networks in which the last layer's output is not what the network gives."""

    def __init__(self, how):
        super().__init__()
        self.body = classifier(2).double()
        self.how = how

    def forward(self, x):
        return {"soft": lambda z: z.softmax(1), "scaled": lambda z: z * 2, "tuple": lambda z: z[:, :3]}[self.how](
            self.body(x)
        )


@pytest.mark.parametrize("how", ["soft", "scaled", "tuple"])
def test_no_sharing_where_something_follows_the_last_layer(how):
    x = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(2)).double()
    assert [one.draws for one in networks(*ready(Odd(how), x), 2, 0, heads=True) if one.kind == "top"] == [[0], [1]]


# --- methods around methods, other kinds of input


def test_averaged_methods(ten):
    net, x = ten
    found = seewhy.check(net, x[:5], [seewhy.smooth("gradient", 4), seewhy.tta("gradcam"), "gradient"])
    assert list(found.methods) == ["smooth(gradient)", "tta(gradcam)", "gradient"]
    assert found["smooth(gradient)"].tests["T1"].verdict != "FAIL"
    assert list(found.maps) == list(found.methods)
    assert "smooth(gradient)" in str(found)


@pytest.mark.parametrize("shape", [(5, 3, 24), (5, 3, 6, 6, 6), (6, 9)])
def test_sequences_volumes_and_features(shape):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(2)).double()
    net = classifier(len(shape) - 2) if len(shape) > 2 else drawn(
        nn.Sequential(nn.Linear(9, 12), nn.ReLU(), nn.Linear(12, 4)).double()
    )  # fmt: skip
    methods = ["gradient", "gradcam"] if len(shape) > 2 else ["gradient"]
    found = seewhy.check(net, x, methods)
    assert found["gradient"].verdict in {"PASS", "INCONCLUSIVE", "CONFOUNDED"}
    assert found.controls["random"].verdict != "PASS"
    assert found.show().size[0] > 100


def test_another_layout():
    net = classifier(2)
    model = seewhy.wrap(net, layout="NHWC", forward=lambda module, x: module(x.permute(0, 3, 1, 2)))
    x = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(2)).double()
    found, plain = seewhy.check(model, x.permute(0, 2, 3, 1), "gradient"), seewhy.check(net, x, "gradient")
    assert same(found.maps["gradient"]["trained"], plain.maps["gradient"]["trained"])
    assert words(found["gradient"]) == words(plain["gradient"])


# --- what other sanity checks get wrong


def test_the_trained_network_is_not_counted():
    """Its likeness with itself, 1, would lift every mean."""
    net, x = classifier(2), torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(2)).double()
    found = seewhy.check(net, x, "gradient")
    model, inputs = ready(net, x)
    with torch.no_grad():
        best = net(x).argmax(1)
    trained = seewhy.explain(net, x, "gradient", target=best).maps[:, 0].abs().flatten(1)
    for kind in KINDS:
        likeness = [
            float((ranks(trained) * ranks(seewhy.explain(one.model, x, "gradient", target=best).maps[:, 0].abs()
                                          .flatten(1))).sum(1).mean())
            for one in networks(model, inputs, 4, 0, heads=False) if one.kind == kind
        ]  # fmt: skip
        assert len(likeness) == 4
        assert found["gradient"].similarity[kind].same == pytest.approx(np.mean(likeness), abs=1e-6)


def test_every_tensor_and_every_draw_has_a_stream_of_its_own():
    net = nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU(), nn.Conv2d(3, 3, 3), nn.Flatten(), nn.Linear(48, 3)).double()
    x = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(2)).double()
    found = [n for n in networks(*ready(net, x), 3, 0, heads=False) if n.kind == "all"]
    every = [dict(n.model.module.named_parameters()) for n in found]
    for one in every:
        assert not torch.equal(one["0.weight"], one["2.weight"])  # equal shapes
        assert one["0.weight"].min() < 0 < one["0.weight"].max()  # of both signs
    for name in every[0]:
        assert not torch.equal(every[0][name], every[1][name])
        assert not torch.equal(every[1][name], every[2][name])
    assert all(n.model.untouched == () for n in found)


def test_which_networks_are_compared():
    """Last layer, upper half, everything, and everything below the last layer."""
    net = classifier(2)
    x = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(2)).double()
    found = {n.kind: n.model for n in networks(*ready(net, x), 1, 0, heads=False)}
    names = [name for name, _ in net.named_parameters()]
    assert found["top"].randomized == ("6.weight", "6.bias")
    assert found["half"].randomized == ("2.weight", "2.bias", "6.weight", "6.bias")
    assert found["all"].randomized == tuple(names)
    assert found["bottom"].untouched == ("6.weight", "6.bias")


def test_constant_maps_are_not_alike(ten):
    """Not 1, as two flat pictures would be by a likeness of pictures; and the reader is told."""
    net, x = ten

    def kernel(x, score):
        """The same everywhere."""
        return Attribution(torch.ones(len(x), score.shape[1], 1, *x.shape[2:]))

    found = seewhy.check(net, x[:5], from_input(kernel))
    assert found["kernel"].similarity["top"].same == 0
    assert found["kernel"].verdict != "PASS"
    assert any("constant" in note for note in found.notes)


def test_batch_statistics_are_those_of_the_inputs():
    """With the statistics of the trained network, drawn weights saturate or die."""
    net = deep(4, 8)
    x = digits()[0][:6]
    with torch.no_grad():
        for m in net.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.running_mean.fill_(50)
    twin = next(n.model.module for n in networks(*ready(net, x), 1, 0, heads=False) if n.kind == "all")
    seen = {}
    bns = [m for m in twin.modules() if isinstance(m, nn.BatchNorm2d)]
    for n, m in enumerate(bns):
        m.register_forward_pre_hook(lambda _m, args, n=n: seen.update({n: args[0].mean((0, 2, 3))}))
    with torch.no_grad():
        twin(x)
    for n, m in enumerate(bns):
        torch.testing.assert_close(m.running_mean, seen[n], atol=1e-3, rtol=1e-3)


def test_the_original_can_be_used_meanwhile(ten):
    """A copy is drawn anew, not the network itself."""
    net, x = ten
    twin = copy.deepcopy(net)
    seen = []

    def kernel(gradient):
        """And a look at the network of the caller."""
        seen.append(all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), twin.state_dict().values(),
                                                          strict=True)))  # fmt: skip
        return gradient

    seewhy.check(net, x[:5], Method(kernel, "input_gradient", "Look", "none"))
    assert all(seen)
    assert len(seen) > 10
    assert F.cross_entropy(net(x), net(x).argmax(1)).isfinite()


class Viewed(nn.Module):
    """Looks at its features in a way that only one order in memory allows."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Linear(400, 3)

    def forward(self, x):
        h = self.a(x).relu()
        return self.b(h.view(len(h), -1))


@pytest.mark.parametrize(("net", "x", "works"), [
    (Viewed(), torch.randn(3, 3, 12, 12), False),
    (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(400, 3)), torch.randn(3, 3, 12, 12), True),
    (nn.Sequential(nn.Conv3d(1, 4, 3), nn.Flatten(), nn.Linear(32, 3)), torch.randn(3, 1, 4, 4, 4), False),
    (nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), torch.randn(3, 3, 2, 2), False),
])  # fmt: skip
def test_channels_last_where_it_works(net, x, works):
    """The network itself keeps its order."""
    model, x = ready(net.eval(), x)
    strides = [w.stride() for w in net.parameters()]
    assert _works_channels_last(model, x) == works
    assert [w.stride() for w in net.parameters()] == strides
    for one in networks(model, x, 1, 0, heads=False):
        quick = [w for w in one.model.module.parameters() if w.ndim == 4 and not w.is_contiguous()]
        assert bool(quick) == works
        run(one.model, x, graph=False)
