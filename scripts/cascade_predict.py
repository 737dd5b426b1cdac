"""Rule cascade_predict: predict one slide with classifiers of several magnifications, coarse to fine."""

from pathlib import Path

from histomake.audit.sidecar import job
from histomake.base.layout import Layout
from histomake.base.records.patch_thresholds import PatchThresholdsRecord
from histomake.base.records.record import Quarantined
from histomake.base.tables import write_table
from histomake.cascade.patch_cascade import SCHEMA
from histomake.cascade.patch_prediction import predict_cascade
from histomake.cascade.patch_search import chosen_thresholds
from histomake.cascade.stage_scores import load_stages, open_stages
from histomake.cohort.quarantine import attempt
from histomake.pictures.canvas import quarantine_card, write_picture
from histomake.pictures.stage_maps import stage_maps
from histomake.slide.reader import open_slide


def main(snakemake):
    given, out, params = snakemake.input, snakemake.output, snakemake.params
    layout, threads = Layout(Path(snakemake.config["results"])), snakemake.threads
    with job(snakemake) as done:
        chosen = PatchThresholdsRecord.read(given.thresholds)
        predictors = load_stages([Path(w).parent for w in given.weights], params.encoders, threads=threads)
        stages = open_stages(layout, predictors, params.entry, params.use, params.batches)
        found = attempt(
            "cascade",
            lambda: predict_cascade(stages, chosen.class_name, chosen_thresholds(chosen), threads=threads),
            lost=done.lost,
        )
        if isinstance(found, Quarantined):
            write_table(SCHEMA.empty_table(), out.predictions)
            write_picture(quarantine_card(found), Path(out.levels))
            found.write(out.record)
            return
        write_table(found.table, out.predictions)
        reader = open_slide(given.manifest)
        write_picture(stage_maps(reader, found, chosen.class_name, chosen.stages), Path(out.levels))
        found.record.write(out.record)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
