"""The arithmetic of likelihood-ratio attacks: what shadow models say about a signal with and without somebody.

phi is a signal that is larger for members (minus the loss, a logit, a similarity); shadow models give it for each
row with the row's person in (IN) and out (OUT) of their training data.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special, stats

from ..core.errors import MienError

_TINY = 1e-12


def stable_logit(logits: np.ndarray, label: np.ndarray) -> np.ndarray:
    """log(p / (1 - p)) of the labelled class from logits float[n, C], label int[n] -> float64[n].

    z_y - logsumexp of the others: no saturated softmax is taken (Carlini et al., arXiv 2112.03570, section IV-C).
    """
    z = np.atleast_2d(np.asarray(logits, dtype=np.float64)).copy()
    label = np.atleast_1d(label)
    mine = z[np.arange(len(z)), label]
    z[np.arange(len(z)), label] = -np.inf
    return mine - np.asarray(special.logsumexp(z, axis=1))


def gaussian_llr(phi, mean_in, sd_in, mean_out, sd_out) -> np.ndarray:
    """log N(phi; IN) - log N(phi; OUT), the online LiRA score (arXiv 2112.03570, algorithm 1)."""
    return stats.norm.logpdf(phi, mean_in, sd_in) - stats.norm.logpdf(phi, mean_out, sd_out)


def offline_score(phi, mean_out, sd_out) -> np.ndarray:
    """P(an OUT model gives less than phi), the offline LiRA score (arXiv 2112.03570, section V-C)."""
    return stats.norm.cdf(phi, mean_out, sd_out)


def tracing_llr(mean: np.ndarray, y: np.ndarray, n: int) -> float:
    """The Neyman-Pearson score of y against the released mean of n rows of N(0, I): N(y/n, (n-1)/n² I) against
    N(0, I/n)."""
    mean, y = np.asarray(mean, dtype=np.float64), np.asarray(y, dtype=np.float64)
    inside = stats.norm.logpdf(mean, y / n, np.sqrt((n - 1) / n**2)).sum()
    return float(inside - stats.norm.logpdf(mean, 0, np.sqrt(1 / n)).sum())


def tracing_auc(norm, n: int) -> np.ndarray:
    """AUC of <released mean, y> for a target of this norm among n rows of N(0, I): Φ(norm / sqrt(2n - 1))."""
    return stats.norm.cdf(np.asarray(norm) / np.sqrt(2 * n - 1))


def normal_inverse_gamma(
    values: np.ndarray, mean: float, k: float, a: float, b: float
) -> tuple[float, float, float, float]:
    """Posterior (mean, k, a, b) of a Gaussian's mean and variance after float[n] values.

    Prior: variance ~ InvGamma(a, b), mean | variance ~ N(mean, variance / k).
    """
    values = np.asarray(values, dtype=np.float64)
    n = len(values)
    if n == 0:
        return mean, k, a, b
    average = float(values.mean())
    spread = float(((values - average) ** 2).sum())
    return (
        (k * mean + n * average) / (k + n), k + n, a + n / 2,
        b + 0.5 * spread + 0.5 * k * n * (average - mean) ** 2 / (k + n),
    )  # fmt: skip


def student_logpdf(phi, mean, k, a, b) -> np.ndarray:
    """log density of the next value under a normal-inverse-gamma: t with 2a degrees, scale² = b (k + 1) / (a k)."""
    return stats.t.logpdf(phi, 2 * a, loc=mean, scale=np.sqrt(b * (k + 1) / (a * k)))


@dataclass(frozen=True, kw_only=True)
class Sides:
    """Per row: how many shadows had its person in or out, and the mean and squared deviations of phi there.

    n_in, n_out: float64[n]; mean_in, mean_out: float64[n], a side without a shadow is filled from the other and the
    common shift; within_in, within_out: float64[n], summed squares around the row's own side mean; shift: the mean of
    IN minus OUT over rows that have both (over all observations where none has).
    """

    n_in: np.ndarray
    n_out: np.ndarray
    mean_in: np.ndarray
    mean_out: np.ndarray
    within_in: np.ndarray
    within_out: np.ndarray
    shift: float


def sides(shadow: np.ndarray, inside: np.ndarray, phi: np.ndarray | None = None) -> Sides:
    """shadow: float64[K, n]; inside: bool[K, n]. MienError when no shadow has anybody in, or none has anybody out.

    phi: float64[n], the target's: where no row has both sides, the shift is taken from shadow - phi, in which a row's
    own level is gone (the target's membership is independent of the shadow's, so none enters).
    """
    shadow, inside = np.asarray(shadow, dtype=np.float64), np.asarray(inside, dtype=bool)
    if shadow.ndim != 2 or shadow.shape != inside.shape or not len(shadow):
        raise MienError(
            f"shadow signals {list(shadow.shape)} and their membership {list(inside.shape)} must both be [K, n]"
        )
    if inside.all() or not inside.any():
        raise MienError("every shadow has everybody in, or everybody out; draw about half of the persons for each")
    n_in, n_out = inside.sum(0).astype(float), (~inside).sum(0).astype(float)
    sum_in, sum_out = np.where(inside, shadow, 0).sum(0), np.where(inside, 0, shadow).sum(0)
    mean_in, mean_out = sum_in / np.maximum(n_in, 1), sum_out / np.maximum(n_out, 1)
    both = (n_in > 0) & (n_out > 0)
    if both.any():
        shift = float((mean_in - mean_out)[both].mean())
    else:
        gap = shadow if phi is None else shadow - phi
        shift = float(gap[inside].mean() - gap[~inside].mean())
    mean_in = np.where(n_in > 0, mean_in, mean_out + shift)
    mean_out = np.where(n_out > 0, mean_out, mean_in - shift)
    within_in = np.where(inside, (shadow - mean_in) ** 2, 0).sum(0)
    within_out = np.where(inside, 0, (shadow - mean_out) ** 2).sum(0)
    return Sides(
        n_in=n_in,
        n_out=n_out,
        mean_in=mean_in,
        mean_out=mean_out,
        within_in=within_in,
        within_out=within_out,
        shift=shift,
    )


def noise(phi: np.ndarray, s: Sides) -> tuple[float, float]:
    """(variance of phi IN, OUT) for one row over models, pooled over rows.

    With one shadow nothing repeats: the variance is then what phi of the target and of the shadow do not share
    (memberships are independent, so no label enters).
    """
    free_in, free_out = np.maximum(s.n_in - 1, 0).sum(), np.maximum(s.n_out - 1, 0).sum()
    if free_in + free_out == 0:
        adjusted = np.where(s.n_in > 0, s.mean_in - s.shift, s.mean_out)
        shared = max(0.0, float(np.cov(phi, adjusted)[0, 1]))
        value = max(float(np.var(adjusted, ddof=1)) - shared, _TINY)
        return value, value
    pooled = float((s.within_in.sum() + s.within_out.sum()) / (free_in + free_out))
    # few degrees of freedom on a side lean on the pooled value (as if it were worth ten)
    inside = (float(s.within_in.sum()) + 10 * pooled) / (free_in + 10)
    outside = (float(s.within_out.sum()) + 10 * pooled) / (free_out + 10)
    return max(inside, _TINY), max(outside, _TINY)


def lira(phi: np.ndarray, shadow: np.ndarray, inside: np.ndarray, *, per_row_from: int = 64) -> np.ndarray:
    """Online LiRA: float64[n]. Variances are pooled over rows with fewer than `per_row_from` shadows (each side its
    own: the published code takes the IN variance for both)."""
    s = sides(shadow, inside, phi)
    var_in, var_out = noise(phi, s)
    sd_in, sd_out = np.full(len(phi), var_in**0.5), np.full(len(phi), var_out**0.5)
    if len(shadow) >= per_row_from:
        enough_in, enough_out = s.n_in > 2, s.n_out > 2
        sd_in = np.where(enough_in, np.sqrt(s.within_in / np.maximum(s.n_in - 1, 1)) + _TINY, sd_in)
        sd_out = np.where(enough_out, np.sqrt(s.within_out / np.maximum(s.n_out - 1, 1)) + _TINY, sd_out)
    return gaussian_llr(phi, s.mean_in, sd_in, s.mean_out, sd_out)


def lira_offline(phi: np.ndarray, shadow: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Offline LiRA from OUT shadows alone, as the z score (the normal cdf of it saturates): float64[n]."""
    s = sides(shadow, inside)
    if (s.n_out == 0).any():
        raise MienError(f"{int((s.n_out == 0).sum())} rows have no shadow without their person; take more shadows")
    return (phi - s.mean_out) / noise(phi, s)[1] ** 0.5


