"""The meaning of axes, followed through operations: reshapes, slices, products, whole networks."""

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from seewhy.axes.factors import Axis, Factor, Tokens, make_axis, reshape, unknown_axes
from seewhy.axes.feature_layout import (
    apply_feature_masks,
    conventional_axes,
    feature_layout,
    from_feature_grid,
    to_feature_grid,
)
from seewhy.tracing.axis_trace import axes_of_layout, trace_axes

N, C = make_axis("N", 1), make_axis("C", 6)


def positions(*sizes):
    return tuple(make_axis(str(i), size) for i, size in enumerate(sizes))


def traced(function, *shape, layout=None):
    """The axes of function(x) for one sample, with samples, channels and positions in the order of the layout."""
    x = torch.randn(1, *shape)
    with torch.no_grad(), trace_axes(nn.Identity(), x, axes_of_layout((1, *shape), layout)) as trace:
        return trace.axes_of(function(x))


def test_split_positions_join_again():
    axes = (N, *positions(12, 8), C)
    windows = reshape(axes, (1, 3, 4, 2, 4, 6))
    assert windows[1:3] == (Axis((Factor("0", 3, 4),)), Axis((Factor("0", 4, 1),)))
    assert reshape(windows, (1, 12, 8, 6)) == axes
    assert reshape(axes, (1, 96, 6)) == (N, Axis((Factor("0", 12), Factor("1", 8))), C)


def test_reshape_that_cuts_a_factor_is_unknown():
    assert reshape((N, *positions(12, 8), C), (1, 9, 64)) == unknown_axes((1, 9, 64))


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: x.permute(0, 2, 3, 1), (N, *positions(4, 5), C)),
        (lambda x: x.flatten(2).transpose(1, 2), (N, Axis((Factor("0", 4), Factor("1", 5))), C)),
        (lambda x: x.mean(2), (N, C, make_axis("1", 5))),
        (lambda x: x.amax((2, 3), keepdim=True), (N, C, Axis(), Axis())),
        (lambda x: F.max_pool2d(x, 2), (N, C, *positions(2, 2))),
        (lambda x: F.conv2d(x, torch.randn(7, 6, 3, 3)), (N, make_axis("C", 7), *positions(2, 3))),
        (lambda x: F.interpolate(x, size=(8, 10)), (N, C, *positions(8, 10))),
        (lambda x: x.permute(0, 2, 3, 1) @ torch.randn(6, 3), (N, *positions(4, 5), make_axis("C", 3))),
        (lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)), (N, C, *positions(4, 5))),
        (lambda x: x[:, None, 2], (N, Axis(), *positions(4, 5))),
        (lambda x: torch.fft.fft(x).real, unknown_axes((1, 6, 4, 5))),
    ],
)
def test_operation_on_picture(function, expected):
    assert traced(function, 6, 4, 5) == expected


def test_class_token_is_a_value_before_the_positions():
    def tokens(x):
        z = x.flatten(2).transpose(1, 2)
        return torch.cat([torch.zeros(1, 2, 6), z, torch.zeros(1, 1, 6)], 1)

    inner = (Factor("0", 4), Factor("1", 5))
    assert traced(tokens, 6, 4, 5) == (N, Axis((Tokens(inner, 2, 1),)), C)
    assert traced(lambda x: tokens(x)[:, 2:-1], 6, 4, 5) == (N, Axis(inner), C)
    assert traced(lambda x: tokens(x)[:, 0], 6, 4, 5) == (N, C)


def test_linear_map_of_a_patch_makes_channels_and_of_all_positions_mixes_them():
    patches = traced(lambda x: x.unfold(2, 8, 8)[:, 0] @ torch.randn(8, 5), 1, 96)
    assert patches == (N, Axis((Factor("0", 12, 8),)), make_axis("C", 5))
    assert traced(lambda x: x @ torch.randn(96, 7), 2, 96) == (N, make_axis("C", 2), make_axis("M", 7))


