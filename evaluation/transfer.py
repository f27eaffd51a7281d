"""Does a representation transfer: to other persons, tasks and cohorts, with few labels, and without a modality?

A probe is learnt on some persons and judged on others, always: every protocol here refuses a split that shares a person.
Predictions are made once per window; a metric is then taken over all windows together, with an interval that leaves out
whole persons (core/intervals.py), or of each person, where two representations are compared in pairs. Intervals are over
tested persons with the probes as they were fitted: how much another draw of training persons would change is not in them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from ..core.errors import MienError
from ..core.intervals import Interval, auc, over_persons
from ..core.records import Cohort, cut, recording_windows
from ..core.results import Baseline, Result
from ..data import features
from .leave_one_out import apart, balanced_accuracy, brier, ece
from .utility.tstr import macro_f1

EXACT = 20  # persons up to which all 2^n signs are tried
MANY = 20  # persons from which on a bootstrap of them is an interval
DRAWS = 100_000  # signs drawn where there are more
AGES = (18, 30, 45, 60)  # years at which a band of ages begins
CELL = 5  # persons a group needs before it is judged


# --- what is probed ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Represented:
    """Windows as vectors, per modality, with their owners.

    X: modality -> float64[n, d], NaN where the modality (or a statistic) is missing; person, recording: str[n]; time_s:
    float64[n], when a window begins, in a clock that orders each person's windows; seconds: of one window; labels: task ->
    object[n] of classes (None: unlabelled) or float64[n] (NaN: unlabelled); classes: task -> its classes in order, for the
    tasks that have any; groups: attribute -> str[n], constant within a person ("" where unknown).

    MienError on arrays of other lengths, infinite values, a label outside the declared classes, a recording of two persons
    and a group that changes within one person.
    """

    X: Mapping[str, np.ndarray]
    person: np.ndarray
    recording: np.ndarray
    time_s: np.ndarray
    seconds: float
    labels: Mapping[str, np.ndarray]
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    groups: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.person)
        named = {**self.X, "recording": self.recording, "time_s": self.time_s, **self.labels, **self.groups}
        for name, value in named.items():
            if len(value) != n:
                raise MienError(f"representations: {name} has {len(value)} rows for {n} windows")
        if not n or not self.X:
            raise MienError(f"representations: {n} windows of {len(self.X)} modalities; there is nothing to probe")
        for name, x in self.X.items():
            if x.ndim != 2 or np.isinf(x).any():
                raise MienError(f"representations: {name} is no finite matrix; one row per window, NaN where missing")
        for task, names in self.classes.items():
            if task not in self.labels:
                raise MienError(f"task {task} has classes and no labels; give both, or neither")
            lost = sorted({str(v) for v in self.labels[task] if v is not None} - set(names))
            if lost:
                raise MienError(f"task {task}: the label {lost[0]!r} is not among its classes {', '.join(names)}")
        person = self.person.astype(str)
        if len(set(zip(self.recording.astype(str), person, strict=True))) != len(set(self.recording.astype(str))):
            raise MienError("representations: a recording has two persons; a recording has one")
        for name, value in self.groups.items():
            if len(set(zip(person, value.astype(str), strict=True))) != len(set(person)):
                raise MienError(f"representations: {name} changes within a person; groups are of persons")

    def __len__(self) -> int:
        return len(self.person)

    @property
    def persons(self) -> list[str]:
        return sorted(set(self.person.tolist()))

    def rows(self, keep: np.ndarray) -> Represented:
        """The rows where the boolean (or index) array `keep` says so."""
        part = {k: {n: v[keep] for n, v in getattr(self, k).items()} for k in ("X", "labels", "groups")}
        return replace(self, **part, person=self.person[keep], recording=self.recording[keep], time_s=self.time_s[keep])

    def only(self, modalities: Collection[str]) -> Represented:
        """These modalities, in the cohort's order. MienError where one is not there."""
        if unknown := [m for m in modalities if m not in self.X]:
            raise MienError(f"no modality {unknown[0]!r}; there are {', '.join(self.X)}")
        return replace(self, X={m: x for m, x in self.X.items() if m in modalities})

    def without(self, modality: str) -> Represented:
        """All of it missing, as when a sensor was left at home: the columns stay, and are NaN."""
        self.only([modality])
        return replace(self, X={m: np.full_like(x, np.nan) if m == modality else x for m, x in self.X.items()})

    def labelled(self, task: str) -> Represented:
        """The windows that have a label of the task."""
        return self.rows(self.known(task))

    def known(self, task: str) -> np.ndarray:
        """bool[n]: whether a window has the task's label."""
        if task not in self.labels:
            raise MienError(f"no task {task!r}; there are {', '.join(self.labels)}")
        y = self.labels[task]
        return np.array([v is not None for v in y]) if task in self.classes else ~np.isnan(y.astype(np.float64))

    def truth(self, task: str) -> np.ndarray:
        """int[n] classes, -1 where unlabelled, or float64[n]."""
        if task not in self.classes:
            return self.labels[task].astype(np.float64)
        code = {c: i for i, c in enumerate(self.classes[task])}
        return np.array([-1 if v is None else code[str(v)] for v in self.labels[task]])