def rmia_probability(mean_in, mean_out) -> np.ndarray:
    """p(x) of RMIA, online: the mean of the IN and the OUT average (arXiv 2312.03262, section 3)."""
    return (np.asarray(mean_in) + np.asarray(mean_out)) / 2


def rmia_probability_offline(mean_out, a: float) -> np.ndarray:
    """p(x) from OUT models alone: ((1 + a) mean_out + (1 - a)) / 2, p in [0, 1] (arXiv 2312.03262, section 3)."""
    return ((1 + a) * np.asarray(mean_out) + (1 - a)) / 2


def rmia(phi: np.ndarray, log_p: np.ndarray, group: np.ndarray, gamma: float = 1.0) -> np.ndarray:
    """RMIA: the share of rows z of other groups with ratio(x) / ratio(z) >= gamma: float64[n].

    phi, log_p: log-likelihood under the target and over models; group: whose row it is (nobody is compared with
    their own rows). The population is the rows themselves, members and others alike, so that no membership enters.
    Where shares tie, the log-ratio decides (it moves a score by less than one comparison).
    """
    ratio = np.asarray(phi, dtype=np.float64) - np.asarray(log_p, dtype=np.float64)
    _, who = np.unique(np.asarray(group).astype(str), return_inverse=True)
    if who.max() == 0:
        raise MienError("RMIA compares with other people's rows, and there is one person")
    ordered = np.sort(ratio)
    wins = np.searchsorted(ordered, ratio - np.log(gamma), "right").astype(np.float64)
    others = np.full(len(ratio), float(len(ratio)))
    for g in range(who.max() + 1):
        mine = np.flatnonzero(who == g)
        wins[mine] -= np.searchsorted(np.sort(ratio[mine]), ratio[mine] - np.log(gamma), "right")
        others[mine] -= len(mine)
    spread = np.std(ratio) + _TINY
    return wins / others + 0.4 * special.expit((ratio - ratio.mean()) / spread) / others.max()


