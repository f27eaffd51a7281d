"""Fréchet distance between window statistics: what context-FID asks of a trained encoder, asked of features that know no data.

Heusel et al. 2017 (arXiv 1706.08500, equation 6) on standardised window statistics, with covariances shrunk by Ledoit and
Wolf's rule: windows are few and statistics many. Its control is between training and held-out persons.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from ...core.config import Section
from ...core.results import Baseline, Result
from ..protocols import Inputs
from ..vitals import on_one_scale, some

HIGHER_IS_BETTER = False


class Config(Section):
    """most: windows per side at most; seed."""

    most: int = Field(default=1000, ge=10)
    seed: int = 0


def measure(inputs: Inputs, config: Config) -> list[Result]:
    t = inputs.tables
    n = min(len(t.train), len(t.synthetic), len(t.test), config.most)
    if n < 2:
        return [
            Result(metric="Fréchet distance", value=None, unit="window", higher_is_better=False, note="not measured: too few windows")
        ]  # fmt: skip
    real, made, other = on_one_scale(*(x.rows(some(len(x), n, config.seed)) for x in (t.train, t.synthetic, t.test)))
    return [
        Result(
            metric="Fréchet distance", value=frechet(real, made), unit="window", higher_is_better=False,
            note="between Gaussians fitted to standardised statistics, per statistic; one release, so no interval",
            baselines=(Baseline(name="real vs real persons", value=frechet(real, other)),),
        )
    ]  # fmt: skip


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Squared Fréchet distance of a float64[n, d] and b float64[m, d], divided by d."""
    from sklearn.covariance import ledoit_wolf

    one, two = ledoit_wolf(a)[0], ledoit_wolf(b)[0]
    # the trace of the root of a product of two covariances is the sum of the roots of its eigenvalues
    root = np.linalg.eigvals(one @ two).real.clip(0)
    gap = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(one) + np.trace(two) - 2 * np.sqrt(root).sum()
    return float(max(gap, 0.0)) / a.shape[1]
