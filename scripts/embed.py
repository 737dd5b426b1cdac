"""Rule embed: features of patches of the test slides, their UMAP coordinates, and an interactive page."""

from pathlib import Path

import pyarrow.parquet as pq
from histomake.audit.sidecar import job
from histomake.base.files import atomic_file
from histomake.base.layout import Layout
from histomake.base.tables import write_table
from histomake.explain.embedding import TestedSlide, embed, nothing_embedded
from histomake.explain.embedding_page import mosaic, page
from histomake.explain.patch_pixels import NothingToExplainError
from histomake.features.predict import load_head
from histomake.learn.data.patch_index import SlideEntry
from histomake.learn.inference.predict import load_model
from histomake.pictures.canvas import card, write_picture


def main(snakemake):
    out, params, where = snakemake.output, snakemake.params, snakemake.wildcards
    title = f"{where.task}, fold {where.fold}"
    with job(snakemake) as done:
        folder, vectors = Path(snakemake.input.weights).parent, snakemake.input.vectors
        predictor = load_head(folder) if vectors else load_model(folder, threads=snakemake.threads)
        layout = Layout(Path(snakemake.config["results"]))
        slides = [
            TestedSlide(SlideEntry.at(layout, predictor.task.grid, *entry), site, pq.read_table(path), stored)
            for entry, site, path, stored in zip(
                params.slides,
                params.sites,
                snakemake.input.predictions,
                vectors or [None for _ in params.slides],
                strict=True,
            )
        ]
        try:
            found = embed(
                predictor=predictor,
                slides=slides,
                patches=params.cfg["embed_patches"],
                neighbours=params.cfg["umap_neighbors"],
                seed=params.seed,
            )
            picture = mosaic(found, title=f"Patches of {title} at their UMAP coordinates")
        except NothingToExplainError as error:
            if not error.left_out:
                raise
            found = nothing_embedded(error.left_out)
            picture = card([str(error), *(f"{lost.slide_id}: {lost.detail}" for lost in error.left_out)])
        write_table(found.table, out.features)
        with atomic_file(out.page) as aside:
            aside.write_text(page(found, title=f"Embedding: {title}"))
        write_picture(picture, Path(out.mosaic))
        found.record.write(out.record)
        done.lost += [lost for lost in found.record.left_out if lost.stage == "embed"]


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
