"""Rule measure_transfer: realism, structure and faults of the virtual slides of held-out patients."""

from pathlib import Path

from histomake.audit.sidecar import job
from histomake.base.layout import Layout
from histomake.config import parse_config
from histomake.features.encoders import load_group
from histomake.generate.held_out import HeldOut
from histomake.generate.measures import measure_transfer
from histomake.generate.training import read_sides
from histomake.generate.translate import side_of
from histomake.learn.data.patch_index import SlideEntry
from histomake.pictures.canvas import write_picture
from histomake.pictures.invented_map import invented_map


def main(snakemake):
    given, params, name = snakemake.input, snakemake.params, snakemake.wildcards.transfer
    config, layout = parse_config(snakemake.config), Layout(Path(snakemake.config["results"]))
    transfer, side = config.stain_transfers[name], side_of(snakemake.wildcards.direction)
    grid, chosen, files = transfer.grid, transfer.measure.encoder, layout.transfer(name)

    def entries(slides):
        return [SlideEntry.at(layout, grid, slide, patient, {}) for slide, patient in slides]

    with job(snakemake) as done:
        _, *training = read_sides(layout, given.cohort, grid=grid)
        own, others = map(entries, params.slides)
        encoders = {} if chosen is None else {chosen: config.encoders[chosen]}
        ready = load_group(encoders, config.grids[grid], models={}, threads=snakemake.threads)
        held_out = [
            HeldOut(e, files.manifest(e.slide_id), layout.tissue_mask(e.slide_id), layout.tissue(e.slide_id))
            for e in own
        ]
        measured = measure_transfer(
            Path(given.weights).parent,
            name=name,
            side=side,
            held_out=held_out,
            real=others,
            reference=training[1 - side],
            encoder=next(iter(ready), None),
            patches=transfer.measure.patches,
            seed=params.seed,
            threads=snakemake.threads,
        )
        done.lost += measured.record.left_out
        measured.record.write(snakemake.output.measures)
        picture = invented_map(measured.record, held_out, measured.invented)
        write_picture(picture, Path(snakemake.output.invented))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
