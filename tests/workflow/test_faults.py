"""Faults on one machine, actually caused: afterwards a run ends with the outputs of an undisturbed run."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import time

import pytest

from tests.workshop import Workshop

SLIDES = ("P01-A", "P02-A")
TABLES = tuple(f"results/patches/x10/{slide}.parquet" for slide in SLIDES)
SMALL_DISK, LARGE_DISK = "900k", "200m"


@pytest.fixture
def fresh(finished, tmp_path):
    """The finished workshop's code and cohort, without results."""
    copy = Workshop(tmp_path / "workshop")
    shutil.copytree(finished.folder, copy.folder, ignore=shutil.ignore_patterns("results", ".snakemake"))
    return copy


def test_a_killed_run_continues_and_a_second_run_at_once_is_refused(finished, fresh):
    rng = random.Random(0)
    for attempt in range(3):
        run = subprocess.Popen(
            fresh.command("--cores", "2", "--", *TABLES),
            cwd=fresh.folder,
            env=fresh.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 60
        while not list((fresh.folder / ".snakemake" / "locks").glob("*.lock")) and run.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        if attempt == 0:
            # Held still, or it might be through before the second has read its rules.
            os.killpg(run.pid, signal.SIGSTOP)
            try:
                second = fresh.snakemake("--", *TABLES, check=False)
            finally:
                os.killpg(run.pid, signal.SIGCONT)
            assert second.returncode != 0
            assert "lock" in (second.stdout + second.stderr).lower()
        time.sleep(rng.uniform(0, 2))
        # A later attempt has less left to do and may end by itself; the first must be hit.
        assert run.poll() is None or (attempt and run.returncode == 0)
        if run.returncode is None:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
        fresh.snakemake("--unlock")
    fresh.snakemake("--", *TABLES)
    assert fresh.products(*SLIDES) == finished.products(*SLIDES)


@pytest.mark.machine
def test_a_full_disk_and_slides_that_may_only_be_read(finished, fresh):
    fresh.results.mkdir()
    command = " ".join(map(shell_quoted, fresh.command("--cores", "2", "--", *TABLES)))
    script = f"""
    mount --bind demo demo && mount -o remount,bind,ro demo || exit 77
    mount -t tmpfs -o size={SMALL_DISK} tmpfs results || exit 77
    {command} && exit 1
    find results -type f -size 0 -not -name '*.log' -not -path '*/logs/*' > empty.txt
    mount -o remount,size={LARGE_DISK} results
    {command} || exit 2
    cp -r results kept
    """
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", script],
        cwd=fresh.folder,
        env=fresh.environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "No space left on device" in done.stderr
    fresh.results = fresh.folder / "kept"
    assert fresh.products(*SLIDES) == finished.products(*SLIDES)


def shell_quoted(text):
    return "'" + text.replace("'", "'\\''") + "'"


def test_a_truncated_output_is_named_and_made_again_after_it_is_removed(finished, workshop):
    table = workshop.results / "patches" / "x10" / "P01-A.parquet"
    before = finished.products(*SLIDES)
    content = table.read_bytes()
    table.write_bytes(content[: len(content) // 2])
    failed = workshop.snakemake("--", "results/contact/x10/P01-A.png", check=False)
    assert failed.returncode != 0
    assert f"have it made again: rm {table.relative_to(workshop.folder)}" in failed.stderr
    table.unlink()
    workshop.snakemake()
    assert finished.products(*SLIDES) == before
    assert "patches_x10: read 1 of 5 files" in (workshop.results / "logs" / "catalog.log").read_text()
    assert workshop.planned() == set()


def test_different_clocks_re_run_nothing(workshop):
    tomorrow = time.time() + 86_400
    kept = {path: path.stat().st_mtime_ns for path in (workshop.results / "tissue").glob("P01-A.*")}
    for path in (workshop.slide_file("P01-A"), *kept):
        os.utime(path, (tomorrow, tomorrow))
    planned = workshop.planned()
    # Put back, because tests without Snakemake's records, which hold checksums, go by the times.
    for path, written in kept.items():
        os.utime(path, ns=(written, written))
    assert planned == set()


def test_an_error_in_the_configuration_names_its_file(workshop):
    workshop.config.write_text(workshop.config.read_text() + "sead: 7\n")
    done = workshop.snakemake("--dry-run", check=False)
    assert done.returncode != 0
    assert re.search(rf"{workshop.config} has 1 problem\(s\):\n  line \d+: sead: ", done.stdout + done.stderr)
