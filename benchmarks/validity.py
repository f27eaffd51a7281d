"""How often audits claim a leak that is not there: our bounds and policies beside the rules of other tools.

python benchmarks/validity.py                 (2,000 trials; some minutes on one core)
python benchmarks/validity.py --quick         (100 trials)

1,000 canaries, each in or out by its own fair coin, one score each; nominal error 5 %, δ = 1e-5. A false claim is a bound
above the mechanism's true ε (by more than .001). "rule re-coded" means: the rule by which that tool chooses its
threshold, written anew here, not its code.

The last mechanism is μ-GDP with μ = 1 in every canary, but sure of all canaries at once or of none. Bounds for Gaussian-DP
must hold there; those for independent canaries, or for independent trials (clopper_pearson, gdp), say nothing about it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import cache

import numpy as np
from scipy import special

from mien.attacks import bounds
from mien.attacks.bounds import GRID, Policy

M, DELTA, ALPHA = 1000, 1e-5, 0.05
CUTS = (-0.5, 0.0, 0.5, 1.0, 1.5, 2.0)  # thresholds on the score, declared before any trial


def trial(seed: int) -> dict[str, tuple[np.ndarray, np.ndarray, float]]:
    """mechanism -> (scores, member, true ε at δ = 1e-5)."""
    rng = np.random.default_rng([seed, 0xA1])
    member, normal = rng.random(M) < 0.5, rng.standard_normal(M)
    flip = rng.random(M) < special.expit(-1.0)
    gaussian = bounds.gdp_epsilon(1.0, DELTA)
    return {
        "nothing": (normal, member, 0.0),
        "response": ((member ^ flip) + 1e-9 * normal, member, 1.0),
        "laplace": (member + rng.laplace(size=M), member, 1.0),
        "gaussian": (member + normal, member, gaussian),
        "together": (together(rng, member, 1.0), member, gaussian),
    }


def together(rng: np.random.Generator, member: np.ndarray, mu: float, share: float = 0.15) -> np.ndarray:
    """Scores 1/2 + x, x_i ~ N(±mu/2, 1) for each canary, whose |x_i| are all among the largest `share`, or none is.

    |x| knows nothing of the coins, and given |x| each sign is right with probability 1 / (1 + e^(-mu |x_i|)), on its own:
    that is exactly N(±mu/2, 1) for each canary, so the mechanism is mu-GDP, and its canaries are not independent.
    """
    grid = np.linspace(0, mu / 2 + 9, 20_001)
    below = special.ndtr(grid - mu / 2) - special.ndtr(-grid - mu / 2)
    large = rng.random() < share
    rank = 1 - share * rng.random(len(member)) if large else (1 - share) * rng.random(len(member))
    size = np.interp(rank, below, grid)
    right = rng.random(len(member)) < special.expit(mu * size)
    return 0.5 + size * np.where(member == right, 1, -1)


def ours(method: str, kind: str) -> Callable[[np.ndarray, np.ndarray, int], float]:
    shares = (0.1,) if kind == "fixed" else GRID
    cuts = (1.0,) if kind == "fixed" else CUTS

    def bound(scores: np.ndarray, member: np.ndarray, seed: int) -> float:
        policy = Policy(kind=kind, choices=cuts if method in ("clopper_pearson", "gdp") else shares, seed=seed)  # type: ignore[arg-type]
        return bounds.audit(scores, member, method=method, policy=policy, delta=DELTA, alpha=ALPHA, seed=seed).epsilon  # type: ignore[arg-type]

    return bound


def sorted_members(scores: np.ndarray, member: np.ndarray) -> np.ndarray:
    return member[np.argsort(-scores, kind="stable")]


def beta_quantile(share: float, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of Beta(a, b); 0 where a = 0 and 1 where b = 0."""
    inside = special.betaincinv(np.maximum(a, 1), np.maximum(b, 1), share)
    return np.where(a == 0, 0.0, np.where(b == 0, 1.0, inside))


def without_delta(guesses: np.ndarray, right: np.ndarray, alpha: float) -> float:
    """The largest one-run bound at δ = 0 over all pairs of counts."""
    return max(0.0, float(special.logit(beta_quantile(alpha, right, guesses - right + 1)).max()))


def sweep(scores: np.ndarray, member: np.ndarray, seed: int) -> float:
    """The best of a grid of guess counts on either side, in steps of √m, uncorrected, δ = 0."""
    top, step = sorted_members(scores, member), int(np.sqrt(M))
    ins, outs = np.append(0, np.cumsum(top)), np.append(0, np.cumsum(~top[::-1]))
    low, start = np.meshgrid(np.arange(0, M, step), np.arange(0, M, step))
    low, high = low[low < start], M - start[low < start]
    return without_delta(low + high, outs[low] + ins[high], ALPHA)


def best_threshold(scores: np.ndarray, member: np.ndarray, seed: int) -> float:
    """Everybody is guessed; the threshold is the one with the most right guesses on these very canaries."""
    top = sorted_members(scores, member)
    right = np.concatenate([[0], np.cumsum(top)]) + np.concatenate([np.cumsum(~top[::-1])[::-1], [0]])
    return one_run(M, M, int(right.max()))


