"""Tasks that predict virtual slides: their frame, what is predicted from what, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import yaml
from histomake.base.errors import ConfigError, SlideError
from histomake.base.layout import Layout
from histomake.base.records.manifest import Manifest, VirtualStain
from histomake.base.units import Mpp
from histomake.cohort.sheet import Slide
from histomake.config import Convert, Task, parse_config
from histomake.generate.lattice import SlideLattice
from histomake.generate.store import write_virtual_slide
from histomake.learn.inference.predict import load_model, predict_slide
from histomake.learn.train import train
from histomake.planning.misfits import misfits
from histomake.planning.plan import make_plan
from histomake.planning.transfer_plan import TransferPlan
from histomake.slide.convert import convert
from histomake.slide.reader import open_slide
from small_cohort import CLASSES, GRID_NAME, build_cohort

from tests.demo import cohort
from tests.workshop import ROOT

SIDES = {"from": {"column": "stain", "value": "HE"}, "to": {"column": "stain", "value": "PAS"}, "grid": "x5"}
TASK = {
    "kind": "classification",
    "grid": "x5",
    "target": {"source": "annotation", "classes": ["skin", "nuclei"]},
    "predict": {"transfer": "he_pas"},
    "split": {"folds": 1},
}
ROLES = {"h1": "test", "h2": "predict", "h3": "train", "p1": "train", "p2": "train", "p3": "val", "p4": "test"}


def transfers_of(tmp_path, roles=ROLES, **predict):
    config = parse_config(
        {
            "results": str(tmp_path),
            "annotations": {"classes": {"skin": "skin", "nuclei": "nuclei"}},
            "grids": {"x5": {"mpp": 2.0, "size": 128}},
            "stain_transfers": {"he_pas": SIDES},
            "tasks": {"tissue": TASK | {"predict": TASK["predict"] | predict}},
        }
    )
    rows = {
        slide: Slide(slide, "a.svs", slide, split=role, groups={"stain": "HE" if slide[0] == "h" else "PAS"})
        for slide, role in roles.items()
    }
    return TransferPlan(make_plan(config, rows))


def test_a_side_without_slides_is_a_misfit_of_the_plan(tmp_path):
    plan = transfers_of(tmp_path, roles={"p1": "train", "p2": "val", "p3": "test"}).plan
    (problem,) = misfits(plan)
    assert "he_pas" in problem
    assert misfits(transfers_of(tmp_path).plan) == []


def unchanged_slide(entry, layout, mpp):
    """The manifest of a virtual slide at ``mpp`` µm per pixel with the colours of the scanned one."""
    files = layout.transfer("he_pas")
    with open_slide(entry.manifest) as scanned:
        lattice = SlideLattice(scanned, Mpp(mpp))
        manifest = write_virtual_slide(
            lattice.read,
            lattice,
            Manifest.read_usable(entry.manifest),
            files.store(entry.slide_id).parent,
            config=Convert(codec="zstd", shard_px=512),
            virtual=VirtualStain(transfer="he_pas", stains=("HE", "PAS"), weights_sha256=None),
        )
    manifest.write(files.manifest(entry.slide_id))
    return files.manifest(entry.slide_id)


def test_a_position_on_a_virtual_slide_is_that_on_the_scanned_one(tmp_path):
    """A virtual slide of 2 µm per pixel is read with the positions of one of 1 µm."""
    entry = build_cohort(tmp_path, 1)[0]
    manifest = unchanged_slide(entry, Layout(tmp_path), 2.0)
    with open_slide(entry.manifest) as scanned, open_slide(manifest) as virtual:
        assert (virtual.width, virtual.height, virtual.mpp) == (scanned.width, scanned.height, scanned.mpp)
        for place in ((0, 0), (128, 64), (300, 200)):
            for size, mpp in ((64, 2.0), (16, 4.0)):
                expected = scanned.read(*place, size, Mpp(mpp)).astype(int)
                assert np.abs(virtual.read(*place, size, Mpp(mpp)) - expected).max() <= 1
    assert Manifest.read_usable(manifest).levels[0].mpp == 2.0


def test_a_virtual_slide_with_the_pixels_of_the_scanned_one_has_its_predictions(tmp_path):
    entries = build_cohort(tmp_path, 3)
    options = {"steps": 2, "batch": 4, "validate_every": 2, "workers": 0}
    task = Task(grid=GRID_NAME, target={"classes": CLASSES}, model={"name": "test_resnet"}, train=options)
    places = {"output": tmp_path / "model", "state": tmp_path / "state"}
    train(task, train=entries[:1], val=entries[1:2], class_names=CLASSES, **places, seed=0, threads=1)
    predictor, entry = load_model(tmp_path / "model"), entries[2]
    virtual = replace(entry, manifest=unchanged_slide(entry, Layout(tmp_path), 1.0))
    tables = [predict_slide(predictor, one, batch=16, threads=1) for one in (entry, virtual)]
    assert tables[0].equals(tables[1])
    assert tables[0].num_rows > 0


def test_slides_of_the_other_stain_are_predicted_in_silico_and_others_as_scanned(tmp_path):
    transfers, layout = transfers_of(tmp_path, allow_virtual=True), Layout(tmp_path)
    files = layout.transfer("he_pas")
    for slide in ("h1", "h2", "h3"):
        assert transfers.manifest("tissue", slide) == files.manifest(slide)
        assert transfers.virtual_stores("tissue", slide) == [files.store(slide)]
    assert transfers.manifest("tissue", "p4") == layout.manifest("p4")
    assert transfers.virtual_stores("tissue", "p4") == []


def test_the_example_compares_the_same_model_on_slides_in_silico_and_as_scanned(tmp_path):
    example = yaml.safe_load((ROOT / "config/examples/stain_transfer.yaml").read_text())
    config, layout = parse_config(example | {"results": str(tmp_path)}), Layout(tmp_path)
    rows = [
        Slide(s.slide_id, "a.svs", patient, annotation="a.xml", site=s.site, split=cohort.ROLES[patient])
        for s in cohort.COHORT
        for patient in [f"P{s.patient:02d}"]
    ]
    transfers = TransferPlan(make_plan(config, {slide.slide_id: slide for slide in rows}))
    ((silico, scanned),) = config.compare
    for role in ("train", "val", "test"):
        assert transfers.plan.slides_in(silico, 0, role) == transfers.plan.slides_in(scanned, 0, role)
    learned = transfers.plan.slides_in(silico, 0, "train", "val")
    assert {slide.site for slide in rows if slide.slide_id in learned} == {"south"}
    assert config.tasks[silico].train == config.tasks[scanned].train
    north = [s for s in transfers.plan.slides_in(silico, 0, "test") if transfers.plan.slides[s].site == "north"]
    assert len({transfers.plan.slides[slide].patient_id for slide in north}) == 3
    for slide in north:
        assert transfers.manifest(silico, slide) == layout.transfer("north_south").manifest(slide)
        assert transfers.manifest(scanned, slide) == layout.manifest(slide)


def test_a_task_learns_from_no_slide_that_it_predicts_in_silico(tmp_path):
    plan = transfers_of(tmp_path, allow_virtual=True).plan
    assert plan.slides_in("tissue", 0, "train", "val") == ["p1", "p2", "p3"]
    assert plan.slides_in("tissue", 0, "predict") == ["h2", "h3"]


def test_a_virtual_slide_as_test_truth_is_refused_unless_it_is_allowed(tmp_path):
    with pytest.raises(ConfigError, match=r"predict.transfer: he_pas .* test slides: h1\. .*allow_virtual"):
        transfers_of(tmp_path).manifest("tissue", "p4")


def test_a_test_slide_that_taught_the_generators_is_refused(tmp_path):
    transfers = transfers_of(tmp_path, allow_virtual=True)
    changed = [replace(m, role="train") if m.slide_id == "h1" else m for m in transfers.members["he_pas"]]
    transfers.members = {"he_pas": changed}
    with pytest.raises(ConfigError, match="generators learned from: h1"):
        transfers.manifest("tissue", "h1")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"predict": {"transfer": "pas"}}, "'pas' is not under stain_transfers"),
        ({"predict": {"allow_virtual": True}}, "there are virtual slides with predict.transfer only"),
        ({"grid": "x10"}, "finer than the virtual slides"),
    ],
)
def test_a_task_that_cannot_predict_virtual_slides_is_refused(changes, told):
    raw = {"annotations": {"classes": {"skin": "skin", "nuclei": "nuclei"}}, "stain_transfers": {"he_pas": SIDES}}
    raw |= {
        "grids": {"x5": {"mpp": 2.0, "size": 128}, "x10": {"mpp": 1.0, "size": 128}},
        "tasks": {"t": TASK | changes},
    }
    with pytest.raises(ConfigError, match=told):
        parse_config(raw)


def test_a_virtual_slide_in_the_sheet_is_refused(tmp_path):
    manifest = unchanged_slide(build_cohort(tmp_path, 1)[0], Layout(tmp_path), 2.0)
    store = manifest.with_name(Manifest.read_usable(manifest).store)
    with pytest.raises(SlideError, match="is a Zarr store, not a slide; give the file that it was made from"):
        convert(store, tmp_path / "again.zarr", slide_id="again", config=Convert())
