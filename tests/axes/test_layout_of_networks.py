"""The axes of the input, the output and the layers of whole networks: read, stated, or refused."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import seewhy
from seewhy.testing import state, states_equal


def gradcam_of(features, score):
    """Grad-CAM computed with autograd: features [N, C, *S] in the graph of the scores."""
    (gradient,) = torch.autograd.grad(score.sum(), features)
    axes = tuple(range(2, features.ndim))
    return (gradient.mean(axes, keepdim=True) * features).sum(1).relu().detach()


class PatchSeries(nn.Module):
    """12 patches of a series, embedded by a linear layer: tokens without any convolution."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(8, 32), nn.Linear(32, 3)

    def forward(self, x):
        z = self.embed(x.unfold(2, 8, 8)[:, 0])
        return self.head((z + F.relu(z)).mean(1))


def test_positions_of_linear_patches_are_the_patches():
    torch.manual_seed(0)
    x = torch.zeros(1, 1, 96)
    x[..., 80:] = 3 * torch.randn(16)
    e = seewhy.explain(PatchSeries().eval(), x, "gradcam", target=lambda o: o.abs().sum(1))
    assert e.values.shape == (1, 1, 1, 12)
    assert int(e.maps[0, 0].argmax()) >= 72


class ConvBlock(nn.Module):
    """A block whose output is channels last, whatever its name says."""

    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        return x + F.relu(self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


class ChannelsLastNetwork(nn.Module):
    def __init__(self, width=20):
        super().__init__()
        self.patches, self.block, self.head = nn.Conv2d(3, width, 4, 4), ConvBlock(width), nn.Linear(width, 3)

    def forward(self, x):
        self.features = self.block(self.patches(x).permute(0, 2, 3, 1))
        return self.head(self.features.mean((1, 2)))


def test_channels_last_block_has_its_own_positions():
    torch.manual_seed(0)
    net, x = ChannelsLastNetwork().eval(), torch.randn(2, 3, 32, 48)
    e = seewhy.explain(net, x, target=1, upsample="none", feature_layer="block")
    score = net(x)[:, 1]
    (gradient,) = torch.autograd.grad(score.sum(), net.features)
    expected = (gradient.mean((1, 2), keepdim=True) * net.features).sum(3).relu().detach()
    assert e.maps.shape == (2, 1, 8, 12)
    torch.testing.assert_close(e.maps[:, 0], expected)


class SquareNetwork(nn.Module):
    """C = H = W, with a permutation in front: only the convolution shows which axis holds the channels."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 4)

    def forward(self, x):
        self.features = self.conv(x.permute(0, 3, 1, 2)).relu()
        return self.head(self.features.mean((2, 3)))


@pytest.mark.parametrize("layout", [None, "NHWC"])
def test_square_features_are_read_from_the_convolution(layout):
    torch.manual_seed(0)
    net, x = SquareNetwork().eval(), torch.rand(2, 8, 8, 3)
    e = seewhy.explain(seewhy.wrap(net, layout=layout), x, "gradcam", target=1, upsample="none")
    score = net(x)[:, 1]
    torch.testing.assert_close(e.maps[:, 0], gradcam_of(net.features, score))
    gradient = seewhy.explain(seewhy.wrap(net, layout=layout), x, "gradient", target=1)
    assert gradient.values.shape == (2, 1, 3, 8, 8)
    assert any("NHWC" in note for note in gradient.notes) == (layout is None)


class Recurrent(nn.Module):
    def __init__(self, kind=nn.GRU):
        super().__init__()
        self.recurrent, self.head = kind(5, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.recurrent(x)[0][:, -1])


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
def test_recurrent_network_is_read_as_time_and_features(kind):
    torch.manual_seed(0)
    net, x = Recurrent(kind).eval(), torch.rand(2, 9, 5)
    e = seewhy.explain(net, x, "gradient", target=1)
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(net(leaf)[:, 1].sum(), leaf)
    torch.testing.assert_close(e.values[:, 0], expected.transpose(1, 2))
    assert e.maps.shape == (2, 1, 9)
    cam = seewhy.explain(net, x, "gradcam", target=1, feature_layer="recurrent", upsample="none")
    assert cam.maps.shape == (2, 1, 9)


def test_sequence_without_evidence_has_a_note_that_names_the_argument():
    net = nn.Sequential(nn.Flatten(), nn.Linear(45, 3)).eval()
    x = torch.rand(1, 9, 5)
    e = seewhy.explain(net, x, "gradient", target=1)
    assert any("by convention" in note and "layout=" in note for note in e.notes)
    stated = seewhy.explain(seewhy.wrap(net, layout="NTC"), x, "gradient", target=1)
    assert stated.maps.shape == (1, 1, 9)
    assert not any("convention" in note for note in stated.notes)


class FoldedTime(nn.Module):
    """Four frames of three channels, folded into the axis of the samples."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 5)

    def forward(self, x):
        n = len(x)
        self.features = F.relu(self.conv(x.reshape(n * 4, 3, 8, 6)))
        return self.head(self.features.mean((2, 3))).reshape(n, 4, -1).mean(1)


def test_activations_of_folded_time_belong_to_the_samples():
    net, x = FoldedTime().eval(), torch.randn(5, 12, 8, 6)
    found = seewhy.activations(net, x, "conv")
    with torch.no_grad():
        expected = net.conv(x.reshape(20, 3, 8, 6)).reshape(5, 16, 8, 6)
    torch.testing.assert_close(found.values, expected)


class Video(nn.Module):
    """Frames [N, T, C, H, W], each run through a picture network."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 5)

    def forward(self, x):
        n, t = x.shape[:2]
        self.features = F.relu(self.conv(x.flatten(0, 1)))
        return self.head(self.features.unflatten(0, (n, t)).mean((1, 3, 4)))


def test_video_has_a_map_over_time_and_space():
    torch.manual_seed(0)
    net, x = Video().eval(), torch.randn(2, 4, 3, 8, 6)
    e = seewhy.explain(net, x, "gradcam", target=1, upsample="none", feature_layer="conv")
    score = net(x)[:, 1]
    assert e.maps.shape == (2, 1, 4, 8, 6)
    before = net.conv(x.flatten(0, 1)).detach().requires_grad_()
    z = net.head(F.relu(before).unflatten(0, (2, 4)).mean((1, 3, 4)))[:, 1]
    (gradient,) = torch.autograd.grad(z.sum(), before)
    weights = gradient.unflatten(0, (2, 4)).mean((1, 3, 4))
    expected = torch.einsum("nc,ntchw->nthw", weights, before.unflatten(0, (2, 4))).relu().detach()
    torch.testing.assert_close(e.maps[:, 0], expected)
    torch.testing.assert_close(e.scores[:, 0], score.detach())


# --- output


def test_output_has_its_own_axes():
    net = nn.Conv2d(3, 5, 1)
    model = seewhy.wrap(net, layout="NHWC", forward=lambda net, x: net(x.permute(0, 3, 1, 2)))
    x = torch.rand(1, 6, 9, 3)
    with pytest.raises(seewhy.OptionError, match="class 7 is out of range"):
        seewhy.explain(model, x, "gradient", target=7)
    e = seewhy.explain(model, x, "gradient", target=4)
    torch.testing.assert_close(e.scores[0, 0], net(x.permute(0, 3, 1, 2))[0, 4].sum().detach())


@pytest.mark.parametrize("target", ["region", "box"])
def test_ready_made_targets_see_classes_second(target):
    class LastClasses(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 3, padding=1)

        def forward(self, x):
            return self.conv(x).permute(0, 2, 3, 1)

    net, x = LastClasses().eval(), torch.rand(2, 3, 6, 6)  # H = W = C
    made = {"region": seewhy.targets.region(2, np.eye(6)), "box": seewhy.targets.box(2, 1, 0, 3, 6)}[target]
    inside = torch.eye(6) if target == "region" else torch.zeros(6, 6).index_fill(0, torch.tensor([1, 2]), 1)
    e = seewhy.explain(net, x, "gradient", target=made)
    torch.testing.assert_close(e.scores[:, 0], (net(x)[..., 2] * inside).sum((1, 2)).detach())


def test_stated_output_layout_decides():
    function = seewhy.wrap(lambda x: x[:, :, :3].transpose(1, 2).contiguous(), output_layout="NSC")
    x = torch.rand(2, 4, 5)
    e = seewhy.explain(function, x, "occlusion", target=1, mask_size=1, stride=1)
    torch.testing.assert_close(e.scores[:, 0], x[:, 1, :3].sum(1))


# --- data in another order


@pytest.mark.parametrize(
    ("data_layout", "arrange"),
    [
        ("HWC", lambda x: x[0].permute(1, 2, 0)),
        ("SSC", lambda x: x[0].permute(1, 2, 0)),
        ("SSCB", lambda x: x.permute(2, 3, 1, 0)),
        ("NHWC", lambda x: x.permute(0, 2, 3, 1)),
        ("CHW", lambda x: x[0]),
    ],
)
def test_data_in_another_order_is_permuted(data_layout, arrange):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    x = torch.rand(1, 3, 9, 8)
    expected = seewhy.explain(net, x, target=1)
    e = seewhy.explain(seewhy.wrap(net, data_layout=data_layout), arrange(x), target=1)
    torch.testing.assert_close(e.maps, expected.maps)


@pytest.mark.parametrize(
    ("data_layout", "arrange"), [("CT", lambda s: s), ("TC", lambda s: s.T), ("CTB", lambda s: s[..., None])]
)
def test_sequence_in_another_order_is_permuted(data_layout, arrange):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv1d(12, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 9)).eval()
    series = np.random.default_rng(0).random((12, 19), np.float32)
    e = seewhy.explain(seewhy.wrap(net, data_layout=data_layout), arrange(series), target=1)
    torch.testing.assert_close(e.maps, seewhy.explain(net, torch.tensor(series)[None], target=1).maps)


def test_data_with_another_number_of_axes_is_refused():
    model = seewhy.wrap(nn.Conv2d(3, 4, 3), data_layout="HWC")
    with pytest.raises(seewhy.InputError, match="data_layout='HWC' has 3 axes"):
        seewhy.explain(model, torch.rand(2, 9, 8, 3), target=1)


def test_sample_without_batch_axis_is_one_sample():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    x = torch.rand(3, 9, 8)
    e = seewhy.explain(net, x, target=1)
    assert e.maps.shape == (1, 1, 9, 8)
    assert any("no batch axis" in note for note in e.notes)
    torch.testing.assert_close(e.maps, seewhy.explain(net, x[None], target=1).maps)


def test_list_of_arrays_of_unequal_length():
    net = nn.Sequential(nn.Conv1d(2, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 3)).eval()
    series = np.random.default_rng(0).random((2, 19), np.float32)
    first, second = seewhy.explain(net, [series, series[:, :7]], target=1)
    assert (first.maps.shape, second.maps.shape) == ((1, 1, 19), (1, 1, 7))


# --- several inputs


class PictureAndVector(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(8, 5)

    def forward(self, picture, vector):
        return self.head(torch.cat([F.relu(self.conv(picture)).mean((2, 3)), vector], 1))


def test_picture_beside_a_vector_has_gradcam():
    net, inputs = PictureAndVector().eval(), (torch.randn(2, 3, 8, 8), torch.randn(2, 4))
    picture, vector = seewhy.explain(net, inputs, target=1)
    assert picture.maps.shape == (2, 1, 8, 8)
    assert vector is None
    assert any("input 1 has no map" in note for note in picture.notes)
    assert seewhy.predict(net, inputs, top=2).indices.tolist() == net(*inputs).topk(2, 1).indices.tolist()
    assert "conv" in {row.name for row in seewhy.layers(net, inputs)}
    torch.testing.assert_close(seewhy.activations(net, inputs, "conv").values, net.conv(inputs[0]).detach())


def test_named_layer_has_a_map_only_for_inputs_that_reach_it():
    class TwoStreams(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
            self.b = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU())
            self.head = nn.Linear(8, 5)

        def forward(self, p, q):
            return self.head(torch.cat([self.a(p).mean((2, 3)), self.b(q).mean((2, 3))], 1))

    inputs = torch.randn(1, 3, 8, 6), torch.randn(1, 1, 8, 6)
    first, second = seewhy.explain(TwoStreams().eval(), inputs, target=1, feature_layer="a.1")
    assert second is None
    assert any("does not depend on this input" in note for note in first.notes)
    with pytest.raises(seewhy.ModelError, match="does not correspond to positions"):
        seewhy.explain(TwoStreams().eval(), inputs, target=1, feature_layer="head")


def test_layouts_of_several_inputs_are_stated_one_by_one():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.picture, self.series = nn.Linear(3, 4), nn.Linear(5, 4)

        def forward(self, picture, series):
            return self.picture(picture).mean((1, 2)) + self.series(series).mean(1)

    model = seewhy.wrap(Mixed().eval(), layout=["NHWC", "NTC"])
    picture, series = seewhy.explain(model, (torch.rand(1, 6, 7, 3), torch.rand(1, 9, 5)), "gradient", target=1)
    assert (picture.maps.shape, series.maps.shape) == ((1, 1, 6, 7), (1, 1, 9))


# --- numbers


def test_token_ids_stay_whole_numbers():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(48, 3)).eval()
    ids = torch.randint(0, 9, (2, 12))
    e = seewhy.explain(net, ids, "occlusion", target=1, mask_size=1, stride=1, mask_value=0)
    for i in range(12):
        without = ids.clone()
        without[:, i] = 0
        torch.testing.assert_close(e.maps[:, 0, i], (net(ids) - net(without))[:, 1].detach())
    assert seewhy.predict(net, ids).indices.tolist() == net(ids).topk(3, 1).indices.tolist()
    with pytest.raises(seewhy.ModelError, match="whole numbers, which have no gradient"):
        seewhy.explain(net, ids, "gradient", target=1)


def test_whole_numbers_inside_the_network_are_masked_exactly():
    class Inside(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.head = nn.Embedding(9, 4), nn.Linear(4, 3)

        def forward(self, x):
            return self.head(self.embedding(x.long()).amax(1))

    torch.manual_seed(0)
    net, x = Inside().eval(), torch.randint(0, 9, (1, 12)).float()
    e = seewhy.explain(net, x, "occlusion", target=1, mask_size=1, stride=1, mask_value=0)
    without = x.repeat(12, 1).fill_diagonal_(0)
    torch.testing.assert_close(e.maps[0, 0], (net(x) - net(without))[:, 1].detach())


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a[..., ::-1],
        lambda a: a.astype(">f4"),
        lambda a: a.astype("f2"),
        lambda a: np.broadcast_to(a, a.shape),
    ],
)
def test_arrays_of_any_kind(change):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()
    x = np.random.default_rng(0).random((2, 1, 8, 8), np.float32)
    given = change(x)
    plain = torch.tensor(np.ascontiguousarray(given).astype("f4"))
    e = seewhy.explain(net, given, "integrated_gradients", target=1, baseline=change(x)[:1] / 2, steps=4)
    expected = seewhy.explain(net, plain, "integrated_gradients", target=1, baseline=plain[:1] / 2, steps=4)
    torch.testing.assert_close(e.values, expected.values, rtol=1e-3, atol=1e-5)


# --- samples


class MissingBatchFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


def test_samples_that_mix_are_noted_and_run_alone():
    torch.manual_seed(0)
    net, x = MissingBatchFirst().eval(), torch.randn(6, 5, 4)
    model = seewhy.wrap(net, layout="NTC")
    e = seewhy.explain(model, x, "gradient", target=1)
    assert any("depends on the other samples" in note for note in e.notes)
    alone = torch.cat([seewhy.explain(model, x[n : n + 1], "gradient", target=1).values for n in range(6)])
    torch.testing.assert_close(e.values, alone)
    silent = seewhy.explain(model, x, "gradient", target=1, probe=False)
    assert not any("depends on the other samples" in note for note in silent.notes)


class DropoutStaysOn(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 6, 3), nn.Linear(6, 4)

    def forward(self, x):
        return self.head(F.dropout(F.relu(self.conv(x)).mean((2, 3))))


def test_runs_that_differ_are_noted_and_the_random_state_is_kept():
    net, x = DropoutStaysOn().eval(), torch.randn(2, 3, 8, 8)
    seewhy.explain(net, x, "gradient", target=1)
    torch.manual_seed(1)
    expected = seewhy.explain(net, x, "gradient", target=1, probe=False).values
    torch.manual_seed(1)
    with torch.no_grad():
        net.head.weight.mul_(1)  # a new version, so that the network is probed again
    e = seewhy.explain(net, x, "gradient", target=1)
    assert torch.equal(e.values, expected)
    assert any("two runs of the network on the same input differ" in note for note in e.notes)


def test_probe_is_remembered_until_a_weight_changes():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    x, sizes = torch.rand(2, 3, 8, 8), []
    net.register_forward_pre_hook(lambda _m, args: sizes.append(len(args[0])))
    before = state(net)
    seewhy.explain(net, x, "gradient", target=1)
    assert sizes == [1, 3, 3, 2]  # layout, probe twice, batch
    assert all(states_equal(before[key], state(net)[key]) for key in before)
    sizes.clear()
    seewhy.explain(net, x, "gradient", target=1)
    assert sizes == [2]
    sizes.clear()
    with torch.no_grad():
        net[0].weight.add_(1)
    seewhy.explain(net, x, "gradient", target=1)
    assert sizes == [3, 3, 2]
