"""Nearest: is the release nearer to this window than other people's real windows are?

GAN-Leaks (arXiv 1909.03935), full black box with calibration: the distance to the nearest synthetic window, less the
distance to the nearest reference window, which takes off how unusual the window is to begin with.
"""

from __future__ import annotations

import numpy as np

from ...core.config import Section
from ...core.errors import MienError
from ...core.intervals import Interval
from ...core.results import Result
from ..releases import Release, judged, neighbours

NEEDS = ("reference",)


class Config(Section):
    """per_label: search among synthetic and reference windows of the candidate's own label only."""

    per_label: bool = False


def score(release: Release, config: Config) -> np.ndarray:
    """float64[n_windows]: d(x, reference) - d(x, release) in standardised units, larger = member."""
    release.needs(NEEDS)
    assert release.reference is not None
    scale = release.scale()
    tables = (release.candidates, release.synthetic, release.reference)
    x, made, other = (scale(t.X) for t in tables)
    if not config.per_label:
        return neighbours(x, other)[0][:, 0] - neighbours(x, made)[0][:, 0]
    out = np.empty(len(x))
    for label in sorted(set(release.candidates.label)):
        rows, a, b = (np.asarray(t.label) == label for t in tables)
        if not (a.any() and b.any()):
            raise MienError(f"per_label: no window labelled {label!r} in the release or the reference; set it to false")
        out[rows] = neighbours(x[rows], other[b])[0][:, 0] - neighbours(x[rows], made[a])[0][:, 0]
    return out


def run(release: Release, config: Config, *, blind: Interval | None = None) -> list[Result]:
    """AUC and TPR per recording and per person, judged beside the blind attack's AUC on the same split."""
    return judged(release, score(release, config), "nearest", blind)
