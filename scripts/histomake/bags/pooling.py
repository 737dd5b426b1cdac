"""Pooling: from the patches of a bag to logits of the bag. No result depends on the order of the patches.

Poolings get the embedded patches of several bags, compute what concerns single patches for all at once, and pool bag by
bag. So a bag has the same logits whatever other bags are in its batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from histomake.bags.batch import Bags
from histomake.learn.heads.networks import layered


@dataclass
class PooledBags:
    """What pooling makes of b bags with n patches and c outputs.

    logits: (b, c).
    attention: (n,), not negative; sums to 1 over each bag.
    contributions: (n, c); sums to the logits over each bag. None if the pooling is not additive.
    instances: embedded patches (n, d), for losses on patches.
    """

    logits: Tensor
    attention: Tensor
    contributions: Tensor | None
    instances: Tensor


@dataclass(frozen=True)
class PoolingShape:
    """Sizes of a pooling.

    width: numbers per embedded patch. outputs: logits per bag. hidden: widths of the network of attention. classifier:
    hidden widths of the classifier. heads: attentions side by side. dropout: share. top: patches that topk averages,
    and that the loss of clam takes from either end.
    """

    width: int
    outputs: int
    hidden: Sequence[int] = (256,)
    classifier: Sequence[int] = ()
    heads: int = 1
    dropout: float = 0.0
    top: int = 8


class Pooling(nn.Module, ABC):
    """From embedded patches to `PooledBags`."""

    @abstractmethod
    def forward(self, bags: Bags) -> PooledBags:
        """Pool bags whose features are embedded patches."""

    def patch_loss(self, pooled: PooledBags, sizes: Sequence[int], target: Tensor) -> Tensor | None:
        """A further loss on patches, a scalar, of bags with ``target`` int64 (b,). None: there is none."""
        return None


class MeanPooling(Pooling):
    """Classifies the mean of the patches."""

    def __init__(self, shape: PoolingShape) -> None:
        super().__init__()
        self.classify = layered(shape.width, shape.classifier, shape.outputs, dropout=shape.dropout)

    def forward(self, bags: Bags) -> PooledBags:
        """See Pooling."""
        means = torch.stack([each.mean(0) for each in bags.split(bags.features)])
        attention = torch.cat([each.new_full((len(each),), 1 / len(each)) for each in bags.split(bags.features)])
        return PooledBags(self.classify(means), attention, None, bags.features)


class MaxPooling(MeanPooling):
    """Classifies the largest value of every feature. The attention of a patch is the share of features it gives."""

    def forward(self, bags: Bags) -> PooledBags:
        """See Pooling."""
        largest = [each.max(0).values for each in bags.split(bags.features)]
        shares = []
        for each, top in zip(bags.split(bags.features), largest, strict=True):
            # Patches that tie share a feature, so that their order does not matter.
            equal = (each == top).to(each.dtype)
            shares.append((equal / equal.sum(0)).mean(1))
        return PooledBags(self.classify(torch.stack(largest)), torch.cat(shares), None, bags.features)


class TopPooling(Pooling):
    """Classifies every patch; the logit of a bag is the mean of its largest ones, output by output."""

    def __init__(self, shape: PoolingShape) -> None:
        super().__init__()
        self.top = shape.top
        self.classify = layered(shape.width, shape.classifier, shape.outputs, dropout=shape.dropout)

    def forward(self, bags: Bags) -> PooledBags:
        """See Pooling."""
        parts = [self._pool(each) for each in bags.split(self.classify(bags.features))]
        logits, attention, contributions = zip(*parts, strict=True)
        return PooledBags(torch.stack(logits), torch.cat(attention), torch.cat(contributions), bags.features)

    def _pool(self, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        count = min(self.top, len(scores))
        limit = scores.topk(count, dim=0).values[-1]
        above, level = (scores > limit).to(scores.dtype), (scores == limit).to(scores.dtype)
        # Patches that tie at the limit share the places that are left.
        share = (above + level * (count - above.sum(0)) / level.sum(0)) / count
        contributions = share * scores
        return contributions.sum(0), share.mean(1), contributions


class AttentionScores(nn.Module):
    """A number per patch and head: tanh layers (Ilse et al. 2018, eq. 8), the last one gated (eq. 9) if ``gated``."""

    def __init__(self, shape: PoolingShape, *, gated: bool) -> None:
        super().__init__()
        widths = [shape.width, *shape.hidden]
        parts: list[nn.Module] = []
        for before, after in pairwise(widths[:-1]):
            parts += [nn.Linear(before, after), nn.Tanh(), nn.Dropout(shape.dropout)]
        self.first = nn.Sequential(*parts)
        self.tanh = nn.Linear(widths[-2], widths[-1])
        self.gate = nn.Linear(widths[-2], widths[-1]) if gated else None
        self.drop = nn.Dropout(shape.dropout)
        self.score = nn.Linear(widths[-1], shape.heads)

    def forward(self, instances: Tensor) -> Tensor:
        """Scores (n, heads) of embedded patches (n, d)."""
        found = self.first(instances)
        hidden = torch.tanh(self.tanh(found))
        if self.gate is not None:
            hidden = hidden * torch.sigmoid(self.gate(found))
        return self.score(self.drop(hidden))


class AttentionPooling(Pooling):
    """Classifies the mean of the patches, weighted by attention (Ilse et al. 2018); with heads, one mean after another.

    The attention of a patch is the mean over the heads.
    """

    def __init__(self, shape: PoolingShape, *, gated: bool) -> None:
        super().__init__()
        self.attend = AttentionScores(shape, gated=gated)
        inputs = shape.width * shape.heads
        self.classify = layered(inputs, shape.classifier, shape.outputs, dropout=shape.dropout)

    def forward(self, bags: Bags) -> PooledBags:
        """See Pooling."""
        weights = [each.softmax(0) for each in bags.split(self.attend(bags.features))]
        pairs = zip(weights, bags.split(bags.features), strict=True)
        vectors = torch.stack([(weight.T @ each).flatten() for weight, each in pairs])
        return PooledBags(self.classify(vectors), torch.cat(weights).mean(1), None, bags.features)


class AdditivePooling(Pooling):
    """Sums the logits of the patches (Javed et al. 2022), so that a patch's contribution to a logit is known exactly.

    With ``normalised``, the logits of a patch are weighted by its attention, which sums to 1: a bag that is given twice
    has the same logits. Otherwise patches are classified after they are multiplied by their attention, and their
    logits are summed, as in the paper.
    """

    def __init__(self, shape: PoolingShape, *, normalised: bool) -> None:
        super().__init__()
        self.normalised = normalised
        self.attend = AttentionScores(shape, gated=True)
        self.classify = layered(shape.width, shape.classifier, shape.outputs, dropout=shape.dropout)

    def forward(self, bags: Bags) -> PooledBags:
        """See Pooling."""
        weights = [each.softmax(0) for each in bags.split(self.attend(bags.features))]
        attention = torch.cat(weights).mean(1)
        if self.normalised:
            contributions = attention[:, None] * self.classify(bags.features)
        else:
            contributions = self.classify(attention[:, None] * bags.features)
        logits = torch.stack([each.sum(0) for each in bags.split(contributions)])
        return PooledBags(logits, attention, contributions, bags.features)


class ClamPooling(AttentionPooling):
    """CLAM with a single branch (Lu et al. 2021): gated attention, and a loss on the patches of highest and lowest.

    For the bag's class, its patches of highest attention should be called present by the classifier of patches of that
    class, and those of lowest attention absent.
    """

    def __init__(self, shape: PoolingShape) -> None:
        super().__init__(shape, gated=True)
        self.top = shape.top
        self.present = nn.ModuleList(nn.Linear(shape.width, 2) for _ in range(shape.outputs))

    def patch_loss(self, pooled: PooledBags, sizes: Sequence[int], target: Tensor) -> Tensor | None:
        """See Pooling. Bags of a single patch have no two ends and do not count."""
        losses = []
        bags = zip(pooled.instances.split(list(sizes)), pooled.attention.split(list(sizes)), target, strict=True)
        for instances, attention, label in bags:
            count = min(self.top, len(attention) // 2)
            if count and label >= 0:
                order = attention.argsort()
                ends = instances[torch.cat([order[-count:], order[:count]])]
                truth = torch.arange(2 * count, device=ends.device) < count
                losses.append(F.cross_entropy(self.present[int(label)](ends), truth.long()))
        return torch.stack(losses).mean() if losses else None


class DualStreamPooling(Pooling):
    """DSMIL (Li et al. 2021): the mean of the highest patch per output, and of attention by likeness to that patch."""

    def __init__(self, shape: PoolingShape) -> None:
        super().__init__()
        inner = shape.hidden[-1]
        self.score = nn.Linear(shape.width, shape.outputs)
        self.query = nn.Sequential(nn.Linear(shape.width, inner), nn.ReLU(), nn.Linear(inner, inner), nn.Tanh())
        self.value = nn.Sequential(nn.Dropout(shape.dropout), nn.Linear(shape.width, shape.width), nn.ReLU())
        self.classify = nn.Conv1d(shape.outputs, shape.outputs, kernel_size=shape.width)

    def forward(self, bags: Bags) -> PooledBags:
        """See Pooling."""
        parts = zip(
            *(bags.split(network(bags.features)) for network in (self.score, self.query, self.value)), strict=True
        )
        highest, vectors, weights = [], [], []
        for scores, queries, values in parts:
            top, critical = scores.max(0)
            weight = (queries @ queries[critical].T / queries.shape[1] ** 0.5).softmax(0)
            highest.append(top)
            vectors.append(weight.T @ values)
            weights.append(weight.mean(1))
        logits = (torch.stack(highest) + self.classify(torch.stack(vectors)).squeeze(2)) / 2
        return PooledBags(logits, torch.cat(weights), None, bags.features)