def statistics(
    cohort: Cohort, *, seconds: float, stride_s: float, groups: Sequence[str] = (), valid: float = 1.0
) -> Represented:
    """Classical window statistics (data/features.py), a modality per stream: what a learnt representation must beat.

    groups: constant attributes to keep, age in bands. A window's time is its recording's start plus its own."""
    card = cohort.card
    X: dict[str, list] = {s: [] for s in card.streams}
    kept: list[tuple[str, str, float, dict, dict]] = []
    for r in cohort:
        for w in recording_windows(r, seconds, stride_s):
            streams, why = cut(r, w, valid)
            if why:
                continue
            for s in X:
                X[s].append(features.vector(streams, features.only(card, [s])))
            kept.append((r.person, r.id, r.start_s + w.start_s, dict(r.labels), dict(r.attributes)))
    if not kept:
        raise MienError(f"cohort {card.name!r} has no usable window of {seconds:g} s")
    person, recording, time_s, labels, attributes = zip(*kept, strict=True)
    named = {t: tuple(c) for t, c in card.tasks.items() if c}
    return Represented(
        X={s: np.array(x, dtype=np.float64) for s, x in X.items()},
        person=np.array(person, dtype=object), recording=np.array(recording, dtype=object), time_s=np.array(time_s),
        seconds=seconds, classes=named,
        labels={
            t: np.array([v.get(t) for v in labels], dtype=object if t in named else np.float64) for t in card.tasks
        },
        groups={g: np.array([group(g, a.get(g)) for a in attributes], dtype=object) for g in groups},
    )  # fmt: skip


def group(name: str, value: Any) -> str:
    """An attribute as a group of persons: age in bands, \"\" where unknown."""
    if name == "age" and isinstance(value, int | float):
        at = int(np.searchsorted(AGES, value, "right"))
        return f"{AGES[at - 1] if at else 0}–{AGES[at] - 1 if at < len(AGES) else ''}"
    return "" if value is None else str(value)


