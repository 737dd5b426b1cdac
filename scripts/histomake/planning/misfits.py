"""What does not fit together in a plan, found before any job runs."""

from __future__ import annotations

from histomake.model import reuse
from histomake.planning.cascade_plan import CascadePlan
from histomake.planning.choice_plan import ChoicePlan
from histomake.planning.graph_plan import GraphPlan
from histomake.planning.plan import Plan
from histomake.planning.reader_plan import ReaderPlan
from histomake.planning.transfer_plan import TransferPlan


def misfits(plan: Plan) -> list[str]:
    """Reasons why models, tasks, graphs, cascades and transfers do not fit together; none if they do."""
    models = reuse.problems(plan.untrained_models(), plan.config)
    parts = (ReaderPlan(plan), GraphPlan(plan), CascadePlan(plan), ChoicePlan(plan), TransferPlan(plan))
    return [*models, *(line for part in parts for line in part.misfits())]
