"""Reading of an annotation file of any format into validated regions with classes."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import shapely

from histomake.annotation.drawn import AnnotationError, Drawn, Reading, SlideFrame
from histomake.annotation.formats import MASK_SUFFIXES, is_mask
from histomake.annotation.json_formats import read_json
from histomake.annotation.losses import losses
from histomake.annotation.mask import count_values, open_mask, scale_of
from histomake.annotation.model import Annotation, LabelImage
from histomake.annotation.ndpa import read_ndpa
from histomake.annotation.overlap import polygonal, same_outlines
from histomake.annotation.shapes import check_crossings_between, cut_out, enclosed_areas
from histomake.annotation.units import doubtful_unit
from histomake.annotation.xml_formats import read_xml
from histomake.base.errors import Reason, SlideError
from histomake.base.records.annotation import AnnotationRecord
from histomake.base.units import Level0Pixels, Mpp
from histomake.config import Annotations

log = logging.getLogger(__name__)

Reader = Callable[[Path, Reading], tuple[str, list[Drawn]]]
"""Reads the shapes of a file and the name of its format; counts shapes without area."""

READERS: dict[str, Reader] = {
    ".xml": read_xml,
    ".annotations": read_xml,
    ".ndpa": read_ndpa,
    ".geojson": read_json,
    ".json": read_json,
}
"""How files with outlines are read, by suffix. Label masks have the other suffixes, `MASK_SUFFIXES`."""

PHYSICAL = ("ndpa",)
"""Formats whose coordinates are lengths, not pixels."""

LONGEST = 300
"""Characters of a library's message that are kept; some contain parts of the file."""

Regions = list[tuple[str, shapely.Geometry]]


def read_annotation(
    path: Path | None,
    config: Annotations,
    *,
    slide_id: str,
    width: Level0Pixels,
    height: Level0Pixels,
    mpp: Mpp | None = None,
    properties: Mapping[str, str] | None = None,
    roi: Collection[str] = (),
) -> Annotation:
    """Read, map, repair and check the annotation of a slide.

    If ``path`` is None, the slide has no annotation. This is not an error and gives an annotation without regions.

    Args:
        path: the annotation file.
        config: the section ``annotations``.
        slide_id, width, height: the slide and its size in level-0 pixels.
        mpp: µm per pixel of level 0; needed by formats in µm or nm.
        properties: the scanner's metadata from the manifest; needed by NDPA.
        roi: classes that only bound regions of interest, see `Annotation`.

    Raises:
        SlideError: BAD_ANNOTATION, with the file, the problem and a remedy, whatever a library raises on the file.
    """
    class_names = tuple(sorted(set(config.classes.values())))
    record = AnnotationRecord(
        slide_id=slide_id,
        source=None if path is None else path.name,
        annotation_format="none",
        width=width,
        height=height,
        class_names=class_names,
        roi=tuple(name for name in class_names if name in roi),
    )
    if path is None:
        return Annotation(class_names, [], None, record)
    reading = Reading(config, SlideFrame(slide_id, width, height, mpp, properties or {}))
    with naming_slide(path, slide_id), refusing_all(path):
        _check_file(path, config)
        if not is_mask(path):
            return _from_shapes(path, reading, record)
        return OF_MASKS[config.mask_values](path, reading, record)


@contextmanager
def naming_slide(path: Path | None, slide_id: str) -> Iterator[None]:
    """Turn a problem with an annotation file into the SlideError of its slide."""
    try:
        yield
    except AnnotationError as problem:
        raise SlideError(
            Reason.BAD_ANNOTATION, slide_id=slide_id, path=str(path), detail=problem.detail, remedy=problem.remedy
        ) from None


@contextmanager
def refusing_all(path: Path) -> Iterator[None]:
    """Turn every exception into an AnnotationError. Libraries raise anything on a damaged file; the log has it all."""
    try:
        yield
    except AnnotationError:
        raise
    except MemoryError as error:
        log.exception("%s cannot be read", path)
        raise AnnotationError(
            "reading the file needs more memory than the job may have",
            "Check that the file is whole; if it is, simplify its outlines, or read it again with more: "
            "--set-resources annotate:mem_mb=MB --forcerun with the slide's annotations/*.json",
        ) from error
    except Exception as error:
        log.exception("%s cannot be read", path)
        said = " ".join(str(error).split())[:LONGEST]
        raise AnnotationError(f"the file cannot be read ({type(error).__name__}: {said})") from error


