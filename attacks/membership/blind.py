"""The blind attack: can members be told from non-members without the model at all?

It sees window statistics and metadata only (`Signals.features`). Where it succeeds, the split itself gives
members away (another season, another device), and what any other attack finds cannot be put down to the model
(Das et al., arXiv:2406.16201). Its number is `pairwise`, not the AUC of `score`:

Cross-validated scores may not be pooled into one AUC. Leaving a member out makes members rarer in the fitting
data, so a fold's scores lean against the class that was held out, and without any signal the pooled AUC falls
below ½ (Parker et al. 2007; Airola et al. 2011); scores of different models are not on one scale either. Here
one fold of members *and* one of non-members is left out together, and a member is compared only with a
non-member whom the same model has not seen either. Swapping those two persons changes nothing in that model,
so under exchangeable persons each comparison is a fair coin: the mean is ½ exactly. The folds are single
persons while there are no more persons in a class than `folds`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
from pydantic import Field
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from ...core.config import Section
from ...core.errors import MienError
from ...core.intervals import Interval, pairs_interval
from ...core.scores import Unit
from ..signals import Signals, pool

NEEDS = ("features",)


class Config(Section):
    """c: inverse strength of the ridge penalty, for losses summed over *persons*; folds: at most so many per
    class; max_windows: at most so many windows in a fit, the same number for each person; seed: who shares
    a fold.
    """

    c: float = Field(default=1.0, gt=0)
    folds: int = Field(default=10, ge=2)
    max_windows: int = Field(default=5000, ge=100)
    seed: int = 0


def score(signals: Signals, config: Config) -> np.ndarray:
    """float64[n_windows]: mean log-odds of membership from models that never saw the window's person.

    For looking at windows. It mixes models that saw different persons, so no AUC should be pooled from it
    (see above); the attack's result is `pairwise`.
    """
    total, count = np.zeros(len(signals)), np.zeros(len(signals))
    for rows, odds in _held_out(signals, config):
        total[rows] += odds
        count[rows] += 1
    return total / count


def pairwise(signals: Signals, config: Config, unit: Unit = "person") -> Interval:
    """The blind AUC over all pairs (member person, non-member person), each judged by a model fitted without
    both.

    unit: what is compared within a pair of persons (their means, their recordings or their windows). Raises
    MienError with fewer than two persons in a class, or persons in both.

    The jackknife leaves persons out of the comparisons without fitting again, so it misses part of what the
    fitted models vary; with several persons to a fold its variance is raised for that (Nadeau & Bengio 2003).
    Without signal and by persons, the 95 % interval excluded ½ in 2 % of 300 splits of 5 + 5 persons, 5 % of
    150 of 10 + 10, and 2 of 40 of 20 + 20 (5 folds) and 1 of 40 of 50 + 50 (10 folds). With few persons and
    many features it is weak: failing to exclude ½ then does not show that the split is fair.
    """
    people, member = _people(signals)
    where = {p: i for i, p in enumerate(np.r_[people[member], people[~member]])}
    n_in = int(member.sum())
    wins, pairs = np.zeros((n_in, len(people) - n_in)), np.zeros((n_in, len(people) - n_in))
    for rows, odds in _held_out(signals, config):
        part = Signals(
            recording=signals.recording[rows],
            person=signals.person[rows],
            member=signals.member[rows],
            label=signals.label[rows],
            n_tokens=signals.n_tokens[rows],
            made_with=signals.made_with,
        )
        s = pool(part, odds, unit, attack="blind")
        who = np.array([where[p] for p in s.persons])
        inside, mine = s.score[s.member], who[s.member]
        for j in np.unique(who[~s.member]):
            other = np.sort(s.score[who == j])
            won = (np.searchsorted(other, inside, "left") + np.searchsorted(other, inside, "right")) / 2
            wins[:, j - n_in] += np.bincount(mine, won, n_in)
            pairs[:, j - n_in] += np.bincount(mine, minlength=n_in) * len(other)
    # Several persons to a fold: Nadeau & Bengio's variance of a K-fold mean, 1/K + 1/(K-1) in place of 1/K.
    grouped = min(wins.shape) > config.folds
    return pairs_interval(wins, pairs, inflation=1 + config.folds / (config.folds - 1) if grouped else 1.0)


def _people(signals: Signals) -> tuple[np.ndarray, np.ndarray]:
    signals.needs(NEEDS)
    people, first, who = np.unique(signals.person, return_index=True, return_inverse=True)
    member = signals.member[first]
    if (signals.member != member[who]).any():
        raise MienError("the blind attack leaves persons out, and a person here is on both sides; split by person")
    if min(member.sum(), (~member).sum()) < 2:
        raise MienError(
            f"the blind attack needs two persons on each side to leave one out, and has"
            f" {int(member.sum())} members and"
            f" {int((~member).sum())} non-members"
        )
    return people, member


def _held_out(signals: Signals, config: Config) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(rows, log-odds) of every block: a fold of members with a fold of non-members, the model fitted without
    both.
    """
    people, member = _people(signals)
    features = signals.features
    assert features is not None
    rng = np.random.default_rng(config.seed)
    fold = np.empty(len(people), dtype=np.int64)
    for side in (member, ~member):
        n = int(side.sum())
        fold[side] = rng.permutation(n) % min(config.folds, n)
    _, who = np.unique(signals.person, return_inverse=True)
    row_fold = fold[who]
    for a in range(int(fold[member].max()) + 1):
        for b in range(int(fold[~member].max()) + 1):
            out = np.where(signals.member, row_fold == a, row_fold == b)
            fit = _thin(np.flatnonzero(~out), who, config.max_windows)
            rows = np.flatnonzero(out)
            yield rows, _log_odds(features[fit], signals.member[fit], who[fit], features[rows], config)


