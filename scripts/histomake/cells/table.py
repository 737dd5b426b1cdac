"""The table of a slide's cells: measures of every cell, made tile by tile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.spatial import cKDTree

from histomake.base.records.cell_table import CellTableRecord
from histomake.base.records.manifest import Manifest
from histomake.base.records.record import Quarantined
from histomake.base.tables import write_table
from histomake.base.units import Level0Pixels, Mpp
from histomake.cells.measure import shapes, stains
from histomake.cells.source import CellSource
from histomake.cells.tile import Tile
from histomake.config import Cells

if TYPE_CHECKING:
    from numpy.typing import NDArray

METADATA_KEY = b"histomake"
"""Key of the table's record in the metadata of the Parquet schema."""

MEASURED = {
    "x": "x",
    "y": "y",
    "area_um2": "area",
    "perimeter_um": "perimeter",
    "eccentricity": "eccentricity",
    "solidity": "solidity",
    "orientation_deg": "orientation",
    "haematoxylin": "haematoxylin",
    "eosin": "eosin",
    "texture": "texture",
}
"""Columns of numbers, and their names among the measures."""

MOST_NEIGHBOURS = 65_535


class PixelReader(Protocol):
    """What is needed of a slide."""

    def read(self, x: Level0Pixels, y: Level0Pixels, size: tuple[int, int], mpp: Mpp) -> NDArray[np.uint8]:
        """Read pixels uint8 (h, w, 3) at ``mpp``."""


Sink = Callable[[Tile, int, dict[str, "NDArray[np.float64]"]], None]
"""Takes the cells of a tile, the number of cells before them, and their measures."""


def schema(neighbours_um: Sequence[int]) -> pa.Schema:
    """Columns of every cell table with these radii."""
    return pa.schema(
        [
            ("cell_id", pa.uint32()),
            *((name, pa.float32()) for name in MEASURED),
            ("class", pa.dictionary(pa.int16(), pa.string())),
            *((f"neighbours_{radius}um", pa.uint16()) for radius in neighbours_um),
        ]
    )


def tabulate_cells(
    source: CellSource, reader: PixelReader, manifest: Manifest, config: Cells, *, sinks: Sequence[Sink] = ()
) -> pa.Table:
    """Measure the cells of a slide.

    Memory is needed for a tile and the finished rows. Cells are numbered from 1 in the order of ``source.tiles``.

    Args:
        source: The cells.
        reader: The slide.
        manifest: The slide's manifest.
        config: The section ``cells.<name>``.
        sinks: Further takers of the cells.

    Returns:
        A table of `schema`, with metadata under the key ``histomake``. ``x``, ``y``: centroid in level-0 pixels.
    """
    columns: dict[str, list[NDArray[np.float32]]] = {name: [] for name in MEASURED}
    classes: list[NDArray[np.int16]] = []
    count = 0
    for whole in source.tiles():
        tile = whole.cropped()
        measures = measure_tile(tile, source, reader)
        for name, measure in MEASURED.items():
            columns[name].append(measures[measure].astype(np.float32))
        if tile.classes is not None:
            classes.append(tile.classes.astype(np.int16))
        for sink in sinks:
            sink(tile, count, measures)
        count += tile.count
    numbers = {name: np.concatenate(parts) if parts else np.zeros(0, np.float32) for name, parts in columns.items()}
    named = np.concatenate(classes) if classes else np.zeros(count, np.int16)
    indices = pa.array(named, mask=None if source.class_names else np.ones(count, bool))
    micrometres = np.stack([numbers["x"], numbers["y"]], axis=1).astype(np.float64) * manifest.mpp
    arrays = [
        pa.array(np.arange(1, count + 1, dtype=np.uint32)),
        *map(pa.array, numbers.values()),
        pa.DictionaryArray.from_arrays(indices, pa.array(list(source.class_names), pa.string())),
        *(pa.array(neighbours(micrometres, radius)) for radius in config.neighbours_um),
    ]
    record = CellTableRecord(
        slide_id=manifest.slide_id,
        sha256=manifest.sha256,
        source=config.source,
        class_names=source.class_names,
        cells=count,
        mpp=source.mpp,
        scale=source.scale,
        neighbours_um=tuple(config.neighbours_um),
        warnings=tuple(f"{n} cells are left out: {why}." for why, n in sorted(source.losses.items()) if n),
    )
    text = record.encode(f"cell table of {manifest.slide_id}")
    table = pa.Table.from_arrays(arrays, schema=schema(config.neighbours_um))
    return table.replace_schema_metadata({METADATA_KEY: text})


def measure_tile(tile: Tile, source: CellSource, reader: PixelReader) -> dict[str, NDArray[np.float64]]:
    """Return shapes and stains of the cells of a tile, with ``x`` and ``y`` of the centroids in level-0 pixels."""
    window = tile.window
    x, y = (Level0Pixels(round(axis * source.scale)) for axis in (window.x, window.y))
    pixels = reader.read(x, y, (window.width, window.height), source.mpp)
    measures = shapes(tile.labels, tile.count, source.mpp) | stains(tile.labels, tile.count, pixels)
    measures["x"] = (window.x + measures["column"]) * source.scale
    measures["y"] = (window.y + measures["row"]) * source.scale
    return measures


def neighbours(places: NDArray[np.float64], radius: float) -> NDArray[np.uint16]:
    """Return the number of other points within ``radius`` of each of ``places`` (n, 2), at most 65,535."""
    if not len(places):
        return np.zeros(0, np.uint16)
    found = cKDTree(places).query_ball_point(places, radius, return_length=True) - 1
    return np.minimum(found, MOST_NEIGHBOURS).astype(np.uint16)


def empty_table(outcome: Quarantined, config: Cells) -> pa.Table:
    """Return the table of a quarantined slide: no rows, the same schema, the quarantine entry in the metadata."""
    text = outcome.encode(f"cell table of {outcome.slide_id}")
    return schema(config.neighbours_um).empty_table().replace_schema_metadata({METADATA_KEY: text})


def write_cells(table: pa.Table, path: Path | str) -> None:
    """Write a cell table as Parquet, atomically, with an encoding for each type of column."""
    encoding = dict.fromkeys(MEASURED, "BYTE_STREAM_SPLIT") | {"cell_id": "DELTA_BINARY_PACKED"}
    write_table(table, path, use_dictionary=["class"], column_encoding=encoding)


def read_cells(path: Path | str) -> tuple[pa.Table, CellTableRecord | Quarantined]:
    """Read a cell table and its record. The table of a slide in quarantine is empty.

    Raises RecordError where the file has no valid record.
    """
    return pq.read_table(path), read_record(path)


def read_record(path: Path | str) -> CellTableRecord | Quarantined:
    """Read the record of a cell table alone. Raises RecordError where the file has no valid one."""
    text: bytes = (pq.read_schema(path).metadata or {}).get(METADATA_KEY, b"{}")
    return CellTableRecord.decode(text, path)
