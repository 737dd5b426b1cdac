"""Losses by name. Unknown targets (class -1, value NaN) do not contribute."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from histomake.target.targets import UNLABELLED

Loss = Callable[[Tensor, Tensor], Tensor]

FOCAL_GAMMA = 2.0
DICE_SMOOTH = 1.0
SMALLEST = 1e-12
"""Lower bound of denominators, for batches without known targets."""
LARGEST_EXPONENT = 500.0
"""Largest logarithm of a hazard, whose exponential is finite in float64."""


def build_loss(name: str, *, class_weights: Tensor | None = None) -> Loss:
    """Return the loss ``name``: (logits, target) → scalar.

    Class losses take logits (n, c, …) and int64 targets (n, …). The targets of bce, mse and huber have the shape of the
    logits; those of cox and hazards are times and events, float (n, 2). Of ``hazards``, a single interval without end
    that everyone enters with the hazard 1; the baseline of a task is in `histomake.bags.hazards`.
    """
    losses: dict[str, Loss] = {
        "ce": cross_entropy,
        "weighted_ce": lambda logits, target: cross_entropy(logits, target, class_weights),
        "focal": focal,
        "bce": lambda logits, target: _known_mean(F.binary_cross_entropy_with_logits, logits, target),
        "dice": dice,
        "dice_ce": lambda logits, target: dice(logits, target) + cross_entropy(logits, target),
        "generalised_dice": generalised_dice,
        "mse": lambda logits, target: _known_mean(F.mse_loss, logits, target),
        "huber": lambda logits, target: _known_mean(F.huber_loss, logits, target),
        "cox_efron": lambda logits, target: cox(logits, target, efron=True),
        "cox_breslow": lambda logits, target: cox(logits, target, efron=False),
        "hazards": lambda logits, target: interval_hazards(logits, target, torch.tensor([torch.inf]), torch.zeros(1)),
    }
    return losses[name]


def cross_entropy(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean cross-entropy over the labelled patches or pixels; 0 if there are none.

    With ``weight`` (c,), the weighted mean. No value is copied from the device, so the GPU does not synchronise.
    """
    known = target != UNLABELLED
    total = F.cross_entropy(logits, target, weight=weight, ignore_index=UNLABELLED, reduction="sum")
    share = known if weight is None else weight[target.clamp(min=0)] * known
    return total / share.sum().clamp(min=SMALLEST)


def focal(logits: Tensor, target: Tensor) -> Tensor:
    """Focal loss (Lin et al. 2017, eq. 4, without α): −(1 − p)^γ log p, mean over labelled elements."""
    known = target != UNLABELLED
    log_p = torch.log_softmax(logits, 1).gather(1, target.clamp(min=0).unsqueeze(1)).squeeze(1)
    each = -((1 - log_p.exp()) ** FOCAL_GAMMA) * log_p
    return (each * known).sum() / known.sum().clamp(min=1)


