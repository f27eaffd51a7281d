"""Lower bounds on ε from what an attack achieved, that hold with the confidence they state.

A bound is only as good as the way its threshold was chosen. One that was picked as the best on the very canaries it is
judged on certifies ε > 0 of a mechanism that leaks nothing in a third of all trials (benchmarks/validity.py). Here the
number of guesses is fixed beforehand, or taken from a small grid declared beforehand and paid for (Bonferroni), or
chosen on one half and judged on the other; there is no fourth way.

What is assumed: `one_run`, `one_run_gdp` and `order_statistics`, that each canary (each person) was put in or left out
by its own fair coin, and that guesses follow from the released model alone; `clopper_pearson` and `gdp`, independent
trials (one model each). Bounds of family "Gaussian-DP" hold only if the mechanism is μ-GDP, those of "Gaussian-DP with
independent canaries" only if it also answers for each canary with noise of its own, and both say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import optimize, special, stats

from ..core.errors import MienError
from ..core.intervals import certifiable
from ..core.intervals import clopper_pearson as proportion

Family = Literal["any", "Gaussian-DP", "Gaussian-DP with independent canaries"]
Method = Literal["one_run", "one_run_gdp", "order_statistics", "clopper_pearson", "gdp"]
GRID = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5)  # of all canaries, the most and the least suspicious each


@dataclass(frozen=True, kw_only=True)
class Bound:
    """ε is at least `epsilon` with confidence 1 - alpha, for the family of mechanisms named.

    policy: how the threshold was chosen, where scores and not counts were given; note: the counts it rests on.
    """

    epsilon: float
    delta: float
    alpha: float
    family: Family
    method: Method
    policy: str = ""
    note: str = ""

    def __str__(self) -> str:
        condition = "any mechanism" if self.family == "any" else f"if the mechanism is {self.family}"
        return f"ε ≥ {self.epsilon:.3g} at δ = {self.delta:g} ({100 * (1 - self.alpha):g} %, {condition})"


# --- from counts --------------------------------------------------------------------------------------------------------
def clopper_pearson(
    tp: int, n_in: int, fp: int, n_out: int, delta: float = 0.0, alpha: float = 0.05, *, both: bool = False
) -> Bound:
    """ε ≥ log((TPR_low - δ) / FPR_high), each side an exact Clopper-Pearson limit at alpha / 2 (arXiv 2006.07709).

    both: the same for non-members too (TNR against FNR), at alpha / 4 a side, and the larger of the two.
    """
    _counts(tp, n_in, fp, n_out, delta, alpha)
    share = alpha / 2 if both else alpha
    best = _log_ratio(tp, n_in, fp, n_out, delta, share)
    if both:
        best = max(best, _log_ratio(n_out - fp, n_out, n_in - tp, n_in, delta, share))
    return Bound(
        epsilon=best, delta=delta, alpha=alpha, family="any", method="clopper_pearson",
        note=f"{tp} of {n_in} and {fp} of {n_out} independent trials called members",
    )  # fmt: skip


def gdp(tp: int, n_in: int, fp: int, n_out: int, delta: float, alpha: float = 0.05) -> Bound:
    """μ ≥ Φ⁻¹(1 - FPR_high) - Φ⁻¹(FNR_high), and the ε that a μ-GDP mechanism has at this δ (arXiv 1905.02383)."""
    _counts(tp, n_in, fp, n_out, delta, alpha)
    fpr, fnr = proportion(fp, n_out, alpha)[1], proportion(n_in - tp, n_in, alpha)[1]
    mu = max(0.0, float(stats.norm.isf(fpr) - stats.norm.ppf(fnr))) if fpr < 1 and fnr < 1 else 0.0
    note = f"{tp} of {n_in} and {fp} of {n_out} independent trials called members"
    return _gaussian(mu, delta, alpha, "gdp", note)


def one_run_pvalue(m: int, guesses: int, correct: int, epsilon: float, delta: float = 0.0) -> float:
    """The largest probability that `correct` or more of `guesses` are right under (ε, δ)-DP, of m canaries.

    β + 2 m δ max_i P[v > Bin(r, q) ≥ v - i] / i with q = e^ε / (1 + e^ε) (Steinke et al., arXiv 2305.08846, theorem 5.2).
    """
    _guesses(m, guesses, correct, delta)
    if not 0 <= epsilon < np.inf:
        raise MienError(f"epsilon is a finite number >= 0, got {epsilon}")
    if correct == 0:
        return 1.0
    q = float(special.expit(epsilon))
    tail = float(stats.binom.sf(correct - 1, guesses, q))
    if delta == 0:
        return tail
    mass = np.cumsum(stats.binom.pmf(np.arange(correct - 1, -1, -1), guesses, q)) / np.arange(1, correct + 1)
    return float(min(1.0, tail + 2 * m * delta * mass.max()))


def one_run(m: int, guesses: int, correct: int, delta: float = 0.0, alpha: float = 0.05) -> Bound:
    """The ε below which so many right guesses would happen with probability alpha at most (arXiv 2305.08846).

    At δ = 0 in closed form, the logit of a beta quantile; else by bisection.
    """
    _guesses(m, guesses, correct, delta)
    _alpha(alpha)
    top = 0.0 if correct == 0 else float(special.logit(stats.beta.ppf(alpha, correct, guesses - correct + 1)))
    epsilon = max(0.0, top)
    if delta > 0 and epsilon > 0:

        def above(value: float) -> float:
            return one_run_pvalue(m, guesses, correct, value, delta) - alpha

        if above(0.0) >= 0:
            epsilon = 0.0
        elif above(epsilon) > 0:  # not so where δ is below the rounding of the tail
            epsilon = _root(above, 0.0, epsilon)
    return Bound(
        epsilon=epsilon, delta=delta, alpha=alpha, family="any", method="one_run",
        note=f"{correct} of {guesses} guesses right, {m} canaries",
    )  # fmt: skip


def one_run_gdp(m: int, guesses: int, correct: int, delta: float, alpha: float = 0.05) -> Bound:
    """The same for μ-GDP mechanisms, by their whole trade-off curve (Mahloujifar et al., arXiv 2410.22235).

    Were `correct` or more guesses right with probability alpha, then the shares of canaries guessed right (r) and wrong
    (h) beyond each count obey h_{i} ≥ Φ(Φ⁻¹(r_{i+1}) - μ), counted down from `correct`; μ is too small when they
    add up to more than there is.
    """
    _guesses(m, guesses, correct, delta)
    _alpha(alpha)

    def room(mu: float) -> float:
        right, wrong = alpha * correct / m, alpha * (guesses - correct) / m
        for i in range(correct - 1, -1, -1):
            more = max(wrong, float(special.ndtr(special.ndtri(right) - mu)))
            right += i / (guesses - i) * (more - wrong)
            wrong = more
            if right + wrong > guesses / m:
                break  # it only grows
        return guesses / m - right - wrong

    mu = 0.0 if correct == 0 or room(0.0) >= 0 else _root(room, 0.0, 12.0)
    return _gaussian(mu, delta, alpha, "one_run_gdp", f"{correct} of {guesses} guesses right, {m} canaries")


def order_statistics(m: int, guesses: int, correct: int, delta: float, alpha: float = 0.05) -> Bound:
    """By how sure the surest guesses can be (the idea of Xiang et al., arXiv 2509.08704; the proof is our own).

    Holds for mechanisms that answer for each canary independently of the others, μ-GDP each: Gaussian noise on canaries
    that do not overlap. Proof. (1) Each answer can be made from x_i ~ N(±μ/2, 1), + if canary i is in (Blackwell; Dong,
    Roth & Su, arXiv 1905.02383, theorem 2.10), so any guesser sees no more than m independent x_i. (2) Given all x, coins
    are independent and sign(x_i) is right with probability 1 / (1 + e^(-μ|x_i|)), any other guess with less. (3) A sum of
    independent yes/no variables grows stochastically with each probability: no choice of r canaries is right more often
    than the r largest |x|. (4) Given t, the largest |x| left out, those r are independent draws beyond t, each right with
    probability q(t) = Φ(μ/2 - t) / (Φ(μ/2 - t) + Φ(-μ/2 - t)), and P(|x| ≤ t) is Beta(m - r, r + 1). The p-value is this
    mixture of binomials, over 400 equal parts of t, each taken at its upper end, where q is largest.

    It does not hold for every μ-GDP mechanism. One that draws the |x_i| together is μ-GDP in every canary as well, but all
    its guesses are sure at once: up to a half of such bounds are too large (tests/unit/test_bounds.py). `one_run_gdp`
    holds there.
    """
    _guesses(m, guesses, correct, delta)
    _alpha(alpha)
    edges = np.linspace(0, 1, 401)
    share = stats.beta.ppf(edges[1:], m - guesses, guesses + 1) if guesses < m else np.zeros(400)

    def pvalue(mu: float) -> float:
        t = _folded_quantile(share, mu / 2)
        right, wrong = special.ndtr(mu / 2 - t), special.ndtr(-mu / 2 - t)
        return float(stats.binom.sf(correct - 1, guesses, right / (right + wrong)).mean())

    mu = 0.0 if correct == 0 or pvalue(0.0) >= alpha else _root(lambda v: pvalue(v) - alpha, 0.0, 12.0)
    note = f"{correct} of {guesses} guesses right, {m} canaries"
    return _gaussian(mu, delta, alpha, "order_statistics", note, "Gaussian-DP with independent canaries")


def _folded_quantile(share: np.ndarray, shift: float) -> np.ndarray:
    """t with P(|N(shift, 1)| ≤ t) = share, by bisection."""
    low, high = np.zeros_like(share), np.full_like(share, shift + 9.0)
    for _ in range(60):
        middle = (low + high) / 2
        below = special.ndtr(middle - shift) - special.ndtr(-middle - shift) < share
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return high


# --- from scores --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class Policy:
    """How the threshold is chosen. kind: "fixed" (one choice, made beforehand), "bonferroni" (each of `choices` at
    alpha / number of them) or "split" (the best of `choices` on a random half, judged on the other; seed fixed
    beforehand). choices: for one-run methods shares of the canaries to guess on each side, in (0, 0.5]; for the others
    thresholds on the score."""

    kind: Literal["fixed", "bonferroni", "split"]
    choices: tuple[float, ...]
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in ("fixed", "bonferroni", "split"):
            raise MienError(
                f"threshold policy {self.kind!r}: a threshold that is chosen on the scores it is judged on certifies leaks"
                " that are not there; use fixed, bonferroni or split"
            )
        if not self.choices or (self.kind == "fixed" and len(self.choices) != 1):
            raise MienError(
                f"threshold policy {self.kind}: {len(self.choices)} choices; fixed has one, the others some"
            )


FIXED = Policy(kind="fixed", choices=(0.1,))
DECLARED = Policy(kind="bonferroni", choices=GRID)


def audit(
    scores: np.ndarray,
    member: np.ndarray,
    *,
    method: Method = "one_run",
    policy: Policy = FIXED,
    delta: float = 0.0,
    alpha: float = 0.05,
    seed: int = 0,
) -> Bound:
    """A bound from scores float[m] (larger = member) and what the coins said, bool[m].

    seed: of the order among equal scores, which must not be that of the rows (members often come first). MienError for
    scores that are not finite, a missing class, or a policy of another kind.
    """
    scores, member = np.asarray(scores, dtype=np.float64), np.asarray(member)
    if not isinstance(policy, Policy):
        raise MienError(
            f"threshold policy {policy!r}: the best threshold of the scores it is judged on certifies leaks that are not"
            " there; use Policy(kind='fixed' | 'bonferroni' | 'split', choices=…)"
        )
    if scores.ndim != 1 or scores.shape != member.shape or member.dtype != bool:
        raise MienError(f"scores {list(scores.shape)} and membership {list(member.shape)} must be one each per canary")
    if not np.isfinite(scores).all():
        raise MienError(
            f"{int((~np.isfinite(scores)).sum())} of {len(scores)} scores are NaN or infinite; repair the attack"
        )
    if member.all() or not member.any():
        raise MienError(f"{int(member.sum())} of {len(member)} canaries are in; a bound needs some in and some out")

    def one(rows: np.ndarray, choice: float, alpha: float) -> Bound:
        return _judge(scores[rows], member[rows], method, choice, delta, alpha, seed)

    everything = np.arange(len(scores))
    if policy.kind == "split":
        order = np.random.default_rng([policy.seed, 0x511]).permutation(len(scores))
        first, second = order[: len(order) // 2], order[len(order) // 2 :]
        for half in (first, second):
            if member[half].all() or not member[half].any():
                raise MienError(f"half of {len(scores)} canaries has one class only; there are too few to split")
        chosen = max(policy.choices, key=lambda c: one(first, c, alpha).epsilon)
        return replace(one(second, chosen, alpha), policy="split")
    found = [one(everything, c, alpha / len(policy.choices)) for c in policy.choices]
    best = max(found, key=lambda b: b.epsilon)
    return replace(best, alpha=alpha, policy=policy.kind)


def _judge(scores, member, method: Method, choice: float, delta: float, alpha: float, seed: int) -> Bound:
    if method in ("clopper_pearson", "gdp"):
        called = scores >= choice
        counts = int(called[member].sum()), int(member.sum()), int(called[~member].sum()), int((~member).sum())
        if method == "gdp":
            return gdp(*counts, delta, alpha)
        return clopper_pearson(*counts, delta, alpha, both=True)
    if not 0 < choice <= 0.5:
        raise MienError(f"a one-run audit guesses a share of the canaries on each side, in (0, 0.5], got {choice:g}")
    m = len(scores)
    each = max(1, int(choice * m))
    order = np.lexsort((np.random.default_rng([seed, 0x71E]).random(m), scores))
    correct = int(member[order[-each:]].sum() + (~member[order[:each]]).sum())
    if method == "one_run":
        return one_run(m, 2 * each, correct, delta, alpha)
    return (one_run_gdp if method == "one_run_gdp" else order_statistics)(m, 2 * each, correct, delta, alpha)


def resolution(m: int, alpha: float = 0.05) -> str:
    """What m canaries (persons) can show at best, in words."""
    return (
        f"{m} persons who are all guessed right certify ε ≥ {one_run(m, m, m, 0.0, alpha).epsilon:.2f} at most; a false"
        f" positive rate of 0.1 % needs ≥ {certifiable(0.001, alpha):,} non-members"
    )


# --- curves -------------------------------------------------------------------------------------------------------------
def gdp_delta(mu: float, epsilon: float) -> float:
    """δ of a μ-GDP mechanism at ε (arXiv 1905.02383, corollary 2.13)."""
    if mu <= 0:
        return 0.0
    return float(stats.norm.cdf(-epsilon / mu + mu / 2) - np.exp(epsilon + stats.norm.logcdf(-epsilon / mu - mu / 2)))


def gdp_epsilon(mu: float, delta: float) -> float:
    """The smallest ε ≥ 0 with gdp_delta(mu, ε) ≤ δ; infinite at δ = 0."""
    if mu <= 0 or gdp_delta(mu, 0.0) <= delta:
        return 0.0
    if delta <= 0:
        return float("inf")
    top = 1.0
    while gdp_delta(mu, top) > delta:
        top *= 2
    return _root(lambda e: gdp_delta(mu, e) - delta, 0.0, top)


def gdp_tpr(mu: float, fpr: np.ndarray) -> np.ndarray:
    """The largest TPR at each FPR against μ-GDP: 1 - Φ(Φ⁻¹(1 - FPR) - μ)."""
    return stats.norm.sf(stats.norm.isf(fpr) - mu)


def gdp_advantage(mu: np.ndarray) -> np.ndarray:
    """max (TPR - FPR) = 2 Φ(μ / 2) - 1."""
    return 2 * stats.norm.cdf(np.asarray(mu) / 2) - 1


def gdp_compose(mus: Sequence[float]) -> float:
    return float(np.sqrt(np.square(mus).sum()))


def gdp_group(mu: float, k: int) -> float:
    """What μ-GDP for one record is for k of them."""
    return mu * k


def clt_mu(sample_rate: float, sigma: float, steps: int) -> float:
    """μ of DP-SGD in the limit, p sqrt(T (e^{1/σ²} - 1)) (arXiv 1911.11607); it understates ε of finite runs."""
    return float(sample_rate * np.sqrt(steps * np.expm1(1 / sigma**2)))


def dp_fnr(epsilon: float, delta: float, fpr: np.ndarray) -> np.ndarray:
    """The smallest FNR at each FPR under (ε, δ)-DP: max(0, 1 - δ - e^ε α, e^-ε (1 - δ - α))."""
    fpr = np.asarray(fpr, dtype=np.float64)
    return np.maximum(0, np.maximum(1 - delta - np.exp(epsilon) * fpr, np.exp(-epsilon) * (1 - delta - fpr)))


def laplace_auc(epsilon: float) -> float:
    """AUC against the Laplace mechanism of sensitivity 1: 1 - e^-ε (1 + ε / 2) / 2."""
    return float(1 - np.exp(-epsilon) * (1 + epsilon / 2) / 2)


def positive_predictive_value(tpr: float, fpr: float, prior: float) -> float:
    """The share of real members among those called members, where a share `prior` of people are."""
    return prior * tpr / (prior * tpr + (1 - prior) * fpr)


def _gaussian(
    mu: float, delta: float, alpha: float, method: Method, note: str, family: Family = "Gaussian-DP"
) -> Bound:
    """μ ≥ mu as a bound on ε."""
    if delta == 0:
        raise MienError(f"{method}: at δ = 0 no Gaussian mechanism has a finite ε; give a δ above 0, such as 1e-5")
    return Bound(
        epsilon=gdp_epsilon(mu, delta), delta=delta, alpha=alpha, family=family, method=method, note=f"μ ≥ {mu:.3g}; {note}"
    )  # fmt: skip


def _log_ratio(tp: int, n_in: int, fp: int, n_out: int, delta: float, alpha: float) -> float:
    low, high = proportion(tp, n_in, alpha)[0], proportion(fp, n_out, alpha)[1]
    return max(0.0, float(np.log((low - delta) / high))) if low > delta else 0.0


def _counts(tp: int, n_in: int, fp: int, n_out: int, delta: float, alpha: float) -> None:
    _alpha(alpha)
    if not (0 <= tp <= n_in and 0 <= fp <= n_out and n_in > 0 and n_out > 0 and 0 <= delta < 1):
        raise MienError(
            f"an audit needs 0 ≤ hits ≤ trials on both sides and 0 ≤ δ < 1, got {tp}/{n_in}, {fp}/{n_out}, {delta}"
        )


def _guesses(m: int, guesses: int, correct: int, delta: float) -> None:
    if not (0 <= correct <= guesses <= m and guesses > 0 and 0 <= delta < 1):
        raise MienError(
            f"an audit needs 0 ≤ correct ≤ guesses ≤ canaries and 0 ≤ δ < 1, got {correct}, {guesses}, {m}, {delta}"
        )


def _alpha(alpha: float) -> None:
    if not 0 < alpha < 1:
        raise MienError(f"alpha lies between 0 and 1, got {alpha}")


def _root(f, low: float, high: float) -> float:
    return float(optimize.brentq(f, low, high, xtol=1e-10))  # type: ignore[arg-type]
