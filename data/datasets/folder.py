"""Your own recordings: a folder with `cohort.yaml`, a table and data files (see docs/bring-your-own.md).

`load` stops at the first fault; `mien data check` walks the same code and goes on, so the two always agree.
Nothing is executed from the folder (no pickles) and no file outside it is read.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import itertools
import json
import math
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import yaml
from pydantic import Field, field_validator, model_validator

from ...core import config as recipes
from ...core.config import Section
from ...core.errors import MienError
from ...core.paths import cache_home
from ...core.records import PURPOSES, Cohort, CohortCard, Consent, Recording, Signal, StreamSpec, Value
from ...core.runs import whole_folder

VERSION = 1  # of this importer: a new number makes every folder be read again
RESERVED = ("recording", "person", "session", "start_s", "file", "time", "valid")
NO_GAP = 1.5  # samples: steps of the time column longer than this are gaps
_DATA = (".npz", ".csv", ".parquet")
_NULLS = ["", "nan", "NaN", "NA", "null"]
Purpose = Literal["training", "generation", "alignment", "audit", "evaluation", "sharing"]
DEFAULT_PURPOSES = ("training", "generation", "audit", "evaluation")


class Config(Section):
    """root: the folder that holds cohort.yaml."""

    root: str


class Problem(MienError):
    """A fault of one folder: where it is, what is wrong, and what to do about it."""

    def __init__(self, where: str, problem: str, fix: str):
        super().__init__(" ".join(f"{where}: {problem}; {fix}".split()))
        self.where, self.problem, self.fix = where, problem, fix


Report = Callable[[Problem], None]


def strict(problem: Problem) -> None:
    """The `Report` of `load`: the first fault ends it."""
    raise problem


# --- cohort.yaml ------------------------------------------------------------------------------------------
class StreamSection(Section):
    """One sensor. range: its plausible public span in `unit`, never the minimum and maximum of the data.

    gaps: "refuse" (a NaN is an error) or "mark" (a row with a NaN becomes a gap).
    """

    channels: tuple[str, ...] = Field(min_length=1)
    unit: str
    rate_hz: float = Field(gt=0, allow_inf_nan=False)
    range: tuple[float, float] | None = None
    gaps: Literal["refuse", "mark"] = "refuse"

    @field_validator("channels")
    @classmethod
    def _channels(cls, channels: tuple[str, ...]) -> tuple[str, ...]:
        for c in channels:
            if not c.strip() or channels.count(c) > 1:
                raise ValueError(f"channel {c!r} is empty or named twice")
            if c in RESERVED:
                raise ValueError(f"{c!r} is a column name of Mien's own; call the channel something else")
        return channels

    @field_validator("range")
    @classmethod
    def _range(cls, span: tuple[float, float] | None) -> tuple[float, float] | None:
        if span is not None and not (math.isfinite(span[0]) and math.isfinite(span[1]) and span[0] < span[1]):
            raise ValueError("a range is two finite numbers, the lower first")
        return span


class ConsentSection(Section):
    """What everybody agreed to, unless the persons table says otherwise."""

    basis: str = Field(min_length=1)
    purposes: tuple[Purpose, ...]
    expires: date | None = None


class CohortFile(Section):
    """`cohort.yaml`. Exactly one of `recordings` (a table that names data files) and `table` (one long table)."""

    name: str = Field(min_length=1)
    licence: str = Field(min_length=1)
    consent: ConsentSection
    streams: dict[str, StreamSection] = Field(min_length=1)
    tasks: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    attributes: tuple[str, ...] = ()
    recordings: str | None = None
    table: str | None = None
    persons: str | None = None

    @field_validator("tasks", mode="before")
    @classmethod
    def _classes(cls, tasks: Any) -> Any:
        if not isinstance(tasks, Mapping):
            return tasks
        out = {}
        for name, classes in tasks.items():
            if isinstance(classes, list):
                if any(isinstance(c, bool) for c in classes):
                    raise ValueError(
                        f"task {name!r}: YAML reads yes, no, on, off as true and false; put the classes in quotes"
                    )
                classes = [str(c) if isinstance(c, int | float) else c for c in classes]
                if not classes or len(set(classes)) != len(classes):
                    raise ValueError(f"task {name!r}: name each class once, and at least one")
            out[str(name)] = classes
        return out

    @field_validator("streams")
    @classmethod
    def _streams(cls, streams: dict[str, StreamSection]) -> dict[str, StreamSection]:
        for name in streams:
            if name in (*RESERVED, "allow_pickle"):  # the last is numpy's: no array can be saved under it
                raise ValueError(f"stream {name!r}: the name is taken; call it acc, eda, …")
            if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name) or name.endswith(("_valid", "_rate_hz")):
                raise ValueError(
                    f"stream {name!r}: a name has letters, digits, _ and -, and does not end in _valid or _rate_hz"
                )
        return streams

    @model_validator(mode="after")
    def _one_table(self) -> CohortFile:
        if (self.recordings is None) == (self.table is None):
            raise ValueError(
                "give exactly one of `recordings` (a table that names data files) and `table` (one long table)"
            )
        channels = {c for s in self.streams.values() for c in s.channels}
        seen: set[str] = set()
        for column in [*self.tasks, *self.attributes]:
            if column in RESERVED or column in seen or column.startswith("file_"):
                raise ValueError(f"column {column!r} is declared twice or is a column name of Mien's own")
            if self.table is not None and column in channels:
                raise ValueError(f"column {column!r} is both a channel and a label or attribute; rename one")
            seen.add(column)
        return self

    def card(self) -> CohortCard:
        return CohortCard(
            name=self.name,
            licence=self.licence,
            consent=self.consent.basis,
            tasks=self.tasks,
            attributes=self.attributes,
            streams={
                k: StreamSpec(channels=s.channels, unit=s.unit, rate_hz=s.rate_hz, range=s.range)
                for k, s in self.streams.items()
            },
            source="folder",
        )


def inside(root: Path, name: str, where: str) -> Path:
    """The file `name` of the folder; refuses absolute paths, `..`, links that lead out, and what is no file."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not parts or "\0" in name or Path(name).is_absolute() or re.match(r"[A-Za-z]:|[\\/]", name) or ".." in parts:
        raise Problem(
            where, f"{name!r} is not a path inside the folder", "write it relative to cohort.yaml, without .."
        )
    try:
        found = (root / Path(*parts)).resolve()
        if not found.is_relative_to(root.resolve()):
            raise Problem(where, f"{name!r} is a link that leads out of the folder", "copy the file into the folder")
        if not found.exists():
            raise Problem(where, f"the file {name!r} does not exist", "restore it, or correct the name")
        if not found.is_file():
            raise Problem(where, f"{name!r} is not a regular file", "name a file")
    except (OSError, RuntimeError) as error:
        raise Problem(where, f"{name!r} cannot be opened ({error})", "correct the name") from None
    return found


