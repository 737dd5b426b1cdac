"""The images that jobs run in with `--sdm apptainer`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from histomake.config.containers import Containers

SCHEME = "://"
"""In addresses of images that Apptainer fetches, and not in paths."""


def image_problems(containers: Containers) -> list[str]:
    """Why jobs cannot run in these images: without one, Snakemake runs a job outside of any image without a word."""
    return [line for name, image in containers.dump().items() for line in _problems(name, image)]


def _problems(name: str, image: str | None) -> Iterator[str]:
    remedy = f"build it from envs/{name}.def (envs/README.md), or leave out --sdm apptainer"
    if image is None:
        yield f"containers.{name} is not set, so jobs would run outside of an image: {remedy}"
    elif SCHEME not in image and not Path(image).exists():
        yield f"containers.{name}: there is no image {image}: {remedy}"
