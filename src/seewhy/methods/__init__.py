"""The table of methods: one entry per method. The command line, the tests and the docs use it. Imports no torch."""

from __future__ import annotations

import re

from seewhy.errors import UnknownNameError, unknown_name_error
from seewhy.maps import channel_sum
from seewhy.types import Capability

from .attention.attention_gradient import attention_gradient
from .attention.legrad import legrad
from .attention.rollout import rollout
from .cam.cam import cam
from .cam.eigencam import eigencam
from .cam.fullgrad import fullgrad
from .cam.gradcam import gradcam, gradcam_plus_plus, guided_gradcam, hirescam, layercam, xgradcam
from .cam.masked import ablationcam, recipro_cam, scorecam
from .controls.controls import centre, edges, random
from .gradient.deeplift import RESCALE_RULE, deeplift
from .gradient.expected_gradients import expected_gradients
from .gradient.gradient import gradient
from .gradient.guided_backprop import GUIDED_RULE, guided_backprop
from .gradient.input_x_gradient import input_x_gradient
from .gradient.integrated_gradients import integrated_gradients
from .gradient.smoothgrad import smoothgrad, vargrad
from .gradient.zeiler_fergus import DECONVNET_RULE, zeiler_fergus
from .method import Method
from .perturbation.kernel_shap import kernel_shap
from .perturbation.lime import lime
from .perturbation.occlusion import feature_ablation, occlusion
from .perturbation.rise import rise
from .perturbation.shapley_sampling import shapley_sampling

__all__ = [
    "DEFAULT_METHOD",
    "METHODS",
    "Capability",
    "Method",
    "canonical_name",
    "method_identity",
    "name_note",
    "normalized_name",
]

DEFAULT_METHOD = "gradcam"
LAYER_CAPABILITIES = Capability.SCORES | Capability.GRADIENTS | Capability.LAYERS
_FEW_SEGMENTS = {"segments": "grid", "features": 9}  # quick options of methods with segments

