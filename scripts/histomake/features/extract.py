"""Extraction of features: every kept patch of a slide through the encoders of a group, in one pass over its pixels."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from histomake.base.errors import HistomakeError, SlideError
from histomake.base.records.features import FeatureRecord
from histomake.base.records.manifest import Manifest
from histomake.base.records.patch_table import PatchTableRecord
from histomake.base.records.record import Quarantined
from histomake.base.units import Level0Pixels, Mpp
from histomake.config import Grid
from histomake.features.encoders import CPU_ROWS, ReadyEncoder
from histomake.features.store import PLACES, write_features
from histomake.learn.data.device_patches import View
from histomake.learn.data.device_reading import Decoder, read_batches
from histomake.learn.data.images import to_unit
from histomake.learn.data.loader import PREFETCH
from histomake.learn.data.patch_index import SlideEntry, usable_patches
from histomake.learn.data.source import NEW, Room, SlideSource, needed
from histomake.learn.data.stains import learn_slide
from histomake.learn.engine.runtime import advise_on_memory
from histomake.patch.blocks import block_order
from histomake.patch.grid import SlideGrid
from histomake.patch.stain import StainNormaliser
from histomake.slide.reader import SlideReader, open_slide
from histomake.slide.shared_tiles import SharedTiles

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

SHORT_OF_MEMORY = (
    "with batches of {batch} patches: halve encoders.<name>.batch, which changes no result, or set precision"
)


@dataclass
class PixelBatch:
    """Pixels uint8 (n, size, size, 3 · variants) of n places one after another; ``first`` is the first one's number."""

    first: int
    images: Tensor
    error: HistomakeError | None


class Took(NamedTuple):
    """Seconds of a pass over a slide, and those of them that the encoders waited for pixels."""

    whole: float
    waited: float


