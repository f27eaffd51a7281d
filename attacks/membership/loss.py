"""LOSS: members have a lower loss (Yeom et al. 2018). The weakest honest attack: a floor, no clearance."""

from __future__ import annotations

import numpy as np

from ...core.config import Section
from ..signals import Signals

NEEDS = ("loss",)


class Config(Section):
    """No options: the loss is taken as it is."""


def score(signals: Signals, config: Config) -> np.ndarray:
    """float64[n_windows]: minus the mean loss per token, nats; larger = member."""
    signals.needs(NEEDS)
    assert signals.loss is not None
    return -signals.loss
