"""The graph of the cells of a real biopsy, from the package histolytics (BSD-3).

Its outlines of 19,197 nuclei of a cervix biopsy are read, and none of its code is imported: it requires numpy 1 and an
older pyarrow. The classes are those that a model gave, not a pathologist. The resolution is not stated; that of the
areas of nuclei is taken.
"""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import shapely
from histomake.graphs.edges import lengths, triangulated

from tests.bench.figures import Figure

MPP, MAX_EDGE_UM, NUCLEI = 0.5, 50.0, 19_197


def read() -> tuple[np.ndarray, np.ndarray]:
    """Centroids in µm, float64 (n, 2), and classes (n,). Raises FileNotFoundError without the package."""
    found = importlib.util.find_spec("histolytics")
    if found is None or not found.submodule_search_locations:
        raise FileNotFoundError("the package histolytics is missing: make bench installs tests/bench/requirements.txt")
    table = pq.read_table(Path(found.submodule_search_locations[0]) / "data" / "cervix_biopsy_nuclei.parquet")
    centres = shapely.centroid(shapely.from_wkb(table["geometry"].to_numpy()))
    return shapely.get_coordinates(centres) * MPP, table["class_name"].to_numpy()


def figures() -> list[Figure]:
    """Connect the nuclei, and compare the classes of neighbours with those of nuclei in random order."""
    places, classes = read()
    start = time.perf_counter()
    pairs = triangulated(places)
    pairs = pairs[lengths(places, pairs) <= MAX_EDGE_UM]
    seconds = time.perf_counter() - start
    alike = _alike(classes, pairs)
    chance = _alike(np.random.default_rng(1).permutation(classes), pairs)
    planar = 3 * NUCLEI - 6
    apart = NUCLEI - len(np.unique(pairs))
    return [
        Figure("biopsy: nuclei", len(places), f"= {NUCLEI}", len(places) == NUCLEI, note=f"{apart} without an edge"),
        Figure("biopsy: edges up to 50 µm", len(pairs), f"<= {planar}", len(pairs) <= planar, note=f"{seconds:.2f} s"),
        Figure("biopsy: neighbours of one class", alike, f"> {chance:.3f}", alike > chance, note="classes of a model"),
    ]


def _alike(classes: np.ndarray, pairs: np.ndarray) -> float:
    return float((classes[pairs[:, 0]] == classes[pairs[:, 1]]).mean())
