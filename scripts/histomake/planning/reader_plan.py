"""Slides that several readers annotated: whose labels models learn, and what cannot be learned from them."""

from __future__ import annotations

from pathlib import Path

from histomake.planning.plan import Plan


class ReaderPlan:
    """The readers of a plan's slides."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def drawn(self, task: str, fold: int | str) -> dict[str, list[str]]:
        """Readers whose labels a model learns, by id of the slide, both sorted: a param; none with the consensus."""
        if self.plan.config.tasks[task].train.readers != "draw":
            return {}
        slides = [self.plan.slides[slide] for slide in self.plan.slides_in(task, fold, "train")]
        return {slide.slide_id: sorted(slide.readers) for slide in slides if slide.readers}

    def readings(self, task: str, fold: int | str) -> list[Path]:
        """Patch table and annotation record of each reader whose labels a model learns, in the order of `drawn`."""
        grid, found = self.plan.config.tasks[task].grid, self.drawn(task, fold)
        files = [self.plan.layout.reading(slide, reader) for slide, readers in found.items() for reader in readers]
        return [path for one in files for path in (one.table(grid), one.record)]

    def misfits(self) -> list[str]:
        """What cannot be learned from slides with several readers, who have no cells in common, or without them."""
        plan = self.plan
        slides = [plan.slides[slide] for slide in sorted(plan.read_by_several)]
        learned = ", ".join(slide.slide_id for slide in slides if slide.split != "predict")
        found = []
        if slides and plan.config.annotations.mask_values == "cells":
            found.append(
                f"slides {', '.join(slide.slide_id for slide in slides)} have several readers, who have a consensus on "
                "classes only: set annotations.mask_values: classes, or give each slide one annotation"
            )
        if learned and plan.config.radhical:
            found.append(
                f"slides {learned} have several readers, but a cascade of radhical learns from one annotation: give "
                "each slide one annotation, or the split predict"
            )
        return [*found, *self._without_readers()]

    def _without_readers(self) -> list[str]:
        """Models that are to learn the labels of readers, but have no slide with several."""
        drawing = [name for name in self.plan.trained if self.plan.config.tasks[name].train.readers == "draw"]
        return [
            f"tasks.{name}.train.readers: draw, but no slide that is trained on has several readers: list them in the "
            "column annotation, or remove the key"
            for name in drawing
            if not any(self.drawn(name, fold) for fold in self.plan.folds(name))
        ]
