"""Person-level likelihood ratio: all of somebody's recordings together, with the correlation between them.

Shadows are drawn by person; a person's signals are pooled *before* the ratio is taken, and the mean of r recordings
with correlation rho varies like (1 + (r - 1) rho) / r of one recording's (attacks/likelihood.py,
`correlated_d_prime`): adding them up as if they were independent overstates what a talkative person gives away.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from .. import likelihood
from ..shadowed import Shadowed, by_person, phi, spread
from ..signals import Signals

NEEDS = ("loss", "shadow_loss", "shadow_in")
UNITS = ("person",)


class Config(Shadowed):
    """shape: as in BaVarIA; signal: see attacks/shadowed.py."""

    shape: float = Field(default=4.0, gt=1)


def score(signals: Signals, config: Config) -> np.ndarray:
    """float64[n_windows]: the person's log-likelihood ratio at each of their windows."""
    own, shadow, inside = phi(signals, config)
    first = np.unique(signals.person, return_index=True)[1]
    mine, _, count = by_person(signals, own)
    theirs, _, _ = by_person(signals, shadow)
    rho = correlation(signals, shadow, inside)
    width = np.sqrt((1 + (count - 1) * rho) / count)
    width = width / width.mean()
    centre = likelihood.sides(theirs, inside[:, first]).mean_out
    return spread(
        signals, likelihood.bavaria((mine - centre) / width, (theirs - centre) / width, inside[:, first], config.shape)
    )


def correlation(signals: Signals, shadow: np.ndarray, inside: np.ndarray) -> float:
    """Of the recordings of one person, over models, once each recording's own level and the shift of IN are gone."""
    recordings, first, of = np.unique(signals.recording, return_index=True, return_inverse=True)
    means = np.stack([np.bincount(of, row) for row in shadow]) / np.bincount(of)
    inside = inside[:, first]
    if len(shadow) < 3:
        return 1.0  # it cannot be seen; as if one recording said all the others say
    s = likelihood.sides(means, inside)
    left = means - np.where(inside, s.mean_in, s.mean_out)
    return likelihood.intraclass_correlation(left, signals.person[first])
