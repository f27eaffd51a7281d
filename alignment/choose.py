"""Which pairs to ask about next: those from which a linear reward would learn most.

D-optimal design (Kiefer 1959; for Bradley–Terry models Graßhoff & Schwabe 2008, Stat Methods Appl 17:275): the information about
the weights w that the answer on a pair carries is p(1-p) x xᵀ, where x is the difference of the two recordings'
features and p the present model's chance of "A". Greedy: each next pair is the one that lets log det of the ridge plus all
information grow most, log(1 + p(1-p) xᵀ A⁻¹ x); greedy is within 1 - 1/e of the best set (Nemhauser, Wolsey & Fisher 1978), for
log det is submodular. On simulated recordings 80 chosen pairs were worth 1.2 to 1.8 times as many random ones, and 40 no
certain gain (benchmarks/preferences.py).
"""

from __future__ import annotations

import numpy as np

from ..core.errors import MienError


def d_optimal(
    x: np.ndarray, n: int, *, asked: np.ndarray | None = None, w: np.ndarray | None = None, ridge: float = 10.0
) -> np.ndarray:
    """int64[n]: which of x float64[m, d] to ask, in order; no pair twice, equal gains by the lower index.

    asked: float64[k, d], pairs that were asked before; w: float64[d], the present reward (none: p = ½); ridge: its l2. Each
    step updates all m quadratic forms by the rank-one formula of Sherman & Morrison in O(m d + d²). MienError for fewer
    than n pairs.
    """
    x, w = _checked(x, n, ridge), np.zeros(x.shape[1]) if w is None else np.asarray(w, dtype=np.float64)
    before = np.zeros((0, x.shape[1])) if asked is None else np.asarray(asked, dtype=np.float64)
    inverse = np.linalg.inv(_information(before, w, ridge))
    weight = _curvature(x @ w)
    form = np.einsum("id,de,ie->i", x, inverse, x)
    free, out = np.ones(len(x), dtype=bool), []
    for _ in range(n):
        gain = np.where(free, weight * form, -1.0)
        best = int(np.argmax(gain >= gain.max() * (1 - 1e-9)))  # equal but for rounding: the first
        out.append(best)
        free[best] = False
        v = inverse @ x[best]
        shrink = weight[best] / (1 + weight[best] * form[best])
        inverse -= shrink * np.outer(v, v)
        form = form - shrink * (x @ v) ** 2
    return np.array(out, dtype=np.int64)


def at_random(m: int, n: int, seed: int) -> np.ndarray:
    """int64[n]: the peer that `d_optimal` is measured against."""
    if n > m:
        raise MienError(f"{n} pairs are to be chosen from {m}")
    return np.random.default_rng([seed, 0xA5C]).permutation(m)[:n]


def log_det(x: np.ndarray, w: np.ndarray | None = None, ridge: float = 10.0) -> float:
    """log det of the ridge plus the information of the pairs x float64[n, d]."""
    x = np.asarray(x, dtype=np.float64)
    return float(np.linalg.slogdet(_information(x, np.zeros(x.shape[1]) if w is None else w, ridge))[1])


def _information(x: np.ndarray, w: np.ndarray, ridge: float) -> np.ndarray:
    return ridge * np.eye(x.shape[1]) + (x * _curvature(x @ w)[:, None]).T @ x


def _curvature(margin: np.ndarray) -> np.ndarray:
    """p(1 - p)."""
    return 0.25 / np.cosh(np.clip(margin, -60, 60) / 2) ** 2


def _checked(x: np.ndarray, n: int, ridge: float) -> np.ndarray:
    x = np.asarray(x, dtype=np.float64)
    if n > len(x):
        raise MienError(f"{n} pairs are to be chosen from {len(x)}")
    if not np.isfinite(x).all() or not ridge > 0:
        raise MienError("pairs are chosen by finite differences of features and a ridge above 0")
    return x
