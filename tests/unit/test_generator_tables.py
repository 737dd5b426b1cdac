"""Tables of the catalog with the measures of generators."""

from __future__ import annotations

import pytest
from histomake.base.records.generator_measures import FeatureDistances, GeneratorMeasures, Memorisation, ScaleDistance
from histomake.catalog.generators import generator_tables


def record(**values):
    given = {
        "generator": "renal",
        "weights_sha256": "a" * 64,
        "images": (100, 90, 80),
        "slides": (["s1", "s2"], ["s3"]),
        "encoder": None,
        "scales": [ScaleDistance(edge=32, made=5.0, real=2.0), ScaleDistance(edge=16, made=4.0, real=1.0)],
        "made": None,
        "real": None,
        "memorisation": Memorisation(space="pixels", made=1.0, held_out=1.1, copies=0.08, flagged=True),
        "flags": ["8 % of the samples are copies"],
    }
    return GeneratorMeasures(**given | values)


@pytest.fixture
def tables(tmp_path):
    def make(*records):
        paths = [tmp_path / f"{found.generator}.json" for found in records]
        for found, path in zip(records, paths, strict=True):
            found.write(path)
        return generator_tables(paths)

    return make


def test_each_generator_has_a_row_and_each_of_its_scales(tables):
    found = tables(record(), record(generator="lung", scales=[ScaleDistance(edge=16, made=3.0, real=1.0)]))
    assert found["generators"]["generator"].to_pylist() == ["renal", "lung"]
    assert found["generators"]["held_out_slides"].to_pylist() == [1, 1]
    assert found["generators"]["memorised"].to_pylist() == [True, True]
    scales = found["generator_scales"].to_pylist()
    assert [(row["generator"], row["edge"], row["made"]) for row in scales] == [
        ("renal", 32, 5.0),
        ("renal", 16, 4.0),
        ("lung", 16, 3.0),
    ]


def test_distances_by_features_are_null_without_an_encoder(tables):
    (row,) = tables(record())["generators"].to_pylist()
    assert row["made_kid"] is row["real_recall"] is None


def test_distances_by_features_have_the_interval_of_kid(tables):
    made = FeatureDistances(kid=0.2, kid_interval=(0.1, 0.3), fid=9.0, precision=0.5, recall=0.4)
    (row,) = tables(record(encoder="small", made=made, real=made))["generators"].to_pylist()
    assert (row["made_kid_low"], row["made_kid"], row["made_kid_high"]) == (0.1, 0.2, 0.3)
    assert (row["real_fid"], row["real_precision"], row["real_recall"]) == (9.0, 0.5, 0.4)


def test_without_generators_there_is_no_table():
    assert generator_tables([]) == {}
