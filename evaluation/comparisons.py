"""Two sides of windows, compared: the same mix of labels, whole windows of one shape, one scale, intervals over persons.

Every fidelity metric answers twice: synthetic against training windows, and as its control real windows of held-out persons
against the same training windows. A release has no persons, so the interval of the former is over the training
persons it is compared with (delete one, `core/intervals.py`), of the latter over the held-out ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.errors import MienError
from ..core.intervals import Interval, over_persons
from ..core.records import Signal, Stream
from ..core.results import Baseline, Result
from ..data.features import WindowTable
from .protocols import Inputs

REAL = "real vs real persons"
OVER = "interval over the real persons; the release has none"


@dataclass(frozen=True, kw_only=True)
class Sides:
    """One signal's whole windows. train, test, made: float32[n, T, C]; person, others: of train and of test, str[n];
    note: what was left out, or ""."""

    train: np.ndarray
    test: np.ndarray
    made: np.ndarray
    person: np.ndarray
    others: np.ndarray
    rate_hz: float
    channels: tuple[str, ...]
    note: str


def sides(inputs: Inputs, stream: str, most: int, seed: int) -> Sides | str:
    """The stream's windows, at most `most` a side, synthetic ones with the training windows' mix of labels; or why they
    cannot be laid over each other. Windows with gaps are left out and counted."""
    w, t = inputs.windows, inputs.tables
    found, notes = [], []
    for name, windows in (("training", w.train), ("held-out", w.test), ("synthetic", w.synthetic)):
        whole, gaps = _whole(windows, stream)
        if not len(whole) and name != "held-out":
            return f"every {name} window of {stream} has a gap" if gaps else f"no {name} window has the stream {stream}"
        if gaps:
            notes.append(f"{gaps} {name} windows with gaps left out")
        found.append(whole)
    kinds = {
        (s.rate_hz, s.values.shape, s.channels)
        for windows, rows in zip((w.train, w.test, w.synthetic), found, strict=True)
        for i in rows.tolist()
        if isinstance(s := windows[i][stream], Signal)
    }
    if len(kinds) > 1:
        return f"windows of {stream} differ in rate, length or channels"
    train, test = (rows[some(len(rows), most, seed)] for rows in found[:2])
    made = found[2][alike(t.synthetic.label[found[2]], t.train.label[found[0]], most, seed)]
    (rate_hz, shape, channels) = kinds.pop()

    def stack(windows: Sequence[Mapping[str, Stream]], rows: np.ndarray) -> np.ndarray:
        values = [s.values for i in rows.tolist() if isinstance(s := windows[i][stream], Signal)]
        return np.stack(values) if values else np.empty((0, *shape), np.float32)

    return Sides(
        train=stack(w.train, train), test=stack(w.test, test), made=stack(w.synthetic, made), person=t.train.person[train],
        others=t.test.person[test], rate_hz=rate_hz, channels=channels, note="; ".join(notes),
    )  # fmt: skip


def _whole(windows: Sequence[Mapping[str, Stream]], stream: str) -> tuple[np.ndarray, int]:
    signals = [(i, s) for i, w in enumerate(windows) if isinstance(s := w.get(stream), Signal)]
    whole = [i for i, s in signals if s.complete]
    return np.array(whole, dtype=int), len(signals) - len(whole)


def each_signal(
    inputs: Inputs, names: Sequence[str], most: int, seed: int
) -> Iterator[tuple[str, Sides | None, list[Result]]]:
    """(stream, its sides, []) for each signal of the card; (stream, None, why each of the metrics `names`, in whose places
    {} stands for the stream, is not measured) where it cannot be compared, or is no signal."""
    for stream, spec in inputs.windows.card.streams.items():
        found = sides(inputs, stream, most, seed) if spec.kind == "signal" else f"{stream} holds {spec.kind}, no signal"
        if isinstance(found, str):
            yield stream, None, [not_measured(n.format(stream), found) for n in names]
        else:
            yield stream, found, []


def not_measured(metric: str, why: str, *, higher_is_better: bool = False) -> Result:
    return Result(
        metric=metric, value=None, unit="window", higher_is_better=higher_is_better, note=f"not measured: {why}"
    )


def compared(
    metric: str,
    distance: Callable[[np.ndarray, np.ndarray], float],
    train: np.ndarray,
    test: np.ndarray,
    made: np.ndarray,
    person: np.ndarray,
    others: np.ndarray,
    note: str = "",
) -> Result:
    """distance(real, synthetic) beside distance(real, held-out), with intervals over real persons. Arrays: [n, ...] rows.
    Smaller is better; not measured where the distance is no number (a constant has no skewness). Of signs, [n], rows in which none was
    found count for nobody."""
    if train.ndim == 1:
        (train, person), (test, others) = known(train, person), known(test, others)
    found = spread(lambda x: distance(x, made), person, train)
    if found is None:
        return not_measured(metric, f"{note}; not a number for these windows" if note else "not a number here")
    control = spread(lambda x: distance(train, x), others, test) if len(test) else None
    return Result(
        metric=metric, value=found.value, low=found.low, high=found.high, n_persons=found.n_persons, unit="window",
        higher_is_better=False, note=note, baselines=(baseline(REAL, control),),
    )  # fmt: skip


def known(values: np.ndarray, persons: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float[n] and their persons, without the rows that are no number: a person who has no other is not one of those counted."""
    there = np.isfinite(values)
    return values[there], persons[there]