class SlidePixels(SlideSource[PixelBatch]):
    """The patches of one slide in order, decoded once, with the colours that each encoder needs side by side."""

    def __init__(
        self,
        slide_id: str,
        manifest: Path,
        places: NDArray[np.int64],
        *,
        size: int,
        mpp: Mpp,
        batch: int,
        stains: Sequence[StainNormaliser | None],
    ) -> None:
        self.slide_id, self.manifest, self.places, self.size, self.mpp = slide_id, manifest, places, size, mpp
        self.batch, self.stains = batch, stains
        self._reader: SlideReader | None = None

    def __len__(self) -> int:
        return -(-len(self.places) // self.batch)

    @property
    def room_bytes(self) -> int:
        """See BatchSource."""
        return needed((self.batch, self.size, self.size, 3 * len(self.stains)), np.uint8)

    def prepare(self, number: int, room: Room = NEW) -> PixelBatch:
        """See BatchSource."""
        first = number * self.batch
        places = self.places[first : first + self.batch]
        images = room.array((len(places), self.size, self.size, 3 * len(self.stains)), np.uint8)
        error: HistomakeError | None = None
        corners = [(Level0Pixels(x), Level0Pixels(y)) for x, y in places.tolist()]
        shared: SharedTiles | None = None
        for image, (x, y) in zip(images, corners, strict=True):
            try:
                reader = self.slide()
                shared = shared or reader.share(corners, self.size, self.mpp)
                image[:] = self._colours(reader.read(x, y, self.size, self.mpp, shared=shared))
            except SlideError as failure:
                error = failure.at(f"patch at x={x} y={y}")
            except (HistomakeError, OSError, ValueError) as failure:
                error = HistomakeError(f"slide {self.slide_id} patch at x={x} y={y}: {failure}")
        return PixelBatch(first, torch.from_numpy(images), error)

    @property
    def on_cpu_only(self) -> str | None:
        """See SlideSource."""
        return "stains are normalised" if any(self.stains) else None

    def slide(self) -> SlideReader:
        """See SlideSource."""
        self._reader = self._reader or open_slide(self.manifest)
        return self._reader

    def views(self, number: int) -> list[View]:
        """See SlideSource."""
        x, y = self.places[number * self.batch : (number + 1) * self.batch].T
        return [View(x, y, self.size, self.mpp)]

    def filled(self, number: int, images: Tensor) -> PixelBatch:
        """See SlideSource."""
        return PixelBatch(number * self.batch, images, None)

    def _colours(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        kept = [pixels if s is None else s.apply(pixels, self.slide_id) for s in self.stains]
        return kept[0] if len(kept) == 1 else np.concatenate(kept, axis=2)


@dataclass(frozen=True)
class Pixels:
    """Pixels of n patches that are being read: their places (n, 2), level-0 px, and the batches, of ``size`` each.

    ``rows``: the row (n,) of each in the table of patches, since batches hold neighbours. ``decoder``: where the tiles
    are decoded.
    """

    where: NDArray[np.int64]
    rows: NDArray[np.int64]
    batches: Iterator[PixelBatch]
    size: int
    decoder: Decoder

    @property
    def last_ahead(self) -> int:
        """First number from which on what is left has been read, or nearly so."""
        return len(self.where) - PREFETCH * self.size


@dataclass(frozen=True)
class OpenSlide:
    """A slide to encode: record of its patch table, columns of its kept patches, and their pixels if there are any."""

    entry: SlideEntry
    record: PatchTableRecord | Quarantined
    places: Mapping[str, NDArray[Any]]
    pixels: Pixels | None


@contextmanager
def open_patches(
    encoders: Sequence[ReadyEncoder], entry: SlideEntry, *, batch: int, threads: int
) -> Iterator[OpenSlide]:
    """Begin to read the kept patches of a slide; see `extract`."""
    table, record = usable_patches(entry)
    if isinstance(record, Quarantined) or not table.num_rows:
        yield OpenSlide(entry, record, {name: np.zeros(0, np.int32) for name, _ in PLACES}, None)
        return
    places = {name: table[name].to_numpy() for name, _ in PLACES}
    grid = SlideGrid.of_table(record).grid
    with read_pixels(encoders, entry, grid, places, batch=batch, threads=threads) as pixels:
        yield OpenSlide(entry, record, places, pixels)


def extract(
    encoders: Sequence[ReadyEncoder],
    entry: SlideEntry,
    output: Path,
    *,
    batch: int,
    threads: int,
    code: str,
    made_of: str,
) -> None:
    """Write the features of a slide; of a slide in quarantine or without kept patches, a file without rows.

    Args:
        encoders: Encoders of one grid.
        entry: The slide, with the patch table of that grid.
        output: File to write.
        batch: Patches per forward pass.
        threads: CPU threads; all but one read patches.
        code: Digest of the code, for the record.
        made_of: Digest of all that the features are made of, for the record.

    Raises:
        SlideError: a patch is damaged.
        HistomakeError: a patch cannot be read, or its features are not numbers.
    """
    with open_patches(encoders, entry, batch=batch, threads=threads) as slide:
        extract_open(encoders, slide, output, code=code, made_of=made_of)


def extract_open(
    encoders: Sequence[ReadyEncoder],
    slide: OpenSlide,
    output: Path,
    *,
    code: str,
    made_of: str,
    nearly_read: Callable[[], None] = lambda: None,
) -> None:
    """`extract` of a slide that is open. ``nearly_read`` is called once or more when little is left to read."""
    entry, record = slide.entry, slide.record
    if isinstance(record, Quarantined):
        log.info("slide %s is in quarantine: no features", entry.slide_id)
        write_no_features(encoders, record, output)
        return
    vectors = _rows_for(encoders, len(slide.places["x"]))
    if slide.pixels is not None:
        encode_pixels(encoders, entry, slide.pixels, vectors, nearly_read=nearly_read)
    described = FeatureRecord(
        slide_id=entry.slide_id,
        sha256=Manifest.read_usable(entry.manifest).sha256,
        grid_name=record.grid_name,
        grid=record.grid,
        mpp=SlideGrid.of_table(record).grid.mpp,
        code=code,
        made_of=made_of,
        columns=[encoder.column for encoder in encoders],
        decoder=None if slide.pixels is None else slide.pixels.decoder,
    )
    write_features(output, described, slide.places, vectors)


def _rows_for(encoders: Sequence[ReadyEncoder], count: int) -> dict[str, NDArray[Any]]:
    return {e.name: np.zeros((count, e.column.dimensions), e.column.dtype) for e in encoders}


def write_no_features(encoders: Sequence[ReadyEncoder], entry: Quarantined, output: Path) -> None:
    """Write the features of a slide in quarantine: no rows, the same columns, the entry as the record."""
    write_features(output, entry, {name: np.zeros(0, np.int32) for name, _ in PLACES}, _rows_for(encoders, 0))


@contextmanager
def read_pixels(
    encoders: Sequence[ReadyEncoder],
    entry: SlideEntry,
    grid: Grid,
    places: Mapping[str, NDArray[Any]],
    *,
    batch: int,
    threads: int,
) -> Iterator[Pixels]:
    """Begin to read the patches at the places ``x`` and ``y`` (level-0 px), in the colours that the encoders need.

    On a CPU, batches are small enough that the memory of one is used again for the next.
    """
    stains = _stains(encoders)
    for stain in stains:
        if stain is not None:
            # Before processes start, so that they do not estimate the colours again.
            learn_slide(stain, entry)
    if encoders[0].runtime.device.type == "cpu":
        batch = min(batch, CPU_ROWS)
    rows = block_order(places["x"], places["y"], batch)
    where = np.stack([places["x"], places["y"]], axis=1).astype(np.int64)[rows]
    source = SlidePixels(
        entry.slide_id, entry.manifest, where, size=grid.size, mpp=grid.mpp, batch=batch, stains=stains
    )
    # One pass over the pixels serves all encoders of a group, whose settings are the same in this.
    device, decode = encoders[0].runtime.device, encoders[0].decode
    with read_batches(source, workers=max(0, threads - 1), device=device, decode=decode) as reading:
        yield Pixels(where, rows, reading.batches, batch, reading.decoder)


def _stains(encoders: Sequence[ReadyEncoder]) -> list[StainNormaliser | None]:
    return list(dict.fromkeys(encoder.stain for encoder in encoders))


def encode_pixels(
    encoders: Sequence[ReadyEncoder],
    entry: SlideEntry,
    pixels: Pixels,
    vectors: Mapping[str, NDArray[np.floating]],
    *,
    nearly_read: Callable[[], None] = lambda: None,
) -> Took:
    """Fill ``vectors`` (n, d) by column of all encoders, batch by batch; ``nearly_read``: see `extract_open`."""
    stains, where, device = _stains(encoders), pixels.where, encoders[0].runtime.device
    waited, started = 0.0, time.perf_counter()
    with advise_on_memory(SHORT_OF_MEMORY.format(batch=pixels.size)):
        while True:
            asked = time.perf_counter()
            loaded = next(pixels.batches, None)
            if loaded is not None and loaded.first >= pixels.last_ahead:
                nearly_read()
            waited += time.perf_counter() - asked
            if loaded is None:
                break
            if loaded.error:
                raise loaded.error
            colours = [to_unit(part, device) for part in loaded.images.split(3, dim=3)]
            for encoder in encoders:
                found = encoder.encode(colours[stains.index(encoder.stain)]).cpu().numpy()
                batch = slice(loaded.first, loaded.first + len(found))
                with np.errstate(over="ignore"):
                    kept = found.astype(vectors[encoder.name].dtype)
                _check(encoder, entry, found, kept, where[batch])
                vectors[encoder.name][pixels.rows[batch]] = kept
    took = Took(time.perf_counter() - started, waited)
    log.info("slide %s: %d patches in %.1f s, %.1f s of them waiting", entry.slide_id, len(where), *took)
    return took


def _check(
    encoder: ReadyEncoder,
    entry: SlideEntry,
    found: NDArray[np.float32],
    kept: NDArray[np.floating],
    places: NDArray[np.int64],
) -> None:
    """Stop at features that are not finite, and name the patch."""
    bad = ~np.isfinite(kept).all(axis=1)
    if not bad.any():
        return
    first = int(np.flatnonzero(bad)[0])
    x, y = places[first].tolist()
    cause = (
        "are too large for float16; set dtype: float32"
        if np.isfinite(found[first]).all()
        else "are not finite numbers; set precision: fp32, and check the weights"
    )
    raise HistomakeError(
        f"slide {entry.slide_id} patch at x={x} y={y}: features of encoders.{encoder.column.encoder} {cause}"
    )
