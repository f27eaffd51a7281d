"""`studentlife`: calls, messages, talk and activity on phones, stress and PHQ-9, 48 students (Wang et al. 2014), your copy.

studentlife.cs.dartmouth.edu: `dataset/call_log/call_log_u00.csv`, `sms/`, `sensing/activity/` …, `EMA/response/Stress/
Stress_u00.json`, `survey/PHQ-9.csv`. One spring term of 2013, US Eastern. An open download for research.

A recording is a stretch of one person: the hours before each answer to "how stressed are you" (`per: answer`), or a
calendar week (`per: week`, Monday to Sunday from 25 March 2013, for depression by the PHQ-9 after the term). Times
are kept in seconds since the person's first record (from the full ten minutes before it). Location, MAC addresses, contacts'
names and all other surveys are never read; a hashed number becomes "this person's third", and is forgotten.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator

from ...core import console
from ...core.config import Section
from ...core.errors import MienError
from ...core.paths import cache_home
from ...core.records import Cohort, CohortCard, Consent, Events, Recording, Signal, Stream, StreamSpec, Value
from .. import sources

VERSION = 3  # of the conversion below: a change of it makes a new cache entry
STRESS = ("great", "good", "a_little", "definitely", "stressed_out")
_CODES = {"5": 0, "4": 1, "1": 2, "2": 3, "3": 4}  # the questionnaire's numbers are not in order of stress
_ANSWERS = {"Not at all": 0, "Several days": 1, "More than half the days": 2, "Nearly every day": 3}
_DEPRESSED = 10  # of 27: the PHQ-9's usual cut
_STUDY = (1362114000.0, 1378008000.0)  # 1 March to 1 September 2013, US Eastern; outside, a clock is wrong
_MONDAY, _WEEK_S = 1364184000.0, 7 * 86400.0  # 25 March 2013, 00:00 EDT: all of the term is daylight time
_BIN_S = 600.0
_LATE_S = 7200.0  # logs are read every hour, and what one reading finds carries one time
_NOBODY = {hashlib.sha1(x).hexdigest() for x in (b"", b"-1", b"-2")}  # Android's unknown and withheld numbers, hashed
Name = Literal["calls", "messages", "conversation", "activity", "locked", "charging", "dark"]
_FOLDERS = {  # stream -> (folder, file's prefix)
    "calls": ("call_log", "call_log"), "messages": ("sms", "sms"), "conversation": ("sensing/conversation", "conversation"),
    "activity": ("sensing/activity", "activity"), "locked": ("sensing/phonelock", "phonelock"),
    "charging": ("sensing/phonecharge", "phonecharge"), "dark": ("sensing/dark", "dark"),
}  # fmt: skip
_KINDS = {
    "calls": ("in", "out", "missed"), "messages": ("received", "sent"), "conversation": ("conversation",),
    "locked": ("locked",), "charging": ("charging",), "dark": ("dark",),
}  # fmt: skip
ACTIVITY = StreamSpec(channels=("stationary", "walking", "running"), unit="share", rate_hz=1 / _BIN_S, range=(0.0, 1.0))


class Config(Section):
    """root: your copy (the folder dataset, or one around it); per: a recording per stress answer or per week; hours: how
    long before an answer; streams: which are read (locked, charging and dark only when asked for)."""

    root: str
    per: Literal["answer", "week"] = "answer"
    hours: float = Field(default=6.0, ge=1, le=168)
    streams: tuple[Name, ...] = Field(default=("calls", "messages", "conversation", "activity"), min_length=1)

    @field_validator("hours")
    @classmethod
    def _whole_bins(cls, hours: float) -> float:
        if not (hours * 3600 / _BIN_S).is_integer():
            raise ValueError("hours come in steps of ten minutes (a sixth of an hour): 1, 1.5, 6 …")
        return hours


@dataclass(frozen=True, kw_only=True)
class _Log:
    """One stream of one person, whole: times in Unix seconds, parties still as hashes; observed from first to last."""

    times: np.ndarray
    durations: np.ndarray
    codes: np.ndarray
    parties: Sequence[str | int]
    first: float
    last: float


def load(config: Config) -> Cohort:
    """Labels: stress (five, in order), stressed (yes: a little, definitely, stressed out), depression (yes: PHQ-9 after the
    term is 10 or more), and the scores phq9 and phq9_pre; per week the last three. There are no attributes.

    Events: calls, messages, conversation, locked, charging, dark. `activity` is a Signal of shares per ten minutes whose
    gaps are the ten minutes without any inference. A stream is observed from its file's first record to its last; a
    call or message log that never holds one is absent.

    MienError naming the file: nothing to read, two copies, a link out of the folder, a table without its columns.
    """
    root = sources.home(config.root)
    base = _base(root)
    answers = _files(base, "EMA/response/Stress", "Stress", "json")
    survey = sources.one(base, "survey/PHQ-9.csv", depth=0)
    logs = {name: _files(base, *_FOLDERS[name], "csv") for name in config.streams}
    persons = sorted({p for files in logs.values() for p in files})
    if not persons:
        raise MienError(f"{base} holds no file of {', '.join(config.streams)}: is it StudentLife's dataset, unpacked?")
    if config.per == "answer" and not answers:
        raise MienError(f"{base} holds no EMA/response/Stress/Stress_u00.json …; add them, or take per=week")
    if config.per == "week" and survey is None:
        raise MienError(f"{base} holds no survey/PHQ-9.csv, where the label of a week is; add it, or take per=answer")
    if survey is None:
        console.say("  no survey/PHQ-9.csv: nobody has the label depression")
    spec = {n: ACTIVITY if n == "activity" else StreamSpec(channels=_KINDS[n], kind="events") for n in config.streams}
    depression = {"depression": ("no", "yes")}
    what = f"{config.hours:g} h before each answer" if config.per == "answer" else "weeks"
    card = CohortCard(
        name="studentlife",
        restrictions=("attribution", "research-only"),
        licence="StudentLife: an open download for research; cite Wang et al. 2014, ask its authors for anything else",
        consent="students of Wang et al. 2014 took part under consent; all purposes are assumed for each",
        tasks={"stress": STRESS, "stressed": ("no", "yes"), **depression} if config.per == "answer" else depression,
        streams=spec,
        source=f"StudentLife (Dartmouth), own copy; {what}",
    )
    used = [*answers.values(), *(f for files in logs.values() for f in files.values()), *([survey] if survey else [])]
    return Cohort.build(
        _recordings(config, persons, logs, answers, _scores(survey)), card=card,
        consents={f"studentlife-{p}": Consent() for p in persons}, cache=cache_home() / "cohorts",
        key=sources.cache_key("studentlife", VERSION, config.model_dump(), used),
    )  # fmt: skip


def _base(root: Path) -> Path:
    """The folder that holds call_log, sms, sensing, EMA and survey."""
    found = {
        p.parent for n in ("call_log", "sms", "sensing", "EMA", "survey") if (p := sources.one(root, n)) is not None
    }
    if not found:
        raise MienError(f"{root} holds no call_log, sms, sensing, EMA or survey: is it StudentLife's dataset?")
    if len(found) > 1:
        raise MienError(f"{root} holds parts of StudentLife in {' and in '.join(map(str, sorted(found)))}; join them")
    return found.pop()


def _files(base: Path, folder: str, prefix: str, ext: str) -> dict[str, Path]:
    """Person (u00 …) -> file, in the folder or one below."""
    out: dict[str, Path] = {}
    name = f"{prefix}_u*.{ext}"
    for file in (*sources.find(base, f"{folder}/{name}", 0), *sources.find(base, f"{folder}/*/{name}", 0)):
        person = file.stem.removeprefix(f"{prefix}_")
        if not re.fullmatch(r"u\d\d", person):
            continue
        if person in out:
            raise MienError(f"{person} is there twice, {out[person]} and {file}; keep one")
        out[person] = file
    return out


def _recordings(
    config: Config, persons: list[str], logs: Mapping[str, Mapping[str, Path]], answers: Mapping[str, Path],
    scores: Mapping[str, Mapping[str, Value]],
) -> Iterator[Recording]:  # fmt: skip
    """Two persons in memory at a time."""
    left, made, unlabelled = sources.LeftOut(), 0, 0
    for person in sorted(set(answers) - set(persons)):
        left.add("person(s) with answers and without any stream", answers[person].name)

    def read(person: str) -> tuple[tuple[dict[str, _Log], np.ndarray | None, float | None], sources.LeftOut]:
        own = sources.LeftOut()
        return _person(person, logs, own), own

    for person, ((events, activity, first), own) in sources.ahead("reading StudentLife", persons, read, at_once=2):
        left.merge(own)
        if first is None:
            left.add("person(s) without a usable record", person)
            continue
        labels = scores.get(person, {})
        stretches: list[tuple[str, float, float, dict[str, Value]]] = []
        if config.per == "week":
            last = max([log.last for log in events.values()] + ([_ends(activity)] if activity is not None else []))
            for week in range(math.ceil((last - _MONDAY) / _WEEK_S)):
                start = _MONDAY + week * _WEEK_S
                stretches.append((f"week-{week + 1:02d}", start, start + _WEEK_S, {}))
        elif person not in answers:
            left.add("person(s) without an answer about stress", person)
        else:
            for i, (when, code) in enumerate(_answers(answers[person], left)):
                end = when // _BIN_S * _BIN_S
                said: dict[str, Value] = {"stress": STRESS[code], "stressed": "yes" if code >= 2 else "no"}
                stretches.append((f"{i:03d}", end - config.hours * 3600, end, said))
        for name, start, end, said in stretches:
            streams: dict[str, Stream] = {}
            for kind, log in events.items():
                if (part := _between(log, _KINDS[kind], start, end)) is not None:
                    streams[kind] = part
            if activity is not None and (share := _shares(activity, start, end)) is not None:
                streams["activity"] = share
            if not streams:
                left.add("week(s) or answer(s) of which nothing was recorded", f"{person}-{name}")
                continue
            made, unlabelled = made + 1, unlabelled + ("depression" not in labels)
            yield Recording(
                id=f"studentlife-{person}-{name}", person=f"studentlife-{person}", session=name,
                start_s=start - first // _BIN_S * _BIN_S, streams=streams, labels={**said, **labels},
            )  # fmt: skip
    left.tell()
    if unlabelled:
        console.say(
            f"  {unlabelled} recording(s) of persons without a PHQ-9 after the term: they have no depression label"
        )
    if not made:
        why = "; ".join(f"{n} {reason}" for reason, n in left.counts.items())
        raise MienError(f"nothing of StudentLife could be read: {why}")


def _person(
    person: str, logs: Mapping[str, Mapping[str, Path]], left: sources.LeftOut
) -> tuple[dict[str, _Log], np.ndarray | None, float | None]:
    """Their events by stream, counts of inferences per ten minutes, and when their first record was."""
    events: dict[str, _Log] = {}
    activity, first = None, []
    for name, files in logs.items():
        if person not in files:
            left.add(f"person(s) without a file of {name}, whose stream is absent", person)
            continue
        if name == "activity":
            counts = _activity(files[person], left)
            if len(some := np.flatnonzero(counts.sum(1))):
                activity = counts
                first.append(_STUDY[0] + int(some[0]) * _BIN_S)
            continue
        log = _log(files[person], name, left) if name in ("calls", "messages") else _spans(files[person], left)
        if log is None:
            left.add(f"log(s) without any {name}, whose stream is absent", files[person].name)
        else:
            events[name] = log
            first.append(log.first)
    return _numbered(events), activity, min(first, default=None)


def _time(text: str) -> float | None:
    """Unix seconds within the study, or None."""
    seconds = sources.number(text)
    return seconds if seconds is not None and _STUDY[0] <= seconds < _STUDY[1] else None


def _log(file: Path, name: str, left: sources.LeftOut) -> _Log | None:
    """A call or message log. An entry's time is `timestamp`, that of the newest entry of one reading of the log, once an
    hour: CALLS_date is rounded to hours (1.36408E+12). What the date puts hours before that is history from before the study, of
    which no time is known. Rows with nothing but id, device and timestamp only say that the log was read."""
    field = "CALLS" if name == "calls" else "MESSAGES"
    whom = f"{field}_number" if name == "calls" else f"{field}_address"
    more = ("CALLS_duration", "CALLS__id") if name == "calls" else ("MESSAGES_protocol", "MESSAGES_body")
    rows, seen, alike = [], set(), set()
    for cells in sources.columns(file, ("id", "timestamp"), (f"{field}_type", f"{field}_date", whom, *more)):
        _, stamp, kind, date, party, seconds, _ = cells
        when = _time(stamp)
        if when is None:
            left.add("log row(s) without a time in the study's months", file.name)
            continue
        seen.add(when)
        if not any(cells[2:]):
            left.add("log row(s) that only say that the log was read", file.name)
            continue
        length = sources.number(seconds) if name == "calls" else 0.0
        code = sources.number(kind)
        if cells in alike:
            left.add(f"{name} twice in one log", file.name)
        elif code is None or code not in range(1, len(_KINDS[name]) + 1):
            left.add(f"{name} of another type", file.name)
        elif length is None or length < 0:
            left.add("calls without a duration, or with one below nothing", file.name)
        elif _late(date, when):
            left.add(f"{name} whose date is hours from their log entry", file.name)
        else:
            rows.append((when, length, int(code) - 1, party))
        alike.add(cells)
    if not rows:
        return None
    return _sorted(rows, min(seen), max(seen))


def _late(date: str, when: float) -> bool:
    """Whether a date in ms, as exact as it is written, is more than two hours from `when`."""
    written = re.fullmatch(r"(\d+)(?:\.(\d+))?(?:[eE]\+?(\d+))?", date)
    if written is None:
        return False  # blank or no number: nothing contradicts
    exact = 10.0 ** (int(written[3] or 0) - len(written[2] or "")) / 2
    return abs(float(date) / 1000 - when) - exact / 1000 > _LATE_S


def _spans(file: Path, left: sources.LeftOut) -> _Log | None:
    """Stretches of time: of conversation, darkness, a locked phone."""
    names = ("start_timestamp", "end_timestamp") if file.stem.startswith("conversation") else ("start", "end")
    rows = []
    for begin, finish in sources.columns(file, names):
        start, end = _time(begin), _time(finish)
        if start is None or end is None:
            left.add("stretch(es) without a time in the study's months", file.name)
        elif end < start:
            left.add("stretch(es) that end before they begin", file.name)
        else:
            rows.append((start, end - start, 0, ""))
    if not rows:
        return None
    return _sorted(rows, min(r[0] for r in rows), max(r[0] + r[1] for r in rows))


def _sorted(rows: list[tuple[float, float, int, str]], first: float, last: float) -> _Log:
    rows.sort(key=lambda r: r[0])  # stable: the file's order within a second
    times, durations, codes, parties = zip(*rows, strict=True)
    return _Log(
        times=np.array(times), durations=np.array(durations), codes=np.array(codes), parties=parties, first=first, last=last
    )  # fmt: skip


def _numbered(events: Mapping[str, _Log]) -> dict[str, _Log]:
    """Hashes -> small numbers in order of first appearance in any log of this person; unknown and withheld: -1."""
    number: dict[str, int] = {}
    party = {name: np.full(len(log.times), -1) for name, log in events.items()}
    order = [(t, name, i) for name, log in events.items() for i, t in enumerate(log.times)]
    for _, name, i in sorted(order):
        cell = str(events[name].parties[i])
        key = m[0] if (m := re.search(r"[0-9a-f]{40}", cell)) else cell
        if key and key not in _NOBODY:
            party[name][i] = number.setdefault(key, len(number))
    return {name: replace(log, parties=party[name]) for name, log in events.items()}


def _activity(file: Path, left: sources.LeftOut) -> np.ndarray:
    """int[n, 4]: inferences of each kind (stationary, walking, running, unknown) in each ten minutes of the study."""
    counts = np.zeros((int((_STUDY[1] - _STUDY[0]) / _BIN_S), 4), np.int64)
    plain = sources.plain_columns(file, names := ("timestamp", "activity inference"))
    if plain is not None:  # 23 million rows in all
        import pyarrow as pa
        from pyarrow import compute

        pc: Any = compute  # its functions are made at import, unseen by checkers of types
        stamp, what = plain
        numbers = pc.if_else(pc.match_substring_regex(stamp, r"^-?\d+(\.\d+)?$"), stamp, None)
        when = pc.fill_null(pc.cast(numbers, pa.float64()), np.nan).to_numpy()
        kind = pc.fill_null(pc.index_in(what, pa.array(["0", "1", "2", "3"])), -1).to_numpy()
        timed = (when >= _STUDY[0]) & (when < _STUDY[1])
        left.add("activity row(s) without a time in the study's months", file.name, int((~timed).sum()))
        left.add("activity row(s) that are none of 0 to 3", file.name, int((timed & (kind < 0)).sum()))
        known = timed & (kind >= 0)
        np.add.at(counts, (((when[known] - _STUDY[0]) // _BIN_S).astype(np.int64), kind[known]), 1)
        return counts
    for stamp, what in sources.columns(file, names):
        when = _time(stamp)
        if when is None:
            left.add("activity row(s) without a time in the study's months", file.name)
        elif what not in ("0", "1", "2", "3"):
            left.add("activity row(s) that are none of 0 to 3", file.name)
        else:
            counts[int((when - _STUDY[0]) // _BIN_S), int(what)] += 1
    return counts


def _ends(activity: np.ndarray) -> float:
    return _STUDY[0] + float(np.flatnonzero(activity.sum(1))[-1] + 1) * _BIN_S


def _between(log: _Log, kinds: tuple[str, ...], start: float, end: float) -> Events | None:
    """The part of a log that lies in [start, end), in seconds since `start`; None when nothing of it was observed. What goes
    on after `end` ends there, for how long it went on is not known at the answer."""
    first, last = max(start, log.first), min(end, log.last)
    if last <= first:
        return None
    part = slice(*np.searchsorted(log.times, (first, last), side="left"))
    return Events(
        times_s=log.times[part] - start, durations_s=np.minimum(log.durations[part], end - log.times[part]), codes=log.codes[part],
        party=np.array(log.parties[part]), kinds=kinds, seconds=last - first, offset_s=first - start,
    )  # fmt: skip


def _shares(activity: np.ndarray, start: float, end: float) -> Signal | None:
    """Shares of stationary, walking and running among a ten minutes' inferences; None when there is not one."""
    first, last = (int((t - _STUDY[0]) // _BIN_S) for t in (start, end))
    if first < 0 or last > len(activity):
        return None
    counts = activity[first:last]
    valid = np.asarray(counts.sum(1) > 0)
    if not valid.any():
        return None
    values = np.full((len(counts), 3), np.nan)
    values[valid] = counts[valid, :3] / counts[valid].sum(1, keepdims=True)
    return Signal(
        values=values, rate_hz=ACTIVITY.rate_hz, channels=ACTIVITY.channels, unit=ACTIVITY.unit,
        valid=None if valid.all() else valid,
    )  # fmt: skip


def _answers(file: Path, left: sources.LeftOut) -> list[tuple[float, int]]:
    """(Unix seconds, place in STRESS) of each answer, in order of time."""
    if not file.is_file():
        raise MienError(f"{file} is a folder, not a file; restore it from its source")
    if file.stat().st_size > sources.LARGEST:
        raise MienError(f"{file} is over 2 GB, which nobody's answers are; restore it from its source")
    try:
        given = json.loads(file.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise MienError(f"{file} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise MienError(f"{file} is not valid JSON ({error}); restore it from its source") from None
    if not isinstance(given, list) or not all(isinstance(a, dict) for a in given):
        raise MienError(f"{file} is not a list of answers; restore it from its source")
    at: dict[float, set[int]] = defaultdict(set)
    for answer in given:
        when, level = _time(str(answer.get("resp_time"))), str(answer.get("level"))
        if "level" not in answer and "null" in answer:
            left.add('answer(s) about stress under the key "null", which may answer anything', file.name)
        elif when is None:
            left.add("answer(s) without a time in the study's months", file.name)
        elif level not in _CODES:
            left.add("answer(s) about stress that are none of 1 to 5", file.name)
        else:
            at[when].add(_CODES[level])
    for when in [w for w, codes in at.items() if len(codes) > 1]:
        left.add("moment(s) with two answers about stress that differ", file.name)
        del at[when]
    return [(when, codes.pop()) for when, codes in sorted(at.items())]


def _scores(file: Path | None) -> dict[str, dict[str, Value]]:
    """Person -> phq9 (after the term), phq9_pre and depression. The answers are words; with one missing there is no score."""
    out: dict[str, dict[str, Value]] = defaultdict(dict)
    partial = 0
    for row in sources.table(file, ("uid", "type", "Response")) if file else ():
        items = [v for n, v in row.items() if n and n not in ("uid", "type", "Response")]
        key = {"pre": "phq9_pre", "post": "phq9"}.get(row["type"])
        if len(items) != 9 or key is None:
            raise MienError(
                f"{file}: {row['uid']} has {len(items)} items of type {row['type']!r}, not 9 of pre or post"
            )
        if unknown := [v for v in items if v and v not in _ANSWERS]:
            raise MienError(f"{file}: the answer {unknown[0]!r} of {row['uid']} is none of {', '.join(_ANSWERS)}")
        if key in out[row["uid"]]:
            raise MienError(f"{file}: {row['uid']} has two rows of type {row['type']}; keep one")
        if not all(items):
            partial += 1
            continue
        out[row["uid"]][key] = float(sum(_ANSWERS[v] for v in items))
    if partial:
        console.say(f"  {partial} PHQ-9 with an item left blank: they have no score")
    for mine in out.values():
        if "phq9" in mine:
            mine["depression"] = "yes" if float(mine["phq9"]) >= _DEPRESSED else "no"
    return dict(out)
