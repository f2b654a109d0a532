"""explain() on data sets, batch by batch."""

import gc
import itertools
import sys
import threading
import weakref

import numpy as np
import pytest
import torch
from tests.networks import network_for, random_input, small_classifier
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import seewhy
from seewhy.engine import progress

X = random_input(5, 3, 8, 8)
Y = torch.tensor([2, 0, 3, 3, 1])


def loader(size=2, **options):
    return DataLoader(TensorDataset(X, Y), batch_size=size, **options)


def concatenated(explanations, field="values"):
    return torch.cat([getattr(e, field) for e in explanations])


@pytest.mark.row(144)
@pytest.mark.parametrize("name", seewhy.METHODS)
def test_batches_equal_single_call(name):
    """This includes methods with random numbers, which do not depend on the batch."""
    net, x, options = network_for(name), random_input(5, 3, 6, 9), seewhy.METHODS[name].quick_options
    single_call = seewhy.explain(net, x, name, target=[1, 3], seed=7, **options)
    results = list(seewhy.explain(net, iter(x.split([2, 1, 2])), name, target=[1, 3], seed=7, **options))
    assert [len(e.values) for e in results] == [2, 1, 2]
    assert (concatenated(results) - single_call.values).abs().max() < 1e-10 * single_call.values.abs().max()
    assert torch.allclose(concatenated(results, "scores"), single_call.scores, rtol=1e-12, atol=1e-12)
    if single_call.stderr is not None:
        assert torch.allclose(concatenated(results, "stderr"), single_call.stderr, rtol=1e-9, atol=1e-12)


def test_several_methods_ensembles_and_layers_on_data_set():
    net = small_classifier()
    for method, options in (
        (["gradient", "gradcam"], {}),
        (seewhy.smooth("gradient", samples=3), {}),
        ([seewhy.tta("gradcam"), "gradient"], {}),
        ("gradcam", {"feature_layer": ["1", "3"]}),
    ):
        single_call, results = (
            seewhy.explain(net, X, method, **options),
            [*seewhy.explain(net, loader(), method, **options)],
        )
        assert len(results) == 3
        for part, e in (
            zip(zip(*results, strict=True), single_call, strict=True)
            if isinstance(single_call, seewhy.Explanations)
            else [(results, single_call)]
        ):
            assert torch.allclose(concatenated(part, "maps"), e.maps, rtol=1e-5, atol=1e-7)


@pytest.mark.row(144)
def test_batches_are_loaded_on_request_and_not_kept():
    loaded = []

    def endless():
        for number in itertools.count():
            loaded.append(number)
            yield X[:2] * 0 + number

    results = seewhy.explain(small_classifier(), endless(), "gradient")
    assert loaded == []
    first = next(results)
    assert loaded == [0]
    references = [weakref.ref(first.values), weakref.ref(first.input), weakref.ref(first)]
    del first
    gc.collect()
    assert [ref() for ref in references] == [None] * 3
    inputs = [e.input[0, 0, 0, 0] for e in itertools.islice(results, 2)]
    assert inputs == [1, 2]
    assert loaded == [0, 1, 2]


def test_data_set_is_not_opened_before_first_batch():
    class CountingData:
        times = 0

        def __iter__(self):
            self.times += 1
            return iter([X])

    data = CountingData()
    results = seewhy.explain(small_classifier(), data, "gradient")
    assert data.times == 0
    assert len(list(results)) == data.times == 1


@pytest.mark.row(143, 144)
def test_target_label_uses_labels_of_pairs():
    net = small_classifier()
    best = seewhy.explain(net, X, "gradient")
    assert torch.equal(concatenated(seewhy.explain(net, loader(), "gradient"), "targets"), best.targets)
    expected = seewhy.explain(net, X, "gradient", target=Y)
    for batches in (
        loader(),
        [(x, y) for x, y in loader()].__iter__(),
        ((x, y[:, None], torch.ones(len(x))) for x, y in loader()),
        ((x.numpy(), y.numpy()) for x, y in loader()),
        ((x, y.tolist()) for x, y in loader()),
        ([x, y.byte()] for x, y in loader()),
    ):
        results = list(seewhy.explain(net, batches, "gradient", target="label"))
        assert torch.equal(concatenated(results, "targets"), Y[:, None])
        assert torch.equal(concatenated(results), expected.values)
    alone = list(seewhy.explain(net, DataLoader(TensorDataset(X), batch_size=3), "gradient"))
    assert torch.equal(concatenated(alone), best.values)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (X, "this batch has no y"),
        ((X,), "this batch has no y"),
        ((X, torch.eye(4)[[0, 1, 2, 3, 0]].long()), r"torch.int64 \[5, 4\].*argmax"),
        ((X, Y.float()), "torch.float32"),
        ((X, Y > 1), "torch.bool"),
        ((X, ["cat"] * 5), "a list without numbers"),
        ((X, Y[:4]), "5 samples and 4 labels"),
        ((X, Y, Y, Y), "a tuple of 4 items"),
    ],
)
def test_invalid_labels_are_rejected(batch, message):
    with pytest.raises(seewhy.InputError, match=f"batch 0: .*{message}"):
        next(seewhy.explain(small_classifier(), iter([batch]), "gradient", target="label"))


