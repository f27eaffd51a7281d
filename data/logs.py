"""What of a folder is not sampled on a clock of its own: call logs and transcripts as csv or parquet, sound as wav files.

Whom an event was with is numbered in order of appearance within its recording as soon as it is read: numbers and names go nowhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..core.records import Events, Stream, StreamSpec, Text
from . import sources
from .schema import Problem, StreamSection
from .tables import Samples, Table, nearest, read_table

SOUND = (".wav", ".wave")


@dataclass(frozen=True, kw_only=True)
class Log:
    """The rows of one log, by time. starts_s, ends_s: float64[N] on the files' clock; words: N kinds, or N utterances; who: N numbers
    of parties (-1: nobody), or N indices into the declared roles; codes: of the kinds."""

    starts_s: np.ndarray
    ends_s: np.ndarray
    who: np.ndarray
    codes: np.ndarray
    words: tuple[str, ...]

    def stream(self, spec: StreamSection, zero_s: float, seconds: float, where: str) -> Stream:
        """On the recording's clock: `zero_s` is its start. Problem for what lies outside the `seconds` that were observed."""
        starts, ends = self.starts_s - zero_s, self.ends_s - zero_s
        outside = np.flatnonzero((starts < 0) | (starts > seconds))
        if len(outside):
            raise Problem(
                where,
                f"{len(outside)} of {len(starts)} rows lie outside the recording, which lasts {seconds:.6g} s: the first begins at"
                f" {self.starts_s[outside[0]]:.10g} s, and the recording at {zero_s:.10g} s",
                "`time` is in seconds on the clock of the other files' `time` (0 is the recording's start where they have none)",
            )
        if spec.kind == "events":
            return Events(
                times_s=starts, durations_s=ends - starts, codes=self.codes, kinds=spec.channels, seconds=seconds,
                party=self.who,
            )  # fmt: skip
        return Text(
            times_s=starts, ends_s=ends, text=self.words, seconds=seconds,
            speakers=tuple(spec.channels[i] for i in self.who),
        )  # fmt: skip


def read_log(root: Path, name: str, where: str, spec: StreamSection) -> Log:
    """events: columns time, kind (unless only one is declared), optional duration (s, 0) and party. text: columns time, text, optional
    end (s, the start) and speaker (unless only one role is declared). Other columns are refused: a log holds names."""
    table = read_table(root, name, where)
    events = spec.kind == "events"
    needed = ["time", "kind" if events else "speaker", *(() if events else ("text",))]
    known = [*needed, *(("duration", "party") if events else ("end",))]
    if len(spec.channels) == 1:
        needed.pop(1)
    for c in needed:
        if c not in table.columns:
            raise Problem(where, f"no column {c!r}{nearest(c, table.columns)}", f"its columns are {', '.join(known)}")
    for c in table.columns:
        if c not in known:
            raise Problem(
                where, f"column {c!r} is none of {', '.join(known)}{nearest(c, known)}", "rename it, or take it out"
            )
    rows = sorted(_rows(table, spec, where), key=lambda r: r[0])
    parties: dict[str, int] = {}
    who = [parties.setdefault(w, len(parties)) if isinstance(w, str) else w for *_, w, _ in rows]
    return Log(
        starts_s=np.array([r[0] for r in rows], np.float64), ends_s=np.array([r[1] for r in rows], np.float64),
        who=np.array(who, np.int32), codes=np.array([r[2] for r in rows], np.int32), words=tuple(r[4] for r in rows),
    )  # fmt: skip


def _rows(table: Table, spec: StreamSection, where: str) -> Iterator[tuple[float, float, int, str | int, str]]:
    """(start, end, code, party or role, words) of each row."""
    events = spec.kind == "events"
    column, noun = ("kind", "kind") if events else ("speaker", "role")
    for i, cells in enumerate(table.cells):
        at = f"{table.where(i)} ({where.partition(' (')[2]}"
        start = _seconds(cells, "time", at)
        last = "duration" if events else "end"
        end = (start if events else 0.0) + _seconds(cells, last, at) if cells.get(last) else start
        if end < start:
            fix = "a missed call lasts 0 s; correct the row" if events else "correct the row"
            raise Problem(at, f"{last} {cells[last]} s: it would end before it begins ({start:g} s)", fix)
        said = cells.get(column) or (spec.channels[0] if len(spec.channels) == 1 else "")
        if said not in spec.channels:
            raise Problem(
                at,
                f"{column} {said!r} is none of {', '.join(spec.channels)}{nearest(said, spec.channels)}",
                f"correct it, or add it to the stream's channels in cohort.yaml (they are its {noun}s, never names of people)",
            )
        code = spec.channels.index(said)
        if events:
            yield start, end, code, cells.get("party") or -1, said
        elif text := cells.get("text"):  # a row without words says nothing
            yield start, end, 0, code, text


def _seconds(cells: dict[str, str | None], column: str, where: str) -> float:
    text = cells[column]
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise Problem(where, f"{column} {text!r} is no number", "write seconds, with a point: 12.5")
    return value


def read_sound(file: Path, where: str, name: str, spec: StreamSection) -> Samples:
    """A wav file, its channels averaged, at the declared rate (polyphase resampling from a whole number of Hz to another)."""
    if len(spec.channels) != 1:
        raise Problem(
            where,
            f"sound is one channel, and stream {name!r} declares {len(spec.channels)}",
            "declare `channels: [voice]`",
        )
    declared = StreamSpec(channels=spec.channels, unit=spec.unit, rate_hz=spec.rate_hz)
    try:
        found = sources.sound(file, declared, resample=True, silent=True)
    except sources.Unreadable as why:
        fix = "write it as plain wav, at a whole number of Hz (`ffmpeg -i voice.m4a -ac 1 -ar 16000 voice.wav`)"
        raise Problem(where, f"sound that cannot be used: files {why}", fix) from None
    return Samples(found.values.astype(np.float64), None, None)
