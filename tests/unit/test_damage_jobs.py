"""The jobs of a damaged slide: they end well, and their outputs and sidecars say what is missing."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from damaged_cohort import CLASSES, TASK, build_damaged, fit
from histomake.base.layout import Layout
from histomake.base.records.cohort import CohortSlide
from histomake.base.records.record import Quarantined, write_list
from histomake.base.records.sidecar import Sidecar
from small_cohort import GRID_NAME

from tests import sample_records

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
CONFIG = {
    "annotations": {"classes": {name: name for name in CLASSES}},
    "grids": {GRID_NAME: {"size": 64, "mpp": 1.0}},
    "tasks": {"t": TASK.dump()},
}


class Values(SimpleNamespace):
    """Named values, as Snakemake's inputs, outputs, params and wildcards are."""

    def __iter__(self):
        for value in vars(self).values():
            yield from value if isinstance(value, list) else [value]

    def __getitem__(self, number):
        return list(self)[number]

    def items(self):
        return vars(self).items()

    def get(self, name, default=None):
        return vars(self).get(name, default)


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    """Results with a model of two slides, and the predictions of a whole one and of a damaged one."""
    layout = Layout(tmp_path_factory.mktemp("results"))
    slides = build_damaged(layout.results)
    fit(slides[:3], layout.results / "fitted")
    layout.models("t").mkdir(parents=True)
    (layout.results / "fitted" / "model").rename(layout.model("t", 0))
    cohort = [
        CohortSlide(role="train", slide_id=s.slide_id, patient_id=s.patient_id, labels={}, digests=[])
        for s in (slides[0], slides[3])
    ]
    write_list(layout.training_cohort("t", 0), cohort)
    for slide in ("s2", "s3"):
        predict(layout, slide)
    return layout


