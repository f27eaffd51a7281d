"""Adherence: does a synthetic recording show the label it was asked for?

A forest that learned from real training windows names the label of synthetic ones (the classification accuracy score of Ravuri
& Vinyals 2019, arXiv 1905.10887, turned round). Beside it, how well it names the labels of real held-out persons:
higher than that is not better, but a caricature. Told as recall, class by class and their mean: F1 would fall and rise with
how many of each class were asked for.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from ...core.config import Section
from ...core.intervals import over_persons
from ...core.results import Baseline, Result
from ..comparisons import baseline, not_measured
from ..protocols import Inputs

HIGHER_IS_BETTER = True


class Config(Section):
    """trees: of the forest; seed."""

    trees: int = Field(default=200, ge=1)
    seed: int = 0


def measure(inputs: Inputs, config: Config) -> list[Result]:
    """Balanced accuracy (the classes' mean recall), then the recall of each class."""
    from sklearn.ensemble import RandomForestClassifier

    t = inputs.tables
    known = ~np.isnan(t.train.X).all(0) & ~np.isnan(t.synthetic.X).all(0)
    if not known.any():
        return [not_measured("adherence balanced accuracy", "no stream in common", higher_is_better=True)]
    forest = RandomForestClassifier(config.trees, random_state=config.seed, n_jobs=1)
    forest.fit(t.train.X[:, known], t.train.label.astype(str))
    made, real = (forest.predict(x.X[:, known]).astype(object) for x in (t.synthetic, t.test))
    control = over_persons(balanced, t.test.person, t.test.label, real)
    out = [
        Result(
            metric="adherence balanced accuracy", value=balanced(t.synthetic.label, made), unit="window",
            note="a release has no persons, so no interval; far above the real persons' is a caricature",
            baselines=(baseline("real held-out persons", control), Baseline(name="chance", value=1 / len(t.classes))),
        )
    ]  # fmt: skip
    for c in t.classes:
        if not (t.synthetic.label == c).any():
            out.append(not_measured(f"adherence recall {c}", f"no synthetic recording of {c}", higher_is_better=True))
            continue
        there = over_persons(_recall(c), t.test.person, t.test.label, real) if (t.test.label == c).any() else None
        out.append(
            Result(
                metric=f"adherence recall {c}", value=_recall(c)(t.synthetic.label, made), unit="window",
                baselines=(baseline("real held-out persons", there),),
            )
        )  # fmt: skip
    return out


def balanced(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Mean recall over the classes that occur in `truth`."""
    return float(np.mean([_recall(c)(truth, predicted) for c in sorted(set(truth.tolist()))]))


def _recall(c: str):
    def of(truth: np.ndarray, predicted: np.ndarray) -> float:
        mine = truth == c
        return float((predicted[mine] == c).mean()) if mine.any() else float("nan")

    return of
