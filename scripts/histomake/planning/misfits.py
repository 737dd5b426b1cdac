"""What does not fit together in a plan, found before any job runs."""

from __future__ import annotations

from histomake.model import reuse
from histomake.planning.cascade_plan import CascadePlan
from histomake.planning.choice_plan import ChoicePlan
from histomake.planning.graph_plan import GraphPlan
from histomake.planning.plan import Plan
from histomake.planning.transfer_plan import TransferPlan


def _of_readers(plan: Plan) -> list[str]:
    """What cannot be learned from slides with several readers, who have no cells in common."""
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
            f"slides {learned} have several readers, but a cascade of radhical learns from one annotation: give each "
            "slide one annotation, or the split predict"
        )
    return found


def misfits(plan: Plan) -> list[str]:
    """Reasons why models, tasks, graphs, cascades and transfers do not fit together; none if they do."""
    models = reuse.problems(plan.untrained_models(), plan.config)
    parts = (GraphPlan(plan), CascadePlan(plan), ChoicePlan(plan), TransferPlan(plan))
    return [*models, *_of_readers(plan), *(line for part in parts for line in part.misfits())]
