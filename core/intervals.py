"""Intervals over persons, and the exact statistics of membership scores.

Windows of one person resemble each other, so the person is what is resampled: every interval here deletes
whole persons (a cluster jackknife) and takes its degrees of freedom from the number of persons, never of
windows.

Coverage of the nominal 95 % intervals, Monte-Carlo with 20 windows a person (persons differ: Beta-distributed
accuracies with mean m, concentration c; Gaussian scores with within-person correlation 0.5):

    over_persons   m=.5 c=4   m=.8 c=5   m=.9 c=5   m=.95 c=5      auc_interval   A=.5   A=.7   A=.9   A=.97
     5 persons       .96        .95        .97        .99           5 + 5          .98    .98    .96    .94
    20 persons       .96        .95        .95        .92          20 + 20         .97    .96    .95    .94

The known weak spot is a statistic near its bound whose misses come from a few rare persons (m=.95, c=5, 200
windows): coverage is .89 with 5 persons; no interval can see a kind of person who was not recruited.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import optimize, special, stats

from .errors import MienError

_FLAT = 1e-12


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A number with its interval over persons. low/high None: too few persons for an interval."""

    value: float
    low: float | None
    high: float | None
    n_persons: int

    def excludes(self, value: float) -> bool:
        """True when the interval exists and `value` lies outside it."""
        return self.low is not None and self.high is not None and not self.low <= value <= self.high


def clopper_pearson(k: float, n: float, alpha: float = 0.05) -> tuple[float, float]:
    """Exact two-sided interval of a proportion, k of n, with error alpha/2 on each side (Clopper & Pearson
    1934).

    k may be fractional (the mean of n values in [0, 1], times n); the interval is then the conservative one
    of a yes/no variable with the same mean, which has the largest variance among variables on [0, 1].
    """
    if not (n > 0 and 0 <= k <= n and 0 < alpha < 1):
        raise MienError(f"a proportion needs 0 <= k <= n, n > 0 and 0 < alpha < 1, got k={k}, n={n}, alpha={alpha}")
    low = 0.0 if k <= 0 else float(stats.beta.ppf(alpha / 2, k, n - k + 1))
    high = 1.0 if k >= n else float(stats.beta.ppf(1 - alpha / 2, k + 1, n - k))
    return low, high


def over_persons(
    statistic: Callable[..., float],
    persons: np.ndarray,
    *arrays: np.ndarray,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    alpha: float = 0.05,
) -> Interval:
    """`statistic(*arrays)` with a delete-one-person jackknife interval (Efron & Tibshirani 1993, ch. 11).

    persons: [n] ids; arrays: each [n, ...], cut by row; df = persons - 1. With `bounds` the interval is made
    on the logit scale between them, which cannot leave them and covers better near them (5 persons with 200
    windows, m=.95, c=5: .89, where the plain t interval clipped at 1 covers .77). Where every person gives
    the same value, or the value sits on a bound, a spread of zero would be an empty boast: then the interval
    is Clopper–Pearson's with n = number of persons (5 of 5 persons right: 0.48 to 1), or None without bounds.
    low/high are None with one person, or where the statistic does not exist once a person is left out. Raises
    MienError when lengths differ or the statistic itself is not finite.
    """
    persons = np.asarray(persons)
    arrays = tuple(np.asarray(a) for a in arrays)
    if len(persons) == 0 or any(len(a) != len(persons) for a in arrays):
        raise MienError(f"an interval over persons needs rows of equal number: {[len(persons), *map(len, arrays)]}")
    value = float(statistic(*arrays))
    if not math.isfinite(value):
        raise MienError(f"the statistic is {value}; an interval over persons needs a finite number")
    if bounds is not None and not bounds[0] - 1e-9 <= value <= bounds[1] + 1e-9:
        raise MienError(f"the statistic is {value:g}, outside its bounds {bounds}; pass the right bounds, or None")
    _, who = np.unique(persons.astype(str), return_inverse=True)
    n = int(who.max()) + 1
    unknown = Interval(value=value, low=None, high=None, n_persons=n)
    if n < 2:
        return unknown
    left = np.array([statistic(*(a[who != p] for a in arrays)) for p in range(n)], dtype=np.float64)
    if not np.isfinite(left).all():
        return unknown
    se = math.sqrt((n - 1) / n * float(((left - left.mean()) ** 2).sum()))
    half = float(stats.t.ppf(1 - alpha / 2, n - 1)) * se
    if bounds is None:
        if se < _FLAT:
            return unknown
        return Interval(value=value, low=value - half, high=value + half, n_persons=n)
    floor, span = bounds[0], bounds[1] - bounds[0]
    share = min(1.0, max(0.0, (value - floor) / span))
    if se < _FLAT * span or min(share, 1 - share) < _FLAT:
        low, high = clopper_pearson(share * n, n, alpha)
    else:
        low, high = _on_logit(share, half / span)
    return Interval(value=value, low=floor + span * low, high=floor + span * high, n_persons=n)