def _check_file(path: Path, config: Annotations) -> None:
    if not path.exists():
        raise AnnotationError("the annotation file does not exist", "Correct its path in the sheet")
    size_mb = path.stat().st_size / 1e6
    if size_mb > config.max_file_mb and not is_mask(path):  # masks are read in parts
        raise AnnotationError(
            f"the file has {size_mb:.0f} MB, more than annotations.max_file_mb ({config.max_file_mb:g})",
            "Raise the limit if the job has enough memory (five times the file size), or export without measurements",
        )


def _from_shapes(path: Path, reading: Reading, record: AnnotationRecord) -> Annotation:
    config = reading.config
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        supported = ", ".join([*READERS, *MASK_SUFFIXES])
        raise AnnotationError(f"unknown annotation format {path.suffix!r}", f"Supported formats: {supported}")
    annotation_format, drawn = reader(path, reading)
    if annotation_format not in PHYSICAL:
        points = shapely.get_coordinates([shape.geometry for shape in drawn])
        reading.warnings += doubtful_unit(points, reading.slide, path.name)
    if not drawn:
        without_area = f" (only {sum(reading.skipped.values())} shapes without area)" if reading.skipped else ""
        raise AnnotationError(f"the annotation contains no region{without_area}")
    names = Counter(d.name for d in drawn)
    _check_names(names, config, "names")
    record = msgspec.structs.replace(
        record,
        annotation_format=annotation_format,
        ignored={name: n for name, n in names.items() if name in config.ignore},
        cut_out={name: n for name, n in names.items() if name in config.cut_out},
        skipped=dict(reading.skipped),
    )
    regions, record = _repair(drawn, config, record)
    record = msgspec.structs.replace(record, warnings=(*reading.warnings, *losses(record)))
    return Annotation(record.class_names, regions, None, record)


def _check_names(found: Counter[str], config: Annotations, what: str) -> None:
    known = {*config.classes, *config.ignore, *config.cut_out}
    unknown = {name: n for name, n in sorted(found.items()) if name not in known}
    if unknown:
        listed = ", ".join(f"{name!r} ({n})" for name, n in unknown.items())
        raise AnnotationError(
            f"{what} missing in annotations.classes: {listed}",
            "Map them under annotations.classes, or list them under annotations.ignore or, if other regions do not "
            "extend to them, under annotations.cut_out",
        )


def _repair(drawn: list[Drawn], config: Annotations, record: AnnotationRecord) -> tuple[Regions, AnnotationRecord]:
    """From shapes as drawn to regions: valid, inside the slide, without what is cut out; and what the record says."""
    kept = [d for d in drawn if d.name in config.classes]
    areas, repaired = enclosed_areas(np.array([d.geometry for d in kept], dtype=object))
    regions = [(config.classes[d.name], area) for d, area in zip(kept, areas, strict=True) if area.area > 0]
    degenerate = len(kept) - len(regions)
    if kept and not regions:
        raise AnnotationError(f"none of the {len(kept)} regions has an area")
    outside = _check_bounds(regions, config, width=record.width, height=record.height)
    regions, clipped = _clip(regions, width=record.width, height=record.height)
    cuts, _ = enclosed_areas(np.array([d.geometry for d in drawn if d.name in config.cut_out], dtype=object))
    check_crossings_between(shapely.boundary(np.array([*(area for _, area in regions), *cuts], dtype=object)))
    left = cut_out([area for _, area in regions], cuts)
    remaining = [(name, area) for (name, _), area in zip(regions, left, strict=True) if area.area > 0]
    _check_same_outlines([region for region in remaining if region[0] not in record.roi])
    return remaining, msgspec.structs.replace(
        record,
        regions=dict(Counter(name for name, _ in remaining)),
        area_px={name: round(area, 1) for name, area in _areas(remaining, record).items()},
        repaired=repaired,
        degenerate=degenerate,
        clipped=clipped,
        outside_share=round(outside, 6),
        cut_away=len(regions) - len(remaining),
    )


def _areas(regions: Regions, record: AnnotationRecord) -> dict[str, float]:
    areas = Annotation(record.class_names, regions, None, record).area_by_class
    return {name: areas[name].area for name in dict.fromkeys(name for name, _ in regions)}


