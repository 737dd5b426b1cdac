"""Tests of the workflow on a real Slurm: partitions of jobs, and robustness against faults."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time

import duckdb
import psutil
import pyarrow.parquet as pq
import pytest

from tests.cluster.conftest import EVERYTHING, SLIDES, TWO_SLIDES, Site, copy_of
from tests.cluster.slurm import wait_for

GPU_RULES = {"train", "predict_slide"}
MODEL = "results/models/tissue_kind/fold0/model.safetensors"
RUN_SECONDS = 500

pytestmark = pytest.mark.timeout(1_200)


def ends_well(run):
    """Wait for a disturbed run to succeed; return its output."""
    output, _ = run.communicate(timeout=RUN_SECONDS)
    assert run.returncode == 0, output[-4000:]
    return output


def running(site, rule=""):
    """Return the ids of running jobs, of all rules or of one."""
    lines = site.cluster.client("squeue", "-h", "-t", "R", "-o", "%i|%k").splitlines()
    return [line.split("|")[0] for line in lines if not rule or f"rule_{rule}" in line]


def first_running(site, rule=""):
    """Wait for a running job; return its id."""
    wait_for(f"a running job of {rule or 'any rule'}", lambda: bool(running(site, rule)), seconds=120)
    return running(site, rule)[0]


def node_of(site, job):
    """Return the node on which a job runs."""
    return site.cluster.client("squeue", "-h", "-j", job, "-o", "%N").strip()


def steps(job):
    """Return Slurm's own processes of a job, one per step."""
    every = psutil.process_iter(["cmdline"])
    return [p for p in every if f"slurmstepd: [{job}." in " ".join(p.info["cmdline"] or [])]


def processes(job):
    """Wait for the processes of a Slurm job; return them without Slurm's own."""

    def found():
        children = [child for step in steps(job) for child in step.children(recursive=True)]
        return [child for child in children if child.name() != "slurmstepd"]

    wait_for(f"processes of job {job}", lambda: bool(found()))
    return found()


def accounted(site, *columns):
    """Return rows of the accounting database for the site's jobs, one per attempt, oldest first."""
    names = ("WorkDir", "Comment", *columns)
    text = site.cluster.client("sacct", "-X", "-n", "-P", "-D", "-o", ",".join(names))
    rows = [dict(zip(names, line.split("|"), strict=True)) for line in text.splitlines()]
    return [row for row in rows if row["WorkDir"] == str(site.workshop.folder)]


def test_gpu_rules_run_in_the_gpu_partition_and_all_others_in_cpu(ran):
    rows = accounted(ran, "Partition", "State")
    assert {row["State"] for row in rows} == {"COMPLETED"}
    for row in rows:
        assert row["Partition"] == ("gpu" if any(f"rule_{r}" in row["Comment"] for r in GPU_RULES) else "cpu"), row
    assert {row["Partition"] for row in rows} == {"cpu", "gpu"}


def test_a_run_on_the_cluster_is_complete_and_records_its_jobs(ran):
    entries = json.loads((ran.workshop.results / "quarantine.json").read_text())
    assert [e["slide_id"] for e in entries] == ["P04-B"]
    with duckdb.connect(ran.workshop.results / "catalog.duckdb", read_only=True) as catalog:
        assert catalog.sql("SELECT count(*) FROM slides").fetchall() == [(5,)]
        assert catalog.sql("SELECT count(*) FROM predictions_tissue_kind").fetchall()[0][0] > 0
    rows = pq.read_table(ran.workshop.results / "audit" / "lineage.parquet").to_pylist()
    assert rows
    assert all(row["slurm_job"] for row in rows)
    done = ran.workshop.snakemake("--profile", "slurm", "--dry-run", "--", *EVERYTHING)
    assert "Nothing to be done" in done.stdout + done.stderr


def kill_a_process(site):
    victims = processes(first_running(site))
    random.Random(0).choice(victims).send_signal(signal.SIGKILL)


