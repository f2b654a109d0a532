"""Every class of every sample, where it fits."""

import os
import re
import subprocess
import sys

import pytest
import torch
from tests.networks import classifier, drawn, noise
from tests.oracles.attention import Vit, VitTwin
from torch import nn

import seewhy
from seewhy.methods import room
from seewhy.methods.families import FAMILIES

X = noise(3, 3, 8, 8)
FEW = {name: {"samples": 6} for name in ("smoothgrad", "vargrad", "expected_gradients")}
FEW |= {name: {"samples": 60, "segments": "grid", "features": 9} for name in ("lime", "kernel_shap")}
FEW |= {"rise": {"samples": 20, "cells": 3}, "feature_ablation": {"segments": "grid", "features": 9}}
FEW |= {"integrated_gradients": {"steps": 4}}


class Counted(nn.Module):
    def __init__(self, inside):
        super().__init__()
        self.inside, self.seen = inside, 0

    def forward(self, x):
        self.seen += len(x)
        return self.inside(x)


@pytest.mark.row(135)
@pytest.mark.parametrize("name", seewhy.METHODS)
def test_all_is_a_list_of_all_the_classes(name):
    net, x, classes = classifier(), X, 4
    if FAMILIES[seewhy.METHODS[name].feeds].attention:
        net, x = VitTwin(Vit()), noise(2, 3, 6, 9)
    every = seewhy.explain(net, x, name, target="all", **FEW.get(name, {}))
    listed = seewhy.explain(net, x, name, target=list(range(classes)), **FEW.get(name, {}))
    assert every.targets.tolist() == [list(range(classes))] * len(x)
    assert every.values.shape[:2] == (len(x), classes)
    assert torch.equal(every.values, listed.values)
    assert torch.equal(every.scores, listed.scores)
    assert every.evaluations == listed.evaluations


