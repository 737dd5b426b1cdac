"""Prediction of graphs: scores of a slide or patient, and what the nodes in each patch have to do with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from scipy.spatial import KDTree

from histomake.bags.index import bag_name
from histomake.bags.pooling import PooledBags
from histomake.bags.predict import LINEAR, bag_schema, explained_table, hazards_of, pooling_of
from histomake.bags.probes import removals
from histomake.base.errors import HistomakeError
from histomake.base.layout import DESCRIPTION, WEIGHTS
from histomake.base.records.bag_probe import BagProbe, with_probe
from histomake.base.records.model_card import GraphCard, ModelCard
from histomake.base.records.record import Quarantined
from histomake.base.rng import ORDER, counter_rng
from histomake.base.tables import without_rows
from histomake.config import Gnn
from histomake.features.predict import require_unseen
from histomake.graphs.batch import GraphBatch
from histomake.graphs.index import GraphIndex, index_graphs
from histomake.graphs.network import GraphNetwork
from histomake.graphs.store import read_graph
from histomake.learn.data.patch_index import PatchIndex, SlideEntry, index_patches, usable_patches
from histomake.learn.engine.runtime import Runtime
from histomake.learn.inference.predict import Predictor, check_grid, require_consistent
from histomake.learn.kinds import TRAINED
from histomake.model.transfer import describing, load_weights_file
from histomake.target.targets import is_known

if TYPE_CHECKING:
    from numpy.typing import NDArray


class GraphPrediction(NamedTuple):
    """Predictions of a slide: a row per patch, and a row per node of its graph in the graph's order."""

    patches: pa.Table
    nodes: pa.Table


def load_graph_model(folder: Path) -> Predictor:
    """Load the model of a task on graphs in eval mode, on the CPU. Raises HistomakeError for any other model."""
    card = ModelCard.read(folder / DESCRIPTION)
    if card.bag is None or card.bag.graph is None:
        raise HistomakeError(f"{folder} does not predict graphs; train the task again")
    require_consistent(card, folder / DESCRIPTION)
    graph = card.bag.graph
    with describing(folder / DESCRIPTION, card.REMEDY):
        network = GraphNetwork(
            Gnn(**{**graph.gnn, "dropout": 0.0}),
            fuse=graph.fuse,
            pooling=pooling_of(card.bag),
            inputs=sum(graph.groups.values()),
            outputs=len(card.class_names),
            hazards=hazards_of(card.bag),
            ablations=graph.ablations,
        )
    load_weights_file(network, folder / WEIGHTS, sha256=card.weights_sha256)
    return Predictor(network.eval(), card, Runtime(torch.device("cpu"), torch.float32))


def predict_graph(
    predictor: Predictor, entry: SlideEntry, others: Sequence[SlideEntry], files: Mapping[str, Path]
) -> GraphPrediction:
    """Predictions of the patches and nodes of a slide, as part of the graph of the slide or its patient.

    Args:
        predictor: The model.
        entry: The slide.
        others: The other slides of the patient, if its slides are predicted together.
        files: Graph of each of the slides, by id.

    Columns of patches: those of `histomake.bags.predict.predict_bag`. Attention and contributions of a patch are sums
    over the nodes that lie in it; those of a node outside of all patches belong to the nearest patch. Besides, columns
    without_edges_<output> and rewired_edges_<output> have the scores of the ablations. Columns of
    nodes: node_id, attention, and contribution_<output>.

    A slide without a node or without a usable patch has no rows. Raises HistomakeError for graphs of other settings
    than those that the model was trained on, and for a slide that their encoder was trained on.
    """
    card = predictor.card
    assert card.bag is not None
    assert card.bag.graph is not None
    # In the same order whichever slide is asked for, so that all slides of a patient have the same scores to the bit.
    together = sorted((entry, *others), key=lambda one: one.slide_id)
    usable = [one for one in together if usable_patches(one)[0].num_rows]
    graphs = {one.slide_id: read_graph(files[one.slide_id]) for one in usable}
    own = graphs.get(entry.slide_id)
    schemas = bag_schema(predictor), node_schema(predictor.class_names)
    if own is not None and isinstance(own.record, Quarantined):
        return GraphPrediction(*(without_rows(schema, own.record) for schema in schemas))
    if own is None or not len(own):
        return GraphPrediction(*(schema.empty_table() for schema in schemas))
    entries = [one for one in usable if len(graphs[one.slide_id])]
    bags = index_graphs(entries, files, kind=card.kind, target=predictor.task.target, level=card.bag.level)
    check_grid(predictor, bags.patches)
    for one in entries:
        require_same_graphs(card.bag.graph, bags, one)
    return _predicted(predictor, bags, entry)


