"""Rule draw_map: the page of a map of features, with all slides placed into it."""

from pathlib import Path

from histomake.audit.sidecar import job
from histomake.base.files import atomic_file
from histomake.base.layout import Layout
from histomake.base.tables import write_table
from histomake.explain.embedding_page import mosaic, page
from histomake.explain.feature_map import FeatureMap, MappedSlide, draw_map
from histomake.learn.data.patch_index import SlideEntry
from histomake.pictures.canvas import write_picture


def main(snakemake):
    out, params, encoder = snakemake.output, snakemake.params, snakemake.wildcards.encoder
    with job(snakemake) as done:
        layout = Layout(Path(snakemake.config["results"]))
        slides = [
            MappedSlide(SlideEntry.at(layout, params.grid, *entry), site, Path(path))
            for entry, site, path in zip(params.slides, params.sites, snakemake.input.features, strict=True)
        ]
        fitted = FeatureMap.read(Path(snakemake.input.map))
        found = draw_map(fitted, slides, encoder, patches=params.cfg["embed_patches"], seed=params.seed)
        write_table(found.table, out.features)
        with atomic_file(out.page) as aside:
            aside.write_text(page(found, title=f"Map of the features of {encoder}"))
        write_picture(mosaic(found, title=f"Patches at their places in the map of {encoder}"), Path(out.mosaic))
        found.record.write(out.record)
        done.lost += found.record.left_out


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