def _thin(rows: np.ndarray, who: np.ndarray, most: int) -> np.ndarray:
    """At most `most` rows, spread evenly over each person's windows."""
    people = np.unique(who[rows])
    each = max(1, most // len(people))
    if len(rows) <= most:
        return rows
    kept = []
    for p in people:
        mine = rows[who[rows] == p]
        kept.append(mine[np.unique(np.linspace(0, len(mine) - 1, min(each, len(mine))).round().astype(int))])
    return np.concatenate(kept)


def _log_odds(X: np.ndarray, member: np.ndarray, who: np.ndarray, new: np.ndarray, config: Config) -> np.ndarray:
    """Ridge logistic regression; both classes weigh the same, and within a class each person does."""
    X, new = _prepare(X, new)
    weight = np.zeros(len(X))
    for side in (member, ~member):
        people, inverse, count = np.unique(who[side], return_inverse=True, return_counts=True)
        weight[side] = 1 / count[inverse] / len(people)
    weight *= len(np.unique(who)) / 2
    model = LogisticRegression(C=config.c, max_iter=500)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # an unfinished fit is a weaker attack, not a wrong one
        model.fit(X, member, sample_weight=weight)
    return model.decision_function(new)


def _prepare(X: np.ndarray, new: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Standardised by the fitting rows alone; a missing value becomes the mean, and its being missing a
    column.
    """
    gaps = np.isnan(X).any(0)
    X, new = (np.hstack([v, np.isnan(v[:, gaps])]) for v in (X, new))
    there = ~np.isnan(X)
    n = np.maximum(there.sum(0), 1)
    mean = np.where(there, X, 0.0).sum(0) / n
    sd = np.sqrt((np.where(there, X - mean, 0.0) ** 2).sum(0) / n)
    sd = np.where(sd > 1e-12 * (1 + np.abs(mean)), sd, np.inf)  # a constant column says nothing: it becomes zero

    def ready(values: np.ndarray) -> np.ndarray:
        return np.clip(np.where(np.isnan(values), 0.0, (values - mean) / sd), -10, 10)

    return ready(X), ready(new)
