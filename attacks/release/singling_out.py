"""Singling out: do descriptions that fit one synthetic window fit exactly one real person?

In the manner of Anonymeter (arXiv 2211.10459), with persons in place of records. A description is a box around a
synthetic window in a few random columns, half as wide as the way to the next synthetic window, so that it isolates
this one. It succeeds on a group of persons when exactly one of them has a window inside. The same boxes are tried on
members and on held-out persons, in groups of equal size (all groups of this size, on average, in closed form).
"""

from __future__ import annotations

import numpy as np
from pydantic import Field
from scipy import stats

from ...core.config import Section
from ...core.errors import MienError
from ...core.intervals import Interval
from ...core.results import Baseline, Result
from ..releases import Release, compare

NEEDS = ("synthetic", "candidates")


class Config(Section):
    """predicates: how many boxes; columns: of each; seed: of windows and columns."""

    predicates: int = Field(default=500, ge=10)
    columns: int = Field(default=3, ge=1)
    seed: int = 0


def run(release: Release, config: Config, *, blind: Interval | None = None) -> list[Result]:
    """Risk, attack rate and control rate (`releases.compare`); naive: boxes of the same widths
    anywhere between the release's extremes."""
    scale, rng = release.scale(), np.random.default_rng(config.seed)
    x, made = scale(release.candidates.X), scale(release.synthetic.X)
    people, first, who = np.unique(release.signals().person, return_index=True, return_inverse=True)
    member = release.signals().member[first]
    size = int(min(member.sum(), (~member).sum())) - 1
    if size < 1:
        raise MienError("singling out needs two members and two held-out persons")
    columns, centre, half = boxes(made, config, rng)
    anywhere = rng.uniform(made.min(0)[columns], made.max(0)[columns])
    hit, chance = (fits(x, who, len(people), columns, c, half) for c in (centre, anywhere))
    once = [hit[side].sum(0) == 1 for side in (member, ~member)]
    best = Baseline(name="best description without data", value=baseline(size, 1 / size))
    return compare(
        "singling_out", lambda rows: isolated(rows, size), hit[member], hit[~member],
        naive=isolated(chance[member], size), trials=(once[0], once[1]), blind=blind, baselines=(best,),
    )  # fmt: skip


def baseline(n: int, weight: float) -> float:
    """n w (1 - w)^(n - 1): how often a description that fits a person with probability w fits exactly one of n."""
    return n * weight * (1 - weight) ** (n - 1)


def isolated(hit: np.ndarray, size: int) -> float:
    """Share of boxes that fit exactly one person, averaged over every group of `size` persons.

    hit: bool[persons, boxes]. Exact: the hypergeometric probability of drawing one of the persons it fits.
    """
    return float(stats.hypergeom.pmf(1, len(hit), hit.sum(0), size).mean())


def boxes(made: np.ndarray, config: Config, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(columns int[k, c], centre float64[k, c], half width float64[k]), each isolating one window of made [n, d]."""
    c = min(config.columns, made.shape[1])
    found = []
    for i in rng.integers(len(made), size=10 * config.predicates):
        columns = rng.choice(made.shape[1], c, replace=False)
        away = np.abs(made[:, columns] - made[i, columns]).max(1)
        away[i] = np.inf
        if 0 < (gap := away.min()) < np.inf:
            found.append((columns, made[i, columns], gap / 2))
        if len(found) == config.predicates:
            break
    if not found:
        raise MienError(
            f"no box isolates one of {len(made)} synthetic windows (they are copies of one another); not run"
        )
    return np.array([f[0] for f in found]), np.array([f[1] for f in found]), np.array([f[2] for f in found])


def fits(
    x: np.ndarray, who: np.ndarray, persons: int, columns: np.ndarray, centre: np.ndarray, half: np.ndarray
) -> np.ndarray:
    """bool[persons, boxes]: whether any of a person's windows x float[n, d] lies in the box."""
    out = np.zeros((persons, len(half)), dtype=bool)
    for k in range(len(half)):
        out[who[(np.abs(x[:, columns[k]] - centre[k]) <= half[k]).all(1)], k] = True
    return out
