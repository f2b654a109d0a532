"""Reference implementations of all methods, in float64 with explicit loops, written from the papers.

Nothing here imports seewhy.
"""

from .attention import attention_gradient, legrad, rollout
from .cam import (
    ablationcam,
    eigencam,
    fullgrad,
    gradcam,
    gradcam_plus_plus,
    guided_gradcam,
    hirescam,
    layercam,
    recipro_cam,
    scorecam,
    xgradcam,
)
from .controls import centre, edges, random
from .gradient import (
    deeplift,
    expected_gradients,
    gradient,
    guided_backprop,
    input_x_gradient,
    integrated_gradients,
    smoothgrad,
    vargrad,
    zeiler_fergus,
)
from .perturb import feature_ablation, kernel_shap, lime, occlusion, rise, shapley_sampling

# method name -> oracle(network, or a transformer for attention methods, x [N, C, H, W], targets [N, K])
# -> values [N, K, C or 1, H, W]
ORACLES = {
    "gradient": gradient,
    "input_x_gradient": input_x_gradient,
    "guided_backprop": guided_backprop,
    "zeiler_fergus": zeiler_fergus,
    "deeplift": deeplift,
    "integrated_gradients": integrated_gradients,
    "smoothgrad": smoothgrad,
    "vargrad": vargrad,
    "expected_gradients": expected_gradients,
    "gradcam": gradcam,
    "gradcam++": gradcam_plus_plus,
    "hirescam": hirescam,
    "layercam": layercam,
    "xgradcam": xgradcam,
    "eigencam": eigencam,
    "guided_gradcam": guided_gradcam,
    "fullgrad": fullgrad,
    "scorecam": scorecam,
    "ablationcam": ablationcam,
    "recipro_cam": recipro_cam,
    "rollout": rollout,
    "attention_gradient": attention_gradient,
    "legrad": legrad,
    "occlusion": occlusion,
    "feature_ablation": feature_ablation,
    "lime": lime,
    "rise": rise,
    "kernel_shap": kernel_shap,
    "shapley_sampling": shapley_sampling,
    "random": random,
    "edges": edges,
    "centre": centre,
}
