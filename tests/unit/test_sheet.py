"""Tests of the slide sheet: all mistakes are found before any job starts, and reported together."""

import pytest
from histomake.base.errors import ConfigError
from histomake.cohort.sheet import classes_of, read_sheet
from histomake.config import parse_config
from histomake.target.kinds import sheet_target

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


def test_missing_columns_are_named(tmp_path):
    path = write(tmp_path, "slide_id path stage\na a.svs 2\n")
    with pytest.raises(ConfigError) as caught:
        read_sheet(path, CONFIG, check_files=False)
    for fragment in ("'patient_id' is missing", "'grade' is missing"):
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
    with pytest.raises(ConfigError, match=r"line 3 \(b\): grade is 'low,high', not one of target.classes"):
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


# --- what spreadsheets and people leave in a sheet --------------------------------------------------------------------


def refusal(tmp_path, content, config=PLAIN):
    path = tmp_path / "slides.tsv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError) as caught:
        read_sheet(path, config, check_files=False)
    return str(caught.value)


def read(tmp_path, content, config=PLAIN):
    path = tmp_path / "slides.tsv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_sheet(path, config, check_files=False)


HEADER = "slide_id\tpath\tpatient_id"
TWO = f"{HEADER}\nA\t/a\tP\nB\t/b\tQ\n"


@pytest.mark.parametrize(
    "content",
    [
        f"{HEADER}\t\t\nA\t/a\tP\t\t\nB\t/b\tQ\t\t\n",
        f"{HEADER}\nA\t/a\tP\n\t\t\nB\t/b\tQ\n",
        f"\n{HEADER}\n\nA\t/a\tP\n   \nB\t/b\tQ\n\n",
        f"# cohort 2024\n# made by me\n{HEADER}\n# part one\nA\t/a\tP\nB\t/b\tQ\n",
        f'# "quoted, unfinished\n{TWO}"# a comment\tthat Excel put in quotes"\n',
        f"\ufeff{TWO}",
        TWO.replace("\n", "\r\n"),
        TWO.replace("\n", "\r"),
        TWO.encode("utf-16"),
        TWO.replace("slide_id", " slide_id ").replace("/a", " /a"),
        TWO.replace("/a", '"/a"'),
        TWO.rstrip("\n"),
    ],
    ids=[
        "trailing tabs",
        "row of tabs",
        "blank lines",
        "comments",
        "comments with quotes",
        "byte order mark",
        "line ends of Windows",
        "line ends of an old Mac",
        "Unicode text of Excel",
        "spaces",
        "quoted cells",
        "no line end at the end",
    ],
)
def test_formatting_left_by_spreadsheets_is_ignored(tmp_path, content):
    slides = read(tmp_path, content)
    assert [(s.slide_id, s.path, s.patient_id) for s in slides.values()] == [("A", "/a", "P"), ("B", "/b", "Q")]


def test_messages_name_the_line_of_the_file(tmp_path):
    message = refusal(tmp_path, f"# one\n\n{HEADER}\n# two\nA\t/a\tP\nB\t/b\t\n\t\t\nC\t\tR\n")
    assert "line 6 (B): patient_id is empty" in message
    assert "line 8 (C): path is empty" in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (TWO.replace("\t", ";"), "line 1: columns are separated by semicolons"),
        (TWO.replace("\t", ","), "line 1: columns are separated by commas"),
        (f"{TWO}C\t/c\tR\textra\n", "line 4: column 4 has content ('extra'), but no name"),
        (f"{HEADER}\t\nA\t/a\tP\tx\n", "line 2: column 4 has content ('x'), but no name"),
        (f'{TWO}C\t"/c\tR\n', "line 4: "),
        (f'{HEADER}\tsite\nA\t/a\tP\t"x\nB\t/b\tQ\ty"\n', "line 2: "),
        (TWO.encode().replace(b"/b", b"/\xfc"), "not UTF-8 text (invalid start byte in line 3)"),
    ],
    ids=["semicolons", "commas", "extra cell", "column without name", "open quote", "line break in a cell", "encoding"],
)
def test_what_cannot_be_read_is_refused_with_its_line(tmp_path, content, message):
    assert message in refusal(tmp_path, content)


