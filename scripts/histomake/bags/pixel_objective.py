"""The objective of tasks on bags of pixels: the featurizer is trained through the pooling."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from histomake.bags.baselines import fit_linear, fit_usual
from histomake.bags.hazards import IntervalHazards
from histomake.bags.index import BagIndex
from histomake.bags.learning import NETWORK
from histomake.bags.network import BagNetwork
from histomake.bags.objective import BagBatches, BagObjective
from histomake.bags.pixels import FeaturizedPatches, Featurizer, PixelBagNetwork, read_pixels
from histomake.bags.sampling import BagPatches, BagSampler
from histomake.base.files import sha256_file
from histomake.base.records.model_card import ModelCard, ModelGrid
from histomake.base.rng import AUGMENT, PLACE, counter_rng
from histomake.config import Task
from histomake.features.heads import SMALLEST_DEVIATION
from histomake.features.objective import digests
from histomake.learn.data.reading import PatchReader
from histomake.learn.data.source import Room, needed
from histomake.learn.engine.objective import Json, Result
from histomake.learn.objectives.patches import made_with
from histomake.model.transfer import encoder_normalisation, train_mode, weights_file
from histomake.patch.augment import Parameters, draw_parameters
from histomake.patch.sampler import Sampler


class PixelBagBatches(BagBatches):
    """Batches of bags whose patches are images."""

    def __init__(
        self, bags: BagIndex, known: list[BagPatches], sampler: Sampler, draws: BagSampler, *, task: Task
    ) -> None:
        super().__init__(bags, known, sampler, draws, batch=task.train.batch)
        self.task, self.pixels = task, PatchReader(bags.patches, task.model)

    @property
    def room_bytes(self) -> int:
        """See BatchSource."""
        return needed(self._shape(self.batch * self.draws.size), np.uint8)

    def _shape(self, count: int) -> tuple[int, int, int, int]:
        edge = self.task.bag.crop or self.bags.patches.size
        return count, edge, edge, 3 * len(self.pixels.scales)

    def read(self, number: int, index: np.ndarray, room: Room) -> tuple[Tensor, Parameters | None]:
        """See BagBatches."""
        places, changes = (counter_rng(self.sampler.seed, step=number, stream=stream) for stream in (PLACE, AUGMENT))
        images = room.array(self._shape(len(index)), np.uint8)
        images[:] = read_pixels(self.pixels, index, self.task.bag.crop, places)
        return torch.from_numpy(images), draw_parameters(self.task.augment, len(index), changes)


class PixelBagObjective(BagObjective):
    """What is learned from bags of pixels; see `BagObjective`."""

    def build_network(self, hazards: IntervalHazards | None) -> BagNetwork:
        """See BagObjective. The bags get their vectors from the network's featurizer."""
        task, size, pretrained = self.task, self.bags.patches.size, self.task.model.pretrained
        known = encoder_normalisation(weights_file(pretrained)) if isinstance(pretrained, str) else None
        edge = task.bag.crop or size
        featurizer = Featurizer(task.model, kind=task.kind, size=edge, chunk=task.bag.chunk, weights=known)
        network = PixelBagNetwork(
            task.pooling, featurizer=featurizer, size=edge, outputs=len(self.outputs), hazards=hazards
        )
        for bags in (self.bags, self.held_out):
            assert isinstance(bags.reader, FeaturizedPatches)
            bags.reader.featurizer = featurizer
        fit_usual(network, task, self.bags)
        return network

    def identity(self) -> Json:
        """See Objective: the task, the bags with their patches and targets, and the weights it starts from."""
        pretrained = self.task.model.pretrained
        return {
            "task": self.task.fitting(),
            "bags": list(self.bags.names),
            "patches": digests(self.bags.patches),
            "pretrained": sha256_file(weights_file(pretrained)) if isinstance(pretrained, str) else pretrained,
        }

    def source(self) -> PixelBagBatches:
        """See BagObjective."""
        # Loader processes get no network.
        vectors = FeaturizedPatches(self.bags.patches, self.task.model, self.task.bag)
        return PixelBagBatches(replace(self.bags, reader=vectors), self.known, *self.samplers(), task=self.task)

    def begin(self, step: int) -> None:
        """See Objective: layers whose weights are all frozen stay in eval mode."""
        train_mode(self.network)

    def complete(self, result: Result) -> Result:
        """See Objective: the linear baseline is fitted to the vectors of the trained network.

        These are the vectors that the pooling gets, as with stored features, and prediction computes them anyway.
        """
        _, means = self.of_trained(result)
        _, held = self.predicted(self.held_out)
        spread = means.std(0, correction=0)
        spread[spread < SMALLEST_DEVIATION] = 1
        self.penalty = fit_linear(
            self.network,
            self.task,
            self.bags,
            self.held_out,
            means=means,
            held=held,
            spread=spread,
            loss=self.loss_on_cpu,
        )
        fitted = {name: getattr(self.network, name).cpu() for name in ("linear_weight", "linear_bias")}
        return replace(result, weights={NETWORK: {**result.weights[NETWORK], **fitted}})

    def card(self) -> ModelCard:
        """See BagObjective."""
        task, patches = self.task, self.bags.patches
        assert isinstance(self.network, PixelBagNetwork)
        return ModelCard(
            kind=task.kind,
            class_names=self.outputs,
            architecture=task.model.dump(),
            target=task.target.dump(),
            grid=ModelGrid(name=task.grid, size=patches.size, mpp=patches.mpp),
            normalisation=self.network.featurizer.normalisation,
            threshold=0.5,
            slide_thresholds={},
            metrics={},
            step=0,
            seed=self.seed,
            made_with=made_with([*patches.entries, *self.held_out.patches.entries], task.model.pretrained),
            parameters=0,
        )
