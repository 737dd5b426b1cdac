"""Rule fit_map: a map of the features of an encoder, fitted to the slides that are not only predicted."""

from pathlib import Path

from histomake.audit.sidecar import job
from histomake.base.layout import Layout
from histomake.explain.feature_map import MappedSlide, fit_map
from histomake.learn.data.patch_index import SlideEntry


def main(snakemake):
    params = snakemake.params
    with job(snakemake):
        layout = Layout(Path(snakemake.config["results"]))
        slides = [
            MappedSlide(SlideEntry.at(layout, params.grid, *entry), "", Path(path))
            for entry, path in zip(params.slides, snakemake.input.features, strict=True)
        ]
        fitted = fit_map(
            slides,
            snakemake.wildcards.encoder,
            patches=params.cfg["embed_patches"],
            neighbours=params.cfg["umap_neighbors"],
            seed=params.seed,
        )
        fitted.write(Path(snakemake.output.map))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