@pytest.mark.parametrize("value", ["#N/A", "#REF!", "#VALUE!", "#DIV/0!", "#NAME?", "Err:502", "=A1"])
@pytest.mark.parametrize("column", range(3))
def test_errors_of_a_spreadsheet_are_refused_in_every_column_and_are_not_comments(tmp_path, value, column):
    cells = ["C", "/c", "R"]
    cells[column] = value
    assert f"{HEADER.split()[column]} is {value!r}" in refusal(tmp_path, TWO + "\t".join(cells) + "\n")


@pytest.mark.parametrize("value", ["1.23E+11", "1,23E+11", "1E+05"])
def test_ids_that_a_spreadsheet_has_rounded_are_refused(tmp_path, value):
    """Ids of 12 digits become equal, so that different patients become one."""
    assert f"line 4 (C): patient_id is {value!r}, a number rounded" in refusal(tmp_path, f"{TWO}C\t/c\t{value}\n")
    assert f"slide_id is {value!r}, a number rounded" in refusal(tmp_path, f"{TWO}{value}\t/c\tR\n")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("P4", "p4"),
        ("M\u00fcller-01", "Mu\u0308ller-01"),
        ("STRASSE", "stra\u00dfe"),
        ("P\uff14", "P4"),
        ("A  B", "A B"),
        ("\ufb01sh", "FISH"),
    ],
    ids=["case", "composed", "sharp s", "full width", "spaces", "ligature"],
)
def test_patients_that_differ_only_in_case_spaces_or_unicode_form_are_refused(tmp_path, one, other):
    message = refusal(tmp_path, f"{TWO}C\t/c\t{one}\nD\t/d\t{other}\n")
    assert "patient_ids differ only in case, spaces or Unicode form" in message
    assert "(slides C, D)" in message
    assert ascii(one) in message


@pytest.mark.parametrize("hidden", ["P\u200b4", "P\u00a04", "P\u00ad4", "\u202eP4"])
def test_characters_that_are_not_visible_are_refused(tmp_path, hidden):
    assert "not visible" in refusal(tmp_path, f"{TWO}C\t/c\t{hidden}\n")


# --- columns ----------------------------------------------------------------------------------------------------------


def test_columns_that_nothing_uses_are_allowed(tmp_path):
    wide = f"{HEADER}\tage\tstage\tage\nA\t/a\tP\t#N/A\tIIb\t\nB\t/b\tQ\t54\t\t7\n"
    slides = read(tmp_path, wide)
    assert [slide.labels for slide in slides.values()] == [{}, {}]


@pytest.mark.parametrize("name", ["Annotation", "annotations", "ANNOTATION", "MPP", "sha-256", "Split", "Sites"])
def test_unused_columns_that_resemble_one_that_is_used_are_refused(tmp_path, name):
    """All annotations would be ignored without a word."""
    message = refusal(tmp_path, f"{HEADER}\t{name}\nA\t/a\tP\tx\n")
    assert f"column {name!r} is not used, but resembles " in message


@pytest.mark.parametrize("column", ["site", "scanner"])
def test_columns_to_stratify_by_must_exist_for_tasks_and_cascades(tmp_path, column):
    """They were empty for all slides, so that nothing was balanced."""
    task = {"grid": "x20", "target": {"classes": ["t", "n"]}, "split": {"stratify": [column]}}
    classes = {"annotations": {"classes": {"t": "t", "n": "n"}}}
    for sections in ({"tasks": {"t": task}}, {"radhical": {"c": {"split": {"stratify": [column]}}}}):
        assert f"column {column!r} is missing" in refusal(tmp_path, TWO, parse_config(classes | sections))


def test_a_column_that_is_used_may_not_appear_twice(tmp_path):
    assert "column 'mpp' appears 2 times" in refusal(tmp_path, f"{HEADER}\tmpp\tmpp\nA\t/a\tP\t1\t2\n")


