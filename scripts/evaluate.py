"""Rule evaluate: metrics of a task's predictions on its test slides."""

from pathlib import Path

import pyarrow.parquet as pq
from histomake.audit.sidecar import job, log
from histomake.base.kinds import Kind
from histomake.base.records.model_card import ModelCard
from histomake.base.tables import write_table
from histomake.config import Target
from histomake.evaluate.evaluation import evaluate
from histomake.evaluate.items import SlidePrediction
from histomake.evaluate.plots import draw_figures
from histomake.model.reuse import fold_of


def main(snakemake):
    given, params = snakemake.input, snakemake.params
    with job(snakemake):
        cards = {fold_of(path): ModelCard.read(path) for path in given.descriptions}
        predictions = []
        for path, (slide_id, patient_id, labels) in zip(given.predictions, params.slides, strict=True):
            fold = fold_of(path)
            thresholds = {key: getattr(cards[fold], key) for key in ("threshold", "slide_thresholds")}
            table = pq.read_table(path)
            predictions.append(SlidePrediction(slide_id, patient_id, fold, table, labels=labels, **thresholds))
        kind, target = Kind(params.kind), Target.model_validate(params.target)
        found = evaluate(predictions, kind=kind, target=target, seed=params.seed, **params.pooling)
        if reason := found.record.levels["patient"].refused:
            patients = ", ".join(found.record.patients_of_several_classes)
            log.warning("patients are not evaluated: %s (%s)", reason, patients)
        draw_figures(found, kind=kind, out=Path(snakemake.output.figures))
        write_table(found.table(), snakemake.output.table)
        found.record.write(snakemake.output.metrics)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
