"""The demo cohort: its slides, their patients, and the faults of two of them."""

from __future__ import annotations

import csv
import multiprocessing
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from tests.demo import annotations, formats
from tests.demo.tissue import CLASSES, Sources, Stain, compose, load_sources

DATA = Path(__file__).resolve().parent.parent / "data"
UNTOUCHED = "CMU-1-Small-Region"
SEED = 20180416
WORKERS = 2
GLASS = {"north": (244, 243, 245), "south": (238, 239, 234)}
DENSITY = {"north": 1.0, "south": 0.88}


@dataclass(frozen=True)
class Slide:
    """One composed slide. ``sheet_mpp``: the sheet states the mpp; ``flaw``: the fault of the file; ``nuclei``: whether
    it has nuclei-rich tissue beside skin.
    """

    slide_id: str
    patient: int
    site: str
    width: int
    height: int
    mpp: float
    suffix: str
    annotation: str
    sheet_mpp: bool = False
    flaw: str = ""
    nuclei: bool = True


COHORT = [
    Slide("P01-A", 1, "north", 4096, 4608, 0.499, ".svs", ".asap.xml"),
    Slide("P01-B", 1, "north", 5120, 3584, 0.499, ".svs", ".aperio.xml"),
    Slide("P02-A", 2, "north", 4608, 4096, 0.499, ".svs", ".asap.xml"),
    Slide("P03-A", 3, "north", 5888, 3584, 0.499, ".svs", ".aperio.xml", nuclei=False),
    Slide("P04-A", 4, "south", 4608, 4608, 0.454, ".tiff", ".geojson", nuclei=False),
    Slide("P05-A", 5, "south", 5120, 4096, 0.454, ".tiff", "_mask.npy"),
    Slide("P05-B", 5, "south", 4096, 4096, 0.454, ".ome.tiff", ".geojson"),
    Slide("P06-A", 6, "south", 4352, 4864, 0.454, ".ome.tiff", ".geojson"),
    Slide("P07-A", 7, "north", 4096, 4096, 0.499, ".npy", "_mask.npy", sheet_mpp=True, nuclei=False),
    Slide("P08-A", 8, "north", 4864, 4352, 0.499, ".svs", ".asap.xml", nuclei=False),
    Slide("P09-A", 9, "south", 5376, 3840, 0.454, ".tiff", ".geojson", nuclei=False),
    Slide("P10-A", 10, "south", 4096, 5120, 0.454, ".ome.tiff", ".geojson", nuclei=False),
    Slide("P08-B", 8, "north", 4096, 4096, 0.499, ".svs", ".asap.xml", flaw="truncated", nuclei=False),
    Slide("P10-B", 10, "south", 4096, 4096, 0.454, ".tiff", ".geojson", flaw="no mpp", nuclei=False),
]
SMALL = [
    Slide("P01-A", 1, "north", 2304, 2048, 0.499, ".svs", ".asap.xml"),
    Slide("P02-A", 2, "north", 2048, 2048, 0.499, ".svs", ".aperio.xml"),
    Slide("P03.B", 3, "south", 2048, 2304, 0.454, ".ome.tiff", ".geojson"),
    Slide("P04-A", 4, "south", 2048, 2048, 0.499, ".npy", "_mask.npy", sheet_mpp=True),
    Slide("P04-B", 4, "south", 2048, 2048, 0.454, ".tiff", ".geojson", flaw="no mpp"),
]


def stain_of(patient: int, site: str) -> Stain:
    """Return the patient's stain, near that of the laboratory: density within ±12 %, channel balance within ±6 %."""
    rng = np.random.default_rng([SEED, 1, patient])
    gain = DENSITY[site] * rng.uniform(0.88, 1.12) * rng.uniform(0.94, 1.06, 3)
    return Stain(gain=tuple(gain.tolist()), glass=GLASS[site])


@cache
def sources() -> Sources:
    """Return the raw tissue, read once per process."""
    return load_sources(DATA)


RICH = "nuclei_rich"
"""Column of the sheet: whether a slide has more nuclei-rich tissue than most, yes or no."""

SHARE = "nuclei_share"
"""Column of the sheet: share of the annotated tissue that is rich in nuclei."""

ROLES = {"P01": "train", "P07": "train", "P02": "test", "P03": "test", "P08": "test"}  # north
ROLES |= {"P04": "train", "P05": "train", "P10": "train", "P06": "val", "P09": "test"}  # south
"""Roles of patients in the sheet divided.tsv: each laboratory has patients to learn from and to test on."""