@dataclass(frozen=True, kw_only=True)
class Prior:
    """What BaVarIA believes of a row before its shadows are seen, in units of the pooled variance of phi OUT.

    level: the common mean; level_spread: variance of a row's own mean around it; shift, shift_spread: IN minus OUT;
    ratio: variance IN over OUT; variance: OUT; a: the inverse gamma's shape, so many half observations.
    """

    level: float
    level_spread: float
    shift: float
    shift_spread: float
    ratio: float
    variance: float
    a: float


def prior(phi: np.ndarray, shadow: np.ndarray, inside: np.ndarray, a: float) -> Prior:
    """Moments over all rows; no membership in the target enters."""
    s = sides(shadow, inside, phi)
    var_in, var_out = noise(phi, s)
    own = (s.n_out * s.mean_out + s.n_in * (s.mean_in - s.shift)) / (s.n_in + s.n_out)
    level_spread = max(float(np.var(own)) - float(np.mean(var_out / (s.n_in + s.n_out))), 0.01 * var_out)
    both = (s.n_in > 1) & (s.n_out > 1)
    shift_spread = 0.1 * var_out  # nothing to estimate it from
    if both.sum() >= 10:
        gap = (s.mean_in - s.mean_out)[both]
        error = var_in / s.n_in[both] + var_out / s.n_out[both]
        shift_spread = max(float(np.var(gap)) - float(np.mean(error)), 0.01 * var_out)
    return Prior(
        level=float(own.mean()), level_spread=level_spread / var_out,
        # phi is larger for members by its definition: an estimate that says otherwise is noise
        shift=max(s.shift, 0.05 * var_out**0.5), shift_spread=shift_spread / var_out,
        ratio=var_in / var_out, variance=var_out, a=a,
    )  # fmt: skip


