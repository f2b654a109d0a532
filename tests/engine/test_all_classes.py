"""target="all": every class of every sample, with a check of the memory that it takes."""

import os
import re
import subprocess
import sys

import pytest
import torch
from tests.networks import network_for, random_input, small_classifier, with_random_weights
from torch import nn

import seewhy
from seewhy.engine import memory

X = random_input(3, 3, 8, 8)


class CountingModel(nn.Module):
    """Counts the samples of all forward passes."""

    def __init__(self, inside):
        super().__init__()
        self.inside, self.samples = inside, 0

    def forward(self, x):
        self.samples += len(x)
        return self.inside(x)


@pytest.mark.row(135)
@pytest.mark.parametrize("name", seewhy.METHODS)
def test_target_all_equals_list_of_all_classes(name):
    net, x, classes, options = network_for(name), random_input(3, 3, 6, 9), 4, seewhy.METHODS[name].quick_options
    every = seewhy.explain(net, x, name, target="all", **options)
    listed = seewhy.explain(net, x, name, target=list(range(classes)), **options)
    assert every.targets.tolist() == [list(range(classes))] * len(x)
    assert every.values.shape[:2] == (len(x), classes)
    assert torch.equal(every.values, listed.values)
    assert torch.equal(every.scores, listed.scores)
    assert every.evaluations == listed.evaluations


