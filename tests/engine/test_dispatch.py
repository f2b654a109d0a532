"""The path of a call: explain, dispatch, the batch core, a family, the kernel."""

import ast
import inspect
import sys
import textwrap
from itertools import permutations

import pytest
import torch
from torch import nn

import seewhy
from seewhy.engine.families import FAMILIES, input_gradients
from seewhy.engine.job import run_order
from seewhy.methods.cam.gradcam import gradcam
from seewhy.methods.gradient.integrated_gradients import integrated_gradients
from seewhy.methods.perturbation.occlusion import occlusion
from seewhy.testing import inputs, network

METHODS = ["gradient", "guided_backprop", "gradcam", "guided_gradcam", "fullgrad", "occlusion"]


def frames_between_explain_and_here():
    """The functions of seewhy on the stack between `explain` and the caller of this function."""
    names, frame = [], sys._getframe(2)
    while frame.f_code.co_name != "explain":
        if frame.f_globals["__name__"].startswith("seewhy."):
            names.append(frame.f_code.co_name)
        frame = frame.f_back
    return names


def recording(kernel, frames):
    """The kernel of a method, which appends the functions on the stack to `frames` when its formula runs."""

    def plain(*args, **options):
        frames.append(frames_between_explain_and_here())
        return kernel(*args, **options)

    def generator(*args, **options):
        frames.append(frames_between_explain_and_here())
        return (yield from kernel(*args, **options))

    copy = generator if inspect.isgeneratorfunction(kernel) else plain
    copy.__signature__, copy.__doc__, copy.__wrapped__ = inspect.signature(kernel), kernel.__doc__, kernel
    return copy


@pytest.mark.parametrize(
    ("name", "kernel", "most", "options"),
    [
        ("gradcam", gradcam, 5, {}),
        ("integrated_gradients", integrated_gradients, 7, {"steps": 3}),
        ("occlusion", occlusion, 7, {"mask_size": 3}),
    ],
)
def test_few_functions_between_explain_and_kernel(name, kernel, most, options):
    entry, frames = seewhy.METHODS[name], []
    mine = seewhy.Method(recording(kernel, frames), entry.family, "Copy", "none", requires=entry.requires)
    e = seewhy.explain(network(), inputs(), mine, target=1, **options)
    expected = seewhy.explain(network(), inputs(), name, target=1, **options)
    assert torch.equal(e.values, expected.values)
    assert frames
    assert max(map(len, frames)) <= most, frames[0]


def test_explain_is_short():
    source = textwrap.dedent(inspect.getsource(seewhy.explain))
    function = ast.parse(source).body[0]
    documentation = function.body[0]
    lines = len(source.splitlines()) - (documentation.end_lineno - documentation.lineno + 1)
    assert lines < 40


def test_families_that_free_the_graph_run_last():
    some = [FAMILIES[name] for name in ("input_gradient", "layer_and_rule", "attention", "full_gradient")]
    for order in permutations(some):
        assert run_order(order)[-1] is input_gradients
    assert {f.run for f in FAMILIES.values() if f.frees_graph} == {input_gradients}, "only one function may free it"


def test_methods_of_one_call_equal_those_of_separate_calls():
    """In whatever order they are requested."""
    alone = [seewhy.explain(network(), inputs(), name, target=1).values for name in METHODS]
    for names, expected in ((METHODS, alone), (METHODS[::-1], alone[::-1])):
        together = seewhy.explain(network(), inputs(), names, target=1)
        for e, values in zip(together, expected, strict=True):
            assert torch.allclose(e.values, values, rtol=1e-12, atol=0)


def test_ensembles_and_plain_methods_in_one_list():
    """Each receives the options that it has, and plain methods share their forward passes."""
    methods = [seewhy.smooth("gradcam", samples=3), "gradient", seewhy.tta("occlusion"), "occlusion"]
    forwards = []
    net = network()
    net.register_forward_hook(lambda _module, args, _output: forwards.append(len(args[0])))
    mixed = seewhy.explain(net, inputs(), methods, target=1, mask_size=3)
    assert [e.call.ensemble is None for e in mixed] == [False, True, False, True]
    assert mixed[2].options["mask_size"] == 3
    for e, method in zip(mixed, methods, strict=True):
        options = {"mask_size": 3} if "mask_size" in e.options else {}
        assert torch.equal(e.values, seewhy.explain(network(), inputs(), method, target=1, **options).values)


def test_wrong_method_in_list_is_refused_before_any_pass():
    net = network()
    net.register_forward_hook(lambda *_: pytest.fail("the network ran"))
    with pytest.raises(seewhy.UnknownNameError):
        seewhy.explain(net, inputs(), [seewhy.smooth("gradcam"), "gradcan"])
    with pytest.raises(seewhy.OptionError):
        seewhy.explain(net, inputs(), [seewhy.smooth("gradcam"), "lime"], samples=0)


def test_methods_without_feature_layer_run_once_for_several_layers():
    layers = ["2", "4"]
    gradient, cam = seewhy.explain(network(), inputs(), ["gradient", "gradcam"], target=1, feature_layer=layers)
    alone = seewhy.explain(network(), inputs(), "gradient", target=1)
    assert torch.equal(gradient.values, alone.values)
    assert gradient.notes == alone.notes
    assert gradient.feature_layer is None
    each = [seewhy.explain(network(), inputs(), "gradcam", target=1, feature_layer=layer).maps for layer in layers]
    assert torch.allclose(cam.maps, torch.stack(each).mean(0))
    assert "the mean of the maps of 2 layers" in cam.notes


def test_one_layer_in_a_list_is_that_layer():
    listed = seewhy.explain(network(), inputs(), "gradcam", target=1, feature_layer=["2"])
    alone = seewhy.explain(network(), inputs(), "gradcam", target=1, feature_layer="2")
    assert torch.equal(listed.values, alone.values)
    assert listed.notes == alone.notes


def test_ensemble_of_list_of_inputs_has_one_result_per_input():
    x = [torch.randn(3, 6, 9), torch.randn(3, 8, 9)]
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    both = seewhy.explain(net, x, [seewhy.smooth("gradient", samples=2), "gradcam"], target=1)
    assert [[tuple(e.maps.shape[2:]) for e in by_input] for by_input in both] == [[(6, 9), (8, 9)]] * 2
