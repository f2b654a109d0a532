"""Explanations of networks with known ground truth: `python -m benchmarks.evidence`.

Functions with attributions in closed form, disconnected mosaics, pasted objects, a grid pointing game, watermarks, and
suppressor variables.
"""

import sys
import time
import warnings
from collections import defaultdict

import numpy as np
import torch
from captum import attr
from tests.known_answers import (
    CELL_ORDERS,
    FAULTY_GRADCAM,
    FUNCTIONS,
    KNOWN_ANSWERS,
    NETWORKS,
    PICTURE,
    SIZE,
    AttentionMosaic,
    Mosaic,
    SeparateMosaic,
    answer_error,
    compute_explanation,
    leakage,
    mosaic_options,
)
from tests.networks import with_random_weights
from torch import nn

import seewhy
from seewhy.engine.families import FAMILIES

from .marks import unknown_mark_detection, watermark_detection
from .measure import RESULTS, environment, markdown_table
from .objects import dependence_and_localization, grid_pointing_game, model_contrast, train_networks
from .taught import format_mean

# --- known answers


def captum_error(answer):
    """Largest error of Captum, with settings under which it can be exact; None if it does not have the method."""
    if answer.function in NETWORKS:
        net = NETWORKS[answer.function]
        single_features = torch.arange(SIZE[0] * SIZE[1]).view(1, 1, *SIZE).expand_as(PICTURE).contiguous()
        calls = {
            "gradient": lambda: attr.Saliency(net).attribute(PICTURE, target=1, abs=False),
            "input_x_gradient": lambda: attr.InputXGradient(net).attribute(PICTURE, target=1),
            "guided_backprop": lambda: attr.GuidedBackprop(net).attribute(PICTURE, target=1),
            "gradcam": lambda: attr.LayerGradCam(net, net[1]).attribute(PICTURE, target=1, relu_attributions=True),
            "guided_gradcam": lambda: attr.GuidedGradCam(net, net[1]).attribute(
                PICTURE, target=1, interpolate_mode="bilinear"
            ),
            "occlusion": lambda: attr.Occlusion(net).attribute(PICTURE, (2, 1, 1), target=1)[:, :1],
            "feature_ablation": lambda: attr.FeatureAblation(net).attribute(
                PICTURE, target=1, feature_mask=single_features
            )[:, :1],
            "kernel_shap": lambda: attr.ShapleyValueSampling(net).attribute(
                PICTURE, target=1, feature_mask=single_features, n_samples=4
            )[:, :1],
        }  # fmt: skip
    elif answer.function not in FUNCTIONS:
        return None
    else:
        known = FUNCTIONS[answer.function]
        x, f = torch.tensor([known.x], dtype=torch.float64), known.f
        rule = {"gauss": "gausslegendre", "midpoint": "riemann_middle"}[known.rule]
        calls = {
            "gradient": lambda: attr.Saliency(f).attribute(x, abs=False),
            "input_x_gradient": lambda: attr.InputXGradient(f).attribute(x),
            "integrated_gradients": lambda: attr.IntegratedGradients(f).attribute(
                x, n_steps=max(2, known.steps), method=rule
            ),
            "occlusion": lambda: attr.Occlusion(f).attribute(x, (1,)),
            "feature_ablation": lambda: attr.FeatureAblation(f).attribute(x),
            "kernel_shap": lambda: attr.ShapleyValues(f).attribute(x),
        }
    if answer.method not in calls or not answer.exact:
        return None
    try:
        return answer_error(answer, calls[answer.method]().detach().double())
    except Exception as error:  # counted as a wrong result
        print(f"captum, {answer.function}, {answer.method}: {error}", file=sys.stderr)
        return float("inf")


