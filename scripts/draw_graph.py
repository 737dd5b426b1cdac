"""Rule draw_graph: the graph of one slide on its tissue."""

from pathlib import Path

from histomake.audit.sidecar import job
from histomake.base.records.record import Quarantined
from histomake.cohort.quarantine import attempt, in_memory
from histomake.graphs.store import read_graph
from histomake.pictures.canvas import quarantine_card, write_picture
from histomake.pictures.graph_views import graph_alone
from histomake.slide.reader import open_slide


def main(snakemake):
    given, params, wildcards = snakemake.input, snakemake.params, snakemake.wildcards
    picture, stored = Path(snakemake.output.picture), read_graph(given.graph)
    held = {"rule": "draw_graph", "output": picture, "manifest": given.manifest}

    def draw():
        with open_slide(given.manifest) as reader:
            return graph_alone(reader, stored, name=wildcards.graph, mpp=params.mpp)

    def work():
        return in_memory(draw, slide_id=wildcards.slide, **held)

    with job(snakemake) as done:
        lost = stored.record if isinstance(stored.record, Quarantined) else None
        drawn = lost or attempt("draw_graph", work, lost=done.lost)
        write_picture(quarantine_card(drawn) if isinstance(drawn, Quarantined) else drawn, picture)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
