"""Small networks of many kinds, with random weights: name -> kind, constructor, shape of one input."""

import os
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import seewhy


class Network(NamedTuple):
    """One row of the matrix."""

    kind: str
    make: Any  # () -> a module, or a wrapped model
    shape: tuple = (3, 32, 32)
    double: bool = True


def build(network):
    """Build a network, in double precision if possible; add noise to all weights, since initial ones are often zero."""
    torch.manual_seed(0)
    model = network.make()
    module = model.module if isinstance(model, seewhy.Model) else model
    if isinstance(module, nn.Module):
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for weight in module.parameters():
                std = 1 / max(1, weight[0].numel() if weight.ndim > 1 else 25) ** 0.5
                weight.add_(torch.randn(weight.shape, generator=generator).to(weight) * std)
        module.eval()
        if network.double:
            module.double()
    return model


def from_timm(name, **options):
    def make():
        import timm

        return timm.create_model(name, num_classes=5, **options)

    return make


def from_timm_module(file, name, **options):
    def make():
        import importlib

        return getattr(importlib.import_module(f"timm.models.{file}"), name)(num_classes=5, **options)

    return make


def from_torchvision(name, **options):
    def make():
        import torchvision

        return torchvision.models.get_model(name, weights=None, num_classes=5, **options)

    return make


def lenet():
    return nn.Sequential(
        nn.Conv2d(3, 6, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(16 * 5 * 5, 20), nn.Tanh(), nn.Linear(20, 5),
    )  # fmt: skip


def vgg():
    layers, width = [], 3
    for wide in (8, 16, 24):
        layers += [nn.Conv2d(width, wide, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
        width = wide
    head = [nn.Flatten(), nn.Linear(24 * 16, 32), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(32, 5)]
    return nn.Sequential(*layers, *head)


def resnet():
    from timm.models.resnet import BasicBlock, ResNet

    return ResNet(BasicBlock, (1, 1, 1, 1), num_classes=5, channels=(8, 16, 24, 32), stem_width=8)


def torchvision_vit():
    from torchvision.models import VisionTransformer

    return VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=5)


def hf_vit():
    from transformers import ViTConfig, ViTForImageClassification

    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    net = ViTForImageClassification(ViTConfig(**small, image_size=32, patch_size=8, num_labels=5))
    return seewhy.wrap(net, forward=lambda net, x: net(x).logits)


class Unet(nn.Module):
    """A segmentation network: scores for every pixel, from concatenated features of two resolutions."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, 2, 1)
        self.up, self.join, self.head = (
            nn.ConvTranspose2d(16, 8, 2, 2),
            nn.Conv2d(16, 8, 3, padding=1),
            nn.Conv2d(8, 4, 1),
        )

    def forward(self, x):
        one = F.relu(self.one(x))
        two = F.relu(self.two(one))
        return self.head(F.relu(self.join(torch.cat([one, self.up(two)], 1))))


def fcn():
    """A torchvision segmentation head on a small backbone; the output is a dictionary."""
    from torchvision.models.segmentation.fcn import FCN, FCNHead

    class Backbone(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(
                nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1)
            )

        def forward(self, x):
            return {"out": F.relu(self.layers(x))}

    return seewhy.wrap(FCN(Backbone(), FCNHead(16, 4)), forward=lambda net, x: net(x)["out"])


def sequence():
    return nn.Sequential(
        nn.Conv1d(3, 8, 5, padding=2), nn.BatchNorm1d(8), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(8, 12, 3, padding=1),
        nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(12, 5),
    )  # fmt: skip


class SequenceTransformer(nn.Module):
    """A transformer of sequences [N, C, T]; patches of four time steps are the tokens."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.embed, self.head = nn.Conv1d(3, 16, 4, 4), nn.Linear(16, 5)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x):
        return self.head(self.encoder(self.embed(x).transpose(1, 2)).mean(1))


class Recurrent(nn.Module):
    """A GRU of sequences [N, T, C]; the head uses its last step."""

    def __init__(self):
        super().__init__()
        self.gru, self.head = nn.GRU(3, 12, batch_first=True), nn.Linear(12, 5)

    def forward(self, x):
        return self.head(self.gru(x)[0][:, -1])


def volume():
    return nn.Sequential(
        nn.Conv3d(1, 6, 3, padding=1), nn.BatchNorm3d(6), nn.ReLU(inplace=True), nn.MaxPool3d(2),
        nn.Conv3d(6, 8, 3, padding=1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip


def video():
    """A video network of torchvision with fewer and narrower residual blocks."""
    from torchvision.models.video.resnet import BasicBlock, BasicStem, Conv3DSimple, VideoResNet

    net = VideoResNet(BasicBlock, [Conv3DSimple] * 4, [1, 1, 1, 1], BasicStem, num_classes=5)
    for name in ("layer3", "layer4"):
        setattr(net, name, nn.Identity())
    net.fc = nn.Linear(128, 5)
    return net


def mlp():
    return nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 5))


def keras_conv():
    """A Keras network on the torch backend, channels last."""
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras

    if keras.backend.backend() != "torch":
        raise RuntimeError("Keras uses another backend: set KERAS_BACKEND=torch before it is imported")
    layers = keras.layers
    net = keras.Sequential([
        layers.Input((32, 32, 3)), layers.Conv2D(8, 3, padding="same", activation="relu"), layers.MaxPooling2D(2),
        layers.Conv2D(12, 3, padding="same"), layers.BatchNormalization(), layers.ReLU(),
        layers.GlobalAveragePooling2D(), layers.Dense(5),
    ])  # fmt: skip
    return seewhy.wrap(net, layout="NHWC")


def onnx_session():
    """A convolution, a ReLU, a mean and a linear layer as an ONNX Runtime session."""
    import onnx
    import onnxruntime

    h, dtype, generator = onnx.helper, onnx.TensorProto.FLOAT, np.random.default_rng(0)
    weights = {
        "w": generator.normal(size=(8, 3, 3, 3)),
        "h": generator.normal(size=(8, 5)),
        "b": generator.normal(size=5),
    }
    nodes = [
        h.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]), h.make_node("Relu", ["c"], ["r"]),
        h.make_node("GlobalAveragePool", ["r"], ["p"]), h.make_node("Flatten", ["p"], ["f"]),
        h.make_node("Gemm", ["f", "h", "b"], ["y"]),
    ]  # fmt: skip
    inputs = [h.make_tensor_value_info("x", dtype, ["N", 3, 32, 32])]
    outputs = [h.make_tensor_value_info("y", dtype, ["N", 5])]
    initializers = [onnx.numpy_helper.from_array(v.astype("float32"), k) for k, v in weights.items()]
    graph = h.make_graph(nodes, "small", inputs, outputs, initializers)
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


