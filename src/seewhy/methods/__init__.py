"""4. The explanations. This is THE TABLE: one line a method; everything else reads it. Free of torch at import."""

from __future__ import annotations

from seewhy.maps import channel_sum
from seewhy.types import Can

from .attention.attention_gradient import attention_gradient
from .attention.legrad import legrad
from .attention.rollout import rollout
from .backward.guided_backprop import guided_backprop
from .backward.zeiler_fergus import zeiler_fergus
from .cam.eigencam import eigencam
from .cam.fullgrad import fullgrad
from .cam.gradcam import gradcam, gradcam_plus_plus, guided_gradcam, hirescam, layercam, xgradcam
from .cam.masked import ablationcam, recipro_cam, scorecam
from .controls.controls import centre, edges, random
from .gradients.expected_gradients import expected_gradients
from .gradients.gradient import gradient
from .gradients.input_x_gradient import input_x_gradient
from .gradients.integrated_gradients import integrated_gradients
from .gradients.smoothgrad import smoothgrad, vargrad
from .method import Method
from .perturb.kernel_shap import kernel_shap
from .perturb.lime import lime
from .perturb.occlusion import feature_ablation, occlusion
from .perturb.rise import rise

__all__ = ["DEFAULT", "METHODS", "Can", "Method"]

DEFAULT = "gradcam"
LAYERS = Can.SCORES | Can.GRADIENTS | Can.LAYERS

METHODS: dict[str, Method] = {
    "gradient": Method(gradient, "input_gradient", "Gradient", "Simonyan et al. 2014, sec. 3.1"),
    "input_x_gradient": Method(input_x_gradient, "input_gradient", "Input × gradient", "Shrikumar et al. 2016, sec. 3"),
    "guided_backprop": Method(guided_backprop, "rectifier_rule", "Guided backprop", "Springenberg et al. 2015, 3.4"),
    "zeiler_fergus": Method(zeiler_fergus, "rectifier_rule", "Zeiler-Fergus", "Zeiler and Fergus 2014, sec. 2.1"),
    "integrated_gradients": Method(
        integrated_gradients, "path_gradient", "Integrated gradients", "Sundararajan et al. 2017, eq. 1", complete=True
    ),
    "smoothgrad": Method(smoothgrad, "path_gradient", "SmoothGrad", "Smilkov et al. 2017, sec. 3"),
    "vargrad": Method(vargrad, "path_gradient", "VarGrad", "Adebayo et al. 2018 (local explanation methods), sec. 2"),
    "expected_gradients": Method(
        expected_gradients, "path_gradient", "Expected gradients", "Erion et al. 2021, eq. 3", complete=True
    ),
    "gradcam": Method(gradcam, "layer_gradient", "Grad-CAM", "Selvaraju et al. 2017, eq. 1, 2", LAYERS, channel_sum),
    "gradcam++": Method(
        gradcam_plus_plus, "layer_gradient", "Grad-CAM++", "Chattopadhay et al. 2018, eq. 19", LAYERS, channel_sum
    ),
    "hirescam": Method(hirescam, "layer_gradient", "HiResCAM", "Draelos and Carin 2020, eq. 3", LAYERS, channel_sum),
    "layercam": Method(layercam, "layer_gradient", "LayerCAM", "Jiang et al. 2021, eq. 3, 4", LAYERS, channel_sum),
    "xgradcam": Method(xgradcam, "layer_gradient", "XGrad-CAM", "Fu et al. 2020, eq. 8", LAYERS, channel_sum),
    "eigencam": Method(
        eigencam, "layer_gradient", "EigenCAM", "Muhammad and Yeasin 2020, eq. 4", LAYERS, channel_sum, classless=True
    ),
    "guided_gradcam": Method(
        guided_gradcam, "layer_and_rule", "Guided Grad-CAM", "Selvaraju et al. 2017, sec. 3.2", LAYERS
    ),
    "fullgrad": Method(
        fullgrad, "full_gradient", "FullGrad", "Srinivas and Fleuret 2019, eq. 3, 5", reduce=channel_sum
    ),
    "scorecam": Method(scorecam, "layer_scores", "Score-CAM", "Wang et al. 2020, algorithm 1", LAYERS, channel_sum),
    "ablationcam": Method(
        ablationcam, "layer_scores", "Ablation-CAM", "Ramaswamy and Desai 2020, eq. 3, 4", LAYERS, channel_sum
    ),
    "recipro_cam": Method(
        recipro_cam, "layer_scores", "Recipro-CAM", "Byun and Lee 2022, eq. 2 to 4", LAYERS, channel_sum
    ),
    "rollout": Method(
        rollout, "attention", "Attention rollout", "Abnar and Zuidema 2020, eq. 1", LAYERS, channel_sum, classless=True
    ),
    "attention_gradient": Method(
        attention_gradient,
        "attention",
        "Attention × gradient",
        "Chefer et al. 2021 (generic), eq. 5, 6",
        LAYERS,
        channel_sum,
    ),
    "legrad": Method(legrad, "attention", "LeGrad", "Bousselham et al. 2025, sec. 3", LAYERS, channel_sum),
    "occlusion": Method(
        occlusion, "masked_scores", "Occlusion", "Zeiler and Fergus 2014, sec. 4.2", Can.SCORES, channel_sum
    ),
    "feature_ablation": Method(
        feature_ablation,
        "masked_scores",
        "Feature ablation",
        "Zeiler and Fergus 2014, sec. 4.2, with segments",
        Can.SCORES,
        channel_sum,
    ),
    "lime": Method(lime, "masked_scores", "LIME", "Ribeiro et al. 2016, eq. 1, sec. 3.4", Can.SCORES, channel_sum),
    "rise": Method(rise, "masked_scores", "RISE", "Petsiuk et al. 2018, eq. 6", Can.SCORES, channel_sum),
    "kernel_shap": Method(
        kernel_shap,
        "masked_scores",
        "KernelSHAP",
        "Lundberg and Lee 2017, eq. 8; Musco and Witter 2025",
        Can.SCORES,
        channel_sum,
    ),
    # not marked as classless: the tests of `seewhy.check` must find out by themselves
    "random": Method(random, "input", "Noise (control)", "Binder et al. 2023", Can.SCORES, channel_sum),
    "edges": Method(edges, "input", "Edges (control)", "Adebayo et al. 2018, sec. 4", Can.SCORES, channel_sum),
    "centre": Method(centre, "input", "Centre (control)", "Fong et al. 2019, sec. 4", Can.SCORES, channel_sum),
}
