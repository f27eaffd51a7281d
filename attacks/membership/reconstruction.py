"""Reconstruction: an autoencoder writes down again better what it was trained on (Hilprecht, Härterich & Bernau 2019).

Their reconstruction attack on variational autoencoders (PoPETs 2019(4), section 4.2): the mean over draws from the window's
own posterior of how well each draw gives the window back, here as its log-likelihood. What the posterior pays for knowing
the window (its divergence from the prior) is left out: that is the evidence attack.
"""

from __future__ import annotations

import numpy as np

from ...core.config import Section
from ..signals import Signals

NEEDS = ("reconstruction",)


class Config(Section):
    """No options: the likelihood is taken as it is."""


def score(signals: Signals, config: Config) -> np.ndarray:
    """float64[n_windows]: mean log p of the window given its posterior's draws, nats per number; larger = member."""
    signals.needs(NEEDS)
    assert signals.reconstruction is not None
    return signals.reconstruction