MONTHS, DIED = "months", "died"
"""Columns of the sheet: time until the end of a patient's observation, and whether the patient had died by then, 1 or
0. The more nuclei-rich tissue the slides of a patient have, the earlier."""

HAZARD = 12.0
"""Logarithm of the ratio of the hazards of two patients of whom one has all and the other none of that tissue."""


def build_slide(slide: Slide, number: int, folder: Path) -> dict[str, str]:
    """Write one slide and its annotation; return its row of the sheet, without the label that compares slides."""
    cv2.setNumThreads(1)
    picture = compose(
        np.random.default_rng([SEED, 2, number]),
        sources(),
        stain=stain_of(slide.patient, slide.site),
        mpp=slide.mpp,
        width=slide.width,
        height=slide.height,
        nuclei=slide.nuclei,
    )
    path = folder / "slides" / f"{slide.slide_id}{slide.suffix}"
    formats.WRITERS[slide.suffix](path, picture.pixels, mpp=None if slide.flaw == "no mpp" else slide.mpp)
    if slide.flaw == "truncated":
        with path.open("r+b") as stream:
            stream.truncate(path.stat().st_size * 2 // 5)
    annotation = folder / "annotations" / f"{slide.slide_id}{slide.annotation}"
    annotations.WRITERS[slide.annotation](annotation, picture.mask, mpp=slide.mpp)
    return {
        "slide_id": slide.slide_id,
        "path": str(path),
        "patient_id": f"P{slide.patient:02d}",
        "site": slide.site,
        "annotation": str(annotation),
        "mpp": str(slide.mpp) if slide.sheet_mpp else "",
        SHARE: f"{(picture.mask == CLASSES['nuclei']).sum() / (picture.mask > 0).sum():.3f}",
        RICH: "",
        MONTHS: "",
        DIED: "",
    }


def label_rich(rows: list[dict[str, str]]) -> None:
    """Fill the column RICH: no more than half of the slides have more nuclei-rich tissue than the others."""
    middle = float(np.median([float(row[SHARE]) for row in rows]))
    for row in rows:
        row[RICH] = "yes" if float(row[SHARE]) > middle else "no"


def label_survival(rows: list[dict[str, str]]) -> None:
    """Fill the columns MONTHS and DIED: times of a Weibull distribution with a hazard by share, one third censored."""
    shares: dict[str, list[float]] = {}
    for row in rows:
        shares.setdefault(row["patient_id"], []).append(float(row[SHARE]))
    means = {patient: float(np.mean(found)) for patient, found in shares.items()}
    middle = float(np.median(list(means.values())))
    for number, (patient, share) in enumerate(sorted(means.items())):
        drawn = -np.log(np.random.default_rng([SEED, 3, number]).uniform(0.2, 0.8))
        time = 24 * (drawn * np.exp(HAZARD * (middle - share))) ** 0.5
        died = number % 3 != 2
        for row in rows:
            if row["patient_id"] == patient:
                row[MONTHS], row[DIED] = f"{max(0.1, time if died else 0.7 * time):.1f}", str(int(died))


def build_untouched(folder: Path) -> dict[str, str]:
    """Copy the one slide that is used as written by its scanner; it has no annotation."""
    path = folder / "slides" / f"{UNTOUCHED}.svs"
    shutil.copyfile(DATA / "slides" / path.name, path)
    return {"slide_id": UNTOUCHED, "path": str(path), "patient_id": "CMU-1", "site": "cmu"}


def build_cohort(folder: Path, slides: list[Slide], *, untouched: bool) -> Path:
    """Write the cohort and finally its sheet; return the path of the sheet."""
    for name in ("slides", "annotations"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(WORKERS, mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = [pool.submit(build_slide, s, number, folder) for number, s in enumerate(slides)]
        rows = [job.result() for job in jobs]
    label_rich(rows)
    label_survival(rows)
    if untouched:
        rows.append(build_untouched(folder))
    if divided := [row | {"split": ROLES[row["patient_id"]]} for row in rows if row["patient_id"] in ROLES]:
        write_sheet(folder / "divided.tsv", divided)
    return write_sheet(folder / "slides.tsv", rows)


def write_sheet(sheet: Path, rows: list[dict[str, str]]) -> Path:
    """Write a sheet, slides by id; return its path."""
    aside = sheet.with_suffix(".partial")
    with aside.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]), restval="", delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: row["slide_id"]))
    aside.replace(sheet)
    return sheet
