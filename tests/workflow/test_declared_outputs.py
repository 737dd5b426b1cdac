"""Every file that a job leaves under the results folder is a declared output or a sidecar; digests are stated."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from histomake.audit.register import is_note
from histomake.base.files import sha256_tree
from histomake.base.layout import Layout
from histomake.base.records.sidecar import Sidecar

from tests.workshop import ROOT, Workshop, rules

SIDECAR = ".meta.json"
WITHOUT_OUTPUTS = {f"all{name}" for name in ("", "_cascades", "_cells", "_generators", "_graphs", "_transfers")} | {
    *("preprocess", "predict", "radhical"),
}
"""Rules that only ask for outputs of others."""


@pytest.fixture
def sidecars(finished: Workshop, others: Workshop) -> dict[str, list[tuple[Workshop, Sidecar]]]:
    """Every sidecar of both runs, by rule."""
    found: dict[str, list[tuple[Workshop, Sidecar]]] = {}
    for workshop in (finished, others):
        for path in workshop.results.rglob(f"*{SIDECAR}"):
            sidecar = Sidecar.read(path)
            found.setdefault(sidecar.rule, []).append((workshop, sidecar))
    return found


def undeclared(workshop: Workshop) -> list[str]:
    """Files under the results folder that no sidecar states, and that are neither notes nor records of a run."""
    os.chdir(workshop.folder)
    layout = Layout(Path("results"))
    declared = {Path(path) for file in layout.results.rglob(f"*{SIDECAR}") for path in Sidecar.read(file).outputs}
    files = (path for path in layout.results.rglob("*") if path.is_file() and not path.name.endswith(SIDECAR))
    return sorted(str(p) for p in files if not {p, *p.parents} & declared and not is_note(p, layout))


@pytest.mark.parametrize("run", ["finished", "others"])
def test_every_file_of_a_run_is_declared(run, request, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert undeclared(request.getfixturevalue(run)) == []


def test_every_rule_of_the_workflow_makes_files_or_only_asks_for_some(others):
    known = {line.split()[0] for line in others.snakemake("--list-rules").stdout.splitlines() if line.strip()}
    assert known == {*rules(), *WITHOUT_OUTPUTS}


@pytest.mark.parametrize("rule", sorted(rules()))
def test_a_job_states_the_digest_of_each_of_its_outputs(rule, sidecars, monkeypatch):
    assert rule in sidecars, f"no run has a job of rule {rule}"
    for workshop, sidecar in sidecars[rule]:
        monkeypatch.chdir(workshop.folder)
        assert len(sidecar.outputs) >= rules()[rule]
        for path, digest in sidecar.outputs.items():
            assert sha256_tree(path) == digest, path


def test_a_quarantined_slide_leaves_stores_that_say_why(finished, others):
    kept = json.loads((finished.results / "slides/P04-B.zarr/zarr.json").read_text())
    assert kept["attributes"]["histomake"]["reason"] == "no_mpp"
    assert (others.results / "slides/P04-B.zarr.zip").is_file()
    kept = json.loads((others.results / "radhical/nuclei/slides/P04-B.zarr/zarr.json").read_text())
    assert kept["attributes"]["histomake"]["reason"] == "no_mpp"


@pytest.mark.parametrize(
    ("lost", "rule"),
    [
        ("slides/P04-A.zarr.zip", "convert"),
        ("annotations/P04-A.labels.zarr", "annotate_mask"),
        ("predictions/map/fold0/P04-A.labels.zarr", "segment_slide"),
        ("predictions/map/fold0/P04-B.geojson", "segment_slide"),
        ("radhical/nuclei/slides/P04-A.zarr", "radhical_segment"),
        ("models/map/fold0/model.safetensors", "train"),
    ],
)
def test_a_lost_store_is_made_again(others, tmp_path, lost, rule):
    place = others.results / lost
    before = others.planned()
    shutil.move(place, tmp_path / "kept")
    planned = others.planned()
    shutil.move(tmp_path / "kept", place)
    assert rule in {job.rule for job in planned - before}
