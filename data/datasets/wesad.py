"""`wesad`: stress and affect from wrist and chest sensors, 15 persons (Schmidt et al. 2018), from your own copy.

UCI 465 or uni-siegen.de (17 GB unpacked): `WESAD/S2/S2.pkl` … `S17/S17.pkl`, each with its `S2_readme.txt`. The pickles
are read by a restricted unpickler in a limited process; or the wristband's own archives, `S2_E4_Data.zip` or unpacked,
cut by the times in `S2_quest.csv`. Licence: scientific, non-commercial; everything made from it inherits that, and nothing
of it may be shared.

Each uninterrupted stretch of one study condition becomes a recording, so no window crosses a boundary. Of the labels,
1 is baseline, 2 stress, 3 amusement, 4 meditation; 0 and 5 to 7 (transitions, not defined) are left out and counted.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Literal

import numpy as np

from ...core import console
from ...core.config import Section
from ...core.errors import MienError
from ...core.paths import cache_home
from ...core.records import Cohort, CohortCard, Consent, Recording, Signal, Stream, StreamSpec, Value
from .. import empatica, pickles, sources

VERSION = 3  # of the conversion below: a change of it makes a new cache entry
LABEL_HZ = 700.0
CONDITIONS = {1: "baseline", 2: "stress", 3: "amusement", 4: "meditation"}
_SHORTEST_S = 5.0
# stream -> (key in the pickle, factor to the unit, spec). Ranges are the sensors' plausible spans, known beforehand. The
# chest's keys are `Temp` and `Resp`, the wrist's `TEMP`: the readme's spelling is not the file's.
WRIST = {
    "acc": ("ACC", 1 / 64, StreamSpec(channels=("x", "y", "z"), unit="g", rate_hz=32.0, range=(-2.0, 2.0))),
    "bvp": ("BVP", 1.0, StreamSpec(channels=("bvp",), unit="a.u.", rate_hz=64.0, range=(-500.0, 500.0))),
    "eda": ("EDA", 1.0, StreamSpec(channels=("eda",), unit="uS", rate_hz=4.0, range=(0.0, 40.0))),
    "temp": ("TEMP", 1.0, StreamSpec(channels=("temp",), unit="degC", rate_hz=4.0, range=(20.0, 45.0))),
}
CHEST = {
    "chest_acc": ("ACC", 1.0, StreamSpec(channels=("x", "y", "z"), unit="g", rate_hz=LABEL_HZ, range=(-4.0, 4.0))),
    "ecg": ("ECG", 1.0, StreamSpec(channels=("ecg",), unit="mV", rate_hz=LABEL_HZ, range=(-1.5, 1.5))),
    "emg": ("EMG", 1.0, StreamSpec(channels=("emg",), unit="mV", rate_hz=LABEL_HZ, range=(-1.5, 1.5))),
    "chest_eda": ("EDA", 1.0, StreamSpec(channels=("eda",), unit="uS", rate_hz=LABEL_HZ, range=(0.0, 25.0))),
    "chest_temp": ("Temp", 1.0, StreamSpec(channels=("temp",), unit="degC", rate_hz=LABEL_HZ, range=(20.0, 45.0))),
    "resp": ("Resp", 1.0, StreamSpec(channels=("resp",), unit="%", rate_hz=LABEL_HZ, range=(-50.0, 50.0))),
}
# What the wristband says beside its four sensors: beats and their rate as it found them, and presses of its button.
E4 = {
    "hr": ("HR", 1.0, StreamSpec(channels=("hr",), unit="1/min", rate_hz=1.0, range=(30.0, 220.0))),
    "ibi": ("IBI", 1.0, StreamSpec(channels=("interval",), kind="events")),
    "tags": ("tags", 1.0, StreamSpec(channels=("tag",), kind="events")),
}
_NAMES = {"Base": "baseline", "TSST": "stress", "Fun": "amusement", "Medi 1": "meditation", "Medi 2": "meditation"}
_LOCAL = timezone(timedelta(hours=2))  # the RespiBAN's clock told Central European summer time, the wristband's UTC
_MARGIN_S = 10.0  # the pickles' labels begin that much after a condition's start, and end as much before its end
_FACTS = {  # line of the readme -> attribute
    "Age": "age", "Gender": "sex", "Height (cm)": "height_cm", "Weight (kg)": "weight_kg",
    "Dominant hand": "dominant_hand", "Do you smoke?": "smoker",
}  # fmt: skip


class Config(Section):
    """root: your copy (the folder WESAD, or one around it); device: which sensors; source: the authors' pickles, or the
    wristband's own archives; questionnaires: valence, arousal and stai as labels; memory_mb, seconds: what reading one
    person's pickle may take."""

    root: str
    device: Literal["wrist", "chest", "both"] = "wrist"
    source: Literal["pickle", "e4"] = "pickle"
    questionnaires: bool = False
    memory_mb: int = 6144
    seconds: float = 600


