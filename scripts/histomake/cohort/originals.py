"""Slides whose file is missing, for example archived, but whose store is complete: they are used without the file."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from histomake.audit.sidecar import SIDECAR
from histomake.base.layout import Layout
from histomake.base.records.manifest import Manifest
from histomake.base.records.record import Quarantined, RecordError
from histomake.base.records.sidecar import Sidecar
from histomake.base.units import Mpp


class Row(Protocol):
    """The columns of a row of the sheet that describe the slide's file, as in `histomake.cohort.sheet.Slide`."""

    @property
    def slide_id(self) -> str:
        """Slide."""

    @property
    def path(self) -> str:
        """Its file or folder."""

    @property
    def mpp(self) -> Mpp | None:
        """Resolution that overrides the file's, in µm per pixel."""

    @property
    def sha256(self) -> str | None:
        """Digest of the file."""


def slides_without_file(slides: Iterable[Row], exists: Callable[[str], bool]) -> frozenset[str]:
    """Ids of the slides whose file is missing; that their stores are complete has been checked."""
    return frozenset(slide.slide_id for slide in slides if not exists(slide.path))


def why_not_alone(slide: Row, layout: Layout) -> str | None:
    """Why a slide cannot be used without its file; None if its store is complete and made from its row of the sheet.

    Every file of the store must exist, with the size of all files that the manifest states. Digests are compared by
    `histomake verify`, which takes as long as reading the stores.
    """
    path = layout.manifest(slide.slide_id)
    if not path.is_file():
        return "and there is no store of it"
    try:
        manifest, sidecar = Manifest.read(path), Sidecar.read(f"{path}{SIDECAR}")
    except (RecordError, FileNotFoundError) as error:
        return f"and its store cannot be used: {error}"
    if isinstance(manifest, Quarantined):
        return f"and it is in quarantine: {manifest.detail}"
    if slide.path not in sidecar.inputs:
        return f"and its store was made from another file: {', '.join(sidecar.inputs)}"
    if slide.sha256 not in (None, manifest.sha256):
        return f"and its store was made from a file with sha256 {manifest.sha256}, not that of the sheet"
    if sidecar.params.get("mpp") != slide.mpp:
        return f"and its store was made with mpp {sidecar.params.get('mpp')}, not {slide.mpp} as in the sheet"
    store = path.parent / manifest.store
    root = store if store.is_dir() else store.parent
    files = [root / name for name in manifest.checksums]
    lost = sum(not file.is_file() for file in files)
    if lost:
        return f"and {lost} of {len(files)} files of its store {store} are missing"
    if sum(file.stat().st_size for file in files) != manifest.bytes_out:
        return f"and its store {store} does not have the size that its manifest states"
    return None