def spread(
    statistic: Callable[..., float], persons: np.ndarray, *arrays: np.ndarray, floor: float | None = 0.0
) -> Interval | None:
    """`over_persons` of an unbounded statistic, its lower limit not below `floor`; None where it is not a number."""
    try:
        found = over_persons(statistic, persons, *arrays, bounds=None)
    except MienError:
        return None
    if found.low is None or floor is None:
        return found
    return Interval(
        value=found.value, low=min(max(found.low, floor), found.value), high=found.high, n_persons=found.n_persons
    )


def baseline(name: str, found: Interval | None) -> Baseline:
    if found is None:
        return Baseline(name=name, value=None)
    return Baseline(name=name, value=found.value, low=found.low, high=found.high)


def some(n: int, most: int, seed: int) -> np.ndarray:
    """At most `most` of n row numbers, drawn without replacement, in order."""
    rng = np.random.default_rng(seed)
    return np.arange(n) if n <= most else np.sort(rng.permutation(n)[:most])


def alike(label: np.ndarray, like: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Row numbers of `label`, at most `most`, whose labels are mixed as in `like`: how many of each label were asked of
    a generator is no property of its windows. A label that `label` lacks stays lacking."""
    have = sorted(set(label.tolist()) & set(like.tolist()), key=str)
    if not have:
        return some(len(label), most, seed)
    counts = np.array([(label == c).sum() for c in have])
    share = np.array([(like == c).sum() for c in have], dtype=float)
    share /= share.sum()
    n = min(float((counts / share).min()), most)
    take = np.maximum(1, np.floor(n * share + 1e-9)).astype(int)
    rng = np.random.default_rng(seed)
    rows = [rng.permutation(np.flatnonzero(label == c))[:k] for c, k in zip(have, take.tolist(), strict=True)]
    return np.sort(np.concatenate(rows))


def on_one_scale(real: WindowTable, *others: WindowTable) -> list[np.ndarray]:
    """Window statistics of each table, standardised by the real training windows' means and standard deviations; a
    statistic that no training window has, or that never varies there, is left out, a missing one is at the mean."""
    known = np.flatnonzero(~np.isnan(real.X).all(axis=0))
    known = known[np.nanstd(real.X[:, known], axis=0) > 1e-12]
    mean, sd = np.nanmean(real.X[:, known], axis=0), np.nanstd(real.X[:, known], axis=0)
    return [
        np.nan_to_num((t.X[:, known] - mean) / sd, nan=0.0, posinf=0.0, neginf=0.0).clip(-8, 8) for t in (real, *others)
    ]


def tables(inputs: Inputs, most: int, seed: int) -> tuple[WindowTable, WindowTable, WindowTable]:
    """Training, held-out and synthetic window statistics, at most `most` a side; synthetic ones mixed as the training's."""
    t = inputs.tables
    train, test = (x.rows(some(len(x), most, seed)) for x in (t.train, t.test))
    return train, test, t.synthetic.rows(alike(t.synthetic.label, t.train.label, most, seed))


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """float64[len(a), len(b)]: Euclidean."""
    square = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    return np.sqrt(np.clip(square, 0, None))


def ks(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference of the two samples' distribution functions; NaN are left out."""
    a, b = (np.sort(x[np.isfinite(x)]) for x in (a, b))
    if not len(a) or not len(b):
        return float("nan")
    at = np.concatenate([a, b])
    return float(np.abs(np.searchsorted(a, at, "right") / len(a) - np.searchsorted(b, at, "right") / len(b)).max())


def wasserstein(a: np.ndarray, b: np.ndarray) -> float:
    """The area between the two samples' distribution functions, in their unit; NaN are left out."""
    a, b = (np.sort(x[np.isfinite(x)]) for x in (a, b))
    if not len(a) or not len(b):
        return float("nan")
    at = np.sort(np.concatenate([a, b]))
    gap = np.searchsorted(a, at[:-1], "right") / len(a) - np.searchsorted(b, at[:-1], "right") / len(b)
    return float((np.abs(gap) * np.diff(at)).sum())


def regrouped(person: np.ndarray, others: np.ndarray, draws: int, seed: int) -> Iterator[np.ndarray]:
    """bool[len(person) + len(others)]: persons of both sides dealt anew into groups as large, `draws` times; True where a
    row's person fell to the first. What a distance is between groups of persons that nothing but chance tells apart."""
    every = np.concatenate([person, others]).astype(str)
    names, who = np.unique(every, return_inverse=True)
    first = len(set(person.tolist()))
    rng = np.random.default_rng(seed)
    for _ in range(draws):
        yield np.isin(who, rng.permutation(len(names))[:first])


def numbers(found: Interval) -> dict[str, Any]:
    """A Result's fields."""
    return {"value": found.value, "low": found.low, "high": found.high, "n_persons": found.n_persons}
