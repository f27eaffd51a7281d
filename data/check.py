"""What is wrong with a folder of recordings: its tables and files, consent, units, gaps, confounders."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError

from ..core import config as recipes
from ..core.records import Signal
from ..core.units import reach
from . import folders, schema

Level = Literal["error", "warning", "info"]
UNSTATED = "not stated"
SHORT_S = 4.0  # the window length of the shipped recipes
_CLUE = 0.9
_MOST_OUTSIDE = 0.1  # of one recording's samples
_TINY = 1e-3  # of the range: what stays below it all the time was measured in a larger unit


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing about a folder. error: `load` or every verb refuses it; warning: read it before you train; info: good to know."""

    level: Level
    where: str
    problem: str
    fix: str = ""


# --- the check ------------------------------------------------------------------------------------------------
def check(root: str | Path, today: date | None = None) -> list[Finding]:
    """Everything wrong with a folder, errors first. Never raises for what the folder holds."""
    found: list[Finding] = []

    def report(problem: schema.Problem) -> None:
        found.append(Finding(level="error", where=problem.where, problem=problem.problem, fix=problem.fix))

    def say(level: Level, where: str, problem: str, fix: str = "") -> None:
        found.append(Finding(level=level, where=where, problem=problem, fix=fix))

    root = Path(root).expanduser()
    try:
        raw = folders.read_yaml(root)
    except schema.Problem as problem:
        report(problem)
        return found
    spec, findings = _spec(raw)
    found += findings
    if spec is None:
        return found
    plan = folders.plan(root, spec, report)
    seen = _Seen()
    for recording in folders.recordings(plan, report):
        seen.add(recording, spec)
    _people_findings(plan, say, today or date.today())
    _stream_findings(spec, seen, say)
    _label_findings(plan, seen, say)
    _attribute_findings(plan, say)
    for column in plan.ignored:
        say("info", spec.recordings or spec.table or "", f"column {column!r} is not declared: it is ignored")
    order = {"error": 0, "warning": 1, "info": 2}
    return sorted(found, key=lambda f: order[f.level])


def _spec(raw: dict[str, Any]) -> tuple[schema.CohortFile | None, list[Finding]]:
    """cohort.yaml, and every fault in it. Unknown keys are dropped, so that the check can go on without them."""
    found = []
    for _ in range(2):
        try:
            return schema.CohortFile.model_validate(raw), found
        except ValidationError as error:
            faults = error.errors()
        for fault in faults:
            one: Any = SimpleNamespace(errors=lambda fault=fault: [fault])
            problem = recipes.explain(schema.CohortFile, one, file=True)
            found.append(Finding(level="error", where="cohort.yaml", problem=problem, fix=_spec_fix(fault)))
        if any(f["type"] != "extra_forbidden" for f in faults):
            return None, found
        for fault in faults:
            raw = _without(raw, fault["loc"])
    return None, found


def _spec_fix(fault: Any) -> str:
    if fault["type"] == "extra_forbidden":
        return "correct or remove the key"
    if fault["type"] == "missing" and "consent" in fault["loc"]:
        return "say what people agreed to: consent: {basis: …, purposes: [training, …]}"
    return "add it" if fault["type"] == "missing" else "correct the value"


def _without(raw: Any, loc: Sequence[Any]) -> Any:
    if not isinstance(raw, dict):
        return raw
    head, rest = loc[0], loc[1:]
    if not rest:
        return {k: v for k, v in raw.items() if k != head}
    return {k: _without(v, rest) if k == head else v for k, v in raw.items()}


@dataclass
class _Seen:
    """What one pass over the samples leaves behind; no samples are kept."""

    seconds: dict[str, float] = field(default_factory=dict)
    samples: Counter[str] = field(default_factory=Counter)
    outside: Counter[str] = field(default_factory=Counter)
    gaps: Counter[str] = field(default_factory=Counter)
    present: Counter[str] = field(default_factory=Counter)
    low: dict[str, float] = field(default_factory=dict)
    high: dict[str, float] = field(default_factory=dict)
    strange: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    constant: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, recording: Any, spec: schema.CohortFile) -> None:
        self.seconds[recording.id] = recording.seconds
        for name, signal in recording.streams.items():
            if not isinstance(signal, Signal):
                self.present[name] += 1
                continue
            good = signal.values if signal.valid is None else signal.values[signal.valid]
            self.present[name] += 1
            self.samples[name] += good.size
            self.gaps[name] += (len(signal.values) - len(good)) * len(signal.channels)
            if not len(good):
                self.constant[f"{name} (all of it a gap)"].append(recording.id)
                continue
            low, high = good.min(0), good.max(0)
            self.low[name] = min(self.low.get(name, np.inf), float(low.min()))
            self.high[name] = max(self.high.get(name, -np.inf), float(high.max()))
            span = reach(spec.streams[name].range, spec.streams[name].unit)
            if span is not None:
                outside = int(((good < span[0]) | (good > span[1])).sum())
                self.outside[name] += outside
                tiny = 0 < float(np.abs(good).max()) < _TINY * max(-span[0], span[1])
                if outside > _MOST_OUTSIDE * good.size or tiny:
                    self.strange[name].append(recording.id)
            if len(good) > 1:
                for channel, flat in zip(signal.channels, low == high, strict=True):
                    if flat:
                        self.constant[f"{name}.{channel}"].append(recording.id)


