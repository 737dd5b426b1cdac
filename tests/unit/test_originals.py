"""Slides whose file is missing: used if their store is complete and was made from the row of the sheet."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from histomake.base.errors import ConfigError
from histomake.base.layout import Layout
from histomake.base.units import Mpp
from histomake.cohort.originals import slides_without_file, why_not_alone
from histomake.cohort.sheet import Slide, read_sheet
from histomake.config import parse_config

from tests import sample_records

FILES = {"zarr.json": b"{}", "0/c/0/0/0": b"pixels"}


@pytest.fixture
def converted(tmp_path):
    """A slide that was converted and whose file is missing, and its layout."""
    layout, slide = Layout(tmp_path / "results"), Slide("s1", str(tmp_path / "s1.svs"), "p1")
    store = layout.manifest("s1").with_name("s1.zarr")
    for name, content in FILES.items():
        (store / name).parent.mkdir(parents=True, exist_ok=True)
        (store / name).write_bytes(content)
    size = sum(map(len, FILES.values()))
    sample_records.manifest(checksums=dict.fromkeys(FILES, "00"), bytes_out=size).write(layout.manifest("s1"))
    params = {"mpp": None, "slide": "fingerprint"}
    sidecar = sample_records.sidecar(rule="convert", inputs={slide.path: None}, params=params)
    sidecar.write(f"{layout.manifest('s1')}.meta.json")
    return slide, layout


def changed(slide: Slide, **values) -> Slide:
    return Slide(**vars(slide) | values)


def test_a_slide_whose_file_is_missing_is_used_from_its_complete_store(converted):
    slide, layout = converted
    assert why_not_alone(slide, layout) is None
    assert slides_without_file([slide], os.path.exists) == {"s1"}
    Path(slide.path).write_text("here again")
    assert slides_without_file([slide], os.path.exists) == frozenset()


def test_an_incomplete_store_cannot_replace_the_file(converted):
    slide, layout = converted
    pixels = layout.manifest("s1").with_name("s1.zarr") / "0/c/0/0/0"
    pixels.write_bytes(b"pixel")
    assert "does not have the size" in why_not_alone(slide, layout)
    pixels.unlink()
    assert "1 of 2 files" in why_not_alone(slide, layout)
    layout.manifest("s1").write_text("{}")
    assert "cannot be used" in why_not_alone(slide, layout)
    layout.manifest("s1").unlink()
    assert "no store of it" in why_not_alone(slide, layout)


def test_a_store_of_another_row_cannot_replace_the_file(converted):
    slide, layout = converted
    assert "made from another file" in why_not_alone(changed(slide, path="/typing/error.svs"), layout)
    assert "with mpp None, not 0.5" in why_not_alone(changed(slide, mpp=Mpp(0.5)), layout)
    assert "not that of the sheet" in why_not_alone(changed(slide, sha256="cd" * 32), layout)
    assert why_not_alone(changed(slide, sha256="ab" * 32), layout) is None


def test_a_slide_in_quarantine_has_no_store_to_use(converted):
    slide, layout = converted
    sample_records.lost().write(layout.manifest("s1"))
    assert "in quarantine" in why_not_alone(slide, layout)


def test_the_sheet_accepts_a_slide_that_is_used_from_its_store_and_refuses_others(converted, tmp_path):
    slide, layout = converted
    sheet, config = tmp_path / "slides.tsv", parse_config({"results": str(layout.results)})
    sheet.write_text(f"slide_id\tpath\tpatient_id\ns1\t{slide.path}\tp1\n")
    assert list(read_sheet(sheet, config, check_files=True)) == ["s1"]
    sheet.write_text(f"slide_id\tpath\tpatient_id\ns1\t{slide.path}\tp1\ns2\t{slide.path}2\tp2\n")
    with pytest.raises(ConfigError, match=r"s2: file .* does not exist, and there is no store of it"):
        read_sheet(sheet, config, check_files=True)
