"""The re-run contract: a job runs again exactly when its slide, its settings or its code changed."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import yaml

from tests.workshop import Workshop

PER_SLIDE = {"convert", "annotate", "annotate_mask", "presegment", "quality", "tabulate_patches"}
MODULES_TO_RULES = {
    "tissue/mask.py": {"presegment", "quality", "tabulate_patches"},
    "slide/convert.py": {"convert"},
    "evaluate/metrics.py": {"evaluate"},
    "cohort/folds.py": set(),
    "cohort/leakage.py": {"training_cohort", "leakage"},
}


def rules(jobs):
    return {job.rule for job in jobs}


def slides_of(jobs, names=PER_SLIDE):
    return {job.slide for job in jobs if job.rule in names}


def test_touching_and_relinking_slides_runs_nothing(workshop):
    for file in (workshop.folder / "demo").rglob("*"):
        os.utime(file)
    slide = workshop.slide_file("P02-A")
    moved = slide.with_name("elsewhere.svs")
    slide.rename(moved)
    slide.symlink_to(moved)
    assert workshop.planned() == set()


def test_a_replaced_slide_runs_its_own_jobs_and_the_aggregates_whatever_its_date(workshop):
    slide = workshop.slide_file("P02-A")
    content = bytearray(slide.read_bytes())
    content[-1] ^= 1
    slide.write_bytes(content)
    os.utime(slide, (1_000_000_000, 1_000_000_000))
    jobs = workshop.planned()
    assert slides_of(jobs) == {"P02-A"}
    assert {
        "convert",
        "annotate",
        "presegment",
        "quality",
        "tabulate_patches",
        "leakage",
        "quarantine",
        "catalog",
    } <= rules(jobs)


def test_a_replaced_slide_that_was_only_tested_trains_nothing(workshop):
    import pyarrow.parquet as pq

    roles = pq.read_table(workshop.results / "splits" / "tissue_kind.parquet").to_pylist()
    tested = next(r["slide_id"] for r in roles if r["role"] == "test" and r["slide_id"] != "P04-B")
    with open(workshop.slide_file(tested), "r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"\x7f")
    jobs = workshop.planned()
    assert "train" not in rules(jobs)
    assert slides_of(jobs, {"predict_slide"}) == {tested}
    assert "evaluate" in rules(jobs)


@pytest.mark.parametrize(("module", "own"), MODULES_TO_RULES.items())
def test_an_edited_module_runs_the_rules_that_import_it_and_what_follows(workshop, module, own):
    file = workshop.folder / "scripts" / "histomake" / module
    file.write_text(file.read_text() + "\nEDITED = True\n")
    os.utime(file, (1_000_000_000, 1_000_000_000))
    jobs = workshop.planned()
    assert own <= rules(jobs)
    before = {
        "convert": set(),
        "presegment": {"convert", "annotate", "annotate_mask"},
        "training_cohort": PER_SLIDE,
        "evaluate": PER_SLIDE | {"train", "predict_slide"},
    }
    first = next((rule for rule in before if rule in own), None)
    assert not rules(jobs) & before.get(first, PER_SLIDE | {"train", "predict_slide", "evaluate"})


def rewrite_the_prose(workshop):
    """Change the first docstring of every module and script, and add a comment to each and to every rule file."""
    files = [*(workshop.folder / "scripts").rglob("*.py"), *(workshop.folder / "rules").glob("*.smk")]
    for file in files:
        text = file.read_text()
        if text.startswith('"""'):
            text = text.replace('"""', '"""Said otherwise: ', 1)
        file.write_text(f"# A comment.\n{text}\n# Another one.\n")


def test_a_changed_docstring_or_comment_anywhere_runs_nothing(workshop):
    rewrite_the_prose(workshop)
    assert workshop.planned() == set()


def test_a_changed_tissue_setting_runs_tissue_and_what_follows(workshop):
    workshop.write_config(tissue={"close_um": 48.0})
    jobs = workshop.planned()
    assert {"presegment", "quality", "tabulate_patches", "train", "predict_slide", "evaluate", "catalog"} <= rules(jobs)
    assert not {"convert", "annotate"} & rules(jobs)


def test_a_changed_prediction_setting_trains_nothing(workshop):
    content = yaml.safe_load(workshop.config.read_text())
    content["tasks"]["tissue_kind"]["predict"] = {"flips": True}
    workshop.config.write_text(yaml.safe_dump(content))
    jobs = workshop.planned()
    assert "predict_slide" in rules(jobs)
    assert not (PER_SLIDE | {"train", "split"}) & rules(jobs)


# The report's front page shows the whole configuration.
SHOWS_SETTINGS = {"front_page"}


@pytest.mark.parametrize(
    ("section", "changes"),
    [
        ("train", {"workers": 0, "checkpoint_minutes": 1.0, "max_read_errors": 3}),
        ("predict", {"batch": 16, "overlap": 0.5}),
    ],
)
def test_settings_that_shape_no_result_run_nothing(workshop, section, changes):
    content = yaml.safe_load(workshop.config.read_text())
    task = content["tasks"]["tissue_kind"]
    task[section] = task.get(section, {}) | changes
    workshop.config.write_text(yaml.safe_dump(content))
    assert rules(workshop.planned()) <= SHOWS_SETTINGS


