"""Sections about what is shown and handed on: explanations, records of runs, exports."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from histomake.base.units import Level0Pixels, Mpp
from histomake.config.section import Name, Section

Extent = Annotated[Level0Pixels, Field(ge=1)]


class Explain(Section):
    """Explanations and visualisations of predictions."""

    contact_patches: int = Field(
        16,
        ge=1,
        le=64,
        description="Number of random kept patches, and of excluded ones, on the contact sheet of a slide.",
    )
    embed_patches: int = Field(
        5000, ge=10, description="Maximum number of patches in the embedding, distributed evenly over the test slides."
    )
    umap_neighbors: int = Field(
        15, ge=2, description="n_neighbors of UMAP: small values show local, large values global structure."
    )
    maps: list[Name] = Field(
        default_factory=list,
        description="Encoders whose features are shown as a map (UMAP) of the whole cohort. It is fitted to "
        "embed_patches patches of the slides whose split is not predict; up to as many of other slides are placed into "
        "it, and new slides do not change it.",
    )
    shap_patches: int = Field(16, ge=1, le=64, description="Number of patches explained by SHAP.")
    shap_background: int = Field(
        32, ge=2, le=256, description="Number of training patches that SHAP uses as the reference."
    )
    shap_at: list[tuple[str, Level0Pixels, Level0Pixels]] = Field(
        default_factory=list,
        description="Additional patches to explain: [slide_id, x, y], a point inside the patch in level-0 pixels.",
    )
    shap_method: Literal["gradient", "partition"] = Field(
        "gradient",
        description="gradient: expected gradients for each pixel. partition: uses only the outputs of the network, "
        "for squares of a sixteenth of the patch's edge and at most 8 background patches; slower.",
    )
    overlay_mpp: Mpp = Field(Mpp(8.0), gt=0.5, description="Resolution of overlays in µm per pixel.")
    regions: list[tuple[str, Level0Pixels, Level0Pixels, Extent, Extent]] = Field(
        default_factory=list,
        description="Regions of slides to examine: [slide_id, x, y, width, height] in level-0 pixels. Each is drawn "
        "with its annotation, prediction and errors, and up to 4 of its patches are explained by SHAP.",
    )
    qupath: bool = Field(
        False, description="Also write predictions as QuPath tiles, a GeoJSON of about 350 bytes per patch."
    )


class Audit(Section):
    """``audit``."""

    anchor: str | None = Field(
        None,
        description="Existing folder outside the results that receives the digest of every run record. Without one, "
        "whoever can write into the results folder could replace all records of runs unnoticed. Choose a place where "
        "files can be added but not changed, and use it for one results folder only.",
    )


class Export(Section):
    """``export``: the RO-Crate of `histomake export-crate`, and Snakemake's report."""

    identifiers: bool = Field(
        False,
        description="Whether the RO-Crate and Snakemake's report name slides, patients and original files. Otherwise "
        "the crate has pseudonyms, whose key and map stay in audit/ of the results, and the report has no page and no "
        "picture of a slide.",
    )
