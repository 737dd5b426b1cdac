"""Fast reading of patches from a store: choice of the pyramid level, tile decoding and resampling."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from histomake.base.errors import Reason, SlideError
from histomake.base.records.manifest import Manifest
from histomake.base.units import Level0Pixels, Mpp
from histomake.slide.codec import TileDecodeError
from histomake.slide.shared_tiles import Region, SharedTiles, TileRun
from histomake.slide.store import FILL, Store, StoreError, StoreLevel

# Loader workers are forked, and OpenCV's own thread pool does not survive a fork. Callers provide parallelism.
cv2.setNumThreads(1)

SAME_SCALE = 0.01
"""Relative difference below which two scales are treated as equal, because scanners round their mpp."""

MIN_REMAINING_SCALE = 2
"""Smallest scale factor that remains for averaging after the decoder has reduced a tile."""

MAX_PLANS = 16
"""Number of resolutions for which a reader caches its read plan."""

STRIP_BYTES = 1 << 26
"""Size of the decoded strips in bytes when a whole slide is read at low resolution."""


class SlideReader:
    """Reader of patches of a stored slide, by level-0 position and resolution.

    A reader is thread-safe, keeps working in a forked child process, and reopens its store when it is unpickled.
    """

    def __init__(self, store: Path | str, *, slide_id: str | None = None) -> None:
        self.path = Path(store)
        self.slide_id = slide_id or self.path.name.partition(".zarr")[0]
        try:
            self._store = Store(self.path)
        except StoreError as error:
            raise self._error(str(error), Reason.UNREADABLE) from error
        self.levels: list[StoreLevel] = self._store.levels
        # The finest level of a virtual slide is coarser than level 0, in whose pixels positions are.
        finest = self.levels[0]
        self.width, self.height = (round(n * finest.downsample) for n in (finest.width, finest.height))
        self.mpp: Mpp = Mpp(self._store.attributes.mpp)
        self._plans: dict[float, ReadPlan] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.path, self.slide_id)

    def __enter__(self) -> SlideReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Do nothing: the process-wide cache closes the shards."""

    def _error(self, detail: str, reason: Reason = Reason.DAMAGED_TILES) -> SlideError:
        return SlideError(
            reason,
            slide_id=self.slide_id,
            path=self.path,
            detail=detail,
            remedy="Delete the store to convert the slide again. If that fails too, the slide file is damaged",
        )

    def level_for(self, mpp: Mpp) -> int:
        """Return the coarsest level that is at least as fine as ``mpp``."""
        wanted = mpp / self.mpp * (1 + SAME_SCALE)
        return max((i for i, level in enumerate(self.levels) if level.downsample <= wanted), default=0)

    def plan(self, mpp: Mpp) -> ReadPlan:
        """Return how patches at ``mpp`` are read."""
        if (plan := self._plans.get(mpp)) is None:
            if len(self._plans) >= MAX_PLANS:
                self._plans.clear()
            plan = self._plans[mpp] = self._make_plan(mpp)
        return plan

    def _make_plan(self, mpp: Mpp) -> ReadPlan:
        index = self.level_for(mpp)
        level = self.levels[index]
        scale = mpp / self.mpp / level.downsample
        factors = level.coding.reductions(level.tile_shape)
        # A mean of means is exact only if the boxes fit. So the decoder reduces either completely or leaves a factor
        # large enough for averaging.
        reduction = next((f for f in factors if _same(scale, f) or scale / f >= MIN_REMAINING_SCALE), 1)
        return ReadPlan(index, reduction, level.downsample * reduction, scale / reduction)

    def read(
        self,
        x: Level0Pixels,
        y: Level0Pixels,
        size: int | tuple[int, int],
        mpp: Mpp,
        *,
        shared: SharedTiles | None = None,
    ) -> np.ndarray:
        """Read one patch as uint8 RGB (h, w, 3).

        Args:
            x: Left edge in level-0 pixels. The patch may extend beyond the slide; pixels outside are white.
            y: Top edge in level-0 pixels.
            size: Edge, or (width, height), in pixels at ``mpp``.
            mpp: Resolution in µm per pixel.
            shared: Tiles that this patch has in common with others, from `share`. They change no pixel.

        The patch shows the level-0 box from x to x + size * mpp / self.mpp, shifted by at most half a pixel of the
        level from which it is read. Scales that differ by less than 1 % are not resampled.
        """
        width, height = (size, size) if isinstance(size, int) else size
        plan = self.plan(mpp)
        pixels = self._region(plan.region(x, y, width, height), shared)
        return pixels if plan.unscaled else _scaled(pixels, width, height, plan.scale)

    def share(
        self,
        positions: Sequence[tuple[Level0Pixels, Level0Pixels]],
        size: int | tuple[int, int],
        mpp: Mpp,
        shared: SharedTiles | None = None,
    ) -> SharedTiles:
        """Return the tiles that patches have in common, for ``read`` of each of them, sorted by y and x, once.

        ``shared`` adds the patches to those of another resolution.
        """
        width, height = (size, size) if isinstance(size, int) else size
        plan, shared = self.plan(mpp), SharedTiles() if shared is None else shared
        for x, y in positions:
            shared.announce(plan.region(x, y, width, height), self.levels[plan.level])
        return shared

    def read_many(
        self, positions: Sequence[tuple[Level0Pixels, Level0Pixels]], size: int | tuple[int, int], mpp: Mpp
    ) -> np.ndarray:
        """Read several patches of one size as uint8 RGB (n, h, w, 3), in the order of ``positions``.

        The pixels are those of ``read``. Tiles that patches have in common are decoded once.
        """
        width, height = (size, size) if isinstance(size, int) else size
        out = np.empty((len(positions), height, width, 3), np.uint8)
        shared = self.share(positions, size, mpp)
        for i in sorted(range(len(positions)), key=lambda i: positions[i][::-1]):
            x, y = positions[i]
            out[i] = self.read(x, y, (width, height), mpp, shared=shared)
        return out

    def read_whole(self, mpp: Mpp) -> np.ndarray:
        """Read the whole slide at ``mpp`` µm per pixel.

        Returns uint8 RGB (ceil(height * self.mpp / mpp), ceil(width * self.mpp / mpp), 3). The slide is read in
        strips, so that memory is needed for the result and one strip only.
        """
        factor = self.mpp / mpp
        width, height = math.ceil(self.width * factor - 1e-9), math.ceil(self.height * factor - 1e-9)
        plan = self.plan(mpp)
        columns = math.ceil(width * plan.scale)
        rows = max(1, int(STRIP_BYTES / (columns * 3 * plan.scale)))
        out = np.empty((height, width, 3), np.uint8)
        for top in range(0, height, rows):
            bottom = min(top + rows, height)
            count = math.ceil((bottom - top) * plan.scale)
            strip = self._region(Region(plan.level, plan.reduction, 0, round(top * plan.scale), columns, count))
            out[top:bottom] = _scaled(strip, width, bottom - top, plan.scale)
        return out

    def read_level(self, index: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Read unscaled pixels of one level as uint8 RGB (height, width, 3); pixels outside the slide are white."""
        return self._region(Region(index, 1, x, y, width, height))

    def _region(self, region: Region, shared: SharedTiles | None = None) -> np.ndarray:
        """Read a region as uint8 RGB (height, width, 3)."""
        x, y, level = region.x, region.y, self.levels[region.index]
        th, tw = region.tile_size(level)
        right, bottom = region.end(level)
        inside = x >= 0 and y >= 0 and x + region.width == right and y + region.height == bottom
        shape = region.height, region.width, 3
        out = np.empty(shape, np.uint8) if inside else np.full(shape, FILL, np.uint8)
        shared = SharedTiles() if shared is None else shared
        for run in region.runs(level):
            y0, y1 = max(y, run.row * th), min(bottom, run.row * th + th)
            for column, tile in self._tiles(region, run, shared):
                x0, x1 = max(x, column * tw), min(right, column * tw + tw)
                part = out[y0 - y : y1 - y, x0 - x : x1 - x]
                if tile is None:
                    part[:] = FILL
                else:
                    part[:] = tile[y0 - run.row * th : y1 - run.row * th, x0 - column * tw : x1 - column * tw]
        return out

    def _tiles(self, region: Region, run: TileRun, shared: SharedTiles) -> Iterator[tuple[int, np.ndarray | None]]:
        """Yield column and pixels of the tiles of a run; None for an empty tile."""
        missing = [column for column in range(run.first, run.end) if region.key(run.row, column) not in shared]
        encoded = dict(self._encoded(region.index, run.row, missing[0], missing[-1] + 1)) if missing else {}
        for column in range(run.first, run.end):
            key = region.key(run.row, column)
            if key in shared:
                yield column, shared.take(key)
            else:
                yield column, self._decoded_once(region, run, column, encoded[column], shared)

    def _decoded_once(
        self, region: Region, run: TileRun, column: int, data: bytes | None, shared: SharedTiles
    ) -> np.ndarray | None:
        """Decode a tile for all its regions, or for this one alone if rows that only others need are damaged."""
        place, key = (region.index, run.row, column, data, region.reduction), region.key(run.row, column)
        rows = shared.rows(key, run.rows)
        try:
            tile = self._decoded(*place, rows)
        except SlideError:
            if rows == run.rows:
                raise
            return self._decoded(*place, run.rows)
        return shared.put(key, tile)

    def _encoded(self, index: int, row: int, first: int, end: int) -> Iterator[tuple[int, bytes | None]]:
        try:
            return enumerate(self._store.tiles(index, row, first, end), start=first)
        except StoreError as error:
            raise self._error(f"level {index}, tile row {row}, columns {first} to {end - 1}: {error}") from error

    def _decoded(
        self, index: int, row: int, column: int, data: bytes | None, reduction: int, rows: int
    ) -> np.ndarray | None:
        """Decode at least the first ``rows`` rows of a tile at 1 / ``reduction``; return None for an empty tile."""
        if data is None:
            return None
        level = self.levels[index]
        try:
            if reduction > 1:
                return level.coding.decode_reduced(data, level.tile_shape, reduction, rows=rows)
            return level.coding.decode(data, level.tile_shape, rows=rows)
        except TileDecodeError as error:
            raise self._error(f"level {index}, tile row {row}, column {column}: {error}") from error

    def tile(self, index: int, row: int, column: int) -> np.ndarray | None:
        """Decode one whole tile to uint8 RGB (tile_height, tile_width, 3); return None for an empty tile."""
        ((_, data),) = self._encoded(index, row, column, column + 1)
        return self._decoded(index, row, column, data, 1, self.levels[index].tile_height)

    def tile_sizes(self, index: int) -> np.ndarray:
        """Return the encoded bytes of every tile of a level, int64 (rows, columns), 0 for empty tiles."""
        try:
            return self._store.tile_sizes(index)
        except StoreError as error:
            raise self._error(f"level {index}: {error}") from error

    def encoded_tiles(self, index: int, tiles: Sequence[tuple[int, int]]) -> list[bytes | None]:
        """Return tiles (row, column) of a JPEG level as complete JPEG files to decode elsewhere, None where empty.

        Neighbours in a row that follow each other are read together. Raises SlideError if the store is damaged.
        """
        coding = self.levels[index].coding
        if coding.codec != "jpeg":
            raise ValueError(f"level {index} of {self.path} has {coding.codec} tiles; only JPEG tiles can be exported")
        found: list[bytes | None] = []
        while len(found) < len(tiles):
            first = len(found)
            row, column = tiles[first]
            count = 1
            while first + count < len(tiles) and tiles[first + count] == (row, column + count):
                count += 1
            run = self._encoded(index, row, column, column + count)
            found += [None if data is None else coding.as_file(data) for _, data in run]
        return found


@dataclass(frozen=True)
class ReadPlan:
    """How a resolution is read: pyramid level, reduction by the decoder, and remaining scale factor.

    ``downsample``: level-0 px per pixel that the decoder returns.
    """

    level: int
    reduction: int
    downsample: float
    scale: float

    @property
    def unscaled(self) -> bool:
        """Whether decoded pixels are pixels of the patch."""
        return _same(self.scale, 1)

    def region(self, x: Level0Pixels, y: Level0Pixels, width: int, height: int) -> Region:
        """Return what is decoded for a patch at ``x``, ``y`` (level-0 px) of ``width`` x ``height`` pixels."""
        left, top = round(x / self.downsample), round(y / self.downsample)
        if not self.unscaled:
            width, height = math.ceil(width * self.scale), math.ceil(height * self.scale)
        return Region(self.level, self.reduction, left, top, width, height)


def _same(scale: float, other: float) -> bool:
    return abs(scale / other - 1) <= SAME_SCALE


def _scaled(pixels: np.ndarray, width: int, height: int, scale: float) -> np.ndarray:
    """Return the first width x height pixels of ``pixels`` reduced by ``scale``; ``scale`` < 1 enlarges them.

    Reduction uses area means, enlargement linear interpolation. OpenCV gets the factor instead of the size, because
    it would derive a slightly different factor from the size.
    """
    method = cv2.INTER_AREA if scale > 1 else cv2.INTER_LINEAR
    small = cv2.resize(pixels, None, fx=1 / scale, fy=1 / scale, interpolation=method)
    missing = max(0, height - small.shape[0]), max(0, width - small.shape[1])
    if any(missing):
        small = np.pad(small, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
    return small[:height, :width]


def _reopen(path: Path, slide_id: str) -> SlideReader:
    return SlideReader(path, slide_id=slide_id)


def open_slide(manifest: Path | str) -> SlideReader:
    """Open the store that a manifest names. Raises SlideError if the slide is in quarantine."""
    manifest = Path(manifest)
    record = Manifest.read_usable(manifest)
    return SlideReader(manifest.parent / record.store, slide_id=record.slide_id)