def test_another_text_of_a_model_card_makes_pages_again_and_nothing_else(workshop):
    content = yaml.safe_load(workshop.config.read_text())
    content["tasks"]["tissue_kind"]["card"] = {"intended_use": "None.", "items": {"17": "Not needed."}}
    workshop.config.write_text(yaml.safe_dump(content))
    assert rules(workshop.planned()) == {"model_card", "front_page"}


def test_another_column_of_subgroups_is_measured_and_nothing_is_trained_or_predicted(workshop):
    content = yaml.safe_load(workshop.config.read_text())
    content["tasks"]["tissue_kind"]["evaluate"] = {"subgroups": ["site"]}
    workshop.config.write_text(yaml.safe_dump(content))
    assert {"evaluate", "catalog", "model_card"} <= rules(workshop.planned())
    assert not {"train", "predict_slide", "score", "split", *PER_SLIDE} & rules(workshop.planned())


def test_another_aggregation_is_scored_again_and_predicts_nothing(workshop):
    content = yaml.safe_load(workshop.config.read_text())
    content["tasks"]["tissue_kind"]["predict"] = {"aggregate": "max"}
    workshop.config.write_text(yaml.safe_dump(content))
    jobs = workshop.planned()
    assert {"score", "evaluate"} <= rules(jobs)
    assert not {"train", "predict_slide", *PER_SLIDE} & rules(jobs)


def test_the_order_of_keys_and_rows_does_not_matter(workshop):
    content = yaml.safe_load(workshop.config.read_text())
    content["annotations"]["classes"] = dict(reversed(content["annotations"]["classes"].items()))
    workshop.config.write_text(yaml.safe_dump(dict(reversed(content.items())), sort_keys=False))
    header, *rows = workshop.rows()
    workshop.write_rows([header, *reversed(rows)])
    assert workshop.planned() == set()


def test_a_new_task_is_trained_and_measured_although_the_quarantine_runs_again(workshop):
    content = yaml.safe_load(workshop.config.read_text())
    content["grids"]["a10"] = content["grids"]["x10"]  # first by name: the quarantine looks at its tables
    content["tasks"]["second"] = content["tasks"]["tissue_kind"] | {"grid": "a10"}
    workshop.config.write_text(yaml.safe_dump(content))
    assert {"quarantine", "training_cohort", "train", "predict_slide", "evaluate"} <= rules(workshop.planned())


def add_slide(workshop, *, split, tail=b"\0"):
    """Give the sheet a new patient's slide, a copy of P01-A's with some bytes more."""
    header, *rows = workshop.rows()
    columns = header.split("\t")
    if "split" not in columns:
        columns, rows = [*columns, "split"], [row + "\t" for row in rows]
    slide = workshop.slide_file("P01-A")
    copy = slide.with_name(f"P09-A{slide.suffix}")
    copy.write_bytes(slide.read_bytes() + tail)
    new = dict(zip(columns, next(r for r in rows if r.startswith("P01-A\t")).split("\t"), strict=True))
    relative = Path(new["path"]).with_name(copy.name)
    new |= {"slide_id": "P09-A", "patient_id": "patient-09", "path": str(relative), "split": split}
    workshop.write_rows(["\t".join(columns), *rows, "\t".join(new[c] for c in columns)])


def test_an_added_slide_runs_its_own_jobs_and_the_aggregates(workshop):
    add_slide(workshop, split="")
    jobs = workshop.planned()
    assert slides_of(jobs) == {"P09-A"}
    assert {"split", "quarantine", "catalog", "lineage"} <= rules(jobs)


def test_an_added_slide_that_is_only_to_be_predicted_trains_nothing(workshop):
    add_slide(workshop, split="predict")
    jobs = workshop.planned()
    assert slides_of(jobs) == {"P09-A"}
    assert slides_of(jobs, {"predict_slide"}) == {"P09-A"}
    assert not {"train", "evaluate", "embed", "attribute", "model_card"} & rules(jobs)


def test_settings_that_change_together_with_the_sheet_take_effect_in_the_same_run(workshop):
    add_slide(workshop, split="predict")
    content = yaml.safe_load(workshop.config.read_text())
    content["tasks"]["tissue_kind"]["train"]["learning_rate"] = 3e-3
    workshop.config.write_text(yaml.safe_dump(content))
    assert {"split", "train", "predict_slide", "evaluate"} <= rules(workshop.planned())


def test_a_model_that_starts_from_that_of_another_task_is_trained_after_it_and_again_with_it(workshop):
    content = yaml.safe_load(workshop.config.read_text())
    first = content["tasks"]["tissue_kind"]
    model = first.get("model", {}) | {"pretrained": "results/models/tissue_kind/fold0"}
    content["tasks"]["second"] = first | {"model": model}
    workshop.config.write_text(yaml.safe_dump(content))
    second = "results/models/second/fold0/model.safetensors"
    assert rules(workshop.planned("--", second)) == {"training_cohort", "train"}
    content["tasks"]["tissue_kind"]["train"]["learning_rate"] = 3e-3
    workshop.config.write_text(yaml.safe_dump(content))
    done = workshop.snakemake("--dry-run", "--", second)
    assert re.search(r"^train +2$", done.stdout + done.stderr, re.MULTILINE)


