"""Segmentation of whole slides: overlapping windows are blended block by block, in constant memory.

The windows form one lattice for the whole slide, so the result does not depend on the division into blocks. The labels
are written as an OME-Zarr pyramid and as polygons for QuPath.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import contourpy
import numpy as np
import pyarrow as pa
import shapely
import torch
import zarr
from torch import Tensor
from zarr.codecs import ZstdCodec

from histomake.annotation.model import Annotation
from histomake.annotation.overlap import polygonal
from histomake.annotation.write import write_geojson
from histomake.base.files import atomic_directory
from histomake.base.kinds import BACKGROUND
from histomake.base.records.record import Quarantined
from histomake.base.units import Mpp, PatchPixels
from histomake.config.section import Decode
from histomake.learn.data.batches import Batch, FixedBatches
from histomake.learn.data.device_reading import PatchStream
from histomake.learn.data.patch_index import PatchIndex, SlideEntry
from histomake.learn.data.reading import MaskReader, PatchReader
from histomake.learn.inference.predict import (
    Predictor,
    decoder_metadata,
    dictionary,
    place_columns,
    prediction_schema,
    read_patches,
    require_finite,
    slide_patches,
    stain_metadata,
)
from histomake.slide.reader import SlideReader, open_slide
from histomake.target.targets import UNLABELLED

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK = 2048
"""Edge length, in label pixels, of the blocks that are predicted and written one at a time."""

CHUNK = 512
MIN_LEVEL = 512
"""The pyramid ends when both edges are at most this long, in pixels."""

OUTLINE_PIXELS = 16_000_000
"""Polygons are traced on the finest level with at most this many pixels."""

MIN_OUTLINE_PIXELS = 4
"""Regions with fewer pixels of the traced level get no polygon."""


@dataclass(frozen=True)
class Lattice:
    """Positions of the windows, ``size`` px each, on a label image of ``width`` x ``height`` px."""

    width: int
    height: int
    size: int
    step: int
    scale: float

    @classmethod
    def over(cls, reader: SlideReader, *, size: int, mpp: Mpp, overlap: float) -> Lattice:
        """The lattice of a slide at ``mpp``; ``scale`` is level-0 px per label px."""
        scale = mpp / reader.mpp
        width, height = math.ceil(reader.width / scale - 1e-9), math.ceil(reader.height / scale - 1e-9)
        return cls(width, height, size, max(1, round(size * (1 - overlap))), scale)

    def starts(self, low: int, high: int, length: int) -> np.ndarray:
        """Starts of the windows that touch [low, high) on an axis of ``length`` px; the first window starts at 0."""
        first = max(0, -(-(low - self.size + 1) // self.step))
        last = min((high - 1) // self.step, max(0, -(-(length - self.size) // self.step)))
        return np.arange(first, last + 1) * self.step


def segment_slide(
    predictor: Predictor,
    entry: SlideEntry,
    *,
    labels: Path,
    polygons: Path,
    batch: int,
    threads: int,
    overlap: float,
    flips: bool = False,
    decode: Decode = "cpu",
) -> pa.Table:
    """Segment the tissue patches of a slide.

    ``labels``: OME-Zarr image of uint8 (0: not predicted or background, i + 1: the i-th class of the target) at the
    grid's mpp; ``polygons``: GeoJSON in level-0 px. Returns a table with a row per patch: the place, score_<output>
    (predicted share of the patch), predicted and label (the output that covers most), and pixel counts tp_, fp_,
    fn_<output> over the pixels whose truth is known.
    """
    patches = slide_patches(predictor, entry)
    class_names = tuple(predictor.task.target.classes)
    if patches is None:
        write_no_segmentation(predictor, labels=labels, polygons=polygons)
        return prediction_schema(predictor).empty_table()
    metadata = stain_metadata(predictor, entry)
    with open_slide(entry.manifest) as reader, atomic_directory(labels) as aside:
        lattice = Lattice.over(reader, size=patches.size, mpp=patches.mpp, overlap=overlap)
        levels = _pyramid(aside, (lattice.height, lattice.width), class_names, patches.mpp)
        reading = _predict_blocks(
            predictor, patches, lattice, levels[0], batch=batch, threads=threads, flips=flips, decode=decode
        )
        _fill_pyramid(levels)
        regions = outline(levels, class_names, lattice.scale)
        table = _compare(predictor, patches, lattice, levels[0])
    write_geojson(Annotation(class_names, regions), polygons)
    return table.replace_schema_metadata(metadata | decoder_metadata(reading))


def write_no_segmentation(
    predictor: Predictor, *, labels: Path, polygons: Path, lost: Quarantined | None = None
) -> None:
    """Write label image and polygons of a slide without segmented patches; ``lost``: why, in the image's attributes."""
    class_names = tuple(predictor.task.target.classes)
    with atomic_directory(labels) as aside:
        _pyramid(aside, (1, 1), class_names, predictor.card.grid.mpp)
        if lost:
            zarr.open_group(aside, mode="a").attrs["histomake"] = lost.dump()
    write_geojson(Annotation(class_names, []), polygons)


