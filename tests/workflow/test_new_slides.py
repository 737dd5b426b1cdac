"""New slides and an existing model: `snakemake predict` trains nothing, and a model that does not fit is named."""

import json
import shutil

import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import yaml

from tests.workflow.test_rerun_contract import rules, slides_of

TRAINING = {"training_cohort", "train", "evaluate"}
TASKS = ("tissue_kind", "elsewhere")


@pytest.fixture
def ward(workshop):
    """Another hospital's project beside the finished one: one new slide without annotation, and the model."""
    source = workshop.slide_file("P01-A")
    slide = source.with_name(f"N1{source.suffix}")
    slide.write_bytes(source.read_bytes() + b"\0")
    path = slide.relative_to(workshop.folder)
    workshop.write_rows(["slide_id\tpath\tpatient_id\tsplit", f"N1\t{path}\tnew-patient\tpredict"])
    content = yaml.safe_load(workshop.config.read_text())
    content["results"] = "ward"
    content["tasks"]["elsewhere"] = content["tasks"]["tissue_kind"] | {
        "trained": "results/models/tissue_kind/fold0",
        "predict": {"aggregate": "top10"},
    }
    workshop.config.write_text(yaml.safe_dump(content))
    kept = workshop.folder / "ward/models/tissue_kind/fold0"
    shutil.copytree(workshop.results / "models/tissue_kind/fold0", kept)
    yield workshop
    shutil.rmtree(workshop.folder / "ward")


def test_new_slides_are_predicted_without_training_cohort_and_without_training(ward):
    done = ward.snakemake("predict")
    ran = done.stdout + done.stderr
    assert not [rule for rule in TRAINING if f"rule {rule}:" in ran]
    tables = {task: pq.read_table(ward.folder / f"ward/predictions/{task}/fold0/N1.parquet") for task in TASKS}
    assert tables["tissue_kind"].num_rows > 0
    # The same weights, once used where they lie and once taken over from another folder.
    assert tables["tissue_kind"].equals(tables["elsewhere"])
    weights = "ward/models/elsewhere/fold0/model.safetensors"
    adopted = json.loads((ward.folder / f"{weights}.meta.json").read_text())
    assert adopted["outputs"][weights] in adopted["inputs"].values()
    scores = read_scores(ward, "elsewhere")
    assert [(row["level"], row["slide_id"], row["patient_id"]) for row in scores] == [
        ("patient", None, "new-patient"),
        ("slide", "N1", "new-patient"),
    ]
    top = sorted(tables["elsewhere"]["score_nuclei"].to_pylist())[-10:]
    assert scores[1]["score_nuclei"] == pytest.approx(sum(top) / len(top))
    again = ward.snakemake("predict")
    assert "Nothing to be done" in again.stdout + again.stderr


def read_scores(ward, task):
    options = pyarrow.csv.ParseOptions(delimiter="\t")
    convert = pyarrow.csv.ConvertOptions(strings_can_be_null=True)
    path = ward.folder / f"ward/scores/{task}.tsv"
    return pyarrow.csv.read_csv(path, parse_options=options, convert_options=convert).to_pylist()


def test_all_outputs_can_be_requested_without_test_slides(ward):
    jobs = ward.planned()
    assert {"reuse_model", "predict_slide", "score", "catalog", "front_page"} <= rules(jobs)
    assert slides_of(jobs, {"predict_slide"}) == {"N1"}
    assert not TRAINING & rules(jobs)


def test_every_model_that_does_not_fit_is_named_before_any_job_starts(ward):
    content = yaml.safe_load(ward.config.read_text())
    content["grids"]["x10"]["size"] = 64
    content["tasks"]["elsewhere"]["target"]["classes"] = ["nuclei", "skin"]
    content["tasks"]["nowhere"] = content["tasks"]["elsewhere"] | {"trained": "no/such/folder"}
    ward.config.write_text(yaml.safe_dump(content))
    done = ward.snakemake("predict", check=False)
    message = done.stdout + done.stderr
    assert done.returncode
    assert "task tissue_kind: ward/models/tissue_kind/fold0 was trained with grids.x10.size: 128" in message
    assert "target.classes: skin, nuclei, but the configuration has nuclei, skin" in message
    assert "task nowhere: no/such/folder/fold0 lacks model.safetensors and model.json" in message
    assert "Traceback" not in message


def test_a_sheet_without_slides_to_train_on_needs_a_model(ward):
    shutil.rmtree(ward.folder / "ward/models/tissue_kind")
    done = ward.snakemake("predict", check=False)
    assert done.returncode
    assert "the slide sheet has no slide to train on" in done.stdout + done.stderr
