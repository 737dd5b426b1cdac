"""Memory of jobs: requested by the pixels of the slide; an allocation that fails costs the slide, not the run."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import resource
import subprocess
import sys
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from damaged_cohort import fit
from histomake.base.errors import Reason, SlideError
from histomake.base.files import store_of
from histomake.base.layout import Layout
from histomake.base.records.quality import QualityRecord
from histomake.base.records.record import Quarantined
from histomake.base.records.tissue import TissueRecord
from histomake.base.units import Mpp, PatchPixels
from histomake.cohort.quarantine import attempt, in_memory
from histomake.config import Convert, Grid, Quality, Tissue
from histomake.learn.data.patch_index import SlideEntry
from histomake.learn.inference.predict import load_model, predict_slide
from histomake.planning.resources import BATCH_BYTES, MOST_BATCH_MB, batch_pixels, memory, slide_pixels
from histomake.slide.convert import convert
from small_cohort import GRID_NAME, build_cohort, build_slide
from test_annotate_job import Named

from tests import sample_records

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
SMALL_SLIDE = SCRIPTS.parent / "tests" / "data" / "slides" / "CMU-1-Small-Region.svs"
JOB = {"slide_id": "s0", "rule": "presegment", "output": "tissue/s0.json", "manifest": "slides/s0.json"}


def requested(function, manifest, *, attempt=1, size_mb=0.0) -> int:
    return function({}, input=SimpleNamespace(manifest=manifest, size_mb=size_mb), attempt=attempt)


def test_memory_grows_with_the_pixels_at_the_resolution_that_is_held_and_with_attempts(tmp_path):
    path = tmp_path / "s.json"
    sample_records.manifest(width=80_000, height=40_000, mpp=0.25, mpp_x=0.25, mpp_y=0.25).write(path)
    assert slide_pixels(path, Mpp(8.0)) == 2500 * 1250
    held = memory(2000, pixel_bytes=64, mpp=Mpp(8.0))
    assert requested(held, path) == 2000 + 200
    assert requested(held, path, attempt=3) == 4 * 2200


def test_a_slide_that_is_coarser_has_no_more_pixels_than_it_has(tmp_path):
    path = tmp_path / "s.json"
    sample_records.manifest(width=1000, height=1000, mpp=16.0, mpp_x=16.0, mpp_y=16.0).write(path)
    assert slide_pixels(path, Mpp(8.0)) == 1e6


def test_a_slide_in_quarantine_requests_what_every_job_needs(tmp_path):
    path = tmp_path / "s.json"
    sample_records.lost("s").write(path)
    assert requested(memory(2000, pixel_bytes=64, mpp=Mpp(8.0)), path) == 2000


def test_without_its_manifest_the_request_is_made_later(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        requested(memory(2000, pixel_bytes=64, mpp=Mpp(8.0)), str(tmp_path / "s.json"))
    assert caught.value.filename == str(tmp_path / "s.json")  # by which Snakemake knows that the input is missing


def test_a_slide_that_is_enlarged_has_more_pixels_than_its_file(tmp_path):
    path = tmp_path / "s.json"
    sample_records.manifest(width=1000, height=1000, mpp=0.5, mpp_x=0.5, mpp_y=0.5).write(path)
    assert slide_pixels(path, Mpp(0.25), enlarged=True) == 4e6


def test_memory_grows_with_the_batch_up_to_what_is_meant_for_a_gpu():
    asked = memory(4000, batch=lambda wildcards: batch_pixels(*wildcards))
    assert asked((64, PatchPixels(256)), attempt=1) == 4000 + 64 * 256 * 256 * BATCH_BYTES // 10**6
    assert asked((64, PatchPixels(256)), attempt=2) == 2 * asked((64, PatchPixels(256)), attempt=1)
    assert asked((64, PatchPixels(4096)), attempt=1) == 4000 + MOST_BATCH_MB


def test_the_largest_of_several_slides_that_are_held_one_after_the_other_counts(tmp_path):
    paths = []
    for edge in (1000, 3000):
        paths.append(str(tmp_path / f"{edge}.json"))
        sample_records.manifest(width=edge, height=edge, mpp=0.5, mpp_x=0.5, mpp_y=0.5).write(paths[-1])
    asked = memory(1000, pixel_bytes=8, mpp=lambda wildcards: wildcards["mpp"])
    held = SimpleNamespace(manifests=paths, size_mb=0)
    assert asked({"mpp": Mpp(0.5)}, input=held, attempt=1) == 1000 + 72
    assert asked({"mpp": Mpp(1.0)}, input=held, attempt=1) == 1000 + 18
    assert asked({"mpp": Mpp(1.0)}, input=SimpleNamespace(manifests=[]), attempt=1) == 1000


SNAKEFILE = """
import sys
sys.path.insert(0, {scripts!r})
from histomake.planning.resources import memory