def load(config: Config) -> Cohort:
    """Labels: affect (four conditions), stress (yes: stress; no: baseline, amusement; absent in meditation). Attributes
    from the readmes, where they are. Persons: wesad-S2 …  With `questionnaires` also the numbers valence and arousal
    (1 to 9) and stai (6 to 24), as answered after the condition.

    MienError naming the file: none found, a person twice, a link out of the folder, a hostile or damaged pickle or zip.
    """
    root = Path(config.root).expanduser()
    if config.source == "e4" and config.device != "wrist":
        raise MienError("source=e4 is the wristband's archive: it takes device=wrist")
    files = _find(root, config.source)
    streams = {**(WRIST if config.device != "chest" else {}), **(CHEST if config.device != "wrist" else {})}
    streams |= E4 if config.source == "e4" else {}
    used = {p: _beside(p, f, root, config) for p, f in files.items()}
    stat = {p: [f.name, f.stat().st_size, f.stat().st_mtime_ns, _readme(p, f)] for p, f in files.items()}
    more = [[u.name, u.stat().st_size, u.stat().st_mtime_ns] for p in used for u in used[p]]
    text = json.dumps([VERSION, config.device, config.source, config.questionnaires, stat, more], sort_keys=True)
    read = _recordings if config.source == "pickle" else _archives
    card = CohortCard(
        name="wesad",
        licence="WESAD: scientific, non-commercial use only; so is everything made from it",
        restrictions=("attribution", "non-commercial", "research-only", "no-redistribution"),
        consent="participants of Schmidt et al. 2018 consented to scientific use; all purposes are assumed for each",
        tasks={"affect": tuple(CONDITIONS.values()), "stress": ("no", "yes")},
        attributes=tuple(_FACTS.values()),
        streams={name: spec for name, (_, _, spec) in streams.items()},
        source=f"WESAD (UCI 465), own copy{'; the wristband archives' if config.source == 'e4' else ''}",
    )
    return Cohort.build(
        read(files, streams, config, root), card=card, consents={f"wesad-{p}": Consent() for p in files},
        cache=cache_home() / "cohorts", key=f"wesad-{hashlib.sha256(text.encode()).hexdigest()[:16]}",
    )  # fmt: skip


def _find(root: Path, source: str) -> dict[str, Path]:
    """Person -> pickle, or the wristband's zip or folder, in the order of their numbers."""
    if not root.is_dir():
        raise MienError(f"no such folder: {root}; unpack WESAD.zip and give the folder that holds S2, S3 …")
    ends = (".pkl",) if source == "pickle" else ("_E4_Data.zip", "_E4_Data")
    found: dict[str, Path] = {}
    for depth in ("S*", "*/S*", "*/*/S*"):
        for end in ends:
            for file in sorted(root.glob(f"{depth}/S*{end}")):
                person = file.name.removesuffix(end)
                if not re.fullmatch(r"S\d+", person) or file.parent.name != person:
                    continue
                sources.whole(file, root)
                if person in found and found[person].parent == file.parent:
                    continue  # unpacked beside its zip
                if person in found:
                    raise MienError(f"{person} is there twice, as {found[person]} and {file}; keep one copy")
                found[person] = file
    if not found:
        raise MienError(f"{root} holds no S2/S2{ends[0]}, S3/S3{ends[0]} …: is it WESAD's folder, and unpacked?")
    return dict(sorted(found.items(), key=lambda item: int(item[0][1:])))


def _tell_empty(root: Path, files: Mapping[str, Path], source: str) -> None:
    """Which persons have a folder and nothing in it that is read."""
    folders = {f.name for d in ("S*", "*/S*", "*/*/S*") for f in root.glob(d) if f.is_dir()}
    if empty := sorted(n for n in folders - set(files) if re.fullmatch(r"S\d+", n)):
        what = "pickle" if source == "pickle" else "archive"
        console.say(f"  left out: {len(empty)} person(s) whose folder holds no {what} ({', '.join(empty)})")


