"""What a representation run is worth elsewhere: on other labels, in another cohort, with few labels, from all streams or one.

Every protocol is judged on persons the adapter has not seen, by probes that have not seen them either, beside the same probe
on the base without its adapter and on classical window statistics, a random forest on these, and the commonest class (or the
mean number). Intervals are by bootstrap of persons (fewer than twenty: jackknife), differences paired by person with a sign-flip
test (`transfer.py`).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from pydantic import Field

from ..core import console, runs
from ..core.config import Plugin, Section
from ..core.errors import MienError
from ..core.records import Cohort
from ..core.results import Result
from ..data.load import open_cohort
from . import represented, transfer
from .represented import ADAPTED, BAR, GROUPS, by_stream
from .transfer import Predicted, Probe, Represented

SAME = "classical features (same probe)"


class Other(Section):
    """cohort: a data set of other persons with the run's streams; task: its name of the label (default: the run's); classes:
    its class -> the run's, where they are called otherwise (windows of one that is not named are left out)."""

    cohort: Plugin
    task: str | None = None
    classes: dict[str, str] = {}


class Transfer(Section):
    """The labels of the run's other heads are judged without being named. across_tasks: labels, or attributes, that the run was
    not adapted to; across_cohorts: other persons' recordings; k_shot:
    windows per class of each person, the first in time, that a probe learns from; k_shot_persons: how many persons give them
    (default: all who are not tested); untimed: nobody wrote down when recordings were made, so the first are the first by their ids;
    multimodal: all streams against the best single one; folds: of held-out persons;
    draws: of persons, for intervals where these are many; groups: attributes of which the worst group is told."""

    across_tasks: tuple[str, ...] = ()
    across_cohorts: tuple[Other, ...] = ()
    k_shot: tuple[int, ...] = ()
    k_shot_persons: int | None = Field(default=None, ge=1)
    untimed: bool = False
    multimodal: bool = True
    folds: int = Field(default=5, ge=2)
    draws: int = Field(default=500, ge=100)
    groups: tuple[str, ...] = ("sex", "age")


@dataclass(kw_only=True)
class Transferred:
    """results, in the recipe's order; cohorts: the other ones that were looked at; left_out: of these, by reason."""

    results: list[Result] = field(default_factory=list)
    cohorts: list[Cohort] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)


def inputs(config: Transfer | None) -> dict[str, str]:
    """Keyed fingerprints of the other cohorts, for the run's own."""
    others = () if config is None else config.across_cohorts
    return {
        f"transfer {i}": runs.keyed(open_cohort(x.cohort, "evaluation")[0].fingerprint) for i, x in enumerate(others)
    }


def own(o: Any, average: str, match: Any, seed: int = 0) -> list[Result]:
    """What the run's own task is worth: `represented.of`; of a number the metrics and the bar of `of`'s protocols, by probes that
    learn on the run's training persons. MienError for `average` and `match`, which are of classes."""
    if o.classes:
        return represented.of(o, average, match, seed)  # pyright: ignore[reportArgumentType]
    if match is not None or average != "window":
        raise MienError(f"{o.task!r} is a number: match and average are of classes; leave them out")
    every = _sides(o, o.cohort, {o.task: _labels(o.cohort, o.table.recording, o.task)}, GROUPS, o.made.beside)
    sides = {name: data.rows(~o.train) for name, data in every.items()}
    return _own(o, every, sides, o.task, 500, ADAPTED)


