"""Records: they are read as they were written, older formats are upgraded, and anything else is refused."""

from __future__ import annotations

import importlib
import json
import math
import pkgutil
import re
from pathlib import Path

import pytest
from histomake.base import records
from histomake.base.errors import Reason, SlideError
from histomake.base.kinds import Kind
from histomake.base.records.annotation import AnnotationRecord
from histomake.base.records.attribution_checks import AttributionChecks
from histomake.base.records.cascade_card import CascadeCard
from histomake.base.records.cascade_metrics import CascadeMetrics
from histomake.base.records.cascade_thresholds import ThresholdsRecord
from histomake.base.records.cell_table import CellTableRecord
from histomake.base.records.cohort import CohortSlide
from histomake.base.records.comparison import ComparisonRecord
from histomake.base.records.core_table import CoreTableRecord
from histomake.base.records.documentation import PLACES, field_texts, page
from histomake.base.records.encoder_card import EncoderCard
from histomake.base.records.features import FeatureRecord
from histomake.base.records.generator_card import GeneratorCard
from histomake.base.records.generator_measures import GeneratorMeasures
from histomake.base.records.graph import GraphRecord
from histomake.base.records.leakage import LeakageRecord
from histomake.base.records.manifest import Manifest
from histomake.base.records.metrics import MetricsRecord
from histomake.base.records.model_card import ModelCard
from histomake.base.records.nuclei import NucleiRecord
from histomake.base.records.patch_cascade import PatchCascadeRecord
from histomake.base.records.patch_cascade_metrics import PatchCascadeMetrics
from histomake.base.records.patch_table import PatchTableRecord
from histomake.base.records.patch_thresholds import PatchThresholdsRecord
from histomake.base.records.quality import QualityRecord
from histomake.base.records.record import (
    Part,
    Quarantined,
    Record,
    RecordError,
    StageRecord,
    Versioned,
    WeightsCard,
    quarantined,
    write_list,
)
from histomake.base.records.run import RunRecord
from histomake.base.records.segmenter_card import SegmenterCard
from histomake.base.records.separation import SeparationRecord
from histomake.base.records.sidecar import Sidecar
from histomake.base.records.stains import StainRecord
from histomake.base.records.tissue import TissueRecord
from histomake.base.records.transfer_card import TransferCard
from histomake.base.records.transfer_measures import TransferMeasures
from histomake.base.records.warning import SlideWarning
from hypothesis import HealthCheck, given, settings
from record_strategies import records as made

from tests import sample_records

ROOT = Path(__file__).resolve().parents[2]
FORMAT_0 = ROOT / "tests" / "data" / "records" / "format0"
SAMPLES = {
    "manifest": Manifest,
    "quarantined": Manifest,
    "annotation": AnnotationRecord,
    "mask_annotation": AnnotationRecord,
    "no_annotation": AnnotationRecord,
    "tissue": TissueRecord,
    "quality": QualityRecord,
    "patch_table": PatchTableRecord,
    "quarantined_patch_table": PatchTableRecord,
    "model_card": ModelCard,
    "multi_label_model_card": ModelCard,
    "cascade_card": CascadeCard,
    "stains": StainRecord,
    "leakage": LeakageRecord,
    "metrics": MetricsRecord,
    "multi_label_metrics": MetricsRecord,
    "segmentation_metrics": MetricsRecord,
    "separation": SeparationRecord,
    "attribution_checks": AttributionChecks,
    "cascade_thresholds": ThresholdsRecord,
    "cascade_metrics": CascadeMetrics,
    "nuclei": NucleiRecord,
    "patch_cascade": PatchCascadeRecord,
    "sidecar": Sidecar,
    "sidecar_without_git": Sidecar,
    "run": RunRecord,
}
"""Files of histomake 0.1, and how each is read."""

LISTS = {"quarantine": Quarantined, "cohort": CohortSlide}
"""Lists that histomake 0.1 wrote."""

UPGRADED = {
    "manifest": {"levels"},
    "quarantined_patch_table": {"grid", "grid_name"},
    "model_card": {"target"},
    "sidecar_without_git": {"git"},
    "multi_label_model_card": {"target", "kind"},
    "multi_label_metrics": {"kind"},
    "run": {"finished"},
    "cascade_metrics": {"groups"},
    "cascade_thresholds": {"rule"},
    "patch_cascade": {"stages"},
}
"""Fields that an upgrade changes or drops, or whose parts have new fields."""


def classes(base: type) -> list[type]:
    """Every class below ``base``, however deep, after importing all records."""
    for module in pkgutil.iter_modules(records.__path__):
        importlib.import_module(f"{records.__name__}.{module.name}")
    found, pending = {}, [base]
    while pending:
        below = [kind for kind in pending.pop().__subclasses__() if kind.__module__.startswith(records.__name__)]
        found |= dict.fromkeys(below)
        pending += below
    return list(found)


