"""A layout: how one window of a cohort is written as a document of tokens, and read back.

    <bos> <label> [<stream> header body]* <eos>

Streams come in the card's order; one that a window lacks is simply not in its document. The layout is public: it
follows from the cohort's card and the recipe, never from recordings.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..core import plugins
from ..core.config import Plugin
from ..core.errors import MienError
from ..core.records import CohortCard, Stream, StreamSpec
from ..core.runs import write_text
from .grammar import Grammar
from .vocabulary import BOS, CODECS, EOS, LABEL_0, LABELS, PAD, STREAM_0, STREAMS, VERSION, VOCABULARY


@dataclass(frozen=True, kw_only=True)
class Layout:
    """streams: name -> StreamSpec in order; seconds: window length; task: the label; classes: its values;
    codec: plug-in name; options: that codec's Config as plain data.
    """

    streams: Mapping[str, StreamSpec]
    seconds: float
    task: str
    classes: tuple[str, ...]
    codec: str = "transform"
    options: Mapping[str, Any]

    @staticmethod
    def of(card: CohortCard, *, seconds: float, task: str, codec: Plugin, streams: Sequence[str] = ()) -> Layout:
        """The layout for a cohort. streams: which to use, in order (default: all, by name)."""
        if task not in card.tasks:
            raise MienError(
                f"cohort {card.name!r} has no task {task!r}; its tasks are {', '.join(card.tasks) or 'none'}"
            )
        for name in streams:
            if name not in card.streams:
                raise MienError(f"cohort {card.name!r} has no stream {name!r}; it has {', '.join(card.streams)}")
        if len(set(streams)) < len(streams):
            raise MienError(f"streams: {list(streams)} names one twice")
        chosen = {n: card.streams[n] for n in (streams or sorted(card.streams))}
        if len(chosen) > STREAMS or len(card.tasks[task]) > LABELS:
            raise MienError(f"a layout holds at most {STREAMS} streams and {LABELS} classes")
        if codec.name not in CODECS:
            raise MienError(f"codec {codec.name!r} has no place in the vocabulary; there are {', '.join(CODECS)}")
        _, options = plugins.resolve("generation/codecs", codec, f"codec {codec.name}")
        layout = Layout(
            streams=chosen,
            seconds=seconds,
            task=task,
            classes=tuple(card.tasks[task]),
            codec=codec.name,
            options=options.model_dump(),
        )
        _ = layout.coders  # fails now, not at the first window
        return layout

    @cached_property
    def coders(self) -> dict[str, Any]:
        module, config = plugins.resolve("generation/codecs", Plugin(name=self.codec, **self.options))
        return {n: module.Codec(config, n, spec, self.seconds) for n, spec in self.streams.items()}

    @cached_property
    def _base(self) -> int:
        return VOCABULARY.starts[self.codec]

    @cached_property
    def grammar(self) -> Grammar:
        """The state machine that accepts exactly this layout's documents."""
        sizes = plugins.load("generation/codecs", self.codec).TOKENS
        blocks = []
        for coder in self.coders.values():
            slots = []
            for group in coder.slots:
                first = self._base + coder.offset(group)
                slots.append((first, first + sizes[group]))
            blocks.append(slots)
        return Grammar.of(labels=(LABEL_0, LABEL_0 + len(self.classes)), blocks=blocks, size=VOCABULARY.size)

    @property
    def length(self) -> int:
        """Tokens of a document with every stream."""
        return 3 + sum(1 + len(c.slots) for c in self.coders.values())

    @property
    def prompt_length(self) -> int:
        return 2

    def prompt(self, label: str) -> list[int]:
        """<bos> <label>."""
        if label not in self.classes:
            raise MienError(f"label {label!r} is not among {list(self.classes)}")
        return [BOS, LABEL_0 + self.classes.index(label)]

    def encode(self, windows: Sequence[Mapping[str, Stream]], labels: Sequence[str]) -> list[np.ndarray]:
        """Windows with their labels -> one int32 document each (local ids). All windows of a call share their
        set of streams and are coded together, which is what makes it fast."""
        if not windows:
            return []
        present = [n for n in self.streams if n in windows[0]]
        if not present:
            raise MienError(f"a window has none of the layout's streams {list(self.streams)}")
        heads = np.array([self.prompt(str(v)) for v in labels], dtype=np.int32)
        parts: list[np.ndarray] = [heads]
        for name in present:
            marker = np.full((len(windows), 1), STREAM_0 + list(self.streams).index(name), dtype=np.int32)
            body = self.coders[name].encode(np.stack([w[name].values for w in windows]))
            parts += [marker, body + self._base]
        parts.append(np.full((len(windows), 1), EOS, dtype=np.int32))
        return list(np.concatenate(parts, axis=1))

    def decode(self, ids: np.ndarray) -> tuple[str, dict[str, Stream]]:
        """One document (padding allowed at the end) -> its label and streams. MienError if the grammar refuses it."""
        ids = np.asarray(ids)
        ids = ids[ids != PAD]
        if not self.grammar.accepts(ids):
            raise MienError("this token sequence is not a document of the layout; sample with the grammar on")
        label, at, streams = self.classes[ids[1] - LABEL_0], 2, {}
        while ids[at] != EOS:
            name = list(self.streams)[ids[at] - STREAM_0]
            coder = self.coders[name]
            body = ids[at + 1 : at + 1 + len(coder.slots)] - self._base
            streams[name] = coder.signal(coder.decode(body[None])[0])
            at += 1 + len(coder.slots)
        return label, streams

    def round_trip(self, streams: Mapping[str, Stream], label: str) -> dict[str, Stream]:
        """One window written as tokens and read back: what the codec alone loses."""
        return self.decode(self.encode([streams], [label])[0])[1]

    def to_json(self) -> dict[str, Any]:
        card = CohortCard(name="", licence="", consent="", streams=self.streams)
        return {
            "vocabulary": VERSION,
            "streams": card.to_json()["streams"],
            "order": list(self.streams),
            "seconds": self.seconds,
            "task": self.task,
            "classes": list(self.classes),
            "codec": {
                "name": self.codec,
                "version": plugins.load("generation/codecs", self.codec).VERSION,
                **self.options,
            },
        }

    def write(self, path: Path) -> None:
        write_text(path, json.dumps(self.to_json(), indent=1))

    @staticmethod
    def read(path: Path) -> Layout:
        raw = json.loads(Path(path).read_text())
        if raw["vocabulary"] != VERSION:
            raise MienError(f"{path} was written for vocabulary {raw['vocabulary']}; this Mien has {VERSION}")
        codec = dict(raw["codec"])
        name, version = codec.pop("name"), codec.pop("version")
        if version != plugins.load("generation/codecs", name).VERSION:
            raise MienError(f"{path} was written for {name} version {version}; this Mien has another")
        streams = CohortCard.from_json(
            {
                "name": "",
                "licence": "",
                "consent": "",
                "streams": {n: raw["streams"][n] for n in raw["order"]},
            }
        ).streams
        return Layout(
            streams=streams,
            seconds=raw["seconds"],
            task=raw["task"],
            classes=tuple(raw["classes"]),
            codec=name,
            options=codec,
        )