def test_one_slide_under_two_names_in_two_roles_is_refused_in_every_run(finished, tmp_path):
    import pyarrow.parquet as pq

    shutil.copytree(finished.folder, tmp_path / "workshop", symlinks=True)
    workshop = Workshop(tmp_path / "workshop")
    table = pq.read_table(workshop.results / "splits" / "tissue_kind.parquet").to_pylist()
    role = next(row["role"] for row in table if row["slide_id"] == "P01-A" and row["fold"] == 0)
    add_slide(workshop, split="val" if role == "train" else "train", tail=b"")
    header, *rows = workshop.rows()
    fixed = {row["slide_id"]: row["role"] for row in table if row["fold"] == 0}
    workshop.write_rows([header, *(r + fixed.get(r.split("\t")[0], "") for r in rows)])
    targets = ("results/splits/tissue_kind.leakage.json", "results/models/tissue_kind/fold0.cohort.json")
    done = workshop.snakemake("--keep-going", "--", *targets, check=False)
    assert done.returncode != 0
    for log in ("leakage/tissue_kind.log", "training_cohort/tissue_kind/fold0.log"):
        text = (workshop.results / "logs" / log).read_text()
        assert "task tissue_kind: slides leak between roles" in text
        assert "P09-A" in text
        assert "P01-A" in text
    # A second try finds them again, though metrics of the cohort before are there.
    planned = workshop.planned("--", "results/metrics/tissue_kind.json")
    assert {"leakage", "training_cohort", "train", "evaluate"} <= rules(planned)


def test_a_fresh_clone_over_old_results_runs_nothing(workshop):
    for name in ("Snakefile", "rules", "scripts", "config", "envs", "profiles"):
        target = workshop.folder / name
        shutil.rmtree(target) if target.is_dir() else target.unlink()
    workshop.copy_code()
    assert workshop.planned() == set()


@pytest.fixture
def without_memory(workshop):
    """The finished workshop without Snakemake's records, as another checkout that uses the same results."""
    records, kept = workshop.folder / ".snakemake", workshop.folder / "kept"
    records.rename(kept)
    yield workshop
    shutil.rmtree(records)
    kept.rename(records)


def test_without_snakemakes_records_nothing_runs_again_if_nothing_changed(without_memory):
    assert without_memory.planned() == set()


def test_without_snakemakes_records_changed_settings_run_their_jobs_again(without_memory):
    without_memory.write_config(quality={"blur_sharpness": 0.123})
    jobs = without_memory.planned()
    assert {"quality", "tabulate_patches"} <= rules(jobs)
    assert not {"convert", "presegment"} & rules(jobs)


def test_records_of_an_older_result_do_not_count(workshop):
    # As after a run of another checkout with other settings, which wrote new outputs and sidecars.
    place = workshop.results / "quality" / "P01-A.json"
    sidecar = Path(f"{place}.meta.json")
    kept, times = sidecar.read_text(), place.stat()
    content = json.loads(kept)
    content["params"]["cfg"]["blur_sharpness"] = 0.123
    sidecar.write_text(json.dumps(content))
    os.utime(place, (times.st_atime, times.st_mtime - 0.5))
    planned = workshop.planned()
    sidecar.write_text(kept)
    os.utime(place, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert "quality" in rules(planned)
    assert slides_of(planned, {"quality"}) == {"P01-A"}


def test_a_deleted_product_is_made_again_from_what_is_there(workshop):
    mask = workshop.results / "tissue" / "P01-A.png"
    content = mask.read_bytes()
    mask.unlink()
    jobs = workshop.planned()
    mask.write_bytes(content)
    assert slides_of(jobs) <= {"P01-A"}
    assert "convert" not in rules(jobs)


def test_all_problems_are_listed_before_any_job_starts(workshop):
    header, *rows = workshop.rows()
    fields = dict(zip(header.split("\t"), rows[0].split("\t"), strict=True))
    broken = rows[0].replace(fields["path"], "nowhere.svs")
    workshop.write_rows([header, broken, *rows[1:], rows[1]])
    done = workshop.snakemake(check=False)
    assert done.returncode != 0
    message = done.stdout + done.stderr
    assert "file nowhere.svs does not exist" in message
    assert "appears 2 times" in message
    assert "Traceback" not in message


def test_a_sweep_runs_the_jobs_of_its_own_tasks_and_the_aggregates(workshop):
    workshop.write_config(sweeps={"rates": {"task": "tissue_kind", "values": {"train.learning_rate": [0.01, 0.001]}}})
    done = workshop.snakemake("--dry-run", "-p")
    assert set(re.findall(r"wildcards: .*\btask=(\w+)", done.stdout + done.stderr)) == {"rates_1", "rates_2"}
    assert rules(workshop.planned()) & PER_SLIDE == set()
