"""Nodes that are regions: connected pieces of one class of a segmentation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from skimage.measure import label, regionprops_table

from histomake.base.records.manifest import Manifest
from histomake.config import Graph
from histomake.graphs.edges import once
from histomake.graphs.nodes import NodeFiles, Nodes, one_hot

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROWS = 2048
"""Rows of the label image that are read at once."""


def of_regions(files: NodeFiles, graph: Graph, class_names: Sequence[str], manifest: Manifest) -> Nodes:
    """The regions of a slide. Needs 50 bytes of memory per pixel at ``region_mpp`` (measured)."""
    assert files.labels is not None
    group = zarr.open_group(files.labels, mode="r")
    attributes: Any = group.attrs["ome"]
    mpp = float(attributes["multiscales"][0]["datasets"][0]["coordinateTransformations"][0]["scale"][0])
    given = [entry["class"] for entry in attributes["image-label"]["properties"]]
    every = max(1, round(graph.region_mpp / mpp))
    values: Any = group["0"]
    rows = range(0, values.shape[0], ROWS * every)
    found = np.concatenate([np.asarray(values[start : start + ROWS * every])[::every, ::every] for start in rows])
    codes = np.array([-1, *(class_names.index(name) if name in class_names else -1 for name in given)])
    return cut(codes[found], graph, class_names, mpp=mpp * every, scale=mpp * every / manifest.mpp)


def cut(codes: NDArray[np.integer], graph: Graph, class_names: Sequence[str], *, mpp: float, scale: float) -> Nodes:
    """The regions of an image (y, x) of class numbers, -1 where there is none; ``scale``: level-0 pixels per pixel."""
    pieces = codes.astype(np.int32) + 1
    if graph.region_um is not None:
        side = max(1, math.ceil(graph.region_um / mpp))
        row, column = (np.arange(length, dtype=np.int32) // side for length in codes.shape)
        cell = row[:, None] * (column[-1] + 1) + column[None]
        pieces = np.where(pieces > 0, cell * (len(class_names) + 1) + pieces, 0)
    numbers = label(pieces, background=0, connectivity=1)
    properties = ("label", "area", "perimeter", "eccentricity", "centroid")
    table = regionprops_table(numbers, properties=properties)
    large = np.flatnonzero(table["area"] * mpp**2 >= graph.min_area_um2)
    place = np.full(int(numbers.max(initial=0)) + 1, -1, np.int64)
    place[table["label"][large]] = np.arange(len(large))
    y, x = (table[f"centroid-{axis}"][large] + 0.5 for axis in (0, 1))
    first = np.full(len(large), -1, np.int64)
    inside = place[numbers]
    first[inside[inside >= 0]] = codes[inside >= 0]
    shape = np.stack(
        [table["area"][large] * mpp**2, table["perimeter"][large] * mpp, table["eccentricity"][large]], axis=1
    ).astype(np.float32)
    return Nodes(
        table["label"][large].astype(np.uint32),
        x * scale,
        y * scale,
        {"shape": shape, "class": one_hot(first, len(class_names))},
        {"shape": ["area_um2", "perimeter_um", "eccentricity"], "class": [f"is_{name}" for name in class_names]},
        touching=_touching(inside),
    )


def _touching(inside: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pairs of regions with pixels beside or above each other."""
    sides = [(inside[:, :-1], inside[:, 1:]), (inside[:-1], inside[1:])]
    found = [np.stack([a, b], axis=1) for one, other in sides for a, b in [_different(one, other)]]
    return once(np.concatenate(found))


def _different(one: NDArray[np.int64], other: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    apart = (one != other) & (one >= 0) & (other >= 0)
    return one[apart], other[apart]
