"""What a stain transfer learns: two generators and two critics, without pairs (CycleGAN, Zhu et al., ICCV 2017)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
import torch
from torch import Tensor
from torch.optim import Adam
from torch.optim.lr_scheduler import LambdaLR

from histomake.base.records.model_card import ModelGrid
from histomake.base.records.transfer_card import TransferCard
from histomake.base.rng import ORDER, counter_rng
from histomake.cohort.side_contents import SIDES
from histomake.config import StainTransfer
from histomake.generate.losses import critic_loss, cycle_loss, rate_factor, real_loss
from histomake.generate.networks import PatchCritic, StainGenerator
from histomake.generate.patches import SidesBatch, SidesBatches
from histomake.generate.pool import ImagePool
from histomake.generate.signed import to_signed
from histomake.learn.data.loader import load_batches
from histomake.learn.data.patch_index import PatchIndex
from histomake.learn.engine.checkpoint import State
from histomake.learn.engine.objective import Json, Objective, Optimisation, Result, Turn
from histomake.learn.engine.runtime import Runtime, default_workers, seed_step
from histomake.learn.objectives.patches import made_with

if TYPE_CHECKING:
    from numpy.typing import NDArray

BETAS = (0.5, 0.999)
SHORT_OF_MEMORY = "with {batch} patches of {size} px of each side: lower train.batch, or take a grid of smaller patches"
FORWARD, BACKWARD = "forward", "backward"
GENERATORS, CRITICS = "generators", "critics"


class TransferObjective(Objective[SidesBatch]):
    """What is learned from the patches of two sides.

    A step has two turns. The generators learn to be taken for real by the critics, to return what they translated,
    and, with a weight, to leave unchanged what already has the stain. Then the critics learn to tell real images from
    translations of this and of earlier steps.
    """

    unit: ClassVar[str] = "patches"
    not_finite = "lower train.learning_rate, or set train.precision: fp32"

    def __init__(
        self,
        transfer: StainTransfer,
        *,
        sides: tuple[PatchIndex, PatchIndex],
        runtime: Runtime,
        seed: int,
        threads: int,
    ) -> None:
        self.transfer, self.sides, self.runtime, self.seed = transfer, sides, runtime, seed
        self.workers = default_workers(transfer.train.workers, threads)
        self.out_of_memory = SHORT_OF_MEMORY.format(batch=transfer.train.batch, size=sides[0].size)
        seed_step(seed, worker=0, step=0)
        self.forward, self.backward = self._generator(), self._generator()
        self.critics = [self._critic(), self._critic()]
        critics = {f"critic_{side}": critic for side, critic in zip(SIDES, self.critics, strict=True)}
        self.networks = {FORWARD: self.forward, BACKWARD: self.backward, **critics}
        self.optimisers = {
            GENERATORS: self._optimisation(FORWARD, BACKWARD),
            CRITICS: self._optimisation(*critics),
        }
        self.pools = [ImagePool(), ImagePool()]

    def _generator(self) -> StainGenerator:
        network = StainGenerator(**self.transfer.generator.dump())
        return network.to(self.runtime.device)

    def _critic(self) -> PatchCritic:
        settings = self.transfer.discriminator
        return PatchCritic(layers=settings.layers, filters=settings.filters).to(self.runtime.device)

    def _optimisation(self, *names: str) -> Optimisation:
        train = self.transfer.train
        parameters = [p for name in names for p in self.networks[name].parameters()]
        optimiser = Adam(parameters, lr=train.learning_rate, betas=BETAS)
        return Optimisation(optimiser, LambdaLR(optimiser, lambda step: rate_factor(step, train.steps)))

    @property
    def result(self) -> list[str]:
        """See Objective: the generators."""
        return [FORWARD, BACKWARD]

    def identity(self) -> Json:
        """See Objective: the settings, and the slides and patches of both sides."""
        arrays = [array for side in self.sides for array in (side.slide, side.x, side.y)]
        return {
            "transfer": self.transfer.fitting(),
            "slides": [[entry.slide_id for entry in side.entries] for side in self.sides],
            "patches": [hashlib.sha256(array.tobytes()).hexdigest() for array in arrays],
        }

    # --- batches ------------------------------------------------------------------------------------------------------

    def batches(self, numbers: range) -> AbstractContextManager[Iterator[SidesBatch]]:
        """See Objective."""
        source = SidesBatches(self.sides, batch=self.transfer.train.batch, seed=self.seed)
        return load_batches(source, numbers, workers=self.workers)

    def size(self, batch: SidesBatch) -> int:
        """See Objective."""
        return sum(map(len, batch.index))

    def naming(self, batch: SidesBatch) -> Callable[[], str]:
        """See Objective."""
        return partial(self._name, batch.index)

    def _name(self, index: tuple[NDArray[np.int64], NDArray[np.int64]]) -> str:
        named = zip(SIDES, self.sides, index, strict=True)
        return "; ".join(f"{side}: {', '.join(map(patches.describe, chosen))}" for side, patches, chosen in named)

    # --- learning -----------------------------------------------------------------------------------------------------

    def turns(self, batch: SidesBatch, step: int) -> Iterator[Turn]:
        """See Objective. Raises SlideError for a damaged slide."""
        if batch.read_errors:
            raise batch.read_errors[0]
        real = [to_signed(images, self.runtime.device) for images in (batch.source, batch.target)]
        turn, translated = self._generators_turn(*real)
        yield turn
        del turn
        yield self._critics_turn(real, translated, step)

    def _generators_turn(self, source: Tensor, target: Tensor) -> tuple[Turn, list[Tensor]]:
        """The turn, and the translations into the stains of both sides."""
        weights = self.transfer.loss
        with self.runtime.autocast():
            as_target, as_source = self.forward(source), self.backward(target)
            returned = self.backward(as_target), self.forward(as_source)
            judged = self.critics[0](as_source), self.critics[1](as_target)
        adversarial = sum(real_loss(scores.float()) for scores in judged)
        cycle = cycle_loss(source, returned[0].float()) + cycle_loss(target, returned[1].float())
        loss = cast("Tensor", adversarial) + weights.cycle * cycle
        figures = {"adversarial": cast("Tensor", adversarial).detach(), "cycle": cycle.detach()}
        if weights.identity:
            with self.runtime.autocast():
                kept = self.backward(source), self.forward(target)
            identity = cycle_loss(source, kept[0].float()) + cycle_loss(target, kept[1].float())
            loss = loss + weights.identity * identity
            figures["identity"] = identity.detach()
        return Turn(GENERATORS, loss, figures), [as_source.detach().float(), as_target.detach().float()]

    def _critics_turn(self, real: list[Tensor], translated: list[Tensor], step: int) -> Turn:
        losses = []
        for side, (critic, pool) in enumerate(zip(self.critics, self.pools, strict=True)):
            shown = pool.exchange(translated[side], counter_rng(self.seed, worker=side, step=step, stream=ORDER))
            with self.runtime.autocast():
                scores = critic(real[side]), critic(shown)
            losses.append(critic_loss(scores[0].float(), scores[1].float()))
        figures = {f"critic_{side}": loss.detach() for side, loss in zip(SIDES, losses, strict=True)}
        return Turn(CRITICS, losses[0] + losses[1], figures)

    # --- state and result ---------------------------------------------------------------------------------------------

    def state(self) -> State:
        """See Objective: the pools."""
        return {side: pool.state() for side, pool in zip(SIDES, self.pools, strict=True)}

    def resume(self, step: int, state: State | None) -> None:
        """See Objective."""
        for side, pool in zip(SIDES, self.pools, strict=True):
            pool.restore(cast("list[Tensor]", state[side]) if state else [], self.runtime.device)

    def describe(self, result: Result) -> TransferCard:
        """See Objective."""
        transfer, first = self.transfer, self.sides[0]
        names = [sorted({side.entries[slide].slide_id for slide in side.slide}) for side in self.sides]
        return TransferCard(
            stains=(transfer.source.value, transfer.target.value),
            generator=transfer.generator.dump(),
            discriminator=transfer.discriminator.dump(),
            loss=transfer.loss.dump(),
            train=transfer.train.fitting(),
            grid=ModelGrid(name=transfer.grid, size=first.size, mpp=first.mpp),
            slides=(names[0], names[1]),
            made_with=made_with([entry for side in self.sides for entry in side.entries], False),
            losses=_losses(result.history[-1]),
            step=result.step,
            seed=self.seed,
            parameters=_count(self.forward),
            critic_parameters=_count(self.critics[0]),
        )


def _losses(row: Mapping[str, float]) -> dict[str, float]:
    return {name.removeprefix("train_"): value for name, value in row.items() if name.startswith("train_")}


def _count(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())