def _people_findings(plan: folders.Plan, say: Any, today: date) -> None:
    spec = plan.spec
    persons = {r.person for r in plan.rows}
    if len(persons) == 1:
        say(
            "error",
            spec.recordings or spec.table,
            f"only one person ({next(iter(persons))!r}): nobody could be held out",
            "a person-level split needs at least two, and numbers worth reading many more",
        )
    elif 1 < len(persons) < 10:
        say(
            "info",
            spec.recordings or spec.table,
            f"only {len(persons)} persons: enough to see that everything runs, too few for privacy or utility claims",
        )
    for person in plan.listed:
        if person not in persons:
            say(
                "warning",
                spec.persons,
                f"person {person!r} has no recording",
                "a typing error in one of the tables?",
            )
    if spec.consent.basis.strip().lower() == UNSTATED:
        say(
            "warning",
            "cohort.yaml, consent.basis",
            "the basis of consent is not stated",
            "write what people signed",
        )
    refused: Counter[str] = Counter()
    for person, consent in plan.consents.items():
        reason = consent.refusal("training", today)
        if reason:
            refused[reason] += 1
            if reason in ("expired", "withdrawn"):
                day = consent.expires if reason == "expired" else consent.withdrawn
                say(
                    "warning",
                    spec.persons or "cohort.yaml, consent",
                    f"consent of person {person!r} is {reason} ({day}): every verb leaves them out",
                    "remove their data from this folder if that is what was agreed",
                )
    if plan.consents and sum(refused.values()) == len(plan.consents):
        say(
            "error",
            "cohort.yaml, consent",
            f"nobody has agreed to training ({dict(refused)})",
            "without it `mien adapt` has nobody to read",
        )
    elif refused:
        say(
            "info",
            spec.persons or "cohort.yaml",
            f"{sum(refused.values())} person(s) are left out of training",
        )


def _stream_findings(spec: schema.CohortFile, seen: _Seen, say: Any) -> None:
    for name, s in spec.streams.items():
        where = f"cohort.yaml, streams.{name}"
        if s.range is None and s.kind == "signal":
            say(
                "warning",
                where,
                "no range: tokens are scaled by the sensor's plausible span, and only common units have a usual one",
                f"add `range: [low, high]` in {s.unit} from the data sheet or physiology, never from these recordings",
            )
        if seen.seconds and not seen.present[name]:
            say(
                "warning",
                where,
                "no recording has this stream",
                "correct the names in the data files, or remove it",
            )
        elif seen.present[name] < len(seen.seconds):
            say("info", where, f"{seen.present[name]} of {len(seen.seconds)} recordings have this stream")
        share = seen.outside[name] / max(1, seen.samples[name])
        span = list(reach(s.range, s.unit) or ())
        if share > 0.01:
            say(
                "warning",
                where,
                f"{100 * share:.1f} % of the samples are outside {span} {s.unit}: probably another unit",
                f"they go from {seen.low[name]:.4g} to {seen.high[name]:.4g}, and the first recording of them is"
                f" {(seen.strange[name] or ['not one alone'])[0]!r}; convert them, or"
                f" {'correct unit and' if s.range else 'give the stream its'} range",
            )
        elif strange := seen.strange[name]:
            say(
                "warning",
                where,
                f"{len(strange)} recording(s) are far outside {span} {s.unit}, or next to nothing of it: another"
                f" unit than the others? The first is {strange[0]!r}",
                "convert them",
            )
        everything = seen.samples[name] + seen.gaps[name]
        if seen.gaps[name]:
            say(
                "info",
                where,
                f"{100 * seen.gaps[name] / everything:.1f} % of the samples are gaps; windows with one are skipped",
            )
    for channel, ids in seen.constant.items():
        say(
            "warning",
            f"channel {channel}",
            f"constant in {len(ids)} recording(s), the first is {ids[0]!r}",
            "a sensor that was off? drop the recording, or mark the stretch as a gap",
        )
    short = [r for r, seconds in seen.seconds.items() if seconds < SHORT_S - 1e-6]
    if short:
        say(
            "warning",
            f"{len(short)} recording(s)",
            f"shorter than {SHORT_S:g} s, the first is {short[0]!r} ({seen.seconds[short[0]]:.3g} s)",
            "no window of the shipped recipes fits; set a smaller `seconds`, or join them",
        )


