"""Audit of finished results: where a prediction came from, and whether anything was altered since."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from histomake.audit import run_lock
from histomake.audit.verification import verify
from histomake.base.files import TIMESTAMP
from histomake.base.layout import Layout
from histomake.base.records.sidecar import Sidecar

from tests.workshop import rules


@pytest.fixture
def histomake(finished):
    """The command line, run in the workshop's folder."""

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "histomake", *map(str, arguments)],
            cwd=finished.folder,
            env=finished.environment(),
            capture_output=True,
            text=True,
        )

    return run


@pytest.fixture
def predicted(finished):
    """A slide with predictions, and one of its patches."""
    for file in sorted((finished.results / "predictions" / "tissue_kind" / "fold0").glob("*.parquet")):
        patches = pq.read_table(file)["patch_id"].to_pylist()
        if patches:
            return file.name.removesuffix(".parquet"), patches[0]
    pytest.fail("no slide was predicted")


def test_a_prediction_is_traced_to_the_slides_bytes_and_every_digest_holds(finished, histomake, predicted):
    slide, patch = predicted
    done = histomake("trace", "tissue_kind", slide, patch, "--verify")
    assert done.returncode == 0, done.stderr
    for rule in ("predict_slide", "train", "training_cohort", "tabulate_patches", "presegment", "convert"):
        assert f"\n{rule} " in done.stdout
    manifest = json.loads((finished.results / "slides" / f"{slide}.json").read_text())
    assert f"slide     sha256 {manifest['sha256']}" in done.stdout
    assert "each has its digest" in done.stdout


def test_a_damaged_shard_of_a_store_is_named(finished, histomake, predicted):
    slide, _ = predicted
    store = finished.results / "slides" / f"{slide}.zarr"
    shard = max((p for p in store.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    kept = shard.read_bytes()
    shard.write_bytes(flipped(kept))
    done = histomake("verify", slide)
    shard.write_bytes(kept)
    assert done.returncode == 1
    assert shard.name in done.stderr
    assert histomake("verify", slide).returncode == 0


def flipped(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def damage(path, how):
    """Flip a byte of a file, cut it or delete it; returns what undoes that. An empty file is given a byte instead."""
    kept, times = path.read_bytes(), path.stat()
    if how == "deleted":
        path.unlink()
    elif not kept:
        path.write_bytes(b"0")
    else:
        path.write_bytes(flipped(kept) if how == "flipped" else kept[:-1])

    def undo():
        path.write_bytes(kept)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    return undo


def damage_empty_folder(file, how):
    """Add the file to a folder that has none, or remove the folder; returns what undoes that."""
    if how == "deleted":
        aside = file.parent.with_name(f".{file.parent.name}")
        file.parent.rename(aside)
        return lambda: aside.rename(file.parent)
    file.write_bytes(b"0")
    return file.unlink


def first_outputs(workshop):
    """The outputs of one job of every rule that the run has a job of."""
    found = {}
    for path in sorted(workshop.results.rglob("*.meta.json")):
        sidecar = Sidecar.read(path)
        found.setdefault(sidecar.rule, [workshop.folder / output for output in sidecar.outputs])
    return found


def damaged(output, how):
    """Damage an output, or the last file in its folder; returns what undoes that."""
    if not output.is_dir():
        return damage(output, how)
    files = [path for path in output.rglob("*") if path.is_file() and path.name != TIMESTAMP]
    return damage(max(files), how) if files else damage_empty_folder(output / "added", how)


def test_every_output_of_every_rule_is_damaged(finished, others):
    made = {rule: len(outputs) for run in (finished, others) for rule, outputs in first_outputs(run).items()}
    assert {rule: least for rule, least in rules().items() if made.get(rule, 0) < least} == {}


@pytest.mark.parametrize("how", ["flipped", "truncated", "deleted"])
@pytest.mark.parametrize("run", ["finished", "others"])
def test_damage_to_the_outputs_of_every_rule_is_named(run, how, request, monkeypatch):
    workshop = request.getfixturevalue(run)
    monkeypatch.chdir(workshop.folder)
    layout = Layout(Path("results"))
    outputs = [output for outputs in first_outputs(workshop).values() for output in outputs]
    undo = [damaged(output, how) for output in outputs]
    problems = verify(layout).problems
    for each in undo:
        each()
    named = [str(output.relative_to(workshop.folder)) for output in outputs]
    assert [name for name in named if not any(name in problem for problem in problems)] == []
    assert verify(layout).problems == []  # so all problems came from the damage


def test_a_lost_sidecar_breaks_the_chain_of_a_prediction(finished, histomake, predicted):
    slide, patch = predicted
    sidecar = finished.results / "predictions" / "tissue_kind" / "fold0" / f"{slide}.parquet.meta.json"
    undo = damage(sidecar, "deleted")
    done = histomake("trace", "tissue_kind", slide, patch, "--verify")
    undo()
    assert done.returncode == 1
    assert "the chain does not lead to the slide's file" in done.stderr


def test_a_second_checkout_cannot_run_into_the_same_results_at_once(finished, tmp_path):
    run_lock.acquire(finished.results / "audit" / "run.lock")
    try:
        second = finished.snakemake("--forcerun", "quarantine", "--", "results/quarantine.json", check=False)
    finally:
        run_lock.release(finished.results / "audit" / "run.lock")
    assert second.returncode != 0
    assert "is in use" in second.stdout + second.stderr


def test_an_unknown_patch_is_an_error_in_one_line(histomake, predicted):
    done = histomake("trace", "tissue_kind", predicted[0], 4_000_000_000)
    assert done.returncode == 1
    assert done.stderr.startswith("histomake: no prediction of task tissue_kind")
    assert "Traceback" not in done.stderr


def test_the_run_is_exported_as_an_ro_crate(finished, histomake, tmp_path):
    done = histomake("export-crate", tmp_path / "crate")
    assert done.returncode == 0, done.stderr
    graph = json.loads((tmp_path / "crate" / "ro-crate-metadata.json").read_text())["@graph"]
    actions = [entity for entity in graph if entity["@type"] == "CreateAction"]
    assert {a["name"].split()[0] for a in actions} >= {"convert", "train", "predict_slide", "evaluate"}
    named = {entity["@id"] for entity in graph}
    assert all(reference["@id"] in named for a in actions for reference in a["result"])
    kept = {path.name for path in (tmp_path / "crate" / "run").rglob("*") if path.is_file()}
    assert kept == {"run.json"}
