"""Fréchet distance between window statistics: what context-FID asks of a trained encoder, asked of features that know no data.

Heusel et al. 2017 (arXiv 1706.08500, equation 6) on standardised window statistics (`data/features.py`), with covariances shrunk
by Ledoit and Wolf's rule: windows are few and statistics many. Two groups of persons lie apart too, the further the
fewer they are; how far is told by dealing the real persons anew. (catch22's features would do as well; their package
pycatch22 is under the GPL.)
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from ...core.config import Section
from ...core.results import Baseline, Result
from ..comparisons import REAL, alike, not_measured, on_one_scale, regrouped, some
from ..protocols import Inputs

HIGHER_IS_BETTER = False
_NAME = "Fréchet distance"
_LEAST = 10  # windows that a covariance takes


class Config(Section):
    """most: windows per side at most; draws: how often persons are dealt anew; seed."""

    most: int = Field(default=600, ge=10)
    draws: int = Field(default=40, ge=0)
    seed: int = 0


def measure(inputs: Inputs, config: Config) -> list[Result]:
    t = inputs.tables
    dealt = list(regrouped(t.train.person, t.test.person, config.draws, config.seed))
    sizes = [int(min(one.sum(), (~one).sum())) for one in dealt]
    dealt = [one for one, size in zip(dealt, sizes, strict=True) if size >= _LEAST]
    # the distance shrinks with the number of windows, so every group has as many: also those dealt anew, which hold whole persons
    n = min([config.most, len(t.train), len(t.test), *(size for size in sizes if size >= _LEAST)])
    made = t.synthetic.rows(alike(t.synthetic.label, t.train.label, n, config.seed))
    n = min(n, len(made))
    if n < _LEAST:
        return [not_measured(_NAME, f"{n} windows on the smaller side, and a covariance takes ten or more")]
    real, other, fake = on_one_scale(t.train, t.test, made)
    if not real.shape[1]:
        return [not_measured(_NAME, "no statistic varies among the training windows")]

    def between(a: np.ndarray, b: np.ndarray) -> float:
        return frechet(*(x[some(len(x), n, config.seed)] for x in (a, b)))

    pooled = np.vstack([real, other])
    chance = [between(pooled[one], pooled[~one]) for one in dealt]
    high = float(np.quantile(chance, 0.95)) if chance else None
    return [
        Result(
            metric=_NAME, value=between(real, fake), unit="window", higher_is_better=False,
            note=f"between Gaussians fitted to standardised statistics of {n} windows a side, per statistic; one release, so no interval",
            baselines=(
                Baseline(name=REAL, value=between(real, other)),
                Baseline(name="real persons dealt anew, 95th percentile", value=high),
            ),
        )
    ]  # fmt: skip


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Squared Fréchet distance of a float64[n, d] and b float64[m, d], divided by d."""
    from sklearn.covariance import ledoit_wolf

    one, two = ledoit_wolf(a)[0], ledoit_wolf(b)[0]
    values, vectors = np.linalg.eigh(one)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    both = np.sqrt(np.linalg.eigvalsh(root @ two @ root).clip(0)).sum()  # the trace of (one two)^(1/2)
    gap = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(one) + np.trace(two) - 2 * both
    return float(max(gap, 0.0)) / a.shape[1]
