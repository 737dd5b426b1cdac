"""Rule embed: features of patches of the test slides, their UMAP coordinates, and an interactive page."""

from pathlib import Path

import pyarrow.parquet as pq
from histomake.audit.sidecar import job
from histomake.base.files import atomic_file
from histomake.base.layout import Layout
from histomake.base.tables import write_table
from histomake.explain.embedding import TestedSlide, embed
from histomake.explain.embedding_page import mosaic, page
from histomake.features.predict import load_head
from histomake.learn.data.patch_index import SlideEntry
from histomake.learn.inference.predict import load_model
from histomake.pictures.canvas import write_picture


def main(snakemake):
    out, params, where = snakemake.output, snakemake.params, snakemake.wildcards
    title = f"{where.task}, fold {where.fold}"
    with job(snakemake):
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
        found = embed(
            predictor=predictor,
            slides=slides,
            patches=params.cfg["embed_patches"],
            neighbours=params.cfg["umap_neighbors"],
            seed=params.seed,
        )
        write_table(found.table, out.features)
        with atomic_file(out.page) as aside:
            aside.write_text(page(found, title=f"Embedding: {title}"))
        shown = f"Patches of {title} at their UMAP coordinates"
        write_picture(mosaic(found, title=shown), Path(out.mosaic))
        found.record.write(out.record)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
