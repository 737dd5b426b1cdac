"""Report section of bags of chosen patches: their time and metrics beside the bags of all patches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle

import duckdb
from matplotlib.ticker import LogLocator

from histomake.base.layout import Layout
from histomake.base.records.comparison import ComparisonRecord
from histomake.config import Config
from histomake.pictures import canvas
from histomake.report import page
from histomake.report.chosen_patches import patches_seen
from histomake.report.jobs import Jobs
from histomake.report.metric_texts import in_order, levels_in_order, metric_name
from histomake.report.page import Html

COLOURS = [f"#{bytes(colour).hex()}" for colour in canvas.PALETTE]

PREDICTING = ("predict_slide", "predict_features", "predict_bag", "predict_pixel_bag")
"""Rules that predict a slide by a task."""


EXPLAINED = (
    "Mean seconds of the jobs of a slide, with starting them and loading models: choosing patches (patch table of the "
    "coarse grid, its features and predictions), encoding, and predicting the bag. Slides of more usable patches "
    "than in “pays from” take less time than with all patches. Lost: what the task on all patches reaches more, with "
    "the interval of the comparison."
)


@dataclass(frozen=True)
class Lost:
    """Values of a metric of bags of all and of chosen patches, and their difference with its interval."""

    metric: str
    dense: float | None
    chosen: float | None
    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class BagCost:
    """Mean seconds of a slide: choosing patches, encoding them, and predicting the bag.

    usable: mean number of its usable patches. seen: share of these that the encoder sees.
    """

    task: str
    choosing: float
    encoding: float
    predicting: float
    usable: float
    seen: float

    @property
    def seconds(self) -> float:
        """Seconds of all steps."""
        return self.choosing + self.encoding + self.predicting

    def break_even(self, dense: BagCost) -> float | None:
        """Usable patches of a slide from which on choosing saves time; None if it never does.

        Encoding all patches takes longer with each of them; choosing is taken to be as long for slides of any size.
        """
        saved = dense.encoding / dense.usable * (1 - self.seen)
        return max(0.0, (self.choosing + self.predicting - dense.predicting) / saved) if saved > 0 else None


def adaptive_bags_section(config: Config, layout: Layout, catalog: duckdb.DuckDBPyConnection, jobs: Jobs) -> Html:
    """Tasks on chosen patches by the task on all patches that they are compared with; nothing without such pairs."""
    found = []
    for dense, tasks in compared_bags(config).items():
        costs = [bag_cost(name, config, catalog, jobs) for name in (*tasks, dense)]
        known = [cost for cost in costs if cost is not None]
        if len(known) < 2 or known[-1].task != dense:
            continue
        found.append(page.section(f"Bags of {dense}", *_compared(known, config, layout), level=3))
    return page.section("Adaptive bags", *found) if found else Html("")


def compared_bags(config: Config) -> dict[str, list[str]]:
    """Tasks on chosen patches, by the task on all patches of the same grid that ``compare`` has them with."""

    def chooses(task: str) -> bool | None:
        features = config.tasks[task].features
        return None if features is None else config.encoders[features].choose is not None

    found: defaultdict[str, list[str]] = defaultdict(list)
    for pair in config.compare:
        by_choice = {chooses(task): task for task in pair}
        if set(by_choice) == {True, False} and len({config.tasks[task].grid for task in pair}) == 1:
            found[by_choice[False]].append(by_choice[True])
    return dict(found)


def bag_cost(name: str, config: Config, catalog: duckdb.DuckDBPyConnection, jobs: Jobs) -> BagCost | None:
    """Mean seconds that a slide takes; None if they were not measured or nothing is predicted."""
    task = config.tasks[name]
    assert task.features is not None
    choice = config.encoders[task.features].choose
    seen, usable, slides = patches_seen(name, task.grid, catalog)
    choosing = 0.0 if choice is None else _task_seconds(choice.task, config, jobs)
    encoding, predicting = _encoding(name, config, jobs), _predicting(name, jobs)
    if not usable or choosing is None or encoding is None or predicting is None:
        return None
    return BagCost(name, choosing, encoding, predicting, usable / slides, seen / usable)


def _task_seconds(name: str, config: Config, jobs: Jobs) -> float | None:
    """Mean seconds of a slide until it is predicted by a task, its patch table included."""
    parts = [_mean(jobs, ("tabulate_patches", config.tasks[name].grid)), _predicting(name, jobs)]
    if (features := config.tasks[name].features) is not None:
        parts.append(_encoding(name, config, jobs))
        if (choice := config.encoders[features].choose) is not None:
            parts.append(_task_seconds(choice.task, config, jobs))
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def _encoding(name: str, config: Config, jobs: Jobs) -> float | None:
    encoder = str(config.tasks[name].features)
    group = next(group for group, names in config.encoder_groups.items() if encoder in names)
    return _mean(jobs, ("features", group))


def _predicting(name: str, jobs: Jobs) -> float | None:
    return next((seconds for rule in PREDICTING if (seconds := _mean(jobs, (rule, name))) is not None), None)


def _mean(jobs: Jobs, start: tuple[str, ...]) -> float | None:
    """Mean seconds of the jobs whose key starts so, each by its last run."""
    seconds = [runs[-1][0] for key, runs in jobs.items() if runs and key[: len(start)] == start]
    return sum(seconds) / len(seconds) if seconds else None


def lost_by(task: str, dense: str, config: Config, layout: Layout) -> Lost | None:
    """What a task on chosen patches lost, at the highest level of the comparison; None if it was not compared."""
    turned = (task, dense) in config.compare
    path = layout.comparison(*((task, dense) if turned else (dense, task)))
    if not path.is_file():
        return None
    levels = [level.metrics.get("all", {}) for level in levels_in_order(ComparisonRecord.read(path).levels).values()]
    metrics = next((metrics for metrics in reversed(levels) if metrics), {})
    if not metrics:
        return None
    metric = "auroc" if "auroc" in metrics else in_order(metrics)[0]
    found = metrics[metric]
    gap, values = found.difference, (found.first, found.second)
    if turned:
        values, ends = values[::-1], [None if end is None else -end for end in (gap.value, gap.high, gap.low)]
    else:
        ends = [gap.value, gap.low, gap.high]
    return Lost(metric_name(metric), *values, *ends)


def _compared(costs: Sequence[BagCost], config: Config, layout: Layout) -> Iterator[Html]:
    """Warnings, table and front; ``costs``: that of all patches is the last one."""
    *chosen, dense = costs
    for cost in chosen:
        if cost.seconds >= dense.seconds:
            text = (
                f"{cost.task} takes {cost.seconds:.1f} s a slide, {dense.task}, on all patches, {dense.seconds:.1f} s."
            )
            yield page.tag("p", text, class_="warn")
    yield page.tag("p", EXPLAINED)
    lost = {cost.task: one for cost in chosen if (one := lost_by(cost.task, dense.task, config, layout)) is not None}
    metric = next((one.metric for one in lost.values()), "metric")
    header = ["task", "patches encoded", "choosing", "encoding", "predicting", "seconds a slide", "of all patches"]
    rows = [[*_cells(cost, dense), *_values(lost.get(cost.task))] for cost in chosen]
    rows.append([*_cells(dense, dense), next((one.dense for one in lost.values()), None), None])
    yield page.table([*header, "pays from", metric, "lost"], rows)
    if lost:
        yield _front(chosen, dense, lost)


def _cells(cost: BagCost, dense: BagCost) -> list[object]:
    even = None if cost is dense else cost.break_even(dense)
    steps = [cost.choosing, cost.encoding, cost.predicting, cost.seconds]
    return [
        cost.task,
        page.percent(cost.seen),
        *steps,
        page.percent(cost.seconds / dense.seconds),
        None if even is None else f"{even:,.0f} patches",
    ]


def _values(lost: Lost | None) -> list[object]:
    if lost is None or lost.value is None:
        return [None, None]
    interval = "" if lost.low is None or lost.high is None else f" ({lost.low:+.3f} to {lost.high:+.3f})"
    return [lost.chosen, f"{lost.value:+.3f}{interval}"]


def _front(chosen: Sequence[BagCost], dense: BagCost, lost: Mapping[str, Lost]) -> Html:
    figure = page.blank(7.4, 2.7)
    axis = figure.subplots()
    first = next(iter(lost.values()))
    points = [(cost, lost[cost.task].chosen) for cost in chosen if cost.task in lost]
    for (cost, value), colour in zip([*points, (dense, first.dense)], cycle(COLOURS), strict=False):
        if value is not None:
            axis.plot(cost.seconds, value, "o", color=colour, label=f"{cost.task}, {cost.seen:.1%} of the patches")
    axis.set(xscale="log", xlabel="seconds a slide, choosing included", ylabel=first.metric)
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.minorticks_off()
    axis.margins(x=0.1, y=0.1)
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return page.plot(figure, "Seconds of a slide against what is reached, with the share of the patches encoded")
