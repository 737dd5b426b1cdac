"""Rule training_cohort: the slides of a fold's training and validation sets, with digests of their files."""

from histomake.audit.sidecar import job
from histomake.base.files import HASH_THREADS, in_threads, sha256_file
from histomake.base.graph_files import graph_size
from histomake.base.records.cohort import CohortSlide
from histomake.base.records.manifest import Manifest
from histomake.base.records.record import quarantined, write_list
from histomake.cohort.leakage import Assignment, leaks, refuse_leaks
from histomake.patch.table import kept_patches


def main(snakemake):
    with job(snakemake):
        given = snakemake.input
        slides = [(role, entry) for role, entries in snakemake.params.slides.items() for entry in entries]
        fold = int(snakemake.wildcards.fold)
        manifests = map(Manifest.read, given.manifests)
        contents = {m.slide_id: m.sha256 for m in manifests if not quarantined(m)}
        found = leaks([Assignment(fold, slide, patient, role) for role, (slide, patient, _) in slides], contents)
        refuse_leaks(found, snakemake.wildcards.task)
        vectors = [[path] for path in given.vectors] or [[] for _ in slides]
        files = [
            [*records, *more]
            for *records, more in zip(given.manifests, given.tables, given.annotations, vectors, strict=True)
        ]
        digests = in_threads(lambda paths: list(map(sha256_file, paths)), files, HASH_THREADS)
        readings = iter(in_threads(sha256_file, given.readings, HASH_THREADS))
        readers = {
            slide: {reader: [next(readings), next(readings)] for reader in found}
            for slide, found in snakemake.params.readers.items()
        }
        cohort = [
            CohortSlide(
                role=role,
                slide_id=slide,
                patient_id=patient,
                labels=labels,
                digests=of_slide,
                patches=kept_patches(table),
                graph=next(map(graph_size, more), None),
                readers=readers.get(slide, {}) if role == "train" else {},
            )
            for (role, (slide, patient, labels)), of_slide, table, more in zip(
                slides, digests, given.tables, vectors, strict=True
            )
        ]
        write_list(snakemake.output.cohort, cohort)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
