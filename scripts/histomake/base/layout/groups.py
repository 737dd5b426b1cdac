"""Paths of files that lie in one folder and belong together: of an embedding, a cascade, a generator, …"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from histomake.base.files import STORE_METADATA

Number = int | str
"""A number in a path, or the wildcard in its place."""

WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"
"""Files of a trained model."""

ONNX = "model.onnx"
"""File of a network from elsewhere, in place of weights."""


@dataclass(frozen=True)
class ReadingFiles:
    """Files of what one of several readers annotated on a slide."""

    folder: Path
    """Folder of the slide."""
    reader: str

    @property
    def record(self) -> Path:
        """Record of the reader's annotation."""
        return self.folder / f"{self.reader}.json"

    @property
    def outlines(self) -> Path:
        """Annotated regions, GeoJSON."""
        return self.folder / f"{self.reader}.geojson"

    @property
    def labels(self) -> Path:
        """Label image, Zarr; without arrays if the reader annotated outlines."""
        return self.folder / f"{self.reader}.labels.zarr" / STORE_METADATA

    def table(self, grid: str) -> Path:
        """Patch table of the slide with the reader's areas."""
        return self.folder / self.reader / f"{grid}.parquet"


@dataclass(frozen=True)
class EmbeddingFiles:
    """Files of the embedding of a model's patches."""

    folder: Path

    @property
    def features(self) -> Path:
        """Features and position of every patch."""
        return self.folder / "features.parquet"

    @property
    def page(self) -> Path:
        """Interactive map."""
        return self.folder / "map.html"

    @property
    def mosaic(self) -> Path:
        """Patches laid out by their features."""
        return self.folder / "mosaic.png"

    @property
    def record(self) -> Path:
        """How well classes and sites are separated."""
        return self.folder / "separation.json"


@dataclass(frozen=True)
class FeatureMapFiles(EmbeddingFiles):
    """Files of the map of an encoder's features: those of an embedding, and what places further patches into it."""

    @property
    def fitted(self) -> Path:
        """The fitted map."""
        return self.folder / "map.safetensors"


@dataclass(frozen=True)
class AttributionFiles:
    """Files of the attribution of a model's predictions to pixels."""

    folder: Path

    @property
    def panels(self) -> Path:
        """Picture of all patches with their maps."""
        return self.folder / "panels.png"

    @property
    def patches(self) -> Path:
        """Patches that are explained, with their checks."""
        return self.folder / "patches.parquet"

    @property
    def background(self) -> Path:
        """Training patches that replace absent pixels."""
        return self.folder / "background.parquet"

    @property
    def maps(self) -> Path:
        """Attribution of every pixel."""
        return self.folder / "maps.npz"

    @property
    def record(self) -> Path:
        """Checks of the maps as a whole."""
        return self.folder / "checks.json"


@dataclass(frozen=True)
class PatchCascadeFiles:
    """Files of a cascade of patch classifiers."""

    folder: Path

    def thresholds(self, fold: Number) -> Path:
        """Thresholds of a fold, and how they were chosen."""
        return self.folder / f"fold{fold}.thresholds.json"

    def trials(self, fold: Number) -> Path:
        """Thresholds that were tried in a fold."""
        return self.folder / f"fold{fold}.search.parquet"

    def pareto_front(self, fold: Number) -> Path:
        """Figure of cost against AUROC of all thresholds tried in a fold."""
        return self.folder / f"fold{fold}.pareto.png"

    def prediction(self, fold: Number, slide: str) -> Path:
        """Predictions on a slide."""
        return self.folder / f"fold{fold}" / f"{slide}.parquet"

    def record(self, fold: Number, slide: str) -> Path:
        """What each stage did on a slide."""
        return self.folder / f"fold{fold}" / f"{slide}.json"

    def levels_view(self, fold: Number, slide: str) -> Path:
        """Picture of which stage decided which patch of a slide."""
        return self.folder / f"fold{fold}" / f"{slide}.png"

    @property
    def metrics(self) -> Path:
        """Comparison with the finest stage alone on the test slides of all folds."""
        return self.folder / "metrics.json"

    @property
    def metrics_table(self) -> Path:
        """The same, one slide per row, CSV."""
        return self.folder / "slides.csv"

    @property
    def front(self) -> Path:
        """Figure of seconds against AUROC on the test slides."""
        return self.folder / "front.png"