def of(o: Any, elsewhere: Callable[..., Any], config: Transfer | None, seed: int = 0) -> Transferred:
    """o: an opened run (`adapters/represented.Opened`); elsewhere: another cohort through its adapter
    (`adapters/represented.elsewhere`). MienError naming the key of the recipe: a label that is not there or was adapted to, a
    cohort that shares a person, fewer than two held-out persons."""
    found = Transferred()
    if config is None:
        return found
    test = ~o.train
    n = len(set(o.table.person[test]))
    if n < 2:
        raise MienError(
            f"transfer: {n} held-out person(s); probes learn on some and are judged on others: hold more out"
        )
    if bad := [k for k in config.k_shot if k < 1]:
        raise MienError(f"transfer.k_shot: {bad[0]}; one labelled window per class and person at least")
    k, tasks = min(config.folds, n), {o.task: o.classes}
    for task in config.across_tasks:
        if task == o.task or task in o.made.kinds:
            raise MienError(f"transfer.across_tasks: the run was adapted to {task!r}; name a label that it was not")
        tasks[task] = ()
    heads = [t for t in o.made.kinds if t != o.task]
    labels = {t: _labels(o.cohort, o.table.recording, t) for t in (*tasks, *heads)}
    every = _sides(o, o.cohort, labels, config.groups, o.made.beside)
    if config.untimed:
        first = next(iter(every.values()))
        clock = transfer.one_after_the_other(first.time_s, first.recording, float(o.config["seconds"]))
        every = {name: replace(data, time_s=clock) for name, data in every.items()}
    sides = {name: data.rows(test) for name, data in every.items()}
    streams = tasks if config.multimodal and len(o.parts) > 1 else {}
    steps = len(heads) + len(tasks) - 1 + len(config.across_cohorts) + len(tasks) * len(config.k_shot) + len(streams)
    with console.progress("transfer", steps) as bar:
        for task in heads:
            found.results += _own(o, every, sides, task, config.draws, f"adapted to {task} too")
            bar.step()
        for task in config.across_tasks:
            found.results += _judged(
                f"across tasks, {o.task} → {task}", sides, task, config.draws,
                lambda d, probe, task=task: transfer.across_tasks(d, o.split.train, task, probe, k, seed),
            )  # fmt: skip
            bar.step()
        for i, other in enumerate(config.across_cohorts):
            found.results += _there(o, other, elsewhere, every, config, k, seed, i, found)
            bar.step()
        for task in tasks:
            for shots in config.k_shot:
                found.results += _judged(
                    f"k-shot, {task}, k = {shots}", sides, task, config.draws,
                    lambda d, probe, task=task, shots=shots: transfer.k_shot(
                        d, task, probe, shots, k, seed, config.k_shot_persons
                    ),
                )  # fmt: skip
                bar.step()
        for task in streams:
            parts = by_stream(o.parts, o.table, o.y, o.classes).rows(test)
            found.results.append(_streams(replace(sides[ADAPTED], X=parts.X), sides[ADAPTED], task, k, seed))
            bar.step()
    return found


def _there(
    o: Any, other: Other, elsewhere: Callable[..., Any], every: Mapping[str, Represented], config: Transfer, k: int,
    seed: int, i: int, found: Transferred,
) -> list[Result]:  # fmt: skip
    """One other cohort: probes learn on the run's training persons and are judged on everybody there."""
    where = f"transfer.across_cohorts[{i}]"
    e = elsewhere(o, other.cohort, other.task or o.task, where)
    found.cohorts.append(e.cohort)
    for reason, count in e.left_out.items():
        found.left_out[reason] = found.left_out.get(reason, 0) + count
    values, theirs = _labels(e.cohort, e.table.recording, e.task)
    known = other.classes or {c: c for c in theirs if c in o.classes}
    for what, names, there in (("its", known, theirs), ("the run's", known.values(), o.classes)):
        if lost := sorted(set(names) - set(there)):
            raise MienError(f"{where}.classes: {lost[0]!r} is none of {what} classes ({', '.join(there) or 'none'})")
    if lost := sorted(set(o.classes) - set(known.values())):
        raise MienError(
            f"{where}: nothing there is called {lost[0]!r}, which the run learnt; its classes are {', '.join(theirs)}: say"
            " which of them is which (classes: {theirs: ours})"
        )
    said = np.array([known.get(v) for v in values], dtype=object)
    there = _sides(e, e.cohort, {o.task: (said, o.classes)}, config.groups, o.made.beside)
    people = len(there[ADAPTED].labelled(o.task).persons)

    def across(d: str, probe: Probe) -> Predicted:
        return transfer.across_cohorts(every[d].rows(o.train), there[d], o.task, probe)

    name = e.cohort.card.name + (f" [{i}]" if len(config.across_cohorts) > 1 else "")
    local = {} if people < 2 else {
        "learnt there": transfer.held_out(there[ADAPTED], o.task, Probe(), min(k, people), seed)
    }  # fmt: skip
    return _compared(
        f"across cohorts, {o.cohort.card.name} → {name}", {n: across(n, Probe()) for n in there},
        {BAR: across(SAME, Probe(kind="forest")), **local}, every[ADAPTED].rows(o.train), there[ADAPTED], o.task, config.draws,
    )  # fmt: skip


def _own(
    o: Any, every: Mapping[str, Represented], sides: Mapping[str, Represented], task: str, draws: int, name: str
) -> list[Result]:
    """A label of one of the run's heads: probes learn on the run's training persons, as for its task."""
    probe = Probe(kind="ordinal") if o.made.kinds[task].kind == "ordinal" else _probe(sides[ADAPTED], task)

    def judged(name: str, probe: Probe) -> Predicted:
        return transfer.fixed(
            every[name].rows(o.train), sides[name], task, probe, "learnt on the run's training persons"
        )

    return _compared(
        name, {n: judged(n, probe) for n in sides}, {BAR: judged(SAME, Probe(kind="forest"))},
        every[ADAPTED].rows(o.train), sides[ADAPTED], task, draws,
    )  # fmt: skip