def _beside(person: str, file: Path, root: Path, config: Config) -> list[Path]:
    """The person's other files that are read. MienError for a link out of the folder."""
    names = ["readme.txt"]
    names += ["quest.csv"] if config.questionnaires or config.source == "e4" else []
    names += ["respiban.txt"] if config.source == "e4" else []
    found = [p for n in names if os.path.lexists(p := file.with_name(f"{person}_{n}"))]
    found += sorted(p for p in file.glob("*.csv") if p.name in empatica.FILES) if file.is_dir() else []
    for path in found:
        if sources.whole(path, root).is_dir():
            raise MienError(f"{path} is a folder, not a file; restore it")
    return found


def _recordings(files: Mapping[str, Path], streams: Mapping, config: Config, root: Path) -> Iterator[Recording]:
    """Two persons in memory at a time, whose pickles are read side by side."""
    _tell_empty(root, files, config.source)
    left = {"without a defined condition": 0.0, f"in pieces under {_SHORTEST_S:g} s": 0.0}
    places = {n: f"signal/{'wrist' if n in WRIST else 'chest'}/{key}" for n, (key, _, _) in streams.items()}

    def read(person: str) -> dict[str, np.ndarray]:
        keys = ("label", "subject", *places.values())
        return pickles.read_npy_dict(files[person], memory_mb=config.memory_mb, seconds=config.seconds, keys=keys)

    for person, raw in sources.ahead("reading WESAD", files, read, at_once=2):
        yield from _person(person, files[person], raw, places, streams, config, left)
    for why, seconds in left.items():
        console.say(f"  left out: {console.duration(seconds)} {why}")


def _person(
    person: str, file: Path, raw: Mapping[str, np.ndarray], places: Mapping[str, str], streams: Mapping, config: Config,
    left: dict[str, float],
) -> Iterator[Recording]:  # fmt: skip
    missing = [k for k in ("label", *places.values()) if k not in raw]
    if missing:
        raise MienError(f"{file}: it has no {missing[0]!r}; is it WESAD's own file?")
    if "subject" in raw and str(raw["subject"].ravel()[0]) != person:
        raise MienError(f"{file} says it is of {raw['subject'].ravel()[0]}; every person has a file of their own")
    label = raw["label"].ravel()
    seconds = len(label) / LABEL_HZ
    values = {}
    for name, (_, factor, spec) in streams.items():
        v = np.asarray(raw[places[name]], dtype=np.float32)
        v = v.reshape(len(v), -1) * np.float32(factor)
        if v.shape[1] != len(spec.channels) or abs(len(v) / spec.rate_hz - seconds) > 1.0:
            raise MienError(
                f"{file}: {places[name]} has shape {list(v.shape)}, not about {seconds * spec.rate_hz:.0f} x"
                f" {len(spec.channels)} for {seconds:.0f} s of labels"
            )
        values[name] = v
    facts = _readme(person, file)
    asked = _Answers.of(person, file) if config.questionnaires else None
    cuts = np.flatnonzero(np.diff(label)) + 1
    for i, (a, b) in enumerate(zip([0, *cuts], [*cuts, len(label)], strict=True)):
        condition = CONDITIONS.get(int(label[a]))
        start, end = a / LABEL_HZ, b / LABEL_HZ
        if condition is None or end - start < _SHORTEST_S:
            left[list(left)[condition is not None]] += end - start
            continue
        labels = {**_labels(condition), **(asked.next(condition) if asked else {})}
        made = {}
        for name, (_, _, spec) in streams.items():
            cut = values[name][round(start * spec.rate_hz) : round(end * spec.rate_hz)]
            if len(cut):
                valid = np.isfinite(cut).all(1)
                made[name] = Signal(
                    values=cut, rate_hz=spec.rate_hz, channels=spec.channels, unit=spec.unit,
                    valid=None if valid.all() else valid,
                )  # fmt: skip
        yield Recording(
            id=f"wesad-{person}-{i:02d}-{condition}", person=f"wesad-{person}", session=person, start_s=start,
            streams=made, labels=labels, attributes=facts,
        )  # fmt: skip


def _labels(condition: str) -> dict[str, Value]:
    stress: dict[str, Value] = {} if condition == "meditation" else {"stress": "yes" if condition == "stress" else "no"}
    return {"affect": condition, **stress}


