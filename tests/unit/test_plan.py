"""The plan: training, test and predicted slides, the origin of weights, and the outputs that a run must produce."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from histomake.base.errors import ConfigError
from histomake.cohort.sheet import Slide
from histomake.config import parse_config
from histomake.pictures.kinds import WITH_CONFIDENCE, WITHOUT_CONFIDENCE
from histomake.planning.outputs import Outputs
from histomake.planning.plan import make_plan
from histomake.planning.roles import judged_slides, role_table

CLASSES = {"tumour": "tumour", "stroma": "stroma"}
TARGET = {"source": "annotation", "classes": ["tumour", "stroma"]}
ROLES = {"A": "train", "B": "val", "C": "test", "D": "predict", "E": "predict"}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Makes a plan of tasks, from slides with fixed roles; further sections of the configuration by name."""
    monkeypatch.chdir(tmp_path)

    def make(tasks, roles=ROLES, annotations=None, **sections):
        base = {"annotations": {"classes": CLASSES}, "grids": {"x10": {"mpp": 1.0, "size": 128}}}
        config = parse_config({**base, "tasks": tasks, **sections})
        slides = {
            name: Slide(name, f"{name}.svs", f"patient-{name}", annotation=(annotations or {}).get(name), split=role)
            for name, role in roles.items()
        }
        return make_plan(config, slides)

    return make


def task(**changes):
    return {"kind": "classification", "grid": "x10", "target": TARGET, **changes}


def put_model(folder):
    folder.mkdir(parents=True)
    for name in ("model.safetensors", "model.json"):
        (folder / name).touch()


def test_slides_are_found_by_their_role(project):
    plan = project({"t": task()})
    assert plan.slides_in("t", 0, "predict", "test") == ["C", "D", "E"]
    assert plan.slides_by_fold("t", "train") == [(0, "A")]
    assert plan.entries("t", "test") == [["C", "patient-C", {}]]


def test_wildcards_may_name_the_fold(project):
    assert project({"t": task()}).slides_in("t", "0", "train") == ["A"]


def test_a_model_is_made_with_its_training_and_validation_slides(project):
    plan = project({"t": task()})
    assert plan.fitted_slides("t", 0) == ["A", "B"]
    assert plan.fitted("t", 0) == {"train": [["A", "patient-A", {}]], "val": [["B", "patient-B", {}]]}


def test_a_task_without_slides_to_learn_from_is_not_trained(project):
    plan = project({"t": task()}, roles={"D": "predict", "E": "predict"})
    assert plan.trained == plan.measured == []
    assert plan.untrained_models() == [("t", plan.layout.model("t", 0), True)]


def test_a_trained_model_of_another_folder_is_copied(project):
    put_model(Path("elsewhere/fold0"))
    plan = project({"t": task(trained="elsewhere/fold0")})
    assert (plan.trained, plan.reused) == ([], ["t"])
    assert plan.untrained_models() == [("t", Path("elsewhere/fold0"), False)]


def test_a_model_that_lies_in_the_results_is_used_there(project):
    put_model(Path("results/models/t/fold0"))
    plan = project({"t": task(trained="results/models/t")})
    assert plan.reused == []
    assert plan.untrained_models() == [("t", Path("results/models/t/fold0"), True)]


@pytest.mark.parametrize(
    ("pretrained", "path", "here"),
    [
        (True, None, False),
        ("results/models/first/fold0", Path("results/models/first/fold0/model.safetensors"), True),
        ("given/weights.safetensors", Path("given/weights.safetensors"), False),
    ],
)
def test_the_weights_that_a_training_starts_from_are_known(project, pretrained, path, here):
    plan = project({"first": task(), "t": task(model={"pretrained": pretrained})})
    assert plan.starting_weights("t") == path
    assert plan.pretrained("t", here=True) == ([path] if here else [])
    assert plan.pretrained("t", here=False) == ([path] if path and not here else [])


