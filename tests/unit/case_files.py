"""Writers of unusual slides: one made-up picture in unusual, incompletely described or damaged files.

``PICTURE`` is 700 x 500 px at 0.5 µm per pixel. No person, and no picture of anyone else, is shown.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import cv2
import imagecodecs
import numpy as np
import tifffile
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

WSI = "1.2.840.10008.5.1.4.1.1.77.1.6"
TILE = 128
TAGS = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
DEFLATED = {"photometric": "rgb", "compression": "deflate", "tile": (TILE, TILE), "metadata": None}


@cache
def picture(width: int = 700, height: int = 500, seed: int = 1) -> np.ndarray:
    """Return a made-up stained tissue, uint8 (height, width, 3), with a red square near its top left corner."""
    random = np.random.default_rng(seed)
    image = Image.new("RGB", (width, height), (243, 240, 242))
    draw = ImageDraw.Draw(image)
    draw.polygon([(60, 80), (400, 30), (640, 200), (560, 430), (150, 460)], fill=(214, 150, 190))
    for _ in range(700):
        x, y = random.integers(40, width - 40), random.integers(30, height - 30)
        if image.getpixel((int(x), int(y)))[1] < 200:
            r = random.integers(3, 8)
            colour = (random.integers(70, 120), random.integers(40, 80), random.integers(120, 170))
            draw.ellipse([x - r, y - r, x + r, y + r], fill=tuple(map(int, colour)))
    draw.rectangle([20, 20, 50, 40], fill=(200, 30, 30))
    draw.text((20, 470), "TOP LEFT IS RED", fill=(0, 0, 0))
    return np.array(image)


PICTURE = picture()
HEIGHT, WIDTH = PICTURE.shape[:2]
GREY = cv2.cvtColor(PICTURE, cv2.COLOR_RGB2GRAY)


def card(text: str, width: int, height: int) -> np.ndarray:
    """Return a white card with a line of text, like the label of a glass."""
    image = Image.new("RGB", (width, height), "white")
    ImageDraw.Draw(image).text((10, height // 2), text, fill="black")
    return np.array(image)


LABEL = card("LABEL: JANE DOE 1961-02-03", 200, 120)
MACRO = card("MACRO SHOWS LABEL: JANE DOE", 400, 130)


def reduced(image: np.ndarray, factor: int) -> np.ndarray:
    """Return the means over ``factor`` x ``factor`` pixels."""
    size = image.shape[1] // factor, image.shape[0] // factor
    return image if factor == 1 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def ycbcr(image: np.ndarray) -> np.ndarray:
    """Return RGB pixels as Y, Cb, Cr."""
    return np.ascontiguousarray(cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2YCrCb)[:, :, [0, 2, 1]])


def jpeg(tile: np.ndarray, *, colour: str = "YCBCR", sampling: str = "444", level: int = 95) -> bytes:
    """Encode RGB pixels as JPEG with the components ``colour``."""
    tile = np.ascontiguousarray(tile)
    return bytes(
        imagecodecs.jpeg8_encode(tile, level=level, colorspace="RGB", outcolorspace=colour, subsampling=sampling)
    )


def jpeg2000(tile: np.ndarray, *, mct: bool = False, boxed: bool = False) -> bytes:
    """Encode components as they are, or transformed, as lossless JPEG 2000."""
    tile = np.ascontiguousarray(tile)
    return bytes(
        imagecodecs.jpeg2k_encode(tile, level=0, reversible=True, mct=mct, codecformat="jp2" if boxed else "j2k")
    )


def jpeg2000_of_ycbcr(tile: np.ndarray) -> bytes:
    """Encode RGB pixels as JPEG 2000 of Y, Cb, Cr, without a component transform."""
    return jpeg2000(ycbcr(tile))


# Aperio


def write_svs(
    path: Path,
    *,
    extra: Sequence[tuple[np.ndarray, int, str | None]] = (),
    levels: Sequence[int] = (2,),
    mpp: str = "0.5",
    thumbnail: np.ndarray | None = None,
) -> Path:
    """Write an SVS with JPEG tiles. ``extra`` has striped pages: pixels, NewSubfileType and description."""
    description = (
        f"Aperio Leica Biosystems GT450 v1.0.1 \n{WIDTH}x{HEIGHT} [0,0,{WIDTH}x{HEIGHT}] (128x128) JPEG/RGB Q=91"
        f"|AppMag = 20|MPP = {mpp}"
    )
    tiled: dict[str, Any] = {"tile": (TILE, TILE), "compression": "jpeg", "photometric": "rgb", "metadata": None}
    small = reduced(PICTURE, 4) if thumbnail is None else thumbnail
    with tifffile.TiffWriter(path) as writer:
        writer.write(PICTURE, description=description, **tiled)
        writer.write(
            small, compression="jpeg", photometric="rgb", rowsperstrip=16, metadata=None, description=description
        )
        for factor in levels:
            writer.write(reduced(PICTURE, factor), description=description, **tiled)
        for pixels, kind, text in extra:
            writer.write(
                pixels,
                compression="jpeg" if kind == 9 else "lzw",
                photometric="rgb",
                subfiletype=kind,
                rowsperstrip=64,
                metadata=None,
                description=text,
            )
    return path


def remove_tiles(path: Path, page: int, tiles: Sequence[int]) -> Path:
    """Set offset and size of tiles of a TIFF to 0."""
    width = {3: 2, 4: 4, 16: 8}
    with tifffile.TiffFile(path) as tiff:
        tags = [tiff.pages[page].tags[name] for name in ("TileOffsets", "TileByteCounts")]
        places = [(tag.valueoffset, width[int(tag.dtype)]) for tag in tags]
    with path.open("r+b") as stream:
        for offset, size in places:
            for tile in tiles:
                stream.seek(offset + tile * size)
                stream.write(bytes(size))
    return path


# DICOM


def tiles_of(image: np.ndarray, edge: int = TILE) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
    """Yield corner (x, y) and pixels of every tile, filled up with white."""
    for y in range(0, image.shape[0], edge):
        for x in range(0, image.shape[1], edge):
            tile = np.full((edge, edge, *image.shape[2:]), 255, np.uint8)
            part = image[y : y + edge, x : x + edge]
            tile[: part.shape[0], : part.shape[1]] = part
            yield (x, y), tile


def write_dicom(
    path: Path,
    image: np.ndarray = PICTURE,
    *,
    edge: int = TILE,
    syntax: str = ExplicitVRLittleEndian,
    encode: Callable[[np.ndarray], bytes] | None = None,
    photometric: str = "RGB",
    organization: str | None = "TILED_FULL",
    order: Sequence[int] | None = None,
    positions: bool = False,
    mpp: float = 0.5,
    empty: Sequence[int] = (),
    change: Callable[[Dataset], None] | None = None,
) -> Path:
    """Write a DICOM whole-slide image of one level; ``change`` edits the data set before it is written."""
    path.parent.mkdir(exist_ok=True)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = WSI
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[path.name])
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = "1.2.3", "1.2.3.4", "1.2.3.9"
    dataset.Modality, dataset.Manufacturer = "SM", "synthetic"
    dataset.PatientID, dataset.PatientName = "P", "Doe^Jane"
    dataset.ImageType, dataset.InstanceNumber = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"], 1
    dataset.TotalPixelMatrixRows, dataset.TotalPixelMatrixColumns = image.shape[:2]
    dataset.Rows = dataset.Columns = edge
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1 if image.ndim == 2 else 3, photometric
    if image.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    if organization:
        dataset.DimensionOrganizationType = organization
    measures, group = Dataset(), Dataset()
    measures.PixelSpacing = [mpp / 1000, mpp / 1000]
    group.PixelMeasuresSequence = DicomSequence([measures])
    dataset.SharedFunctionalGroupsSequence = DicomSequence([group])
    frames = list(tiles_of(image, edge))
    chosen = list(range(len(frames)) if order is None else order)
    if positions:
        dataset.PerFrameFunctionalGroupsSequence = DicomSequence([_position(*frames[i][0]) for i in chosen])
    dataset.NumberOfFrames = len(chosen)
    data = [b"" if i in empty else encode(frames[i][1]) if encode else frames[i][1].tobytes() for i in chosen]
    dataset.PixelData = _item(b"") + b"".join(map(_item, data)) if encode else b"".join(data)
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = bool(encode)
    if change:
        change(dataset)
    dataset.save_as(path, enforce_file_format=True)
    return path


def _position(x: int, y: int) -> Dataset:
    place, group = Dataset(), Dataset()
    place.ColumnPositionInTotalImagePixelMatrix, place.RowPositionInTotalImagePixelMatrix = x + 1, y + 1
    place.XOffsetInSlideCoordinateSystem = place.YOffsetInSlideCoordinateSystem = 0
    place.ZOffsetInSlideCoordinateSystem = 0
    group.PlanePositionSlideSequence = DicomSequence([place])
    return group


def _item(data: bytes) -> bytes:
    data += bytes(len(data) % 2)
    return b"\xfe\xff\x00\xe0" + len(data).to_bytes(4, "little") + data


FRAMES = -(-WIDTH // TILE) * -(-HEIGHT // TILE)
SHUFFLED = np.random.default_rng(0).permutation(FRAMES).tolist()

# TIFF, tag by tag


def padded_tiles(image: np.ndarray = PICTURE) -> list[np.ndarray]:
    """Return the tiles of an image, filled up by repeating its edge."""
    height, width = image.shape[:2]
    padding = ((0, -height % TILE), (0, -width % TILE), (0, 0))[: image.ndim]
    full = np.pad(image, padding, mode="edge")
    return [full[y : y + TILE, x : x + TILE] for y in range(0, height, TILE) for x in range(0, width, TILE)]


def write_tiff(
    path: Path,
    tiles: Sequence[bytes],
    *,
    compression: int,
    photometric: int,
    tables: bytes | None = None,
    description: str | None = None,
    samples: int = 3,
    tags: dict[int, tuple[str, list[int]]] | None = None,
) -> Path:
    """Write a TIFF of encoded tiles and any tags, by number: type letter of `struct` and values."""
    data, offsets = bytearray(b"II*\0\0\0\0\0"), []
    for tile in tiles:
        data += bytes(len(data) % 2)
        offsets.append(len(data))
        data += tile
    entries: dict[int, tuple[str, Any]] = {
        256: ("I", [WIDTH]),
        257: ("I", [HEIGHT]),
        258: ("H", [8] * samples),
        259: ("H", [compression]),
        262: ("H", [photometric]),
        277: ("H", [samples]),
        282: ("R", [20_000, 1]),
        283: ("R", [20_000, 1]),
        284: ("H", [1]),
        296: ("H", [3]),
        322: ("I", [TILE]),
        323: ("I", [TILE]),
        324: ("I", offsets),
        325: ("I", list(map(len, tiles))),
        **({347: ("B", tables)} if tables else {}),
        **({270: ("s", description.encode() + b"\0")} if description else {}),
        **(tags or {}),
    }
    directory = struct.pack("<H", len(entries))
    for tag in sorted(entries):
        directory += _entry(data, tag, *entries[tag])
    data += bytes(len(data) % 2)
    data[4:8] = struct.pack("<I", len(data))
    path.write_bytes(bytes(data) + directory + bytes(4))
    return path


def _entry(data: bytearray, tag: int, kind: str, values: Any) -> bytes:
    """Return a directory entry; values that do not fit into it are appended to ``data``."""
    code = {"H": 3, "I": 4, "R": 5, "B": 7, "s": 2, "F": 11, "i": 9}[kind]
    if kind == "F":
        content, count = struct.pack("<f", *values), 1
    elif kind in "HIi":
        content, count = struct.pack(f"<{len(values)}{kind}", *values), len(values)
    elif kind == "R":
        content, count = struct.pack("<2I", *values), 1
    else:
        content, count = bytes(values), len(values)
    if len(content) > 4:
        data += bytes(len(data) % 2)
        content, place = struct.pack("<I", len(data)), content
        data += place
    return struct.pack("<HHI", tag, code, count) + content.ljust(4, b"\0")


def split_jpeg(stream: bytes) -> tuple[bytes, bytes]:
    """Split a JPEG file into its tables and the rest, both without markers of start and of colour."""
    position, tables, rest = 2, b"", b""
    while True:
        marker, length = stream[position + 1], int.from_bytes(stream[position + 2 : position + 4])
        segment = stream[position : position + 2 + length]
        if marker in (0xDB, 0xC4):
            tables += segment
        elif not 0xE0 <= marker <= 0xEF:
            rest += segment
        position += 2 + length
        if marker == 0xDA:
            return tables, rest + stream[position:]


JFIF = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"


# Hamamatsu


def write_ndpi(
    path: Path,
    factors: Sequence[int] = (1, 2, 4),
    *,
    texts: Mapping[int, str] = MappingProxyType({}),
    change: Callable[[bytes], bytes] = bytes,
) -> Path:
    """Write an NDPI: one JPEG strip per level, and the magnification of each in a tag of Hamamatsu.

    ``texts``: texts of further tags; ``change``: applied to every JPEG stream.
    """
    data, directories = bytearray(b"II*\0" + bytes(8)), []
    for factor in factors:
        pixels = reduced(PICTURE, factor)
        stream, offset = change(jpeg(pixels)), len(data)
        data += stream + bytes(len(stream) % 2)
        entries: dict[int, tuple[str, Any]] = {
            256: ("I", [pixels.shape[1]]),
            257: ("I", [pixels.shape[0]]),
            258: ("H", [8] * 3),
            259: ("H", [7]),
            262: ("H", [6]),
            271: ("s", b"Hamamatsu\0"),
            273: ("I", [offset]),
            277: ("H", [3]),
            278: ("I", [pixels.shape[0]]),
            279: ("I", [len(stream)]),
            282: ("R", [20_000, factor]),
            283: ("R", [20_000, factor]),
            296: ("H", [3]),
            65420: ("I", [1]),
            65421: ("F", [20 / factor]),
            65422: ("i", [0]),
            65423: ("i", [0]),
            65424: ("i", [0]),
            **{tag: ("s", text.encode() + b"\0") for tag, text in texts.items()},
        }
        directory = struct.pack("<H", len(entries))
        for tag in sorted(entries):
            directory += _entry(data, tag, *entries[tag])
        directories.append((directory, entries))
    link = 4
    for directory, entries in directories:
        data += bytes(len(data) % 2)
        data[link : link + 4] = struct.pack("<I", len(data))
        link = len(data) + len(directory)
        data += directory + bytes(8) + bytes(4 * len(entries))  # offsets have 8 bytes, those of values in two parts
    path.write_bytes(data)
    return path