# --- the wristband's own archives -----------------------------------------------------------------------------
def _archives(files: Mapping[str, Path], streams: Mapping, config: Config, root: Path) -> Iterator[Recording]:
    """Two persons in memory at a time."""
    _tell_empty(root, files, config.source)
    left, made, whole = sources.LeftOut(), 0, {}
    for person, place in files.items():
        missing = [n for n in ("quest.csv", "respiban.txt") if not place.with_name(f"{person}_{n}").is_file()]
        if missing:
            left.add(f"person(s) without {missing[0]}, which says when a condition was", place.name)
        else:
            whole[person] = place
    read = sources.ahead("reading WESAD's wristbands", whole, lambda p: empatica.read(whole[p], root), at_once=2)
    for person, archive in read:
        for r in _wrist(person, whole[person], archive, streams, config, left):
            made += 1
            yield r
    left.tell()
    if not made:
        raise MienError("nobody's archive could be used: " + "; ".join(f"{n} {w}" for w, n in left.counts.items()))


def _wrist(
    person: str, place: Path, archive: empatica.Archive, streams: Mapping, config: Config, left: sources.LeftOut
) -> Iterator[Recording]:
    missing = [key for key, _, _ in WRIST.values() if key not in archive.traces]
    if missing:
        raise MienError(f"{place} has no {missing[0]}.csv; fetch it again")
    for key, _, spec in streams.values():
        if key in archive.traces and archive.traces[key].rate_hz != spec.rate_hz:
            raise MienError(f"{place}: {key}.csv is at {archive.traces[key].rate_hz:g} Hz, not {spec.rate_hz:g}")
    zero = _began(place.with_name(f"{person}_respiban.txt"))
    quest = _quest(person, place.with_name(f"{person}_quest.csv"))
    facts, answers = _readme(person, place), _Answers(quest)
    conditions = sorted((c for c in quest if c.condition), key=lambda c: c.start_s)
    first, last = archive.span
    inside = [c for c in conditions if first <= zero + c.start_s and zero + c.end_s <= last]
    if not inside:
        off = (zero + conditions[0].start_s - first) / 3600 if conditions else 0.0
        left.add(
            "person(s) whose conditions lie outside what the wristband recorded: is a clock off by hours?",
            f"{place.name}, by {off:+.1f} h",
        )
        return
    for i, c in enumerate(conditions):
        start, end = c.start_s + _MARGIN_S, c.end_s - _MARGIN_S
        said = answers.next(c.condition)
        if c not in inside or end - start < _SHORTEST_S:
            left.add("condition(s) shorter than their margins, or that the wristband did not record whole", place.name)
            continue
        made: dict[str, Stream] = {}
        for name, (key, factor, spec) in streams.items():
            if key in archive.traces:
                part = empatica.signal(archive.traces[key], spec, factor, zero + start, zero + end)
                if part is not None:
                    made[name] = part
        if archive.intervals is not None:
            made["ibi"] = empatica.beats(archive.intervals, zero + start, zero + end)
        if archive.tags is not None:
            made["tags"] = empatica.presses(archive.tags, zero + start, zero + end)
        yield Recording(
            id=f"wesad-{person}-{i:02d}-{c.condition}", person=f"wesad-{person}", session=person, start_s=start,
            streams=made, labels={**_labels(c.condition), **(said if config.questionnaires else {})}, attributes=facts,
        )  # fmt: skip


def _began(file: Path) -> float:
    """When the chest's raw recording began, in Unix seconds, by its own clock: the head of S2_respiban.txt."""
    with open(file, encoding="utf-8", errors="replace") as f:
        head = f.read(1 << 16)
    found = re.search(r"^#\s*(\{.*\})\s*$", head, re.M)
    try:
        device = next(iter(json.loads(found[1] if found else "").values()))
        day, clock = str(device["date"]).split("-"), str(device["time"]).split(":")
        moment = datetime(*map(int, day), tzinfo=_LOCAL) if len(day) == 3 else None
        if moment is None or len(clock) != 3:
            raise ValueError
        return moment.timestamp() + 3600 * int(clock[0]) + 60 * int(clock[1]) + float(clock[2])
    except (ValueError, TypeError, KeyError, StopIteration, AttributeError, RecursionError):
        raise MienError(f"{file}: its head has no date and time (such as 2017-5-22 and 9:39:1.0); restore it") from None


# --- questionnaires -------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class _Block:
    """One condition of the protocol. start_s, end_s: of the chest's raw recording; the reading in between is none."""

    condition: str
    start_s: float
    end_s: float
    answers: Mapping[str, Value]


