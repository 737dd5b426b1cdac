"""Verification names every file that is not what its job and the run records state."""

import shutil
from pathlib import Path

import pytest
from histomake.audit.lineage import walk
from histomake.audit.runs import Jobs, Run
from histomake.audit.verification import verify, verify_chain
from histomake.base.errors import HistomakeError
from histomake.base.files import sha256_file, sha256_tree, size_of
from histomake.base.layout import Layout
from histomake.config import parse_config

from tests import sample_records


@pytest.fixture
def layout(tmp_path, monkeypatch):
    """The results of a finished run: of slide ``a`` a tissue record and mask, and a page made from them; a store."""
    monkeypatch.chdir(tmp_path)
    Path("slides.tsv").write_text("slide_id\tpath\tpatient_id\n")
    layout = Layout(Path("results"))
    run = Run(layout, parse_config({"sheet": "slides.tsv"}))
    run.start()
    store = layout.segmentation("t", 0, "b").parent
    (store / "0").mkdir(parents=True)
    (store / "zarr.json").write_text("{}")
    (store / "0" / "chunk").write_text("labels")
    made = [
        make("a", [layout.tissue("a"), layout.tissue_mask("a")], []),
        make("a", [layout.slide_page("a")], [layout.tissue("a"), layout.tissue_mask("a")]),
        make("b", [layout.prediction("t", 0, "b"), store], []),
    ]
    run.finish(Jobs(made, lambda path, slide: True), snakemake_logs=[], succeeded=True)
    return layout


def make(slide, outputs, inputs):
    """Write outputs that do not exist yet, and their sidecar; returns the first output."""
    for path in outputs:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_text(f"bytes of {path}")
    sidecar = sample_records.sidecar(
        rule="any",
        wildcards={"slide": slide},
        params={},
        inputs={str(path): sha256_file(path) for path in inputs},
        outputs={str(path): sha256_tree(path) for path in outputs},
        sizes={str(path): size_of(path) for path in outputs},
    )
    sidecar.write(f"{outputs[0]}.meta.json")
    return str(outputs[0])


def files(layout):
    """All files of the results except records of runs."""
    return [p for p in sorted(layout.results.rglob("*")) if p.is_file() and layout.runs not in p.parents]


def test_unchanged_results_have_no_problem(layout):
    found = verify(layout)
    assert (found.problems, found.outputs) == ([], 5)
    (remark,) = found.remarks
    assert "compared with no anchor" in remark


@pytest.mark.parametrize("damage", ["flipped", "truncated", "deleted"])
def test_every_damaged_file_is_named(layout, damage):
    for path in files(layout):
        if layout.caches in path.parents:
            continue
        kept = path.read_bytes()
        if damage == "flipped":
            path.write_bytes(bytes([kept[0] ^ 1]) + kept[1:])
        elif damage == "truncated":
            path.write_bytes(kept[:-1])
        else:
            path.unlink()
        problems = verify(layout).problems
        path.write_bytes(kept)
        # A store is named as a whole.
        store = next((str(p) for p in path.parents if p.name.endswith(".zarr")), str(path))
        assert any(problem.startswith(store) for problem in problems), path
    assert verify(layout).problems == []


def test_results_can_be_verified_from_another_folder(layout, monkeypatch, tmp_path):
    moved = Layout((tmp_path / "results").absolute())
    monkeypatch.chdir("/")
    assert verify(moved).problems == []


def test_a_file_that_no_job_has_made_is_named(layout):
    stray = layout.tissue("a").with_name("zz.png")
    stray.write_text("stray")
    (layout.tissue("a").with_name(".tissue.0.partial")).mkdir()
    assert verify(layout).problems == [f"{stray}: not an output of any job"]


def test_a_forged_output_with_a_matching_sidecar_is_named(layout):
    page = layout.slide_page("a")
    page.write_text("forged")
    make("a", [page], [layout.tissue("a"), layout.tissue_mask("a")])
    assert verify(layout).problems == [f"{page}.meta.json: changed since a run registered it"]


def test_a_sidecar_of_other_files_is_refused(layout):
    page = layout.slide_page("a")
    shutil.copyfile(f"{layout.tissue('a')}.meta.json", f"{page}.meta.json")
    assert any("it is the sidecar of other files" in problem for problem in verify(layout).problems)


def test_an_output_made_from_other_bytes_than_are_there_now_is_named(layout):
    layout.tissue("a").write_text("another mask")
    make("a", [layout.tissue("a"), layout.tissue_mask("a")], [])
    problems = verify(layout).problems
    assert f"{layout.slide_page('a')}: made from other bytes of {layout.tissue('a')}" in problems


def test_results_without_run_records_do_not_pass(layout):
    shutil.rmtree(layout.runs)
    assert any("no record of a run says which files must exist" in p for p in verify(layout).problems)


def test_only_the_files_of_the_asked_slides_are_compared(layout):
    layout.prediction("t", 0, "b").write_text("altered")
    assert verify(layout, ["a"]).problems == []
    assert len(verify(layout, ["b"]).problems) == 1
    with pytest.raises(HistomakeError, match="no run has made anything of slide c"):
        verify(layout, ["a", "c"])


def test_quick_verification_compares_sizes_only(layout):
    mask = layout.tissue_mask("a")
    mask.write_text(mask.read_text().swapcase())
    assert verify(layout, quick=True).problems == []
    mask.write_text("short")
    assert len(verify(layout, quick=True).problems) == 1


def test_while_a_run_is_going_on_new_files_are_a_remark(layout):
    run = Run(layout, parse_config({"sheet": "slides.tsv"}))
    run.start()
    make("c", [layout.tissue("c")], [])
    found = verify(layout)
    assert found.problems == []
    told = "1 sidecar(s) are not registered yet: the last run did not end. The next one registers them"
    assert told in found.remarks
    run.finish(Jobs([], lambda path, slide: True), snakemake_logs=[], succeeded=True)


def test_a_chain_whose_sidecar_is_lost_does_not_pass(layout):
    page = layout.slide_page("a")
    Path(f"{layout.tissue('a')}.meta.json").unlink()
    problems = verify_chain(layout, "a", list(walk([page]))).problems
    assert f"{layout.tissue('a')}: no sidecar says how it was made" in problems
    assert "slide a: the chain does not lead to the slide's file" in problems


def test_a_chain_is_compared_where_the_sidecar_lies_beside_an_output_that_is_not_the_first_by_name(layout):
    outlines = layout.outlines("a")
    made = make("a", [layout.annotation("a"), outlines], [])
    assert str(outlines) < made
    found = verify_chain(layout, "a", list(walk([made])))
    assert found.outputs == 2
    assert not [problem for problem in found.problems if str(outlines) in problem]
    outlines.write_text("altered")
    assert any(str(outlines) in p for p in verify_chain(layout, "a", list(walk([made]))).problems)


def test_an_empty_chain_does_not_pass(layout):
    assert verify_chain(layout, "a", []).problems
