"""What a representation is worth: probes on persons nobody trained on, beside what is simpler, stream by stream.

A probe is a ridge logistic regression on the representation of the training persons' windows. Beside it: the same probe on
the base without its adapter, a random forest on window statistics (the bar), metadata alone, the majority. Which single
stream is best is decided on the training persons alone, by folds of persons; the held-out persons only judge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..core.errors import MienError
from ..core.results import Baseline, Result
from ..data import matching
from ..data.features import WindowTable
from ..data.matching import Alike, Match
from . import leave_one_out as held_out
from . import transfer
from .transfer import Probe, Represented

ADAPTED, BASE, BAR = "adapted", "frozen base", "classical (forest)"
TASK = "task"
GROUPS = ("sex", "age")  # attributes whose worst group is told, where the cohort has them


def results(
    Z: np.ndarray, frozen: np.ndarray, table: WindowTable, y: np.ndarray, train: np.ndarray, classes: Sequence[str],
    slices: Mapping[str, slice], *, average: held_out.Average = "window", trees: int = 200, seeds: int = 3,
    beside: str = BASE, alone: Mapping[str, np.ndarray] | None = None, without: Mapping[str, np.ndarray] | None = None,
    alike: Alike | None = None, groups: Mapping[str, np.ndarray] | None = None,
) -> list[Result]:  # fmt: skip
    """Z, frozen: float[n, width]; table: the same windows' statistics; y: int[n]; train: bool[n], of training persons;
    slices: modality -> columns, zeros where it is missing; beside: what `frozen` is, in words; alone,
    without: modality -> float[n, width], from it alone and from all others, where all share their columns; alike: matched
    persons, of whom the probes are judged again; groups: attribute -> str[n], of which the worst is told. MienError when a
    person is on both sides, or a class is missing from training."""
    transfer.refuse_shared(set(table.person[train]), set(table.person[~train]), "evaluate")
    if not train.any() or train.all():
        raise MienError(f"{int(train.sum())} windows to train a probe on and {int((~train).sum())} to judge it by")
    if gone := set(range(len(classes))) - set(y[train]):
        raise MienError(f"nobody in training has class {classes[min(gone)]!r}; draw another split")
    fold = held_out.Fold(
        table=table, train=np.flatnonzero(train), test=np.flatnonzero(~train), y=y, classes=len(classes)
    )
    parts = {m: Z[:, s] for m, s in slices.items()} if alone is None else dict(alone)
    several = len(parts) > 1
    learners = {
        ADAPTED: (_on(Z), 1), beside: (_on(frozen), 1), BAR: (held_out.forest(trees), seeds), "majority": (held_out.majority, 1),
        "metadata only": (held_out.forest(trees, lambda t: t.meta), seeds),
        **({f"{m} alone": (_on(x), 1) for m, x in parts.items()} if several else {}),
    }  # fmt: skip
    found = held_out.predict([fold], learners)
    worst = _worst(fold, found, beside, average, groups or {})
    if not several:
        return [*held_out.results([fold], found, average, ADAPTED, [beside, BAR], alike), *worst]
    data = by_stream(parts, table, y, classes)
    best = _best(data.rows(fold.train))
    out = held_out.results([fold], found, average, ADAPTED, [beside, BAR, f"{best} alone"], alike)
    note = f"the best single stream, {best}, was chosen on the training persons"
    out = [r.model_copy(update={"note": f"{r.note}; {note}"}) if " alone" in r.metric else r for r in out]
    return [*out, *worst, *missing(data, fold, average, found[ADAPTED], None if without is None else (Z, without))]


def _worst(
    fold: held_out.Fold,
    found: Mapping[str, np.ndarray],
    beside: str,
    average: held_out.Average,
    groups: Mapping[str, np.ndarray],
) -> list[Result]:
    """The task's worst person (of averages of persons `held_out.results` says it) and worst group of each attribute."""
    y, person, of = fold.y[fold.test], fold.table.person[fold.test], {g: v[fold.test] for g, v in groups.items()}
    seen = {
        n: transfer.Predicted(y=y, given=found[n].mean(1), person=person, groups=of) for n in (ADAPTED, beside, BAR)
    }
    out = [transfer.worst_group(seen[ADAPTED], g, "macro-F1") for g in of]
    if average == "window":
        least = {n: min(p.each("macro-F1").values()) for n, p in seen.items()}
        out.insert(0, Result(
            metric="macro-F1 of the worst person", value=least.pop(ADAPTED), n_persons=len(set(person)), unit="window",
            baselines=tuple(Baseline(name=n, value=v) for n, v in least.items()), note="the worst of many: no interval",
        ))  # fmt: skip
    return [r.model_copy(update={"metric": f"{ADAPTED} {r.metric}"}) for r in out]