def known_answers():
    """Rows of method, number of correct results of seewhy and of Captum, and Captum's largest error."""
    torch.manual_seed(0)
    ours, captum = defaultdict(list), defaultdict(list)
    for answer in KNOWN_ANSWERS.values():
        e = compute_explanation(answer)
        ours[answer.method].append(answer_error(answer, e.values, e.stderr) <= (1e-12 if answer.exact else 4))
        if (error := captum_error(answer)) is not None:
            captum[answer.method].append(error)
    rows = []
    for method, correct in ours.items():
        errors = captum[method]
        largest = max((error for error in errors if error > 1e-12), default=0)
        rows.append([
            method, f"{sum(correct)} of {len(correct)}",
            *(f"{sum(v <= limit for v in errors)} of {len(errors)}" if errors else "–" for limit in (1e-12, 1e-6)),
            f"{largest:.1g}" if largest else "–",
        ])  # fmt: skip
    all_correct = [v for of_method in ours.values() for v in of_method]
    all_errors = [v for of_method in captum.values() for v in of_method]
    rows.append([
        "all", f"{sum(all_correct)} of {len(all_correct)}",
        *(f"{sum(v <= limit for v in all_errors)} of {len(all_errors)}" for limit in (1e-12, 1e-6)), "",
    ])  # fmt: skip
    return rows


# --- disconnected mosaics


def mosaics(count=6):
    """Rows of method and fraction of its map outside the cell of the class, for shared and for separate channels."""
    methods = {
        name: FAMILIES[m.family]
        for name, m in seewhy.METHODS.items()
        if m.family != "input" and not FAMILIES[m.family].needs_pooled_head  # the heads of mosaics are not pooled
    }
    shared, separate = defaultdict(list), defaultdict(list)
    for seed in range(count):
        separated, attending = (
            with_random_weights(SeparateMosaic().double(), seed),
            with_random_weights(AttentionMosaic().double(), seed),
        )
        for method, family in methods.items():
            # FullGrad spreads each execution of a layer over the whole image: the layers must not be executed per cell
            net = with_random_weights(Mosaic(kernel=1 if method == "fullgrad" else 3).double(), seed)
            options = mosaic_options(method) | ({"surrogate": "linear"} if method == "lime" else {})
            orders = CELL_ORDERS[:1] if "mask_value" in options else CELL_ORDERS
            separate[method].append(
                np.nanmean(leakage(attending if family.uses_attention else separated, method, orders, **options))
            )
            if not family.uses_attention:
                shared[method].append(np.nanmean(leakage(net, method, orders, **options)))
        for name, faulty in FAULTY_GRADCAM.items():
            separate[name].append(np.nanmean(leakage(separated, faulty, feature_layer="two", upsample="none")))
    return [[m, _format_leakage(shared[m]) if shared[m] else "–", _format_leakage(v)] for m, v in separate.items()]


def _format_leakage(v):
    if max(v) < 1e-12:
        return "0 within rounding" if max(v) else "exactly 0"
    return format_mean(v, 2 if max(v) > 0.05 else 4)


