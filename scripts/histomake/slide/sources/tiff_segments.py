"""Tiles and strips of one image of a TIFF: their bytes, their colours, and how they are decoded."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import tifffile

from histomake.slide.codec import TileCoding
from histomake.slide.colour import Alpha, Coder, Photometric, Samples, Treatment, treatment
from histomake.slide.decoding import (
    PICTURES,
    decode_jpeg,
    decode_jpeg2000,
    decode_picture,
    jpeg2000_samples,
    jpeg_samples,
)
from histomake.slide.jpeg import SOI, read_frame, without_texts
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

JPEG = 7
APERIO_YCBCR, APERIO_RGB = 33003, 33005
JPEG2000 = (APERIO_YCBCR, 33004, APERIO_RGB, 34712)
PLAIN = (1, 5, 8, 32773, 32946, 34925, 34926, 50000)
"""Compressions that know nothing of colour: none, LZW, deflate, PackBits, LZMA and Zstandard."""

PHOTOMETRIC = {
    0: Photometric.WHITE_IS_ZERO,
    1: Photometric.GREY,
    2: Photometric.RGB,
    3: Photometric.PALETTE,
    6: Photometric.YCBCR,
}
EXTRA = {0: Alpha.UNSPECIFIED, 1: Alpha.PREMULTIPLIED, 2: Alpha.STRAIGHT}
UNSIGNED, UNDEFINED = 1, 4
"""Sample formats that are read as unsigned integers (TIFF 6.0, SampleFormat)."""

BT_601 = (299 / 1000, 587 / 1000, 114 / 1000)
FULL_RANGE = (0, 255, 128, 255, 128, 255)

FIRST_BYTE = 8
"""Tiles cannot lie in the header of the file."""

MAX_EXPANSION, HEADER_BYTES = 2, 1 << 20
"""Largest plausible size of an encoded tile, relative to its pixels, plus a header. Larger byte counts are forged to
exhaust memory."""

MAX_SEGMENT_BYTES = 1 << 29
"""Largest strip or tile in bytes: it is decoded as a whole, and a larger one would not fit the memory of a job."""


class Segments:
    """The tiles or strips of one image. ``planes`` lists (page, index of the plane's first segment).

    Args:
        pages: One page, or one page per channel in the order red, green, blue.
        file: The file.

    Raises UnsupportedSlideError if pixels cannot become RGB, and one of the other errors of `sources.base` if the
    header is damaged.
    """

    def __init__(self, pages: list[tifffile.TiffPage], file: FileBytes) -> None:
        self._file = file
        self.page = page = pages[0]
        self.width, self.height = int(page.imagewidth), int(page.imagelength)
        check_size(self.width, self.height)
        if any((other.imagewidth, other.imagelength) != (self.width, self.height) for other in pages):
            raise UnsupportedSlideError("the channels have different sizes")
        self.tiled = bool(page.is_tiled)
        self.tile_width = int(page.tilewidth) if self.tiled else self.width
        self.tile_height = int(page.tilelength) if self.tiled else min(int(page.rowsperstrip), self.height)
        check_size(self.tile_width, self.tile_height)
        self.grid = -(-self.height // self.tile_height), -(-self.width // self.tile_width)
        self.planes = self._planes(pages)
        for plane, first in self.planes:
            self._check(plane, first)
        count = self.grid[0] * self.grid[1]
        offsets, counts = (np.asarray(tag[:count], np.uint64) for tag in (page.dataoffsets, page.databytecounts))
        self.tile_bytes = TileBytes(file.path, offsets.reshape(self.grid), counts.reshape(self.grid))
        if not any(self.tile_bytes.counts.flat):
            raise DamagedSlideError("the file holds no pixels: all tiles of its finest level are absent")
        self._corners = self._corner_tiles()
        self.treatment: Treatment = treatment(self._samples())

    def _planes(self, pages: list[tifffile.TiffPage]) -> list[tuple[tifffile.TiffPage, int]]:
        if len(pages) == 1 and pages[0].planarconfig == 2:
            step = self.grid[0] * self.grid[1]
            return [(pages[0], plane * step) for plane in range(pages[0].samplesperpixel)]
        return [(page, 0) for page in pages]

    def _check(self, page: tifffile.TiffPage, first: int) -> None:
        if self.tile_width * self.tile_height * page.samplesperpixel > MAX_SEGMENT_BYTES:
            raise UnsupportedSlideError(
                f"one strip or tile has {self.tile_width} x {self.tile_height} px, too large to decode as a whole"
            )
        known = page.compression == JPEG or page.compression in (*JPEG2000, *PLAIN, *PICTURES)
        if not known:
            raise UnsupportedSlideError(f"compression {int(page.compression)} is not read")
        if "PhotometricInterpretation" not in page.tags:
            raise DamagedSlideError("the header does not state what the samples are (PhotometricInterpretation)")
        self._check_bytes(page, first)

    def _check_bytes(self, page: tifffile.TiffPage, first: int) -> None:
        """Check that the header lists as many tiles as the size needs, inside the file, and of plausible length."""
        needed = first + self.grid[0] * self.grid[1]
        total = self.grid[0] * self.grid[1] * (page.samplesperpixel if page.planarconfig == 2 else 1)
        if {len(page.dataoffsets), len(page.databytecounts)} != {total}:
            raise ImplausibleSlideError(
                f"{self.width} x {self.height} px are {total} tiles, but the header lists {len(page.dataoffsets)}"
            )
        used = slice(first, needed)
        offsets, counts = (np.asarray(tag[used], np.float64) for tag in (page.dataoffsets, page.databytecounts))
        stored = counts > 0
        end = float((offsets + counts)[stored].max(initial=0))
        if end > self._file.size:
            raise TruncatedSlideError(f"the file has {self._file.size} bytes, but its tiles end at byte {end:.0f}")
        if offsets[stored].min(initial=FIRST_BYTE) < FIRST_BYTE:
            raise DamagedSlideError("the header places a tile inside itself")
        pixel_bytes = self.tile_width * self.tile_height * page.samplesperpixel
        if counts.max(initial=0) > MAX_EXPANSION * pixel_bytes + HEADER_BYTES:
            raise ImplausibleSlideError(
                f"a tile with {pixel_bytes} bytes of pixels has {counts.max():.0f} encoded bytes: not plausible"
            )

    def _corner_tiles(self) -> list[bytes]:
        """Return the first tile that exists and the tiles of the other corners, which a writer may have cropped."""
        rows, columns = self.grid
        last = rows * columns - 1
        page = self.page
        first = next((i for i, count in enumerate(page.databytecounts[: last + 1]) if count), 0)
        indices = {first, columns - 1, last + 1 - columns, last}
        return [
            self._file.read(page.dataoffsets[i], page.databytecounts[i])
            for i in sorted(indices)
            if page.databytecounts[i]
        ]

    def _samples(self) -> Samples:
        """Return what the tags and the first tile state about the samples."""
        page = self.page
        photometric = PHOTOMETRIC.get(int(page.photometric), Photometric.OTHER)
        if len({id(plane) for plane, _ in self.planes}) > 1:
            if {int(plane.photometric) for plane, _ in self.planes} != {1}:
                raise UnsupportedSlideError("the channels are not plain grey images")
            photometric = Photometric.RGB
        integer = page.bitspersample != 8 or int(page.sampleformat or UNSIGNED) in (UNSIGNED, UNDEFINED)
        count = len(self.planes) if len(self.planes) > 1 else int(page.samplesperpixel)
        plain = Samples(
            photometric,
            Coder.PICTURE if page.compression in PICTURES else Coder.PLAIN,
            count=count,
            extra=tuple(EXTRA.get(int(kind), Alpha.UNSPECIFIED) for kind in page.extrasamples or ()),
            bits=page.bitspersample if isinstance(page.bitspersample, int) else 0,
            integer=integer,
        )
        if len(self.planes) == 1 and self._corners and page.compression == JPEG:
            return self._stated_by_jpeg(plain)
        if len(self.planes) == 1 and self._corners and page.compression in JPEG2000:
            return self._stated_by_jpeg2000(plain)
        if photometric is Photometric.YCBCR:
            return _ycbcr(page, plain)
        return plain

    def _stated_by_jpeg(self, header: Samples) -> Samples:
        if not self._corners[0].startswith(SOI):
            raise DamagedTilesError("a corner tile is not a JPEG stream")
        found = [jpeg_samples(tile, header.photometric) for tile in self._corners]
        return _same(header, found)

    def _stated_by_jpeg2000(self, header: Samples) -> Samples:
        photometric = header.photometric
        if photometric in (Photometric.RGB, Photometric.YCBCR):
            aperio = {APERIO_YCBCR: Photometric.APERIO_YCBCR, APERIO_RGB: Photometric.RGB}
            photometric = aperio.get(int(self.page.compression), photometric)
        found = [jpeg2000_samples(tile, photometric) for tile in self._corners]
        return _same(header, found)

    def level(self) -> SourceLevel:
        """Describe the image as a level, with the coding of its tiles if they can be copied."""
        return SourceLevel(self.width, self.height, self.tile_width, self.tile_height, self._coding())

    def _coding(self) -> TileCoding | None:
        if not (self.tiled and len(self.planes) == 1 and self.treatment.copyable and self._corners):
            return None
        size = self.tile_width, self.tile_height
        if self.page.compression == JPEG:
            frames = [read_frame(tile) for tile in self._corners]
            whole = all((frame.width, frame.height) == size and frame.sequential for frame in frames)
            colour = self.treatment.jpeg
            tables = self.page.jpegtables and without_texts(self.page.jpegtables)
            return TileCoding("jpeg", colour, tables) if whole and colour else None
        streams = [read_codestream(tile) for tile in self._corners]
        return TileCoding("jpeg2k") if all((s.width, s.height) == size for s in streams) else None

    def missing(self) -> np.ndarray | None:
        """Return which tiles the file does not hold, (rows, columns), or None if it holds all."""
        absent = self.tile_bytes.counts == 0
        return absent if absent.any() else None

    def read(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Read pixels as uint8 RGB (height, width, 3), white where a tile is absent."""
        out = np.full((height, width, 3), 255, np.uint8)
        for row, column in touching(x, y, width, height, self.tile_width, self.tile_height):
            tile = self._tile(row, column)
            if tile is not None:
                paste(out, tile, column * self.tile_width - x, row * self.tile_height - y)
        return out

    def _tile(self, row: int, column: int) -> np.ndarray | None:
        index = row * self.grid[1] + column
        planes = [self._plane(page, first + index, row, column) for page, first in self.planes]
        present = [plane for plane in planes if plane is not None]
        if not present:
            return None
        if len(present) < len(planes):
            raise DamagedTilesError(f"tile (row {row}, column {column}) lacks some of its channels")
        return self.treatment.to_rgb(present[0] if len(present) == 1 else np.concatenate(present, axis=2))

    def _plane(self, page: tifffile.TiffPage, index: int, row: int, column: int) -> np.ndarray | None:
        """Decode a tile of one page to uint8 (h, w, samples). At the far edges it may be cropped to the image."""
        if not page.databytecounts[index]:
            return None
        data = self._file.read(page.dataoffsets[index], page.databytecounts[index])
        try:
            pixels = self._decode(page, data, index, row)
        except PARSE_ERRORS as error:
            raise DamagedTilesError(f"tile (row {row}, column {column}) cannot be decoded: {error}") from error
        wanted = (
            min(self.tile_height, self.height - row * self.tile_height),
            min(self.tile_width, self.width - column * self.tile_width),
        )
        if pixels is None or pixels.dtype != np.uint8 or pixels.shape[0] < wanted[0] or pixels.shape[1] < wanted[1]:
            raise DamagedTilesError(f"tile (row {row}, column {column}) is smaller than its place")
        return pixels

    def _decode(self, page: tifffile.TiffPage, data: bytes, index: int, row: int) -> np.ndarray | None:
        most = self.tile_height, self.tile_width
        if page.compression == JPEG:
            colour = self.treatment.jpeg if len(self.planes) == 1 else None
            return decode_jpeg(data, most, colour, page.jpegtables)
        if page.compression in JPEG2000:
            return decode_jpeg2000(data, most)
        if page.compression in PICTURES:
            rows = most[0] if self.tiled else min(most[0], self.height - row * most[0])
            samples = 1 if len(self.planes) > 1 else int(page.samplesperpixel)
            return decode_picture(data, (rows, most[1]), samples, int(page.compression))
        pixels, *_ = page.decode(data, index)
        return None if pixels is None else pixels[0]


def _same(header: Samples, found: list[Samples]) -> Samples:
    """Return what all tiles state, with the alpha of the header. Raises an error if they or the header differ."""
    if len(set(found)) > 1:
        raise UnsupportedSlideError("tiles of one level state different colour spaces or samples")
    stream = found[0]
    if stream.count != header.count or (header.bits == 8) != (stream.bits == 8):
        raise DamagedSlideError(
            f"the header states {header.count} samples of {header.bits} bits, "
            f"the tiles have {stream.count} of {stream.bits}"
        )
    return replace(stream, extra=header.extra)


def _ycbcr(page: tifffile.TiffPage, plain: Samples) -> Samples:
    """Return the samples of unencoded YCbCr. Raises UnsupportedSlideError unless they are full-range BT.601."""
    for name, expected in (("YCbCrCoefficients", BT_601), ("ReferenceBlackWhite", FULL_RANGE)):
        stated = _fractions(page, name, len(expected))
        if stated is not None and not np.allclose(stated, expected, atol=5e-4):
            raise UnsupportedSlideError(f"{name} other than those of JFIF are not read")
    # Without the tag, chroma has half the samples (TIFF 6.0, YCbCrSubSampling).
    tag = page.tags.get("YCbCrSubSampling")
    return replace(plain, subsampled=tag is None or tuple(tag.value) != (1, 1))


def _fractions(page: tifffile.TiffPage, name: str, count: int) -> list[float] | None:
    """Return the values of a tag of ``count`` fractions, which may be stored as whole numbers; None without the tag."""
    tag = page.tags.get(name)
    if tag is None:
        return None
    values = list(tag.value)
    if len(values) == 2 * count:
        values = [above / below if below else np.nan for above, below in zip(values[::2], values[1::2], strict=True)]
    return [float(value) for value in values] if len(values) == count else [np.nan] * count
