"""Training batches of one level: crops around drawn points, with the kinds of their pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from histomake.base.rng import AUGMENT, counter_rng
from histomake.cascade.fields import Field
from histomake.cascade.samples import CropLayout, Points, kind_shares, read_batch
from histomake.config import Augment, CascadeTrain
from histomake.learn.data.source import NEW, BatchSource, Room, needed
from histomake.patch.augment import Parameters, draw_parameters

if TYPE_CHECKING:
    from numpy.typing import NDArray

PROCESSES_APART = 1000
"""Distance between the random streams of processes; the streams in between belong to the levels."""


@dataclass
class LevelBatch:
    """n crops: uint8 (n, edge, edge, 3); kinds: int8 (n, m, m); chosen: int64 (n,), the points at their centres."""

    crops: Tensor
    kinds: Tensor
    chosen: NDArray[np.int64]
    parameters: Parameters


class LevelBatches(BatchSource[LevelBatch]):
    """Batches of one training process, as a function of the seed and their number."""

    def __init__(
        self,
        fields: Sequence[Field],
        points: Points,
        number: int,
        layout: CropLayout,
        config: CascadeTrain,
        *,
        seed: int,
        process: int,
    ) -> None:
        self.fields, self.points, self.number = fields, points, number
        self.layout, self.config, self.seed = layout, config, seed
        self.worker = number + PROCESSES_APART * process
        self.by_kind = [np.flatnonzero(points.kind == kind) for kind in range(3)]
        shares = kind_shares(config, number)
        shares *= [len(places) > 0 for places in self.by_kind]
        shares /= shares.sum()
        self.shares = shares.astype(np.float64) / shares.astype(np.float64).sum()
        spread = config.colour
        colours = {"brightness": spread, "saturation": spread, "hue": spread / 5, "hed": spread}
        self.colours = Augment(flip=False, **colours, stain=config.stain)

    @property
    def room_bytes(self) -> int:
        """See BatchSource."""
        count, edge, places = self.config.batch, self.layout.edge, len(self.layout.places)
        return needed((count, edge, edge, 3), np.uint8) + needed((count, places, places), np.int8)

    def prepare(self, number: int, room: Room = NEW) -> LevelBatch:
        """See BatchSource. Points are drawn by the shares of the kinds; each crop changes colour by its own draw."""
        rng = counter_rng(self.seed, worker=self.worker, step=number)
        drawn = rng.choice(3, size=self.config.batch, p=self.shares)
        chosen = np.array([rng.choice(self.by_kind[kind]) for kind in drawn])
        complete = self.config.complete
        crops, kinds = read_batch(
            self.fields, self.points, chosen, self.number, self.layout, complete=complete, rng=rng, room=room
        )
        colour_rng = counter_rng(self.seed, worker=self.worker, step=number, stream=AUGMENT)
        parameters = draw_parameters(self.colours, len(chosen), colour_rng)
        return LevelBatch(torch.from_numpy(crops), torch.from_numpy(kinds), chosen, parameters)
