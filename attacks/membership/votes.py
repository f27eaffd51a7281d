"""Windowed votes: in how many stretches of the sequence is the target above its base? (WBC, arXiv 2601.02751)"""

from __future__ import annotations

import numpy as np

from ...core.config import Section
from ..signals import Signals
from ..tokenwise import each, windowed_votes

NEEDS = ("tokens",)


class Config(Section):
    """sizes: lengths of the stretches, in tokens."""

    sizes: tuple[int, ...] = (1, 2, 4, 8, 16)


def score(signals: Signals, config: Config) -> np.ndarray:
    """float64[n_windows] in [0, 1]."""
    signals.needs(NEEDS)
    assert signals.tokens is not None
    return each(
        signals.tokens, len(signals), lambda t, rows: windowed_votes(t.logp[rows], t.logp_base[rows], config.sizes)
    )
