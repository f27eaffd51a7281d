"""Distances to the closest record, for orientation only: passing such a check proves nothing.

A release that is the training data plus a constant holds no copy, is farther than zero from everybody, and gives
every value back once the constant is guessed; releases that passed still gave membership away (arXiv 2505.01524).
So nothing here is a pass: a share above ½ is a warning, and a share at ½ is not evidence of privacy.
"""

from __future__ import annotations

import numpy as np

from ...core.config import Section
from ...core.intervals import Interval
from ...core.results import Baseline, Result
from ..releases import Release, neighbours, unfair

NEEDS = ("synthetic", "candidates")
_WHY = (
    "diagnostic only, and passing proves nothing: training data shifted by a constant passes and is given back whole"
    " by undoing the shift (arXiv 2505.01524)"
)


class Config(Section):
    """No options."""


def run(release: Release, config: Config, *, blind: Interval | None = None) -> list[Result]:
    """Share of synthetic windows closer to members than to held-out persons, and medians of the distance to the closest
    member window (DCR, standardised units) and of the nearest-neighbour distance ratio (NNDR). No interval: the nearest
    window of all changes by jumps when a person is left out, and there is one release."""
    scale, s = release.scale(), release.signals()
    made, x = scale(release.synthetic.X), scale(release.candidates.X)
    mine, other = (closest(made, x[side]) for side in (s.member, ~s.member))
    why = f"{_WHY}; one release, so no interval"
    why += "; the blind attack finds this split unfair" if unfair(blind) else ""
    size = f"{int(s.member.sum())} member and {int((~s.member).sum())} held-out windows"

    def result(metric: str, value: float, beside: Baseline, note: str) -> Result:
        return Result(
            metric=f"distance.{metric}", value=value, n_persons=len(set(s.person)), unit="window",
            higher_is_better=metric != "closer_to_members", baselines=(beside,), note=note,
        )  # fmt: skip

    share = float(((mine < other) + (mine == other) / 2).mean())
    even = Baseline(name="even", value=float(s.member.mean()))
    held = Baseline(name="held-out persons", value=float(np.median(other)))
    out = [
        result("closer_to_members", share, even, f"{why}; {size}, and the larger set is closer by chance"),
        result("dcr", float(np.median(mine)), held, why),
    ]
    if min(s.member.sum(), (~s.member).sum()) >= 2:
        ours, theirs = (float(np.median(ratio(neighbours(made, x[side], 2)[0]))) for side in (s.member, ~s.member))
        out.append(result("nndr", ours, Baseline(name="held-out persons", value=theirs), why))
    return out


def closest(synthetic: np.ndarray, real: np.ndarray) -> np.ndarray:
    """float64[n]: distance of each synthetic window float[n, d] to the closest of real float[m, d] (DCR)."""
    return neighbours(synthetic, real)[0][:, 0]


def ratio(near: np.ndarray) -> np.ndarray:
    """float64[n]: nearest over second nearest distance, float[n, 2], in [0, 1]; 1 where both are 0 (a copy of two)."""
    return np.where(near[:, 1] > 0, near[:, 0] / np.where(near[:, 1] > 0, near[:, 1], 1.0), 1.0)
