"""Views of graphs: nodes and edges on the tissue, and, of a slide predicted as a graph, what nodes contribute."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from histomake.base.records.record import usable
from histomake.base.units import Mpp
from histomake.graphs.store import StoredGraph
from histomake.pictures import bag_views, canvas, panel
from histomake.pictures.findings import SlideFindings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from histomake.slide.reader import SlideReader

CLOSE_PX = 760
"""Longest edge of the picture of a part of the slide."""

CLOSE_EDGE_PX = 24
"""Length of a median edge in that picture, at which single nodes can be seen."""

EDGE_COLOUR: canvas.Colour = (60, 60, 60)
EDGE_OPACITY = 0.6
UNKNOWN = "of no class"

SUBPIXEL_BITS = 4
"""Fractional bits of positions that OpenCV draws at."""

NODE_PX = (1.0, 5.0)
"""Smallest and largest radius of a node."""

NODE_SHARE = 0.16
"""Radius of a node in median edges, so that cells below can be seen."""


@dataclass(frozen=True)
class DrawnGraph:
    """A graph to draw: places float64 (n, 2) in level-0 pixels, pairs int64 (e, 2) of nodes, the median edge length in
    level-0 pixels (None without edges), and the class of each node, int64 (n,), -1 unknown, with the names of classes.
    """

    places: NDArray[np.float64]
    pairs: NDArray[np.int64]
    edge_px: float | None
    classes: NDArray[np.int64]
    class_names: list[str]

    @classmethod
    def of(cls, graph: StoredGraph) -> DrawnGraph:
        """A stored graph; a node has the class whose value is highest, if any is positive."""
        record, (pairs, lengths) = usable(graph.record), graph.edges()
        classes, names = np.full(len(graph), -1), list[str]()
        for group in record.groups:
            if group.name in ("class", "classes"):
                values = graph.vectors(group.name).astype(np.float32)
                classes = np.where(values.max(1) > 0, values.argmax(1), -1)
                names = [name.removeprefix("is_").removeprefix("score_") for name in group.values]
        median = float(np.median(lengths)) / record.mpp if len(lengths) else None
        return cls(graph.places().astype(np.float64), pairs, median, classes, names)


def graph(findings: SlideFindings, thumb: canvas.Thumbnail) -> list[NDArray[np.uint8]]:
    """Draw nodes by class, by what they contribute to each output, and the latter where attention is highest."""
    assert findings.graph is not None
    assert findings.nodes is not None
    if not findings.nodes.num_rows:
        return [panel.panel(thumb.pixels, thumb, "The graph of this slide has no predicted node", {})]
    drawn = DrawnGraph.of(findings.graph)
    assert findings.model.bag is not None
    assert findings.model.bag.graph is not None
    panels = [_by_class(thumb, drawn, f"Graph {findings.model.bag.graph.name}")]
    shown = bag_views.shown_outputs(findings)
    panels += [_by_contribution(findings, thumb, drawn, name) for name in shown]
    attention = findings.nodes["attention"].to_numpy()
    close = _enlarged(findings.reader, thumb, drawn, attention)
    if close is not None:
        panels.append(_by_contribution(findings, close, drawn, shown[0], where=", where attention is highest"))
    return panels


def graph_alone(reader: SlideReader, stored: StoredGraph, *, name: str, mpp: Mpp) -> NDArray[np.uint8]:
    """The picture uint8 (h, w, 3) of graph ``name`` on its slide at ``mpp`` µm per pixel, without any prediction.

    Nodes have the colours of their classes. On a large slide, the part with most nodes is enlarged.
    """
    record, thumb = usable(stored.record), canvas.thumbnail(reader, mpp)
    heading = f"{record.slide_id} at {thumb.mpp:.3g} µm/px; graph {name}, nodes: {record.settings['nodes']}"
    if not len(stored):
        panels = [panel.panel(thumb.pixels, thumb, "The graph of this slide has no node", {})]
    else:
        drawn = DrawnGraph.of(stored)
        panels = [_by_class(thumb, drawn, "On the slide")]
        close = _enlarged(reader, thumb, drawn, np.ones(len(stored)))
        panels += [] if close is None else [_by_class(close, drawn, "Where most nodes are")]
    return canvas.headed(panel.arranged(panels), heading)


def _enlarged(
    reader: SlideReader, thumb: canvas.Thumbnail, drawn: DrawnGraph, weights: NDArray[np.floating]
) -> canvas.Thumbnail | None:
    """The part of a slide with the highest sum of ``weights`` (n,) of nodes; None if it is no larger than in thumb."""
    box = closest_box(drawn, weights, width=reader.width, height=reader.height)
    enough = box is not None and max(box[2:]) / CLOSE_PX < 0.7 * thumb.scale
    return canvas.region(reader, box, CLOSE_PX) if box is not None and enough else None


def closest_box(drawn: DrawnGraph, attention: NDArray[np.floating], *, width: int, height: int) -> canvas.Box | None:
    """The part of a slide of ``width`` x ``height`` in which attention (n,) is highest and single nodes can be seen.

    It is the cell of a lattice with the highest sum. None for a graph without edges.
    """
    if drawn.edge_px is None:
        return None
    side = max(1, round(drawn.edge_px * CLOSE_PX / CLOSE_EDGE_PX))
    columns = 1 + width // side
    cell = (drawn.places // side).astype(np.int64)
    best = int(np.bincount(cell[:, 1] * columns + cell[:, 0], weights=attention).argmax())
    x, y = best % columns * side, best // columns * side
    found = (x, y, max(1, min(side, width - x)), max(1, min(side, height - y)))
    return tuple(canvas.Level0Pixels(value) for value in found)  # type: ignore[return-value]


def _by_class(thumb: canvas.Thumbnail, drawn: DrawnGraph, what: str) -> NDArray[np.uint8]:
    names: Mapping[int, str] = {-1: UNKNOWN, **dict(enumerate(drawn.class_names))}
    known = canvas.class_colours(drawn.class_names)
    unknown = canvas.GREY if known else canvas.PALETTE[0]
    colours = np.array([known.get(names[code], unknown) for code in drawn.classes.tolist()], np.uint8)
    inside, pairs = _inside(thumb, drawn)
    classes = drawn.classes[inside]
    legend = {
        f"{name}: {(classes == code).sum():,}": known.get(name, unknown)
        for code, name in names.items()
        if known and (code >= 0 or (classes < 0).any())
    }
    title = f"{what}: {len(classes):,} nodes, {len(pairs):,} edges"
    return panel.panel(painted(thumb, drawn, colours), thumb, title, legend)


def _inside(thumb: canvas.Thumbnail, drawn: DrawnGraph) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Whether each node (n,) is in the picture, and the pairs of those that are."""
    height, width = thumb.pixels.shape[:2]
    at = (drawn.places - [thumb.left, thumb.top]) / thumb.scale
    inside = ((at >= 0) & (at <= [width, height])).all(1)
    return inside, drawn.pairs[inside[drawn.pairs].all(1)]


