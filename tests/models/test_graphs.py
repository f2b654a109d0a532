"""Networks without Python code: TorchScript, and programs of torch.export."""

import warnings

import pytest
import torch
from torch import nn

import seewhy
from seewhy.methods import METHODS
from seewhy.types import Capability

X = torch.randn(3, 3, 9, 8, generator=torch.Generator().manual_seed(0))
WITHOUT_LAYERS = Capability.SCORES | Capability.GRADIENTS
pytestmark = pytest.mark.filterwarnings("ignore")  # TorchScript is deprecated


def make_network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(5, 4),
    ).eval()  # fmt: skip


def optimized(net):
    return torch.jit.optimize_for_inference(torch.jit.script(net))


SCRIPTS = {
    "script": torch.jit.script,
    "trace": lambda net: torch.jit.trace(net, X[:1]),
    "frozen script": lambda net: torch.jit.freeze(torch.jit.script(net)),
    "frozen trace": lambda net: torch.jit.freeze(torch.jit.trace(net, X[:1])),
}


@pytest.fixture(params=SCRIPTS)
def scripted(request, tmp_path):
    """A TorchScript network, as it is and loaded from a file."""
    net = SCRIPTS[request.param](make_network())
    torch.jit.save(net, tmp_path / "net.ts")
    return net, seewhy.load(f"ts:{tmp_path / 'net.ts'}")


def test_torchscript_is_refused_for_layers_and_works_otherwise(scripted):
    works = [name for name, method in METHODS.items() if method.requires in WITHOUT_LAYERS]
    for net in scripted:
        with pytest.raises(seewhy.ModelError, match="layers cannot be observed") as e:
            seewhy.explain(net, X)
        assert str(e.value).endswith(f"Methods that work: {', '.join(works)}.")
        for call in (seewhy.layers, lambda n, x: seewhy.activations(n, x, "0")):
            with pytest.raises(seewhy.ModelError, match="layers cannot be observed"):
                call(net, X)
        for method in ("gradient", "guided_backprop", "smoothgrad", "occlusion"):
            expected = seewhy.explain(make_network(), X, method, target=1).values
            for _ in range(3):  # TorchScript optimizes a network in its first calls
                torch.testing.assert_close(seewhy.explain(net, X, method, target=1).values, expected)


def test_torchscript_optimized_for_inference():
    net = optimized(make_network())
    expected = seewhy.explain(make_network(), X, "occlusion", target=1).values
    torch.testing.assert_close(seewhy.explain(net, X, "occlusion", target=1).values, expected, rtol=1e-4, atol=1e-5)
    for method in ("gradient", "guided_backprop", "integrated_gradients"):
        with pytest.raises(seewhy.ModelError, match=r"no gradient|cannot be copied"):
            seewhy.explain(net, X, method)


def test_torchscript_inside_a_network_is_one_layer():
    net, plain = make_network(), make_network()
    parts = nn.Sequential(torch.jit.script(net[:3]), *net[3:])
    for method in ("gradcam", "scorecam"):
        e = seewhy.explain(parts, X, method, target=1)
        assert e.feature_layer == "2"
        torch.testing.assert_close(e.values, seewhy.explain(plain, X, method, target=1).values)


EXPORT_METHODS = [
    "gradient",
    "integrated_gradients",
    "guided_backprop",
    "occlusion",
    "gradcam",
    "scorecam",
    "ablationcam",
]


@pytest.fixture(scope="module", params=[1, 2, "dynamic"])
def exported(request, tmp_path_factory):
    """The batch size of a program, and the program: in memory, as a module, and loaded from a file."""
    size, folder = request.param, tmp_path_factory.mktemp("programs")
    dynamic = ({0: torch.export.Dim("batch", min=1, max=64)},) if size == "dynamic" else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(make_network(), (X if dynamic else X[:size],), dynamic_shapes=dynamic)
        torch.export.save(program, folder / "net.pt2")
        return size, (program, program.module(), seewhy.load(f"pt2:{folder / 'net.pt2'}"))


@pytest.mark.parametrize("method", EXPORT_METHODS)
def test_exported_program_with_any_batch(exported, method):
    size, programs = exported
    expected = seewhy.explain(make_network(), X, method, target=[1, 2]).values
    for program in programs:
        if size == 2 and method in EXPORT_METHODS[4:]:
            for call in (seewhy.explain, seewhy.layers, lambda n, x, _=None: seewhy.activations(n, x, "0")):
                arguments = (method,) if call is seewhy.explain else ()
                with pytest.raises(seewhy.ModelError, match="exported for batches of exactly 2 samples"):
                    call(program, X, *arguments)
            continue
        for x in (X, X[:1]):
            values = seewhy.explain(program, x, method, target=[1, 2]).values
            torch.testing.assert_close(values, expected[: len(x)], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(
            seewhy.predict(program, X).probabilities, seewhy.predict(make_network(), X).probabilities
        )


def test_exported_program_with_several_outputs():
    class Two(nn.Module):
        """Returns a dictionary with a tuple."""

        def __init__(self):
            super().__init__()
            self.net = make_network()

        def forward(self, x):
            return {"scores": (self.net(x), x.mean((2, 3)))}

    net = Two().eval()
    program = torch.export.export(net, (X[:2],))
    values = [
        seewhy.explain(n, X, "gradient", target=lambda o: o["scores"][0][:, 1] * o["scores"][1][:, 0]).values
        for n in (program, net)
    ]
    torch.testing.assert_close(*values)