# --- tables: every cell a stripped string, or None when empty -------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class Table:
    name: str
    columns: tuple[str, ...]
    cells: list[dict[str, str | None]]
    lines: list[int]

    def where(self, i: int) -> str:
        return f"{self.name}, {'line' if self.name.endswith('.csv') else 'row'} {self.lines[i]}"


def read_table(root: Path, name: str, key: str) -> Table:
    """A csv or parquet table of the folder, whole; `key` is the cohort.yaml key that names it."""
    file = inside(root, name, f"cohort.yaml, {key}")
    if file.suffix == ".parquet":
        rows = []
        for batch in _batches(file, name, None):
            texts = {c: _texts(batch.column(c), name, c) for c in batch.schema.names}
            rows += [dict(zip(texts, values, strict=True)) for values in zip(*texts.values(), strict=True)]
        columns = tuple(_header(file, name))
        return Table(name=name, columns=columns, cells=rows, lines=list(range(1, len(rows) + 1)))
    if file.suffix != ".csv":
        raise Problem(name, f"a table is .csv or .parquet, not {file.suffix!r}", "convert it")
    columns = tuple(_header(file, name))
    cells, lines = [], []
    try:
        with open(file, encoding="utf-8-sig", newline="") as text:
            reader = csv.reader(text, strict=True)
            next(reader)
            for row in reader:
                if not any(c.strip() for c in row):
                    continue
                if len(row) != len(columns):
                    raise Problem(
                        f"{name}, line {reader.line_num}",
                        f"{len(row)} cells, but the header names {len(columns)} columns",
                        "repair the line (is the file cut off, or a comma unquoted?)",
                    )
                cells.append({c: v.strip() or None for c, v in zip(columns, row, strict=True)})
                lines.append(reader.line_num)
    except (csv.Error, UnicodeDecodeError) as error:
        raise Problem(name, f"not readable as UTF-8 CSV ({error})", "save it as comma-separated UTF-8") from None
    return Table(name=name, columns=columns, cells=cells, lines=lines)


