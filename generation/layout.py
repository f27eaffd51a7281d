"""A layout: how one window of a cohort is written as a document of tokens, and read back.

    <bos> <label> <context>* [<relation> (<part> block)* <made>] (<part> block)* <eos>

A part is one codec with the streams it speaks for; parts come in the layout's order, and one whose streams a window
lacks is simply not in its document. A document may open with another recording that is given: the window before this one
(extend), another of the same recording (vary), or other streams of the same window (translate). The layout is public:
it follows from the cohort's card and the recipe, never from recordings.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from ..core import plugins
from ..core.config import Plugin, Section
from ..core.errors import MienError
from ..core.records import CohortCard, Stream, StreamSpec
from ..core.runs import write_text
from .grammar import MOST, Grammar
from .machine import OWN
from .units import beyond
from .vocabulary import (
    BOS,
    CONTEXT_0,
    CONTEXTS,
    EOS,
    LABEL_0,
    LABELS,
    MADE,
    PAD,
    RELATION_0,
    RELATIONS,
    STREAM_0,
    STREAMS,
    UNLABELLED,
    VERSION,
    Vocabulary,
)

_BY_KIND = {"events": "events", "text": "text"}  # what speaks for streams that no part names, beside signals
_LOCAL = "…/"  # before the name of a folder of the machine that wrote a layout, which is published
_SOUND_HZ, _HEARD_HZ = 4000, 50  # one channel this fast is sound, and nothing of it is heard below the second


class Context(Section):
    """What may be said about a recording beside its label, and nobody's person in particular: an attribute, or
    "hour" (of the day, from the session's start). classes: its values; edges: of a number, which becomes the class of
    its interval (one class more than edges). An unknown value has a token of its own."""

    classes: tuple[str, ...] = ()
    edges: tuple[float, ...] = ()

    def values(self) -> tuple[str, ...]:
        if bool(self.classes) == bool(self.edges):
            raise MienError("a context has either `classes` or `edges`")
        if not self.edges:
            return self.classes
        low = [f"{e:g}" for e in self.edges]
        return (f"< {low[0]}", *(f"{a} to {b}" for a, b in pairwise(low)), f">= {low[-1]}")

    def code(self, value: Any) -> int:
        """Which class a value is; their number: unknown."""
        names = self.values()
        if self.edges and isinstance(value, int | float) and not isinstance(value, bool):
            return int(np.searchsorted(self.edges, value, side="right"))
        return names.index(str(value)) if str(value) in names else len(names)


class Part(Section):
    """One codec for these streams; the first is the one without which there is no block."""

    codec: str
    streams: tuple[str, ...] = Field(min_length=1)
    options: dict[str, Any] = {}

    @property
    def name(self) -> str:
        return "+".join(self.streams)


@dataclass(frozen=True, kw_only=True)
class Given:
    """A recording that is given: what the one to be made is to it (RELATIONS), and its streams."""

    relation: str
    streams: Mapping[str, Stream]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """streams: name -> StreamSpec; seconds: window length; task: the label; classes: its values; parts: in order;
    contexts: name -> Context, in order; conditioned: whether a document may open with a recording that is given.
    """

    streams: Mapping[str, StreamSpec]
    seconds: float
    task: str
    classes: tuple[str, ...]
    parts: tuple[Part, ...]
    contexts: Mapping[str, Context] = field(default_factory=dict)
    conditioned: bool = False

    @staticmethod
    def of(
        card: CohortCard,
        *,
        seconds: float,
        task: str,
        codec: Plugin,
        streams: Sequence[str] = (),
        codecs: Sequence[Plugin] = (),
        contexts: Mapping[str, Context] | None = None,
        conditioned: bool = False,
    ) -> Layout:
        """The layout for a cohort. streams: which to use, in order (default: all, by name); codecs: parts, each with a
        `streams` list; codec: for the signals that none of them names (events and text have their own, and so has sound
        where `transform` would keep a few Hz of it)."""
        if task not in card.tasks:
            raise MienError(
                f"cohort {card.name!r} has no task {task!r}; its tasks are {', '.join(card.tasks) or 'none'}"
            )
        named: dict[str, Plugin] = {}
        parts: dict[str, Part] = {}
        for section in codecs:
            options = dict(section.options)
            mine = options.pop("streams", None)
            if not isinstance(mine, list | tuple) or not mine:
                raise MienError(f"codecs: {section.name} needs `streams: [...]`, whose tokens it makes")
            for name in mine:
                if name in named:
                    raise MienError(f"codecs: the stream {name!r} is named twice")
                named[name] = section
            parts[mine[0]] = Part(codec=section.name, streams=tuple(mine), options=options)
        chosen = list(streams or sorted(card.streams))
        for name in [*chosen, *named]:
            if name not in card.streams:
                raise MienError(f"cohort {card.name!r} has no stream {name!r}; it has {', '.join(card.streams)}")
        if len(set(chosen)) < len(chosen):
            raise MienError(f"streams: {chosen} names one twice")
        stray = [n for n in named if n not in chosen]
        if stray:
            raise MienError(f"codecs: {stray[0]!r} is not among the streams {chosen}")
        for name in chosen:
            if name not in named:
                spec = card.streams[name]
                own, options = _BY_KIND.get(spec.kind, codec.name), {} if spec.kind in _BY_KIND else dict(codec.options)
                kept = (options.get("bandwidth") or {}).get(name, options.get("hz", 0))
                if own == "transform" and len(spec.channels) == 1 and spec.rate_hz >= _SOUND_HZ and kept < _HEARD_HZ:
                    own, options = "audio_features", {}
                parts[name] = Part(codec=own, streams=(name,), options=options)
        # as `streams` orders them; without it, parts that the recipe names first, in its order
        order = chosen if streams else [*(n for n in parts if n in named), *(n for n in chosen if n not in named)]
        ordered = [parts[n] for n in order if n in parts]
        if len(ordered) > STREAMS or len(card.tasks[task]) > LABELS - 1:
            raise MienError(f"a layout holds at most {STREAMS} parts and {LABELS - 1} classes")
        if not card.tasks[task]:
            raise MienError(f"the task {task!r} is a number, and a layout conditions on classes; give it classes")
        resolved = []
        for p in ordered:
            module, config = plugins.resolve("generation/codecs", Plugin(name=p.codec, **p.options), f"codec {p.codec}")
            if len(p.streams) > module.STREAMS:
                raise MienError(f"codec {p.codec} takes at most {module.STREAMS} stream(s), not {', '.join(p.streams)}")
            for name in p.streams:
                if card.streams[name].kind != module.KIND:
                    raise MienError(
                        f"codec {p.codec} is for {module.KIND}, and {name!r} holds {card.streams[name].kind}"
                    )
            resolved.append(p.model_copy(update={"options": config.model_dump(mode="json")}))
        layout = Layout(
            streams={n: card.streams[n] for p in resolved for n in p.streams},
            seconds=seconds,
            task=task,
            classes=tuple(card.tasks[task]),
            parts=tuple(resolved),
            contexts=dict(contexts or {}),
            conditioned=conditioned,
        )
        _ = layout.coders, layout.context_spans  # fails now, not at the first window
        for p, coder in zip(layout.parts, layout.coders, strict=True):
            machine = coder.machine
            full = max((limit for limit, _ in machine.gates.values()), default=0)
            if full + max((min(int(np.max(a)), full) for a in machine.add.values()), default=0) > MOST:
                raise MienError(
                    f"stream {p.streams[0]!r}: windows of {seconds:g} s are longer than the {p.codec} codec can add up (to {MOST});"
                    " take shorter ones"
                )
        return layout

    # --- what follows from it ------------------------------------------------------------------------------
    @cached_property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary(tuple(dict.fromkeys(p.codec for p in self.parts)))

    @cached_property
    def coders(self) -> list[Any]:
        """The codec of each part."""
        out = []
        for p in self.parts:
            module, config = plugins.resolve("generation/codecs", Plugin(name=p.codec, **p.options), f"codec {p.codec}")
            out.append(module.Codec(config, {n: self.streams[n] for n in p.streams}, self.seconds))
        return out

    @cached_property
    def context_spans(self) -> list[tuple[int, int]]:
        """[first, last) local ids of each context's values; the last of them means unknown."""
        out, at = [], CONTEXT_0
        for context in self.contexts.values():
            out.append((at, at + len(context.values()) + 1))
            at = out[-1][1]
        if at > CONTEXT_0 + CONTEXTS:
            raise MienError(f"the contexts have {at - CONTEXT_0} values; there is room for {CONTEXTS}")
        return out

    @cached_property
    def grammar(self) -> Grammar:
        starts = self.vocabulary.starts
        return Grammar.of(
            classes=len(self.classes), size=self.vocabulary.size, contexts=self.context_spans, conditioned=self.conditioned,
            blocks=[(c.machine, starts[p.codec]) for c, p in zip(self.coders, self.parts, strict=True)],
        )  # fmt: skip

    @property
    def prompt_length(self) -> int:
        """Tokens at the start of a document that say what it is about: they are given, not predicted."""
        return 2 + len(self.contexts)

    @property
    def length(self) -> int:
        """Tokens of the longest document without a recording that is given."""
        return self.prompt_length + self.body + 1

    @property
    def body(self) -> int:
        """Tokens of all parts with their markers, at most."""
        return sum(1 + c.machine.length for c in self.coders)

    @property
    def never(self) -> tuple[int, ...]:
        """Own tokens of the base that text may not use."""
        return tuple(sorted({i for c in self.coders for i in getattr(c, "never", ())}))

    def of_stream(self, name: str) -> int:
        """The index of the part that speaks for a stream."""
        return next(i for i, p in enumerate(self.parts) if name in p.streams)

    # --- writing ---------------------------------------------------------------------------------------------
    def prompt(self, label: str | None, context: Mapping[str, Any] | None = None) -> list[int]:
        """The ids a document opens with. label None: no condition; contexts that are not named are unknown."""
        if label is not None and label not in self.classes:
            raise MienError(f"{self.task} = {label!r} is not one of {list(self.classes)}")
        context = context or {}
        strange = set(context) - set(self.contexts)
        if strange:
            raise MienError(f"no context {min(strange)!r}; the layout has {', '.join(self.contexts) or 'none'}")
        ids = [BOS, UNLABELLED if label is None else LABEL_0 + self.classes.index(label)]
        for (name, c), (first, _) in zip(self.contexts.items(), self.context_spans, strict=True):
            ids.append(first + c.code(context.get(name)))
        return ids

    def opening(self, label: str | None, context: Mapping[str, Any] | None, given: Given) -> list[int]:
        """The ids a document opens with when a recording is given. MienError when nothing of it can be coded."""
        refused: Counter[str] = Counter()
        (before,) = self.blocks([given.streams], refused)
        if not before:
            raise MienError(
                f"a recording that was given cannot be written as tokens ({', '.join(refused) or 'no stream'})"
            )
        return [*self.prompt(label, context), self.relation(given.relation), *np.concatenate(before).tolist(), MADE]

    def blocks(
        self, windows: Sequence[Mapping[str, Stream]], refused: Counter[str] | None = None
    ) -> list[list[np.ndarray]]:
        """Per window its blocks, each with its part's marker in front. What a codec cannot code is counted in `refused`
        and absent. Windows are coded together, which is what makes it fast; none depends on another."""
        out: list[list[np.ndarray]] = [[] for _ in windows]
        for i, (part, coder) in enumerate(zip(self.parts, self.coders, strict=True)):
            base = self.vocabulary.starts[part.codec]
            rows, mine = [], []
            for k, w in enumerate(windows):
                there = {n: w[n] for n in part.streams if n in w}
                for n in [n for n, s in there.items() if beyond(s, self.streams[n])]:
                    del there[n]
                    if refused is not None:
                        unit = self.streams[n].unit
                        refused[f"nearly no value of {n} within its range: is it in another unit than {unit}?"] += 1
                if part.streams[0] in there:
                    rows.append(k)
                    mine.append(there)
            if not rows:
                continue
            for k, block in zip(rows, coder.encode(mine), strict=True):
                if isinstance(block, str):
                    if refused is not None:
                        refused[block] += 1
                    continue
                local = np.where(block >= OWN, block, block + base).astype(np.int32)
                out[k].append(np.concatenate([[STREAM_0 + i], local]).astype(np.int32))
        return out

    def encode(
        self,
        windows: Sequence[Mapping[str, Stream]],
        labels: Sequence[str | None],
        *,
        contexts: Sequence[Mapping[str, Any]] | None = None,
        given: Sequence[Given | None] | None = None,
        refused: Counter[str] | None = None,
    ) -> list[np.ndarray | None]:
        """Windows with their labels -> one int32 document each (local ids); None where no stream could be coded."""
        n = len(windows)
        made = self.blocks(windows, refused)
        before = self.blocks([g.streams if g else {} for g in given], refused) if given else [[]] * n
        out: list[np.ndarray | None] = []
        for k in range(n):
            if not made[k]:
                out.append(None)
                continue
            head: list[Any] = [self.prompt(labels[k], contexts[k] if contexts else None)]
            if given is not None and (g := given[k]) is not None and before[k]:
                head += [[self.relation(g.relation)], *before[k], [MADE]]
            out.append(np.concatenate([*head, *made[k], [EOS]]).astype(np.int32))
        return out

    def relation(self, relation: str) -> int:
        """The id that says what the recording to be made is to the one that is given."""
        if not self.conditioned:
            raise MienError("this layout knows no given recordings; adapt with `condition:` in the recipe")
        if relation not in RELATIONS:
            raise MienError(f"no relation {relation!r}; there are {', '.join(RELATIONS)}")
        return RELATION_0 + RELATIONS.index(relation)

    # --- reading -----------------------------------------------------------------------------------------------
    def decode(self, ids: np.ndarray) -> tuple[str, dict[str, Stream]]:
        """One document (padding allowed at the end) -> its label ("" without one) and the streams that were made.
        MienError if the grammar refuses it."""
        ids = np.asarray(ids)
        ids = ids[ids != PAD]
        if not self.grammar.accepts(ids):
            raise MienError("this token sequence is not a document of the layout; sample with the grammar on")
        label = "" if ids[1] == UNLABELLED else self.classes[ids[1] - LABEL_0]
        streams: dict[str, Stream] = {}
        for i, block in self.blocks_of(ids).items():
            streams |= self.coders[i].decode(block)
        return label, streams

    def made(self, ids: np.ndarray) -> np.ndarray:
        """The blocks, with their markers, of the recording that a document makes."""
        ids = np.asarray(ids)
        ids = ids[ids != PAD]
        opened = np.flatnonzero(ids == MADE)
        return ids[int(opened[0]) + 1 if len(opened) else self.prompt_length : -1]

    def blocks_of(self, ids: np.ndarray) -> dict[int, np.ndarray]:
        """Part's index -> the codec's own ids of its block, of the recording that a document makes."""
        made = self.made(ids)
        cuts = [*np.flatnonzero((made >= STREAM_0) & (made < CONTEXT_0)).tolist(), len(made)]
        out = {}
        for first, last in pairwise(cuts):
            i = int(made[first]) - STREAM_0
            block, base = made[first + 1 : last], self.vocabulary.starts[self.parts[i].codec]
            out[i] = np.where(block >= OWN, block, block - base)
        return out

    def round_trip(self, streams: Mapping[str, Stream], label: str) -> dict[str, Stream]:
        """One window written as tokens and read back: what the codecs alone lose. Empty when nothing can be coded."""
        (document,) = self.encode([streams], [label])
        return {} if document is None else self.decode(document)[1]

    # --- on disk --------------------------------------------------------------------------------------------------
    def to_json(self) -> dict[str, Any]:
        card = CohortCard(name="", licence="", consent="", streams=self.streams)
        return {
            "vocabulary": VERSION,
            "streams": card.to_json()["streams"],
            "seconds": self.seconds,
            "task": self.task,
            "classes": list(self.classes),
            "parts": [
                {
                    "codec": p.codec,
                    "version": plugins.load("generation/codecs", p.codec).VERSION,
                    "streams": list(p.streams),
                    "options": _published(p, coder),
                }
                for p, coder in zip(self.parts, self.coders, strict=True)
            ],
            "contexts": {n: c.model_dump(mode="json") for n, c in self.contexts.items()},
            "conditioned": self.conditioned,
        }

    def write(self, path: Path) -> None:
        write_text(path, json.dumps(self.to_json(), indent=1))

    @staticmethod
    def read(path: Path, codecs: Sequence[Mapping[str, Any]] = ()) -> Layout:
        """The layout that `write` wrote. codecs: as in the recipe that it follows from, for a codec whose model or tokenizer
        is a folder: a layout is published, and says the folder's name alone. MienError for another version, other weights, or
        a folder that `codecs` does not name."""
        try:
            raw = json.loads(Path(path).read_text())
        except FileNotFoundError:
            raise MienError(
                f"{path} is not there: this model writes no tokens, as an autoencoder does not, and they are needed here"
            ) from None
        if raw["vocabulary"] != VERSION:
            raise MienError(f"{path} was written for vocabulary {raw['vocabulary']}; this Mien has {VERSION}")
        for p in raw["parts"]:
            if p["version"] != plugins.load("generation/codecs", p["codec"]).VERSION:
                raise MienError(f"{path} was written for {p['codec']} version {p['version']}; this Mien has another")
        card = CohortCard.from_json({"name": "", "licence": "", "consent": "", "streams": raw["streams"]})
        return Layout(
            streams=card.streams,
            seconds=raw["seconds"],
            task=raw["task"],
            classes=tuple(raw["classes"]),
            parts=tuple(
                Part(codec=p["codec"], streams=tuple(p["streams"]), options=_placed(p, codecs, path))
                for p in raw["parts"]
            ),
            contexts={n: Context(**c) for n, c in raw["contexts"].items()},
            conditioned=raw["conditioned"],
        )


def _published(part: Part, coder: Any) -> dict[str, Any]:
    """A part's options as everybody may read them: a local folder by its name, and the weights that were used by their sha256."""
    options, place = dict(part.options), getattr(plugins.load("generation/codecs", part.codec), "PLACE", None)
    if place is not None and options[place] is not None and Path(options[place]).expanduser().is_dir():
        options[place] = _LOCAL + Path(options[place]).expanduser().resolve().name
    if hasattr(coder, "digest"):
        options["sha256"] = coder.digest
    return options


def _placed(part: Mapping[str, Any], codecs: Sequence[Mapping[str, Any]], path: Path) -> dict[str, Any]:
    """The options of a part of the layout in `path`, a local folder being where `codecs` says."""
    options, place = dict(part["options"]), getattr(plugins.load("generation/codecs", part["codec"]), "PLACE", None)
    if place is None or not str(options[place]).startswith(_LOCAL):
        return options
    stream = part["streams"][0]
    for section in codecs:
        if section["name"] == part["codec"] and stream in (section.get("streams") or [stream]) and section.get(place):
            return {**options, place: section[place]}
    raise MienError(
        f"{path}: the {place} of stream {stream!r} is a local folder, {options[place][len(_LOCAL) :]!r}, and where it lies is not"
        f" published: Layout.read(path, codecs=[{{'name': {part['codec']!r}, 'streams': [{stream!r}], {place!r}: …}}])"
    )
