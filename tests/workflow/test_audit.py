"""What an auditor asks years later: where a prediction came from, and whether anything was altered since."""

import json
import subprocess
import sys

import pyarrow.parquet as pq
import pytest


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
    assert "every digest holds" in done.stdout


def test_a_flipped_byte_in_a_store_is_found_and_named(finished, histomake, predicted):
    slide, _ = predicted
    store = finished.results / "slides" / f"{slide}.zarr"
    shard = max((p for p in store.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    kept = shard.read_bytes()
    shard.write_bytes(content)
    done = histomake("verify", slide)
    shard.write_bytes(kept)
    assert done.returncode == 1
    assert shard.name in done.stderr
    assert histomake("verify", slide).returncode == 0


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
    assert (tmp_path / "crate" / "run" / "run.json").is_file()