def _by_contribution(
    findings: SlideFindings, thumb: canvas.Thumbnail, drawn: DrawnGraph, name: str, *, where: str = ""
) -> NDArray[np.uint8]:
    assert findings.nodes is not None
    shares, ends, total = bag_views.contrast(findings, findings.nodes, name)
    colours = canvas.score_colours(shares, canvas.DIFFERENCE_MAP)
    title = f"Contribution of nodes to {name}{where}: {total:+.2f} over the slide"
    return panel.panel(painted(thumb, drawn, colours), thumb, title, {}, scale=ends, colour_map=canvas.DIFFERENCE_MAP)


def painted(thumb: canvas.Thumbnail, drawn: DrawnGraph, colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The thumbnail with edges as lines and nodes as discs of their colours uint8 (n, 3); new pixels."""
    height, width = thumb.pixels.shape[:2]
    # Pixel centres are at whole numbers in OpenCV.
    at = (drawn.places - [thumb.left, thumb.top]) / thumb.scale - 0.5
    radius = float(np.clip(NODE_SHARE * (drawn.edge_px or 0) / thumb.scale, *NODE_PX))
    seen = ((at > -radius - 1) & (at < np.array([width, height]) + radius + 1)).all(1)
    fixed = np.rint(at * 2**SUBPIXEL_BITS).astype(np.int32)
    lines = thumb.pixels.copy()
    met = seen[drawn.pairs].any(1)
    cv2.polylines(lines, list(fixed[drawn.pairs[met]]), False, EDGE_COLOUR, 1, cv2.LINE_AA, SUBPIXEL_BITS)
    pixels = cv2.addWeighted(thumb.pixels, 1 - EDGE_OPACITY, lines, EDGE_OPACITY, 0)
    size = round(radius * 2**SUBPIXEL_BITS)
    for place, colour in zip(fixed[seen].tolist(), colours[seen].tolist(), strict=True):
        cv2.circle(pixels, place, size, colour, cv2.FILLED, cv2.LINE_AA, SUBPIXEL_BITS)
        if radius > 3:
            cv2.circle(pixels, place, size, EDGE_COLOUR, 1, cv2.LINE_AA, SUBPIXEL_BITS)
    return np.asarray(pixels, np.uint8)


PAINTERS = {"attention": bag_views.attention, "graph": graph}
