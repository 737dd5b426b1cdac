"""Rule generator_cohort: the slides that a generator is learned from, with digests of their files."""

from histomake.audit.sidecar import job
from histomake.base.files import HASH_THREADS, in_threads, sha256_file
from histomake.base.records.cohort import CohortSlide
from histomake.base.records.record import write_list
from histomake.patch.table import kept_patches


def main(snakemake):
    given, params = snakemake.input, snakemake.params
    with job(snakemake):
        pairs = list(zip(given.manifests, given.tables, strict=True))
        digests = in_threads(lambda paths: list(map(sha256_file, paths)), pairs, HASH_THREADS)
        cohort = [
            CohortSlide(
                role="train",
                slide_id=slide,
                patient_id=patient,
                labels={} if params.label is None else {params.label: label},
                digests=of_slide,
                patches=kept_patches(table),
            )
            for (slide, patient, label), of_slide, table in zip(params.slides, digests, given.tables, strict=True)
        ]
        write_list(snakemake.output.cohort, cohort)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
