"""Memory of trainings and explanations: by batch, patches, loaders and networks, and no less than they need."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from damaged_cohort import GRID, TASK, fit
from histomake.bags import network
from histomake.bags.training import train_bags
from histomake.base.layout import Layout
from histomake.base.records.cohort import CohortSlide
from histomake.base.records.record import write_list
from histomake.cascade import samples
from histomake.config import Encoder, Explain, Grid, PatchChoice, Radhical, Task
from histomake.explain import patch_pixels, shapley
from histomake.explain.attribution import attribute
from histomake.explain.embedding import TestedSlide, embed
from histomake.features import objective
from histomake.features.encoders import load_group
from histomake.features.extract import extract
from histomake.learn.data import loader
from histomake.learn.data.patch_index import SlideEntry
from histomake.learn.inference.predict import load_model, predict_slide
from histomake.patch.table import kept_patches
from histomake.planning import network_memory as needed
from small_cohort import CLASSES, GRID_NAME, build_cohort, changed_task
from test_bag_tasks import task as bag_task
from test_memory import request_of, require_at_most

COHORT = [
    {"slide_id": "a", "patient_id": "p", "patches": 30_000},
    {"slide_id": "b", "patient_id": "p", "patches": 20_000},
    {"slide_id": "c", "patient_id": "q", "patches": 40_000},
]


@pytest.fixture
def cohort(tmp_path):
    (tmp_path / "cohort.json").write_text(json.dumps(COHORT))
    return needed.cohort_patches(tmp_path / "cohort.json")


def test_the_request_of_a_training_is_made_when_its_cohort_is_known(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        needed.cohort_patches(str(tmp_path / "cohort.json"))
    assert caught.value.filename == str(tmp_path / "cohort.json")  # by which Snakemake knows that the input is missing


@pytest.mark.parametrize(
    ("changes", "larger"),
    [
        ({}, {"train": {"batch": 64}}),
        ({}, {"train": {"workers": 4}}),
        ({}, {"train": {"gpus": 2}}),
        ({"train": {"workers": 4}}, {"train": {"workers": 4}, "model": {"context": [4.0]}}),
        ({"train": {"precision": "bf16"}}, {"train": {"precision": "fp32"}}),
    ],
)
def test_memory_of_a_training_grows_with_batch_loaders_gpus_views_and_precision(changes, larger, cohort):
    tasks = [changed_task(TASK.dump(), told) for told in (changes, larger)]
    asked, more = (needed.patch_training_mb(task, GRID, cohort, weights_mb=0) for task in tasks)
    assert more > asked


def test_memory_of_a_training_grows_with_pixels_patches_and_weights(cohort):
    def asked(grid=GRID, slides=cohort, weights_mb=0.0):
        return needed.patch_training_mb(TASK, grid, slides, weights_mb=weights_mb)

    assert asked(grid=Grid(size=256)) > asked()
    assert asked(slides=cohort * 100) - asked() == pytest.approx(99 * 90_000 * needed.ROW_BYTES / 1e6)
    assert asked(weights_mb=2400) > asked()


def test_the_largest_bag_is_that_of_a_slide_or_of_a_patient(cohort):
    assert needed.largest_bag(bag_task(), cohort) == 40_000
    assert needed.largest_bag(bag_task(level="patient"), cohort) == 50_000


@pytest.mark.parametrize(
    "larger",
    [
        {"bag": {"size": 4096}},
        {"train": {"batch": 64}},
        {"pooling": {"embed": 512}},
        {"pooling": {"embed": None}},
        {"level": "patient"},
    ],
)
def test_memory_of_a_training_on_bags_grows_with_bags_and_widths(larger, cohort):
    assert needed.bag_training_mb(bag_task(**larger), cohort) > needed.bag_training_mb(bag_task(), cohort)


def test_patches_that_are_not_chosen_count_for_the_index_alone_in_memory_of_bags():
    hundred = [needed.CohortPatches("S1", "P1", 100), needed.CohortPatches("S2", "P2", 5)]
    choices = [
        (None, [100, 5]),
        (PatchChoice(task="low", budget=0.04), [4, 1]),
        (PatchChoice(task="low", budget=0.5, most=20), [20, 2]),
        (PatchChoice(task="low", class_name="tumour", least_score=0.5), [100, 5]),
    ]
    for choice, most in choices:
        assert [slide.patches for slide in needed.chosen_patches(hundred, choice)] == most


def test_memory_of_a_training_on_bags_shrinks_with_the_budget_of_their_patches(cohort):
    several = [PatchChoice(task="low", budget=budget) for budget in (0.01, 0.1, 1.0)]
    requests = [needed.bag_training_mb(bag_task(), cohort, choice) for choice in several]
    assert requests == sorted(requests)
    assert requests[0] < requests[1]
    assert requests[-1] == needed.bag_training_mb(bag_task(), cohort)


def graph_task(**values):
    told = {"kind": "regression", "level": "slide", "grid": GRID_NAME, "graph": "cells"}
    return changed_task(told | {"target": {"source": "sheet", "column": "y"}}, values)


def of_graphs(*sizes, values=8):
    """A cohort of slides with so many nodes and edges, the first two of one patient."""
    return [
        needed.CohortPatches(str(i), "one" if i < 2 else str(i), 10, needed.CohortGraph(nodes, edges, values))
        for i, (nodes, edges) in enumerate(sizes)
    ]


@pytest.mark.parametrize(
    "larger",
    [
        {"train": {"batch": 3}},
        {"gnn": {"hidden": 256}},
        {"gnn": {"layers": 6}},
        {"gnn": {"name": "gat"}},
        {"level": "patient"},
        {"fuse": "mil"},
    ],
)
def test_memory_of_a_training_on_graphs_grows_with_batch_and_layers(larger):
    slides = of_graphs(*[(50_000, 150_000)] * 4)
    usual = {"train": {"batch": 1}}
    more, asked = (needed.graph_training_mb(graph_task(**usual | told), slides) for told in (larger, {}))
    assert more > asked


def test_memory_of_a_training_on_graphs_grows_with_nodes_edges_and_values():
    def asked(*sizes, values=8):
        return needed.graph_training_mb(graph_task(), of_graphs(*sizes, values=values))

    assert asked() == needed.GRAPH_MB
    assert asked((1000, 0)) < asked((2000, 0)) < asked((2000, 6000)) < asked((2000, 6000), values=1024)


def test_a_training_on_small_graphs_asks_for_little_and_one_on_large_ones_for_enough():
    """50,000 nodes with 350,000 directed edges took 816 MB with 512 features, besides the libraries."""
    small = needed.graph_training_mb(graph_task(), of_graphs(*[(300, 900)] * 20))
    large = needed.graph_training_mb(graph_task(train={"batch": 1}), of_graphs((50_000, 176_670), values=512))
    assert small < 2000
    assert 816 < large - needed.GRAPH_MB < 3 * 816


def test_memory_of_predictions_of_graphs_is_that_of_the_largest_file(tmp_path):
    for name, size in (("a", 1000), ("b", 3_000_000)):
        (tmp_path / name).write_bytes(bytes(size))
    assert needed.graph_prediction_mb([tmp_path / "a", tmp_path / "b"]) == 3 * needed.GRAPH_FILE_COPIES
    with pytest.raises(FileNotFoundError):
        needed.graph_prediction_mb([tmp_path / "not yet"])


def test_memory_of_a_head_grows_with_its_patches_up_to_what_it_may_draw(cohort):
    task = Task(grid=GRID_NAME, features="a", target={"classes": CLASSES})
    few, more, many = (needed.head_training_mb(task, slides) for slides in (cohort[:1], cohort, cohort * 9))
    assert few < more
    index = needed.patches_mb(cohort * 9) - needed.patches_mb(cohort)
    drawn = (task.probe.patches - 90_000) * needed.WIDEST * needed.VALUE_BYTES
    assert many - more == pytest.approx(index + drawn * needed.HEAD_COPIES / 1e6)


def test_memory_of_bags_of_pixels_grows_with_what_passes_the_network_at_once(cohort):
    settings = {"kind": "regression", "level": "slide", "grid": GRID_NAME, "target": {"source": "sheet", "column": "y"}}

    def asked(**bag):
        return needed.pixel_bag_training_mb(Task(**settings, bag=bag), Grid(size=256), cohort, weights_mb=0)

    assert asked(size=64, chunk=32) < asked(size=128, chunk=32) < asked(size=128, chunk=64)
    assert asked(size=64, crop=128) < asked(size=64)


def test_memory_of_explanations_grows_with_patches_classes_and_pixels(cohort):
    def asked(grid=GRID, outputs=2, **settings):
        return needed.attribution_mb(Explain(**settings), grid, outputs=outputs, views=1, cohort=cohort)

    assert asked(shap_patches=64) > asked()
    assert asked(outputs=9) > asked()
    assert asked(grid=Grid(size=512)) > asked()
    few, many = (needed.embedding_mb(Explain(embed_patches=count), GRID) for count in (1000, 100_000))
    assert many > few


@pytest.mark.parametrize("larger", [{"lattice": 32}, {"batch": 64}, {"gpus": 2}, {"workers": 8}])
def test_memory_of_a_level_grows_with_lattice_batch_gpus_and_loaders(larger):
    asked = needed.level_training_mb(Radhical(), slides=3)
    assert needed.level_training_mb(Radhical(train=larger), slides=3) > asked
    assert needed.level_training_mb(Radhical(), slides=300) > asked


def test_numbers_that_other_modules_define_are_the_same():
    assert (needed.READY, needed.MOST_READY, needed.HELD) == (loader.PREFETCH, loader.MOST_READY, loader.HELD)
    assert (needed.SCALED_BY, needed.BAG_PART) == (objective.SCALED_BY, network.PART)
    assert (needed.READ_AT_ONCE, needed.SAMPLES) == (patch_pixels.BATCH, shapley.SAMPLES)
    assert samples.CACHED == needed.LEVELS


def entries_of(layout: Layout) -> list[SlideEntry]:
    return [
        SlideEntry.at(layout, GRID_NAME, f"s{i}", f"patient-s{i}", {"grade": "low" if i % 2 else "high"})
        for i in range(3)
    ]


def trains(layout: Layout) -> None:
    fit(entries_of(layout), layout.results / "trained")


def trains_bags(layout: Layout) -> None:
    entries = entries_of(layout)
    train_bags(
        bag_task(),
        train=entries[:2],
        val=entries[2:],
        files={entry.slide_id: layout.features("a", entry.slide_id) for entry in entries},
        column="a",
        output=layout.results / "bags" / "model",
        state=layout.results / "bags" / "state",
        seed=1,
        threads=1,
    )


def embeds(layout: Layout) -> None:
    model = load_model(layout.results / "fitted" / "model")
    entry = entries_of(layout)[0]
    slide = TestedSlide(entry, "", predict_slide(model, entry, batch=64, threads=1))
    embed(predictor=model, slides=[slide], patches=EXPLAIN.embed_patches, neighbours=15, seed=0)


def attributes(layout: Layout) -> None:
    model = load_model(layout.results / "fitted" / "model")
    first, *others = entries_of(layout)
    attribute(
        predictor=model,
        tested=[(first, predict_slide(model, first, batch=64, threads=1))],
        training=others,
        patches=EXPLAIN.shap_patches,
        points=[],
        regions=[],
        background=EXPLAIN.shap_background,
        method="gradient",
        seed=0,
    )


EXPLAIN = Explain(shap_patches=4, shap_background=4)
ENCODERS = {bag_task().features: Encoder(grid=GRID_NAME, name="resnet10t", weights=False)}
USED = {"CONFIG": SimpleNamespace(grids={GRID_NAME: GRID}, encoders=ENCODERS, explain=EXPLAIN), **vars(needed)}
STEPS = {
    trains: request_of("train", "training.smk", task=lambda _: TASK, **USED),
    trains_bags: request_of("train_bags", "bags.smk", task=lambda _: bag_task(), **USED),
    embeds: request_of("embed", "explain.smk", task=lambda _: TASK, **USED),
    attributes: request_of("attribute", "explain.smk", task=lambda _: TASK, **USED),
}


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Layout:
    """Slides with features, a model, and a training cohort, which lies in ``cohort.json``."""
    root = tmp_path_factory.mktemp("small")
    entries, layout = build_cohort(root, 3), Layout(root)
    fit(entries, root / "fitted")
    encoders = load_group({"a": Encoder(grid=GRID_NAME, name="resnet10t", weights=False)}, GRID, models={}, threads=1)
    slides = []
    for entry in entries:
        extract(encoders, entry, layout.features("a", entry.slide_id), batch=64, threads=1, code="c", made_of="m")
        told = {"role": "train", "slide_id": entry.slide_id, "patient_id": entry.patient_id, "labels": {}}
        slides.append(CohortSlide(**told, digests=[], patches=kept_patches(entry.table)))
    write_list(root / "cohort.json", slides)
    return layout


@pytest.mark.parametrize("work", STEPS, ids=lambda work: work.__name__)
def test_training_and_explaining_small_slides_need_no_more_than_their_jobs_ask_for(work, small):
    inputs = SimpleNamespace(cohort=Path(small.results / "cohort.json"), size_mb=2)
    require_at_most(STEPS[work]({}, input=inputs, attempt=1), work, small)
