"""TSTR: train on synthetic, test on real recordings of persons nobody trained on, beside what it must be read with.

TRTR trains on real windows of the training persons; n-matched on as many of them as there are synthetic ones; codec
on the training windows after encode and decode; metadata on what is known without any signal; majority on nothing.
All are tested on the same windows of the same held-out persons, and every interval is over those persons.
(Esteban et al. 2017, arXiv 1706.02633, section 4, for the protocol's names.)
"""

from __future__ import annotations

from collections import Counter

import numpy as np
from pydantic import Field

from ...core.config import Section
from ...core.intervals import over_persons
from ...core.results import Baseline, Result
from ...data.features import WindowTable
from ..protocols import Inputs

HIGHER_IS_BETTER = True


class Config(Section):
    """trees: of the random forest; seed: of forest and subsampling."""

    trees: int = Field(default=200, ge=1)
    seed: int = 0


def measure(inputs: Inputs, config: Config) -> list[Result]:
    """TSTR's accuracy and macro-F1 with every other row as a baseline, and the paired difference TSTR − TRTR."""
    t = inputs.tables
    rng = np.random.default_rng(config.seed)
    predictions = {
        "TSTR": _predict(t.synthetic.X, t.synthetic.label, t.test.X, config),
        "TRTR": _predict(t.train.X, t.train.label, t.test.X, config),
    }
    few = matched(t.train, t.synthetic, rng)
    predictions["TRTR n-matched"] = _predict(t.train.X[few], t.train.label[few], t.test.X, config)
    if t.codec is not None:
        predictions["codec"] = _predict(t.codec.X, t.codec.label, t.test.X, config)
    predictions["metadata only"] = _predict(t.train.meta, t.train.label, t.test.meta, config)
    common = Counter(t.train.label).most_common(1)[0][0]
    predictions["majority"] = np.full(len(t.test), common, dtype=object)

    absent = [c for c in t.classes if c not in set(t.synthetic.label)]
    note = f"no synthetic recording of {', '.join(absent)}; those windows count as wrong" if absent else ""
    results = []
    for metric, statistic in (("accuracy", accuracy), ("macro-F1", macro_f1)):
        found = {name: over_persons(statistic, t.test.person, t.test.label, p) for name, p in predictions.items()}
        main = found.pop("TSTR")
        results.append(
            Result(
                metric=f"TSTR {metric}", value=main.value, low=main.low, high=main.high, n_persons=main.n_persons,
                unit="window", note=note,
                baselines=tuple(Baseline(name=n, value=f.value, low=f.low, high=f.high) for n, f in found.items()),
            )
        )  # fmt: skip
    gap = over_persons(_gap, t.test.person, t.test.label, predictions["TSTR"], predictions["TRTR"], bounds=(-1.0, 1.0))
    results.append(
        Result(
            metric="TSTR − TRTR accuracy", value=gap.value, low=gap.low, high=gap.high, n_persons=gap.n_persons,
            unit="window", baselines=(Baseline(name="no difference", value=0.0),), note="paired, same windows",
        )
    )  # fmt: skip
    return results


def accuracy(truth: np.ndarray, predicted: np.ndarray) -> float:
    return float((truth == predicted).mean())


def macro_f1(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Mean F1 over the classes that occur in `truth`; a class never predicted has F1 0."""
    scores = []
    for c in sorted(set(truth.tolist())):
        right = ((truth == c) & (predicted == c)).sum()
        scores.append(2 * right / max(1, (truth == c).sum() + (predicted == c).sum()))
    return float(np.mean(scores))


def _gap(truth: np.ndarray, one: np.ndarray, other: np.ndarray) -> float:
    return accuracy(truth, one) - accuracy(truth, other)


def _predict(X: np.ndarray, y: np.ndarray, new: np.ndarray, config: Config) -> np.ndarray:
    from sklearn.ensemble import RandomForestClassifier

    known = ~np.isnan(X).all(0)
    if not known.any():
        return np.full(len(new), Counter(y).most_common(1)[0][0], dtype=object)
    forest = RandomForestClassifier(config.trees, random_state=config.seed, n_jobs=1)
    return forest.fit(X[:, known], y.astype(str)).predict(new[:, known]).astype(object)


def matched(train: WindowTable, synthetic: WindowTable, rng: np.random.Generator) -> np.ndarray:
    """Rows of `train`: per label as many as there are synthetic ones, or all there are."""
    kept = []
    for c, count in sorted(Counter(synthetic.label).items()):
        rows = np.flatnonzero(train.label == c)
        kept.append(rng.permutation(rows)[:count])
    return np.sort(np.concatenate(kept))