def auc(member_scores: np.ndarray, nonmember_scores: np.ndarray) -> float:
    """P(member's score > non-member's) + ½ P(equal), exactly, over all pairs (Mann–Whitney). float[m],
    float[n].
    """
    placements, _ = _placements(*_two(member_scores, nonmember_scores))
    return float(placements.mean())


def auc_interval(scores: np.ndarray, member: np.ndarray, persons: np.ndarray, alpha: float = 0.05) -> Interval:
    """The AUC of pooled scores with an interval over persons. scores: float[n], member: bool[n], persons:
    [n].

    Persons of one class each: two-sample jackknife, the two classes' variances added, t with df =
    min(members, non-members) - 1 (persons), on the logit scale by the delta method. Persons in both classes
    (random-window splits): one-sample jackknife, each person deleted from both sides. Complete separation, or
    no spread, has no variance to estimate; there the interval is Newcombe's (2006, method 5: Hanley–McNeil
    variance at the candidate value) with *person* counts. low/high None when a class has a single person.
    """
    scores, member, persons = (
        np.asarray(scores, dtype=np.float64),
        np.asarray(member, dtype=bool),
        np.asarray(persons),
    )
    if not len(scores) == len(member) == len(persons):
        raise MienError(f"scores, member and persons differ in length: {len(scores)}, {len(member)}, {len(persons)}")
    inside, outside = _two(scores[member], scores[~member])
    _, who = np.unique(persons.astype(str), return_inverse=True)
    n = int(who.max()) + 1
    wi, wo = who[member], who[~member]
    m, k = np.bincount(wi, minlength=n), np.bincount(wo, minlength=n)
    ui, uo = _placements(inside, outside)
    value = float(ui.mean())
    both = (m > 0) & (k > 0)
    unknown = Interval(value=value, low=None, high=None, n_persons=n)
    n_in, n_out = int((m > 0).sum()), int((k > 0).sum())
    if min(n_in, n_out) < 2:
        return unknown
    # Won pairs that leave with person p: its members against everybody, everybody against its non-members,
    # less the pairs inside p, which that counts twice.
    total = ui.sum() * len(outside)
    lost = np.bincount(wi, ui, n) * len(outside) + np.bincount(wo, uo, n) * len(inside)
    for p in np.flatnonzero(both):
        own, _ = _placements(inside[wi == p], outside[wo == p])
        lost[p] -= own.sum() * k[p]
    left = (total - lost) / ((len(inside) - m) * (len(outside) - k))
    if both.any():
        variance, df = (n - 1) / n * float(((left - left.mean()) ** 2).sum()), n - 1
    else:
        a, b = left[m > 0], left[k > 0]
        variance = (n_in - 1) / n_in * float(((a - a.mean()) ** 2).sum())
        variance += (n_out - 1) / n_out * float(((b - b.mean()) ** 2).sum())
        df = min(n_in, n_out) - 1
    low, high = _auc_limits(value, variance, n_in, n_out, df, alpha)
    return Interval(value=value, low=low, high=high, n_persons=n)


