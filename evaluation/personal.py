"""Is a model of one's own worth it? Generic, pooled, personal and personal-only probes on the same later tail of each person.

Of everybody, the first k labelled windows of each class *in time* are there to adapt from, and what comes later is the tail
that all methods and all k are judged on: no method sees its labels, or learns from a window of it. Label-free calibration
uses the person's first windows without a look at their labels; they are no part of the tail either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from ..core.errors import MienError
from ..core.intervals import Interval, over_persons
from ..core.results import Baseline, Result
from .transfer import BOUNDS, LOWER, Fitted, Gain, Predicted, Probe, Represented, first, gain, ordered

Tail = Literal["strict", "class"]


@dataclass(frozen=True, kw_only=True)
class Person:
    """What a method may look at for one person: `others`, all windows of the other persons; `shots`, this person's first k
    labelled windows per class; `calibration`, their first windows in time, whose labels are not to be looked at; `tail`, the
    windows to predict (of which the labels are hidden). early: bool per row of `others`, their calibration windows."""

    others: Represented
    early: np.ndarray
    shots: Represented
    calibration: Represented
    tail: Represented
    task: str
    probe: Probe


Method = Callable[[Person], np.ndarray]
"""A person -> float64[tail, classes] or float64[tail]."""


def generic(p: Person) -> np.ndarray:
    """The probe of the other persons, as it is."""
    return p.probe.fit(p.others, p.task)(p.tail)


def pooled(p: Person) -> np.ndarray:
    """One probe of the other persons' windows and this person's few, which count like any other."""
    return p.probe.fit(_joined(p.others, p.shots), p.task)(p.tail)


def personal_only(p: Person) -> np.ndarray:
    """The probe of this person's windows alone."""
    return p.probe.fit(p.shots, p.task)(p.tail)


def personal(p: Person) -> np.ndarray:
    """The generic probe, moved by this person's windows: its logits (or number) plus a linear correction with a Gaussian
    prior at zero (as L2-SP draws a fine-tuned model towards its start: Li, Grandvalet & Davoine 2018, eq. 3). The prior lets
    the correction move a typical window's logit by one standard deviation of 1; it is fixed, and tuned on nobody."""
    model = p.probe.fit(p.others, p.task)
    if p.probe.kind == "ordinal":
        raise MienError("an ordinal probe has no logits to move; use logistic or ridge for personal probes")
    Z, new = _wide(model, p.shots), _wide(model, p.tail)
    if p.task not in p.others.classes:
        return model(p.tail) + new @ _shift_number(Z, p.shots.truth(p.task) - model(p.shots))
    start, base = (np.log(np.clip(model(d), 1e-6, 1)) for d in (p.shots, p.tail))
    return _softmax(base + new @ _shift_logits(Z, start, p.shots.truth(p.task)))


def normalised(p: Person) -> np.ndarray:
    """The generic probe on windows less the mean of their person's calibration windows: no label of theirs is used."""
    return generic(_calibrated(p))


def personal_normalised(p: Person) -> np.ndarray:
    """The personal probe on such windows."""
    return personal(_calibrated(p))


def retrieval(p: Person, share: float = 0.5) -> np.ndarray:
    """The probe of those other persons (this share of them) whose calibration windows lie nearest to this person's."""
    names = p.others.persons
    means = np.array([_flat(_mean(p.others.rows(p.early & (p.others.person == n)))) for n in names])
    own, sd = _flat(_mean(p.calibration)), np.nanstd(means, 0) + 1e-9
    far = np.nan_to_num(((means - own) / sd) ** 2).mean(1)
    order, y = np.argsort(far, kind="stable"), p.others.truth(p.task)
    least = max(2, round(share * len(names)))
    for n in range(least, len(names) + 1):  # more, until all classes of the others are there
        mine = np.isin(p.others.person, [names[i] for i in order[:n]])
        if p.task not in p.others.classes or set(y[mine]) >= set(y[y >= 0]):
            return p.probe.fit(p.others.rows(mine), p.task)(p.tail)
    return generic(p)


METHODS: dict[str, Method] = {
    "generic": generic, "pooled": pooled, "personal": personal, "personal-only": personal_only,
    "baseline normalised": normalised, "personal, baseline normalised": personal_normalised, "retrieval": retrieval,
}  # fmt: skip
SHARED, OWN = "shared head", "personal LoRA"  # of a representation run (personalised.py)
LABEL_FREE = ("generic", "baseline normalised", "retrieval", SHARED)  # the same for every k


