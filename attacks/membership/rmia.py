"""RMIA: how often is this window's likelihood gain above that of somebody else's window?

Zarifzadeh et al. 2024 (arXiv 2312.03262). The population are the other persons' windows of this audit, members and
others alike; p is the mean probability per token, exp(-loss).
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from .. import likelihood
from ..shadowed import Shadowed, phi
from ..signals import Signals

NEEDS = ("loss", "shadow_loss", "shadow_in")


class Config(Shadowed):
    """gamma: how far above (1 or 2); online: average over models with the person in and out, or over OUT models alone
    with `a` for what is missing (fixed here, never on the target); signal: see attacks/shadowed.py."""

    gamma: float = Field(default=1.0, ge=1)
    online: bool = True
    a: float = Field(default=0.3, ge=0, le=1)


def score(signals: Signals, config: Config) -> np.ndarray:
    """float64[n_windows] in [0, 1] (a hair above 1 with the tie-breaker)."""
    own, shadow, inside = phi(signals, config)
    s = likelihood.sides(shadow, inside, own)
    top = shadow.max(0)
    p = np.exp(shadow - top)
    mean_in = np.where(s.n_in > 0, np.where(inside, p, 0).sum(0) / np.maximum(s.n_in, 1), np.exp(s.mean_in - top))
    mean_out = np.where(s.n_out > 0, np.where(inside, 0, p).sum(0) / np.maximum(s.n_out, 1), np.exp(s.mean_out - top))
    if config.online:
        log_p = top + np.log(likelihood.rmia_probability(mean_in, mean_out))
    else:  # the offset of the base, a constant of the window, is put back: here p must be a probability
        base = 0.0 if signals.loss_base is None or config.signal == "contrast" else signals.loss_base
        log_p = base + np.log(likelihood.rmia_probability_offline(mean_out * np.exp(top - base), config.a))
    return likelihood.rmia(own, log_p, signals.person, config.gamma)
