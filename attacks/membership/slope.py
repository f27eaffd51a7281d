"""White box: does turning the adapter up make this window likelier still?

The slope of the loss as the adapter's weight update is scaled, <gradient, update> at the released weights. Training
stopped moving along the gradient of its members, so they lean on the update more than strangers do. One forward and
backward pass, no shadows. (For an update of one noisy step it is the optimal statistic, N(1, σ²) against N(0, σ²).)
"""

from __future__ import annotations

import numpy as np

from ...core.config import Section
from ..signals import Signals

NEEDS = ("slope",)


class Config(Section):
    """No options."""


def score(signals: Signals, config: Config) -> np.ndarray:
    """float64[n_windows]: minus d loss / d scale, nats per token."""
    signals.needs(NEEDS)
    assert signals.slope is not None
    return -signals.slope
