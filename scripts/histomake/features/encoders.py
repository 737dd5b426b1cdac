"""Encoders that are ready to run: of the configuration, or models that this workflow trained."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from histomake.base.errors import HistomakeError
from histomake.base.files import sha256_file
from histomake.base.layout import WEIGHTS
from histomake.base.records.encoder_card import EncoderCard
from histomake.base.records.features import FeatureColumn, column_name
from histomake.base.records.model_card import Normalisation
from histomake.config import Encoder, Grid
from histomake.config.section import Decode
from histomake.learn.data.images import standardise
from histomake.learn.engine.runtime import Runtime, choose_runtime
from histomake.learn.inference.predict import Predictor, load_model, turned
from histomake.model.build import embed, has_features
from histomake.model.encoder import load_encoder, three, vector_length
from histomake.patch.stain import Colours, StainNormaliser

REFERENCE: Colours = {
    "stains": [[0.5626, 0.2159], [0.7201, 0.8012], [0.4062, 0.5581]],
    "strong": [1.9705, 1.0308],
}
"""Colours of haematoxylin and eosin that encoders with ``stain: macenko`` are given, as in Macenko's reference code and
torchstain. A reference from the cohort would change the features of all slides with the slides."""

SHAPING = ("pool", "stain", "views", "precision", "dtype", "decode")
"""Settings of an encoder that are part of the identity of its features, where they are stated."""

CPU_ROWS = 32
"""Patches per forward pass on a CPU, where larger ones are no faster."""


@dataclass(frozen=True)
class ReadyEncoder:
    """An encoder on its device, and what is stored of it.

    column: of the file of features. network: normalised float (n, 3, px, px) → (n, dimensions), in eval mode. decode:
    where tiles are decoded.
    """

    column: FeatureColumn
    network: nn.Module
    card: EncoderCard
    runtime: Runtime
    flips: bool
    stain: StainNormaliser | None
    decode: Decode = "cpu"

    @property
    def name(self) -> str:
        """Name of its column."""
        return column_name(self.column.encoder, self.column.fold)

    @torch.inference_mode()
    def encode(self, inputs: Tensor) -> Tensor:
        """Vectors (n, dimensions) of patches float (n, 3, h, w) in [0, 1], float32, both on the device."""
        size = (self.card.px, self.card.px)
        if tuple(inputs.shape[2:]) != size:
            inputs = F.interpolate(inputs, size, mode="bilinear", antialias=True)
        inputs = standardise(inputs, Normalisation(mean=self.card.mean, std=self.card.std))
        if not self.flips:
            return self._forward(inputs)
        variants = [(turns, mirror) for turns in range(4) for mirror in (False, True)]
        return torch.stack([self._forward(turned(inputs, *variant)) for variant in variants]).mean(0)

    def _forward(self, inputs: Tensor) -> Tensor:
        if self.runtime.device.type != "cpu":
            return self._once(inputs)
        # The order of additions in a library depends on the number of rows. With a constant number, the vector of a
        # patch is the same to the last bit, independent of its batch.
        missing = -len(inputs) % CPU_ROWS
        filled = torch.cat([inputs, inputs[-1:].expand(missing, -1, -1, -1)]) if missing else inputs
        return torch.cat([self._once(rows) for rows in filled.split(CPU_ROWS)])[: len(inputs)]

    def _once(self, inputs: Tensor) -> Tensor:
        with self.runtime.autocast():
            return self.network(inputs.contiguous(memory_format=torch.channels_last)).float()


def load_group(
    encoders: Mapping[str, Encoder], grid: Grid, *, models: Mapping[str, Sequence[Path]], threads: int
) -> list[ReadyEncoder]:
    """Load the encoders of a group, on the GPU if there is one.

    Args:
        encoders: Encoders of one grid by name.
        grid: Their grid.
        models: Folders of the models of each task that is an encoder, one per fold.
        threads: Number of CPU threads.
    """
    found = []
    for name, encoder in encoders.items():
        if encoder.source == "task":
            folders = models[encoder.target]
            found += [_of_task(name, encoder, grid, folder, fold, threads) for fold, folder in enumerate(folders)]
        else:
            frozen = load_encoder(encoder, grid, name=name)
            stain = StainNormaliser("macenko", reference=REFERENCE) if encoder.stain == "macenko" else None
            runtime = choose_runtime(encoder.precision, threads=threads)
            column = _column(name, None, encoder, grid, frozen.card, frozen.weights, [])
            found.append(_ready(column, frozen.network, frozen.card, runtime, encoder, stain))
    return found


def _of_task(name: str, encoder: Encoder, grid: Grid, folder: Path, fold: int, threads: int) -> ReadyEncoder:
    """The model of a fold as an encoder. Raises HistomakeError if it does not take plain patches of the grid."""
    predictor = load_model(folder, threads=threads, precision=encoder.precision)
    card = predictor.card
    if (card.grid.size, card.grid.mpp) != (grid.size, grid.mpp):
        raise HistomakeError(
            f"encoders.{name}: {folder} takes patches of {card.grid.size} px at {card.grid.mpp} µm/px, but grid "
            f"{encoder.grid} has {grid.size} px at {grid.mpp}; choose the grid of task {encoder.target}"
        )
    if predictor.task.model.context or not has_features(predictor.network):
        raise HistomakeError(f"encoders.{name}: {folder} takes several views or has no features; choose another task")
    network = Embedded(predictor)
    described = EncoderCard(
        name=f"task {encoder.target}, fold {fold}",
        architecture=f"task:{encoder.target}",
        mpp=grid.mpp,
        px=grid.size,
        mean=three(card.normalisation.mean),
        std=three(card.normalisation.std),
        pool="network",
        dimensions=1,
        licence="",
        source=str(folder),
    )
    network.to("cpu")
    described = msgspec.structs.replace(described, dimensions=vector_length(network, described))
    column = _column(name, fold, encoder, grid, described, sha256_file(folder / WEIGHTS), card.made_with)
    return _ready(column, network, described, predictor.runtime, encoder, predictor.stain)


class Embedded(nn.Module):
    """A trained network without its last layer."""

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.network = predictor.network

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, 3, size, size) to (n, features)."""
        return embed(self.network, x)


def _ready(
    column: FeatureColumn,
    network: nn.Module,
    card: EncoderCard,
    runtime: Runtime,
    encoder: Encoder,
    stain: StainNormaliser | None,
) -> ReadyEncoder:
    network = network.to(runtime.device).to(memory_format=torch.channels_last).eval()
    return ReadyEncoder(column, network, card, runtime, encoder.views == "mean", stain, encoder.decode)


def _column(
    name: str,
    fold: int | None,
    encoder: Encoder,
    grid: Grid,
    card: EncoderCard,
    weights: str,
    made_with: list[str],
) -> FeatureColumn:
    # The paths of the weights and of a card do not affect the features.
    settings = {k: v for k, v in encoder.shaping().items() if k in SHAPING}
    facts = {k: v for k, v in card.dump().items() if k not in ("name", "licence", "source", "sha256", "mpp", "format")}
    shaping: dict[str, object] = {
        "settings": settings,
        "card": facts,
        "grid": [grid.size, grid.mpp],
        "weights": weights,
    }
    return FeatureColumn(
        encoder=name,
        fold=fold,
        identity=hashlib.sha256(json.dumps(shaping, sort_keys=True).encode()).hexdigest(),
        weights=weights,
        dimensions=card.dimensions,
        dtype=encoder.dtype,
        settings=settings,
        card=card.dump(),
        made_with=made_with,
    )
