"""Rule radhical_maps: probability maps of all levels on a validation slide."""

import logging

import numpy as np
from histomake.audit.sidecar import job
from histomake.base.errors import SlideError
from histomake.base.files import atomic_file
from histomake.cascade.infer import open_answers, whole_maps
from histomake.config import Radhical


def main(snakemake):
    config = Radhical.model_validate({**snakemake.params.cfg, "block_px": snakemake.params.block})
    maps = {}
    with job(snakemake):
        try:
            levels, answers = open_answers(
                snakemake.input.manifest, snakemake.input.weights, config, threads=snakemake.threads
            )
            maps = {f"level{number}": p for number, p in whole_maps(answers, levels).items()}
        except SlideError as error:
            logging.getLogger("histomake").warning("slide left out: %s", error)
        with atomic_file(snakemake.output.maps) as aside, aside.open("wb") as stream:
            np.savez(stream, **maps)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
