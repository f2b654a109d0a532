"""Data sets, batch by batch."""

import gc
import itertools
import sys
import threading
import weakref

import numpy as np
import pytest
import torch
from tests.networks import classifier, noise
from tests.oracles.attention import Vit, VitTwin
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import seewhy
from seewhy.methods import progress
from seewhy.methods.families import FAMILIES

X = noise(5, 3, 8, 8)
Y = torch.tensor([2, 0, 3, 3, 1])
FEW = {name: {"samples": 6} for name in ("smoothgrad", "vargrad", "expected_gradients")}
FEW |= {name: {"samples": 60, "segments": "grid", "features": 9} for name in ("lime", "kernel_shap")}
FEW |= {"rise": {"samples": 20, "cells": 3}, "feature_ablation": {"segments": "grid", "features": 9}}
FEW |= {"integrated_gradients": {"steps": 4}}


def loader(size=2, **options):
    return DataLoader(TensorDataset(X, Y), batch_size=size, **options)


def together(found, field="values"):
    return torch.cat([getattr(e, field) for e in found])


@pytest.mark.row(144)
@pytest.mark.parametrize("name", seewhy.METHODS)
def test_batches_give_the_maps_of_one_call(name):
    """Also of methods that draw: a draw is the same for every sample, whatever its batch."""
    net, x, options = classifier(), X, FEW.get(name, {})
    if FAMILIES[seewhy.METHODS[name].feeds].attention:
        net, x = VitTwin(Vit()), noise(5, 3, 6, 9)
    whole = seewhy.explain(net, x, name, target=[1, 3], seed=7, **options)
    found = list(seewhy.explain(net, iter(x.split([2, 1, 2])), name, target=[1, 3], seed=7, **options))
    assert [len(e.values) for e in found] == [2, 1, 2]
    assert (together(found) - whole.values).abs().max() < 1e-10 * whole.values.abs().max()
    assert torch.allclose(together(found, "scores"), whole.scores, rtol=1e-12, atol=1e-12)
    if whole.stderr is not None:
        assert torch.allclose(together(found, "stderr"), whole.stderr, rtol=1e-9, atol=1e-12)


def test_what_asks_for_several_things_gives_them_batch_by_batch():
    net = classifier()
    for method, options in (
        (["gradient", "gradcam"], {}),
        (seewhy.smooth("gradient", samples=3), {}),
        ([seewhy.tta("gradcam"), "gradient"], {}),
        ("gradcam", {"feature_layer": ["1", "3"]}),
    ):
        whole, found = seewhy.explain(net, X, method, **options), [*seewhy.explain(net, loader(), method, **options)]
        assert len(found) == 3
        for part, e in (
            zip(zip(*found, strict=True), whole, strict=True) if isinstance(whole, list) else [(found, whole)]
        ):
            assert torch.allclose(together(part, "maps"), e.maps, rtol=1e-5, atol=1e-7)


@pytest.mark.row(144)
def test_a_batch_is_read_and_explained_when_it_is_asked_for_and_not_kept():
    pulled = []

    def endless():
        for number in itertools.count():
            pulled.append(number)
            yield X[:2] * 0 + number

    found = seewhy.explain(classifier(), endless(), "gradient")
    assert pulled == []
    first = next(found)
    assert pulled == [0]
    kept = [weakref.ref(first.values), weakref.ref(first.input), weakref.ref(first)]
    del first
    gc.collect()
    assert [ref() for ref in kept] == [None] * 3
    steps = [e.input[0, 0, 0, 0] for e in itertools.islice(found, 2)]
    assert steps == [1, 2]
    assert pulled == [0, 1, 2]


def test_the_data_set_is_not_opened_before():
    class Opened:
        times = 0

        def __iter__(self):
            self.times += 1
            return iter([X])

    data = Opened()
    found = seewhy.explain(classifier(), data, "gradient")
    assert data.times == 0
    assert len(list(found)) == data.times == 1


