"""What each of several readers annotated, in the viewer: outlines or a mask, drawn as tiles like those of the slide."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import zarr

from histomake.audit.sidecar import SIDECAR
from histomake.base.files import existing, store_of
from histomake.base.layout import Layout
from histomake.base.records.annotation import AnnotationRecord, LabelImageRecord
from histomake.viewer import graph_layers, masks
from histomake.viewer.masks import Mask, MaskTiles
from histomake.viewer.outlines import Outlines, outlines_of, titled

READER = "reader"
"""End of the names of these layers, after a dot, which ids of readers cannot contain."""


def named(task: str) -> bool:
    """Whether a layer is one of these."""
    return task.rpartition(".")[2] == READER


def open_layer(layout: Layout, slide: str, task: str, fold: int) -> Mask | Outlines:
    """What a reader annotated on a slide, ``id.reader``. Raises KeyError if there is no such reader, or no region."""
    files = layout.reading(slide, task.removesuffix(f".{READER}"))
    record = _drawn(layout, slide).get(files.reader)
    if record is None:
        raise KeyError(f"{slide} has nothing that reader {files.reader} annotated")
    if record.label_image is not None:
        return _mask(files.labels, record.label_image, record.class_names)
    return _outlines(files.record, files.outlines.stat().st_mtime_ns, record.width, record.height)


def _mask(labels: Path, image: LabelImageRecord, classes: Sequence[str]) -> Mask:
    return Mask([zarr.open_array(store_of(labels), mode="r")], image.downsample, list(classes))


@lru_cache(maxsize=4)
def _outlines(record: Path, _written: int, width: int, height: int) -> Outlines:
    """Kept, because every tile needs them; outlines that are written anew are read anew."""
    return outlines_of(record, width, height)


def _drawn(layout: Layout, slide: str) -> dict[str, AnnotationRecord]:
    """Records of the readers who annotated anything on a slide, by id; those in quarantine are left out."""
    paths = existing(layout.reading(slide, "*").record, under=layout.results)
    read = {path.stem: AnnotationRecord.read(path) for path in paths if not path.name.endswith(SIDECAR)}
    return {
        reader: record
        for reader, record in read.items()
        if isinstance(record, AnnotationRecord) and (record.label_image or any(record.regions.values()))
    }


def describe(layout: Layout, slide: str) -> list[MaskTiles]:
    """What the page needs to request the tiles of what every reader of a slide annotated."""
    found = []
    for reader, record in _drawn(layout, slide).items():
        name, title, classes = f"{reader}.{READER}", f"reader: {reader}", list(record.class_names)
        if record.label_image is not None:
            mask = _mask(layout.reading(slide, reader).labels, record.label_image, classes)
            found.append(masks.tiles_of(mask, name, 0, title))
        else:
            found.append(titled(name, 0, title, classes=classes, width=record.width, height=record.height))
    return found


def class_order(layout: Layout, slide: str) -> list[str]:
    """All classes visible on a slide, in palette order: those of other layers, then those of readers."""
    names = dict.fromkeys(graph_layers.class_order(layout, slide))
    for record in _drawn(layout, slide).values():
        names |= dict.fromkeys(record.class_names)
    return list(names)
