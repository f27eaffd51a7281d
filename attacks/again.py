"""The membership attack on one adapter before and after it was tuned: a helper for recipes, not a plug-in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..core.intervals import Interval, auc, auc_interval, over_persons
from .membership import reference
from .signals import Signals, pool


def leakage(
    before: Mapping[str, Any], after: Mapping[str, Any], about: Mapping[str, Any], made_with: str
) -> tuple[Interval, Interval, Interval]:
    """AUC of the reference attack over persons (before, after), and how much it rose, each with an interval over persons.

    before, after: loss, loss_base float64[n] and n_tokens of each window; about: recording, person, label, member. Both
    attacks are on the same persons, so the rise's interval leaves the same person out of both.
    """
    scores = []
    for seen in (before, after):
        found = {n: seen[n] for n in ("loss", "loss_base", "n_tokens")}
        signals = Signals(made_with=made_with, **about, **found)
        scores.append(pool(signals, reference.score(signals, reference.Config()), "person"))
    one, two = (auc_interval(s.score, s.member, s.persons) for s in scores)
    first, member = scores[0], np.asarray(scores[0].member)

    def rise(a: np.ndarray, b: np.ndarray, inside: np.ndarray) -> float:
        if inside.all() or not inside.any():
            return float("nan")
        return auc(b[inside], b[~inside]) - auc(a[inside], a[~inside])

    rose = over_persons(rise, first.persons, first.score, scores[1].score, member, bounds=None)
    return one, two, rose
