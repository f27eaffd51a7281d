"""DOMIAS: is the release denser around this window than the population is?

van Breugel et al. 2023 (arXiv 2302.12580): log p_release(x) - log p_reference(x). Both densities are Gaussian kernel
estimates with one bandwidth between them, in the leading principal components of the reference, whitened; a
difference in bandwidth would be read as a difference in density.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from pydantic import Field
from scipy.spatial.distance import cdist
from scipy.special import logsumexp

from ...core.config import Section
from ...core.errors import MienError
from ...core.intervals import Interval
from ...core.results import Result
from ..releases import Release, judged

NEEDS = ("reference",)


class Config(Section):
    """components: at most so many; bandwidth: factor on Scott's n^(-1 / (components + 4)), n of the smaller sample."""

    components: int = Field(default=32, ge=1)
    bandwidth: float = Field(default=1.0, gt=0)


def score(release: Release, config: Config) -> np.ndarray:
    """float64[n_windows]: log-density of the release less that of the reference (nats), larger = member."""
    release.needs(NEEDS)
    assert release.reference is not None
    scale = release.scale()
    x, made, other = (scale(t.X) for t in (release.candidates, release.synthetic, release.reference))
    whiten = whitening(other, config.components)
    x, made, other = whiten(x), whiten(made), whiten(other)
    h = config.bandwidth * min(len(made), len(other)) ** (-1 / (x.shape[1] + 4))
    return log_density(x, made, h) - log_density(x, other, h)


def run(release: Release, config: Config, *, blind: Interval | None = None) -> list[Result]:
    """AUC and TPR per recording and per person, judged beside the blind attack's AUC on the same split."""
    return judged(release, score(release, config), "domias", blind)


def log_density(x: np.ndarray, points: np.ndarray, bandwidth: float) -> np.ndarray:
    """float64[n]: log of the mean of N(x; point, bandwidth² I) over points float[m, d], exactly; x: float[n, d]."""
    d, block = points.shape[1], max(1, 2_000_000 // len(points))
    out = np.empty(len(x))
    for i in range(0, len(x), block):
        square = cdist(x[i : i + block], points, "sqeuclidean")
        out[i : i + block] = logsumexp(-square / (2 * bandwidth**2), axis=1)
    return out - np.log(len(points)) - d * (np.log(bandwidth) + np.log(2 * np.pi) / 2)


def whitening(fit: np.ndarray, components: int) -> Callable[[np.ndarray], np.ndarray]:
    """A function X -> its leading principal components in units of their sd; both are those of `fit` float[n, d]."""
    centre = fit.mean(0)
    _, size, axes = np.linalg.svd(fit - centre, full_matrices=False)
    kept = (size > 1e-3 * size[0]) & (np.arange(len(size)) < components) if size[0] > 0 else size > 0
    if not kept.any():
        raise MienError(f"the reference's {len(fit)} windows are all alike; no density can be estimated from them")
    return lambda X: (X - centre) @ axes[kept].T / (size[kept] / np.sqrt(len(fit)))
