"""Which slides a plan may leave out: those whose every output is as the last complete run left it, and no others."""

import os

import pytest
from histomake.planning.unchanged import LeftOut, PlannedFiles, digest, left_out, remember, unchanged_slides

MADE_OF = {"A": "a", "B": "b", "C": "c"}


@pytest.fixture
def outputs(tmp_path):
    """Two outputs of each slide, by its id."""
    found = {slide: [str(tmp_path / f"{slide}.{kind}") for kind in ("json", "png")] for slide in MADE_OF}
    for paths in found.values():
        for path in paths:
            with open(path, "w") as stream:
                stream.write("as it was left")
    return found


@pytest.fixture
def memory(tmp_path, outputs):
    path = tmp_path / "memory" / "last_run.json"
    remember(path, shared="1", made_of=MADE_OF, planned=PlannedFiles(outputs, [common(tmp_path)]), left_out=())
    return path


def common(folder):
    """A file that the jobs of all slides depend on."""
    path = folder / "model.json"
    if not path.exists():
        path.write_text("a model")
    return str(path)


def test_slides_with_unchanged_outputs_and_inputs_are_unchanged(memory):
    assert unchanged_slides(memory, shared="1", made_of=MADE_OF) == {"A", "B", "C"}


def test_without_a_memory_no_slide_is_unchanged(tmp_path):
    assert unchanged_slides(tmp_path / "none.json", shared="1", made_of=MADE_OF) == frozenset()


def test_with_other_settings_code_or_models_no_slide_is_unchanged(memory):
    assert unchanged_slides(memory, shared="2", made_of=MADE_OF) == frozenset()


def test_a_slide_with_other_inputs_a_new_and_a_missing_one_are_not_unchanged(memory):
    assert unchanged_slides(memory, shared="1", made_of={"A": "other", "B": "b", "N": "n"}) == {"B"}


@pytest.mark.parametrize("disturb", [os.unlink, os.utime, lambda path: os.truncate(path, 3)])
def test_a_slide_with_a_removed_touched_or_truncated_output_is_not_unchanged(memory, outputs, disturb):
    disturb(outputs["B"][1])
    assert unchanged_slides(memory, shared="1", made_of=MADE_OF) == {"A", "C"}


@pytest.mark.parametrize("disturb", [os.unlink, os.utime, lambda path: os.truncate(path, 3)])
def test_with_a_removed_touched_or_truncated_common_file_no_slide_is_unchanged(memory, tmp_path, disturb):
    disturb(common(tmp_path))
    assert unchanged_slides(memory, shared="1", made_of=MADE_OF) == frozenset()


def test_a_run_that_planned_one_slide_keeps_what_is_known_of_the_others(memory, outputs, tmp_path):
    os.utime(outputs["B"][0])
    planned = PlannedFiles({"A": [outputs["C"][1]], "B": outputs["B"]}, [])
    remember(memory, shared="2", made_of=MADE_OF, planned=planned, left_out={"A"})
    assert unchanged_slides(memory, shared="2", made_of=MADE_OF) == {"A", "B"}
    found = left_out(memory, {"A"})
    assert found == LeftOut({"A"}, {*outputs["A"], outputs["C"][1]}, {common(tmp_path)})


def test_a_file_that_did_not_exist_is_left_out_of_what_is_taken_as_it_is(memory, outputs):
    os.unlink(outputs["A"][0])
    remember(memory, shared="1", made_of=MADE_OF, planned=PlannedFiles({"A": outputs["A"]}, []), left_out=())
    assert unchanged_slides(memory, shared="1", made_of=MADE_OF) == {"A"}
    assert left_out(memory, {"A"}).files == {outputs["A"][1]}


def test_what_refers_to_what_is_left_out_sees_when_it_is_filled_and_cleared():
    left = LeftOut()
    slides = left.slides
    left.fill(LeftOut({"A"}, {"A.json"}, {"model"}))
    assert slides == {"A"}
    left.clear()
    assert (slides, left.files, left.common) == (set(), set(), set())


def test_a_memory_that_cannot_be_written_is_a_warning(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    place = tmp_path / "file" / "last_run.json"
    remember(place, shared="1", made_of={}, planned=PlannedFiles({}, []), left_out=())
    assert "cannot be written" in caplog.text


def test_with_a_damaged_memory_no_slide_is_unchanged_and_a_warning_is_logged(memory, caplog):
    memory.write_text('{"shared": 1}')
    assert unchanged_slides(memory, shared="1", made_of=MADE_OF) == frozenset()
    assert "all slides are planned" in caplog.text


def test_digests_distinguish_values_and_do_not_depend_on_the_order_of_keys():
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    assert digest({"a": 1, "b": [2]}) != digest({"a": 1, "b": [3]})
