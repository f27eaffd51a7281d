"""How well scores tell who is who: verification (same person or not?) and identification (which one?).

Every number is computed from shares, not from counts: each person's mated comparisons weigh the same, and so does each
ordered pair of different persons. A comparison belongs to two persons, so an interval leaves a person out of *both*
sides (the jackknife of a U-statistic, Arvesen 1969).

The calibrated numbers (min-Cllr, D_sys, ZEBRA) fit the best monotone calibration (pool adjacent violators) to the very
scores they judge, which grants the attacker more than there is: with 8 persons D_sys .45 where .37 is true. `verification`
takes that off by the jackknife's estimate of the bias (Efron & Tibshirani 1993, ch. 10); the functions of plain scores
do not.

Coverage of the nominal 95 % intervals, Monte-Carlo (250 to 400 draws; persons in 8 columns, three probes each, cosine
scores; true EER .09, .27, and no linkage at all):

                   EER             min-Cllr        D_sys           ZEBRA
     8 persons   .97 .98 .98     .86 .93 .98     .90 .95 .96     .86 .93 .98
    20 persons   .96 .94 .96     .84 .96 .98     .89 .96 .94     .82 .96 .98
    40 persons   .94 .95 .94     .85 .94 .96     .92 .95 .88     .84 .94 .96

The weak spots: calibrated numbers are called a little too linkable where linkage is strong, and D_sys, which cannot be
negative, is a poor test of no linkage at all. Test with the EER, or rank-1. Identification rates are not means over
pairs: leaving a person out of the gallery too makes their intervals 1.3 times too wide, so these leave out probes only;
rank-1 and rank-5 in galleries of 8 to 40, drawn anew each time, were covered in .94 to .99.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import integrate, optimize, special, stats

from ..core.errors import MienError
from ..core.intervals import Interval, over_persons, resolvable

BITS = 0.5 / np.log(2)  # ∫ H2(π) dπ over all priors: what ZEBRA's perfect attacker learns


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Every probe against every entry of a gallery.

    score: float64[P, G], larger = more alike; probe: str[P] and entry: str[G], who (or what) each is: equal ones are
    mated; probe_person, entry_person: whose they are, for weights and intervals, where an identity is less than a
    person (a recording). Raises MienError on other shapes, NaN or infinite scores, and where there is not one mated
    and one non-mated comparison, or only one person.
    """

    score: np.ndarray
    probe: np.ndarray
    entry: np.ndarray
    probe_person: np.ndarray = None  # type: ignore[assignment]  # the default is `probe`
    entry_person: np.ndarray = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "score", np.asarray(self.score, dtype=np.float64))
        for name, default in (("probe", None), ("entry", None), ("probe_person", "probe"), ("entry_person", "entry")):
            value = getattr(self, name)
            put(self, name, _text(value if value is not None else getattr(self, str(default))))
        sides = (len(self.probe), len(self.entry))
        if self.score.shape != sides or sides != (len(self.probe_person), len(self.entry_person)):
            raise MienError(f"scores {list(self.score.shape)} for {sides[0]} probes and {sides[1]} entries")
        bad = int((~np.isfinite(self.score)).sum())
        if bad:
            raise MienError(f"{bad} of {self.score.size} comparison scores are NaN or infinite; repair the attack")
        mated = int(self.mated.sum())
        if mated in (0, self.score.size):
            raise MienError(
                f"{mated} mated and {self.score.size - mated} non-mated comparisons; both are needed: enrol the probes'"
                " persons, and two persons at least"
            )
        if len(self.people) < 2:
            raise MienError("all comparisons are within one person; nothing can be said about telling persons apart")

    @property
    def mated(self) -> np.ndarray:
        return self.probe[:, None] == self.entry

    @property
    def people(self) -> np.ndarray:
        return np.unique(np.r_[self.probe_person, self.entry_person])


def eer(mated: np.ndarray, nonmated: np.ndarray) -> float:
    """Equal error rate of scores float[m], float[n]: where the ROC's corners, joined by straight lines, meet FNR = FPR.

    Equal scores move together. Where the rates are equal inside a step or a tie, a coin between its two thresholds
    attains them. Everything tied: ½; scores the wrong way round: above ½ (a convex hull would hide that as ½).
    """
    p, q = _shares(*_pair(mated, nonmated))
    missed, weight = _tangent(p, q)
    return float(weight * (missed @ p) + (1 - weight) * ((1 - missed) @ q))


