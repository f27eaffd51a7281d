"""Shadow releases: does this release look like those that were made with this person, or like those without?

Groundhog (Stadler et al., arXiv 2011.07018): for each candidate a classifier learns to tell shadow releases with the
person from those without. What it sees of a release is how the release lies to the person: with a dozen shadows, a
classifier over all moments of all columns would fit the dozen (in toy releases, 12 + 12 persons: AUC 0.95 from 16
shadows in this way, 0.90 from 32 by moments).
"""

from __future__ import annotations

import numpy as np
from pydantic import Field
from sklearn.linear_model import LogisticRegression

from ...core.config import Section
from ...core.errors import MienError
from ...core.intervals import Interval
from ...core.results import Result
from ...data.features import WindowTable
from ..releases import Release, judged, neighbours

NEEDS = ("shadows",)
_LEAST, _EACH = 8, 2


class Config(Section):
    """c: inverse strength of the ridge penalty."""

    c: float = Field(default=1.0, gt=0)


def score(release: Release, config: Config) -> np.ndarray:
    """float64[n_windows]: log-odds that the window's person took part, the same at all of a person's windows.

    MienError below 8 shadow releases, or where a candidate is in fewer than two of them, or in all but one.
    """
    release.needs(NEEDS)
    shadows = [(made, who) for made, who in release.shadows or () if isinstance(made, WindowTable)]
    people, of = np.unique(release.signals().person, return_inverse=True)
    inside = np.array([[p in who for p in people] for _, who in shadows], dtype=bool).reshape(len(shadows), len(people))
    few = int((np.minimum(inside.sum(0), (~inside).sum(0)) < _EACH).sum())
    if len(shadows) < _LEAST or few:
        raise MienError(
            f"{len(shadows)} shadow releases of windows, and {few} of {len(people)} candidates are with or without in"
            f" fewer than {_EACH}; make {_LEAST} or more, with each candidate in half of them"
        )
    scale = release.scale()
    x = scale(release.candidates.X)
    seen = [summary(x, of, scale(t.X)) for t in (release.synthetic, *(made for made, _ in shadows))]
    target, made = seen[0], np.stack(seen[1:])
    mean, sd = made.mean(0), made.std(0)
    sd = np.where(sd > 1e-9 * (1 + np.abs(mean)), sd, np.inf)
    out = np.empty(len(people))
    for p in range(len(people)):
        model = LogisticRegression(C=config.c, class_weight="balanced")
        model.fit((made[:, p] - mean[p]) / sd[p], inside[:, p])
        out[p] = model.decision_function(((target[p] - mean[p]) / sd[p])[None])[0]
    return out[of]


def run(release: Release, config: Config, *, blind: Interval | None = None) -> list[Result]:
    """AUC and TPR per person, judged beside the blind attack's AUC on the same split."""
    return judged(release, score(release, config), "shadow_release", blind, units=("person",))


def summary(x: np.ndarray, of: np.ndarray, made: np.ndarray) -> np.ndarray:
    """float64[persons, 3]: how a release lies to each person.

    x: float[n, d] real windows of the persons of [n]; made: float[m, d]. Mean distance of the person's windows to the
    nearest synthetic one; the release's mean along the person's own (Homer et al. 2008); mean distance of the release
    to the person's mean.
    """
    count = np.bincount(of)
    near = np.bincount(of, neighbours(x, made)[0][:, 0]) / count
    centre = np.stack([np.bincount(of, column) for column in x.T], axis=1) / count[:, None]
    spread = np.array([np.linalg.norm(made - c, axis=1).mean() for c in centre])
    return np.column_stack([near, centre @ made.mean(0), spread])
