"""Rule slide_page: the page of one slide, for the pathologist."""

from pathlib import Path

from histomake.audit.sidecar import job
from histomake.base.files import atomic_file
from histomake.base.layout import Layout
from histomake.base.records.annotation import AnnotationRecord
from histomake.base.records.manifest import Manifest
from histomake.base.records.model_card import ModelCard
from histomake.base.records.patch_table import PatchTableRecord
from histomake.base.records.quality import QualityRecord
from histomake.base.records.record import quarantined
from histomake.base.records.tissue import TissueRecord
from histomake.patch.table import record_text
from histomake.report.slide_page import SlideRecords, SlideTask, slide_page


def main(snakemake):
    params, slide = snakemake.params, snakemake.wildcards.slide
    layout = Layout(Path(snakemake.config["results"]))
    with job(snakemake):
        tasks = [
            SlideTask(
                name=name,
                fold=fold,
                model=ModelCard.read(layout.description(name, fold)),
                aggregate=aggregate,
                predictions=layout.prediction(name, fold, slide),
                views={view: layout.view(name, fold, slide, view) for view in views},
                regions={tuple(box): layout.region(name, fold, slide, box) for box in params.regions},
                validated=[name, fold] in params.validated,
            )
            for name, fold, aggregate, views in params.tasks
        ]
        given = snakemake.input
        records = SlideRecords(
            Manifest.read(given.manifest),
            AnnotationRecord.read(given.annotation),
            TissueRecord.read(given.tissue),
            QualityRecord.read(given.quality),
            PatchTableRecord.decode(record_text(given.table), given.table),
        )
        patient, site = params.patient
        cells = {name: layout.cells(name, slide) for name in params.cells}
        graphs = {name: (layout.graph(name, slide), layout.graph_view(name, slide)) for name in params.graphs}
        levels = {name: layout.cascade(name).levels_view(slide) for name in params.cascades}
        stages = {(name, fold): layout.patch_cascade(name).levels_view(fold, slide) for name, fold in params.stages}
        content = slide_page(
            slide_id=slide,
            patient_id=patient,
            site=site,
            records=quarantined(*records) or records,
            tissue=Path(snakemake.input.overview),
            tasks=tasks,
            cascades=levels,
            stages=stages,
            cells=cells,
            graphs=graphs,
            cores=(layout.cores(slide), layout.cores_view(slide)) if params.cores else None,
        )
        with atomic_file(snakemake.output.page) as aside:
            aside.write_text(content)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