def cllr(mated: np.ndarray, nonmated: np.ndarray) -> float:
    """Cost of log-likelihood ratios (natural log) float[m], float[n], in bits (Brümmer & du Preez 2006):
    0 perfect, 1 what knowing nothing costs, above 1 misleading."""
    m, n = _pair(mated, nonmated)
    return float(np.logaddexp(0, -m).mean() + np.logaddexp(0, n).mean()) / np.log(4)


def min_cllr(mated: np.ndarray, nonmated: np.ndarray) -> float:
    """`cllr` after the best monotone calibration of these very scores, in [0, 1]."""
    return _min_cllr(*_pooled(*_shares(*_pair(mated, nonmated))))


def d_sys(mated: np.ndarray, nonmated: np.ndarray) -> float:
    """Linkability D_sys in [0, 1] at ω = 1 (Gomez-Barrero et al. 2018): the mean over mated scores of
    (LR - 1) / (LR + 1), where LR > 1. LR is PAV's: the authors' histograms need a bin width, and a decision is a
    threshold all the same."""
    return _d_sys(*_pooled(*_shares(*_pair(mated, nonmated))))


def zebra(mated: np.ndarray, nonmated: np.ndarray) -> float:
    """Expected disclosure of ZEBRA (arXiv 2005.09413), in bits: ∫ H2(π) - ECE(π) dπ; 0 to 0.7213.

    With PAV's blocks b of shares p (mated) and q (non-mated) the integral is (1 - Σ p q ln(p/q) / (p - q)) / 2 ln 2.
    """
    return _zebra(*_pooled(*_shares(*_pair(mated, nonmated))))


def two_gaussians(d_prime: float) -> dict[str, float]:
    """What `eer`, `min_cllr`, `d_sys` and `zebra` tend to for mated N(d', 1) and non-mated N(0, 1) scores."""
    d = float(d_prime)

    def over_mated(f: Callable[[float], float]) -> float:
        found: Any = integrate.quad(
            lambda x: stats.norm.pdf(x - d) * f(d * x - d * d / 2), -12, d + 12, points=[d / 2, d], epsabs=1e-11
        )
        return float(found[0])

    return {
        "eer": float(stats.norm.cdf(-d / 2)),
        "min_cllr": float(over_mated(lambda llr: float(np.logaddexp(0, -llr))) / np.log(2)),
        "d_sys": over_mated(lambda llr: max(0.0, float(np.tanh(llr / 2)))),
        "zebra": float(BITS) * (1 - over_mated(lambda llr: float(1 / special.exprel(llr)))),
    }


def verification(c: Comparison, llr: np.ndarray | None = None) -> dict[str, Interval]:
    """eer, min_cllr, d_sys and zebra with intervals over persons; cllr too of llr float[P, G], the scores as
    log-likelihood ratios. Without linkage they are ½, 1, 0, 0 and (calibrated) 1."""
    weighed = _Weighed(c)
    bounds = {"eer": (0.0, 1.0), "min_cllr": (0.0, 1.0), "d_sys": (0.0, 1.0), "zebra": (0.0, float(BITS))}
    found = {name: weighed.interval(name, b) for name, b in bounds.items()}
    return found if llr is None else found | {"cllr": _Weighed(replace(c, score=llr), cost=True).interval("cllr", None)}


def rank(c: Comparison, k: int) -> Interval:
    """Closed-set identification: share of probes whose own entry is among the k most alike, of the probes that have
    one; each person's mean weighs the same. Chance is k / gallery size.

    Entries that tie share the places they tie for. The interval leaves out the probes of a person and keeps the
    gallery (see above). Raises MienError when an identity is enrolled twice (pool it first) or the gallery has no more
    than k entries.
    """
    if len(set(c.entry)) < len(c.entry):
        raise MienError(f"{len(c.entry) - len(set(c.entry))} identities are enrolled twice; pool each into one entry")
    if not 0 < k < len(c.entry):
        raise MienError(f"rank {k} in a gallery of {len(c.entry)} says nothing; use 1 to {len(c.entry) - 1}")
    known = np.isin(c.probe, c.entry)
    score, own, by = c.score[known], c.score[c.mated][:, None], c.probe_person[known]
    places = np.clip((k - (score > own).sum(1)) / (score == own).sum(1), 0, 1)
    return over_persons(by_person, by, by, places)