def test_class_names_take_precedence_over_label_all_and_top():
    model = seewhy.wrap(small_classifier(), labels=["cat", "label", "all", "top2"])
    for target, index in (("label", 1), ("all", 2), ("top2", 3)):
        assert seewhy.explain(model, X, "gradient", target=target).targets.flatten().tolist() == [index] * 5
        (one,) = seewhy.explain(model, iter([X]), "gradient", target=target)
        assert one.targets.flatten().tolist() == [index] * 5


def test_nested_inputs_with_labels():
    class TwoInputs(nn.Module):
        def forward(self, a, b):
            return torch.stack([a.sum((1, 2, 3)), (a * b).sum((1, 2, 3))], 1)

    for inputs in ((X, 2 * X), {"a": X, "b": 2 * X}):
        single_call = seewhy.explain(TwoInputs(), inputs, "gradient", target=Y % 2)
        (results,) = seewhy.explain(TwoInputs(), iter([(inputs, Y % 2)]), "gradient", target="label")
        assert type(results) is type(single_call)
        for key in range(2) if isinstance(inputs, tuple) else "ab":
            assert torch.equal(results[key].values, single_call[key].values)


def test_picture_files_as_batches(lite0, shipped):
    files = [shipped["chelsea"], shipped["coffee"]]
    one_by_one = list(seewhy.explain(lite0, iter(files)))
    assert [e.labels[0][0] for e in one_by_one] == ["Egyptian cat", "espresso"]
    (both,) = seewhy.explain(lite0, iter([files]))
    assert torch.allclose(both.maps, concatenated(one_by_one, "maps"), rtol=1e-3, atol=1e-4)


def test_arrays_and_lists_are_single_batches():
    net = small_classifier()
    assert isinstance(seewhy.explain(net, X.numpy(), "gradient"), seewhy.Explanation)
    assert isinstance(seewhy.explain(net, list(X), "gradient"), seewhy.Explanations)

    class Array:
        def __array__(self, dtype=None, copy=None):
            return X.numpy()

        def __iter__(self):
            raise AssertionError

    model = seewhy.wrap(net, prepare=lambda source: torch.tensor(np.array(source)))
    assert torch.equal(seewhy.explain(model, Array(), "gradient").input, X)
    (one,) = seewhy.explain(net, iter([Array()]), "gradient")
    assert torch.equal(one.input, X)


def test_data_set_of_single_samples_is_rejected():
    with pytest.raises(
        seewhy.InputError, match=r"TensorDataset returns single samples.*DataLoader\(data, batch_size=8"
    ):
        seewhy.explain(small_classifier(), TensorDataset(X, Y))

    class Batches(IterableDataset):
        def __iter__(self):
            return iter(X.split(2))

    assert len(list(seewhy.explain(small_classifier(), Batches(), "gradient"))) == 3


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
def test_invalid_arguments_are_rejected_before_first_batch(options, error):
    def no_batches():
        raise AssertionError("a batch was loaded")
        yield

    model = seewhy.wrap(small_classifier(), labels=["cat", "fish", "bird", "cow"])
    with pytest.raises(error):
        seewhy.explain(model, no_batches(), **options)


def test_missing_capability_is_reported_before_first_batch():
    with pytest.raises(seewhy.ModelError, match="gradcam requires"):
        seewhy.explain(lambda x: x.mean((2, 3)), iter([X]), "gradcam")


def test_compare_rejects_data_set():
    with pytest.raises(seewhy.OptionError, match="x is a data set"):
        seewhy.compare(small_classifier(), loader(), ["gradient", "gradcam"])


def test_target_label_is_rejected_for_single_batch():
    with pytest.raises(seewhy.OptionError, match="the input is a single batch"):
        seewhy.explain(small_classifier(), X, target="label")


@pytest.mark.row(144)
def test_error_states_batch_number_and_iteration_continues():
    results = seewhy.explain(small_classifier(), iter([X[:2], X[:2] * torch.nan, X[2:], "no batch", X[4:]]), "gradient")
    succeeded = []
    with pytest.raises(seewhy.InputError, match=r"^batch 1: 384 of the 384 values of the input are NaN"):
        succeeded.extend(results)
    succeeded.append(next(results))
    with pytest.raises(seewhy.ModelError, match=r"^batch 3: .* has no preprocessing"):
        next(results)
    succeeded.extend(results)
    assert torch.equal(
        concatenated(succeeded), seewhy.explain(small_classifier(), X[[0, 1, 2, 3, 4, 4]], "gradient").values
    )


