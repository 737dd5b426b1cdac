"""Report section of one task: cohort, metrics, examples, training, embedding and attributions."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import duckdb
import numpy as np
import pyarrow.csv
import pyarrow.parquet

from histomake.base.kinds import Kind
from histomake.base.layout import EmbeddingFiles, Layout
from histomake.base.records.attribution_checks import AttributionChecks
from histomake.base.records.metrics import LevelMetrics, MetricsRecord
from histomake.base.records.model_card import ModelCard
from histomake.base.records.record import Quarantined
from histomake.base.records.separation import SeparationRecord
from histomake.config import Task
from histomake.pictures import canvas
from histomake.report import page
from histomake.report.chosen_patches import chosen_patches
from histomake.report.comparison_section import difference_cells
from histomake.report.examples import examples
from histomake.report.graphs_section import ABLATION_TEXTS, compared_by, feature_groups, network_text, what_edges_add
from histomake.report.metric_texts import LEVELS, highest_level, levels_in_order, metric_name
from histomake.report.metrics_section import metrics_table, shown_metrics
from histomake.report.page import Html
from histomake.report.removal_section import removal_curves, removal_table
from histomake.report.slide_rates_section import slide_rates_section
from histomake.report.statistics_section import statistics_sections
from histomake.target.kinds import LEARNED

FIGURES = {
    "roc": "ROC, by level",
    "precision_recall": "Precision and recall, by level",
    "reliability": "Calibration: accuracy against confidence; larger dots are more predictions",
    "decision_curve": "Decision curve: net benefit of acting from a threshold probability on, against acting on all or "
    "none",
    "confusion": "Confusion, by level",
    "scatter": "Predicted against true values, by level",
    "overlap": "Dice per class, with intervals",
    "kaplan_meier": "Survival of patients below and above the median risk of the validation set (Kaplan-Meier, 95 % "
    "intervals; ticks: censored)",
    "survival_calibration": "Calibration of survival at one time, in groups of similar predictions (95 % intervals)",
}
COLOURS = [f"#{bytes(colour).hex()}" for colour in canvas.PALETTE]


def task_section(
    name: str, task: Task, layout: Layout, catalog: duckdb.DuckDBPyConnection, folds: Sequence[int]
) -> Html:
    """Build the section of a task."""
    made = f"{task.model.name}, {task.train.steps} steps"
    if task.graph:
        made = f"{task.level}s as graphs ({task.graph}), {network_text(task)}"
    elif task.on_bags:
        patches = f"features of encoder {task.features}" if task.features else f"patches, {task.model.name} end to end"
        made = f"{task.level}s as bags of {patches}, {task.pooling.name} pooling"
    elif task.features:
        made = f"{task.head} head on features of encoder {task.features}"
    if task.trained:
        made = f"trained model from {task.trained}"
    parts: list[object] = [
        page.tag("p", f"{task.kind} on grid {task.grid}: {made}, {len(folds)} fold(s)."),
        *_in_silico(task),
        *chosen_patches(name, task.grid, layout, folds, catalog),
        page.section("Cohort", cohort_table(name, task, catalog), level=3, anchor=f"{name}-split"),
    ]
    if layout.metrics(name).is_file():
        parts += _measured(name, task, layout, folds)
    if all(layout.history(name, fold).is_file() for fold in folds):
        parts.append(page.section("Training", training(name, task, layout, folds), level=3, anchor=f"{name}-training"))
    for fold in folds:
        parts += [_embedding(name, fold, layout), _attribution(name, fold, layout)]
    return page.section(f"Task {name}", *parts, anchor=f"task-{name}")


def _in_silico(task: Task) -> list[Html]:
    """A warning about slides that are predicted in another stain; empty for other tasks."""
    if task.predict.transfer is None:
        return []
    text = f"Slides whose stain {task.predict.transfer} changes are predicted in silico, not as scanned."
    if task.predict.allow_virtual:
        text += " They may be test slides: metrics of these do not say how well scanned slides are predicted."
    return [page.tag("p", text, class_="warn")]


def _measured(name: str, task: Task, layout: Layout, folds: Sequence[int]) -> list[object]:
    """Metrics of a task, and examples of correctly and wrongly predicted patches."""
    metrics = MetricsRecord.read(layout.metrics(name))
    parts: list[object] = [page.section("Metrics", metrics_table(metrics), level=3, anchor=f"{name}-metrics")]
    if metrics.baselines:
        parts.append(page.section("Baselines", baselines_table(metrics), level=3, anchor=f"{name}-baselines"))
    if metrics.importance:
        parts.append(page.section("Groups of features", *feature_groups(metrics), level=3, anchor=f"{name}-importance"))
    if any(level.risk_groups for level in metrics.levels.values()):
        parts.append(page.section("Risk groups", risk_table(metrics, task.target.time), level=3, anchor=f"{name}-risk"))
    if metrics.bag_sizes:
        parts.append(page.section("Bag size", bag_sizes_table(metrics), level=3, anchor=f"{name}-bag-size"))
    if metrics.removal:
        removed = "nodes" if task.graph else "patches"
        shown = removal_table(metrics, removed), removal_curves(metrics, removed)
        parts.append(page.section(f"Removal of {removed}", *shown, level=3, anchor=f"{name}-removal"))
    if metrics.attention:
        parts.append(page.section("Attention", agreement_table(metrics), level=3, anchor=f"{name}-attention"))
    parts += statistics_sections(name, metrics)
    if metrics.slide_means:
        found = slide_rates_section(metrics, layout.slide_metrics(name), layout.front_page.parent)
        parts.append(page.section("Slides", *found, level=3, anchor=f"{name}-slides"))
    drawn = sorted(layout.metrics_figures(name).glob("*.png"))
    parts += [page.picture(path, FIGURES.get(path.stem, path.stem), at_most=920) for path in drawn]
    parts.append(page.section("Examples", *examples(name, task, layout, folds), level=3, anchor=f"{name}-examples"))
    return parts


def cohort_table(name: str, task: Task, catalog: duckdb.DuckDBPyConnection) -> Html:
    """Table of usable slides, patients and patches per role, and of patches per class."""
    header = ["fold", "role", "slides", "patients", "usable patches", *_annotated(task)]
    return page.table(header, cohort_rows(name, task, catalog))


def _annotated(task: Task) -> list[str]:
    """Classes that come from annotations and not from the sheet."""
    return [] if task.target.source == "sheet" else list(task.target.classes)


def cohort_rows(name: str, task: Task, catalog: duckdb.DuckDBPyConnection) -> list[list[Any]]:
    """Rows of fold, role, slides, patients, usable patches and, if classes come from annotations, patches per class.

    A patch counts for a class if the class covers at least the target's ``min_area`` of it; for pixel classes and area
    shares, if it covers any area.
    """
    least = task.target.min_area if LEARNED[task.kind].min_area else 0.0
    classes = _annotated(task)
    areas = "".join(f', count_if("area_{c}" >= {least}::FLOAT AND "area_{c}" > 0) AS "of_{c}"' for c in classes)
    sums = "".join(f', sum("of_{c}")' for c in classes)
    query = f"""
        WITH usable AS (SELECT slide_id::VARCHAR AS slide, count(*) AS patches{areas}
                        FROM patches_{task.grid}_kept GROUP BY 1)
        SELECT fold, role, count(*), count(DISTINCT patient_id), sum(patches){sums}
        FROM splits LEFT JOIN usable ON splits.slide_id::VARCHAR = slide
        WHERE task = ? AND splits.slide_id NOT IN (SELECT slide_id FROM quarantine WHERE quarantine.task IS NULL)
        GROUP BY ALL ORDER BY ALL
    """  # noqa: S608
    return [[*row[:4], *(int(n or 0) for n in row[4:])] for row in catalog.execute(query, [name]).fetchall()]


BASELINES = {
    "mean_features": "mean features, linear",
    **ABLATION_TEXTS,
    "usual_target": "usual target, no features",
}


def baselines_table(metrics: MetricsRecord) -> Html:
    """Metrics of the task and of its baselines on the same slides or patients, one column each."""
    level = highest_level(metrics.levels)
    columns = {"this task": metrics.levels[level]}
    columns |= {BASELINES[name]: found[level] for name, found in metrics.baselines.items() if level in found}
    text = f"{LEVELS[level]}. The baselines use the same features and patients."
    if not LEARNED[Kind(metrics.kind)].numbers:
        text += " Their thresholds are 0.5."
    return page.join([page.tag("p", text), _beside(columns), _differences(metrics, level), what_edges_add(metrics)])


def _differences(metrics: MetricsRecord, level: str) -> Html:
    """Differences of the task to its baselines in the metric that they are compared by, with intervals."""
    found = {name: of[level].metrics["all"] for name, of in metrics.baseline_differences.items() if level in of}
    metric = compared_by(metrics.levels[level])
    rows = [
        [BASELINES[name], *difference_cells(differences[metric])]
        for name, differences in found.items()
        if metric is not None and differences[metric].difference.value is not None
    ]
    if metric is None or not rows:
        return Html("")
    text = f"Differences of {metric_name(metric)}, on the same resamples of patients for both."
    header = ["baseline", "this task", "baseline", "difference", "p", "p (DeLong)"]
    return page.join([page.tag("p", text), page.table(header, rows)])


def bag_sizes_table(metrics: MetricsRecord) -> Html:
    """Metrics by number of patches per bag, one column each, and of all patches."""
    level = highest_level(metrics.levels)
    sizes = sorted(metrics.bag_sizes.items(), key=lambda item: int(item[0]))
    columns = {f"{size} patches": found[level] for size, found in sizes if level in found}
    columns["all patches"] = metrics.levels[level]
    text = f"{LEVELS[level]}, predicted from random patches: mean scores of several bags. Smaller bags are used whole."
    return page.join([page.tag("p", text), _beside(columns)])


def _beside(columns: Mapping[str, LevelMetrics]) -> Html:
    """Table of metrics over all classes, one column for each of several predictions."""
    cells: dict[str, dict[str, str]] = {}
    for column, found in columns.items():
        for metric, shown in shown_metrics({"all": found.metrics.get("all", {})}):
            cells.setdefault(metric, {})[column] = shown
    rows = [[metric, *(row.get(column) for column in columns)] for metric, row in cells.items()]
    return page.table(["metric", *columns], rows)


def risk_table(metrics: MetricsRecord, time: str | None) -> Html:
    """Survival of the groups of low and of high risk, with the log-rank test between them or why there is none.

    ``time``: column of the sheet that times are from.
    """
    rows: list[list[object]] = []
    tests: list[Html] = []
    for level, found in levels_in_order(metrics.levels).items():
        if (groups := found.risk_groups) is not None:
            for name, group in (("low", groups.low), ("high", groups.high)):
                rows.append([LEVELS[level], name, group.count, group.events, group.median_time])
            p = groups.log_rank_p
            told = f"log-rank p = {p:.2g}" if p is not None else f"no log-rank test, since {groups.undefined}"
            tests.append(page.tag("p", f"{LEVELS[level]}: {told}."))
    text = (
        f"Divided at the median risk of the validation set. Times are those of column {time}. The median time is empty "
        "where half never had the event."
    )
    header = ["level", "risk", "number", "events", "median time"]
    return page.join([page.tag("p", text), page.table(header, rows), *tests, *horizon_notes(metrics)])


def horizon_notes(metrics: MetricsRecord) -> list[Html]:
    """At which time predictions of survival were measured, and why a measure is missing."""
    levels = levels_in_order(metrics.levels).items()
    found = {level: one.at_horizon for level, one in levels if one.at_horizon is not None}
    notes = [f"AUC and calibration are those at time {one.time:g}." for one in list(found.values())[:1]]
    for level, one in found.items():
        notes += [f"{LEVELS[level]}: no AUC, since {one.no_auc}."] if one.no_auc else []
        notes += [f"{LEVELS[level]}: no calibration, since {one.no_calibration}."] if one.no_calibration else []
    return [page.tag("p", note) for note in notes]


def agreement_table(metrics: MetricsRecord) -> Html:
    """How well attention and contributions tell annotated patches from others."""
    rows = [
        [value, name, *(shown for _, shown in shown_metrics({"all": found}))]
        for value, by_class in metrics.attention.items()
        for name, found in by_class.items()
    ]
    text = "Attention against annotation that was not trained on: mean over the annotated test slides."
    return page.join([page.tag("p", text), page.table(["value", "annotated class", "AUROC", "AUPRC"], rows)])


def training(name: str, task: Task, layout: Layout, folds: Sequence[int]) -> Html:
    """Training and validation losses, and the values chosen on validation patients."""
    figure = page.blank(5.2, 3)
    axis = figure.subplots()
    columns = {"threshold (validation)": "threshold"} if LEARNED[task.kind].thresholds else {}
    columns["seed"] = "seed"
    picks = task.features is not None or task.on_bags
    chosen = []
    for fold in folds:
        history = pyarrow.csv.read_csv(layout.history(name, fold)).to_pydict()
        colour = COLOURS[fold % len(COLOURS)]
        for column, style in (("train_loss", "-"), ("val_loss", "--")):
            label = f"fold {fold}, {column}"
            axis.plot(history["step"], history[column], style, color=colour, lw=1.5, label=label)
        card = ModelCard.read(layout.description(name, fold))
        picked = [", ".join(f"{k} {v:g}" for k, v in card.head["chosen"].items())] if card.head else []
        penalty = card.bag.penalty if card.bag else None
        picked += [f"penalty of the baseline {penalty:g}"] if penalty is not None else []
        cells = [", ".join(picked)] if picks else []
        chosen.append([fold, *(getattr(card, key) for key in columns.values()), *cells])
    fitted = task.features and not task.on_bags and task.head != "mlp"
    axis.set(xlabel="candidate, from smooth to fine" if fitted else "step", ylabel="loss")
    axis.legend(frameon=False, fontsize=8)
    table = page.table(["fold", *columns, *(["chosen on validation patients"] if picks else [])], chosen)
    return page.tag("div", page.plot(figure), table, class_="row")


def _embedding(name: str, fold: int, layout: Layout) -> Html:
    files = layout.embedding(name, fold)
    if not files.record.is_file():
        return Html("")
    shown = map_of_patches(files, layout, of="test slides")
    return page.section(f"Embedding (fold {fold})", *shown, level=3, anchor=f"{name}-embedding-{fold}")


def map_of_patches(files: EmbeddingFiles, layout: Layout, *, of: str) -> list[Html]:
    """A map of patches: what it separates, its mosaic, and the link to its page; ``of``: which slides."""
    record = SeparationRecord.read(files.record)
    if not record.patches:
        return _nothing_explained(record.left_out)
    silhouettes = page.table(["grouped by", "silhouette"], sorted(record.silhouette.items()))
    batch = page.table(
        ["predicted group", "balanced accuracy", "chance", "groups"],
        [[k, v.balanced_accuracy, v.chance, v.groups] for k, v in sorted(record.batch_effect.items())],
    )
    text = (
        f"{record.patches:,} patches of {record.slides} {of}, {record.features} features each. "
        "Features that predict site, patient or slide far above chance encode the laboratory or the scanner."
    )
    target = os.path.relpath(files.page, layout.front_page.parent)
    return [
        page.tag("p", text, " ", page.link("Open the interactive map", target)),
        _left_out(record.left_out),
        page.tag("div", page.picture(files.mosaic, width=780), page.tag("div", silhouettes, batch), class_="row"),
    ]


def _attribution(name: str, fold: int, layout: Layout) -> Html:
    files = layout.attribution(name, fold)
    if not files.record.is_file():
        return Html("")
    record = AttributionChecks.read(files.record)
    if not record.patches:
        parts = _nothing_explained(record.left_out)
        return page.section(f"Attribution (fold {fold})", *parts, level=3, anchor=f"{name}-attribution-{fold}")
    weights = record.randomised_weights
    rows: list[Sequence[object]] = [
        ["additivity error (median)", record.additivity_error, "0: the map sums to the value it explains"],
        [
            "deletion area, SHAP | random",
            f"{record.deletion:.3f} | {record.random_deletion:.3f}",
            "smaller is better",
        ],
        ["patches where SHAP deletes better", record.deletion_better, "1"],
        [
            "insertion area, SHAP | random",
            f"{record.insertion:.3f} | {record.random_insertion:.3f}",
            "larger is better",
        ],
        ["patches where SHAP inserts better", record.insertion_better, "1"],
        ["agreement of two runs", weights.repeat, "1"],
        [
            "agreement with random weights",
            weights.random,
            "near 0; otherwise the map shows the image, not the model",
        ],
    ]
    parts = [
        _left_out(record.left_out),
        page.table(["check", "value", "expected"], rows),
        _check_curves(pyarrow.parquet.read_table(files.patches)),
        page.picture(files.panels, "Orange raises the score, violet lowers it"),
    ]
    return page.section(f"Attribution (fold {fold})", *parts, level=3, anchor=f"{name}-attribution-{fold}")


def _nothing_explained(left_out: Sequence[Quarantined]) -> list[Html]:
    return [page.tag("p", "No patch is left to explain the model on.", class_="warn"), _left_out(left_out)]


def _left_out(entries: Sequence[Quarantined]) -> Html:
    """The damaged slides that a figure lacks; nothing if there are none."""
    unique = {(entry.slide_id, entry.stage): f"{entry.slide_id} ({entry.stage}): {entry.detail}" for entry in entries}
    if not unique:
        return Html("")
    return page.tag("p", f"Left out, because they are damaged: {'; '.join(unique.values())}", class_="warn")


def _check_curves(patches: pyarrow.Table) -> Html:
    """Class margin while the squares of a patch are blurred, or uncovered, in the order of the map."""
    figure = page.blank(7.4, 2.7)
    for axis, name in zip(figure.subplots(1, 2), ("deletion", "insertion"), strict=True):
        for column, text, style in ((name, "SHAP order", "-"), (f"random_{name}", "random order", "--")):
            curve = np.mean(patches[f"{column}_curve"].to_pylist(), axis=0)
            colour = COLOURS[0] if column == name else "0.45"
            axis.plot(np.linspace(0, 1, len(curve)), curve, style, color=colour, label=text)
        axis.set(xlabel=f"share of squares, {name}", ylabel="class margin")
        axis.legend(frameon=False, fontsize=8)
    text = (
        f"Mean of {patches.num_rows} patches: the most important squares are blurred (left) or uncovered (right) first"
    )
    return page.plot(figure, text)
