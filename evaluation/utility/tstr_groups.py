"""TSTR per group of signs: one trivially separable stream must not speak for all.

With all statistics at once a generator whose hearts are impossible can reach a perfect TSTR through a temperature slope. Here a
forest sees one group of vital signs (heart; heart with breath; skin conductance; temperature; movement) or one stream's
statistics at a time; TRTR and its n-matched twin stand beside each.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
from pydantic import Field

from ...core.config import Section
from ...core.intervals import over_persons
from ...core.results import Baseline, Result
from ...data import features
from ..protocols import Inputs
from ..vitals import GROUPS, VITALS, table
from .tstr import macro_f1, matched

HIGHER_IS_BETTER = True


class Config(Section):
    """trees: of each forest; streams: a group of window statistics for each stream too; seed."""

    trees: int = Field(default=100, ge=1)
    streams: bool = True
    seed: int = 0


def measure(inputs: Inputs, config: Config) -> list[Result]:
    t, w, out = inputs.tables, inputs.windows, []
    groups = dict(_vitals(inputs))
    columns = features.names(w.card)
    if config.streams and len(columns) == t.train.X.shape[1]:
        for stream in w.card.streams:
            mine = [i for i, c in enumerate(columns) if c.startswith(f"{stream}.")]
            groups[f"stream {stream}"] = tuple(x.X[:, mine] for x in (t.train, t.test, t.synthetic))
    few = matched(t.train, t.synthetic, np.random.default_rng(config.seed))
    for name, (train, test, made) in groups.items():
        if (len(train), len(test), len(made)) != (len(t.train), len(t.test), len(t.synthetic)):
            continue  # windows and tables of other numbers: their labels cannot be told
        known = ~np.isnan(train).all(0) & ~np.isnan(made).all(0) & ~np.isnan(test).all(0)
        if not known.any():
            continue
        train, test, made = train[:, known], test[:, known], made[:, known]
        predictions = {
            "TSTR": _predict(made, t.synthetic.label, test, config), "TRTR": _predict(train, t.train.label, test, config),
            "TRTR n-matched": _predict(train[few], t.train.label[few], test, config),
        }  # fmt: skip
        predictions["majority"] = np.full(len(test), Counter(t.train.label).most_common(1)[0][0], dtype=object)
        found = {n: over_persons(macro_f1, t.test.person, t.test.label, p) for n, p in predictions.items()}
        main = found.pop("TSTR")
        out.append(
            Result(
                metric=f"TSTR macro-F1 {name}", value=main.value, low=main.low, high=main.high, n_persons=main.n_persons,
                unit="window", baselines=tuple(Baseline(name=n, value=f.value, low=f.low, high=f.high) for n, f in found.items()),
            )
        )  # fmt: skip
    return out


def _vitals(inputs: Inputs):
    """(group, training, test and synthetic windows' values) of each group of signs that all three have."""
    w = inputs.windows
    sides = [table(x, w.card) for x in (w.train, w.test, w.synthetic)]
    names = list(VITALS)
    for group, signs in GROUPS.items():
        mine = [names.index(s) for s in signs]
        if all(np.isfinite(s[:, mine]).any() for s in sides):
            yield group, tuple(s[:, mine] for s in sides)


def _predict(X: np.ndarray, y: np.ndarray, new: np.ndarray, config: Config) -> np.ndarray:
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(config.trees, random_state=config.seed, n_jobs=1)
    return forest.fit(X, y.astype(str)).predict(new).astype(object)