def of(o: Any, average: held_out.Average = "window", match: Match | None = None, seed: int = 0) -> list[Result]:
    """`results` of an opened run (`adapters/represented.Opened`). match: what persons of different classes must agree in."""
    return results(
        o.Z, o.frozen, o.table, o.y, o.train, o.classes, o.slices, average=average, beside=o.made.beside, alone=o.alone,
        without=o.without, alike=matching.alike(o.cohort, o.table.rows(~o.train), match, seed),
        groups=transfer.groups_of(o.cohort, o.table.person, GROUPS),
    )  # fmt: skip


def missing(
    data: Represented, fold: held_out.Fold, average: held_out.Average, whole: np.ndarray,
    shared: tuple[np.ndarray, Mapping[str, np.ndarray]] | None = None,
) -> list[Result]:  # fmt: skip
    """For each stream: what it costs when it is missing at test time, beside never having had it in the probe. The probe has
    seen its training windows whole and without each stream, as the heads have. shared: where streams have no columns of
    their own, all windows' vectors from all streams, and stream -> from all others."""
    out = []
    y, person = fold.y[fold.test], fold.table.person[fold.test]
    predicted = _missing_columns(data, fold) if shared is None else _missing_vectors(data, fold, *shared)
    for m, (lost, never) in predicted.items():
        gap = held_out.lead(y, person, lost, never, average)
        values = [held_out.measure("macro-F1", y, person, p, average) for p in (lost, never, whole)]
        out.append(
            Result(
                metric=f"{m} missing at test − trained without it, macro-F1", value=gap.value, low=gap.low, high=gap.high,
                n_persons=gap.n_persons, unit="window",
                note="paired; an interval that reaches 0 shows no cost, and leaves room for one down to its lower end",
                baselines=tuple(
                    Baseline(name=n, value=v.value, low=v.low, high=v.high)
                    for n, v in zip(("missing at test", "trained without", "with all"), values, strict=True)
                ),
            )
        )  # fmt: skip
    return out


def _missing_columns(data: Represented, fold: held_out.Fold) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """stream -> predictions int[test, 1] without it, by the taught probe and by one that never had it."""
    train, test = data.rows(fold.train), data.rows(fold.test)
    taught, out = Probe(absent=True).fit(train, TASK), {}
    for m in data.X:
        rest = [other for other in data.X if other != m]
        never = Probe().fit(train.only(rest), TASK)(test.only(rest))
        out[m] = taught(test.without(m))[:, None], never[:, None]
    return out


def _missing_vectors(
    data: Represented, fold: held_out.Fold, Z: np.ndarray, without: Mapping[str, np.ndarray]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The same where streams share their columns."""
    views = [Z, *without.values()]
    every = data.rows(np.tile(fold.train, len(views)))
    stacked = replace(every, X={"all": np.concatenate([np.asarray(v[fold.train], np.float64) for v in views])})
    taught, out = Probe().fit(stacked, TASK), {}
    for m, v in without.items():
        view = replace(data, X={"all": np.asarray(v, np.float64)})
        never = Probe().fit(view.rows(fold.train), TASK)(view.rows(fold.test))
        out[m] = taught(view.rows(fold.test))[:, None], never[:, None]
    return out


def _on(X: np.ndarray) -> held_out.Learner:
    return lambda fold, seed: held_out.logistic(
        replace(fold, table=replace(fold.table, X=np.asarray(X, np.float64))), seed
    )


def by_stream(
    parts: Mapping[str, np.ndarray], table: WindowTable, y: np.ndarray, classes: Sequence[str]
) -> Represented:
    """Stream by stream, NaN where one is missing. y: int[n] of classes, or numbers where there are none."""
    return Represented(
        X={m: np.where(np.abs(x).sum(1, keepdims=True) > 0, x, np.nan).astype(np.float64) for m, x in parts.items()}, person=table.person,
        recording=table.recording, time_s=table.meta[:, -1], seconds=0.0, classes={TASK: tuple(classes)} if classes else {},
        labels={TASK: np.array([classes[c] for c in y], dtype=object) if classes else np.asarray(y, np.float64)},
    )  # fmt: skip


def _best(train: Represented, folds: int = 3) -> str:
    """The stream whose probe does best within the training persons, by folds of persons; the first where there is one person."""
    if len(train.persons) < 2:
        return next(iter(train.X))

    def score(m: str) -> float:
        found = transfer.held_out(train.only([m]), TASK, Probe(), min(folds, len(train.persons)))
        return found.metric("macro-F1")(found.y, found.given)

    return max(train.X, key=score)
