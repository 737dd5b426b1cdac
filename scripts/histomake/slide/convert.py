"""Conversion of a slide file to a store: encoded tiles are copied where possible and re-encoded otherwise."""

from __future__ import annotations

import shutil
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from histomake.base.errors import Reason, SlideError
from histomake.base.files import (
    STORE_METADATA,
    SYNC_THREADS,
    atomic_directory,
    atomic_file,
    sha256_file,
    sync_file,
    tree_digest,
    write_empty_store,
)
from histomake.base.records.manifest import Bounds, Manifest, ManifestLevel
from histomake.base.records.record import Quarantined
from histomake.base.units import Level0Pixels, Mpp
from histomake.config import Convert
from histomake.slide.companions import slide_files
from histomake.slide.encode import Holds, Read, encode_levels, encode_picture, holding
from histomake.slide.orientation import UPRIGHT
from histomake.slide.passthrough import Copy, copy_levels, filled
from histomake.slide.plan import copied_levels, lay_out, plan_levels
from histomake.slide.reader import SlideReader
from histomake.slide.same_content import is_thumbnail
from histomake.slide.self_check import check_store
from histomake.slide.source import Resolution, open_source, resolve_mpp, slide_errors
from histomake.slide.source_hash import SourceHash
from histomake.slide.sources.base import PARSE_ERRORS, SOURCE_ERRORS, UNKNOWN, DamagedTilesError, Source, SourceLevel
from histomake.slide.store import dump_json, image_metadata

LABEL_IMAGES = ("label", "macro")
"""Associated images that may show the label on the glass, and with it the patient's name."""


def convert(
    source: Path | str,
    store: Path | str,
    *,
    slide_id: str,
    config: Convert,
    mpp: Mpp | None = None,
    sha256: str | None = None,
    threads: int = 1,
) -> Manifest:
    """Convert one slide to a store and return its manifest. The store is written completely or not at all.

    Args:
        source: Slide file, or folder of DICOM files.
        store: Path of the store. With ``config.store: zip`` the store is the single file ``<store>.zip``.
        slide_id: Identifier of the slide in the sheet.
        config: The ``convert`` section of the configuration.
        mpp: Resolution from the sheet in µm per pixel; overrides the resolution in the file.
        sha256: Digest from the sheet. The slide is refused if its digest differs.
        threads: Number of threads.

    Raises SlideError if the slide cannot be used, and OSError if the disk is full.
    """
    source, store = Path(source), Path(store)
    started = time.perf_counter()
    with open_source(source, slide_id=slide_id) as slide, slide_errors(slide_id, source):
        resolution = resolve_mpp(slide.info, mpp, slide_id=slide_id, path=source)
        opened = time.perf_counter()
        packed = store.with_name(f"{store.name}.zip")
        with _StoreBuilder(slide, config, threads, slide_id, resolution) as builder:
            if config.store == "zip":
                with atomic_file(packed) as aside:
                    written = builder.write(aside.with_name("store"))
                    builder.pack(aside)
                shutil.rmtree(store, ignore_errors=True)  # left by an earlier run with store: directory
                store = packed
            else:
                with atomic_directory(store, sync=False) as aside:
                    written = builder.write(aside)
                    builder.commit()
                packed.unlink(missing_ok=True)
    if sha256 and builder.sha256 != sha256:
        raise SlideError(
            Reason.CHECKSUM,
            slide_id=slide_id,
            path=source,
            detail=f"the sha256 of the slide is {builder.sha256}, but the sheet has {sha256}",
            remedy="Copy the slide again, or correct the sheet",
        )
    done = time.perf_counter()
    seconds = {"open": opened - started, "tiles": written - opened, "commit": done - written, "total": done - started}
    return _manifest(builder, store.name, seconds)


def store_digest(manifest: Manifest) -> str:
    """Return the sha256_tree of a store from the digests in its manifest, without reading the store again."""
    checksums = manifest.checksums
    return checksums[manifest.store] if manifest.store in checksums else tree_digest(checksums)


def write_no_store(outcome: Quarantined, store: Path | str, config: Convert) -> None:
    """Write a store without levels in place of the store of a quarantined slide; its attributes hold ``outcome``."""
    store = Path(store)
    packed = store.with_name(f"{store.name}.zip")
    write_empty_store(store, outcome.dump())
    if config.store == "zip":
        with atomic_file(packed) as aside, zipfile.ZipFile(aside, "w", zipfile.ZIP_STORED) as archive:
            archive.write(store / STORE_METADATA, STORE_METADATA)
        shutil.rmtree(store)
    else:
        packed.unlink(missing_ok=True)


