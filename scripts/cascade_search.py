"""Rule cascade_search: choose the thresholds of a patch cascade on the validation patients of a fold."""

from pathlib import Path

from histomake.audit.sidecar import job
from histomake.base.files import atomic_file
from histomake.base.layout import Layout
from histomake.cascade.patch_search import find_stage_thresholds, thresholds_record
from histomake.cascade.plots import draw_front
from histomake.cascade.stage_scores import read_dense_slides
from histomake.config import Cascade, Task


def main(snakemake):
    given, params = snakemake.input, snakemake.params
    config, tasks = Cascade.model_validate(params.cfg), list(map(Task.model_validate, params.tasks))
    with job(snakemake):
        layout = Layout(Path(snakemake.config["results"]))
        read = read_dense_slides(layout, tasks, params.slides, given.predictions, config.class_name)
        slides = [slide for slide in read if slide is not None]
        left_out = [row[0] for row, slide in zip(params.slides, read, strict=True) if slide is None]
        result = find_stage_thresholds(slides, config, seed=params.seed)
        table = result.table()
        with atomic_file(snakemake.output.trials) as aside:
            table.to_parquet(aside)
        draw_front(table, result.dense.f, snakemake.output.front, cost="pixels", quality="AUROC of patches")
        record = thresholds_record(result, config, slides=[s.slide_id for s in slides], left_out=left_out)
        record.write(snakemake.output.thresholds)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
