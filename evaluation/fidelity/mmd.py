"""MMD: the unbiased squared maximum mean discrepancy between window statistics; 0 is indistinguishable.

Gretton et al. 2012 (JMLR 13:723–773, lemma 6), with a Gaussian kernel whose width is the median distance between real
training windows. Windows of one person resemble each other, so two groups of persons lie apart too: how far by chance
is told by dealing the real persons anew (a permutation test that moves whole persons).
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from ...core.config import Section
from ...core.results import Baseline, Result
from ..comparisons import REAL, distances, not_measured, on_one_scale, regrouped, tables
from ..protocols import Inputs

HIGHER_IS_BETTER = False
_NAME = "MMD²"


class Config(Section):
    """most: windows per side at most; draws: how often persons are dealt anew; seed."""

    most: int = Field(default=600, ge=10)
    draws: int = Field(default=200, ge=0)
    seed: int = 0


def measure(inputs: Inputs, config: Config) -> list[Result]:
    train, test, made = tables(inputs, config.most, config.seed)
    n = min(map(len, (train, test, made)))
    if n < 2:
        return [not_measured(_NAME, f"{n} windows on the smaller side")]
    real, other, fake = on_one_scale(train, test, made)
    if not real.shape[1]:
        return [not_measured(_NAME, "no statistic varies among the training windows")]
    width = float(np.median(distances(real, real)[np.triu_indices(len(real), 1)])) or 1.0
    pooled = np.vstack([real, other])
    kernel = np.exp(-((distances(pooled, pooled) / width) ** 2) / 2)
    control = _of(kernel, np.arange(len(pooled)) < len(real))
    draws = regrouped(train.person, test.person, config.draws, config.seed)
    chance = np.array([_of(kernel, one) for one in draws if min(one.sum(), (~one).sum()) >= 2])
    note = "0 = indistinguishable; unbiased, so it may fall below; one release, so no interval"
    if len(chance):
        p = (1 + (chance >= control).sum()) / (1 + len(chance))
        note += f"; training and held-out persons themselves differ with p = {p:.2g}"
    high = float(np.quantile(chance, 0.95)) if len(chance) else None
    return [
        Result(
            metric=_NAME, value=mmd(real, fake, width), unit="window", higher_is_better=False, note=note,
            baselines=(
                Baseline(name=REAL, value=control),
                Baseline(name="real persons dealt anew, 95th percentile", value=high),
            ),
        )
    ]  # fmt: skip


def _of(kernel: np.ndarray, one: np.ndarray) -> float:
    """Unbiased MMD² between the rows where `one` is true and the others."""
    s, o = one.astype(float), (~one).astype(float)
    n, m, own = s.sum(), o.sum(), np.diag(kernel)
    ks, ko = kernel @ s, kernel @ o
    return float((s @ ks - s @ own) / (n * (n - 1)) + (o @ ko - o @ own) / (m * (m - 1)) - 2 * (s @ ko) / (n * m))


def mmd(a: np.ndarray, b: np.ndarray, width: float) -> float:
    """Unbiased MMD² of the samples a float64[n, d] and b float64[m, d]."""
    both = np.vstack([a, b])
    return _of(np.exp(-((distances(both, both) / width) ** 2) / 2), np.arange(len(both)) < len(a))
