"""The parts of Snakemake that are not a public interface: a release that changes one of them fails here."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from base64 import b64encode
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"

SNAKEFILE = """
import sys
sys.path.insert(0, {scripts!r})
from histomake.planning import snakemake_internals as internals

assert isinstance(workflow.is_main_process, bool)
assert isinstance(workflow.overwrite_configfiles, list)
assert isinstance(workflow.configfiles, list)
assert internals.runs_in_containers(workflow) is False
assert internals.stores_everything_elsewhere(workflow) is False
internals.shorten_dry_run(workflow)
from histomake.planning.unchanged import LeftOut
LEFT = LeftOut()
if config.get("left"):
    left = {{f"made/{{slide}}.{{kind}}" for slide in config["left"] for kind in ("txt", "csv")}}
    found = LeftOut(set(config["left"]), left, {{"made/common.txt"}})
    internals.leave_out(workflow, LEFT, lambda: found, unneeded=lambda: print("unneeded"))
assert str(workflow.current_basedir) == {folder!r}


rule all:
    default_target: True
    input: expand("made/{{slide}}.txt", slide=["A", "B"]), "made/summary.txt"

rule make:
    input: "made/common.txt"
    output: "made/{{slide}}.txt", "made/{{slide}}.csv"
    params: setting=config.get("setting", 1)
    shell: "{command}"

rule common:
    output: "made/common.txt"
    params: setting=config.get("common", 1)
    shell: "touch {{output}}"

rule summary:
    input: "made/A.txt"
    output: "made/summary.txt"
    shell: "cp {{input}} {{output}}"


IMPORTED = internals.is_imported(workflow)


onsuccess:
    print("imported:", IMPORTED)
    print("everything:", internals.everything_was_asked(workflow))
    planned = internals.planned_files(workflow, ".meta")
    print("files:", {{k: sorted(v) for k, v in sorted(planned.slides.items())}}, planned.common)
    print("left out:", sorted(LEFT.slides))

onerror:
    internals.mark_failed_jobs(workflow)
