"""AEA: members lose more similarity when one side is augmented (Ko et al. 2023, arXiv 2310.00108)."""

from __future__ import annotations

import numpy as np

from ...core.config import Section
from ...core.errors import MienError
from ..signals import Signals

NEEDS = ("cosine",)


class Config(Section):
    """No options."""


def score(signals: Signals, config: Config) -> np.ndarray:
    """float64[n]: similarity of the pair, plus the drops under each augmentation."""
    signals.needs(NEEDS)
    assert signals.cosine is not None
    if signals.cosine.shape[1] < 2:
        raise MienError("augmented: the signals have the unaugmented pair alone; make them with augmented views")
    return signals.cosine[:, 0] + (signals.cosine[:, :1] - signals.cosine[:, 1:]).sum(1)