def test_what_a_model_starts_from_is_compared_with_the_slides_to_test(project):
    model = {"pretrained": "results/models/first/fold0"}
    plan = project({"first": task(), "t": task(model=model)})
    assert plan.earlier_descriptions("first") == []
    assert plan.earlier_descriptions("t") == [plan.layout.description("first", 0)]


def test_weights_without_a_description_are_not_compared(project):
    plan = project({"t": task(model={"pretrained": "given/weights.safetensors"})})
    assert plan.earlier_descriptions("t") == []
    Path("given").mkdir()
    Path("given/model.json").touch()
    assert plan.earlier_descriptions("t") == [Path("given/model.json")]


def test_a_reused_model_is_compared_with_the_slides_to_test(project):
    put_model(Path("elsewhere/fold0"))
    plan = project({"t": task(trained="elsewhere/fold0")})
    assert plan.earlier_descriptions("t") == [plan.layout.description("t", 0)]


def test_slides_with_a_mask_are_known(project):
    assert project({"t": task()}, annotations={"A": "a.png", "B": "b.geojson"}).masked == {"A"}


def test_slides_without_annotation_are_only_segmented_by_a_cascade(project):
    plan = project({}, annotations=dict.fromkeys("ABC", "a.png"), radhical={"nuclei": {}})
    assert plan.cascade_slides("nuclei", "train", "val", "test") == ["A", "B", "C"]
    assert plan.cascade_slides("nuclei", "predict") == ["D", "E"]


def test_each_fold_of_a_split_can_be_the_test_of_a_cascade(project):
    slides = "ABCDEFGHI"
    cascades = {f"n{fold}": {"split": {"folds": 3}, "fold": fold} for fold in range(3)}
    roles, drawn = dict.fromkeys(slides), dict.fromkeys(slides, "a.png")
    plan = project({}, roles=roles, annotations=drawn, radhical=cascades)
    tested = [plan.cascade_slides(name, "test") for name in cascades]
    assert sorted(slide for found in tested for slide in found) == list(slides)
    assert [len(found) for found in tested] == [3, 3, 3]
    for name in cascades:
        assert len(plan.cascade_slides(name, "train", "val", "test")) == len(slides)


def test_a_fold_that_the_split_does_not_have_is_refused(project):
    with pytest.raises(ConfigError, match=r"fold: 3 is not among split\.folds"):
        project({}, radhical={"nuclei": {"split": {"folds": 3}, "fold": 3}})


def test_a_cascade_has_weights_for_every_level(project):
    plan = project({}, annotations=dict.fromkeys("ABC", "a.png"), radhical={"nuclei": {"scales": [1.0, 0.5]}})
    levels = [path.parent.name for path in plan.cascade_weights("nuclei")]
    assert levels == ["level1", "level2"]


@pytest.mark.parametrize(("train", "cores"), [({}, 1), ({"workers": 3}, 4), ({"workers": 3, "gpus": 2}, 8)])
def test_a_level_is_trained_with_a_core_for_each_gpu_and_loader(project, train, cores):
    plan = project({}, annotations=dict.fromkeys("ABC", "a.png"), radhical={"nuclei": {"train": train}})
    assert plan.level_cores("nuclei") == cores


def test_tasks_are_selected_by_the_views_of_their_predictions(project):
    mask = {"source": "mask", "classes": ["tumour", "stroma"]}
    plan = project({"t": task(), "m": task(kind="segmentation", target=mask)})
    assert plan.tasks_with_views(WITH_CONFIDENCE) == ["t"]
    assert plan.tasks_with_views(WITHOUT_CONFIDENCE) == ["m"]


def test_a_patient_in_two_roles_is_refused(project):
    with pytest.raises(ConfigError, match="patient"):
        plan = project({"t": task()})
        slides = {**plan.slides, "B": dataclasses.replace(plan.slides["B"], patient_id="patient-A")}
        make_plan(plan.config, slides)