@pytest.mark.row(143, 144)
def test_pairs_and_their_labels():
    net = classifier()
    best = seewhy.explain(net, X, "gradient")
    assert torch.equal(together(seewhy.explain(net, loader(), "gradient"), "targets"), best.targets)
    asked = seewhy.explain(net, X, "gradient", target=Y)
    for batches in (
        loader(),
        [(x, y) for x, y in loader()].__iter__(),
        ((x, y[:, None], torch.ones(len(x))) for x, y in loader()),
        ((x.numpy(), y.numpy()) for x, y in loader()),
        ((x, y.tolist()) for x, y in loader()),
        ([x, y.byte()] for x, y in loader()),
    ):
        found = list(seewhy.explain(net, batches, "gradient", target="label"))
        assert torch.equal(together(found, "targets"), Y[:, None])
        assert torch.equal(together(found), asked.values)
    alone = list(seewhy.explain(net, DataLoader(TensorDataset(X), batch_size=3), "gradient"))
    assert torch.equal(together(alone), best.values)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (X, "this batch holds no y"),
        ((X,), "this batch holds no y"),
        ((X, torch.eye(4)[[0, 1, 2, 3, 0]].long()), r"torch.int64 \[5, 4\].*argmax"),
        ((X, Y.float()), "torch.float32"),
        ((X, Y > 1), "torch.bool"),
        ((X, ["cat"] * 5), "a list of no numbers"),
        ((X, Y[:4]), "5 samples and 4 labels"),
        ((X, Y, Y, Y), "a tuple of 4"),
    ],
)
def test_labels_that_are_none(batch, message):
    with pytest.raises(seewhy.InputError, match=f"batch 0: .*{message}"):
        next(seewhy.explain(classifier(), iter([batch]), "gradient", target="label"))


def test_a_class_may_be_called_label_or_all():
    model = seewhy.wrap(classifier(), labels=["cat", "label", "all", "top2"])
    for target, index in (("label", 1), ("all", 2), ("top2", 3)):
        assert seewhy.explain(model, X, "gradient", target=target).targets.flatten().tolist() == [index] * 5
        (one,) = seewhy.explain(model, iter([X]), "gradient", target=target)
        assert one.targets.flatten().tolist() == [index] * 5


def test_several_inputs_stand_inside_a_pair():
    class Sum(nn.Module):
        def forward(self, a, b):
            return torch.stack([a.sum((1, 2, 3)), (a * b).sum((1, 2, 3))], 1)

    for inputs in ((X, 2 * X), {"a": X, "b": 2 * X}):
        whole = seewhy.explain(Sum(), inputs, "gradient", target=Y % 2)
        (found,) = seewhy.explain(Sum(), iter([(inputs, Y % 2)]), "gradient", target="label")
        assert type(found) is type(whole)
        for key in range(2) if isinstance(inputs, tuple) else "ab":
            assert torch.equal(found[key].values, whole[key].values)


def test_pictures_on_disk(lite0, shipped):
    files = [shipped["chelsea"], shipped["coffee"]]
    one_by_one = list(seewhy.explain(lite0, iter(files)))
    assert [e.labels[0][0] for e in one_by_one] == ["Egyptian cat", "espresso"]
    (both,) = seewhy.explain(lite0, iter([files]))
    assert torch.allclose(both.maps, together(one_by_one, "maps"), rtol=1e-3, atol=1e-4)


def test_what_is_one_batch_stays_one():
    net = classifier()
    assert isinstance(seewhy.explain(net, X.numpy(), "gradient"), seewhy.Explanation)
    assert isinstance(seewhy.explain(net, list(X), "gradient"), list)

    class Array:
        def __array__(self, dtype=None, copy=None):
            return X.numpy()

        def __iter__(self):
            raise AssertionError

    model = seewhy.wrap(net, prepare=lambda source: torch.tensor(np.array(source)))
    assert torch.equal(seewhy.explain(model, Array(), "gradient").input, X)
    (one,) = seewhy.explain(net, iter([Array()]), "gradient")
    assert torch.equal(one.input, X)