def node_schema(outputs: Sequence[str]) -> pa.Schema:
    """Columns of a table of nodes."""
    parts = [(f"contribution_{name}", pa.float32()) for name in outputs]
    return pa.schema([("node_id", pa.uint32()), ("attention", pa.float32()), *parts])


def require_same_graphs(graph: GraphCard, bags: GraphIndex, entry: SlideEntry) -> None:
    """Raise HistomakeError for graphs that a model cannot predict, or a slide that their encoder was trained on."""
    if bags.nodes.record.identity != graph.identity:
        raise HistomakeError(
            f"slide {entry.slide_id}: its graph {graph.name} has other settings or another encoder than those that the "
            "model was trained on; train it again on these"
        )
    if graph.encoder is not None:
        require_unseen(graph.encoder, entry)


def _predicted(predictor: Predictor, bags: GraphIndex, entry: SlideEntry) -> GraphPrediction:
    card, network, device = predictor.card, predictor.network, predictor.runtime.device
    assert card.bag is not None
    assert isinstance(network, GraphNetwork)
    number = bags.names.index(bag_name(entry, card.bag.level))
    pooled, mean = network.predict_bag(bags, number, device)
    assert pooled.contributions is not None
    mine = bags.patches.slide[bags.members[number]] == list(bags.patches.entries).index(entry)
    nodes = bags.patches.take(bags.members[number][mine])
    own = index_patches([entry], kind=card.kind, target=predictor.task.target)
    values = torch.cat([pooled.attention[:, None], pooled.contributions], dim=1).cpu().numpy()[mine]
    summed = _by_patch(own, nodes, values)
    others = {} if card.bag.penalty is None else {LINEAR: network.linear(mean)}
    others |= network.ablation_logits(bags, number, device, seed=card.seed)
    table = explained_table(predictor, own, pooled.logits, attention=summed[:, 0], parts=summed[:, 1:], others=others)
    if is_known(bags.first.target)[number]:
        table = with_probe(table, node_removal(network, bags.batch([number]).to(device), pooled, card=card))
    schema = node_schema(card.class_names)
    columns = [nodes.patch_id, *values.T]
    return GraphPrediction(table, pa.table(columns, names=schema.names).cast(schema))


def node_removal(network: GraphNetwork, graph: GraphBatch, pooled: PooledBags, *, card: ModelCard) -> BagProbe:
    """Predict a graph again without the nodes of highest attention and with these alone, and the same of random ones.

    Edges to nodes that are taken away are taken away too. ``graph``: with unscaled features; ``pooled``: what the
    network made of all nodes.
    """
    activate = TRAINED[card.kind].activate

    def scores(index: NDArray[np.int64]) -> NDArray[np.float64]:
        kept = torch.from_numpy(np.sort(index)).to(graph.features.device)
        with torch.inference_mode():
            return activate(network(graph.part(kept)))[0].double().cpu().numpy()

    if len(graph.features) == 1:
        return BagProbe(sizes={})
    whole = activate(pooled.logits)[0].double().cpu().numpy()
    rng = counter_rng(card.seed, stream=ORDER)
    attention, random = removals(scores, whole, pooled.attention.cpu().numpy(), rng)
    return BagProbe(sizes={}, attention=attention, random=random)


def _by_patch(own: PatchIndex, nodes: PatchIndex, values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Sums (patches, c) of values (nodes, c) over the nodes in each patch.

    Nodes are indexed as patches around them, so the nearest patch is the one whose middle is nearest.
    """
    places = [np.stack([index.x, index.y], axis=1).astype(np.float64) for index in (own, nodes)]
    nearest = KDTree(places[0]).query(places[1])[1]
    found = np.zeros((len(own), values.shape[1]))
    np.add.at(found, nearest, values)
    return found