def suppressor_variables(count=10, shown=8):
    """Fraction of the map at positions without information about the class, for an optimal linear classifier.

    Returns:
        Rows of method and fraction, and a text on the weights.
    """
    side = 8
    pattern = torch.zeros(side, side, dtype=torch.float64)
    pattern[2, 2:5] = pattern[3, 3] = 1.0  # a tetromino
    uninformative = (pattern == 0).double()
    fractions, relative_weights = defaultdict(list), []
    for seed in range(count):
        generator = torch.Generator().manual_seed(seed)
        mix = torch.randn(side**2, side**2, generator=generator, dtype=torch.float64) * 0.15
        position = torch.arange(side).double()
        smooth = torch.exp(-((position[:, None] - position) ** 2) / 2)
        background = torch.kron(smooth, smooth) + mix @ mix.T + 0.05 * torch.eye(side**2, dtype=torch.float64)
        w = torch.linalg.solve(background, pattern.flatten())  # optimal weights for x = ± pattern + background
        net = nn.Sequential(nn.Flatten(), nn.Linear(side**2, 1)).double()
        with torch.no_grad():
            net[1].weight.copy_(w[None])
            net[1].bias.zero_()
        factor = torch.linalg.cholesky(background)
        y = torch.randint(2, (shown,), generator=generator) * 2.0 - 1
        x = (
            y[:, None] * pattern.flatten()
            + torch.randn(shown, side**2, generator=generator, dtype=torch.float64) @ factor.T
        )
        x = x.view(-1, 1, side, side)
        for method in ("gradient", "input_x_gradient", "integrated_gradients", "occlusion", "kernel_shap"):
            single_positions = {"segments": torch.arange(side**2).view(side, side), "samples": 256, "mask_value": 0}
            options = single_positions if "segments" in seewhy.METHODS[method].options else {}
            options |= {"mask_size": 1, "stride": 1, "mask_value": 0} if method == "occlusion" else {}
            magnitude = seewhy.explain(net, x, method, target=0, **options).values.abs()[:, 0, 0]
            fraction = (magnitude * uninformative).sum((1, 2)) / magnitude.sum((1, 2))
            fractions[method].append(float(fraction.mean()))
        covariance = background + torch.outer(pattern.flatten(), pattern.flatten())
        magnitude = (covariance @ w).abs().view(side, side)
        fraction = float((magnitude * uninformative).sum() / magnitude.sum())
        fractions["covariance × weights (Haufe et al. 2014)"].append(fraction)
        relative_weights.append(float(w.view(side, side)[pattern == 0].abs().max() / w.abs().max()))
    text = (
        "The largest weight at a position without information about the class is "
        f"{format_mean(relative_weights)} of the largest weight: it cancels background that is shared with the pattern."
    )
    return [[m, format_mean(v)] for m, v in fractions.items()], text


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(2)
    start, parts = time.perf_counter(), []

    def add(title, text, headers, rows):
        parts.append(f"### {title}\n\n{text}\n\n{markdown_table(headers, rows)}")
        print(f"{time.perf_counter() - start:.0f} s: {title}", file=sys.stderr, flush=True)

    add(
        "Known answers",
        f"{len(KNOWN_ANSWERS)} cases (a function and a method) whose attributions are known in closed form. A result "
        "is correct if its largest error is at most 1e-12 in double precision; for methods with random samples, at "
        "most four standard errors (for LIME, plus 4 % of the largest value). Captum is included where it has the "
        "method, with settings under which it can be exact (for Shapley values: all permutations, or random "
        "permutations where features do not interact).",
        ["method", "seewhy", "Captum, to 1e-12", "Captum, to 1e-6", "largest error of Captum"],
        known_answers(),
    )
    add(
        "Disconnected mosaics",
        "Four pictures in one, with one classification head per cell that receives this cell only (DiFull, Rao et "
        "al. 2022). The table shows the fraction of the absolute map outside the cell of the class: mean over six "
        "networks with random weights, four samples (one for perturbation methods) and all four cells, computed in "
        "one call, with its 95 % confidence interval over networks. With shared channels, all cells are processed by "
        "the same channels, and a map with one weight per channel leaks by definition. With separate channels, each "
        "cell has channels of its own, which are zero elsewhere (for attention methods: tokens attend only to tokens "
        "of their own cell), so that exactly 0 is correct for white-box methods. Three of them cannot reach it: "
        "EigenCAM is class-agnostic, the softmax of Score-CAM gives weight to channels that do not contribute, and "
        "LeGrad uses the mean of all tokens. Occlusion windows extend across the border of a cell, and methods with "
        "random masks have sampling errors. The last rows are Grad-CAM with deliberate faults, which verify that the "
        "test detects them; it does not detect faults within a cell.",
        ["method", "outside, shared channels", "outside, separate channels"],
        mosaics(),
    )
    nets = train_networks()
    rows, text = model_contrast(nets)
    add(
        "Pasted objects",
        "One network classifies the object, another one the background behind it (after Yang and Kim 2019). "
        f"{text} The table shows the fraction of the absolute map on the object: mean over 60 pictures with its 95 % "
        "confidence interval. The difference (model contrast) is 0 for a map that does not depend on the network.",
        ["method", "object network", "background network", "difference"],
        rows,
    )
    rows, text = dependence_and_localization(nets)
    add(
        "Pasted objects: input dependence and localization",
        "Input dependence (background network): the number of pictures in which the fraction of the map at the "
        "position of the object is smaller than in the same picture without the object. The object is irrelevant for "
        "this network, so the correct result is all pictures. Input independence (background network): the number of "
        "pictures in which a square of noise that changes no score changes the fraction of the map inside the square "
        f"by less than 10 %. The scores are unchanged, but the gradient may differ. {text} A map that ignores the "
        "picture has an input dependence of 0 and an input independence of 100 %, so both must be considered. Object "
        "network: whether the largest value is on the object or within 3 positions of it (pointing), and the "
        "fraction on the object among the k largest values, where k is the number of positions of the object (rank "
        "accuracy). 60 pictures, 95 % confidence intervals.",
        ["method", "input dependence", "input independence", "pointing", "rank accuracy"],
        rows,
    )
    rows, text = grid_pointing_game()
    add(
        "Grid pointing game",
        "Four pictures in one, with a different object in each (GridPG, Rao et al. 2022): the fraction of the "
        "positive part of the map of a class (for products with the input: of its sum over channels) in the cell "
        "with its object, and the fraction of cells in which the largest value is there; chance is 25 %. Mean over "
        "24 mosaics with its 95 % confidence interval. The network uses mean pooling and has one binary output per "
        f"object. {text}",
        ["method", "fraction in the correct cell", "largest value in the correct cell"],
        rows,
    )
    rows, text = watermark_detection()
    add(
        "Watermark at a known position",
        f"Six networks learned a mark in the corner (poisoned), six did not (clean). {text} With six networks of each "
        "type the intervals are wide.",
        ["method", "AUROC (95 %)", "alarms, poisoned", "false alarms, clean", "rank correlation with reliance"],
        rows,
    )
    rows, text = unknown_mark_detection()
    add(
        "Unknown mark",
        "Half of the pictures of a class carry a mark; it is not known which pictures, and where. The maps are "
        "divided into two clusters, and the position where the cluster means differ most is determined (after "
        "Lapuschkin et al. 2019). The table shows whether this is the position of the mark (chance is 1 of 25), and "
        "how well the clusters separate marked pictures from the others (balanced accuracy for the better assignment "
        "of the clusters, so that chance is about 0.55). Six networks were trained with marks mostly in one class "
        "(poisoned), six with marks in both classes equally often (clean). The first mark is a checkerboard at one "
        "position, the second a slight blur of the whole picture (Adebayo et al. 2022). For the blur, failure is the "
        "expected result, since a map can only highlight positions: poisoned networks have the same result as clean "
        f"ones. {text}",
        [
            "method",
            "position found, poisoned",
            "position found, clean",
            "clusters, poisoned",
            "clusters, clean",
            "blur: clusters, poisoned",
            "blur: clusters, clean",
        ],
        rows,
    )
    rows, text = suppressor_variables()
    add(
        "Suppressor variables: a limit of correct maps",
        f"The optimal linear network (after Haufe et al. 2014). {text} All of these maps are correct for the network, "
        "and therefore highlight positions without information about the class. The table shows the fraction of the "
        "absolute map there: mean over ten backgrounds with its 95 % confidence interval. A map explains the "
        "network, not the data.",
        ["method", "fraction at positions without information"],
        rows,
    )
    RESULTS.mkdir(exist_ok=True)
    duration = f"{time.perf_counter() - start:.0f} s"
    (RESULTS / "evidence.md").write_text(f"{environment(torch.get_num_threads())}; {duration}\n\n" + "\n".join(parts))


if __name__ == "__main__":
    main()
