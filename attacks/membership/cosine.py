"""CSA: members' two modalities lie closer together (Ko et al. 2023, arXiv 2310.00108)."""

from __future__ import annotations

import numpy as np

from ...core.config import Section
from ..signals import Signals

NEEDS = ("cosine",)


class Config(Section):
    """No options."""


def score(signals: Signals, config: Config) -> np.ndarray:
    """float64[n]: similarity of the unaugmented pair."""
    signals.needs(NEEDS)
    assert signals.cosine is not None
    return signals.cosine[:, 0]
