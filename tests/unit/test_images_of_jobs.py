"""Images that jobs run in: with `--sdm apptainer`, no job may run outside of one without a word."""

from histomake.config.containers import Containers
from histomake.planning.images import image_problems


def test_images_that_are_not_set_are_named_with_their_recipe():
    learning, slides = image_problems(Containers())
    assert slides.startswith("containers.slides is not set")
    assert "envs/slides.def" in slides
    assert learning.startswith("containers.learning is not set")


def test_an_image_file_that_is_missing_is_named(tmp_path):
    there = tmp_path / "slides.sif"
    there.write_bytes(b"")
    (problem,) = image_problems(Containers(slides=str(there), learning=str(tmp_path / "learning.sif")))
    assert problem.startswith(f"containers.learning: there is no image {tmp_path}/learning.sif")


def test_an_address_is_left_to_apptainer():
    assert image_problems(Containers(slides="docker://histomake-slides", learning="docker://histomake-learning")) == []
