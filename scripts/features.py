"""Rule features: vectors of every kept patch of a slide, of all encoders of a group."""

import logging
from functools import partial
from itertools import chain
from pathlib import Path

from histomake.audit.sidecar import job
from histomake.base.errors import HistomakeError
from histomake.base.layout import Layout
from histomake.cohort.quarantine import attempt
from histomake.config import parse_config
from histomake.features.sharing import Work, slides_of
from histomake.features.store import STAGE


def encode(snakemake, config, work, made_of, lost):
    """Encode the job's slide, and further ones that have few patches; a damaged one is added to ``lost``."""
    # Imported here, because torch takes seconds, and a job whose features are there ends without it.
    from histomake.features.ahead import Ahead
    from histomake.features.encoders import load_group
    from histomake.features.extract import extract_open, open_patches, write_no_features
    from histomake.learn.data.patch_index import SlideEntry

    slide, params = snakemake.wildcards.slide, snakemake.params
    name = config.encoder_groups[work.group][0]
    if config.encoders[name].source == "h5":
        from histomake.features.imported import import_slide

        entry, output = SlideEntry.at(work.layout, work.grid, slide, "", {}), Path(snakemake.output.features)
        import_slide(config.encoders[name], entry, output, name=name, code=params.code, made_of=made_of)
        return
    encoders = {name: config.encoders[name] for name in config.encoder_groups[work.group]}
    models = {task: list(map(Path, folders)) for task, folders in params.models.items()}
    ready = load_group(encoders, config.grids[work.grid], models=models, threads=snakemake.threads)
    options = {"batch": min(encoder.batch for encoder in encoders.values()), "threads": snakemake.threads}

    def open_slide(one):
        return open_patches(ready, SlideEntry.at(work.layout, work.grid, one[0], "", {}), **options)

    def write(opening, output, digest):
        with opening as opened:
            extract_open(ready, opened, output, code=params.code, made_of=digest, nearly_read=slides.begin)

    output = Path(snakemake.output.features)
    further = work.further(slide, slides_of(config.sheet))
    with Ahead(chain([(slide, made_of)], further), open_slide) as slides:
        for (one, digest), opening in slides:
            if one == slide:
                found = attempt(STAGE, partial(write, opening, output, digest), lost=lost)
                if found is not None:
                    write_no_features(ready, found, output)
                continue
            try:
                write(opening, work.waiting(one, digest), digest)
            except (HistomakeError, OSError) as error:
                logging.warning("%s is left to its own job: %s", one, error)


def main(snakemake):
    config, slide = parse_config(snakemake.config), snakemake.wildcards.slide
    group = snakemake.wildcards.group
    grid = config.encoders[config.encoder_groups[group][0]].grid
    layout = Layout(Path(snakemake.config["results"]))
    work = Work(layout, group, grid, dict(snakemake.params.items()), list(map(Path, snakemake.input.models)))
    with job(snakemake) as done, work.running(slide):
        made_of = work.made_of(slide)
        if work.take(slide, made_of):
            logging.info("slide %s: its features were made by the job of another slide", slide)
        else:
            encode(snakemake, config, work, made_of, done.lost)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
