"""A cohort as token documents: streamed, in constant memory, and leaving nothing behind on disk."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np

from ..core import console
from ..core.errors import MienError
from ..core.paths import cache_home
from ..core.records import Cohort, Recording, Window, cut, recording_windows
from .layout import Layout


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
        self._files: dict[str, tuple[BinaryIO, Any]] = {}
        kinds = {
            "ids": np.uint16,
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
        quiet: bool = False,
    ) -> Documents:
        """Every usable window for which `keep` holds, of each recording as `change` leaves it. Windows with gaps,
        without the label or too short are skipped and counted in `skipped`. MienError when nothing is left."""
        documents = Documents(layout)
        documents.stride_s = stride_s
        bar = None if quiet else console.Bar("encoding recordings", len(cohort))
        people: dict[str, int] = {}
        for r in cohort:
            documents._recording(change(r), stride_s, keep, people)
            if bar:
                bar.step()
        if bar:
            bar.close()
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
        groups: dict[tuple[str, ...], tuple[list, list]] = {}
        for w in recording_windows(r, self.layout.seconds, stride_s):
            if not keep(w):
                continue
            streams, why = cut(r, w)
            streams = {n: s for n, s in streams.items() if n in self.layout.streams}
            if why or not streams:
                self._skip(why or "none of the layout's streams")
                continue
            windows, starts = groups.setdefault(tuple(streams), ([], []))
            windows.append(streams)
            starts.append(w.start_s)
        if not groups:
            if r.seconds < self.layout.seconds:
                self._skip(f"recording shorter than {self.layout.seconds:g} s")
            return
        person = people.setdefault(r.person, len(people))
        if person == len(self.persons):
            self.persons.append(r.person)
        self.recordings.append(r.id)
        code = self.layout.classes.index(str(label))
        for windows, starts in groups.values():
            made = self.layout.encode(windows, [str(label)] * len(windows))
            n = len(made)
            self._append("ids", np.concatenate(made))
            self._append("lengths", [len(m) for m in made])
            self._append("person", [person] * n)
            self._append("recording", [len(self.recordings) - 1] * n)
            self._append("label", [code] * n)
            self._append("start_s", starts)

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
    ids: np.ndarray
    lengths: np.ndarray
    person: np.ndarray
    recording: np.ndarray
    label: np.ndarray
    start_s: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, i: int) -> np.ndarray:
        return np.asarray(self.ids[self.offsets[i] : self.offsets[i + 1]], dtype=np.int32)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))

    def like(self, cohort: Cohort) -> Documents:
        """All windows of another cohort in the same layout and at the same stride, without a progress bar."""
        return Documents.encode(cohort, self.layout, stride_s=self.stride_s, quiet=True)

    def require_every_class(self) -> None:
        """MienError when a class of the task has no document."""
        absent = set(range(len(self.layout.classes))) - set(self.label.tolist())
        if absent:
            raise MienError(
                f"no training recording has {self.layout.task} = {self.layout.classes[min(absent)]!r}; draw another"
                " split (seed=…), or take the class out of the cohort's tasks"
            )

    def some(self, n: int) -> list[np.ndarray]:
        """n documents (fewer if there are not so many) from all over the cohort: other persons, other labels."""
        return [self[i] for i in dict.fromkeys(np.linspace(0, len(self) - 1, n).astype(int))]

    def key(self, i: int) -> str:
        return f"{self.recordings[self.recording[i]]}@{self.start_s[i]:g}"