"""

TRIGGERS = ("mtime", "params", "input", "software-env")
MAKE = "echo {params.setting} > {output[0]}; touch {output[1]}"


@pytest.fixture
def snakemake(tmp_path):
    """Runs Snakemake on a workflow of two slides, whose jobs run ``command``; returns what it printed."""

    def run(*arguments, command=MAKE, check=True):
        text = SNAKEFILE.format(scripts=str(SCRIPTS), folder=str(tmp_path), command=command)
        (tmp_path / "Snakefile").write_text(text)
        done = subprocess.run(
            [sys.executable, "-m", "snakemake", "--rerun-triggers", *TRIGGERS, "--cores", "1", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert not check or done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    return run


def test_files_of_single_slides_are_distinguished_from_those_that_they_depend_on(snakemake):
    text = snakemake()
    of_slides = {slide: [f"made/{slide}.{end}" for end in ("csv", "txt", "txt.meta")] for slide in "AB"}
    assert f"files: {of_slides} ['made/common.txt', 'made/common.txt.meta']" in text
    assert "imported: False" in text


LEFT_OUT = ("--config", "setting=2", "left=[A]")


def test_files_that_are_left_out_are_sources_and_their_jobs_are_not_planned(snakemake):
    snakemake()
    text = snakemake("-p", *LEFT_OUT)
    assert re.findall("wildcards: slide=(.)", text) == ["B"]
    assert "left out: ['A']" in text
    assert "Nothing to be done" in snakemake("--config", "setting=2", "left=[A, B]")


def test_a_file_that_is_asked_for_is_planned_although_it_is_left_out(snakemake):
    snakemake()
    assert "wildcards: slide=A" in snakemake("--dry-run", "-p", *LEFT_OUT, "--", "made/A.txt")


def test_nothing_is_left_out_if_a_file_that_all_depend_on_is_made_again(snakemake):
    snakemake()
    text = snakemake("-p", *LEFT_OUT, "common=2")
    assert sorted(re.findall("wildcards: slide=(.)", text)) == ["A", "B"]
    assert "plan: all slides" in text
    assert "left out: []" in text


@pytest.mark.parametrize("forced", [("--forceall",), ("--forcerun", "make"), ("--force",), ("--touch",)])
def test_nothing_is_left_out_if_jobs_are_forced(snakemake, forced):
    snakemake()
    assert "left out: []" in snakemake(*forced, *LEFT_OUT)


def test_a_summary_of_all_files_leaves_nothing_out(snakemake):
    snakemake()
    assert "made/A.txt" in snakemake("--summary", "--config", "left=[A]")


def test_a_run_that_has_nothing_to_do_is_told(snakemake):
    snakemake()
    assert "unneeded" not in snakemake("--config", "left=[A]", "common=2")
    assert "unneeded" in snakemake("--config", "left=[A]", "common=2")
    assert "unneeded" not in snakemake("--dry-run", "--config", "left=[A]", "common=2")


@pytest.mark.parametrize(
    ("arguments", "everything"),
    [
        ((), True),
        (("all",), True),
        (("made/A.txt",), False),
        (("--until", "make"), False),
        (("--omit-from", "summary"), False),
        (("--batch", "all=1/2"), False),
        (("--rerun-triggers", "mtime"), False),
    ],
)
def test_a_run_for_everything_is_distinguished_from_one_for_some_targets(snakemake, arguments, everything):
    assert f"everything: {everything}" in snakemake(*arguments)


def test_a_failed_job_runs_again_even_if_later_results_exist(snakemake, tmp_path):
    snakemake()
    failed = snakemake("--keep-going", "--config", "setting=2", command="false", check=False)
    assert "Error in rule make" in failed
    assert not (tmp_path / "made/A.txt").exists()
    # The summary, which alone is asked for, exists: without the mark, nothing would be planned.
    assert (tmp_path / "made/summary.txt").exists()
    assert "rule make:" in snakemake(
        "--dry-run", "-p", "--config", "setting=2", "--", "made/summary.txt", command="false"
    )


def test_a_dry_run_prints_numbers_of_jobs_and_with_p_every_job(snakemake):
    short, long = snakemake("--dry-run"), snakemake("--dry-run", "-p")
    for text in (short, long):
        assert re.search(r"^make +2$", text, re.MULTILINE)
    assert "rule make:" not in short
    assert long.count("rule make:") == 2
    assert len(short.splitlines()) < len(long.splitlines())


def test_a_run_prints_every_job(snakemake):
    assert "rule make:" in snakemake()


FORKING = """
import sys
sys.path.insert(0, {scripts!r})
from pathlib import Path
from histomake.planning import snakemake_internals as internals
from histomake.planning.forked_scripts import ScriptForks

if workflow.is_main_process:
    internals.fork_scripts(ScriptForks([Path("forked.py")], alone=0), [Path("forked.py")])


rule all:
    default_target: True
    input: "one.txt", "two.txt"


rule one:
    output: "one.txt"
    log: "one.log"
    benchmark: "one.tsv"
    params: status=config.get("status", 0)
    script: "forked.py"


rule two:
    output: "two.txt"
    params: status=0
    script: "plain.py"
"""

TELLING = """
import os, sys
with open(snakemake.output[0], "w") as stream:
    stream.write(f"{snakemake.rule} {snakemake.threads} {sorted(m for m in sys.modules if m == 'pandas')}")
sys.exit(snakemake.params.status)
"""


@pytest.fixture
def forking(tmp_path):
    """Runs a workflow of two scripts, of which one is forked; returns the finished process."""
    (tmp_path / "Snakefile").write_text(FORKING.format(scripts=str(SCRIPTS)))
    for name in ("forked", "plain"):
        (tmp_path / f"{name}.py").write_text(TELLING)

    def run(*arguments):
        command = [sys.executable, "-m", "snakemake", "--cores", "1", "--keep-going", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(SCRIPTS)}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    return run


def test_a_forked_script_makes_outputs_and_benchmark_as_any_other(forking, tmp_path):
    done = forking()
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "one.txt").read_text() == "one 1 ['pandas']"
    assert (tmp_path / "two.txt").read_text() == "two 1 []"
    assert (tmp_path / "one.tsv").read_text().startswith("s\th:m:s")
    assert "Nothing to be done" in forking("--dry-run").stdout


def test_a_forked_script_that_fails_fails_its_job(forking, tmp_path):
    done = forking("--config", "status=3")
    assert done.returncode != 0
    assert "Error in rule one" in done.stdout + done.stderr
    assert not (tmp_path / "one.txt").exists()
    assert (tmp_path / "two.txt").exists()


MANY = """
import sys
sys.path.insert(0, {scripts!r})
from histomake.planning import snakemake_internals as internals
from snakemake.scheduling.job_scheduler import JobScheduler

