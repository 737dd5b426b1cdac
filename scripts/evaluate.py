"""Rule evaluate: metrics of a task's predictions on its test slides."""

from pathlib import Path

import pyarrow.parquet as pq
from histomake.audit.sidecar import job, log
from histomake.base.kinds import Kind
from histomake.base.layout import Layout
from histomake.base.patient_bootstrap import BOOTSTRAPS
from histomake.base.tables import write_table
from histomake.config import Target
from histomake.config.evaluation import Evaluate
from histomake.evaluate.bags import (
    AnnotatedSlide,
    attention_agreement,
    baselines,
    by_bag_size,
    removal,
    removal_by_share,
)
from histomake.evaluate.evaluation import evaluate
from histomake.evaluate.horizon import Horizon
from histomake.evaluate.importance import permuted_predictions
from histomake.evaluate.plots import draw_figures
from histomake.evaluate.predictions import read_cards, read_predictions
from histomake.evaluate.slide_table import write_slide_table
from histomake.learn.data.patch_index import SlideEntry, annotated_areas
from histomake.model.reuse import fold_of
from histomake.target.kinds import LEARNED


def bag_evaluation(predictions, cards, layout, given, params):
    """What is measured of tasks of slides or patients besides: baselines, sizes of bags, and attention."""
    card = next(iter(cards.values()))
    names = card.class_names
    entries = [SlideEntry.at(layout, card.grid.name, *values) for values in params.slides]
    slides = [
        AnnotatedSlide(prediction.patient_id, prediction.table, annotated_areas(entry, prediction.table))
        for entry, prediction in zip(entries, predictions, strict=True)
        if prediction.table.num_rows and entry.is_annotated()
    ]
    exclusive = LEARNED[card.kind].exclusive
    return {
        "permuted": permuted_predictions(
            predictions, {fold_of(path): pq.read_table(path) for path in given.permuted}, names, level=params.level
        ),
        "bag_sizes": by_bag_size(predictions, names),
        "removal": removal(predictions, params.level, seed=params.seed, bootstraps=BOOTSTRAPS),
        "removal_by_share": removal_by_share(predictions, params.level, seed=params.seed, bootstraps=BOOTSTRAPS),
        "baselines": baselines(predictions, names, {fold: found.bag.usual for fold, found in cards.items()}),
        "attention": attention_agreement(slides, names, exclusive=exclusive, seed=params.seed, bootstraps=BOOTSTRAPS),
    }


def main(snakemake):
    given, params = snakemake.input, snakemake.params
    layout = Layout(Path(snakemake.config["results"]))
    with job(snakemake):
        cards = read_cards(given.descriptions)
        predictions = read_predictions(given.predictions, params.slides, cards)
        kind, target = Kind(params.kind), Target.model_validate(params.target)
        bags = bag_evaluation(predictions, cards, layout, given, params) if params.level != "patch" else {}
        found = evaluate(
            predictions,
            kind=kind,
            target=target,
            seed=params.seed,
            level=params.level,
            statistics=Evaluate.model_validate(params.statistics),
            subgroups=params.subgroups,
            validation=read_predictions(given.validation, params.validation, cards),
            horizon=Horizon.of(params.horizon, {fold: card.survival for fold, card in cards.items()}),
            **params.pooling,
            **bags,
        )
        if reason := found.record.levels["patient"].refused:
            patients = ", ".join(found.record.patients_of_several_classes)
            log.warning("patients are not evaluated: %s (%s)", reason, patients)
        draw_figures(found, kind=kind, out=Path(snakemake.output.figures))
        write_table(found.table(), snakemake.output.table)
        write_slide_table(found.slides, snakemake.output.slides)
        found.record.write(snakemake.output.metrics)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
