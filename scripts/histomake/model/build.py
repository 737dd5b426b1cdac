"""Construction of networks by name: timm for patches, segmentation-models-pytorch for pixels.

These libraries take seconds to import, so each is imported where a network of it is built: jobs on features need none.
"""

from __future__ import annotations

from typing import Any, ClassVar, Protocol, cast

from torch import Tensor, nn

from histomake.base.errors import ConfigError
from histomake.base.kinds import Kind
from histomake.base.records.model_card import Normalisation
from histomake.config import Model
from histomake.model.fast_scnn import FastSCNN
from histomake.target.kinds import LEARNED

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def build_model(model: Model, *, kind: Kind, outputs: int, size: int) -> nn.Module:
    """Build a network with random weights, or with timm's weights for ``pretrained: true``.

    Its input is float (n, 3 · views, size, size), where views is 1 plus the length of ``model.context``. Its output
    are logits (n, outputs), for segmentation (n, outputs, size, size). Raises ConfigError for an unknown name.
    """
    channels = 3 * (1 + len(model.context))
    if LEARNED[kind].per_pixel:
        return _segmenter(model, outputs=outputs, channels=channels)
    if model.name == "alexnet":
        return AlexNet(model, outputs=outputs, channels=channels)
    if model.name == "shufflenet_v2":
        return ShuffleNetV2(model, outputs=outputs, channels=channels)
    check_timm(model.name, key="model.name")
    import timm

    pretrained = timm.get_pretrained_cfg(model.name)
    options: dict[str, Any] = {"img_size": size} if pretrained and pretrained.fixed_input_size else {}
    return timm.create_model(
        model.name,
        pretrained=model.pretrained is True,
        num_classes=outputs,
        in_chans=channels,
        drop_rate=model.dropout,
        **options,
    )


def check_timm(name: str, *, key: str) -> None:
    """Raise ConfigError unless timm has a network ``name``; ``key`` of the configuration asked for it."""
    import timm

    if not timm.is_model(name):
        near = timm.list_models(f"*{name[:6]}*")[:8]
        raise ConfigError(f"{key}: timm has no model {name!r}; similar names: {', '.join(near) or 'none'}")


def _segmenter(model: Model, *, outputs: int, channels: int) -> nn.Module:
    if model.name == "fast_scnn":
        return FastSCNN(outputs=outputs, inputs=channels, dropout=model.dropout)
    if model.name == "fcn":
        return FCN(outputs=outputs, channels=channels)
    import segmentation_models_pytorch as smp

    if model.name not in smp.MODEL_ARCHITECTURES_MAPPING:
        known = ", ".join(["fast_scnn", "fcn", *smp.MODEL_ARCHITECTURES_MAPPING])
        raise ConfigError(f"model.name: unknown segmentation architecture {model.name!r}; use one of {known}")
    encoder = model.encoder
    if encoder not in smp.encoders.encoders:
        check_timm(encoder, key="model.encoder")
        encoder = f"tu-{encoder}"
    weights = "imagenet" if model.pretrained is True else None
    return smp.create_model(model.name, encoder, weights, in_channels=channels, classes=outputs)


