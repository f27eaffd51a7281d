"""How often audits claim a leak that is not there: our bounds and policies beside the rules of other tools.

python benchmarks/validity.py                 (2,000 trials; some minutes on one core)
python benchmarks/validity.py --trials 200

1,000 canaries, each in or out by its own fair coin, one score each; nominal error 5 %, δ = 1e-5. A false claim is a bound
above the mechanism's true ε (by more than .001). "rule re-coded" means: the rule by which that tool chooses its
threshold, written anew here, not its code.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import cache

import numpy as np
from scipy import special, stats

from mien.attacks import bounds
from mien.attacks.bounds import GRID, Policy

M, DELTA, ALPHA = 1000, 1e-5, 0.05
CUTS = (-0.5, 0.0, 0.5, 1.0, 1.5, 2.0)  # thresholds on the score, declared before any trial


def trial(seed: int) -> dict[str, tuple[np.ndarray, np.ndarray, float]]:
    """mechanism -> (scores, member, true ε at δ = 1e-5)."""
    rng = np.random.default_rng([seed, 0xA1])
    member, normal = rng.random(M) < 0.5, rng.standard_normal(M)
    flip = rng.random(M) < special.expit(-1.0)
    return {
        "nothing": (normal, member, 0.0),
        "response": ((member ^ flip) + 1e-9 * normal, member, 1.0),
        "laplace": (member + rng.laplace(size=M), member, 1.0),
        "gaussian": (member + normal, member, bounds.gdp_epsilon(1.0, DELTA)),
    }


def ours(method: str, kind: str) -> Callable[[np.ndarray, np.ndarray, int], float]:
    shares = (0.1,) if kind == "fixed" else GRID
    cuts = (1.0,) if kind == "fixed" else CUTS

    def bound(scores: np.ndarray, member: np.ndarray, seed: int) -> float:
        policy = Policy(kind=kind, choices=cuts if method in ("clopper_pearson", "gdp") else shares, seed=seed)  # type: ignore[arg-type]
        return bounds.audit(scores, member, method=method, policy=policy, delta=DELTA, alpha=ALPHA, seed=seed).epsilon  # type: ignore[arg-type]

    return bound


def sorted_members(scores: np.ndarray, member: np.ndarray) -> np.ndarray:
    return member[np.argsort(-scores, kind="stable")]


def sweep(scores: np.ndarray, member: np.ndarray, seed: int) -> float:
    """The best of all numbers of guesses, on both sides, uncorrected, δ = 0."""
    top = sorted_members(scores, member)
    k = np.arange(1, M // 2 + 1)
    right = np.cumsum(top)[: M // 2] + np.cumsum(~top[::-1])[: M // 2]
    return max(0.0, float(special.logit(special.betaincinv(right, 2 * k - right + 1, ALPHA)).max()))


def best_threshold(scores: np.ndarray, member: np.ndarray, seed: int) -> float:
    """Everybody is guessed; the threshold is the one with the most right guesses on these very canaries."""
    top = sorted_members(scores, member)
    right = np.concatenate([[0], np.cumsum(top)]) + np.concatenate([np.cumsum(~top[::-1])[::-1], [0]])
    return one_run(M, M, int(right.max()))


def point(scores: np.ndarray, member: np.ndarray, seed: int) -> float:
    """log(TPR / FPR) at the threshold where it is largest, without an interval (FPR above zero)."""
    top = sorted_members(scores, member)
    tpr, fpr = np.cumsum(top) / member.sum(), np.cumsum(~top) / (~member).sum()
    there = fpr > 0
    with np.errstate(divide="ignore"):
        return float(max(0.0, np.log(tpr[there] / fpr[there]).max()))


def clopper_pearson_everywhere(scores: np.ndarray, member: np.ndarray, seed: int) -> float:
    """Exact limits at every threshold, uncorrected, the largest."""
    top = sorted_members(scores, member)
    tp, fp, n, k = np.cumsum(top), np.cumsum(~top), member.sum(), (~member).sum()
    low = np.where(tp > 0, stats.beta.ppf(ALPHA / 2, np.maximum(tp, 1), n - tp + 1), 0)
    high = np.where(fp < k, stats.beta.ppf(1 - ALPHA / 2, fp + 1, np.maximum(k - fp, 1)), 1)
    with np.errstate(divide="ignore"):
        return float(max(0.0, np.log(np.maximum(low - DELTA, 1e-300) / high).max()))


def bonferroni_everything(scores: np.ndarray, member: np.ndarray, seed: int) -> float:
    """Members alone are guessed, at every threshold, each at α / m."""
    top = sorted_members(scores, member)
    r = np.arange(1, M + 1)
    right = np.cumsum(top)
    value = special.logit(special.betaincinv(np.maximum(right, 1), r - right + 1, ALPHA / M))
    return max(0.0, float(np.where(right > 0, value, 0).max()))


RULES = {
    **{f"{m}, {k}": ours(m, k) for m in ("one_run", "clopper_pearson") for k in ("fixed", "bonferroni", "split")},
    **{
        f"{m}, {k} (if Gaussian-DP)": ours(m, k)
        for m in ("one_run_gdp", "order_statistics", "gdp")
        for k in ("fixed", "bonferroni")
    },
    "privacy_meter: sweep, uncorrected (rule re-coded)": sweep,
    "opake: threshold of the same canaries (rule re-coded)": best_threshold,
    "PrivacyGuard: point estimate (rule re-coded)": point,
    "PrivacyGuard: Clopper-Pearson at every threshold (rule re-coded)": clopper_pearson_everywhere,
    "jax-privacy: Bonferroni over every threshold (rule re-coded)": bonferroni_everything,
}


@cache
def one_run(m: int, guesses: int, correct: int) -> float:
    return bounds.one_run(m, guesses, correct, DELTA, ALPHA).epsilon


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2000)
    args = parser.parse_args()
    # a bound follows from its counts, and the same counts come again and again
    for name in ("one_run", "one_run_gdp", "order_statistics", "clopper_pearson", "gdp"):
        setattr(bounds, name, cache(getattr(bounds, name)))
    claims: dict[str, dict[str, int]] = {
        r: dict.fromkeys(("nothing", "response", "laplace", "gaussian"), 0) for r in RULES
    }
    total = dict.fromkeys(RULES, 0.0)
    for seed in range(args.trials):
        for name, (scores, member, truth) in trial(seed).items():
            for rule, bound in RULES.items():
                value = bound(scores, member, seed)
                claims[rule][name] += value > truth + 1e-3
                if name == "gaussian":
                    total[rule] += value / args.trials
    error = 100 * 2 * np.sqrt(0.05 * 0.95 / args.trials)
    print(f"{args.trials} trials, {M} canaries; a valid 5 % shows 5 ± {error:.1f} % at most\n")
    print("| bound | ε = 0 | response, ε = 1 | Laplace, ε = 1 | Gaussian, μ = 1 (ε = 4.38) | mean bound there |")
    print("|---|---|---|---|---|---|")
    for rule in RULES:
        shares = " | ".join(f"{100 * c / args.trials:.1f} %" for c in claims[rule].values())
        print(f"| {rule} | {shares} | {total[rule]:.2f} |")


if __name__ == "__main__":
    main()
