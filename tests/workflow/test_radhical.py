"""A cascade over plain images with label masks: a sheet is sufficient, and bad sheets are refused before any job."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
import yaml
import zarr
from PIL import Image

from tests.workshop import ROOT, Workshop

pytestmark = pytest.mark.examples

IMAGES = ROOT / "tests" / "data" / "nuclei"
ROLES = {"0d3640c1f1b8": "train", "94519eb45cbe": "train", "ea94ba4b01d1": "val", "6d327ab4f0e3": "test"}
SMALL = {
    "scales": [1.0, 0.25],
    "network": {"name": "unet", "encoder": "tu-resnet10t"},
    "train": {"steps": 8, "batch": 2, "lattice": 4},
    "search": {"candidates": 3, "joint": 2},
    "baselines": {"naive_pixels": 8, "repeats": 1},
}


def awkward(folder: Path) -> Iterator[tuple[str, str, str, float, str]]:
    """Images as they come: unannotated, without a nucleus, finer and in a TIFF, smaller than any patch."""
    image, labels = IMAGES / "0e21d7b3eea8.png", IMAGES / "0e21d7b3eea8_labels.tif"
    shutil.copy(image, folder / "new.png")
    yield "new", "new.png", "", 0.5, ""
    pixels, numbers = np.asarray(Image.open(image).convert("RGB")), tifffile.imread(labels)
    tifffile.imwrite(folder / "finer.tif", pixels[:200])
    Image.fromarray(numbers[:200]).save(folder / "finer_labels.png")
    yield "finer", "finer.tif", "finer_labels.png", 0.25, "test"
    Image.fromarray(pixels[::-1]).save(folder / "none.png")
    Image.fromarray(np.zeros(numbers.shape, np.uint8)).save(folder / "none_labels.png")
    yield "none", "none.png", "none_labels.png", 0.5, "train"
    Image.fromarray(pixels[100:120, 200:224]).save(folder / "tiny.png")
    np.save(folder / "tiny_labels.npy", numbers[100:120, 200:224])
    yield "tiny", "tiny.png", "tiny_labels.npy", 0.5, "test"


def prepare(workshop: Workshop, *, patients: dict[str, str] | None = None) -> None:
    """Plain images with their masks, one of them unannotated, a sheet of them, and a small cascade."""
    folder = workshop.folder
    workshop.sheet.parent.mkdir()
    with workshop.sheet.open("w", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
        writer.writerow(("slide_id", "path", "patient_id", "annotation", "mpp", "split"))
        for name, role in ROLES.items():
            shutil.copy(IMAGES / f"{name}.png", folder)
            shutil.copy(IMAGES / f"{name}_labels.tif", folder)
            writer.writerow((name, f"{name}.png", (patients or {}).get(name, name), f"{name}_labels.tif", 0.5, role))
        for name, path, annotation, mpp, role in awkward(folder):
            writer.writerow((name, path, name, annotation, mpp, role))
    content = {"sheet": "demo/slides.tsv", "results": "results", "radhical": {"nuclei": SMALL}}
    workshop.config.write_text(yaml.safe_dump(content))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run that went to its end."""
    workshop = Workshop(tmp_path_factory.mktemp("radhical"))
    workshop.copy_code()
    prepare(workshop)
    workshop.snakemake("--", "radhical")
    return workshop


def test_plain_images_with_label_masks_run_to_the_end(finished):
    results = finished.results / "radhical" / "nuclei"
    metrics = json.loads((results / "metrics.json").read_text())
    bars = {bar["figure"]: bar for bar in metrics["bars"]}
    assert bars["images: dense = patch-wise, largest difference"]["ok"]
    assert bars["images: simulated = deployed mask"]["ok"]
    assert [slide["slide_id"] for slide in metrics["slides"]] == ["6d327ab4f0e3", "finer", "tiny"]
    assert [slide["levels"][0]["pixels"] for slide in metrics["slides"]] == [256 * 320, 100 * 160, 20 * 24]
    assert "\nimages: " in (results / "table.txt").read_text()
    assert (results / "pareto.png").stat().st_size > 5000


def test_images_full_of_nuclei_are_left_to_the_dense_network(finished):
    results = finished.results / "radhical" / "nuclei"
    assert json.loads((results / "thresholds.json").read_text())["rule"] == "dense"
    assert (results / "table.txt").read_text().startswith("The dense network is used")
    record = json.loads((results / "slides" / "new.json").read_text())
    assert [level["level"] for level in record["levels"]] == [1]


def test_an_unannotated_slide_is_segmented(finished):
    results = finished.results / "radhical" / "nuclei" / "slides"
    record = json.loads((results / "new.json").read_text())
    assert record["status"] == "ok"
    assert len(json.loads((results / "new.geojson").read_text())["features"]) == record["nuclei"]
    assert zarr.open_group(results / "new.zarr", mode="r")["labels"].shape == (256, 320)


def test_a_finished_cascade_re_runs_nothing(finished):
    done = finished.snakemake("--dry-run", "--", "radhical")
    assert "Nothing to be done" in done.stdout + done.stderr


def test_a_patient_in_validation_and_in_test_is_refused_before_any_job(tmp_path):
    workshop = Workshop(tmp_path)
    workshop.copy_code()
    prepare(workshop, patients={"ea94ba4b01d1": "twin", "6d327ab4f0e3": "twin"})
    done = workshop.snakemake("--", "radhical", check=False)
    assert done.returncode != 0
    assert "patient twin" in done.stderr
    assert not list(workshop.folder.rglob("*.zarr"))


def test_a_sheet_without_any_annotation_is_refused_before_any_job(tmp_path):
    workshop = Workshop(tmp_path)
    workshop.copy_code()
    prepare(workshop)
    lines = [line.split("\t") for line in workshop.sheet.read_text().splitlines()]
    workshop.sheet.write_text(
        "\n".join("\t".join([*row[:3], "" if i else row[3], *row[4:]]) for i, row in enumerate(lines))
    )
    done = workshop.snakemake("--", "radhical", check=False)
    assert done.returncode != 0
    assert "has an annotation to learn from" in done.stderr
