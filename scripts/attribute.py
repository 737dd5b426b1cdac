"""Rule attribute: SHAP attributions of selected patches, with sanity checks."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from histomake.audit.sidecar import job
from histomake.base.files import atomic_file
from histomake.base.layout import Layout
from histomake.base.tables import write_table
from histomake.explain.attribution import attribute, nothing_attributed
from histomake.explain.attribution_page import panels, text_figure
from histomake.explain.patch_pixels import NothingToExplainError
from histomake.learn.data.cohort import read_cohort
from histomake.learn.data.patch_index import SlideEntry
from histomake.learn.inference.predict import load_model


def main(snakemake):
    out, params = snakemake.output, snakemake.params
    with job(snakemake) as done:
        predictor = load_model(Path(snakemake.input.weights).parent, threads=snakemake.threads)
        layout, grid = Layout(Path(snakemake.config["results"])), predictor.task.grid
        tested = [
            (SlideEntry.at(layout, grid, *entry), pq.read_table(path))
            for entry, path in zip(params.slides, snakemake.input.predictions, strict=True)
        ]
        cohort = read_cohort(layout, snakemake.input.cohort, grid=grid)
        patch = predictor.card.grid
        try:
            found = attribute(
                predictor=predictor,
                tested=tested,
                training=cohort.train,
                patches=params.cfg["shap_patches"],
                points=params.cfg["shap_at"],
                regions=params.cfg["regions"],
                background=params.cfg["shap_background"],
                method=params.cfg["shap_method"],
                seed=params.seed,
            )
            figure = panels(found, patch_um=patch.size * patch.mpp)
        except NothingToExplainError as error:
            if not error.left_out:
                raise
            method = params.cfg["shap_method"]
            found = nothing_attributed(predictor.class_names, patch.size, error.left_out, method=method)
            figure = text_figure([str(error), *(f"{lost.slide_id}: {lost.detail}" for lost in error.left_out)])
        for path, table in ((out.patches, found.table), (out.background, found.background)):
            write_table(table, path)
        with atomic_file(out.maps) as aside, aside.open("wb") as stream:
            np.savez_compressed(stream, maps=found.maps, classes=np.array(found.classes))
        with atomic_file(out.panels) as aside:
            figure.savefig(aside, format="png", dpi=110)
        found.record.write(out.record)
        done.lost += [lost for lost in found.record.left_out if lost.stage == "attribute"]


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