NETWORKS = {
    "LeNet": Network("old CNN", lenet),
    "VGG": Network("old CNN", vgg),
    "SqueezeNet": Network("old CNN", from_torchvision("squeezenet1_1"), (3, 48, 48)),
    "GoogLeNet": Network("old CNN", from_torchvision("googlenet", init_weights=False, aux_logits=False)),
    "ResNet": Network("CNN", resnet),
    "ResNet, timm's test": Network("CNN", from_timm("test_resnet")),
    "DenseNet": Network("CNN", from_timm_module("densenet", "DenseNet", growth_rate=8, block_config=(2, 2, 2))),
    "MobileNet v3": Network("CNN", from_timm("mobilenetv3_small_050"), (3, 48, 48)),
    "EfficientNet": Network("CNN", from_timm("test_efficientnet")),
    "ByobNet": Network("CNN", from_timm("test_byobnet")),
    "RegNet": Network("CNN", from_timm("regnetx_002")),
    "NFNet": Network("CNN", from_timm("test_nfnet")),
    "ConvNeXt": Network("new CNN", from_timm("test_convnext")),
    "ConvMixer": Network(
        "mixer", from_timm_module("convmixer", "ConvMixer", dim=16, depth=2, kernel_size=5, patch_size=4)
    ),
    "MLP-Mixer": Network(
        "mixer", from_timm_module("mlp_mixer", "MlpMixer", img_size=32, patch_size=8, num_blocks=2, embed_dim=24)
    ),
    "PoolFormer": Network(
        "mixer", from_timm_module("metaformer", "MetaFormer", depths=(1, 1, 1, 1), dims=(8, 16, 24, 32))
    ),
    "ViT, timm": Network("transformer", from_timm("test_vit", img_size=32)),
    "ViT, averaged": Network("transformer", from_timm("test_vit", img_size=32, class_token=False, global_pool="avg")),
    "ViT, torchvision": Network("transformer", torchvision_vit),
    "ViT, Hugging Face": Network("transformer", hf_vit),
    "DeiT, distilled": Network(
        "transformer", from_timm("deit_tiny_distilled_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=2)
    ),
    "BEiT": Network(
        "transformer", from_timm("beit_base_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2)
    ),
    "CaiT": Network(
        "transformer", from_timm_module("cait", "Cait", img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2)
    ),
    "XCiT": Network(
        "transformer", from_timm_module("xcit", "Xcit", img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2)
    ),
    "Swin": Network(
        "transformer",
        from_timm_module(
            "swin_transformer",
            "SwinTransformer",
            img_size=32,
            patch_size=2,
            window_size=4,
            embed_dim=12,
            depths=(2, 1),
            num_heads=(2, 2),
        ),
    ),
    "PVT v2": Network(
        "transformer",
        from_timm_module(
            "pvt_v2",
            "PyramidVisionTransformerV2",
            depths=(1, 1, 1, 1),
            embed_dims=(8, 16, 16, 32),
            num_heads=(1, 1, 2, 2),
        ),
    ),
    "MobileViT": Network("hybrid", from_timm("mobilevit_xxs"), (3, 64, 64)),
    "EdgeNeXt": Network("hybrid", from_timm("edgenext_xx_small"), (3, 64, 64)),
    "LeViT": Network(
        "hybrid",
        from_timm_module(
            "levit", "Levit", img_size=64, embed_dim=(16, 24, 32), num_heads=(2, 2, 2), key_dim=8, depth=(1, 1, 1)
        ),
        (3, 64, 64),
    ),
    "1-D CNN": Network("1-D", sequence, (3, 40)),
    "1-D transformer": Network("1-D", SequenceTransformer, (3, 40)),
    "GRU": Network("1-D", lambda: seewhy.wrap(Recurrent(), layout="NTC"), (20, 3)),
    "3-D CNN": Network("3-D", volume, (1, 8, 10, 12)),
    "Video ResNet": Network("3-D", video, (3, 3, 16, 16)),
    "U-Net": Network("segmentation", Unet),
    "FCN": Network("segmentation", fcn),
    "MLP": Network("features", mlp, (12,)),
    "Keras": Network("Keras", keras_conv, (32, 32, 3), double=False),
    "ONNX Runtime": Network("ONNX", onnx_session, double=False),
}
