"""Records of made-up slides for tests: valid in every field, with the values that a test is about."""

from __future__ import annotations

from typing import Any

import numpy as np
from histomake.base.errors import Reason
from histomake.base.kinds import Kind
from histomake.base.records.annotation import AnnotationRecord
from histomake.base.records.cascade_card import CascadeCard, DrawnPoints
from histomake.base.records.cascade_cost import LevelShares, MultiplyAdds
from histomake.base.records.cascade_thresholds import Thresholds
from histomake.base.records.environment import GitState, Machine
from histomake.base.records.manifest import Manifest, ManifestLevel
from histomake.base.records.metrics import LevelMetrics, MetricsRecord, MetricValue
from histomake.base.records.model_card import ModelCard, ModelGrid, Normalisation
from histomake.base.records.nuclei import NucleiRecord, SegmentationSeconds
from histomake.base.records.patch_table import PatchTableRecord
from histomake.base.records.quality import QualityRecord
from histomake.base.records.record import Quarantined
from histomake.base.records.sidecar import Sidecar
from histomake.base.records.tissue import TissueRecord
from histomake.config import Grid
from histomake.tissue.artefacts import ArtefactMap
from histomake.tissue.mask import TissueMask

SLIDE = "s1"


def manifest(slide_id: str = SLIDE, **values: Any) -> Manifest:
    """A slide of 4096 x 2048 px at 0.5 µm/px."""
    told: dict[str, Any] = {"width": 4096, "height": 2048, "mpp": 0.5} | values
    level = ManifestLevel(
        path="0",
        width=told["width"],
        height=told["height"],
        downsample=1.0,
        mpp=told["mpp"],
        codec="jpeg",
        passthrough=True,
        empty_tiles=0,
    )
    filled: dict[str, Any] = {
        "slide_id": slide_id,
        "store": f"{slide_id}.zarr",
        "mpp_x": told["mpp"],
        "mpp_y": told["mpp"],
        "mpp_source": "vendor",
        "levels": (level,),
        "associated": {},
        "sha256": "ab" * 32,
        "checksums": {},
        "bytes_in": 1000,
        "bytes_out": 1000,
        "files": 0,
        "vendor": "aperio",
        "slide_format": "tiff",
        "properties": {},
        "seconds": {},
    }
    return Manifest(**filled | told)


def annotation(slide_id: str = SLIDE, **values: Any) -> AnnotationRecord:
    """The annotation of a slide of 4096 x 2048 px: an empty GeoJSON file."""
    filled = {"source": "a.geojson", "annotation_format": "geojson", "width": 4096, "height": 2048, "class_names": ()}
    return AnnotationRecord(slide_id=slide_id, **filled | values)


def no_annotation(slide_id: str = SLIDE) -> AnnotationRecord:
    """A slide that nobody annotated."""
    return annotation(slide_id, source=None, annotation_format="none")


def tissue(slide_id: str = SLIDE, **values: Any) -> TissueRecord:
    """Tissue on 40 % of a slide; a mask pixel is 16 x 16 level-0 pixels."""
    filled = {
        "mpp": 8.0,
        "downsample_x": 16.0,
        "downsample_y": 16.0,
        "mode": "brightfield",
        "method": "saturation, otsu",
        "threshold": 14.0,
        "area_mm2": 2.5,
        "coverage": 0.4,
        "components": 1,
        "ink_mm2": 0.0,
    }
    return TissueRecord(slide_id=slide_id, **filled | values)


def quality(slide_id: str = SLIDE, **values: Any) -> QualityRecord:
    """Tissue without artefacts."""
    filled = {"mpp": 8.0, "sharpness": 2.5, "shares": {"pen": 0.0, "blur": 0.0, "fold": 0.0}, "clean_share": 1.0}
    return QualityRecord(slide_id=slide_id, **filled | values)


def patch_table(slide_id: str = SLIDE, *, grid: Grid | None = None, **values: Any) -> PatchTableRecord:
    """The patch table of a slide of 4096 x 2048 px at 0.5 µm/px."""
    filled = {"sha256": "ab" * 32, "width": 4096, "height": 2048, "mpp": 0.5, "grid_name": "x20"}
    return PatchTableRecord(slide_id=slide_id, grid=(grid or Grid()).dump(), **filled | values)


