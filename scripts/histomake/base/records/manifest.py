"""The manifest of a slide: what its OME-Zarr store holds and which file it was converted from."""

from __future__ import annotations

from typing import ClassVar, Literal

from histomake.base.records.record import (
    Count,
    Json,
    Part,
    Positive,
    PositiveMpp,
    Size,
    SlideSize,
    StageRecord,
    Upgrade,
)
from histomake.base.units import Level0Pixels

MppSource = Literal["sheet", "vendor", "tiff_tags"]


def rename_format(content: Json) -> Json:
    """``slide_format`` is called ``format``."""
    return {**content, "slide_format": content.get("format")}


class ManifestLevel(Part, frozen=True, kw_only=True):
    """A resolution level of the store."""

    path: str
    """Path of the level's array inside the store."""
    width: Size
    """Width, in pixels of the level."""
    height: Size
    """Height, in pixels of the level."""
    downsample: Positive
    """Edge of one of the level's pixels, in level-0 pixels."""
    mpp: PositiveMpp
    """Resolution, in µm per pixel: the slide's ``mpp`` times ``downsample``."""
    codec: str
    """Codec of the tiles: ``jpeg``, ``jpeg2k``, ``jpegxl`` or ``zstd``."""
    passthrough: bool
    """Whether encoded tiles were copied from the slide. Otherwise pixels were encoded again."""
    empty_tiles: Count
    """Tiles that are not stored because the slide has no pixels there."""
    filled_tiles: Count = 0
    """Tiles that the file lacks on this level only, and that were made from the next finer level."""


class Bounds(Part, frozen=True, kw_only=True):
    """A rectangle in level-0 pixels."""

    x: Level0Pixels
    """Left edge, in level-0 pixels."""
    y: Level0Pixels
    """Top edge, in level-0 pixels."""
    width: Level0Pixels
    """Width, in level-0 pixels."""
    height: Level0Pixels
    """Height, in level-0 pixels."""

    @classmethod
    def of(cls, x: Level0Pixels, y: Level0Pixels, width: Level0Pixels, height: Level0Pixels) -> Bounds:
        """From the four numbers in their usual order."""
        return cls(x=x, y=y, width=width, height=height)


class VirtualStain(Part, frozen=True, kw_only=True):
    """What a virtual slide was computed by."""

    transfer: str
    """Name of the stain transfer."""
    stains: tuple[str, str]
    """Stain of the slide, and the stain that it was given."""
    weights_sha256: str | None
    """sha256 of the weights of the generators."""

    @property
    def label(self) -> str:
        """The mark of all its pictures."""
        return f"in silico: {self.stains[0]} to {self.stains[1]} by {self.transfer}"


class Manifest(StageRecord, frozen=True, kw_only=True):
    """A converted slide: its OME-Zarr store, its resolution, and the file it was made from."""

    NAME: ClassVar[str] = "slide manifest"
    UPGRADES: ClassVar[tuple[Upgrade, ...]] = (rename_format,)

    store: str
    """Name of the store next to the manifest: ``{slide}.zarr``, or ``{slide}.zarr.zip``."""
    width: SlideSize
    """Width of the finest level, in pixels."""
    height: SlideSize
    """Height of the finest level, in pixels."""
    mpp: PositiveMpp
    """Resolution of the finest level, in µm per pixel: the mean of both axes. All lengths are computed from it."""
    mpp_x: PositiveMpp
    """Resolution along x, in µm per pixel."""
    mpp_y: PositiveMpp
    """Resolution along y, in µm per pixel."""
    mpp_source: MppSource
    """Where the resolution comes from: the sheet, the scanner's metadata, or the TIFF resolution tags."""
    levels: tuple[ManifestLevel, ...]
    """Levels of the store, finest first."""
    bounds: Bounds | None = None
    """The scanned part of the slide, where the scanner states one."""
    associated: dict[str, str]
    """Associated images (``thumbnail``, ``label``, ``macro``) and all else in the file that is not the slide:
    ``stored``, or why it was left out."""
    sha256: str
    """sha256 of the slide file; of several files, of their sorted (name, sha256) list."""
    checksums: dict[str, str]
    """sha256 of every file of the store, by its path inside the store; of a zipped store, of the zip file."""
    bytes_in: Count
    """Size of the slide file or files, in bytes."""
    bytes_out: Count
    """Size of the store, in bytes."""
    files: Count
    """Number of files of the store."""
    vendor: str
    """Vendor of the scanner, as OpenSlide names it, or ``generic``."""
    slide_format: str
    """Family of the slide's file format: ``tiff``, ``dicom``, ``openslide`` …"""
    properties: dict[str, str]
    """Metadata of the slide that cannot identify a person, under the vendor's names."""
    seconds: dict[str, float]
    """Duration of the conversion and of its parts ``open``, ``tiles`` and ``commit``, in seconds."""
    virtual: VirtualStain | None = None
    """What computed the stain of a virtual slide, whose ``sha256`` is that of the scanned slide; else null."""