@pytest.mark.row(135)
def test_target_all_for_segmentation_layer_and_single_score():
    maps = with_random_weights(nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 5, 1)).double())
    every = seewhy.explain(maps, X, "gradient", target="all")
    assert every.values.shape == (3, 5, 3, 8, 8)
    leaf = X.clone().requires_grad_()
    for k in range(5):
        slope = torch.autograd.grad(maps(leaf)[:, k].sum(), leaf)[0]
        assert torch.allclose(every.values[:, k], slope, atol=1e-12)
    channels = seewhy.explain(small_classifier(), X, "gradient", target="all", reduction_layer="2")
    assert channels.targets[0].tolist() == list(range(6))
    one = seewhy.explain(lambda x: x.sum((1, 2, 3)), X, "gradient", target="all")
    assert one.targets.tolist() == [[0]] * 3
    last = seewhy.wrap(maps, layout="NHWC", forward=lambda net, x: net(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
    assert torch.allclose(seewhy.explain(last, X.permute(0, 2, 3, 1), "gradient", target="all").values, every.values)


def test_target_all_with_labels_methods_and_data_set():
    model = seewhy.wrap(small_classifier(), labels=["cat", "fish", "bird", "cow"])
    for e in seewhy.explain(model, X, ["gradient", "gradcam", seewhy.smooth("gradient", samples=3)], target="all"):
        assert e.labels == (("cat", "fish", "bird", "cow"),) * 3
    batches = [*seewhy.explain(model, iter(X.split(2)), "gradient", target="all")]
    whole = seewhy.explain(model, X, "gradient", target="all").values
    assert torch.cat([e.values for e in batches]).sub(whole).abs().max() < 1e-12


@pytest.mark.row(135)
@pytest.mark.parametrize("limit", ["max_memory", "free memory"])
@pytest.mark.parametrize("name", ["gradient", "gradcam", "occlusion"])
def test_target_all_error_suggests_ranges_that_fit(name, limit, monkeypatch):
    net = CountingModel(small_classifier(classes=40))
    whole = seewhy.explain(net, X, name, target="all")
    net.samples = 0
    options = {"max_memory": 400_000} if limit == "max_memory" else {}
    if not options:
        monkeypatch.setattr(memory, "free_memory", lambda device: 800_000)
    with pytest.raises(seewhy.OptionError, match="3 samples with 40 classes each take about") as caught:
        seewhy.explain(net, X, name, target="all", **options)
    assert net.samples <= 4, "single samples: layer selection, memory measurement, number of classes"
    message = str(caught.value)
    assert ("max_memory=400000" if options else "half of the free memory is 0.381 MiB") in message
    assert int(re.search(r"\((\d+) bytes\)", message)[1]) > 400_000 > whole.maps.nbytes
    step = int(re.search(r"target=range\(0, (\d+)\), range\(\1, (\d+)\)", message)[1])
    assert 1 <= step < 40
    parts = [seewhy.explain(net, X, name, target=range(k, min(k + step, 40)), **options) for k in range(0, 40, step)]
    assert torch.allclose(torch.cat([e.values for e in parts], 1), whole.values, rtol=1e-12, atol=1e-14)


def test_range_target_equals_list_of_classes():
    ranged = seewhy.explain(small_classifier(), X, "gradient", target=range(1, 4, 2))
    assert torch.equal(ranged.values, seewhy.explain(small_classifier(), X, "gradient", target=[1, 3]).values)
    with pytest.raises(seewhy.OptionError, match="is empty"):
        seewhy.explain(small_classifier(), X, "gradient", target=range(2, 2))
    with pytest.raises(seewhy.OptionError, match="class 4 is out of range"):
        seewhy.explain(small_classifier(), X, "gradient", target=range(2, 5))


@pytest.mark.row(135)
def test_target_all_is_limited_by_free_memory_despite_max_memory(monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda device: 800_000)
    with pytest.raises(seewhy.OptionError, match="half of the free memory"):
        seewhy.explain(small_classifier(classes=40), X, "gradient", target="all", max_memory=10**12)
    monkeypatch.setattr(memory, "free_memory", lambda device: None)  # unknown on this system
    seewhy.explain(small_classifier(classes=40), X, "gradient", target="all")


def test_free_host_memory_from_system_and_container(tmp_path):
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (tmp_path / "proc").mkdir()
    assert memory._free_host_memory(tmp_path) == memory._half_of_total_memory() > 2**20
    (tmp_path / "proc/meminfo").write_text("MemTotal: 900 kB\nMemFree: 10 kB\nMemAvailable:    500 kB\n")
    assert memory._free_host_memory(tmp_path) == 500 * 1024
    for limit, used, file, free in ((200_000, 150_000, 30_000, 80_000), (10**9, 0, 0, 512_000), (10, 30, 0, 0)):
        (group / "memory.max").write_text(f"{limit}\n")
        (group / "memory.current").write_text(f"{used}\n")
        (group / "memory.stat").write_text(f"anon 5\ninactive_file {file}\n")
        assert memory._free_host_memory(tmp_path) == free
    (group / "memory.max").write_text("max\n")
    assert memory._free_host_memory(tmp_path) == 512_000


PROGRAM = """
import gc, sys, torch, seewhy
from torch import nn
from seewhy.engine import memory
import seewhy.engine.explain

def status(key):
    return int(next(line for line in open("/proc/self/status") if line.startswith(key)).split()[1]) * 1024

estimates = []
original = memory.bytes_per_class
memory.bytes_per_class = lambda *arguments: estimates.append(original(*arguments)) or estimates[-1]
torch.manual_seed(0)
torch.set_num_threads(1)
for classes, samples in ((200, 1), (60, 5)):
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, classes)]
    net, x = nn.Sequential(*layers), torch.randn(samples, 3, 64, 64)
    for name, options in (
        ("gradient", {}), ("gradcam", {}), ("layercam", {}), ("guided_gradcam", {}), ("fullgrad", {}),
        ("integrated_gradients", {"steps": 5}), ("smoothgrad", {"samples": 5}), ("expected_gradients", {"samples": 5}),
        ("occlusion", {"mask_size": 16, "stride": 16}), ("rise", {"samples": 20}),
        ("lime", {"samples": 60, "segments": "grid", "features": 9}),
    ):
        seewhy.explain(net, x, name, target=[0, 1], **options)
        gc.collect()
        estimates.clear()
        before = status("VmRSS")
        open("/proc/self/clear_refs", "w").write("5")  # reset the peak
        e = seewhy.explain(net, x, name, target="all", **options)
        print(name, samples, status("VmHWM") - before, classes * estimates[0], e.maps.nbytes)
        del e
"""


@pytest.mark.row(135)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from /proc")
def test_memory_estimate_is_above_peak_within_factor_8():
    environment = os.environ | {"MALLOC_TRIM_THRESHOLD_": "0"}  # return freed memory, so that each peak is visible
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, env=environment
    )
    rows = [line.split() for line in result.stdout.splitlines()]
    assert len(rows) == 22
    for name, _, *numbers in rows:
        peak, estimate, minimum = map(int, numbers)
        assert minimum < estimate, name
        assert peak < estimate < 8 * max(peak, 2 * minimum), (name, peak, estimate)