def rates(scores: np.ndarray, member: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, int, int]]:
    """(hits, false alarms, of, of) at every threshold, for calling members and for calling non-members."""
    top, n, k = sorted_members(scores, member), int(member.sum()), int((~member).sum())
    tp, fp = np.cumsum(top), np.cumsum(~top)
    return [(tp, fp, n, k), (k - fp, n - tp, k, n)]


def point(scores: np.ndarray, member: np.ndarray, seed: int) -> float:
    """The largest log(TPR / FPR) or log(TNR / FNR), without an interval (where the lower rate is above zero)."""
    best = [((hits / n)[wrong > 0], (wrong / k)[wrong > 0]) for hits, wrong, n, k in rates(scores, member)]
    with np.errstate(divide="ignore"):
        return float(max(0.0, *(np.log(hit / wrong).max() for hit, wrong in best)))


def clopper_pearson_everywhere(scores: np.ndarray, member: np.ndarray, seed: int) -> float:
    """Exact limits at every threshold, both ways, uncorrected, the largest."""
    best = 0.0
    for hits, wrong, n, k in rates(scores, member):
        low, high = beta_quantile(ALPHA / 2, hits, n - hits + 1), beta_quantile(1 - ALPHA / 2, wrong + 1, k - wrong)
        best = max(best, float(np.log(np.maximum(low - DELTA, 1e-300) / high).max()))
    return best


def bonferroni_everything(scores: np.ndarray, member: np.ndarray, seed: int) -> float:
    """Members alone are guessed, at every threshold, each at α / m, δ = 0."""
    right = np.cumsum(sorted_members(scores, member))
    return without_delta(np.arange(1, M + 1), right, ALPHA / M)


def bonferroni_corners(scores: np.ndarray, member: np.ndarray, seed: int) -> float:
    """Members alone are guessed, at the corners of the ROC's upper hull, each at α / their number, δ = 0."""
    tp, fp, _, _ = rates(scores, member)[0]
    hull = [(0, 0)]
    for corner in zip(fp.tolist(), tp.tolist(), strict=True):
        while len(hull) > 1 and (hull[-1][1] - hull[-2][1]) * (corner[0] - hull[-2][0]) <= (corner[1] - hull[-2][1]) * (
            hull[-1][0] - hull[-2][0]
        ):
            hull.pop()
        hull.append(corner)
    wrong, right = np.array(hull[1:]).T
    return without_delta(wrong + right, right, ALPHA / len(hull))


RULES = {
    **{f"one_run, {k}": ours("one_run", k) for k in ("fixed", "bonferroni", "split")},
    **{
        f"clopper_pearson, {k} (independent trials)": ours("clopper_pearson", k)
        for k in ("fixed", "bonferroni", "split")
    },
    **{
        f"{m}, {k} (if {family})": ours(m, k)
        for m, family in (
            ("one_run_gdp", "Gaussian-DP"),
            ("order_statistics", "Gaussian-DP with independent canaries"),
            ("gdp", "Gaussian-DP; independent trials"),
        )
        for k in ("fixed", "bonferroni")
    },
    "Bonferroni over every threshold": bonferroni_everything,
    "privacy_meter: sweep, uncorrected (rule re-coded)": sweep,
    "opake: threshold of the same canaries (rule re-coded)": best_threshold,
    "PrivacyGuard: point estimate (rule re-coded)": point,
    "PrivacyGuard: Clopper-Pearson at every threshold (rule re-coded)": clopper_pearson_everywhere,
    "jax-privacy: Bonferroni over the corners of the ROC's hull (rule re-coded)": bonferroni_corners,
}


@cache
def one_run(m: int, guesses: int, correct: int) -> float:
    return bounds.one_run(m, guesses, correct, DELTA, ALPHA).epsilon


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--quick", action="store_true", help="100 trials")
    args = parser.parse_args()
    trials = 100 if args.quick else args.trials
    # a bound follows from its counts, and the same counts come again and again
    for name in ("one_run", "one_run_gdp", "order_statistics", "clopper_pearson", "gdp"):
        setattr(bounds, name, cache(getattr(bounds, name)))
    claims: dict[str, dict[str, int]] = {
        r: dict.fromkeys(("nothing", "response", "laplace", "gaussian", "together"), 0) for r in RULES
    }
    total = dict.fromkeys(RULES, 0.0)
    for seed in range(trials):
        for name, (scores, member, truth) in trial(seed).items():
            for rule, bound in RULES.items():
                value = bound(scores, member, seed)
                claims[rule][name] += value > truth + 1e-3
                if name == "gaussian":
                    total[rule] += value / trials
    error = 100 * 2 * np.sqrt(0.05 * 0.95 / trials)
    print(f"{trials} trials, {M} canaries; a valid 5 % shows 5 ± {error:.1f} % at most\n")
    print(
        "| bound | ε = 0 | response, ε = 1 | Laplace, ε = 1 | Gaussian, μ = 1 (ε = 4.38) | mean bound there"
        " | μ = 1, canaries together |"
    )
    print("|---|---|---|---|---|---|---|")
    for rule in RULES:
        *shares, last = (f"{100 * c / trials:.1f} %" for c in claims[rule].values())
        print(f"| {rule} | {' | '.join(shares)} | {total[rule]:.2f} | {last} |")


if __name__ == "__main__":
    main()
