"""EZ: where the model is wrong, did training push the truth up or down? (arXiv 2601.12104)

The reference is the frozen base. Where nothing was pushed down, the published code scores 0, the lowest of all; here
both sums get a small constant, and such a window scores highest.
"""

from __future__ import annotations

import numpy as np

from ...core.config import Section
from ..signals import Signals
from ..tokenwise import each, ez

NEEDS = ("tokens",)


class Config(Section):
    """No options."""


def score(signals: Signals, config: Config) -> np.ndarray:
    """float64[n_windows]: log of the rises over the falls."""
    signals.needs(NEEDS)
    assert signals.tokens is not None
    return each(signals.tokens, len(signals), lambda t, rows: ez(t.logp[rows], t.logp_base[rows], t.top[rows])[2])
