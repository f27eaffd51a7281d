"""MMD: the unbiased squared maximum mean discrepancy between window statistics; 0 is indistinguishable.

Gretton et al. 2012 (JMLR 13:723–773, lemma 6), with a Gaussian kernel whose width is the median distance between real
training windows. Its control is between training and held-out persons.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from ...core.config import Section
from ...core.results import Baseline, Result
from ..protocols import Inputs
from ..vitals import distances, on_one_scale, some

HIGHER_IS_BETTER = False


class Config(Section):
    """most: windows per side at most; seed."""

    most: int = Field(default=600, ge=10)
    seed: int = 0


def measure(inputs: Inputs, config: Config) -> list[Result]:
    t = inputs.tables
    real, made, other = on_one_scale(
        *(x.rows(some(len(x), config.most, config.seed)) for x in (t.train, t.synthetic, t.test))
    )
    width = float(np.median(distances(real, real)[np.triu_indices(len(real), 1)])) or 1.0
    if min(map(len, (real, made, other))) < 2:
        return [
            Result(
                metric="MMD²", value=None, unit="window", higher_is_better=False, note="not measured: too few windows"
            )
        ]
    return [
        Result(
            metric="MMD²", value=mmd(real, made, width), unit="window", higher_is_better=False,
            note="0 = indistinguishable; unbiased, so it may fall below 0; one release, so no interval",
            baselines=(Baseline(name="real vs real persons", value=mmd(real, other, width)),),
        )
    ]  # fmt: skip


def mmd(a: np.ndarray, b: np.ndarray, width: float) -> float:
    """Unbiased MMD² of the samples a float64[n, d] and b float64[m, d]."""
    kernel = lambda x, y: np.exp(-((distances(x, y) / width) ** 2) / 2)  # noqa: E731
    n, m = len(a), len(b)
    aa, bb = kernel(a, a), kernel(b, b)
    return float(
        (aa.sum() - np.trace(aa)) / (n * (n - 1)) + (bb.sum() - np.trace(bb)) / (m * (m - 1)) - 2 * kernel(a, b).mean()
    )
