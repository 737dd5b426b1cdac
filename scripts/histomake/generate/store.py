"""A virtual slide: the store of a slide in another stain, which is marked as in silico."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from histomake.base.files import atomic_directory, sha256_file
from histomake.base.records.manifest import Manifest, ManifestLevel, VirtualStain
from histomake.base.units import Mpp
from histomake.base.windows import tiled
from histomake.config import Convert
from histomake.generate.lattice import SlideLattice
from histomake.generate.translate import SlideTranslator
from histomake.slide.encode import encode_levels, holding
from histomake.slide.plan import plan_levels
from histomake.slide.reader import SlideReader
from histomake.slide.sources.base import SourceLevel
from histomake.slide.store import StoreLevel, dump_json, image_metadata
from histomake.tissue.mask import TissueMask

if TYPE_CHECKING:
    from numpy.typing import NDArray

WINDOW = 512
"""Edge in pixels of the windows that are translated at once, without their margin."""

CLEAR, STAINED = 235.0, 215.0
"""Levels of a pixel's darkest channel above which it is glass, and below which it is stained."""

Read = Callable[[int, int, int, int], "NDArray[np.uint8]"]


def tissue_on(mask: TissueMask, lattice: SlideLattice, box: tuple[int, int, int, int]) -> NDArray[np.bool_]:
    """Which pixels of a box (x, y, width, height) of the lattice are tissue, bool (height, width)."""
    x, y, width, height = box
    places = [
        np.clip(((np.arange(start, start + count) + 0.5) * lattice.downsample / size).astype(int), 0, length - 1)
        for start, count, size, length in (
            (y, height, mask.downsample_y, mask.mask.shape[0]),
            (x, width, mask.downsample_x, mask.mask.shape[1]),
        )
    ]
    return np.asarray(mask.mask[np.ix_(*places)])