# --- the comparison ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Compared:
    """found: (method, k) -> predictions of the tail, the same windows for all; gains: (method, k) -> against generic;
    tail: bool per labelled window of the data; note: how tail and shots were cut, and who was left out."""

    found: Mapping[tuple[str, int], Predicted]
    gains: Mapping[tuple[str, int], Gain]
    tail: np.ndarray
    metric: str
    note: str

    def results(self) -> list[Result]:
        """Per method and k: the mean over persons of the metric; the gain over generic; the share of persons who gain."""
        out, base = [], self._mean("generic", 0)
        for (name, k), g in self.gains.items():
            at = name if name in LABEL_FREE else f"{name}, k = {k}"
            i = self._mean(name, k)
            out.append(Result(
                metric=f"{at} {self.metric}", value=i.value, low=i.low, high=i.high, n_persons=i.n_persons, unit="person",
                higher_is_better=self.metric not in LOWER, note=f"mean over persons; {self.note}",
                baselines=(Baseline(name="generic", value=base.value, low=base.low, high=base.high),),
            ))  # fmt: skip
            out += g.results()
        return out

    def _mean(self, name: str, k: int) -> Interval:
        each = self.found[name, k].each(self.metric)
        values = np.array(list(each.values()))
        return over_persons(
            lambda v: float(v.mean()), np.array(list(each)), values, bounds=BOUNDS.get(self.metric, (0.0, 1.0))
        )


def cut(
    data: Represented, task: str, most: int, calibration: int, tail: Tail = "strict", apart: bool = False
) -> tuple[np.ndarray, np.ndarray, str]:
    """(tail, calibration windows: bool[n] each; a sentence about it) of windows that all have labels.

    most: the largest k; calibration: each person's first windows in time. tail "strict": what begins after the last of
    both has ended, as in use; "class": of each class what begins after its own first `most`, for studies whose conditions
    follow each other in blocks. No window of the tail overlaps one that was learnt from in its recording. apart: nor is any of
    a recording of which something was learnt. Persons with an empty tail, or none of one of the classes to learn from, are left
    out and counted.
    """
    shots, early, kept = first(data, task, most), np.zeros(len(data), bool), np.zeros(len(data), bool)
    y, lost = data.truth(task) if task in data.classes else np.zeros(len(data)), 0
    for p in data.persons:
        mine = np.flatnonzero(data.person == p)
        order = mine[np.lexsort((data.recording[mine].astype(str), data.time_s[mine]))]
        early[order[:calibration]] = True
        ordered(data, order)
        used = mine[shots[mine] | early[mine]]
        free = np.setdiff1d(mine, used)
        for i in free:
            before = used if tail == "strict" else used[(y[used] == y[i]) & shots[used]]
            same = used[data.recording[used] == data.recording[i]]
            clear = (np.abs(data.time_s[same] - data.time_s[i]) >= data.seconds - 1e-9).all()
            late = (data.time_s[before] <= data.time_s[i]).all()
            kept[i] = late and clear and not (apart and len(same))
        kinds = set(y[mine].tolist())
        few = (task in data.classes and len(kinds) < 2) or any(shots[mine[y[mine] == c]].sum() < most for c in kinds)
        if few or not kept[mine].any():
            kept[mine], lost = False, lost + 1
    how = "after everything learnt from" if tail == "strict" else "per class after the windows learnt from"
    note = f"tail: {how}" + (", other recordings only" if apart else "")
    return kept, early, note + (f"; {lost} person(s) left out, with too few windows or no tail" if lost else "")


