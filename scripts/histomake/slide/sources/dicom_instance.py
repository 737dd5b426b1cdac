"""One DICOM instance of a whole-slide image: what it shows, where its frames lie, and how they are decoded."""

from __future__ import annotations

import struct
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pydicom
from pydicom import uid

from histomake.slide.codec import TileCoding
from histomake.slide.colour import Coder, Photometric, Samples, Treatment, treatment
from histomake.slide.decoding import decode_jpeg, decode_jpeg2000, jpeg2000_samples, jpeg_samples
from histomake.slide.jpeg import read_frame
from histomake.slide.jpeg2000 import read_codestream
from histomake.slide.sources.base import (
    PARSE_ERRORS,
    DamagedSlideError,
    DamagedTilesError,
    FileBytes,
    ImplausibleSlideError,
    SourceLevel,
    TileBytes,
    TruncatedSlideError,
    UnsupportedSlideError,
    check_size,
    paste,
    touching,
)

ITEM, DELIMITER = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
ENCAPSULATED = 0xFFFFFFFF
EXPLICIT_LONG_HEADER = 12
IMPLICIT_HEADER = 8
WSI_STORAGE = "1.2.840.10008.5.1.4.1.1.77.1.6"

JPEG = (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit)
JPEG2000 = (uid.JPEG2000, uid.JPEG2000Lossless)

PHOTOMETRIC = {
    "MONOCHROME1": Photometric.WHITE_IS_ZERO,
    "MONOCHROME2": Photometric.GREY,
    "RGB": Photometric.RGB,
    "YBR_FULL": Photometric.YCBCR,
    "YBR_FULL_422": Photometric.YCBCR,
    "YBR_ICT": Photometric.YBR_ICT,
    "YBR_RCT": Photometric.YBR_RCT,
    "PALETTE COLOR": Photometric.PALETTE,
}
ROLES = ("LABEL", "OVERVIEW", "LOCALIZER", "THUMBNAIL", "VOLUME")
"""What an image can show (ImageType, value 3), private ones first: any of them in the list counts."""

SPACING_UNIT = 1000.0
"""µm per unit of PixelSpacing and ImagedVolumeWidth, which are in mm."""