def test_the_table_of_roles_can_be_restricted(project):
    roles = project({"t": task()}).roles["t"]
    assert [row[1] for row in role_table(roles)] == list(ROLES)
    assert role_table(roles, ["test"]) == [[0, "C", "patient-C", "test"]]
    assert judged_slides(roles) == ["A", "B", "C"]


# --- outputs ----------------------------------------------------------------------------------------------------------


def names(paths):
    return {path.relative_to("results").as_posix() for path in paths}


def test_a_run_must_produce_the_report_and_the_files_that_people_open(project):
    found = names(Outputs(project({"t": task()})).all())
    assert {"catalog.duckdb", "audit/lineage.parquet", "report/index.html", "metrics/t.json", "scores/t.tsv"} <= found
    assert {f"views/tissue/{slide}.jpg" for slide in ROLES} <= found
    pages = {name for name in found if name.startswith("report/slides/")}
    assert pages == {f"report/slides/{slide}.html" for slide in "CDE"}


def test_no_output_of_an_unchanged_slide_is_requested(project):
    outputs = Outputs(project({"t": task()}, explain={"qupath": True}), unchanged={"D"})
    assert not [path for path in outputs.all() if "D" in path.stem]
    assert names(outputs.all()) >= {"qupath/t/fold0/E.geojson", "report/slides/E.html"}


def test_predictions_of_unchanged_slides_are_still_read(project):
    outputs = Outputs(project({"t": task()}), unchanged={"D"})
    assert [path.stem for path in outputs.predictions("t", "test", "predict")] == ["C", "D", "E"]


def test_label_images_and_outlines_are_requested_if_a_task_segments(project):
    mask = {"source": "mask", "classes": ["tumour", "stroma"]}
    outputs = Outputs(project({"t": task(), "m": task(kind="segmentation", target=mask)}))
    assert names(outputs.segmentations("test")) == {
        "predictions/m/fold0/C.geojson",
        "predictions/m/fold0/C.labels.zarr/zarr.json",
    }


def test_stores_and_weights_are_requested_so_that_lost_ones_are_made_again(project):
    outputs = Outputs(project({"t": task()}), unchanged={"D"})
    assert names(outputs.all()) >= {"slides/C.zarr/zarr.json", "models/t/fold0/model.safetensors"}
    assert "slides/D.zarr/zarr.json" not in names(outputs.all())


def test_a_model_is_explained_on_its_test_slides_and_without_any_on_those_to_predict(project):
    assert Outputs(project({"t": task()})).explained("t", 0) == ["C"]
    only_to_predict = {"D": "predict", "E": "predict"}
    assert Outputs(project({"t": task()}, roles=only_to_predict)).explained("t", 0) == ["D", "E"]


def test_models_that_are_not_trained_are_not_explained(project):
    put_model(Path("elsewhere/fold0"))
    outputs = Outputs(project({"t": task(trained="elsewhere/fold0"), "own": task()}))
    assert outputs.explained_models() == [("own", 0)]


def test_a_slide_is_drawn_once_for_every_prediction(project):
    outputs = Outputs(project({"t": task(), "u": task()}))
    assert [drawn[:2] for drawn in outputs.drawn_slides["C"]] == [["t", 0], ["u", 0]]
    assert list(outputs.drawn_slides) == ["C", "D", "E"]


def test_validation_slides_are_predicted_drawn_and_marked_if_the_task_asks_for_them(project):
    plan = project({"t": task(predict={"roles": ["val", "test", "predict"]}), "u": task()})
    outputs = Outputs(plan)
    assert [slide for _, slide in plan.predicted("t")] == ["B", "C", "D", "E"]
    assert [slide for _, slide in plan.predicted("u")] == ["C", "D", "E"]
    assert [drawn[:2] for drawn in outputs.drawn_slides["B"]] == [["t", 0]]
    assert outputs.validated_with("B") == [["t", 0]]
    assert outputs.validated_with("C") == []
    assert (plan.validated("t"), plan.validated("u")) == ([[0, "B"]], [])
    assert outputs.explained("t", 0) == ["C"]


