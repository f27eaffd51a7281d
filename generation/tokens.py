"""A cohort as token documents: streamed, in constant memory, and leaving nothing behind on disk."""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
from pydantic import Field, model_validator

from ..core import console, verbs
from ..core.config import Plugin, Section
from ..core.errors import MienError
from ..core.paths import cache_home
from ..core.records import Cohort, CohortCard, Recording, Stream, Window, cut, recording_windows
from ..data import sources
from .layout import Context, Given, Layout

Packing = Callable[[Sequence[Any]], np.ndarray]
"""Recordings, or None for nothing -> float32[B, …] (backbones/llava.py)."""


class Condition(Section):
    """Shares of the documents that open with a recording that is given, so that the model learns to translate some
    streams into the others, extend the window before, or vary another window of the same recording; unlabelled:
    the share whose label is left out, for classifier-free guidance (arXiv 2207.12598, section 3.2); soft: the share that
    is shown another window of the same recording as the backbone's own soft tokens."""

    translate: float = Field(default=0.0, ge=0, le=1)
    extend: float = Field(default=0.0, ge=0, le=1)
    vary: float = Field(default=0.0, ge=0, le=1)
    unlabelled: float = Field(default=0.0, ge=0, lt=1)
    soft: float = Field(default=0.0, ge=0, le=1)

    @property
    def given(self) -> float:
        return self.translate + self.extend + self.vary

    @model_validator(mode="after")
    def _shares(self) -> Condition:
        if self.given > 1:
            raise ValueError("translate, extend and vary are shares of one whole: together at most 1")
        return self


class Written(verbs.Recipe):
    """How recordings are written as tokens. cohort: the data set, by its name and own keys; task: the label to condition on;
    seconds: of a window; stride_s: from the start of one window to the next; streams: which (default all); codec: how signals
    are written; codecs: how single streams are, each with its `streams`; contexts: what else to condition on; condition:
    documents that open with a given recording; valid: the share of a signal's samples that a window needs."""

    cohort: Plugin
    task: str
    seconds: float = Field(default=4.0, gt=0)
    stride_s: float = Field(default=2.0, gt=0)
    streams: tuple[str, ...] = ()
    codec: Plugin = Plugin(name="transform")
    codecs: tuple[Plugin, ...] = ()
    contexts: dict[str, Context] = {}
    condition: Condition = Condition()
    valid: float = Field(default=1.0, gt=0, le=1)

    @model_validator(mode="after")
    def _extends(self) -> Written:
        times = self.seconds / self.stride_s
        if self.condition.extend and abs(times - round(times)) > 1e-6:
            raise ValueError(
                f"condition.extend gives the window before, which ends where a window begins: with stride_s = {self.stride_s:g} no"
                f" window of {self.seconds:g} s ends so; take a stride_s that divides `seconds`, such as {self.seconds / np.ceil(times):g}"
            )
        return self

    def layout(self, card: CohortCard) -> Layout:
        return Layout.of(
            card, seconds=self.seconds, task=self.task, codec=self.codec, streams=self.streams, codecs=self.codecs,
            contexts=self.contexts, conditioned=self.condition.given > 0,
        )  # fmt: skip


