"""The virtual slides of a slide: the same place in another stain, in silico, as layers of the viewer."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

from histomake.base.files import existing
from histomake.base.layout import Layout
from histomake.base.records.manifest import Manifest, VirtualStain
from histomake.base.records.record import Quarantined
from histomake.viewer.levels import ShownLevel, describe_levels


class VirtualSlide(TypedDict):
    """A virtual slide: its mark, and its store in the form of that of the scanned slide.

    Width, height and downsamples count level-0 pixels of the scanned slide; the finest level is coarser than those.
    """

    transfer: str
    mark: str
    width: int
    height: int
    store: str
    tiles: str
    levels: list[ShownLevel]


def describe(layout: Layout, slide: str) -> list[VirtualSlide]:
    """Virtual slides of a slide, by name of the transfer."""
    return [
        {
            "transfer": stain.transfer,
            "mark": stain.label,
            "width": manifest.width,
            "height": manifest.height,
            "store": f"files/transfers/{stain.transfer}/{manifest.store}",
            "tiles": f"virtual/{stain.transfer}/{slide}",
            "levels": describe_levels(path),
        }
        for path, manifest, stain in _made(layout, slide)
    ]


def manifest_of(layout: Layout, slide: str, transfer: str) -> Path:
    """The manifest of a virtual slide. Raises KeyError if the transfer has made none of the slide."""
    return {stain.transfer: path for path, _, stain in _made(layout, slide)}[transfer]


def _made(layout: Layout, slide: str) -> list[tuple[Path, Manifest, VirtualStain]]:
    """Paths and contents of the manifests of a slide's virtual slides; those in quarantine are left out."""
    paths = existing(layout.transfer("*").manifest(slide), under=layout.results)
    read = [(path, Manifest.read(path)) for path in paths]
    return [(path, m, m.virtual) for path, m in read if not isinstance(m, Quarantined) and m.virtual is not None]
