"""Record of drawn patches: every patch of every batch, in parts that survive a killed run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from histomake.base.files import atomic_file
from histomake.base.tables import write_table
from histomake.learn.data.patch_index import PatchIndex

SCHEMA = pa.schema(
    [
        ("step", pa.int32()),
        ("worker", pa.int16()),
        ("slide_id", pa.dictionary(pa.int32(), pa.string())),
        ("patch_id", pa.uint32()),
        ("x", pa.int32()),
        ("y", pa.int32()),
        ("reader", pa.dictionary(pa.int32(), pa.string())),
    ]
)
"""``step`` is the number of the batch, of which a step takes ``train.accumulate``; ``reader`` whose label was learned,
null for that of the slide."""
FILE = "drawn.parquet"


class DrawnBatch(Protocol):
    """A batch: its number, and the index and place of every patch."""

    step: int
    index: np.ndarray
    x: np.ndarray
    y: np.ndarray


@dataclass(frozen=True)
class _Draw:
    """What is recorded of one batch; no pixels, so that their memory can be freed."""

    number: int
    index: np.ndarray
    x: np.ndarray
    y: np.ndarray


class DrawnPatches:
    """Collects the draws of one training process; a part is written with each checkpoint."""

    def __init__(self, folder: Path, patches: PatchIndex, *, worker: int) -> None:
        self.folder, self.patches, self.worker = folder, patches, worker
        self._draws: list[_Draw] = []

    def add(self, batch: DrawnBatch) -> None:
        """Record one batch."""
        self._draws.append(_Draw(batch.step, batch.index, batch.x, batch.y))

    def forget_from(self, number: int) -> None:
        """Remove the parts that begin with batch ``number`` or later, which a resumed run draws again."""
        for part in self.folder.glob(f"{self.worker:03d}-*.parquet"):
            if int(part.stem.split("-")[1]) >= number:
                part.unlink()

    def flush(self) -> None:
        """Write what was recorded since the last flush."""
        if self._draws:
            write_table(self._table(), self.folder / f"{self.worker:03d}-{self._draws[0].number:09d}.parquet")
            self._draws = []

    def _table(self) -> pa.Table:
        index = np.concatenate([draw.index for draw in self._draws])
        numbers = np.repeat([draw.number for draw in self._draws], [len(draw.index) for draw in self._draws])
        entries, slide = self.patches.entries, self.patches.slide[index]
        columns = {
            "step": numbers.astype(np.int32),
            "worker": np.full(len(index), self.worker, np.int16),
            "slide_id": _chosen([entry.slide_id for entry in entries], slide),
            "patch_id": self.patches.patch_id[index],
            "x": np.concatenate([draw.x for draw in self._draws]).astype(np.int32),
            "y": np.concatenate([draw.y for draw in self._draws]).astype(np.int32),
            "reader": _chosen([entry.reader for entry in entries], slide),
        }
        return pa.table(columns, schema=SCHEMA)


def _chosen(values: Sequence[str | None], index: np.ndarray) -> pa.DictionaryArray:
    """Values at ``index``, with the same dictionary in every part."""
    known = {value: i for i, value in enumerate(dict.fromkeys(value for value in values if value is not None))}
    codes = np.array([-1 if value is None else known[value] for value in values], np.int32)[index]
    return pa.DictionaryArray.from_arrays(pa.array(codes, mask=codes < 0), pa.array(list(known), pa.string()))


def join_parts(folder: Path, output: Path) -> None:
    """Write all parts as one file into ``output``, in order, and remove them."""
    parts = sorted(folder.glob("*.parquet"))
    with atomic_file(output / FILE) as aside, pq.ParquetWriter(aside, SCHEMA, compression="zstd") as writer:
        for part in parts:
            writer.write_table(pq.read_table(part, schema=SCHEMA))
    for part in parts:
        part.unlink()
