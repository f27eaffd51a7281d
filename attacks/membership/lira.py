"""LiRA: is the signal likelier under models that had this person, or under models that had not?

Carlini et al. 2022 (arXiv 2112.03570), algorithm 1 online, section V-C offline; variances pooled over windows below
64 shadows.
"""

from __future__ import annotations

import numpy as np

from .. import likelihood
from ..shadowed import Shadowed, phi
from ..signals import Signals

NEEDS = ("loss", "shadow_loss", "shadow_in")


class Config(Shadowed):
    """online: use shadows with the person in as well as out; signal: see attacks/shadowed.py."""

    online: bool = True


def score(signals: Signals, config: Config) -> np.ndarray:
    """float64[n_windows]: log-likelihood ratio (online), z score against OUT models (offline)."""
    own, shadow, inside = phi(signals, config)
    return (likelihood.lira if config.online else likelihood.lira_offline)(own, shadow, inside)
