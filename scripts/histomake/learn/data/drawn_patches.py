"""Owns the record of what was drawn: every patch of every step, in parts that survive a killed run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from histomake.base.files import atomic_file
from histomake.base.tables import write_table
from histomake.learn.data.batches import Batch
from histomake.learn.data.patch_index import PatchIndex

SCHEMA = pa.schema(
    [
        ("step", pa.int32()),
        ("worker", pa.int16()),
        ("slide_id", pa.dictionary(pa.int32(), pa.string())),
        ("patch_id", pa.uint32()),
        ("x", pa.int32()),
        ("y", pa.int32()),
    ]
)
FILE = "drawn.parquet"


class DrawnPatches:
    """Collects the draws of one training process; parts are written with each checkpoint."""

    def __init__(self, folder: Path, patches: PatchIndex, *, worker: int) -> None:
        self.folder, self.patches, self.worker = folder, patches, worker
        self._batches: list[Batch] = []

    def add(self, batch: Batch) -> None:
        """Note one batch."""
        kept = Batch(batch.step, *([batch.images[:0]] * 2), batch.index, batch.x, batch.y, None, [])
        self._batches.append(kept)

    def forget_from(self, step: int) -> None:
        """Drop parts of steps that a resumed run will do again."""
        for part in self.folder.glob(f"{self.worker:03d}-*.parquet"):
            if int(part.stem.split("-")[1]) >= step:
                part.unlink()

    def flush(self) -> None:
        """Write what was noted since the last time."""
        if self._batches:
            first = self._batches[0].step
            write_table(self._table(), self.folder / f"{self.worker:03d}-{first:09d}.parquet")
            self._batches = []

    def _table(self) -> pa.Table:
        index = np.concatenate([batch.index for batch in self._batches])
        steps = np.repeat([batch.step for batch in self._batches], [len(batch.index) for batch in self._batches])
        names = pa.array([entry.slide_id for entry in self.patches.entries], pa.string())
        columns = {
            "step": steps.astype(np.int32),
            "worker": np.full(len(index), self.worker, np.int16),
            "slide_id": pa.DictionaryArray.from_arrays(pa.array(self.patches.slide[index]), names),
            "patch_id": self.patches.patch_id[index],
            "x": np.concatenate([batch.x for batch in self._batches]).astype(np.int32),
            "y": np.concatenate([batch.y for batch in self._batches]).astype(np.int32),
        }
        return pa.table(columns, schema=SCHEMA)


def join_parts(folder: Path, output: Path) -> None:
    """Write all parts as one file, part after part, and remove them."""
    parts = sorted(folder.glob("*.parquet"))
    with atomic_file(output / FILE) as aside, pq.ParquetWriter(aside, SCHEMA, compression="zstd") as writer:
        for part in parts:
            writer.write_table(pq.read_table(part, schema=SCHEMA))
    for part in parts:
        part.unlink()
