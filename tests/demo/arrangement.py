"""Drawn slides that differ in the arrangement of their cells alone: small dark round ones in clusters, or dispersed.

``python -m tests.demo.arrangement FOLDER`` writes slides, masks that number their cells, and ``slides.tsv`` there,
with the same bytes every time. Every slide has as many round cells as long pale ones, so that no mean over its cells
tells the two arrangements apart, and every slide is that of one patient.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image
from skimage.draw import ellipse

SEED = 21
SLIDES = 24
MPP = 0.5
EDGE, MARGIN = 768, 96
"""Edge of a slide, and width of the glass around its tissue, in pixels."""

CELLS, APART = 240, 24
"""Number of cells of a slide, and their smallest distance, in pixels."""

CLUSTERS = 3
ARRANGEMENTS = ("dispersed", "clustered")
GLASS, STROMA = (243, 242, 245), (226, 168, 196)
ROUND, LONG = (78, 52, 120), (140, 100, 165)
NOISE = 6.0


def scattered(rng: np.random.Generator) -> np.ndarray:
    """Places float64 (CELLS, 2) in the tissue, any two of them at least APART pixels apart."""
    places = np.zeros((0, 2))
    while len(places) < CELLS:
        place = rng.uniform(MARGIN + APART, EDGE - MARGIN - APART, 2)
        if not len(places) or np.linalg.norm(places - place, axis=1).min() >= APART:
            places = np.vstack([places, place])
    return places


def round_cells(places: np.ndarray, arrangement: str, rng: np.random.Generator) -> np.ndarray:
    """Which cells are round, bool (CELLS,): a half, which is nearest to a few points or any."""
    centres = rng.uniform(MARGIN, EDGE - MARGIN, (CLUSTERS, 2))
    nearness = np.linalg.norm(places[:, None] - centres[None], axis=2).min(1)
    order = np.argsort(nearness) if arrangement == "clustered" else rng.permutation(CELLS)
    chosen = np.zeros(CELLS, bool)
    chosen[order[: CELLS // 2]] = True
    return chosen


def draw(arrangement: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A slide uint8 (EDGE, EDGE, 3), and its cells by number, uint16 (EDGE, EDGE)."""
    image = np.full((EDGE, EDGE, 3), GLASS, np.float32)
    image[MARGIN:-MARGIN, MARGIN:-MARGIN] = STROMA
    labels = np.zeros((EDGE, EDGE), np.uint16)
    places = scattered(rng)
    for number, (place, is_round) in enumerate(zip(places, round_cells(places, arrangement, rng), strict=True), 1):
        axes = (6.0, 6.0) if is_round else (10.0, 5.0)
        rows, columns = ellipse(*place, *(axes * rng.uniform(0.85, 1.15, 2)), rotation=rng.uniform(0, np.pi))
        image[rows, columns] = ROUND if is_round else LONG
        labels[rows, columns] = number
    return np.clip(image + rng.normal(0, NOISE, image.shape), 0, 255).astype(np.uint8), labels


def build(folder: Path) -> Path:
    """Write slides, masks and the sheet; return the path of the sheet."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(SLIDES):
        arrangement, name = ARRANGEMENTS[number % 2], f"A{number + 1:02d}"
        image, labels = draw(arrangement, np.random.default_rng((SEED, number)))
        Image.fromarray(image).save(folder / f"{name}.png", compress_level=3)
        tifffile.imwrite(folder / f"{name}_cells.tif", labels, compression="zlib", tile=(256, 256))
        rows.append((name, folder / f"{name}.png", name, folder / f"{name}_cells.tif", MPP, arrangement))
    sheet = folder / "slides.tsv"
    with sheet.open("w", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
        writer.writerow(("slide_id", "path", "patient_id", "annotation", "mpp", "arrangement"))
        writer.writerows(rows)
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    print(build(parser.parse_args().folder))


if __name__ == "__main__":
    main()
