"""4. The explanations. This is THE TABLE: one line a method; everything else reads it. Free of torch at import."""

from __future__ import annotations

from seewhy.maps import channel_sum
from seewhy.types import Can

from .backward.guided_backprop import guided_backprop
from .backward.zeiler_fergus import zeiler_fergus
from .cam.gradcam import gradcam
from .gradients.expected_gradients import expected_gradients
from .gradients.gradient import gradient
from .gradients.input_x_gradient import input_x_gradient
from .gradients.integrated_gradients import integrated_gradients
from .gradients.smoothgrad import smoothgrad, vargrad
from .method import Method

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
}
