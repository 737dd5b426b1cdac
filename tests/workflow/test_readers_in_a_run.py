"""Several readers of a slide through the workflow: a task that learns their labels, and what runs again."""

import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from tests.workshop import Workshop

TASK = {
    **{"kind": "classification", "grid": "x10", "model": {"name": "resnet10t"}},
    "target": {"source": "annotation", "classes": ["skin", "nuclei"]},
    "train": {"readers": "draw", "audit": True, "steps": 4, "batch": 8, "validate_every": 4, "workers": 0},
}
WEIGHTS = "results/models/t/fold0/model.safetensors"
READ = re.compile(r"^rule (\w+):\n(?:    .*\n)*?    wildcards: .*\breader=(\w+)", re.MULTILINE)
SPLITS = {"P01-A": "train", "P02-A": "val", "P03.B": "test", "P04-A": "predict"}


def set_task(workshop: Workshop, **train: object) -> None:
    content = yaml.safe_load(workshop.config.read_text())
    content["tasks"] = {"t": TASK | {"train": TASK["train"] | train}}
    workshop.config.write_text(yaml.safe_dump(content))


def rules_of_readers(workshop: Workshop, *arguments: str) -> set[tuple[str, str]]:
    """(rule, reader) of the planned jobs of single readers."""
    done = workshop.snakemake("--dry-run", "-p", *arguments, WEIGHTS)
    return set(READ.findall(done.stdout + done.stderr))


def rules(workshop: Workshop) -> set[str]:
    return {job.rule for job in workshop.planned(WEIGHTS)}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Workshop:
    """A cohort whose training slide has three readers, of whom the second drew boxes and the third made a mask."""
    workshop = Workshop(tmp_path_factory.mktemp("readers"))
    workshop.copy_code()
    workshop.build_cohort()
    workshop.write_config()
    set_task(workshop)
    files = workshop.folder / "demo/annotations"
    write_boxes(files / "two.geojson", left=1152)
    mask = np.zeros((2048 // 4, 2304 // 4), np.uint8)
    mask[:, :288] = 1
    mask[:, 288:] = 2
    np.save(files / "three.npy", mask)
    header, *rows = workshop.rows()
    place = header.split("\t").index("annotation")
    told = []
    for cells in (row.split("\t") for row in rows if row.split("\t")[0] in SPLITS):
        if cells[0] == "P01-A":
            cells[place] = f"one={cells[place]};two=demo/annotations/two.geojson;three=demo/annotations/three.npy"
        told.append("\t".join([*cells, SPLITS[cells[0]]]))
    workshop.write_rows([f"{header}\tsplit", *told])
    workshop.snakemake(WEIGHTS)
    return workshop


def write_boxes(path, *, left: int) -> None:
    """Skin left of ``left``, nuclei right of it."""
    shapes = []
    for name, (x0, x1) in {"skin": (0, left), "nuclei": (left, 2304)}.items():
        ring = [[x0, 0], [x1, 0], [x1, 2048], [x0, 2048], [x0, 0]]
        geometry = {"type": "Polygon", "coordinates": [ring]}
        shapes.append({"type": "Feature", "geometry": geometry, "properties": {"label": name}})
    path.write_text(json.dumps({"type": "FeatureCollection", "features": shapes}))


def test_a_task_draws_the_labels_of_all_readers_and_nothing_is_left_to_do(drawn):
    found = pq.read_table(drawn.results / "models/t/fold0/training/drawn.parquet").to_pylist()
    assert {(row["slide_id"], row["reader"]) for row in found} == {("P01-A", r) for r in ("one", "two", "three")}
    assert drawn.planned(WEIGHTS) == set()


def test_everything_about_readers_is_declared_and_in_a_sidecar(drawn):
    files = [path for path in (drawn.results / "readers").rglob("*") if path.is_file()]
    sidecars = [json.loads(path.read_text()) for path in files if path.name.endswith(".meta.json")]
    stated = {path for sidecar in sidecars for path in sidecar["outputs"]}
    assert {sidecar["rule"] for sidecar in sidecars} == {"annotate_reader", "tabulate_reader"}
    for path in files:
        name = str(path.relative_to(drawn.folder))
        known = any(name == one or name.startswith(f"{one}/") for one in stated)
        assert known or name.endswith(".meta.json"), name
    assert (drawn.results / "readers/P01-A/three.labels.zarr/c").is_dir()
    assert not (drawn.results / "readers/P01-A/two.labels.zarr/c").exists()


def test_tables_of_readers_have_their_areas_and_else_what_the_table_of_the_slide_has(drawn):
    """The second and the third reader say the same, so they are the majority."""
    consensus = pq.read_table(drawn.results / "patches/x10/P01-A.parquet")
    one, two, three = (pq.read_table(drawn.results / f"readers/P01-A/{r}/x10.parquet") for r in ("one", "two", "three"))
    assert two.equals(three)
    assert two.equals(consensus)
    assert not one.equals(consensus)
    common = ["patch_id", "x", "y", "tissue", "excluded"]
    assert one.select(common).equals(consensus.select(common))


def test_the_changed_file_of_a_reader_is_read_alone_and_what_follows_runs(drawn):
    path = drawn.folder / "demo/annotations/two.geojson"
    kept = path.read_bytes()
    write_boxes(path, left=1000)
    try:
        assert rules_of_readers(drawn) == {("annotate_reader", "two"), ("tabulate_reader", "two")}
        assert rules(drawn) == {
            *("annotate_reader", "annotate_readers", "tabulate_reader", "tabulate_patches"),
            *("training_cohort", "train"),
        }
    finally:
        path.write_bytes(kept)


def test_back_on_the_consensus_only_the_training_runs_and_no_table_of_a_reader_is_asked_for(drawn):
    set_task(drawn, readers="consensus")
    try:
        assert rules(drawn) == {"training_cohort", "train"}
        assert rules_of_readers(drawn, "--forceall") == {("annotate_reader", r) for r in ("one", "two", "three")}
    finally:
        set_task(drawn)


def test_the_unreadable_file_of_a_reader_costs_its_slide_and_is_named(drawn):
    path = drawn.folder / "demo/annotations/two.geojson"
    path.write_text("{")
    try:
        drawn.snakemake("results/annotations/P01-A.json")
    finally:
        write_boxes(path, left=1152)
    record = json.loads((drawn.results / "annotations/P01-A.json").read_text())
    assert record["status"] == "quarantined"
    assert record["path"].endswith("two.geojson")
