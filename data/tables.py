"""The csv, parquet and npz files of a folder, read safely: tables as text, sample columns, gaps on an even grid.

Nothing is executed (no pickles) and no file outside the folder is read.
"""

from __future__ import annotations

import csv
import difflib
import math
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from .schema import Problem, StreamSection

NO_GAP = 1.5  # samples: steps of the time column longer than this are gaps
# A clock's quartz is good to .01 %, so rows that are further off than ten times that come at another rate than the declared
# one, and counting them would move everything behind them: 2 % is more than a minute in an hour.
_OFF = 0.001
_DATA = (".npz", ".csv", ".parquet")
_CLOCKS = {
    "time",
    "times",
    "time_s",
    "time_ms",
    "timestamp",
    "timestamps",
    "timestamp_ms",
    "ts",
    "t",
    "datetime",
    "unix",
    "epoch",
}
_NULLS = ["", "nan", "NaN", "NA", "null"]


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
        for batch in read_batches(file, name, None):
            texts = {c: text_cells(batch.column(c), name, c) for c in batch.schema.names}
            rows += [dict(zip(texts, values, strict=True)) for values in zip(*texts.values(), strict=True)]
        columns = tuple(read_header(file, name))
        return Table(name=name, columns=columns, cells=rows, lines=list(range(1, len(rows) + 1)))
    if file.suffix != ".csv":
        raise Problem(name, f"a table is .csv or .parquet, not {file.suffix!r}", "convert it")
    columns = tuple(read_header(file, name))
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


def read_header(file: Path, name: str) -> list[str]:
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
    if len(columns) == 1 and (mark := next((m for m in ";\t" if m in columns[0]), None)):
        what = "semicolons" if mark == ";" else "tabs"
        raise Problem(
            name, f"cells are separated by {what}", "save it with commas between cells and a point in numbers"
        )
    double = [c for c in columns if columns.count(c) > 1]
    if double:
        raise Problem(name, f"two columns are called {double[0]!r}", "rename or drop one")
    return columns


def read_batches(file: Path, name: str, types: Mapping[str, Any] | None) -> Iterator[Any]:
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
        read = pc.ReadOptions(column_names=read_header(file, name), skip_rows=1, use_threads=False)
        parse = pc.ParseOptions(newlines_in_values=True)
        with pc.open_csv(file, read_options=read, parse_options=parse, convert_options=convert) as source:
            yield from source
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        kind = "parquet" if file.suffix == ".parquet" else "numeric CSV"
        fix = "repair or restore the file"
        if "conversion error" in str(error):
            fix = "write plain numbers with a point, and `time` in seconds (datetime.timestamp() of a clock time with its zone)"
        raise Problem(name, f"truncated or not readable as {kind} ({_first_line(error)})", fix) from None


def text_cells(column: Any, name: str, label: str) -> list[str | None]:
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


def nearest(word: str, known: Any) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


# --- samples of one recording --------------------------------------------------------------------------------
@dataclass(frozen=True)
class Samples:
    """values: float64[T, C]; valid: bool[T] or None; first_s: the time column's first value, None without one."""

    values: np.ndarray
    valid: np.ndarray | None
    first_s: float | None


def read_streams(file: Path, name: str, where: str, streams: Mapping[str, StreamSection]) -> dict[str, Samples]:
    if file.suffix == ".npz":
        return _read_npz(file, where, streams)
    if file.suffix in (".csv", ".parquet"):
        return _read_columns(file, name, where, streams)
    raise Problem(where, f"a data file is {', '.join(_DATA)} or .wav, not {file.suffix!r}", "convert it")


def open_npz(file: Path, where: str) -> dict[str, np.ndarray]:
    """All arrays of an npz file, without pickles."""
    try:
        with open(file, "rb") as f:
            head = f.read(6)
        # numpy takes whatever is neither a zip nor an array for a pickle; a pickle of our time opens with byte 0x80
        if not head.startswith((b"PK\x03\x04", b"PK\x05\x06", b"\x93NUMPY", b"\x80")):
            problem = "truncated or not an npz archive" if head else "the file is empty"
            raise Problem(where, problem, "write it with np.savez")
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
                f"array {n!r} belongs to no declared stream{nearest(n, known)}",
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

    names = read_header(file, name)
    columns = channel_columns(names, streams, where)
    types = column_types(names, columns)
    if not columns:
        wanted = [c for s in streams.values() for c in s.channels]
        near = next(
            (m for c in wanted for m in difflib.get_close_matches(c.lower(), [n.lower() for n in names], n=1)), None
        )
        hint = "" if near is None else f" ({next(n for n in names if n.lower() == near)!r} is near)"
        raise Problem(
            where, f"no declared stream is in it: its columns are {', '.join(names)[:200]}{hint}",
            f"name them {', '.join(wanted)[:200]}, or correct cohort.yaml",
        )  # fmt: skip
    read_clock(names, columns, where)
    batches = list(read_batches(file, where, types))
    table = pa.Table.from_batches(batches, schema=None) if batches else None
    data = {c: table.column(c) for c in types} if table is not None else {}
    return split_columns(data, columns, streams, where)


