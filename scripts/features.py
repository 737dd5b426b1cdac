"""Rule features: vectors of every kept patch of a slide, of all encoders of a group."""

import logging
from functools import partial
from itertools import chain
from pathlib import Path

from histomake.audit.caches import stated_digest
from histomake.audit.sidecar import job
from histomake.base.errors import HistomakeError
from histomake.base.layout import Layout
from histomake.cohort.quarantine import attempt
from histomake.config import parse_config
from histomake.features.kept import keep
from histomake.features.sharing import Work, slides_of
from histomake.features.store import STAGE


def encode(snakemake, config, work, made_of, lost):
    """Encode the job's slide, and further ones that have few patches; a damaged one is added to ``lost``."""
    # Imported here, because torch takes seconds, and a job whose features are there ends without it.
    from histomake.features.ahead import Ahead
    from histomake.features.encoders import load_group
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
    open_slide, write, write_none = steps(snakemake, config, work, ready, options)
    output = Path(snakemake.output.features)
    further = work.further(slide, slides_of(config.sheet))
    with Ahead(chain([(slide, made_of)], further), open_slide) as slides:

        def written(opening, output, digest):
            with opening as opened:
                write(opened, output, code=params.code, made_of=digest, nearly_read=slides.begin)

        for (one, digest), opening in slides:
            if one == slide:
                found = attempt(STAGE, partial(written, opening, output, digest), lost=lost)
                if found is not None:
                    write_none(found, output)
                continue
            try:
                written(opening, work.waiting(one, digest), digest)
            except (HistomakeError, OSError) as error:
                logging.warning("%s is left to its own job: %s", one, error)


def steps(snakemake, config, work, ready, options):
    """How slides are opened and their features written, of all patches or of chosen ones."""
    from histomake.features.choice import Chooser
    from histomake.features.extract import extract_open, open_patches, write_no_features
    from histomake.features.extract_chosen import ScoredSlide, open_chosen, write_chosen, write_no_chosen
    from histomake.features.kept import KeptFile
    from histomake.learn.data.patch_index import SlideEntry

    def entry(one):
        return SlideEntry.at(work.layout, work.grid, one[0], "", {})

    choice = config.encoders[config.encoder_groups[work.group][0]].choose
    if choice is None:
        return (
            lambda one: open_patches(ready, entry(one), **options),
            partial(extract_open, ready),
            partial(write_no_features, ready),
        )
    (encoder,), folds = ready, snakemake.params.folds
    chooser = Chooser.read(choice, dict(zip(folds, map(Path, snakemake.input.choosers), strict=True)))

    def scored(one):
        table, *predictions = work.scores(one[0])
        return ScoredSlide(entry(one), table, predictions, kept(one[0]))

    def kept(slide):
        place = work.layout.kept_features(work.group, slide)
        return KeptFile(place, stated_digest(work.layout, work.output(slide))) if place.is_file() else None

    return (
        lambda one: open_chosen(encoder, scored(one), chooser, code=snakemake.params.code, **options),
        partial(write_chosen, encoder, chooser),
        partial(write_no_chosen, encoder, chooser),
    )


def work_of(snakemake, config):
    """What the job's group of encoders has to do."""
    group, params = snakemake.wildcards.group, dict(snakemake.params.items())
    encoder = config.encoders[config.encoder_groups[group][0]]
    layout, choice = Layout(Path(snakemake.config["results"])), encoder.choose
    models = [Path(path) for path in (*snakemake.input.models, *snakemake.input.choosers)]
    if choice is None:
        return Work(layout, group, encoder.grid, params, models)

    def scores(slide):
        table = layout.table(config.tasks[choice.task].grid, slide)
        return [table, *(layout.prediction(choice.task, fold, slide) for fold in params["folds"])]

    return Work(layout, group, encoder.grid, params, models, scores, choice.budget or 1.0)


def main(snakemake):
    config, slide = parse_config(snakemake.config), snakemake.wildcards.slide
    work = work_of(snakemake, config)
    with job(snakemake) as done, work.running(slide):
        made_of = work.made_of(slide)
        if work.take(slide, made_of):
            logging.info("slide %s: its features were made by the job of another slide", slide)
        else:
            encode(snakemake, config, work, made_of, done.lost)
        if config.encoders[config.encoder_groups[work.group][0]].choose is not None:
            keep(work.output(slide), work.layout.kept_features(work.group, slide))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