def test_columns_to_stratify_a_cascade_by_are_read(tmp_path):
    config = parse_config({"radhical": {"c": {"split": {"stratify": ["scanner"]}}}})
    assert read(tmp_path, f"{HEADER}\tscanner\nA\t/a\tP\tx\n", config)["A"].labels == {"scanner": "x"}


@pytest.mark.parametrize("column", ["mpp", "patient_id", "split"])
def test_columns_with_a_fixed_meaning_cannot_be_strata(tmp_path, column):
    config = parse_config({"radhical": {"c": {"split": {"stratify": [column]}}}})
    content = f"{HEADER}\tmpp\tsplit\nA\t/a\tP\t\t\n"
    assert f"column {column!r} has a meaning of its own" in refusal(tmp_path, content, config)


# --- labels -----------------------------------------------------------------------------------------------------------


def labelled(kind, cells, splits=()):
    """A sheet with one cell of the column ``label`` per slide, and the configuration of a task that learns it."""
    target = {"source": "sheet", "column": "label"} | ({} if kind == "regression" else {"classes": ["er", "her2"]})
    config = parse_config({"tasks": {"t": {"grid": "x20", "kind": kind, "target": target}}})
    roles = [*splits, *[""] * (len(cells) - len(splits))]
    rows = [f"S{i}\t/{i}\tP{i}\t{cell}\t{role}" for i, (cell, role) in enumerate(zip(cells, roles, strict=True))]
    return "\n".join([f"{HEADER}\tlabel\tsplit", *rows, ""]), config


@pytest.mark.parametrize(
    "cell",
    ["NA", "1,5", "<1", "'--", "#N/A", "nan", "inf", "1e999", "1_000", "5 %", "2024-01-02", "\u0661", "12h", "-"],
)
def test_cells_that_are_not_numbers_are_refused_before_any_job(tmp_path, cell):
    message = refusal(tmp_path, *labelled("regression", ["12", cell, "1.5e-2", ""]))
    assert "line 3 (S1): label is " in message
    assert "1 problem(s)" in message


def test_all_cells_that_cannot_be_learned_are_listed_at_once(tmp_path):
    cells = ["12", "NA", "1,5", "<1", "'--", "12"]
    message = refusal(tmp_path, *labelled("regression", cells))
    for number in range(1, 5):
        assert f"line {number + 2} (S{number}): label is {cells[number]!r}, not a number" in message


def test_cells_of_slides_that_are_only_predicted_are_checked_too(tmp_path):
    """Their truth is shown beside the prediction, so a bad cell would fail after training."""
    assert "line 3 (S1)" in refusal(tmp_path, *labelled("regression", ["1", "x", "2"], ["", "predict"]))


def test_numbers_of_all_notations_are_accepted(tmp_path):
    content, config = labelled("regression", ["12", "-1.5", "+2", ".5", "3.", "1e-3", "1.2E+05", ""])
    assert len(read(tmp_path, content, config)) == 8


def test_cells_with_several_classes_are_accepted(tmp_path):
    content, config = labelled("multi_label", ["er", "her2", "er,her2", "her2, er", ""])
    assert read(tmp_path, content, config)["S2"].labels == {"label": "er,her2"}


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("er;her2", "label is 'er;her2', not one of target.classes (er, her2)"),
        ("er,ki67", "label is 'ki67', not one"),
        ("er,,her2", "with an empty item"),
        ("er,", "with an empty item"),
    ],
)
def test_cells_with_several_classes_that_cannot_be_learned_are_refused(tmp_path, cell, message):
    assert message in refusal(tmp_path, *labelled("multi_label", ["er", cell, "her2"]))


@pytest.mark.parametrize("cell", ["ER", "NA", "er ,her2", "2024-01-02", "#N/A"])
def test_classes_that_are_not_in_the_task_are_refused(tmp_path, cell):
    message = refusal(tmp_path, *labelled("classification", ["er", cell, "her2"]))
    assert "line 3 (S1): label is " in message


STAGES = {"Stage I": "low", "Stage II": "high", "IIb, uncertain": "high", "low?": "low"}


def staged(kind="classification", labels=STAGES):
    target = TARGET | {"labels": labels}
    return parse_config({"tasks": {"t": {"kind": kind, "grid": "x20", "target": target}}})


