"""The objective of tasks on graphs: draws whole graphs, and trains and validates a `GraphNetwork`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import msgspec
import numpy as np
import torch
from torch import Tensor

from histomake.bags.baselines import fit_baselines
from histomake.bags.hazards import IntervalHazards
from histomake.bags.index import BagIndex
from histomake.bags.learning import NETWORK, BagLearning
from histomake.base.records.model_card import BagCard, GraphCard, ModelCard, ModelGrid, Normalisation
from histomake.config import Task
from histomake.features.heads import set_scale
from histomake.features.objective import SCALED_BY, digests
from histomake.graphs.batch import GraphBatch
from histomake.graphs.index import GraphIndex
from histomake.graphs.network import ABLATED, GraphNetwork
from histomake.learn.engine.objective import Json, Result, Turn
from histomake.learn.engine.runtime import Runtime
from histomake.learn.objectives.patches import made_with
from histomake.patch.sampler import Sampler, choose

NOT_NORMALISED = Normalisation(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
"""Of a network that takes no pixels."""


@dataclass
class DrawnGraphs:
    """b graphs with unscaled features, their targets (b, …) and the number of each, int64 (b,)."""

    graphs: GraphBatch
    target: Tensor
    bags: np.ndarray

    @property
    def sizes(self) -> list[int]:
        """Nodes of each graph."""
        return self.graphs.sizes


class GraphObjective(BagLearning[DrawnGraphs, GraphNetwork]):
    """What is learned from graphs, with the edges that ``bags`` and ``held_out`` have.

    ``ablations``: trained weights of networks for other edges, by name, which become a part of the result.
    """

    bags: GraphIndex
    held_out: GraphIndex
    unit = "graphs"

    def __init__(
        self,
        task: Task,
        *,
        bags: GraphIndex,
        held_out: GraphIndex,
        runtime: Runtime,
        seed: int,
        ablations: Mapping[str, Mapping[str, Tensor]],
    ) -> None:
        self.ablations = ablations
        largest = max(len(members) for members in (*bags.members, *held_out.members))
        advice = f"with {task.train.batch} graphs of up to {largest:,} nodes: lower train.batch, or max_nodes of graphs"
        super().__init__(task, bags=bags, held_out=held_out, runtime=runtime, seed=seed, advice=advice)

    def build_network(self, hazards: IntervalHazards | None) -> GraphNetwork:
        """See BagLearning."""
        task, bags = self.task, self.bags
        network = GraphNetwork(
            task.gnn,
            fuse=task.fuse,
            pooling=task.pooling,
            inputs=bags.nodes.width,
            outputs=len(self.outputs),
            hazards=hazards,
        )
        some = choose(SCALED_BY, len(bags.patches), seed=self.seed)
        set_scale(network, bags.reader.read(some), np.ones(len(some)))
        self.penalty = fit_baselines(network, task, bags, self.held_out, self.loss_on_cpu)
        return network

    def identity(self) -> Json:
        """See Objective: the task, the graphs with their edges and targets, and the features."""
        return {
            "task": self.task.fitting(),
            "bags": list(self.bags.names),
            "nodes": digests(self.bags.patches),
            "links": [hashlib.sha256(self.bags.links[name].tobytes()).hexdigest() for name in self.bags.names],
            "graphs": self.bags.nodes.record.identity,
        }

    def batches(self, numbers: range) -> AbstractContextManager[Iterator[DrawnGraphs]]:
        """See Objective. Graphs are mapped into memory, so that no other process needs to read them."""
        sampler = Sampler.from_weights(self.weights, seed=self.seed)
        return nullcontext(self._draw(sampler.draw(number, self.task.train.batch)) for number in numbers)

    def _draw(self, bags: np.ndarray) -> DrawnGraphs:
        target = torch.from_numpy(self.bags.first.target[bags])
        return DrawnGraphs(self.bags.batch(bags.tolist()), target, bags)

    def turns(self, batch: DrawnGraphs, step: int) -> Iterator[Turn]:
        """See Objective."""
        yield Turn(NETWORK, self._loss_of(batch))

    def _loss_of(self, batch: DrawnGraphs) -> Tensor:
        device = self.runtime.device
        with self.runtime.autocast():
            return self.loss(self.network(batch.graphs.to(device)), batch.target.to(device))

    def predicted(self, bags: BagIndex) -> tuple[Tensor, Tensor]:
        """See BagLearning; without contributions of nodes, which need gradients."""
        assert isinstance(bags, GraphIndex)
        logits, means = [], []
        for bag in range(len(bags)):
            graph = bags.batch([bag]).to(self.runtime.device)
            with torch.inference_mode():
                logits.append(self.network(graph).cpu())
                means.append(self.network.scale(graph.features).mean(0, keepdim=True).cpu())
        return torch.cat(logits), torch.cat(means)

    def complete(self, result: Result) -> Result:
        """See Objective: the weights of the ablations are added."""
        self.of_trained(result)
        others = {
            f"{ABLATED}.{name}.{key}": value
            for name, weights in self.ablations.items()
            for key, value in weights.items()
        }
        return replace(result, weights={NETWORK: {**result.weights[NETWORK], **others}})

    def card(self) -> ModelCard:
        """See BagLearning."""
        task, patches, encoder = self.task, self.bags.patches, self.bags.nodes.record.encoder
        known = made_with([*patches.entries, *self.held_out.patches.entries], False)
        return ModelCard(
            kind=task.kind,
            class_names=self.outputs,
            architecture={},
            target=task.target.dump(),
            grid=ModelGrid(name=task.grid, size=patches.size, mpp=patches.mpp),
            normalisation=NOT_NORMALISED,
            threshold=0.5,
            slide_thresholds={},
            metrics={},
            step=0,
            seed=self.seed,
            made_with=sorted({*known, *(encoder.made_with if encoder else ())}),
            parameters=0,
        )

    def bag_card(self) -> BagCard:
        """See BagLearning."""
        record = self.bags.nodes.record
        graph = GraphCard(
            name=str(self.task.graph),
            identity=record.identity,
            groups={group.name: len(group.values) for group in record.groups},
            encoder=record.encoder,
            gnn=self.task.gnn.dump(),
            fuse=self.task.fuse,
            ablations=list(self.ablations),
        )
        return msgspec.structs.replace(super().bag_card(), graph=graph)
