"""A likelihood ratio that knows that neighbouring tokens err together.

The loss of a window adds up tokens as if each were news. Here the window is cut into consecutive segments; the
shadows say how segments vary together, and each gets the weight it deserves (Fisher's direction, pooled over
windows); the weighted sum is judged like any other signal. After the observation of arXiv 2506.05126.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from ...core.config import Section
from .. import likelihood
from ..signals import Signals

NEEDS = ("segments", "shadow_segments", "shadow_in")


class Config(Section):
    """shape: as in BaVarIA; shrinkage: of the segments' covariance towards its diagonal."""

    shape: float = Field(default=4.0, gt=1)
    shrinkage: float = Field(default=0.1, ge=0, le=1)


def score(signals: Signals, config: Config) -> np.ndarray:
    """float64[n_windows]: log t(phi; IN) - log t(phi; OUT) of the weighted segments."""
    signals.needs(NEEDS)
    own, shadow, inside = signals.segments, signals.shadow_segments, signals.shadow_in
    assert own is not None and shadow is not None and inside is not None  # noqa: PT018
    weight = weights(shadow, inside, config.shrinkage)
    return likelihood.bavaria(own @ weight, shadow @ weight, inside, config.shape)


def weights(shadow: np.ndarray, inside: np.ndarray, shrinkage: float) -> np.ndarray:
    """float64[S]: covariance of the shadows' deviations, inverted, times the mean shift of IN against OUT.

    shadow: float64[K, n, S]. With one shadow, or no shift, the segments weigh the same.
    """
    size = shadow.shape[2]
    parts = [likelihood.sides(shadow[:, :, j], inside) for j in range(size)]
    shift = np.array([p.shift for p in parts])
    mean = np.stack([np.where(inside, p.mean_in, p.mean_out) for p in parts], axis=2)
    left = (shadow - mean).reshape(-1, size)
    if len(shadow) < 3 or not np.any(shift) or left.std() < 1e-12:
        return np.full(size, 1 / size)
    covariance = left.T @ left / len(left)
    covariance = (1 - shrinkage) * covariance + shrinkage * np.diag(np.diag(covariance)) + 1e-12 * np.eye(size)
    return np.linalg.solve(covariance, shift)
