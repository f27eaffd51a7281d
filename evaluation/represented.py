"""What a representation is worth: probes on persons nobody trained on, beside what is simpler, stream by stream.

A probe is a ridge logistic regression on the representation of the training persons' windows. Beside it: the same probe on
the base without its adapter, a random forest on window statistics (the bar), metadata alone, the majority. Which single
stream is best is decided on the training persons alone, by folds of persons; the held-out persons only judge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ..core.errors import MienError
from ..core.results import Baseline, Result
from ..data.features import WindowTable
from . import leave_one_out as held_out

ADAPTED, BASE, BAR = "adapted", "frozen base", "classical (forest)"


def results(
    Z: np.ndarray, frozen: np.ndarray, table: WindowTable, y: np.ndarray, train: np.ndarray, classes: Sequence[str],
    slices: Mapping[str, slice], *, average: held_out.Average = "window", trees: int = 200, seeds: int = 3,
) -> list[Result]:  # fmt: skip
    """Z, frozen: float[n, width]; table: the same windows' statistics; y: int[n]; train: bool[n], of training persons;
    slices: modality -> columns. MienError when a person is on both sides, or a class is missing from training."""
    if shared := set(table.person[train]) & set(table.person[~train]):
        raise MienError(f"{len(shared)} person(s) are in training and in test; a probe is judged on others")
    if not train.any() or train.all():
        raise MienError(f"{int(train.sum())} windows to train a probe on and {int((~train).sum())} to judge it by")
    if gone := set(range(len(classes))) - set(y[train]):
        raise MienError(f"nobody in training has class {classes[min(gone)]!r}; draw another split")
    fold = held_out.Fold(
        table=table, train=np.flatnonzero(train), test=np.flatnonzero(~train), y=y, classes=len(classes)
    )
    alone = {m: _only(Z, slices, [m]) for m in slices}
    learners = {
        ADAPTED: (_on(Z), 1), BASE: (_on(frozen), 1), BAR: (held_out.forest(trees), seeds), "majority": (held_out.majority, 1),
        "metadata only": (held_out.forest(trees, lambda t: t.meta), seeds),
        **({f"{m} alone": (_on(X), 1) for m, X in alone.items()} if len(slices) > 1 else {}),
    }  # fmt: skip
    found = held_out.predict([fold], learners)
    rivals = [BASE, BAR]
    note = ""
    if len(slices) > 1:
        best = max(slices, key=lambda m: _inside(alone[m], fold))
        note = f"the best single stream, {best}, was chosen on the training persons"
        rivals.append(f"{best} alone")
    out = held_out.results([fold], found, average, ADAPTED, rivals)
    out = [r.model_copy(update={"note": f"{r.note}; {note}"}) if note and " alone" in r.metric else r for r in out]
    return [*out, *missing(Z, fold, slices, average, found[ADAPTED])]


def missing(
    Z: np.ndarray, fold: held_out.Fold, slices: Mapping[str, slice], average: held_out.Average, whole: np.ndarray
) -> list[Result]:
    """For each stream: what it costs when it is missing at test time, beside never having had it in the probe. The probe has
    seen its training windows whole and without each stream, as the heads have."""
    if len(slices) < 2:
        return []
    out, rows = [], held_out.tested([fold])
    y, person = fold.y[rows], fold.table.person[rows]
    for m in slices:
        rest = [other for other in slices if other != m]
        gone = Z.copy()
        gone[fold.test] = _only(Z[fold.test], slices, rest)
        lost = held_out.predict([fold], {"lost": (_subsets(gone, slices), 1)})["lost"]
        never = held_out.predict([fold], {"never": (_on(_only(Z, slices, rest)), 1)})["never"]
        gap = held_out._lead(y, person, lost, never, average)
        values = [held_out.measure("macro-F1", y, person, p, average) for p in (lost, never, whole)]
        out.append(
            Result(
                metric=f"{m} missing at test − trained without it, macro-F1", value=gap.value, low=gap.low, high=gap.high,
                n_persons=gap.n_persons, unit="window", note="paired; no cost where the interval reaches 0",
                baselines=tuple(
                    Baseline(name=n, value=v.value, low=v.low, high=v.high)
                    for n, v in zip(("missing at test", "trained without", "with all"), values, strict=True)
                ),
            )
        )  # fmt: skip
    return out


def _on(X: np.ndarray) -> held_out.Learner:
    return lambda fold, seed: held_out.logistic(
        replace(fold, table=replace(fold.table, X=np.asarray(X, np.float64))), seed
    )


def _subsets(X: np.ndarray, slices: Mapping[str, slice]) -> held_out.Learner:
    """The probe, fitted on training windows with all streams and without each of them in turn."""

    def learner(fold: held_out.Fold, seed: int) -> np.ndarray:
        parts = [X, *(_only(X[fold.train], slices, [o for o in slices if o != m]) for m in slices)]
        n, k = len(X), len(fold.train)
        wide = replace(
            fold, train=np.concatenate([fold.train, np.arange(n, n + k * len(slices))]),
            y=np.concatenate([fold.y, *[fold.y[fold.train]] * len(slices)]),
        )  # fmt: skip
        return _on(np.concatenate(parts))(wide, seed)

    return learner


def _only(Z: np.ndarray, slices: Mapping[str, slice], kept: Sequence[str]) -> np.ndarray:
    """The representation of windows that have only these streams: the others' places are zero, and what is left is scaled as
    the towers' fusion scales it. Exact where every stream was present."""
    out = np.zeros_like(Z)
    there = {m: np.abs(Z[:, s]).sum(1) > 0 for m, s in slices.items()}
    before, after = sum(t.astype(float) for t in there.values()), sum(there[m].astype(float) for m in kept)
    scale = np.sqrt(np.maximum(before, 1) / np.maximum(after, 1))
    for m in kept:
        out[:, slices[m]] = Z[:, slices[m]] * scale[:, None]
    return out


def _inside(X: np.ndarray, fold: held_out.Fold, k: int = 3) -> float:
    """Macro-F1 of the probe within the training persons, by folds of persons."""
    people = sorted(set(fold.table.person[fold.train]))
    if len(people) < 2:
        return 0.0
    score: list[float] = []
    for part in (people[i :: min(k, len(people))] for i in range(min(k, len(people)))):
        test = fold.train[np.isin(fold.table.person[fold.train], part)]
        rest = np.setdiff1d(fold.train, test)
        if len(set(fold.y[rest])) < 2:
            continue
        inner = replace(fold, train=rest, test=test)
        score.append(held_out.macro_f1(fold.y[test], _on(X)(inner, 0).argmax(1)))
    return float(np.mean(score)) if score else 0.0
