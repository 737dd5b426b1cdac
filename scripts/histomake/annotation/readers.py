"""Annotations of several readers of a slide: read, compared, and made into one label image by consensus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations, permutations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from histomake.annotation.agreement import cohen_kappa, dice, fleiss_kappa
from histomake.annotation.consensus import CONSENSUS_OF, Consensus
from histomake.annotation.drawn import AnnotationError
from histomake.annotation.mask import PART_PX, parts
from histomake.annotation.model import Annotation, LabelImage
from histomake.annotation.patterns import Patterns, combinations_in
from histomake.annotation.raster import rasterise
from histomake.annotation.read import naming_slide
from histomake.base.records.annotation import AnnotationRecord
from histomake.base.records.consensus import CONSENSUS, ConsensusRecord, LabelCount, ReaderPair, ReaderRecord
from histomake.base.units import Level0Pixels, Mpp
from histomake.config import Readers

if TYPE_CHECKING:
    from numpy.typing import NDArray

FIT_PX = 256
"""Edge of the raster on which the places of two annotations are compared."""
FACTORS = (2, 4, 8, 16, 32, 64)
"""Scales between the levels of a pyramid."""
FITS, APART = 0.5, 0.1
"""Two annotations whose areas overlap by more than the first (Jaccard index) are of one place; by less than the second,
they are not."""

Tissue = Callable[["NDArray[np.float64]", "NDArray[np.float64]"], "NDArray[np.bool_]"]
"""Whether there is tissue, bool (rows, columns), at y (rows,) and x (columns,) in level-0 pixels."""


@dataclass(frozen=True)
class ReaderRasters:
    """Labels of all readers on one grid of pixels, made in parts: uint8 (readers, h, w), 0 for no class.

    annotations, paths: by reader; shape: height and width of the grid; downsample: level-0 pixels per pixel.
    """

    annotations: Mapping[str, Annotation]
    paths: Mapping[str, Path]
    shape: tuple[int, int]
    downsample: int

    def read(self, rows: slice, columns: slice) -> NDArray[np.uint8]:
        """The labels of a part. Raises SlideError if a reader's mask cannot be read there."""
        height, width = rows.stop - rows.start, columns.stop - columns.start
        place = Level0Pixels(columns.start * self.downsample), Level0Pixels(rows.start * self.downsample)
        side = max(height, width)
        result = np.empty((len(self.annotations), height, width), np.uint8)
        for i, (reader, annotation) in enumerate(self.annotations.items()):
            with naming_slide(self.paths[reader], _record(annotation).slide_id):  # masks are read here
                result[i] = rasterise(annotation, *place, side, self.downsample)[:height, :width]
        return result


@dataclass(frozen=True)
class ConsensusRaster:
    """The consensus as an image of class numbers, computed where it is read."""

    rasters: ReaderRasters
    chosen: Mapping[tuple[int, ...], int]

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.rasters.shape

    def __getitem__(self, index: tuple[slice, slice]) -> NDArray[np.uint8]:
        """Class numbers of a part, uint8 (h, w)."""
        labels = self.rasters.read(*index)
        found = np.zeros(labels.shape[1:], np.uint8)
        annotated = bool(labels.any())
        for pattern, chosen in self.chosen.items():
            if annotated and chosen:
                found[(labels == np.array(pattern, np.uint8)[:, None, None]).all(axis=0)] = chosen
        return found


