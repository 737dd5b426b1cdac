"""Seconds against AUROC of bags of chosen patches, for several budgets, and of bags of all patches.

Every test slide is predicted in one process from its store and patch tables, so that seconds compare. Models are loaded
before; how long that takes is stated apart.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import matplotlib as mpl

from tests.workshop import Workshop

mpl.use("agg")

DENSE, LOW, CHEAP = "dense", "low", "cheap"
ENCODER = "folder:demo/encoders/efficientnet-lite0"
BUDGETS = {"budget_1": 0.01, "budget_2": 0.02, "budget_4": 0.04}
"""Share of the patches that the encoder of each task sees."""

FOLD, THREADS = 0, 2


def encoders() -> dict[str, dict]:
    """The same encoder with each budget, and without one."""
    common = {"grid": "high", "name": ENCODER, "size": 128}
    found = {
        f"of_{name}": common | {"choose": {"task": LOW, "class_name": "lesion", "budget": budget}}
        for name, budget in BUDGETS.items()
    }
    return found | {f"of_{DENSE}": common}


def bag_tasks() -> dict[str, dict]:
    """A task on the grade of a slide for each encoder."""
    return {name: _bag_task(name) for name in (*BUDGETS, DENSE)}


def _bag_task(name: str) -> dict[str, Any]:
    return {
        "kind": "classification",
        "level": "slide",
        "grid": "high",
        "features": f"of_{name}",
        "target": {"source": "sheet", "column": "grade", "classes": ["low", "high"]},
        "bag": {"size": 512},
        "pooling": {"name": "gated", "embed": 128, "hidden": [64]},
        "train": {"steps": 200, "batch": 8, "validate_every": 20},
    }


@dataclass(frozen=True)
class Lost:
    """AUROC of patients of a task, and what it lost against bags of all patches, with a 95 % interval."""

    area: float
    value: float
    low: float
    high: float


@dataclass
class Point:
    """What a task took on all test slides: patches encoded of all, seconds by stage, and what it lost."""

    task: str
    encoded: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)
    lost: Lost = field(default_factory=lambda: Lost(0, 0, 0, 0))

    @property
    def seconds(self) -> float:
        """Seconds of all stages."""
        return sum(self.stages.values())

    @property
    def area(self) -> float:
        """AUROC of patients."""
        return self.lost.area


@dataclass(frozen=True)
class Front:
    """Tasks by budget, that of all patches last; ``slides``: number of test slides, ``loading``: seconds of models."""

    points: list[Point]
    slides: int
    patches: int
    loading: dict[str, float]

    @property
    def dense(self) -> Point:
        """Bags of all patches."""
        return self.points[-1]

    def table(self) -> str:
        """A table of seconds per slide by stage, in Markdown."""
        stages = list(dict.fromkeys(stage for point in self.points for stage in point.stages))
        lines = ["| " + " | ".join(["bag", "encoded", *stages, "seconds a slide", "of dense", "AUROC", "lost"]) + " |"]
        lines.append("|" + "---|" * (len(stages) + 6))
        for point in self.points:
            each = [f"{point.stages[s] / self.slides:.3f}" if s in point.stages else "–" for s in stages]
            lost = f"{point.lost.value:+.3f} ({point.lost.low:+.3f} to {point.lost.high:+.3f})"
            whole = [f"{point.seconds / self.slides:.2f}", f"{point.seconds / self.dense.seconds:.1%}"]
            row = [point.task, f"{point.encoded:.2%}", *each, *whole, f"{point.area:.3f}", lost]
            lines.append("| " + " | ".join(row) + " |")
        lines.append("")
        loading = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.loading.items())
        lines.append(f"{self.slides} slides, {self.patches:,} patches. Models are loaded once: {loading}.")
        lines.append(f"Patches of a slide from which on a budget pays: {self.break_even()}.")
        return "\n".join(lines) + "\n"

    def break_even(self) -> str:
        """Patches of a slide below which a budget takes longer than all patches.

        Encoding grows with the patches of a slide; all else is taken to be the same for a slide of any size, which is
        more than it is.
        """
        per_patch = self.dense.stages["encode"] / self.patches
        fixed_dense = (self.dense.seconds - self.dense.stages["encode"]) / self.slides
        found = []
        for point in self.points[:-1]:
            rest = (point.seconds - point.stages["encode"]) / self.slides
            saved = per_patch - point.stages["encode"] / self.patches
            found.append(f"{max(0.0, (rest - fixed_dense) / saved):,.0f} ({point.task})")
        return ", ".join(found)

    def draw(self, path: Path) -> None:
        """Draw seconds a slide against AUROC."""
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
        for point in self.points:
            axes.plot(point.seconds / self.slides, point.area, "o", color="#0072b2")
            axes.annotate(
                f"{point.task}, {point.encoded:.1%}",
                (point.seconds / self.slides, point.area),
                textcoords="offset points",
                xytext=(6, -12),
            )
        axes.set(xscale="log", xlabel="seconds a slide, low resolution included", ylabel="AUROC of patients")
        axes.margins(x=0.3, y=0.2)
        figure.savefig(path, dpi=120)
        plt.close(figure)


def measure_front(workshop: Workshop, slides: list[str]) -> Front:
    """Predict the test slides with every task, and read what their metrics lost."""
    from contextlib import chdir

    with chdir(workshop.folder), TemporaryDirectory() as folder:
        timed = _Timed(workshop, Path(folder))
        points = [Point(name) for name in (*BUDGETS, DENSE)]
        counts, whole = dict.fromkeys((point.task for point in points), 0), 0
        for slide in slides:
            # Slides are read once before they are timed, so that the disk favours none.
            timed.dense(slide, Point("unused"))
            whole += timed.dense(slide, points[-1])
            for point in points[:-1]:
                counts[point.task] += timed.chosen(slide, point)
        counts[DENSE] = whole
        for point in points:
            point.encoded = counts[point.task] / whole
            point.lost = _lost(workshop, point.task)
        return Front(points, len(slides), whole, timed.loading)


def _lost(workshop: Workshop, task: str) -> Lost:
    if task == DENSE:
        first = _compared(workshop, next(iter(BUDGETS)))
        return Lost(first["first"], 0.0, 0.0, 0.0)
    found = _compared(workshop, task)
    difference = found["difference"]
    return Lost(found["second"], difference["value"], difference["low"], difference["high"])


def _compared(workshop: Workshop, task: str) -> dict[str, Any]:
    record = json.loads((workshop.results / "comparisons" / DENSE / f"{task}.json").read_text())
    metrics = record["levels"]["patient"]["metrics"]
    return next(by["auroc"] for name, by in metrics.items() if name in {"all", "high"} and "auroc" in by)


class _Timed:
    """Models of all tasks, loaded once, which predict slides while seconds are added to a point."""

    def __init__(self, workshop: Workshop, folder: Path) -> None:
        import yaml
        from histomake.bags.predict import load_bag_model
        from histomake.base.layout import Layout
        from histomake.config import parse_config
        from histomake.features.choice import Chooser
        from histomake.features.encoders import load_group
        from histomake.features.on_pixels import load_encoding

        self.layout, self.folder = Layout(Path("results")), folder
        config = parse_config(yaml.safe_load(workshop.config.read_text()))
        started = time.perf_counter()
        cheap = config.encoders[CHEAP]
        self.low = load_encoding(self.layout.model(LOW, FOLD), CHEAP, cheap, config.grids["low"], threads=THREADS)
        loaded = time.perf_counter()
        self.batch = config.tasks[LOW].predict.batch
        self.encoders, self.choosers = {}, {}
        for name in (*BUDGETS, DENSE):
            encoder = config.encoders[f"of_{name}"]
            self.encoders[name] = load_group({f"of_{name}": encoder}, config.grids["high"], models={}, threads=THREADS)[
                0
            ]
            self.encoded_at_once = encoder.batch
            if encoder.choose is not None:
                self.choosers[name] = Chooser.read(encoder.choose, {FOLD: self.layout.description(LOW, FOLD)})
        encoded = time.perf_counter()
        self.bags = {name: load_bag_model(self.layout.model(name, FOLD)) for name in (*BUDGETS, DENSE)}
        self.loading = {
            "low": loaded - started,
            "encoder": (encoded - loaded) / len(self.encoders),
            "bag": (time.perf_counter() - encoded) / len(self.bags),
        }

    def dense(self, slide: str, point: Point) -> int:
        """Encode all patches of a slide and predict its bag; return the number of patches."""
        from histomake.features.extract import extract

        entry, output = self._entry("high", slide), self.folder / "features.arrow"
        started = time.perf_counter()
        extract([self.encoders[DENSE]], entry, output, batch=self.encoded_at_once, threads=THREADS, code="", made_of="")
        self._took(point, "encode", started)
        return self._predict(DENSE, slide, output, point)

    def chosen(self, slide: str, point: Point) -> int:
        """Score a slide at low resolution, encode the chosen patches and predict its bag; return their number."""
        from histomake.base.tables import write_table
        from histomake.features.extract_chosen import ScoredSlide, open_chosen, write_chosen
        from histomake.learn.inference.predict import predict_slide

        name, output, scores = point.task, self.folder / "features.arrow", self.folder / "scores.parquet"
        low = self._entry("low", slide)
        started = time.perf_counter()
        write_table(predict_slide(self.low, low, batch=self.batch, threads=THREADS), scores)
        self._took(point, "low resolution", started)
        started = time.perf_counter()
        scored = ScoredSlide(self._entry("high", slide), low.table, [scores])
        encoder, chooser = self.encoders[name], self.choosers[name]
        with open_chosen(encoder, scored, chooser, batch=self.encoded_at_once, threads=THREADS, code="") as opened:
            self._took(point, "choose", started)
            started = time.perf_counter()
            write_chosen(encoder, chooser, opened, output, code="", made_of="")
        self._took(point, "encode", started)
        return self._predict(name, slide, output, point)

    def _predict(self, task: str, slide: str, features: Path, point: Point) -> int:
        from histomake.bags.predict import predict_bag

        started = time.perf_counter()
        table = predict_bag(self.bags[task], self._entry("high", slide), [], {slide: features})
        self._took(point, "predict the bag", started)
        return table.num_rows

    def _entry(self, grid: str, slide: str) -> Any:
        from histomake.learn.data.patch_index import SlideEntry

        return SlideEntry.at(self.layout, grid, slide, slide, {})

    @staticmethod
    def _took(point: Point, stage: str, started: float) -> None:
        point.stages[stage] = point.stages.get(stage, 0.0) + time.perf_counter() - started
