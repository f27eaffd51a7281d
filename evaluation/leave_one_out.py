"""Classical learners on window statistics, always tested on persons they have not seen: what any model must beat.

Leave one person out, folds of persons, or one split (official, in time). Predictions are made once per window and seed;
every metric is then taken over all windows together, or of each person and averaged over persons (the convention of WESAD
and its kin; it needs every person to have several classes). Intervals are over persons.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from ..core.errors import MienError
from ..core.intervals import Interval, auc, over_persons
from ..core.results import Baseline, Result
from ..data.features import WindowTable
from ..data.matching import Alike
from ..data.splits import Splits
from .utility.tstr import accuracy, macro_f1

Average = Literal["person", "window"]
SCALED = (
    "Each person's statistics were scaled by all of their own windows, without labels: a person must be recorded for a while"
    " before the first prediction."
)
METADATA = (
    "Metadata are attributes, a recording's length and when a window began: where a study's order or length of conditions is"
    " fixed, they tell the condition without any signal."
)


@dataclass(frozen=True, kw_only=True)
class Fold:
    """train, test: row indices, without a person in common. y: int[n] classes of all rows (float[n] numbers), of which a
    learner may look at those in `train`; classes: how many (0: numbers)."""

    table: WindowTable
    train: np.ndarray
    test: np.ndarray
    y: np.ndarray
    classes: int


Learner = Callable[[Fold, int], np.ndarray]
"""(fold, seed) -> float[test rows, classes]: probabilities or scores, larger for likelier."""


def folds(
    table: WindowTable, classes: Sequence[str], k: int | None = None, split: Splits | None = None, seed: int = 0
) -> list[Fold]:
    """One fold per person; of k groups of persons, drawn; or the one of a split. classes: none for numbers. MienError when
    a class would be missing from a training side, or too few persons are there."""
    lost = sorted(set(table.label) - set(classes)) if classes else []
    if lost:
        raise MienError(f"the label {lost[0]!r} is not among the task's classes {', '.join(classes)}")
    y = np.array([list(classes).index(c) if classes else float(c) for c in table.label])
    persons = sorted(set(table.person))
    if len(persons) < 2:
        raise MienError(f"{len(persons)} person has a usable window; to test on others it takes two at least")
    if split is not None and split.kind == "random_window":
        raise MienError("split.kind: random_window has the same persons on both sides; baselines are tested on others")
    if split is not None:
        sides = [(np.isin(table.person, (*split.train, *split.validation)), np.isin(table.person, split.holdout))]
    else:
        sides = apart(table.person, k, seed)
    made = []
    for train, test in sides:
        if not train.any() or not test.any():
            raise MienError(f"{train.sum()} windows to train and {test.sum()} to test on; draw another split")
        gone = set(range(len(classes))) - set(y[train].tolist())
        if gone:
            where = (
                "the split" if split is not None else f"the fold that tests on {len(set(table.person[test]))} person(s)"
            )
            raise MienError(
                f"{where} leaves nobody of class {classes[min(gone)]!r} to train on; use other folds, or a cohort in which"
                " two persons have each class"
            )
        made.append(
            Fold(table=table, train=np.flatnonzero(train), test=np.flatnonzero(test), y=y, classes=len(classes))
        )
    return made


def apart(person: np.ndarray, k: int | None = None, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """(train, test) as bool[n] each: one pair per person, or per one of k groups of persons, drawn. person: str[n].
    MienError where k is not between 2 and the number of persons."""
    persons = sorted(set(person))
    if k is not None and not 2 <= k <= len(persons):
        raise MienError(f"folds: {k} of {len(persons)} persons; 2 to {len(persons)}, or leave it out for each alone")
    order = persons if k is None else list(np.random.default_rng([seed, 0xF0]).permutation(persons))
    parts = [order[i :: k or len(persons)] for i in range(k or len(persons))]
    return [(~(held := np.isin(person, part)), held) for part in parts]


def standardised(table: WindowTable) -> WindowTable:
    """Every person's statistics by their own mean and deviation: no labels, nobody else's data, but all of the person's
    windows, those to be predicted among them."""
    X = table.X.copy()
    for p in set(table.person):
        mine = table.person == p
        known = ~np.isnan(X[mine]).all(0)  # a statistic that a person never has stays unknown
        part = X[np.ix_(mine, known)]
        X[np.ix_(mine, known)] = (part - np.nanmean(part, 0)) / (np.nanstd(part, 0) + 1e-9)
    return replace(table, X=X)


# --- learners -----------------------------------------------------------------------------------------------------


def majority(fold: Fold, seed: int) -> np.ndarray:
    """The commonest class in training."""
    common = Counter(fold.y[fold.train].tolist()).most_common(1)[0][0]
    return np.tile(np.arange(fold.classes) == common, (len(fold.test), 1)).astype(np.float64)


def forest(
    trees: int, columns: Callable[[WindowTable], np.ndarray] = lambda t: t.X, otherwise: Learner = majority
) -> Learner:
    """A random forest on the columns, of classes or of numbers; a column that is never known in training is left out.
    otherwise: what predicts where none is known."""

    def learner(fold: Fold, seed: int) -> np.ndarray:
        from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

        X = columns(fold.table)
        known = ~np.isnan(X[fold.train]).all(0) if X.shape[1] else np.zeros(0, bool)
        if not known.any():
            return otherwise(fold, seed)
        kind = RandomForestClassifier if fold.classes else RandomForestRegressor
        model = kind(trees, random_state=seed, n_jobs=1).fit(X[np.ix_(fold.train, known)], fold.y[fold.train])
        asked = X[np.ix_(fold.test, known)]
        return _spread(model, asked, fold.classes) if fold.classes else model.predict(asked)[:, None]

    return learner


def logistic(fold: Fold, seed: int) -> np.ndarray:
    """Ridge logistic regression, balanced classes, statistics standardised on the training persons; unknown is average."""
    from sklearn.linear_model import LogisticRegression

    X = fold.table.X
    known = ~np.isnan(X[fold.train]).all(0)
    mean, sd = np.nanmean(X[np.ix_(fold.train, known)], 0), np.nanstd(X[np.ix_(fold.train, known)], 0)
    Z = np.nan_to_num((X[:, known] - mean) / (sd + 1e-9)).clip(-10, 10)
    model = LogisticRegression(class_weight="balanced", max_iter=1000)
    model.fit(Z[fold.train], fold.y[fold.train])
    return _spread(model, Z[fold.test], fold.classes)


def usual(
    trees: int, seeds: int, linear: tuple[str, Learner] = ("logistic regression", logistic),
    least: tuple[str, Learner] = ("majority", majority),
) -> dict[str, tuple[Learner, int]]:  # fmt: skip
    """The bar's learners by name, each with its number of seeds."""

    def grown(columns: Callable[[WindowTable], np.ndarray]) -> tuple[Learner, int]:
        return forest(trees, columns, least[1]), seeds

    return {
        "random forest": grown(lambda t: t.X), linear[0]: (linear[1], 1), least[0]: (least[1], 1),
        "attributes only": grown(lambda t: t.meta[:, 1:-1]), "metadata only": grown(lambda t: t.meta),
    }  # fmt: skip


