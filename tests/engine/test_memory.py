"""Batches are halved when memory runs out."""

import subprocess
import sys

import pytest
import torch

PROGRAM = """
import resource, sys, torch
from torch import nn
import seewhy
import seewhy.engine.explain

torch.set_num_threads(2)
torch.manual_seed(0)
layers = [nn.Conv2d(3, 16, 3, padding=1), nn.Softplus(), nn.Conv2d(16, 16, 3, padding=1), nn.Tanh()]
net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)).double()
x = torch.randn(1, 3, 128, 128).double()
seewhy.explain(net, x, "integrated_gradients", steps=2, target=1, batch_size=1)  # start threads and fill caches
sizes = []
net.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
limit = int(sys.argv[2])
if limit:
    used = int(next(l for l in open("/proc/self/status") if l.startswith("VmSize")).split()[1]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (used + limit, resource.RLIM_INFINITY))
e = seewhy.explain(net, x, "integrated_gradients", steps=300, target=1, batch_size=int(sys.argv[3]))
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
torch.save((e.values, sizes), sys.argv[1])
"""


def run(file, limit, size):
    subprocess.run([sys.executable, "-c", PROGRAM, str(file), str(limit), str(size)], check=True, capture_output=True)
    return torch.load(file, weights_only=True)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit is read from /proc")
def test_integrated_gradients_under_memory_limit_equals_unlimited(tmp_path):
    values, sizes = run(tmp_path / "free.pt", 0, 4)
    limited, limited_sizes = run(tmp_path / "tight.pt", 200_000_000, 32)
    assert max(sizes) == 4
    assert max(limited_sizes) == 32, "the requested size was tried"
    assert 1 <= limited_sizes[-2] < 32, "then halved"
    assert limited_sizes.count(32) == 1, "only once in the whole call"
    assert (values - limited).abs().max() < 1e-10 * values.abs().max()
