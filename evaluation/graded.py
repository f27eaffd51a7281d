"""Numbers instead of classes, such as the PHQ-8: classical learners on window statistics, tested on persons they have not seen.

A score is of a whole recording, so its windows' predictions are averaged, and every error is of one recording (as the AVEC
depression challenges count: Ringeval et al. 2019, MAE, RMSE and Lin's concordance). Intervals are over persons.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..core.errors import MienError
from ..core.intervals import Interval, over_persons
from ..core.records import Cohort
from ..core.results import Baseline, Result
from . import leave_one_out
from .leave_one_out import Fold, Learner, tested
from .transfer import ccc, mae


def rmse(y: np.ndarray, given: np.ndarray) -> float:
    """Root of the mean squared error."""
    return float(np.sqrt(((y - given) ** 2).mean()))


METRICS: dict[str, tuple[Callable[[np.ndarray, np.ndarray], float], bool]] = {  # name -> (metric, larger is better)
    "MAE": (mae, False), "RMSE": (rmse, False), "CCC": (ccc, True),
}  # fmt: skip


def classes(cohort: Cohort, task: str) -> tuple[str, ...]:
    """A task's classes; none where recordings are labelled with numbers of that name, and with nothing else. MienError naming
    what there is."""
    if task in cohort.card.tasks:
        return tuple(cohort.card.tasks[task])
    numbers: set[str] = set()
    words: set[str] = set()
    for labels in cohort.column("labels"):
        for name, v in labels.items():
            number = isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)
            (numbers if number else words).add(name)
    numbers -= words  # a scale that some recordings answer in words is none
    if task not in numbers:
        there = ", ".join((*cohort.card.tasks, *sorted(numbers - set(cohort.card.tasks))))
        raise MienError(f"task: no {task!r} in {cohort.card.name}; there are {there}")
    return ()


# --- learners: (fold, seed) -> float[test rows, 1] -------------------------------------------------------------------


def mean(fold: Fold, seed: int) -> np.ndarray:
    """The training persons' mean: each of them counts once, however long they were recorded."""
    person = fold.table.person[fold.train]
    each = [fold.y[fold.train][person == p].mean() for p in sorted(set(person))]
    return np.full((len(fold.test), 1), np.mean(each))


def ridge(fold: Fold, seed: int) -> np.ndarray:
    """Ridge regression, its penalty chosen in training by generalised cross-validation; statistics standardised on the
    training persons, unknown is average."""
    from sklearn.linear_model import RidgeCV

    X = fold.table.X
    known = ~np.isnan(X[fold.train]).all(0)
    if not known.any():
        return mean(fold, seed)
    centre, sd = np.nanmean(X[np.ix_(fold.train, known)], 0), np.nanstd(X[np.ix_(fold.train, known)], 0)
    Z = np.nan_to_num((X[:, known] - centre) / (sd + 1e-9)).clip(-10, 10)
    model = RidgeCV(alphas=np.logspace(-1, 5, 13)).fit(Z[fold.train], fold.y[fold.train])
    return model.predict(Z[fold.test])[:, None]


def usual(trees: int, seeds: int) -> dict[str, tuple[Learner, int]]:
    """The bar's learners by name, each with its number of seeds."""
    return leave_one_out.usual(trees, seeds, ("ridge regression", ridge), ("mean", mean))


# --- metrics -------------------------------------------------------------------------------------------------------


def per_recording(
    made: Sequence[Fold], predictions: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """(truth float[r], person str[r], name -> float[r, seeds]): windows' predictions averaged over each recording.
    MienError where one recording was tested by several folds, or its windows have several scores."""
    rows, table = tested(made), made[0].table
    recording, y = table.recording[rows], made[0].y[rows]
    names, where = np.unique(recording.astype(str), return_inverse=True)
    first = np.array([np.flatnonzero(where == i)[0] for i in range(len(names))])
    if (y != y[first][where]).any():
        raise MienError("a recording's windows have several scores; it takes one per recording")
    counts = np.bincount(where)[:, None]
    pooled = {}
    for name, p in predictions.items():
        total = np.zeros((len(names), p.shape[1]))
        np.add.at(total, where, p[:, :, 0])
        pooled[name] = total / counts
    return y[first], table.person[rows][first], pooled


def results(
    made: Sequence[Fold], predictions: Mapping[str, np.ndarray], main: str, against: Sequence[str]
) -> list[Result]:
    """MAE, RMSE and CCC of `main` with the others beside, and by how much its MAE is smaller than that of `against`, paired."""
    y, person, found = per_recording(made, predictions)

    def interval(metric: str, *of: np.ndarray) -> Interval:
        score, better = METRICS[metric]

        def value(truth: np.ndarray, *given: np.ndarray) -> float:
            each = [np.mean([score(truth, g[:, s]) for s in range(g.shape[1])]) for g in given]
            return float(each[0] if len(each) == 1 else each[1] - each[0])

        return over_persons(value, person, y, *of, bounds=(-1.0, 1.0) if metric == "CCC" else None)

    out = []
    for metric, (_, better) in METRICS.items():
        all_of = {n: interval(metric, p) for n, p in found.items()}
        first = all_of.pop(main)
        out.append(
            Result(
                metric=f"{main} {metric}", value=first.value, low=first.low, high=first.high, n_persons=first.n_persons,
                unit="recording", note="windows averaged per recording", higher_is_better=better,
                baselines=tuple(Baseline(name=n, value=f.value, low=f.low, high=f.high) for n, f in all_of.items()),
            )
        )  # fmt: skip
    for other in (n for n in against if n in found):
        gap = interval("MAE", found[main], found[other])
        out.append(
            Result(
                metric=f"{other} − {main} MAE", value=gap.value, low=gap.low, high=gap.high, n_persons=gap.n_persons,
                unit="recording", note="paired; beaten where the interval lies above 0",
                baselines=(Baseline(name="no difference", value=0.0),),
            )
        )  # fmt: skip
    return out
