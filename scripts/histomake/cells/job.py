"""The cells of one slide from its files: what rule ``cells`` does."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from histomake.annotation.formats import is_mask
from histomake.annotation.model import Annotation
from histomake.base.cell_origins import CellOrigin
from histomake.base.files import STORE_METADATA, store_of, write_empty_store
from histomake.base.records.annotation import AnnotationRecord
from histomake.base.records.manifest import Manifest
from histomake.base.records.record import Quarantined, quarantined
from histomake.base.units import Mpp
from histomake.cells.drawn import from_mask, from_outlines
from histomake.cells.files import label_image, outlines, write_no_outlines
from histomake.cells.segmented import from_cascade, from_task, part_classes
from histomake.cells.source import CellSource
from histomake.cells.table import PixelReader, empty_table, tabulate_cells, write_cells
from histomake.cohort.quarantine import attempt, lost_store
from histomake.config import Cells
from histomake.slide.reader import open_slide

Open = Callable[[Path, Manifest, Cells], CellSource]
"""Opens the cells in a file; raises SlideError if they cannot be used."""


@dataclass(frozen=True)
class CellFiles:
    """Files that the job of a slide writes."""

    table: Path
    labels: Path
    outlines: Path | None


def make_cells(
    manifest: Path, given: Path, config: Cells, files: CellFiles, *, lost: list[Quarantined] | None = None
) -> None:
    """Write table, label image and outlines of a slide's cells; without cells of a slide in quarantine.

    Args:
        manifest: The slide's manifest.
        given: The file with the cells: the ``zarr.json`` of a segmentation, the record of an annotation, or a mask.
        config: The section ``cells.<name>``.
        files: Files to write.
        lost: Takes the quarantine entry of a slide whose damage is met here.
    """

    def work() -> pa.Table:
        usable = Manifest.read_usable(manifest)
        source = OPENERS[config.origin](store_of(given), usable, config)
        return _write(source, open_slide(manifest), usable, config, files)

    found = quarantined(Manifest.read(manifest)) or _lost_before(given) or attempt("cells", work, lost=lost)
    if isinstance(found, Quarantined):
        write_empty_store(files.labels, found.dump())
        if files.outlines:
            write_no_outlines(files.outlines)
        found = empty_table(found, config)
    write_cells(found, files.table)


def _write(source: CellSource, reader: PixelReader, manifest: Manifest, config: Cells, files: CellFiles) -> pa.Table:
    with ExitStack() as open_files:
        sinks = [open_files.enter_context(label_image(files.labels, source))]
        if files.outlines:
            sinks.append(open_files.enter_context(outlines(files.outlines, source)))
        return tabulate_cells(source, reader, manifest, config, sinks=sinks)


def _lost_before(given: Path) -> Quarantined | None:
    """Return the quarantine entry that a file with cells has in their place."""
    if given.name == STORE_METADATA:
        return lost_store(store_of(given))
    return None if is_mask(given) else quarantined(AnnotationRecord.read(given))


def _of_annotation(path: Path, manifest: Manifest, config: Cells) -> CellSource:
    if is_mask(path):
        return from_mask(path, manifest, config)
    annotation = Annotation.load(path)
    if annotation.label_image is None:
        return from_outlines(annotation, manifest, config, path=path)
    labels = annotation.label_image
    mpp = Mpp(manifest.mpp * labels.downsample)
    return part_classes(labels.values, annotation.class_names, scale=labels.downsample, mpp=mpp, config=config)


OPENERS: dict[CellOrigin, Open] = {"radhical": from_cascade, "task": from_task, "annotation": _of_annotation}
"""How the cells of each kind of source are opened."""
