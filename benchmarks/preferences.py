"""How many answers a linear reward needs when pairs are chosen by D-optimal design, against pairs drawn at random.

python benchmarks/preferences.py [--repetitions 24] [--sharpness 12] [--variety 1]

Each repetition has simulated persons, recordings, a rater and candidate pairs of its own, so repetitions are independent and
intervals are t intervals over them; within one, both rules choose from the same candidates and get the same answers.
Accuracy is on 1,000 pairs of other simulated persons, against what the expert would say without noise. D-optimal pairs are
chosen ten at a time, each time with the reward fitted so far. Then the reward learns from three such raters' answers on 200
pairs, each weighted by its rater's reliability, and is judged by the same raters' answers on pairs of the other persons.
With `--variety 2.5` recordings differ
as those of generators of different quality do (`person_effect` of the simulation). Nothing here is measured on people.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping

import numpy as np
from scipy import stats

from mien.alignment import choose, experts, features, linear
from mien.alignment.linear import informative
from mien.alignment.preferences import agreement, weights
from mien.core.records import Recording
from mien.data.datasets import simulated

COUNTS = (10, 20, 40, 80, 160)
LABELS = ("calm", "stress")
CANDIDATES, BATCH = 600, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=24)
    parser.add_argument("--sharpness", type=float, default=12.0)
    parser.add_argument("--variety", type=float, default=1.0)
    args = parser.parse_args()
    runs = [repetition(seed, args.sharpness, args.variety) for seed in range(args.repetitions)]
    found = np.array([r[0] for r in runs])  # [repetitions, 2, counts]
    print(f"{len(runs)} repetitions\n")
    print("| answers | at random | D-optimal | difference (95 %) |")
    print("|---|---|---|---|")
    for i, n in enumerate(COUNTS):
        random, chosen = found[:, 0, i], found[:, 1, i]
        gain = chosen - random
        print(
            f"| {n} | {random.mean():.3f} ±{half(random):.3f} | {chosen.mean():.3f} ±{half(chosen):.3f} |"
            f" {gain.mean():+.3f} ({gain.mean() - half(gain):+.3f} to {gain.mean() + half(gain):+.3f}) |"
        )
    i, j = COUNTS.index(40), COUNTS.index(80)
    gain = found[:, 1, i] - found[:, 0, j]
    print(
        f"\n40 D-optimal less 80 at random: {gain.mean():+.3f} ({gain.mean() - half(gain):+.3f} to"
        f" {gain.mean() + half(gain):+.3f})"
    )
    for n in (20, 40, 80):
        ratios = as_many(found, n)
        low, high = np.quantile(ratios[1:], (0.025, 0.975))
        print(
            f"answers at random that {n} D-optimal ones equal: {ratios[0]:.2f} times as many ({low:.2f} to {high:.2f})"
        )
    said = (
        "α of three raters on 200 pairs",
        "accuracy of the reward on the raters' held-out answers",
        "slope of its calibration",
    )
    for name, values in zip(said, np.array([r[1] for r in runs]).T, strict=True):
        print(f"{name}: {values.mean():.3f} ±{half(values):.3f}, {values.min():.2f} to {values.max():.2f}")


def repetition(seed: int, sharpness: float, variety: float) -> tuple[list[list[float]], tuple[float, float, float]]:
    """([accuracies by random, by D-optimal], what is printed of three raters)."""
    learn, test = (recordings(1000 + 2 * seed + i, 60, variety) for i in (0, 1))
    known = features.table([*learn, *test], "stress", LABELS)
    expert = experts.Expert.of(experts.Config(sharpness=sharpness, taste=0.05, seed=seed))
    candidates = informative(experts.ask(expert, learn, CANDIDATES, ["rater"], seed + 1, repeats=0))
    x, y = linear.design(candidates, known)
    truth = {r.id: expert.utility(r) for r in test}
    asked = experts.ask(expert, test, 1000, ["nobody"], seed + 2, repeats=0)
    xt = np.array([known[p.a] - known[p.b] for p in asked])
    better = np.array([truth[p.a] > truth[p.b] for p in asked])

    def accuracy(rows: np.ndarray) -> float:
        return float(((linear.fit(x[rows], y[rows]).probability(xt) > 0.5) == better).mean())

    order = choose.at_random(len(x), max(COUNTS), seed)
    chosen = np.empty(0, dtype=np.int64)
    while len(chosen) < max(COUNTS):
        w = linear.fit(x[chosen], y[chosen]).w if len(chosen) else None
        rest = np.setdiff1d(np.arange(len(x)), chosen)
        chosen = np.r_[chosen, rest[choose.d_optimal(x[rest], BATCH, asked=x[chosen], w=w)]]
    return [[accuracy(rows[:n]) for n in COUNTS] for rows in (order, chosen)], three_raters(
        expert, learn, test, known, seed
    )


def three_raters(
    expert: experts.Expert, learn: list[Recording], test: list[Recording], known: Mapping[str, np.ndarray], seed: int
) -> tuple[float, float, float]:
    """(α, accuracy on held-out answers, slope of calibration)."""
    study = experts.ask(expert, learn, 200, 3, seed, repeats=0)
    train, new = (informative(x) for x in (study, experts.ask(expert, test, 200, 3, seed, repeats=0)))
    reward = linear.fit(*linear.design(train, known), weight=weights(train))
    held = linear.judge(reward, *linear.design(new, known), [p.pair for p in new])
    alpha = agreement(study)
    assert alpha is not None
    assert held.slope is not None
    return alpha.value, held.accuracy.value, held.slope


def recordings(seed: int, persons: int, variety: float) -> list[Recording]:
    config = simulated.Config.model_validate(
        {"persons": persons, "sessions": 2, "seed": seed, "person_effect": variety}
    )
    return [simulated.record(s, config) for p in range(persons) for s in simulated.sessions(config, p)]


def half(values: np.ndarray) -> float:
    """Half the width of a 95 % t interval of the mean."""
    return float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))


def as_many(found: np.ndarray, n: int, draws: int = 2000) -> np.ndarray:
    """[value, then bootstraps over repetitions]: random answers, by interpolation on a logarithmic scale of counts, with the
    accuracy of n D-optimal ones, over n; at most the largest count over n."""
    rng, i = np.random.default_rng(0), COUNTS.index(n)
    out = []
    for rows in [np.arange(len(found)), *rng.integers(len(found), size=(draws, len(found)))]:
        random, chosen = found[rows].mean(0)
        out.append(np.exp(np.interp(chosen[i], np.maximum.accumulate(random), np.log(COUNTS))) / n)
    return np.array(out)


if __name__ == "__main__":
    main()
