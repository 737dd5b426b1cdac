"""What groups of features are worth to a network on graphs, and what its report says of them and of the edges."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from histomake.base.kinds import Kind
from histomake.base.records.graph import AMONG_SLIDES, EVERY_GROUP, REWIRED, WITHIN_SLIDES, WITHOUT_EDGES, FeatureGroup
from histomake.base.records.manifest import Manifest
from histomake.base.records.metrics import ComparedLevel, FeatureImportance, LevelMetrics, MetricDifference
from histomake.config import Target
from histomake.evaluate.evaluation import evaluate
from histomake.evaluate.importance import permuted_predictions
from histomake.evaluate.items import SlidePrediction
from histomake.graphs.build import NO_EDGES
from histomake.graphs.importance import exchanged, groups_of, permuted_scores
from histomake.graphs.index import index_graphs
from histomake.graphs.predict import load_graph_model, predict_graph
from histomake.graphs.store import read_graph, write_graph
from histomake.graphs.training import train_graphs
from histomake.report.graphs_section import feature_groups, what_edges_add
from histomake.report.task_section import baselines_table
from msgspec.structs import replace as changed
from small_cohort import GRID_NAME, SIDE, build_cohort, changed_task

from tests import sample_records
from tests.arranged_graphs import write_arranged

CLASSES = ["low", "high"]
TARGET = {"source": "sheet", "column": "grade", "classes": CLASSES}
SHORT = {"steps": 60, "batch": 4, "validate_every": 20, "learning_rate": 0.01}
TASK = {"kind": "classification", "grid": GRID_NAME, "graph": "nuclei", "level": "slide", "target": TARGET}
TASK |= {"train": SHORT, "gnn": {"layers": 3, "hidden": 16, "dropout": 0.0}}


def write(entry, path, seed):
    """A graph whose group class tells the grade by its arrangement, and whose group position is noise."""
    rng = np.random.default_rng(seed)
    told = {"nodes": 200, "extent": float(SIDE), "clustered": entry.labels["grade"] == "high"}
    write_arranged(path, entry.slide_id, rng, sha256=Manifest.read(entry.manifest).sha256, **told)
    graph = read_graph(path)
    noise = {"position": rng.standard_normal((200, 2)).astype(np.float32)}
    record = changed(graph.record, groups=[*graph.record.groups, FeatureGroup(name="position", values=["x", "y"])])
    ids = graph.table["node_id"].to_numpy()
    vectors = {"class": graph.features()} | noise
    write_graph(path, record, (ids, *graph.places().T.astype(float)), graph.edges(), vectors)
    return path


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("importance")


@pytest.fixture(scope="module")
def slides(root):
    return [replace(e, labels={"grade": CLASSES[number % 2]}) for number, e in enumerate(build_cohort(root, 12))]


@pytest.fixture(scope="module")
def files(slides, root):
    return {one.slide_id: write(one, root / f"{one.slide_id}.arrow", number) for number, one in enumerate(slides)}


@pytest.fixture(scope="module")
def model(slides, files, root):
    told = {"output": root / "model", "state": root / "state", "seed": 1, "threads": 1, "files": files}
    train_graphs(changed_task(TASK, {}), train=slides[:6], val=slides[6:10], **told)
    return load_graph_model(root / "model")


def indexed(slides, files, level="slide"):
    return index_graphs(slides, files, kind=Kind.CLASSIFICATION, target=Target(**TARGET), level=level)


def test_groups_are_columns_of_the_features_and_all_of_them(slides, files):
    assert groups_of(indexed(slides[:1], files)) == {
        "class": slice(0, 2),
        "position": slice(2, 4),
        EVERY_GROUP: slice(0, 4),
    }


def test_among_slides_every_node_is_the_donor_of_one(slides, files):
    bags = indexed(slides[:3], files)
    donors = exchanged(bags, AMONG_SLIDES, np.random.default_rng(1))
    assert [len(found) for found in donors] == [len(members) for members in bags.members]
    assert sorted(np.concatenate(donors)) == list(range(600))
    assert len(set(bags.patches.slide[donors[0]])) == 3


@pytest.mark.parametrize("level", ["slide", "patient"])
def test_within_slides_donors_are_of_the_same_slide(level, slides, files):
    of_one = [replace(slide, patient_id="one", labels=slides[0].labels) for slide in slides[:3]]
    bags = indexed(of_one, files, level)
    for members, found in zip(bags.members, exchanged(bags, WITHIN_SLIDES, np.random.default_rng(1)), strict=True):
        assert sorted(found) == sorted(members)
        assert (bags.patches.slide[found] == bags.patches.slide[members]).all()
        assert (found != members).any()


def test_scores_change_without_what_tells_and_hardly_without_noise(model, slides, files):
    table = permuted_scores(model, slides, files, repeats=2, seed=3).to_pandas()
    own = {s.slide_id: predict_graph(model, s, (), files).patches["score_high"][0].as_py() for s in slides}
    change = (table["score_high"] - table["bag"].map(own)).abs()
    by_group = change.groupby([table["group"], table["scope"]]).mean()
    assert len(table) == 12 * 3 * 2 * 2
    for scope in (AMONG_SLIDES, WITHIN_SLIDES):
        assert by_group["position", scope] < 0.1 < 0.2 < by_group["class", scope]


def test_the_same_seed_gives_the_same_scores_and_repeats_differ(model, slides, files):
    first, second = (permuted_scores(model, slides[:2], files, repeats=2, seed=3) for _ in range(2))
    assert first.equals(second)
    by_repeat = first.to_pandas().groupby("repeat")["score_high"].sum()
    assert by_repeat[0] != by_repeat[1]


def test_slides_without_a_graph_take_no_part(model, slides, files, tmp_path):
    lost = tmp_path / "lost.arrow"
    nothing = (np.zeros(0, np.uint32), np.zeros(0), np.zeros(0)), (NO_EDGES, np.zeros(0, np.float32)), {}
    write_graph(lost, sample_records.lost(slides[0].slide_id, stage="graph"), *nothing)
    some = files | {slides[0].slide_id: lost}
    table = permuted_scores(model, slides[:2], some, repeats=1, seed=3)
    assert set(table["bag"].to_pylist()) == {slides[1].slide_id}
    assert permuted_scores(model, slides[:1], some, repeats=1, seed=3).num_rows == 0


# --- evaluation -------------------------------------------------------------------------------------------------------


def prediction(slide, grade, score):
    columns = {"score_low": [1 - score] * 2, "score_high": [score] * 2, "tissue": [1.0, 1.0]}
    table = pa.table({name: pa.array(values, pa.float32()) for name, values in columns.items()})
    label = pa.array([grade] * 2, pa.string()).dictionary_encode()
    return SlidePrediction(slide, slide, 0, table.append_column("label", label), labels={"grade": grade})


PREDICTIONS = [
    prediction(*row) for row in [("a", "low", 0.1), ("b", "low", 0.2), ("c", "high", 0.8), ("d", "high", 0.9)]
]


def permuted(scores_by_repeat, group="shape", scope=AMONG_SLIDES):
    rows = [
        {"bag": bag, "group": group, "scope": scope, "repeat": repeat, "score_low": 1 - score, "score_high": score}
        for repeat, scores in enumerate(scores_by_repeat)
        for bag, score in zip("abcd", scores, strict=True)
    ]
    return permuted_predictions(PREDICTIONS, {0: pa.Table.from_pylist(rows)}, CLASSES, level="slide")


def evaluated(**values):
    told = {"kind": Kind.CLASSIFICATION, "target": Target(**TARGET), "aggregate": "mean", "seed": 1, "level": "slide"}
    return evaluate(PREDICTIONS, bootstraps=50, **told, **values).record


def test_the_loss_is_the_mean_over_permutations_with_their_deviation():
    """AUROC is 1 as it is, 0.5 in the first permutation and 0 in the second."""
    record = evaluated(permuted=permuted([[0.1, 0.9, 0.2, 0.8], [0.8, 0.9, 0.1, 0.2]]))
    found = record.importance["shape"][AMONG_SLIDES]["slide"]["auroc"]
    assert (found.permuted, found.loss, found.repeats) == (0.25, 0.75, 2)
    assert found.spread == pytest.approx(np.sqrt(0.125))


def test_a_single_permutation_has_no_deviation():
    found = evaluated(permuted=permuted([[0.1, 0.2, 0.8, 0.9]])).importance["shape"][AMONG_SLIDES]["slide"]["auroc"]
    assert (found.loss, found.spread) == (0.0, None)


def test_a_baseline_is_compared_on_the_same_resamples_of_patients():
    equal = evaluated(baselines={WITHOUT_EDGES: PREDICTIONS}).baseline_differences[WITHOUT_EDGES]
    gap = equal["slide"].metrics["all"]["auroc"].difference
    assert (gap.value, gap.low, gap.high) == (0.0, 0.0, 0.0)


def test_slides_that_every_fold_tests_are_compared_in_each():
    both = [*PREDICTIONS, *(replace(one, fold=1) for one in PREDICTIONS)]
    told = {"kind": Kind.CLASSIFICATION, "target": Target(**TARGET), "aggregate": "mean", "seed": 1, "level": "slide"}
    record = evaluate(both, bootstraps=5, baselines={WITHOUT_EDGES: both}, **told).record
    compared = record.baseline_differences[WITHOUT_EDGES]["slide"]
    assert compared.count == record.levels["slide"].count == 8


# --- report -----------------------------------------------------------------------------------------------------------


def measured(differences, importance=None):
    level = LevelMetrics(count=9, patients=9, metrics={"all": {"auroc": sample_records.metric(0.8, 0.7, 0.9)}})
    told = {
        name: {
            "slide": ComparedLevel(
                count=9,
                metrics={
                    "all": {
                        "auroc": MetricDifference(
                            first=0.8,
                            second=0.8 - value,
                            difference=sample_records.metric(value, low, high),
                            p_bootstrap=1,
                        )
                    }
                },
            )
        }
        for name, (value, low, high) in differences.items()
    }
    return sample_records.metrics({"slide": level}, baseline_differences=told, importance=importance or {})


@pytest.mark.parametrize(
    ("of_random", "text"),
    [
        ((0.2, 0.1, 0.3), "The edges add to what is known"),
        ((0.05, -0.01, 0.11), "do not show that the edges add anything"),
        ((-0.02, -0.1, 0.1), "The edges add nothing"),
        ((0.05, None, None), "do not show that the edges add anything"),
    ],
)
def test_edges_add_something_if_the_interval_of_no_difference_reaches_0(of_random, text):
    found = what_edges_add(measured({WITHOUT_EDGES: (0.3, 0.2, 0.4), REWIRED: of_random}))
    assert text in found
    assert "edges at random" in found or of_random[0] > 0.1


def test_the_report_has_the_difference_to_each_baseline_with_its_interval():
    shown = baselines_table(measured({WITHOUT_EDGES: (0.3, 0.2, 0.4), "mean_features": (0.1, -0.05, 0.25)}))
    assert "+0.300 (+0.200 to +0.400)" in shown
    assert shown.index("Differences of AUROC") < shown.index("+0.100 (-0.050 to +0.250)")
    assert "Differences" not in baselines_table(measured({}))


def test_without_ablations_nothing_is_said_of_edges():
    assert what_edges_add(measured({})) == ""


def test_the_report_names_each_group_and_what_is_lost_without_it():
    worth = FeatureImportance(permuted=0.55, loss=0.25, spread=0.02, repeats=5)
    importance = {EVERY_GROUP: {AMONG_SLIDES: {"slide": {"auroc": worth}}}, "stain": {}}
    shown = "".join(feature_groups(measured({}, importance)))
    assert shown.index("stain") < shown.index("edges alone are left")
    assert "+0.250 ± 0.020" in shown