def _header(file: Path, name: str) -> list[str]:
    """Column names of a csv or parquet file."""
    if file.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            columns = list(pq.read_schema(file).names)
        except (pa.ArrowException, OSError) as error:
            raise Problem(name, f"truncated or not parquet ({_first_line(error)})", "restore the file") from None
    else:
        try:
            with open(file, encoding="utf-8-sig", newline="") as text:
                columns = [c.strip() for c in next(csv.reader(text, strict=True), [])]
        except (csv.Error, UnicodeDecodeError) as error:
            raise Problem(name, f"not readable as UTF-8 CSV ({error})", "save it as comma-separated UTF-8") from None
    if not columns:
        raise Problem(name, "the file is empty", "restore it")
    double = [c for c in columns if columns.count(c) > 1]
    if double:
        raise Problem(name, f"two columns are called {double[0]!r}", "rename or drop one")
    return columns


def _batches(file: Path, name: str, types: Mapping[str, Any] | None) -> Iterator[Any]:
    """Record batches of a csv or parquet file, a few megabytes at a time; only the columns of `types` if given."""
    import pyarrow as pa
    import pyarrow.csv as pc
    import pyarrow.parquet as pq

    try:
        if file.suffix == ".parquet":
            with pq.ParquetFile(file) as source:
                columns = None if types is None else list(types)
                for batch in source.iter_batches(batch_size=65536, columns=columns, use_threads=False):
                    if types is not None:
                        parts = [
                            batch.column(c) if t == pa.string() else batch.column(c).cast(t) for c, t in types.items()
                        ]
                        batch = pa.RecordBatch.from_arrays(parts, names=list(types))
                    yield batch
            return
        convert = pc.ConvertOptions(
            column_types=types,
            include_columns=list(types or ()),
            null_values=_NULLS,
            strings_can_be_null=False,
        )
        # The header is read apart so that spaces around names do not matter and a byte-order mark is dropped.
        read = pc.ReadOptions(column_names=_header(file, name), skip_rows=1, use_threads=False)
        parse = pc.ParseOptions(newlines_in_values=True)
        with pc.open_csv(file, read_options=read, parse_options=parse, convert_options=convert) as source:
            yield from source
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        kind = "parquet" if file.suffix == ".parquet" else "numeric CSV"
        raise Problem(
            name, f"truncated or not readable as {kind} ({_first_line(error)})", "repair or restore the file"
        ) from None


def _texts(column: Any, name: str, label: str) -> list[str | None]:
    """An Arrow column as stripped strings; a whole number stored as a float (pandas does that) loses its `.0`."""
    import pyarrow as pa

    try:
        if pa.types.is_floating(column.type):
            plain = column.to_pylist()
            return [None if v is None or math.isnan(v) else str(int(v)) if v.is_integer() else str(v) for v in plain]
        return [None if v is None or not v.strip() else v.strip() for v in column.cast(pa.string()).to_pylist()]
    except pa.ArrowException as error:
        raise Problem(
            f"{name}, column {label!r}", f"not text or numbers ({_first_line(error)})", "store plain values"
        ) from None


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


