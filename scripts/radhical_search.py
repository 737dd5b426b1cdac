"""Rule radhical_search: choose a cascade's thresholds on its validation patients."""

from histomake.audit.sidecar import job
from histomake.base.files import atomic_file
from histomake.cascade.fields import open_fields
from histomake.cascade.necks import choose_parting
from histomake.cascade.plots import NUCLEUS_COSTS, draw_front
from histomake.cascade.search import check_disjoint, find_thresholds, open_cases, search_record
from histomake.config import Annotations, Radhical


def main(snakemake):
    config = Radhical.model_validate(snakemake.params.cfg)
    patients = {slide_id: patient for slide_id, patient, _ in snakemake.params.cohort}
    slides = list(zip(snakemake.input.manifests, snakemake.input.annotations, strict=True))
    with job(snakemake):
        check_disjoint(patients.values(), snakemake.params.test)
        fields = open_fields(slides, Annotations.model_validate(snakemake.params.annotations), config)
        cases = open_cases(fields, snakemake.input.maps, patients)
        result = find_thresholds(cases, config, seed=snakemake.params.seed)
        table = result.table()
        with atomic_file(snakemake.output.trials) as aside:
            table.to_parquet(aside)
        cost = NUCLEUS_COSTS[config.search.cost]
        draw_front(table, result.dense.f, snakemake.output.front, cost=cost, quality="mean of pixel F and nucleus F")
        parting = choose_parting(cases, result.chosen.thresholds, config)
        search_record(result, parting).write(snakemake.output.thresholds)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
