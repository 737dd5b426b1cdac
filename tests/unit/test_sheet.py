"""Tests of the slide sheet: all mistakes are found before any job starts, and reported together."""

import pytest
from histomake.base.errors import ConfigError
from histomake.cohort.sheet import read_sheet
from histomake.config import parse_config

TARGET = {"source": "sheet", "column": "grade", "classes": ["low", "high"]}
CONFIG = parse_config({"tasks": {"t": {"grid": "x20", "target": TARGET}}})
PLAIN = parse_config({})


def write(tmp_path, text):
    path = tmp_path / "slides.tsv"
    path.write_text(text.replace(" ", "\t"))
    return path


def test_slides_are_sorted_by_id(tmp_path):
    path = write(tmp_path, "slide_id path patient_id mpp grade\nb b.svs p1 0.5 low\na.1-x a.svs p2  high\n")
    slides = read_sheet(path, CONFIG, check_files=False)
    assert list(slides) == ["a.1-x", "b"]
    assert slides["b"].mpp == 0.5
    assert slides["a.1-x"].mpp is None
    assert slides["b"].labels == {"grade": "low"}


def test_all_invalid_rows_are_named(tmp_path):
    path = write(
        tmp_path,
        "slide_id path patient_id mpp split\n"
        "../x a p\na a p zero\nb b  \nc c p 0.5 holdout\nd d p 0.0049\ne e p\ne e p\n",
    )
    with pytest.raises(ConfigError) as caught:
        read_sheet(path, PLAIN, check_files=False)
    message = str(caught.value)
    for fragment in ("'../x'", "'zero'", "patient_id is empty", "'holdout'", "0.0049", "'e' appears 2 times"):
        assert fragment in message
    assert "6 problem(s)" in message


def test_a_path_with_a_snakemake_wildcard_is_refused(tmp_path):
    path = write(tmp_path, "slide_id path patient_id annotation\na {slide}.svs p a.xml\nb b.svs q x}.xml\n")
    with pytest.raises(ConfigError) as caught:
        read_sheet(path, PLAIN, check_files=False)
    assert str(caught.value).count("contains a brace") == 2


def test_unknown_and_missing_columns_are_named(tmp_path):
    path = write(tmp_path, "slide_id path stage\na a.svs 2\n")
    with pytest.raises(ConfigError) as caught:
        read_sheet(path, CONFIG, check_files=False)
    for fragment in ("'patient_id' is missing", "'grade' is missing", "'stage' is unknown"):
        assert fragment in str(caught.value)


def test_missing_files_are_all_listed(tmp_path):
    path = write(tmp_path, "slide_id path patient_id annotation\na nowhere.svs p x.xml\nb gone.svs q\n")
    with pytest.raises(ConfigError) as caught:
        read_sheet(path, PLAIN, check_files=True)
    for fragment in ("nowhere.svs does not exist", "x.xml does not exist", "gone.svs does not exist"):
        assert fragment in str(caught.value)


def test_a_label_with_one_class_is_refused(tmp_path):
    path = write(tmp_path, "slide_id path patient_id grade\na a p low\nb b q low\n")
    with pytest.raises(ConfigError, match=r"has a single class \(low\)"):
        read_sheet(path, CONFIG, check_files=False)


def test_a_cell_may_list_several_classes_for_a_multi_label_task_only(tmp_path):
    path = write(tmp_path, "slide_id path patient_id grade\na a p low\nb b q low,high\n")
    several = parse_config({"tasks": {"t": {"grid": "x20", "kind": "multi_label", "target": TARGET}}})
    assert read_sheet(path, several, check_files=False)["b"].labels == {"grade": "low,high"}
    with pytest.raises(ConfigError, match=r"contains \['low,high'\], not in target.classes"):
        read_sheet(path, CONFIG, check_files=False)


def test_control_characters_in_a_path_are_refused(tmp_path):
    path = write(tmp_path, "slide_id path patient_id\na a\x1b[2J.svs p\n")
    with pytest.raises(ConfigError, match="control character"):
        read_sheet(path, PLAIN, check_files=False)


def test_an_empty_sheet_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="has no rows"):
        read_sheet(write(tmp_path, "slide_id path patient_id\n"), PLAIN, check_files=False)


def test_positions_to_explain_on_unknown_slides_are_named(tmp_path):
    path = write(tmp_path, "slide_id path patient_id\na a.svs p\n")
    config = parse_config(
        {"explain": {"regions": [["a", 0, 0, 10, 10], ["b", 0, 0, 10, 10]], "shap_at": [["c", 5, 5]]}}
    )
    with pytest.raises(ConfigError) as caught:
        read_sheet(path, config, check_files=False)
    for fragment in ("explain.regions names slide 'b'", "explain.shap_at names slide 'c'", "2 problem(s)"):
        assert fragment in str(caught.value)


@pytest.mark.parametrize(("trained", "split"), [(True, "test"), (True, "predict"), (False, "predict")])
def test_positions_on_unknown_slides_are_allowed_without_training(tmp_path, trained: bool, split: str):
    """The configuration may be that of the training cohort, with positions on slides of that cohort."""
    path = write(tmp_path, f"slide_id path patient_id split\na a.svs p {split}\n")
    task = {"grid": "x20", "target": {"classes": ["t", "n"]}} | ({"trained": "/models/t"} if trained else {})
    places = {"regions": [["b", 0, 0, 10, 10]], "shap_at": [["c", 5, 5]]}
    config = parse_config({"annotations": {"classes": {"t": "t", "n": "n"}}, "tasks": {"one": task}, "explain": places})
    assert set(read_sheet(path, config, check_files=False)) == {"a"}


def test_a_region_of_size_zero_is_refused():
    with pytest.raises(ConfigError, match=r"explain\.regions"):
        parse_config({"explain": {"regions": [["a", 0, 0, 0, 10]]}})
