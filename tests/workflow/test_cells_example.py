"""The example of cells, run whole: its numbered nuclei become a table, a picture and a part of the report."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pytest
import tifffile
import yaml

from tests.workshop import ROOT, Workshop

pytestmark = pytest.mark.examples


def test_the_cells_example_runs_whole(tmp_path: Path) -> None:
    """Shortened to four images of nuclei; every numbered nucleus is a row of the catalog."""
    workshop = Workshop(tmp_path)
    workshop.copy_code()
    example = yaml.safe_load((ROOT / "config/examples/cells.yaml").read_text()) | {"results": "results/cells"}
    images = sorted((ROOT / "tests/data/nuclei").glob("*.png"))[:4]
    header = ("slide_id", "path", "patient_id", "annotation", "mpp")
    rows = [(p.stem, str(p), p.stem, str(p.with_name(f"{p.stem}_labels.tif")), "0.5") for p in images]
    sheet = workshop.folder / "demo" / "nuclei" / "slides.tsv"
    sheet.parent.mkdir(parents=True)
    sheet.write_text("".join("\t".join(row) + "\n" for row in (header, *rows)))
    workshop.config.write_text(yaml.safe_dump(example))
    workshop.snakemake()
    nuclei = {p.stem: len(np.unique(tifffile.imread(p.with_name(f"{p.stem}_labels.tif")))) - 1 for p in images}
    with duckdb.connect(workshop.folder / "results/cells/catalog.duckdb", read_only=True) as catalog:
        counted = catalog.execute("SELECT slide_id::VARCHAR, count(*) FROM cells_nuclei GROUP BY 1").fetchall()
    assert dict(counted) == {slide: count for slide, count in nuclei.items() if count}
    results = workshop.folder / "results/cells"
    assert {path.stem for path in (results / "graphs/nuclei").glob("*.jpg")} == {p.stem for p in images}
    report = (results / "report/index.html").read_text()
    assert "Cells" in report
    assert "The graph with most nodes" in report
