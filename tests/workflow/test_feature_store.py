"""Features in the workflow: a slide that changes is encoded alone, and encoders do not run each other again."""

from __future__ import annotations

import pytest
import yaml

from tests.workshop import Workshop

SLIDES = ("P01-A", "P02-A", "P03.B", "P04-A", "P04-B")


def features(group: str) -> list[str]:
    return [f"results/features/{group}/{slide}.arrow" for slide in SLIDES]


@pytest.fixture
def changed_slide(others: Workshop):
    """Another last byte in the file of P02-A, for the time of a test."""
    slide = others.slide_file("P02-A")
    content = slide.read_bytes()
    slide.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    yield "P02-A"
    slide.write_bytes(content)


@pytest.fixture
def second_encoder(others: Workshop):
    """One encoder more in the configuration, for the time of a test."""
    text = others.config.read_text()
    content = yaml.safe_load(text)
    content["encoders"]["second"] = content["encoders"]["small"] | {"pool": "mean"}
    others.config.write_text(yaml.safe_dump(content))
    yield "second"
    others.config.write_text(text)


def test_features_that_are_made_are_not_made_again(others: Workshop):
    others.snakemake("--", *features("small"))
    assert others.planned("--", *features("small")) == set()


def test_a_slide_that_changed_is_encoded_alone(others: Workshop, changed_slide: str):
    others_slides = {job.slide for job in others.planned("--", *features("small")) if job.rule == "features"}
    assert others_slides == {changed_slide}


def test_another_encoder_encodes_all_slides_and_leaves_the_first_alone(others: Workshop, second_encoder: str):
    planned = others.planned("--", *features(second_encoder))
    assert {job.slide for job in planned if job.rule == "features"} == set(SLIDES)
    assert others.planned("--", *features("small")) == set()


def test_every_slide_has_its_own_job_even_if_one_job_encodes_several(others: Workshop):
    others.snakemake("--", *features("small"))
    assert [path for path in features("small") if not (others.folder / f"{path}.meta.json").is_file()] == []
