"""Images of the rules' environments."""

from __future__ import annotations

from pydantic import Field

from histomake.config.section import Section

LOCATION = "A file (images/slides.sif), or an address that Apptainer can fetch."


class Containers(Section):
    """Images in which jobs run with `--sdm apptainer`; envs/README.md says how to build them."""

    slides: str | None = Field(None, description=f"Image of the steps that need no torch. {LOCATION}")
    learning: str | None = Field(None, description="Image of all other steps. It may be that of all steps.")