class _Answers:
    """What was answered after each condition; a condition's second stretch takes the answers after its second time."""

    def __init__(self, quest: list[_Block]):
        self.blocks, self.seen = quest, Counter[str]()

    @staticmethod
    def of(person: str, file: Path) -> _Answers:
        path = file.with_name(f"{person}_quest.csv")
        if not path.is_file():
            console.say(f"  {person} has no {path.name}: no valence, arousal and stai")
        return _Answers(_quest(person, path) if path.is_file() else [])

    def next(self, condition: str) -> Mapping[str, Value]:
        found = [b for b in self.blocks if b.condition == condition]
        i = self.seen[condition]
        self.seen[condition] += 1
        return found[i].answers if i < len(found) else {}


def _quest(person: str, file: Path) -> list[_Block]:
    """The blocks of S2_quest.csv in the order of its questionnaires. MienError naming the file and what is wrong."""
    rows: dict[str, list[list[str]]] = {}
    for line in file.read_text(encoding="utf-8-sig", errors="replace").splitlines():
        key, *cells = [c.strip() for c in line.removeprefix("#").split(";")]
        while cells and not cells[-1]:
            cells.pop()
        rows.setdefault(key.upper(), []).append(cells)
    whose = rows.get("SUBJ", [[person]])[0]
    if whose != [person]:
        raise MienError(f"{file} is of {' '.join(whose)!r}, not {person}; every person has a file of their own")
    order, starts, ends = (rows.get(k, [[]])[0] for k in ("ORDER", "START", "END"))
    if not order or not len(order) == len(starts) == len(ends):
        raise MienError(f"{file}: {len(order)} conditions with {len(starts)} starts and {len(ends)} ends; restore it")
    unknown = [n for n in order if n not in _NAMES and not n.endswith("Read")]
    if unknown:
        raise MienError(f"{file}: {unknown[0]!r} is no condition; there are {', '.join(_NAMES)}")
    asked = sum(n in _NAMES for n in order)
    for kind in ("DIM", "STAI"):  # the i-th is of the i-th condition: with one lost, the others would be of another
        if len(rows.get(kind, [])) not in (0, asked):
            raise MienError(f"{file}: {len(rows[kind])} answers of {kind} to {asked} conditions; restore it")
    out = []
    for i, name in enumerate(n for n in order if n in _NAMES):
        at = order.index(name)
        start, end = (_clock(c[at], file) for c in (starts, ends))
        if end <= start:
            raise MienError(f"{file}: {name} ends at {ends[at]}, before it starts at {starts[at]}")
        feeling, anxiety = (_numbers(rows.get(k, []), i, n, top, file) for k, n, top in (("DIM", 2, 9), ("STAI", 6, 4)))
        answers: dict[str, Value] = dict(zip(("valence", "arousal"), feeling, strict=False))
        if anxiety:  # at ease, nervous, jittery, relaxed, worried, pleasant: the good ones count from the other end
            answers["stai"] = sum(5 - x if k in (0, 3, 5) else x for k, x in enumerate(anxiety))
        out.append(_Block(condition=_NAMES[name], start_s=start, end_s=end, answers=answers))
    return out


def _clock(text: str, file: Path) -> float:
    """Minutes.seconds, whose trailing zeros are dropped: 7.08 is 428 s, 50.3 is 50 min 30 s."""
    found = re.fullmatch(r"(\d+)(?:\.(\d{1,2}))?", text)
    seconds = int((found[2] or "0").ljust(2, "0")) if found else 60
    if found is None or seconds >= 60:
        raise MienError(f"{file}: {text!r} is no time in minutes.seconds")
    return 60.0 * int(found[1]) + seconds


def _numbers(rows: list[list[str]], i: int, count: int, top: int, file: Path) -> list[float]:
    """The answers of the i-th questionnaire of a kind; none of them when one is blank or it is not there."""
    cells = rows[i] if i < len(rows) else []
    if len(cells) < count or "" in cells[:count]:
        return []
    found = [sources.number(c) for c in cells[:count]]
    if any(x is None or not 1 <= x <= top for x in found):
        raise MienError(f"{file}: the answers {cells[:count]} are not numbers from 1 to {top}")
    return [float(x) for x in found if x is not None]


def _readme(person: str, file: Path) -> dict[str, str | float]:
    """What the person's readme says of them; what it does not say is absent."""
    path = file.with_name(f"{person}_readme.txt")
    if not path.is_file():
        return {}
    out: dict[str, str | float] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        key, colon, value = line.partition(":")
        key = key.strip() if colon else next((k for k in _FACTS if line.startswith(k)), "")
        value = value.strip() if colon else line[len(key) :].strip()
        if key in _FACTS and value:
            number = re.fullmatch(r"\d+(\.\d+)?", value)
            out[_FACTS[key]] = float(value) if number else value.lower()
    return out
