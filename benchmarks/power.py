"""How well attacks with shadow models find members of real LoRA adapters, by the number of shadows.

python benchmarks/power.py RUN            (an attack run with 8 shadows or more: its private/signals.parquet is read)

Every shadow is the target once, and K of the others are its shadows: as many targets as there are shadows, each with a
membership of its own that was drawn at random. Differences are paired; their interval comes from resampling targets and
persons together (2,000 bootstraps, fixed seed).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from mien.attacks.membership import bavaria, lira, rmia, user
from mien.attacks.shadowed import by_person
from mien.attacks.signals import Signals
from mien.core import runs
from mien.core.errors import MienError
from mien.core.intervals import auc

ATTACKS = {"bavaria": bavaria, "lira": lira, "rmia": rmia, "user": user}
COUNTS = (1, 2, 4, 8, 15)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="an attack run, by folder or name")
    parser.add_argument("--targets", type=int, default=16)
    args = parser.parse_args()
    signals = Signals.read(Path(runs.find(args.run, "attack")) / "private" / "signals.parquet")
    if signals.fresh is not None:
        signals = signals.rows(~signals.fresh)
    if signals.shadow_loss is None or signals.shadow_in is None or len(signals.shadow_loss) < 8:
        raise MienError("that run has fewer than 8 shadow models; run `mien attack` with --profile full")
    total = len(signals.shadow_loss)
    print(
        f"{total} adapters, {len(set(signals.person))} persons, AUC per person (mean of windows, mean of recordings)\n"
    )
    print("| shadows | " + " | ".join(ATTACKS) + " | bavaria less the better of lira and rmia (95 %) |")
    print("|---|" + "---|" * (len(ATTACKS) + 1))
    for count in [c for c in COUNTS if c < total]:
        found = {n: [] for n in ATTACKS}  # per target: (scores per person, member)
        for target in range(min(total, args.targets)):
            others = np.random.default_rng([target, count]).permutation(np.delete(np.arange(total), target))[:count]
            made = as_target(signals, target, others)
            first = np.unique(made.person, return_index=True)[1]
            for name, module in ATTACKS.items():
                found[name].append((by_person(made, module.score(made, module.Config()))[0], made.member[first]))
        means = {n: np.mean([auc(s[m], s[~m]) for s, m in f]) for n, f in found.items()}
        better = "lira" if means["lira"] > means["rmia"] else "rmia"
        low, high = bootstrap(found["bavaria"], found[better])
        cells = " | ".join(f"{means[n]:.3f}" for n in ATTACKS)
        print(
            f"| {count} | {cells} | {means['bavaria'] - means[better]:+.3f} ({low:+.3f} to {high:+.3f}) |", flush=True
        )


def as_target(signals: Signals, target: int, others: np.ndarray) -> Signals:
    """The signals with shadow `target` as the adapter under attack."""
    from dataclasses import replace

    assert signals.shadow_loss is not None and signals.shadow_in is not None  # noqa: PT018
    return replace(
        signals, member=signals.shadow_in[target], loss=signals.shadow_loss[target], segments=None, shadow_segments=None,
        shadow_loss=signals.shadow_loss[others], shadow_in=signals.shadow_in[others], tokens=None,
    )  # fmt: skip


def bootstrap(first: list, second: list, draws: int = 2000) -> tuple[float, float]:
    """95 % of the mean difference of AUCs, targets and persons resampled."""
    rng, out = np.random.default_rng(0), []
    for _ in range(draws):
        gaps = []
        for t in rng.integers(len(first), size=len(first)):
            (a, member), (b, _) = first[t], second[t]
            inside = rng.choice(np.flatnonzero(member), member.sum())
            outside = rng.choice(np.flatnonzero(~member), (~member).sum())
            gaps.append(auc(a[inside], a[outside]) - auc(b[inside], b[outside]))
        out.append(np.mean(gaps))
    low, high = np.quantile(out, [0.025, 0.975])
    return float(low), float(high)


if __name__ == "__main__":
    try:
        main()
    except MienError as error:
        sys.exit(str(error))
