"""Someone who can write into the results, and nowhere else, changes a prediction and everything that could show it.

Each test is an attempt; `histomake verify` must name what was changed. Without an anchor, the last attempts pass, and
`verify` must say that nothing proves the contrary.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from histomake.audit import register, run_chain
from histomake.audit.caches import open_cache, stated_digest
from histomake.audit.run_chain import RECORD
from histomake.audit.runs import Jobs, Run
from histomake.audit.sidecar import SIDECAR, job
from histomake.audit.verification import verify
from histomake.base.files import sha256_file
from histomake.base.layout import Layout
from histomake.base.records.run import RunRecord
from histomake.base.records.sidecar import Sidecar
from histomake.config import parse_config
from test_annotate_job import Named

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


class Results:
    """A results folder with the prediction of a slide, its scores and a catalog, made by a finished run."""

    def __init__(self, anchor: Path | None) -> None:
        Path("slides.tsv").write_text("slide_id\tpath\tpatient_id\n")
        self.layout = Layout(Path("results"))
        self.config = parse_config({"sheet": "slides.tsv", "audit": {"anchor": str(anchor) if anchor else None}})
        self.prediction = self.layout.prediction("t", 0, "a")
        self.scores = self.layout.scores("t")
        self.catalog = self.layout.catalog
        self.run(self.predict, self.score, self.collect)

    def run(self, *steps, ends: bool = True) -> None:
        """A run of the workflow; without ``ends``, it is killed after its steps."""
        run = Run(self.layout, self.config)
        run.start()
        made = [step() for step in steps]
        if ends:
            run.finish(Jobs([str(m) for m in made], lambda path, slide: True), snakemake_logs=[], succeeded=True)
        else:
            self.layout.run_lock.unlink()

    def predict(self) -> Path:
        return self.step("predict_slide", self.prediction, [], "skin 0.9", wildcards={"slide": "a"})

    def score(self) -> Path:
        return self.step("evaluate", self.scores, [self.prediction], "")

    def collect(self) -> Path:
        return self.step("embed", self.catalog, [self.prediction, self.scores], "")

    def step(
        self,
        rule: str,
        output: Path,
        inputs: list[Path],
        text: str,
        wildcards: dict | None = None,
        state: Path | None = None,
    ) -> Path:
        """A job whose output is its text and that of its inputs; with ``state``, a training with checkpoints there."""
        snakemake = SimpleNamespace(
            rule=rule,
            scriptdir=str(SCRIPTS),
            resources={},
            wildcards=wildcards or {},
            input=Named(**{f"i{n}": str(path) for n, path in enumerate(inputs)}),
            output=Named(o=str(output)),
            log=[],
            params={},
            threads=1,
        )
        output.parent.mkdir(parents=True, exist_ok=True)
        with job(snakemake) as done:
            if state is not None:
                done.continue_from(state)
            output.write_text(text + "".join(path.read_text() for path in inputs))
        return output

    def forge(self, path: Path) -> None:
        """Write another result, of the same size and date."""
        before = path.stat()
        path.write_text(path.read_text().replace("skin", "tumo"))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    def forge_sidecar(self, path: Path) -> None:
        """Make the sidecar of an output state the digests of what is there now."""
        place = Path(f"{path}{SIDECAR}")
        content = Sidecar.read(place).dump()
        for part in ("inputs", "outputs"):
            content[part] = {name: sha256_file(Path(name)) for name in content[part]}
        place.write_text(json.dumps(content))

    def forge_everything_made_of_it(self) -> None:
        """Forge the prediction, all that was made from it, and the sidecars."""
        for path in (self.prediction, self.scores, self.catalog):
            self.forge(path)
            self.forge_sidecar(path)

    def forge_register(self) -> None:
        """Make the record of the last run register the sidecars that are there now."""
        folder = self.layout.runs / run_chain.read_links(self.layout)[-1].name
        table = pq.read_table(folder / register.REGISTER)
        digests = [sha256_file(self.layout.results / name) for name in table["path"].to_pylist()]
        at = table.schema.get_field_index("sha256")
        pq.write_table(table.set_column(at, table.schema.field(at), pa.array(digests)), folder / register.REGISTER)

    def forge_record(self) -> None:
        """Make the last record state the digests of the files beside it."""
        folder = self.layout.runs / run_chain.read_links(self.layout)[-1].name
        content = json.loads((folder / RECORD).read_text())
        content["files"] = {name: sha256_file(folder / name) for name in content["files"]}
        (folder / RECORD).write_text(json.dumps(content))

    def forge_start(self) -> None:
        """Append the start of a run that never was, which names no anchor and seems not to have ended."""
        last = run_chain.read_links(self.layout)[-1]
        folder = self.layout.runs / "9999"
        folder.mkdir()
        config = self.config.dump() | {"audit": {"anchor": None}}
        (folder / run_chain.SETTINGS).write_text(json.dumps(config))
        content = last.record.dump() | {"event": "started", "succeeded": None, "register": None, "sidecars": None}
        content["previous"] = {"run": last.name, "sha256": last.sha256}
        content["files"] = {run_chain.SETTINGS: sha256_file(folder / run_chain.SETTINGS)}
        record = RunRecord.decode(json.dumps(content).encode(), folder)
        record.write(folder / RECORD)


@pytest.fixture
def anchor(tmp_path):
    folder = tmp_path / "anchor"
    folder.mkdir()
    return folder


@pytest.fixture
def results(tmp_path, monkeypatch, anchor):
    monkeypatch.chdir(tmp_path)
    return Results(anchor)


@pytest.fixture
def unanchored(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Results(None)


def problems_with(results: Results, path: Path) -> list[str]:
    return [problem for problem in verify(results.layout).problems if str(path) in problem]


def test_untouched_results_pass(results):
    found = verify(results.layout)
    assert (found.problems, found.remarks, found.outputs) == ([], [], 3)


def test_another_prediction_is_named(results):
    results.forge(results.prediction)
    assert problems_with(results, results.prediction)


def test_another_prediction_with_a_matching_sidecar_is_named(results):
    results.forge(results.prediction)
    results.forge_sidecar(results.prediction)
    assert problems_with(results, Path(f"{results.prediction}{SIDECAR}"))


def test_another_prediction_with_all_that_was_made_from_it_is_named(results):
    results.forge_everything_made_of_it()
    assert problems_with(results, Path(f"{results.prediction}{SIDECAR}"))


def test_a_prediction_that_is_removed_with_its_sidecar_is_missing(results):
    results.prediction.unlink()
    Path(f"{results.prediction}{SIDECAR}").unlink()
    assert problems_with(results, results.prediction) == [f"{results.prediction}{SIDECAR}: missing"]


def test_a_prediction_of_another_slide_under_its_name_is_named(results):
    other = results.layout.prediction("t", 0, "b")
    results.step("predict_slide", other, [], "tumour 0.9", wildcards={"slide": "b"})
    shutil.copyfile(other, results.prediction)
    shutil.copyfile(f"{other}{SIDECAR}", f"{results.prediction}{SIDECAR}")
    assert problems_with(results, results.prediction)
    assert problems_with(results, other)


def test_a_prediction_in_a_linked_folder_is_compared_too(results, tmp_path):
    folder = results.layout.results / "predictions"
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    (folder / "loop").symlink_to("..")
    assert verify(results.layout).problems == []
    results.forge(results.prediction)
    assert problems_with(results, results.prediction)


def test_a_register_that_was_written_again_is_named(results):
    results.forge_everything_made_of_it()
    results.forge_register()
    assert [p for p in verify(results.layout).problems if register.REGISTER in p]


def test_a_record_that_was_written_again_is_not_the_one_in_the_anchor(results):
    results.forge_everything_made_of_it()
    results.forge_register()
    results.forge_record()
    (problem,) = verify(results.layout).problems
    assert "the run record with this digest was altered or removed" in problem


def test_a_start_that_never_was_hides_no_change(results):
    results.forge_everything_made_of_it()
    results.forge_start()
    problems = verify(results.layout).problems
    assert problems_with(results, Path(f"{results.prediction}{SIDECAR}"))
    assert any("has no digest of the run record 9999" in problem for problem in problems)


def test_the_anchor_is_asked_for_although_the_last_record_names_none(results):
    results.forge_start()
    assert run_chain.read(results.layout).anchor == Path(results.config.audit.anchor)


def test_a_change_during_the_time_after_a_killed_run_is_named(results):
    results.run(ends=False)
    results.forge_everything_made_of_it()
    assert problems_with(results, Path(f"{results.prediction}{SIDECAR}"))


def test_files_that_a_run_found_after_a_killed_one_stay_marked(results):
    results.run(ends=False)
    results.forge_everything_made_of_it()
    results.run()
    results.run()
    found = verify(results.layout)
    assert found.problems == []
    assert any("3 sidecar(s) were found by the run" in remark for remark in found.remarks)


def test_a_job_refuses_an_input_that_is_not_what_its_own_job_wrote(results, capfd):
    results.forge(results.prediction)
    with pytest.raises(SystemExit):
        results.run(results.score)
    assert f"{results.prediction}: not the bytes that its job wrote" in capfd.readouterr().err


def test_an_input_that_was_forged_for_one_run_and_restored_is_named(results):
    prediction, sidecar = results.prediction, Path(f"{results.prediction}{SIDECAR}")
    kept = prediction.read_bytes(), sidecar.read_bytes()
    results.forge(prediction)
    results.forge_sidecar(prediction)
    results.run(results.score)
    prediction.write_bytes(kept[0])
    sidecar.write_bytes(kept[1])
    assert f"{results.scores}: made from other bytes of {prediction}" in verify(results.layout).problems


def collects(results: Results) -> None:
    """A rule that keeps what it has read of the prediction, as `score` and `catalog` do."""
    cache = open_cache(results.layout, "collected")
    output = results.layout.results / "collected.json"
    snakemake = SimpleNamespace(
        rule="collect",
        scriptdir=str(SCRIPTS),
        resources={},
        wildcards={},
        input=Named(prediction=str(results.prediction)),
        output=Named(o=str(output)),
        log=[],
        params={},
        threads=1,
    )
    with job(snakemake, cache):
        (text,) = cache.read_texts([results.prediction])
        output.write_text(text)


def collected(results: Results) -> Path:
    collects(results)
    return results.layout.results / "collected.json"


def test_a_cache_that_the_last_run_left_is_used(results):
    results.run(lambda: collected(results))
    cache = open_cache(results.layout, "collected")
    assert cache.read_texts([results.prediction]) == ["skin 0.9"]
    assert cache.files_read == 0


def test_a_cache_that_is_not_what_the_last_run_left_is_not_used(results):
    results.run(lambda: collected(results))
    place = results.layout.file_cache("collected")
    table = pq.read_table(place)
    at = table.schema.get_field_index("text")
    forged = [text.replace("skin", "tumo") for text in table["text"].to_pylist()]
    pq.write_table(table.set_column(at, table.schema.field(at), pa.array(forged, pa.large_string())), place)
    results.run(lambda: collected(results))
    assert (results.layout.results / "collected.json").read_text() == "skin 0.9"


def test_a_cache_of_a_killed_run_is_not_used(results):
    results.run(lambda: collected(results), ends=False)
    assert results.layout.file_cache("collected").is_file()
    open_cache(results.layout, "collected")
    assert not results.layout.file_cache("collected").is_file()


def test_a_rule_with_a_cache_refuses_a_file_that_is_not_what_its_job_wrote(results, capfd):
    results.forge(results.prediction)
    with pytest.raises(SystemExit):
        collects(results)
    assert f"{results.prediction}: not the bytes that its job wrote" in capfd.readouterr().err


def test_caches_of_a_run_that_found_altered_sidecars_are_not_used(results):
    kept, sidecar = results.prediction.read_bytes(), Path(f"{results.prediction}{SIDECAR}")
    stated, before = sidecar.read_bytes(), results.prediction.stat()
    results.forge(results.prediction)
    results.forge_sidecar(results.prediction)
    results.run(lambda: collected(results))
    results.prediction.write_bytes(kept)  # with the size and the date by which the cache knows the forged one
    os.utime(results.prediction, ns=(before.st_atime_ns, before.st_mtime_ns))
    sidecar.write_bytes(stated)
    results.run(lambda: collected(results))
    assert (results.layout.results / "collected.json").read_text() == "skin 0.9"


def test_features_that_wait_for_their_job_are_removed_when_a_run_starts(results):
    left = results.layout.shared_features / "a" / "s" / "0.arrow"
    left.parent.mkdir(parents=True)
    left.write_text("forged")
    results.run()
    assert not left.exists()


def test_features_of_an_earlier_choice_are_taken_only_as_their_job_wrote_them(results):
    found = results.layout.prediction("t", 0, "a")  # any output with a sidecar of its own
    assert stated_digest(results.layout, found) == sha256_file(found)
    results.forge(found)
    assert stated_digest(results.layout, found) != sha256_file(found)
    results.forge_sidecar(found)
    assert stated_digest(results.layout, found) is None


def test_features_of_a_run_without_a_record_are_not_taken(results):
    made = results.layout.prediction("t", 0, "b")
    results.run(lambda: results.step("predict_slide", made, [], "skin", wildcards={"slide": "b"}), ends=False)
    assert stated_digest(results.layout, made) is None
    results.run()
    assert stated_digest(results.layout, made) == sha256_file(made)


def test_a_training_that_continued_from_a_checkpoint_stays_marked(results):
    state = results.layout.training_state("t", 0, "1")
    state.mkdir(parents=True)
    (state / "state.safetensors").write_text("forged")

    def trains() -> Path:
        return results.step("train", results.layout.model("t", 0) / "weights", [], "", state=state)

    results.run(trains)
    (remark,) = [text for text in verify(results.layout).remarks if "checkpoint" in text]
    assert str(state) in remark
    (state / "state.safetensors").unlink()
    results.run(trains)
    assert not any("checkpoint" in text for text in verify(results.layout).remarks)


def test_without_an_anchor_nothing_proves_that_all_records_are_the_first_ones(unanchored):
    unanchored.forge_everything_made_of_it()
    unanchored.forge_register()
    unanchored.forge_record()
    found = verify(unanchored.layout)
    assert found.problems == []
    assert any("whoever can write into the results could have replaced all of them" in r for r in found.remarks)


def test_records_that_were_all_replaced_do_not_match_an_anchor_that_is_given(results, anchor):
    results.forge_everything_made_of_it()
    shutil.rmtree(results.layout.runs)
    results.config = parse_config({"sheet": "slides.tsv"})
    results.run()
    found = verify(results.layout)
    assert found.problems == []
    assert any("compared with no anchor" in remark for remark in found.remarks)
    assert len(verify(results.layout, anchor=anchor).problems) >= 2