class _StoreBuilder:
    """A store that is being written, level by level."""

    def __init__(
        self,
        slide: Source,
        config: Convert,
        threads: int,
        slide_id: str,
        resolution: Resolution,
    ) -> None:
        self.slide, self.config, self.threads = slide, config, threads
        self.slide_id, self.resolution = slide_id, resolution
        self.originals = copied_levels(slide.info.levels, config)
        self.levels = plan_levels(self.originals, config)
        self.empty_tiles = [0] * len(self.levels)
        self.written = 0
        self.sha256 = ""
        self.associated: dict[str, str] = {}
        self.bytes = 0
        self.checksums: dict[str, str] = {}
        """sha256 of every file of the store, keyed by its path inside the store."""
        # Sync finished shards while later ones are written, so that the final sync has little left to do.
        self._syncing = ThreadPoolExecutor(SYNC_THREADS)
        self._synced: list[Future[None]] = []

    def __enter__(self) -> _StoreBuilder:
        return self

    def __exit__(self, *_: object) -> None:
        self._syncing.shutdown(cancel_futures=True)

    def _shard_closed(self, path: Path, sha256: str) -> None:
        self.checksums[path.relative_to(self.store).as_posix()] = sha256
        self._synced.append(self._syncing.submit(sync_file, path))

    def commit(self) -> None:
        """Sync all files to disk. Raises OSError if that fails."""
        for path in self.store.rglob("zarr.json"):
            self._shard_closed(path, sha256_file(path))
        for future in self._synced:
            future.result()
        self.checksums = dict(sorted(self.checksums.items()))
        self.bytes = sum((self.store / name).stat().st_size for name in self.checksums)

    def pack(self, packed: Path) -> None:
        """Pack all files of the store into one uncompressed zip file."""
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            # An OME-Zarr zip file starts with the metadata of the group, so that readers find it immediately.
            for file in sorted(self.store.rglob("*"), key=lambda p: (p.name != "zarr.json", p)):
                if file.is_file():
                    archive.write(file, file.relative_to(self.store).as_posix())
        self.checksums, self.bytes = {packed.name: sha256_file(packed)}, packed.stat().st_size

    def write(self, store: Path) -> float:
        """Write the tiles and metadata to ``store`` while the source is hashed; return the time of completion."""
        self.store = store
        store.mkdir(exist_ok=True)
        originals = self.originals
        copied = [index for index, original in enumerate(originals) if original.coding is not None]
        copies = [self._copy(index) for index in copied]
        with SourceHash(self.slide, self.slide_id) as source_hash:
            for index, empty in zip(copied, copy_levels(store, copies, self.threads, self._shard_closed), strict=True):
                self.empty_tiles[index] = empty
            self._write_others(originals)
            self.associated |= self.slide.info.left_out
            for name, read in self.slide.associated().items():
                self.associated[name] = self._add_associated(name, read)
            check_store(store, self.slide_id)
            self.sha256 = source_hash.result()
        return time.perf_counter()

    def _copy(self, index: int) -> Copy:
        """Describe how a level is copied; tiles that only this level lacks are made from the finer one."""
        level, gaps = self.levels[index], self.slide.to_fill(index)
        coding = replace(level.coding, quality=self.config.quality)

        def make(row: int, column: int) -> bytes:
            x, y = column * level.tile_width, row * level.tile_height
            width, height = min(level.tile_width, level.width - x), min(level.tile_height, level.height - y)
            tile = self.slide.read(index, x, y, width, height)
            padding = ((0, level.tile_height - height), (0, level.tile_width - width), (0, 0))
            return coding.encode(np.pad(tile, padding, mode="edge"))

        return Copy(level, self.slide.tile_bytes(index), gaps, make)

    def _write_others(self, originals: Sequence[SourceLevel]) -> None:
        """Encode the levels that were not copied, then the levels that the source lacks."""
        for index, original in enumerate(originals):
            last = len(self.levels) if index + 1 == len(originals) else index + 1
            if original.coding is None:
                holds = holding(self._present(index), original.tile_width, original.tile_height)
                self._encode(partial(self.slide.read, index), original, index, last, halved=0, holds=holds)
            else:
                self._finish(index + 1)
        while self.written < len(self.levels):
            self._halve_stored(self.written - 1)

    def _present(self, index: int) -> np.ndarray | None:
        """Return which tiles of a level of the source hold pixels or are made from the finer level; None: all."""
        missing, made = self.slide.missing(index), self.slide.to_fill(index)
        return None if missing is None else ~missing if made is None else ~missing | made

    def _halve_stored(self, index: int) -> None:
        """Create the levels below ``index`` from its stored tiles, read through ``SlideReader``."""
        level = self.levels[index]
        stored = SourceLevel(level.width, level.height, 1, 1)
        with SlideReader(self.store, slide_id=self.slide_id) as reader:
            holds = holding(reader.tile_sizes(index) > 0, level.tile_width, level.tile_height)
            try:
                read = partial(reader.read_level, index)
                self._encode(read, stored, index + 1, len(self.levels), halved=1, holds=holds)
            except SlideError as error:  # the tiles just copied from the source are damaged
                raise DamagedTilesError(error.detail) from error

    def _encode(self, read: Read, base: SourceLevel, first: int, last: int, *, halved: int, holds: Holds) -> None:
        """Write as many of the levels ``first`` to ``last`` - 1 as one decoding of ``base`` yields."""
        empty = encode_levels(
            self.store,
            self.levels[first:last],
            read,
            base,
            halved=halved,
            tile_px=self.config.tile_px,
            threads=self.threads,
            on_closed=self._shard_closed,
            holds=holds,
        )
        self.empty_tiles[first : first + len(empty)] = empty
        self._finish(first + len(empty))

    def _add_associated(self, name: str, read: Callable[[], np.ndarray]) -> str:
        """Store an associated image beside the levels; return its status for the manifest."""
        if name in LABEL_IMAGES and not self.config.keep_label_image:
            return "left out: it may show the patient's name"
        try:
            pixels = read()
            if name not in LABEL_IMAGES and not self._shows_slide(pixels):
                return "left out: it shows something else than the slide, perhaps the patient's name"
        except (*PARSE_ERRORS, *SOURCE_ERRORS) as error:
            return f"left out: it cannot be read ({error})"
        picture = SourceLevel(pixels.shape[1], pixels.shape[0], self.config.tile_px, self.config.tile_px)
        level = lay_out(picture, picture, f"associated/{name}", self.config)
        encode_picture(self.store, level, pixels, self._shard_closed)
        dump_json(self.store / level.path / "zarr.json", level.metadata())
        dump_json(self.store / "associated" / "zarr.json", {"zarr_format": 3, "node_type": "group", "attributes": {}})
        return "stored"

    def _shows_slide(self, pixels: np.ndarray) -> bool:
        finest = self.levels[0]
        with SlideReader(self.store, slide_id=self.slide_id) as reader:

            def whole(width: int, height: int) -> np.ndarray:
                shown = reader.read_whole(Mpp(reader.mpp * max(finest.width / width, finest.height / height)))
                return cv2.resize(shown, (width, height), interpolation=cv2.INTER_AREA)

            return is_thumbnail(pixels, finest.width, finest.height, whole)

    def _finish(self, written: int) -> None:
        """Write the metadata of the first ``written`` levels."""
        for level in self.levels[self.written : written]:
            dump_json(self.store / level.path / "zarr.json", level.metadata())
        self.written = written
        levels = self.levels[:written]
        mpp = self.resolution.x, self.resolution.y
        attributes = {
            "slide_id": self.slide_id,
            "mpp": self.resolution.mpp,
            "mpp_source": self.resolution.origin,
            "downsamples": [level.downsample for level in levels],
        }
        metadata = image_metadata(levels, name=self.slide_id, mpp=mpp, attributes=attributes)
        dump_json(self.store / "zarr.json", metadata)


