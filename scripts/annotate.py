"""Rule annotate: convert a slide's annotation, in any supported format, to GeoJSON and its record."""

from pathlib import Path

from histomake.annotation.job import annotate_apart, read_for
from histomake.annotation.read import naming_slide
from histomake.annotation.write import write_annotation, write_no_annotation
from histomake.audit.sidecar import job
from histomake.base.files import store_of
from histomake.base.layout import Layout
from histomake.base.records.manifest import Manifest
from histomake.base.records.record import quarantined


def main(snakemake):
    record, geojson, params = snakemake.output.record, snakemake.output.outlines, snakemake.params
    declared = snakemake.output.get("labels")
    labels = store_of(declared or Layout(Path(snakemake.config["results"])).label_image(snakemake.wildcards.slide))
    given = snakemake.input.get("annotation")
    source = Path(given) if given else None

    def work():
        annotation = read_for(manifest, source, annotations=params.cfg, roi=params.roi)
        with naming_slide(source, manifest.slide_id):  # masks are read while they are written
            return write_annotation(
                annotation, record=record, geojson=geojson, labels=labels, keep_labels=bool(declared)
            )

    with job(snakemake):
        manifest = Manifest.read(snakemake.input.manifest)
        outcome = quarantined(manifest)
        if not outcome:
            memory_mb = snakemake.resources.mem_mb
            apart = source and annotate_apart(work, source, manifest.slide_id, record=record, memory_mb=memory_mb)
            outcome = apart or work()
        if quarantined(outcome):
            write_no_annotation(outcome, record=record, geojson=geojson, labels=labels if declared else None)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
