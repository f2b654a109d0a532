"""All forms of target, all scores."""

from collections import namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

import seewhy
from seewhy import targets

LABELS = ["cat", "dog, hound", "crane", "crane", "emu"]


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).double()


@pytest.fixture(scope="module")
def segmenter():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, 4, 3, padding=1)).double()


X = torch.randn(2, 3, 6, 9, generator=torch.Generator().manual_seed(5)).double()


def direct(net, x, score):
    """d score / d x, computed by autograd without seewhy."""
    x = x.clone().requires_grad_()
    return torch.autograd.grad(score(net(x)).sum(), x)[0]


@pytest.mark.row(13, 81, 96, 97, 133, 134)
def test_explain_with_all_forms_of_target(net):
    model = seewhy.wrap(net, labels=LABELS)
    best = net(X).argmax(1)
    order = net(X).argsort(1, descending=True)
    for target, expected in {
        "none": (None, best[:, None]),
        "index": (2, torch.tensor([[2], [2]])),
        "numpy index": (np.int64(2), torch.tensor([[2], [2]])),
        "label": ("emu", torch.tensor([[4], [4]])),
        "synonym, any case": ("HOUND", torch.tensor([[1], [1]])),
        "list": ([4, "cat", 1], torch.tensor([[4, 0, 1]] * 2)),
        "per sample": (torch.tensor([3, 0]), torch.tensor([[3], [0]])),
        "per sample, K": (torch.tensor([[3, 1], [0, 4]]), torch.tensor([[3, 1], [0, 4]])),
        "numpy": (np.array([[3, 1], [0, 4]]), torch.tensor([[3, 1], [0, 4]])),
        "numpy, reversed": (np.array([[1, 3], [4, 0]])[:, ::-1], torch.tensor([[3, 1], [0, 4]])),
        "numpy, big endian": (np.array([3, 0], ">i4"), torch.tensor([[3], [0]])),
        "labels per sample": (np.array(["emu", "cat"]), torch.tensor([[4], [0]])),
        "labels per sample, K": (np.array([["emu", "hound"], ["cat", "emu"]]), torch.tensor([[4, 1], [0, 4]])),
        "nested lists of labels": ([["emu"], ["cat"]], torch.tensor([[4], [0]])),
        "nested lists of indices": ([[3, 1], [0, 4]], torch.tensor([[3, 1], [0, 4]])),
        "nested lists of both": ([[3, "emu"], ["cat", 4]], torch.tensor([[3, 4], [0, 4]])),
        "labels of a prediction": ((("emu",), ("cat",)), torch.tensor([[4], [0]])),
        "top3": ("top3", order[:, :3]),
    }.values():
        e = seewhy.explain(model, X, "gradient", target=target)
        assert torch.equal(e.targets, expected), target
        assert torch.equal(e.scores, net(X).gather(1, expected).detach())
        assert e.labels == tuple(tuple(LABELS[i] for i in row) for row in expected.tolist())
        for n in range(2):
            for k, c in enumerate(expected[n]):
                assert torch.equal(e.values[n, k], direct(net, X[n : n + 1], lambda z, c=c: z[:, c])[0])


@pytest.mark.row(99, 100, 120)
def test_explain_with_functions_as_targets(net):
    functions = [lambda z: z[:, 1] - z[:, 3], lambda z: z.square().sum(1)]
    e = seewhy.explain(net, X, "gradient", target=functions)
    assert e.targets is None
    assert e.labels is None
    assert e.probabilities is None
    for k, f in enumerate(functions):
        assert torch.equal(e.values[:, k], direct(net, X, f))
    assert torch.equal(seewhy.explain(net, X, "gradient", target=functions[0]).values, e.values[:, :1])
    column = seewhy.explain(net, X, "gradient", target=lambda z: functions[0](z)[:, None])
    assert torch.equal(column.values, e.values[:, :1])
    assert torch.equal(column.scores, e.scores[:, :1])


@pytest.mark.row(99)
@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (lambda z: z, r"\[2, 5\]"),
        (lambda z: z.sum(), r"\[\]"),
        (lambda z: 3.0, "a float"),
        (lambda z: z[:1, 0], r"\[1\]"),
    ],
)
def test_explain_rejects_target_function_without_one_number_per_sample(net, function, shape):
    with pytest.raises(seewhy.OptionError, match=rf"{shape}.*one number per sample is needed"):
        seewhy.explain(net, X, "gradient", target=function)


