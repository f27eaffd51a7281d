"""`globem`: daily features of calls, screen, steps and sleep with weekly depression, 2018 to 2021 (Xu et al. 2022), your copy.

physionet.org/content/globem (credentialed): `INS-W_1/SurveyData/dep_weekly.csv`, `FeatureData/call.csv` …,
`ParticipantsInfoData/platform.csv`, and so on to `INS-W_4`; or its ten-person samples `INS-W-sample_1` … in
github.com/UW-EXP/GLOBEM. Licence: PhysioNet's for credentialed health data; nothing of it may be shared.

A recording is the days before a label, one sample a day. Days without a feature are gaps, never filled: of 28 days few are
complete, so a recipe sets `valid`, the share of days there must be. Students who came back have another id each year (497
persons, 705 ids): a split by id cannot know, so one data set is read unless more are asked for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from ...core import console
from ...core.config import Section
from ...core.errors import MienError
from ...core.paths import cache_home
from ...core.records import PURPOSES, Cohort, CohortCard, Consent, Recording, Signal, StreamSpec, Value
from .. import sources

VERSION = 3  # of the conversion below: a change of it makes a new cache entry
DAY_HZ = 1 / 86400
_PURPOSES = tuple(p for p in PURPOSES if p != "sharing")  # which the licence rules out
_YEARS = {1: 2018, 2: 2019, 3: 2020, 4: 2021}
Sensor = Literal["calls", "screen", "steps", "sleep"]


@dataclass(frozen=True, kw_only=True)
class _Daily:
    """A stream: its spec, and per channel the feature it is and the count that, at 0, makes an absent sum a 0."""

    spec: StreamSpec
    features: tuple[str, ...]
    counts: tuple[str, ...] = ()


def _daily(unit: str, high: float, channels: Mapping[str, str], counts: Sequence[str] = ()) -> _Daily:
    spec = StreamSpec(channels=tuple(channels), unit=unit, rate_hz=DAY_HZ, range=(0.0, high))
    return _Daily(spec=spec, features=tuple(channels.values()), counts=tuple(counts))


def _calls(feature: str, kinds: Sequence[str]) -> dict[str, str]:
    return {k: f"f_call:phone_calls_rapids_{k}_{feature}" for k in kinds}


_WAYS, _KINDS = ("incoming", "outgoing"), ("incoming", "outgoing", "missed")
# sensor -> its file and streams. Ranges are what a student's day can plausibly hold, known beforehand. Features `_norm` and
# `_dis` are not read: they are scaled by a person's whole study, days after the label included.
SENSORS: dict[Sensor, tuple[str, dict[str, _Daily]]] = {
    "calls": ("call.csv", {
        "calls": _daily("1/day", 100, _calls("count", _KINDS)),
        "contacts": _daily("persons/day", 50, _calls("distinctcontacts", _KINDS)),
        "talk": _daily("s/day", 14400, _calls("sumduration", _WAYS), tuple(_calls("count", _WAYS).values())),
        "talk_entropy": _daily("nat", 4, _calls("entropyduration", _WAYS), tuple(_calls("count", _WAYS).values())),
    }),
    "screen": ("screen.csv", {
        "unlocks": _daily("1/day", 500, {"unlocks": "f_screen:phone_screen_rapids_countepisodeunlock"}),
        "unlocked": _daily("min/day", 1440, {"unlocked": "f_screen:phone_screen_rapids_sumdurationunlock"}),
    }),
    "steps": ("steps.csv", {
        "steps": _daily("1/day", 40000, {"steps": "f_steps:fitbit_steps_intraday_rapids_sumsteps"}),
        "bouts": _daily("min/day", 1440, {
            "sedentary": "f_steps:fitbit_steps_intraday_rapids_sumdurationsedentarybout",
            "active": "f_steps:fitbit_steps_intraday_rapids_sumdurationactivebout",
        }),
    }),
    "sleep": ("sleep.csv", {
        "sleep": _daily("min/day", 1440, {
            "asleep": "f_slp:fitbit_sleep_intraday_rapids_sumdurationasleepunifiedmain",
            "awake": "f_slp:fitbit_sleep_intraday_rapids_sumdurationawakeunifiedmain",
        }),
    }),
}  # fmt: skip


class Config(Section):
    """root: the folder that holds INS-W_1 …, or one around it; sets: which of the four (2018 to 2021); samples: read
    INS-W-sample_1 … instead; sensors: whose features; segment: of the whole day or a part; labels: weekly (with the one
    after the term) or only that after the term; days: how many before a label."""

    root: str
    sets: tuple[Literal[1, 2, 3, 4], ...] = Field(default=(2,), min_length=1)
    samples: bool = False
    sensors: tuple[Sensor, ...] = Field(default=("calls",), min_length=1)
    segment: Literal["allday", "morning", "afternoon", "evening", "night"] = "allday"
    labels: Literal["weekly", "endterm"] = "weekly"
    days: int = Field(default=28, ge=1, le=90)


def load(config: Config) -> Cohort:
    """Label: depression (no, yes), GLOBEM's `dep`. Attributes: platform (where platform.csv says it), dataset, year.
    start_s: seconds since 1 March of the year. The label's own day is not in: it goes on after the answer.

    Streams, one sample a day: calls, contacts, talk, talk_entropy; unlocks, unlocked; steps, bouts; sleep. A day is valid
    in a stream when all its channels were given; of no calls at all the sum and the entropy are 0 by definition.

    MienError naming the file: a data set, table or column that is not there, an id in two data sets, a link out.
    """
    root = sources.home(config.root)
    name = "INS-W-sample_" if config.samples else "INS-W_"
    folders: dict[int, Path] = {}
    for n in sorted(set(config.sets)):
        folder = sources.one(root, f"{name}{n}")
        if folder is None:
            found = [f.name for f in sources.find(root, "INS-W*") if f.is_dir()]
            told = f"it holds {', '.join(found)}; set sets and samples" if found else "is it GLOBEM, unpacked?"
            raise MienError(f"{root} holds no folder {name}{n}: {told}")
        folders[n] = folder
    streams = {k: s for sensor in config.sensors for k, s in SENSORS[sensor][1].items()}
    card = CohortCard(
        name="globem",
        restrictions=("attribution", "research-only", "no-redistribution", "credentialed"),
        licence="GLOBEM: PhysioNet credentialed health data licence; neither it nor a part of it may be shared",
        consent="students of Xu et al. 2022 took part under consent; all purposes but sharing are assumed for each",
        tasks={"depression": ("no", "yes")},
        attributes=("platform", "dataset", "year"),
        streams={k: s.spec for k, s in streams.items()},
        source=f"GLOBEM ({', '.join(f.name for f in folders.values())}), own copy; {config.days} days before each label",
    )
    used = [f for folder in folders.values() for f in _used(folder, config)]
    labels = {n: _labels(_label_file(folder, config)) for n, folder in folders.items()}
    seen: dict[str, int] = {}
    for n, of in labels.items():
        for person in of:
            if seen.setdefault(person, n) != n:
                raise MienError(f"{person} is in {name}{seen[person]} and {name}{n}; one id is one person of one year")
    if len(folders) > 1:
        console.say("  several years: who came back has another id, perhaps on the split's other side")
    return Cohort.build(
        _recordings(folders, labels, streams, config), card=card,
        consents={_person(p): Consent(purposes=_PURPOSES) for p in seen}, cache=cache_home() / "cohorts",
        key=sources.cache_key("globem", VERSION, config.model_dump(), used),
    )  # fmt: skip


def _person(pid: str) -> str:
    return f"globem-{pid}"


def _label_file(folder: Path, config: Config) -> Path:
    file = sources.one(folder, f"SurveyData/dep_{config.labels}.csv", depth=0)
    if file is None:
        raise MienError(f"{folder} holds no SurveyData/dep_{config.labels}.csv, where the labels are; restore it")
    return file


def _feature_file(folder: Path, sensor: Sensor) -> Path:
    """The sensor's own table, or else the one of all sensors."""
    for name in (SENSORS[sensor][0], "rapids.csv"):
        if (file := sources.one(folder, f"FeatureData/{name}", depth=0)) is not None:
            return file
    raise MienError(f"{folder} holds neither FeatureData/{SENSORS[sensor][0]} nor rapids.csv; add one")