def _check_same_outlines(regions: Regions) -> None:
    names = [name for name, _ in regions]
    pairs = same_outlines(names, [area for _, area in regions])
    if pairs:
        found = Counter(" and ".join(sorted((names[a], names[b]))) for a, b in pairs)
        listed = ", ".join(f"{classes} ({n})" for classes, n in sorted(found.items()))
        raise AnnotationError(
            f"regions of different classes have the same outline: {listed}",
            "Decide for one class, or list one of the names under annotations.ignore",
        )


def _check_bounds(regions: Regions, config: Annotations, *, width: Level0Pixels, height: Level0Pixels) -> float:
    """Return the share of the annotated area outside the slide; refuse a share above ``max_outside``.

    A large share means that the file belongs to another image, or that it has an offset (MRXS bounds), coordinates in
    µm or of another level, or swapped axes.
    """
    geometries = [geometry for _, geometry in regions]
    if not geometries:
        return 0.0
    total = shapely.area(geometries).sum()
    inside = shapely.area(shapely.clip_by_rect(geometries, 0, 0, width, height)).sum()
    outside = max(0.0, float(1 - inside / total))
    if outside > config.max_outside:
        x0, y0, x1, y1 = shapely.total_bounds(geometries)
        beyond = {"left": -x0, "top": -y0, "right": x1 - width, "bottom": y1 - height}
        listed = ", ".join(f"{by:.0f} px beyond the {side}" for side, by in beyond.items() if by > 0)
        raise AnnotationError(
            f"{outside:.1%} of the annotated area lies outside the slide of {width} x {height} px: {listed}",
            "Check for a wrong scale, offset or slide. annotations.max_outside sets the share that may be clipped",
        )
    return outside


def _clip(regions: Regions, *, width: Level0Pixels, height: Level0Pixels) -> tuple[Regions, int]:
    slide = shapely.box(0, 0, width, height)
    x0, y0, x1, y1 = shapely.bounds([geometry for _, geometry in regions]).reshape(-1, 4).T
    over = (x0 < 0) | (y0 < 0) | (x1 > width) | (y1 > height)
    cut = ((name, polygonal(g.intersection(slide)) if o else g) for (name, g), o in zip(regions, over, strict=True))
    return [(name, geometry) for name, geometry in cut if geometry.area > 0], int(over.sum())


def _from_mask(path: Path, reading: Reading, record: AnnotationRecord) -> Annotation:
    config, class_names = reading.config, record.class_names
    mask = open_mask(path, in_order=True)
    downsample = scale_of(mask.shape, width=record.width, height=record.height)
    counts = count_values(mask)
    labels = Counter({str(value): n for value, n in counts.items() if value != 0 or "0" in config.classes})
    if not labels:
        raise AnnotationError("the label mask is empty: every pixel is 0")
    _check_names(labels, config, "mask values")
    lookup = np.zeros(1 << 16, np.uint8)
    area: Counter[str] = Counter()
    for value, n in labels.items():
        if value in config.classes:
            name = config.classes[value]
            lookup[int(value)] = class_names.index(name) + 1
            area[name] += n * downsample**2
    record = msgspec.structs.replace(
        record,
        annotation_format=f"mask{path.suffix.lower()}",
        area_px={name: float(value) for name, value in area.items()},
        ignored={value: n for value, n in labels.items() if value in config.ignore},
        cut_out={value: n for value, n in labels.items() if value in config.cut_out},
        warnings=tuple(f"{path.name}: {doubt}" for doubt in mask.doubts),
    )
    return Annotation(class_names, [], LabelImage(mask, downsample, lookup, mask.chunks), record)


def _from_cells(path: Path, _reading: Reading, record: AnnotationRecord) -> Annotation:
    """A mask whose values number cells has no class of patches; what it has is read where cells are needed."""
    mask = open_mask(path, in_order=True)
    scale_of(mask.shape, width=record.width, height=record.height)
    warnings = tuple(f"{path.name}: {doubt}" for doubt in mask.doubts)
    record = msgspec.structs.replace(record, annotation_format=f"cell mask{path.suffix.lower()}", warnings=warnings)
    return Annotation(record.class_names, [], None, record)


OF_MASKS: dict[str, Callable[[Path, Reading, AnnotationRecord], Annotation]] = {
    "classes": _from_mask,
    "cells": _from_cells,
}
"""How masks are read, by what their values mean."""
