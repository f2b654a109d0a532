"""Names and aliases of methods, and the errors for misplaced arguments."""

import pytest
import torch
from tests.networks import random_input, small_classifier
from torch import nn

import seewhy
from seewhy.methods import METHODS, canonical_name, method_identity, normalized_name

ALIASES = {
    "saliency": "gradient",
    "Grad-CAM": "gradcam",
    "gradCAM": "gradcam",
    "gradcampp": "gradcam++",
    "deconvnet": "zeiler_fergus",
    "ig": "integrated_gradients",
    "shap": "kernel_shap",
    "imageLIME": "lime",
    "GuidedBackprop": "guided_backprop",
    "guided-backprop": "guided_backprop",
    "guided backprop": "guided_backprop",
    "ZeilerFergus": "zeiler_fergus",
    "GradientExplanation": "gradient",
    "autodiff": "gradient",
    "attention_rollout": "rollout",
    "SCORE-CAM": "scorecam",
}


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_canonical_resolves_alias(alias, name):
    assert canonical_name(alias) == name


def test_names_and_aliases_are_distinct_after_normalization():
    names = [normalized_name(n) for name, method in METHODS.items() for n in (name, *method.aliases)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("alias", ["saliency", "Grad-CAM", "ig"])
def test_explanation_holds_canonical_name(alias):
    e = seewhy.explain(small_classifier(), random_input(2, 3, 6, 9), alias, target=1)
    assert e.method == e.call.method == ALIASES[alias]
    same = seewhy.explain(small_classifier(), random_input(2, 3, 6, 9), ALIASES[alias], target=1)
    assert torch.equal(e.values, same.values)
    assert e.call == same.call


def test_shap_is_noted_as_kernel_shap():
    options = {"samples": 100, "segments": "grid"}
    e = seewhy.explain(small_classifier(), random_input(2, 3, 6, 9), "shap", target=1, **options)
    assert e.method == "kernel_shap"
    assert any("KernelSHAP" in note for note in e.notes)
    plain = seewhy.explain(small_classifier(), random_input(2, 3, 6, 9), "kernel_shap", target=1, **options)
    assert not any("names a family" in note for note in plain.notes)


def test_finercam_error_names_the_contrast_target():
    with pytest.raises(seewhy.UnknownNameError, match=r"gradcam.*targets\.contrast"):
        seewhy.explain(small_classifier(), random_input(2, 3, 6, 9), "FinerCAM")


@pytest.mark.parametrize("name", ["gradkam", ""])
def test_unknown_method_lists_known_ones(name):
    with pytest.raises(seewhy.SeewhyError, match="gradcam"):
        seewhy.explain(small_classifier(), random_input(2, 3, 6, 9), name)


@pytest.mark.parametrize(
    ("argument", "right"),
    [
        ("FeatureLayer", "feature_layer"),
        ("OutputUpsampling", "upsample"),
        ("classIdx", "target"),
        ("ReductionLayer", "reduction_layer"),
        ("ExecutionEnvironment", "device"),
        ("n_steps", "integrated_gradients"),
        ("steps", "integrated_gradients"),
        ("MaskSize", "occlusion"),
        ("segmets", "'target'|'seed'|upsample"),
    ],
)
def test_misplaced_argument_error_names_the_right_one(argument, right):
    with pytest.raises(seewhy.UnknownNameError, match=right) as error:
        seewhy.explain(small_classifier(), random_input(2, 3, 6, 9), "gradcam", **{argument: 3})
    assert argument in str(error.value)


def test_renamed_option_of_the_method_itself():
    with pytest.raises(seewhy.UnknownNameError, match="called 'steps'"):
        seewhy.explain(small_classifier(), random_input(2, 3, 6, 9), "ig", n_steps=3)


def test_identified_maps_table_entries_to_their_names():
    def gradient(gradient):
        return gradient

    mine = seewhy.Method(gradient, "input_gradient", "Mine", "none")
    assert method_identity(METHODS["gradcam++"]) == "gradcam++"
    assert method_identity("Saliency") == "gradient"
    assert method_identity(mine) is mine


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        self.body = nn.ModuleDict({"first": nn.Sequential(nn.Conv2d(4, 5, 3), nn.ReLU())})
        self.head = nn.Linear(5, 4)

    def forward(self, x):
        return self.head(self.body["first"](self.stem(x)).mean((2, 3)))


@pytest.fixture
def nested():
    return Nested().eval()


X = torch.randn(2, 3, 9, 12, generator=torch.Generator().manual_seed(1))


def test_feature_layer_as_module_or_unique_ending(nested):
    full = seewhy.explain(nested, X, target=1, feature_layer="body.first.1")
    for layer in (nested.body["first"][1], "first.1"):
        e = seewhy.explain(nested, X, target=1, feature_layer=layer)
        assert e.feature_layer == "body.first.1"
        assert torch.equal(e.values, full.values)
        assert e.call == full.call
    averaged = seewhy.explain(nested, X, target=1, feature_layer=[nested.stem[1], "first.1"])
    assert averaged.feature_layer == "stem.1, body.first.1"


def test_feature_layer_with_ambiguous_ending_is_refused(nested):
    with pytest.raises(seewhy.OptionError, match=r"stem\.1.*body\.first\.1"):
        seewhy.explain(nested, X, feature_layer="1")


def test_feature_layer_of_another_network_is_refused(nested):
    with pytest.raises(seewhy.OptionError, match="not part of"):
        seewhy.explain(nested, X, feature_layer=nn.ReLU())


def test_reduction_layer_as_module(nested):
    by_name = seewhy.explain(nested, X, "gradient", target=1, reduction_layer="head")
    by_module = seewhy.explain(nested, X, "gradient", target=1, reduction_layer=nested.head)
    assert torch.equal(by_name.values, by_module.values)
    assert by_module.call.reduction_layer == "head"


def test_device_gpu_means_cuda(nested):
    if torch.cuda.is_available():
        assert seewhy.explain(nested.cuda(), X, "gradient", device="gpu").values.device.type == "cpu"
    else:
        with pytest.raises(seewhy.OptionError, match="gpu"):
            seewhy.explain(nested, X, "gradient", device="gpu")
