"""The example configurations, one per kind of task, shortened: each trains, predicts and is measured."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from tests.workshop import ROOT, Workshop

pytestmark = pytest.mark.examples

EXAMPLES = ("classification", "regression", "segmentation")
SHORT = {"steps": 8, "batch": 8, "validate_every": 4, "validate_patches": 32, "select": "loss"}


def examples() -> dict[str, dict]:
    """Grids and tasks of all examples, few steps, one fold; each example's grids keep apart by its name."""
    grids, tasks = {}, {}
    for example in EXAMPLES:
        content = yaml.safe_load((ROOT / "config/examples" / f"{example}.yaml").read_text())
        grids |= {f"{example}_{name}": grid for name, grid in content["grids"].items()}
        for name, task in content["tasks"].items():
            task["grid"] = f"{example}_{task['grid']}"
            task["train"] |= SHORT
            task["split"] = {"test": 0.3, "val": 0.2}
            tasks[name] = task
    return {"grids": grids, "tasks": tasks}


def test_every_example_trains_predicts_and_is_measured(workshop: Workshop) -> None:
    content = examples()
    workshop.write_config(**content)
    wanted = {name: f"results/metrics/{name}.json" for name in content["tasks"]}
    workshop.snakemake(*wanted.values())
    measured = {name: json.loads((workshop.folder / path).read_text()) for name, path in wanted.items()}
    assert {record["kind"] for record in measured.values()} == set(EXAMPLES)
    for name, figure in (("kind_of_tissue", "accuracy"), ("share_of_nuclei", "mae"), ("tissue_map", "dice")):
        level = "pixel" if name == "tissue_map" else "patch"
        assert measured[name]["levels"][level]["metrics"]["all"][figure]["value"] is not None
    outlines = list((workshop.results / "predictions/tissue_map/fold0").glob("*.geojson"))
    assert outlines
    for path in outlines:
        assert json.loads(path.read_text())["type"] == "FeatureCollection"
        assert path.with_suffix(".labels.zarr").is_dir()


def test_every_probe_of_the_features_example_is_measured(workshop: Workshop) -> None:
    example = yaml.safe_load((ROOT / "config/examples/features.yaml").read_text())
    for task in example["tasks"].values():
        task["split"] = {"test": 0.3, "val": 0.2}
    example["tasks"]["linear_probe"]["train"] = {"select": "loss"}
    example["tasks"]["share_of_nuclei_in_features"]["train"] |= {"steps": 8, "batch": 8, "validate_every": 4}
    workshop.write_config(encoders=example["encoders"], tasks=example["tasks"])
    wanted = [f"results/metrics/{name}.json" for name in example["tasks"]]
    workshop.snakemake("--resources", "gpu=1", "--", *wanted)
    for path in wanted:
        assert json.loads((workshop.folder / path).read_text())["levels"]["patch"]["count"] > 0