class Instance:
    """One image of a slide. ``frames`` maps (row, column) to the byte ranges of its fragments.

    Raises UnsupportedSlideError for features that are not read, and one of the other errors of `sources.base` if the
    file is damaged.
    """

    def __init__(self, path: Path, header: pydicom.Dataset, pixels_at: int) -> None:
        self.path, self.header = path, header
        self.series = str(header.get("SeriesInstanceUID", ""))
        self.syntax = uid.UID(header.file_meta.TransferSyntaxUID)
        self.width, self.height = int(header.TotalPixelMatrixColumns), int(header.TotalPixelMatrixRows)
        self.tile_width, self.tile_height = int(header.Columns), int(header.Rows)
        check_size(self.width, self.height)
        check_size(self.tile_width, self.tile_height)
        self.grid = -(-self.height // self.tile_height), -(-self.width // self.tile_width)
        _refuse_unread(header, self.syntax)
        self._file = FileBytes(path)
        try:
            fragments = self._fragments(pixels_at)
            places = self._places(len(fragments))
            self.frames = {place: parts for place, parts in zip(places, fragments, strict=True) if _bytes_of(parts)}
            self._samples = [b"".join(self._file.read(*part) for part in parts) for parts in self._outermost()]
            self.treatment: Treatment = treatment(self._stated())
            self.level = SourceLevel(self.width, self.height, self.tile_width, self.tile_height, self._coding())
        except BaseException:
            self._file.close()
            raise

    # Places of frames

    def _places(self, count: int) -> list[tuple[int, int]]:
        """Return (row, column) of each frame: where each states its place, that, else in order, if that is stated."""
        rows, columns = self.grid
        if (stated := self._stated_places()) is not None:
            if len(stated) != count:
                raise ImplausibleSlideError(f"{self.path.name} states places of {len(stated)} frames, but has {count}")
            if len(set(stated)) < len(stated):
                raise UnsupportedSlideError("several frames share one place: focal planes or optical paths")
            if any(not (0 <= row < rows and 0 <= column < columns) for row, column in stated):
                raise DamagedSlideError("a frame lies outside the image")
            return stated
        if self.header.get("DimensionOrganizationType") != "TILED_FULL" and (rows, columns) != (1, 1):
            raise UnsupportedSlideError(
                "neither the places of the frames are stated nor that they are in order (TILED_FULL)"
            )
        if count < rows * columns:
            raise ImplausibleSlideError(f"{self.path.name} needs {rows * columns} frames, but has only {count}")
        if count > rows * columns:
            raise UnsupportedSlideError(
                f"{count} frames for {rows * columns} places: several focal planes or optical paths"
            )
        return [divmod(i, columns) for i in range(count)]

    def _stated_places(self) -> list[tuple[int, int]] | None:
        groups = self.header.get("PerFrameFunctionalGroupsSequence") or []
        positions = [group.get("PlanePositionSlideSequence") for group in groups]
        if not any(positions):
            if self.header.get("DimensionOrganizationType") == "TILED_SPARSE":
                raise DamagedSlideError("frames are TILED_SPARSE, but their places are not stated")
            return None
        if not all(positions):
            raise DamagedSlideError("the places of some frames are not stated")
        places = []
        for (position,) in positions:
            left = int(position.ColumnPositionInTotalImagePixelMatrix) - 1
            top = int(position.RowPositionInTotalImagePixelMatrix) - 1
            if left % self.tile_width or top % self.tile_height:
                raise UnsupportedSlideError("frames do not lie on a regular grid")
            places.append((top // self.tile_height, left // self.tile_width))
        return places

    # Bytes of frames

    def _fragments(self, start: int) -> list[list[tuple[int, int]]]:
        """Return the byte ranges of each frame, in file order (DICOM PS3.5, A.4)."""
        explicit = not self.syntax.is_implicit_VR
        header = EXPLICIT_LONG_HEADER if explicit else IMPLICIT_HEADER
        (length,) = struct.unpack("<I", self._file.read(start + header - 4, 4))
        start += header
        if length != ENCAPSULATED:
            return self._native_frames(start, length)
        if not self.syntax.is_encapsulated:
            raise DamagedSlideError("the pixel data is in items, but the transfer syntax is not encapsulated")
        items = self._items(start)
        if not items:
            raise DamagedTilesError(f"{self.path.name} has no pixel data")
        table, fragments = items[0], items[1:]
        frames = int(self.header.get("NumberOfFrames", 1))
        if len(fragments) == frames:
            return [[fragment] for fragment in fragments]
        first = fragments[0][0] - 8 if fragments else 0
        offsets = np.frombuffer(self._file.read(*table), "<u4").astype(np.int64) + first
        if len(offsets) != frames:
            raise UnsupportedSlideError(f"no offset table assigns the {len(fragments)} fragments to {frames} frames")
        owner = np.searchsorted(offsets, [offset - 8 for offset, _ in fragments], side="right") - 1
        grouped: list[list[tuple[int, int]]] = [[] for _ in range(frames)]
        for frame, fragment in zip(owner, fragments, strict=True):
            grouped[int(frame)].append(fragment)
        return grouped

    def _native_frames(self, start: int, length: int) -> list[list[tuple[int, int]]]:
        size = self.tile_width * self.tile_height * int(self.header.SamplesPerPixel)
        if start + length > self._file.size:
            raise TruncatedSlideError(f"{self.path.name} ends before the end of its pixel data")
        frames = int(self.header.get("NumberOfFrames", 1))
        if length != frames * size + (frames * size) % 2:
            raise DamagedSlideError(f"{frames} frames of {size} bytes do not fill pixel data of {length} bytes")
        return [[(start + i * size, size)] for i in range(frames)]

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

    def _outermost(self) -> list[list[tuple[int, int]]]:
        """Return the fragments of the first and the last frame that is not empty."""
        if not self.frames:
            raise DamagedTilesError(f"all frames of {self.path.name} are empty")
        return [self.frames[place] for place in sorted({min(self.frames), max(self.frames)})]

    # Colours

    def _stated(self) -> Samples:
        """Return what the header and the outermost frames state about the samples."""
        header = self.header
        name = str(header.PhotometricInterpretation).strip().upper()
        photometric = PHOTOMETRIC.get(name, Photometric.OTHER)
        plain = Samples(
            photometric,
            Coder.PLAIN,
            count=int(header.SamplesPerPixel),
            bits=int(header.BitsStored) if header.BitsAllocated == 8 else int(header.BitsAllocated),
            integer=int(header.PixelRepresentation) == 0,
            subsampled=name.endswith(("_422", "_420")),
        )
        if not self.syntax.is_encapsulated:
            return plain
        of_stream = jpeg_samples if self.syntax in JPEG else jpeg2000_samples
        found = [of_stream(sample, photometric) for sample in self._samples]
        if len(set(found)) > 1:
            raise UnsupportedSlideError("frames of one image state different colour spaces or samples")
        if (found[0].count, found[0].bits) != (plain.count, plain.bits):
            raise DamagedSlideError(
                f"the header states {plain.count} samples of {plain.bits} bits, "
                f"the frames have {found[0].count} of {found[0].bits}"
            )
        return replace(found[0], integer=found[0].integer and plain.integer)

    def _coding(self) -> TileCoding | None:
        if not self.treatment.copyable or any(len(parts) != 1 for parts in self.frames.values()):
            return None
        size = self.tile_width, self.tile_height
        if self.syntax in JPEG:
            frames = [read_frame(sample) for sample in self._samples]
            whole = all((frame.width, frame.height) == size and frame.sequential for frame in frames)
            return TileCoding("jpeg", self.treatment.jpeg) if whole and self.treatment.jpeg else None
        streams = [read_codestream(sample) for sample in self._samples]
        return TileCoding("jpeg2k") if all((s.width, s.height) == size for s in streams) else None

    # Pixels

    def tile_bytes(self) -> TileBytes:
        """Return the byte ranges of frames that are one fragment each."""
        offsets, counts = np.zeros(self.grid, np.uint64), np.zeros(self.grid, np.uint64)
        for place, parts in self.frames.items():
            offsets[place], counts[place] = parts[0][0], _bytes_of(parts)
        return TileBytes(self.path, offsets, counts)

    @cached_property
    def missing(self) -> np.ndarray | None:
        """Which places have no frame or an empty one, (rows, columns), or None if all have one."""
        absent = self.tile_bytes().counts == 0
        return absent if absent.any() else None

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
        size = self.tile_height, self.tile_width
        try:
            if not self.syntax.is_encapsulated:
                pixels = self._native(data)
            elif self.syntax in JPEG:
                pixels = decode_jpeg(data, size, self.treatment.jpeg)
            else:
                pixels = decode_jpeg2000(data, size)
        except PARSE_ERRORS as error:
            raise DamagedTilesError(f"frame (row {row}, column {column}) cannot be decoded: {error}") from error
        if pixels.shape[:2] != size:
            raise DamagedTilesError(f"frame (row {row}, column {column}) is smaller than its place")
        return self.treatment.to_rgb(pixels)

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
            return float(spacing[1]) * SPACING_UNIT, float(spacing[0]) * SPACING_UNIT
        except (AttributeError, IndexError, TypeError):
            width, height = self.header.get("ImagedVolumeWidth"), self.header.get("ImagedVolumeHeight")
        if not (width and height):
            return None
        return float(width) * SPACING_UNIT / self.width, float(height) * SPACING_UNIT / self.height

    def shows_label(self) -> bool:
        """Return whether the header states that the pixels show the label of the glass or burnt-in text."""
        stated = (self.header.get("SpecimenLabelInImage"), self.header.get("BurnedInAnnotation"))
        return any(str(value).strip().upper() == "YES" for value in stated)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def role_of(header: pydicom.Dataset) -> str:
    """Return what an image shows: one of ROLES, or an empty text if ImageType does not say so."""
    stated = {str(value).strip().upper() for value in header.get("ImageType") or ()}
    return next((role for role in ROLES if role in stated), "")


def _bytes_of(parts: list[tuple[int, int]]) -> int:
    return sum(count for _, count in parts)


def _refuse_unread(header: pydicom.Dataset, syntax: uid.UID) -> None:
    if syntax.is_encapsulated and syntax not in (*JPEG, *JPEG2000):
        raise UnsupportedSlideError(f"transfer syntax {syntax.name} is not read")
    if "InConcatenationNumber" in header:
        raise UnsupportedSlideError("the instance is one part of a concatenation, which is not supported")
    for name, planes in (("TotalPixelMatrixFocalPlanes", "focal planes"), ("NumberOfOpticalPaths", "optical paths")):
        if int(header.get(name) or 1) > 1:
            raise UnsupportedSlideError(f"the image has {header[name].value} {planes}; only one is read")