@pytest.mark.row(135)
def test_all_of_a_segmentation_a_layer_and_a_single_number():
    maps = drawn(nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 5, 1)).double())
    every = seewhy.explain(maps, X, "gradient", target="all")
    assert every.values.shape == (3, 5, 3, 8, 8)
    leaf = X.clone().requires_grad_()
    for k in range(5):
        slope = torch.autograd.grad(maps(leaf)[:, k].sum(), leaf)[0]
        assert torch.allclose(every.values[:, k], slope, atol=1e-12)
    channels = seewhy.explain(classifier(), X, "gradient", target="all", reduction_layer="2")
    assert channels.targets[0].tolist() == list(range(6))
    one = seewhy.explain(lambda x: x.sum((1, 2, 3)), X, "gradient", target="all")
    assert one.targets.tolist() == [[0]] * 3
    last = seewhy.wrap(maps, layout="NHWC", forward=lambda net, x: net(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
    assert torch.allclose(seewhy.explain(last, X.permute(0, 2, 3, 1), "gradient", target="all").values, every.values)


def test_labels_and_several_methods():
    model = seewhy.wrap(classifier(), labels=["cat", "fish", "bird", "cow"])
    for e in seewhy.explain(model, X, ["gradient", "gradcam", seewhy.smooth("gradient", samples=3)], target="all"):
        assert e.labels == (("cat", "fish", "bird", "cow"),) * 3
    batches = [*seewhy.explain(model, iter(X.split(2)), "gradient", target="all")]
    whole = seewhy.explain(model, X, "gradient", target="all").values
    assert torch.cat([e.values for e in batches]).sub(whole).abs().max() < 1e-12


@pytest.mark.row(135)
@pytest.mark.parametrize("by", ["max_memory", "what is free"])
@pytest.mark.parametrize("name", ["gradient", "gradcam", "occlusion"])
def test_too_much_is_refused_with_a_loop_that_works(name, by, monkeypatch):
    net = Counted(classifier(classes=40))
    whole = seewhy.explain(net, X, name, target="all")
    net.seen = 0
    options = {"max_memory": 400_000} if by == "max_memory" else {}
    if not options:
        monkeypatch.setattr(room, "free_memory", lambda device: 800_000)
    with pytest.raises(seewhy.OptionError, match="3 samples with 40 classes each take about") as refused:
        seewhy.explain(net, X, name, target="all", **options)
    assert net.seen <= 4, "single samples, to choose the layer, to measure, and to count the classes"
    told = str(refused.value)
    assert ("max_memory=400000" if options else "half of the free memory is 0.381 MiB") in told
    assert int(re.search(r"\((\d+) bytes\)", told)[1]) > 400_000 > whole.maps.nbytes
    step = int(re.search(r"target=range\(0, (\d+)\), range\(\1, (\d+)\)", told)[1])
    assert 1 <= step < 40
    parts = [seewhy.explain(net, X, name, target=range(k, min(k + step, 40)), **options) for k in range(0, 40, step)]
    assert torch.allclose(torch.cat([e.values for e in parts], 1), whole.values, rtol=1e-12, atol=1e-14)


def test_a_range_is_a_list_of_classes():
    ranged = seewhy.explain(classifier(), X, "gradient", target=range(1, 4, 2))
    assert torch.equal(ranged.values, seewhy.explain(classifier(), X, "gradient", target=[1, 3]).values)
    with pytest.raises(seewhy.OptionError, match="asks for nothing"):
        seewhy.explain(classifier(), X, "gradient", target=range(2, 2))
    with pytest.raises(seewhy.OptionError, match="class 4 is out of range"):
        seewhy.explain(classifier(), X, "gradient", target=range(2, 5))


@pytest.mark.row(135)
def test_what_is_free_bounds_it_even_where_more_is_allowed(monkeypatch):
    monkeypatch.setattr(room, "free_memory", lambda device: 800_000)
    with pytest.raises(seewhy.OptionError, match="half of the free memory"):
        seewhy.explain(classifier(classes=40), X, "gradient", target="all", max_memory=10**12)
    monkeypatch.setattr(room, "free_memory", lambda device: None)  # a system that does not say
    seewhy.explain(classifier(classes=40), X, "gradient", target="all")


def test_free_memory_is_what_the_system_and_the_container_say(tmp_path):
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (tmp_path / "proc").mkdir()
    assert room._free_here(tmp_path) == room._half_of_all() > 2**20
    (tmp_path / "proc/meminfo").write_text("MemTotal: 900 kB\nMemFree: 10 kB\nMemAvailable:    500 kB\n")
    assert room._free_here(tmp_path) == 500 * 1024
    for most, used, file, free in ((200_000, 150_000, 30_000, 80_000), (10**9, 0, 0, 512_000), (10, 30, 0, 0)):
        (group / "memory.max").write_text(f"{most}\n")
        (group / "memory.current").write_text(f"{used}\n")
        (group / "memory.stat").write_text(f"anon 5\ninactive_file {file}\n")
        assert room._free_here(tmp_path) == free
    (group / "memory.max").write_text("max\n")
    assert room._free_here(tmp_path) == 512_000


PROGRAM = """
import gc, sys, torch, seewhy
from torch import nn
from seewhy.methods import room
import seewhy.methods.explain

def status(key):
    return int(next(line for line in open("/proc/self/status") if line.startswith(key)).split()[1]) * 1024

said = []
asked = room.bytes_a_class
room.bytes_a_class = lambda *given: said.append(asked(*given)) or said[-1]
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
        said.clear()
        before = status("VmRSS")
        open("/proc/self/clear_refs", "w").write("5")  # the high-water mark begins anew
        e = seewhy.explain(net, x, name, target="all", **options)
        print(name, samples, status("VmHWM") - before, classes * said[0], e.maps.nbytes)
        del e
"""


@pytest.mark.row(135)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from /proc")
def test_the_estimate_is_above_the_peak_and_not_far():
    at_once = os.environ | {"MALLOC_TRIM_THRESHOLD_": "0"}  # what is freed is given back, so that peaks are seen
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, env=at_once)
    rows = [line.split() for line in done.stdout.splitlines()]
    assert len(rows) == 22
    for name, _, *numbers in rows:
        peak, said, least = map(int, numbers)
        assert least < said, name
        assert peak < said < 8 * max(peak, 2 * least), (name, peak, said)
