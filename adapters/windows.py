"""A cohort's windows as the towers of a binder take them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ..backbones._binder import Absent, Arrays, Binder, Tower
from ..core import console
from ..core.errors import MienError
from ..core.records import Cohort, CohortCard, Recording, Window, cut, recording_windows
from ..data import sources


@dataclass(kw_only=True)
class Windows:
    """Windows of a cohort as their towers take them.

    arrays[i]: modality -> named arrays, of what is present; person, recording: int64[n] into `persons`, `recordings`;
    session: str[n]; start_s: float64[n]; labels: task -> float64[n], the class's place or the number, NaN where there is
    none; skipped: why windows were left out, with counts.
    """

    modalities: tuple[str, ...]
    arrays: list[dict[str, Arrays]] = field(default_factory=list)
    persons: list[str] = field(default_factory=list)
    recordings: list[str] = field(default_factory=list)
    person: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    recording: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    session: np.ndarray = field(default_factory=lambda: np.zeros(0, object))
    start_s: np.ndarray = field(default_factory=lambda: np.zeros(0))
    labels: dict[str, np.ndarray] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.arrays)

    def rows(self, keep: np.ndarray) -> Windows:
        """Those at the indices `keep`."""
        return Windows(
            modalities=self.modalities, arrays=[self.arrays[i] for i in keep], persons=self.persons,
            recordings=self.recordings, person=self.person[keep], recording=self.recording[keep],
            session=self.session[keep], start_s=self.start_s[keep], labels={t: v[keep] for t, v in self.labels.items()},
            skipped=self.skipped,
        )  # fmt: skip

    def of(self, modalities: Sequence[str]) -> Windows:
        """The same windows, of which only these were measured (the others count as missing)."""
        made = self.rows(np.arange(len(self)))
        made.arrays = [{m: a for m, a in row.items() if m in modalities} for row in self.arrays]
        return made

    @cached_property
    def present(self) -> np.ndarray:
        """bool[n, modalities]"""
        return np.array([[m in row for m in self.modalities] for row in self.arrays]).reshape(len(self), -1)

    @cached_property
    def blanks(self) -> dict[str, Arrays]:
        """What a tower is shown where its stream is missing; its embedding is multiplied by 0. Nobody's recording: zeros,
        and ones where the numbers are ids or marks, for attention needs something to attend to."""
        out: dict[str, Arrays] = {}
        for m in self.modalities:
            row = next((a[m] for a in self.arrays if m in a), None)
            if row is not None:
                out[m] = {k: np.full_like(v, v.dtype.kind in "iub") for k, v in row.items()}
        return out


def encode(
    cohort: Cohort, binder: Binder, chosen: Mapping[str, str], tasks: Mapping[str, tuple[str, ...]], *, seconds: float,
    stride_s: float, valid: float = 1.0, keep: Callable[[Window], bool] = lambda w: True,
    change: Callable[[Recording], Recording] = lambda r: r, quiet: bool = False,
) -> Windows:  # fmt: skip
    """Every usable window for which `keep` holds. chosen: stream -> modality; tasks: label -> its classes, () of a number;
    a window needs one stream at least, and one label where any is asked for. MienError when nothing is left, for a label
    outside its declared classes, and where a tower cannot take a stream: naming the stream, never the person."""
    made = Windows(modalities=tuple(dict.fromkeys(chosen.values())))
    takes = {m: [s for s, n in chosen.items() if n == m] for m in made.modalities}
    turns = _turns(cohort.card, binder, chosen, quiet)
    codes: dict[str, list[float]] = {t: [] for t in tasks}
    persons: dict[str, int] = {}
    person, recording, session, start = [], [], [], []
    with console.progress("reading windows", len(cohort), quiet=quiet) as bar:
        for original in cohort:
            r = change(original)
            said = {t: _code(r.labels.get(t), t, classes) for t, classes in tasks.items()}
            before = len(made)
            if tasks and all(np.isnan(v) for v in said.values()):
                made.skipped["recording without a label"] += 1
            else:
                for w in recording_windows(r, seconds, stride_s):
                    if not keep(w):
                        continue
                    parts, why = cut(r, w, valid)
                    parts = {s: turns[s](p) if s in turns else p for s, p in parts.items()}
                    made_of = {m: prepared(binder.towers[m], parts, ss) for m, ss in takes.items()}
                    arrays = {m: a for m, a in made_of.items() if a is not None}
                    if not arrays:
                        made.skipped[why or "none of the chosen streams"] += 1
                        continue
                    made.arrays.append(arrays)
                    person.append(persons.setdefault(r.person, len(persons)))
                    recording.append(len(made.recordings))
                    session.append(r.session)
                    start.append(r.start_s + w.start_s)
                    for t in tasks:
                        codes[t].append(said[t])
            if len(made) > before:
                made.recordings.append(r.id)
            bar.step()
    if not quiet:
        sources.tell(made.skipped)
    if not made.arrays:
        raise MienError(
            f"no window of {seconds:g} s with a stream among {', '.join(chosen)}"
            + (f" and a label of {', '.join(tasks)}" if tasks else "")
            + f" was left (skipped: {dict(made.skipped) or 'none'})"
        )
    if made.skipped and not quiet:
        console.say("  left out: " + "; ".join(f"{n} × {why}" for why, n in sorted(made.skipped.items())))
    made.persons = list(persons)
    made.person, made.recording = np.array(person, np.int64), np.array(recording, np.int64)
    made.session, made.start_s = np.array(session, object), np.array(start)
    made.labels = {t: np.array(v) for t, v in codes.items()}
    return made


def _turns(card: CohortCard, binder: Binder, chosen: Mapping[str, str], quiet: bool) -> dict[str, Callable[[Any], Any]]:
    """stream -> what turns it into what its tower takes, for towers that know units (`Tower.fit`); what is done is said."""
    out = {}
    for stream, modality in chosen.items():
        fit = binder.towers[modality].fit
        if fit is not None and stream in card.streams:
            out[stream], said = fit(card.streams[stream])
            if said and not quiet:
                console.say(f"  {stream}: {said}")
    return out


def prepared(tower: Tower, parts: Mapping[str, Any], streams: Sequence[str]) -> Arrays | None:
    """What a tower takes of a window's stream, or of its several (`Tower.joins`); None where one is missing or empty."""
    if not set(streams) <= parts.keys():
        return None
    try:
        return tower.prepare(parts[streams[0]] if len(streams) == 1 else {s: parts[s] for s in streams})
    except Absent:
        return None