def test_contradicting_operands_are_unknown():
    square = traced(lambda x: x + x.transpose(2, 3), 6, 4, 4)
    assert square == (N, C, make_axis("?", 4), make_axis("?", 4))


NETWORKS = ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "mixer_s32_224", "xcit_nano_12_p16_224",
            "convnext_atto", "volo_d1_224", "mvitv2_tiny", "maxvit_tiny_tf_224"]  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_no_meaning_is_lost_in_common_networks(name):
    net = timm.create_model(name, pretrained=False).eval()
    x, outputs = torch.randn(1, 3, 224, 224), {}
    for layer, module in net.named_modules():
        module.register_forward_hook(lambda _m, _a, output, layer=layer: outputs.update({layer: output}))
    with torch.no_grad(), trace_axes(net, x, axes_of_layout((1, 3, 224, 224), None)) as trace:
        output = net(x)
        found = {k: trace.axes_of(v) for k, v in outputs.items() if isinstance(v, torch.Tensor)}
    assert trace.axes_of(output) == (N, make_axis("C", output.shape[1]))
    lost = [layer for layer, axes in found.items() if axes is not None and any("?" in a.letters for a in axes)]
    assert len(lost) <= 0.12 * len(found), lost


# --- arrangement as [N, C, *grid]


@pytest.mark.parametrize(
    "arrange",
    [
        lambda x: x,
        lambda x: x.permute(0, 2, 3, 1),
        lambda x: x.permute(0, 3, 1, 2),
        lambda x: x.flatten(2),
        lambda x: x.flatten(2).transpose(1, 2),
        lambda x: x.permute(2, 0, 1, 3).flatten(0, 1),  # rows folded into the axis of the samples
        lambda x: x.permute(0, 2, 3, 1).reshape(-1, 2, 2, 3, 2, 6).transpose(2, 3).reshape(-1, 4, 6),  # windows
    ],
)
def test_any_arrangement_is_read_and_restored(arrange):
    x = torch.randn(2, 6, 4, 6)
    axes = traced(arrange, 6, 4, 6)
    layout = feature_layout(axes, 2)
    values = arrange(x)
    assert torch.equal(to_feature_grid(values, layout), x)
    one = arrange(x[:1])
    masks = torch.rand(3, 6, 4, 6)
    assert torch.equal(apply_feature_masks(one, masks, layout), arrange(x[:1] * masks))
    assert torch.equal(from_feature_grid(x, one, layout), values)


def test_values_beside_tokens_are_not_masked():
    x = torch.randn(1, 9, 4)
    layout = feature_layout((N, Axis((Tokens((Factor("0", 2), Factor("1", 3)), 1, 2),)), make_axis("C", 4)), 2)
    assert layout.grid == (2, 3)
    masked = apply_feature_masks(x, torch.zeros(5, 1, 1, 1), layout)
    assert masked.shape == (5, 9, 4)
    assert torch.equal(masked[:, [0, 7, 8]], x[:, [0, 7, 8]].expand(5, -1, -1))
    assert not masked[:, 1:7].any()


def test_unclear_axes_have_no_layout():
    assert feature_layout((N, C, *unknown_axes((4, 5))), 2) is None
    assert feature_layout((N, *positions(4), *positions(4)), 1) is None  # attention weights
    assert feature_layout((N, C), 2) is None


def test_convention_needs_exactly_one_reading():
    axes = (N, *unknown_axes((7, 4, 5)))
    assert conventional_axes(axes, [(8, 10), (4, 5)]) == [(N, make_axis("C", 7), *positions(4, 5))]
    assert conventional_axes(axes, [(8, 10)]) == []
    square = (N, *unknown_axes((4, 4, 4)))
    assert len(conventional_axes(square, [(4, 4)])) == 2
    known = (N, make_axis("C", 4), *unknown_axes((4, 4)))
    assert conventional_axes(known, [(4, 4)]) == [(N, make_axis("C", 4), *positions(4, 4))]