def test_slides_of_the_mil_example_are_predicted_with_attention(workshop: Workshop) -> None:
    example = yaml.safe_load((ROOT / "config/examples/mil.yaml").read_text())
    del example["tasks"]["rich_in_nuclei_by_mean"]
    for task in example["tasks"].values():
        task.pop("evaluate", None)
        task["split"] = {"test": 0.3, "val": 0.2}
        task["train"] |= {"steps": 6, "validate_every": 3}
    # Four patients are too few to have both classes in every role.
    example["tasks"]["rich_in_nuclei"] |= {
        "kind": "regression",
        "target": {"source": "sheet", "column": "nuclei_share"},
    }
    adaptive = adaptive_example()
    workshop.write_config(
        grids=example["grids"] | adaptive["grids"],
        encoders=example["encoders"] | adaptive["encoders"],
        tasks=example["tasks"] | adaptive["tasks"],
    )
    measured = [*example["tasks"], "adaptive_bag"]
    workshop.snakemake("--resources", "gpu=1", "--", *(f"results/metrics/{name}.json" for name in measured))
    for name, additive in (("rich_in_nuclei", True), ("share_of_nuclei_by_slide", False)):
        record = json.loads((workshop.results / "metrics" / f"{name}.json").read_text())
        assert set(record["levels"]) == {"slide", "patient"}
        assert set(record["baselines"]) == {"mean_features", "usual_target"}
        assert "nuclei" in record["attention"]["attention"]
        (path, *_) = sorted((workshop.results / "predictions" / name / "fold0").glob("*.parquet"))
        table = pq.read_table(path)
        assert abs(table["attention"].to_numpy().sum() - 1) < 1e-4
        assert ("contribution_nuclei_share" in table.column_names) == additive
    for path in (workshop.results / "predictions/adaptive_bag/fold0").glob("*.parquet"):
        usable = pq.read_table(workshop.results / "patches/x10" / path.name, filters=[("excluded", "=", "")]).num_rows
        assert pq.read_metadata(path).num_rows == max(1, usable // 4)


def adaptive_example() -> dict[str, dict]:
    """The example of chosen patches with few steps, numbers as targets, and without the task on all patches."""
    content = yaml.safe_load((ROOT / "config/examples/adaptive_bag.yaml").read_text())
    del content["tasks"]["dense_bag"], content["encoders"]["dense"]
    for task in content["tasks"].values():
        task |= {"kind": "regression", "target": {"source": "sheet", "column": "nuclei_share"}}
        task["train"] |= {"steps": 6, "validate_every": 3}
    content["tasks"]["cheap_bag"]["split"] = {"test": 0.3, "val": 0.2}
    return content


def test_the_end_to_end_example_learns_from_pixels_and_runs_whole(workshop: Workshop) -> None:
    example = yaml.safe_load((ROOT / "config/examples/mil_end_to_end.yaml").read_text())
    (name,) = example["tasks"]
    example["tasks"][name]["split"] = {"test": 0.3, "val": 0.2}
    example["tasks"][name]["train"] |= {"steps": 2, "validate_every": 2, "batch": 2}
    workshop.write_config(demo_task=False, tasks=example["tasks"])
    workshop.snakemake("--resources", "gpu=1")
    record = json.loads((workshop.results / f"metrics/{name}.json").read_text())
    assert set(record["levels"]) == {"slide", "patient"}
    assert set(record["baselines"]) == {"mean_features", "usual_target"}
    card = json.loads((workshop.results / f"models/{name}/fold0/model.json").read_text())
    assert (card["architecture"]["name"], card["features"]) == ("shufflenet_v2", None)
    (path, *_) = sorted((workshop.results / f"predictions/{name}/fold0").glob("*.parquet"))
    assert abs(pq.read_table(path)["attention"].to_numpy().sum() - 1) < 1e-4
    assert "end to end" in (workshop.results / "report/index.html").read_text()


def test_both_generative_examples_make_marked_images_and_measure_them(workshop: Workshop) -> None:
    """One run for both: they share a grid, and most of the time of a short run is the start of its jobs."""
    content: dict[str, dict] = {}
    for example in ("stain_transfer", "generator"):
        read = yaml.safe_load((ROOT / "config/examples" / f"{example}.yaml").read_text())
        for section in ("grids", "encoders", "stain_transfers", "generators"):
            content.setdefault(section, {}).update(read.get(section, {}))
    ((transfer, transfer_settings),) = content["stain_transfers"].items()
    transfer_settings["train"] |= {"steps": 2, "record_every": 1}
    transfer_settings["measure"] |= {"patches": 16}
    ((generator, generator_settings),) = content["generators"].items()
    generator_settings |= {"images": 16, "fade": 16}
    generator_settings["train"] |= {"record_every": 2}
    generator_settings["measure"] |= {"samples": 32}
    workshop.write_config(**content)
    samples = f"results/generators/{generator}/samples/5_seed3"
    workshop.snakemake("--resources", "gpu=1", "--", "all_transfers", "all_generators", samples)
    check_virtual_slides(workshop.results / "transfers" / transfer)
    check_samples(workshop.results / "generators" / generator)


def check_samples(folder: Path) -> None:
    """The samples of a generator are marked, as many as were asked for, and measured at every scale."""
    with Image.open(folder / "samples.png") as picture:
        assert "in silico" in picture.text["Description"]
    assert len(list((folder / "samples/5_seed3").glob("*.png"))) == 5
    record = json.loads((folder / "measures.json").read_text())
    assert {scale["edge"] for scale in record["scales"]} == {16, 32}
    assert 0 <= record["made"]["precision"] <= 1
    assert record["memorisation"]["space"] == record["encoder"]


def check_virtual_slides(folder: Path) -> None:
    """Slides of both sides are made, marked, and measured against the reference rows."""
    manifests = [json.loads(path.read_text()) for path in folder.glob("*.json") if not path.match("*.meta.json")]
    made = [manifest for manifest in manifests if manifest["status"] == "ok"]
    assert {tuple(manifest["virtual"]["stains"]) for manifest in made} == {("north", "south"), ("south", "north")}
    for manifest in made:
        assert (folder / f"{manifest['slide_id']}.jpg").is_file()
        assert "in silico" in manifest["warnings"][0]
    for direction in ("forward", "backward"):
        measures = json.loads((folder / f"measures/{direction}.json").read_text())
        assert set(measures["realism"]) == {"untouched", "reinhard", "macenko", "transfer", "real"}
        assert (folder / f"measures/{direction}.jpg").is_file()
