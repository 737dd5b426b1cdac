"""Outputs that a run must produce: all of them, and those of a part of the workflow."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from histomake.base.errors import ConfigError
from histomake.base.layout import FeatureMapFiles
from histomake.config.tasks import PREDICTED, VALIDATION
from histomake.planning.cascade_plan import CascadePlan
from histomake.planning.choice_plan import ChoicePlan
from histomake.planning.generator_plan import GeneratorPlan
from histomake.planning.graph_plan import GraphPlan
from histomake.planning.plan import Plan
from histomake.planning.transfer_plan import TransferPlan

Drawn = list[Any]
"""A prediction of a slide that is drawn: task, fold, aggregation, names of the views. Plain values: it is a param."""


@dataclass(frozen=True)
class Outputs:
    """Outputs of a plan. Those of single slides are left out for slides that are ``unchanged``, because they exist."""

    plan: Plan
    unchanged: Collection[str] = frozenset()

    # --- what is shown of which slide -------------------------------------------------------------------------------

    @cached_property
    def drawn_slides(self) -> dict[str, list[Drawn]]:
        """Predictions that are drawn, by slide; slides sorted."""
        plan = self.plan
        found: dict[str, list[Drawn]] = defaultdict(list)
        for name, task in plan.config.tasks.items():
            for fold, slide in plan.predicted(name):
                found[slide].append([name, fold, task.predict.aggregate, plan.views(name)])
        return dict(sorted(found.items()))

    def validated_with(self, slide: str) -> list[list[Any]]:
        """[task, fold] of the models that were validated on a slide and predict it: a param."""
        drawn = self.drawn_slides.get(slide, [])
        return [[name, fold] for name, fold, *_ in drawn if (name, fold, slide) in self._validated]

    @cached_property
    def _validated(self) -> frozenset[tuple[Any, ...]]:
        """(task, fold, id) of the predictions of validation slides."""
        tasks = self.plan.config.tasks
        return frozenset((name, *place) for name in tasks for place in self.plan.validated(name))

    @cached_property
    def segmented_slides(self) -> dict[str, list[str]]:
        """Nucleus cascades that segment a slide, by its id."""
        found: dict[str, list[str]] = defaultdict(list)
        for name in self.plan.config.radhical:
            for slide in self.plan.cascade_slides(name, *PREDICTED):
                found[slide].append(name)
        return dict(found)

    @cached_property
    def tabulated_slides(self) -> dict[str, list[str]]:
        """Names under ``cells`` that a slide has cells of, by its id."""
        found: dict[str, list[str]] = defaultdict(list)
        for name in self.plan.config.cells:
            for slide in self.plan.cell_slides(name):
                found[slide].append(name)
        return dict(found)

    @cached_property
    def paged_slides(self) -> list[str]:
        """Ids of the slides that have a page, sorted."""
        others = {*self.cascades.slides, *self.graphs.pictured, *self.with_cores}
        return sorted({*self.segmented_slides, *self.drawn_slides, *others})

    @property
    def with_cores(self) -> Collection[str]:
        """Ids of the slides whose cores are tabulated: all, in a cohort of tissue microarrays."""
        return self.plan.slides.keys() if self.plan.config.microarray is not None else ()

    def core_tables(self) -> list[Path]:
        """Tables of the cores of all slides, of unchanged slides too."""
        return [self.plan.layout.cores(slide) for slide in sorted(self.with_cores)]

    def regions(self, slide: str) -> list[list[int]]:
        """Regions of a slide that are drawn at a higher resolution: x, y, width, height in level-0 pixels."""
        return [list(box) for name, *box in self.plan.config.explain.regions if name == slide]

    def explained(self, task: str, fold: int | str) -> list[str]:
        """Ids of the slides that a model is explained on: the test slides.

        Without any, those to predict. New slides to predict therefore do not change an explanation.
        """
        return self.plan.slides_in(task, fold, "test") or self.plan.slides_in(task, fold, "predict")

    def explained_models(self) -> list[tuple[str, int]]:
        """(task, fold) of the models whose patches are explained: those that are trained, as it takes training patches.

        Not those of bags, which say by attention what they look at.
        """
        trained = [name for name in self.plan.trained if name not in self.plan.on_bags]
        return [(name, fold) for name in trained for fold in self.plan.folds(name)]

    def attributed_models(self) -> list[tuple[str, int]]:
        """(task, fold) of the models whose predictions are attributed to pixels: not those that take features."""
        return [(name, fold) for name, fold in self.explained_models() if name not in self.plan.on_features]

    def explained_features(self, task: str, fold: int | str) -> list[Path]:
        """Features of the slides that a model is explained on, if it takes features."""
        if task not in self.plan.on_features:
            return []
        group = self.plan.feature_group(task)
        return [self.plan.layout.features(group, slide) for slide in self.explained(task, fold)]

    def mapped_features(self, encoder: str, slides: Iterable[str]) -> list[Path]:
        """Files with the features of an encoder, of these slides."""
        group = self.plan.config.encoders[encoder].group or encoder
        return [self.plan.layout.features(group, slide) for slide in slides]

    def maps(self) -> list[FeatureMapFiles]:
        """Maps of features."""
        return [self.plan.layout.feature_map(encoder) for encoder in self.plan.config.explain.maps]

    def shown_on_page(self, slide: str) -> dict[str, list[Path]]:
        """Files that the page of a slide shows: of its predictions, cascades that segment it, cells, and graphs."""
        layout, drawn = self.plan.layout, self.drawn_slides.get(slide, [])
        boxes, graphs = self.regions(slide), self.graphs.pictured.get(slide, [])
        return {
            "predictions": [layout.prediction(name, fold, slide) for name, fold, *_ in drawn],
            "descriptions": [layout.description(name, fold) for name, fold, *_ in drawn],
            "views": [layout.view(name, fold, slide, view) for name, fold, _, views in drawn for view in views],
            "levels": [layout.cascade(name).levels_view(slide) for name in self.segmented_slides.get(slide, [])],
            "stages": [layout.patch_cascade(n).levels_view(fold, slide) for n, fold in self.cascades.on_page(slide)],
            "cells": [layout.cells(name, slide) for name in self.tabulated_slides.get(slide, [])],
            "graphs": [path(name, slide) for name in graphs for path in (layout.graph, layout.graph_view)],
            "cores": [path(slide) for path in (layout.cores, layout.cores_view) if slide in self.with_cores],
            "regions": [layout.region(name, fold, slide, box) for name, fold, *_ in drawn for box in boxes],
        }

    def comparisons(self) -> list[Path]:
        """Comparisons of pairs of tasks that both have slides to test."""
        measured, layout = self.plan.measured, self.plan.layout
        return [layout.comparison(*pair) for pair in self.plan.config.compare if set(pair) <= set(measured)]

    # --- files ------------------------------------------------------------------------------------------------------

    def predictions(self, task: str, *roles: str) -> list[Path]:
        """Prediction tables of a task, of unchanged slides too, in the order of `Plan.slides_by_fold`.

        ``roles``: of slides with these roles only, and of all that are predicted without any.
        """
        place = self.plan.layout.prediction
        return [place(task, fold, slide) for fold, slide in self._predicted(task, *roles)]

    def _predicted(self, task: str, *roles: str) -> list[tuple[int, str]]:
        own = self.plan.config.tasks[task].predict.roles
        return self.plan.slides_by_fold(task, *(role for role in roles or own if role in own))

    def chosen_on(self, task: str) -> list[Path]:
        """Predictions of the slides that operating points of a task are chosen on, in the order of `Plan.chosen_on`."""
        return self.predictions(task, VALIDATION) if self.plan.chosen_on(task) else []

    def permuted(self, task: str) -> list[Path]:
        """Scores of the test slides of a task on graphs without single groups of features, by fold."""
        plan = self.plan
        wanted = task in plan.on_graphs and plan.config.tasks[task].evaluate.permutations
        folds = sorted({fold for fold, _ in plan.slides_by_fold(task, "test")}) if wanted else []
        return [plan.layout.permuted_scores(task, fold) for fold in folds]

    def segmentations(self, *roles: str) -> list[Path]:
        """Label images and outlines of all segmentations; ``roles``: as for `predictions`."""
        plan, layout = self.plan, self.plan.layout
        found = ((task, *place) for task in plan.segmented for place in self._predicted(task, *roles))
        places = [place for place in found if place[-1] not in self.unchanged]
        kinds_of_file = (layout.segmentation, layout.segmented_outlines)
        return [path(*place) for place in places for path in kinds_of_file]

    def features(self) -> list[Path]:
        """Features of all slides, of every group of encoders."""
        plan, choices = self.plan, ChoicePlan(self.plan)
        slides = [slide for slide in plan.slides if slide not in self.unchanged]
        groups = plan.config.encoder_groups
        return [plan.layout.features(group, s) for group in groups for s in slides if choices.has_slide(group, s)]

    def kept(self) -> list[Path]:
        """Stores, label images of annotations, and weights: what a run needs later, even if all other outputs exist.

        Snakemake makes a lost file again only if a target, or a job that runs, needs it.
        """
        plan, layout = self.plan, self.plan.layout
        packed = plan.config.convert.store == "zip"
        slides = [slide for slide in plan.slides if slide not in self.unchanged]
        found = [layout.store(slide, packed=packed) for slide in slides]
        found += [layout.label_image(slide) for slide in slides if slide in plan.masked]
        models = [*plan.trained, *plan.reused]
        return found + [layout.weights(task, fold) for task in models for fold in plan.folds(task)]

    def preprocessed(self) -> list[Path]:
        """Outputs that need no task: stores, patch tables and all that these are made from, quarantine."""
        plan, layout = self.plan, self.plan.layout
        slides = [slide for slide in plan.slides if slide not in self.unchanged]
        found = [layout.store(slide, packed=plan.config.convert.store == "zip") for slide in slides]
        found += [layout.table(grid, slide) for grid in plan.config.grids for slide in slides]
        found += [layout.cores(slide) for slide in slides if slide in self.with_cores]
        return [*found, *(layout.tissue_view(slide) for slide in slides), layout.quarantine]

    def of_slides(self) -> list[Path]:
        """Pages, tissue views and QuPath tiles."""
        layout = self.plan.layout
        found = [layout.slide_page(slide) for slide in self.paged_slides if slide not in self.unchanged]
        found += [layout.tissue_view(slide) for slide in self.plan.slides if slide not in self.unchanged]
        if self.plan.config.explain.qupath:
            drawn = ((s, d) for s, predictions in self.drawn_slides.items() for d in predictions)
            found += [layout.qupath_tiles(d[0], d[1], s) for s, d in drawn if s not in self.unchanged]
        return found

    def of_cascades(self) -> list[Path]:
        """Everything of nucleus and patch cascades. Raises ConfigError if no slide has an annotation to learn from.

        It is raised for the rules that ask, so that slides can still be predicted with the models of tasks.
        """
        plan, found = self.plan, self._shared_by_cascades()
        for name in plan.config.radhical:
            files = plan.layout.cascade(name)
            for slide in (s for s in plan.cascade_slides(name, *PREDICTED) if s not in self.unchanged):
                found += [
                    files.segmentation(slide),
                    files.store(slide),
                    files.outlines(slide),
                    files.levels_view(slide),
                ]
        return found + self.cascades.outputs(self.unchanged)

    def done_by_cascades(self) -> list[Path]:
        """An output of every job of nucleus and patch cascades, of unchanged slides too. Raises as `of_cascades`.

        What reads files of all slides has the same inputs in every plan. With those of new slides only, it would run
        again in the next plan, and lineage would lack the others. Predictions of patch cascades are not among them,
        because they are inputs of the catalog, on which such a rule depends.
        """
        plan, found = self.plan, self._shared_by_cascades()
        for name in plan.config.radhical:
            found += map(plan.layout.cascade(name).segmentation, plan.cascade_slides(name, *PREDICTED))
        return [*found, *(plan.layout.patch_cascade(name).metrics for name in self.cascades.measured())]

    def _shared_by_cascades(self) -> list[Path]:
        """Outputs of nucleus cascades that are not of single slides."""
        plan, found = self.plan, list[Path]()
        for name in plan.config.radhical:
            if not plan.cascade_slides(name, "train"):
                raise ConfigError(
                    f"radhical: no slide of {plan.config.sheet} has an annotation to learn from; enter label masks or "
                    "outlines of nuclei in its annotation column"
                )
            files = plan.layout.cascade(name)
            found += [files.split, files.metrics, files.pareto_front]
        return found

    def cell_tables(self, name: str) -> list[Path]:
        """Cell tables of all slides, of unchanged ones too."""
        return [self.plan.layout.cells(name, slide) for slide in self.plan.cell_slides(name)]

    def of_cells(self) -> list[Path]:
        """Tables, label images and outlines of cells."""
        plan, layout, found = self.plan, self.plan.layout, list[Path]()
        for name, cells in plan.config.cells.items():
            for slide in plan.cell_slides(name):
                if slide not in self.unchanged:
                    found += [layout.cells(name, slide), layout.cell_labels(name, slide)]
                    found += [layout.cell_outlines(name, slide)] if cells.outlines else []
        return found

    @cached_property
    def cascades(self) -> CascadePlan:
        """Which slides cascades of patch classifiers predict."""
        return CascadePlan(self.plan)

    @cached_property
    def graphs(self) -> GraphPlan:
        """Which slides have which graphs, and their files."""
        return GraphPlan(self.plan)

    def graph_tables(self, name: str) -> list[Path]:
        """Statistics of the graphs of all slides, of unchanged ones too."""
        return [self.plan.layout.graph_statistics(name, slide) for slide in self.graphs.slides(name)]

    def of_graphs(self) -> list[Path]:
        """Graphs, their statistics, and pictures of those that no task uses."""
        plan, layout = self.plan, self.plan.layout
        places = [(n, s) for n in plan.config.graphs for s in self.graphs.slides(n) if s not in self.unchanged]
        found = [path(*place) for place in places for path in (layout.graph, layout.graph_statistics)]
        pictured = [(n, s) for s, names in self.graphs.pictured.items() if s not in self.unchanged for n in names]
        return [*found, *(layout.graph_view(*place) for place in pictured)]

    def done_graphs(self) -> list[Path]:
        """Graphs of all slides, of unchanged ones too."""
        plan = self.plan
        return [plan.layout.graph(name, slide) for name in plan.config.graphs for slide in self.graphs.slides(name)]

    def graph_views(self) -> list[Path]:
        """Pictures of the graphs that no task uses, of unchanged slides too."""
        return [self.plan.layout.graph_view(n, s) for s, names in self.graphs.pictured.items() for n in names]

    @cached_property
    def transfers(self) -> TransferPlan:
        """Which slides belong to which stain transfers, and their files."""
        return TransferPlan(self.plan)

    def transfer_measures(self) -> list[Path]:
        """Measures of all stain transfers."""
        return [path for name in self.plan.config.stain_transfers for path in self.transfers.measures(name)]

    def of_transfers(self) -> list[Path]:
        """The generators and virtual slides of all stain transfers.

        Raises ConfigError for slides that none can be learned from.
        """
        return self.transfers.outputs(self.unchanged)

    @cached_property
    def generators(self) -> GeneratorPlan:
        """Which slides generators are learned from, and their files."""
        return GeneratorPlan(self.plan)

    def generator_measures(self) -> list[Path]:
        """Measures of all generators."""
        return [self.plan.layout.generator(name).measures for name in self.plan.config.generators]

    def of_generators(self) -> list[Path]:
        """Weights, samples and measures of all generators.

        Raises ConfigError for slides that none can be learned from.
        """
        return self.generators.outputs()

    def all(self) -> list[Path]:
        """Everything that `snakemake` makes without a target."""
        plan, layout = self.plan, self.plan.layout
        return [
            layout.catalog,
            layout.lineage,
            layout.front_page,
            *(layout.metrics(task) for task in plan.measured),
            *self.comparisons(),
            *(layout.scores(task) for task in plan.config.tasks),
            *self.kept(),
            *self.features(),
            *(files.page for files in self.maps()),
            *self.segmentations(),
            *self.of_slides(),
            *self.of_cascades(),
            *self.of_cells(),
            *self.of_graphs(),
            *self.of_transfers(),
            *self.of_generators(),
        ]