class Documents:
    """Token documents of a cohort's windows, memory-mapped.

    `ids[offsets[i]:offsets[i+1]]` are the local ids of document i; `person`, `recording`, `label` are indices into
    `persons`, `recordings`, `layout.classes`; `start_s` is the window's start. The arrays live in unlinked
    temporary files: tokens are a copy of private recordings, so they vanish with the process, however it ends.
    """

    def __init__(self, layout: Layout):
        self.layout = layout
        self.persons: list[str] = []
        self.recordings: list[str] = []
        self.skipped: dict[str, int] = {}
        self.softened = 0  # documents that are shown a recording as soft tokens
        self._usable: list[bool] = []
        self._files: dict[str, tuple[BinaryIO, Any]] = {}
        self._pack: Packing | None = None
        kinds = {
            "ids": np.int32,
            "lengths": np.int32,
            "person": np.int32,
            "recording": np.int32,
            "label": np.int16,
        }
        for name, kind in {**kinds, "start_s": np.float64}.items():
            self._files[name] = (tempfile.TemporaryFile(dir=cache_home()), np.dtype(kind))  # noqa: SIM115

    @staticmethod
    def encode(
        cohort: Cohort,
        layout: Layout,
        *,
        stride_s: float,
        keep: Callable[[Window], bool] = lambda w: True,
        change: Callable[[Recording], Recording] = lambda r: r,
        condition: Condition | None = None,
        valid: float = 1.0,
        seed: int = 0,
        quiet: bool = False,
        pack: Packing | None = None,
    ) -> Documents:
        """Every usable window for which `keep` holds, of each recording as `change` leaves it. Windows with gaps,
        without the label or too short, and streams that a codec refuses, are counted in `skipped`. MienError when nothing
        is left.

        condition: which documents open with a given recording, drawn per window from `seed` and the recording's id: what
        one recording's documents are depends on no other recording. pack: how recordings are packed for the backbone's
        tower, needed where `condition.soft` is not 0.
        """
        documents = Documents(layout)
        documents.stride_s, documents.valid = stride_s, valid
        documents.condition, documents.seed = condition or Condition(), seed
        if documents.condition.soft:
            documents._pack = pack
        people: dict[str, int] = {}
        with console.progress("encoding recordings", len(cohort), quiet=quiet) as bar:
            for r in cohort:
                documents._recording(change(r), stride_s, keep, people)
                bar.step()
        if not quiet:
            sources.tell(documents.skipped)
        documents._map()
        if len(documents) == 0:
            raise MienError(
                f"no window of {layout.seconds:g} s with the label {layout.task!r} was left to encode"
                f" (skipped: {documents.skipped or 'none'})"
            )
        return documents

    def _recording(self, r: Any, stride_s: float, keep: Callable[[Window], bool], people: dict[str, int]) -> None:
        label = r.labels.get(self.layout.task)
        if label is None:
            self._skip(f"recording without the label {self.layout.task!r}")
            return
        before = len(self._usable)
        windows: list[Mapping[str, Stream]] = []
        whole: list[Mapping[str, Stream]] = []  # what is shown need not be written
        starts: list[float] = []
        for w in recording_windows(r, self.layout.seconds, stride_s):
            if not keep(w):
                continue
            parts, why = cut(r, w, self.valid)
            streams = {n: s for n, s in parts.items() if n in self.layout.streams}
            if why or not streams:
                self._skip(why or "none of the layout's streams")
                if not why:
                    self._usable.append(False)
                continue
            self._usable.append(True)
            windows.append(streams)
            whole.append(parts)
            starts.append(w.start_s)
        if not windows:
            if r.seconds < self.layout.seconds:
                self._skip(f"recording shorter than {self.layout.seconds:g} s")
            return
        code = self.layout.classes.index(str(label))
        labels, windows, given = self._conditions(r, str(label), windows, starts)
        contexts = [context(r, t, self.layout) for t in starts] if self.layout.contexts else None
        refused: Counter[str] = Counter()
        made = self.layout.encode(windows, labels, contexts=contexts, given=given, refused=refused)
        for why, n in refused.items():
            self.skipped[f"stream with {why}"] = self.skipped.get(f"stream with {why}", 0) + n
        at = [i for i in range(before, len(self._usable)) if self._usable[i]]
        for i, m in zip(at, made, strict=True):
            self._usable[i] = m is not None
        kept = [(m, t) for m, t in zip(made, starts, strict=True) if m is not None]
        for _ in range(len(made) - len(kept)):
            self._skip("window of which no stream could be coded")
        if not kept:
            return
        person = people.setdefault(r.person, len(people))
        if person == len(self.persons):
            self.persons.append(r.person)
        self.recordings.append(r.id)
        n = len(kept)
        self._append("ids", np.concatenate([m for m, _ in kept]))
        self._append("lengths", [len(m) for m, _ in kept])
        self._append("person", [person] * n)
        self._append("recording", [len(self.recordings) - 1] * n)
        self._append("label", [code] * n)
        self._append("start_s", [t for _, t in kept])
        if self._pack is not None:
            self._append("shown", self._soft(r, whole, [m is not None for m in made]))

    def _conditions(
        self, r: Recording, label: str, windows: list[Mapping[str, Stream]], starts: list[float]
    ) -> tuple[list[str | None], list[Mapping[str, Stream]], list[Given | None] | None]:
        """Which windows lose their label, and what is given before which."""
        shares, n = self.condition, len(windows)
        digest = hashlib.sha256(f"{self.seed}:{r.id}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
        labels: list[str | None] = [None if u < shares.unlabelled else label for u in rng.random(n)]
        if not shares.given:
            return labels, windows, None
        made: list[Mapping[str, Stream]] = list(windows)
        given: list[Given | None] = [None] * n
        at = {round(t, 6): k for k, t in enumerate(starts)}
        for k, u in enumerate(rng.random(n)):
            other = int(rng.integers(n))
            if u < shares.translate:
                mains = [p for p in self.layout.parts if p.streams[0] in windows[k]]
                if len(mains) > 1:
                    order = rng.permutation(len(mains))[: rng.integers(1, len(mains))]
                    names = {s for i in order for s in mains[i].streams}
                    given[k] = Given(relation="translate", streams={s: v for s, v in windows[k].items() if s in names})
                    made[k] = {s: v for s, v in windows[k].items() if s not in names}
            elif u < shares.translate + shares.extend:
                before = at.get(round(starts[k] - self.layout.seconds, 6))
                if before is not None:
                    given[k] = Given(relation="extend", streams=windows[before])
            elif u < shares.given and other != k:
                given[k] = Given(relation="vary", streams=windows[other])
        return labels, made, given

    def _soft(self, r: Recording, windows: list[Mapping[str, Stream]], kept: list[bool]) -> np.ndarray:
        """What each kept window is shown: another window of its recording, packed, or NaN for nothing."""
        digest = hashlib.sha256(f"{self.seed}:{r.id}:soft".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
        assert self._pack is not None
        n, out = len(windows), []
        for k, (u, step) in enumerate(zip(rng.random(n), rng.integers(1, max(n, 2), n), strict=True)):
            if kept[k]:
                chosen = u < self.condition.soft and n > 1
                self.softened += chosen
                packed = self._pack([windows[(k + int(step)) % n] if chosen else None])[0]
                out.append(packed if chosen else np.full_like(packed, np.nan))
        self._shape = out[0].shape
        if "shown" not in self._files:
            self._files["shown"] = (tempfile.TemporaryFile(dir=cache_home()), np.dtype(np.float32))  # noqa: SIM115
        return np.stack(out)

    def beside(self, rows: Iterable[int]) -> dict[str, Any]:
        """What `Backbone.batch` and `probes` take beside the documents `rows`: the recordings they are shown."""
        if self._pack is None:
            return {}
        shown = self.shown.reshape(-1, *self._shape)
        found = [np.asarray(shown[i]) for i in rows]
        return {"given": [None if np.isnan(f).any() else f for f in found]}

    def _skip(self, why: str) -> None:
        self.skipped[why] = self.skipped.get(why, 0) + 1

    def _append(self, name: str, values: Any) -> None:
        file, kind = self._files[name]
        file.write(np.asarray(values, dtype=kind).tobytes())

    def _map(self) -> None:
        for name, (file, kind) in self._files.items():
            file.flush()
            empty = file.tell() == 0
            setattr(self, name, np.empty(0, kind) if empty else np.memmap(file, dtype=kind, mode="r"))
        self.offsets = np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int64)])

    stride_s: float
    valid: float
    condition: Condition
    seed: int
    ids: np.ndarray
    lengths: np.ndarray
    person: np.ndarray
    recording: np.ndarray
    label: np.ndarray
    start_s: np.ndarray
    offsets: np.ndarray
    shown: np.ndarray
    _shape: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, i: int) -> np.ndarray:
        return np.asarray(self.ids[self.offsets[i] : self.offsets[i + 1]], dtype=np.int32)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))

    def like(self, cohort: Cohort) -> Documents:
        """All windows of another cohort in the same layout and at the same stride, without a progress bar."""
        return Documents.encode(cohort, self.layout, stride_s=self.stride_s, valid=self.valid, quiet=True)

    def require_every_class(self) -> None:
        """MienError when a class of the task has no document."""
        absent = set(range(len(self.layout.classes))) - set(self.label.tolist())
        if absent:
            raise MienError(
                f"no training recording has {self.layout.task} = {self.layout.classes[min(absent)]!r}; draw another"
                " split (seed=…), or take the class out of the cohort's tasks"
            )

    @property
    def usable(self) -> np.ndarray:
        """bool[m]: which of all labelled windows that `cut` gave, in the cohort's order, have a document."""
        return np.array(self._usable, dtype=bool)

    def some(self, n: int) -> list[np.ndarray]:
        """n documents (fewer if there are not so many) from all over the cohort: other persons, other labels."""
        return [self[i] for i in self.spread(n)]

    def spread(self, n: int) -> list[int]:
        """Which documents `some` gives."""
        return list(dict.fromkeys(np.linspace(0, len(self) - 1, n).astype(int).tolist()))

    def key(self, i: int) -> str:
        return f"{self.recordings[self.recording[i]]}@{self.start_s[i]:g}"


def context(r: Recording, start_s: float, layout: Layout) -> dict[str, Any]:
    """What the layout's contexts say of a recording's window at `start_s`."""
    hour = (r.start_s + start_s) / 3600 % 24
    return {n: hour if n == "hour" else r.attributes[n] for n in layout.contexts if n == "hour" or n in r.attributes}
