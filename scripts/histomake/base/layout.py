"""Owns where everything lies under the results folder, for the code that is not a rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from histomake.base.files import STORE_METADATA


@dataclass(frozen=True)
class Layout:
    """Paths of one results folder; the rules' output patterns say the same."""

    results: Path

    def manifest(self, slide: str) -> Path:
        """The slide's manifest; its store lies beside it."""
        return self.results / "slides" / f"{slide}.json"

    def store(self, slide: str, *, packed: bool = False) -> Path:
        """The file that stands for the slide's store: its zarr.json, or the store itself when it is one zip file."""
        store = self.results / "slides" / f"{slide}.zarr"
        return store.with_name(f"{store.name}.zip") if packed else store / STORE_METADATA

    def tissue(self, slide: str) -> Path:
        """The record of the tissue mask."""
        return self.results / "tissue" / f"{slide}.json"

    def quality(self, slide: str) -> Path:
        """The record of the artefact map."""
        return self.results / "quality" / f"{slide}.json"

    def annotation(self, slide: str) -> Path:
        """The record of the annotation."""
        return self.results / "annotations" / f"{slide}.json"

    def outlines(self, slide: str) -> Path:
        """The slide's annotated regions, as GeoJSON."""
        return self.annotation(slide).with_suffix(".geojson")

    def label_image(self, slide: str) -> Path:
        """The zarr.json of the label image of a slide that is annotated with a mask."""
        return self.results / "annotations" / f"{slide}.labels.zarr" / STORE_METADATA

    def table(self, grid: str, slide: str) -> Path:
        """The slide's patch table."""
        return self.results / "patches" / grid / f"{slide}.parquet"

    def split(self, task: str) -> Path:
        """The task's roles of slides."""
        return self.results / "splits" / f"{task}.parquet"

    def models(self, task: str) -> Path:
        """The folder of a task's trained models."""
        return self.results / "models" / task

    def model(self, task: str, fold: int) -> Path:
        """The folder of a trained model."""
        return self.models(task) / f"fold{fold}"

    def prediction(self, task: str, fold: int, slide: str) -> Path:
        """The slide's predictions."""
        return self.results / "predictions" / task / f"fold{fold}" / f"{slide}.parquet"

    def segmentation(self, task: str, fold: int, slide: str) -> Path:
        """The zarr.json of the slide's segmented label image."""
        return self.prediction(task, fold, slide).with_name(f"{slide}.labels.zarr") / STORE_METADATA

    def segmented_outlines(self, task: str, fold: int, slide: str) -> Path:
        """The segmentation's outlines, as GeoJSON."""
        return self.prediction(task, fold, slide).with_name(f"{slide}.geojson")

    def scores(self, task: str) -> Path:
        """Scores of whole slides and patients."""
        return self.results / "scores" / f"{task}.tsv"

    def metrics(self, task: str) -> Path:
        """The task's metrics."""
        return self.results / "metrics" / f"{task}.json"

    def view(self, task: str, fold: int, slide: str, view: str) -> Path:
        """One picture of a slide."""
        return self.results / "views" / task / f"fold{fold}" / slide / f"{view}.jpg"

    def tissue_view(self, slide: str) -> Path:
        """The picture of a slide's tissue."""
        return self.results / "views" / "tissue" / f"{slide}.jpg"

    def region(self, task: str, fold: int, slide: str, box: Sequence[int]) -> Path:
        """The picture of a part of a slide; ``box``: x, y, width, height in level-0 pixels."""
        name = "region_{}_{}_{}_{}.jpg".format(*box)
        return self.results / "views" / task / f"fold{fold}" / slide / name

    def cascade_levels(self, cascade: str, slide: str) -> Path:
        """The picture of what every level of a nucleus cascade did on a slide."""
        return self.results / "radhical" / cascade / "levels" / f"{slide}.png"

    @property
    def quarantine(self) -> Path:
        """The slides that were lost, and why."""
        return self.results / "quarantine.json"

    @property
    def lineage(self) -> Path:
        """Where every output came from."""
        return self.results / "audit" / "lineage.parquet"

    @property
    def runs(self) -> Path:
        """One folder per run of the workflow."""
        return self.results / "audit" / "runs"

    @property
    def catalog(self) -> Path:
        """The cohort's database."""
        return self.results / "catalog.duckdb"

    @property
    def report(self) -> Path:
        """Snakemake's report, which is written after a run."""
        return self.results / "report.html"

    @property
    def fingerprints(self) -> Path:
        """The memory of slide fingerprints."""
        return self.results / "audit" / "fingerprints.json"

    def file_cache(self, rule: str) -> Path:
        """Cache of the small files that an aggregate rule reads (`FileCache`); may be deleted."""
        return self.results / "memory" / f"{rule}.parquet"
