"""Recordings that are given to the model, for it to translate, extend or vary.

What is made from a recording that is given is NOT covered by a training guarantee: the recording goes straight in. It is
marked unprotected, stays in the run's private half, and nothing here changes that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from ..core.config import Section
from ..core.errors import MienError
from ..core.records import Cohort, cut, recording_windows
from ..data.splits import Splits
from .layout import Given, Layout
from .tokens import context

UNPROTECTED = (
    "unprotected: each of these recordings was made from a real one that was given to the model, which no guarantee of its"
    " training covers; treat them as recordings of that person"
)


class From(Section):
    """relation: translate (the streams `streams` into the others), extend (the window after), vary (another window of the
    same recording); streams: what is given, for translate; side: whose recordings, persons the adapter never saw or those
    it learned from; windows: how many, at most, taking persons in turn."""

    relation: Literal["translate", "extend", "vary"]
    streams: tuple[str, ...] = ()
    side: Literal["holdout", "train"] = "holdout"
    windows: int = Field(default=20, ge=1)


@dataclass(frozen=True, kw_only=True)
class Source:
    """One given window: whose it is, its label, its contexts, and how it is given."""

    person: str
    recording: str
    label: str
    contexts: Mapping[str, Any]
    given: Given


def sources(
    cohort: Cohort, split: Splits, layout: Layout, asked: From, *, stride_s: float, valid: float
) -> list[Source]:
    """The windows to make something from, one of each person in turn. MienError when the adapter was not trained to be
    given recordings, a stream is unknown, or nothing is left."""
    if not layout.conditioned:
        raise MienError(
            "this adapter was not trained on given recordings: adapt with `condition: {translate: …}` and the like"
        )
    if (asked.relation == "translate") != bool(asked.streams):
        raise MienError("given.streams: name them for `translate`, and for nothing else")
    mains = {p.streams[0]: p for p in layout.parts}
    strange = [s for s in asked.streams if s not in mains]
    if strange:
        raise MienError(f"given.streams: {strange[0]!r} opens no part of the layout; these do: {', '.join(mains)}")
    if asked.streams and set(asked.streams) == set(mains):
        raise MienError("given.streams: with all of them given there is nothing to translate into")
    names = {s for n in asked.streams for s in mains[n].streams} or set(layout.streams)
    people: dict[str, list[Source]] = {}
    for r in cohort:
        if layout.task not in r.labels:
            continue
        for w in recording_windows(r, layout.seconds, stride_s):
            streams, why = cut(r, w, valid)
            if why or split.side(w) != asked.side or not (names & set(streams)):
                continue
            given = Given(relation=asked.relation, streams={n: s for n, s in streams.items() if n in names})
            people.setdefault(r.person, []).append(
                Source(
                    person=r.person, recording=r.id, label=str(r.labels[layout.task]),
                    contexts=context(r, w.start_s, layout), given=given,
                )
            )  # fmt: skip
    turns = [
        s for k in range(max(map(len, people.values()), default=0)) for row in people.values() for s in row[k : k + 1]
    ]
    if not turns:
        raise MienError(f"no {asked.side} window of the cohort can be given: none has what {asked.relation} needs")
    return turns[: asked.windows]
