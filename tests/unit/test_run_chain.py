"""Run records form a chain that shows what was altered, and a register of the sidecars that must exist."""

import json
import shutil
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from histomake.audit import register, run_chain
from histomake.audit.run_chain import RECORD
from histomake.audit.runs import Jobs, Run
from histomake.base.errors import HistomakeError
from histomake.base.files import sha256_file
from histomake.base.layout import Layout
from histomake.config import parse_config

from tests import sample_records


@pytest.fixture
def layout(tmp_path):
    return Layout(tmp_path / "results")


@pytest.fixture
def config(tmp_path):
    (tmp_path / "slides.tsv").write_text("slide_id\tpath\tpatient_id\n")
    (tmp_path / "anchor").mkdir()
    return {"sheet": str(tmp_path / "slides.tsv"), "audit": {"anchor": str(tmp_path / "anchor")}}


@pytest.fixture
def anchor(tmp_path):
    return tmp_path / "anchor"


@pytest.fixture
def run(layout, config):
    """Carry out a run whose jobs write the sidecars of ``slides``; without ``ends``, it is killed."""

    def carry_out(*slides, ends=True, is_output=lambda path, slide: True):
        current = Run(layout, parse_config(config))
        current.start()
        for slide in slides:
            write_sidecar(layout, slide)
        if ends:
            done = [str(layout.manifest(slide)) for slide in slides]
            current.finish(Jobs(done, is_output), snakemake_logs=[], succeeded=True)
        else:
            layout.run_lock.unlink()

    return carry_out


def write_sidecar(layout, slide, **values):
    """Write a new sidecar, with the time, of a slide."""
    manifest = layout.manifest(slide)
    manifest.parent.mkdir(parents=True, exist_ok=True)
    sidecar = sample_records.sidecar(wildcards={"slide": slide}, started=str(datetime.now(UTC)), **values)
    sidecar.write(f"{manifest}.meta.json")


def sidecar_of(layout, slide):
    return Path(f"{layout.manifest(slide)}.meta.json")


def registered(layout):
    return {Path(name).name.partition(".")[0] for name in register.registered(layout, run_chain.read(layout).links)}


def last(layout):
    return run_chain.read(layout).links[-1].record


def folders(layout):
    return [layout.runs / link.name for link in run_chain.read(layout).links]


def test_a_run_leaves_a_record_of_its_start_and_of_its_end(run, layout):
    run("a", "b")
    started, finished = (link.record for link in run_chain.read(layout).links)
    assert (started.event, finished.event, finished.succeeded) == ("started", "finished", True)
    assert finished.run == run_chain.read(layout).links[0].name
    assert set(started.files) == {"config.json", "slides.tsv"}
    assert finished.sidecars.made == 2
    assert not layout.run_lock.exists()


def test_a_killed_run_leaves_its_start_and_the_next_run_registers_what_it_made(run, layout):
    run("a")
    run("b", ends=False)
    assert run_chain.read(layout).unfinished is not None
    assert registered(layout) == {"a"}
    run("c")
    assert registered(layout) == {"a", "b", "c"}
    assert (last(layout).sidecars.made, last(layout).sidecars.adopted) == (1, 1)


def test_a_sidecar_altered_outside_a_run_is_reported_and_never_registered(run, layout, capsys):
    run("a", "b")
    before = register.registered(layout, run_chain.read(layout).links)
    write_sidecar(layout, "a")
    write_sidecar(layout, "stranger")
    run("c")
    assert last(layout).sidecars.altered == 2
    after = register.registered(layout, run_chain.read(layout).links)
    assert {name: entry for name, entry in after.items() if "c.json" not in name} == before
    assert f"{sidecar_of(layout, 'a')}: altered" in capsys.readouterr().err


def test_a_missing_sidecar_stays_registered_while_its_output_is_still_produced(run, layout):
    run("a", "b")
    sidecar_of(layout, "a").unlink()
    run("c")
    assert last(layout).sidecars.missing == 1
    assert registered(layout) == {"a", "b", "c"}
    run(is_output=lambda path, slide: slide != "a")
    assert last(layout).sidecars.retired == 1
    assert registered(layout) == {"b", "c"}


def test_the_register_is_the_same_read_from_the_last_whole_list_or_from_all_runs(run, layout, monkeypatch):
    monkeypatch.setattr(register, "WHOLE_EVERY", 2)
    for slides in ("ab", "c", "a", "d"):
        run(*slides)
    sidecar_of(layout, "b").unlink()
    run("e")
    links = run_chain.read(layout).links
    assert [link.record.register for link in links if link.record.register] == [
        *("whole", "changes", "whole", "changes", "whole")
    ]
    assert register.registered(layout, links) == register.registered(layout, links[-2:])
    assert registered(layout) == set("abcde")