# --- rows: one per recording --------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class Row:
    """One recording before its samples. files: {stream: file name}, or {"": file} when one file holds them all."""

    id: str
    person: str
    where: str
    session: str = ""
    start_s: float = 0.0
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
        report(Problem(name, f"no column {c!r}{_near(c, table.columns)}", "add it, or correct cohort.yaml"))
    files = [c for c in table.columns if c == "file" or c.startswith("file_")]
    if spec.recordings:
        for c in files:
            if c != "file" and c.removeprefix("file_") not in spec.streams:
                report(
                    Problem(
                        name,
                        f"column {c!r} is for a stream that cohort.yaml does not declare{_near(c[5:], spec.streams)}",
                        "declare the stream or rename the column",
                    )
                )
        if not files or ("file" in files and len(files) > 1):
            report(
                Problem(
                    name,
                    "needs either a column 'file' or columns 'file_<stream>'",
                    "name each recording's data",
                )
            )
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
    try:
        start = float(cells.get("start_s") or 0)
    except ValueError:
        start = math.nan
    if not math.isfinite(start):
        raise Problem(where, f"start_s={cells['start_s']!r} is not a number of seconds", "write seconds")
    labels: dict[str, Value] = {}
    for task, classes in spec.tasks.items():
        value = cells.get(task)
        if value is None:
            continue
        if value not in classes:
            raise Problem(
                where,
                f"label {task}={value!r} of recording {name!r} is not a declared class{_near(value, classes)}",
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
        labels=labels,
        attributes={**people.get(person, (None, {}))[1], **own},
        files=found,
    )


def _people(table: Table, spec: CohortFile, report: Report) -> dict[str, tuple[Consent, dict[str, Value]]]:
    """Persons table -> {person: (consent, attributes)}."""
    out: dict[str, tuple[Consent, dict[str, Value]]] = {}
    if "person" not in table.columns:
        report(Problem(table.name, f"no column 'person'{_near('person', table.columns)}", "add it"))
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
            raise Problem(where, f"unknown consent purpose {p!r}{_near(p, PURPOSES)}", fix)
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


def _near(word: str, known: Any) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


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
            for key, name in row.files.items():
                where = f"{name} (recording {row.id!r})"
                file = inside(plan.root, name, f"{row.where}, recording {row.id!r}")
                only = {key: plan.spec.streams[key]} if key else dict(plan.spec.streams)
                parts |= _read(file, name, where, only)
            yield _recording(row, parts, plan.spec)
        except Problem as problem:
            report(problem)


@dataclass(frozen=True)
class Samples:
    """values: float64[T, C]; valid: bool[T] or None; first_s: the time column's first value, None without one."""

    values: np.ndarray
    valid: np.ndarray | None
    first_s: float | None


def _recording(row: Row, parts: Mapping[str, Samples], spec: CohortFile) -> Recording:
    firsts = [p.first_s for p in parts.values() if p.first_s is not None]
    where = f"{next(iter(row.files.values()), row.where)} (recording {row.id!r})"
    if firsts and len(firsts) != len(parts):
        raise Problem(where, "some streams have a time column and some have none", "give it to all or to none")
    streams = {}
    for name, part in parts.items():
        s = spec.streams[name]
        streams[name] = _signal(part, s, f"{where}, stream {name!r}", min(firsts, default=0.0))
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


def _signal(part: Samples, spec: StreamSection, where: str, zero_s: float) -> Signal:
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


def _read(file: Path, name: str, where: str, streams: Mapping[str, StreamSection]) -> dict[str, Samples]:
    if file.suffix == ".npz":
        return _read_npz(file, where, streams)
    if file.suffix in (".csv", ".parquet"):
        return _read_columns(file, name, where, streams)
    raise Problem(where, f"a data file is {', '.join(_DATA)}, not {file.suffix!r}", "convert it")


