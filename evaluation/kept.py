"""What a generator still covers of the real windows after it was tuned, beside what it covered before."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..core.intervals import Interval, over_persons
from ..core.records import Cohort, CohortCard, Recording, cut, recording_windows
from ..data.features import vector
from ..data.vitals import roles, table
from .fidelity.prdc import prdc

_FEW = 4  # vital signs: below, windows are described by the statistics of their streams


def coverage(
    real: Cohort, before: Sequence[Recording], after: Sequence[Recording], card: CohortCard, *, seconds: float,
    stride_s: float, valid: float, seed: int, k: int = 5, most: int = 400,
) -> tuple[Interval, Interval, Interval | None]:  # fmt: skip
    """PRDC coverage (arXiv 2002.09797, equation 4) of real windows, at most `most`, by equally many samples: (before,
    after, after over before), with intervals over the real windows' persons; None for the share where nothing was covered.

    On vital signs where there are enough of them: a codec that drops a sensor's noise covers little of the statistics. card:
    whose streams count. MienError when no real window is usable.
    """
    windows, people = [], []
    for r in real:
        for w in recording_windows(r, seconds, stride_s):
            streams, why = cut(r, w, valid)
            if not why and streams:
                windows.append({n: s for n, s in streams.items() if n in card.streams})
                people.append(r.person)
    at = np.sort(np.random.default_rng([seed, 0xC0FE]).permutation(len(windows))[:most])
    windows, person = [windows[i] for i in at], np.array(people, dtype=object)[at]
    sides = [windows, *([r.streams for r in s] for s in (before, after))]
    where = roles(card)
    X = [table(s, where) for s in sides]
    if (np.isfinite(X[0]).any(0)).sum() < _FEW:
        X = [np.array([vector(w, card) for w in s]) for s in sides]
    known = np.flatnonzero(np.isfinite(X[0]).any(0))
    known = known[np.nanstd(X[0][:, known], axis=0) > 1e-12]
    mean, sd = np.nanmean(X[0][:, known], axis=0), np.nanstd(X[0][:, known], axis=0)
    of, old, new = (np.nan_to_num((x[:, known] - mean) / sd).clip(-8, 8) for x in X)
    n = min(len(old), len(new))
    was, now = (prdc(of, made[:n], min(k, len(of) - 1))["coverage"] for made in (old, new))
    one, two = (over_persons(lambda c: float(c.mean()), person, c) for c in (was, now))
    if not was.any():
        return one, two, None
    kept = over_persons(lambda a, b: float(b.mean() / max(a.mean(), 1e-9)), person, was, now, bounds=None)
    return one, two, kept
