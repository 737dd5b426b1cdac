"""What the sheet promises: every mistake is found before a job starts, and all are told at once."""

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


def test_a_good_sheet_gives_slides_in_the_order_of_their_ids(tmp_path):
    path = write(tmp_path, "slide_id path patient_id mpp grade\nb b.svs p1 0.5 low\na.1-x a.svs p2  high\n")
    slides = read_sheet(path, CONFIG, check_files=False)
    assert list(slides) == ["a.1-x", "b"]
    assert slides["b"].mpp == 0.5
    assert slides["a.1-x"].mpp is None
    assert slides["b"].labels == {"grade": "low"}


def test_all_offending_rows_are_named(tmp_path):
    path = write(
        tmp_path,
        "slide_id path patient_id mpp split\n"
        "../x a p\na a p zero\nb b  \nc c p 0.5 holdout\nd d p 0.0049\ne e p\ne e p\n",
    )
    with pytest.raises(ConfigError) as caught:
        read_sheet(path, PLAIN, check_files=False)
    message = str(caught.value)
    for fragment in ("'../x'", "'zero'", "patient_id is empty", "'holdout'", "0.0049", "'e' is given 2 times"):
        assert fragment in message
    assert "6 problem(s)" in message


def test_a_path_that_snakemake_would_read_as_a_pattern_is_refused(tmp_path):
    path = write(tmp_path, "slide_id path patient_id annotation\na {slide}.svs p a.xml\nb b.svs q x}.xml\n")
    with pytest.raises(ConfigError) as caught:
        read_sheet(path, PLAIN, check_files=False)
    assert str(caught.value).count("holds a brace") == 2


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
    for fragment in ("no file nowhere.svs", "no annotation file x.xml", "no file gone.svs"):
        assert fragment in str(caught.value)


def test_a_label_with_one_class_is_refused(tmp_path):
    path = write(tmp_path, "slide_id path patient_id grade\na a p low\nb b q low\n")
    with pytest.raises(ConfigError, match=r"holds one class only \(low\)"):
        read_sheet(path, CONFIG, check_files=False)


def test_control_characters_cannot_hide_in_a_path(tmp_path):
    path = write(tmp_path, "slide_id path patient_id\na a\x1b[2J.svs p\n")
    with pytest.raises(ConfigError, match="control character"):
        read_sheet(path, PLAIN, check_files=False)


def test_an_empty_sheet_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="has no rows"):
        read_sheet(write(tmp_path, "slide_id path patient_id\n"), PLAIN, check_files=False)


def test_places_to_look_at_on_slides_that_do_not_exist_are_named(tmp_path):
    path = write(tmp_path, "slide_id path patient_id\na a.svs p\n")
    config = parse_config(
        {"explain": {"regions": [["a", 0, 0, 10, 10], ["b", 0, 0, 10, 10]], "shap_at": [["c", 5, 5]]}}
    )
    with pytest.raises(ConfigError) as caught:
        read_sheet(path, config, check_files=False)
    for fragment in ("explain.regions names slide 'b'", "explain.shap_at names slide 'c'", "2 problem(s)"):
        assert fragment in str(caught.value)


@pytest.mark.parametrize(("trained", "split"), [(True, "test"), (True, "predict"), (False, "predict")])
def test_places_of_other_slides_do_no_harm_where_nothing_is_trained(tmp_path, trained: bool, split: str):
    """The configuration comes from where the model was trained, with places on the slides it was looked at there."""
    path = write(tmp_path, f"slide_id path patient_id split\na a.svs p {split}\n")
    task = {"grid": "x20", "target": {"classes": ["t", "n"]}} | ({"trained": "/models/t"} if trained else {})
    places = {"regions": [["b", 0, 0, 10, 10]], "shap_at": [["c", 5, 5]]}
    config = parse_config({"annotations": {"classes": {"t": "t", "n": "n"}}, "tasks": {"one": task}, "explain": places})
    assert set(read_sheet(path, config, check_files=False)) == {"a"}


def test_a_region_without_extent_is_refused():
    with pytest.raises(ConfigError, match=r"explain\.regions"):
        parse_config({"explain": {"regions": [["a", 0, 0, 0, 10]]}})
