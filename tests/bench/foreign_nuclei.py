"""A trained cascade on images of other stains, scanners and sizes of nuclei, against Otsu's threshold.

Real images that the cascade was not trained or searched on are shown as they are and with fixed changes. Nothing of the
cascade changes: neither weights nor thresholds nor parting.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import tifffile
import yaml
from histomake.base.records.cascade_thresholds import ThresholdsRecord
from histomake.base.windows import Window
from histomake.cascade.infer import answers_of, deployed, load_networks, whole_labels
from histomake.cascade.levels import read_window, slide_levels
from histomake.cascade.measures import Scores, otsu_nuclei, score
from histomake.cascade.run import run_cascade
from histomake.cells.parting import depth_px, part_array
from histomake.config import CascadeThresholds, Convert, Radhical
from histomake.slide.convert import convert
from histomake.slide.reader import open_slide
from PIL import Image

from tests.bench.figures import Figure
from tests.bench.restained import FIRST, SECOND, STRENGTH, amounts
from tests.demo import nuclei

WARM = np.array([1.0, 0.93, 0.85])
"""White balance of another scanner: factors of red, green and blue."""

GAMMA = 1.25
MEASURES = ("pixel_f", "f", "object_f1")


@dataclass(frozen=True)
class Shown:
    """An image as a slide: pixels uint8 (h, w, 3), numbers of nuclei (h, w), and the resolution in the sheet."""

    pixels: np.ndarray
    labels: np.ndarray
    mpp: float = nuclei.MPP

    def recoloured(self, pixels: np.ndarray) -> Shown:
        return Shown(np.rint(pixels).clip(0, 255).astype(np.uint8), self.labels, self.mpp)


def _stained(shown: Shown, vectors: np.ndarray, strength: np.ndarray | float) -> Shown:
    return shown.recoloured(np.exp(-(amounts(shown.pixels) * strength) @ vectors) * 255)


def _scanner(shown: Shown) -> Shown:
    return shown.recoloured((shown.pixels / 255) ** GAMMA * 255 * WARM)


def _zoomed(shown: Shown, zoom: float, mpp: float) -> Shown:
    method = cv2.INTER_AREA if zoom < 1 else cv2.INTER_LINEAR
    pixels = cv2.resize(shown.pixels, None, fx=zoom, fy=zoom, interpolation=method)
    size = pixels.shape[1::-1]
    labels = cv2.resize(shown.labels.astype(np.int32), size, interpolation=cv2.INTER_NEAREST_EXACT)
    return Shown(pixels, labels, mpp)


CHANGES: dict[str, Callable[[Shown], Shown]] = {
    "as they are": lambda shown: shown,
    "another stain": lambda shown: _stained(shown, SECOND, STRENGTH),
    "stain of 0.6 times the strength": lambda shown: _stained(shown, FIRST, 0.6),
    "stain of 1.5 times the strength": lambda shown: _stained(shown, FIRST, 1.5),
    "another scanner": _scanner,
    "out of focus": lambda shown: shown.recoloured(cv2.GaussianBlur(shown.pixels, (0, 0), 1.0)),
    "nuclei of 0.7 times the size": lambda shown: _zoomed(shown, 0.7, nuclei.MPP),
    "nuclei of 1.4 times the size": lambda shown: _zoomed(shown, 1.4, nuclei.MPP),
    "scanned at twice the resolution": lambda shown: _zoomed(shown, 2.0, nuclei.MPP / 2),
}


def held_back(more: Path) -> list[nuclei.Picture]:
    """The example's test images, and those of the folder ``more`` that the example does not have."""
    own = nuclei.deal(nuclei.DATA)
    names = {picture.name for picture in own}
    others = nuclei.deal(more) if more.is_dir() else []
    return [p for p in own if p.role == "test"] + [p for p in others if p.name not in names]


def measure(example: Path, more: Path, work: Path) -> list[Figure]:
    """Compare the cascade of the example's folder with Otsu's threshold, for each change and kind of image."""
    config = Radhical.model_validate(yaml.safe_load((example / "config.yaml").read_text())["radhical"]["nuclei"])
    folder = example / "results" / "radhical" / "nuclei"
    found = ThresholdsRecord.read(folder / "thresholds.json")
    thresholds = CascadeThresholds.model_validate(found.thresholds, from_attributes=True)
    weights = [folder / f"level{number}" / "model.safetensors" for number in range(1, len(config.scales) + 1)]
    networks = load_networks(weights, config, threads=2)

    def both(shown: Shown) -> tuple[Scores, Scores]:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        np.save(work / "image.npy", shown.pixels)
        store = Convert(codec="zstd", shard_px=1024)
        manifest = convert(work / "image.npy", work / "image.zarr", slide_id="image", config=store, mpp=shown.mpp)
        manifest.write(work / "image.json")
        reader = open_slide(work / "image.json")
        levels = slide_levels(manifest, config)
        used, answers = deployed(levels, answers_of(reader, networks, config), thresholds)
        maps = run_cascade(used, answers, thresholds, block=answers.block)
        size = Window(0, 0, levels[0].height, levels[0].width)
        masks = whole_labels(maps[-1], cut=thresholds.cut) > 0, otsu_nuclei(read_window(reader, levels[0], size))
        truth = cv2.resize(shown.labels, size[:1:-1], interpolation=cv2.INTER_NEAREST_EXACT)
        depth = depth_px(found.parting.neck_um, levels[0].mpp)
        cascade, otsu = (score(part_array(mask, depth), truth, complete=True) for mask in masks)
        return cascade, otsu

    pictures = [p for p in held_back(more) if tifffile.imread(p.labels).any()]
    return [figure for name in CHANGES for figure in _figures(name, pictures, both)]


def _figures(
    change: str, pictures: list[nuclei.Picture], both: Callable[[Shown], tuple[Scores, Scores]]
) -> Iterator[Figure]:
    """Yield the means over the images of each kind, the cascade's beside those of Otsu's threshold."""
    kinds: dict[str, list[tuple[Scores, Scores]]] = {}
    for picture in pictures:
        pixels = np.asarray(Image.open(picture.path).convert("RGB"))
        shown = Shown(pixels, tifffile.imread(picture.labels).astype(np.int32))
        kinds.setdefault(nuclei.stain(picture.path), []).append(both(CHANGES[change](shown)))
    for kind, pairs in sorted(kinds.items()):
        for measure in MEASURES:
            cascade, otsu = (float(np.mean([getattr(pair[i], measure) for pair in pairs])) for i in range(2))
            note = f"Otsu {otsu:.3f}, {len(pairs)} images"
            yield Figure(f"{kind}, {change}: {measure}", cascade, f">= {otsu:.3f}", cascade >= otsu, note=note)
