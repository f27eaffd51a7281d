"""`mien data check | pack | list | describe`: what is wrong with a folder of recordings, and what is in a cohort."""

from __future__ import annotations

import argparse
import difflib
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import yaml
from pydantic import ValidationError

from ..core import config as recipes
from ..core import console, plugins
from ..core.config import Plugin
from ..core.errors import MienError
from ..core.records import PURPOSES, Cohort
from . import folders, schema, tables
from .datasets import folder

Level = Literal["error", "warning", "info"]
SHORT_S = 4.0  # the window length of the shipped recipes
UNSTATED = "not stated"
_CLUE = 0.9


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing about a folder. error: `load` refuses it; warning: read it before you train; info: good to know."""

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
            problem = recipes.explain(schema.CohortFile, one)
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
    constant: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, recording: Any, spec: schema.CohortFile) -> None:
        self.seconds[recording.id] = recording.seconds
        for name, signal in recording.signals.items():
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
            span = spec.streams[name].range
            if span is not None:
                self.outside[name] += int(((good < span[0]) | (good > span[1])).sum())
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
        if s.range is None:
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
        if s.range is not None and share > 0.01:
            say(
                "warning",
                where,
                f"{100 * share:.1f} % of the samples are outside {list(s.range)} {s.unit}: probably another unit",
                f"they go from {seen.low[name]:.4g} to {seen.high[name]:.4g}; convert them, or correct unit and range",
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
                say("warning", where, "only one class occurs: nothing can be predicted", "check the labels")
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


# --- what is in a cohort ----------------------------------------------------------------------------------------
def summary(cohort: Cohort) -> list[tuple[str, str]]:
    """(what, how much) lines: persons, recordings, seconds, labels, streams. One pass over the samples."""
    persons: Counter[str] = Counter(cohort.column("person"))
    lengths: Counter[str] = Counter()
    streams: Counter[str] = Counter()
    total = 0.0
    for r in cohort:
        total += r.seconds
        for name, signal in r.streams.items():
            streams[name] += 1
            lengths[name] += round(signal.seconds * 1000)
    out = [
        ("persons", str(len(persons))),
        ("recordings", f"{len(cohort)} ({min(persons.values())} to {max(persons.values())} per person)"),
        ("time", f"{total:.0f} s ({console.duration(total)})"),
    ]
    labels = cohort.column("labels")
    for task, classes in cohort.card.tasks.items():
        counts = Counter(str(x[task]) for x in labels if task in x)
        named = [*classes, *sorted(set(counts) - set(classes))]
        text = ", ".join(f"{c} {counts[c]}" for c in named)
        missing = len(labels) - sum(counts.values())
        out.append((f"label {task}", text + (f", unlabelled {missing}" if missing else "")))
    if cohort.card.attributes:
        out.append(("attributes", ", ".join(cohort.card.attributes)))
    for name, s in cohort.card.streams.items():
        if s.kind != "signal":
            what = f"{s.kind} ({', '.join(s.channels)})"
            out.append((f"stream {name}", f"{what}; {streams[name]} recordings, {lengths[name] / 1000:.0f} s"))
            continue
        span = "no range" if s.range is None else f"range {s.range[0]:g} to {s.range[1]:g}"
        out.append(
            (
                f"stream {name}",
                f"{', '.join(s.channels)} in {s.unit} at {s.rate_hz:g} Hz, {span}; {streams[name]} recordings,"
                f" {lengths[name] / 1000:.0f} s",
            )
        )
    return out


# --- commands -----------------------------------------------------------------------------------------------------
def check_command(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="mien data check",
        description="Read a folder of recordings from end to end and list everything that is wrong or risky: files"
        " and tables (errors), units, gaps, consent and confounders (warnings). It changes nothing in the folder."
        " Exit code 1 if there is an error.",
        epilog="The folder's layout: docs/bring-your-own.md. From numpy arrays: mien data pack --help",
    )
    parser.add_argument("root", help="the folder that holds cohort.yaml")
    args = parser.parse_args(argv)
    found = check(args.root)
    counts = Counter(f.level for f in found)
    if found:
        rows = [(f.level, f.where, f.problem, f.fix) for f in found]
        console.table(f"{args.root}", ["level", "where", "problem", "what to do"], rows)
    console.say(f"{counts['error']} error(s), {counts['warning']} warning(s), {counts['info']} note(s) in {args.root}")
    again = f"mien data check {shlex.quote(args.root)}"
    if counts["error"]:
        console.say(f"repair the errors, then: {again}")
        return 1
    cohort = folder.load(folder.Config(root=args.root))
    console.table(cohort.card.name, ["what", "how much"], summary(cohort))
    task = next(iter(cohort.card.tasks), None)
    if task is None:
        console.say("declare a task in cohort.yaml (a label column and its classes), then:")
    console.say(
        f"next: mien adapt recipes/folder/adapt.yaml cohort.root={shlex.quote(args.root)} task={task or '<column>'}"
    )
    return 0


def pack_command(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="mien data pack",
        description="Make a folder that Mien reads from one npz of numpy arrays: values [N, T, C] (or values_0,"
        " values_1, … of shape [T, C] for recordings of unequal length), person [N], label [N]; optional session [N],"
        " start_s [N] (seconds), attribute_<name> [N]. Then complete its cohort.yaml and run `mien data check`.",
        epilog="example: mien data pack arrays.npz my-study --rate 50 --channels x,y,z --unit g --task activity"
        " --range -4,4 --stream acc",
    )
    parser.add_argument("arrays", help="the npz file; text arrays must have a plain text type, not object")
    parser.add_argument("out", help="the folder to make; it must not exist")
    parser.add_argument("--rate", type=float, required=True, metavar="HZ", help="samples per second")
    parser.add_argument("--channels", required=True, metavar="A,B,…", help="names of the C channels, in order")
    parser.add_argument("--unit", required=True, help="the unit of the values: g, m/s2, mV, uS …")
    parser.add_argument("--task", required=True, help="what the labels are: the label column's name, e.g. activity")
    parser.add_argument(
        "--range",
        metavar="LOW,HIGH",
        help="the sensor's plausible span, from its data sheet or from physiology. Never the data's own minimum and"
        " maximum: these would give away somebody's extremes",
    )
    parser.add_argument("--stream", default="signal", help="name of the stream (default: %(default)s)")
    parser.add_argument("--gaps", choices=("refuse", "mark"), default="refuse", help="mark: rows with NaN are gaps")
    parser.add_argument("--name", help="name of the cohort (default: the folder's)")
    parser.add_argument("--licence", default=UNSTATED, help="under what terms you hold the data")
    parser.add_argument("--consent", default=UNSTATED, metavar="BASIS", help="what the people signed, in words")
    parser.add_argument(
        "--purposes",
        default=",".join(folder.DEFAULT_PURPOSES),
        help=f"what they agreed to, of {', '.join(PURPOSES)} (default: %(default)s)",
    )
    args = parser.parse_args(_joined(argv, "--range"))
    source = Path(args.arrays)
    if not source.is_file():
        raise MienError(f"no such file: {source}; save the arrays with np.savez")
    arrays = tables.open_npz(source, str(source))
    for needed in ("person", "label"):
        if needed not in arrays:
            raise MienError(
                f"{source}: no array {needed!r} (it holds {', '.join(sorted(arrays))}); add one per recording"
            )
    values = _values(arrays, str(source))
    attributes = {k.removeprefix("attribute_"): v for k, v in arrays.items() if k.startswith("attribute_")}
    known = {"values", "person", "label", "session", "start_s"}
    for k in arrays:
        if k not in known and not k.startswith(("values_", "attribute_")):
            near = difflib.get_close_matches(k, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "call private facts attribute_<name>, and drop the rest"
            raise MienError(f"{source}: unknown array {k!r}; {hint}")
        if not k.startswith("values") and arrays[k].ndim != 1:
            raise MienError(f"{source}: {k!r} has shape {list(arrays[k].shape)}; give one value per recording")
    folder.write(
        args.out,
        values=values,
        persons=arrays["person"],
        labels=arrays["label"],
        task=args.task,
        rate_hz=args.rate,
        channels=[c.strip() for c in args.channels.split(",")],
        unit=args.unit,
        name=args.name or Path(args.out).name,
        licence=args.licence,
        consent=args.consent,
        purposes=[p.strip() for p in args.purposes.split(",") if p.strip()],
        stream=args.stream,
        range=None if args.range is None else _span(args.range),
        gaps=args.gaps,
        sessions=arrays.get("session"),
        starts=arrays.get("start_s"),
        attributes=attributes,
    )
    console.say(f"{len(values)} recordings of {len(set(arrays['person'].tolist()))} persons are in {args.out}")
    console.say(f"next: mien data check {shlex.quote(args.out)}")
    return 0


def _joined(argv: Sequence[str], option: str) -> list[str]:
    """`--range -4,4` -> `--range=-4,4`: argparse takes a value that opens with a minus for an option."""
    out: list[str] = []
    for word in argv:
        if out and out[-1] == option:
            out[-1] = f"{option}={word}"
        else:
            out.append(word)
    return out


def _span(text: str) -> tuple[float, float]:
    try:
        low, high = (float(v) for v in text.split(","))
    except ValueError:
        raise MienError(f"--range is LOW,HIGH, such as -4,4; got {text!r}") from None
    return low, high


def _values(arrays: dict[str, np.ndarray], source: str) -> Sequence[np.ndarray] | np.ndarray:
    parts = [k for k in arrays if k.startswith("values_")]
    if ("values" in arrays) == bool(parts):
        raise MienError(f"{source}: give either `values` [N, T, C] or values_0, values_1, … [T, C]")
    if parts:
        for i in range(len(parts)):
            if f"values_{i}" not in arrays:
                raise MienError(f"{source}: {len(parts)} arrays values_…, but no values_{i}; number them from 0")
        return [arrays[f"values_{i}"] for i in range(len(parts))]
    values = arrays["values"]
    if values.ndim != 3:
        raise MienError(f"{source}: `values` has shape {list(values.shape)}; it must be [recordings, time, channels]")
    return values


def list_command(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="mien data list",
        description="The data sets a recipe can name (cohort: {name: …}), with the keys each one takes.",
        epilog="mien data describe NAME shows what is in one.",
    )
    parser.parse_args(argv)
    rows = []
    for name in plugins.names("data/datasets"):
        module = plugins.load("data/datasets", name)
        about = (module.__doc__ or "").strip().splitlines()
        rows.append((name, about[0] if about else "", ", ".join(_keys(module.Config)) or "–"))
    console.table("data sets", ["name", "what", "keys"], rows)
    console.say("next: mien data describe NAME [key=value …]")
    return 0


def _keys(model: Any) -> Iterable[str]:
    for key, about in model.model_fields.items():
        yield f"{key}=…" if about.is_required() else f"{key}={about.get_default(call_default_factory=True)}"


def describe_command(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="mien data describe",
        description="Open a cohort and show its card: licence, consent, tasks, streams and counts.",
        epilog="example: mien data describe folder root=my-study",
    )
    parser.add_argument("name", help="a data set (see `mien data list`)")
    parser.add_argument("options", nargs="*", metavar="key=value", help="its keys")
    args = parser.parse_args(argv)
    options: dict[str, Any] = {}
    for item in args.options:
        key, mark, text = item.partition("=")
        if not mark or not key or key == "name":
            raise MienError(f"an option is written key=value, got {item!r}")
        try:
            options[key] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise MienError(f"option {item!r}: the value is not valid YAML") from None
    module, config = plugins.resolve("data/datasets", Plugin(name=args.name, **options))
    cohort = module.load(config)
    card = cohort.card
    rows = [("licence", card.licence), ("consent", card.consent), ("source", card.source or "–")]
    if card.synthetic:
        rows.append(("synthetic", card.guarantee or "no guarantee"))
    else:
        today = date.today()
        for purpose in PURPOSES:
            agreed = sum(
                p in cohort.consents and cohort.consents[p].refusal(purpose, today) is None for p in cohort.persons
            )
            rows.append((f"may be used for {purpose}", f"{agreed} person(s)"))
    console.table(card.name, ["what", "how much"], [*rows, *summary(cohort)])
    return 0
