"""What a growing generator learns: images that a critic takes for fields of slides (Karras et al., ICLR 2018)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
import torch
from torch import Tensor
from torch.optim import Adam
from torch.optim.lr_scheduler import LambdaLR

from histomake.base.records.generator_card import GeneratorCard
from histomake.config import Generator
from histomake.generate.growing.fields import FieldBatch, FieldBatches, FieldSet
from histomake.generate.growing.losses import DRIFT, PENALTY, critic_loss, drift, generator_loss, gradient_penalty
from histomake.generate.growing.networks import GrowingCritic, GrowingGenerator, blended
from histomake.generate.growing.phase_pictures import PICTURES, PhaseImages, write_phases
from histomake.generate.growing.schedule import Phase, Schedule
from histomake.generate.signed import from_signed, to_signed
from histomake.learn.data.loader import load_batches
from histomake.learn.engine.checkpoint import State
from histomake.learn.engine.objective import Json, Objective, Optimisation, Result, Turn, Validation
from histomake.learn.engine.runtime import Runtime, default_workers, seed_step
from histomake.learn.objectives.patches import made_with

if TYPE_CHECKING:
    from numpy.typing import NDArray

BETAS = (0.0, 0.99)
EPSILON = 1e-8
GENERATOR, CRITIC = "generator", "critic"
SHORT_OF_MEMORY = "with images of up to {size} px: lower train.batch or network.features, or leave out the last size"


class GrowingObjective(Objective[FieldBatch]):
    """What is learned from fields of slides.

    A step has two turns. The critic learns to score real fields higher than made ones, then the generator to make
    fields with high scores. Sizes are faded in, with real fields blended alike. Which size a step has is a function of
    its number alone; parts of the networks that are not used yet have no gradients. The optimisers begin anew with
    each phase, as in the paper's implementation. Both networks compute in float32, because the penalty needs gradients
    of gradients.
    """

    unit: ClassVar[str] = "fields"
    not_finite = "lower train.learning_rate"

    def __init__(self, generator: Generator, *, fields: FieldSet, runtime: Runtime, seed: int, threads: int) -> None:
        self.settings, self.fields, self.runtime, self.seed = generator, fields, runtime, seed
        self.schedule = Schedule.of(generator)
        self.workers = default_workers(generator.train.workers, threads)
        self.out_of_memory = SHORT_OF_MEMORY.format(size=generator.sizes[-1])
        seed_step(seed, worker=0, step=0)
        network, labels = generator.network, len(fields.names)
        channels = {"features": network.features, "most": network.most, "labels": labels}
        self.generator = GrowingGenerator(generator.sizes, latent=generator.latent, **channels).to(runtime.device)
        self.critic = GrowingCritic(generator.sizes, **channels).to(runtime.device)
        self.networks = {GENERATOR: self.generator, CRITIC: self.critic}
        self.optimisers = {name: self._optimisation(name) for name in (CRITIC, GENERATOR)}
        self.fixed = torch.randn(PICTURES, generator.latent)
        self.pictures: PhaseImages = {}

    def _optimisation(self, name: str) -> Optimisation:
        rate = self.settings.train.learning_rate
        optimiser = Adam(self.networks[name].parameters(), lr=rate, betas=BETAS, eps=EPSILON)
        return Optimisation(optimiser, LambdaLR(optimiser, lambda step: 1.0))

    @property
    def result(self) -> list[str]:
        """See Objective: the generator."""
        return [GENERATOR]

    def identity(self) -> Json:
        """See Objective: the settings, and the slides and fields."""
        patches = self.fields.patches
        arrays = (patches.slide, patches.x, patches.y, self.fields.label)
        return {
            "generator": self.settings.fitting(),
            "slides": [entry.slide_id for entry in patches.entries],
            "fields": [hashlib.sha256(array.tobytes()).hexdigest() for array in arrays],
        }

    # --- batches ------------------------------------------------------------------------------------------------------

    def batches(self, numbers: range) -> AbstractContextManager[Iterator[FieldBatch]]:
        """See Objective."""
        source = FieldBatches(self.fields, self.schedule, min_tissue=self.settings.tissue, seed=self.seed)
        return load_batches(source, numbers, workers=self.workers)

    def size(self, batch: FieldBatch) -> int:
        """See Objective."""
        return len(batch.index)

    def naming(self, batch: FieldBatch) -> Callable[[], str]:
        """See Objective."""
        return partial(self._name, batch.index)

    def _name(self, index: NDArray[np.int64]) -> str:
        return ", ".join(map(self.fields.patches.describe, index))

    # --- learning -----------------------------------------------------------------------------------------------------

    def begin(self, step: int) -> None:
        """See Objective: the parts of the phase learn, with optimisers that begin with it."""
        super().begin(step)
        phase = self.schedule.at(step)
        level = self.settings.sizes.index(phase.size)
        for network in (self.generator, self.critic):
            for part in network.growing():
                part.requires_grad_(False)
            for part in network.parts(level, fading=phase.fading):
                part.requires_grad_()
        if step == phase.first:
            for each in self.optimisers.values():
                each.optimiser.state.clear()

    def turns(self, batch: FieldBatch, step: int) -> Iterator[Turn]:
        """See Objective. Raises SlideError for a damaged slide."""
        if batch.read_errors:
            raise batch.read_errors[0]
        phase = self.schedule.at(step)
        labels = batch.labels.to(self.runtime.device) if self.fields.names else None
        yield self._critic_turn(batch, labels, phase, step)
        yield self._generator_turn(len(batch.index), labels, phase, step)

    def _made(self, count: int, labels: Tensor | None, phase: Phase, step: int) -> Tensor:
        latents = torch.randn(count, self.settings.latent).to(self.runtime.device)
        images: Tensor = self.generator(latents, labels, size=phase.size, alpha=phase.alpha(step))
        return images

    def _critic_turn(self, batch: FieldBatch, labels: Tensor | None, phase: Phase, step: int) -> Turn:
        alpha = phase.alpha(step)
        real = blended(to_signed(batch.images, self.runtime.device), alpha)
        with torch.no_grad():
            made = self._made(len(real), labels, phase, step)
        score = partial(self.critic, labels=labels, alpha=alpha)
        on_real, on_made = score(real), score(made)
        shares = torch.rand(len(real)).to(self.runtime.device)
        distance, penalty = critic_loss(on_real, on_made), gradient_penalty(score, real, made, shares)
        loss = distance + PENALTY * penalty + DRIFT * drift(on_real)
        return Turn(CRITIC, loss, {"distance": -distance.detach(), "penalty": penalty.detach()})

    def _generator_turn(self, count: int, labels: Tensor | None, phase: Phase, step: int) -> Turn:
        made = self._made(count, labels, phase, step)
        return Turn(GENERATOR, generator_loss(self.critic(made, labels=labels, alpha=phase.alpha(step))))

    # --- pictures, state and result -----------------------------------------------------------------------------------

    def validate(self, step: int) -> Validation | None:
        """See Objective: nothing is chosen; the images of the fixed latents are kept, the last of each phase."""
        phase = self.schedule.at(step - 1)
        labels = None
        if self.fields.names:
            labels = torch.arange(PICTURES, device=self.runtime.device) % len(self.fields.names)
        latents = self.fixed.to(self.runtime.device)
        images = self.generator(latents, labels, size=phase.size, alpha=phase.alpha(step - 1))
        self.pictures[phase.number] = torch.from_numpy(from_signed(images))
        return None

    def state(self) -> State:
        """See Objective: the images of each phase so far."""
        return {"pictures": self.pictures}

    def resume(self, step: int, state: State | None) -> None:
        """See Objective."""
        if state is not None:
            self.pictures = dict(cast("PhaseImages", state["pictures"]))

    def write_files(self, output: Path, details: Path) -> None:
        """See Objective: the images of the fixed latents in each phase."""
        write_phases(output, self.pictures, self.schedule.phases)

    def describe(self, result: Result) -> GeneratorCard:
        """See Objective."""
        settings, patches = self.settings, self.fields.patches
        return GeneratorCard(
            field_um=settings.field_um,
            sizes=list(settings.sizes),
            latent=settings.latent,
            network=settings.network.dump(),
            train=settings.train.fitting(),
            images=settings.images,
            fade=settings.fade,
            shown=self.schedule.shown(result.step),
            label=settings.label,
            labels=list(self.fields.names),
            slides=sorted({patches.entries[slide].slide_id for slide in patches.slide}),
            made_with=made_with(patches.entries, False),
            losses={k.removeprefix("train_"): v for k, v in result.history[-1].items() if k.startswith("train_")},
            step=result.step,
            seed=self.seed,
            parameters=sum(p.numel() for p in self.generator.parameters()),
            critic_parameters=sum(p.numel() for p in self.critic.parameters()),
        )