def test_validation_slides_are_inputs_of_the_evaluation_only_if_operating_points_are_chosen_on_them(project):
    roles = {"predict": {"roles": ["val", "test", "predict"]}}
    chosen = roles | {"evaluate": {"operating_points": {"sensitivity": 0.9}}}
    outputs = Outputs(project({"t": task(**roles), "u": task(**chosen)}))
    assert outputs.chosen_on("t") == []
    assert names(outputs.chosen_on("u")) == {"predictions/u/fold0/B.parquet"}
    assert outputs.plan.chosen_on("u") == [["B", "patient-B", {}]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"predict": {"roles": ["val", "test"]}}, "predict.roles: add predict"),
        ({"predict": {"roles": ["test", "predict", "test"]}}, "a role is listed twice"),
        ({"predict": {"roles": ["val", "test", "predict"]}, "trained": "model"}, "has no validation slides here"),
    ],
)
def test_roles_that_cannot_be_predicted_are_refused(project, changes, message):
    with pytest.raises(ConfigError, match=message):
        project({"t": task(**changes)})


def test_regions_are_those_of_the_slide(project):
    outputs = Outputs(project({"t": task()}, explain={"regions": [["C", 1, 2, 30, 40], ["D", 5, 6, 70, 80]]}))
    assert outputs.regions("C") == [[1, 2, 30, 40]]


def test_a_page_shows_every_prediction_with_its_views_and_regions(project):
    outputs = Outputs(project({"t": task(), "u": task()}, explain={"regions": [["C", 1, 2, 30, 40]]}))
    shown = {key: names(paths) for key, paths in outputs.shown_on_page("C").items()}
    assert shown["predictions"] == {"predictions/t/fold0/C.parquet", "predictions/u/fold0/C.parquet"}
    assert "views/u/fold0/C/confidence.jpg" in shown["views"]
    assert shown["regions"] == {f"views/{name}/fold0/C/region_1_2_30_40.jpg" for name in "tu"}
    assert shown["levels"] == set()


def test_a_graph_that_no_task_uses_is_drawn_on_the_page_of_each_slide(project):
    graphs = {name: {"nodes": "patch", "grid": "x10", "features": ["position"]} for name in ("alone", "used")}
    graph_task = {"kind": "classification", "level": "slide", "grid": "x10", "graph": "used"}
    target = {"source": "sheet", "column": "site", "classes": ["a", "b"]}
    outputs = Outputs(project({"t": graph_task | {"target": target}}, graphs=graphs))
    assert names(outputs.graph_views()) == {f"graphs/alone/{slide}.jpg" for slide in "ABCDE"}
    assert names(outputs.shown_on_page("A")["graphs"]) == {"graphs/alone/A.arrow", "graphs/alone/A.jpg"}
    assert outputs.paged_slides == list("ABCDE")


def test_a_cascade_must_produce_its_metrics_and_every_segmented_slide(project):
    outputs = Outputs(project({}, annotations=dict.fromkeys("ABC", "a.png"), radhical={"nuclei": {}}))
    found = names(outputs.of_cascades())
    assert {"radhical/nuclei/metrics.json", "radhical/nuclei/slides/C.zarr/zarr.json"} <= found
    assert {f"radhical/nuclei/slides/{slide}.geojson" for slide in "CDE"} <= found
    assert outputs.segmented_slides == {slide: ["nuclei"] for slide in "CDE"}
    assert outputs.paged_slides == ["C", "D", "E"]


