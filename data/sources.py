"""What readers of public databases share: files found inside one root, sound read, what is left out counted and told."""

from __future__ import annotations

import csv
import functools
import hashlib
import json
import math
import os
import re
import warnings
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from ..core import console
from ..core.errors import MienError
from ..core.records import Signal, StreamSpec

T = TypeVar("T")
R = TypeVar("R")
_STUB = b"version https://git-lfs"
_NONE: Any = object()
LARGEST = 2 << 30  # bytes of a file that is read whole; the longest of any database here has a tenth of it


class LeftOut:
    """Why recordings of a database are not in its cohort: counted by reason, one file of each named."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.example: dict[str, str] = {}
        self.notes: list[str] = []

    def add(self, why: str, file: str, n: int = 1) -> None:
        if n:
            self.counts[why] += n
            self.example.setdefault(why, file)

    def merge(self, other: LeftOut) -> None:
        """Add what was counted of one item, read beside others."""
        self.counts.update(other.counts)
        self.example = {**other.example, **self.example}
        self.notes += other.notes

    def tell(self) -> None:
        for note in self.notes:
            console.say(f"  {note}")
        for why, n in self.counts.most_common():
            console.say(f"  left out: {n} {why} (such as {self.example[why]})")


def tell(skipped: Mapping[str, int]) -> None:
    """Why windows or streams of a cohort were not read, and how often: what is left out in silence is missed by nobody."""
    for why, n in sorted(skipped.items(), key=lambda x: (-x[1], x[0])):
        console.say(f"  left out {console.count(n, 'time')}: {why}")


class Unreadable(Exception):
    """One file cannot be used; the text says why, in words that follow a count."""


def ahead(title: str, items: Collection[T], read: Callable[[T], R], at_once: int = 4) -> Iterator[tuple[T, R]]:
    """Each item and what `read` makes of it, in order, under a progress bar, while the next ones are being read.

    Threads, since what takes time is done outside Python's lock: child processes, sound, Arrow's csv. At most `at_once` items
    (as many as there are processors, if these are fewer) are read or held at a time, so memory does not grow with their
    number; Executor.map has `buffersize` for this from Python 3.14 on. Raises at an item's turn what reading it raised. `read`
    may not count in a shared LeftOut: it would do so in no order.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    most = max(1, min(at_once, cores))
    waiting: deque[tuple[T, Future[R]]] = deque()
    pool, rest = ThreadPoolExecutor(most, thread_name_prefix="reader"), iter(items)
    try:
        with console.progress(title, len(items)) as bar:
            while True:
                while len(waiting) < most and (following := next(rest, _NONE)) is not _NONE:
                    waiting.append((following, pool.submit(read, following)))
                if not waiting:
                    return
                item, made = waiting[0]
                yield item, made.result()
                del made
                waiting.popleft()
                bar.step()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def home(root: str | Path) -> Path:
    """The folder a user gave. MienError when there is none."""
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise MienError(f"no such folder: {folder}; unpack the download and give the folder it made")
    return folder


def find(root: Path, name: str, depth: int = 2) -> Iterator[Path]:
    """Files and folders of this name (a glob) in `root` or up to `depth` folders below, in order; hidden names, such as
    the `._x` that macOS leaves, are passed over. MienError for a link that leads out of `root`."""
    inside = root.resolve()
    for level in range(depth + 1):
        for path in sorted(root.glob("*/" * level + name)):
            if any(part.startswith(".") or part == "__MACOSX" for part in path.relative_to(root).parts):
                continue
            yield whole(path, root, inside)


def whole(path: Path, root: Path, inside: Path | None = None) -> Path:
    """The path, if it is a file or a folder in `root` (`inside`: `root` without links); MienError for a link out of it, for
    one that leads nowhere, and for what is neither file nor folder, such as a pipe, which would be read for ever."""
    try:
        real = path.resolve()
    except (RuntimeError, OSError):  # a link to itself
        real = None
    if real is not None and not real.is_relative_to(root.resolve() if inside is None else inside):
        raise MienError(f"{path} is a link out of {root}; copy what it points to, or give its own folder")
    if real is None or not (real.is_file() or real.is_dir()):
        raise MienError(f"{path} is a link that leads nowhere, or no regular file; restore it, or remove it")
    return path


def one(root: Path, name: str, depth: int = 2) -> Path | None:
    """The only such file or folder; None when there is none. MienError when there are two."""
    found = list(find(root, name, depth))
    if len(found) > 1:
        raise MienError(f"{root} holds two of {name}: {found[0]} and {found[1]}; keep one copy")
    return found[0] if found else None


