"""Evidence: a generative model finds what it was trained on likelier (log p of the window, by importance weighting).

The likelihood attack on variational autoencoders: of a posterior that was fitted to a window, the evidence (Burda, Grosse &
Salakhutdinov 2016, arXiv 1509.00519, equation 8) is the window's own log-likelihood, or just below it.
"""

from __future__ import annotations

import numpy as np

from ...core.config import Section
from ..signals import Signals

NEEDS = ("evidence",)


class Config(Section):
    """No options: the evidence is taken as it is."""


def score(signals: Signals, config: Config) -> np.ndarray:
    """float64[n_windows]: log p of the window in nats per number; larger = member."""
    signals.needs(NEEDS)
    assert signals.evidence is not None
    return signals.evidence
