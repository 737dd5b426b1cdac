"""Rule train_transfer: train the generators of a stain transfer."""

from pathlib import Path

from histomake.audit.sidecar import job
from histomake.base.layout import Layout
from histomake.config import parse_config
from histomake.generate.training import read_sides, train_transfer
from histomake.learn.engine.checkpoint import digest


def main(snakemake):
    layout = Layout(Path(snakemake.config["results"]))
    # params.cfg is what the generators depend on. How the job is run is read here, so that it can change freely.
    config = parse_config(snakemake.config)
    name = snakemake.wildcards.transfer
    transfer = config.stain_transfers[name]
    with job(snakemake) as done:
        slides, source, target = read_sides(layout, snakemake.input.cohort, grid=transfer.grid)
        identity = digest({**dict(snakemake.params.items()), "cohort": [slide.dump() for slide in slides]})
        done.lost += train_transfer(
            transfer,
            source=source,
            target=target,
            output=Path(snakemake.output.weights).parent,
            state=done.continue_from(layout.transfer_state(name, identity[:16])),
            seed=snakemake.params.seed,
            threads=snakemake.threads,
            max_lost=config.max_lost,
        ).left_out


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
