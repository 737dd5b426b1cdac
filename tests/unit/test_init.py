"""`histomake init`: the files of a new project."""

from __future__ import annotations

import pytest
from histomake import cli
from histomake.base.errors import ConfigError
from histomake.base.files import sha256_file
from histomake.base.records.encoder_card import EncoderCard
from histomake.cli.checkout import CHECKOUT
from histomake.cli.init import ENCODER
from histomake.cohort.sheet import read_sheet
from histomake.config import load_config
from histomake.model import encoder_folder


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A new project, and the working folder in it."""
    assert cli.main(["init", str(tmp_path / "cohort")]) == 0
    monkeypatch.chdir(tmp_path / "cohort")
    return tmp_path / "cohort"


def test_the_configuration_is_valid_and_the_sheet_lacks_only_slides(project):
    config = load_config("config/config.yaml")
    with pytest.raises(ConfigError, match=r"1 problem\(s\):\n  the sheet has no rows$"):
        read_sheet(config.sheet, config, check_files=True)


def test_the_snakefile_uses_this_checkout(project):
    assert f'"{CHECKOUT}/Snakefile"' in (project / "Snakefile").read_text()


def test_the_settings_every_run_needs_are_there(project):
    profile = "profiles/default/profile.v9+.yaml"
    assert (project / profile).read_text() == (CHECKOUT / profile).read_text()


def test_nothing_is_overwritten_and_nothing_half_written(tmp_path, capsys):
    own = tmp_path / "cohort" / "config" / "slides.tsv"
    own.parent.mkdir(parents=True)
    own.write_text("mine")
    assert cli.main(["init", str(tmp_path / "cohort")]) == 1
    assert "already has config/slides.tsv" in capsys.readouterr().err
    assert [path for path in (tmp_path / "cohort").rglob("*") if path.is_file()] == [own]
    assert own.read_text() == "mine"


@pytest.fixture
def sheet_of(tmp_path, monkeypatch, capsys):
    """Lays out a project in a folder with some files; returns its rows by slide_id, and what was printed."""

    def make(*names, options=()):
        folder = tmp_path / "cohort"
        for name in names:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
        assert cli.main(["init", str(folder), *options]) == 0
        monkeypatch.chdir(folder)
        rows = (folder / "config/slides.tsv").read_text().splitlines()
        header = rows[0].split("\t")
        return {
            row.split("\t")[0]: dict(zip(header, row.split("\t"), strict=True)) for row in rows[1:]
        }, capsys.readouterr().out

    return make


def test_the_sheet_lists_the_slides_of_the_folder_with_their_annotations(sheet_of):
    rows, printed = sheet_of(
        "scans/S1.svs", "scans/S2.ome.tiff", "scans/S3.ndpi", "xml/S1.xml", "S2.geojson", "masks/S3.png", "notes.txt"
    )
    assert {name: (row["path"], row["annotation"]) for name, row in rows.items()} == {
        "S1": ("scans/S1.svs", "xml/S1.xml"),
        "S2": ("scans/S2.ome.tiff", "S2.geojson"),
        "S3": ("scans/S3.ndpi", "masks/S3.png"),
    }
    assert "with 3 slides in the sheet" in printed


def test_patients_are_not_guessed(sheet_of):
    rows, printed = sheet_of("P1-A.svs", "P1-B.svs")
    assert {row["patient_id"] for row in rows.values()} == {""}
    assert "enter the patient_id of 2 slides" in printed
    with pytest.raises(ConfigError, match=r"line 2 \(P1-A\): patient_id is empty"):
        read_sheet("config/slides.tsv", load_config("config/config.yaml"), check_files=True)


def test_a_pattern_finds_the_patients(sheet_of):
    rows, _ = sheet_of("P1-A.svs", "P1-B.svs", "P22-A.svs", options=["--patient", "^([^-]+)-"])
    assert [row["patient_id"] for row in rows.values()] == ["P1", "P1", "P22"]
    assert len(read_sheet("config/slides.tsv", load_config("config/config.yaml"), check_files=True)) == 3


def test_a_longer_name_is_not_taken_for_that_of_another_slide(sheet_of):
    rows, _ = sheet_of("S1.svs", "S1-A.svs", "S10.svs", "S1-A.xml", "S10.xml")
    assert {name: row["annotation"] for name, row in rows.items()} == {"S1": "", "S1-A": "S1-A.xml", "S10": "S10.xml"}


def test_images_are_slides_unless_they_are_named_as_masks(sheet_of):
    rows, _ = sheet_of("P1.tif", "P1_2.tif", "P1_mask.tif", "labels/P1_2.tif", "field.png")
    assert {name: row["annotation"] for name, row in rows.items()} == {
        "P1": "P1_mask.tif",
        "P1_2": "labels/P1_2.tif",
        "field": "",
    }


def test_which_of_two_annotations_is_right_is_left_open(sheet_of):
    rows, printed = sheet_of("S1.svs", "S1.xml", "S1.geojson")
    assert rows["S1"]["annotation"] == ""
    assert "left open: S1: which is its annotation: S1.geojson, S1.xml?" in printed


def test_files_that_belong_to_a_slide_are_not_slides(sheet_of):
    rows, _ = sheet_of(
        "A.mrxs", "A/Data0001.dat", "A/Slidedat.ini", "case/1.dcm", "case/2.dcm", ".hidden/x.svs", "results/a.tif"
    )
    assert {name: row["path"] for name, row in rows.items()} == {"A": "A.mrxs", "case": "case"}


def test_slides_of_the_same_name_have_ids_with_their_folders(sheet_of):
    rows, _ = sheet_of("north/1.svs", "south/1.svs", "two words (b).svs")
    assert set(rows) == {"north_1", "south_1", "two_words__b_"}


def test_slides_may_lie_in_another_folder(sheet_of, tmp_path):
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans/S1.svs").touch()
    rows, _ = sheet_of(options=["--slides", str(tmp_path / "scans")])
    assert rows["S1"]["path"] == str(tmp_path / "scans/S1.svs")
    assert cli.main(["init", str(tmp_path / "other"), "--slides", str(tmp_path / "nowhere")]) == 1


def test_a_new_project_has_an_encoder_with_real_weights(project):
    card = EncoderCard.read(project / ENCODER / "model.json")
    assert sha256_file(project / ENCODER / "model.safetensors") == card.sha256
    assert f'"folder:{ENCODER}"' in (project / "config" / "config.yaml").read_text()


def test_missing_weights_are_reported(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(encoder_folder, "LITE0_PACKAGE", "no_such_package")
    assert cli.main(["init", str(tmp_path)]) == 0
    assert "left open: no encoder with real weights: the package no_such_package" in capsys.readouterr().out
    assert not (tmp_path / ENCODER).exists()
