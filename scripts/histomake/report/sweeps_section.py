"""Report section of sweeps: what each combination of settings reached on validation patients."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from histomake.base.layout import Layout
from histomake.base.records.model_card import ModelCard
from histomake.config import Config
from histomake.config.sweeps import Sweep
from histomake.model import reuse
from histomake.report import page
from histomake.report.page import Html

NOTE = (
    "Figures of the validation patients, the mean over folds. Choose by these, not by those of the test patients, and "
    "copy the values into the task. Losses are comparable unless the sweep changes the loss itself. A difference no "
    "larger than that between two seeds means nothing."
)

LOSS = "loss"


def sweeps_section(config: Config, layout: Layout) -> Html:
    """A table per sweep; nothing without sweeps."""
    if not config.sweeps:
        return Html("")
    tables = [_sweep(name, sweep, config, layout) for name, sweep in config.sweeps.items()]
    return page.section("Sweeps", page.tag("p", NOTE), *tables)


def _sweep(name: str, sweep: Sweep, config: Config, layout: Layout) -> Html:
    members = dict(sweep.members(name))
    base = config.tasks[sweep.task].dump()
    members = {sweep.task: {key: _value(base, key) for key in sweep.values}} | members
    figures = {task: _figures(task, config, layout) for task in members}
    measured = list(dict.fromkeys(key for found in figures.values() for key in found))
    losses = {task: loss for task, found in figures.items() if (loss := found.get(LOSS)) is not None}
    best = min(losses, key=losses.__getitem__, default=None)
    rows = [
        [
            page.link(task, f"#task-{task}"),
            *(str(value) for value in values.values()),
            *(_number(figures[task].get(key)) for key in measured),
            "lowest loss" if task == best else "",
        ]
        for task, values in members.items()
    ]
    return page.section(name, page.table(["task", *sweep.values, *measured, ""], rows), level=3, anchor=f"sweep-{name}")


def _value(content: object, key: str) -> object:
    for part in key.split("."):
        content = content[part] if isinstance(content, dict) else None
    return content


def _figures(task: str, config: Config, layout: Layout) -> dict[str, float | None]:
    """Validation figures of a task's models, the mean over folds; None where one is undefined."""
    cards = [ModelCard.read(layout.description(task, fold)) for fold in reuse.folds(config.tasks[task])]
    return {key: _mean([card.metrics.get(key) for card in cards]) for key in cards[0].metrics}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == len(values) else None


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.4g}"
