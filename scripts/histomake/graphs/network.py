"""The network of a task on graphs with its baselines, and its ablations: the same layers for other edges."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from histomake.bags.hazards import IntervalHazards
from histomake.bags.index import BagIndex
from histomake.bags.network import Baselined
from histomake.bags.pooling import PooledBags
from histomake.config import BagPooling, Gnn
from histomake.graphs.ablation import ABLATIONS
from histomake.graphs.batch import GraphBatch
from histomake.graphs.index import GraphIndex
from histomake.graphs.networks import GraphLayers, contributions

ABLATED = "ablated"
"""Name of the part of a network that holds the layers of its ablations."""


class GraphNetwork(Baselined):
    """Scales features of nodes, and classifies graphs.

    ``ablations``: names of other networks that it holds, with the same settings, trained on graphs with other edges.
    """

    def __init__(
        self,
        settings: Gnn,
        *,
        fuse: str | None,
        pooling: BagPooling,
        inputs: int,
        outputs: int,
        hazards: IntervalHazards | None = None,
        ablations: Sequence[str] = (),
    ) -> None:
        super().__init__(inputs=inputs, outputs=outputs, hazards=hazards)
        fused = None if fuse is None else pooling

        def layers() -> GraphLayers:
            return GraphLayers(settings, inputs=inputs, outputs=outputs, fused=fused)

        self.layers = layers()
        self.ablated = nn.ModuleDict({name: layers() for name in ablations})

    def _scaled(self, graphs: GraphBatch) -> GraphBatch:
        return GraphBatch(self.scale(graphs.features), graphs.edges, graphs.sizes)

    def forward(self, graphs: GraphBatch) -> Tensor:
        """Logits (b, outputs) of graphs with unscaled features."""
        return self.layers(self._scaled(graphs))

    @torch.inference_mode()
    def predict_bag(self, bags: BagIndex, bag: int, device: torch.device) -> tuple[PooledBags, Tensor]:
        """See Baselined. Contributions of nodes sum to the logits; see `contributions`."""
        assert isinstance(bags, GraphIndex)
        graph = self._scaled(bags.batch([bag]).to(device))
        logits, found, attention = contributions(self.layers, graph)
        return PooledBags(logits, attention, found, graph.features), graph.features.mean(0, keepdim=True)

    @torch.inference_mode()
    def ablation_logits(self, graphs: GraphIndex, bag: int, device: torch.device, *, seed: int) -> dict[str, Tensor]:
        """Logits (1, outputs) of one bag by the networks of the ablations, by their name; ``seed``: of their edges."""
        found = {}
        for name, layers in self.ablated.items():
            other = ABLATIONS[name](graphs, seed=seed).batch([bag]).to(device)
            found[name] = layers(self._scaled(other))
        return found
