"""Rule annotate: convert a slide's annotation, in any supported format, to GeoJSON and its record."""

from pathlib import Path

from histomake.annotation.formats import is_mask
from histomake.annotation.read import read_annotation
from histomake.annotation.write import write_annotation, write_no_annotation
from histomake.audit.sidecar import job
from histomake.base.files import store_of
from histomake.base.layout import Layout
from histomake.base.records.manifest import Manifest
from histomake.base.records.record import quarantined
from histomake.cohort.quarantine import attempt
from histomake.config import Annotations


def main(snakemake):
    record, geojson = snakemake.output.record, snakemake.output.outlines
    labels = store_of(Layout(Path(snakemake.config["results"])).label_image(snakemake.wildcards.slide))
    source = snakemake.input.get("annotation")

    def work():
        annotation = read_annotation(
            Path(source) if source else None,
            Annotations.model_validate(snakemake.params.cfg),
            slide_id=manifest.slide_id,
            width=manifest.width,
            height=manifest.height,
            mpp=manifest.mpp,
            properties=manifest.properties,
            roi=snakemake.params.roi,
        )
        return write_annotation(annotation, record=record, geojson=geojson, labels=labels)

    with job(snakemake):
        manifest = Manifest.read(snakemake.input.manifest)
        outcome = quarantined(manifest) or attempt("annotate", work)
        if quarantined(outcome):
            write_no_annotation(outcome, record=record, geojson=geojson, labels=labels if is_mask(source) else None)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