def cache_key(name: str, version: int, options: Mapping[str, object], files: Iterable[Path]) -> str:
    """Under what a reader's cohort is cached: its files' names, sizes and times, what was asked, the reader's version."""
    stat = [(str(f), s.st_size, s.st_mtime_ns) for f in files for s in (f.stat(),)]
    text = json.dumps([version, dict(options), stat], sort_keys=True, default=str)
    return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def is_stub(file: Path) -> bool:
    """Whether Git LFS left a pointer instead of the file's content. Unreadable when it is a folder."""
    if not file.is_file():
        raise Unreadable("that are folders, not files")
    with open(file, "rb") as f:
        return f.read(len(_STUB)) == _STUB


def sound(file: Path, spec: StreamSpec, *, resample: bool = False, silent: bool = False) -> Signal:
    """A wav file as one mono channel, full scale = 1; several channels are averaged. Unreadable says what is wrong.

    resample: bring it from another rate to the declared one (polyphase, scipy's anti-alias filter), or refuse it.
    silent: take a file in which nothing is heard, or refuse it.
    """
    from scipy.io import wavfile

    if is_stub(file):
        raise Unreadable("Git LFS pointers without their content: run `git lfs pull` in the copy")
    if file.stat().st_size > LARGEST:
        raise Unreadable("over 2 GB, which no recording of the database is")
    # they are of tags it does not know, and of files cut off; caught here, they could be another thread's
    warnings.filterwarnings("ignore", category=wavfile.WavFileWarning)
    try:
        rate, raw = wavfile.read(file)
    except Exception:  # whatever its parser stumbles on: ValueError, EOFError, struct.error, UnboundLocalError
        raise Unreadable("damaged or not wav") from None
    if _cut_off(file):
        raise Unreadable("cut off before their end")
    if rate != spec.rate_hz and not (resample and rate > 0 and spec.rate_hz.is_integer()):
        raise Unreadable(f"at {rate} Hz, not {spec.rate_hz:g}")
    whole = np.issubdtype(raw.dtype, np.integer)
    values = raw.astype(np.float32)
    if raw.dtype == np.uint8:
        values = (values - 128) / 128
    elif whole:
        values /= -float(np.iinfo(raw.dtype).min)
    if values.ndim == 2:
        values = values.mean(1)
    if not len(values):
        raise Unreadable("without a sample")
    if not np.isfinite(values).all():
        raise Unreadable("with samples that are not numbers")
    if not silent and values.max() == values.min():
        raise Unreadable("silent throughout")
    if rate != spec.rate_hz:
        from scipy.signal import resample_poly

        common = math.gcd(int(spec.rate_hz), int(rate))
        values = resample_poly(values, int(spec.rate_hz) // common, int(rate) // common).astype(np.float32)
    return Signal(values=values[:, None], rate_hz=spec.rate_hz, channels=spec.channels, unit=spec.unit)


def tried(file: Path, spec: StreamSpec) -> Signal | Unreadable:
    """`sound`, or why there is none."""
    try:
        return sound(file, spec)
    except Unreadable as why:
        return why


def _cut_off(file: Path) -> bool:
    """Whether a wav file ends before its samples do. What may follow them, such as tags, is not missed."""
    with open(file, "rb") as f:
        order: Literal["big", "little"] = "big" if f.read(12).startswith(b"RIFX") else "little"
        while len(head := f.read(8)) == 8:
            size = int.from_bytes(head[4:], order)
            if head.startswith(b"data"):
                return f.tell() + size > file.stat().st_size
            f.seek(size + size % 2, os.SEEK_CUR)
    return False


def table(file: Path, needed: Iterable[str]) -> list[dict[str, str]]:
    """Rows of a small csv file with its header's names stripped. A byte-order mark, and tabs or semicolons in place of
    commas, are taken as they come. MienError naming the file and what is missing or wrong."""
    if not file.is_file():
        raise MienError(f"{file} is a folder, not a file; restore it from its source")
    if file.stat().st_size > LARGEST:
        raise MienError(f"{file} is over 2 GB, which no table of the database is; restore it from its source")
    raw = file.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise MienError(f"{file} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise MienError(f"{file} is empty; restore it from its source")
    if raw.startswith(_STUB):
        raise MienError(f"{file} is a Git LFS pointer without its content; run `git lfs pull` in the copy")
    mark = max(",\t;", key=lines[0].count)
    try:
        names, *cells_of = [[c.strip() for c in row] for row in csv.reader(lines, delimiter=mark, strict=True)]
    except csv.Error as error:
        raise MienError(f"{file} is not a csv file ({error}); restore it from its source") from None
    _intact(text, names, file)
    missing = [n for n in needed if n not in names]
    if missing:
        raise MienError(f"{file} has no column {missing[0]!r}; it has {', '.join(n for n in names if n)}")
    rows = []
    for number, cells in enumerate(cells_of, 2):
        if len(cells) != len(names):
            raise MienError(f"{file}, row {number}: {len(cells)} cells under {len(names)} names; repair the row")
        rows.append(dict(zip(names, cells, strict=True)))
    return rows


def _intact(text: str, names: Sequence[str], file: Path) -> None:
    """A name or row that was damaged would be one that is not there, and a label or rating would quietly be another."""
    if "\0" in text or any('"' in n for n in names):
        raise MienError(f"{file} is damaged (a zero byte, or a quote within a name); restore it from its source")


def columns(file: Path, needed: Sequence[str], optional: Sequence[str] = ()) -> Iterator[tuple[str, ...]]:
    """The cells of these columns (needed, then optional: "" where there is no such column), row by row, of a csv file of
    any size. A byte-order mark, tabs or semicolons in place of commas, spaces around names and cells, rows cut short and
    rows without anything are taken as they come. MienError naming the file and what is missing or wrong."""
    if not file.is_file():
        raise MienError(f"{file} is a folder, not a file; restore it from its source")
    if is_stub(file):
        raise MienError(f"{file} is a Git LFS pointer without its content; run `git lfs pull` in the copy")
    try:
        with open(file, encoding="utf-8-sig", newline="") as f:
            head = f.readline()
            if not head.strip():
                raise MienError(f"{file} is empty, or its first line is; restore it from its source")
            mark = max(",\t;", key=head.count)
            names = [n.strip() for n in next(csv.reader([head], delimiter=mark, strict=True))]
            _intact(head, names, file)
            missing = [n for n in needed if n not in names]
            if missing:
                raise MienError(f"{file} has no column {missing[0]!r}; it has {', '.join(n for n in names if n)[:200]}")
            at = [names.index(n) if n in names else -1 for n in (*needed, *optional)]
            for row, cells in enumerate(csv.reader(f, delimiter=mark, strict=True), 2):
                short = len(names) - len(cells)
                if short < 0 and any(c.strip() for c in cells[short:]):
                    raise MienError(f"{file}, row {row}: {len(cells)} cells under {len(names)} names; repair the row")
                if short > 0:
                    cells += [""] * short
                out = tuple(cells[i].strip() if i >= 0 else "" for i in at)
                if any(out):
                    yield out
    except UnicodeDecodeError as error:
        raise MienError(f"{file} is not UTF-8 (near byte {error.start}); save it as UTF-8") from None
    except csv.Error as error:
        raise MienError(f"{file} is not a csv file ({error}); restore it from its source") from None


def plain_columns(file: Path, needed: Sequence[str]) -> tuple[Any, ...] | None:
    """What `columns` yields, as one Arrow array of text per column, some twenty times as fast and outside Python's lock; None when
    the file is not plain enough (quotes, other than ASCII, rows of several lengths): then `columns` reads it, or says why not."""
    import pyarrow as pa
    from pyarrow import compute
    from pyarrow import csv as arrow_csv

    pc: Any = compute  # its functions are made at import, unseen by checkers of types

    if not file.is_file() or file.stat().st_size > LARGEST:
        return None
    raw = file.read_bytes()
    head, _, rest = raw.partition(b"\n")
    if not head.strip() or not raw.isascii() or b'"' in raw or b"\0" in raw or raw.count(b"\r") != raw.count(b"\r\n"):
        return None
    mark = max(",\t;", key=head.decode().count)
    names = [n.strip() for n in head.decode().split(mark)]
    if not rest.strip() or any(names.count(n) != 1 for n in needed):
        return None
    at = [str(names.index(n)) for n in needed]
    try:
        read = arrow_csv.read_csv(
            pa.BufferReader(rest),
            read_options=arrow_csv.ReadOptions(column_names=[str(i) for i in range(len(names))], use_threads=False),
            parse_options=arrow_csv.ParseOptions(delimiter=mark, quote_char=False),
            convert_options=arrow_csv.ConvertOptions(
                include_columns=at, column_types=dict.fromkeys(at, pa.string()), strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid:
        return None
    found = [pc.utf8_trim_whitespace(read.column(i)) for i in at]
    said = functools.reduce(pc.or_, [pc.not_equal(c, "") for c in found])  # rows without anything are passed over
    return tuple(c.filter(said) for c in found)


def number(text: str) -> float | None:
    """A plain decimal number, or None."""
    return float(text) if re.fullmatch(r"-?\d+(\.\d+)?", text) else None
