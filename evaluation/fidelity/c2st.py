"""C2ST: can a classifier tell synthetic windows from real ones? 0.5 is indistinguishable.

Lopez-Paz & Oquab 2017 (arXiv 1610.06545). Its control asks the same of real windows of two groups of persons: what
different people alone make distinguishable. Folds keep every recording (real: every person) on one side. All sides of
both tests have the same number of windows of each label: a classifier with more of them tells more apart, and how many
of each label were asked of a generator is no property of its windows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field

from ...core.config import Section
from ...core.intervals import Interval, over_persons
from ...core.results import Baseline, Result
from ...data.features import WindowTable
from ..protocols import Inputs

HIGHER_IS_BETTER = False


class Config(Section):
    """trees: of the forest; folds: of the cross-validation; most: windows per side at most; seed."""

    trees: int = Field(default=200, ge=1)
    folds: int = Field(default=5, ge=2)
    most: int = Field(default=600, ge=10)
    seed: int = 0


def measure(inputs: Inputs, config: Config) -> list[Result]:
    """Balanced accuracy, synthetic against training persons; control: training against held-out persons.

    Not measured (value None, and why) where a side has fewer than two persons to keep apart.
    """
    t = inputs.tables
    counts = _counts((t.synthetic, t.train, t.test), config.most)
    found = _told_apart(t.synthetic, t.train, counts, config, real=False)
    control = _told_apart(t.train, t.test, counts, config, real=True)
    why = "0.5 = indistinguishable; interval over the real persons"
    if found is None:
        why = "not measured: with fewer than two persons or two synthetic recordings no fold can keep them apart"
    return [
        Result(
            metric="C2ST accuracy", unit="window", higher_is_better=False, note=why,
            **({"value": None} if found is None else _numbers(found)), n_persons=found.n_persons if found else 0,
            baselines=(
                Baseline(name="real vs real persons", **({"value": None} if control is None else _numbers(control))),
                Baseline(name="chance", value=0.5),
            ),
        )
    ]  # fmt: skip


def _numbers(found: Interval) -> dict[str, float | None]:
    return {"value": found.value, "low": found.low, "high": found.high}


def _told_apart(
    one: WindowTable, other: WindowTable, counts: Mapping[str, int], config: Config, *, real: bool
) -> Interval | None:
    """Cross-validated balanced accuracy of windows of `one` against those of `other`, so many of each label.

    real: `one` is of persons too, and the interval is over both sides' persons; else over other's. None where the
    folds cannot judge every window.
    """
    from sklearn.ensemble import RandomForestClassifier

    rng = np.random.default_rng(config.seed)
    a, b = _drawn(one, counts, rng), _drawn(other, counts, rng)
    X = np.vstack([one.X[a], other.X[b]])
    X = X[:, ~np.isnan(X).all(0)]
    side = np.r_[np.zeros(len(a)), np.ones(len(b))]
    mine = one.person[a].astype(str)
    groups = np.r_[mine if real else np.char.add("synthetic:", mine), other.person[b].astype(str)]
    right, judged = np.zeros(len(X)), np.zeros(len(X), dtype=bool)
    for out in _folds(groups, side, config.folds, rng):
        fit = ~out
        if len(np.unique(side[fit])) < 2 or not out.any():
            continue
        forest = RandomForestClassifier(config.trees, random_state=config.seed, n_jobs=1, class_weight="balanced")
        right[out] = forest.fit(X[fit], side[fit]).predict(X[out]) == side[out]
        judged |= out
    if not judged.all():
        return None
    if real:
        return over_persons(_balanced_accuracy, groups, side, right)
    one_right = right[side == 0].mean()
    return over_persons(lambda r: (one_right + r.mean()) / 2, groups[side == 1], right[side == 1])


def _balanced_accuracy(side: np.ndarray, right: np.ndarray) -> float:
    """NaN when a side is empty: then there is no interval."""
    return float(np.mean([right[side == s].mean() if (side == s).any() else np.nan for s in (0, 1)]))


def _counts(sides: Sequence[WindowTable], most: int) -> dict[str, int]:
    """How many windows of each label every side that has the label can give, at most `most` together, the rarest whole. A
    label that a side lacks stays with the others: that it is missing is to be seen."""
    out: dict[str, int] = {}
    found = [Counter(t.label.astype(str).tolist()) for t in sides]
    can = {c: min(f[c] for f in found if c in f) for c in set().union(*found)}
    for k, (c, n) in enumerate(sorted(can.items(), key=lambda x: (x[1], x[0]))):
        out[c] = min(n, (most - sum(out.values())) // (len(can) - k))
    return out


def _drawn(table: WindowTable, counts: Mapping[str, int], rng: np.random.Generator) -> np.ndarray:
    """So many rows of each label, as far as there are any."""
    label, order = table.label.astype(str), rng.permutation(len(table))
    return np.concatenate([order[label[order] == c][:n] for c, n in sorted(counts.items())])


def _folds(groups: np.ndarray, side: np.ndarray, folds: int, rng: np.random.Generator):
    """Boolean masks; each side's groups are dealt over the folds, so every fold has both where it can. A person on
    both sides (random windows) has one place."""
    where: dict[Any, Any] = {}
    for s in (0, 1):
        names = [g for g in rng.permutation(np.unique(groups[side == s])) if g not in where]
        where.update({str(g): i % folds for i, g in enumerate(names)})
    part = np.array([where[g] for g in groups])
    for f in range(folds):
        yield part == f
