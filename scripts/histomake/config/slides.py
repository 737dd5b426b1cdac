"""Keys of the steps per slide: store, tissue, artefacts, annotations and patch grids."""

from __future__ import annotations

from itertools import combinations
from typing import Literal

from pydantic import Field, model_validator

from histomake.base.units import Microns, Mpp, PatchPixels
from histomake.config.section import Name, Section, Share


class Convert(Section):
    """Conversion of slides to OME-Zarr. JPEG and JPEG 2000 tiles are copied, unless the codec is zstd."""

    codec: Literal["jpeg", "jpegxl", "zstd"] = Field(
        "jpeg",
        description="Codec for tiles that cannot be copied. zstd is lossless, about 10 times larger, and used for all "
        "levels, also in place of tiles that could be copied: every reader of OME-Zarr opens such a store.",
    )
    quality: int = Field(90, ge=1, le=100, description="Quality of re-encoded JPEG or JPEG XL tiles (1-100).")
    tile_px: int = Field(256, ge=64, le=2048, multiple_of=16, description="Tile edge of re-encoded levels in pixels.")
    shard_px: int = Field(
        8192, ge=256, description="Edge of one shard file in pixels. Larger shards give fewer files per slide."
    )
    store: Literal["directory", "zip"] = Field(
        "directory",
        description="directory: a folder of shards; zip: one file per slide, for file systems with few inodes.",
    )
    keep_label_image: bool = Field(
        False,
        description="Copy the scanner's photographs of the label and the glass. Off by default because they may show "
        "the patient's name.",
    )


class Tissue(Section):
    """Tissue detection on a low-resolution image of the slide."""

    mpp: Mpp = Field(
        Mpp(8.0),
        gt=0.5,
        le=64,
        description="Resolution in µm per pixel at which tissue is detected, so that the result does not depend on "
        "the scanner.",
    )
    mode: Literal["brightfield", "fluorescence", "whole"] = Field(
        "brightfield",
        description="brightfield: slides with a dark background are refused, and with threshold: otsu an image below "
        "10 mm² without glass (a field of view) is all tissue; fluorescence: bright areas are tissue; whole: "
        "everything is tissue, for cohorts of fields of view.",
    )
    channel: Literal["saturation", "red", "grey"] = Field(
        "saturation",
        description="Channel to which the threshold is applied: saturation (H&E, IHC), red (as in histo-fetch) or "
        "grey (as in PathFlowAI).",
    )
    threshold: Literal["otsu"] | float = Field(
        "otsu",
        description="otsu: Otsu's threshold on the square root of the channel, which keeps pale tissue; or a fixed "
        "value of 0-255.",
    )
    model: str | None = Field(
        None,
        description="Folder of a trained segmentation model with a class named tissue, used instead of the threshold; "
        "or of a network of someone else (model.onnx or model.safetensors) with a segmenter card model.json, see "
        "docs/records.md. Its mpp must be the one given here.",
    )
    blur_um: Microns = Field(
        Microns(8.0),
        ge=0,
        description="Sigma of the Gaussian blur before thresholding in µm. Larger values remove thin strands.",
    )
    close_um: Microns = Field(Microns(32.0), ge=0, description="Gaps up to this width are closed, in µm.")
    min_area_um2: float = Field(10_000.0, ge=0, description="Tissue components smaller than this are removed, in µm².")
    max_hole_um2: float = Field(20_000.0, ge=0, description="Holes smaller than this are filled, in µm².")
    ink: bool = Field(
        True, description="Exclude pen ink from the tissue. Disable it for blue or green stains (trichrome)."
    )
    grow_um: Microns = Field(
        Microns(0.0),
        ge=-500,
        le=500,
        description="Distance by which the mask is grown (positive) or shrunk (negative), in µm. 0 follows the visible "
        "edge of the tissue. Masks drawn by hand include a rim of glass: 24 resembles them and keeps more patches at "
        "the edge.",
    )

    @model_validator(mode="after")
    def _whole_without_model(self) -> Tissue:
        if self.mode == "whole" and self.model is not None:
            raise ValueError(
                "mode: whole takes everything as tissue, so model would have no effect; remove one of them"
            )
        return self


