"""Networks on graphs: from features of nodes and edges to logits of a graph, with the share of each node in it.

A graph is represented by sums over its nodes, one per layer. So the part of each node in a representation is known, and
the part of a node in a logit follows from the gradient of the logit.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from histomake.bags.network import build_embedding
from histomake.bags.pooling import AttentionScores, PoolingShape
from histomake.config import BagPooling
from histomake.config.gnn import Gnn
from histomake.graphs.batch import GraphBatch

with warnings.catch_warnings():
    # The library compiles functions with torch.jit, which warns of its end; nothing here uses them.
    warnings.simplefilter("ignore", FutureWarning)
    from torch_geometric.nn import GATConv, GCNConv, GINConv, GraphConv, SAGEConv, SAGPooling
    from torch_geometric.utils import softmax


def _gin(inputs: int, outputs: int) -> nn.Module:
    # Normalised by node and not by batch, so that a graph has the same logits whatever other graphs are in its batch.
    layers = (nn.Linear(inputs, outputs), nn.LayerNorm(outputs), nn.ReLU(), nn.Linear(outputs, outputs))
    return GINConv(nn.Sequential(*layers), train_eps=True)


CONVOLUTIONS: dict[str, Callable[[int, int], nn.Module]] = {
    "sagpool": lambda inputs, outputs: GraphConv(inputs, outputs, aggr="mean"),
    "gcn": GCNConv,
    "gin": _gin,
    "gat": GATConv,
    "graphsage": SAGEConv,
}
"""The convolution of each network, from its inputs and outputs."""

POOLED = ("sagpool",)
"""Networks that drop nodes between layers."""


@dataclass
class Parts:
    """What m of the nodes of a batch contribute to one piece of the representations.

    values: (m, w); their sum over the nodes of a graph is the piece. nodes: int64 (m,), rows of the nodes in the batch.
    owner: int64 (m,), graph of each.
    """

    values: Tensor
    nodes: Tensor
    owner: Tensor

    def summed(self, graphs: int) -> Tensor:
        """The piece of the representation of each graph, (graphs, w)."""
        found = self.values.new_zeros(graphs, self.values.shape[1])
        return found.index_add(0, self.owner, self.values)


def _mean_shares(states: Tensor, owner: Tensor, graphs: int) -> Tensor:
    count = torch.bincount(owner, minlength=graphs).to(states.dtype)
    return states / count[owner, None]


def _max_shares(states: Tensor, owner: Tensor, graphs: int) -> Tensor:
    index = owner[:, None].expand_as(states)
    largest = states.new_zeros(graphs, states.shape[1]).scatter_reduce(0, index, states, "amax", include_self=False)
    # Nodes that tie share a value, so that their order does not matter.
    equal = (states == largest[owner]).to(states.dtype)
    count = torch.zeros_like(largest).index_add(0, owner, equal)
    return states * equal / count[owner]


READOUTS: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "mean": _mean_shares,
    "sum": lambda states, owner, graphs: states,
    "max": _max_shares,
}
"""Of states (m, w) of nodes with their graphs int64 (m,) and the number of graphs: what sums to the readout."""


class AttentionParts(nn.Module):
    """Nodes as a bag: embedded and weighted by attention (Ilse et al. 2018), without any edge."""

    def __init__(self, settings: BagPooling, *, inputs: int) -> None:
        super().__init__()
        width = settings.embed or inputs
        self.embed = build_embedding(settings, inputs=inputs)
        shape = PoolingShape(
            width=width, outputs=1, hidden=settings.hidden, heads=settings.heads, dropout=settings.dropout
        )
        self.attend = AttentionScores(shape, gated=settings.name == "gated")
        self.width = width * settings.heads

    def forward(self, features: Tensor, owner: Tensor, graphs: int) -> Tensor:
        """What the nodes contribute to the representation of their bag, (n, width)."""
        embedded = self.embed(features)
        weights = softmax(self.attend(embedded), owner, num_nodes=graphs)
        return (weights[:, :, None] * embedded[:, None, :]).flatten(1)


class GraphLayers(nn.Module):
    """From scaled features of nodes to logits of their graphs.

    The network of "sagpool" is that of the paper's benchmark: convolutions with ReLU, SAGPooling after every second
    one that another follows, readouts of all of them, and two linear layers. There is no pooling without a use, since
    weights without gradients stop a training with several processes.
    """

    def __init__(self, settings: Gnn, *, inputs: int, outputs: int, fused: BagPooling | None = None) -> None:
        super().__init__()
        self.settings = settings
        widths = [inputs, *[settings.hidden] * settings.layers]
        make = CONVOLUTIONS[settings.name]
        self.convolutions = nn.ModuleList(make(widths[i], widths[i + 1]) for i in range(settings.layers))
        count = (settings.layers - 1) // 2 if settings.name in POOLED else 0
        self.pools = nn.ModuleList(
            SAGPooling(settings.hidden, settings.ratio, min_score=settings.min_score) for _ in range(count)
        )
        self.bag = None if fused is None else AttentionParts(fused, inputs=inputs)
        read = settings.layers if settings.jump == "cat" else 1
        width = read * settings.hidden + (0 if self.bag is None else self.bag.width)
        drop = nn.Dropout(settings.dropout)
        self.classify = nn.Sequential(
            nn.Linear(width, settings.hidden), nn.ReLU(), drop, nn.Linear(settings.hidden, outputs)
        )

    def forward(self, graphs: GraphBatch) -> Tensor:
        """Logits (b, outputs)."""
        return self.classify(represent(self.parts(graphs), len(graphs)))

    def parts(self, graphs: GraphBatch) -> list[Parts]:
        """What each node contributes to the pieces of the representation of its graph."""
        share = READOUTS[self.settings.readout]
        states, edges, owner = graphs.features, graphs.edges, graphs.owner
        nodes = torch.arange(len(states), device=states.device)
        found: list[Parts] = []
        for number, convolve in enumerate(self.convolutions):
            states = torch.relu(convolve(states, edges))
            if self.settings.jump == "cat" or number == len(self.convolutions) - 1:
                found.append(Parts(share(states, owner, len(graphs)), nodes, owner))
            if number % 2 and number // 2 < len(self.pools):
                states, edges, _, owner, kept, _ = self.pools[number // 2](states, edges, batch=owner)
                nodes = nodes[kept]
        if self.bag is not None:
            owner = graphs.owner
            values = self.bag(graphs.features, owner, len(graphs))
            found.append(Parts(values, torch.arange(len(owner), device=owner.device), owner))
        return found


def represent(parts: Sequence[Parts], graphs: int) -> Tensor:
    """Representation (graphs, w) of each graph."""
    return torch.cat([part.summed(graphs) for part in parts], dim=1)


def contributions(layers: GraphLayers, graph: GraphBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (1, outputs) of one graph, contribution (n, outputs) of each node, and its attention (n,).

    The contribution of a node is its part of the representation times the gradient of the logit, as in Grad-CAM for
    graphs (Pope et al. 2019). The layers that classify are linear from one bend of a ReLU to the next, so what is left
    of the logit is their biases; each node gets the same part of it, so that contributions sum to the logit. Attention
    is the share of a node in the absolute contributions to all logits, without the biases.
    """
    with torch.no_grad():
        parts = layers.parts(graph)
        # Made outside of inference mode, since gradients are needed.
        vector = represent(parts, 1)
    with torch.inference_mode(False), torch.enable_grad():
        point = vector.clone().requires_grad_()
        logits = layers.classify(point)
        gradients = [torch.autograd.grad(logit, point, retain_graph=True)[0][0] for logit in logits[0]]
    slopes = torch.stack(gradients, dim=1)
    count = len(graph.features)
    found = slopes.new_zeros(count, slopes.shape[1])
    starts = torch.tensor([0, *(part.values.shape[1] for part in parts)]).cumsum(0).tolist()
    for part, start in zip(parts, starts, strict=False):
        found.index_add_(0, part.nodes, part.values @ slopes[start : start + part.values.shape[1]])
    size = found.abs().sum(1)
    attention = size / size.sum() if size.sum() > 0 else torch.full_like(size, 1 / count)
    logits = logits.detach()
    return logits, found + (logits - found.sum(0)) / count, attention