def staged_sheet(tmp_path, *cells):
    path = tmp_path / "slides.tsv"
    rows = [f"s{i}\ts{i}.svs\tp{i}\t{cell}" for i, cell in enumerate(cells)]
    path.write_text("\n".join(["slide_id\tpath\tpatient_id\tgrade", *rows]) + "\n")
    return path


def test_texts_of_cells_map_to_classes(tmp_path):
    config = staged()
    slides = read_sheet(
        staged_sheet(tmp_path, "Stage I", "Stage II", "low", "IIb, uncertain", ""), config, check_files=False
    )
    task = config.tasks["t"]
    assert [classes_of(s, task) for s in slides.values()] == [["low"], ["high"], ["low"], ["high"], []]
    targets = [int(sheet_target(task.kind, task.target, s.labels, slide_id=s.slide_id)) for s in slides.values()]
    assert targets == [0, 1, 0, 1, -1]


def test_items_of_a_cell_with_several_classes_map_too(tmp_path):
    config = staged(kind="multi_label")
    cells = ("Stage I,high", "low? , Stage II", "IIb, uncertain", "Stage I")
    slides = read_sheet(staged_sheet(tmp_path, *cells), config, check_files=False)
    task = config.tasks["t"]
    found = [sheet_target(task.kind, task.target, s.labels, slide_id="s").tolist() for s in slides.values()]
    assert found == [[1, 1], [1, 1], [0, 1], [1, 0]]


def test_texts_that_map_to_one_class_are_one_class(tmp_path):
    config = staged(labels={"Stage I": "low", "Stage Ia": "low"})
    with pytest.raises(ConfigError, match=r"single class \(low\)"):
        read_sheet(staged_sheet(tmp_path, "Stage I", "Stage Ia", "low"), config, check_files=False)


def test_texts_that_do_not_map_are_refused_with_the_remedy(tmp_path):
    with pytest.raises(ConfigError, match=r"'Stage III', not one of target\.classes .* map it under target\.labels"):
        read_sheet(staged_sheet(tmp_path, "Stage I", "Stage II", "Stage III"), staged(), check_files=False)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"labels": {"x": "middle"}}, "'x' maps to 'middle', which is not in target.classes"),
        ({"labels": {"low": "high"}}, "'low' is a class itself"),
        ({"labels": {"x": "low"}, "source": "annotation", "column": None}, "it needs both"),
    ],
)
def test_mappings_that_make_no_sense_are_refused(target, message):
    config = {"annotations": {"classes": {"a": "low", "b": "high"}}}
    with pytest.raises(ConfigError, match=message):
        parse_config(config | {"tasks": {"t": {"grid": "x20", "target": TARGET | target}}})


NUMBERS = {"grid": "x20", "kind": "regression", "level": "patient", "features": "a"}
NUMBERS |= {"target": {"source": "sheet", "columns": ["CXCL13", "CCL19"]}}
ENCODER = {"a": {"grid": "x20", "name": "resnet10t", "weights": False}}


def test_each_cell_of_several_columns_is_checked_and_empty_ones_are_allowed(tmp_path):
    config = parse_config({"encoders": ENCODER, "tasks": {"t": NUMBERS}})
    path = write(tmp_path, "slide_id path patient_id CXCL13 CCL19\na a p 1 x\nb b q y 2\nc c r 3 \n")
    with pytest.raises(ConfigError) as caught:
        read_sheet(path, config, check_files=False)
    message = str(caught.value)
    assert "(a): CCL19 is" in message
    assert "(b): CXCL13 is" in message
    assert "(c)" not in message


def test_a_patient_with_slides_of_different_numbers_in_several_columns_is_refused(tmp_path):
    config = parse_config({"encoders": ENCODER, "tasks": {"t": NUMBERS}})
    path = write(tmp_path, "slide_id path patient_id CXCL13 CCL19\na a p 1 2\nb b p 1 \nc c q 1 2\nd d q  \n")
    with pytest.raises(ConfigError, match=r"patient p has slides of different CXCL13, CCL19 \(1, 2: a; 1, empty: b\)"):
        read_sheet(path, config, check_files=False)