def open_npz(file: Path, where: str) -> dict[str, np.ndarray]:
    """All arrays of an npz file, without pickles."""
    try:
        with np.load(file, allow_pickle=False) as raw:
            if not isinstance(raw, np.lib.npyio.NpzFile):
                raise Problem(where, "a single array, not an npz archive", "save it with np.savez(file, name=array)")
            return {k: raw[k] for k in raw.files}
    except (
        ValueError,
        OSError,
        EOFError,
        KeyError,
        MemoryError,
        zipfile.BadZipFile,
        zlib.error,
        TypeError,
    ) as error:
        if "allow_pickle" in str(error) or "pickled" in str(error):
            raise Problem(
                where,
                "holds Python objects (a pickle), which Mien never loads",
                "save plain numeric or text arrays",
            ) from None
        raise Problem(
            where, f"truncated or not an npz archive ({_first_line(error)})", "restore or write it again"
        ) from None
    except NotImplementedError as error:
        raise Problem(where, f"not a plain npz archive ({error})", "write it again with np.savez") from None


def _read_npz(file: Path, where: str, streams: Mapping[str, StreamSection]) -> dict[str, Samples]:
    arrays = open_npz(file, where)
    known = {n for s in streams for n in (s, f"{s}_valid", f"{s}_rate_hz")}
    for n in arrays:
        if n not in known:
            raise Problem(
                where,
                f"array {n!r} belongs to no declared stream{_near(n, known)}",
                "rename it, or declare the stream",
            )
    out = {}
    for name, spec in streams.items():
        if name not in arrays:
            if f"{name}_valid" in arrays or f"{name}_rate_hz" in arrays:
                raise Problem(where, f"{name}_valid or {name}_rate_hz without the array {name!r}", "add the array")
            continue
        values = arrays[name]
        if values.dtype.kind not in "fiub":
            raise Problem(where, f"array {name!r} has type {values.dtype}, not real numbers", "save it as float32")
        if values.ndim == 1 and len(spec.channels) == 1:
            values = values[:, None]
        if values.ndim != 2 or values.shape[1] != len(spec.channels):
            raise Problem(
                where,
                f"stream {name!r} has shape {list(values.shape)}, cohort.yaml declares"
                f" [time, {len(spec.channels)}] ({', '.join(spec.channels)})",
                "transpose it, or correct the channels",
            )
        _same_rate(arrays.get(f"{name}_rate_hz"), spec, where, name)
        valid = arrays.get(f"{name}_valid")
        if valid is not None and (valid.shape != (len(values),) or valid.dtype.kind not in "biu"):
            raise Problem(
                where,
                f"{name}_valid has shape {list(valid.shape)}, {len(values)} flags are needed",
                "one per sample",
            )
        out[name] = Samples(values.astype(np.float64), None if valid is None else valid.astype(bool), None)
    return out


def _same_rate(rate: np.ndarray | None, spec: StreamSection, where: str, name: str) -> None:
    if rate is None:
        return
    if rate.size != 1 or rate.dtype.kind not in "fiu":
        raise Problem(where, f"{name}_rate_hz is not one number", "save the rate in Hz")
    found = float(rate.reshape(()))
    if not abs(found - spec.rate_hz) <= 1e-6 * spec.rate_hz:
        raise Problem(
            where,
            f"stream {name!r} is at {found:g} Hz, cohort.yaml declares {spec.rate_hz:g} Hz",
            "one stream has one rate: resample it, or declare a second stream",
        )


def _read_columns(file: Path, name: str, where: str, streams: Mapping[str, StreamSection]) -> dict[str, Samples]:
    import pyarrow as pa

    names = _header(file, name)
    columns = channel_columns(names, streams, where)
    types = column_types(names, columns)
    if not columns:
        return {}
    batches = list(_batches(file, where, types))
    table = pa.Table.from_batches(batches, schema=None) if batches else None
    data = {c: table.column(c) for c in types} if table is not None else {}
    return _split_columns(data, columns, streams, where)