def _used(folder: Path, config: Config) -> list[Path]:
    platform = sources.one(folder, "ParticipantsInfoData/platform.csv", depth=0)
    features = {_feature_file(folder, s) for s in config.sensors}
    return [_label_file(folder, config), *sorted(features), *([platform] if platform else [])]


def _day(text: str, file: Path) -> date:
    try:
        return date.fromisoformat(text[:10])
    except ValueError:
        raise MienError(f"{file}: {text!r} is no date such as 2019-05-26") from None


def _labels(file: Path) -> dict[str, dict[date, str]]:
    """Person -> day -> no or yes, in the order of the file; an answer left out is counted."""
    out: dict[str, dict[date, str]] = {}
    blank = 0
    for pid, day, dep in sources.columns(file, ("pid", "date", "dep")):
        if not pid:
            raise MienError(f"{file} has a row without a pid; repair it")
        when, answer = _day(day, file), {"true": "yes", "false": "no", "": None}.get(dep.lower(), "?")
        if answer == "?":
            raise MienError(f"{file}: dep is {dep!r} for {pid} on {day}; True, False and nothing are known")
        mine = out.setdefault(pid, {})
        if answer is None:
            blank += 1
        elif mine.setdefault(when, answer) != answer:
            raise MienError(f"{file}: {pid} has two labels on {day}, which differ; keep one")
    if blank:
        console.say(f"  left out: {blank} row(s) of {file.name} without an answer")
    return out