class Quality(Section):
    """Detection of artefacts in tissue: pen, out-of-focus areas, folds."""

    blur_sharpness: float = Field(
        0.25,
        ge=0,
        description="Tissue is out of focus if its local sharpness is below this share of the slide's median, or of a "
        "fixed reference if the whole slide is blurred.",
    )
    blur_mpp: Mpp = Field(
        Mpp(2.0), gt=0, le=16, description="Resolution at which sharpness is measured, in µm per pixel."
    )
    pen: bool = Field(True, description="Detect pen ink by its colour.")
    fold: bool = Field(
        True, description="Detect folds: tissue that is much denser than other tissue of the same colour."
    )
    max_share: Share = Field(0.5, description="Patches with a larger share of an artefact are excluded.")


class Annotations(Section):
    """Mapping from annotation names to the classes of tasks."""

    classes: dict[str, Name] = Field(
        default_factory=dict, description="Annotation name or mask value → class. Several names may map to one class."
    )
    ignore: list[str] = Field(default_factory=list, description="Annotation names to ignore.")
    cut_out: list[str] = Field(
        default_factory=list,
        description="Annotation names whose regions are cut out of all others, such as negative, Exclusion or _2. What "
        "is cut out has no class.",
    )
    class_property: str | None = Field(
        None,
        description="GeoJSON property with the class, with dots for nested properties. By default that of QuPath, "
        "else label, name or class.",
    )
    max_file_mb: float = Field(500.0, gt=0, description="Larger annotation files are refused, in MB, to limit memory.")
    mask_values: Literal["classes", "cells"] = Field(
        "classes",
        description="Meaning of the values of label masks. classes: those under classes; cells: every cell has its own "
        "number. Such masks give cells and nuclei (sections cells, radhical), but no class of patches.",
    )
    cell_part: Literal["cell", "nucleus"] = Field(
        "cell", description="Outline of a QuPath cell object to use if it has both."
    )
    max_outside: Share = Field(
        0.02,
        description="Share of the annotated area that may be outside the slide and is clipped. A larger share "
        "indicates a wrong scale or offset and is refused.",
    )

    @model_validator(mode="after")
    def _one_meaning_per_name(self) -> Annotations:
        uses = {"classes": self.classes, "ignore": self.ignore, "cut_out": self.cut_out}
        problems = [
            f"{name!r} is under {one} and under {other}; keep it in one"
            for (one, names), (other, others) in combinations(uses.items(), 2)
            for name in names
            if name in others
        ]
        if problems:
            raise ValueError("; ".join(problems))
        return self


class Readers(Section):
    """Consensus of the readers of slides that several annotated."""

    consensus: Literal["majority", "staple"] = Field(
        "majority",
        description="How the annotation of a slide is made from those of its readers. majority: the label of most, and "
        "none where labels tie, as two readers who differ do; staple: the most likely label, with readers weighted by "
        "their estimated performance (Warfield et al., 2004).",
    )
    mpp: Mpp = Field(
        Mpp(1.0), gt=0.05, le=64, description="Resolution at which labels of readers are compared, in µm per pixel."
    )


class Grid(Section):
    """A patch grid: a magnification, a patch size and a stride."""

    size: PatchPixels = Field(PatchPixels(256), ge=16, le=4096, description="Patch edge in pixels at the grid's mpp.")
    mpp: Mpp = Field(Mpp(0.5), gt=0.05, le=64, description="Resolution of the patches in µm per pixel.")
    stride: PatchPixels | None = Field(
        None,
        ge=8,
        description="Distance between patches in pixels at the grid's mpp. By default the size, without overlap.",
    )
    min_tissue: Share = Field(0.5, description="Patches with a smaller share of tissue are excluded as background.")
    max_upsampling: float = Field(
        1.1,
        ge=1,
        le=64,
        description="Slides whose pixels are larger than this many times mpp have no patches (too_coarse): enlarged, "
        "they would look like patches at mpp, but show less. The tolerance is for scanners that differ a little.",
    )
    border: Literal["drop", "pad"] = Field(
        "pad",
        description="Patches that extend beyond the slide: pad keeps them (white outside), drop excludes them as edge.",
    )
    roi: list[Name] = Field(
        default_factory=list,
        description="Annotation classes that form the region of interest, as drawn. Patches with their centre outside "
        "are excluded. Classes that no task learns only bound it: they never cover another class.",
    )
