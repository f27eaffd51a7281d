"""C2ST: can a classifier tell synthetic windows from real ones? 0.5 is indistinguishable.

Lopez-Paz & Oquab 2017 (arXiv 1610.06545). Its control asks the same of real windows of two groups of persons: what
different people alone make distinguishable. Folds keep every recording (real: every person) on one side.
"""

from __future__ import annotations

import numpy as np

from ...core.config import Section
from ...core.intervals import over_persons
from ...core.results import Baseline, Result
from ...data.features import WindowTable
from ..protocols import Inputs

HIGHER_IS_BETTER = False


class Config(Section):
    """trees: of the forest; folds: of the cross-validation; most: windows per side at most; seed."""

    trees: int = 200
    folds: int = 5
    most: int = 600
    seed: int = 0


def measure(inputs: Inputs, config: Config) -> list[Result]:
    """Balanced accuracy, synthetic against training persons; control: training against held-out persons."""
    t = inputs.tables
    found = _told_apart(t.synthetic, t.train, config)
    control = _told_apart(t.train, t.test, config)
    return [
        Result(
            metric="C2ST accuracy", value=found[0], low=found[1], high=found[2], n_persons=found[3], unit="window",
            higher_is_better=False, note="0.5 = indistinguishable; interval over the real persons",
            baselines=(
                Baseline(name="real vs real persons", value=control[0], low=control[1], high=control[2]),
                Baseline(name="chance", value=0.5),
            ),
        )
    ]  # fmt: skip


def _told_apart(one: WindowTable, other: WindowTable, config: Config) -> tuple[float, float | None, float | None, int]:
    """Cross-validated balanced accuracy of `one` against `other`, its interval over other's persons, their number."""
    from sklearn.ensemble import RandomForestClassifier

    rng = np.random.default_rng(config.seed)
    n = min(len(one), len(other), config.most)
    a, b = _balanced(one, n, rng), _balanced(other, n, rng)
    X = np.vstack([one.X[a], other.X[b]])
    X = X[:, ~np.isnan(X).all(0)]
    side = np.r_[np.zeros(len(a)), np.ones(len(b))]
    groups = np.r_[one.person[a].astype(str), np.char.add("other:", other.person[b].astype(str))]
    right = np.zeros(len(X))
    for out in _folds(groups, side, config.folds, rng):
        fit = ~out
        if len(np.unique(side[fit])) < 2 or not out.any():
            continue
        forest = RandomForestClassifier(config.trees, random_state=config.seed, n_jobs=1, class_weight="balanced")
        right[out] = forest.fit(X[fit], side[fit]).predict(X[out]) == side[out]
    one_right = right[side == 0].mean()
    found = over_persons(lambda r: (one_right + r.mean()) / 2, groups[side == 1], right[side == 1])
    return found.value, found.low, found.high, found.n_persons


def _balanced(table: WindowTable, n: int, rng: np.random.Generator) -> np.ndarray:
    """n rows, as many of each label as there are."""
    order = rng.permutation(len(table))
    rank = np.zeros(len(table), dtype=int)
    for c in np.unique(table.label.astype(str)):
        mine = order[table.label[order] == c]
        rank[mine] = np.arange(len(mine))
    return order[np.argsort(rank[order], kind="stable")][:n]


def _folds(groups: np.ndarray, side: np.ndarray, folds: int, rng: np.random.Generator):
    """Boolean masks; each side's groups are dealt over the folds, so every fold has both where it can."""
    part = np.zeros(len(groups), dtype=int)
    for s in (0, 1):
        names = np.unique(groups[side == s])
        where = dict(zip(rng.permutation(names), np.arange(len(names)) % folds, strict=True))
        part[side == s] = [where[g] for g in groups[side == s]]
    for f in range(folds):
        yield part == f
