"""Probabilities with which training patches are drawn, by the settings of a task."""

from __future__ import annotations

import numpy as np

from histomake.base.errors import HistomakeError
from histomake.config import Task
from histomake.learn.data.patch_index import PatchIndex, patches_containing
from histomake.patch.sampler import balance_weights, mix_containing
from histomake.target.kinds import LEARNED
from histomake.target.outputs import outputs_of
from histomake.target.targets import balance_group


def draw_weights(patches: PatchIndex, task: Task) -> np.ndarray:
    """Probability of each patch to be drawn, float64 (n,), by ``train.balance``, shares, factors and containing.

    Of a patch with labels of several readers, every label has a probability of its own. They are equal before classes
    are balanced.

    Raises HistomakeError for shares that the patches cannot keep.
    """
    train, numbers = task.train, LEARNED[task.kind].numbers
    groups = [*outputs_of(task.kind, task.target), "none"]
    balance = train.balance
    if balance == "auto":
        balance = "slide" if numbers else "class"
    slide, parts = patches.slide_number, patches.parts
    classes = slide if numbers else balance_group(patches.target)
    for name, share in train.shares.items():
        if share > 0 and not (classes == groups.index(name)).any():
            raise HistomakeError(f"train.shares: no training patch is {name}; set its share to 0, or add slides")
    shares = {groups.index(name): share for name, share in train.shares.items()}
    try:
        weights = balance_weights(slide=slide, group=classes, balance=balance, shares=shares, parts=parts)
    except ValueError as error:
        raise HistomakeError(f"train.balance and train.shares: {error}") from None
    for name, factor in train.factors.items():
        weights = np.where(classes == groups.index(name), factor * weights, weights)
    containing = [(_containing(patches, name), share) for name, share in train.containing.items()]
    return mix_containing(weights / weights.sum(), containing, parts=parts)


def _containing(patches: PatchIndex, name: str) -> np.ndarray:
    """Patches that contain an annotated class, bool (n,); raises HistomakeError if none does."""
    contains = patches_containing(patches, name)
    if not contains.any():
        raise HistomakeError(f"train.containing: no training patch contains {name} (slides: {patches.named})")
    return contains
