"""What a person should know of a plan before the run starts: nothing that stops it, but what may not be meant so."""

from __future__ import annotations

from collections.abc import Iterator

from histomake.cohort.folds import LEAST, merged_strata, merged_strata_of_task
from histomake.cohort.strata import Stratum
from histomake.config import Split
from histomake.planning.plan import Plan

NAMED = 8
"""Items that a note names; of further ones it gives the number."""


def notes(plan: Plan) -> list[str]:
    """Notes on a plan, each one line."""
    return list(_small_strata(plan))


def _small_strata(plan: Plan) -> Iterator[str]:
    slides = plan.slides.values()
    for name in plan.trained:
        task = plan.config.tasks[name]
        yield from _merged(f"task {name}", merged_strata_of_task(slides, task), task.split)
    for name, cascade in plan.config.radhical.items():
        annotated = [slide for slide in slides if slide.annotation]
        yield from _merged(f"radhical {name}", merged_strata(annotated, cascade.split), cascade.split)


def _merged(what: str, found: dict[Stratum, int], split: Split) -> Iterator[str]:
    if found:
        names = [f"{' / '.join(value or '(empty)' for value in s)} ({n})" for s, n in found.items()]
        yield (
            f"{what}: strata of fewer than {max(LEAST, split.folds)} patients are too small to balance, and are "
            f"balanced together: {listed(names)}"
        )


def listed(names: list[str]) -> str:
    """The names, of many only the first."""
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
