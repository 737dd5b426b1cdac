"""Tables of the cores of tissue microarrays: one row per core of a slide."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from histomake.base.errors import Reason, SlideError
from histomake.base.records.core_table import CoreTableRecord
from histomake.base.records.manifest import Manifest
from histomake.base.records.record import Quarantined
from histomake.base.tables import write_table
from histomake.config import Microarray
from histomake.tissue.cores import CoreGrid, NoGridError, find_cores
from histomake.tissue.mask import TissueMask

METADATA_KEY = b"histomake"
"""Key of the table's record in the metadata of the Parquet schema."""

SCHEMA = pa.schema(
    [
        ("core", pa.string()),
        ("grid_row", pa.int16()),
        ("grid_column", pa.int16()),
        *((name, pa.float64()) for name in ("x", "y", "diameter_um", "tissue_mm2")),
    ]
)
"""``core``: letters of the row and number of the column; ``grid_row``, ``grid_column``: from 1; ``x``, ``y``: centre in
level-0 pixels and ``diameter_um``: of the smallest circle around the tissue of the core."""


def tabulate_cores(manifest: Manifest, tissue: TissueMask, config: Microarray, *, path: Path | str) -> pa.Table:
    """Return the cores of a slide, sorted by row and column, with a `CoreTableRecord`.

    ``path``: file of the tissue mask, for messages.
    Raises SlideError with NO_CORES if its tissue is no regular grid of cores.
    """
    pixel_um = tissue.record.mpp
    try:
        grid = find_cores(tissue.mask, diameter=1000 * config.core_mm / pixel_um)
    except NoGridError as error:
        raise SlideError(
            Reason.NO_CORES,
            slide_id=manifest.slide_id,
            path=path,
            detail=f"no regular grid of cores of {config.core_mm:g} mm: {error}",
            remedy="Correct microarray.core_mm, or the tissue mask (section tissue); a slide that is no microarray "
            "belongs into a cohort of its own",
        ) from None
    rows = [
        {
            "core": core.name,
            "grid_row": core.row + 1,
            "grid_column": core.column + 1,
            "x": core.x * tissue.downsample_x,
            "y": core.y * tissue.downsample_y,
            "diameter_um": core.diameter * pixel_um,
            "tissue_mm2": core.area * pixel_um**2 / 1e6,
        }
        for core in grid.cores
    ]
    record = CoreTableRecord(
        slide_id=manifest.slide_id,
        sha256=manifest.sha256,
        core_mm=config.core_mm,
        rows=grid.rows,
        columns=grid.columns,
        degrees=round(grid.degrees, 2),
        missing=tuple(grid.missing),
        warnings=_warnings(grid),
    )
    return pa.Table.from_pylist(rows, schema=SCHEMA).replace_schema_metadata({METADATA_KEY: _text(record)})


def _warnings(grid: CoreGrid) -> tuple[str, ...]:
    if not grid.missing:
        return ()
    return (f"{len(grid.missing)} of {grid.rows * grid.columns} cores are missing: {', '.join(grid.missing)}.",)


def _text(record: CoreTableRecord | Quarantined) -> bytes:
    return record.encode(f"core table of {record.slide_id}")


def empty_core_table(outcome: Quarantined) -> pa.Table:
    """Return the table of a slide without cores: no rows, the same schema, the reason in the metadata."""
    return SCHEMA.empty_table().replace_schema_metadata({METADATA_KEY: _text(outcome)})


def write_cores(table: pa.Table, path: Path | str) -> None:
    """Write a table of cores as Parquet, atomically."""
    write_table(table, path)


def read_cores(path: Path | str) -> tuple[pa.Table, CoreTableRecord | Quarantined]:
    """Read a table of cores and its record, or why the slide has none. Raises RecordError for another file."""
    table = pq.read_table(path)
    text: bytes = (table.schema.metadata or {}).get(METADATA_KEY, b"{}")
    return table, CoreTableRecord.decode(text, path)