@pytest.mark.parametrize(
    ("target", "error", "text"),
    [
        (5, seewhy.OptionError, "class 5 is out of range: Sequential returns 5 scores, 0 to 4"),
        (-1, seewhy.OptionError, "class -1 is out of range"),
        ("top9", seewhy.OptionError, "'top9' is out of range: Sequential returns 5 scores"),
        ("top0", seewhy.OptionError, "'top0'"),
        ("cats", seewhy.UnknownNameError, "unknown label 'cats'. Did you mean 'cat'"),
        ("crane", seewhy.OptionError, r"several classes: give one of the indices \[2, 3\]"),
        ([], seewhy.OptionError, "is empty"),
        (1.5, seewhy.OptionError, "give None, a class index or label"),
        (True, seewhy.OptionError, "give None, a class index or label"),
        ([1, lambda z: z[:, 0]], seewhy.OptionError, "give None, a class index or label"),
        (torch.tensor([1, 2, 3]), seewhy.OptionError, r"\[2\] or \[2, K\] for 2 samples"),
        (torch.tensor([1.0, 2.0]), seewhy.OptionError, "holds integers"),
        (torch.zeros(2, 0, dtype=torch.int64), seewhy.OptionError, "holds integers"),
        (
            torch.eye(5, dtype=torch.int64)[:2],
            seewhy.OptionError,
            r"as many as there are scores.*labels\.argmax\(1\)\.",
        ),
        (np.eye(5, dtype=np.uint8)[[3, 3]], seewhy.OptionError, r"target=labels\.argmax\(1\)\."),
        ([[0, 0, 0, 1, 0], [1, 0, 0, 0, 0]], seewhy.OptionError, r"target=labels\.argmax\(1\)\."),
        (torch.eye(5)[:2], seewhy.OptionError, r"float32 of shape \[2, 5\]\. For one-hot.*labels\.argmax\(1\)\."),
        (np.eye(5, dtype=bool)[:2], seewhy.OptionError, r"bool of shape \[2, 5\]\. For one-hot.*labels\.argmax\(1\)"),
        ([["cat"], ["emu", "cat"]], seewhy.OptionError, "rows of unequal length"),
        ([["cat"], "emu"], seewhy.OptionError, "mixes lists and single classes"),
        ([["cat"], ["emu"], ["cat"]], seewhy.OptionError, r"\[2\] or \[2, K\] for 2 samples"),
        ([["cat"], ["cats"]], seewhy.UnknownNameError, "unknown label 'cats'"),
        (np.array(["cat", "cats"]), seewhy.UnknownNameError, "unknown label 'cats'"),
        ([[1.5], [2]], seewhy.OptionError, "integers or labels"),
    ],
)
def test_explain_rejects_invalid_targets(net, target, error, text):
    calls = []
    counted = seewhy.wrap(net, labels=LABELS)
    handle = net.register_forward_hook(lambda *_: calls.append(1))
    try:
        with pytest.raises(error, match=text):
            seewhy.explain(counted, X, "gradient", target=target)
    finally:
        handle.remove()
    assert len(calls) <= 1, "rejected before any backward pass"


def test_explain_rejects_label_of_model_without_labels(net):
    with pytest.raises(seewhy.UnknownNameError, match="has no labels"):
        seewhy.explain(net, X, "gradient", target="cat")


def test_explain_notes_target_list_of_batch_length(net):
    assert any("one target per sample" in n for n in seewhy.explain(net, X, "gradient", target=[0, 1]).notes)
    assert not seewhy.explain(net, X, "gradient", target=[0, 1, 2]).notes


FORMULAS = {
    "logit": lambda z, c: z[:, c],
    "probability": lambda z, c: z.softmax(1)[:, c],
    "log_probability": lambda z, c: z.log_softmax(1)[:, c],
    "margin": lambda z, c: z[:, c] - torch.cat([z[:, :c], z[:, c + 1 :]], 1).logsumexp(1),
}