METHODS: dict[str, Method] = {
    "gradient": Method(
        gradient,
        "input_gradient",
        "Gradient",
        "Simonyan et al. 2014, sec. 3.1",
        signed=True,
        aliases=("saliency", "vanilla_gradient", "gradient_explanation", "autodiff", "backprop"),
    ),
    "input_x_gradient": Method(
        input_x_gradient,
        "input_gradient",
        "Input × gradient",
        "Shrikumar et al. 2016, sec. 3",
        signed=True,
        aliases=("gradient_x_input", "gradient_times_input", "input_times_gradient"),
    ),
    "guided_backprop": Method(
        guided_backprop,
        "input_gradient",
        "Guided backprop",
        "Springenberg et al. 2015, sec. 3.4",
        rules=(GUIDED_RULE,),
        signed=True,
        aliases=("guided_backpropagation",),
    ),
    "zeiler_fergus": Method(
        zeiler_fergus,
        "input_gradient",
        "Zeiler-Fergus",
        "Zeiler and Fergus 2014, sec. 2.1",
        rules=(DECONVNET_RULE,),
        signed=True,
        aliases=("deconvnet", "deconvolution"),
    ),
    "deeplift": Method(
        deeplift,
        "recorded_gradient",
        "DeepLIFT",
        "Shrikumar et al. 2017, Learning important features through propagating activation differences, eq. 1, 3, sec. "
        "3.5.1",
        signed=True,
        complete=True,
        rules=(RESCALE_RULE,),
        aliases=("deeplift_rescale",),
    ),
    "integrated_gradients": Method(
        integrated_gradients,
        "path_gradient",
        "Integrated gradients",
        "Sundararajan et al. 2017, eq. 1",
        signed=True,
        complete=True,
        quick_options={"steps": 3},
        aliases=("ig", "integrated_gradient"),
    ),
    "smoothgrad": Method(
        smoothgrad,
        "path_gradient",
        "SmoothGrad",
        "Smilkov et al. 2017, sec. 3",
        signed=True,
        quick_options={"samples": 4},
    ),
    "vargrad": Method(
        vargrad,
        "path_gradient",
        "VarGrad",
        "Adebayo et al. 2018, Local explanation methods for deep neural networks lack sensitivity to parameter "
        "values, sec. 2",
        quick_options={"samples": 4},
    ),
    "expected_gradients": Method(
        expected_gradients,
        "path_gradient",
        "Expected gradients",
        "Erion et al. 2021, eq. 3",
        signed=True,
        complete=True,
        quick_options={"samples": 4},
    ),
    "cam": Method(
        cam,
        "pooled_head",
        "CAM",
        "Zhou et al. 2016, Learning deep features for discriminative localization, eq. 1, 2",
        requires=LAYER_CAPABILITIES,
        reduce=channel_sum,
        signed=True,
        aliases=("class_activation_map", "class_activation_mapping"),
    ),
    "gradcam": Method(
        gradcam,
        "layer_gradient",
        "Grad-CAM",
        "Selvaraju et al. 2017, eq. 1, 2",
        requires=LAYER_CAPABILITIES,
        reduce=channel_sum,
    ),
    "gradcam++": Method(
        gradcam_plus_plus,
        "layer_gradient",
        "Grad-CAM++",
        "Chattopadhay et al. 2018, eq. 19",
        requires=LAYER_CAPABILITIES,
        reduce=channel_sum,
        aliases=("gradcampp", "gradcam_plus_plus"),
    ),
    "hirescam": Method(
        hirescam,
        "layer_gradient",
        "HiResCAM",
        "Draelos and Carin 2020, eq. 3",
        requires=LAYER_CAPABILITIES,
        reduce=channel_sum,
        signed=True,
    ),
    "layercam": Method(
        layercam,
        "layer_gradient",
        "LayerCAM",
        "Jiang et al. 2021, eq. 3, 4",
        requires=LAYER_CAPABILITIES,
        reduce=channel_sum,
    ),
    "xgradcam": Method(
        xgradcam,
        "layer_gradient",
        "XGrad-CAM",
        "Fu et al. 2020, eq. 8",
        requires=LAYER_CAPABILITIES,
        reduce=channel_sum,
        signed=True,
    ),
    "eigencam": Method(
        eigencam,
        "layer_gradient",
        "EigenCAM",
        "Muhammad and Yeasin 2020, eq. 4",
        requires=Capability.SCORES | Capability.LAYERS,
        reduce=channel_sum,
        signed=True,
        class_agnostic=True,
    ),
    "guided_gradcam": Method(
        guided_gradcam,
        "layer_and_rule",
        "Guided Grad-CAM",
        "Selvaraju et al. 2017, sec. 3.2",
        requires=LAYER_CAPABILITIES,
        rules=(GUIDED_RULE,),
        signed=True,
    ),
    "fullgrad": Method(
        fullgrad,
        "full_gradient",
        "FullGrad",
        "Srinivas and Fleuret 2019, eq. 3, 5",
        reduce=channel_sum,
        aliases=("full_gradients", "full_gradient"),
    ),
    "scorecam": Method(
        scorecam,
        "layer_scores",
        "Score-CAM",
        "Wang et al. 2020, algorithm 1",
        requires=Capability.SCORES | Capability.LAYERS,
        reduce=channel_sum,
    ),
    "ablationcam": Method(
        ablationcam,
        "layer_scores",
        "Ablation-CAM",
        "Ramaswamy and Desai 2020, eq. 3, 4",
        requires=Capability.SCORES | Capability.LAYERS,
        reduce=channel_sum,
    ),
    "recipro_cam": Method(
        recipro_cam,
        "layer_scores",
        "Recipro-CAM",
        "Byun and Lee 2022, eq. 2 to 4",
        requires=Capability.SCORES | Capability.LAYERS,
        reduce=channel_sum,
        signed=True,
    ),
    "rollout": Method(
        rollout,
        "attention",
        "Attention rollout",
        "Abnar and Zuidema 2020, eq. 1",
        requires=LAYER_CAPABILITIES,
        reduce=channel_sum,
        class_agnostic=True,
        aliases=("attention_rollout",),
    ),
    "attention_gradient": Method(
        attention_gradient,
        "attention",
        "Attention × gradient",
        "Chefer et al. 2021, Generic attention-model explainability, eq. 5, 6",
        requires=LAYER_CAPABILITIES,
        reduce=channel_sum,
        aliases=("attention_x_gradient", "gradient_attention"),
    ),
    "legrad": Method(
        legrad,
        "attention",
        "LeGrad",
        "Bousselham et al. 2025, sec. 3",
        requires=LAYER_CAPABILITIES,
        reduce=channel_sum,
    ),
    "occlusion": Method(
        occlusion,
        "masked_scores",
        "Occlusion",
        "Zeiler and Fergus 2014, sec. 4.2",
        requires=Capability.SCORES,
        reduce=channel_sum,
        signed=True,
        aliases=("occlusion_sensitivity",),
    ),
    "feature_ablation": Method(
        feature_ablation,
        "masked_scores",
        "Feature ablation",
        "Zeiler and Fergus 2014, sec. 4.2, with segments",
        requires=Capability.SCORES,
        reduce=channel_sum,
        signed=True,
        quick_options=_FEW_SEGMENTS,
        aliases=("ablation",),
    ),
    "lime": Method(
        lime,
        "masked_scores",
        "LIME",
        "Ribeiro et al. 2016, eq. 1, sec. 3.4",
        requires=Capability.SCORES,
        reduce=channel_sum,
        signed=True,
        quick_options={"samples": 40, **_FEW_SEGMENTS},
        aliases=("image_lime",),
    ),
    "rise": Method(
        rise,
        "masked_scores",
        "RISE",
        "Petsiuk et al. 2018, eq. 6",
        requires=Capability.SCORES,
        reduce=channel_sum,
        signed=True,
        quick_options={"samples": 20, "cells": 3},
    ),
    "kernel_shap": Method(
        kernel_shap,
        "masked_scores",
        "KernelSHAP",
        "Lundberg and Lee 2017, eq. 8; Musco and Witter 2025, Provably accurate Shapley value estimation via leverage "
        "score sampling",
        requires=Capability.SCORES,
        reduce=channel_sum,
        signed=True,
        complete=True,
        quick_options={"samples": 40, **_FEW_SEGMENTS},
        aliases=("shap",),
    ),
    "shapley_sampling": Method(
        shapley_sampling,
        "masked_scores",
        "Shapley value sampling",
        "Castro et al. 2009, Polynomial calculation of the Shapley value based on sampling, sec. 3; Strumbelj and "
        "Kononenko 2010",
        requires=Capability.SCORES,
        reduce=channel_sum,
        signed=True,
        complete=True,
        quick_options={"samples": 4, **_FEW_SEGMENTS},
        aliases=("shapley_value_sampling", "shapley_values_sampling"),
    ),
    # The controls are not marked as class-agnostic: the tests of `seewhy.check` must detect that they are.
    "random": Method(
        random,
        "input",
        "Noise (control)",
        "Binder et al. 2023, Shortcomings of top-down randomization-based sanity checks",
        requires=Capability.SCORES,
        reduce=channel_sum,
        signed=True,
    ),
    "edges": Method(
        edges,
        "input",
        "Edges (control)",
        "Adebayo et al. 2018, Sanity checks for saliency maps, fig. 1",
        requires=Capability.SCORES,
        reduce=channel_sum,
    ),
    "centre": Method(
        centre,
        "input",
        "Center (control)",
        "Fong et al. 2019, sec. 4",
        requires=Capability.SCORES,
        reduce=channel_sum,
        aliases=("center",),
    ),
}