def test_single_samples_are_refused_with_the_next_step():
    with pytest.raises(seewhy.InputError, match=r"TensorDataset gives single samples.*DataLoader\(data, batch_size=8"):
        seewhy.explain(classifier(), TensorDataset(X, Y))

    class Batches(IterableDataset):
        def __iter__(self):
            return iter(X.split(2))

    assert len(list(seewhy.explain(classifier(), Batches(), "gradient"))) == 3


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"method": "gradeint"}, seewhy.UnknownNameError),
        ({"method": []}, seewhy.OptionError),
        ({"method": "gradient", "steps": 3}, seewhy.UnknownNameError),
        ({"method": "integrated_gradients", "steps": -3}, seewhy.OptionError),
        ({"method": seewhy.smooth("gradient"), "steps": 3}, seewhy.UnknownNameError),
        ({"method": "gradient", "feature_layer": "1"}, seewhy.OptionError),
        ({"method": "gradient", "feature_layer": ["1", "3"]}, seewhy.OptionError),
        ({"reduction_layer": "nowhere"}, seewhy.UnknownNameError),
        ({"score": "loss"}, seewhy.OptionError),
        ({"upsample": "soft"}, seewhy.OptionError),
        ({"seed": -1}, seewhy.OptionError),
        ({"batch_size": 0}, seewhy.OptionError),
        ({"max_memory": 0}, seewhy.OptionError),
        ({"device": "nowhere"}, seewhy.OptionError),
        ({"target": Y}, seewhy.OptionError),
        ({"target": "dog"}, seewhy.UnknownNameError),
        ({"target": ["cat", "dog"]}, seewhy.UnknownNameError),
        ({"target": 1.5}, seewhy.OptionError),
        ({"target": []}, seewhy.OptionError),
    ],
)
def test_what_is_wrong_whatever_the_batches_hold_is_refused_at_the_call(options, error):
    def never():
        raise AssertionError("a batch was read")
        yield

    model = seewhy.wrap(classifier(), labels=["cat", "fish", "bird", "cow"])
    with pytest.raises(error):
        seewhy.explain(model, never(), **options)


def test_a_network_that_cannot_is_refused_at_the_call():
    with pytest.raises(seewhy.ModelError, match="gradcam needs"):
        seewhy.explain(lambda x: x.mean((2, 3)), iter([X]), "gradcam")


def test_methods_are_compared_on_one_batch():
    with pytest.raises(seewhy.OptionError, match="x is a data set"):
        seewhy.compare(classifier(), loader(), ["gradient", "gradcam"])


def test_labels_belong_to_data_sets():
    with pytest.raises(seewhy.OptionError, match="this is one batch"):
        seewhy.explain(classifier(), X, target="label")


@pytest.mark.row(144)
def test_a_batch_that_fails_says_which_and_the_next_one_goes_on():
    found = seewhy.explain(classifier(), iter([X[:2], X[:2] * torch.nan, X[2:], "no batch", X[4:]]), "gradient")
    good = []
    with pytest.raises(seewhy.InputError, match=r"^batch 1: the input holds"):
        good.extend(found)
    good.append(next(found))
    with pytest.raises(seewhy.ModelError, match=r"^batch 3: .* preparation"):
        next(found)
    good.extend(found)
    assert torch.equal(together(good), seewhy.explain(classifier(), X[[0, 1, 2, 3, 4, 4]], "gradient").values)


def test_a_picture_that_cannot_be_read_is_not_the_end():
    class Damaged(Dataset):
        def __len__(self):
            return 5

        def __getitem__(self, n):
            if n == 3:
                raise ValueError("damaged")
            return X[n]

    found = seewhy.explain(classifier(), DataLoader(Damaged(), batch_size=2), "gradient")
    next(found)
    with pytest.raises(ValueError, match="damaged") as caught:
        next(found)
    assert caught.value.__notes__ == ["in batch 1 of the data set"]
    assert torch.equal(next(found).input, X[4:])
    assert next(found, None) is None


def test_an_error_cannot_feign_the_end():
    def ends(_):
        raise StopIteration

    for model in (seewhy.wrap(classifier(), prepare=ends), seewhy.wrap(classifier(), forward=lambda net, x: ends(x))):
        found = seewhy.explain(model, iter(["a picture", X]) if model.preparation else iter([X]), "gradient")
        with pytest.raises(RuntimeError, match="StopIteration"):
            next(found)


