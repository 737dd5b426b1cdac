"""Owns the building of networks by name: timm for patches, segmentation-models-pytorch for pixels."""

from __future__ import annotations

import timm
from torch import nn

from histomake.config import Model
from histomake.errors import ConfigError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def build_model(model: Model, *, outputs: int, size: int) -> nn.Module:
    """A classifier or regressor with random weights: (n, 3, size, size) float → (n, outputs) logits.

    Raises ConfigError for a name timm does not know, with the nearest names.
    """
    if not timm.is_model(model.name):
        near = timm.list_models(f"*{model.name[:6]}*")[:8]
        raise ConfigError(f"model.name: timm has no model {model.name!r}; near it: {', '.join(near) or 'none'}")
    options = {"num_classes": outputs, "drop_rate": model.dropout, "pretrained": model.pretrained is True}
    if _takes_image_size(model.name):
        options["img_size"] = size
    return timm.create_model(model.name, **options)


def _takes_image_size(name: str) -> bool:
    """Transformers with fixed position embeddings are built for one input size; convolutional nets take any."""
    return bool(timm.get_pretrained_cfg(name).fixed_input_size)


def normalisation(network: nn.Module) -> dict[str, list[float]]:
    """The mean and standard deviation per channel, on [0, 1] RGB, that the network's weights were made for."""
    settings = getattr(network, "default_cfg", {})
    return {
        "mean": list(settings.get("mean", IMAGENET_MEAN)),
        "std": list(settings.get("std", IMAGENET_STD)),
    }
