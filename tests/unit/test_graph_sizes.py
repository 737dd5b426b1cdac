"""Sizes of graphs in the training cohort, by which memory is requested."""

from __future__ import annotations

import numpy as np
from histomake.base.graph_files import graph_size
from histomake.base.records.cohort import GraphSize
from histomake.base.vector_files import write_vectors
from histomake.graphs.store import read_graph

from tests.arranged_graphs import write_arranged


def test_the_size_of_a_graph_is_that_of_its_file(tmp_path):
    path, told = tmp_path / "s.arrow", {"nodes": 40, "extent": 100.0, "clustered": False, "sha256": "ab" * 32}
    write_arranged(path, "s", np.random.default_rng(1), **told)
    assert graph_size(path) == GraphSize(nodes=40, edges=len(read_graph(path).edges()[0]), values=2)


def test_a_graph_without_nodes_has_no_size_to_speak_of(tmp_path):
    path, told = tmp_path / "s.arrow", {"nodes": 0, "extent": 100.0, "clustered": False, "sha256": "ab" * 32}
    write_arranged(path, "s", np.random.default_rng(1), **told)
    assert graph_size(path) == GraphSize(nodes=0, edges=0, values=2)


def test_features_are_no_graph(tmp_path):
    write_vectors(tmp_path / "f.arrow", {}, {"a": np.zeros((3, 4), np.float32)}, {})
    assert graph_size(tmp_path / "f.arrow") is None
