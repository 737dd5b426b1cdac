"""What a sheet, a slide or an annotation from outside must not be able to do."""

from __future__ import annotations

import shutil

import pydicom
import pytest

from tests.workshop import ROOT, Workshop

HOSTILE = "a b'c\"; $(touch pwned) `touch pwned` %s & #1 äß*?[x].svs"
SECRET = "DOE^JANE"
TAGS = ("PatientName", "PatientID", "AccessionNumber", "InstitutionName")


@pytest.fixture(scope="module")
def strange(finished, tmp_path_factory):
    """A run, under umask 027, over a slide with a hostile path and one whose file names the patient."""
    shop = Workshop(tmp_path_factory.mktemp("strange") / "workshop")
    shutil.copytree(finished.folder, shop.folder, ignore=shutil.ignore_patterns("results", ".snakemake"))
    slides = shop.folder / "demo" / "slides"
    shutil.copy(shop.slide_file("P01-A"), slides / HOSTILE)
    dicom = slides / "named_dicom"
    shutil.copytree(ROOT / "tests" / "data" / "slides" / "CMU-1-Small-Region_dicom", dicom)
    for file in dicom.glob("*.dcm"):
        dataset = pydicom.dcmread(file)
        for tag in TAGS:
            setattr(dataset, tag, SECRET)
        dataset.save_as(file)
    header, *rows = shop.rows()
    columns = header.split("\t")
    hostile = dict(zip(columns, next(r for r in rows if r.startswith("P01-A\t")).split("\t"), strict=True))
    hostile |= {"slide_id": "hostile", "path": f"demo/slides/{HOSTILE}"}
    named = dict.fromkeys(columns, "") | {"slide_id": "named", "path": "demo/slides/named_dicom", "patient_id": "X1"}
    shop.write_rows([header, *rows, *("\t".join(row[c] for c in columns) for row in (hostile, named))])
    command = shop.command("--cores", "2", "--", *(f"results/patches/x10/{s}.parquet" for s in ("hostile", "named")))
    shop.first_run = shop.run(["sh", "-c", 'umask 027; exec "$@"', "sh", *command])
    assert shop.first_run.returncode == 0, shop.first_run.stderr[-4000:]
    return shop


def test_no_path_is_interpreted_by_a_shell(strange):
    assert not list(strange.folder.rglob("pwned"))
    assert (strange.results / "slides" / "hostile.zarr").is_dir()


def test_patient_identity_does_not_leave_the_slide_file(strange):
    told = [strange.first_run.stdout, strange.first_run.stderr]
    told += [
        path.read_bytes().decode(errors="ignore")
        for folder in (strange.results, strange.folder / ".snakemake")
        for path in folder.rglob("*")
        if path.is_file()
    ]
    assert len(told) > 20
    assert not any("DOE" in text and "JANE" in text for text in told)


def test_file_permissions_follow_the_umask(strange):
    made = [path for path in strange.results.rglob("*") if not path.is_symlink()]
    assert len(made) > 20
    assert [path for path in made if path.stat().st_mode & 0o027] == []


@pytest.mark.parametrize("slide_id", ["../escape", "a/b", "..", "/abs", "a\tb", "a b", ".hidden", "-rf", "x$(id)", ""])
def test_no_slide_id_leads_outside_the_results_folder(workshop, slide_id):
    header, *rows = workshop.rows()
    workshop.write_rows([header, slide_id + rows[0][rows[0].index("\t") :], *rows[1:]])
    done = workshop.snakemake("--dry-run", check=False)
    assert done.returncode != 0
    assert "Traceback" not in done.stdout + done.stderr


def test_no_name_in_the_configuration_leads_outside_the_results_folder(workshop):
    text = workshop.config.read_text()
    for old, new in (("tissue_kind:", "../kind:"), ("x10", "../x10"), ("skin", "../skin")):
        workshop.config.write_text(text.replace(old, new))
        done = workshop.snakemake("--dry-run", check=False)
        assert done.returncode != 0, new
        assert "Traceback" not in done.stdout + done.stderr
