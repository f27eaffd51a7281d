"""Adherence: does a synthetic recording show the label it was asked for?

A forest that learned from real training windows names the label of synthetic ones (the classification accuracy score of Ravuri
& Vinyals 2019, arXiv 1905.10887, turned round). Beside it, how well it names the labels of real held-out persons:
higher than that is not better, but a caricature.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from ...core.config import Section
from ...core.intervals import over_persons
from ...core.results import Baseline, Result
from ..protocols import Inputs
from ..utility.tstr import macro_f1

HIGHER_IS_BETTER = True


class Config(Section):
    """trees: of the forest; seed."""

    trees: int = Field(default=200, ge=1)
    seed: int = 0


def measure(inputs: Inputs, config: Config) -> list[Result]:
    from sklearn.ensemble import RandomForestClassifier

    t = inputs.tables
    known = ~np.isnan(t.train.X).all(0) & ~np.isnan(t.synthetic.X).all(0)
    if not known.any():
        return [
            Result(metric="adherence macro-F1", value=None, unit="window", note="not measured: no stream in common")
        ]
    forest = RandomForestClassifier(config.trees, random_state=config.seed, n_jobs=1)
    forest.fit(t.train.X[:, known], t.train.label.astype(str))
    made, real = (forest.predict(x.X[:, known]).astype(object) for x in (t.synthetic, t.test))
    control = over_persons(macro_f1, t.test.person, t.test.label, real)
    worst = min(t.classes, key=lambda c: _recall(t.synthetic.label, made, c))
    note = f"least of all classes: {worst} ({_recall(t.synthetic.label, made, worst):.2f} of it recognised)"
    return [
        Result(
            metric="adherence macro-F1", value=macro_f1(t.synthetic.label, made), unit="window", note=note,
            baselines=(
                Baseline(name="real held-out persons", value=control.value, low=control.low, high=control.high),
                Baseline(name="chance", value=1 / len(t.classes)),
            ),
        )
    ]  # fmt: skip


def _recall(label: np.ndarray, predicted: np.ndarray, c: str) -> float:
    mine = label == c
    return float((predicted[mine] == c).mean()) if mine.any() else 0.0