def _manifest(builder: _StoreBuilder, store: str, seconds: dict[str, float]) -> Manifest:
    info, resolution, finest = builder.slide.info, builder.resolution, builder.levels[0]
    originals = builder.originals
    passthrough = [level.coding is not None for level in originals]
    passthrough += [False] * (len(builder.levels) - len(originals))
    gaps = [filled(builder.slide.to_fill(index)) for index in range(len(originals))]
    gaps += [0] * (len(builder.levels) - len(originals))
    levels = (
        ManifestLevel(
            path=level.path,
            width=level.width,
            height=level.height,
            downsample=level.downsample,
            mpp=Mpp(resolution.mpp * level.downsample),
            codec=level.coding.codec,
            passthrough=copied,
            empty_tiles=empty,
            filled_tiles=made,
        )
        for level, copied, empty, made in zip(builder.levels, passthrough, builder.empty_tiles, gaps, strict=True)
    )
    return Manifest(
        slide_id=builder.slide_id,
        warnings=tuple(_warnings(builder)),
        store=store,
        width=Level0Pixels(finest.width),
        height=Level0Pixels(finest.height),
        mpp=resolution.mpp,
        mpp_x=resolution.x,
        mpp_y=resolution.y,
        mpp_source=resolution.origin,
        levels=tuple(levels),
        bounds=None if info.bounds is None else Bounds.of(*map(Level0Pixels, info.bounds)),
        associated=builder.associated,
        sha256=builder.sha256,
        checksums=builder.checksums,
        bytes_in=sum(p.stat().st_size for p in slide_files(builder.slide.path)),
        bytes_out=builder.bytes,
        files=len(builder.checksums),
        vendor=info.vendor,
        slide_format=info.family,
        properties=info.properties,
        seconds={stage: round(value, 4) for stage, value in seconds.items()},
    )


def _warnings(builder: _StoreBuilder) -> Iterator[str]:
    """Yield warnings about a usable slide."""
    info = builder.slide.info
    for index in range(len(info.levels)):
        if made := filled(builder.slide.to_fill(index)):
            yield f"{made} tiles are absent from level {index} of the file and were made from the finer level."
    if info.orientation != UPRIGHT:
        yield (
            f"The file states orientation {info.orientation} and is shown upright. Annotations drawn in programs that "
            "ignore this tag, such as QuPath, do not fit."
        )
    if unknown := sorted(name for name, status in info.left_out.items() if status == UNKNOWN):
        yield f"Nothing says that these images of the file show the slide, so they were left out: {', '.join(unknown)}."
