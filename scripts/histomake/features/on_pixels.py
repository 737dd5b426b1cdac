"""A head on features that is run on pixels: its frozen encoder and the head as one model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from histomake.base.errors import HistomakeError
from histomake.config import Encoder, Grid
from histomake.features.encoders import ReadyEncoder, load_group
from histomake.features.heads import logits_of
from histomake.features.predict import load_head
from histomake.learn.data.images import to_unit
from histomake.learn.heads.networks import Head
from histomake.learn.inference.predict import Predictor
from histomake.learn.kinds import TRAINED


@dataclass(frozen=True)
class EncodingPredictor(Predictor):
    """A head that takes the vectors of its encoder. Scores are those of stored features: vectors have their type."""

    encoder: ReadyEncoder = field(kw_only=True)

    @torch.inference_mode()
    def probabilities(self, images: Tensor, *, flips: bool = False) -> Tensor:
        """See Predictor; ``flips`` have no effect here: the encoder's setting ``views`` decides."""
        assert isinstance(self.network, Head)
        vectors = self.encoder.encode(to_unit(images, self.runtime.device)).cpu().numpy()
        kept = vectors.astype(self.encoder.column.dtype).astype(np.float32)
        return TRAINED[self.task.kind].activate(logits_of(self.network, kept))


def load_encoding(folder: Path, name: str, encoder: Encoder, grid: Grid, *, threads: int) -> EncodingPredictor:
    """Load the head of a task and its encoder, on the GPU if there is one.

    Args:
        folder: Of the task's model.
        name: Of the encoder, which has weights of its own.
        encoder: Its settings.
        grid: Its grid.
        threads: Number of CPU threads.

    Raises:
        HistomakeError: the head was trained on features of other weights or settings.
    """
    head = load_head(folder)
    (ready,) = load_group({name: encoder}, grid, models={}, threads=threads)
    features = head.card.features
    assert features is not None
    if ready.column.identity != features.identity:
        raise HistomakeError(
            f"{folder} was trained on features of other weights or settings of encoder {features.encoder} than "
            f"encoders.{name} has now; train it again on these"
        )
    return EncodingPredictor(head.network, head.card, ready.runtime, ready.stain, encoder=ready)
