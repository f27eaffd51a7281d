"""Archives of the Empatica E4 wristband: a zip of csv files, or the folder it unpacks to.

ACC, BVP, EDA, TEMP and HR: the first row is when it began (Unix seconds, UTC), the second the rate in Hz, both once per
column; then one row per sample. IBI: the first row is when it began and a word; then (seconds after the beginning, length
in seconds) of each interval between beats that the wristband was sure of. tags: one Unix time per press of the button.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..core.errors import MienError
from ..core.records import Events, Signal, StreamSpec
from . import archives, sources

TRACES = {"ACC": 3, "BVP": 1, "EDA": 1, "TEMP": 1, "HR": 1}
FILES = tuple(f"{n}.csv" for n in (*TRACES, "IBI", "tags"))
_EARLIEST, _LATEST = 946684800.0, 4102444800.0  # 2000 and 2100: a clock outside was never set


@dataclass(frozen=True, kw_only=True)
class Trace:
    """One sensor: float32[n, columns] in the file's own unit, from `start` (Unix seconds, UTC) on."""

    start: float
    rate_hz: float
    values: np.ndarray

    @property
    def end(self) -> float:
        return self.start + len(self.values) / self.rate_hz


@dataclass(frozen=True, kw_only=True)
class Archive:
    """What a wristband recorded. intervals: float64[n, 2], (Unix time of a beat, seconds since the beat before), None
    without IBI.csv; tags: Unix times of presses, None without tags.csv."""

    traces: dict[str, Trace] = field(default_factory=dict)
    intervals: np.ndarray | None = None
    tags: np.ndarray | None = None

    @property
    def span(self) -> tuple[float, float]:
        """From when to when every sensor (HR apart, which needs ten seconds to begin) was on."""
        of = [t for n, t in self.traces.items() if n != "HR"]
        return max(t.start for t in of), min(t.end for t in of)


def read(place: Path, root: Path) -> Archive:
    """A zip or a folder. MienError naming the file: damaged, a link out of `root`, not the layout above."""
    if place.is_dir():
        content = {}
        for name in FILES:
            file = place / name
            if file.is_file():
                if not file.resolve().is_relative_to(root.resolve()):
                    raise MienError(f"{file} is a link out of {root}; copy what it points to")
                if file.stat().st_size > sources.LARGEST:
                    raise MienError(f"{file} is over 2 GB, which no wristband's is; fetch it again")
                content[name] = file.read_bytes()
    else:
        content = archives.read_zip(place, FILES)
    traces = {n: _trace(content[f"{n}.csv"], n, f"{place}: {n}.csv") for n in TRACES if f"{n}.csv" in content}
    if not traces:
        raise MienError(f"{place} holds no ACC.csv, BVP.csv …: is it an E4 archive?")
    return Archive(
        traces=traces, intervals=_intervals(content.get("IBI.csv"), f"{place}: IBI.csv"),
        tags=None if "tags.csv" not in content else _table(content["tags.csv"], 1, f"{place}: tags.csv")[:, 0],
    )  # fmt: skip


def signal(trace: Trace, spec: StreamSpec, factor: float, start: float, end: float) -> Signal | None:
    """The samples of [start, end), in Unix seconds; None when they are not all there. A cell that is no number is a gap."""
    first, count = round((start - trace.start) * trace.rate_hz), round((end - start) * trace.rate_hz)
    if first < 0 or first + count > len(trace.values) or not count:
        return None
    values = trace.values[first : first + count] * np.float32(factor)
    valid = np.asarray(np.isfinite(values).all(1))
    return Signal(
        values=values, rate_hz=spec.rate_hz, channels=spec.channels, unit=spec.unit,
        valid=None if valid.all() else valid,
    )  # fmt: skip


def beats(intervals: np.ndarray, start: float, end: float) -> Events:
    """The intervals that lie wholly in [start, end): each from its first beat to the next."""
    began = intervals[:, 0] - intervals[:, 1]
    inside = (began >= start) & (intervals[:, 0] <= end)
    return _events(began[inside] - start, intervals[inside, 1], "interval", end - start)


def presses(tags: np.ndarray, start: float, end: float) -> Events:
    inside = tags[(tags >= start) & (tags < end)] - start
    return _events(inside, np.zeros(len(inside)), "tag", end - start)


def _events(times: np.ndarray, durations: np.ndarray, kind: str, seconds: float) -> Events:
    order = np.argsort(times, kind="stable")
    return Events(
        times_s=np.maximum(times[order], 0), durations_s=durations[order], codes=np.zeros(len(order)), kinds=(kind,), seconds=seconds
    )  # fmt: skip


def _trace(content: bytes, name: str, where: str) -> Trace:
    columns = TRACES[name]
    head, body = _head(content, 2)
    if len(head) < 2:
        raise MienError(f"{where} ends before its rate; fetch it again")
    start, rate = (_same(line, columns, where) for line in head)
    if not _EARLIEST < start < _LATEST:
        raise MienError(f"{where} begins at {start:g}, which is no date: its clock was never set")
    if not (math.isfinite(rate) and 0 < rate <= 1000):
        raise MienError(f"{where}: its rate is {rate:g} Hz")
    return Trace(start=start, rate_hz=rate, values=_table(body, columns, where).astype(np.float32))


def _intervals(content: bytes | None, where: str) -> np.ndarray | None:
    if content is None:
        return None
    head, body = _head(content, 1)
    start = _same([*head, ""][0].split(",")[0], 1, where) if head else math.nan
    found = _table(body, 2, where)
    if len(found) and not _EARLIEST < start < _LATEST:
        raise MienError(f"{where} begins at {start:g}, which is no date: its clock was never set")
    if len(found) and not (np.isfinite(found).all() and found[:, 1].min() > 0):
        raise MienError(f"{where}: an interval between beats is not a positive number of seconds")
    return found + np.array([start, 0.0]) if len(found) else found


def _head(content: bytes, rows: int) -> tuple[list[str], bytes]:
    parts = content.removeprefix(b"\xef\xbb\xbf").split(b"\n", rows)
    return [p.decode("latin1").strip() for p in parts[:rows] if p.strip()], parts[rows] if len(parts) > rows else b""


def _same(line: str, columns: int, where: str) -> float:
    """The number that a head row says once per column."""
    try:
        numbers = {float(x) for x in line.split(",")}
    except ValueError:
        raise MienError(f"{where}: its head is {line[:60]!r}, not a number; is it an E4's?") from None
    if len(numbers) != 1 or line.count(",") != columns - 1:
        raise MienError(f"{where}: its head is {line[:60]!r}, not one number for {columns} column(s)")
    return numbers.pop()


def _table(body: bytes, columns: int, where: str) -> np.ndarray:
    """float64[n, columns]; blank lines are passed over."""
    if not body.strip():
        return np.empty((0, columns))
    try:
        found = np.loadtxt(_lines(body), delimiter=",", ndmin=2, comments=None)
    except ValueError as error:
        raise MienError(f"{where}: {str(error).split(';')[0]}") from None
    if found.shape[1] != columns:
        raise MienError(f"{where} has {found.shape[1]} columns, not {columns}")
    return found


def _lines(body: bytes) -> Iterable[str]:
    return io.TextIOWrapper(io.BytesIO(body), encoding="latin1")
