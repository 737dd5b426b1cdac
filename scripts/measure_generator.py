"""Rule measure_generator: samples of a generator against fields of held-out patients."""

from pathlib import Path

from histomake.audit.sidecar import job
from histomake.base.layout import Layout
from histomake.base.units import Mpp, PatchPixels
from histomake.config import Grid, parse_config
from histomake.features.encoders import load_group
from histomake.generate.growing.fields import index_fields
from histomake.generate.growing.measures import measure_generator
from histomake.generate.growing.samples import GeneratedImages
from histomake.learn.data.cohort import read_cohort
from histomake.learn.data.patch_index import SlideEntry
from histomake.patch.field_grid import grid_name
from histomake.pictures.canvas import write_picture
from histomake.pictures.generator_view import nearest_view


def main(snakemake):
    given, params, name = snakemake.input, snakemake.params, snakemake.wildcards.generator
    config, layout = parse_config(snakemake.config), Layout(Path(snakemake.config["results"]))
    generator, grid = config.generators[name], grid_name(name)
    with job(snakemake) as done:
        samples = GeneratedImages(Path(given.weights).parent, seed=params.seed, threads=snakemake.threads)
        training = read_cohort(layout, given.cohort, grid=grid).train
        held_out = [
            SlideEntry.at(layout, grid, slide, patient, {} if generator.label is None else {generator.label: label})
            for slide, patient, label in params.slides
        ]
        size, chosen = samples.card.sizes[-1], generator.measure.encoder
        encoders = {} if chosen is None else {chosen: config.encoders[chosen]}
        seen = Grid.model_construct(size=PatchPixels(size), mpp=Mpp(generator.field_um / size))
        ready = load_group(encoders, seen, models={}, threads=snakemake.threads)
        names = samples.card.labels
        measured = measure_generator(
            samples,
            name=name,
            training=index_fields(training, generator, what="the training slides of the generator", names=names),
            held_out=index_fields(held_out, generator, what="the held-out slides of the generator", names=names),
            encoder=next(iter(ready), None),
            count=generator.measure.samples,
            seed=params.seed,
        )
        done.lost += measured.record.left_out
        measured.record.write(snakemake.output.measures)
        write_picture(nearest_view(measured.record, measured.pairs), Path(snakemake.output.nearest))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
