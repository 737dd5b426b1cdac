"""Messages of a run: on new, changed and lost slides at its start, and on quarantine and warnings at its end."""

import json

import pytest
from histomake.audit.fingerprints import Fingerprints
from histomake.audit.runs import WARNINGS_SHOWN, Jobs, Run, preflight
from histomake.base.layout import Layout
from histomake.base.records.record import write_list
from histomake.base.records.warning import SlideWarning
from histomake.cohort.sheet import Slide
from histomake.config import Config

from tests import sample_records


@pytest.fixture
def cohort(tmp_path):
    """A results folder, four slides, and the function that says what a preflight of them says."""
    layout = Layout(tmp_path / "results")
    layout.manifest("x").parent.mkdir(parents=True)
    slides = {}
    for name in "abcd":
        path = tmp_path / f"{name}.svs"
        path.write_text(name)
        slides[name] = Slide(name, str(path), f"patient-{name}")

    def say():
        return preflight(layout, slides, Fingerprints(layout.fingerprints, remember=False))

    def convert(name, status="ok"):
        fingerprint = Fingerprints(layout.fingerprints, remember=False).of(slides[name].path)
        layout.manifest(name).write_text(json.dumps({"status": status, "slide_id": name}))
        sidecar = {"rule": "convert", "params": {"slide": fingerprint, "cfg": {}}}
        layout.manifest(name).with_name(f"{name}.json.meta.json").write_text(json.dumps(sidecar))

    return say, convert, layout, tmp_path


def test_the_slides_of_the_cohort_are_counted_by_their_outcome(cohort):
    say, convert, _, folder = cohort
    assert say() == "cohort: 4 slides: 4 new, 0 changed, 0 quarantined, 0 unchanged"
    convert("a")
    convert("b")
    convert("c", status="quarantined")
    assert say() == "cohort: 4 slides: 1 new, 0 changed, 1 quarantined, 2 unchanged"
    (folder / "b.svs").write_text("other bytes")
    assert say() == "cohort: 4 slides: 1 new, 1 changed, 1 quarantined, 1 unchanged"


def test_a_half_written_record_counts_as_changed(cohort):
    say, convert, layout, _ = cohort
    convert("a")
    layout.manifest("a").write_text('{"status"')
    assert say() == "cohort: 4 slides: 3 new, 1 changed, 0 quarantined, 0 unchanged"


def test_the_summary_names_slides_in_quarantine_and_the_first_warnings(tmp_path, capsys):
    layout, sheet = Layout(tmp_path / "results"), tmp_path / "slides.tsv"
    sheet.write_text("slide_id\n")
    layout.results.mkdir()
    warning = SlideWarning(slide_id="a", about="annotation record", text="2 shapes without an area were left out.")
    write_list(layout.quarantine, [sample_records.lost("x")])
    write_list(layout.warnings, [warning] * (WARNINGS_SHOWN + 3))
    run = Run(layout, Config(sheet=str(sheet), results=str(layout.results)))
    run.start()
    run.finish(Jobs([], lambda path, slide: True), snakemake_logs=[], succeeded=True)
    told = capsys.readouterr().err
    assert "1 slide(s) in quarantine" in told
    assert told.count("a (annotation record): 2 shapes without an area were left out.") == WARNINGS_SHOWN
    assert f"and 3 more in {layout.warnings}" in told
