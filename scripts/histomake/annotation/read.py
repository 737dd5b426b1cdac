"""Reading of an annotation file of any format into validated regions with classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import shapely

from histomake.annotation.formats import MASK_SUFFIXES, is_mask
from histomake.annotation.geojson import read_geojson
from histomake.annotation.mask import count_values, open_mask, scale_of
from histomake.annotation.model import Annotation, AnnotationError, Drawn, LabelImage, polygonal
from histomake.annotation.xml_formats import read_xml
from histomake.base.errors import Reason, SlideError
from histomake.base.records.annotation import AnnotationRecord
from histomake.base.units import Level0Pixels
from histomake.config import Annotations

Reader = Callable[[Path, Annotations, Counter[str]], tuple[str, list[Drawn]]]
"""Reads the shapes of a file and the name of its format; counts shapes without area."""

READERS: dict[str, Reader] = {
    ".xml": read_xml,
    ".annotations": read_xml,
    ".geojson": read_geojson,
    ".json": read_geojson,
}
"""How files with outlines are read, by suffix. Label masks have the other suffixes, `MASK_SUFFIXES`."""


def read_annotation(
    path: Path | None, config: Annotations, *, slide_id: str, width: Level0Pixels, height: Level0Pixels
) -> Annotation:
    """Read, map, repair and check the annotation of a slide of ``width`` x ``height`` level-0 pixels.

    If ``path`` is None, the slide has no annotation. This is not an error and gives an annotation without regions.

    Raises:
        SlideError: BAD_ANNOTATION, with the file, the problem and a remedy.
    """
    class_names = tuple(sorted(set(config.classes.values())))
    record = AnnotationRecord(
        slide_id=slide_id,
        source=None if path is None else path.name,
        annotation_format="none",
        width=width,
        height=height,
        class_names=class_names,
    )
    if path is None:
        return Annotation(class_names, [], None, record)
    try:
        _check_file(path, config)
        if is_mask(path):
            return _from_mask(path, config, class_names, record)
        return _from_shapes(path, config, class_names, record)
    except AnnotationError as problem:
        raise SlideError(
            Reason.BAD_ANNOTATION, slide_id=slide_id, path=path, detail=problem.detail, remedy=problem.remedy
        ) from None


def _check_file(path: Path, config: Annotations) -> None:
    if not path.exists():
        raise AnnotationError("the annotation file does not exist", "Correct its path in the sheet")
    size_mb = path.stat().st_size / 1e6
    lazily_read = path.suffix.lower() in (".npy", ".tif", ".tiff", ".zarr")
    if size_mb > config.max_file_mb and not lazily_read:
        raise AnnotationError(
            f"the file has {size_mb:.0f} MB, more than annotations.max_file_mb ({config.max_file_mb:g})",
            "Raise the limit if the job has enough memory (five times the file size), or export without measurements",
        )


def _from_shapes(path: Path, config: Annotations, class_names: tuple[str, ...], record: AnnotationRecord) -> Annotation:
    skipped: Counter[str] = Counter()
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        supported = ", ".join([*READERS, *MASK_SUFFIXES])
        raise AnnotationError(f"unknown annotation format {path.suffix!r}", f"Supported formats: {supported}")
    annotation_format, drawn = reader(path, config, skipped)
    if not drawn:
        without_area = f" (only {sum(skipped.values())} shapes without area)" if skipped else ""
        raise AnnotationError(f"the annotation contains no region{without_area}")
    _check_names(Counter(d.name for d in drawn), config, "names")
    ignored = Counter(d.name for d in drawn if d.name in config.ignore)
    kept = [d for d in drawn if d.name not in config.ignore]
    regions, repairs = _repair(kept, config)
    outside = _check_bounds(regions, config, width=record.width, height=record.height)
    regions, clipped = _clip(regions, width=record.width, height=record.height)
    area: Counter[str] = Counter()
    for name, geometry in regions:
        area[name] += geometry.area
    record = msgspec.structs.replace(
        record,
        annotation_format=annotation_format,
        regions=dict(Counter(name for name, _ in regions)),
        area_px={name: round(value, 1) for name, value in area.items()},
        ignored=dict(ignored),
        skipped=dict(skipped),
        clipped=clipped,
        outside_share=round(outside, 6),
        **repairs,
    )
    return Annotation(class_names, regions, None, record)


def _check_names(found: Counter[str], config: Annotations, what: str) -> None:
    unknown = {name: n for name, n in sorted(found.items()) if name not in config.classes and name not in config.ignore}
    if unknown:
        listed = ", ".join(f"{name!r} ({n})" for name, n in unknown.items())
        raise AnnotationError(
            f"{what} missing in annotations.classes: {listed}",
            "Map them under annotations.classes or list them under annotations.ignore",
        )


def _repair(drawn: list[Drawn], config: Annotations) -> tuple[list[tuple[str, shapely.Geometry]], dict[str, int]]:
    """Make every geometry valid and areal. A self-intersecting outline becomes the area that it encloses."""
    shapes = np.array([d.geometry for d in drawn], dtype=object)
    crossed = ~shapely.is_valid(shapes)
    shapes[crossed] = shapely.make_valid(shapes[crossed])
    areal = list(map(polygonal, shapes))
    kept = shapely.area(areal) > 0
    regions = [(config.classes[d.name], g) for d, g, keep in zip(drawn, areal, kept, strict=True) if keep]
    if drawn and not regions:
        raise AnnotationError(f"none of the {len(drawn)} regions has an area")
    return regions, {"repaired": int(crossed.sum()), "degenerate": len(drawn) - len(regions)}


def _check_bounds(
    regions: list[tuple[str, shapely.Geometry]], config: Annotations, *, width: Level0Pixels, height: Level0Pixels
) -> float:
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


def _clip(
    regions: list[tuple[str, shapely.Geometry]], *, width: Level0Pixels, height: Level0Pixels
) -> tuple[list[tuple[str, shapely.Geometry]], int]:
    slide = shapely.box(0, 0, width, height)
    x0, y0, x1, y1 = shapely.bounds([geometry for _, geometry in regions]).reshape(-1, 4).T
    over = (x0 < 0) | (y0 < 0) | (x1 > width) | (y1 > height)
    cut = ((name, polygonal(g.intersection(slide)) if o else g) for (name, g), o in zip(regions, over, strict=True))
    return [(name, geometry) for name, geometry in cut if not geometry.is_empty], int(over.sum())


def _from_mask(path: Path, config: Annotations, class_names: tuple[str, ...], record: AnnotationRecord) -> Annotation:
    values = open_mask(path)
    downsample = scale_of(values.shape, width=record.width, height=record.height)
    counts = count_values(values)
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
    )
    return Annotation(class_names, [], LabelImage(values, downsample, lookup), record)