@pytest.mark.row(9, 130)
@pytest.mark.parametrize("score", FORMULAS)
def test_explain_with_all_scores(net, score):
    e = seewhy.explain(net, X, "gradient", target=[3, 0], score=score)
    assert e.score == score
    for k, c in enumerate((3, 0)):
        formula = lambda z, c=c: FORMULAS[score](z, c)  # noqa: E731
        assert (e.values[:, k] - direct(net, X, formula)).abs().max() < 1e-14
        assert (e.scores[:, k] - formula(net(X))).abs().max() < 1e-14
    probability = net(X).softmax(1)[:, [3, 0]]
    assert (e.probabilities - probability).abs().max() < 1e-14


@pytest.mark.parametrize("score", ["probability", "log_probability", "margin"])
def test_explain_rejects_class_scores_for_a_single_output(score):
    with pytest.raises(seewhy.OptionError, match="compares classes"):
        seewhy.explain(nn.Linear(3, 1), torch.ones(1, 3), "gradient", score=score)


def test_probability_score_when_saturated():
    """s = 1 - 1e-12 in float32: the softmax gradient underflows to zero; ours has the ranks of the float64 gradient."""
    torch.manual_seed(2)
    net = nn.Sequential(nn.Linear(30, 40), nn.ReLU(), nn.Linear(40, 3))
    x = torch.randn(1, 30)
    with torch.no_grad():
        net[2].bias += torch.tensor([27.6 - float(net(x)[0, 0] - net(x)[0, 1:].logsumexp(0)), 0, 0])
    naive = direct(net, x, lambda z: z.softmax(1)[:, 0])
    exact = direct(
        net.double(), x.double(), lambda z: z.log_softmax(1)[:, 0]
    )  # same ranks as the gradient of the probability
    e = seewhy.explain(net.float(), x, "gradient", target=0, score="probability")
    ranks, expected, plain = (v.flatten().double().argsort().argsort().double() for v in (e.values, exact, naive))
    assert torch.corrcoef(torch.stack([ranks, expected]))[0, 1] > 0.999
    assert torch.corrcoef(torch.stack([plain, expected]))[0, 1] < 0.9, "the plain gradient must fail"
    assert 0 < float(e.values.abs().max()) < 1e-10


def test_probability_score_with_underflowing_factor():
    net = nn.Linear(4, 2).double()
    with torch.no_grad():
        net.bias.copy_(torch.tensor([2000.0, 0.0]))
    x = torch.ones(1, 4).double()
    e = seewhy.explain(net, x, "gradient", target=0, score="probability")
    assert any("s(1-s) underflows and was omitted for 1 maps" in n for n in e.notes)
    assert torch.allclose(e.values.flatten(), (net.weight[0] - net.weight[1]).detach())


@pytest.mark.row(98)
def test_class_score_of_segmentation_is_summed_over_positions(segmenter):
    e = seewhy.explain(segmenter, X, "gradient", target=2)
    assert torch.allclose(e.values[:, 0], direct(segmenter, X, lambda z: z[:, 2].sum((1, 2))))
    e = seewhy.explain(segmenter, X, "gradient", target=2, score="probability")
    assert torch.allclose(e.values[:, 0], direct(segmenter, X, lambda z: z.softmax(1)[:, 2].sum((1, 2))))
    assert e.probabilities is None


@pytest.mark.row(101)
def test_ready_made_targets(segmenter, net):
    mask = torch.rand(6, 9, generator=torch.Generator().manual_seed(0)) > 0.5
    for function, formula in (
        (targets.region(1, mask), lambda z: (z[:, 1] * mask).sum((1, 2))),
        (targets.box(1, 2, 3, 5, 8), lambda z: z[:, 1, 2:5, 3:8].sum((1, 2))),
    ):
        e = seewhy.explain(segmenter, X, "gradient", target=function)
        assert torch.allclose(e.values[:, 0], direct(segmenter, X, formula))
    embedding = torch.randn(5).double()
    e = seewhy.explain(net, X, "gradient", target=targets.similarity(embedding))
    cosine = lambda z: (z * embedding).sum(1) / z.norm(dim=1) / embedding.norm()  # noqa: E731
    assert torch.allclose(e.values[:, 0], direct(net, X, cosine))
    p = net(X).softmax(1).detach()
    finer = lambda z: (p[:, [1, 2]] * (z[:, [0]] - 0.5 * z[:, [1, 2]])).sum(1) / p[:, [1, 2]].sum(1)  # noqa: E731
    e = seewhy.explain(net, X, "gradient", target=targets.contrast(0, [1, 2], alpha=0.5))
    assert torch.allclose(e.values[:, 0], direct(net, X, finer))
    nearest = (net(X)[0] - net(X)[0, 0]).abs().detach().argsort()[1:3].tolist()
    a, b = (
        seewhy.explain(net, X[:1], "gradient", target=targets.contrast(0, rivals)).values for rivals in (2, nearest)
    )
    assert torch.allclose(a, b)
    with pytest.raises(seewhy.OptionError, match="the mask has shape"):
        seewhy.explain(segmenter, X, "gradient", target=targets.region(1, mask[1:]))
    with pytest.raises(seewhy.OptionError, match="outside the output"):
        seewhy.explain(segmenter, X, "gradient", target=targets.box(1, 20, 20, 30, 30))