def kill_a_node(site):
    job = first_running(site)
    node = node_of(site, job)
    killed = [*processes(job), *steps(job)]
    site.cluster.stop(node, signal.SIGKILL)
    for process in killed:
        if process.is_running():
            process.kill()
    wait_for("the node to be given up", lambda: site.cluster.is_down(node), seconds=90)
    site.cluster.start_node(node)


def restart_a_node_daemon(site):
    node = node_of(site, first_running(site))
    site.cluster.stop(node, signal.SIGKILL)
    time.sleep(5)
    site.cluster.start_node(node)


def drain_a_node(site):
    node = node_of(site, first_running(site))
    site.cluster.client("scontrol", "update", f"NodeName={node}", "State=DRAIN", "Reason=test")
    time.sleep(15)
    site.cluster.client("scontrol", "update", f"NodeName={node}", "State=RESUME")


def stop_the_accounting_database(site):
    first_running(site)
    site.cluster.stop("slurmdbd", signal.SIGKILL)
    time.sleep(20)
    site.cluster.start_accounting()


FAULTS = [kill_a_process, kill_a_node, restart_a_node_daemon, drain_a_node, stop_the_accounting_database]


@pytest.mark.parametrize("disturb", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_does_not_change_the_outputs(site, undisturbed, disturb):
    run = site.start(*TWO_SLIDES)
    disturb(site)
    ends_well(run)
    assert site.workshop.products(*SLIDES) == undisturbed.products(*SLIDES)


def attempts(site, rule, *columns):
    """Return the attempts of the rule's job, oldest first."""
    return [row for row in accounted(site, *columns) if f"rule_{rule}" in row["Comment"]]


def test_a_job_over_its_memory_is_retried_with_more(site):
    options = ("--set-resources", "convert:mem_mb=60*40**(attempt-1)")
    ends_well(site.start("results/slides/P01-A.json", options=options))
    first, second = attempts(site, "convert", "State", "ReqMem")
    assert (first["ReqMem"], second["ReqMem"], second["State"]) == ("60M", "2400M", "COMPLETED")
    assert first["State"] != "COMPLETED"


def test_a_job_over_its_time_is_retried_with_more(site):
    options = ("--set-resources", "convert:runtime=attempt")
    run = site.start("results/slides/P01-A.json", options=options)
    for process in processes(first_running(site)):
        process.suspend()
    ends_well(run)
    first, second = attempts(site, "convert", "State", "Timelimit")
    assert (first["State"], first["Timelimit"]) == ("TIMEOUT", "00:01:00")
    assert (second["State"], second["Timelimit"]) == ("COMPLETED", "00:02:00")


def test_preempted_training_continues_from_its_checkpoint(ran, tmp_path):
    site = Site(ran.cluster, copy_of(ran.workshop, tmp_path / "workshop"))
    weights = (site.workshop.folder / MODEL).read_bytes()
    shutil.rmtree((site.workshop.folder / MODEL).parent)
    log = site.workshop.results / "logs" / "train" / "tissue_kind" / "fold0.log"
    log.unlink()
    run = site.start(MODEL)
    job = first_running(site, "train")
    wait_for("its first steps", lambda: log.is_file() and "validation at step 12" in log.read_text(), seconds=300)
    site.cluster.client("scancel", job)
    ends_well(run)
    assert "resumed at step" in log.read_text()
    assert (site.workshop.folder / MODEL).read_bytes() == weights


def test_after_a_killed_main_process_the_run_completes_and_concurrent_runs_are_refused(site, undisturbed):
    run = site.start(*TWO_SLIDES)
    first_running(site)
    refused = site.workshop.snakemake(*site.arguments(*TWO_SLIDES), check=False)
    assert refused.returncode != 0
    assert "lock" in (refused.stdout + refused.stderr).lower()
    os.kill(run.pid, signal.SIGKILL)
    run.communicate()
    wait_for("an empty queue", lambda: not site.cluster.client("squeue", "-h").split(), seconds=120)
    site.workshop.snakemake("--unlock")
    site.workshop.snakemake(*site.arguments(*TWO_SLIDES))
    assert site.workshop.products(*SLIDES) == undisturbed.products(*SLIDES)
