"""The objective of one level of a cascade: what its network learns from the points drawn in training slides."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor

from histomake.base.records.cascade_card import CascadeCard, DrawnPoints
from histomake.base.rng import AUGMENT, counter_rng
from histomake.base.tables import write_table
from histomake.cascade.batches import LevelBatch, LevelBatches
from histomake.cascade.fields import Field
from histomake.cascade.net import build_network
from histomake.cascade.samples import (
    IGNORED,
    CropLayout,
    class_of,
    draw_points,
    keep_in_memory,
    kind_shares,
    read_batch,
)
from histomake.config import CascadeNetwork, CascadeTrain
from histomake.learn.data.loader import load_batches
from histomake.learn.engine import distributed
from histomake.learn.engine.objective import Json, Objective, Optimisation, Result, Turn
from histomake.learn.engine.runtime import Runtime
from histomake.patch.augment import apply

if TYPE_CHECKING:
    from numpy.typing import NDArray

WARM_UP = 0.1
"""Share of the steps over which the learning rate rises to its peak; then it falls as a cosine."""
WEIGHT_DECAY = 1e-4
STATISTICS_CROPS = 256
"""Number of crops from which the mean and the spread of colours are measured."""
NETWORK = "network"
POINTS = "points.parquet"


class LevelObjective(Objective[LevelBatch]):
    """What one process learns of level ``number``, from the slides ``fields``.

    Points are drawn once, at most ``per_class`` per slide and kind; each step draws its points from them by the shares
    of the kinds. The loss is the mean cross-entropy over the points and the pixels around them. Where the annotation is
    incomplete, almost no pixel around a point is background, so the means of the kinds are weighted by their shares.

    ``workers``: loader processes. Raises HistomakeError if the slides lack a class.
    """

    unit: ClassVar[str] = "points"

    def __init__(
        self,
        fields: Sequence[Field],
        number: int,
        *,
        network: CascadeNetwork,
        config: CascadeTrain,
        steps: int,
        runtime: Runtime,
        seed: int,
        workers: int,
    ) -> None:
        self.fields, self.number, self.config = fields, number, config
        self.settings, self.runtime, self.seed, self.workers = network, runtime, seed, workers
        self.out_of_memory = f"with batches of {config.batch} points: lower train.batch or train.lattice"
        self.not_finite = f"lower train.learning_rate for level {number}"
        self.points = draw_points(fields, number, config, seed=seed)
        torch.manual_seed(seed * 1000 + number)
        net = build_network(network)
        self.layout = CropLayout(net.crop_edge(config.lattice), net.points(config.lattice))
        mean, std = self._statistics()
        net.mean.copy_(mean)
        net.std.copy_(std)
        self.net = net.to(runtime.device).to(memory_format=torch.channels_last)
        self.networks = {NETWORK: self.net}
        self.optimisers = {NETWORK: self._build_optimisation(steps)}
        shares = torch.from_numpy(kind_shares(config, number)).to(runtime.device)
        self.shares = None if config.complete else shares

    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel, on 0-255, in crops of the training slides."""
        rng = counter_rng(self.seed, worker=self.number, stream=AUGMENT)
        chosen = rng.integers(len(self.points), size=STATISTICS_CROPS)
        complete = self.config.complete
        crops, _ = read_batch(self.fields, self.points, chosen, self.number, self.layout, complete=complete, rng=rng)
        flat = crops.reshape(-1, 3).astype(np.float64)
        return torch.from_numpy(flat.mean(0)), torch.from_numpy(np.maximum(flat.std(0), 1.0))

    def _build_optimisation(self, steps: int) -> Optimisation:
        optimiser = torch.optim.AdamW(self.net.parameters(), lr=self.config.learning_rate, weight_decay=WEIGHT_DECAY)
        warm = max(1, round(WARM_UP * steps))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser,
            lambda s: min(1, (s + 1) / warm) * 0.5 * (1 + math.cos(math.pi * max(0, s - warm) / max(1, steps - warm))),
        )
        return Optimisation(optimiser, schedule)

    def identity(self) -> Json:
        """See Objective: the settings and the drawn points."""
        arrays = (self.points.field, self.points.y, self.points.x, self.points.kind)
        return {
            "network": self.settings.dump(),
            "train": self.config.fitting(),
            "level": self.number,
            "mpp": [float(field.levels[self.number - 1].mpp) for field in self.fields],
            "slides": [field.slide_id for field in self.fields],
            "points": [hashlib.sha256(array.tobytes()).hexdigest() for array in arrays],
        }

    def batches(self, numbers: range) -> AbstractContextManager[Iterator[LevelBatch]]:
        """See Objective."""
        if self.workers:
            keep_in_memory(self.fields, self.number)
        source = LevelBatches(
            self.fields,
            self.points,
            self.number,
            self.layout,
            self.config,
            seed=self.seed,
            process=distributed.rank(),
        )
        return load_batches(source, numbers, workers=self.workers)

    def size(self, batch: LevelBatch) -> int:
        """See Objective."""
        return len(batch.chosen)

    def naming(self, batch: LevelBatch) -> Callable[[], str]:
        """See Objective."""
        return partial(self._name, batch.chosen)

    def _name(self, chosen: NDArray[np.int64]) -> str:
        points = self.points
        places = [f"{self.fields[points.field[i]].slide_id} ({points.x[i]}, {points.y[i]})" for i in chosen.tolist()]
        return f"slide (x, y) in pixels of level {self.number}: {', '.join(places)}"

    def turns(self, batch: LevelBatch, step: int) -> Iterator[Turn]:
        """See Objective."""
        yield self._turn(batch)

    def _turn(self, batch: LevelBatch) -> Turn:
        device = self.runtime.device
        pixels = batch.crops.permute(0, 3, 1, 2).to(device, non_blocking=True)
        changed, _ = apply(pixels.float() / 255, batch.parameters.to(device))
        kind = batch.kinds.to(device, torch.long)
        target = torch.from_numpy(class_of(batch.kinds.numpy(), self.number)).to(device)
        with self.runtime.autocast():
            logits = self.net(changed * 255)
        loss, accuracy = cross_entropy(logits.float(), target, kind, self.shares)
        return Turn(NETWORK, loss, {"accuracy": accuracy.detach()})

    def write_files(self, output: Path, details: Path) -> None:
        """See Objective: the points, with the resolution of their crops."""
        points = self.points
        ids = np.array([field.slide_id for field in self.fields])[points.field]
        mpp = np.array([field.levels[self.number - 1].mpp for field in self.fields], np.float32)[points.field]
        columns = {"slide_id": ids, "mpp": mpp, "y": points.y, "x": points.x, "kind": points.kind}
        write_table(pa.table(columns), output / POINTS)

    def describe(self, result: Result) -> CascadeCard:
        """See Objective."""
        background, inside, third = np.bincount(self.points.kind, minlength=3).tolist()
        return CascadeCard(
            level=self.number,
            mpp=self.fields[0].levels[self.number - 1].mpp,
            network=self.settings.dump(),
            field=self.net.field,
            parameters=sum(p.numel() for p in self.net.parameters()),
            train=self.config.fitting(),
            seed=self.seed,
            slides=sorted({field.slide_id for field in self.fields}),
            points=DrawnPoints(background=background, inside=inside, third=third),
            loss=float(result.history[-1]["train_loss"]),
        )


def cross_entropy(logits: Tensor, target: Tensor, kind: Tensor, shares: Tensor | None) -> tuple[Tensor, Tensor]:
    """Cross-entropy and accuracy: means over pixels or, with ``shares``, means of kinds; IGNORED pixels do not count.

    Args:
        logits: (n, 3, m, m).
        target: Class of each pixel, int64 (n, m, m).
        kind: Kind of each pixel, int64 (n, m, m).
        shares: Weight of each kind, (3,), renormalised over the kinds in the batch.
    """
    counted = kind != IGNORED
    losses = F.cross_entropy(logits.movedim(1, -1)[counted], target[counted], reduction="none")
    right = (logits.argmax(1) == target)[counted].float()
    if shares is None:
        return losses.mean(), right.mean()
    members = F.one_hot(kind[counted], 3).float()
    number = members.sum(0)
    weights = shares * (number > 0)
    weight = (members * (weights / weights.sum() / number.clamp(min=1))).sum(1)
    return (losses * weight).sum(), (right * weight).sum()
