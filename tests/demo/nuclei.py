"""Slides of the nuclei example: real images, and mosaics of them on glass, in which a cascade can skip most pixels.

``python -m tests.demo.nuclei FOLDER [--images DIR]`` writes mosaics and ``slides.tsv`` into FOLDER, with the same bytes
every time. Every image is one patient with one role and is used only in mosaics of that role. Test images are also
single slides in the sheet, so that each can be scored separately.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

DATA = Path(__file__).resolve().parent.parent / "data" / "nuclei"
MPP = 0.5
SEED = 2018
ROLES = ("train", "val", "train", "test", "train", "train", "val", "test", "train", "train", "test", "train")
"""Roles assigned in turn to the images of a stain: of 12 images, 7 for training, 2 for validation, 3 for testing."""

COLUMNS, MOST = 4, 16
TISSUE = {"": 0.18, "-half": 0.48}
"""Share of a mosaic's area covered by images. The savings of a cascade depend on it, so test mosaics have both."""

GLASS = (243, 242, 245)
GLASS_NOISE = 1.5


@dataclass(frozen=True)
class Picture:
    """One image, its label mask, its role, and its size in a mosaic."""

    path: Path
    labels: Path
    role: str

    @property
    def name(self) -> str:
        return self.path.stem


def stain(path: Path) -> str:
    """Return pink (H&E), pale (purple nuclei on glass) or purple, by colour: the three stains in the collection."""
    pixels = np.asarray(Image.open(path).convert("RGB"), np.float32)
    red, green, _ = pixels.reshape(-1, 3).mean(0)
    if green < 125 and red > 180:
        return "pink"
    return "pale" if np.percentile(pixels[..., 1], 90) > 200 else "purple"


def deal(folder: Path) -> list[Picture]:
    """Return all images of a folder with their roles; every role gets its share of every stain."""
    kinds: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.png")):
        kinds.setdefault(stain(path), []).append(path)
    return [
        Picture(path, path.with_name(f"{path.stem}_labels.tif"), ROLES[i % len(ROLES)])
        for _, paths in sorted(kinds.items())
        for i, path in enumerate(paths)
    ]


def compose(pictures: list[Picture], tissue: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return a slide with the images side by side on glass, covering ``tissue`` of its area, and its labels."""
    tiles = [np.asarray(Image.open(p.path).convert("RGB")) for p in pictures]
    height, width = tiles[0].shape[:2]
    rows = -(-len(tiles) // COLUMNS)
    columns = min(COLUMNS, len(tiles))
    edge = int(np.sqrt(len(tiles) * height * width / tissue))
    edge = max(edge, rows * height, columns * width)
    slide = np.clip(rng.normal(GLASS, GLASS_NOISE, (edge, edge, 3)).round(), 0, 255).astype(np.uint8)
    labels = np.zeros((edge, edge), np.uint16)
    top, left = (edge - rows * height) // 2, (edge - columns * width) // 2
    for i, (picture, tile) in enumerate(zip(pictures, tiles, strict=True)):
        y, x = top + i // COLUMNS * height, left + i % COLUMNS * width
        slide[y : y + height, x : x + width] = tile
        nuclei = tifffile.imread(picture.labels).astype(np.uint16)
        labels[y : y + height, x : x + width] = np.where(nuclei > 0, nuclei + labels.max(), 0)
    return slide, labels


def build(folder: Path, images: Path) -> Path:
    """Write the mosaics and the sheet; return the path of the sheet."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(SEED)
    pictures = deal(images)
    rows = [(p.name, p.path, p.name, p.labels, p.role) for p in pictures if p.role == "test"]
    for role in ("train", "val", "test"):
        members = [p for p in pictures if p.role == role]
        parts = -(-len(members) // MOST)
        kinds = TISSUE.items() if role == "test" else list(TISSUE.items())[:1]
        for number, (kind, tissue) in product(range(parts), kinds):
            name = f"mosaic-{role}-{number + 1}{kind}"
            slide, labels = compose(members[number::parts], tissue, rng)
            Image.fromarray(slide).save(folder / f"{name}.png", compress_level=3)
            tifffile.imwrite(folder / f"{name}_labels.tif", labels, compression="zlib", tile=(256, 256))
            rows.append((name, folder / f"{name}.png", name, folder / f"{name}_labels.tif", role))
    sheet = folder / "slides.tsv"
    with sheet.open("w", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
        writer.writerow(("slide_id", "path", "patient_id", "annotation", "mpp", "split"))
        writer.writerows((i, path, patient, labels, MPP, role) for i, path, patient, labels, role in rows)
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--images", type=Path, default=DATA.relative_to(Path.cwd()) if DATA.is_relative_to(Path.cwd()) else DATA
    )
    arguments = parser.parse_args()
    print(build(arguments.folder, arguments.images))


if __name__ == "__main__":
    main()
