"""How far a run has come: events of Snakemake, the file, and the estimate of the time left."""

from __future__ import annotations

import logging

import pytest
from histomake.base.run_progress import RuleProgress, RunningJob, RunProgress
from histomake.planning.progress_log import EVERY, ProgressLog


class Clock:
    """Seconds that pass only when a test says so."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def log(tmp_path, clock):
    return ProgressLog(tmp_path / "memory" / "progress.json", clock)


def tell(to: ProgressLog, event: str, /, **fields) -> None:
    """An event as Snakemake logs it."""
    record = logging.LogRecord("snakemake", logging.INFO, __file__, 1, "text", None, None)
    record.__dict__.update(event=event, **fields)
    to.handle(record)


def describe(log: ProgressLog, number: int, rule: str, slide: str) -> None:
    tell(log, "job_info", jobid=number, rule_name=rule, wildcards={"slide": slide}, log=[f"logs/{rule}/{slide}.log"])


def test_jobs_are_counted_by_rule_as_they_start_and_end(log, clock):
    log.start()
    tell(log, "run_info", stats={"convert": 2, "tissue": 2, "total": 4})
    tell(log, "job_started", jobs=[1, 2])
    describe(log, 1, "convert", "a")
    describe(log, 2, "convert", "b")
    clock.now += 5
    tell(log, "job_finished", job_id=1)
    found = RunProgress.read(log.path)
    assert (found.jobs, found.done) == (4, 1)
    assert found.rules["convert"] == RuleProgress(2, 1, 5.0)
    assert found.running == {2: RunningJob("convert", {"slide": "b"}, ["logs/convert/b.log"], 1000.0)}


def test_a_job_that_fails_is_kept_with_its_log(log, clock):
    log.start()
    tell(log, "job_started", jobs=[1])
    describe(log, 1, "convert", "a")
    clock.now += EVERY
    tell(
        log, "job_error", jobid=1, rule_name="convert", log=["logs/convert/a.log (check log file(s) for error details)"]
    )
    (failed,) = RunProgress.read(log.path).failed
    assert (failed.rule, failed.wildcards, failed.logs) == ("convert", {"slide": "a"}, ["logs/convert/a.log"])


def test_a_job_that_is_started_again_after_a_failure_counts_once(log, clock):
    log.start()
    tell(log, "run_info", stats={"convert": 1, "total": 1})
    for event, fields in [
        ("job_started", {"jobs": [1]}),
        ("job_error", {"jobid": 1, "rule_name": "convert", "log": []}),
        ("job_started", {"jobs": [1]}),
        ("job_finished", {"job_id": 1}),
    ]:
        describe(log, 1, "convert", "a")
        tell(log, event, **fields)
    log.end(succeeded=True)
    found = RunProgress.read(log.path)
    assert (found.state, found.done, len(found.failed)) == ("finished", 1, 1)


def test_nothing_is_written_before_the_run_starts(log):
    tell(log, "run_info", stats={"convert": 2, "total": 2})
    assert not log.path.exists()
    log.start()
    assert RunProgress.read(log.path).jobs == 2


def test_the_file_is_written_at_most_every_few_seconds(log, clock, monkeypatch):
    written = []
    monkeypatch.setattr(RunProgress, "write", lambda self, path: written.append(path))
    log.start()
    for _ in range(10):
        tell(log, "job_started", jobs=[])
    assert len(written) == 1
    clock.now += EVERY
    tell(log, "job_started", jobs=[])
    assert len(written) == 2


def test_jobs_that_start_right_after_a_version_are_in_a_later_one_without_another_event(log, monkeypatch):
    timers = []

    class Timer:
        def __init__(self, seconds, work):
            timers.append((seconds, work))

        def start(self):
            pass

    monkeypatch.setattr("histomake.planning.progress_log.threading.Timer", Timer)
    log.start()
    describe(log, 1, "convert", "a")
    tell(log, "job_started", jobs=[1])
    assert RunProgress.read(log.path).running == {}
    ((seconds, work),) = timers
    work()
    assert seconds == EVERY
    assert list(RunProgress.read(log.path).running) == [1]


def test_other_messages_of_the_log_are_ignored(log):
    log.handle(logging.LogRecord("snakemake", logging.INFO, __file__, 1, "text", None, None))
    tell(log, "shellcmd", shellcmd="true")
    assert log.progress.jobs == 0


def test_time_left_by_hand():
    """Three jobs of 10 s are left, two of which have run for 4 s; so far (20 + 8) / 14 ran at once on average."""
    found = RunProgress(0.0, 14.0, rules={"convert": RuleProgress(5, 2, 20.0), "train": RuleProgress(1, 0, 0.0)})
    found.running = {7: RunningJob("convert", {}, [], 10.0), 8: RunningJob("convert", {}, [], 10.0)}
    left, unknown = found.seconds_left(14.0)
    assert left == pytest.approx((3 * 10 - 8) / ((20 + 8) / 14))
    assert unknown == ["train"]


def test_before_the_first_job_has_ended_no_time_is_known():
    found = RunProgress(0.0, 5.0, rules={"convert": RuleProgress(5)})
    assert found.seconds_left(5.0) == (None, ["convert"])


def test_jobs_whose_events_were_missed_do_no_harm(log):
    tell(log, "job_finished", job_id=9)
    tell(log, "job_error", jobid=9, rule_name="x", log=None)
    assert log.progress.done == 0
    assert [job.rule for job in log.progress.failed] == ["x"]
