"""EncoderMI: augmented views of a member lie closer together (Liu et al. 2021, arXiv 2108.11023), threshold on the mean."""

from __future__ import annotations

import numpy as np

from ...core.config import Section
from ...core.errors import MienError
from ..contrast import cosine
from ..signals import Signals

NEEDS = ("views",)


class Config(Section):
    """No options."""


def score(signals: Signals, config: Config) -> np.ndarray:
    """float64[n]: mean similarity over pairs of views."""
    signals.needs(NEEDS)
    assert signals.views is not None
    q = signals.views.shape[1]
    if q < 2:
        raise MienError("encoder: needs two views of each window or more")
    pairs = [(i, j) for i in range(q) for j in range(i + 1, q)]
    return np.mean([cosine(signals.views[:, i], signals.views[:, j]) for i, j in pairs], axis=0)
