"""Keys of cells: where they come from, and what is measured of them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt, field_validator

from histomake.base.cell_origins import CellOrigin
from histomake.base.units import Microns, Mpp
from histomake.config.section import Name, Section

FROM = r"^(annotation|(radhical|task):[A-Za-z0-9][A-Za-z0-9_]*)$"

Radius = Annotated[PositiveInt, Field(le=1000)]


class Cells(Section):
    """Cells as objects: a table per slide, with outlines for QuPath and a label image."""

    source: str = Field(
        pattern=FROM,
        description="Where cells come from. annotation: the annotations of the sheet, outlines of cells as QuPath "
        "exports them or label masks (see annotations.mask_values). radhical:NAME, task:NAME: a cascade, or a task "
        "that segments, of this configuration; the slides that it predicts. Touching cells of a segmentation are "
        "parted.",
    )
    classes: list[Name] = Field(
        default_factory=list,
        description="Classes of the annotation or the task that are cells; by default all. Not for cascades.",
    )
    neck_um: Microns | None = Field(
        Microns(0.5),
        gt=0,
        description="Touching cells are parted at necks whose half width, in µm, is at least this much smaller than "
        "that of the cells on both sides. Small values part more; null: never. Outlines, masks that number cells, and "
        "nuclei of cascades (see radhical.NAME.neck_um) are taken as they are.",
    )
    min_area_um2: float = Field(10.0, ge=0, description="Smaller objects of a segmentation are left out, in µm².")
    mpp: Mpp = Field(
        Mpp(0.5),
        gt=0.05,
        le=4,
        description="Resolution at which outlines are measured, in µm per pixel; of slides that are coarser their own. "
        "Masks and segmentations are measured at theirs.",
    )
    neighbours_um: list[Radius] = Field(
        default_factory=lambda: [25, 50],
        description="Radii in µm; for each, the table has the number of other cells whose centroids are within it.",
    )
    outlines: bool = Field(
        True, description="Also write a GeoJSON that QuPath opens as cells, about 700 bytes per cell."
    )

    @field_validator("neighbours_um")
    @classmethod
    def _ascending(cls, radii: list[int]) -> list[int]:
        if sorted(set(radii)) != radii:
            raise ValueError("neighbours_um must be ascending, each radius once")
        return radii

    @property
    def origin(self) -> CellOrigin:
        """The kind of the source."""
        kind: CellOrigin = self.source.partition(":")[0]  # type: ignore[assignment]
        return kind

    @property
    def maker(self) -> str:
        """The cascade or task that the cells come from; empty for annotations."""
        return self.source.partition(":")[2]