def groups_of(cohort: Cohort, person: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    """attribute -> str[n], of those that the card has; "" for whoever's changes."""
    own: dict[str, dict[str, set[str]]] = {g: {} for g in names if g in cohort.card.attributes}
    for p, attributes in zip(cohort.column("person"), cohort.column("attributes"), strict=True):
        for g, of_each in own.items():
            of_each.setdefault(p, set()).add(group(g, attributes.get(g)))
    one = {g: {p: next(iter(v)) if len(v) == 1 else "" for p, v in of_each.items()} for g, of_each in own.items()}
    return {g: np.array([of_each[p] for p in person], dtype=object) for g, of_each in one.items()}


# --- the probe -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """ready: windows -> float64[n, d], standardised; predict: that -> float64[n, classes] or float64[n]."""

    ready: Callable[[Represented], np.ndarray]
    predict: Callable[[np.ndarray], np.ndarray]

    def __call__(self, data: Represented) -> np.ndarray:
        return self.predict(self.ready(data))


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A small model on a frozen representation, fitted with fixed options: nothing is tuned on anybody.

    kind: logistic (classes, balanced), ordinal (ordered classes, by one logistic per threshold: Frank & Hall 2001), ridge
    (a number) or forest (either; the classical bar). strength: of the L2 penalty, on columns standardised by the training
    windows, where what is missing is average. absent: also learn from copies of the training windows with one modality
    missing each, so that its absence at test time is nothing new. trees, seed: of the forest. per_column: of a ridge, the
    strength times the number of columns, a prior under which they all together tell as much as they leave open, however many
    there are.
    """

    kind: Literal["logistic", "ordinal", "ridge", "forest"] = "logistic"
    strength: float = 1.0
    absent: bool = False
    trees: int = 200
    seed: int = 0
    per_column: bool = False

    def fit(self, data: Represented, task: str) -> Fitted:
        """MienError where the task's labels are of another kind, or fewer than two classes are there to learn."""
        data = data.labelled(task)
        if self.absent and len(data.X) > 1:
            parts = [data, *(data.without(m) for m in data.X)]
            X = {m: np.concatenate([p.X[m] for p in parts]) for m in data.X}
            data = replace(data.rows(np.tile(np.arange(len(data)), len(parts))), X=X)
        y, k = data.truth(task), len(data.classes.get(task, ()))
        if (self.kind == "ridge") == bool(k) and self.kind != "forest":
            raise MienError(f"task {task} {'has classes' if k else 'is a number'}; a {self.kind} probe cannot learn it")
        if len(set(y.tolist())) < (2 if k else 1):
            raise MienError(f"task {task}: {len(set(y.tolist()))} classes among {len(y)} windows; a probe needs two")
        ready = _scaled(data)
        return Fitted(ready=ready, predict=self._learn(ready(data), y, k))

    def _learn(self, Z: np.ndarray, y: np.ndarray, k: int) -> Callable[[np.ndarray], np.ndarray]:
        from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
        from sklearn.linear_model import LogisticRegression, Ridge

        if not k:
            strength = self.strength * (Z.shape[1] if self.per_column else 1)
            number: Any = Ridge(strength) if self.kind == "ridge" else RandomForestRegressor(
                self.trees, random_state=self.seed, n_jobs=1
            )  # fmt: skip
            return number.fit(Z, y).predict
        if self.kind == "ordinal":
            return _ordinal(Z, y, k, self.strength)
        model: Any = RandomForestClassifier(self.trees, random_state=self.seed, n_jobs=1)
        if self.kind == "logistic":
            model = LogisticRegression(C=1 / self.strength, class_weight="balanced", max_iter=1000)
        model.fit(Z, y)

        def predict(new: np.ndarray) -> np.ndarray:
            out = np.zeros((len(new), k))
            out[:, model.classes_] = model.predict_proba(new)
            return out

        return predict


def _ordinal(Z: np.ndarray, y: np.ndarray, k: int, strength: float) -> Callable[[np.ndarray], np.ndarray]:
    """P(class > c) for each c, then their differences; thresholds that cross are put in order."""
    from sklearn.linear_model import LogisticRegression

    above: list[Callable[[np.ndarray], np.ndarray]] = []
    for c in range(k - 1):
        higher, share = y > c, float((y > c).mean())
        if share in (0.0, 1.0):
            above.append(lambda new, p=share: np.full(len(new), p))
        else:
            one = LogisticRegression(C=1 / strength, class_weight="balanced", max_iter=1000).fit(Z, higher)
            above.append(lambda new, m=one: m.predict_proba(new)[:, 1])

    def predict(new: np.ndarray) -> np.ndarray:
        exceed = np.minimum.accumulate(np.stack([f(new) for f in above], axis=1), axis=1)
        return -np.diff(np.c_[np.ones(len(new)), exceed, np.zeros(len(new))], axis=1)

    return predict


def _scaled(data: Represented) -> Callable[[Represented], np.ndarray]:
    names = list(data.X)
    X = np.hstack([data.X[m] for m in names])
    known = ~np.isnan(X).all(0)
    if not known.any():  # nothing was measured of those learnt from: what a probe then says is the same of everybody
        return lambda new: np.zeros((len(new), 1))
    mean, sd = np.nanmean(X[:, known], 0), np.nanstd(X[:, known], 0)

    def ready(new: Represented) -> np.ndarray:
        Z = (np.hstack([new.X[m] for m in names])[:, known] - mean) / (sd + 1e-9)
        return np.nan_to_num(Z).clip(-10, 10)

    return ready


# --- metrics -------------------------------------------------------------------------------------------------------


def auroc(y: np.ndarray, given: np.ndarray) -> float:
    """Of two classes, or the mean of one-against-rest over the classes that occur; NaN where only one does."""
    present = set(np.unique(y).tolist())
    if len(present) < 2:
        return float("nan")
    ones = [1] if given.shape[1] == 2 else sorted(present)
    return float(np.mean([auc(given[y == c, c], given[y != c, c]) for c in ones]))


def ccc(y: np.ndarray, given: np.ndarray) -> float:
    """Concordance correlation (Lin 1989): 2 cov / (var + var + (difference of means)²); NaN where both are constant."""
    spread = y.var() + given.var() + (y.mean() - given.mean()) ** 2
    return float(2 * ((y - y.mean()) * (given - given.mean())).mean() / spread) if spread > 0 else float("nan")


def mae(y: np.ndarray, given: np.ndarray) -> float:
    """Of numbers; of ordered classes, of the expected one."""
    return float(np.abs(y - (given if given.ndim == 1 else given @ np.arange(given.shape[1]))).mean())


def rmse(y: np.ndarray, given: np.ndarray) -> float:
    """Root mean squared error, in the label's unit."""
    return float(np.sqrt(((y - given) ** 2).mean()))


Metric = Callable[[np.ndarray, np.ndarray], float]
CLASSES: dict[str, Metric] = {
    "macro-F1": lambda y, g: macro_f1(y, g.argmax(1)), "balanced accuracy": lambda y, g: balanced_accuracy(y, g.argmax(1)),
    "AUROC": auroc, "ECE": ece, "Brier": brier,
}  # fmt: skip
NUMBERS: dict[str, Metric] = {"CCC": ccc, "MAE": mae, "RMSE": rmse}
LOWER = ("MAE", "RMSE", "ECE", "Brier")  # smaller is better
BOUNDS = {"CCC": (-1.0, 1.0), "MAE": None, "RMSE": None, "Brier": (0.0, 2.0)}


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """Predictions of windows by probes that had not seen their persons. y: int[n] or float64[n]; given: float64[n,
    classes] or float64[n]; person: str[n]; groups: attribute -> str[n]; note: how they were made."""

    y: np.ndarray
    given: np.ndarray
    person: np.ndarray
    groups: Mapping[str, np.ndarray] = field(default_factory=dict)
    note: str = ""

    @property
    def metrics(self) -> dict[str, Metric]:
        return NUMBERS if self.given.ndim == 1 else CLASSES

    @property
    def of_each(self) -> str:
        """The metric to tell of single persons and groups: of numbers the MAE, for whoever's number never changes has a
        concordance of 0 whatever is said of them."""
        return "MAE" if self.given.ndim == 1 else next(iter(CLASSES))

    def metric(self, name: str) -> Metric:
        if name not in {**self.metrics, "MAE": mae}:
            raise MienError(f"no metric {name!r} for this task; there are {', '.join(self.metrics)}")
        return {**self.metrics, "MAE": mae}[name]

    def each(self, name: str) -> dict[str, float]:
        """Person -> the metric of their windows, without those for whom it does not exist."""
        of = self.metric(name)
        every = {p: of(self.y[self.person == p], self.given[self.person == p]) for p in sorted(set(self.person))}
        return {p: v for p, v in every.items() if np.isfinite(v)}


def measured(
    found: Predicted, beside: Mapping[str, Predicted] | None = None, least: int = CELL, draws: int | None = None
) -> list[Result]:
    """Every metric over all windows; the worst person's and, per attribute, the worst group's (of `Predicted.of_each`).
    beside: other predictions of the same windows, as baselines. least: persons a group needs, or it is counted and not
    judged: one unlucky person is no group. draws: intervals by so many bootstrap draws of persons, where there are MANY, instead of
    the jackknife."""
    out, beside = [], beside or {}
    for name in found.metrics:
        main = _overall(found, name, draws)
        others = {n: i for n, p in beside.items() if (i := _overall(p, name, draws))}
        if main:
            out.append(_result(name, main, found.note, others))
        else:
            out.append(_absent(name, "the windows do not define it (one class, or a constant)"))
    first = found.of_each
    each, of_many = found.each(first), max if first in LOWER else min
    if each:
        worst = {n: of_many(e.values()) for n, p in beside.items() if (e := p.each(first))}
        out.append(Result(
            metric=f"{first} of the worst person", value=of_many(each.values()), n_persons=len(each), unit="window",
            baselines=tuple(Baseline(name=n, value=v) for n, v in worst.items()), note="the worst of many: no interval",
            higher_is_better=first not in LOWER,
        ))  # fmt: skip
    return [*out, *(worst_group(found, a, first, least, draws) for a in found.groups)]


def worst_group(found: Predicted, attribute: str, name: str, least: int = CELL, draws: int | None = None) -> Result:
    """The metric of the group of persons for whom it is worst, among groups of `least` persons or more."""
    of, value = found.metric(name), found.groups[attribute].astype(str)
    size = {g: len(set(found.person[value == g])) for g in sorted(set(value)) if g}
    judged = {g: value == g for g, n in size.items() if n >= least}
    values = {g: v for g, rows in judged.items() if np.isfinite(v := of(found.y[rows], found.given[rows]))}
    metric = f"{name} of the worst group by {attribute}"
    small = sum(n < least for n in size.values())
    more = f"; {small} group(s) of fewer than {least} persons not judged" if small else ""
    if len(values) < 2:
        return _absent(metric, f"{len(values)} group(s) of {least} persons or more, and it takes two{more}", name)
    sign = -1 if name in LOWER else 1
    worst = min(values, key=lambda g: sign * values[g])
    rows = judged[worst]
    interval = _spread(of, name, found.person[rows], found.y[rows], found.given[rows], draws)
    others = {g: Interval(value=v, low=None, high=None, n_persons=size[g]) for g, v in values.items() if g != worst}
    return _result(
        metric,
        interval,
        f"{worst}: the worst of {len(values)}, picked by its own value{more}",
        others,
        name not in LOWER,
    )


def _overall(found: Predicted, name: str, draws: int | None = None) -> Interval | None:
    of = found.metric(name)
    if not np.isfinite(of(found.y, found.given)):
        return None
    return _spread(of, name, found.person, found.y, found.given, draws)


def _spread(of: Metric, name: str, person: np.ndarray, y: np.ndarray, given: np.ndarray, draws: int | None) -> Interval:
    bounds = BOUNDS.get(name, (0.0, 1.0))
    if name == "ECE":  # which grows under resampling: its percentiles lie above it
        draws = None
    return _resampled(of, person, y, given, draws=draws, bounds=bounds)


def _resampled(
    of: Callable[..., float],
    person: np.ndarray,
    *arrays: np.ndarray,
    draws: int | None,
    bounds: tuple[float, float] | None,
) -> Interval:
    """By bootstrap of MANY persons or more, where `draws` are asked for; else by the jackknife, for percentiles of five persons
    drawn from five cover four times in five what they say they cover."""
    if draws is not None and len(set(person.astype(str).tolist())) >= MANY:
        return bootstrap(of, person, *arrays, draws=draws)
    return over_persons(of, person, *arrays, bounds=bounds)


def _absent(metric: str, why: str, name: str = "") -> Result:
    up = (name or metric) not in LOWER
    return Result(metric=metric, value=None, unit="window", higher_is_better=up, note=f"not measured: {why}")


def _result(name: str, main: Interval, note: str, beside: Mapping[str, Interval], up: bool | None = None) -> Result:
    return Result(
        metric=name, value=main.value, low=main.low, high=main.high, n_persons=main.n_persons, unit="window", note=note,
        higher_is_better=name not in LOWER if up is None else up,
        baselines=tuple(Baseline(name=n, value=i.value, low=i.low, high=i.high) for n, i in beside.items()),
    )  # fmt: skip


# --- pairs of persons' values --------------------------------------------------------------------------------------


def sign_flip(differences: np.ndarray, draws: int = DRAWS, seed: int = 0) -> float:
    """Two-sided p of "each person's difference could as well have the other sign" (Fisher 1935, ch. 3), by their mean.

    differences: float64[persons]. Exact over all 2^n signs up to 20 persons; above, `draws` signs and the observed ones
    (Phipson & Smyth 2010), so that it is never 0. With five persons or fewer it cannot be below 0.0625.
    """
    d = np.asarray(differences, dtype=np.float64)
    if not len(d) or not np.isfinite(d).all():
        raise MienError(f"{len(d)} paired differences, not all of them finite; nothing can be tested")
    seen = abs(d.sum()) * (1 - 1e-9) - 1e-15  # sums that differ by rounding alone are equal
    if len(d) <= EXACT:
        sums = d[:1]  # the first sign is fixed: the other half mirrors this one
        for v in d[1:]:
            sums = np.concatenate([sums + v, sums - v])
        return float((np.abs(sums) >= seen).mean())
    rng, more = np.random.default_rng([seed, 0x51]), 0
    for start in range(0, draws, 4096):
        signs = rng.integers(0, 2, (min(4096, draws - start), len(d))) * 2 - 1
        more += int((np.abs(signs @ d) >= seen).sum())
    return (1 + more) / (1 + draws)


def bootstrap(
    statistic: Callable[..., float], person: np.ndarray, *arrays: np.ndarray, draws: int = 2000, seed: int = 0
) -> Interval:
    """Percentile interval over whole persons drawn with replacement (Davison & Hinkley 1997, s. 3.8): beside the jackknife's,
    and too short with fewer than some twenty persons. Draws for which the statistic does not exist are left out; low, high
    None where that is more than one in twenty."""
    names, who = np.unique(person.astype(str), return_inverse=True)
    rows = [np.flatnonzero(who == i) for i in range(len(names))]
    rng, value, found = np.random.default_rng([seed, 0xB0]), float(statistic(*arrays)), []
    for _ in range(draws):
        at = np.concatenate([rows[i] for i in rng.integers(0, len(rows), len(rows))])
        found.append(statistic(*(a[at] for a in arrays)))
    fine = np.array(found)[np.isfinite(found)]
    if len(rows) < 2 or len(fine) < 0.95 * draws:
        return Interval(value=value, low=None, high=None, n_persons=len(rows))
    low, high = np.quantile(fine, (0.025, 0.975))
    return Interval(value=value, low=float(low), high=float(high), n_persons=len(rows))


@dataclass(frozen=True, kw_only=True)
class Gain:
    """One representation against another on the same windows. values: both sides' means over persons; mean: of the persons'
    differences in `metric` (the better way up: positive is better), with its interval; p: of `sign_flip`; wins: share of
    persons who gain (½ for no change), with its interval; pooled: the same difference over all windows together, resampled
    by person (fewer than MANY: jackknife); dropped: persons for whom the metric does not exist (AUROC of one class); chosen:
    of the best single modality, in how many folds each was that."""

    name: str
    metric: str
    values: tuple[float, float]
    mean: Interval
    p: float
    wins: Interval
    pooled: Interval
    dropped: int
    chosen: Mapping[str, int] = field(default_factory=dict)

    def line(self) -> Result:
        """All of it in one row: the persons' mean with its interval, the rest in words."""
        note = (
            f"mean over persons of paired differences ({self.values[0]:.3f} against {self.values[1]:.3f}); sign-flip p ="
            f" {self.p:.3g}; {self.wins.value:.2f} of persons gain [{self.wins.low:.2f}, {self.wins.high:.2f}]"
            + (f"; {self.dropped} person(s) without the metric left out" if self.dropped else "")
        )
        return Result(
            metric=f"{self.name} {self.metric}", value=self.mean.value, low=self.mean.low, high=self.mean.high,
            n_persons=self.mean.n_persons, unit="window", note=note, baselines=(Baseline(name="no difference", value=0.0),),
        )  # fmt: skip

    def results(self) -> list[Result]:
        note = f"mean over persons of paired differences; sign-flip p = {self.p:.3g}"
        if self.dropped:
            note += f"; {self.dropped} person(s) without the metric left out"
        none = (Baseline(name="no difference", value=0.0),)
        rows = [(f"{self.name} {self.metric}", self.mean, note, none)]
        how = "persons resampled (bootstrap)" if self.pooled.n_persons >= MANY else "persons left out (jackknife)"
        rows.append((f"{self.name} {self.metric} of all windows", self.pooled, how, none))
        even = (Baseline(name="even", value=0.5),)
        rows.append((f"{self.name} share of persons who gain", self.wins, "ties count half", even))
        return [
            Result(
                metric=m,
                value=i.value,
                low=i.low,
                high=i.high,
                n_persons=i.n_persons,
                unit="person",
                note=t,
                baselines=b,
            )
            for m, i, t, b in rows
        ]


def gain(name: str, one: Predicted, other: Predicted, metric: str) -> Gain:
    """one − other (of metrics where less is better, other − one). MienError where they are not of the same windows."""
    if not (np.array_equal(one.person, other.person) and np.array_equal(one.y, other.y)):
        raise MienError(f"{name}: the two sides predict different windows; a paired difference needs the same ones")
    sign, a, b = -1.0 if metric in LOWER else 1.0, one.each(metric), other.each(metric)
    both = [p for p in a if p in b]
    if not both:
        raise MienError(f"{name}: nobody has a {metric} of their own; choose one that exists within a person")
    d, of = np.array([sign * (a[p] - b[p]) for p in both]), one.metric(metric)
    values = tuple(float(np.mean([e[p] for p in both])) for e in (a, b))
    return Gain(
        name=name, metric=metric, values=(values[0], values[1]), p=sign_flip(d), dropped=len(set(one.person)) - len(both),
        mean=over_persons(lambda v: float(v.mean()), np.array(both), d, bounds=None), wins=share_of_wins(d),
        pooled=_resampled(
            lambda y, g, h: sign * (of(y, g) - of(y, h)), one.person, one.y, one.given, other.given, draws=500, bounds=None
        ),
    )  # fmt: skip


def share_of_wins(differences: np.ndarray) -> Interval:
    """Share of persons above 0, ties ½; Clopper & Pearson's interval (conservative where there are ties)."""
    from ..core.intervals import clopper_pearson

    won, n = float((differences > 0).sum() + (differences == 0).sum() / 2), len(differences)
    low, high = clopper_pearson(won, n)
    return Interval(value=won / n, low=low, high=high, n_persons=n)


# --- protocols -----------------------------------------------------------------------------------------------------


def refuse_shared(train: Collection[str], test: Collection[str], what: str) -> None:
    """MienError where a person is on both sides; it says how many, and never who."""
    if both := set(train) & set(test):
        raise MienError(
            f"{what}: {len(both)} of {len(set(test))} persons to be tested on are in training too; leave them out on one"
            " side, for a model that knows them says nothing about others"
        )


def fixed(train: Represented, test: Represented, task: str, probe: Probe, note: str = "") -> Predicted:
    """Probe learnt on `train`, judged on `test`. MienError where they share a person."""
    refuse_shared(train.persons, test.persons, note or "the split")
    if train.classes.get(task) != test.classes.get(task):
        raise MienError(f"task {task}: the two sides declare different classes; map one side's onto the other's")
    test = test.labelled(task)
    if not len(test):
        raise MienError(f"task {task}: no window to test on has a label")
    return Predicted(
        y=test.truth(task), given=probe.fit(train, task)(test), person=test.person, groups=test.groups, note=note
    )


Maker = Callable[[Represented, Represented], np.ndarray]


def crossed(
    data: Represented, task: str, make: Maker, k: int | None = None, seed: int = 0, note: str = ""
) -> Predicted:
    """Every labelled window predicted by what `make(train, test)` makes of the other persons: each person alone, or k groups
    of persons. Windows keep their order."""
    data = data.labelled(task)
    if len(data.persons) < 2:
        raise MienError(f"task {task}: {len(data.persons)} person has labels; to test on others it takes two")
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    for train, test in apart(data.person, k, seed):
        refuse_shared(data.person[train], data.person[test], "a fold")
        parts.append((np.flatnonzero(test), make(data.rows(train), data.rows(test))))
    given = np.concatenate([p for _, p in parts])[np.argsort(np.concatenate([r for r, _ in parts]))]
    how = note or ("one person left out at a time" if k is None else f"{k} groups of persons")
    return Predicted(y=data.truth(task), given=given, person=data.person, groups=data.groups, note=how)


def held_out(data: Represented, task: str, probe: Probe, k: int | None = None, seed: int = 0) -> Predicted:
    """Leave one person out (k None), or k-fold by persons."""
    return crossed(data, task, lambda train, test: probe.fit(train, task)(test), k, seed)


def across_cohorts(train: Represented, test: Represented, task: str, probe: Probe) -> Predicted:
    """Learn on one cohort, test on another with the same modalities and classes. MienError where they share a person."""
    if list(train.X) != list(test.X) or any(train.X[m].shape[1] != test.X[m].shape[1] for m in train.X):
        raise MienError("across cohorts: the two have other modalities or columns; represent them alike")
    return fixed(train, test, task, probe, "across cohorts")


def across_tasks(
    data: Represented, adapted_on: Collection[str], task: str, probe: Probe, k: int | None = None, seed: int = 0
) -> Predicted:
    """A task that the representation was not adapted to, probed for on persons its adapter has not seen either: what
    adapting gained or cost there is its `gain` over the same of the representation before. MienError where one of them is
    among `adapted_on`."""
    refuse_shared(adapted_on, data.persons, "across tasks")
    return held_out(data, task, probe, k, seed)


def first(data: Represented, task: str, k: int) -> np.ndarray:
    """bool[n]: each person's first k labelled windows in time, of each class (of numbers: the first k). Ties in time are
    broken by recording, so that the choice is the same each time."""
    chosen, known = np.zeros(len(data), bool), data.known(task)
    kinds = data.truth(task) if task in data.classes else np.zeros(len(data))
    order = np.lexsort((data.recording.astype(str), data.time_s))
    order = order[known[order]]
    count: dict[tuple[str, float], int] = {}
    for i in order.tolist():
        key = (str(data.person[i]), float(kinds[i]))
        count[key] = count.get(key, 0) + 1
        chosen[i] = count[key] <= k
    return chosen


def ordered(data: Represented, order: np.ndarray) -> None:
    """MienError where two recordings of one person (rows `order`, in time) overlap: their clocks then order nothing."""
    change = data.recording[order[1:]] != data.recording[order[:-1]]
    if (change & (np.diff(data.time_s[order]) < max(data.seconds, 1e-6) - 1e-9)).any():
        raise MienError(
            "two recordings of one person overlap in time, so the first windows cannot be told; give the recordings their"
            " start_s, or time_s in the order they were made (personal.untimed: true or transfer.untimed: true takes them in"
            " the order of their ids)"
        )


def one_after_the_other(start_s: np.ndarray, recording: np.ndarray, seconds: float) -> np.ndarray:
    """float64[n]: a clock for recordings nobody wrote a time of: as if each began when the one before, by id, had ended."""
    order = np.unique(recording.astype(str), return_inverse=True)[1]
    return start_s + order * (np.ptp(start_s) + 2 * seconds)


def k_shot(
    data: Represented,
    task: str,
    probe: Probe,
    k: int,
    folds: int | None = None,
    seed: int = 0,
    persons: int | None = None,
) -> Predicted:
    """As `held_out`, where of each training person only the first k labelled windows of each class in time are learnt; or
    only of so many of them (`drawn`). MienError where somebody's recordings have no order in time."""
    if k < 1:
        raise MienError(f"k-shot: k is {k}; one labelled window per class and person at least")
    known, names = data.known(task), data.recording.astype(str)
    for p in data.persons:
        mine = np.flatnonzero((data.person == p) & known)
        ordered(data, mine[np.lexsort((names[mine], data.time_s[mine]))])

    def make(train: Represented, test: Represented) -> np.ndarray:
        some = train if persons is None else train.rows(np.isin(train.person, drawn(train, task, persons, seed)))
        return probe.fit(some.rows(first(some, task, k)), task)(test)

    who = "each training person" if persons is None else f"{persons} persons drawn from those not tested"
    what = "windows per class" if task in data.classes else "windows"
    return crossed(data, task, make, folds, seed, f"{k} {what} of {who}, the first in time")


def drawn(data: Represented, task: str, persons: int, seed: int = 0) -> list[str]:
    """That many persons of `data`, all of whose classes are among theirs: the first such set in a random order that depends
    on who is there and the seed alone. MienError where there are too few persons."""
    if not 1 <= persons <= len(data.persons):
        raise MienError(f"k-shot: {persons} of {len(data.persons)} persons to learn from; lower `persons`")
    rng, kinds = np.random.default_rng([seed, 0x5407]), set(data.truth(task)[data.known(task)].tolist())
    for _ in range(200):
        some = rng.permutation(data.persons)[:persons].tolist()
        there = set(data.truth(task)[np.isin(data.person, some) & data.known(task)].tolist())
        if task not in data.classes or there == kinds:
            return some
    raise MienError(f"k-shot: {persons} persons seldom have all classes of {task}; raise `persons`")


def constant(train: Represented, test: Represented, task: str) -> np.ndarray:
    """What nobody's recordings are needed for: the training windows' classes by their frequency (so the commonest is said),
    or their mean number."""
    y, k = train.truth(task), len(train.classes.get(task, ()))
    if not k:
        return np.full(len(test), y.mean())
    return np.tile(np.bincount(y, minlength=k) / len(y), (len(test), 1))


def best_single(
    data: Represented,
    task: str,
    probe: Probe,
    metric: str = "macro-F1",
    k: int | None = None,
    inner: int = 5,
    seed: int = 0,
) -> tuple[Predicted, dict[str, int]]:
    """The best modality by itself, chosen anew in every fold by `inner`-fold cross-validation among that fold's training
    persons: those it is tested on have no say. Second value: in how many folds each was chosen."""
    chosen: dict[str, int] = dict.fromkeys(data.X, 0)

    def make(train: Represented, test: Represented) -> np.ndarray:
        folds = min(inner, len(train.persons))
        tried = {m: held_out(train.only([m]), task, probe, folds, seed) for m in data.X}
        value = {m: p.metric(metric)(p.y, p.given) * (-1 if metric in LOWER else 1) for m, p in tried.items()}
        best = max(value, key=lambda m: value[m])
        chosen[best] += 1
        return probe.fit(train.only([best]), task)(test.only([best]))

    found = crossed(data, task, make, k, seed)
    return replace(found, note=f"{found.note}; the best single modality, chosen on training persons"), chosen


def multimodal(
    data: Represented, task: str, probe: Probe, metric: str = "macro-F1", k: int | None = None, inner: int = 5,
    seed: int = 0, whole: Represented | None = None,
) -> Gain:  # fmt: skip
    """All modalities together against the best one alone (see `best_single`), in pairs. whole: the same windows from all
    modalities, where that is more than their columns side by side."""
    single, chosen = best_single(data, task, probe, metric, k, inner, seed)
    both = held_out(data if whole is None else whole, task, probe, k, seed)
    return replace(gain("all modalities − best single:", both, single, metric), chosen=chosen)


def missing(
    data: Represented, task: str, probe: Probe, metric: str = "macro-F1", k: int | None = None, seed: int = 0
) -> dict[str, Gain]:
    """Modality -> learnt with it and tested without, against learnt without it: negative is the price of a sensor that fails
    over one that never was."""
    if len(data.X) < 2:
        raise MienError("a missing modality can be borne only where there is another; this representation has one")
    out = {}
    for m in data.X:
        rest = [n for n in data.X if n != m]
        failed = crossed(
            data,
            task,
            lambda train, test, m=m: probe.fit(train, task)(test.without(m)),
            k,
            seed,
            f"{m} missing at test",
        )
        never = held_out(data.only(rest), task, probe, k, seed)
        out[m] = gain(f"{m} missing at test − never there:", failed, never, metric)
    return out
