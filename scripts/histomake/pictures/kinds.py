"""Images of each kind of task: views of a slide, and overlays in the viewer.

The Snakefile reads the names of the views, so drawing functions are imported only when they are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from histomake.base.kinds import Kind

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from histomake.pictures.canvas import Thumbnail
    from histomake.pictures.findings import SlideFindings

    Painter = Callable[[SlideFindings, Thumbnail], list[NDArray[np.uint8]]]

Overlay = tuple[str, str]
"""Title of an overlay of patches, and its content: ``"2"``: the score of output 2; ``"called 2"``: the patches for
which output 2 is predicted; ``"called"``: the predicted class; ERRORS: whether the prediction is the annotation."""

ERRORS = "errors"

WITH_CONFIDENCE = ("prediction", "confidence", "truth")
WITHOUT_CONFIDENCE = ("prediction", "truth")
WITH_ATTENTION = ("attention",)
"""Views of what is predicted from a bag of patches, whatever the kind."""
WITH_GRAPH = (*WITH_ATTENTION, "graph")
"""Views of what is predicted from a graph."""


@dataclass(frozen=True)
class Pictured:
    """Images of one kind of task.

    Attributes:
        views: Names of the views of a slide; one of the sets for which there is a rule.
        painters: Imports and returns the functions that draw the views, by name.
        overlays: Returns the overlays of patches in the viewer for the names of the outputs; the first is the default.
    """

    views: tuple[str, ...]
    painters: Callable[[], Mapping[str, Painter]]
    overlays: Callable[[Sequence[str]], list[Overlay]]


def views_of(kind: Kind, *, bags: bool, graphs: bool) -> tuple[str, ...]:
    """Names of the views of a slide; ``bags``: predicted as part of a bag of patches; ``graphs``: of a graph."""
    if graphs:
        return WITH_GRAPH
    return WITH_ATTENTION if bags else PICTURED[kind].views


def overlays_of(kind: Kind, names: Sequence[str], *, bags: bool) -> list[Overlay]:
    """Overlays of patches in the viewer for the names of what is shown of each patch."""
    return _scores(names, "patches:") if bags else PICTURED[kind].overlays(names)


def painters_of(kind: Kind, *, bags: bool, graphs: bool) -> Mapping[str, Painter]:
    """The functions that draw the views, by name."""
    if graphs:
        return _graph_painters()
    return _bag_painters() if bags else PICTURED[kind].painters()


def _class_painters() -> Mapping[str, Painter]:
    from histomake.pictures import class_views

    return class_views.PAINTERS


def _label_painters() -> Mapping[str, Painter]:
    from histomake.pictures import label_views

    return label_views.PAINTERS


def _number_painters() -> Mapping[str, Painter]:
    from histomake.pictures import number_views

    return number_views.PAINTERS


def _pixel_painters() -> Mapping[str, Painter]:
    from histomake.pictures import pixel_views

    return pixel_views.PAINTERS


def _bag_painters() -> Mapping[str, Painter]:
    from histomake.pictures import bag_views

    return bag_views.PAINTERS


def _graph_painters() -> Mapping[str, Painter]:
    from histomake.pictures import graph_views

    return graph_views.PAINTERS


def _scores(names: Sequence[str], title: str) -> list[Overlay]:
    return [(f"{title} {name}", str(i)) for i, name in enumerate(names)]


def _class_and_scores(names: Sequence[str]) -> list[Overlay]:
    return [("class", "called"), *_scores(names, "score of"), ("errors", ERRORS)]


def _labels_and_scores(names: Sequence[str]) -> list[Overlay]:
    return [
        *((f"has {name}", f"called {i}") for i, name in enumerate(names)),
        *_scores(names, "score of"),
        ("errors", ERRORS),
    ]


PICTURED: dict[Kind, Pictured] = {
    Kind.CLASSIFICATION: Pictured(WITH_CONFIDENCE, _class_painters, _class_and_scores),
    Kind.MULTI_LABEL: Pictured(WITH_CONFIDENCE, _label_painters, _labels_and_scores),
    Kind.REGRESSION: Pictured(WITHOUT_CONFIDENCE, _number_painters, lambda names: _scores(names, "value of")),
    Kind.SEGMENTATION: Pictured(WITHOUT_CONFIDENCE, _pixel_painters, lambda names: _scores(names, "share of")),
    Kind.SURVIVAL: Pictured(WITH_ATTENTION, _bag_painters, lambda names: _scores(names, "patches:")),
}