class TimmClassifier(Protocol):
    """Methods of timm's classifiers beyond those of a module."""

    def forward_features(self, x: Tensor) -> Tensor:
        """Map (n, channels, h, w) to features."""

    def forward_head(self, x: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Map features to logits, or to the values before the last layer."""

    def group_matcher(self, *, coarse: bool) -> dict[str, Any]:
        """Return the patterns that assign parameters to stages."""


class AlexNet(nn.Module):
    """torchvision's AlexNet with timm's interface, because timm has none. The input must be at least 63 px wide."""

    default_cfg: ClassVar = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "classifier": "net.classifier.6"}

    def __init__(self, model: Model, *, outputs: int, channels: int) -> None:
        super().__init__()
        if model.pretrained is True:
            raise ConfigError("model.pretrained: timm has no weights for alexnet; use a local file")
        from torchvision.models import alexnet

        self.net = alexnet(weights=None, num_classes=outputs, dropout=model.dropout)
        if channels != 3:
            first = self.net.features[0]
            self.net.features[0] = nn.Conv2d(channels, first.out_channels, 11, stride=4, padding=2)

    def group_matcher(self, *, coarse: bool) -> dict[str, Any]:
        """Return the patterns that assign parameters to stages; each layer is a stage."""
        layers = [(r"^net\.features\.(\d+)", None), (r"^net\.classifier\.(\d+)", None)]
        return {"stem": r"^net\.features\.0\.", "blocks": layers}

    def forward_features(self, x: Tensor) -> Tensor:
        """Map (n, channels, h, w) to features (n, 256, 6, 6)."""
        return self.net.avgpool(self.net.features(x))

    def forward_head(self, x: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Map (n, 256, 6, 6) to logits, or to the 4096 values before the last layer."""
        layers = self.net.classifier[:-1] if pre_logits else self.net.classifier
        return layers(x.flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, channels, h, w) to logits (n, outputs)."""
        return self.forward_head(self.forward_features(x))


class ShuffleNetV2(nn.Module):
    """torchvision's ShuffleNet V2 x1.0 (Ma et al. 2018) with timm's interface, because timm has none."""

    default_cfg: ClassVar = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "classifier": "net.fc"}

    def __init__(self, model: Model, *, outputs: int, channels: int) -> None:
        super().__init__()
        if model.pretrained is True:
            raise ConfigError("model.pretrained: timm has no weights for shufflenet_v2; use a local file")
        from torchvision.models import shufflenet_v2_x1_0

        self.net = shufflenet_v2_x1_0(weights=None, num_classes=outputs)
        self.drop = nn.Dropout(model.dropout)
        if channels != 3:
            self.net.conv1[0] = nn.Conv2d(channels, 24, 3, stride=2, padding=1, bias=False)

    def group_matcher(self, *, coarse: bool) -> dict[str, Any]:
        """Return the patterns that assign parameters to stages."""
        return {"stem": r"^net\.conv1\.", "blocks": [(r"^net\.stage(\d)\.", None), (r"^net\.conv5\.", (99,))]}

    def forward_features(self, x: Tensor) -> Tensor:
        """Map (n, channels, h, w) to features (n, 1024, h / 32, w / 32)."""
        net = self.net
        return net.conv5(net.stage4(net.stage3(net.stage2(net.maxpool(net.conv1(x))))))

    def forward_head(self, x: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Map features to logits, or to their 1024 means before the last layer."""
        found = self.drop(x.mean((2, 3)))
        return found if pre_logits else self.net.fc(found)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, channels, h, w) to logits (n, outputs)."""
        return self.forward_head(self.forward_features(x))


class FCN(nn.Module):
    """torchvision's fully convolutional network with ResNet-50 backbone (Long et al. 2015)."""

    def __init__(self, *, outputs: int, channels: int) -> None:
        super().__init__()
        from torchvision.models.segmentation import fcn_resnet50

        net = fcn_resnet50(weights=None, weights_backbone=None, num_classes=outputs)
        if channels != 3:
            net.backbone.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
        self.encoder, self.decoder = net.backbone, net.classifier

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, channels, h, w) to logits (n, outputs, h, w)."""
        logits = self.decoder(self.encoder(x)["out"])
        return nn.functional.interpolate(logits, x.shape[2:], mode="bilinear", align_corners=False)


def has_features(network: nn.Module) -> bool:
    """Return whether `embed` supports the network."""
    return isinstance(network, FastSCNN) or hasattr(network, "forward_head") or hasattr(network, "encoder")


def embed(network: nn.Module, x: Tensor) -> Tensor:
    """Return the features before the last layer, (n, features); for segmentation the mean of the deepest features."""
    if hasattr(network, "forward_head"):
        classifier = cast("TimmClassifier", network)
        return classifier.forward_head(classifier.forward_features(x), pre_logits=True)
    if isinstance(network, FastSCNN):
        deepest = network.context(network.downsample(x))
    else:
        features = network.get_submodule("encoder")(x)
        deepest = features["out"] if isinstance(features, dict) else features[-1]
    return deepest.mean((2, 3))


def normalisation(network: nn.Module) -> Normalisation:
    """Return mean and standard deviation per channel of RGB in [0, 1] for which the network was pretrained."""
    settings = getattr(network, "default_cfg", {})
    mean, std = settings.get("mean", IMAGENET_MEAN), settings.get("std", IMAGENET_STD)
    return Normalisation(mean=tuple(mean), std=tuple(std))