select = JobScheduler.job_selector

def select_and_say(self, jobs):
    first = min(jobs, key=lambda job: (-job.priority, job.jobid))
    print("considered:", len(jobs), first.name)
    return select(self, jobs)

JobScheduler.job_selector = select_and_say
internals.limit_considered_jobs()

rule all:
    default_target: True
    input: expand("{{what}}/{{n}}.txt", what=["low", "high"], n=range(40))

rule low:
    output: "low/{{n}}.txt"
    shell: "touch {{output}}"

rule high:
    output: "high/{{n}}.txt"
    priority: 2
    shell: "touch {{output}}"
"""


def test_the_scheduler_looks_at_a_few_ready_jobs_of_each_rule_and_runs_all(tmp_path):
    (tmp_path / "Snakefile").write_text(MANY.format(scripts=str(SCRIPTS)))
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "8", "--scheduler", "greedy"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    considered = re.findall(r"considered: (\d+) (\w+)", done.stdout)
    assert considered[0] == ("32", "high")
    assert max(int(count) for count, _ in considered) == 32
    assert len(list(tmp_path.glob("*/*.txt"))) == 80


WAITING = """
import sys
sys.path.insert(0, {scripts!r})
from histomake.planning import snakemake_internals as internals
from snakemake.scheduling.job_scheduler import JobScheduler

select = JobScheduler.job_selector

def select_and_say(self, jobs):
    print("woke up")
    return select(self, jobs)

JobScheduler.job_selector = select_and_say
internals.wake_scheduler_once()

rule all:
    default_target: True
    input: expand("quick/{{n}}.txt", n=range(20)), expand("slow/{{n}}.txt", n=range(2))

rule quick:
    output: "quick/{{n}}.txt"
    shell: "touch {{output}}"

rule slow:
    output: "slow/{{n}}.txt"
    resources: slots=1
    shell: "sleep 4; touch {{output}}"
"""


def test_the_scheduler_does_not_wake_up_more_often_with_every_job_that_ended(tmp_path):
    (tmp_path / "Snakefile").write_text(WAITING.format(scripts=str(SCRIPTS)))
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "2", "--resources", "slots=1", "--scheduler", "greedy"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("*/*.txt"))) == 22
    # At most twice per job, and once a second while the second slow job waits for the first.
    assert done.stdout.count("woke up") < 2 * 22 + time.monotonic() - start


RECORDS = """
import json
import sys
sys.path.insert(0, sys.argv[1])
from snakemake.persistence.file import FilePersistence
from histomake.planning.snakemake_internals import decode_records_faster

class Records(FilePersistence):
    def __init__(self):
        self._max_len = None

def read():
    return [Records()._io_read(sys.argv[2], key) for key in ("kept", "infinite", "damaged", "missing")]

before = read()
decode_records_faster()
assert read() == before
print(json.dumps(before))
"""


def test_records_decoded_faster_are_those_that_snakemake_decodes(tmp_path):
    name = {key: b64encode(key.encode()).decode() for key in ("kept", "infinite", "damaged")}
    (tmp_path / name["kept"]).write_text('{"rule": "train", "endtime": 1796226577.1983833, "params": ["\\u00e9"]}')
    (tmp_path / name["infinite"]).write_text('{"rule": "train", "endtime": Infinity}')
    (tmp_path / name["damaged"]).write_text('{"rule": "tr')
    command = [sys.executable, "-c", RECORDS, str(SCRIPTS), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    kept = {"rule": "train", "endtime": 1796226577.1983833, "params": ["\u00e9"]}
    assert json.loads(done.stdout) == [kept, {"rule": "train", "endtime": float("inf")}, {}, {}]
    assert done.stderr.count("Ignore corrupted") == 2
