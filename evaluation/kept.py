"""What a generator still covers of the real windows after it was tuned, beside what it covered before."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..core.intervals import Interval, over_persons
from ..core.records import Cohort, CohortCard, Recording, cut, recording_windows
from ..data.features import vector
from ..data.vitals import roles, table
from .comparisons import some
from .fidelity.prdc import prdc

_FEW = 4  # vital signs: below, windows are described by the statistics of their streams
_EACH = 10  # real windows per neighbour: with fewer, a radius reaches over much of them and anything is covered


def coverage(
    real: Cohort, before: Sequence[Recording], after: Sequence[Recording], card: CohortCard, *, seconds: float,
    stride_s: float, valid: float, seed: int, k: int = 5, most: int = 400,
) -> tuple[Interval, Interval, Interval | None] | str:  # fmt: skip
    """PRDC coverage (arXiv 2002.09797, equation 4) of real windows, at most `most`, by equally many samples before and
    after: (before, after, after over before), with intervals over the real windows' persons; None for the share where
    nothing was covered; and why, where it could not be measured.

    On vital signs where there are enough of them: a codec that drops a sensor's noise covers little of the statistics. A
    sign that cannot be found in a window is at the mean, and told by a column of its own: else samples without any vital
    sign lie in the middle of the real windows and cover them. card: whose streams count.
    """
    windows, people = [], []
    for r in real:
        for w in recording_windows(r, seconds, stride_s):
            streams, why = cut(r, w, valid)
            if not why and streams:
                windows.append({n: s for n, s in streams.items() if n in card.streams})
                people.append(r.person)
    n = min(len(before), len(after))
    if len(windows) < _EACH * k or n <= k:
        return f"{len(windows)} real windows and {n} samples on each side, for {k} neighbours; {_EACH * k} windows are needed"
    at = np.sort(np.random.default_rng([seed, 0xC0FE]).permutation(len(windows))[:most])
    windows, person = [windows[i] for i in at], np.array(people, dtype=object)[at]
    sides = [windows, *([r.streams for r in s] for s in (before, after))]
    where = roles(card)
    X = [table(s, where) for s in sides]
    if (np.isfinite(X[0]).any(0)).sum() < _FEW:
        X = [np.array([vector(w, card) for w in s]) for s in sides]
    of, old, new = on_one_scale(*X)
    if not of.shape[1]:
        return "no sign varies among the real windows"
    old, new = (made[some(len(made), n, seed)] for made in (old, new))
    was, now = (prdc(of, made, k)["coverage"] for made in (old, new))
    one, two = (over_persons(lambda c: float(c.mean()), person, c) for c in (was, now))
    if not was.any():
        return one, two, None
    kept = over_persons(lambda a, b: float(b.mean() / max(a.mean(), 1e-9)), person, was, now, bounds=None)
    return one, two, kept


def on_one_scale(real: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    """Standardised by the real windows, within ±8, and after each sign whether it is missing, on the same scale (where no
    real window lacks it: 8 away). float64[n, 2 d] of float64[n, signs]; d: signs that vary among real windows."""
    known = np.flatnonzero(np.isfinite(real).any(0))
    known = known[np.nanstd(real[:, known], axis=0) > 1e-12]
    mean, sd = np.nanmean(real[:, known], axis=0), np.nanstd(real[:, known], axis=0)
    lacks = ~np.isfinite(real[:, known])
    often, vary = lacks.mean(0), np.maximum(lacks.std(0), 1 / 8)
    out = []
    for x in (real, *others):
        missing = ~np.isfinite(x[:, known])
        z = np.where(missing, 0.0, (np.where(missing, 0.0, x[:, known]) - mean) / sd)
        out.append(np.concatenate([z, (missing - often) / vary], axis=1).clip(-8, 8))
    return out
