"""Reference calibration with the frozen base as the reference: how much the adapter gained on this window.

Log p under the target minus log p under the base (Attack-R; Kandpal et al., arXiv:2310.09266, for persons).
It takes out how hard a window is in itself, which the plain loss mistakes for non-membership.
"""

from __future__ import annotations

import numpy as np

from ...core.config import Section
from ..signals import Signals

NEEDS = ("loss", "loss_base")


class Config(Section):
    """No options."""


def score(signals: Signals, config: Config) -> np.ndarray:
    """float64[n_windows]: loss_base - loss, nats per token; larger = member."""
    signals.needs(NEEDS)
    assert signals.loss is not None
    assert signals.loss_base is not None
    return signals.loss_base - signals.loss
