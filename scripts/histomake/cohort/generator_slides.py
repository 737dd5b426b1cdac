"""Which slides a generator is learned from, and which patients are held out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from histomake.base.errors import ConfigError
from histomake.cohort.holding_out import LEAST, fixed_roles, held_out
from histomake.cohort.sheet import Slide
from histomake.config import Generator


@dataclass(frozen=True)
class GeneratorSlide:
    """A slide of a generator. role: train or test; label: value of the column that it is conditioned on."""

    slide_id: str
    patient_id: str
    role: str
    label: str | None


def assign_roles(slides: Iterable[Slide], generator: Generator, *, seed: int, name: str) -> list[GeneratorSlide]:
    """The slides of a generator with their roles, sorted by id; none that are only to be predicted.

    Roles of the sheet are kept, val as train; otherwise patients to hold out are taken by a keyed hash. Raises
    ConfigError if a slide has no label, or there are not enough patients to hold one out.
    """
    section = f"generators.{name}"
    found = [slide for slide in slides if slide.split != "predict" and _chosen(slide, generator)]
    _require_labels(found, generator, section)
    roles = fixed_roles(found, section)
    if "test" not in roles.values():
        free = {slide.patient_id: (0,) for slide in found if slide.patient_id not in roles}
        roles |= dict.fromkeys(held_out(free, share=generator.test, key=f"{seed}\0{section}"), "test")
    members = [
        GeneratorSlide(s.slide_id, s.patient_id, roles.get(s.patient_id, "train"), _label(s, generator)) for s in found
    ]
    _require_roles(members, generator, section)
    return sorted(members, key=lambda member: member.slide_id)


def _chosen(slide: Slide, generator: Generator) -> bool:
    chosen = generator.slides
    return chosen is None or slide.value(chosen.column) == chosen.value


def _label(slide: Slide, generator: Generator) -> str | None:
    return None if generator.label is None else slide.value(generator.label)


def _require_labels(slides: Iterable[Slide], generator: Generator, section: str) -> None:
    missing = sorted(s.slide_id for s in slides if generator.label is not None and not _label(s, generator))
    if missing:
        raise ConfigError(
            f"{section}.label: slides without a value in column {generator.label!r}: {', '.join(missing)}. Enter it in "
            "the sheet, or leave the slides out by the key slides"
        )


def _require_roles(members: list[GeneratorSlide], generator: Generator, section: str) -> None:
    """Raise ConfigError if a role, or a label to learn from, has no slide."""
    chosen = "the sheet" if generator.slides is None else f"column {generator.slides.column!r} with that value"
    patients = {member.patient_id for member in members}
    if len(patients) < LEAST:
        raise ConfigError(
            f"{section}: slides of {len(patients)} patient(s) in {chosen}; {LEAST} are needed, one to hold out"
        )
    missing = [role for role in ("train", "test") if role not in {member.role for member in members}]
    if missing:
        raise ConfigError(f"{section}: no slide to {' and to '.join(missing)}; assign roles in the split column")
    learned = {member.label for member in members if member.role == "train"}
    unknown = sorted({str(member.label) for member in members} - {str(label) for label in learned})
    if unknown:
        raise ConfigError(
            f"{section}.label: only held-out slides have {', '.join(unknown)} in column {generator.label!r}; assign "
            "roles in the split column, so that every label can be learned"
        )