def _label_findings(plan: folders.Plan, seen: _Seen, say: Any) -> None:
    occur = {t: {str(r.labels[t]) for r in plan.rows if t in r.labels} for t in plan.spec.tasks}
    usable = any(len(labels) > 1 for labels in occur.values())
    for task, classes in plan.spec.tasks.items():
        where = f"column {task!r}"
        rows = [r for r in plan.rows if task in r.labels]
        if plan.rows and len(rows) < len(plan.rows):
            first = next(r for r in plan.rows if task not in r.labels)
            say(
                "warning",
                where,
                f"{len(plan.rows) - len(rows)} recording(s) have no label, the first is {first.id!r} ({first.where})",
                "they are left out of this task",
            )
        counts = Counter(str(r.labels[task]) for r in rows)
        for label in classes:
            if rows and not counts[label]:
                say(
                    "warning",
                    where,
                    f"no recording is labelled {label!r}",
                    "remove the class, or correct the labels",
                )
        if len(counts) < 2:
            if rows:
                level = "warning" if usable else "error"  # with another task the verbs can go on
                say(level, where, "only one class occurs: nothing can be predicted", "check the labels")
            continue
        y = np.array([r.labels[task] for r in rows], dtype=object)
        person = np.array([r.person for r in rows], dtype=object)
        per_person = {p: set(y[person == p]) for p in set(person)}
        repeated = len(rows) > len(per_person)
        if repeated and all(len(v) == 1 for v in per_person.values()):
            say(
                "info",
                where,
                "every person has a single label: a person-level task. The number of persons, not of recordings, is"
                " its sample size, and whatever tells persons apart may pass for the label",
            )
        for clue, share, base in clues(plan.rows, seen.seconds, task):
            say(
                "warning",
                where,
                f"{clue} alone predicts the label for {100 * share:.0f} % of the recordings of persons it was not"
                f" learnt on (the commonest label: {100 * base:.0f} %)",
                "a model may learn the protocol in place of the behaviour; report the metadata baseline beside utility",
            )


def clues(rows: Sequence[folders.Row], seconds: dict[str, float], task: str) -> list[tuple[str, float, float]]:
    """(metadata column, accuracy, accuracy of always saying the commonest label) where the first is 0.9 or more.

    The predictor is the majority label of the other persons' recordings in the same bin (ten quantiles of a number),
    so what merely identifies a person does not count. Needs ten labelled recordings of three persons.
    """
    rows = [r for r in rows if task in r.labels and r.id in seconds]
    y = np.array([str(r.labels[task]) for r in rows], dtype=object)
    person = np.array([r.person for r in rows], dtype=object)
    if len(rows) < 10 or len(set(person)) < 3:
        return []
    base = max(Counter(y).values()) / len(y)
    columns: dict[str, list[Any]] = {
        "session": [r.session for r in rows],
        "start_s": [r.start_s for r in rows],
        "the recording's length": [round(seconds[r.id], 3) for r in rows],
    }
    for name in sorted({a for r in rows for a in r.attributes}):
        columns[f"attribute {name}"] = [r.attributes.get(name) for r in rows]
    out = []
    for name, values in columns.items():
        if len(set(values)) < 2:
            continue
        total: dict[Any, Counter[str]] = defaultdict(Counter)
        own: dict[Any, Counter[str]] = defaultdict(Counter)
        bins = _bins(values)
        for b, label, p in zip(bins, y, person, strict=True):
            total[b][label] += 1
            own[b, p][label] += 1
        hits = 0
        for b, label, p in zip(bins, y, person, strict=True):
            others = (total[b] - own[b, p]).most_common(1)
            hits += bool(others) and others[0][0] == label
        share = hits / len(y)
        if share >= _CLUE and share - base >= 0.05:
            out.append((name, share, base))
    return out


def _bins(values: Sequence[Any]) -> list[Any]:
    numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    if not numeric or len(set(values)) <= 10:
        return list(values)
    x = np.array(values, dtype=np.float64)
    return np.searchsorted(np.quantile(x, np.linspace(0.1, 0.9, 9)), x, side="right").tolist()


def _attribute_findings(plan: folders.Plan, say: Any) -> None:
    names = plan.spec.attributes
    people = {r.person: tuple(str(r.attributes.get(a)) for a in names) for r in reversed(plan.rows)}
    if not names or len(people) < 2:
        return
    cells = Counter(people.values())
    alone = sum(cells[c] == 1 for c in people.values()) / len(people)
    if alone:
        say(
            "warning" if alone >= 0.5 else "info",
            "attributes",
            f"of the persons, {100 * alone:.0f} % are the only one with their combination of {', '.join(names)}",
            "who knows these facts can point at the person: coarsen them (age in decades), or declare fewer",
        )
