"""Tests of the files that make up a slide, for its fingerprint and its hash."""

import os

import pytest
from histomake.audit import fingerprints
from histomake.audit.fingerprints import Fingerprints
from histomake.base.files import sha256_file, sha256_tree
from histomake.slide.companions import combined_sha256, named_files, slide_files
from histomake.slide.source import open_source
from histomake.slide.source_hash import SourceHash

VMS = (
    "[Virtual Microscope Specimen]\nNoLayers=1\nNoJpegColumns=1\nImageFile=b-1.jpg\nImageFile(1,0)=gone.jpg\n"
    "ImageFile(2,0)=../elsewhere.jpg\nMapFile=b-map.jpg\nOptimisationFile=b.opt\nMacroImage=\nno equals sign\n"
)
VMU = "[Uncompressed Virtual Microscope Specimen]\nImageFile = b.ngr\nMapFile=b-map.ngr\n"


@pytest.fixture
def folder(tmp_path):
    """A folder with the files of several slides, and files of no slide."""
    root = tmp_path / "slides"
    for name in (
        *("a.mrxs", "a/Slidedat.ini", "a/Data0000.dat", "a/deeper/Data0001.dat", "aa/Data0000.dat"),
        *("b-1.jpg", "b-map.jpg", "b.opt", "b-2.jpg", "b.ngr", "b-map.ngr", "../elsewhere.jpg"),
        *("S1.svs", "S1/notes.txt", "S1.geojson", "dicom/1.dcm", "dicom/2.dcm", "dicom/more/3.dcm"),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    (root / "b.vms").write_text(VMS)
    (root / "c.VMU").write_text(VMU)
    return root


@pytest.mark.parametrize(
    ("slide", "files"),
    [
        pytest.param("a.mrxs", ["a.mrxs", "a/Data0000.dat", "a/Slidedat.ini", "a/deeper/Data0001.dat"], id="mrxs"),
        pytest.param("b.vms", ["b.vms", "b-1.jpg", "b-map.jpg", "b.opt"], id="vms"),
        pytest.param("c.VMU", ["c.VMU", "b-map.ngr", "b.ngr"], id="vmu"),
        pytest.param("dicom", ["dicom/1.dcm", "dicom/2.dcm", "dicom/more/3.dcm"], id="dicom-folder"),
        pytest.param("dicom/1.dcm", ["dicom/1.dcm"], id="dicom-file"),
        pytest.param("S1.svs", ["S1.svs"], id="unlucky-neighbour"),
        pytest.param("S1.geojson", ["S1.geojson"], id="annotation-with-unlucky-neighbour"),
    ],
)
def test_the_files_of_a_slide(folder, slide, files):
    assert slide_files(folder / slide) == [folder / name for name in files]


@pytest.mark.parametrize(
    ("slide", "edited", "counts"),
    [
        ("a.mrxs", "a/Data0000.dat", True),
        ("a.mrxs", "aa/Data0000.dat", False),
        ("b.vms", "b-1.jpg", True),
        ("b.vms", "b-2.jpg", False),
        ("c.VMU", "b.ngr", True),
        ("dicom", "dicom/more/3.dcm", True),
        ("dicom/1.dcm", "dicom/2.dcm", False),
        ("S1.svs", "S1/notes.txt", False),
    ],
)
def test_the_fingerprint_changes_with_the_files_of_the_slide_only(folder, slide, edited, counts):
    known = Fingerprints(folder / "memory.json", remember=False)
    before = known.of(str(folder / slide))
    (folder / edited).write_bytes(b"other bytes")
    assert (known.of(str(folder / slide)) != before) == counts


def test_files_of_other_slides_are_not_in_the_stamp(folder, monkeypatch):
    known = Fingerprints(folder / "memory.json", remember=False)
    first = [known.of(str(folder / name)) for name in ("S1.svs", "b.vms")]
    os.utime(folder / "S1" / "notes.txt", (5, 5))
    os.utime(folder / "b-2.jpg", (5, 5))
    monkeypatch.setattr(fingerprints, "quick_fingerprint", lambda files: pytest.fail("read again"))
    assert [known.of(str(folder / name)) for name in ("S1.svs", "b.vms")] == first


def test_a_renamed_data_file_changes_the_fingerprint(folder):
    known = Fingerprints(folder / "memory.json", remember=False)
    before = known.of(str(folder / "a.mrxs"))
    (folder / "a" / "Data0000.dat").rename(folder / "a" / "Data0002.dat")
    assert known.of(str(folder / "a.mrxs")) != before


def test_a_vms_file_that_is_not_text_is_a_slide_by_itself(tmp_path):
    (tmp_path / "a.vms").write_bytes(bytes(range(256)) * 9)
    assert slide_files(tmp_path / "a.vms") == [tmp_path / "a.vms"]


def test_the_names_of_a_slide_s_files_are_relative_to_its_folder(folder):
    assert list(named_files(folder / "a.mrxs")) == [
        "a.mrxs",
        "a/Data0000.dat",
        "a/Slidedat.ini",
        "a/deeper/Data0001.dat",
    ]
    assert list(named_files(folder / "dicom")) == ["1.dcm", "2.dcm", "more/3.dcm"]
    assert named_files(folder / "S1.svs") == {"S1.svs": folder / "S1.svs"}


def test_the_hash_of_one_file_is_its_own_and_of_a_folder_that_of_the_tree(folder):
    for path in (folder / "S1.svs", folder / "dicom"):
        hashes = {name: sha256_file(file) for name, file in named_files(path).items()}
        assert combined_sha256(hashes) == sha256_tree(path)


def test_a_conversion_hashes_the_files_that_the_fingerprint_covers(data):
    path = data / "slides" / "CMU-1-Small-Region_dicom"
    with open_source(path, slide_id="a") as slide, SourceHash(slide, "a") as found:
        assert found.result() == sha256_tree(path)
