"""DICOM whole-slide images: one instance, or a folder with the instances of one slide, parsed by pydicom."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pydicom
from pydicom import uid

from histomake.base.files import sha256_file
from histomake.slide.companions import slide_files
from histomake.slide.same_content import is_reduced
from histomake.slide.sources.base import (
    MAX_ASSOCIATED_PX,
    DamagedSlideError,
    Source,
    SourceInfo,
    TileBytes,
    UnsupportedSlideError,
)
from histomake.slide.sources.dicom_instance import WSI_STORAGE, Instance, role_of

# All other attributes may identify the patient, the physician, the place or the date.
KEPT = ("Manufacturer", "ManufacturerModelName", "LossyImageCompressionMethod", "LossyImageCompressionRatio")

NAMES = {"LABEL": "label", "OVERVIEW": "macro", "LOCALIZER": "macro", "THUMBNAIL": "thumbnail"}
VOLUME = "VOLUME"
ASPECT = 0.02
"""Largest relative difference of aspect ratios between the levels of a slide."""


class DicomSource(Source):
    """A DICOM slide. Frames are tiles; their bytes are copied if they are JPEG or JPEG 2000."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._instances: list[Instance] = []
        self._others: dict[str, Callable[[], Instance]] = {}
        self._foreign: Counter[str] = Counter()
        self._unstated = 0
        try:
            for file in slide_files(path):
                self._add(file)
            copies = self._drop_copies()
            self.info = self._describe(copies)
        except BaseException:
            self.close()
            raise

    def _add(self, file: Path) -> None:
        """Add an image of the slide; count objects of other kinds: annotations, segmentations, DICOMDIR."""
        if not is_dicom(file):
            return
        with file.open("rb") as stream:
            header = pydicom.dcmread(stream, stop_before_pixels=True)
            pixels_at = stream.tell()
        storage = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID")
        if storage != WSI_STORAGE:
            self._foreign[_class_name(storage)] += 1
            return
        role = role_of(header)
        if role == VOLUME:
            self._instances.append(Instance(file, header, pixels_at))
        elif role:
            self._others[NAMES[role]] = partial(Instance, file, header, pixels_at)
        else:
            self._unstated += 1

    def _drop_copies(self) -> int:
        """Keep one of the instances that are files of the same bytes; return the number of those dropped."""
        kept: dict[tuple[str, int], list[Instance]] = {}
        copies = 0
        for instance in self._instances:
            key = str(instance.header.get("SOPInstanceUID", "")), instance.path.stat().st_size
            alike = kept.setdefault(key, [])
            if alike and sha256_file(alike[0].path) == sha256_file(instance.path):
                copies += 1
                instance.close()
            else:
                alike.append(instance)
        self._instances = [instance for alike in kept.values() for instance in alike]
        return copies

    def _describe(self, copies: int) -> SourceInfo:
        if not self._instances:
            found = ", ".join(sorted(self._foreign)) or "no DICOM whole-slide image"
            raise UnsupportedSlideError(f"found no DICOM whole-slide image of type VOLUME, but {found}")
        series = {instance.series for instance in self._instances}
        if len(series) > 1:
            raise UnsupportedSlideError(f"the folder holds {len(series)} series; put each slide into its own folder")
        self._instances.sort(key=lambda instance: -instance.width)
        self._check_sizes()
        self._check_levels()
        if any(instance.shows_label() for instance in self._instances):
            raise UnsupportedSlideError("the image shows the label of the glass, or text that was burnt in")
        finest = self._instances[0]
        left_out = {name: f"left out: {count} of them, no image of the slide" for name, count in self._foreign.items()}
        if copies:
            left_out["copies"] = f"left out: {copies} files with the same bytes as others"
        if self._unstated:
            left_out["unknown"] = f"left out: {self._unstated} images whose ImageType does not say what they show"
        return SourceInfo(
            family="dicom",
            vendor=str(finest.header.get("Manufacturer") or "dicom").lower(),
            levels=tuple(instance.level for instance in self._instances),
            vendor_mpp=finest.mpp(),
            properties={f"dicom.{key}": str(finest.header[key].value) for key in KEPT if key in finest.header},
            left_out=left_out,
        )

    def _check_sizes(self) -> None:
        """Raise UnsupportedSlideError if several images have one size: planes, channels, or several slides."""
        sizes = Counter((instance.width, instance.height) for instance in self._instances)
        for (width, height), count in sizes.items():
            if count > 1:
                alike = [i.header for i in self._instances if (i.width, i.height) == (width, height)]
                grey = all(int(header.SamplesPerPixel) == 1 for header in alike)
                kind = "channels" if grey else "focal planes or copies"
                raise UnsupportedSlideError(
                    f"{count} images of {width} x {height} px, which are {kind}; only one is read"
                )

    def _check_levels(self) -> None:
        """Raise DamagedSlideError if an image is not a reduced version of the next finer one."""
        for finer, coarser in zip(self._instances, self._instances[1:], strict=False):
            aspect = coarser.width / coarser.height / (finer.width / finer.height)
            sizes = coarser.tile_bytes().counts
            if abs(aspect - 1) > ASPECT + 2 / min(coarser.width, coarser.height) or not is_reduced(
                coarser.level, coarser.read, finer.level, finer.read, sizes
            ):
                raise DamagedSlideError(
                    f"{coarser.path.name} ({coarser.width} x {coarser.height} px) does not show what {finer.path.name} "
                    "shows, although both are images of one series"
                )

    def tile_bytes(self, level: int) -> TileBytes:
        """Return the byte ranges of the frames."""
        return self._instances[level].tile_bytes()

    def missing(self, level: int) -> np.ndarray | None:
        """Return which places have no frame, or an empty one."""
        return self._instances[level].missing

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Read pixels of ``level`` as uint8 (height, width, 3)."""
        return self._instances[level].read(x, y, width, height)

    def associated(self) -> dict[str, Callable[[], np.ndarray]]:
        """Return readers of the label, overview (macro) and thumbnail instances."""
        return {name: partial(_picture, opened) for name, opened in self._others.items()}

    def close(self) -> None:
        """Close the files."""
        for instance in self._instances:
            instance.close()


def _class_name(storage: str | None) -> str:
    """The name of a class of the standard. A private identifier is not repeated: it can name the place."""
    if not storage:
        return "objects of no stated class"
    known = uid.UID(storage)
    return str(known.name) if known.name != known else "objects of a private class"


def _picture(opened: Callable[[], Instance]) -> np.ndarray:
    """Read a whole associated image."""
    instance = opened()
    try:
        if instance.width * instance.height > MAX_ASSOCIATED_PX:
            raise UnsupportedSlideError(f"it has {instance.width} x {instance.height} px")
        return instance.read(0, 0, instance.width, instance.height)
    finally:
        instance.close()


def is_dicom(path: Path) -> bool:
    """Return whether a file has the DICOM preamble."""
    with path.open("rb") as stream:
        stream.seek(128)
        return stream.read(4) == b"DICM"
