"""Rule transfer_cohort: the slides that a stain transfer is learned from, with digests of their files."""

from histomake.audit.sidecar import job
from histomake.base.files import HASH_THREADS, in_threads, sha256_file
from histomake.base.records.cohort import CohortSlide
from histomake.base.records.manifest import Manifest
from histomake.base.records.record import quarantined, write_list
from histomake.cohort.side_contents import refuse_shared_slides
from histomake.patch.table import kept_patches


def main(snakemake):
    given, slides = snakemake.input, snakemake.params.slides
    with job(snakemake):
        manifests = map(Manifest.read, given.manifests)
        refuse_shared_slides(slides, {m.slide_id: m.sha256 for m in manifests if not quarantined(m)})
        pairs = list(zip(given.manifests, given.tables, strict=True))
        digests = in_threads(lambda paths: list(map(sha256_file, paths)), pairs, HASH_THREADS)
        cohort = [
            CohortSlide(
                role=side,
                slide_id=slide,
                patient_id=patient,
                labels={},
                digests=of_slide,
                patches=kept_patches(table),
            )
            for (slide, patient, side), of_slide, table in zip(slides, digests, given.tables, strict=True)
        ]
        write_list(snakemake.output.cohort, cohort)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