def _code(value: Any, task: str, classes: Sequence[str]) -> float:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return float("nan")
    if not classes:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise MienError(f"label {task!r} is {value!r}; a continuous head takes numbers")
        return float(value)
    if str(value) not in classes:
        raise MienError(f"label {task!r} is {value!r}, which is not among its declared classes {', '.join(classes)}")
    return float(list(classes).index(str(value)))


def towers_of(card: CohortCard, binder: Binder, asked: Mapping[str, str], only: Sequence[str] = ()) -> dict[str, str]:
    """stream -> modality. MienError for a stream the cohort lacks, a modality the backbone does not know, two streams for
    one tower, or where no stream has a tower of its name."""
    known = f"the backbone's towers are {', '.join(sorted(binder.towers))}"
    chosen = dict(asked) or {n: n for n in sorted(card.streams) if n in binder.towers and (not only or n in only)}
    if not chosen:
        raise MienError(
            f"no stream of cohort {card.name!r} ({', '.join(sorted(card.streams))}) has a tower of its name; {known}. Say"
            " which takes which under represent.streams (stream: tower)"
        )
    for stream, modality in chosen.items():
        if stream not in card.streams:
            raise MienError(
                f"represent.streams: cohort {card.name!r} has no stream {stream!r}; it has {', '.join(card.streams)}"
            )
        if modality not in binder.towers:
            raise MienError(f"represent.streams: no tower {modality!r}; {known}")
    if twice := [m for m, n in Counter(chosen.values()).items() if n > 1 and not binder.towers[m].joins]:
        raise MienError(f"represent.streams: two streams for the tower {twice[0]!r}; leave one out")
    return chosen
