"""Owns the building of networks by name: timm for patches, segmentation-models-pytorch for pixels."""

from __future__ import annotations

from typing import Any, ClassVar

import timm
import torchvision
from torch import Tensor, nn

from histomake.base.errors import ConfigError
from histomake.config import Model
from histomake.model.fast_scnn import FastSCNN

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def build_model(model: Model, *, kind: str, outputs: int, size: int) -> nn.Module:
    """A network with random weights, or timm's for ``pretrained: true``.

    Input float (n, 3 · views, size, size), where views is 1 and the number of ``model.context``. Output logits
    (n, outputs), for segmentation (n, outputs, size, size). Raises ConfigError for a name that no library knows.
    """
    channels = 3 * (1 + len(model.context))
    if kind == "segmentation":
        return _segmenter(model, outputs=outputs, channels=channels)
    if model.name == "alexnet":
        return AlexNet(model, outputs=outputs, channels=channels)
    _check_timm(model.name, key="model.name")
    options = {"img_size": size} if timm.get_pretrained_cfg(model.name).fixed_input_size else {}
    return timm.create_model(
        model.name,
        pretrained=model.pretrained is True,
        num_classes=outputs,
        in_chans=channels,
        drop_rate=model.dropout,
        **options,
    )


def _check_timm(name: str, *, key: str) -> None:
    if not timm.is_model(name):
        near = timm.list_models(f"*{name[:6]}*")[:8]
        raise ConfigError(f"{key}: timm has no model {name!r}; near it: {', '.join(near) or 'none'}")


def _segmenter(model: Model, *, outputs: int, channels: int) -> nn.Module:
    if model.name == "fast_scnn":
        return FastSCNN(outputs=outputs, inputs=channels, dropout=model.dropout)
    if model.name == "fcn":
        return FCN(outputs=outputs, channels=channels)
    # Imported here because it takes seconds, and only segmentation needs it.
    import segmentation_models_pytorch as smp

    if model.name not in smp.MODEL_ARCHITECTURES_MAPPING:
        known = ", ".join(["fast_scnn", "fcn", *smp.MODEL_ARCHITECTURES_MAPPING])
        raise ConfigError(f"model.name: no segmentation architecture is called {model.name!r}; one of {known}")
    encoder = model.encoder
    if encoder not in smp.encoders.encoders:
        _check_timm(encoder, key="model.encoder")
        encoder = f"tu-{encoder}"
    weights = "imagenet" if model.pretrained is True else None
    return smp.create_model(model.name, encoder, weights, in_channels=channels, classes=outputs)


class AlexNet(nn.Module):
    """torchvision's AlexNet behind timm's interface; timm has none. Patches of 63 px or more."""

    default_cfg: ClassVar = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "classifier": "net.classifier.6"}

    def __init__(self, model: Model, *, outputs: int, channels: int) -> None:
        super().__init__()
        if model.pretrained is True:
            raise ConfigError("model.pretrained: the hub has no alexnet; give a local file")
        self.net = torchvision.models.alexnet(weights=None, num_classes=outputs, dropout=model.dropout)
        if channels != 3:
            first = self.net.features[0]
            self.net.features[0] = nn.Conv2d(channels, first.out_channels, 11, stride=4, padding=2)

    def group_matcher(self, *, coarse: bool) -> dict[str, Any]:
        """Which parameters form a stage: each layer is one, coarse or not."""
        layers = [(r"^net\.features\.(\d+)", None), (r"^net\.classifier\.(\d+)", None)]
        return {"stem": r"^net\.features\.0\.", "blocks": layers}

    def forward_features(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) → (n, 256, 6, 6)."""
        return self.net.avgpool(self.net.features(x))

    def forward_head(self, x: Tensor, *, pre_logits: bool = False) -> Tensor:
        """(n, 256, 6, 6) → logits, or the 4096 values before the last layer."""
        layers = self.net.classifier[:-1] if pre_logits else self.net.classifier
        return layers(x.flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) → (n, outputs)."""
        return self.forward_head(self.forward_features(x))


class FCN(nn.Module):
    """torchvision's fully convolutional network over ResNet-50 (Long et al. 2015)."""

    def __init__(self, *, outputs: int, channels: int) -> None:
        super().__init__()
        net = torchvision.models.segmentation.fcn_resnet50(weights=None, weights_backbone=None, num_classes=outputs)
        if channels != 3:
            net.backbone.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
        self.encoder, self.decoder = net.backbone, net.classifier

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) → (n, outputs, h, w)."""
        logits = self.decoder(self.encoder(x)["out"])
        return nn.functional.interpolate(logits, x.shape[2:], mode="bilinear", align_corners=False)


def has_features(network: nn.Module) -> bool:
    """Whether `embed` knows where the network's features are."""
    return isinstance(network, FastSCNN) or hasattr(network, "forward_head") or hasattr(network, "encoder")


def embed(network: nn.Module, x: Tensor) -> Tensor:
    """The vector before the last layer, (n, features); of a segmentation network the mean of its deepest features."""
    if hasattr(network, "forward_head"):
        return network.forward_head(network.forward_features(x), pre_logits=True)
    if isinstance(network, FastSCNN):
        deepest = network.context(network.downsample(x))
    else:
        features = network.encoder(x)
        deepest = features["out"] if isinstance(features, dict) else features[-1]
    return deepest.mean((2, 3))


def normalisation(network: nn.Module) -> dict[str, list[float]]:
    """The mean and standard deviation per channel, on [0, 1] RGB, that the network's weights were made for."""
    settings = getattr(network, "default_cfg", {})
    return {
        "mean": list(settings.get("mean", IMAGENET_MEAN)),
        "std": list(settings.get("std", IMAGENET_STD)),
    }