def test_what_reads_files_of_all_slides_has_the_same_inputs_if_some_slides_are_unchanged(project):
    graphs = {"alone": {"nodes": "patch", "grid": "x10", "features": ["position"]}}
    plan = project({}, annotations=dict.fromkeys("ABC", "a.png"), radhical={"nuclei": {}}, graphs=graphs)
    every, rest = Outputs(plan), Outputs(plan, unchanged={"A", "D"})
    assert rest.done_by_cascades() == every.done_by_cascades()
    assert {f"radhical/nuclei/slides/{slide}.json" for slide in "CDE"} <= names(rest.done_by_cascades())
    assert rest.done_graphs() == every.done_graphs()
    assert names(rest.done_graphs()) == {f"graphs/alone/{slide}.arrow" for slide in "ABCDE"}
    assert rest.graph_views() == every.graph_views()
    assert len(rest.of_graphs()) < len(every.of_graphs())


def test_a_cascade_without_a_training_annotation_is_refused_when_it_is_requested(project):
    outputs = Outputs(project({}, radhical={"nuclei": {}}))
    with pytest.raises(ConfigError, match="has an annotation to learn from"):
        outputs.of_cascades()


def test_cells_of_a_cascade_are_those_of_the_slides_that_it_segments(project):
    cells = {"n": {"source": "radhical:nuclei"}, "plain": {"source": "radhical:nuclei", "outlines": False}}
    plan = project({}, annotations=dict.fromkeys("ABC", "a.png"), radhical={"nuclei": {}}, cells=cells)
    assert plan.cell_slides("n") == ["C", "D", "E"]
    assert plan.cell_files("n", "C", here=True) == [plan.layout.cascade("nuclei").store("C")]
    found = names(Outputs(plan).of_cells())
    assert {"cells/n/C.parquet", "cells/n/C.labels.zarr/zarr.json", "cells/n/C.geojson"} <= found
    assert "cells/plain/C.parquet" in found
    assert "cells/plain/C.geojson" not in found
    assert set(Outputs(plan).of_cells()) <= set(Outputs(plan).all())
    assert not [path for path in Outputs(plan, unchanged={"C"}).of_cells() if "C" in path.name]


def test_cells_of_a_task_are_those_of_its_first_fold_that_predicts_a_slide(project):
    target = {"source": "mask", "classes": ["tumour", "stroma"]}
    tasks = {"t": task(kind="segmentation", target=target, model={"name": "fast_scnn"})}
    plan = project(tasks, cells={"n": {"source": "task:t"}})
    assert plan.cell_files("n", "E", here=True) == [plan.layout.segmentation("t", 0, "E")]


def test_masks_of_cells_are_read_where_they_are_and_other_annotations_after_their_check(project):
    given, cells = {"A": "a.png", "B": "b.geojson"}, {"n": {"source": "annotation"}}
    plan = project({}, annotations=given, cells=cells)
    layout = plan.layout
    assert plan.cell_slides("n") == ["A", "B"]
    assert plan.cell_files("n", "A", here=True) == [layout.annotation("A"), layout.label_image("A")]
    assert plan.cell_files("n", "B", here=True) == [layout.annotation("B"), layout.outlines("B")]
    meaning = dataclasses.replace(
        plan, config=parse_config(plan.config.dump() | {"annotations": {"mask_values": "cells"}})
    )
    assert meaning.cell_files("n", "A", here=True) == []
    assert meaning.cell_files("n", "A", here=False) == [Path("a.png")]
    assert meaning.cell_files("n", "B", here=True) == [layout.annotation("B"), layout.outlines("B")]
    assert meaning.masked == frozenset()


def test_slides_can_be_preprocessed_without_any_task(project):
    """The target `preprocess`: tables of all grids, what they are made from, and the quarantine."""
    plan = project({}, grids={"x10": {"mpp": 1.0}, "x20": {"mpp": 0.5}})
    found = set(Outputs(plan).preprocessed())
    layout = plan.layout
    assert {layout.table(grid, slide) for grid in ("x10", "x20") for slide in ROLES} <= found
    assert {layout.store(slide, packed=False) for slide in ROLES} | {layout.quarantine} <= found
    assert not {path for path in found if path.suffix in (".duckdb", ".html")}
    assert Outputs(plan, unchanged=set(ROLES)).preprocessed() == [layout.quarantine]


