"""Rule score: what a task's models say of whole slides and patients."""

import csv

import pyarrow.parquet as pq
from histomake.files import atomic_file, read_json
from histomake.job import job
from histomake.layout import fold_of
from histomake.slide_scores import PredictedSlide, score_table


def main(snakemake):
    given, params = snakemake.input, snakemake.params
    with job(snakemake):
        described = {fold_of(path): read_json(path) for path in given.descriptions}
        slides = (
            PredictedSlide(slide_id, patient_id, fold_of(path), pq.read_table(path), described[fold_of(path)])
            for path, (slide_id, patient_id, _) in zip(given.predictions, params.slides, strict=True)
        )
        scores = score_table(slides, next(iter(described.values())), aggregate=params.aggregate)
        with atomic_file(snakemake.output.scores) as aside, open(aside, "w", newline="") as stream:
            writer = csv.DictWriter(stream, scores.column_names, delimiter="\t", lineterminator="\n")
            writer.writeheader()
            writer.writerows(scores.to_pylist())


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