KINDS = [kind for kind in classes(Versioned) if kind not in (Record, StageRecord, WeightsCard)]
NEW = {
    *(
        CellTableRecord,
        CoreTableRecord,
        GraphRecord,
        ComparisonRecord,
        EncoderCard,
        FeatureRecord,
        SegmenterCard,
        SlideWarning,
    ),
    *(GeneratorCard, GeneratorMeasures, PatchCascadeMetrics, PatchThresholdsRecord, TransferCard, TransferMeasures),
}
"""Records that histomake 0.1 did not have."""


@pytest.mark.parametrize("kind", KINDS)
def test_every_record_comes_back_as_written(kind, tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")

    @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
    @given(made(kind))
    def check(record):
        record.write(folder / "a.json")
        assert kind.read(folder / "a.json") == record

    check()


def test_a_file_is_sorted_utf8_with_its_format(tmp_path):
    sample_records.quality("Größe").write(tmp_path / "a.json")
    text = (tmp_path / "a.json").read_bytes().decode("utf-8")
    content = json.loads(text)
    assert list(content) == sorted(content)
    assert "Größe" in text
    assert (content["format"], content["status"]) == (1, "ok")


@pytest.mark.parametrize("name", SAMPLES)
def test_files_of_format_0_are_upgraded(name, tmp_path):
    record = SAMPLES[name].read(FORMAT_0 / f"{name}.json")
    record.write(tmp_path / "new.json")
    assert SAMPLES[name].read(tmp_path / "new.json") == record
    before, after = (json.loads(path.read_text()) for path in (FORMAT_0 / f"{name}.json", tmp_path / "new.json"))
    kept = before.keys() - {"format"} - UPGRADED.get(name, set())
    assert {key: after[key] for key in kept} == {key: before[key] for key in kept}
    assert after["format"] == record.newest()


def test_every_record_has_a_sample_of_format_0():
    read = {type(SAMPLES[name].read(FORMAT_0 / f"{name}.json")) for name in SAMPLES}
    assert read | set(LISTS.values()) == set(KINDS) - NEW


def test_formats_of_slides_and_annotations_have_a_name_of_their_own():
    assert Manifest.read_usable(FORMAT_0 / "manifest.json").slide_format == "tiff"
    assert AnnotationRecord.read_usable(FORMAT_0 / "annotation.json").annotation_format == "asap"
    assert not AnnotationRecord.read_usable(FORMAT_0 / "no_annotation.json").is_annotated


def test_a_model_of_several_labels_gets_their_kind():
    card = ModelCard.read(FORMAT_0 / "multi_label_model_card.json")
    assert card.kind is Kind.MULTI_LABEL
    assert "multi_label" not in card.target
    assert ModelCard.read(FORMAT_0 / "model_card.json").kind is Kind.CLASSIFICATION


def test_metrics_of_several_labels_get_their_kind():
    names = [name for name, record in SAMPLES.items() if record is MetricsRecord]
    assert {name: MetricsRecord.read(FORMAT_0 / f"{name}.json").kind for name in names} == {
        "metrics": Kind.CLASSIFICATION,
        "multi_label_metrics": Kind.MULTI_LABEL,
        "segmentation_metrics": Kind.SEGMENTATION,
    }


ADDED = {"cohort": {"graph": None, "patches": 0, "readers": {}}}
"""Fields that entries of format 0 lack, with their defaults."""


@pytest.mark.parametrize("name", LISTS)
def test_lists_of_format_0_are_upgraded(name, tmp_path):
    entries = LISTS[name].read_list(FORMAT_0 / f"{name}.json")
    write_list(tmp_path / "new.json", entries)
    assert LISTS[name].read_list(tmp_path / "new.json") == entries
    before, after = (json.loads(path.read_text()) for path in (FORMAT_0 / f"{name}.json", tmp_path / "new.json"))
    assert after == [entry | {"format": 1} | ADDED.get(name, {}) for entry in before]


def test_a_stage_reads_as_its_record_or_as_a_quarantine_entry(tmp_path):
    lost = sample_records.lost()
    lost.write(tmp_path / "a.json")
    assert Manifest.read(tmp_path / "a.json") == lost
    assert quarantined(sample_records.manifest(), lost) is lost
    assert quarantined(sample_records.manifest(), sample_records.tissue()) is None


def test_a_quarantine_entry_gives_the_error_it_was_made_from():
    error = SlideError(Reason.NO_TISSUE, slide_id="s", path="a.svs", detail="none", remedy="Look")
    again = Quarantined.of(error, "presegment").error()
    assert str(again) == str(error)
    assert again.reason is error.reason


def test_warnings_are_collected_from_all_stages_but_not_of_slides_in_quarantine():
    stages = [
        sample_records.manifest("b", warnings=("3 tiles are absent.",)),
        sample_records.annotation("a", warnings=("2 points.", "1 line.")),
        sample_records.annotation("lost", warnings=("1 line.",)),
        sample_records.lost("lost"),
    ]
    found = SlideWarning.of(stages, lost=["lost"])
    assert [(w.slide_id, w.about, w.text) for w in found] == [
        ("a", "annotation record", "2 points."),
        ("a", "annotation record", "1 line."),
        ("b", "slide manifest", "3 tiles are absent."),
    ]


def test_a_usable_record_is_refused_for_a_slide_in_quarantine(tmp_path):
    sample_records.lost().write(tmp_path / "a.json")
    with pytest.raises(SlideError, match="Give one in the sheet"):
        TissueRecord.read_usable(tmp_path / "a.json")


def test_unknown_fields_of_a_newer_version_are_ignored():
    record = sample_records.tissue()
    assert TissueRecord.decode(json.dumps(record.dump() | {"new": [1]}), "a.json") == record


def without(content, name):
    return {key: value for key, value in content.items() if key != name}


TISSUE = sample_records.tissue().dump()
REFUSED = {
    "newer": (TISSUE | {"format": 2}, "is a tissue record of format 2; .* reads formats up to 1"),
    "missing": (without(TISSUE, "mpp"), "mpp is missing"),
    "missing status": (without(TISSUE, "status"), "status is missing"),
    "unknown status": (TISSUE | {"status": "fine"}, "status: Invalid value 'fine'"),
    "text for a number": (TISSUE | {"area_mm2": "much"}, "area_mm2: Expected 'float', got 'str'"),
    "out of bounds": (TISSUE | {"mpp": 0}, "mpp: Expected `float` > 0".replace("`", "'")),
    "not a number": (TISSUE | {"area_mm2": math.nan}, "JSON is malformed"),
    "list": ([TISSUE], "Expected 'object', got 'array'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_a_valid_record_is_refused_with_file_field_and_remedy(name, tmp_path):
    content, message = REFUSED[name]
    path = tmp_path / "s1.json"
    path.write_text(json.dumps(content))
    with pytest.raises(RecordError, match=message) as caught:
        TissueRecord.read(path)
    assert str(path) in str(caught.value)
    assert "run the workflow again" in str(caught.value) or "version of histomake" in str(caught.value)


@pytest.mark.parametrize("length", [0, 1, 100, -2])
def test_a_truncated_file_is_refused(length, tmp_path):
    path = tmp_path / "s1.json"
    path.write_bytes((FORMAT_0 / "manifest.json").read_bytes()[:length])
    with pytest.raises(RecordError, match=f"{path} is not a valid slide manifest: Input data was truncated"):
        Manifest.read(path)


def test_a_field_deep_in_a_record_is_named():
    content = sample_records.manifest().dump()
    del content["levels"][0]["codec"]
    with pytest.raises(RecordError, match=r"levels\[0\].codec is missing"):
        Manifest.decode(json.dumps(content), "s1.json")


def test_an_object_in_place_of_a_list_is_refused(tmp_path):
    sample_records.lost().write(tmp_path / "quarantine.json")
    with pytest.raises(RecordError, match=r"quarantine\.json is not a valid quarantine entry: Expected 'array'"):
        Quarantined.read_list(tmp_path / "quarantine.json")


def test_a_bad_entry_of_a_list_is_named_by_its_place(tmp_path):
    entries = [sample_records.lost().dump(), without(sample_records.lost().dump(), "reason")]
    (tmp_path / "quarantine.json").write_text(json.dumps(entries))
    with pytest.raises(RecordError, match=r"quarantine\.json, entry 1 .*: reason is missing"):
        Quarantined.read_list(tmp_path / "quarantine.json")


@pytest.mark.parametrize(
    ("value", "message"),
    [(math.nan, "area_mm2 is not a finite number"), (math.inf, "area_mm2"), ("x", "area_mm2: Expected 'float'")],
)
def test_a_record_that_could_not_be_read_again_is_not_written(value, message, tmp_path):
    sample_records.tissue().write(tmp_path / "s1.json")
    before = (tmp_path / "s1.json").read_bytes()
    with pytest.raises(RecordError, match=f"{tmp_path / 's1.json'}: .*{message}"):
        sample_records.tissue(area_mm2=value).write(tmp_path / "s1.json")
    assert (tmp_path / "s1.json").read_bytes() == before


def test_reasons_are_never_renamed():
    assert {reason.value for reason in Reason} >= {
        "bad_annotation",
        "checksum",
        "damaged_tiles",
        "fluorescence",
        "implausible_size",
        "no_mpp",
        "no_tissue",
        "out_of_memory",
        "truncated",
        "unreadable",
        "unsupported",
    }


def test_every_record_is_on_the_page():
    assert set(PLACES) == set(KINDS)


@pytest.mark.parametrize("kind", [kind for kind in classes(Part) if kind not in (Versioned, Record, StageRecord)])
def test_every_field_is_documented(kind):
    assert not set(kind.__struct_fields__) - set(field_texts(kind))
    assert kind.__doc__


def test_the_page_of_records_describes_everything_once_and_links_lead_to_it():
    titles = re.findall(r"^##+ (.*)$", page(), re.MULTILINE)
    assert len(titles) == len(set(titles))
    anchors = set(re.findall(r"\]\(#([\w-]+)\)", page()))
    assert anchors
    assert anchors <= {title.lower().replace(" ", "-") for title in titles}


def test_the_page_of_records_is_up_to_date():
    assert (ROOT / "docs" / "records.md").read_text() == page(), "run `make docs`"
