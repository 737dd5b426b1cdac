"""Permutation importance of the features of nodes: scores of a trained network after a group of them is exchanged.

What a group tells is lost where each node gets the group's values of another, random node (Breiman 2001; Fisher, Rudin
and Dominici 2019 for groups). Exchanged among the nodes of all slides, it says nothing more about a slide. Exchanged
within each slide, its mean over the slide stays, and only where which values lie is lost.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch

from histomake.base.records.graph import AMONG_SLIDES, EVERY_GROUP, WITHIN_SLIDES
from histomake.base.records.record import Quarantined
from histomake.base.rng import ORDER, counter_rng
from histomake.graphs.batch import GraphBatch
from histomake.graphs.index import GraphIndex, index_graphs
from histomake.graphs.network import GraphNetwork
from histomake.graphs.predict import require_same_graphs
from histomake.graphs.store import read_graph
from histomake.learn.data.patch_index import SlideEntry, usable_patches
from histomake.learn.inference.predict import Predictor
from histomake.learn.kinds import TRAINED

if TYPE_CHECKING:
    from numpy.typing import NDArray


def permuted_scores(
    predictor: Predictor, entries: Sequence[SlideEntry], files: Mapping[str, Path], *, repeats: int, seed: int
) -> pa.Table:
    """Scores of slides or patients after features of their nodes were exchanged.

    Args:
        predictor: The model.
        entries: The slides; those without a graph, a node or a usable patch are left out.
        files: Graph of each slide, by id.
        repeats: Number of permutations of each group and scope.
        seed: Of the permutations, which are the same for all groups.

    Columns: bag (id of the slide or patient), group, scope, repeat, and score_<output>. A group ``all`` is all groups
    together, after which nothing but the edges is left. Raises HistomakeError for graphs of other settings than those
    that the model was trained on.
    """
    card = predictor.card
    assert card.bag is not None
    assert card.bag.graph is not None
    usable = sorted((one for one in entries if _has_nodes(one, files)), key=lambda one: one.slide_id)
    schema = table_schema(predictor.class_names)
    if not usable:
        return schema.empty_table()
    bags = index_graphs(usable, files, kind=card.kind, target=predictor.task.target, level=card.bag.level)
    for one in usable:
        require_same_graphs(card.bag.graph, bags, one)
    rows = list(_rows(predictor, bags, repeats=repeats, seed=seed))
    return pa.Table.from_pylist(rows, schema=schema)


def table_schema(outputs: Sequence[str]) -> pa.Schema:
    """Columns of a table of scores after permutations."""
    scores = [(f"score_{name}", pa.float32()) for name in outputs]
    return pa.schema(
        [("bag", pa.string()), ("group", pa.string()), ("scope", pa.string()), ("repeat", pa.int32()), *scores]
    )


def _has_nodes(entry: SlideEntry, files: Mapping[str, Path]) -> bool:
    graph = read_graph(files[entry.slide_id])
    return not isinstance(graph.record, Quarantined) and bool(len(graph)) and bool(usable_patches(entry)[0].num_rows)


def groups_of(bags: GraphIndex) -> dict[str, slice]:
    """Columns of the features of each group, and of all of them together if there are several."""
    found, start = dict[str, slice](), 0
    for group in bags.nodes.record.groups:
        found[group.name] = slice(start, start := start + len(group.values))
    return found | ({EVERY_GROUP: slice(0, start)} if len(found) > 1 else {})


def exchanged(bags: GraphIndex, scope: str, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """For each bag, the nodes (of all bags) from which its nodes get features, int64 (nodes of the bag,)."""
    if scope == WITHIN_SLIDES:
        slides = bags.patches.slide
        return [_within(members, slides[members], rng) for members in bags.members]
    mixed = rng.permutation(np.concatenate(bags.members))
    return np.split(mixed, np.cumsum([len(members) for members in bags.members])[:-1])


def _within(members: NDArray[np.int64], slides: NDArray[np.int32], rng: np.random.Generator) -> NDArray[np.int64]:
    """Members of a bag in random order within each of its slides."""
    found = members.copy()
    for slide in np.unique(slides):
        found[slides == slide] = rng.permutation(members[slides == slide])
    return found


def _rows(predictor: Predictor, bags: GraphIndex, *, repeats: int, seed: int) -> Iterator[dict[str, object]]:
    network, device = predictor.network, predictor.runtime.device
    assert isinstance(network, GraphNetwork)
    activate, groups = TRAINED[predictor.card.kind].activate, groups_of(bags)
    outputs = [f"score_{name}" for name in predictor.class_names]
    for scope in (AMONG_SLIDES, WITHIN_SLIDES):
        for repeat in range(repeats):
            donors = exchanged(
                bags, scope, counter_rng(seed, worker=zlib.crc32(scope.encode()), step=repeat, stream=ORDER)
            )
            for bag, name in enumerate(bags.names):
                graph = bags.batch([bag])
                others = torch.from_numpy(bags.reader.read(donors[bag]))
                for group, columns in groups.items():
                    features = graph.features.clone()
                    features[:, columns] = others[:, columns]
                    with torch.inference_mode():
                        logits = network(GraphBatch(features, graph.edges, graph.sizes).to(device))
                    scores = activate(logits)[0].tolist()
                    told = {"bag": name, "group": group, "scope": scope, "repeat": repeat}
                    yield told | dict(zip(outputs, scores, strict=True))
