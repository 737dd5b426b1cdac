"""Which slides a stain transfer is learned from, measured on and applied to."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from histomake.base.errors import ConfigError
from histomake.cohort.side_contents import SIDES
from histomake.cohort.sides import SideMember, assign_sides
from histomake.planning.network_memory import LOADERS
from histomake.planning.plan import Plan

DIRECTIONS = ("forward", "backward")
"""By the side whose stain is changed."""

MOST_NAMED = 8
"""Slides that a message names."""


class TransferPlan:
    """The transfers under ``stain_transfers`` in the configuration. Raises ConfigError for sides that do not fit."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.transfers = plan, plan.config.stain_transfers
        self._checked: dict[str, set[str]] = {}

    @cached_property
    def members(self) -> dict[str, list[SideMember]]:
        """The slides of both sides, by transfer."""
        rows, seed = self.plan.slides.values(), self.plan.config.seed
        return {n: assign_sides(rows, transfer, seed=seed, name=n) for n, transfer in self.transfers.items()}

    def misfits(self) -> list[str]:
        """Reasons why the sides of transfers do not fit, one for each."""
        found = []
        for name, transfer in self.transfers.items():
            try:
                assign_sides(self.plan.slides.values(), transfer, seed=self.plan.config.seed, name=name)
            except ConfigError as error:
                found.append(str(error))
        return found

    def slides(self, name: str, *roles: str) -> list[str]:
        """Ids of the slides of both sides with one of the roles, sorted."""
        return [member.slide_id for member in self.members[name] if member.role in roles]

    def cohort(self, name: str) -> list[list[Any]]:
        """Id, patient and side of each slide to learn from: a param."""
        return [[m.slide_id, m.patient_id, SIDES[m.side]] for m in self.members[name] if m.role == "train"]

    def cores(self, name: str) -> int:
        """CPU cores for a training: one, and one for each loader."""
        workers = self.transfers[name].train.workers
        return 1 + (LOADERS if workers is None else workers)

    def side(self, name: str, slide: str) -> int:
        """Side of a slide: 0 for ``from``, 1 for ``to``."""
        return self._sides[name][slide]

    @cached_property
    def _sides(self) -> dict[str, dict[str, int]]:
        return {name: {member.slide_id: member.side for member in members} for name, members in self.members.items()}

    def applied(self, name: str) -> list[str]:
        """Ids of the slides that are made in the other stain, sorted."""
        apply = self.transfers[name].apply
        return [m.slide_id for m in self.members[name] if m.role in apply.roles and m.side in apply.sides]

    def held_out(self, name: str, direction: str) -> tuple[list[list[str]], list[list[str]]]:
        """Id and patient of the held-out slides whose stain a direction changes, and of those with the wanted stain."""
        side = DIRECTIONS.index(direction)
        tested = [m for m in self.members[name] if m.role == "test"]
        own, others = ([[m.slide_id, m.patient_id] for m in tested if m.side == s] for s in (side, 1 - side))
        return own, others

    def measured(self, name: str, direction: str) -> list[str]:
        """Ids of the held-out slides whose stain a direction changes."""
        return [slide for slide, _ in self.held_out(name, direction)[0]]

    def compared(self, name: str, direction: str) -> list[str]:
        """Ids of all held-out slides, those whose stain a direction changes first."""
        return [slide for slides in self.held_out(name, direction) for slide, _ in slides]

    def measures(self, name: str) -> list[Path]:
        """Measures of the directions in which a transfer is applied."""
        files = self.plan.layout.transfer(name)
        return [files.measures(DIRECTIONS[side]) for side in self.transfers[name].apply.sides]

    def encoder_files(self, name: str) -> list[Path]:
        """Files of the encoder by which the transfer is measured."""
        encoder = self.transfers[name].measure.encoder
        return [] if encoder is None else self.plan.files_of_encoder(encoder)

    def encoder_settings(self, name: str) -> dict[str, Any] | None:
        """Settings of the encoder by which the transfer is measured, that shape its features: a param."""
        encoder = self.transfers[name].measure.encoder
        return None if encoder is None else {encoder: self.plan.config.encoders[encoder].shaping()}

    def outputs(self, unchanged: Collection[str]) -> list[Path]:
        """Weights and measures of all transfers, and all virtual slides but those of ``unchanged`` slides."""
        found = list[Path]()
        for name in self.transfers:
            files = self.plan.layout.transfer(name)
            slides = [slide for slide in self.applied(name) if slide not in unchanged]
            found += [files.weights, *self.measures(name), *map(files.manifest, slides), *map(files.store, slides)]
        return found

    # --- tasks that predict virtual slides ----------------------------------------------------------------------------

    def manifest(self, task: str, slide: str) -> Path:
        """Manifest of the slide that a task predicts: as scanned, or in silico.

        Raises ConfigError if the task may not predict virtual slides.
        """
        name = self._made_for(task, slide)
        return self.plan.layout.manifest(slide) if name is None else self.plan.layout.transfer(name).manifest(slide)

    def virtual_stores(self, task: str, slide: str) -> list[Path]:
        """Store of the virtual slide that a task predicts, if it is one."""
        name = self._made_for(task, slide)
        return [] if name is None else [self.plan.layout.transfer(name).store(slide)]

    def _made_for(self, task: str, slide: str) -> str | None:
        """The transfer that changes the stain of a slide for a task."""
        name = self.plan.config.tasks[task].predict.transfer
        return name if name is not None and slide in self._changed(task, name) else None

    def _changed(self, task: str, name: str) -> set[str]:
        """The slides whose stain is changed for a task."""
        if task not in self._checked:
            changed = {m.slide_id: m.role for m in self.members[name] if m.side == 0}
            self._refuse_truth(task, name, changed)
            self._checked[task] = set(changed)
        return self._checked[task]

    def _refuse_truth(self, task: str, name: str, changed: Mapping[str, str]) -> None:
        """Raise ConfigError if virtual slides may not be test slides, or taught the generators."""
        tested = sorted({slide for _, slide in self.plan.slides_by_fold(task, "test")} & set(changed))
        place = f"tasks.{task}.predict.transfer: {name} changes the stain of test slides"
        if tested and not self.plan.config.tasks[task].predict.allow_virtual:
            raise ConfigError(
                f"{place}: {_listed(tested)}. A virtual slide is no truth to test with: give them the role predict in "
                "the column split of the sheet, or set predict.allow_virtual: true to measure predictions in silico"
            )
        if taught := [slide for slide in tested if changed[slide] == "train"]:
            raise ConfigError(
                f"{place} that its generators learned from: {_listed(taught)}. Give their patients the role test in "
                "the column split of the sheet"
            )


def _listed(slides: Sequence[str]) -> str:
    """The first slides by name."""
    return ", ".join(slides[:MOST_NAMED]) + (
        f" and {len(slides) - MOST_NAMED} more" if len(slides) > MOST_NAMED else ""
    )