def run(layout, script, outputs, *, params=None, wildcards=None, **inputs):
    """Run a rule's script as Snakemake does, and return its sidecar."""
    spec = importlib.util.spec_from_file_location(f"script_{script}", SCRIPTS / f"{script}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    plain = {k: list(map(str, v)) if isinstance(v, list) else str(v) for k, v in inputs.items()}
    out = {k: list(map(str, v)) if isinstance(v, list) else str(v) for k, v in outputs.items()}
    for path in Values(**out):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    module.main(
        SimpleNamespace(
            input=Values(**plain),
            output=Values(**out),
            params=Values(**{"code": "c"} | (params or {})),
            wildcards=Values(**wildcards or {}),
            log=[],
            threads=1,
            rule=script,
            scriptdir=str(SCRIPTS),
            resources={},
            config=CONFIG | {"results": str(layout.results)},
        )
    )
    return Sidecar.read(f"{next(iter(Values(**out)))}.meta.json")


def model_files(layout):
    return {"weights": layout.weights("t", 0), "description": layout.description("t", 0)}


def predict(layout, slide):
    return run(
        layout,
        "predict_slide",
        {"predictions": layout.prediction("t", 0, slide)},
        params={"entry": [slide, f"patient-{slide}", {}]},
        wildcards={"task": "t", "fold": "0", "slide": slide},
        manifest=layout.manifest(slide),
        **model_files(layout),
    )


def stages(entries):
    return [(entry.slide_id, entry.stage) for entry in entries]


def test_the_sidecar_of_a_prediction_names_the_damaged_slide(layout):
    assert predict(layout, "s2").quarantined == []
    assert stages(predict(layout, "s3").quarantined) == [("s3", "predict")]
    assert pq.read_metadata(layout.prediction("t", 0, "s3")).num_rows == 0
    assert pq.read_metadata(layout.prediction("t", 0, "s2")).num_rows


def test_scores_and_metrics_are_made_and_the_damage_is_listed(layout):
    predictions = [layout.prediction("t", 0, slide) for slide in ("s2", "s3")]
    entries = [[slide, f"patient-{slide}", {}] for slide in ("s2", "s3")]
    run(
        layout,
        "score",
        {"scores": layout.scores("t"), "damage": layout.damage("t")},
        params={"aggregate": "mean", "slides": entries, "validated": [], "max_share": 0.5},
        wildcards={"task": "t"},
        predictions=predictions,
        descriptions=[layout.description("t", 0)],
    )
    assert stages(Quarantined.read_list(layout.damage("t"))) == [("s3", "predict")]
    rows = list(csv.DictReader(layout.scores("t").open(), delimiter="\t"))
    assert {row["slide_id"]: int(row["patches"]) > 0 for row in rows if row["slide_id"]} == {"s2": True, "s3": False}
    for chosen, counted in ((slice(1, None), False), (slice(None), True)):
        run(
            layout,
            "evaluate",
            {
                "metrics": layout.metrics("t"),
                "table": layout.metrics_table("t"),
                "slides": layout.slide_metrics("t"),
                "figures": layout.metrics_figures("t"),
            },
            params={
                "kind": "classification",
                "level": "patch",
                "target": TASK.target.dump(),
                "pooling": TASK.predict.dump("aggregate", "patient_truth"),
                "statistics": TASK.evaluate.dump(),
                "horizon": TASK.predict.horizon,
                "subgroups": {},
                "validation": [],
                "slides": entries[chosen],
                "seed": 0,
            },
            wildcards={"task": "t"},
            predictions=predictions[chosen],
            validation=[],
            descriptions=[layout.description("t", 0)],
        )
        levels = json.loads(layout.metrics("t").read_text())["levels"]
        assert (levels["patch"]["count"] > 0) == counted
        assert bool(list(layout.metrics_figures("t").glob("roc.png"))) == counted


@pytest.mark.parametrize("slides", [("s2", "s3"), ("s3",)])
def test_explanations_are_made_of_what_is_left(layout, slides):
    entries = [[slide, f"patient-{slide}", {}] for slide in slides]
    predictions = [layout.prediction("t", 0, slide) for slide in slides]
    files = layout.embedding("t", 0)
    run(
        layout,
        "embed",
        {"features": files.features, "page": files.page, "mosaic": files.mosaic, "record": files.record},
        params={
            "cfg": {"embed_patches": 12, "umap_neighbors": 5},
            "slides": entries,
            "sites": [""] * len(slides),
            "seed": 0,
        },
        wildcards={"task": "t", "fold": "0"},
        predictions=predictions,
        vectors=[],
        **model_files(layout),
    )
    found = json.loads(files.record.read_text())
    assert (found["slides"], [lost["slide_id"] for lost in found["left_out"]]) == (len(slides) - 1, ["s3"])
    files = layout.attribution("t", 0)
    sidecar = run(
        layout,
        "attribute",
        {name: getattr(files, name) for name in ("panels", "patches", "background", "maps", "record")},
        params={
            "cfg": {
                "shap_patches": 2,
                "shap_at": [],
                "shap_background": 4,
                "shap_method": "gradient",
                "regions": [["s3", 0, 0, 500, 500]],
            },
            "slides": entries,
            "seed": 0,
        },
        wildcards={"task": "t", "fold": "0"},
        predictions=predictions,
        cohort=layout.training_cohort("t", 0),
        **model_files(layout),
    )
    found = json.loads(files.record.read_text())
    assert {lost["slide_id"] for lost in found["left_out"]} == {"s3"}
    assert (found["patches"] > 0) == (len(slides) > 1)
    assert files.panels.stat().st_size > 1000
    # That the background lacks a training slide is met here; that the slide has no prediction is known.
    assert stages(sidecar.quarantined) == ([("s3", "attribute")] if len(slides) > 1 else [])


def test_pictures_show_why_they_could_not_be_drawn(layout):
    sample_records.tissue("s3").write(
        layout.tissue("s3").parent.mkdir(parents=True, exist_ok=True) or layout.tissue("s3")
    )
    contact = layout.contact_sheet(GRID_NAME, "s3")
    quality = layout.quality("s3")
    quality.parent.mkdir(parents=True, exist_ok=True)
    sample_records.lost("s3").write(quality)
    sidecar = run(
        layout,
        "overview",
        {"tissue": layout.tissue_view("s3"), "contact": [contact]},
        params={"mpp": 8.0, "patches": 9, "seed": 0},
        wildcards={"slide": "s3"},
        manifest=layout.manifest("s3"),
        tissue=layout.tissue("s3"),
        quality=quality,
        mask=layout.tissue_mask("s3"),
        artefacts=layout.artefact_map("s3"),
        tables=[layout.table(GRID_NAME, "s3")],
    )
    assert stages(sidecar.quarantined) == [("s3", "overview")]
    assert contact.stat().st_size > 1000
