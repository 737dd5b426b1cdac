"""Rule cascade_compare: compare a patch cascade with its finest stage alone on the test slides of all folds."""

from itertools import groupby
from pathlib import Path

import msgspec
import pandas as pd
import pyarrow.parquet as pq
from histomake.audit.sidecar import job
from histomake.base.files import atomic_file
from histomake.base.layout import Layout
from histomake.base.records.patch_thresholds import PatchThresholdsRecord
from histomake.cascade.patch_compare import compare_slide
from histomake.cascade.patch_search import chosen_thresholds
from histomake.cascade.plots import draw_seconds
from histomake.cascade.stage_scores import load_stages, open_stages, read_dense_slides
from histomake.config import Cascade, Task
from histomake.evaluate.cascades import measure_cascade


def main(snakemake):
    given, params, threads = snakemake.input, snakemake.params, snakemake.threads
    config, tasks = Cascade.model_validate(params.cfg), list(map(Task.model_validate, params.tasks))
    layout = Layout(Path(snakemake.config["results"]))
    with job(snakemake):
        thresholds = dict(enumerate(map(PatchThresholdsRecord.read, given.thresholds)))
        read = read_dense_slides(layout, tasks, [row for _, row in params.slides], given.predictions, config.class_name)
        compared, left_out = [], []
        # Slides are in the order of folds, of which one has its models in memory.
        for fold, places in groupby(
            zip(params.slides, read, given.deployed, strict=True), key=lambda place: place[0][0]
        ):
            folders = [layout.model(task, fold) for task in config.stages]
            predictors = load_stages(folders, params.encoders, threads=threads)
            for (_, row), dense, deployed in places:
                if dense is None:
                    left_out.append(row[0])
                    continue
                stages = open_stages(layout, predictors, row, params.use, params.batches)
                limits, options = chosen_thresholds(thresholds[fold]), {"fold": fold, "threads": threads}
                compared.append(
                    compare_slide(stages, dense, pq.read_table(deployed), limits, config.class_name, **options)
                )
        metrics = measure_cascade(compared, thresholds, left_out=left_out, seed=params.seed)
        with atomic_file(snakemake.output.slides) as aside:
            pd.DataFrame([msgspec.structs.asdict(slide) for slide in metrics.slides]).drop(
                columns="stages", errors="ignore"
            ).to_csv(aside, index=False)
        draw_seconds(metrics, snakemake.output.front)
        metrics.write(snakemake.output.metrics)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