def _blocks(lattice: Lattice) -> Iterator[tuple[int, int, int, int]]:
    """Left, top, right, bottom of every block, in label px."""
    for top in range(0, lattice.height, BLOCK):
        for left in range(0, lattice.width, BLOCK):
            yield left, top, min(left + BLOCK, lattice.width), min(top + BLOCK, lattice.height)


def _predict_blocks(
    predictor: Predictor,
    patches: PatchIndex,
    lattice: Lattice,
    target: zarr.Array,
    *,
    batch: int,
    threads: int,
    flips: bool,
    decode: Decode,
) -> PatchStream[Batch]:
    """Write the best class of every tissue pixel, block by block, while the windows of the next are being read."""
    blocks = {block: _windows(patches, lattice, block) for block in _blocks(lattice)}
    blocks = {block: places for block, places in blocks.items() if len(places)}
    windows = _as_index(patches, lattice, np.concatenate(list(blocks.values())))
    groups = [len(places) for places in blocks.values()]
    reader = PatchReader(windows, predictor.task.model, stain=predictor.stain)
    dataset = FixedBatches(reader, batch=batch, groups=groups)
    with read_patches(predictor, dataset, threads=threads, decode=decode) as reading:
        for block, count in zip(blocks, groups, strict=True):
            some = itertools.islice(reading.batches, -(-count // batch))
            best = _predict_block(predictor, windows, lattice, block, some, flips=flips)
            left, top, right, bottom = block
            tissue = tissue_pixels(patches, lattice, block)
            target[top:bottom, left:right] = np.where(tissue, best, 0).astype(np.uint8)
    return reading


def _predict_block(
    predictor: Predictor,
    windows: PatchIndex,
    lattice: Lattice,
    block: tuple[int, int, int, int],
    batches: Iterator[Batch],
    *,
    flips: bool,
) -> np.ndarray:
    """Most probable label of every pixel of a block, from the blended scores of all windows that touch it."""
    left, top, right, bottom = block
    device = predictor.runtime.device
    sums = torch.zeros(len(predictor.class_names), bottom - top, right - left, device=device)
    taper = window_weight(lattice.size, device=device)
    for loaded in batches:
        if loaded.read_errors:
            raise loaded.read_errors[0]
        scores = predictor.probabilities(loaded.images, flips=flips) * taper
        require_finite(scores.flatten(1).sum(1).cpu().numpy(), windows, loaded.index)
        for score, window in zip(scores, loaded.index, strict=True):
            x, y = round(windows.x[window] / lattice.scale) - left, round(windows.y[window] / lattice.scale) - top
            _add(sums, score, x, y)
    return sums.argmax(0).cpu().numpy() + (predictor.class_names[0] != BACKGROUND)


def _add(sums: Tensor, score: Tensor, x: int, y: int) -> None:
    """Add a window's weighted scores (outputs, size, size) at ``x``, ``y`` of the block, cropped at its edges."""
    height, width = sums.shape[1:]
    size = score.shape[1]
    x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + size, width), min(y + size, height)
    sums[:, y0:y1, x0:x1] += score[:, y0 - y : y1 - y, x0 - x : x1 - x]


def window_weight(size: int, *, device: torch.device | str = "cpu") -> Tensor:
    """Weight of each pixel of a window, (size, size): highest in the centre, where it has most context.

    It is a Hann window that stays above zero, so that pixels covered by one window only also get a label.
    """
    edge = torch.hann_window(size + 2, periodic=False, device=device)[1:-1]
    return torch.outer(edge, edge).clamp(min=1e-4)


def tissue_pixels(patches: PatchIndex, lattice: Lattice, block: tuple[int, int, int, int]) -> np.ndarray:
    """Label pixels of a block that lie in a usable patch: bool (h, w)."""
    left, top, right, bottom = block
    covered = np.zeros((bottom - top, right - left), bool)
    x = np.rint(patches.x / lattice.scale).astype(np.int64) - left
    y = np.rint(patches.y / lattice.scale).astype(np.int64) - top
    near = (x > -lattice.size) & (y > -lattice.size) & (x < right - left) & (y < bottom - top)
    for i, j in zip(x[near], y[near], strict=True):
        covered[max(j, 0) : j + lattice.size, max(i, 0) : i + lattice.size] = True
    return covered


def _windows(patches: PatchIndex, lattice: Lattice, block: tuple[int, int, int, int]) -> np.ndarray:
    """Positions int64 (n, 2) of the windows that contain tissue of a block, in label pixels (x, y)."""
    left, top, right, bottom = block
    tissue = tissue_pixels(patches, lattice, block)
    columns, rows = lattice.starts(left, right, lattice.width), lattice.starts(top, bottom, lattice.height)
    places = [
        (x, y)
        for y in (rows if tissue.any() else ())
        for x in columns
        if tissue[max(y - top, 0) : y - top + lattice.size, max(x - left, 0) : x - left + lattice.size].any()
    ]
    return np.array(places, np.int64).reshape(-1, 2)


def _as_index(patches: PatchIndex, lattice: Lattice, places: np.ndarray) -> PatchIndex:
    """Index of the windows at ``places`` (n, 2), in label pixels, for reading."""
    x, y = (np.rint(axis * lattice.scale).astype(np.int32) for axis in places.T)
    count = len(places)
    return PatchIndex(
        patches.entries,
        slide=np.zeros(count, np.int32),
        patch_id=np.arange(count, dtype=np.uint32),
        x=x,
        y=y,
        tissue=np.ones(count, np.float32),
        target=np.full(count, UNLABELLED),
        size=patches.size,
        mpp=patches.mpp,
        stride=PatchPixels(lattice.step),
    )


def _pyramid(folder: Path, shape: tuple[int, int], class_names: tuple[str, ...], mpp: Mpp) -> list[zarr.Array]:
    """An empty label pyramid in OME-Zarr 0.5: each level half the size of the previous, in sharded chunks."""
    shapes = [shape]
    while max(shapes[-1]) > MIN_LEVEL:
        shapes.append((-(-shapes[-1][0] // 2), -(-shapes[-1][1] // 2)))
    group = zarr.open_group(folder, mode="w", zarr_format=3)
    group.attrs["ome"] = _label_metadata(len(shapes), class_names, mpp)
    return [
        group.create_array(
            str(level),
            shape=level_shape,
            dtype="uint8",
            chunks=(CHUNK, CHUNK),
            shards=(BLOCK, BLOCK),
            compressors=ZstdCodec(level=3),
            dimension_names=("y", "x"),
        )
        for level, level_shape in enumerate(shapes)
    ]


def _label_metadata(levels: int, class_names: tuple[str, ...], mpp: Mpp) -> dict[str, Any]:
    datasets = [
        {
            "path": str(level),
            "coordinateTransformations": [{"type": "scale", "scale": [mpp * 2**level, mpp * 2**level]}],
        }
        for level in range(levels)
    ]
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in ("y", "x")]
    properties = [{"label-value": i + 1, "class": name} for i, name in enumerate(class_names)]
    return {
        "version": "0.5",
        "multiscales": [{"name": "segmentation", "axes": axes, "datasets": datasets, "type": "nearest"}],
        "image-label": {"version": "0.5", "properties": properties},
    }


def _fill_pyramid(levels: list[zarr.Array]) -> None:
    """Fill every level but the first by taking every second label of the previous level."""
    for finer, coarser in pairwise(levels):
        height, width = coarser.shape
        for top in range(0, height, BLOCK):
            for left in range(0, width, BLOCK):
                rows, columns = slice(2 * top, 2 * (top + BLOCK), 2), slice(2 * left, 2 * (left + BLOCK), 2)
                part = np.asarray(finer[rows, columns])
                coarser[top : top + part.shape[0], left : left + part.shape[1]] = part


def outline(levels: list[zarr.Array], class_names: tuple[str, ...], scale: float) -> list[tuple[str, shapely.Geometry]]:
    """Polygons of every class in level-0 px, holes cut out; ``scale`` is level-0 px per pixel of the first level."""
    number = next(i for i, level in enumerate(levels) if level.size <= OUTLINE_PIXELS or i == len(levels) - 1)
    labels = np.pad(levels[number][:], 1)
    regions = []
    for value, name in enumerate(class_names, start=1):
        lines = contourpy.contour_generator(
            z=(labels == value).astype(np.float32), fill_type=contourpy.FillType.OuterOffset
        )
        # contourpy's type hints have only the union of all fill types.
        points, offsets = cast("tuple[list[NDArray[np.float64]], list[NDArray[np.uint32]]]", lines.filled(0.5, 2))
        for outer, bounds in zip(points, offsets, strict=True):
            # Sample i of the padded image is the centre of pixel i - 1, which spans [i - 1, i).
            rings = np.split((outer - 0.5) * scale * 2**number, bounds[1:-1].astype(int))
            polygon = polygonal(shapely.make_valid(shapely.Polygon(rings[0], rings[1:])))
            if polygon.area >= MIN_OUTLINE_PIXELS * (scale * 2**number) ** 2:
                regions.append((name, polygon))
    return regions


def _compare(predictor: Predictor, patches: PatchIndex, lattice: Lattice, labels: zarr.Array) -> pa.Table:
    """The prediction table of a segmented slide: area shares per patch, and agreement with the annotation."""
    names, target = predictor.class_names, predictor.task.target
    offset = int(names[0] != BACKGROUND)
    annotated = patches.entries[0].is_annotated()
    masks = MaskReader(patches, target)
    shares = np.zeros((len(patches), len(names)), np.float32)
    truth_shares, counts = np.zeros_like(shares), np.zeros((len(patches), len(names), 3), np.int32)
    for i, found in _predicted(patches, lattice, labels):
        found = found.astype(np.int64) - offset
        shares[i] = _shares(found, len(names))
        if annotated:
            truth = masks.read(np.array([i]), patches.x[i : i + 1], patches.y[i : i + 1])[0]
            truth = truth[: found.shape[0], : found.shape[1]]
            truth_shares[i] = _shares(truth, len(names))
            counts[i] = pixel_counts(found, truth, len(names))
    columns: dict[str, np.ndarray | pa.Array] = {**place_columns(patches)}
    columns |= {f"score_{name}": shares[:, c] for c, name in enumerate(names)}
    columns["predicted"] = dictionary(shares.argmax(1), names)
    known = truth_shares.any(axis=1)
    columns["label"] = dictionary(np.where(known, truth_shares.argmax(1), UNLABELLED), names)
    for c, name in enumerate(names):
        columns |= {f"{count}_{name}": counts[:, c, k] for k, count in enumerate(("tp", "fp", "fn"))}
    return pa.table(columns, schema=prediction_schema(predictor))


def _predicted(patches: PatchIndex, lattice: Lattice, labels: zarr.Array) -> Iterator[tuple[int, np.ndarray]]:
    """Yield each patch's labels. Patches form rows, and the labels of a row are decoded once."""
    left, top = (np.rint(axis / lattice.scale).astype(int) for axis in (patches.x, patches.y))
    for y in np.unique(top):
        row = np.asarray(labels[y : y + patches.size, :])
        for i in np.flatnonzero(top == y):
            yield int(i), row[:, left[i] : left[i] + patches.size]


def _shares(mask: np.ndarray, outputs: int) -> np.ndarray:
    """Share of the pixels per output; unknown pixels count for no output."""
    return np.bincount(mask[mask >= 0], minlength=outputs) / max(mask.size, 1)


def pixel_counts(found: np.ndarray, truth: np.ndarray, outputs: int) -> np.ndarray:
    """Counts of pixels int32 (outputs, 3), tp, fp and fn, where the ground truth is known."""
    known = (truth != UNLABELLED) & (found >= 0)
    confusion = np.bincount(truth[known] * outputs + found[known], minlength=outputs**2).reshape(outputs, outputs)
    hit = np.diag(confusion)
    return np.stack([hit, confusion.sum(0) - hit, confusion.sum(1) - hit], axis=1).astype(np.int32)