Named = namedtuple("Named", ["scores", "features"])


@dataclass
class Data:
    logits: torch.Tensor
    features: torch.Tensor


STRUCTURES = {
    "tuple": (lambda z: (z, z * 2), lambda out: out[0][:, 1], r"\[0\] \[2, 5\], \[1\] \[2, 5\].*output\[0\]\[:, 3\]"),
    "list": (lambda z: [z, z * 2], lambda out: out[0][:, 1], r"a list with"),
    "dict": (
        lambda z: {"logits": z, "aux": 3},
        lambda out: out["logits"][:, 1],
        r"\['logits'\] \[2, 5\], \['aux'\] int",
    ),
    "dataclass": (lambda z: Data(z, z), lambda out: out.logits[:, 1], r"\.logits \[2, 5\], \.features \[2, 5\]"),
    "named tuple": (lambda z: Named(z, z), lambda out: out.scores[:, 1], r"\.scores \[2, 5\]"),
}


@pytest.mark.row(120)
@pytest.mark.parametrize("structure", STRUCTURES)
def test_explain_with_structured_outputs(net, structure):
    pack, select, fields = STRUCTURES[structure]
    model = seewhy.wrap(net, forward=lambda net, x: pack(net(x)))
    expected = direct(net, X, lambda z: z[:, 1])
    e = seewhy.explain(model, X, "gradient", target=select, batch_size=1)
    assert torch.equal(e.values[:, 0], expected)
    assert type(e.output) is type(pack(net(X)))
    assert torch.equal(select(e.output), net(X)[:, 1].detach())
    guided = seewhy.explain(model, X, "guided_backprop", target=select)
    assert (guided.values[:, 0] - expected).abs().max() > 1e-4, "the ReLUs are found for any output structure"
    assert seewhy.explain(model, X, "integrated_gradients", target=select, steps=2).values.shape == (2, 1, 3, 6, 9)
    with pytest.raises(seewhy.ModelError, match=fields):
        seewhy.explain(model, X, "gradient", target=1)


def test_explain_rejects_integer_outputs(net):
    with pytest.raises(seewhy.ModelError, match="floating-point scores are needed, not decisions"):
        seewhy.explain(lambda x: net(x).argmax(1), X, "gradient", target=0)


def test_explain_rejects_score_without_autograd_graph(net):
    for f in (lambda x: net(x).detach(), lambda x: net(x.round().detach()), lambda x: net(x).detach().numpy()):
        with pytest.raises(seewhy.ModelError, match="does not depend on the input through autograd"):
            seewhy.explain(f, X, "gradient", target=0)


@pytest.mark.row(9, 108)
def test_explain_with_reduction_layer(net):
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 5), nn.Softmax(1)).double()
    x = torch.randn(2, 3).double()
    e = seewhy.explain(model, x, "gradient", target=2, reduction_layer="2")
    assert e.reduction_layer == "2"
    assert torch.equal(e.values[:, 0, 0], direct(model[:3], x, lambda z: z[:, 2]))
    whole = seewhy.explain(model, x, "gradient", target=2, score="probability")
    assert torch.allclose(whole.values[:, 0, 0], direct(model, x, lambda z: z[:, 2]))
    path = seewhy.explain(model, x, "integrated_gradients", target=2, reduction_layer="2", baseline=0, steps=300)
    logits = model[:3]
    assert torch.allclose(path.values.flatten(1).sum(1), logits(x)[:, 2] - logits(0 * x)[:, 2], atol=1e-4)
    with pytest.raises(seewhy.UnknownNameError, match="unknown layer 'fc'"):
        seewhy.explain(model, x, "gradient", reduction_layer="fc")
    assert not model[2]._forward_hooks


