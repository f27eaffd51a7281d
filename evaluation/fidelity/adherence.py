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
from ..comparisons import baseline, not_measured
from ..protocols import Inputs
from ..utility.tstr import macro_f1

HIGHER_IS_BETTER = True


class Config(Section):
    """trees: of the forest; seed."""

    trees: int = Field(default=200, ge=1)
    seed: int = 0


def measure(inputs: Inputs, config: Config) -> list[Result]:
    """Macro-F1, then F1 of each class."""
    from sklearn.ensemble import RandomForestClassifier

    t = inputs.tables
    known = ~np.isnan(t.train.X).all(0) & ~np.isnan(t.synthetic.X).all(0)
    if not known.any():
        return [not_measured("adherence macro-F1", "no stream in common", higher_is_better=True)]
    forest = RandomForestClassifier(config.trees, random_state=config.seed, n_jobs=1)
    forest.fit(t.train.X[:, known], t.train.label.astype(str))
    made, real = (forest.predict(x.X[:, known]).astype(object) for x in (t.synthetic, t.test))
    control = over_persons(macro_f1, t.test.person, t.test.label, real)
    out = [
        Result(
            metric="adherence macro-F1", value=macro_f1(t.synthetic.label, made), unit="window",
            note="a release has no persons, so no interval; far above the real persons' is a caricature",
            baselines=(baseline("real held-out persons", control), Baseline(name="chance", value=1 / len(t.classes))),
        )
    ]  # fmt: skip
    for c in t.classes:
        if not (t.synthetic.label == c).any():
            out.append(not_measured(f"adherence F1 {c}", f"no synthetic recording of {c}", higher_is_better=True))
            continue
        there = over_persons(_f1(c), t.test.person, t.test.label, real) if (t.test.label == c).any() else None
        out.append(
            Result(
                metric=f"adherence F1 {c}", value=_f1(c)(t.synthetic.label, made), unit="window",
                baselines=(baseline("real held-out persons", there),),
            )
        )  # fmt: skip
    return out


def _f1(c: str):
    def of(truth: np.ndarray, predicted: np.ndarray) -> float:
        right = ((truth == c) & (predicted == c)).sum()
        return float(2 * right / max(1, (truth == c).sum() + (predicted == c).sum()))

    return of
