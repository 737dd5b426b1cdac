"""Export features for other programs, a file per slide.

h5: datasets features and coords with attributes as TRIDENT writes them, which CLAM reads too. h5ad: AnnData, with
features in X, centres of the patches in obsm["spatial"], annotated shares and predictions in obs, for scanpy and
squidpy (needs the package anndata). spatialdata: the same table with the patches, the tissue and the annotation as
shapes, a Zarr folder, for squidpy and napari-spatialdata (needs the package spatialdata). With --coordinates and a
grid instead of --encoder: the kept patches as a file of coordinates, from which TRIDENT extracts features that
`import-features` takes.

examples:
  histomake export-features exported --encoder uni2
  histomake export-features exported --encoder uni2 --format h5ad --slide S1
  histomake export-features exported --encoder uni2 --format spatialdata
  histomake export-features trident/patches --coordinates x20
"""

from __future__ import annotations

import argparse
from pathlib import Path

from histomake.base.errors import HistomakeError
from histomake.base.files import existing
from histomake.base.layout import Layout
from histomake.cli import add_results

SUFFIXES = {"h5": "h5", "h5ad": "h5ad", "spatialdata": "zarr"}
"""Formats of features, and how the names of their files end."""


def configure(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    command.add_argument("folder", type=Path, help="folder to write")
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument("--encoder", help="name of the encoder, as in config.yaml")
    what.add_argument("--coordinates", metavar="GRID", help="write the kept patches of a grid instead of features")
    command.add_argument("--format", choices=tuple(SUFFIXES), default="h5", help="format of features (default: h5)")
    command.add_argument("--slide", action="append", help="only this slide; may be repeated")
    add_results(command)


def run(options: argparse.Namespace) -> int:
    """Write the files and print a line for each."""
    from histomake.features import exports, spatial
    from histomake.features.search import FeatureCohort

    layout = Layout(options.results)
    if options.coordinates:
        known = [path.stem for path in existing(layout.table(options.coordinates, "*"), under=layout.results)]
    else:
        cohort = FeatureCohort(layout, options.encoder)
        known = sorted(cohort.files)
    slides = options.slide or known
    if unknown := sorted(set(slides) - set(known)):
        raise HistomakeError(f"{layout.results} has nothing to export of {', '.join(unknown)}")
    writers = {"h5": exports.export_h5, "h5ad": exports.export_anndata, "spatialdata": spatial.export_spatialdata}
    options.folder.mkdir(parents=True, exist_ok=True)
    for slide in slides:
        if options.coordinates:
            path = options.folder / f"{slide}_patches.h5"
            try:
                count = exports.export_coordinates(layout, options.coordinates, slide, path)
            except HistomakeError as error:
                print(f"left out: {error}")
                continue
        else:
            path = options.folder / f"{slide}.{SUFFIXES[options.format]}"
            count = writers[options.format](layout, cohort, slide, path)
        print(f"{path}: {count} patches")
    return 0
