"""`mien data list | describe | import | check | pack`: what data sets there are, what is in one, and what is wrong with it."""

from __future__ import annotations

import argparse
import difflib
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import yaml

from ..core import console, plugins, verbs
from ..core.config import Plugin
from ..core.errors import MienError
from ..core.records import PURPOSES, RESTRICTIONS, Cohort
from . import folds as division
from . import tables, traps
from .check import UNSTATED, Finding, check
from .datasets import folder


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
            out.append(
                (f"stream {name}", f"{what}; {console.count(streams[name], 'recording')}, {lengths[name] / 1000:.0f} s")
            )
            continue
        span = "no range" if s.range is None else f"range {s.range[0]:g} to {s.range[1]:g}"
        out.append(
            (
                f"stream {name}",
                f"{', '.join(s.channels)} in {s.unit} at {s.rate_hz:g} Hz, {span}; {console.count(streams[name], 'recording')},"
                f" {lengths[name] / 1000:.0f} s",
            )
        )
    return out


def check_command(argv: list[str]) -> int:
    parser = verbs.Parser(
        prog="mien data check",
        description="Of a folder of recordings: read it from end to end and list everything that is wrong or risky: files"
        " and tables (errors), units, gaps, consent and confounders (warnings). Of a database (`mien data list`): what"
        " would spoil a result on it: shared persons, labels that metadata gives away, few or identifiable persons, terms."
        " Of a published division (EmoBox's folds, MELD's tables): who is on two sides of it."
        " It changes nothing. Exit code 1 if there is an error.",
        epilog="examples: mien data check my-study; mien data check crema_d root=~/CREMA-D folds=EmoBox/data/cremad"
        " recipe=adapt.yaml; mien data check MELD/data/MELD. A folder's layout: docs/bring-your-own.md."
        " From numpy arrays: mien data pack --help",
    )
    parser.add_argument(
        "what", help="the folder that holds cohort.yaml, the name of a database, or a published division of one"
    )
    parser.add_argument(
        "options", nargs="*", metavar="key=value",
        help="of a database: its keys; recipe=FILE: the adapt recipe you will run; folds=…: a csv with a column id or"
        " person and a column fold or split, or the folder of a published division",
    )  # fmt: skip
    args = parser.parse_intermixed_args(argv)
    if args.options or (args.what in plugins.names("data/datasets") and not Path(args.what, "cohort.yaml").exists()):
        return _check_database(args.what, args.options)
    place = Path(args.what).expanduser()
    if not (place / "cohort.yaml").exists() and division.is_division(place):
        return 1 if _findings(args.what, list(division.overlap(place))) else 0
    found = check(args.what)
    again = f"mien data check {shlex.quote(args.what)}"
    if _findings(args.what, found):
        console.say(f"repair the errors, then: {again}")
        return 1
    cohort = folder.load(folder.Config(root=args.what))
    console.table(cohort.card.name, ["what", "how much"], summary(cohort))
    labels = cohort.column("labels")
    tasks = sorted(cohort.card.tasks, key=lambda t: len({x[t] for x in labels if t in x}) < 2)  # a usable one first
    task = next(iter(tasks), None)
    if task is None:
        console.say("declare a task in cohort.yaml (a label column and its classes), then:")
    console.say(
        f"next: mien adapt recipes/folder/adapt.yaml cohort.root={shlex.quote(args.what)} task={task or '<column>'}"
    )
    return 0


def _check_database(name: str, items: Sequence[str]) -> int:
    options = _options(items)
    own = plugins.load("data/datasets", name).Config.model_fields
    files = {k: options.pop(k) for k in ("recipe", "folds") if k in options and k not in own}
    cohort = _resolved(name, options)
    found = traps.traps(cohort, name=name, **files)
    size = f"{console.count(len(cohort.persons), 'person')}, {console.count(len(cohort), 'recording')}"
    return 1 if _findings(f"{name}: {size}", found) else 0


def _findings(title: str, found: Sequence[Finding]) -> int:
    """The findings as a table; how many of them are errors."""
    counts = Counter(f.level for f in found)
    if found:
        rows = [(f.level, f.where, f.problem, f.fix) for f in _grouped(found)]
        console.table(title, ["level", "where", "problem", "what to do"], rows)
    console.say(f"{counts['error']} error(s), {counts['warning']} warning(s), {counts['info']} note(s) in {title}")
    return counts["error"]