def test_a_training_that_names_an_encoder_starts_from_its_card_and_weights(project):
    encoders = {"e": {"grid": "x10", "name": "folder:encoders/e"}}
    plan = project({"t": task(model={"pretrained": "e"})}, encoders=encoders)
    files = [Path("encoders/e/model.json"), Path("encoders/e/model.safetensors")]
    assert plan.pretrained("t", here=False) == files
    assert plan.pretrained("t", here=True) == []


def test_features_are_requested_for_every_slide_and_group(project):
    encoders = {name: {"grid": "x10", "name": "resnet18", "weights": False} for name in ("a", "b", "c")}
    encoders["a"]["group"] = encoders["b"]["group"] = "both"
    plan = project({}, encoders=encoders)
    found = {str(path.relative_to(plan.layout.results)) for path in Outputs(plan).features()}
    assert found == {f"features/{group}/{slide}.arrow" for group in ("both", "c") for slide in ROLES}
    assert plan.encoder_settings("both")["encoders"].keys() == {"a", "b"}


def test_a_task_on_features_is_learned_from_the_files_of_its_encoder_s_group(project):
    encoders = {"a": {"grid": "x10", "name": "resnet18", "weights": False, "group": "both"}}
    plan = project({"t": task(features="a"), "u": task()}, encoders=encoders)
    assert plan.on_features == ["t"]
    assert plan.feature_column("t", 0) == "a"
    assert [path.name for path in plan.fitted_vectors("t", 0)] == ["A.arrow", "B.arrow"]
    assert plan.fitted_vectors("u", 0) == []
    assert Outputs(plan).attributed_models() == [("u", 0)]


def test_a_task_whose_model_encodes_gives_each_fold_the_model_of_the_fold(project):
    split = {"split": {"folds": 2}}
    encoders = {"own": {"grid": "x10", "name": "task:first"}}
    plan = project(
        {"first": task(**split), "t": task(features="own", **split)}, dict.fromkeys("ABCDEF"), encoders=encoders
    )
    assert plan.feature_column("t", "1") == "own.fold1"
    assert plan.encoder_folders("own") == {"first": ["results/models/first/fold0", "results/models/first/fold1"]}
    assert len(plan.encoder_models("own")) == 4


def test_features_of_another_program_are_a_file_per_slide(project, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = project({}, encoders={"e": {"grid": "x10", "name": "h5:given"}})
    assert plan.imported_files("e", "A") == []
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "A.h5").touch()
    assert plan.imported_files("e", "A") == [Path("given/A.h5")]
    assert plan.imported_files("e", "B") == []
    assert plan.encoder_files("e") == []


def test_slides_that_are_only_predicted_do_not_shape_a_map(project):
    encoders = {"e": {"grid": "x10", "name": "resnet18", "weights": False, "group": "g"}}
    plan = project({}, encoders=encoders, explain={"maps": ["e"]})
    fitted = [slide for slide, row in plan.slides.items() if row.split != "predict"]
    assert plan.fitted_to_map == sorted(fitted)
    assert 0 < len(fitted) < len(plan.slides)
    outputs = Outputs(plan)
    assert outputs.mapped_features("e", ["A"]) == [plan.layout.features("g", "A")]
    assert plan.layout.feature_map("e").page in outputs.all()


def test_a_map_of_an_unknown_encoder_or_of_models_of_folds_is_refused(project):
    with pytest.raises(ConfigError, match=r"explain.maps: 'e' is not under encoders"):
        project({}, explain={"maps": ["e"]})
    with pytest.raises(ConfigError, match=r"explain.maps: e has another model in each fold"):
        project({"t": task()}, encoders={"e": {"grid": "x10", "name": "task:t"}}, explain={"maps": ["e"]})