class Busy(nn.Module):
    """In training, with everything that a careless visitor would change."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.drop = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)
        self.head = nn.Linear(4, 4)
        self.double().train()
        self.drop.eval()
        self.conv.weight.requires_grad_(False)

    def forward(self, x):
        return self.head(self.drop(torch.relu(self.norm(self.conv(x)))).mean((2, 3)))


def state(net):
    return (
        {name: part.training for name, part in net.named_modules()},
        {
            name: (id(w), w.requires_grad, w.grad, w._version, bool(w.isfinite().all()))
            for name, w in net.named_parameters()
        },
        {name: b.clone().tolist() for name, b in net.named_buffers()},
        [len(getattr(part, field)) for part in net.modules() for field in vars(part) if field.endswith("_hooks")],
        torch.get_rng_state().tolist(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        (sys.stdout, sys.stderr),
        set(threading.enumerate()),
    )


@pytest.mark.parametrize("method", ["gradient", "guided_backprop", "gradcam", "rise", "smoothgrad", "fullgrad"])
def test_no_trace_between_batches_nor_after_half_of_them_nor_after_an_error(method, monkeypatch, capsys):
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    net = Busy()
    before = state(net)
    batches = iter([X[:2], X[:2] * torch.nan, X[2:4], X[4:]])
    found = seewhy.explain(net, batches, method, progress=True, **FEW.get(method, {}))
    assert state(net) == before
    next(found)
    assert state(net) == before
    with pytest.raises(seewhy.InputError):
        next(found)
    assert state(net) == before
    next(found)
    assert state(net) == before
    del found
    gc.collect()
    assert state(net) == before
    assert "2 batches, " in capsys.readouterr().err


@pytest.mark.row(144)
def test_one_bar_for_all_batches(monkeypatch, capsys):
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    list(seewhy.explain(classifier(), loader(), "integrated_gradients", steps=10, progress=True))
    said = capsys.readouterr()
    assert said.out == ""
    places = [said.err.index(f"{n} of 3 batches") for n in range(4)]
    assert places == sorted(places)
    spent = 5 * (1 + 10 + 1)  # the pass of each sample, its steps, its baseline
    assert f"{spent} passes" in said.err[places[2] :], "counted from the first batch on"
    list(seewhy.explain(classifier(), iter(loader(3).dataset.tensors[0].split(3)), "gradient", progress=True))
    said = capsys.readouterr().err
    assert "1 batches, " in said
    assert " of " not in said
    list(seewhy.explain(classifier(), loader(), "gradient"))
    assert capsys.readouterr() == ("", "")


@pytest.mark.row(144)
def test_progress_may_be_a_function():
    passes = []
    e = seewhy.explain(classifier(), X, "integrated_gradients", steps=10, progress=passes.append)
    assert sum(passes) == e.evaluations.forward == 60
    passes.clear()
    found = seewhy.explain(classifier(), loader(), "gradient", progress=passes.append)
    next(found)
    assert passes == [2]
    list(found)
    assert passes == [2, 2, 1]


def test_how_many_are_to_come():
    assert [seewhy.explain(classifier(), loader(n)).__length_hint__() for n in (1, 2, 5)] == [5, 3, 1]
    found = seewhy.explain(classifier(), loader(), "gradient")
    next(found)
    assert found.__length_hint__() == 2
    assert len(list(found)) == 2
    assert found.__length_hint__() == 0
    assert seewhy.explain(classifier(), iter(x for x in [X])).__length_hint__() is NotImplemented
    assert iter(found) is found


@pytest.mark.row(143)
def test_data_sets_of_keras():
    keras = pytest.importorskip("keras")

    class Batches(keras.utils.PyDataset):
        def __init__(self, count):
            super().__init__()
            self.count = count

        def __len__(self):
            if self.count is None:
                raise NotImplementedError
            return self.count

        def __getitem__(self, n):
            if n == 1:
                raise ValueError("damaged")
            return x[2 * n : 2 * n + 2].numpy(), Y[2 * n : 2 * n + 2].numpy()[:, None]

    x = X.permute(0, 2, 3, 1).float()
    net = keras.Sequential([
        keras.layers.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, activation="relu"),
        keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(4, activation="softmax")])  # fmt: skip
    whole = seewhy.explain(net, x, "gradcam", target=Y)
    for count in (3, None):
        found = seewhy.explain(net, Batches(count), "gradcam", target="label")
        first = next(found)
        with pytest.raises(ValueError, match="damaged"):
            next(found)
        last = next(found)
        assert torch.equal(last.targets, whole.targets[4:])
        assert torch.allclose(torch.cat([first.maps, last.maps]), whole.maps[[0, 1, 4]], atol=1e-5)
        if count is not None:
            assert next(found, None) is None


def test_threads_may_share_a_network():
    net, found = Busy(), {}
    before = state(net)
    whole = seewhy.explain(net, X, "guided_backprop").values

    def work(n):
        found[n] = together(list(seewhy.explain(net, iter(X.split(1 + n % 3)), "guided_backprop")))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.allclose(found[n], whole, rtol=1e-10, atol=1e-14) for n in range(6))
    assert state(net) == before
