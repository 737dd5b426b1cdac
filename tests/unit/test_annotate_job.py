"""The job that reads an annotation: a file that crashes, hangs or exhausts memory costs its slide, not the run."""

from __future__ import annotations

import faulthandler
import json
import os
import runpy
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from histomake.annotation.apart import WorkError, apart
from histomake.annotation.drawn import AnnotationError
from histomake.base.layout import Layout
from histomake.base.records.annotation import AnnotationRecord
from histomake.base.records.record import Quarantined
from histomake.config import Annotations

from tests import sample_records

ANNOTATE = Path(__file__).parents[2] / "scripts" / "annotate.py"
LIMITS = {"memory_mb": 4000, "seconds": 60}


class Named(SimpleNamespace):
    """Files or params of a job, by name and in order."""

    def __iter__(self):
        return iter(vars(self).values())

    def __getitem__(self, index):
        return list(self)[index]

    def get(self, name, missing=None):
        return vars(self).get(name, missing)

    def items(self):
        return vars(self).items()


@pytest.fixture
def annotate(tmp_path, monkeypatch):
    """Runs the job for an annotation file of a slide of 4096 x 2048 px; returns its record."""
    monkeypatch.chdir(tmp_path)

    def run(path: Path, **settings) -> AnnotationRecord | Quarantined:
        layout = Layout(Path("results"))
        layout.manifest("s1").parent.mkdir(parents=True, exist_ok=True)
        sample_records.manifest().write(layout.manifest("s1"))
        record, outlines = layout.annotation("s1"), layout.outlines("s1")
        job = SimpleNamespace(
            rule="annotate",
            scriptdir=str(ANNOTATE.parent),
            config={"results": "results"},
            wildcards=Named(slide="s1"),
            input=Named(manifest=str(layout.manifest("s1")), annotation=str(path)),
            output=Named(record=str(record), outlines=str(outlines)),
            log=[str(layout.log("annotate", "s1"))],
            params=Named(cfg=Annotations(classes={"T": "tumor", "1": "tumor"}).dump(), roi=[]),
            resources=Named(mem_mb=settings.get("mem_mb", 4000)),
            threads=1,
        )
        runpy.run_path(str(ANNOTATE))["main"](job)
        assert json.loads(outlines.read_text())["type"] == "FeatureCollection"
        return AnnotationRecord.read(record)

    return run


def square(path: Path) -> Path:
    ring = [[0, 0], [100, 0], [100, 100], [0, 100], [0, 0]]
    geometry = {"type": "Polygon", "coordinates": [ring]}
    shape = {"type": "Feature", "geometry": geometry, "properties": {"label": "T"}}
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [shape]}))
    return path


def test_an_annotation_is_read_and_written(tmp_path, annotate):
    record = annotate(square(tmp_path / "a.geojson"))
    assert record.area_px == {"tumor": 10_000}


def test_a_file_that_a_reader_fails_on_is_a_bad_annotation_with_a_traceback_in_the_log(tmp_path, annotate, monkeypatch):
    monkeypatch.setattr("histomake.annotation.read.enclosed_areas", lambda shapes: 1 / 0)
    outcome = annotate(square(tmp_path / "a.geojson"))
    assert (outcome.reason, outcome.stage) == ("bad_annotation", "annotate")
    assert "ZeroDivisionError: division by zero" in outcome.detail
    assert "Traceback" in Path("results/logs/annotate/s1.log").read_text()


def test_a_file_that_exhausts_the_memory_of_the_job_is_a_bad_annotation(tmp_path, annotate, monkeypatch):
    # More than any process has free in its heap.
    monkeypatch.setattr("histomake.annotation.read.enclosed_areas", lambda shapes: bytearray(1 << 32))
    outcome = annotate(square(tmp_path / "a.geojson"), mem_mb=1)
    assert outcome.reason == "bad_annotation"
    assert "more memory than the job may have" in outcome.detail


def test_a_full_disk_is_not_the_fault_of_the_annotation(tmp_path, annotate, monkeypatch):
    def full(*_args, **_keys):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("histomake.annotation.write.write_geojson", full)
    with pytest.raises(SystemExit):
        annotate(square(tmp_path / "a.geojson"))
    assert "No space left on device" in Path("results/logs/annotate/s1.log").read_text()


def test_work_that_hangs_is_ended():
    started = time.monotonic()
    with pytest.raises(AnnotationError, match="took longer than 0 s"):
        apart(lambda: time.sleep(60), memory_mb=4000, seconds=0.2)
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("death", [signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT])
def test_work_that_crashes_is_a_bad_annotation(death):
    with pytest.raises(AnnotationError, match=f"a library crashed .*{death.name}"):
        apart(lambda: (faulthandler.disable(), os.kill(os.getpid(), death)), **LIMITS)


def test_work_that_requests_too_much_memory_is_reported():
    with pytest.raises(WorkError, match="MemoryError"):
        apart(lambda: np.ones(1 << 30, np.uint8).tobytes(), memory_mb=800, seconds=60)


def test_memory_of_this_process_is_not_counted():
    reserved = np.empty(1 << 30, np.uint8)
    assert len(apart(lambda: np.ones(1 << 28, np.uint8)[:9].tobytes(), memory_mb=800, seconds=60)) == 9
    assert reserved.nbytes == 1 << 30


def test_large_answers_come_back():
    assert len(apart(lambda: bytes(10_000_000), **LIMITS)) == 10_000_000