def open_set(c: Comparison, fpir: float) -> tuple[Interval | None, str]:
    """Open-set identification: (share of enrolled probes that find their own entry first, above a threshold, note).

    The threshold is the lowest at which at most `fpir` of the strangers' probes (those with no entry) find anybody;
    the interval is over enrolled persons at that threshold. None, with the reason, without 1 / fpir strangers.
    """
    known = np.isin(c.probe, c.entry)
    who, n = c.probe_person[~known], len(set(c.probe_person[~known]))
    if not resolvable(fpir, n):
        return None, f"not resolvable: {n} persons without an entry, needs {int(np.ceil(1 / fpir - 1e-9))} or more"
    best = c.score.max(1)
    levels = np.unique(best)
    alarms = np.array([by_person(who, (best[~known] >= t).astype(np.float64)) for t in levels])
    allowed = np.flatnonzero(alarms <= fpir * (1 + 1e-12))
    threshold = float(levels[allowed[0]]) if len(allowed) else np.inf
    own = np.where(c.mated, c.score, -np.inf).max(1)
    alone = (c.score == best[:, None]).sum(1)  # a first place that is shared is won by a coin
    found = np.where((own == best) & (own >= threshold), 1 / alone, 0.0)[known]
    false = over_persons(by_person, who, who, (best[~known] >= threshold).astype(np.float64))
    upper = "unknown" if false.high is None else f"{100 * false.high:.2g} %"
    note = f"open set: threshold set on {n} persons without an entry, where {100 * false.value:.2g} % of probes raise a"
    note += f" false alarm (95 % upper limit {upper})"
    by = c.probe_person[known]
    return over_persons(by_person, by, by, found), note