def pairs_interval(wins: np.ndarray, pairs: np.ndarray, alpha: float = 0.05, inflation: float = 1.0) -> Interval:
    """The AUC of scores that may only be compared within a pair of persons, with its interval over persons.

    wins: float[members, non-members], pairs won by person i over person j (ties ½), of pairs[i, j] compared.
    The same two-sample jackknife, scale and fallback as `auc_interval`, by leaving out rows and columns.

    inflation: factor on the variance, for scores whose models were fitted on one another's test persons.
    """
    wins, pairs = np.asarray(wins, dtype=np.float64), np.asarray(pairs, dtype=np.float64)
    n_in, n_out = wins.shape
    value = float(wins.sum() / pairs.sum())
    if min(n_in, n_out) < 2:
        return Interval(value=value, low=None, high=None, n_persons=n_in + n_out)
    a = (wins.sum() - wins.sum(1)) / (pairs.sum() - pairs.sum(1))
    b = (wins.sum() - wins.sum(0)) / (pairs.sum() - pairs.sum(0))
    variance = (n_in - 1) / n_in * float(((a - a.mean()) ** 2).sum())
    variance += (n_out - 1) / n_out * float(((b - b.mean()) ** 2).sum())
    low, high = _auc_limits(value, inflation * variance, n_in, n_out, min(n_in, n_out) - 1, alpha)
    return Interval(value=value, low=low, high=high, n_persons=n_in + n_out)


def hanley_mcneil_se(value: float, n_member: int, n_nonmember: int) -> float:
    """Standard error of an AUC from independent scores (Hanley & McNeil 1982)."""
    q1, q2 = value / (2 - value), 2 * value**2 / (1 + value)
    spread = value * (1 - value) + (n_member - 1) * (q1 - value**2) + (n_nonmember - 1) * (q2 - value**2)
    return math.sqrt(max(0.0, spread) / (n_member * n_nonmember))


def newcombe_auc(value: float, n_member: int, n_nonmember: int, alpha: float = 0.05) -> tuple[float, float]:
    """The AUCs whose own Hanley–McNeil variance allows the observed `value` (Newcombe 2006, method 5).

    Both class sizes enter the variance's inner terms as their mean, as in the paper. Not empty at 0 or 1:
    5 + 5 persons fully apart give 0.64 to 1.
    """
    z = float(stats.norm.ppf(1 - alpha / 2))
    mean = (n_member + n_nonmember) / 2

    def outside(x: float) -> float:
        v = x * (1 - x) * (1 + (mean - 1) * ((1 - x) / (2 - x) + x / (1 + x))) / (n_member * n_nonmember)
        return (value - x) ** 2 - z * z * v

    low = 0.0 if value <= 0 else _root(outside, 0.0, value * (1 - 1e-9))
    high = 1.0 if value >= 1 else _root(outside, value + 1e-9 * (1 - value), 1.0)
    return low, high


