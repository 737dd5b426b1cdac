"""A slide and its masks as one OME-Zarr image, with the masks in its NGFF ``labels`` group, where viewers find them.

The store of a slide cannot get such a group: its digest is recorded when it is written, and a later job that adds to it
would change what earlier jobs have read. So the exported image is another folder. Files of the store are linked, not
copied, where the file system allows it; label images are encoded again, with a codec that every reader has.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from histomake.base.errors import HistomakeError
from histomake.base.files import STORE_METADATA, atomic_directory
from histomake.base.layout import Layout
from histomake.base.records.manifest import Manifest
from histomake.pictures import canvas
from histomake.viewer.masks import ANNOTATION, Mask, class_order, describe, open_layer

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHUNK, SHARD = 512, 4096


def export_slide(layout: Layout, slide: str, target: Path) -> list[str]:
    """Write ``target``, an OME-Zarr 0.5 image with a label image for every mask of the slide; return their names.

    Label images are of the annotated mask, of segmentations by task and fold, of cascades, and of cells by class.

    Raises HistomakeError if the slide is in quarantine or the folder exists.
    """
    if target.exists():
        raise HistomakeError(f"{target} exists. Give another folder, or remove it first")
    manifest = Manifest.read_usable(layout.manifest(slide))
    order = class_order(layout, slide)
    names = []
    with atomic_directory(target) as aside:
        _link_store(layout.manifest(slide).with_name(manifest.store), aside)
        for found in describe(layout, slide):
            mask = open_layer(layout, slide, found["task"], found["fold"])
            name = _label_name(found["task"], found["fold"])
            _write_mask(aside / "labels" / name, mask, manifest, order)
            names.append(name)
        if names:
            _write_group(aside / "labels", {"version": "0.5", "labels": names})
    return names


def _label_name(task: str, fold: int) -> str:
    return "annotation" if task == ANNOTATION else re.sub(r"[^\w-]", "_", f"{task}_fold{fold}")


def _link_store(store: Path, target: Path) -> None:
    if store.is_file():
        with zipfile.ZipFile(store) as archive:
            archive.extractall(target)
        return
    for file in store.rglob("*"):
        if file.is_file():
            place = target / file.relative_to(store)
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(file, place)
            except OSError:  # another file system, or one without links
                shutil.copyfile(file, place)


def _write_group(folder: Path, ome: Mapping[str, object]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome}}
    (folder / STORE_METADATA).write_text(json.dumps(content, indent=1))


def _write_mask(folder: Path, mask: Mask, manifest: Manifest, order: list[str]) -> None:
    """Write a label image: the levels of the mask, then every second label of the level before.

    It has as many levels as the slide, as NGFF recommends.
    """
    datasets = []
    array: zarr.Array | NDArray[np.uint8] = mask.levels[0]
    for level in range(len(manifest.levels)):
        stored = level < len(mask.levels)
        source, step = (mask.levels[level], 1) if stored else (array, 2)
        array = _write_level(folder / str(level), source, step, mask.as_classes if stored else np.asarray)
        datasets.append(_dataset(level, mask.pixel * 2**level, manifest))
    _write_group(folder, _image_label(mask.classes, datasets, order))


def _write_level(
    path: Path, source: zarr.Array | NDArray[np.uint8], step: int, as_classes: Callable[[NDArray[Any]], NDArray[Any]]
) -> zarr.Array:
    height, width = (-(-length // step) for length in source.shape)
    array = zarr.create_array(
        path,
        shape=(height, width),
        dtype=as_classes(np.zeros(1, source.dtype)).dtype,
        chunks=(CHUNK, CHUNK),
        shards=(SHARD, SHARD),
        compressors=ZstdCodec(level=3),
        dimension_names=("y", "x"),
    )
    for top in range(0, height, SHARD):
        for left in range(0, width, SHARD):
            rows, columns = (slice(start * step, (start + SHARD) * step, step) for start in (top, left))
            part = as_classes(np.asarray(source[rows, columns]))
            array[top : top + part.shape[0], left : left + part.shape[1]] = part
    return array


def _dataset(level: int, pixel: float, manifest: Manifest) -> Mapping[str, object]:
    """Place a level with ``pixel`` level-0 pixels per label over the slide: their top left corners coincide."""
    spacing = manifest.mpp_y, manifest.mpp_x
    scale = [mpp * pixel for mpp in spacing]
    shift = [(label - mpp) / 2 for label, mpp in zip(scale, spacing, strict=True)]
    transforms = [{"type": "scale", "scale": scale}, {"type": "translation", "translation": shift}]
    return {"path": str(level), "coordinateTransformations": transforms}


def _image_label(classes: list[str], datasets: list[Mapping[str, object]], order: list[str]) -> Mapping[str, object]:
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in ("y", "x")]
    palette = canvas.class_colours(order)
    properties = [{"label-value": i + 1, "class": name} for i, name in enumerate(classes)]
    colours = [{"label-value": i + 1, "rgba": [*map(int, palette[name]), 255]} for i, name in enumerate(classes)]
    label = {"version": "0.5", "properties": properties, "colors": colours, "source": {"image": "../../"}}
    multiscale = {"name": "labels", "axes": axes, "datasets": datasets, "type": "nearest"}
    return {"version": "0.5", "multiscales": [multiscale], "image-label": label}
