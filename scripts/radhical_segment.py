"""Rule radhical_segment: segment the nuclei of one slide with a cascade, and map what each level computed."""

from pathlib import Path

from histomake.audit.sidecar import job
from histomake.base.files import store_of, write_empty_store
from histomake.base.records.cascade_thresholds import ThresholdsRecord
from histomake.base.records.manifest import Manifest
from histomake.base.records.record import quarantined
from histomake.cascade.infer import open_answers, segment_slide
from histomake.cascade.objects import write_no_objects
from histomake.cohort.quarantine import attempt
from histomake.config import CascadeThresholds, Radhical
from histomake.pictures.canvas import quarantine_card, write_picture
from histomake.pictures.level_maps import level_maps


def main(snakemake):
    config = Radhical.model_validate({**snakemake.params.cfg, **snakemake.params.use})
    geojson, store = Path(snakemake.output.outlines), store_of(snakemake.output.store)

    def work():
        levels, answers = open_answers(
            snakemake.input.manifest, snakemake.input.weights, config, threads=snakemake.threads
        )
        chosen = ThresholdsRecord.read(snakemake.input.thresholds)
        thresholds = CascadeThresholds.model_validate(chosen.thresholds, from_attributes=True)
        places = {"store": store, "geojson": geojson}
        found = segment_slide(answers.reader, levels, answers, thresholds, neck_um=chosen.parting.neck_um, **places)
        write_picture(level_maps(answers.reader, store, found), Path(snakemake.output.levels))
        return found

    with job(snakemake):
        outcome = quarantined(Manifest.read(snakemake.input.manifest)) or attempt("radhical", work)
        if quarantined(outcome):
            write_empty_store(store, outcome.dump())
            write_no_objects(geojson)
            write_picture(quarantine_card(outcome), Path(snakemake.output.levels))
        outcome.write(snakemake.output.record)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
