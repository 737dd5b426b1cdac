"""DICOM whole-slide images: one instance, or a folder with the instances of one slide, parsed by pydicom."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
from pydicom import uid

from histomake.slide.codec import TileCoding
from histomake.slide.companions import slide_files
from histomake.slide.jpeg import Colour, read_frame, stated_colour
from histomake.slide.jpeg2000 import read_codestream
from histomake.slide.sources.base import (
    PARSE_ERRORS,
    DamagedTilesError,
    FileBytes,
    ImplausibleSlideError,
    Source,
    SourceInfo,
    SourceLevel,
    TileBytes,
    TruncatedSlideError,
    UnsupportedSlideError,
    check_size,
    paste,
    to_rgb,
    touching,
)

ITEM, DELIMITER = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
ENCAPSULATED = 0xFFFFFFFF
EXPLICIT_LONG_HEADER = 12
IMPLICIT_HEADER = 8
WSI_STORAGE = "1.2.840.10008.5.1.4.1.1.77.1.6"
# All other attributes may identify the patient, the physician, the place or the date.
KEPT = ("Manufacturer", "ManufacturerModelName", "LossyImageCompressionMethod", "LossyImageCompressionRatio")


class DicomSource(Source):
    """A DICOM slide. Frames are tiles; their bytes are copied if they are JPEG or JPEG 2000."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._instances: list[_Instance] = []
        self._others: list[_Instance] = []
        try:
            for file in slide_files(path):
                self._add(file)
            self.info = self._describe()
        except BaseException:
            self.close()
            raise

    def _add(self, file: Path) -> None:
        if not is_dicom(file):
            return
        instance = _Instance(file)
        (self._instances if instance.flavor in ("VOLUME", "") else self._others).append(instance)

    def _describe(self) -> SourceInfo:
        if not self._instances:
            raise UnsupportedSlideError("found no DICOM whole-slide image of type VOLUME")
        series = {instance.series for instance in self._instances}
        if len(series) > 1:
            raise UnsupportedSlideError(f"the folder holds {len(series)} series; put each slide into its own folder")
        self._instances.sort(key=lambda instance: -instance.width)
        finest = self._instances[0]
        properties = {f"dicom.{key}": str(finest.header[key].value) for key in KEPT if key in finest.header}
        return SourceInfo(
            family="dicom",
            vendor=str(finest.header.get("Manufacturer") or "dicom").lower(),
            levels=tuple(instance.level for instance in self._instances),
            vendor_mpp=finest.mpp(),
            properties=properties,
        )

    def tile_bytes(self, level: int) -> TileBytes:
        """Return the byte ranges of the frames."""
        instance = self._instances[level]
        rows, columns = instance.level.grid
        offsets, counts = np.zeros((rows, columns), np.uint64), np.zeros((rows, columns), np.uint64)
        for place, ((offset, count),) in instance.frames.items():
            offsets[place], counts[place] = offset, count
        return TileBytes(instance.path, offsets, counts)

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Read pixels of ``level`` as uint8 (height, width, 3)."""
        return self._instances[level].read(x, y, width, height)

    def associated(self) -> dict[str, Callable[[], np.ndarray]]:
        """Return readers of the label, overview (macro) and thumbnail instances."""
        names = {"LABEL": "label", "OVERVIEW": "macro", "THUMBNAIL": "thumbnail"}
        return {
            names[instance.flavor]: partial(instance.read, 0, 0, instance.width, instance.height)
            for instance in self._others
            if instance.flavor in names
        }

    def close(self) -> None:
        """Close the files."""
        for instance in (*self._instances, *self._others):
            instance.close()


def is_dicom(path: Path) -> bool:
    """Return whether a file has the DICOM preamble."""
    with path.open("rb") as stream:
        stream.seek(128)
        return stream.read(4) == b"DICM"


@dataclass(init=False)
class _Instance:
    """One SOP instance: a level, label, overview or thumbnail. ``frames`` maps (row, column) to fragments."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as stream:
            self.header = pydicom.dcmread(stream, stop_before_pixels=True)
            start = stream.tell()
        if self.header.get("SOPClassUID") != WSI_STORAGE:
            raise UnsupportedSlideError(f"{path.name} is not a VL Whole Slide Microscopy Image")
        self.flavor = str(self.header.ImageType[2]).upper() if len(self.header.get("ImageType", ())) > 2 else ""
        self.series = str(self.header.get("SeriesInstanceUID", ""))
        self.syntax = uid.UID(self.header.file_meta.TransferSyntaxUID)
        self.width = int(self.header.TotalPixelMatrixColumns)
        self.height = int(self.header.TotalPixelMatrixRows)
        self.tile_width, self.tile_height = int(self.header.Columns), int(self.header.Rows)
        check_size(self.width, self.height)
        check_size(self.tile_width, self.tile_height)
        if self.header.BitsAllocated != 8:
            raise UnsupportedSlideError(f"{self.header.BitsAllocated} bits per sample; only 8 bits are supported")
        if "InConcatenationNumber" in self.header:
            raise UnsupportedSlideError("the instance is one part of a concatenation, which is not supported")
        self._file = FileBytes(path)
        try:
            fragments = self._fragments(start)
            self.frames = {place: fragments[i] for i, place in enumerate(self._places(len(fragments)))}
            self.level = SourceLevel(self.width, self.height, self.tile_width, self.tile_height, self._coding())
        except BaseException:
            self._file.close()
            raise

    def _places(self, count: int) -> list[tuple[int, int]]:
        """Return (row, column) of each frame; only the first focal plane or optical path is kept."""
        rows, columns = -(-self.height // self.tile_height), -(-self.width // self.tile_width)
        if self.header.get("DimensionOrganizationType") != "TILED_SPARSE":
            if count < rows * columns:
                raise ImplausibleSlideError(f"{self.path.name} needs {rows * columns} frames, but has only {count}")
            return [divmod(i, columns) for i in range(rows * columns)]
        places = []
        for group in self.header.PerFrameFunctionalGroupsSequence:
            position = group.PlanePositionSlideSequence[0]
            left = int(position.ColumnPositionInTotalImagePixelMatrix) - 1
            top = int(position.RowPositionInTotalImagePixelMatrix) - 1
            if left % self.tile_width or top % self.tile_height:
                raise UnsupportedSlideError("frames do not lie on a regular grid")
            places.append((top // self.tile_height, left // self.tile_width))
        if len(set(places)) < len(places) or len(places) > count:
            raise UnsupportedSlideError("several frames share one position, or frames are missing")
        return places

    def _fragments(self, start: int) -> list[list[tuple[int, int]]]:
        """Return the byte ranges of each frame, in file order (DICOM PS3.5, A.4)."""
        explicit = not self.syntax.is_implicit_VR
        header = EXPLICIT_LONG_HEADER if explicit else IMPLICIT_HEADER
        (length,) = struct.unpack("<I", self._file.read(start + header - 4, 4))
        start += header
        if length != ENCAPSULATED:
            size = self.tile_width * self.tile_height * int(self.header.SamplesPerPixel)
            if start + length > self._file.size:
                raise TruncatedSlideError(f"{self.path.name} ends before the end of its pixel data")
            return [[(start + i * size, size)] for i in range(length // size)]
        items = self._items(start)
        table, first, fragments = items[0], items[1][0] - 8 if len(items) > 1 else 0, items[1:]
        frames = int(self.header.get("NumberOfFrames", 1))
        if len(fragments) == frames:
            return [[fragment] for fragment in fragments]
        offsets = np.frombuffer(self._file.read(*table), "<u4").astype(np.int64) + first
        if len(offsets) != frames:
            raise UnsupportedSlideError(f"no offset table assigns the {len(fragments)} fragments to {frames} frames")
        owner = np.searchsorted(offsets, [offset - 8 for offset, _ in fragments], side="right") - 1
        grouped: list[list[tuple[int, int]]] = [[] for _ in range(frames)]
        for frame, fragment in zip(owner, fragments, strict=True):
            grouped[int(frame)].append(fragment)
        return grouped

    def _items(self, position: int) -> list[tuple[int, int]]:
        """Return (offset, length) of every item: the basic offset table, then the fragments."""
        items: list[tuple[int, int]] = []
        while True:
            tag, length = struct.unpack("<4sI", self._file.read(position, 8))
            if tag == DELIMITER:
                return items
            if tag != ITEM:
                raise DamagedTilesError(f"no item tag at byte {position} of {self.path.name}")
            if position + 8 + length > self._file.size:
                raise TruncatedSlideError(f"{self.path.name} ends inside a frame")
            items.append((position + 8, length))
            position += 8 + length

    def _coding(self) -> TileCoding | None:
        if self.header.SamplesPerPixel != 3 or any(len(parts) != 1 for parts in self.frames.values()):
            return None
        last = max(self.frames)
        samples = [self._file.read(*self.frames[place][0]) for place in (min(self.frames), last)]
        size = self.tile_width, self.tile_height
        if self.syntax in (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit):
            frames = [read_frame(sample) for sample in samples]
            if all((f.width, f.height, f.components, f.precision, f.sequential) == (*size, 3, 8, True) for f in frames):
                return TileCoding("jpeg", self._jpeg_colour(samples[0]))
        if self.syntax in (uid.JPEG2000, uid.JPEG2000Lossless):
            streams = [read_codestream(sample) for sample in samples]
            if all((s.width, s.height, s.components, s.precision) == (*size, 3, 8) for s in streams):
                return TileCoding("jpeg2k")
        return None

    def _jpeg_colour(self, sample: bytes) -> Colour:
        # The markers of the stream take precedence: some converters copy RGB tiles under a header that states YBR_FULL.
        return stated_colour(sample) or ("RGB" if self.header.PhotometricInterpretation == "RGB" else "YCBCR")

    def read(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Read pixels as uint8 (height, width, 3), white where there is no frame."""
        out = np.full((height, width, 3), 255, np.uint8)
        for row, column in touching(x, y, width, height, self.tile_width, self.tile_height):
            if (row, column) in self.frames:
                tile = self._decode(row, column)
                paste(out, tile, column * self.tile_width - x, row * self.tile_height - y)
        return out

    def _decode(self, row: int, column: int) -> np.ndarray:
        data = b"".join(self._file.read(*part) for part in self.frames[row, column])
        try:
            if self.syntax in (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit):
                colour = self._jpeg_colour(data) if self.header.SamplesPerPixel == 3 else None
                outcome = "RGB" if colour else None
                tile = imagecodecs.jpeg8_decode(data, colorspace=colour, outcolorspace=outcome)
            elif self.syntax in (uid.JPEG2000, uid.JPEG2000Lossless):
                tile = imagecodecs.jpeg2k_decode(data)
            elif not self.syntax.is_encapsulated:
                tile = self._native(data)
            else:
                raise UnsupportedSlideError(f"transfer syntax {self.syntax.name} is not supported")
            return to_rgb(tile)
        except PARSE_ERRORS as error:
            raise DamagedTilesError(f"frame (row {row}, column {column}) cannot be decoded: {error}") from error

    def _native(self, data: bytes) -> np.ndarray:
        samples = int(self.header.SamplesPerPixel)
        pixels = np.frombuffer(data, np.uint8)
        if samples == 3 and self.header.get("PlanarConfiguration") == 1:
            return np.ascontiguousarray(np.moveaxis(pixels.reshape(3, self.tile_height, self.tile_width), 0, -1))
        return pixels.reshape(self.tile_height, self.tile_width, samples)

    def mpp(self) -> tuple[float, float] | None:
        """Return µm per pixel along x and y: the pixel spacing, else the imaged volume divided by the matrix size."""
        try:
            spacing = self.header.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing
            return float(spacing[1]) * 1000, float(spacing[0]) * 1000
        except (AttributeError, IndexError, TypeError):
            width, height = self.header.get("ImagedVolumeWidth"), self.header.get("ImagedVolumeHeight")
        return (float(width) * 1000 / self.width, float(height) * 1000 / self.height) if width and height else None

    def close(self) -> None:
        """Close the file."""
        self._file.close()