def _overlaps(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Soft intersection, soft predicted size and true size per class over the whole batch, each (c,)."""
    known = (target != UNLABELLED).unsqueeze(1)
    probability = torch.softmax(logits.float(), 1) * known
    truth = F.one_hot(target.clamp(min=0), logits.shape[1]).movedim(-1, 1) * known
    axes = [0, *range(2, logits.ndim)]
    return (probability * truth).sum(axes), probability.sum(axes), truth.sum(axes)


def dice(logits: Tensor, target: Tensor) -> Tensor:
    """One minus soft Dice (Milletari et al. 2016), mean over the classes present in the batch."""
    both, predicted, true = _overlaps(logits, target)
    scores = (2 * both + DICE_SMOOTH) / (predicted + true + DICE_SMOOTH)
    present = true > 0
    return ((1 - scores) * present).sum() / present.sum().clamp(min=1)


def generalised_dice(logits: Tensor, target: Tensor) -> Tensor:
    """Generalised Dice loss (Sudre et al. 2017, eq. 2): classes weighted by the inverse square of their size."""
    both, predicted, true = _overlaps(logits, target)
    weight = torch.where(true > 0, 1.0 / true.clamp(min=1).square(), torch.zeros_like(both))
    return 1 - 2 * (weight * both).sum() / (weight * (predicted + true)).sum().clamp(min=SMALLEST)


def cox(logits: Tensor, target: Tensor, *, efron: bool) -> Tensor:
    """Negative Cox partial log-likelihood of a batch (Cox 1972), mean over its events; 0 if there are none.

    Args:
        logits: Logarithms of hazards, float (n, 1).
        target: Times and events, float (n, 2). The risk set of an event is all of the batch with the same or a later
            time.
        efron: Ties as of Efron 1977; otherwise as of Breslow 1974.

    Computed in float64 on the CPU, so that it is the same on every device: a batch of bags has few numbers.
    """
    risk, (time, event) = logits[:, 0].double().cpu(), target.detach().double().cpu().T
    known = ~time.isnan()
    risk, time, happened = risk[known], time[known], event[known] == 1
    if not happened.any():
        return (logits * 0).sum()
    order = torch.argsort(time, descending=True, stable=True)
    risk, time, happened = risk[order], time[order], happened[order]
    _, group, sizes = torch.unique_consecutive(time, return_inverse=True, return_counts=True)
    # The logarithm of the summed hazards of everyone at risk, by time.
    at_risk = torch.logcumsumexp(risk, 0)[sizes.cumsum(0) - 1][group]
    denominator = at_risk[happened]
    if efron:
        mine = group[happened]
        deaths = torch.bincount(mine, minlength=len(sizes))
        hazards = torch.exp(risk[happened] - denominator)
        tied = torch.zeros(len(sizes), dtype=hazards.dtype).index_add(0, mine, hazards)[mine]
        # Of d events at one time, the l-th is counted with the share 1 - l / d of the hazards of all of them.
        number = torch.arange(len(mine)).double() - (deaths.cumsum(0) - deaths)[mine]
        denominator = denominator + torch.log1p(-(number / deaths[mine]) * tied)
    return (denominator - risk[happened]).mean().to(logits.device)


def interval_hazards(logits: Tensor, target: Tensor, ends: Tensor, log_baseline: Tensor) -> Tensor:
    """Negative log-likelihood of proportional hazards by intervals of time, mean over the bags of known survival.

    The hazard of interval k is 1 - exp(-exp(b_k + risk)), the share of those who entered it that have the event in it,
    so that a risk is the logarithm of a hazard ratio as in a Cox model (Prentice & Gloeckler 1978). Who is censored
    within an interval counts for it from its middle on (Gensheimer & Narasimhan 2019). What happens after the last end
    is not learned from.

    Args:
        logits: Logarithms of hazard ratios, float (n, 1).
        target: Times and events, float (n, 2).
        ends: Ends of the intervals, ascending, float (k,); the first begins at 0, and an end belongs to its interval.
        log_baseline: b, float (k,).

    Computed in float64 on the CPU, as `cox` is.
    """
    risk, (time, event) = logits[:, 0].double().cpu(), target.detach().double().cpu().T
    known = ~time.isnan()
    if not known.any():
        return (logits * 0).sum()
    survived, failed = interval_outcomes(time[known], event[known], ends.double().cpu())
    cumulative = (risk[known, None] + log_baseline.double().cpu()).clamp(-LARGEST_EXPONENT, LARGEST_EXPONENT).exp()
    # Where nothing happened, 1 takes the place of a hazard whose logarithm is not needed and may be infinite.
    hazard = torch.where(failed, -torch.expm1(-cumulative), 1.0)
    likelihood = hazard.log() - torch.where(survived, cumulative, 0.0)
    return -likelihood.sum(1).mean().to(logits.device)


def interval_outcomes(time: Tensor, event: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    """Which intervals each of n patients survived, and in which the event happened: both bool (n, k).

    ``time``, ``event``: float (n,). ``ends``: see `interval_hazards`.
    """
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    inside = (time[:, None] > starts) & (time[:, None] <= ends)
    failed = inside & (event[:, None] == 1)
    return (time[:, None] > ends) | (inside & ~failed & (time[:, None] >= (starts + ends) / 2)), failed


def _known_mean(each: Callable[..., Tensor], logits: Tensor, target: Tensor) -> Tensor:
    """Mean of an element-wise loss where the target is not NaN."""
    known = ~torch.isnan(target)
    values = each(logits, torch.nan_to_num(target), reduction="none")
    return (values * known).sum() / known.sum().clamp(min=1)