def test_one_hot_targets_are_told_from_indices():
    """Rows with a single 1 are indices unless they have as many columns as there are scores."""
    two, x = nn.Linear(3, 2), torch.ones(2, 3)
    with pytest.raises(seewhy.OptionError, match=r"argmax\(1\); for both classes.*target='all'.*\[N, 1\]"):
        seewhy.explain(two, x, "gradient", target=torch.tensor([[0, 1], [1, 0]]))
    for target in (torch.tensor([[1], [0]]), torch.tensor([[1, 1], [0, 1]])):
        assert torch.equal(seewhy.explain(two, x, "gradient", target=target, batch_size=1).targets, target)
    e = seewhy.explain(two, x, "gradient", target="all")
    assert seewhy.explain(two, x, seewhy.smooth("gradient", samples=2), target="all").targets.tolist() == [[0, 1]] * 2
    assert seewhy.measure(two, e, "sensitivity", samples=2).values.shape == (2, 2)
    five = nn.Linear(3, 5)
    target = torch.tensor([[0, 1, 0], [1, 0, 0]])
    assert torch.equal(seewhy.explain(five, x, "gradient", target=target).targets, target)


def test_labels_of_a_prediction_are_targets_per_sample(net):
    model = seewhy.wrap(net, labels=list("abcde"))
    p = seewhy.predict(model, X, top=2)
    assert torch.equal(seewhy.explain(model, X, "gradient", target=p.labels).targets, p.indices)
    noted = seewhy.explain(model, X, "gradient", target=["a", "b"])
    assert noted.targets.tolist() == [[0, 1], [0, 1]]
    assert any("nested lists" in note for note in noted.notes)
    assert not seewhy.explain(model, X, "gradient", target=[["a"], ["b"]]).notes
    unbatched = seewhy.explain(model, list(X), "gradient", target=[["a"], ["b"]])
    assert [e.labels for e in unbatched] == [(("a",),), (("b",),)]
    with pytest.raises(seewhy.OptionError, match="3 rows, but the input has 2 samples"):
        seewhy.explain(model, list(X), "gradient", target=[["a"], ["b"], ["c"]])


@pytest.mark.parametrize("labels", [list("abcd"), list("abcdef")])
def test_labels_and_scores_are_counted(net, labels):
    with pytest.raises(seewhy.OptionError, match=rf"has {len(labels)} labels but returns 5 scores: give one label per"):
        seewhy.explain(seewhy.wrap(net, labels=labels), X, "gradient")


def test_second_of_two_labels_is_the_single_score():
    model, x = seewhy.wrap(nn.Linear(3, 1), labels=["healthy", "ill"]), torch.ones(2, 3)
    for target in (None, 0, "ill", [["ill"], ["ill"]]):
        e = seewhy.explain(model, x, "gradient", target=target)
        assert e.labels == (("ill",), ("ill",))
        assert e.targets.tolist() == [[0], [0]]
        assert e.notes == ("the network has one score and two labels: the score is that of 'ill'",)
    with pytest.raises(seewhy.UnknownNameError, match="unknown label 'healthy'"):
        seewhy.explain(model, x, "gradient", target="healthy")


def test_labels_do_not_name_the_units_of_another_layer(net):
    e = seewhy.explain(seewhy.wrap(net, labels=LABELS), X, "gradient", target=2, reduction_layer="3")
    assert e.labels == (("2",), ("2",))


def test_explain_notes_the_class_axis_of_an_output_with_positions(segmenter):
    note = "the output has shape [2, 4, 6, 9]: axis 1 is taken as the class axis"
    assert any(n.startswith(note) for n in seewhy.explain(segmenter, X, "gradient", target=2).notes)
    last = seewhy.wrap(segmenter, layout="NHWC", forward=lambda n, x: n(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
    e = seewhy.explain(last, X.permute(0, 2, 3, 1), "gradient", target=2)
    assert any("[2, 6, 9, 4]: axis 3 is taken as the class axis" in n for n in e.notes)
    assert not seewhy.explain(segmenter, X, "gradient", target=lambda z: z[:, 0].sum((1, 2))).notes
    one_position = seewhy.explain(seewhy.wrap(segmenter, forward=lambda n, x: n(x).mean((2, 3), True)), X, "gradient")
    assert not one_position.notes
    assert one_position.probabilities.shape == (2, 1)