def _spread(model: Any, X: np.ndarray, classes: int) -> np.ndarray:
    """Probabilities of all classes; 0 of one that a learner has not seen."""
    out = np.zeros((len(X), classes))
    out[:, model.classes_] = model.predict_proba(X)
    return out


def predict(
    made: Sequence[Fold], learners: Mapping[str, tuple[Learner, int]], step: Callable[[str], None] = lambda n: None
) -> dict[str, np.ndarray]:
    """Name -> float[tested rows, seeds, classes]; learners: name -> (learner, how many seeds). `tested` gives the rows."""
    out = {}
    for name, (learner, seeds) in learners.items():
        out[name] = np.concatenate([np.stack([learner(f, s) for s in range(seeds)], axis=1) for f in made])
        step(name)
    return out


def tested(made: Sequence[Fold]) -> np.ndarray:
    """The rows that are tested, in the order of `predict`."""
    return np.concatenate([f.test for f in made])


# --- metrics ------------------------------------------------------------------------------------------------------


def balanced_accuracy(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Mean recall over the classes that occur (UAR)."""
    return float(np.mean([(predicted[truth == c] == c).mean() for c in np.unique(truth)]))


METRICS = {"macro-F1": macro_f1, "balanced accuracy": balanced_accuracy, "accuracy": accuracy}


def _area(truth: np.ndarray, given: np.ndarray) -> float:
    return auc(given[truth == 1, 1], given[truth == 0, 1]) if 0 < truth.sum() < len(truth) else float("nan")


def positive_f1(truth: np.ndarray, given: np.ndarray) -> float:
    """F1 of the second of two classes, the task's "yes"; NaN where nobody has it."""
    said, hit = given.argmax(1) == 1, truth == 1
    return float(2 * (said & hit).sum() / (said.sum() + hit.sum())) if hit.any() else float("nan")


def sensitivity(truth: np.ndarray, given: np.ndarray, specificity: float = 0.95) -> float:
    """Of the second of two classes: the most of it that any threshold finds while it spares so much of the first. The threshold
    is the tested windows' own, as in a ROC: nobody could have chosen it beforehand."""
    well, sick = given[truth == 0, 1], given[truth == 1, 1]
    if not len(well) or not len(sick):
        return float("nan")
    allowed = int((1 - specificity) * len(well) + 1e-9)  # so many of the first class may be taken for the second
    return float((sick > np.sort(well)[::-1][allowed]).mean())


def brier(y: np.ndarray, given: np.ndarray) -> float:
    """Mean squared distance of the probabilities from the truth, over classes (Brier 1950): 0 to 2."""
    return float(((given - np.eye(given.shape[1])[y]) ** 2).sum(1).mean())


def ece(y: np.ndarray, given: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error of the likeliest class in equally wide bins (Guo et al. 2017). Biased upwards where bins
    hold few windows."""
    sure, right = given.max(1), given.argmax(1) == y
    where = np.minimum((sure * bins).astype(int), bins - 1)
    gaps = [abs((sure[where == b] - right[where == b]).sum()) for b in range(bins)]
    return float(np.sum(gaps) / len(y))


GRADED = {"Brier": brier, "ECE": ece}  # of probabilities; less is better
OF_TWO = {"AUROC": _area, "F1 of the positive": positive_f1, "sensitivity at 95 % specificity": sensitivity}


def measure(name: str, y: np.ndarray, person: np.ndarray, found: np.ndarray, average: Average) -> Interval:
    """One metric (of METRICS, GRADED or, for two classes, OF_TWO) of predictions float[n, seeds, classes], averaged over seeds."""
    seeds, hard = found.shape[1], METRICS.get(name)
    of = hard or {**GRADED, **OF_TWO}[name]
    seen = found.argmax(2) if hard else found

    def value(truth: np.ndarray, given: np.ndarray) -> float:
        return float(np.mean([of(truth, given[:, s]) for s in range(seeds)]))

    bounds = (0.0, 2.0) if name == "Brier" else (0.0, 1.0)
    if average == "window":
        return over_persons(value, person, y, seen, bounds=bounds)
    each = by_person(value, y, person, seen)
    return over_persons(lambda v: float(v.mean()), np.array(list(each)), np.array(list(each.values())), bounds=bounds)


def by_person(value: Callable[..., float], y: np.ndarray, person: np.ndarray, *arrays: np.ndarray) -> dict[str, float]:
    """Person -> the statistic of their windows, without those for whom it does not exist."""
    each = {str(p): value(y[person == p], *(a[person == p] for a in arrays)) for p in sorted(set(person))}
    return {p: v for p, v in each.items() if np.isfinite(v)}


def results(
    made: Sequence[Fold], predictions: Mapping[str, np.ndarray], average: Average, main: str, against: Sequence[str],
    alike: Alike | None = None,
) -> list[Result]:  # fmt: skip
    """Per metric the `main` learner with the others as baselines; its paired lead over `against`; its worst person; and
    the same again of the matched persons `alike`, where they are asked for.

    MienError when averages of persons are asked for and somebody has a single class.
    """
    rows, table = tested(made), made[0].table
    y, person, classes = made[0].y[rows], table.person[rows], made[0].classes
    single = sum(len(set(y[person == p])) < 2 for p in set(person))
    if average == "person" and single:
        raise MienError(f"average: person, but {single} person(s) have windows of one class only; use average: window")
    two = [
        n for n in OF_TWO if average == "window" or n != "sensitivity at 95 % specificity"
    ]  # a person has few windows
    names = [*METRICS, *(two if classes == 2 else ()), *GRADED]
    if len(set(y.tolist())) < 2:
        names = [n for n in names if n not in OF_TWO]
    over = "mean of persons" if average == "person" else "all windows"
    out = []
    for name in names:
        found = {n: measure(name, y, person, p, average) for n, p in predictions.items()}
        first = found.pop(main)
        out.append(
            Result(
                metric=f"{main} {name}", value=first.value, low=first.low, high=first.high, n_persons=first.n_persons,
                unit="window", note=over, higher_is_better=name not in GRADED,
                baselines=tuple(Baseline(name=n, value=f.value, low=f.low, high=f.high) for n, f in found.items()),
            )
        )  # fmt: skip
    if classes == 2 and len(set(y.tolist())) < 2:
        said = "the tested windows are all of one class"
        out += [Result(metric=f"{main} {n}", value=None, unit="window", note=said) for n in two]
    for other in (n for n in against if n in predictions):
        gap = lead(y, person, predictions[main], predictions[other], average)
        out.append(
            Result(
                metric=f"{main} − {other} macro-F1", value=gap.value, low=gap.low, high=gap.high, n_persons=gap.n_persons,
                unit="window", note=f"paired, {over}; beaten where the interval lies above 0",
                baselines=(Baseline(name="no difference", value=0.0),),
            )
        )  # fmt: skip
    if average == "person":
        worst = {n: min(by_person(_seeds(macro_f1), y, person, p.argmax(2)).values()) for n, p in predictions.items()}
        out.append(
            Result(
                metric=f"{main} macro-F1 of the worst person", value=worst.pop(main), n_persons=len(set(person)),
                unit="window", baselines=tuple(Baseline(name=n, value=v) for n, v in worst.items()),
            )
        )  # fmt: skip
    return out if alike is None else [*out, *_matched(made, predictions, average, main, against, alike)]


def _matched(
    made: Sequence[Fold], predictions: Mapping[str, np.ndarray], average: Average, main: str, against: Sequence[str],
    alike: Alike,
) -> list[Result]:  # fmt: skip
    """`results` of the matched persons alone, by the same predictions."""
    if average == "person":
        raise MienError("match: is for persons of one class each, and average: person for persons who have several")
    if not alike.persons:
        return [Result(metric=f"{main} macro-F1, matched persons", value=None, note=alike.said)]
    keep = [np.isin(f.table.person[f.test], sorted(alike.persons)) for f in made]
    some = [replace(f, test=f.test[k]) for f, k in zip(made, keep, strict=True) if k.any()]
    rows = np.concatenate(keep)
    out = results(some, {n: p[rows] for n, p in predictions.items()}, average, main, against)
    return [
        r.model_copy(update={"metric": f"{r.metric}, matched persons", "note": f"{r.note}; {alike.said}"}) for r in out
    ]


def _seeds(statistic: Callable[[np.ndarray, np.ndarray], float]) -> Callable[[np.ndarray, np.ndarray], float]:
    return lambda truth, given: float(np.mean([statistic(truth, given[:, s]) for s in range(given.shape[1])]))


def lead(y: np.ndarray, person: np.ndarray, one: np.ndarray, other: np.ndarray, average: Average) -> Interval:
    """Macro-F1 of one set of predictions, float[n, seeds, classes], less that of another, paired over persons."""
    f1, a, b = _seeds(macro_f1), one.argmax(2), other.argmax(2)
    if average == "window":
        return over_persons(lambda t, u, v: f1(t, u) - f1(t, v), person, y, a, b, bounds=(-1.0, 1.0))
    first, second = by_person(f1, y, person, a), by_person(f1, y, person, b)
    gaps = np.array([first[p] - second[p] for p in first])
    return over_persons(lambda v: float(v.mean()), np.array(list(first)), gaps, bounds=(-1.0, 1.0))