def _platforms(folder: Path, left: sources.LeftOut) -> dict[str, str]:
    file = sources.one(folder, "ParticipantsInfoData/platform.csv", depth=0)
    if file is None:
        left.notes.append(f"{folder.name} has no platform.csv: whether ios or android is unknown")
        return {}
    return {pid: platform.lower() for pid, platform in sources.columns(file, ("pid", "platform")) if platform}


def _recordings(
    folders: Mapping[int, Path], labels: Mapping[int, Mapping[str, Mapping[date, str]]], streams: Mapping[str, _Daily],
    config: Config,
) -> Iterator[Recording]:  # fmt: skip
    """Two data sets' chosen features in memory at a time (some 20 numbers a person and day), one person after another."""
    left, made = sources.LeftOut(), 0

    def read(n: int) -> tuple[dict[str, dict[date, dict[str, float]]], dict[str, str], sources.LeftOut]:
        own: sources.LeftOut = sources.LeftOut()
        table: dict[str, dict[date, dict[str, float]]] = {}
        for sensor in config.sensors:
            _features(_feature_file(folders[n], sensor), sensor, config.segment, labels[n], table, own)
        return table, _platforms(folders[n], own), own

    for n, (table, platforms, own) in sources.ahead("reading GLOBEM", folders, read, at_once=2):
        left.merge(own)
        for person, answers in labels[n].items():
            facts: dict[str, Value] = {"dataset": folders[n].name, "year": _YEARS[n]}
            if person in platforms:
                facts["platform"] = platforms[person]
            for when, answer in sorted(answers.items()):
                first = when - timedelta(days=config.days)
                rows = [table.get(person, {}).get(first + timedelta(days=i), {}) for i in range(config.days)]
                signals = {k: s for k, spec in streams.items() if (s := _signal(rows, spec)) is not None}
                if not signals:
                    left.add(f"label(s) with no feature in the {config.days} days before", f"{person} {when}")
                    continue
                made += 1
                yield Recording(
                    id=f"{_person(person)}-{when}", person=_person(person), session=folders[n].name, streams=signals,
                    start_s=(first - date(_YEARS[n], 3, 1)).days * 86400.0, labels={"depression": answer},
                    attributes=facts,
                )  # fmt: skip
    left.tell()
    if not made:
        why = "; ".join(f"{n} {reason}" for reason, n in left.counts.items()) or "its tables hold no label"
        raise MienError(f"nothing of GLOBEM could be read: {why}")


def _features(
    file: Path, sensor: Sensor, segment: str, wanted: Mapping[str, object],
    table: dict[str, dict[date, dict[str, float]]], left: sources.LeftOut,
) -> None:  # fmt: skip
    """Person -> day -> feature -> number, added to `table`; what is blank stays absent."""
    daily = SENSORS[sensor][1].values()
    names = sorted({f for s in daily for f in (*s.features, *s.counts)})
    days: set[tuple[str, date]] = set()
    others: set[str] = set()
    wanted_columns = ("pid", "date", *(f"{f}:{segment}" for f in names))
    plain = sources.plain_columns(file, wanted_columns)
    rows = sources.columns(file, wanted_columns) if plain is None else zip(*(c.to_pylist() for c in plain), strict=True)
    for pid, day, *cells in rows:
        if pid not in wanted:
            others.add(pid)
            continue
        when = _day(day, file)
        if (pid, when) in days:
            raise MienError(f"{file}: {pid} has two rows on {day}; keep one")
        days.add((pid, when))
        mine = table.setdefault(pid, {}).setdefault(when, {})
        for name, cell in zip(names, cells, strict=True):
            if not cell:
                continue
            value = (
                float(cell) if re.fullmatch(r"-?[\d.]+(?:[eE][-+]?\d+)?", cell) and cell.count(".") < 2 else math.nan
            )
            if math.isfinite(value) and value >= 0:
                mine[name] = value
            elif cell.lower() != "nan":
                left.add("value(s) below nothing or not a number, taken as not given", f"{pid} {day} {name}")
    for pid in sorted(others):
        left.add(f"person(s) of {file.name} without a label", pid)


def _signal(rows: Sequence[Mapping[str, float]], stream: _Daily) -> Signal | None:
    """Days as samples, valid where every channel is known; None when no day is."""
    values = np.full((len(rows), len(stream.features)), np.nan, np.float32)
    for i, row in enumerate(rows):
        for c, feature in enumerate(stream.features):
            if feature in row:
                values[i, c] = row[feature]
            elif stream.counts and row.get(stream.counts[c]) == 0:
                values[i, c] = 0.0
    valid = np.asarray(np.isfinite(values).all(1))
    if not valid.any():
        return None
    values[~valid] = np.nan
    spec = stream.spec
    return Signal(
        values=values,
        rate_hz=spec.rate_hz,
        channels=spec.channels,
        unit=spec.unit,
        valid=None if valid.all() else valid,
    )
