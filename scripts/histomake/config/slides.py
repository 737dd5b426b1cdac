"""Owns the keys of what is made of every slide: its store, tissue, quality, annotations and patch grids."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from histomake.base.units import Microns, Mpp, PatchPixels
from histomake.config.section import Name, Section, Share


class Convert(Section):
    """Slide to OME-Zarr. JPEG and lossless JPEG 2000 tiles are always copied, never re-encoded."""

    codec: Literal["jpeg", "jpegxl", "zstd"] = Field(
        "jpeg",
        description="Codec for sources whose tiles cannot be copied; zstd is lossless and about 10 times larger.",
    )
    quality: int = Field(90, ge=1, le=100, description="Quality of re-encoded JPEG or JPEG XL tiles (1-100).")
    tile_px: int = Field(256, ge=64, le=2048, multiple_of=16, description="Tile edge of re-encoded levels, in pixels.")
    shard_px: int = Field(
        8192, ge=256, description="Edge of one shard file, in pixels: larger means fewer files per slide."
    )
    store: Literal["directory", "zip"] = Field(
        "directory",
        description="directory: a folder of shards; zip: one file per slide, for file systems short of inodes.",
    )
    keep_label_image: bool = Field(
        False,
        description="Copy the scanner's photographs of label and glass; off because they may show the patient's name.",
    )


class Tissue(Section):
    """Presegmentation of tissue, on a low-resolution reading of the slide."""

    mpp: Mpp = Field(
        Mpp(8.0), gt=0.5, le=64, description="Working resolution in µm per pixel; never in pixels, so scanners agree."
    )
    mode: Literal["brightfield", "fluorescence"] = Field(
        "brightfield",
        description="brightfield refuses dark-background slides with a reason; fluorescence finds bright tissue.",
    )
    channel: Literal["saturation", "red", "grey"] = Field(
        "saturation",
        description="What is thresholded: saturation (H&E, IHC), red (as histo-fetch) or grey (as PathFlowAI).",
    )
    threshold: Literal["otsu"] | float = Field(
        "otsu",
        description="otsu (on the channel's square root, so that pale tissue is kept), or a fixed value of 0-255.",
    )
    model: str | None = Field(
        None,
        description="Folder of a trained segmentation model with a class named tissue, in place of the threshold; its "
        "grid must have the mpp given here.",
    )
    blur_um: Microns = Field(
        Microns(8.0), ge=0, description="Gaussian sigma before thresholding, in µm; more would wash out thin strands."
    )
    close_um: Microns = Field(Microns(32.0), ge=0, description="Gaps up to this width are closed, in µm.")
    min_area_um2: float = Field(
        10_000.0, ge=0, description="Tissue pieces below this area are dropped as specks, in µm²."
    )
    max_hole_um2: float = Field(20_000.0, ge=0, description="Holes below this area are filled, in µm².")
    ink: bool = Field(
        True, description="Leave pen ink out of the tissue; switch off for blue or green stains (trichrome)."
    )
    grow_um: Microns = Field(
        Microns(0.0), ge=-500, le=500, description="Grow (positive) or shrink (negative) the mask, in µm."
    )


class Quality(Section):
    """Artefacts inside tissue: pen, out-of-focus areas, folds."""

    blur_sharpness: float = Field(
        0.25,
        ge=0,
        description="Tissue whose local sharpness is below this share of the slide's median (or, in a slide blurred "
        "all over, of what is usual) is out of focus.",
    )
    blur_mpp: Mpp = Field(
        Mpp(2.0), gt=0, le=16, description="Resolution at which sharpness is measured, in µm per pixel."
    )
    pen: bool = Field(True, description="Look for pen ink by colour.")
    fold: bool = Field(True, description="Look for folds: tissue far denser than tissue of its colour usually is.")
    max_share: Share = Field(0.5, description="A patch with more than this share of an artefact is excluded for it.")


class Annotations(Section):
    """Where annotation names become the classes a task learns."""

    classes: dict[str, Name] = Field(
        default_factory=dict, description="Annotation name or mask value → class; several names may share a class."
    )
    ignore: list[str] = Field(default_factory=list, description="Annotation names to leave out without an error.")
    class_property: str | None = Field(
        None,
        description="GeoJSON property that holds the class, dots for nesting; default: QuPath's, else label, name, "
        "class.",
    )
    max_file_mb: float = Field(
        500.0, gt=0, description="Larger annotation files are refused, in MB: memory stays bounded."
    )
    cell_part: Literal["cell", "nucleus"] = Field(
        "cell", description="Which outline of a QuPath cell object is taken, where it has both."
    )
    max_outside: Share = Field(
        0.02,
        description="Annotated area that may lie off the slide and is clipped; more means a wrong scale or offset.",
    )


class Grid(Section):
    """One patch grid: a magnification and how it is walked."""

    size: PatchPixels = Field(PatchPixels(256), ge=16, le=4096, description="Patch edge in pixels at this grid's mpp.")
    mpp: Mpp = Field(Mpp(0.5), gt=0.05, le=64, description="Resolution of the patches in µm per pixel.")
    stride: PatchPixels | None = Field(
        None, ge=8, description="Step in pixels at this grid's mpp; default: size, no overlap."
    )
    min_tissue: Share = Field(0.5, description="Patches with a smaller share of tissue are excluded as background.")
    border: Literal["drop", "pad"] = Field(
        "pad", description="Cells over the slide's edge: pad keeps them (white outside), drop excludes them as edge."
    )
    roi: list[Name] = Field(
        default_factory=list,
        description="Classes that bound the region of interest; patches whose centre lies outside are excluded.",
    )
