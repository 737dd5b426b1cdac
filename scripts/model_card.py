"""Rule model_card: the model card of a task, a page."""

from pathlib import Path

from histomake.audit.sidecar import job
from histomake.base.files import atomic_file
from histomake.base.records.cohort import CohortSlide
from histomake.base.records.leakage import LeakageRecord
from histomake.base.records.metrics import MetricsRecord
from histomake.base.records.model_card import ModelCard
from histomake.config import Task
from histomake.model.reuse import fold_of
from histomake.report.model_card import model_card
from histomake.report.tripod import DescribedTask, Planned


def main(snakemake):
    given, params = snakemake.input, snakemake.params
    with job(snakemake):
        (metrics,) = map(MetricsRecord.read, given.metrics) if given.metrics else (None,)
        found = DescribedTask(
            name=snakemake.wildcards.task,
            task=Task.model_validate(params.cfg),
            cards={fold_of(path): ModelCard.read(path) for path in given.descriptions},
            cohorts=[CohortSlide.read_list(path) for path in given.cohorts],
            metrics=metrics,
            leakage=LeakageRecord.read(given.leakage),
            planned=[Planned(*row) for row in params.planned],
        )
        with atomic_file(snakemake.output.page) as aside:
            Path(aside).write_text(model_card(found))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