def _grouped(found: Sequence[Finding]) -> list[Finding]:
    """One finding for more than three that differ in a file, a line, a recording or a number; the first one's text stands."""
    groups: dict[tuple[str, ...], list[Finding]] = {}
    for f in found:
        alike = (
            re.sub(r"[^ ]+ \(recording '[^']*'\)|(recording|file) '[^']*'|\d+", r"\1", text)
            for text in (f.where, f.problem)
        )
        groups.setdefault((f.level, f.fix, *alike), []).append(f)
    out = []
    for same in groups.values():
        first = same[0]
        noun = "files" if " (recording '" in first.where else "lines" if ", line " in first.where else "places"
        many = replace(first, where=f"{len(same)} {noun}, such as {first.where}")
        out += [many] if len(same) > 3 else same
    return out


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
    parser.add_argument(
        "--source", default="", help="the study that gave out the persons' ids, as a private run needs it"
    )
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
        source=args.source,
    )
    persons = console.count(len(set(arrays["person"].tolist())), "person")
    console.say(f"{console.count(len(values), 'recording')} of {persons} in {args.out}")
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


# --- data sets by name ------------------------------------------------------------------------------------------
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
    parser = verbs.Parser(
        prog="mien data describe",
        description="Open a cohort and show its card: licence, consent, tasks, streams and counts. A public database named"
        " alone: what it is, how to get it lawfully, which files are expected.",
        epilog="examples: mien data describe wesad; mien data describe folder root=my-study",
    )
    parser.add_argument("name", help="a data set (see `mien data list`)")
    parser.add_argument("options", nargs="*", metavar="key=value", help="its keys")
    args = parser.parse_intermixed_args(argv)
    options = _options(args.options)
    module = plugins.load("data/datasets", args.name)
    if not options and any(f.is_required() for f in module.Config.model_fields.values()):
        return _about(args.name, module)
    _show(_resolved(args.name, options))
    return 0


def _about(name: str, module: ModuleType) -> int:
    """What a stranger has to know before they have a copy."""
    console.say(f"{name}\n\n{traps.page(name) or (module.__doc__ or '').strip()}\n")
    console.say(f"keys: {', '.join(_keys(module.Config))}")
    key = next(k for k, f in module.Config.model_fields.items() if f.is_required())
    console.say(f"with your copy: mien data import {name} {key}=…, then mien data check {name} {key}=…")
    return 0


def _show(cohort: Cohort) -> None:
    card = cohort.card
    rows = [("licence", card.licence), ("consent", card.consent), ("source", card.source or "–")]
    rows += [(f"it asks: {r}", RESTRICTIONS[r]) for r in card.restrictions]
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


def import_command(argv: list[str]) -> int:
    parser = verbs.Parser(
        prog="mien data import",
        description="Read your copy of a database into Mien's cache, where every verb finds it: what was found, what was"
        " left out and why, where it lies. Later calls, and recipes with the same keys, read the cache.",
        epilog="example: mien data import wesad root=~/WESAD device=wrist",
    )
    parser.add_argument("name", help="a data set (see `mien data list`)")
    parser.add_argument("options", nargs="*", metavar="key=value", help="its keys")
    parser.add_argument("--out", metavar="DIR", help="also write the cohort there, for its owner alone (mode 0700)")
    args = parser.parse_intermixed_args(argv)
    out = None if args.out is None else Path(args.out).expanduser()
    if out is not None and out.exists():
        raise MienError(f"{out} exists already; choose another folder or remove it first")
    cohort = _resolved(args.name, _options(args.options))
    _show(cohort)
    for line in cohort.told:
        console.say(line)
    if not cohort.told:
        console.say("  nothing was left out, or nothing was said of it")
    console.say(f"cached: {cohort.folder}" if cohort.folder else "not cached: it is made anew each time")
    if out is not None:
        if "credentialed" in cohort.card.restrictions:
            raise MienError(
                f"{args.name} is for persons its holder has admitted ({cohort.card.licence}): no further copy is made; the"
                " cache, which only you can read, holds it"
            )
        cohort.write(out)
        console.say(f"cohort: {out}")
        if "no-redistribution" in cohort.card.restrictions:
            console.say("  it is yours alone: its licence does not let you pass it on")
    console.say(f"next: {shlex.join(['mien', 'data', 'check', args.name, *args.options])}")
    return 0


def _options(items: Sequence[str]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for item in items:
        key, mark, text = item.partition("=")
        if not mark or not key or key == "name":
            raise MienError(f"an option is written key=value, got {item!r}")
        try:
            options[key] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise MienError(f"option {item!r}: the value is not valid YAML") from None
    return options


def _resolved(name: str, options: dict[str, Any]) -> Cohort:
    module, config = plugins.resolve("data/datasets", Plugin(name=name, **options))
    return module.load(config)