_AMBIGUOUS_NAMES = {"shap": "'shap' names a family of methods; KernelSHAP was computed"}
_COVERED_ELSEWHERE = {
    "finercam": "Finer-CAM is Grad-CAM of a contrast target: explain(model, x, 'gradcam', "
    "target=seewhy.targets.contrast(index, rivals)).",
}


def normalized_name(name: str) -> str:
    """The name in lower case, without "-", "_" and spaces; names that differ only in these are equal."""
    return re.sub(r"[-_\s]", "", name).casefold()


_CANONICAL = {normalized_name(known): name for name, method in METHODS.items() for known in (name, *method.aliases)}


def canonical_name(name: str) -> str:
    """The canonical name of a method, for any spelling of its name or of an alias.

    Raises:
        UnknownNameError: no method has this name.
    """
    key = normalized_name(name) if isinstance(name, str) else ""
    if key and name in METHODS:  # entries added by users
        return name
    if key in _CANONICAL:
        return _CANONICAL[key]
    if key in _COVERED_ELSEWHERE:
        raise UnknownNameError(f"unknown method {name!r}. {_COVERED_ELSEWHERE[key]}")
    raise unknown_name_error("method", name, METHODS)


def name_note(name: str) -> str | None:
    """A note for the user if the name is ambiguous, else None."""
    return _AMBIGUOUS_NAMES.get(normalized_name(name))


def method_identity(method: str | Method) -> str | Method:
    """What methods are compared by: the canonical name of a table entry, or the `Method` itself if it is custom."""
    if isinstance(method, str):
        return canonical_name(method)
    return next((name for name, known in METHODS.items() if known == method), method)