rule late:
    input: manifest="s.json"
    output: "late.txt"
    resources: mem_mb=memory(1000, pixel_bytes=64, mpp=8.0)
    shell: "echo {{resources.mem_mb}} > {{output}}"

rule early:
    output: "s.json"
    shell: "cp given.json {{output}}"
"""


def test_snakemake_asks_when_the_slide_is_converted(tmp_path):
    (tmp_path / "Snakefile").write_text(SNAKEFILE.format(scripts=str(SCRIPTS)))
    (tmp_path / "given.json").write_text('{"width": 80000, "height": 40000, "mpp": 0.25}')
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--quiet"]
    environment = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path)}
    subprocess.run([*command, "--dry-run"], cwd=tmp_path, env=environment, check=True, capture_output=True)
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert (tmp_path / "late.txt").read_text() == "1200\n"


def test_memory_grows_with_the_size_of_the_input():
    assert requested(memory(1500, per_gb=200), None, size_mb=5000) == 2500


def out_of_opencv() -> None:
    raise _cv2_error(cv2.Error.StsNoMem)


def _cv2_error(code: int) -> cv2.error:
    error = cv2.error("Insufficient memory")
    error.code = code
    return error


def out_of_numpy() -> None:
    np.empty(1 << 62, np.uint8)


@pytest.mark.parametrize("work", [out_of_numpy, out_of_opencv])
def test_an_allocation_that_fails_is_a_reason_with_a_remedy(work):
    entry = attempt("presegment", lambda: in_memory(work, **JOB))
    assert isinstance(entry, Quarantined)
    assert entry.reason is Reason.OUT_OF_MEMORY
    assert "--set-resources presegment:mem_mb=MB --forcerun tissue/s0.json" in entry.remedy


@pytest.mark.parametrize("error", [ValueError("no"), _cv2_error(cv2.Error.StsBadArg)])
def test_other_errors_stay_what_they_are(error):
    def fail() -> None:
        raise error

    with pytest.raises(type(error)):
        in_memory(fail, **JOB)


def run(script: str, layout: Layout, inputs, outputs, cfg) -> None:
    """Run the script of a rule for slide s0."""
    spec = importlib.util.spec_from_file_location(f"script_{script}", SCRIPTS / f"{script}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    job = SimpleNamespace(
        rule=script,
        scriptdir=str(SCRIPTS),
        resources={},
        config={"results": str(layout.results)},
        wildcards=Named(slide="s0"),
        input=Named(**inputs),
        output=Named(**outputs),
        log=[],
        params=Named(cfg=cfg),
        threads=1,
    )
    module.main(job)


def short_of_memory(layout: Layout) -> None:
    """Presegment a slide in a process that may allocate 256 MB more than it has: enough for threads of libraries."""
    manifest, record, mask = layout.manifest("s0"), layout.tissue("s0"), layout.tissue_mask("s0")
    record.parent.mkdir(exist_ok=True)
    layout.quality("s0").parent.mkdir(exist_ok=True)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + 256_000_000
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    given = {"manifest": str(manifest)}
    run("presegment", layout, given, {"record": str(record), "mask": str(mask)}, Tissue(mpp=0.6).dump())


def test_a_process_with_little_memory_quarantines_the_slide_and_ends_well(tmp_path):
    layout = Layout(tmp_path)
    build_slide(layout, "s0", seed=0, grid=Grid(size=64, mpp=1.0))
    content = json.loads(layout.manifest("s0").read_text())
    # The level is said to be as large as a slide, so that its mask is: tiles that the store lacks are white.
    store = layout.results / "slides" / "s0.zarr" / "0" / "zarr.json"
    array = json.loads(store.read_text())
    array["shape"] = [3, 20_000, 20_000]
    store.write_text(json.dumps(array))
    content["width"] = content["height"] = 20_000
    content["levels"] = [{**content["levels"][0], "width": 20_000, "height": 20_000}]
    layout.manifest("s0").write_text(json.dumps(content))
    child = get_context("spawn").Process(target=short_of_memory, args=(layout,))
    child.start()
    child.join(120)
    assert child.exitcode == 0
    outcome = TissueRecord.read(layout.tissue("s0"))
    assert isinstance(outcome, Quarantined)
    assert outcome.reason is Reason.OUT_OF_MEMORY


def test_an_allocation_that_fails_in_quality_is_its_stage(tmp_path, monkeypatch):
    layout = Layout(tmp_path)
    build_slide(layout, "s0", seed=0, grid=Grid(size=64, mpp=1.0))
    tissue = {"record": str(layout.tissue("s0")), "mask": str(layout.tissue_mask("s0"))}
    layout.tissue("s0").parent.mkdir()
    layout.quality("s0").parent.mkdir()
    given = {"manifest": str(layout.manifest("s0"))}
    run("presegment", layout, given, tissue, Tissue(mpp=4.0).dump())
    monkeypatch.setattr("histomake.tissue.artefacts.assess", lambda *_: out_of_numpy())
    outputs = {"record": str(layout.quality("s0")), "map": str(layout.artefact_map("s0"))}
    run("quality", layout, {**given, "tissue": tissue["record"], "mask": tissue["mask"]}, outputs, Quality().dump())
    outcome = QualityRecord.read(layout.quality("s0"))
    assert (outcome.reason, outcome.stage) == (Reason.OUT_OF_MEMORY, "quality")


def test_the_error_names_slide_and_file():
    with pytest.raises(SlideError, match=r"slide s0 \(slides/s0.json\): the slide needs more memory"):
        in_memory(out_of_numpy, **JOB)


def request_of(rule: str, file: str, **names: object):
    """The function by which a rule asks for memory, with the names that it uses."""
    text = (SCRIPTS.parent / "rules" / file).read_text()
    asked = re.search(rf"^rule {rule}:.*?^        mem_mb=(memory\(.*?\)),$\n        \w", text, re.MULTILINE | re.DOTALL)
    return eval(asked[1], {"memory": memory, **names})


def converts(layout: Layout) -> None:
    convert(SMALL_SLIDE, store_of(layout.store("new")), slide_id="new", config=Convert())


def presegments(layout: Layout) -> None:
    outputs = {"record": str(layout.tissue("s0")), "mask": str(layout.tissue_mask("s0"))}
    run("presegment", layout, {"manifest": str(layout.manifest("s0"))}, outputs, Tissue().dump())


def predicts(layout: Layout) -> None:
    entry = SlideEntry.at(layout, GRID_NAME, "s0", "patient-s0", {})
    predict_slide(load_model(layout.results / "fitted" / "model"), entry, batch=64, threads=1)


def peak(work, layout: Layout, told) -> None:
    """Do the work; tell the most memory the process has had, in MB."""
    work(layout)
    told.put(int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1000)


def require_at_most(most: float, work, layout: Layout) -> None:
    """Do the work in a process of its own; fail if it needs more than ``most`` MB."""
    context = get_context("spawn")
    told = context.SimpleQueue()
    child = context.Process(target=peak, args=(work, layout, told))
    child.start()
    child.join(240)
    assert child.exitcode == 0
    used = told.get()
    print(f"\n{work.__name__}: {used:.0f} of {most:.0f} MB")
    assert used <= most


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Layout:
    """A slide that was converted, and a model."""
    root = tmp_path_factory.mktemp("small")
    fit(build_cohort(root, 3), root / "fitted")
    layout = Layout(root)
    layout.tissue("s0").parent.mkdir(exist_ok=True)
    return layout


WHOLE_MASK = {"pixel_bytes": 64, "mpp": Tissue().mpp}
STEPS = {
    converts: request_of("convert", "slides.smk"),
    presegments: request_of("presegment", "tissue.smk", WHOLE_MASK=WHOLE_MASK),
    predicts: request_of("predict_slide", "inference.smk", predicted_at_once=lambda _: 64 * 64 * 64),
}


@pytest.mark.parametrize("work", STEPS, ids=lambda work: work.__name__)
def test_a_small_slide_needs_no_more_than_its_job_asks_for(work, small):
    given = {"input": SimpleNamespace(manifest=small.manifest("s0"), size_mb=2)} if work is not predicts else {}
    require_at_most(STEPS[work]({}, **given, attempt=1), work, small)
