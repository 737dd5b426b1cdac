"""Vectors of an earlier choice of patches: another budget encodes only the difference."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from histomake.base.files import sha256_file
from histomake.base.records.record import usable
from histomake.config import Encoder
from histomake.features import extract_chosen
from histomake.features.encoders import load_group
from histomake.features.kept import KeptFile, keep
from histomake.features.store import read_features, write_features
from histomake.learn.data.patch_index import usable_patches
from small_cohort import GRID_NAME, build_cohort
from test_patch_choice import GRID, chooser, encoded, scored


@pytest.fixture(scope="module")
def entry(tmp_path_factory):
    return build_cohort(tmp_path_factory.mktemp("cohort"), 1)[0]


@pytest.fixture(scope="module")
def encoder():
    return ready()


def ready(**settings):
    return load_group(
        {"e": Encoder(grid=GRID_NAME, name="resnet10t", weights=False, **settings)}, GRID, models={}, threads=1
    )[0]


@pytest.fixture
def encodings(monkeypatch):
    """Numbers of patches that were encoded, by slide."""
    counted = []
    original = extract_chosen.encode_pixels

    def counting(encoders, entry, pixels, vectors, **options):
        counted.append(len(pixels.where))
        return original(encoders, entry, pixels, vectors, **options)

    monkeypatch.setattr(extract_chosen, "encode_pixels", counting)
    return counted


@pytest.fixture
def earlier(entry, encoder, encodings, tmp_path):
    """The slide with a rising score, of which the best tenth was encoded before."""
    slide = scored(entry, tmp_path, np.arange(usable_patches(entry)[0].num_rows))
    encoded(encoder, slide, chooser("w", budget=0.1), tmp_path / "old.arrow")
    keep(tmp_path / "old.arrow", tmp_path / "kept" / "s.arrow")
    (tmp_path / "old.arrow").unlink()  # Snakemake removes outputs before a job
    encodings.clear()
    file = tmp_path / "kept" / "s.arrow"
    return replace(slide, kept=KeptFile(file, sha256_file(file)))


def test_a_larger_budget_encodes_the_further_patches_alone(earlier, encoder, encodings, tmp_path):
    models = chooser("w", budget=0.3)
    found = encoded(encoder, earlier, models, tmp_path / "new.arrow")
    whole = encoded(encoder, replace(earlier, kept=None), models, tmp_path / "whole.arrow")
    assert encodings == [len(found) - len(read_features(earlier.kept.path)), len(found)]
    assert found.patch_id.tolist() == whole.patch_id.tolist()
    assert np.array_equal(found.vectors("e.fold0"), whole.vectors("e.fold0"))
    assert (found.record.kept_from, whole.record.kept_from) == (earlier.kept.sha256, None)
    assert msgspec.structs.replace(usable(found.record), kept_from=None) == usable(whole.record)


def test_a_smaller_budget_encodes_nothing(earlier, encoder, encodings, tmp_path):
    found = encoded(encoder, earlier, chooser("w", budget=0.05), tmp_path / "new.arrow")
    assert len(found) > 0
    assert encodings == []


def test_patches_that_another_model_chose_have_the_same_vectors(earlier, encoder, encodings, tmp_path):
    found = encoded(encoder, earlier, chooser("another", budget=0.1), tmp_path / "new.arrow")
    assert encodings == []
    assert found.record.columns[0].chooser.weights == "another"


@pytest.mark.parametrize(
    ("encoder_settings", "code", "sha256"),
    [({"views": "mean"}, "c", None), ({}, "other", None), ({}, "c", "0" * 64)],
    ids=["settings", "code", "altered"],
)
def test_vectors_of_other_settings_code_or_bytes_are_not_taken(
    encoder_settings, code, sha256, earlier, encodings, tmp_path
):
    slide = earlier if sha256 is None else replace(earlier, kept=replace(earlier.kept, sha256=sha256))
    found = encoded(ready(**encoder_settings), slide, chooser("w", budget=0.1), tmp_path / "new.arrow", code=code)
    assert encodings == [len(found)]
    assert found.record.kept_from is None


def test_vectors_of_another_slide_are_not_taken(earlier, encoder, encodings, tmp_path):
    old = read_features(earlier.kept.path)
    foreign = tmp_path / "foreign.arrow"
    places = {name: old.table[name].to_numpy() for name in ("patch_id", "x", "y")}
    record = msgspec.structs.replace(usable(old.record), sha256="f" * 64)
    write_features(foreign, record, places, {"e.fold0": old.vectors("e.fold0")})
    slide = replace(earlier, kept=KeptFile(foreign, sha256_file(foreign)))
    found = encoded(encoder, slide, chooser("w", budget=0.1), tmp_path / "new.arrow")
    assert encodings == [len(found)]


def test_a_file_without_a_digest_or_that_is_damaged_is_not_taken(earlier, encoder, encodings, tmp_path):
    encoded(
        encoder, replace(earlier, kept=replace(earlier.kept, sha256=None)), chooser("w", budget=0.1), tmp_path / "a"
    )
    earlier.kept.path.write_bytes(earlier.kept.path.read_bytes()[:100])
    damaged = KeptFile(earlier.kept.path, sha256_file(earlier.kept.path))
    encoded(encoder, replace(earlier, kept=damaged), chooser("w", budget=0.1), tmp_path / "b")
    assert len(encodings) == 2