def test_iteration_continues_after_loading_error():
    class Damaged(Dataset):
        def __len__(self):
            return 5

        def __getitem__(self, n):
            if n == 3:
                raise ValueError("damaged")
            return X[n]

    results = seewhy.explain(small_classifier(), DataLoader(Damaged(), batch_size=2), "gradient")
    next(results)
    with pytest.raises(ValueError, match="damaged") as caught:
        next(results)
    assert caught.value.__notes__ == ["in batch 1 of the data set"]
    assert torch.equal(next(results).input, X[4:])
    assert next(results, None) is None


def test_stop_iteration_in_user_code_does_not_end_iteration():
    def raise_stop_iteration(_):
        raise StopIteration

    for model in (
        seewhy.wrap(small_classifier(), prepare=raise_stop_iteration),
        seewhy.wrap(small_classifier(), forward=lambda net, x: raise_stop_iteration(x)),
    ):
        results = seewhy.explain(model, iter(["a picture", X]) if model.preparation else iter([X]), "gradient")
        with pytest.raises((RuntimeError, seewhy.ModelError), match="StopIteration"):
            next(results)


class StatefulNetwork(nn.Module):
    """In training mode, with every kind of state that a call could change."""

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
def test_network_state_between_batches_and_after_error_and_deletion(method, monkeypatch, capsys):
    monkeypatch.setattr(progress, "BAR_DELAY", 0.0)
    net = StatefulNetwork()
    before = state(net)
    batches = iter([X[:2], X[:2] * torch.nan, X[2:4], X[4:]])
    results = seewhy.explain(net, batches, method, progress=True, **seewhy.METHODS[method].quick_options)
    assert state(net) == before
    next(results)
    assert state(net) == before
    with pytest.raises(seewhy.InputError):
        next(results)
    assert state(net) == before
    next(results)
    assert state(net) == before
    del results
    gc.collect()
    assert state(net) == before
    assert "2 batches, " in capsys.readouterr().err


@pytest.mark.row(144)
def test_all_batches_share_one_progress_bar(monkeypatch, capsys):
    monkeypatch.setattr(progress, "BAR_DELAY", 0.0)
    list(seewhy.explain(small_classifier(), loader(), "integrated_gradients", steps=10, progress=True))
    output = capsys.readouterr()
    assert output.out == ""
    positions = [output.err.index(f"{n} of 3 batches") for n in range(4)]
    assert positions == sorted(positions)
    passes = 5 * (1 + 10 + 1)  # per sample: the input, the steps, the baseline
    assert f"{passes} passes" in output.err[positions[2] :], "counted from the first batch"
    list(seewhy.explain(small_classifier(), iter(loader(3).dataset.tensors[0].split(3)), "gradient", progress=True))
    output = capsys.readouterr().err
    assert "1 batches, " in output
    assert " of " not in output
    list(seewhy.explain(small_classifier(), loader(), "gradient"))
    assert capsys.readouterr() == ("", "")


@pytest.mark.row(144)
def test_progress_function_receives_passes():
    passes = []
    e = seewhy.explain(small_classifier(), X, "integrated_gradients", steps=10, progress=passes.append)
    assert sum(passes) == e.evaluations.forward == 60
    passes.clear()
    results = seewhy.explain(small_classifier(), loader(), "gradient", progress=passes.append)
    next(results)
    assert passes == [2]
    list(results)
    assert passes == [2, 2, 1]


def test_length_hint_is_number_of_remaining_batches():
    assert [seewhy.explain(small_classifier(), loader(n)).__length_hint__() for n in (1, 2, 5)] == [5, 3, 1]
    results = seewhy.explain(small_classifier(), loader(), "gradient")
    next(results)
    assert results.__length_hint__() == 2
    assert len(list(results)) == 2
    assert results.__length_hint__() == 0
    assert seewhy.explain(small_classifier(), iter(x for x in [X])).__length_hint__() is NotImplemented
    assert iter(results) is results


@pytest.mark.row(143)
def test_keras_data_set():
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
    single_call = seewhy.explain(net, x, "gradcam", target=Y)
    for count in (3, None):
        results = seewhy.explain(net, Batches(count), "gradcam", target="label")
        first = next(results)
        with pytest.raises(ValueError, match="damaged"):
            next(results)
        last = next(results)
        assert torch.equal(last.targets, single_call.targets[4:])
        assert torch.allclose(torch.cat([first.maps, last.maps]), single_call.maps[[0, 1, 4]], atol=1e-5)
        if count is not None:
            assert next(results, None) is None


def test_threads_share_a_network():
    net, results = StatefulNetwork(), {}
    before = state(net)
    single_call = seewhy.explain(net, X, "guided_backprop").values

    def work(n):
        results[n] = concatenated(list(seewhy.explain(net, iter(X.split(1 + n % 3)), "guided_backprop")))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.allclose(results[n], single_call, rtol=1e-10, atol=1e-14) for n in range(6))
    assert state(net) == before
