"""Paths of all files of a results folder.

Rules take the patterns of their files from here, with wildcards as arguments: ``LAYOUT.manifest("{slide}")``. All other
code takes the paths themselves. A Zarr store is given by the ``zarr.json`` in it, see `histomake.base.files.store_of`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from histomake.base.files import STORE_METADATA
from histomake.base.layout.groups import (
    DESCRIPTION,
    ONNX,
    WEIGHTS,
    AttributionFiles,
    CascadeFiles,
    EmbeddingFiles,
    FeatureMapFiles,
    GenerativeFiles,
    GeneratorFiles,
    Number,
    PatchCascadeFiles,
    ReadingFiles,
    TransferFiles,
)

__all__ = [
    "DESCRIPTION",
    "ONNX",
    "WEIGHTS",
    "AttributionFiles",
    "CascadeFiles",
    "EmbeddingFiles",
    "FeatureMapFiles",
    "GenerativeFiles",
    "GeneratorFiles",
    "Layout",
    "PatchCascadeFiles",
    "ReadingFiles",
    "TransferFiles",
]


@dataclass(frozen=True)
class Layout:
    """Paths under one results folder."""

    results: Path

    # --- slides -----------------------------------------------------------------------------------------------------

    def manifest(self, slide: str) -> Path:
        """Manifest of a slide, or its quarantine entry."""
        return self.results / "slides" / f"{slide}.json"

    def store(self, slide: str, *, packed: bool = False) -> Path:
        """OME-Zarr store of a slide; ``packed``: the store as one zip file."""
        store = self.results / "slides" / f"{slide}.zarr"
        return store.with_name(f"{store.name}.zip") if packed else store / STORE_METADATA

    def annotation(self, slide: str) -> Path:
        """Record of an annotation."""
        return self.results / "annotations" / f"{slide}.json"

    def outlines(self, slide: str) -> Path:
        """Annotated regions, GeoJSON."""
        return self.results / "annotations" / f"{slide}.geojson"

    def label_image(self, slide: str) -> Path:
        """Label image of a slide that is annotated with a mask, Zarr."""
        return self.results / "annotations" / f"{slide}.labels.zarr" / STORE_METADATA

    def reading(self, slide: str, reader: str) -> ReadingFiles:
        """Files of what one of several readers annotated on a slide."""
        return ReadingFiles(self.results / "readers" / slide, reader)

    def tissue(self, slide: str) -> Path:
        """Record of a tissue mask."""
        return self.results / "tissue" / f"{slide}.json"

    def tissue_mask(self, slide: str) -> Path:
        """Tissue mask."""
        return self.results / "tissue" / f"{slide}.png"

    def cores(self, slide: str) -> Path:
        """Table of the cores of a tissue microarray."""
        return self.results / "cores" / f"{slide}.parquet"

    def cores_view(self, slide: str) -> Path:
        """Picture of the cores of a tissue microarray."""
        return self.results / "cores" / f"{slide}.jpg"

    def quality(self, slide: str) -> Path:
        """Record of an artefact map."""
        return self.results / "quality" / f"{slide}.json"

    def artefact_map(self, slide: str) -> Path:
        """Artefact map."""
        return self.results / "quality" / f"{slide}.png"

    def table(self, grid: str, slide: str) -> Path:
        """Patch table of a slide."""
        return self.results / "patches" / grid / f"{slide}.parquet"

    def features(self, group: str, slide: str) -> Path:
        """Features of the patches of a slide, of one group of encoders."""
        return self.results / "features" / group / f"{slide}.arrow"

    def feature_map(self, encoder: str) -> FeatureMapFiles:
        """Files of the map of an encoder's features."""
        return FeatureMapFiles(self.results / "maps" / encoder)

    # --- cohort -----------------------------------------------------------------------------------------------------

    def split(self, task: str) -> Path:
        """Role of every slide in every fold."""
        return self.results / "splits" / f"{task}.parquet"

    def leakage(self, task: str) -> Path:
        """Record of the comparison of slides in different roles."""
        return self.results / "splits" / f"{task}.leakage.json"

    @property
    def quarantine(self) -> Path:
        """Slides in quarantine, with the reasons."""
        return self.results / "quarantine.json"

    @property
    def warnings(self) -> Path:
        """Warnings of the slides that are used."""
        return self.results / "warnings.json"

    @property
    def catalog(self) -> Path:
        """DuckDB database of the cohort."""
        return self.results / "catalog.duckdb"

    # --- models -----------------------------------------------------------------------------------------------------

    def models(self, task: str) -> Path:
        """Folder of a task's models."""
        return self.results / "models" / task

    def model(self, task: str, fold: Number) -> Path:
        """Folder of a model."""
        return self.models(task) / f"fold{fold}"

    def weights(self, task: str, fold: Number) -> Path:
        """Weights of a model."""
        return self.model(task, fold) / WEIGHTS

    def description(self, task: str, fold: Number) -> Path:
        """Description of a model: all that is needed to use its weights."""
        return self.model(task, fold) / DESCRIPTION

    def history(self, task: str, fold: Number) -> Path:
        """Losses and metrics during a training."""
        return self.model(task, fold) / "history.csv"

    def training_details(self, task: str, fold: Number) -> Path:
        """Folder of TensorBoard events and of files that only some settings produce: drawn patches, stain colours."""
        return self.model(task, fold) / "training"

    def training_cohort(self, task: str, fold: Number) -> Path:
        """Slides that a model is trained and validated on, with the digests of their files."""
        return self.models(task) / f"fold{fold}.cohort.json"

    @property
    def checkpoints(self) -> Path:
        """Folder of all checkpoints. They are no outputs: Snakemake would remove them before the next attempt."""
        return self.results / "state"

    def training_state(self, task: str, fold: Number, identity: str) -> Path:
        """Folder of the checkpoints of a training."""
        return self.checkpoints / task / f"fold{fold}" / identity

    def level_state(self, cascade: str, level: Number, identity: str) -> Path:
        """Folder of the checkpoints of a cascade's level."""
        return self.checkpoints / "radhical" / cascade / f"level{level}" / identity

    # --- predictions ------------------------------------------------------------------------------------------------

    def predictions(self, task: str, fold: Number) -> Path:
        """Folder of the predictions of a model."""
        return self.results / "predictions" / task / f"fold{fold}"

    def prediction(self, task: str, fold: Number, slide: str) -> Path:
        """Scores of the patches of a slide."""
        return self.predictions(task, fold) / f"{slide}.parquet"

    def predicted_nodes(self, task: str, fold: Number, slide: str) -> Path:
        """Attention and contributions of the nodes of the graph of a slide."""
        return self.results / "nodes" / task / f"fold{fold}" / f"{slide}.parquet"

    def permuted_scores(self, task: str, fold: Number) -> Path:
        """Scores of test slides after groups of features of their nodes were exchanged."""
        return self.results / "permutations" / task / f"fold{fold}" / "scores.parquet"

    def segmentation(self, task: str, fold: Number, slide: str) -> Path:
        """Label image of a segmented slide, OME-Zarr."""
        return self.predictions(task, fold) / f"{slide}.labels.zarr" / STORE_METADATA

    def segmented_outlines(self, task: str, fold: Number, slide: str) -> Path:
        """Outlines of a segmentation, GeoJSON."""
        return self.predictions(task, fold) / f"{slide}.geojson"

    def scores(self, task: str) -> Path:
        """Scores of whole slides and patients."""
        return self.results / "scores" / f"{task}.tsv"

    def damage(self, task: str) -> Path:
        """The slides whose damage was met when models of a task were trained or slides predicted."""
        return self.results / "scores" / f"{task}.quarantine.json"

    def metrics(self, task: str) -> Path:
        """Metrics of a task, with all that figures are drawn from."""
        return self.results / "metrics" / f"{task}.json"

    def metrics_table(self, task: str) -> Path:
        """Metrics of a task, one per row."""
        return self.results / "metrics" / f"{task}.parquet"

    def slide_metrics(self, task: str) -> Path:
        """Metrics of every test slide of a task, CSV."""
        return self.results / "metrics" / f"{task}.slides.csv"

    def comparison(self, first: str, second: str) -> Path:
        """Comparison of two tasks on the test slides that they have in common."""
        return self.results / "comparisons" / first / f"{second}.json"

    def metrics_figures(self, task: str) -> Path:
        """Folder of the figures of a task's metrics."""
        return self.results / "metrics" / task

    # --- pictures ---------------------------------------------------------------------------------------------------

    def tissue_view(self, slide: str) -> Path:
        """Picture of a slide's tissue and artefacts."""
        return self.results / "views" / "tissue" / f"{slide}.jpg"

    def contact_sheet(self, grid: str, slide: str) -> Path:
        """Pictures of some kept and some excluded patches of a slide."""
        return self.results / "contact" / grid / f"{slide}.png"

    def view(self, task: str, fold: Number, slide: str, view: str) -> Path:
        """Picture of a slide with what a model predicts."""
        return self.results / "views" / task / f"fold{fold}" / slide / f"{view}.jpg"

    def region(self, task: str, fold: Number, slide: str, box: Sequence[Number]) -> Path:
        """Picture of a part of a slide; ``box``: x, y, width, height in level-0 pixels."""
        return self.view(task, fold, slide, "region_{}_{}_{}_{}".format(*box))

    def qupath_tiles(self, task: str, fold: Number, slide: str) -> Path:
        """Predictions as tiles that QuPath opens, GeoJSON."""
        return self.results / "qupath" / task / f"fold{fold}" / f"{slide}.geojson"

    # --- explanations -----------------------------------------------------------------------------------------------

    def embedding(self, task: str, fold: Number) -> EmbeddingFiles:
        """Files of the embedding of a model's patches."""
        return EmbeddingFiles(self.results / "embeddings" / task / f"fold{fold}")

    def attribution(self, task: str, fold: Number) -> AttributionFiles:
        """Files of the attribution of a model's predictions to pixels."""
        return AttributionFiles(self.results / "attributions" / task / f"fold{fold}")

    # --- cascades ---------------------------------------------------------------------------------------------------

    def cascade(self, name: str) -> CascadeFiles:
        """Files of a nucleus cascade."""
        return CascadeFiles(self.results / "radhical" / name)

    def patch_cascade(self, name: str) -> PatchCascadeFiles:
        """Files of a cascade of patch classifiers."""
        return PatchCascadeFiles(self.results / "cascades" / name)

    # --- stain transfers --------------------------------------------------------------------------------------------

    def transfer(self, name: str) -> TransferFiles:
        """Files of a stain transfer."""
        return TransferFiles(self.results / "transfers" / name)

    def transfer_state(self, name: str, identity: str) -> Path:
        """Folder of the checkpoints of a stain transfer."""
        return self.checkpoints / "transfers" / name / identity

    # --- generators -------------------------------------------------------------------------------------------------

    def generator(self, name: str) -> GeneratorFiles:
        """Files of a generator."""
        return GeneratorFiles(self.results / "generators" / name)

    def generator_state(self, name: str, identity: str) -> Path:
        """Folder of the checkpoints of a generator."""
        return self.checkpoints / "generators" / name / identity

    # --- graphs -----------------------------------------------------------------------------------------------------

    def graph(self, name: str, slide: str) -> Path:
        """Graph of a slide: nodes with features, and edges."""
        return self.results / "graphs" / name / f"{slide}.arrow"

    def graph_statistics(self, name: str, slide: str) -> Path:
        """Statistics of the graph of a slide, a table of one row."""
        return self.results / "graphs" / name / f"{slide}.parquet"

    def graph_view(self, name: str, slide: str) -> Path:
        """Picture of a graph that no task uses, on its slide."""
        return self.results / "graphs" / name / f"{slide}.jpg"

    # --- cells ------------------------------------------------------------------------------------------------------

    def cells(self, name: str, slide: str) -> Path:
        """Table of the cells of a slide."""
        return self.results / "cells" / name / f"{slide}.parquet"

    def cell_labels(self, name: str, slide: str) -> Path:
        """Label image of the cells of a slide, OME-Zarr."""
        return self.results / "cells" / name / f"{slide}.labels.zarr" / STORE_METADATA

    def cell_outlines(self, name: str, slide: str) -> Path:
        """Outlines of the cells of a slide, GeoJSON."""
        return self.results / "cells" / name / f"{slide}.geojson"

    # --- report and audit -------------------------------------------------------------------------------------------

    def slide_page(self, slide: str) -> Path:
        """Page of a slide."""
        return self.results / "report" / "slides" / f"{slide}.html"

    def model_card(self, task: str) -> Path:
        """Model card of a task, a page."""
        return self.results / "report" / "models" / f"{task}.html"

    @property
    def front_page(self) -> Path:
        """Front page of the report."""
        return self.results / "report" / "index.html"

    @property
    def outliers_page(self) -> Path:
        """Page with pictures of the slides, sorted by how much they differ from the cohort."""
        return self.results / "report" / "outliers.html"

    @property
    def report(self) -> Path:
        """Snakemake's own report, which `make report` writes."""
        return self.results / "report.html"

    @property
    def lineage(self) -> Path:
        """Origin of every output."""
        return self.results / "audit" / "lineage.parquet"

    @property
    def runs(self) -> Path:
        """Folder with a record of every run."""
        return self.results / "audit" / "runs"

    @property
    def run_lock(self) -> Path:
        """File that exists while a run writes into the results folder."""
        return self.results / "audit" / "run.lock"

    @property
    def pseudonym_key(self) -> Path:
        """Key of the pseudonyms in exports. It is never exported."""
        return self.results / "audit" / "pseudonyms.key"

    @property
    def pseudonyms(self) -> Path:
        """Map of the pseudonyms in exports. It is never exported."""
        return self.results / "audit" / "pseudonyms.tsv"

    @property
    def fingerprints(self) -> Path:
        """Cache of slide fingerprints."""
        return self.results / "audit" / "fingerprints.json"

    @property
    def last_run(self) -> Path:
        """What the last complete run left of every slide: for ``plan=new``."""
        return self.caches / "last_run.json"

    @property
    def caches(self) -> Path:
        """Folder of caches of earlier runs, which save time and may be deleted."""
        return self.results / "memory"

    @property
    def progress(self) -> Path:
        """How far the last run has come (`RunProgress`)."""
        return self.caches / "progress.json"

    @property
    def code_digests(self) -> Path:
        """Cache of the digests of the library's files."""
        return self.caches / "code.json"

    @property
    def shared_features(self) -> Path:
        """Folder of features that wait for the jobs of their slides. A run removes them when it starts."""
        return self.caches / "features"

    def kept_features(self, group: str, slide: str) -> Path:
        """Second name of the features of chosen patches of a slide, whose vectors another choice reuses."""
        return self.caches / "vectors" / group / f"{slide}.arrow"

    def file_cache(self, name: str) -> Path:
        """Cache of the small files that an aggregate rule reads (`FileCache`)."""
        return self.caches / f"{name}.parquet"

    @property
    def benchmarks(self) -> Path:
        """Folder of the benchmarks of all rules."""
        return self.results / "benchmarks"

    def benchmark(self, rule: str, *job: str) -> Path:
        """Run time and memory of a job: ``job`` distinguishes it from others of its rule."""
        *folders, name = rule, *job
        return self.benchmarks.joinpath(*folders, f"{name}.tsv")

    @property
    def logs(self) -> Path:
        """Folder of the logs of all rules."""
        return self.results / "logs"

    def log(self, rule: str, *job: str) -> Path:
        """Log of a job: ``job`` distinguishes it from others of its rule."""
        *folders, name = rule, *job
        return self.logs.joinpath(*folders, f"{name}.log")