@dataclass(frozen=True)
class CascadeFiles:
    """Files of a nucleus cascade."""

    folder: Path

    @property
    def split(self) -> Path:
        """Role of every slide."""
        return self.folder / "split.parquet"

    @property
    def leakage(self) -> Path:
        """Record of the comparison of slides in different roles."""
        return self.folder / "leakage.json"

    def level(self, number: Number) -> Path:
        """Folder of the model of a level."""
        return self.folder / f"level{number}"

    def weights(self, level: Number) -> Path:
        """Weights of a level's model."""
        return self.level(level) / WEIGHTS

    def description(self, level: Number) -> Path:
        """Description of a level's model."""
        return self.level(level) / DESCRIPTION

    def history(self, level: Number) -> Path:
        """Losses during the training of a level."""
        return self.level(level) / "history.csv"

    def training_details(self, level: Number) -> Path:
        """Folder of TensorBoard events of a level."""
        return self.level(level) / "training"

    def points(self, level: Number) -> Path:
        """Points that a level was trained on."""
        return self.level(level) / "points.parquet"

    def validation_maps(self, slide: str) -> Path:
        """Probabilities of all levels everywhere on a validation slide."""
        return self.folder / "validation" / f"{slide}.npz"

    @property
    def thresholds(self) -> Path:
        """Thresholds that were found."""
        return self.folder / "thresholds.json"

    @property
    def trials(self) -> Path:
        """Thresholds that were tried."""
        return self.folder / "search.parquet"

    @property
    def pareto_front(self) -> Path:
        """Figure of cost against F score of all thresholds tried."""
        return self.folder / "pareto.png"

    def segmentation(self, slide: str) -> Path:
        """Record of the segmentation of a slide."""
        return self.folder / "slides" / f"{slide}.json"

    def store(self, slide: str) -> Path:
        """Label image, probabilities and states of a segmented slide, Zarr."""
        return self.folder / "slides" / f"{slide}.zarr" / STORE_METADATA

    def outlines(self, slide: str) -> Path:
        """Outlines of the nuclei of a slide, GeoJSON."""
        return self.folder / "slides" / f"{slide}.geojson"

    def levels_view(self, slide: str) -> Path:
        """Picture of what every level did on a slide."""
        return self.folder / "levels" / f"{slide}.png"

    @property
    def metrics(self) -> Path:
        """Metrics on the test slides."""
        return self.folder / "metrics.json"

    @property
    def metrics_table(self) -> Path:
        """Metrics of every test slide."""
        return self.folder / "metrics.parquet"

    @property
    def table(self) -> Path:
        """Metrics beside the bars, as text."""
        return self.folder / "table.txt"

    @property
    def bars(self) -> Path:
        """Metrics beside the bars, as a page."""
        return self.folder / "bars.html"


@dataclass(frozen=True)
class GenerativeFiles:
    """Files of the networks that make images. They lie in a folder of their own, so that no slide has their names."""

    folder: Path

    @property
    def model(self) -> Path:
        """Folder of the networks."""
        return self.folder / "model"

    @property
    def weights(self) -> Path:
        """Weights of the networks."""
        return self.model / WEIGHTS

    @property
    def description(self) -> Path:
        """Description of the networks."""
        return self.model / DESCRIPTION

    @property
    def history(self) -> Path:
        """Losses during the training."""
        return self.model / "history.csv"

    @property
    def training_details(self) -> Path:
        """Folder of TensorBoard events."""
        return self.model / "training"


@dataclass(frozen=True)
class TransferFiles(GenerativeFiles):
    """Files of a stain transfer."""

    @property
    def cohort(self) -> Path:
        """Slides that the transfer is learned from, with the digests of their files."""
        return self.model / "cohort.json"

    def manifest(self, slide: str) -> Path:
        """Manifest of a virtual slide."""
        return self.folder / f"{slide}.json"

    def store(self, slide: str) -> Path:
        """Store of a virtual slide, OME-Zarr."""
        return self.folder / f"{slide}.zarr" / STORE_METADATA

    def view(self, slide: str) -> Path:
        """Picture of a virtual slide beside the scanned one."""
        return self.folder / f"{slide}.jpg"

    def measures(self, direction: str) -> Path:
        """Measures of one direction on held-out slides."""
        return self.folder / "measures" / f"{direction}.json"

    def invented(self, direction: str) -> Path:
        """Map of the nuclei that the held-out slides do not have."""
        return self.folder / "measures" / f"{direction}.jpg"


@dataclass(frozen=True)
class GeneratorFiles(GenerativeFiles):
    """Files of a generator."""

    @property
    def cohort(self) -> Path:
        """Slides that the generator is learned from, with the digests of their files."""
        return self.folder / "cohort.json"

    @property
    def phases(self) -> Path:
        """Picture of the same latents in each phase of the training."""
        return self.model / "phases.png"

    @property
    def samples(self) -> Path:
        """Picture of samples."""
        return self.folder / "samples.png"

    @property
    def measures(self) -> Path:
        """Measures on held-out patients."""
        return self.folder / "measures.json"

    @property
    def nearest(self) -> Path:
        """Picture of samples beside the nearest training fields."""
        return self.folder / "nearest.png"

    def drawn(self, count: Number, seed: Number) -> Path:
        """Folder of samples as single images, made on request."""
        return self.folder / "samples" / f"{count}_seed{seed}"
