"""What the card of a model says of bags."""

from __future__ import annotations

from histomake.bags.network import Baselined
from histomake.base.records.model_card import BagCard
from histomake.config import Task
from histomake.learn.kinds import TRAINED


def bag_card(task: Task, network: Baselined, *, penalty: float | None) -> BagCard:
    """The part of the card that concerns bags."""
    usual = TRAINED[task.kind].activate(network.usual[None].cpu())[0]
    return BagCard(
        level=task.level,
        bag=task.bag.dump(),
        pooling=task.pooling.dump(),
        penalty=penalty,
        usual=usual.tolist(),
        intervals=0 if network.hazards is None else len(network.hazards.ends),
    )
