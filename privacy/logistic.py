"""Logistic regression with a guarantee for each person: what a private model must beat, on the same windows.

Full-batch gradient descent. At every step each person's gradient, over all of their windows together, is clipped to
`clip_norm`; the sum over persons gets Gaussian noise once, and is divided by a public number. Everybody is in every step,
so T steps are T Gaussian mechanisms with sensitivity 1 to adding or removing one person, however many windows they have
(`PrivacySpec` at a sampling rate of 1). The weights of the last half of the steps are averaged, which costs nothing.

What a person adds may depend on that person alone: windows are weighted so that each of *their own* classes counts the
same and all of them sum to 1; features must be scaled by public numbers, or by the person's own statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

import numpy as np
from pydantic import Field

from ..core.config import Section
from ..core.errors import MienError
from .plan import PrivacyPlan, PrivacySpec


class Logistic(Section):
    """epsilons: the guarantees to try; delta: default min(1e-5, 1/(10 n)), anything looser is marked as no claim; steps, lr,
    clip_norm: of the descent (chosen on simulated persons, so that they cost nothing); class_weights: public numbers, for
    persons of one class each; columns: patterns of the statistics it sees, since noise grows with their number (to be chosen
    beforehand, too)."""

    epsilons: tuple[float, ...] = Field(default=(1.0, 10.0), min_length=1)
    delta: float | None = None
    steps: int = Field(default=60, ge=2, le=10_000)
    lr: float = Field(default=4.0, gt=0)
    clip_norm: float = Field(default=0.05, gt=0)
    class_weights: dict[str, float] = {}
    columns: tuple[str, ...] = ("*",)

    def chosen(self, names: Sequence[str]) -> np.ndarray:
        """bool[d]: which of the statistics it sees. MienError when none is meant."""
        kept = np.array([any(fnmatch(n, p) for p in self.columns) for n in names])
        if not kept.any():
            raise MienError(f"private.columns: no statistic is like {', '.join(self.columns)}; one is {names[0]}")
        return kept

    def plan(self, epsilon: float, persons: int) -> PrivacyPlan:
        """Noise for `persons` persons, all of them in every step. MienError for an ε or δ that cannot be, or is no claim."""
        n = float(persons)
        return PrivacySpec(epsilon=epsilon, delta=self.delta, batch=n, clip_norm=self.clip_norm).plan(
            n=persons, steps=self.steps
        )


@dataclass(frozen=True, kw_only=True)
class Weights:
    """float64[d + 1, k]: the last row is the bias; k is 1 for two classes, else their number."""

    values: np.ndarray

    def probabilities(self, X: np.ndarray) -> np.ndarray:
        """float64[n, classes], of rows scaled as in training."""
        p = _probabilities(_rows(X) @ self.values)
        return np.concatenate([1 - p, p], axis=1) if p.shape[1] == 1 else p


def fit(
    X: np.ndarray, y: np.ndarray, person: np.ndarray, classes: int, plan: PrivacyPlan, config: Logistic,
    rng: np.random.Generator, class_weights: np.ndarray | None = None,
) -> Weights:  # fmt: skip
    """X: float[n, d] scaled windows (NaN: 0; clipped to ±3); y: int[n] class; person: [n]; class_weights: float[classes].

    MienError when the plan is not of this mechanism: another unit, sampling, or clip.
    """
    if plan.unit != "person" or plan.sample_rate != 1 or plan.clip_norm != config.clip_norm:
        raise MienError("the logistic regression takes a plan by person, of full batches, and with its own clip_norm")
    rows, (_, who) = _rows(X), np.unique(person.astype(str), return_inverse=True)
    share = shares(y, who, classes, class_weights)
    target = (y[:, None] == np.arange(classes)).astype(np.float64)
    target = target[:, 1:] if classes == 2 else target
    weights, total = np.zeros((rows.shape[1], target.shape[1])), np.zeros((rows.shape[1], target.shape[1]))
    for step in range(plan.steps):
        wrong = (_probabilities(rows @ weights) - target) * share[:, None]
        weights = weights - config.lr * noisy_sum(rows, wrong, who, plan, rng) / plan.n
        total += weights * (step >= plan.steps // 2)
    return Weights(values=total / (plan.steps - plan.steps // 2))


def learner(
    plan: PrivacyPlan, config: Logistic, classes: Sequence[str], columns: np.ndarray, scale: tuple[Any, Any]
) -> Callable[[Any, int], np.ndarray]:
    """A learner on folds (evaluation/leave_one_out.py): (fold, seed) -> float[test rows, classes]. columns: bool[d], which
    statistics; scale: (centre, half width) of all d, public numbers. MienError for a weight of a class that is not there.
    """
    if unknown := set(config.class_weights) - set(classes):
        raise MienError(f"private.class_weights: no class {min(unknown)!r}; there are {', '.join(classes)}")
    weights = np.array([config.class_weights.get(c, 1.0) for c in classes])
    if not 0 < weights.min() <= weights.max() <= 1:
        raise MienError("private.class_weights: weights lie above 0 and at most at 1, one for each class that is not 1")
    centre, half = scale

    def learn(fold: Any, seed: int) -> np.ndarray:
        X = ((fold.table.X - centre) / half)[:, columns]
        rng = np.random.default_rng([seed, 0xD9, int(fold.test[0])])
        train = fold.train
        model = fit(X[train], fold.y[train], fold.table.person[train], len(classes), plan, config, rng, weights)
        return model.probabilities(X[fold.test])

    return learn


def noisy_sum(
    rows: np.ndarray, wrong: np.ndarray, who: np.ndarray, plan: PrivacyPlan, rng: np.random.Generator
) -> np.ndarray:
    """float[d + 1, k]: the sum over persons of their clipped gradients, with the plan's noise. A person's gradient is
    Σ rowᵀ wrong over their windows: rows float[n, d + 1], wrong float[n, k], who int[n]."""
    persons = int(who.max()) + 1
    each = np.zeros((persons, rows.shape[1], wrong.shape[1]))
    order = np.argsort(who, kind="stable")
    starts = np.searchsorted(who[order], np.arange(persons))
    for k in range(wrong.shape[1]):
        each[:, :, k] = np.add.reduceat(rows[order] * wrong[order, k : k + 1], starts, axis=0)
    norms = np.sqrt((each**2).sum((1, 2)))
    factors = np.minimum(1.0, plan.clip_norm / np.maximum(norms, 1e-300))
    noise = rng.normal(scale=plan.gradient_noise * plan.clip_norm, size=each.shape[1:])
    return np.tensordot(factors, each, axes=1) + noise


def shares(y: np.ndarray, who: np.ndarray, classes: int, class_weights: np.ndarray | None = None) -> np.ndarray:
    """float[n]: what each window counts for. A person's windows sum to 1 (times the public weight of their class), and each
    of their own classes has the same part of it; nobody else's windows matter."""
    counts = np.zeros((int(who.max()) + 1, classes))
    np.add.at(counts, (who, y), 1.0)
    out = 1 / (counts[who, y] * (counts > 0).sum(1)[who])
    return out if class_weights is None else out * class_weights[y]


def _rows(X: np.ndarray) -> np.ndarray:
    """Windows with a bias: no coordinate beyond ±3 deviations, and of length about 1 before it."""
    rows = np.clip(np.nan_to_num(np.asarray(X, dtype=np.float64), nan=0.0, posinf=3.0, neginf=-3.0), -3, 3)
    return np.concatenate([rows / np.sqrt(max(1, rows.shape[1])), np.ones((len(rows), 1))], axis=1)


def _probabilities(z: np.ndarray) -> np.ndarray:
    if z.shape[1] == 1:
        return 1 / (1 + np.exp(-np.clip(z, -50, 50)))
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)
