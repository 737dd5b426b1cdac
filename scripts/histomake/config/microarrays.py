"""Keys of tissue microarrays."""

from __future__ import annotations

from pydantic import Field

from histomake.config.section import Section


class Microarray(Section):
    """Cores of tissue microarrays, found in the tissue mask. For a cohort whose slides are all microarrays."""

    core_mm: float = Field(
        ge=0.3,
        le=5,
        description="Diameter of a core in mm, as of the needle: 0.6, 1, 1.5 or 2. Cores may be half as large as that.",
    )
