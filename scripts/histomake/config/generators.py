"""Keys of generators: growing networks that make fields of view out of random numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import Field, model_validator

from histomake.config.encoders import Encoder
from histomake.config.section import Name, Section, Share
from histomake.config.training import RUNNING
from histomake.config.transfers import UNMEASURING, TransferSide

FIRST_SIZE = 4
"""Edge in pixels of the first images that a generator makes."""

FINEST_MPP = 0.05
"""µm per pixel that images must be coarser than, as patches of grids."""

Size = Annotated[int, Field(ge=FIRST_SIZE, le=1024)]


class GeneratorNetwork(Section):
    """Channels of both networks: at images of s px, features / s, but at most ``most``."""

    features: int = Field(
        16_384,
        ge=1024,
        le=65_536,
        description="Channels times edge of the images: by default 512 up to 32 px, 256 at 64 px (paper).",
    )
    most: int = Field(512, ge=4, le=1024, description="Largest number of channels.")


class GeneratorTrain(Section):
    """Training of a generator."""

    batch: int = Field(
        128,
        ge=4,
        multiple_of=4,
        description="Images per step up to 16 px; half as many with each further size, at least 4.",
    )
    learning_rate: float = Field(1e-3, gt=0, description="Learning rate of Adam, with betas of 0 and 0.99.")
    ema: float | None = Field(
        0.999, gt=0, lt=1, description="Decay of the average of the generator that is kept; null: the last weights."
    )
    record_every: int = Field(500, ge=1, description="Steps between rows of history.csv, and between sample pictures.")
    workers: int | None = Field(None, ge=0, description="Loader processes. By default as many as cores allow, up to 7.")
    checkpoint_minutes: float = Field(
        10.0, gt=0, description="Minutes between checkpoints. A killed job loses at most this time."
    )

    def fitting(self) -> dict[str, Any]:
        """Return the settings that affect the weights: not how the job is run."""
        return {key: value for key, value in self.dump().items() if key not in RUNNING}


class GeneratorMeasure(Section):
    """What is measured on held-out patients."""

    encoder: Name | None = Field(
        None,
        description="Entry of encoders whose features FID, KID, precision and recall compare; null: without them.",
    )
    samples: int = Field(
        1000, ge=16, le=50_000, description="Number of samples, and at most as many fields of real slides of each role."
    )


class Generator(Section):
    """A growing generator (Karras et al. 2018). It reads a field of the slide at each size directly from the store."""

    field_um: float = Field(gt=0, le=100_000, description="Edge of the field of view in µm, the same at every size.")
    sizes: list[Size] = Field(
        [4, 8, 16, 32, 64, 128, 256],
        min_length=1,
        description="Edges of the images in pixels, as they are learned one after another: 4, 8, 16, …",
    )
    latent: int = Field(512, ge=2, le=1024, description="Random numbers that an image is made of.")
    images: int = Field(300_000, ge=1, description="Images shown at each size, after it has been faded in.")
    fade: int = Field(300_000, ge=0, description="Images shown while a size is faded in; 0: sizes begin at once.")
    slides: TransferSide | None = Field(None, description="The slides that are learned from; null: all.")
    label: str | None = Field(
        None, description="Column of the sheet whose value of the slide the images are conditioned on; null: none."
    )
    tissue: Share = Field(0.5, gt=0, description="Least share of tissue in a field.")
    test: Share = Field(
        0.25,
        gt=0,
        lt=1,
        description="Share of the patients that are held out and compared with. In the column split of the sheet, val "
        "counts as train.",
    )
    network: GeneratorNetwork = Field(default_factory=GeneratorNetwork, description="Channels of both networks.")
    train: GeneratorTrain = Field(default_factory=GeneratorTrain, description="Training.")
    measure: GeneratorMeasure = Field(default_factory=GeneratorMeasure, description="What is measured.")

    @model_validator(mode="after")
    def _sizes_double(self) -> Generator:
        expected = [FIRST_SIZE * 2**n for n in range(len(self.sizes))]
        if self.sizes != expected:
            raise ValueError(f"sizes: {self.sizes} do not begin with {FIRST_SIZE} and double; take {expected}")
        if self.field_um / self.sizes[-1] <= FINEST_MPP:
            raise ValueError(
                f"field_um: {self.field_um:g} at {self.sizes[-1]} px are {FINEST_MPP} µm per px or less; take a larger "
                "field or fewer sizes"
            )
        return self

    def fitting(self) -> dict[str, Any]:
        """Return the settings that affect the weights."""
        kept = self.dump("field_um", "sizes", "latent", "images", "fade", "slides", "label", "tissue", "network")
        return kept | {"train": self.train.fitting()}


def generator_problems(generators: Mapping[str, Generator], *, encoders: Mapping[str, Encoder]) -> Iterator[str]:
    """Encoders that do not exist, or cannot encode samples."""
    for name, generator in generators.items():
        encoder = generator.measure.encoder
        if encoder is None:
            continue
        place = f"generators.{name}.measure.encoder"
        if encoder not in encoders:
            yield f"{place}: {encoder!r} is not under encoders ({', '.join(encoders) or 'none'})"
        elif encoders[encoder].source in UNMEASURING:
            yield f"{place}: {encoders[encoder].name} cannot encode samples; take a network from elsewhere"
