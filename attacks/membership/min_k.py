"""Min-K %: the tokens the model found least likely (Shi et al. 2024, arXiv 2310.16789)."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from ...core.config import Section
from ..signals import Signals
from ..tokenwise import each, min_k

NEEDS = ("tokens",)


class Config(Section):
    """share: of a window's tokens."""

    share: float = Field(default=0.2, gt=0, le=1)


def score(signals: Signals, config: Config) -> np.ndarray:
    """float64[n_windows]: mean log p of the lowest tokens, nats."""
    signals.needs(NEEDS)
    assert signals.tokens is not None
    return each(signals.tokens, len(signals), lambda t, rows: min_k(t.logp[rows], config.share))