class _Weighed:
    """A comparison's scores sorted once; then any statistic with some persons left out."""

    def __init__(self, c: Comparison, cost: bool = False):
        self.c, self.cost = c, cost
        self.levels, group = np.unique(c.score, return_inverse=True)
        self.group = group.reshape(c.score.shape)
        _, code = np.unique(np.r_[c.probe_person, c.entry_person], return_inverse=True)
        self.row, self.column = code[: len(c.probe)], code[len(c.probe) :]
        self.n = int(code.max()) + 1
        self.missed, self.weight = _tangent(*self.shares(c.mated, np.ones(c.score.shape, bool)))
        self.known: dict[bytes, dict[str, float]] = {}

    def shares(self, mated: np.ndarray, used: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(mated share, non-mated share) at each level of the score, over the cells in use."""
        row, column = (np.broadcast_to(v, used.shape) for v in (self.row[:, None], self.column))
        out = []
        for cells, code in ((mated & used, row), (~mated & used, row * self.n + column)):
            if not cells.any():
                return np.zeros(0), np.zeros(0)
            size = np.bincount(code[cells], minlength=self.n * self.n)
            share = np.bincount(self.group[cells], 1 / size[code[cells]], len(self.levels))
            out.append(share / share.sum())
        return out[0], out[1]

    def values(self, people: np.ndarray) -> dict[str, float]:
        key = people.tobytes()
        if key not in self.known:
            used = np.isin(self.row, people)[:, None] & np.isin(self.column, people)
            self.known[key] = self.judge(*self.shares(self.c.mated, used))
        return self.known[key]

    def judge(self, p: np.ndarray, q: np.ndarray) -> dict[str, float]:
        if not len(p):
            return dict.fromkeys(("eer", "min_cllr", "d_sys", "zebra", "cllr"), float("nan"))
        if self.cost:
            spent = p @ np.logaddexp(0, -self.levels) + q @ np.logaddexp(0, self.levels)
            return {"cllr": float(spent / np.log(4))}
        blocks, error = _pooled(p, q), self.weight * (self.missed @ p) + (1 - self.weight) * ((1 - self.missed) @ q)
        return {"eer": float(error), "min_cllr": _min_cllr(*blocks), "d_sys": _d_sys(*blocks), "zebra": _zebra(*blocks)}

    def interval(self, name: str, bounds: tuple[float, float] | None) -> Interval:
        people, n = np.arange(self.n), self.n
        plain = over_persons(lambda kept: self.values(kept)[name], people, people, bounds=bounds)
        if name == "cllr" and plain.low is not None:
            return replace(plain, low=max(0.0, plain.low))
        if name == "eer" or plain.low is None or bounds is None:
            return plain
        left = np.array([self.values(np.delete(people, i))[name] for i in people])
        se = np.sqrt((n - 1) / n * ((left - left.mean()) ** 2).sum())
        if se < 1e-12:  # persons perfectly apart, or nothing but ties: no spread to estimate, see over_persons
            return plain
        value, half = n * plain.value - (n - 1) * left.mean(), stats.t.ppf(0.975, n - 1) * se
        value, low, high = np.clip([value, value - half, value + half], *bounds).tolist()
        return Interval(value=value, low=low, high=high, n_persons=n)


def _text(values: Any) -> np.ndarray:
    return np.asarray([str(v) for v in values])


def _pair(mated: np.ndarray, nonmated: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    m, n = (np.asarray(v, dtype=np.float64).ravel() for v in (mated, nonmated))
    if not len(m) or not len(n):
        raise MienError(f"{len(m)} mated and {len(n)} non-mated scores; both are needed")
    bad = int((~np.isfinite(m)).sum() + (~np.isfinite(n)).sum())
    if bad:
        raise MienError(f"{bad} of {len(m) + len(n)} comparison scores are NaN or infinite; repair the attack")
    return m, n


def _shares(m: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    levels, group = np.unique(np.r_[m, n], return_inverse=True)
    p, q = (np.bincount(g, minlength=len(levels)) for g in (group[: len(m)], group[len(m) :]))
    return p / len(m), q / len(n)


def _tangent(p: np.ndarray, q: np.ndarray) -> tuple[np.ndarray, float]:
    """(share of each level that counts as a miss, weight of the misses) at the equal error rate.

    With both held fixed, weight · FNR + (1 - weight) · FPR is the EER here, and its linear part when shares change. The
    weight is the ROC's slope over a band of FNR - FPR = ±0.1. An interval from this is as wide on average as one from
    moving the threshold with every person left out, and far steadier (the threshold moves in jumps).
    """
    fnr, fpr = np.r_[0.0, np.cumsum(p)], 1 - np.r_[0.0, np.cumsum(q)]
    gap = fnr - fpr  # rises from -1 to 1
    i = min(int(np.searchsorted(gap, 0.0, side="right")) - 1, len(p) - 1)
    missed = (np.arange(len(p)) < i).astype(np.float64)
    missed[i] = np.clip(-gap[i] / (gap[i + 1] - gap[i]), 0, 1) if gap[i + 1] > gap[i] else 0.0
    before, after = np.interp([-0.1, 0.1], gap, fpr)
    return missed, float(np.clip((before - after) / 0.2, 0, 1))


def _pooled(p: np.ndarray, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shares of the blocks within which PAV calls the likelihood ratio constant; it rises from block to block."""
    there = p + q > 0
    p, q = p[there], q[there]
    fit = optimize.isotonic_regression(p / (p + q), weights=p + q)
    return np.add.reduceat(p, fit.blocks[:-1]), np.add.reduceat(q, fit.blocks[:-1])


def _min_cllr(p: np.ndarray, q: np.ndarray) -> float:
    return float((special.xlogy(p + q, p + q) - special.xlogy(p, p) - special.xlogy(q, q)).sum() / np.log(4))


def _d_sys(p: np.ndarray, q: np.ndarray) -> float:
    return float((p * np.maximum(0.0, (p - q) / (p + q))).sum())


def _zebra(p: np.ndarray, q: np.ndarray) -> float:
    both = (p > 0) & (q > 0)
    return float(BITS * (1 - (p[both] / special.exprel(np.log(p[both] / q[both]))).sum()))


def by_person(persons: np.ndarray, values: np.ndarray) -> float:
    """The mean over persons of each one's mean."""
    _, who, count = np.unique(persons, return_inverse=True, return_counts=True)
    return float((np.bincount(who, values) / count).mean())