def channel_columns(
    names: Sequence[str], streams: Mapping[str, StreamSection], where: str
) -> dict[str, dict[str, str]]:
    """{stream: {channel: column}}; a column is `<stream>.<channel>`, or the bare channel if no two streams share it."""
    bare = [c for s in streams.values() for c in s.channels]
    out: dict[str, dict[str, str]] = {}
    for stream, spec in streams.items():
        found = {}
        for c in spec.channels:
            if f"{stream}.{c}" in names:
                found[c] = f"{stream}.{c}"
            elif c in names:
                if bare.count(c) > 1:
                    raise Problem(
                        where,
                        f"column {c!r} may belong to more than one stream",
                        f"call it {f'{stream}.{c}'!r}",
                    )
                found[c] = c
        absent = [c for c in spec.channels if c not in found]
        if found and absent:
            raise Problem(
                where,
                f"no column for channel {absent[0]!r} of stream {stream!r}{_near(absent[0], names)}",
                "add it, or correct the channels in cohort.yaml",
            )
        if found:
            out[stream] = found
    rates = {streams[s].rate_hz for s in out}
    if len(rates) > 1:
        raise Problem(
            where,
            f"streams of different rates ({', '.join(f'{r:g}' for r in sorted(rates))} Hz) in one table",
            "give each stream its own file (columns file_<stream>)",
        )
    return out