def roc(scores: np.ndarray, member: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(fpr, tpr): the corners of the ROC, from (0, 0) to (1, 1), one per distinct score; equal scores move
    together.
    """
    scores, member = np.asarray(scores, dtype=np.float64), np.asarray(member, dtype=bool)
    _two(scores[member], scores[~member])
    _, group = np.unique(-scores, return_inverse=True)
    n = int(group.max()) + 1
    tp = np.cumsum(np.bincount(group[member], minlength=n))
    fp = np.cumsum(np.bincount(group[~member], minlength=n))
    return np.r_[0.0, fp / fp[-1]], np.r_[0.0, tp / tp[-1]]


def threshold_at_fpr(scores: np.ndarray, member: np.ndarray, fpr: float) -> float:
    """The lowest observed score t such that calling `score >= t` member keeps the empirical FPR <= fpr; inf
    if none.

    It is chosen on these very non-members: whatever is measured at it holds for this threshold only.
    """
    rates, _ = roc(scores, member)
    last = int(np.searchsorted(rates, fpr * (1 + 1e-12), side="right")) - 1
    levels = np.unique(np.asarray(scores, dtype=np.float64))[::-1]
    return math.inf if last == 0 else float(levels[last - 1])


def tpr_at_fpr(scores: np.ndarray, member: np.ndarray, fpr: float, *, resolve: bool = True) -> float | None:
    """The largest TPR whose empirical FPR is <= fpr: step rule, no interpolation, ties kept together.

    None when there are fewer than 1/fpr non-members: no threshold then tells this rate from zero.
    `resolve=False` computes it all the same (for pictures and oracles). Raises MienError on one-class or NaN
    input.
    """
    if not 0 <= fpr <= 1:
        raise MienError(f"a false positive rate lies in [0, 1], got {fpr}")
    member = np.asarray(member, dtype=bool)
    rates, hits = roc(scores, member)
    if resolve and not resolvable(fpr, int((~member).sum())):
        return None
    return float(hits[int(np.searchsorted(rates, fpr * (1 + 1e-12), side="right")) - 1])


def resolvable(fpr: float, n_nonmembers: int) -> bool:
    """Whether n non-members can show a rate of `fpr` at all: n >= 1/fpr."""
    return fpr > 0 and n_nonmembers * fpr >= 1 - 1e-9


def certifiable(fpr: float, alpha: float = 0.05) -> int:
    """How many non-members, with not one false positive, certify FPR <= fpr at confidence 1 - alpha.

    The smallest n with (1 - fpr)^n <= alpha; 2995 for 0.1 % at 95 %.
    """
    if not (0 < fpr < 1 and 0 < alpha < 1):
        raise MienError(f"certifying needs 0 < fpr < 1 and 0 < alpha < 1, got {fpr} and {alpha}")
    return math.ceil(math.log(alpha) / math.log1p(-fpr) - 1e-9)


def _auc_limits(value: float, variance: float, n_in: int, n_out: int, df: int, alpha: float) -> tuple[float, float]:
    se = math.sqrt(variance)
    if se < _FLAT or min(value, 1 - value) < _FLAT:
        return newcombe_auc(value, n_in, n_out, alpha)
    return _on_logit(value, float(stats.t.ppf(1 - alpha / 2, df)) * se)


def _root(f: Callable[[float], float], low: float, high: float) -> float:
    found: Any = optimize.brentq(f, low, high)
    return float(found)


def _on_logit(value: float, half: float) -> tuple[float, float]:
    """value ± half (already times its quantile), carried to the logit scale by the delta method and back."""
    centre, step = special.logit(value), half / (value * (1 - value))
    return float(special.expit(centre - step)), float(special.expit(centre + step))


def _two(inside: np.ndarray, outside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    inside, outside = (
        np.asarray(inside, dtype=np.float64).ravel(),
        np.asarray(outside, dtype=np.float64).ravel(),
    )
    if not len(inside) or not len(outside):
        raise MienError(f"{len(inside)} members and {len(outside)} non-members; an attack is judged on both")
    bad = int((~np.isfinite(inside)).sum() + (~np.isfinite(outside)).sum())
    if bad:
        raise MienError(f"{bad} scores are NaN or infinite; repair the attack, for dropping them would bias the AUC")
    return inside, outside


def _placements(inside: np.ndarray, outside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per member, the share of non-members it beats (ties ½); per non-member, the share of members that beat
    it.
    """
    i, o = np.sort(inside), np.sort(outside)
    ui = (np.searchsorted(o, inside, "left") + np.searchsorted(o, inside, "right")) / (2 * len(o))
    uo = 1 - (np.searchsorted(i, outside, "left") + np.searchsorted(i, outside, "right")) / (2 * len(i))
    return ui, uo
