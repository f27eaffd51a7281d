"""BaVarIA: LiRA with a Bayesian mean and variance, so that few shadow models are enough. The default.

arXiv 2603.11799. Each window's mean and variance have a normal-inverse-gamma prior with the moments of all windows;
the score is a ratio of Student-t predictive densities. The shape of the prior is fixed here, not on any data.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from .. import likelihood
from ..shadowed import Shadowed, phi
from ..signals import Signals

NEEDS = ("loss", "shadow_loss", "shadow_in")


class Config(Shadowed):
    """shape: of the inverse gamma, worth twice as many observations of the variance; signal: see attacks/shadowed.py."""

    shape: float = Field(default=4.0, gt=1)


def score(signals: Signals, config: Config) -> np.ndarray:
    """float64[n_windows]: log t(phi; IN) - log t(phi; OUT)."""
    own, shadow, inside = phi(signals, config)
    return likelihood.bavaria(own, shadow, inside, config.shape)
