"""Networks of others that find tissue, from a folder with a card."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from histomake.base.errors import ConfigError, HistomakeError
from histomake.base.kinds import Kind
from histomake.base.layout import DESCRIPTION, ONNX, WEIGHTS
from histomake.base.records.model_card import Normalisation
from histomake.base.records.segmenter_card import SegmenterCard
from histomake.config import Model
from histomake.learn.data.images import standardise, to_unit
from histomake.learn.engine.runtime import Runtime, choose_runtime
from histomake.model.build import build_model
from histomake.model.onnx import OnnxNetwork
from histomake.model.transfer import load_weights_file


@dataclass(frozen=True)
class ForeignSegmenter:
    """A network that labels pixels, ready to run."""

    network: nn.Module
    card: SegmenterCard
    runtime: Runtime

    @torch.inference_mode()
    def probabilities(self, images: Tensor) -> Tensor:
        """Probability of tissue and of all else, (n, 2, h, w), of uint8 RGB (n, h, w, 3)."""
        inputs = standardise(
            to_unit(images, self.runtime.device), Normalisation(mean=self.card.mean, std=self.card.std)
        )
        if self.card.colour == "bgr":
            inputs = inputs.flip(1)
        scores = self.network(inputs.contiguous()).float()
        channels, names = len(self.card.class_names), self.card.class_names
        expected = (len(images), channels, *images.shape[1:3])
        if tuple(scores.shape) != expected:
            raise HistomakeError(
                f"{self.card.name}: the output has the shape {tuple(scores.shape)}, but the card has {channels} "
                f"classes ({', '.join(names)}) and patches of {self.card.px} px, so {expected} is needed"
            )
        if self.card.output == "logits":
            scores = scores.softmax(1) if channels > 1 else scores.sigmoid()
        tissue = scores[:, [names.index(name) for name in self.card.tissue]].sum(1)
        if channels == 1:
            return torch.stack([tissue, 1 - tissue], dim=1)
        rest = [scores[:, i] for i, name in enumerate(names) if name not in self.card.tissue]
        return torch.stack([tissue, torch.stack(rest).sum(0)], dim=1)


def load_segmenter(folder: Path, *, threads: int) -> ForeignSegmenter:
    """Load the network of a folder with a segmenter card.

    Raises ConfigError for a card that contradicts itself, HistomakeError for weights that do not fit it.
    """
    card = SegmenterCard.read(folder / DESCRIPTION)
    unknown = [name for name in card.tissue if name not in card.class_names]
    if unknown or not card.tissue or (len(card.class_names) > 1 and set(card.class_names) == set(card.tissue)):
        raise ConfigError(
            f"tissue.model: {folder / DESCRIPTION} has the classes {', '.join(card.class_names)} and as tissue "
            f"{', '.join(card.tissue) or 'none'}; name some of them, not all"
        )
    runtime = choose_runtime("fp32", threads=threads)
    if card.architecture == "onnx":
        cpu = Runtime(torch.device("cpu"), torch.float32)
        return ForeignSegmenter(OnnxNetwork(folder / ONNX, sha256=card.sha256), card, cpu)
    model = Model(name=card.architecture, encoder=card.encoder)
    network = build_model(model, kind=Kind.SEGMENTATION, outputs=len(card.class_names), size=card.px)
    load_weights_file(network, folder / WEIGHTS, sha256=card.sha256)
    return ForeignSegmenter(network.to(runtime.device).eval(), card, runtime)