def agreed(
    annotations: Mapping[str, Annotation], paths: Mapping[str, Path], config: Readers, *, mpp: Mpp, tissue: Tissue
) -> Annotation:
    """The consensus of the readers of a slide.

    Args:
        annotations: by reader; at least two.
        paths: files of the readers.
        config: the section ``readers``.
        mpp: µm per pixel of level 0.
        tissue: where agreement is compared, besides where a reader annotated.

    Returns:
        An annotation with a label image, which is computed while it is written, and a record with `ConsensusRecord`.

    Raises:
        SlideError: the annotation of a reader does not fit the frame of the others, or has regions of interest.
    """
    annotations = dict(sorted(annotations.items()))
    records = {reader: _record(annotation) for reader, annotation in annotations.items()}
    first = next(iter(records.values()))
    _refuse_regions_of_interest(annotations, paths, first.slide_id)
    _refuse_other_frames(annotations, paths, first)
    downsample = max(1, round(config.mpp / mpp))
    shape = (-(-first.height // downsample), -(-first.width // downsample))
    rasters = ReaderRasters(annotations, paths, shape, downsample)
    patterns = _compared(rasters, first.class_names, tissue)
    consensus = CONSENSUS_OF[config.consensus](patterns)
    chosen = dict(zip(map(tuple, patterns.labels.tolist()), consensus.labels.tolist(), strict=True))
    image = LabelImage(ConsensusRaster(rasters, chosen), downsample, chunks=(PART_PX, PART_PX))
    area = np.bincount(consensus.labels, weights=patterns.pixels, minlength=len(first.class_names) + 1)
    record = AnnotationRecord(
        slide_id=first.slide_id,
        source=", ".join(path.name for _, path in sorted(paths.items())),
        annotation_format=config.consensus,
        width=first.width,
        height=first.height,
        class_names=first.class_names,
        roi=first.roi,
        area_px={n: float(area[i + 1]) * downsample**2 for i, n in enumerate(first.class_names) if area[i + 1]},
        consensus=_consensus_record(records, patterns, consensus, config, downsample),
        warnings=tuple(_warnings(records)),
    )
    return Annotation(first.class_names, [], image, record)


def _record(annotation: Annotation) -> AnnotationRecord:
    if annotation.record is None:
        raise ValueError("the annotation of a reader has no record")
    return annotation.record


def _compared(rasters: ReaderRasters, names: tuple[str, ...], tissue: Tissue) -> Patterns:
    """The combinations of labels at all pixels that are tissue or that a reader annotated."""
    counts: Counter[tuple[int, ...]] = Counter()
    for rows, columns in parts(rasters.shape):
        labels = rasters.read(rows, columns)
        centres = [(np.arange(s.start, s.stop) + 0.5) * rasters.downsample for s in (rows, columns)]
        counts += combinations_in(labels, tissue(*centres) | labels.any(axis=0))
    return Patterns.of(counts, names, readers=len(rasters.annotations))


def _consensus_record(
    records: Mapping[str, AnnotationRecord],
    patterns: Patterns,
    consensus: Consensus,
    config: Readers,
    downsample: int,
) -> ConsensusRecord:
    labels = dict(zip(records, patterns.labels.T, strict=True)) | {CONSENSUS: consensus.labels}
    found = [
        ReaderRecord(
            reader=reader,
            source=record.source or "",
            annotation_format=record.annotation_format,
            area_px=record.area_px,
            sensitivity=_sensitivity(consensus, i, patterns.names),
        )
        for i, (reader, record) in enumerate(records.items())
    ]
    area = downsample**2
    return ConsensusRecord(
        method=config.consensus,
        readers=tuple(found),
        compared_px=float(patterns.pixels.sum()) * area,
        undecided_px=float(patterns.pixels[consensus.undecided].sum()) * area,
        fleiss_kappa=fleiss_kappa(patterns),
        pairs=tuple(_pair(a, b, patterns, labels, area) for a, b in combinations(labels, 2)),
        iterations=consensus.iterations,
    )


def _sensitivity(consensus: Consensus, reader: int, names: tuple[str, ...]) -> dict[str, float]:
    if consensus.sensitivity is None:
        return {}
    values = consensus.sensitivity[reader, 1:].tolist()
    return {name: round(v, 6) for name, v in zip(names, values, strict=True) if not np.isnan(v)}


def _pair(
    first: str, second: str, patterns: Patterns, labels: Mapping[str, NDArray[np.uint8]], area: int
) -> ReaderPair:
    counts, names = patterns.confusion(labels[first], labels[second]), ("", *patterns.names)
    overlap = dice(counts)
    return ReaderPair(
        first=first,
        second=second,
        kappa=cohen_kappa(counts),
        dice={n: float(overlap[i]) for i, n in enumerate(names) if n and not np.isnan(overlap[i])},
        counts=tuple(
            LabelCount(first=names[i], second=names[j], area_px=float(counts[i, j]) * area)
            for i, j in zip(*np.nonzero(counts), strict=True)
        ),
    )


def _warnings(records: Mapping[str, AnnotationRecord]) -> list[str]:
    """The warnings of each reader's file, and classes that some readers never used on the slide."""
    found = [f"Reader {reader}: {text}" for reader, record in records.items() for text in record.warnings]
    for name in sorted({name for record in records.values() for name in record.area_px}):
        without = [reader for reader, record in records.items() if name not in record.area_px]
        if without:
            others = [reader for reader in records if reader not in without]
            found.append(f"Class {name} is annotated by {', '.join(others)}, and not by {', '.join(without)}.")
    return found


def _refuse_regions_of_interest(
    annotations: Mapping[str, Annotation], paths: Mapping[str, Path], slide_id: str
) -> None:
    for reader, annotation in annotations.items():
        roi = sorted({name for name, _ in annotation.regions} - {name for name, _ in annotation.labelled})
        with naming_slide(paths[reader], slide_id):
            if roi:
                raise AnnotationError(
                    f"the file of reader {reader} has regions of interest ({', '.join(roi)}); readers have no "
                    "consensus on them",
                    "List their names under annotations.ignore, or give the slide a single annotation",
                )


def _refuse_other_frames(
    annotations: Mapping[str, Annotation], paths: Mapping[str, Path], record: AnnotationRecord
) -> None:
    """Refuse a file that fits the other one only after enlargement, or with x and y exchanged."""
    side = max(record.width, record.height)

    def covered(annotation: Annotation, factor: int = 1) -> NDArray[np.bool_]:
        labels = rasterise(annotation, Level0Pixels(0), Level0Pixels(0), FIT_PX, side / FIT_PX / factor)
        return labels > 0

    areas = {reader: covered(annotation) for reader, annotation in annotations.items()}
    for reader, other in permutations(annotations, 2):
        if _jaccard(areas[reader], areas[other]) >= APART:
            continue
        changed = {f"enlarged {f} times": covered(annotations[reader], f) for f in FACTORS}
        changed["with x and y exchanged"] = areas[reader].T
        for how, area in changed.items():
            if _jaccard(area, areas[other]) >= FITS:
                with naming_slide(paths[reader], record.slide_id):
                    raise AnnotationError(
                        f"the regions of reader {reader} lie where those of reader {other} do only if they are {how}",
                        "Export the file in pixels of the slide's full resolution, x to the right and y down",
                    )


def _jaccard(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    union = int((one | other).sum())
    return int((one & other).sum()) / union if union else 1.0
