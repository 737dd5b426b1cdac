"""Rule predict: the scores of every tissue patch of one slide."""

from pathlib import Path

import pyarrow.parquet as pq
from histomake.config import Predict
from histomake.files import atomic_file
from histomake.job import job
from histomake.layout import Layout
from histomake.learn.data import SlideEntry
from histomake.learn.predict import load_model, predict_slide


def main(snakemake):
    output = Path(snakemake.output.predictions)
    settings = Predict.model_validate(snakemake.params.cfg)
    with job(snakemake):
        predictor = load_model(Path(snakemake.input.weights).parent, threads=snakemake.threads)
        entry = SlideEntry.at(Layout(output.parents[3]), predictor.task.grid, *snakemake.params.entry)
        table = predict_slide(predictor, entry, batch=settings.batch, threads=snakemake.threads)
        with atomic_file(output) as aside:
            pq.write_table(table, aside, compression="zstd")


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
