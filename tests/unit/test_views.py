"""Tests of the views of slides for every kind of task: painted areas, and slides without predictions or annotation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import shapely
import zarr
from histomake.annotation.model import Annotation
from histomake.config import Grid
from histomake.pictures import canvas, label_views, number_views, panel, pixel_views, views
from histomake.pictures.findings import SlideFindings
from histomake.pictures.kinds import PICTURED
from histomake.pictures.tissue_view import ARTEFACTS, TISSUE, tissue_view
from histomake.tissue.artefacts import PEN

from tests.sample_records import annotation, artefact_map, model_card, no_annotation, patch_table, tissue_mask

DICTIONARY = pa.dictionary(pa.int32(), pa.string())
SPAN = 256
MPP = 0.5
COLUMNS, ROWS = 8, 6
CLASSES = ["skin", "nuclei"]


class WhiteSlide:
    """Replacement for a reader: COLUMNS x ROWS patches at MPP µm per pixel, all white."""

    mpp, width, height = MPP, COLUMNS * SPAN, ROWS * SPAN

    def read_whole(self, mpp: float) -> np.ndarray:
        factor = self.mpp / mpp
        return np.full((int(np.ceil(self.height * factor)), int(np.ceil(self.width * factor)), 3), 255, np.uint8)

    def read(self, x: int, y: int, size: tuple[int, int], mpp: float) -> np.ndarray:
        return np.full((size[1], size[0], 3), 255, np.uint8)


def findings(
    kind: str,
    columns: dict[str, object],
    *,
    classes: list[str] = CLASSES,
    threshold: float | list[float] = 0.5,
    regions: list[tuple[str, shapely.Geometry]] = (),
    annotated: bool = True,
    labels: Path | None = None,
) -> SlideFindings:
    """Return a slide whose first patches, in reading order, have the given columns."""
    count = len(next(iter(columns.values())))
    place = {"x": np.arange(count) % COLUMNS * SPAN, "y": np.arange(count) // COLUMNS * SPAN}
    table = {name: pa.array(values, pa.int32()) for name, values in place.items()}
    for name, values in columns.items():
        text = name in ("predicted", "label")
        table[name] = pa.array(values, pa.string()).cast(DICTIONARY) if text else pa.array(values, pa.float32())
    target = {"classes": [c for c in classes if c != "background"]}
    return SlideFindings(
        reader=WhiteSlide(),
        table=patch_table("S", width=WhiteSlide.width, height=WhiteSlide.height, mpp=MPP, grid=Grid(size=128, mpp=1.0)),
        model=model_card(kind, class_names=list(classes), threshold=threshold, target=target),
        predictions=pa.table(table),
        annotation=Annotation(
            tuple(sorted(CLASSES)), list(regions), record=annotation() if annotated else no_annotation()
        ),
        label_store=labels,
    )


def share(pixels: np.ndarray, colour: tuple[int, int, int], tolerance: int = 3) -> float:
    return float((np.abs(pixels.astype(int) - colour).max(axis=2) <= tolerance).mean())


def blended(colour: tuple[int, int, int], opacity: float = canvas.OPACITY) -> tuple[int, ...]:
    """Return a colour blended over white."""
    return tuple(round(255 * (1 - opacity) + c * opacity) for c in colour)


def test_a_patch_with_several_classes_is_shown_in_the_panel_of_each():
    found = findings(
        "multi_label",
        {
            "score_skin": [0.9, 0.9, 0.1],
            "score_nuclei": [0.8, 0.1, 0.1],
            "predicted": ["skin+nuclei", "skin", ""],
            "label": ["skin", "skin+nuclei", "nuclei"],
        },
        threshold=[0.5, 0.5],
    )
    assert label_views.has(found, "predicted").tolist() == [[True, True], [True, False], [False, False]]
    picture = panel.arranged(label_views.prediction(found, canvas.thumbnail(found.reader, 4.0)))
    skin, nuclei = (share(picture, blended(canvas.PALETTE[i])) for i in range(2))
    assert skin == pytest.approx(2 * nuclei, rel=0.05)


def test_overlapping_patches_are_coloured_only_in_their_central_part():
    found = findings("regression", {"score_v": [0.0, 1.0]}, classes=["v"])
    found.table.grid["stride"] = 64
    found = replace(found, predictions=found.predictions.set_column(0, "x", pa.array([0, SPAN // 2], pa.int32())))
    middles = found.middles
    assert (middles.x.tolist(), middles.y.tolist(), middles.span) == ([64.0, 192.0], [64.0, 64.0], 128.0)


def test_multi_label_errors_are_shown_for_each_class():
    found = findings(
        "multi_label",
        {
            "score_skin": [0.9, 0.9, 0.1, 0.5],
            "score_nuclei": [0.8, 0.1, 0.1, 0.5],
            "predicted": ["skin+nuclei", "skin", "", "skin"],
            "label": ["skin+nuclei", "nuclei", "nuclei", None],
        },
        threshold=[0.5, 0.5],
    )
    picture = panel.arranged(label_views.truth(found, canvas.thumbnail(found.reader, 4.0)))
    hit, missed, alarm = (share(picture, blended(c)) for c in (canvas.RIGHT, canvas.MISSED, canvas.FALSE_ALARM))
    assert hit == pytest.approx(2 * alarm, rel=0.05)
    assert missed == pytest.approx(2 * alarm, rel=0.05)
    assert alarm > 0


def test_area_shares_are_drawn_from_0_to_1_and_numbers_over_their_range():
    numbers = {"score_age": [20.0, 60.0], "target_age": [10.0, None], "predicted": [None] * 2, "label": [None] * 2}
    found = findings("regression", numbers, classes=["age"])
    assert number_views.value_range(found, 0) == (0, 1)
    found.model.target["classes"] = []
    assert number_views.value_range(found, 0) == (10, 60)


def test_too_high_and_too_low_values_have_different_colours_and_equal_values_are_drawn():
    ends = {True: canvas.score_colours(np.array([0.0, 1.0]), canvas.DIFFERENCE_MAP)}
    columns = {"predicted": [None] * 2, "label": [None] * 2, "target_x": [0.5, 0.5]}
    found = findings("regression", columns | {"score_x": [0.2, 0.8]}, classes=["x"])
    picture = panel.arranged(number_views.truth(found, canvas.thumbnail(found.reader, 4.0)))
    for colour in ends[True]:
        assert share(picture, blended(colour, panel.SCORE_OPACITY)) > 0
    same = findings("regression", columns | {"score_x": [0.5, 0.5]}, classes=["x"])
    assert panel.arranged(number_views.truth(same, canvas.thumbnail(same.reader, 4.0))).shape[2] == 3


def segmented(folder: Path, found: np.ndarray) -> Path:
    """Write a label pyramid of two levels, 1 µm per pixel: two level-0 pixels per label."""
    group = zarr.open_group(folder / "labels.zarr", mode="w", zarr_format=3)
    group.attrs["ome"] = {"multiscales": [{"datasets": [{"path": "0"}, {"path": "1"}]}]}
    for level, values in enumerate((found, found[::2, ::2])):
        group.create_array(str(level), data=values)
    return folder / "labels.zarr"


def pixel_findings(tmp_path: Path, **options) -> SlideFindings:
    """Return skin predicted in the left half and annotated in the left quarter; nuclei annotated, but not predicted."""
    labels = np.zeros((ROWS * 128, COLUMNS * 128), np.uint8)
    labels[:, : labels.shape[1] // 2] = 1
    width, height = WhiteSlide.width, WhiteSlide.height
    drawn = [("skin", shapely.box(0, 0, width / 4, height)), ("nuclei", shapely.box(3 * width / 4, 0, width, height))]
    count = COLUMNS * ROWS
    columns = {"predicted": ["skin"] * count, "label": ["skin"] * count}
    store = segmented(tmp_path, labels)
    return findings("segmentation", columns, classes=["background", *CLASSES], regions=drawn, labels=store, **options)


@pytest.mark.parametrize("mpp", [1.0, 1.7, 4.0])
def test_a_segmentation_is_drawn_at_its_position(tmp_path, mpp):
    found = pixel_findings(tmp_path)
    labels = found.predicted_labels(canvas.thumbnail(found.reader, mpp))
    border = np.flatnonzero(np.diff(labels[0].astype(int)))[0] + 1
    assert abs(border - WhiteSlide.width / 2 * MPP / mpp) <= 0.5


def test_a_part_of_a_segmentation_is_drawn_at_its_position(tmp_path):
    found = pixel_findings(tmp_path)
    thumb = canvas.region(found.reader, (WhiteSlide.width // 2 - 100, 300, 400, 300), 200)
    labels = found.predicted_labels(thumb)
    assert labels.shape == (150, 200)
    assert abs(np.flatnonzero(np.diff(labels[0].astype(int)))[0] + 1 - 50) <= 1


def test_pixel_errors_are_shown_for_each_class(tmp_path):
    found = pixel_findings(tmp_path)
    thumb = canvas.thumbnail(found.reader, 4.0)
    true, predicted = pixel_views.true_labels(found, thumb), pixel_views.predicted(found, thumb)
    skin = pixel_views._errors(thumb, "skin", predicted == 1, true == 1)
    hit, alarm = share(skin, blended(canvas.RIGHT)), share(skin, blended(canvas.FALSE_ALARM))
    assert hit == pytest.approx(alarm, rel=0.05)
    assert share(skin, blended(canvas.MISSED)) < 0.01
    assert len(pixel_views.truth(found, thumb)) == 4


def test_unlabelled_pixels_are_evaluated_only_if_background_is_a_class(tmp_path):
    found = pixel_findings(tmp_path)
    thumb = canvas.thumbnail(found.reader, 4.0)
    assert pixel_views.known_pixels(found, thumb).all()
    found.model.class_names.remove("background")
    assert pixel_views.known_pixels(found, thumb).mean() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("kind", ["multi_label", "regression", "segmentation"])
def test_a_slide_without_patches_or_annotation_is_drawn(tmp_path, kind):
    columns = {"predicted": [], "label": []}
    columns |= {f"{what}_{name}": [] for what in ("score", "target") for name in CLASSES}
    found = findings(kind, columns, threshold=[0.5, 0.5] if kind == "multi_label" else 0.5, annotated=False)
    out = {view: tmp_path / f"{view}.png" for view in PICTURED[found.kind].views}
    views.draw_views(found, mpp=4.0, out=out)
    assert ("confidence" in out) == (kind == "multi_label")
    assert all(path.stat().st_size > 500 for path in out.values())


def test_a_small_region_is_drawn_at_the_resolution_of_the_slide(tmp_path):
    found = pixel_findings(tmp_path)
    assert canvas.region(found.reader, (0, 0, 300, 200), 760).pixels.shape == (200, 300, 3)
    assert canvas.region(found.reader, (0, 0, 2000, 1000), 500).mpp == pytest.approx(2.0)
    views.draw_region(found, (500, 300, 800, 400), tmp_path / "region.png")
    assert (tmp_path / "region.png").stat().st_size > 500


def test_tissue_and_artefacts_are_drawn_at_their_positions():
    mask, labels = np.zeros((ROWS, COLUMNS), bool), np.zeros((ROWS, COLUMNS), np.uint8)
    mask[:, :4] = True
    labels[:, 6:] = PEN
    found = tissue_mask(mask, SPAN)
    artefacts = artefact_map(labels, shares={"pen": 0.25, "blur": 0.0, "fold": 0.0})
    picture = tissue_view(WhiteSlide(), found, artefacts, slide_id="S", mpp=4.0)
    tissue, pen = (share(picture, blended(colour, canvas.OPACITY / 2)) for colour in (TISSUE, ARTEFACTS[PEN]))
    assert tissue == pytest.approx(2 * pen, rel=0.1)
    assert pen > 0
