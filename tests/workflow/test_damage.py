"""A store that is damaged after its conversion: its slide is lost to predictions, and the run makes all the rest."""

from __future__ import annotations

import json
import shutil

import duckdb
import pyarrow.parquet as pq

from tests.workshop import Workshop


def damage(store):
    """Overwrite the tiles of a store, but not the indexes of its shards."""
    for shard in (path for path in store.rglob("c/0/*/*") if path.is_file()):
        content = bytearray(shard.read_bytes())
        content[: len(content) // 2] = bytes(len(content) // 2)
        shard.write_bytes(content)


def test_a_run_with_its_only_test_slide_damaged_makes_every_aggregate_and_tells(finished, tmp_path):
    place = Workshop(tmp_path / "workshop")
    shutil.copytree(finished.folder, place.folder, copy_function=shutil.copy2, symlinks=True)
    place.write_config(max_quarantined=1.0)
    (prediction,) = [
        path
        for path in (place.results / "predictions/tissue_kind/fold0").glob("*.parquet")
        if pq.read_metadata(path).num_rows
    ]
    slide, whole = prediction.stem, pq.read_schema(prediction)
    damage(place.results / "slides" / f"{slide}.zarr")
    kept = (place.results / "tissue" / f"{slide}.json").read_bytes()
    for path in (prediction, place.results / "views" / "tissue" / f"{slide}.jpg"):
        path.unlink()
    done = place.snakemake()
    assert f"{slide} (damaged_tiles, in predict): patch at x=" in done.stderr
    assert f"{slide} (damaged_tiles, in overview): level " in done.stderr
    assert pq.read_schema(prediction).equals(whole)
    (lost,) = json.loads((place.results / "scores/tissue_kind.quarantine.json").read_text())
    assert (lost["slide_id"], lost["stage"]) == (slide, "predict")
    with duckdb.connect(place.results / "catalog.duckdb", read_only=True) as catalog:
        found = catalog.sql("SELECT slide_id::VARCHAR, task, stage FROM quarantine WHERE task IS NOT NULL").fetchall()
        assert found == [(slide, "tissue_kind", "predict")]
        assert catalog.sql("SELECT count(*) FROM slides WHERE status = 'ok'").fetchall() == [(4,)]
    report = (place.results / "report/index.html").read_text()
    assert "1 slide(s) turned out to be damaged after their conversion" in report
    assert "so this task has no prediction of it" in (place.results / f"report/slides/{slide}.html").read_text()
    levels = json.loads((place.results / "metrics/tissue_kind.json").read_text())["levels"]
    assert {level["count"] for level in levels.values()} == {0}
    assert (place.results / "tissue" / f"{slide}.json").read_bytes() == kept
    assert place.planned() == set()
    shutil.rmtree(place.results / "slides" / f"{slide}.zarr")
    again = place.snakemake()
    assert "damaged_tiles" not in again.stderr
    assert pq.read_metadata(prediction).num_rows
    assert json.loads((place.results / "scores/tissue_kind.quarantine.json").read_text()) == []