def test_a_clock_that_is_set_back_raises_no_alarm(run, layout, monkeypatch):
    run("a")

    class Earlier(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) - timedelta(minutes=30)

    monkeypatch.setattr(run_chain, "datetime", Earlier)
    run("b")
    names = [link.name for link in run_chain.read(layout).links]
    assert names != sorted(names)
    assert run_chain.read(layout).problems == []
    assert registered(layout) == {"a", "b"}


def test_a_run_hashes_the_files_of_its_own_records_only(run, layout, monkeypatch):
    run("a")
    before, hashed = folders(layout), []
    monkeypatch.setattr(run_chain, "sha256_file", lambda path: hashed.append(path) or sha256_file(path))
    run("b")
    assert hashed
    assert not [path for path in hashed if path.parent in before]


def test_records_that_are_appended_at_once_form_one_chain(layout, config):
    current = Run(layout, parse_config(config))

    def append():
        run_chain.append(layout, None, lambda folder: None, current._record("started"))

    threads = [threading.Thread(target=append) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    chain = run_chain.read(layout)
    assert (len(chain.links), chain.problems) == (6, [])


@pytest.mark.parametrize("number", range(4))
def test_every_altered_file_of_every_record_is_named(run, layout, number):
    run("a")
    run("b")
    folder = folders(layout)[number]
    files = sorted(path for path in folder.iterdir())
    assert len(files) > 1
    for file in files:
        kept = file.read_bytes()
        file.write_bytes(kept.replace(b"e", b"f", 1) + b" ")
        problems = run_chain.read(layout).problems
        file.write_bytes(kept)
        is_head = file.name == RECORD and number == 3
        assert problems or is_head, file
    assert run_chain.read(layout).problems == []


@pytest.mark.parametrize("number", range(3))
def test_a_removed_record_is_noticed(run, layout, number):
    run("a")
    run("b")
    shutil.rmtree(folders(layout)[number])
    assert run_chain.read(layout).problems


def test_the_last_record_is_covered_by_the_anchor(run, layout, anchor):
    run("a")
    assert run_chain.read(layout, anchor).problems == []
    record = folders(layout)[-1] / RECORD
    record.write_text(record.read_text().replace('"succeeded": true', '"succeeded": false'))
    assert [p for p in run_chain.read(layout, anchor).problems if folders(layout)[-1].name in p]
    shutil.rmtree(folders(layout)[-1])
    assert [p for p in run_chain.read(layout, anchor).problems if "altered or removed" in p]


def test_a_chain_that_was_replaced_as_a_whole_does_not_match_the_anchor(run, layout, config, anchor, tmp_path):
    run("a")
    shutil.rmtree(layout.runs)
    config["audit"]["anchor"] = None
    run("a")
    assert run_chain.read(layout).problems == []
    problems = run_chain.read(layout, anchor).problems
    assert len([p for p in problems if "the run record with this digest was altered or removed" in p]) == 2


def test_a_run_does_not_start_without_its_anchor(run, config, layout):
    config["audit"]["anchor"] += "/missing"
    with pytest.raises(HistomakeError, match=r"audit\.anchor: .* cannot be written to .*missing"):
        run("a")


def test_records_of_version_0_1_are_the_beginning_of_the_chain(run, layout):
    sample = Path(__file__).parents[1] / "data" / "records" / "format0" / "run.json"
    content = json.loads(sample.read_text()) | {"files": {}, "previous": None}
    folder = layout.runs / content["finished"]
    folder.mkdir(parents=True)
    (folder / RECORD).write_text(json.dumps(content))
    write_sidecar(layout, "old")
    run("new")
    chain = run_chain.read(layout)
    assert chain.problems == []
    assert chain.links[0].record.event == "finished"
    assert registered(layout) == {"old", "new"}


def test_after_a_failed_run_the_summary_does_not_say_that_all_others_are_done(layout, config, capsys):
    layout.results.mkdir()
    layout.quarantine.write_text(json.dumps([sample_records.lost("q").dump()]))
    for succeeded, told in ((True, "all others are done"), (False, "other jobs failed")):
        current = Run(layout, parse_config(config))
        current.start()
        current.finish(Jobs([], lambda path, slide: True), snakemake_logs=[], succeeded=succeeded)
        assert f"1 slide(s) in quarantine; {told}" in capsys.readouterr().err
