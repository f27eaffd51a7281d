"""A folder of recordings: its tables as a plan (one row per recording, consents), then its recordings one by one.

Each fault goes to a `Report`; `load` stops at the first, `mien data check` goes on, so the two always agree.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ..core import config as recipes
from ..core.errors import MienError
from ..core.records import PURPOSES, Consent, Recording, Signal, Stream, Value
from .logs import SOUND, Log, read_log, read_sound
from .schema import RESERVED, CohortFile, Problem, Report, StreamSection, strict
from .tables import (
    Samples,
    Table,
    channel_columns,
    column_types,
    inside,
    nearest,
    read_batches,
    read_clock,
    read_header,
    read_streams,
    read_table,
    split_columns,
    text_cells,
)


# --- rows: one per recording --------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class Row:
    """One recording before its samples. files: {stream: file name}, or {"": file} when one file holds them all. seconds: how long it
    was observed, where the table says so. sound_s: {stream: when its sound begins, on the clock of the files' `time`}."""

    id: str
    person: str
    where: str
    session: str = ""
    start_s: float = 0.0
    seconds: float | None = None
    sound_s: dict[str, float] = field(default_factory=dict)
    labels: dict[str, Value] = field(default_factory=dict)
    attributes: dict[str, Value] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A folder whose tables are read and whose samples are not."""

    root: Path
    spec: CohortFile
    rows: list[Row]
    consents: dict[str, Consent]
    listed: tuple[str, ...]  # persons of the persons table
    ignored: tuple[str, ...]  # columns that nothing declares


def read_spec(root: Path) -> CohortFile:
    return recipes.parse(CohortFile, read_yaml(root), str(root / "cohort.yaml"))


def read_yaml(root: Path) -> dict[str, Any]:
    if not root.is_dir():
        raise Problem(str(root), "no such folder", "give the folder that holds cohort.yaml")
    if not (root / "cohort.yaml").exists():
        raise Problem(
            str(root),
            "cohort.yaml is missing",
            "write it (docs/bring-your-own.md), or make it with `mien data pack`",
        )
    file = inside(root, "cohort.yaml", str(root))
    try:
        raw = recipes.load_yaml(file)
    except MienError as error:  # some YAML errors span lines: a Problem is one line
        text = str(error).removeprefix(str(file)).lstrip(", :")
        raise Problem(str(root / "cohort.yaml"), text, "repair the YAML") from None
    if not isinstance(raw, dict):
        raise Problem(str(root / "cohort.yaml"), "holds no mapping of keys", "start with `name: my-study`")
    return raw


def plan(root: Path, spec: CohortFile, report: Report = strict) -> Plan:
    """Tables -> rows and consents. Each fault goes to `report`; what is faulty is then left out."""
    name = spec.recordings or spec.table or ""
    key = "table" if spec.table else "recordings"
    try:
        table = _long_head(root, name, spec) if spec.table else read_table(root, name, key)
        persons = read_table(root, spec.persons, "persons") if spec.persons else None
    except Problem as problem:
        report(problem)
        return Plan(root=root, spec=spec, rows=[], consents={}, listed=(), ignored=())
    people = _people(persons, spec, report) if persons else {}
    needed = ["recording", "person", *spec.tasks]
    in_persons = [a for a in spec.attributes if persons and a in persons.columns]
    for a in spec.attributes:
        if a in table.columns and a in in_persons:
            report(Problem(name, f"attribute {a!r} is a column here and in {spec.persons}", "keep one of the two"))
        elif a not in table.columns and a not in in_persons:
            needed.append(a)
    missing = [c for c in needed if c not in table.columns]
    for c in missing:
        report(Problem(name, f"no column {c!r}{nearest(c, table.columns)}", "add it, or correct cohort.yaml"))
    files = [c for c in table.columns if c == "file" or c.startswith("file_")]
    if spec.recordings:
        for c in files:
            if c != "file" and c.removeprefix("file_") not in spec.streams:
                report(
                    Problem(
                        name,
                        f"column {c!r} is for a stream that cohort.yaml does not declare{nearest(c[5:], spec.streams)}",
                        "declare the stream or rename the column",
                    )
                )
        logs = [n for n, s in spec.streams.items() if s.kind != "signal" and f"file_{n}" not in files]
        if files and logs:
            kind = spec.streams[logs[0]].kind
            report(
                Problem(
                    name, f"no column file_{logs[0]}: {kind} lie in files of their own", "add it, or remove the stream"
                )
            )
        elif not files:
            report(Problem(name, "needs a column 'file' or columns 'file_<stream>'", "name each recording's data"))
    given, files = files, [c for c in files if c == "file" or c.removeprefix("file_") in spec.streams]
    if "recording" in missing or "person" in missing:
        return Plan(root=root, spec=spec, rows=[], consents={}, listed=tuple(people), ignored=())
    typed = {a: _typed([r[a] for r in table.cells]) for a in spec.attributes if a in table.columns}
    rows: list[Row] = []
    seen: dict[str, str] = {}
    for i, cells in enumerate(table.cells):
        where = table.where(i)
        try:
            row = _row(cells, where, spec, files, people, {a: v[i] for a, v in typed.items()}, persons)
            if row.id in seen:
                fix = "sort the table by recording and time" if spec.table else "give each recording its own id"
                raise Problem(where, f"recording {row.id!r} is already at {seen[row.id]}", fix)
        except Problem as problem:
            report(problem)
            if cells["recording"]:
                seen.setdefault(cells["recording"], where)
            continue
        seen[row.id] = where
        rows.append(row)
    if not table.cells:
        report(Problem(name, "no recording in it: the cohort is empty", "add a row per recording"))
    default = Consent(purposes=spec.consent.purposes, expires=spec.consent.expires)
    consents = {r.person: people[r.person][0] if r.person in people else default for r in rows}
    known = {*RESERVED, *needed, *spec.attributes, *given}
    known |= {c for s, v in spec.streams.items() for k in v.channels for c in (k, f"{s}.{k}", f"{s}.valid")}
    known |= {f"time_{s}" for s in spec.streams}
    ignored = tuple(c for c in table.columns if c not in known)
    return Plan(root=root, spec=spec, rows=rows, consents=consents, listed=tuple(people), ignored=ignored)


def _row(
    cells: Mapping[str, str | None],
    where: str,
    spec: CohortFile,
    files: Sequence[str],
    people: Mapping[str, tuple[Consent, dict[str, Value]]],
    attributes: Mapping[str, Value | None],
    persons: Table | None,
) -> Row:
    name, person = cells["recording"], cells["person"]
    if not name:
        raise Problem(where, "a recording without an id", "fill the column 'recording'")
    if not person:
        raise Problem(where, f"recording {name!r} has no person", "fill the column 'person' with a pseudonymous id")
    if persons is not None and person not in people:
        raise Problem(
            where,
            f"person {person!r} has no (usable) row in {persons.name}",
            "add the person, with their consent",
        )
    start = _number(cells, "start_s", where) or 0.0
    seconds = _number(cells, "seconds", where)
    if seconds is not None and seconds <= 0:
        raise Problem(
            where,
            f"seconds={cells['seconds']!r}: a recording lasts longer than nothing",
            "write how long it was observed",
        )
    begins = {s: _number(cells, f"time_{s}", where) for s in spec.streams}
    labels: dict[str, Value] = {}
    for task, classes in spec.tasks.items():
        value = cells.get(task)
        if value is None:
            continue
        if value not in classes:
            raise Problem(
                where,
                f"label {task}={value!r} of recording {name!r} is not a declared class{nearest(value, classes)}",
                f"correct it, or add it to tasks.{task} in cohort.yaml",
            )
        labels[task] = value
    found = {c.removeprefix("file").removeprefix("_"): v for c in files if (v := cells.get(c))}
    if spec.recordings and files and not found:
        raise Problem(where, f"recording {name!r} names no data file", f"fill the column {files[0]!r}")
    own = {a: v for a, v in attributes.items() if v is not None}
    return Row(
        id=name,
        person=person,
        where=where,
        session=cells.get("session") or "",
        start_s=start,
        seconds=seconds,
        sound_s={s: t for s, t in begins.items() if t is not None},
        labels=labels,
        attributes={**people.get(person, (None, {}))[1], **own},
        files=found,
    )


def _number(cells: Mapping[str, str | None], column: str, where: str) -> float | None:
    if cells.get(column) is None:
        return None
    try:
        value = float(cells[column] or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise Problem(where, f"{column}={cells[column]!r} is not a number of seconds", "write seconds")
    return value


def _people(table: Table, spec: CohortFile, report: Report) -> dict[str, tuple[Consent, dict[str, Value]]]:
    """Persons table -> {person: (consent, attributes)}."""
    out: dict[str, tuple[Consent, dict[str, Value]]] = {}
    if "person" not in table.columns:
        report(Problem(table.name, f"no column 'person'{nearest('person', table.columns)}", "add it"))
        return out
    typed = {a: _typed([r[a] for r in table.cells]) for a in spec.attributes if a in table.columns}
    for i, cells in enumerate(table.cells):
        where, person = table.where(i), cells["person"]
        try:
            if not person:
                raise Problem(where, "a row without a person", "fill the column 'person'")
            if person in out:
                raise Problem(where, f"person {person!r} has two rows", "keep one")
            dates = {c: _date(cells.get(c), f"{where}, column {c!r}") for c in ("expires", "withdrawn")}
            consent = Consent(
                purposes=_purposes(cells, table.columns, spec, where),
                expires=dates["expires"] or spec.consent.expires,
                withdrawn=dates["withdrawn"],
            )
            out[person] = (consent, {a: x for a, v in typed.items() if (x := v[i]) is not None})
        except Problem as problem:
            report(problem)
    return out


def _purposes(cells: Mapping[str, str | None], columns: Sequence[str], spec: CohortFile, where: str) -> tuple[str, ...]:
    if "purposes" not in columns:
        return spec.consent.purposes
    text = cells["purposes"]
    fix = f"write some of {', '.join(PURPOSES)} with ; between, `default` (cohort.yaml's) or `none`"
    if text is None:  # an empty cell may mean "everything" or "nothing": never guess about consent
        raise Problem(where, f"consent of {cells['person']!r}: the cell 'purposes' is empty", fix)
    if text in ("default", "none"):
        return spec.consent.purposes if text == "default" else ()
    found = tuple(p.strip() for p in text.split(";") if p.strip())
    for p in found:
        if p not in PURPOSES:
            raise Problem(where, f"unknown consent purpose {p!r}{nearest(p, PURPOSES)}", fix)
    return found


def _date(text: str | None, where: str) -> date | None:
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text).date()
    except ValueError:
        raise Problem(where, f"{text!r} is not a date", "write it as 2026-12-31") from None


def _typed(cells: Sequence[str | None]) -> list[Value | None]:
    """A column of cells as whole numbers if all are, else as numbers if all are, else as text ("007" is text)."""
    given = [c for c in cells if c is not None]
    if given and all(re.fullmatch(r"-?(0|[1-9]\d{0,14})", c) for c in given):
        return [None if c is None else int(c) for c in cells]
    if given and all(re.fullmatch(r"-?(0|[1-9]\d{0,14})(\.\d+)?", c) for c in given):
        return [None if c is None else float(c) for c in cells]
    return list(cells)


# --- samples --------------------------------------------------------------------------------------------------
def recordings(plan: Plan, report: Report = strict) -> Iterator[Recording]:
    """Every row with its samples, one recording in memory at a time; a faulty one goes to `report` and is left out."""
    if plan.spec.table:
        yield from _long_recordings(plan, report)
        return
    for row in plan.rows:
        if not row.files:  # the columns that name files were reported
            continue
        try:
            parts: dict[str, Samples] = {}
            logs: dict[str, Log] = {}
            sampled = {n: s for n, s in plan.spec.streams.items() if s.kind == "signal"}
            for key, name in row.files.items():
                where = f"{name} (recording {row.id!r})"
                file = inside(plan.root, name, f"{row.where}, recording {row.id!r}")
                if key and key not in sampled:
                    logs[key] = read_log(plan.root, name, where, plan.spec.streams[key])
                elif file.suffix.lower() in SOUND:
                    left = [key] if key else [s for s in sampled if s not in row.files]
                    if len(left) != 1:
                        fix = "give each stream its own column, the sound's being file_<stream>"
                        raise Problem(where, "a sound file is of one stream, and cohort.yaml declares several", fix)
                    stream = left[0]
                    part = read_sound(file, where, stream, sampled[stream])
                    parts[stream] = replace(part, first_s=row.sound_s.get(stream))
                else:
                    parts |= read_streams(
                        file,
                        name,
                        where,
                        {k: s for k, s in sampled.items() if (k == key if key else k not in row.files)},
                    )
            yield _recording(row, parts, plan.spec, logs)
        except Problem as problem:
            report(problem)


def _recording(
    row: Row, parts: Mapping[str, Samples], spec: CohortFile, logs: Mapping[str, Log] | None = None
) -> Recording:
    firsts = [p.first_s for p in parts.values() if p.first_s is not None]
    where = f"{next(iter(row.files.values()), row.where)} (recording {row.id!r})"
    if firsts and len(firsts) != len(parts):
        without = next(n for n, p in parts.items() if p.first_s is None)
        raise Problem(
            where,
            f"some streams have a time column and some, such as {without!r}, have none",
            f"give it to all or to none; when a sound file begins goes into the column time_{without} of the table of recordings",
        )
    zero = min(firsts, default=0.0)
    streams: dict[str, Stream] = {}
    for name, part in parts.items():
        streams[name] = to_signal(part, spec.streams[name], f"{where}, stream {name!r}", zero)
    observed = row.seconds or max((s.offset_s + s.seconds for s in streams.values()), default=0.0)
    for name, log in (logs or {}).items():
        there = f"{row.files[name]} (recording {row.id!r})"
        if not observed:
            raise Problem(
                there,
                "how long the recording was observed is not known, and that nothing happened is an observation too",
                "add a column `seconds` to the table of recordings",
            )
        streams[name] = log.stream(spec.streams[name], zero, observed, there)
    if not streams:
        raise Problem(where, "no declared stream is in it", f"it should hold {', '.join(spec.streams)}")
    return Recording(
        id=row.id,
        person=row.person,
        session=row.session,
        start_s=row.start_s,
        streams=streams,
        labels=row.labels,
        attributes=row.attributes,
    )


def to_signal(part: Samples, spec: StreamSection, where: str, zero_s: float) -> Signal:
    with np.errstate(over="ignore"):
        values = part.values.astype(np.float32)
    if not len(values):
        raise Problem(where, "no sample in it", "drop the recording, or restore its data")
    valid = np.ones(len(values), dtype=bool) if part.valid is None else part.valid.copy()
    if spec.gaps == "mark":
        valid &= ~np.isnan(values).any(1)
    bad = valid & ~np.isfinite(values).all(1)
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        channel = spec.channels[int(np.flatnonzero(~np.isfinite(values[first]))[0])]
        raise Problem(
            where,
            f"NaN or infinite samples that no valid mask covers ({int(bad.sum())} rows, the first is row {first},"
            f" channel {channel!r})",
            "repair it, give a valid mask, or set `gaps: mark` for the stream in cohort.yaml (NaN only)",
        )
    return Signal(
        values=values,
        rate_hz=spec.rate_hz,
        channels=spec.channels,
        unit=spec.unit,
        offset_s=0.0 if part.first_s is None else part.first_s - zero_s,
        valid=None if valid.all() else valid,
    )


# --- one long table -------------------------------------------------------------------------------------------
def _long_head(root: Path, name: str, spec: CohortFile) -> Table:
    """One row of cells per recording of a long table; a label that changes within a recording is refused."""
    import pyarrow as pa

    file = inside(root, name, "cohort.yaml, table")
    if file.suffix not in (".csv", ".parquet"):
        raise Problem(name, f"a table is .csv or .parquet, not {file.suffix!r}", "convert it")
    columns = read_header(file, name)
    found = channel_columns(columns, spec.streams, name)
    read_clock(columns, found, name, (*spec.tasks, *spec.attributes))
    if not found:
        raise Problem(name, "no column of any declared stream", "name the columns <channel> or <stream>.<channel>")
    wanted = ["recording", "person", "session", "start_s", *spec.tasks, *spec.attributes]
    types = {c: pa.string() for c in wanted if c in columns}
    cells: list[dict[str, str | None]] = []
    lines: list[int] = []
    if "recording" in types:
        done = 0
        for batch in read_batches(file, name, types):
            texts = {c: np.array(text_cells(batch.column(c), name, c), dtype=object) for c in types}
            for first, end in _runs(texts["recording"]):
                if not cells or done + first == 0 or cells[-1]["recording"] != texts["recording"][first]:
                    cells.append({c: v[first] for c, v in texts.items()})
                    lines.append(done + first + (2 if file.suffix == ".csv" else 1))
                for c, v in texts.items():
                    other = np.flatnonzero(v[first:end] != cells[-1][c])
                    if len(other):
                        raise Problem(
                            f"{name}, column {c!r}",
                            f"changes within recording {cells[-1]['recording']!r} ({cells[-1][c]!r}, then"
                            f" {v[first + other[0]]!r})",
                            "one recording has one value; split the recording where it changes",
                        )
            done += batch.num_rows
    return Table(name=name, columns=tuple(columns), cells=cells, lines=lines)


def _runs(ids: np.ndarray) -> list[tuple[int, int]]:
    if not len(ids):
        return []
    edges = [0, *(np.flatnonzero(ids[1:] != ids[:-1]) + 1).tolist(), len(ids)]
    return list(itertools.pairwise(edges))


def _long_recordings(plan: Plan, report: Report) -> Iterator[Recording]:
    import pyarrow as pa

    name = plan.spec.table or ""
    rows = {r.id: r for r in plan.rows}
    if not rows:
        return
    try:
        file = inside(plan.root, name, "cohort.yaml, table")
        names = read_header(file, name)
        columns = channel_columns(names, plan.spec.streams, name)
        types = {"recording": pa.string(), **column_types(names, columns)}
        held: list[Any] = []
        current: str | None = None

        def finish() -> Recording | None:
            row = rows.pop(current or "", None)  # popped: a repeated block was reported with the rows
            if row is None:
                return None
            table = pa.Table.from_batches(held)
            data = {c: table.column(c) for c in types if c != "recording"}
            where = f"{name} (recording {row.id!r})"
            parts = split_columns(data, columns, plan.spec.streams, where)
            # A stream whose every cell is empty was not recorded: absent, never a stretch of gaps.
            parts = {k: p for k, p in parts.items() if not np.isnan(p.values).all()}
            return _recording(row, parts, plan.spec)

        def guarded() -> Recording | None:
            try:
                return finish() if held else None
            except Problem as problem:
                report(problem)
                return None

        for batch in read_batches(file, name, types):
            ids = np.array(text_cells(batch.column("recording"), name, "recording"), dtype=object)
            for first, end in _runs(ids):
                if ids[first] != current:
                    made = guarded()
                    if made is not None:
                        yield made
                    current, held = ids[first], []
                held.append(batch.slice(first, end - first))
        made = guarded()
        if made is not None:
            yield made
    except Problem as problem:
        report(problem)