def _judged(
    name: str,
    sides: Mapping[str, Represented],
    task: str,
    draws: int,
    predict: Callable[[Represented, Probe], Predicted],
) -> list[Result]:
    """A protocol that predicts every held-out person from others of them."""
    probe = _probe(sides[ADAPTED], task)
    found = {n: predict(d, probe) for n, d in sides.items()}
    forest = predict(sides[SAME], Probe(kind="forest"))
    data = sides[ADAPTED].labelled(task)
    return _compared(name, found, {BAR: forest}, data, data, task, draws)


def _compared(
    name: str, found: Mapping[str, Predicted], more: Mapping[str, Predicted], train: Represented, test: Represented, task: str,
    draws: int,
) -> list[Result]:  # fmt: skip
    """Every metric of the adapted representation beside the others, and what it gains over each in pairs of persons."""
    first, test = found[ADAPTED], test.labelled(task)
    least = "majority" if task in test.classes else "mean"
    trivial = replace(first, given=transfer.constant(train.labelled(task), test, task))
    others = {n: p for n, p in found.items() if n != ADAPTED}
    out = transfer.measured(first, {**others, **more, least: trivial}, draws=draws)
    gains = [
        transfer.gain(f"adapted − {n},", first, p, first.of_each).line() for n, p in {**others, BAR: more[BAR]}.items()
    ]
    return [r.model_copy(update={"metric": f"{name}: {r.metric}"}) for r in (*out, *gains)]


def _streams(parts: Represented, whole: Represented, task: str, k: int, seed: int) -> Result:
    probe = _probe(parts, task)
    metric = "macro-F1" if task in parts.classes else "MAE"
    found = transfer.multimodal(parts, task, probe, metric, k, seed=seed, whole=whole)
    told = ", ".join(f"{m} in {n} of {k} folds" for m, n in found.chosen.items() if n)
    line = found.line()
    return line.model_copy(
        update={"metric": f"multimodal, {task}: {line.metric}", "note": f"{line.note}; the best single: {told}"}
    )


def _probe(data: Represented, task: str) -> Probe:
    return Probe() if task in data.classes else Probe(kind="ridge", per_column=True)


def _sides(
    e: Any, cohort: Cohort, labels: Mapping[str, tuple[np.ndarray, Sequence[str]]], groups: Sequence[str], base: str
) -> dict[str, Represented]:
    """The same windows as the adapter, its base and classical statistics have them. e: with Z, frozen, table, windows."""
    person = e.table.person
    X = {ADAPTED: e.Z, base: e.frozen, SAME: e.table.X}
    return {
        name: Represented(
            X={"all": np.asarray(x, np.float64)}, person=person, recording=e.table.recording, time_s=e.windows.start_s,
            seconds=0.0, labels={t: v for t, (v, _) in labels.items()},
            classes={t: tuple(c) for t, (_, c) in labels.items() if c}, groups=transfer.groups_of(cohort, person, groups),
        )
        for name, x in X.items()
    }  # fmt: skip


def _labels(cohort: Cohort, recording: np.ndarray, task: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Each window's label, from its recording: object[n] of classes (None: unlabelled) with the classes, or float64[n] and ().
    An attribute is one too, whose classes are the words that occur."""
    where = "attributes" if task not in cohort.card.tasks and task in cohort.card.attributes else "labels"
    said = dict(zip(cohort.column("id"), cohort.column(where), strict=True))
    values = [said[r].get(task) for r in recording]
    classes = tuple(map(str, cohort.card.tasks.get(task, ())))
    if where == "attributes" and all(v is None or isinstance(v, str) for v in values):
        classes = tuple(sorted({v for v in values if v is not None}))
    if classes:
        return np.array([None if v is None else str(v) for v in values], dtype=object), classes
    numbers = [v for v in values if v is not None]
    if not numbers:
        known = sorted({*cohort.card.tasks, *(t for own in said.values() for t in own)})
        near = difflib.get_close_matches(task, known, n=1)
        raise MienError(
            f"transfer.across_tasks: no window has a label {task!r} in cohort {cohort.card.name!r}; there are"
            f" {', '.join(known)}" + (f"; did you mean {near[0]!r}?" if near else "")
        )
    if any(isinstance(v, bool) or not isinstance(v, int | float) for v in numbers):
        raise MienError(
            f"transfer.across_tasks: {task!r} holds words, and the card of cohort {cohort.card.name!r} declares no classes"
            " of it; declare them"
        )
    return np.array([np.nan if v is None else float(v) for v in values]), ()
