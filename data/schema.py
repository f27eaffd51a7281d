"""`cohort.yaml` of a folder of recordings, typed; and `Problem`, a fault of such a folder."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import date
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from ..core.config import Section
from ..core.errors import MienError
from ..core.records import CohortCard, StreamSpec

RESERVED = ("recording", "person", "session", "start_s", "seconds", "file", "time", "valid")
Purpose = Literal["training", "generation", "alignment", "audit", "evaluation", "sharing"]
Restriction = Literal[
    "attribution", "share-alike", "non-commercial", "research-only", "no-redistribution", "credentialed"
]


class Problem(MienError):
    """A fault of one folder: where it is, what is wrong, and what to do about it."""

    def __init__(self, where: str, problem: str, fix: str):
        super().__init__(" ".join(f"{where}: {problem}; {fix}".split()))
        self.where, self.problem, self.fix = where, problem, fix


Report = Callable[[Problem], None]


def strict(problem: Problem) -> None:
    """The `Report` of `load`: the first fault ends it."""
    raise problem


class StreamSection(Section):
    """One sensor. range: its plausible public span in `unit`, never the minimum and maximum of the data.

    gaps: "refuse" (a NaN is an error) or "mark" (a row with a NaN becomes a gap). kind: of events (a call log) the channels are
    the kinds, of text (a transcript) the speakers' roles; neither has a unit, a rate or a range.
    """

    kind: Literal["signal", "events", "text"] = "signal"
    channels: tuple[str, ...] = Field(min_length=1)
    unit: str = ""
    rate_hz: float = Field(default=0, allow_inf_nan=False)
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

    @model_validator(mode="after")
    def _of_its_kind(self) -> StreamSection:
        if self.kind == "signal":
            if self.rate_hz <= 0 and "rate_hz" in self.model_fields_set:
                raise ValueError(f"`rate_hz` should be greater than 0, got {self.rate_hz:g}")
            absent = [k for k in ("unit", "rate_hz") if k not in self.model_fields_set]
            if absent:
                hint = "" if len(absent) == 1 else ", or a `kind: events` or `kind: text`"
                raise ValueError(f"a signal needs `{'` and `'.join(absent)}`{hint}")
        elif given := sorted(self.model_fields_set & {"unit", "rate_hz", "range", "gaps"}):
            raise ValueError(f"{self.kind} have no `{given[0]}`; remove the key")
        return self


class ConsentSection(Section):
    """What everybody agreed to, unless the persons table says otherwise."""

    basis: str = Field(min_length=1)
    purposes: tuple[Purpose, ...]
    expires: date | None = None


class CohortFile(Section):
    """`cohort.yaml`. Exactly one of `recordings` (a table that names data files) and `table` (one long table). source: the
    study that gave out the persons' ids, by which the ledger knows them."""

    name: str = Field(min_length=1)
    source: str = ""
    licence: str = Field(min_length=1)
    restrictions: tuple[Restriction, ...] = ()
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
        logs = [n for n, s in self.streams.items() if s.kind != "signal"]
        if self.table is not None and logs:
            raise ValueError(
                f"stream {logs[0]!r}: one long table has a row per sample, and {self.streams[logs[0]].kind} have none; use"
                f" `recordings`, and in it a column file_{logs[0]}"
            )
        return self

    def card(self) -> CohortCard:
        return CohortCard(
            name=self.name,
            licence=self.licence,
            restrictions=self.restrictions,
            consent=self.consent.basis,
            tasks=self.tasks,
            attributes=self.attributes,
            streams={
                k: StreamSpec(channels=s.channels, unit=s.unit, rate_hz=s.rate_hz, range=s.range, kind=s.kind)
                for k, s in self.streams.items()
            },
            source=self.source,
        )
