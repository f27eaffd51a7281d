"""A linear Bradley–Terry reward on named features: the baseline of every reward model, and what pairs are chosen by.

P(A) = σ(wᵀ(f(a) - f(b))): Bradley & Terry 1952 (Biometrika 39:324) with covariates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..core.errors import MienError
from ..core.intervals import Interval, over_persons
from .preferences import Preference


@dataclass(frozen=True, kw_only=True)
class Linear:
    """w: float64[d], of the features' names."""

    names: tuple[str, ...]
    w: np.ndarray

    def reward(self, features: np.ndarray) -> np.ndarray:
        """float64[n] of float64[n, d]."""
        return np.asarray(features) @ self.w

    def probability(self, x: np.ndarray) -> np.ndarray:
        """float64[n]: P(A) of the differences of features float64[n, d], a less b."""
        from scipy import special

        return special.expit(np.asarray(x) @ self.w)


def design(preferences: Sequence[Preference], features: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(x float64[n, d], a less b; y float64[n]: 1 for A, 0 for B, ½ for a tie) of answers that order a pair or tie it. Give it
    answers without `both_bad` and controls (`informative`). MienError for a recording without features."""
    for p in preferences:
        if p.a not in features or p.b not in features:
            raise MienError(f"pair {p.pair}: no features of its recordings; it is of another cohort")
    width = len(next(iter(features.values()))) if features else 0
    x = np.array([features[p.a] - features[p.b] for p in preferences]).reshape(len(preferences), width)
    return x, np.array([{"A": 1.0, "B": 0.0}.get(p.choice, 0.5) for p in preferences])


def informative(preferences: Sequence[Preference]) -> list[Preference]:
    """Answers to learn an order from: ordinary pairs and corrections, without both_bad."""
    return [p for p in preferences if p.kind in ("pair", "correction") and p.choice != "both_bad"]


def fit(
    x: np.ndarray, y: np.ndarray, *, names: Sequence[str] = (), weight: np.ndarray | None = None, l2: float = 10.0
) -> Linear:
    """Newton's method (IRLS) on the weighted log-loss plus l2/2 |w|²: the optimum is unique, so there is no seed.

    x: float64[n, d]; y: float64[n] in [0, 1]; weight: float64[n], not negative. MienError for none, or NaN.
    """
    from scipy import special

    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    c = np.ones(len(y)) if weight is None else np.asarray(weight, dtype=np.float64)
    if not (len(x) == len(y) == len(c) and len(y)) or not all(np.isfinite(v).all() for v in (x, y, c)) or not l2 > 0:
        raise MienError(
            f"a reward needs finite pairs, answers and weights of one number and l2 > 0: {x.shape}, {y.shape}"
        )
    w = np.zeros(x.shape[1])

    def loss(w: np.ndarray) -> float:
        m = x @ w
        return float(c @ (y * np.logaddexp(0, -m) + (1 - y) * np.logaddexp(0, m)) + l2 / 2 * (w @ w))

    for _ in range(100):
        p = special.expit(x @ w)
        slope = x.T @ (c * (p - y)) + l2 * w
        step = np.linalg.solve((x * (c * p * (1 - p))[:, None]).T @ x + l2 * np.eye(len(w)), slope)
        size, now = 1.0, loss(w)
        while size > 1e-6 and loss(w - size * step) > now - 0.25 * size * float(slope @ step):
            size /= 2
        w = w - size * step
        if np.abs(size * step).max() < 1e-9:
            break
    return Linear(names=tuple(names) or tuple(f"x{i}" for i in range(len(w))), w=w)


@dataclass(frozen=True, kw_only=True)
class Held:
    """On held-out answers: accuracy over groups; brier and log_loss of the probabilities; slope of the answers' logit on the
    predicted (Cox 1958, Biometrika 45:562; 1 is calibrated, below 1 overconfident; None where answers are separated); n."""

    accuracy: Interval
    brier: float
    log_loss: float
    slope: float | None
    n: int


def judge(reward: Linear, x: np.ndarray, y: np.ndarray, groups: Sequence[str] | np.ndarray) -> Held:
    """groups: [n], what is independent of each other and is left out one by one for the interval (its n_persons counts
    them): pairs, where each recording is in one pair only; else `preferences.linked`, connected components of pairs. Ties (½)
    are left out; a predicted ½ is half right."""
    decided = y != 0.5
    if not decided.any():
        raise MienError("no held-out answer prefers one recording to another, so a reward cannot be judged")
    x, y, groups = x[decided], y[decided], np.asarray(groups)[decided]
    p = np.clip(reward.probability(x), 1e-12, 1 - 1e-12)
    right = np.where(p == 0.5, 0.5, (p > 0.5) == (y > 0.5)).astype(float)
    loss = -(y * np.log(p) + (1 - y) * np.log1p(-p))
    return Held(
        accuracy=over_persons(lambda v: float(v.mean()), groups, right),
        brier=float(((p - y) ** 2).mean()), log_loss=float(loss.mean()),
        slope=None if (right == 1).all() else float(fit((x @ reward.w)[:, None], y, l2=1e-6).w[0]), n=len(y),
    )  # fmt: skip
