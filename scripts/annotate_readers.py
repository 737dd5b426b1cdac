"""Rule annotate_readers: the annotations of several readers of a slide, as their consensus and its record."""

from pathlib import Path

from histomake.annotation.job import annotate_apart
from histomake.annotation.model import Annotation
from histomake.annotation.readers import agreed
from histomake.annotation.write import write_annotation, write_no_annotation
from histomake.audit.sidecar import job
from histomake.base.files import store_of
from histomake.base.records.annotation import AnnotationRecord
from histomake.base.records.manifest import Manifest
from histomake.base.records.record import quarantined
from histomake.base.records.tissue import TissueRecord
from histomake.config import Readers
from histomake.tissue.mask import TissueMask


def main(snakemake):
    given, made, params = snakemake.input, snakemake.output, snakemake.params
    labels = store_of(Path(made.labels))
    paths = dict(zip(params.readers, map(Path, given.annotations), strict=True))
    records = dict(zip(params.readers, map(Path, given.records), strict=True))

    def work():
        annotations = {reader: Annotation.load(path) for reader, path in records.items()}
        tissue = TissueMask.load(Path(given.mask), Path(given.tissue))
        config = Readers.model_validate(params.consensus)
        annotation = agreed(annotations, paths, config, mpp=manifest.mpp, tissue=tissue.at)
        return write_annotation(annotation, record=made.record, geojson=made.outlines, labels=labels)

    with job(snakemake):
        manifest = Manifest.read(given.manifest)
        read = map(AnnotationRecord.read, records.values())
        outcome = quarantined(manifest, TissueRecord.read(given.tissue), *read) or annotate_apart(
            work,
            ", ".join(map(str, paths.values())),
            manifest.slide_id,
            record=made.record,
            memory_mb=snakemake.resources.mem_mb,
        )
        if quarantined(outcome):
            write_no_annotation(outcome, record=made.record, geojson=made.outlines, labels=labels)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
