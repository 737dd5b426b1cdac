"""Linear fits by kind of task, and targets as values. The penalties are relative to the mean loss over the patches.

scikit-learn and the optimiser of SciPy are imported where they fit something, because the imports take seconds and
predictions need none of them.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from histomake.learn.objectives.losses import cox
from histomake.target.targets import UNLABELLED

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

Fitted = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Weights (outputs, d) and biases (outputs,) that give logits."""

MOST_ITERATIONS = 500
LEAST_SHARE = 1e-4
"""Smallest share of neighbours from which a logit is made, so that it is finite."""


def fit_classes(x: NDArray[np.float32], target: NDArray[Any], weight: NDArray[np.float64], penalty: float) -> Fitted:
    """Logistic regression of classes int (n,): scikit-learn's, with L2 penalty. x: float32 (n, d), weight: (n,)."""
    known = target != UNLABELLED
    model = _logistic(x[known], target[known], weight[known], penalty)
    outputs = int(target.max()) + 1
    if len(model.classes_) == 2 and len(model.coef_) == 1:
        coefficients, biases = np.stack([-model.coef_[0], model.coef_[0]]) / 2, np.array([-0.5, 0.5]) * model.intercept_
    else:
        coefficients, biases = model.coef_, model.intercept_
    weights, bias = np.zeros((outputs, x.shape[1]), np.float32), np.full(outputs, -np.inf, np.float32)
    weights[model.classes_], bias[model.classes_] = coefficients, biases
    return weights, bias


def fit_labels(x: NDArray[np.float32], target: NDArray[Any], weight: NDArray[np.float64], penalty: float) -> Fitted:
    """A logistic regression per label; target: float (n, labels), NaN where unknown."""
    weights, bias = np.zeros((target.shape[1], x.shape[1]), np.float32), np.zeros(target.shape[1], np.float32)
    for label, column in enumerate(target.T):
        known = ~np.isnan(column)
        truth = column[known] > 0.5
        if truth.all() or not truth.any():
            share = np.clip(truth.mean(), LEAST_SHARE, 1 - LEAST_SHARE)
            bias[label] = np.log(share / (1 - share))
            continue
        model = _logistic(x[known], truth, weight[known], penalty)
        weights[label], bias[label] = model.coef_[0], model.intercept_[0]
    return weights, bias


def fit_numbers(x: NDArray[np.float32], target: NDArray[Any], weight: NDArray[np.float64], penalty: float) -> Fitted:
    """Ridge regression of each number; target: float (n, outputs), NaN where unknown."""
    from sklearn.linear_model import Ridge

    weights, bias = np.zeros((target.shape[1], x.shape[1]), np.float32), np.zeros(target.shape[1], np.float32)
    for output, column in enumerate(target.T):
        known = ~np.isnan(column)
        share = weight[known] / weight[known].mean()
        model = Ridge(alpha=penalty * int(known.sum())).fit(x[known], column[known], sample_weight=share)
        weights[output], bias[output] = model.coef_, model.intercept_
    return weights, bias


def fit_hazards(x: NDArray[np.float32], target: NDArray[Any], weight: NDArray[np.float64], penalty: float) -> Fitted:
    """Cox regression with Efron's ties and L2 penalty; target: float (n, 2), times and events. Weights are not used.

    A hazard ratio has no constant, so the bias is 0 at the mean of x.
    """
    from scipy.optimize import minimize

    given, truth = torch.from_numpy(x - x.mean(0)).double(), torch.from_numpy(np.asarray(target, np.float64))

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        with torch.enable_grad():
            each = torch.from_numpy(weights).requires_grad_()
            value = cox((given @ each)[:, None], truth, efron=True) + penalty / 2 * (each**2).sum()
            (gradient,) = torch.autograd.grad(value, each)
        return float(value), gradient.numpy()

    found = minimize(loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": MOST_ITERATIONS}).x
    return found[None].astype(np.float32), np.array([-float(x.mean(0) @ found)], np.float32)


def _logistic(
    x: NDArray[np.float32], truth: NDArray[Any], weight: NDArray[np.float64], penalty: float
) -> LogisticRegression:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    share = weight / weight.mean()
    model = LogisticRegression(C=1 / (penalty * len(truth)), max_iter=MOST_ITERATIONS)
    with warnings.catch_warnings():
        # Separable patches under a small penalty: further iterations change no decision.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(x, truth, sample_weight=share)


def class_values(target: NDArray[Any], outputs: int) -> NDArray[np.float32]:
    """Classes int (n,) as float (n, outputs): 1 for the class, NaN where there is none."""
    values = np.eye(outputs, dtype=np.float32)[np.maximum(target, 0)]
    values[target == UNLABELLED] = np.nan
    return values


def given_values(target: NDArray[Any], outputs: int) -> NDArray[np.float32]:
    """Labels and numbers float (n, outputs) as they are."""
    return np.asarray(target, np.float32)


def equal_risks(target: NDArray[Any], outputs: int) -> NDArray[np.float32]:
    """The risk 0 for everyone, whatever the times and events float (n, 2)."""
    return np.zeros((len(target), outputs), np.float32)


def share_logits(values: Tensor) -> Tensor:
    """Logits whose softmax are shares (n, classes) that sum to one."""
    return torch.log(values.clamp(min=LEAST_SHARE))


def label_logits(values: Tensor) -> Tensor:
    """Logits whose sigmoid are shares (n, labels)."""
    return torch.logit(values, eps=LEAST_SHARE)


def same_values(values: Tensor) -> Tensor:
    """Numbers as they are."""
    return values
