"""The workflow on a real Slurm: where its jobs land, and what it survives."""

from __future__ import annotations

import json
import signal
import subprocess
import time

import duckdb
import pyarrow.parquet as pq
import pytest

from tests.cluster.slurm import wait_for

GPU_RULES = {"train", "predict_slide"}
without_accounting = pytest.mark.parametrize("site", [False], ids=["no accounting"], indirect=True)


def jobs_by_partition(cluster):
    """Partition → the comments (rule and wildcards) of the jobs that ran there, from the accounting database."""
    found = {}
    for line in cluster.client("sacct", "-X", "-n", "-P", "-o", "Partition,State,Comment").splitlines():
        partition, state, comment = line.split("|", 2)
        found.setdefault(partition, []).append((state, comment))
    return found


def finished_well(workshop):
    """The run's products say what an undisturbed run's say."""
    entries = json.loads((workshop.results / "quarantine.json").read_text())
    assert [e["slide_id"] for e in entries] == ["P04-B"]
    metrics = json.loads((workshop.results / "metrics" / "tissue_kind.json").read_text())
    assert metrics["bootstraps"] == 1000
    with duckdb.connect(workshop.results / "catalog.duckdb", read_only=True) as catalog:
        assert catalog.sql("SELECT count(*) FROM slides").fetchall() == [(5,)]
    assert not list(workshop.results.rglob("*.partial"))
    return True


def test_gpu_rules_run_in_the_gpu_partition_and_all_others_in_cpu(site):
    site.workshop.snakemake(*site.arguments())
    assert finished_well(site.workshop)
    ran = jobs_by_partition(site.cluster)
    assert set(ran) == {"cpu", "gpu"}
    for partition, jobs in ran.items():
        assert {state for state, _ in jobs} == {"COMPLETED"}
        for _, comment in jobs:
            assert any(f"rule_{rule}" in comment for rule in GPU_RULES) == (partition == "gpu"), comment
    rows = pq.read_table(site.workshop.results / "audit" / "lineage.parquet").to_pylist()
    assert all(row["slurm_job"] for row in rows if row["rule"] != "lineage")
    done = site.workshop.snakemake("--profile", "slurm", "--dry-run", "--", *site.arguments()[6:])
    assert "Nothing to be done" in done.stdout + done.stderr


def start(site, *targets):
    """Start a run and return the process, to be disturbed."""
    return subprocess.Popen(
        site.workshop.command(*site.arguments(*targets)),
        cwd=site.workshop.folder,
        env=site.workshop.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def running(site):
    return site.cluster.client("squeue", "-h", "-t", "R", "-o", "%i").split()


@without_accounting
def test_a_run_ends_where_there_is_no_accounting_database(site):
    site.workshop.snakemake(*site.arguments("results/slides/P01-A.json", "results/tissue/P01-A.json"))
    assert json.loads((site.workshop.results / "tissue" / "P01-A.json").read_text())["status"] == "ok"


def test_a_run_survives_the_loss_of_the_accounting_database(site):
    run = start(site, "results/quarantine.json")
    wait_for("a running job", lambda: bool(running(site)))
    site.cluster.stop("slurmdbd", signal.SIGKILL)
    time.sleep(20)
    site.cluster.start_accounting()
    output, _ = run.communicate(timeout=400)
    assert run.returncode == 0, output[-4000:]


def test_a_run_survives_the_death_of_a_node_daemon(site):
    run = start(site, "results/quarantine.json")
    wait_for("a running job", lambda: bool(running(site)))
    site.cluster.stop("n1", signal.SIGKILL)
    time.sleep(5)
    site.cluster.start_node("n1")
    output, _ = run.communicate(timeout=400)
    assert run.returncode == 0, output[-4000:]


def test_a_killed_job_is_tried_again(site):
    run = start(site, "results/quarantine.json")
    wait_for("a running job", lambda: bool(running(site)))
    subprocess.run(["scancel", "--signal=KILL", running(site)[0]], env=site.cluster.environment, check=True)
    output, _ = run.communicate(timeout=400)
    assert run.returncode == 0, output[-4000:]


def test_a_killed_main_process_loses_nothing_and_a_second_one_is_refused(site):
    run = start(site, "results/quarantine.json")
    wait_for("a running job", lambda: bool(running(site)))
    refused = site.workshop.snakemake("--profile", "slurm", "--", "results/quarantine.json", check=False)
    assert refused.returncode != 0
    assert "lock" in (refused.stdout + refused.stderr).lower()
    run.kill()
    run.communicate()
    wait_for("an empty queue", lambda: not site.cluster.client("squeue", "-h").split(), seconds=120)
    site.workshop.snakemake("--unlock")
    site.workshop.snakemake(*site.arguments())
    assert finished_well(site.workshop)
