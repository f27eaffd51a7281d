"""What the terminal shows: lines, tables, progress with an ETA, one-line errors."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")
_quiet = False
_listening: list[list[str]] = []


def quiet(on: bool = True) -> None:
    """Silence `say`, tables and progress in this process (every rank but the main one)."""
    global _quiet
    _quiet = on


def say(text: str = "") -> None:
    for told in _listening:
        told.append(text)
    _show(text)


def _show(text: str) -> None:
    if not _quiet:
        print(text, flush=True)


def waiting(text: str) -> None:
    """One line on what takes some seconds from now, before any bar: for whoever watches, and no remark that `heard` hears."""
    _show(f"  {text} …")


@contextmanager
def heard() -> Iterator[list[str]]:
    """What `say` says meanwhile (without progress), also when it is silenced."""
    told: list[str] = []
    _listening.append(told)
    try:
        yield told
    finally:
        _listening[:] = [x for x in _listening if x is not told]


def fail(text: str) -> None:
    print("mien: " + " ".join(str(text).split()), file=sys.stderr, flush=True)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table; numbers are right-aligned. In a pipe it is plain text of full width."""
    if _quiet:
        return
    from rich.console import Console
    from rich.table import Table

    made = Table(title=title, title_justify="left", title_style="bold", header_style="bold", expand=False)
    body = [[str(c) for c in row] for row in rows]
    for i, column in enumerate(columns):
        numeric = i > 0 and all(r[i][:1] in "+-.0123456789–" for r in body if r[i])
        made.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in body:
        made.add_row(*row)
    tty = sys.stdout.isatty()
    Console(width=None if tty else 140, soft_wrap=False, markup=False).print(made)


class Bar:
    """One progress bar: `bar.step(n, note)`. On a terminal a live bar, elsewhere a line now and then. Opened by `progress`,
    which closes it however its block ends."""

    def __init__(self, label: str, total: int, start: int = 0, quiet: bool = False):
        self._hidden = quiet or _quiet
        self.label, self.total, self.done = label, max(1, total), start
        self._first, self._start, self._last = start, time.monotonic(), time.monotonic()
        self._live: Any = None
        if not self._hidden and sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

            self._live = Progress(
                TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
                TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
            )  # fmt: skip
            self._task = self._live.add_task(label, total=self.total, completed=start, note="")
            self._live.start()

    def step(self, n: int = 1, note: str = "") -> None:
        self.done += n
        if self._live is not None:
            self._live.update(self._task, completed=self.done, note=note)
        elif not self._hidden and time.monotonic() - self._last >= 15 and self.done < self.total:
            self._last = time.monotonic()
            _show(f"  {self.label}: {self.done}/{self.total}, {self.eta()} left {note}".rstrip())

    def eta(self) -> str:
        rate = (self.done - self._first) / max(1e-9, time.monotonic() - self._start)
        return duration((self.total - self.done) / rate) if rate > 0 else "unknown time"

    def close(self, *, stopped: bool = False) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        elif not self._hidden and self.done > self._first:
            at = "stopped at " if stopped else ""
            _show(f"  {self.label}: {at}{self.done}/{self.total} in {duration(time.monotonic() - self._start)}")


@contextmanager
def progress(label: str, total: int, start: int = 0, quiet: bool = False) -> Iterator[Bar]:
    bar = Bar(label, total, start, quiet)
    try:
        yield bar
    except BaseException:
        bar.close(stopped=True)
        raise
    bar.close()


def lines(texts: Iterable[str]) -> None:
    """Remarks under a table, each once."""
    for text in dict.fromkeys(texts):
        say(f"  {text}")


def count(n: int, what: str) -> str:
    """1 person, 2 persons."""
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def duration(seconds: float) -> str:
    """3 s, 2 min 05 s, 1 h 10 min."""
    s = round(seconds)
    if s < 60:
        return f"{s} s"
    if s < 3600:
        return f"{s // 60} min {s % 60:02d} s"
    return f"{s // 3600} h {s % 3600 // 60:02d} min"
