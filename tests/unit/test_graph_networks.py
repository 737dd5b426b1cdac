"""Networks on graphs: layers, readouts, invariance, and contributions of nodes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from histomake.config import BagPooling
from histomake.config.gnn import Gnn
from histomake.graphs.batch import GraphBatch
from histomake.graphs.networks import CONVOLUTIONS, READOUTS, GraphLayers, contributions
from torch_geometric.nn import GraphConv, SAGPooling

TOLERANCE = 1e-5
FUSED = BagPooling(name="gated", embed=8, hidden=[8], heads=2, dropout=0.0)


def graph(seed, nodes=30, edges=60, width=5):
    """Features and pairs of a random graph."""
    rng = np.random.default_rng(seed)
    pairs = np.unique(np.sort(rng.integers(0, nodes, (edges, 2)), axis=1), axis=0)
    pairs = pairs[pairs[:, 0] < pairs[:, 1]]
    return torch.from_numpy(rng.normal(size=(nodes, width)).astype(np.float32)), torch.from_numpy(pairs)


def layers(fused=None, **settings):
    torch.manual_seed(3)
    return GraphLayers(Gnn(**settings, hidden=16), inputs=5, outputs=2, fused=fused).eval()


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("readout", READOUTS)
def test_logits_do_not_depend_on_the_order_of_the_nodes(name, readout):
    network, (features, pairs) = layers(name=name, readout=readout, layers=4), graph(1)
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(2))
    place = torch.argsort(order)
    first = network(GraphBatch.of([features], [pairs]))
    second = network(GraphBatch.of([features[order]], [place[pairs]]))
    torch.testing.assert_close(first, second, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("fused", [None, FUSED])
def test_graphs_of_a_batch_have_the_logits_that_they_have_alone(name, fused):
    network, graphs = layers(fused, name=name, layers=3), [graph(i, nodes=10 * i) for i in (1, 2, 5)]
    together = network(GraphBatch.of(*zip(*graphs, strict=True)))
    alone = torch.cat([network(GraphBatch.of([features], [pairs])) for features, pairs in graphs])
    torch.testing.assert_close(together, alone, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("layers_", range(1, 8))
def test_every_weight_of_sagpool_gets_a_gradient(layers_):
    network = layers(name="sagpool", layers=layers_).train()
    network(GraphBatch.of(*zip(graph(1), graph(2), strict=True))).square().sum().backward()
    assert all(weight.grad is not None for weight in network.parameters())


@pytest.mark.parametrize(("count", "pools"), [(1, 0), (2, 0), (3, 1), (4, 1), (5, 2), (6, 2), (7, 3)])
def test_sagpooling_follows_every_second_layer_that_is_not_the_last(count, pools):
    assert len(layers(name="sagpool", layers=count).pools) == pools


def test_sagpool_is_the_network_of_the_paper():
    """Three layers computed step by step, as in the benchmark that the paper refers to."""
    network, (features, pairs) = layers(name="sagpool", layers=3, ratio=0.5), graph(4)
    batch = GraphBatch.of([features], [pairs])
    first, second, third = network.convolutions
    assert isinstance(first, GraphConv)
    assert first.aggr == "mean"
    assert isinstance(network.pools[0], SAGPooling)
    x = torch.relu(first(features, batch.edges))
    readouts = [x.mean(0)]
    x = torch.relu(second(x, batch.edges))
    readouts.append(x.mean(0))
    x, edges, *_ = network.pools[0](x, batch.edges)
    assert len(x) == 15
    x = torch.relu(third(x, edges))
    readouts.append(x.mean(0))
    one, _, _, two = network.classify
    expected = two(torch.relu(one(torch.cat(readouts))))
    torch.testing.assert_close(network(batch)[0], expected)


def test_nodes_below_the_least_score_are_dropped():
    network, (features, pairs) = layers(name="sagpool", layers=3, min_score=1 / 30), graph(4)
    last = network.parts(GraphBatch.of([features], [pairs]))[-1]
    assert 0 < len(last.nodes) < 30


def test_a_mean_is_taken_of_the_neighbours():
    """Two nodes beside a third: the third gets the mean of the two."""
    network = layers(name="sagpool", layers=1)
    convolve = network.convolutions[0]
    features = torch.tensor([[1.0] * 5, [3.0] * 5, [0.0] * 5])
    batch = GraphBatch.of([features], [torch.tensor([[0, 2], [1, 2]])])
    found = convolve(features, batch.edges)[2]
    torch.testing.assert_close(found, convolve.lin_rel(torch.tensor([2.0] * 5)) + convolve.lin_root(features[2]))


@pytest.mark.parametrize(("readout", "expected"), [("mean", [2.0, 1.0]), ("sum", [6.0, 3.0]), ("max", [5.0, 2.0])])
def test_readouts_by_hand(readout, expected):
    states = torch.tensor([[5.0, -1.0], [1.0, 2.0], [0.0, 2.0]])
    found = READOUTS[readout](states, torch.zeros(3, dtype=torch.int64), 1).sum(0)
    torch.testing.assert_close(found, torch.tensor(expected))


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("fused", [None, FUSED])
def test_contributions_of_nodes_sum_to_the_logits(name, fused):
    network, (features, pairs) = layers(fused, name=name, layers=4), graph(6)
    batch = GraphBatch.of([features], [pairs])
    logits, found, attention = contributions(network, batch)
    torch.testing.assert_close(logits, network(batch).detach())
    torch.testing.assert_close(found.sum(0), logits[0], atol=1e-5, rtol=1e-4)
    assert attention.sum().item() == pytest.approx(1, abs=1e-5)
    assert (attention >= 0).all()


def test_contributions_can_be_asked_for_in_inference_mode():
    network, (features, pairs) = layers(name="gcn"), graph(6)
    with torch.inference_mode():
        logits, _, _ = contributions(network, GraphBatch.of([features], [pairs]))
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("nodes", [1, 2])
def test_graphs_of_one_node_or_without_edges_have_logits(name, nodes):
    batch = GraphBatch.of([torch.ones(nodes, 5)], [torch.zeros(0, 2, dtype=torch.int64)])
    assert torch.isfinite(layers(name=name, layers=5)(batch)).all()


def test_without_jump_only_the_last_layer_represents_the_graph():
    network, (features, pairs) = layers(name="gin", jump="last", layers=3), graph(6)
    assert len(network.parts(GraphBatch.of([features], [pairs]))) == 1


def test_the_bag_beside_the_graph_does_not_see_its_edges():
    network, (features, pairs) = layers(FUSED, name="gcn"), graph(6)
    with_edges = network.parts(GraphBatch.of([features], [pairs]))[-1]
    without = network.parts(GraphBatch.of([features], [pairs[:0]]))[-1]
    torch.testing.assert_close(with_edges.values, without.values)