def compare(
    data: Represented,
    task: str,
    probe: Probe,
    ks: Sequence[int] = (1, 3, 5),
    *,
    metric: str = "macro-F1",
    calibration: int | None = None,
    tail: Tail = "strict",
    apart: bool = False,
    methods: Mapping[str, Method] = METHODS,
) -> Compared:
    """Every method on every person, from the windows of everybody else and the person's own first k per class in time.

    calibration: windows for the label-free methods (default: as many as the largest k gives labelled ones). methods: those of
    this file, or your own; `generic` is among them. MienError where fewer than three persons have a tail.
    """
    if not ks or min(ks) < 1 or "generic" not in methods:
        raise MienError(
            f"k of {list(ks)} and methods {', '.join(methods)}: k is 1 or more, and generic must be among them"
        )
    data = data.labelled(task)
    many = calibration or max(ks) * max(1, len(data.classes.get(task, ())))
    kept, early, note = cut(data, task, max(ks), many, tail, apart)
    if (n := len(set(data.person[kept]))) < 3:
        raise MienError(
            f"task {task}: {n} person(s) have {max(ks)} windows per class and a tail behind them; take a smaller k, or"
            " tail: class where conditions come in blocks"
        )
    index = np.arange(len(data))
    wanted = sorted(set(data.person[kept]))
    shots = {k: first(data, task, k) for k in ks}
    blank = np.full(len(data), None, object) if task in data.classes else np.full(len(data), np.nan)
    classes = {t: c for t, c in data.classes.items() if t == task}
    hidden = replace(data, labels={task: blank}, classes=classes)  # of tail and calibration no method can read a label
    found: dict[tuple[str, int], Predicted] = {}
    for name, method in methods.items():
        for k in (0,) if name in LABEL_FREE else ks:
            parts = []
            for p in wanted:
                own, others = data.person == p, data.person != p
                parts.append(method(Person(
                    others=data.rows(others), early=early[others], shots=data.rows(own & shots[k or max(ks)]),
                    calibration=hidden.rows(own & early), tail=hidden.rows(own & kept), task=task, probe=probe,
                )))  # fmt: skip
            rows = np.concatenate([index[(data.person == p) & kept] for p in wanted])
            found[name, k] = Predicted(
                y=data.truth(task)[rows], given=np.concatenate(parts), person=data.person[rows],
                groups={g: v[rows] for g, v in data.groups.items()}, note=note,
            )  # fmt: skip
    base = found["generic", 0]
    gains = {
        (n, k): gain(f"{n if k == 0 else f'{n}, k = {k}'} − generic:", p, base, metric)
        for (n, k), p in found.items() if n != "generic"
    }  # fmt: skip
    return Compared(found=found, gains=gains, tail=kept, metric=metric, note=note)


# --- pieces --------------------------------------------------------------------------------------------------------


def _joined(a: Represented, b: Represented) -> Represented:
    both: Any = lambda name: {k: np.concatenate([v, getattr(b, name)[k]]) for k, v in getattr(a, name).items()}  # noqa: E731
    return replace(
        a, X=both("X"), labels=both("labels"), groups=both("groups"), person=np.concatenate([a.person, b.person]),
        recording=np.concatenate([a.recording, b.recording]), time_s=np.concatenate([a.time_s, b.time_s]),
    )  # fmt: skip


def _mean(data: Represented) -> dict[str, np.ndarray]:
    """Modality -> float64[d]: the mean over windows of what is there; 0 where nothing is."""
    there = {m: ~np.isnan(x) for m, x in data.X.items()}
    return {m: np.where(t, data.X[m], 0).sum(0) / np.maximum(t.sum(0), 1) for m, t in there.items()}


def _flat(mean: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.concatenate(list(mean.values()))


def _calibrated(p: Person) -> Person:
    X, own = {m: x.copy() for m, x in p.others.X.items()}, _mean(p.calibration)
    for n in p.others.persons:
        mine = p.others.person == n
        for m, mean in _mean(p.others.rows(mine & p.early)).items():
            X[m][mine] -= mean
    less: Callable[[Represented], Represented] = lambda d: replace(d, X={m: x - own[m] for m, x in d.X.items()})  # noqa: E731
    return replace(p, others=replace(p.others, X=X), shots=less(p.shots), tail=less(p.tail))


def _wide(model: Fitted, data: Represented) -> np.ndarray:
    """float64[n, d + 1]: standardised columns and a one, of length about 1 for a typical window."""
    Z = model.ready(data)
    return np.c_[Z, np.ones(len(Z))] / np.sqrt(Z.shape[1] + 1)


def _shift_number(Z: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """Ridge of the residuals, in their own deviation's unit."""
    return np.linalg.solve(Z.T @ Z + np.eye(Z.shape[1]), Z.T @ rest)


def _shift_logits(Z: np.ndarray, start: np.ndarray, y: np.ndarray) -> np.ndarray:
    """float64[d + 1, classes]: argmin of the cross-entropy of start + Z W, plus |W|² / 2."""
    from scipy.optimize import minimize

    truth, shape = np.eye(start.shape[1])[y], (Z.shape[1], start.shape[1])

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        W = w.reshape(shape)
        p = _softmax(start + Z @ W)
        value = -np.log(np.clip((p * truth).sum(1), 1e-300, 1)).sum() + 0.5 * (w**2).sum()
        return float(value), (Z.T @ (p - truth) + W).ravel()

    return minimize(loss, np.zeros(shape[0] * shape[1]), jac=True, method="L-BFGS-B").x.reshape(shape)


def _softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)
