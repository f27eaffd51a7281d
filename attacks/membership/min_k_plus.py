"""Min-K++: the same, each token measured against what else could have stood there (arXiv 2404.02936)."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from ...core.config import Section
from ..signals import Signals
from ..tokenwise import each, min_k_plus

NEEDS = ("tokens",)


class Config(Section):
    """share: of a window's tokens."""

    share: float = Field(default=0.2, gt=0, le=1)


def score(signals: Signals, config: Config) -> np.ndarray:
    """float64[n_windows]: mean of the lowest (log p - mean) / sd, both over the vocabulary."""
    signals.needs(NEEDS)
    assert signals.tokens is not None
    return each(
        signals.tokens, len(signals), lambda t, rows: min_k_plus(t.logp[rows], t.mean[rows], t.sd[rows], config.share)
    )
