"""The page of a run in the viewer."""

from __future__ import annotations

import time

import pytest
from histomake.base.layout import Layout
from histomake.base.run_progress import FailedJob, RuleProgress, RunningJob, RunProgress
from histomake.viewer import progress

from tests.viewed import viewing


@pytest.fixture
def layout(tmp_path):
    layout = Layout(tmp_path / "results")
    (layout.results / "slides").mkdir(parents=True)
    (layout.logs / "convert").mkdir(parents=True)
    (layout.logs / "convert" / "b.log").write_text("\n".join(f"line {i}" for i in range(100)))
    return layout


def running(layout: Layout, started: float) -> RunProgress:
    """A run of three jobs: one is done, one runs, one has failed."""
    run = RunProgress(started, started + 10, rules={"convert": RuleProgress(3, 1, 8.0)})
    run.running = {3: RunningJob("convert", {"slide": "c"}, [], started + 8)}
    run.failed = [FailedJob("convert", {"slide": "b"}, ["elsewhere/results/logs/convert/b.log"], started + 9)]
    run.write(layout.progress)
    return run


def test_a_failed_job_is_shown_with_the_end_of_its_log(layout):
    running(layout, 100.0)
    (job,) = progress.describe(layout, 110.0)["failed"]
    assert (job["rule"], job["wildcards"]) == ("convert", "slide b")
    assert job["log"].splitlines() == [f"line {i}" for i in range(80, 100)]


@pytest.mark.parametrize("name", ["results/logs/../../secret", "/etc/passwd", "logs/none.log", ""])
def test_no_other_files_are_read(layout, name):
    (layout.results.parent / "secret").write_text("secret")
    assert progress.tail(layout, [name]) == ""


def test_a_run_that_has_ended_has_no_time_left(layout):
    run = running(layout, 100.0)
    assert progress.describe(layout, 110.0)["left"] > 0
    run.state = "failed"
    run.write(layout.progress)
    assert progress.describe(layout, 110.0)["left"] is None


def test_results_without_a_run_say_so(layout):
    with pytest.raises(KeyError, match="no run has been recorded"):
        progress.describe(layout, 0.0)


@pytest.mark.machine
def test_the_page_shows_what_is_done_what_runs_and_what_failed(layout):
    running(layout, time.time() - 60)
    done = "document.getElementById('summary')?.textContent.includes('jobs are done')"
    with viewing(layout, "/progress", ready=done, width=390) as browser:
        text = browser.value("document.body.innerText")
        assert browser.value("document.getElementById('all').value") == 1
        assert browser.value("document.documentElement.scrollWidth") <= 390
    for part in ("A run is in progress", "1 of 3 jobs are done", "left", "1 failed", "line 99", "slide c"):
        assert part in text
