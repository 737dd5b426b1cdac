"""Rule enrol: which slides a fold's model is made with, and the digests of what it will read of them."""

from histomake.files import sha256_file, write_json
from histomake.job import job


def main(snakemake):
    with job(snakemake):
        given = snakemake.input
        files = zip(given.manifests, given.tables, given.annotations, strict=True)
        digests = [[sha256_file(path) for path in of_slide] for of_slide in files]
        slides = [(role, entry) for role, entries in snakemake.params.slides.items() for entry in entries]
        write_json(
            snakemake.output.cohort,
            [
                {"role": role, "slide_id": slide, "patient_id": patient, "labels": labels, "digests": of_slide}
                for (role, (slide, patient, labels)), of_slide in zip(slides, digests, strict=True)
            ],
        )


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