def column_types(names: Sequence[str], columns: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """Arrow types of the sample columns: numbers, but text for `valid` flags."""
    import pyarrow as pa

    types: dict[str, Any] = {c: pa.float64() for found in columns.values() for c in found.values()}
    if "time" in names:
        types["time"] = pa.float64()
    types |= {v: pa.string() for v in ["valid", *(f"{s}.valid" for s in columns)] if v in names}
    return types


def _split_columns(
    data: Mapping[str, Any],
    columns: Mapping[str, Mapping[str, str]],
    streams: Mapping[str, StreamSection],
    where: str,
) -> dict[str, Samples]:
    """Arrow columns of one recording -> samples per stream, on an even grid if there is a time column."""
    out = {}
    time = data["time"].to_numpy().astype(np.float64) if "time" in data else None
    for stream, found in columns.items():
        if not data:
            raise Problem(where, "no row of samples in it", "restore the file, or drop the recording")
        values = np.stack([np.asarray(data[c].to_numpy(), dtype=np.float64) for c in found.values()], axis=1)
        valid = None
        for flag in (f"{stream}.valid", "valid"):
            if flag in data:
                valid = _flags(data[flag], where, flag)
                break
        first = None
        if time is not None and len(time):
            first = float(time[0])
            values, valid = on_grid(time, values, valid, streams[stream].rate_hz, f"{where}, column 'time'")
        out[stream] = Samples(values, valid, first)
    return out


def _flags(column: Any, where: str, name: str) -> np.ndarray:
    words = {"1": True, "true": True, "0": False, "false": False}
    out = []
    for i, text in enumerate(_texts(column, where, name)):
        if text is None or text.lower() not in words:
            raise Problem(where, f"column {name!r}, row {i}: {text!r} is no flag", "write 1 or 0")
        out.append(words[text.lower()])
    return np.array(out, dtype=bool)


def on_grid(
    time: np.ndarray, values: np.ndarray, valid: np.ndarray | None, rate_hz: float, where: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """Check a time column (float64[T], seconds) against the declared rate and open its gaps.

    Steps up to 1.5 samples are the next sample; their mean must be within 2 % of 1 / rate_hz. After a longer step the
    missing rows are inserted as NaN with valid=False, so that later samples stay in their place; nothing is filled.
    """
    if not np.isfinite(time).all():
        raise Problem(where, f"row {int(np.flatnonzero(~np.isfinite(time))[0])} has no time", "fill or drop the row")
    if len(time) < 2:
        return values, valid
    steps = np.diff(time) * rate_hz  # in samples
    if not (steps > 0).all():
        at = int(np.flatnonzero(steps <= 0)[0]) + 1
        raise Problem(where, f"does not increase at row {at} ({time[at]:g} s after {time[at - 1]:g} s)", "sort by time")
    small = steps[steps <= NO_GAP]
    typical = float(np.median(steps))
    mean = float(small.mean()) if typical <= NO_GAP else typical
    if abs(mean - 1) > 0.02:
        hint = " (is it in milliseconds?)" if 900 < typical < 1100 else ""
        raise Problem(
            where,
            f"the rows come at about {rate_hz / mean:.4g} Hz, cohort.yaml declares {rate_hz:g} Hz{hint}",
            "time is in seconds; correct rate_hz, or resample",
        )
    missing = np.where(steps > NO_GAP, np.rint(steps) - 1, 0)
    if missing.sum() > max(10 * len(time), 600 * rate_hz):
        at = int(missing.argmax())
        raise Problem(
            where,
            f"a gap of {steps[at] / rate_hz:.4g} s after {time[at]:g} s",
            "split the recording at its long gaps",
        )
    if not missing.any():
        return values, valid
    place = np.concatenate([[0], np.cumsum(missing.astype(np.int64) + 1)])
    wide = np.full((place[-1] + 1, values.shape[1]), np.nan)
    mask = np.zeros(len(wide), dtype=bool)
    wide[place], mask[place] = values, True if valid is None else valid
    return wide, mask


# --- one long table -------------------------------------------------------------------------------------------
def _long_head(root: Path, name: str, spec: CohortFile) -> Table:
    """One row of cells per recording of a long table; a label that changes within a recording is refused."""
    import pyarrow as pa

    file = inside(root, name, "cohort.yaml, table")
    if file.suffix not in (".csv", ".parquet"):
        raise Problem(name, f"a table is .csv or .parquet, not {file.suffix!r}", "convert it")
    columns = _header(file, name)
    if not channel_columns(columns, spec.streams, name):
        raise Problem(name, "no column of any declared stream", "name the columns <channel> or <stream>.<channel>")
    wanted = ["recording", "person", "session", "start_s", *spec.tasks, *spec.attributes]
    types = {c: pa.string() for c in wanted if c in columns}
    cells: list[dict[str, str | None]] = []
    lines: list[int] = []
    if "recording" in types:
        done = 0
        for batch in _batches(file, name, types):
            texts = {c: np.array(_texts(batch.column(c), name, c), dtype=object) for c in types}
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
        names = _header(file, name)
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
            parts = _split_columns(data, columns, plan.spec.streams, where)
            # A stream whose every cell is empty was not recorded: absent, never a stretch of gaps.
            parts = {k: p for k, p in parts.items() if not np.isnan(p.values).all()}
            return _recording(row, parts, plan.spec)

        def guarded() -> Recording | None:
            try:
                return finish() if held else None
            except Problem as problem:
                report(problem)
                return None

        for batch in _batches(file, name, types):
            ids = np.array(_texts(batch.column("recording"), name, "recording"), dtype=object)
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


# --- the plug-in's two functions, and the way in from arrays ---------------------------------------------------
def load(config: Config) -> Cohort:
    """The folder as a cohort. It is imported into Mien's cache once, and again when any of its files changes."""
    root = Path(config.root).expanduser()
    made = plan(root, read_spec(root))
    return Cohort.build(
        recordings(made),
        card=made.spec.card(),
        consents=made.consents,
        cache=cache_home() / "cohorts",
        key=_key(made),
    )


def _key(plan: Plan) -> str:
    """ "folder-<hash>" over the tables' bytes and every data file's name, size and time of change."""
    digest = hashlib.sha256(f"{VERSION} {plan.root.resolve()}".encode())
    for name in ("cohort.yaml", plan.spec.recordings, plan.spec.persons):
        digest.update(b"\0" if name is None else inside(plan.root, name, "cohort.yaml").read_bytes() + b"\1")
    places = {n: f"{r.where}, recording {r.id!r}" for r in plan.rows for n in r.files.values()}
    if plan.spec.table:
        places[plan.spec.table] = "cohort.yaml, table"
    for name, where in sorted(places.items()):
        stat = inside(plan.root, name, where).stat()
        digest.update(json.dumps([name, stat.st_size, stat.st_mtime_ns]).encode())
    return f"folder-{digest.hexdigest()[:24]}"


def write(
    root: str | Path,
    *,
    values: Sequence[np.ndarray] | np.ndarray,
    persons: Sequence[Any] | np.ndarray,
    labels: Sequence[Any] | np.ndarray,
    task: str,
    rate_hz: float,
    channels: Sequence[str],
    unit: str,
    name: str,
    licence: str,
    consent: str,
    purposes: Sequence[str] = DEFAULT_PURPOSES,
    stream: str = "signal",
    range: tuple[float, float] | None = None,
    gaps: str = "refuse",
    sessions: Sequence[Any] | np.ndarray | None = None,
    starts: Sequence[float] | np.ndarray | None = None,
    attributes: Mapping[str, Sequence[Any] | np.ndarray] | None = None,
) -> Path:
    """Arrays -> a folder that `load` reads: cohort.yaml, recordings.csv, data/*.npz. It appears whole or not at all.

    values: [N, T, C], or N arrays [T_i, C], in `unit`; persons, labels, sessions, starts (seconds) and each of
    `attributes`: N values. range: the sensor's plausible span, which only you can know. consent: its basis in words.
    """
    root = Path(root)
    columns: dict[str, Sequence[Any] | np.ndarray] = {"person": persons, task: labels, **(attributes or {})}
    if sessions is not None:
        columns["session"] = sessions
    if starts is not None:
        columns["start_s"] = starts
    for column, cells in columns.items():
        if len(cells) != len(values):
            raise MienError(f"{column!r} has {len(cells)} values for {len(values)} recordings; give one per recording")
    texts = {c: [_text(v, c, i) for i, v in enumerate(cells)] for c, cells in columns.items()}
    spec = {
        "name": name,
        "licence": licence,
        "consent": {"basis": consent, "purposes": list(purposes)},
        "tasks": {task: sorted({t for t in texts[task] if t})},
        "attributes": list(attributes or {}),
        "streams": {
            stream: {
                "channels": list(channels),
                "unit": unit,
                "rate_hz": float(rate_hz),
                **({} if range is None else {"range": [float(r) for r in range]}),
                **({} if gaps == "refuse" else {"gaps": gaps}),
            }
        },
        "recordings": "recordings.csv",
    }
    checked = recipes.parse(CohortFile, spec, f"{root}/cohort.yaml")
    ids = [f"r{i:05d}" for i, _ in enumerate(values)]
    for i, (x, person) in enumerate(zip(values, texts["person"], strict=True)):
        where = f"recording {i} of `values`"
        if not person:
            raise Problem(where, "has no person", "give every recording a pseudonymous person")
        x = np.asarray(x)
        if x.ndim != 2 or x.shape[1] != len(channels) or x.dtype.kind not in "fiub":
            raise Problem(
                where,
                f"shape {list(x.shape)} of type {x.dtype}",
                f"numbers of shape [time, {len(channels)}] are needed",
            )
        _signal(Samples(x.astype(np.float64), None, None), checked.streams[stream], where, 0.0)
    if root.exists():
        raise MienError(f"{root} exists already; choose another folder or remove it first")
    if not ids:
        raise MienError(f"{root}: `values` holds no recording, so there is nothing to write")
    with whole_folder(root) as staging:
        staging.chmod(0o700)  # recordings of people: for their owner only
        (staging / "data").mkdir(mode=0o700)
        (staging / "cohort.yaml").write_text(
            yaml.safe_dump(spec, sort_keys=False, allow_unicode=True, default_flow_style=None),
            encoding="utf-8",
        )
        with open(staging / "recordings.csv", "w", encoding="utf-8", newline="") as file:
            out = csv.writer(file)
            out.writerow(["recording", *texts, "file"])
            for i, r in enumerate(ids):
                out.writerow([r, *(t[i] for t in texts.values()), f"data/{r}.npz"])
        for r, x in zip(ids, values, strict=True):
            arrays: dict[str, Any] = {stream: np.asarray(x, dtype=np.float32)}
            np.savez(staging / "data" / f"{r}.npz", **arrays)
    return root


def _text(value: Any, column: str, i: int) -> str:
    """One cell; what the table would change on the way back (spaces around it) is refused."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    if text != text.strip() or "\0" in text:
        raise MienError(f"{column!r}, value {i}: {text!r} has spaces around it; strip them first")
    return text
