"""Which slides a generator is learned from and compared with, and what a run makes of it."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from histomake.cohort.generator_slides import GeneratorSlide, assign_roles
from histomake.config import Grid
from histomake.patch.field_grid import field_grid, grid_name
from histomake.planning.network_memory import LOADERS
from histomake.planning.plan import Plan


class GeneratorPlan:
    """The generators under ``generators`` in the configuration. Raises ConfigError for slides that do not suffice."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.generators = plan, plan.config.generators

    @cached_property
    def grids(self) -> dict[str, Grid]:
        """The grids of the fields, by names that no grid of the configuration has."""
        return {grid_name(name): field_grid(generator) for name, generator in self.generators.items()}

    @cached_property
    def members(self) -> dict[str, list[GeneratorSlide]]:
        """The slides, by generator."""
        rows, seed = self.plan.slides.values(), self.plan.config.seed
        return {n: assign_roles(rows, generator, seed=seed, name=n) for n, generator in self.generators.items()}

    def slides(self, name: str, role: str) -> list[str]:
        """Ids of the slides with a role, sorted."""
        return [member.slide_id for member in self.members[name] if member.role == role]

    def cohort(self, name: str, role: str) -> list[list[Any]]:
        """Id, patient and label of each slide with a role: a param."""
        return [[m.slide_id, m.patient_id, m.label] for m in self.members[name] if m.role == role]

    def cores(self, name: str) -> int:
        """CPU cores for a training: one, and one for each loader."""
        workers = self.generators[name].train.workers
        return 1 + (LOADERS if workers is None else workers)

    def encoder_files(self, name: str) -> list[Path]:
        """Files of the encoder by which the generator is measured."""
        encoder = self.generators[name].measure.encoder
        return [] if encoder is None else self.plan.files_of_encoder(encoder)

    def encoder_settings(self, name: str) -> dict[str, Any] | None:
        """Settings of that encoder that shape its features: a param."""
        encoder = self.generators[name].measure.encoder
        return None if encoder is None else {encoder: self.plan.config.encoders[encoder].shaping()}

    def outputs(self) -> list[Path]:
        """Weights, samples and measures of all generators."""
        files = [self.plan.layout.generator(name) for name in self.generators]
        return [path for each in files for path in (each.weights, each.samples, each.measures)]