def model_card(kind: Kind | str = Kind.CLASSIFICATION, **values: Any) -> ModelCard:
    """A model of two classes, skin and nuclei, on patches of 128 px at 1 µm/px."""
    filled = {
        "class_names": ["skin", "nuclei"],
        "architecture": {"name": "test_resnet"},
        "target": {"classes": ["skin", "nuclei"]},
        "grid": ModelGrid(name="x10", size=128, mpp=1.0),
        "normalisation": Normalisation(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
        "threshold": 0.5,
        "slide_thresholds": {},
        "metrics": {},
        "step": 10,
        "seed": 7,
        "parameters": 1000,
    }
    return ModelCard(kind=Kind(kind), **filled | values)


def cascade_card(**values: Any) -> CascadeCard:
    """The network of level 1 of a cascade, at 0.5 µm/px."""
    filled = {
        "level": 1,
        "mpp": 0.5,
        "network": {"name": "radhical"},
        "field": 67,
        "parameters": 1000,
        "train": {"steps": 10},
        "seed": 0,
        "slides": [SLIDE],
        "points": DrawnPoints(background=10, inside=10, third=10),
        "loss": 0.5,
    }
    return CascadeCard(**filled | values)


def metric(value: float | None, low: float | None = None, high: float | None = None) -> MetricValue:
    """A metric with its interval, if there is one."""
    return MetricValue(value=value, low=low, high=high, se=None, samples=0 if low is None else 1000)


def metrics(levels: dict[str, LevelMetrics], **values: Any) -> MetricsRecord:
    """Metrics of a task with the classes a and b, from three patients."""
    filled = {
        "kind": Kind.CLASSIFICATION,
        "classes": ["a", "b"],
        "seed": 0,
        "bootstraps": 1000,
        "aggregate": "mean",
        "interval_percent": (2.5, 97.5),
        "patients": 3,
        "slides": 4,
        "patient_truth": "refuse",
        "patients_of_several_classes": [],
    }
    return MetricsRecord(levels=levels, **filled | values)


def nuclei(slide_id: str = SLIDE, **values: Any) -> NucleiRecord:
    """A slide without nuclei, of which a cascade of one level computed a quarter."""
    filled = {
        "store": f"{slide_id}.zarr",
        "thresholds": Thresholds(cut=0.5, lower=[], upper=[]),
        "nuclei": 0,
        "seconds": SegmentationSeconds(cascade=1.0, total=2.0),
        "levels": [LevelShares(level=1, mpp=0.5, pixels=100, computed=0.25, accepted=0.0, rejected=0.75, blocks=1)],
        "pixel_evaluations": 25,
        "saved": 0.75,
        "multiply_adds": MultiplyAdds(naive=100, dense=20, cascade=5),
    }
    return NucleiRecord(slide_id=slide_id, **filled | values)


def sidecar(**values: Any) -> Sidecar:
    """The sidecar of a job without inputs and outputs."""
    filled = {
        "rule": "convert",
        "wildcards": {},
        "params": {},
        "inputs": {},
        "outputs": {},
        "log": [],
        "started": "2026-01-01T00:00:00.000+00:00",
        "seconds": 1.0,
        "threads": 1,
        "packages": {},
        "git": GitState(commit="abc", modified=False),
        "machine": Machine(host="node", cpus=2, gpus=[], slurm_job=None),
    }
    return Sidecar(**filled | values)


def lost(slide_id: str = SLIDE, **values: Any) -> Quarantined:
    """A slide whose file does not state a resolution."""
    filled = {
        "stage": "convert",
        "reason": Reason.NO_MPP,
        "path": f"{slide_id}.svs",
        "detail": "no mpp",
        "remedy": "Give one in the sheet",
    }
    return Quarantined(slide_id=slide_id, **filled | values)


def tissue_mask(mask: np.ndarray, downsample: float) -> TissueMask:
    """A mask bool (h, w) whose pixels are ``downsample`` level-0 pixels wide and high."""
    return TissueMask(mask, tissue(downsample_x=downsample, downsample_y=downsample))


def artefact_map(labels: np.ndarray, **values: Any) -> ArtefactMap:
    """A map of artefacts uint8 (h, w)."""
    return ArtefactMap(labels, quality(**values))