def read_clock(
    names: Sequence[str], columns: Mapping[str, Mapping[str, str]], where: str, known: Sequence[str] = ()
) -> None:
    """Problem for a clock under another name than `time`: rates and gaps would go unseen."""
    taken = {*known, *(c for found in columns.values() for c in found.values())}
    clock = next((n for n in names if n.lower() in _CLOCKS and n not in taken), None)
    if clock is not None and "time" not in names:
        raise Problem(
            where,
            f"the column {clock!r} looks like a clock and is not read",
            "call it `time`, in seconds; or take it out",
        )


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
                f"no column for channel {absent[0]!r} of stream {stream!r}{nearest(absent[0], names)}",
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


def split_columns(
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
    for i, text in enumerate(text_cells(column, where, name)):
        if text is None or text.lower() not in words:
            raise Problem(where, f"column {name!r}, row {i}: {text!r} is no flag", "write 1 or 0")
        out.append(words[text.lower()])
    return np.array(out, dtype=bool)


def on_grid(
    time: np.ndarray, values: np.ndarray, valid: np.ndarray | None, rate_hz: float, where: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """Check a time column (float64[T], seconds) against the declared rate and open its gaps.

    Steps up to 1.5 samples are the next sample; their mean must be within 2 % of 1 / rate_hz. After a longer step the
    missing rows are inserted as NaN with valid=False, so that later samples stay in their place; nothing is filled. Where
    the mean is off by more than 0.1 %, and by more than a sample in all, values are interpolated at the declared rate.
    """
    if not np.isfinite(time).all():
        raise Problem(where, f"row {int(np.flatnonzero(~np.isfinite(time))[0])} has no time", "fill or drop the row")
    if len(time) < 2:
        return values, valid
    steps = np.diff(time) * rate_hz  # in samples
    if not (steps > 0).all():
        at = int(np.flatnonzero(steps <= 0)[0]) + 1
        fix = (
            "sort by time" if steps[at - 1] else "rows of one moment: give each its own time, or take doubled rows out"
        )
        raise Problem(where, f"does not increase at row {at} ({time[at]:.10g} s after {time[at - 1]:.10g} s)", fix)
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
    if abs(mean - 1) > max(_OFF, 1 / len(time)):
        return _interpolated(time, values, valid, steps > NO_GAP, rate_hz)
    if not missing.any():
        return values, valid
    place = np.concatenate([[0], np.cumsum(missing.astype(np.int64) + 1)])
    wide = np.full((place[-1] + 1, values.shape[1]), np.nan)
    mask = np.zeros(len(wide), dtype=bool)
    wide[place], mask[place] = values, True if valid is None else valid
    return wide, mask


def _interpolated(
    time: np.ndarray, values: np.ndarray, valid: np.ndarray | None, gap: np.ndarray, rate_hz: float
) -> tuple[np.ndarray, np.ndarray | None]:
    """values float[T, C] at float64[T] seconds, linearly between rows, on an even grid that begins with the first. What lies
    within a gap (bool[T - 1], of the steps) or beside a row that is not valid is none."""
    grid = np.arange(int((time[-1] - time[0]) * rate_hz + 1e-6) + 1) / rate_hz + time[0]
    i = np.clip(np.searchsorted(time, grid, side="right") - 1, 0, len(time) - 2)
    along = np.clip((grid - time[i]) / (time[i + 1] - time[i]), 0, 1)
    on_row = (along == 0) | (along == 1)
    row = i + (along == 1)
    with np.errstate(invalid="ignore"):  # infinite values are refused later, by name
        between = (1 - along[:, None]) * values[i] + along[:, None] * values[i + 1]
    out = np.where(on_row[:, None], values[row], between)
    if valid is None and not gap.any():
        return out, None
    ok = np.ones(len(time), dtype=bool) if valid is None else valid
    mask = np.where(on_row, ok[row], ok[i] & ok[i + 1] & ~gap[i])
    return np.where(mask[:, None], out, np.nan), mask