def bavaria(phi: np.ndarray, shadow: np.ndarray, inside: np.ndarray, a: float = 4.0) -> np.ndarray:
    """BaVarIA: log t(phi; IN) - log t(phi; OUT) under a prior pooled over rows: float64[n].

    A row's (mean OUT, shift) and variance have one normal-inverse-gamma prior, with the moments of all rows
    (`prior`); few shadows lean on it, many outweigh it (arXiv 2603.11799; the joint prior, in which what is known of
    OUT says something of IN, is ours). With a level_spread and shift_spread without end it is LiRA, the variances
    pooled where `a` has no end.
    """
    shadow, inside = np.asarray(shadow, dtype=np.float64), np.asarray(inside, dtype=bool)
    s, p = sides(shadow, inside, phi), prior(phi, shadow, inside, a)
    n_in, n_out = s.n_in / p.ratio, s.n_out  # an IN observation is worth 1/ratio of an OUT one
    # precision of (mean OUT, shift) in units of 1/variance: prior + observations; IN observes the sum of the two
    tau, omega = 1 / p.level_spread, 1 / p.shift_spread
    p00, p01, p11 = tau + n_out + n_in, n_in, omega + n_in
    det = p00 * p11 - p01**2
    y_out, y_in = np.where(s.n_out > 0, s.mean_out, 0.0), np.where(s.n_in > 0, s.mean_in, 0.0)
    h0 = tau * p.level + n_out * y_out + n_in * y_in
    h1 = omega * p.shift + n_in * y_in
    level, shift = (p11 * h0 - p01 * h1) / det, (p00 * h1 - p01 * h0) / det
    v00, v01, v11 = p11 / det, -p01 / det, p00 / det
    squares = (
        s.within_out + s.within_in / p.ratio + n_out * (y_out - level) ** 2 + n_in * (y_in - level - shift) ** 2
        + tau * (level - p.level) ** 2 + omega * (shift - p.shift) ** 2
    )  # fmt: skip
    a_n = p.a + (s.n_in + s.n_out) / 2
    b_n = p.variance * (p.a - 1) + squares / 2
    out = stats.t.logpdf(phi, 2 * a_n, loc=level, scale=np.sqrt(b_n / a_n * (1 + v00)))
    into = stats.t.logpdf(phi, 2 * a_n, loc=level + shift, scale=np.sqrt(b_n / a_n * (p.ratio + v00 + 2 * v01 + v11)))
    return into - out


def correlated_d_prime(d_prime: float, records: float, correlation: float) -> float:
    """The separation of a person by the mean of r equally correlated signals: d' sqrt(r / (1 + (r - 1) rho))."""
    return float(d_prime * np.sqrt(records / (1 + (records - 1) * correlation)))


def intraclass_correlation(values: np.ndarray, group: np.ndarray) -> float:
    """One-way ANOVA estimate of the correlation within groups, in [0, 1]. values: float[..., n] (leading axes are
    repetitions, averaged); group: [n]. 0 where no group has two rows."""
    values = np.atleast_2d(np.asarray(values, dtype=np.float64))
    _, who, size = np.unique(np.asarray(group).astype(str), return_inverse=True, return_counts=True)
    n, g = len(who), len(size)
    if n == g or g < 2:
        return 0.0
    between = within = 0.0
    for row in values:
        means = np.bincount(who, row) / size
        within += float(((row - means[who]) ** 2).sum()) / (n - g)
        between += float((size * (means - row.mean()) ** 2).sum()) / (g - 1)
    n0 = (n - (size**2).sum() / n) / (g - 1)
    top = between - within
    bottom = between + (n0 - 1) * within
    return float(np.clip(top / bottom, 0.0, 1.0)) if bottom > 0 else 0.0


def leave_one_out_residuals(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(IN residuals, OUT residuals) of least squares, exactly and without refitting: OUT = IN / (1 - leverage).

    x: float[n, d], y: float[n]: what infinitely many shadows would say of a linear head.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    q, _ = np.linalg.qr(x)
    inside = y - q @ (q.T @ y)
    return inside, inside / (1 - (q**2).sum(1))