def stain_share(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """How much of each pixel is taken from the generator, float32 (h, w, 1), of pixels uint8 (h, w, 3) as scanned.

    0 for glass, where nothing is stained, and rising to 1 with the light that its darkest channel lacks. Glass inside
    the tissue so stays as scanned, and no rim is seen where tissue ends.
    """
    lacking = CLEAR - pixels.min(axis=2, keepdims=True).astype(np.float32)
    return np.asarray((lacking / (CLEAR - STAINED)).clip(0, 1), np.float32)


def stained(translator: SlideTranslator, mask: TissueMask, lattice: SlideLattice) -> Read:
    """A function that reads boxes in the other stain; where there is no tissue or stain, the slide's own pixels."""

    def read(x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        pixels = lattice.read(x, y, width, height).copy()
        tissue = tissue_on(mask, lattice, (x, y, width, height))
        for window in tiled((height, width), WINDOW):
            chosen = tissue[window.slices]
            if chosen.any():
                found = translator.translate(x + window.x, y + window.y, window.width, window.height)
                share = stain_share(pixels[window.slices])
                mixed = np.rint(share * found + (1 - share) * pixels[window.slices])
                pixels[window.slices][chosen] = mixed[chosen].astype(np.uint8)
        return pixels

    return read


def write_virtual_slide(
    read: Read, lattice: SlideLattice, source: Manifest, store: Path, *, config: Convert, virtual: VirtualStain
) -> Manifest:
    """Write the store of a virtual slide and return its manifest. The store is written completely or not at all.

    Args:
        read: Function that reads boxes of the slide in the other stain.
        lattice: Pixels of the slide.
        source: Manifest of the slide.
        store: Path of the store.
        config: The ``convert`` section of the configuration.
        virtual: What makes the slide virtual.
    """
    base = SourceLevel(lattice.width, lattice.height, config.tile_px, config.tile_px)
    # Positions are level-0 pixels of the scanned slide, so that its patch tables and annotations fit.
    levels = [replace(level, downsample=level.downsample * lattice.downsample) for level in plan_levels([base], config)]
    checksums: dict[str, str] = {}
    with atomic_directory(store) as aside:

        def closed(path: Path, sha256: str) -> None:
            checksums[path.relative_to(aside).as_posix()] = sha256

        def finish(count: int) -> None:
            for level in levels[:count]:
                dump_json(aside / level.path / "zarr.json", level.metadata())
            dump_json(aside / "zarr.json", _metadata(levels[:count], source, virtual))

        encode = partial(encode_levels, aside, tile_px=config.tile_px, threads=1, on_closed=closed)
        empty = encode(levels, read, base, halved=0, holds=holding(None, 1, 1))
        finish(len(empty))
        while len(empty) < len(levels):
            last = levels[len(empty) - 1]
            reader, stored = SlideReader(aside, slide_id=source.slide_id), SourceLevel(last.width, last.height, 1, 1)
            level_pixels = partial(reader.read_level, len(empty) - 1)
            empty += encode(levels[len(empty) :], level_pixels, stored, halved=1, holds=holding(None, 1, 1))
            finish(len(empty))
        checksums |= {path.relative_to(aside).as_posix(): sha256_file(path) for path in aside.rglob("zarr.json")}
        size = sum((aside / name).stat().st_size for name in checksums)
    return _manifest(source, levels, empty, store.name, dict(sorted(checksums.items())), size, virtual)


def _metadata(levels: list[StoreLevel], source: Manifest, virtual: VirtualStain) -> dict[str, object]:
    attributes = {
        "slide_id": source.slide_id,
        "mpp": source.mpp,
        "mpp_source": source.mpp_source,
        "downsamples": [level.downsample for level in levels],
        "virtual": virtual.label,
    }
    name = f"{source.slide_id} ({virtual.label})"
    return dict(image_metadata(levels, name=name, mpp=(source.mpp, source.mpp), attributes=attributes))


def _manifest(
    source: Manifest,
    levels: list[StoreLevel],
    empty: list[int],
    store: str,
    checksums: dict[str, str],
    size: int,
    virtual: VirtualStain,
) -> Manifest:
    told = [
        ManifestLevel(
            path=level.path,
            width=level.width,
            height=level.height,
            downsample=level.downsample,
            mpp=Mpp(source.mpp * level.downsample),
            codec=level.coding.codec,
            passthrough=False,
            empty_tiles=count,
        )
        for level, count in zip(levels, empty, strict=True)
    ]
    return Manifest(
        slide_id=source.slide_id,
        warnings=(f"This slide is {virtual.label}: its stain was computed, and no laboratory has made it.",),
        store=store,
        width=source.width,
        height=source.height,
        mpp=source.mpp,
        mpp_x=source.mpp_x,
        mpp_y=source.mpp_y,
        mpp_source=source.mpp_source,
        levels=tuple(told),
        associated={},
        sha256=source.sha256,
        checksums=checksums,
        bytes_in=source.bytes_out,
        bytes_out=size,
        files=len(checksums),
        vendor=source.vendor,
        slide_format=source.slide_format,
        properties={},
        seconds={},
        virtual=virtual,
    )


def sampled_windows(lattice: SlideLattice, mask: TissueMask, *, size: int, count: int) -> NDArray[np.uint8]:
    """Up to ``count`` windows of tissue, spread evenly over the slide, uint8 (n, size, size, 3).

    They are at least half tissue, or those with the most tissue if none is.
    """
    rows, columns = max(1, lattice.height // size), max(1, lattice.width // size)
    boxes = [(column * size, row * size, size, size) for row in range(rows) for column in range(columns)]
    shares = np.array([tissue_on(mask, lattice, box).mean() for box in boxes]).reshape(rows, columns)
    places = np.argwhere(shares >= min(0.5, float(shares.max())))
    chosen = places[np.unique(np.linspace(0, len(places) - 1, count).astype(int))]
    return np.stack([lattice.read(int(x) * size, int(y) * size, size, size) for y, x in chosen])
