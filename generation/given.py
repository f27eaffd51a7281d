"""Recordings that are given to the model, for it to translate, extend or vary.

What is made from a recording that is given is NOT covered by a training guarantee: the recording goes straight in. It is
marked unprotected and stays in the run's private half. One that is shown as soft tokens may be protected on its own
(adapters/shown.py): then nothing else of it may reach the prompt, which the label and contexts of the recipe make.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, model_validator

from ..adapters.shown import Protect, protected, together
from ..core.config import Plugin, Section
from ..core.errors import MienError
from ..core.records import Cohort, Stream, cut, recording_windows
from ..core.runs import Run
from ..data.splits import Splits
from .adapted import Adapted, shows
from .layout import Context, Given, Layout
from .sample import Sampling, name
from .tokens import context

UNPROTECTED = (
    "unprotected: each of these recordings was made from a real one that was given to the model, which no guarantee of its"
    " training covers; treat them as recordings of that person"
)


class From(Section):
    """relation: translate (the streams `streams` into the others), extend (the window after), vary (another window of the
    same recording); streams: what is given, for translate; side: whose recordings, persons the adapter never saw or those
    it learned from; windows: how many, at most, taking persons in turn; soft: show it as the backbone's soft tokens, for
    vary (needs `condition: {soft: …}` in the adapt recipe); protect: clip, noise and charge these, for soft. Protected
    windows are exactly as many as asked, with classes taking turns and `sampling.contexts`."""

    relation: Literal["translate", "extend", "vary"]
    streams: tuple[str, ...] = ()
    side: Literal["holdout", "train"] = "holdout"
    windows: int = Field(default=20, ge=1)
    soft: bool = False
    protect: Protect | None = None

    @model_validator(mode="after")
    def _soft(self) -> From:
        if self.soft and self.relation != "vary":
            raise ValueError("soft tokens show another window of the same recording: `relation: vary`")
        if self.protect and not self.soft:
            raise ValueError(
                "only soft tokens can be protected: `soft: true`; tokens in a prompt are the recording itself"
            )
        return self


def require(trained: Mapping[str, Any], sampling: Sampling, asked: From | None) -> None:
    """MienError for what an adapter was never trained to do, what its contexts do not know, and keys that mean nothing beside
    `given`. trained: its recipe, resolved."""
    if trained.get("autoencoder"):  # says for itself what it cannot do
        return
    learned = trained.get("condition", {})
    needs = [("sampling.guidance", sampling.guidance > 0, "unlabelled", 0.1)]
    longer = sampling.seconds is not None and sampling.seconds > trained["seconds"] + 1e-9
    needs.append(("sampling.seconds", longer, "extend", 0.3))
    if asked is not None and not asked.soft:
        needs.append(("given.relation", True, asked.relation, 0.3))
    for key, wanted, share, usual in needs:
        if wanted and not learned.get(share):
            raise MienError(
                f"{key}: the adapter was not trained for it (condition.{share} is 0); adapt with `condition: {{{share}: {usual}}}`,"
                f" or leave {key} out"
            )
    for n, raw in trained.get("contexts", {}).items():
        known = Context(**raw)
        if n in sampling.contexts and known.code(sampling.contexts[n]) == len(known.values()):
            raise MienError(
                f"sampling.contexts.{n}: {sampling.contexts[n]!r} is none of {', '.join(known.values())}"
                + (" (a number is written without quotes)" if known.edges else "; leave it out where it is unknown")
            )
    nothing = {"per_label", "counts"} | (set() if asked and asked.protect else {"contexts"})
    if asked is not None and (said := sorted(sampling.model_fields_set & nothing)):
        raise MienError(
            f"sampling.{said[0]} means nothing beside `given`: given.windows says how many, and the recordings say of what; leave"
            f" out {', '.join(said)}"
        )


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
    if not layout.conditioned and not asked.soft:
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
            shown = {n: s for n, s in streams.items() if asked.soft or n in names}
            given = Given(relation=asked.relation, streams=shown)
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


@dataclass(frozen=True, kw_only=True)
class Opened:
    """How each synthetic recording begins: prompts in local ids; shown: float32[n, S, hidden] or None; told: which real
    recording is behind which, as CSV lines; guarantee: what holds for what is made."""

    prompts: list[list[int]]
    shown: Any = None
    told: str = ""
    guarantee: str


def opened(
    adapted: Adapted, cohort: Cohort, split: Splits, asked: From, sampling: Sampling, training: str, *, run: Run,
    source: str, stride_s: float, valid: float,
) -> Opened:  # fmt: skip
    """What `asked` makes of the cohort's recordings; training: the adapter's guarantee; source: as the ledger knows the
    cohort. Charges the ledger before anything is computed, where protection is asked for."""
    import torch

    layout, backbone = adapted.layout, adapted.backbone
    if asked.soft and not shows(adapted.config):
        raise MienError("this adapter was not trained on soft tokens: adapt with `condition: {soft: 0.5}`")
    windows = {"stride_s": stride_s, "valid": valid}
    if asked.protect is None:
        found = sources(cohort, split, layout, asked, **windows)
        told = "".join(f"{name(i)},{s.recording},{s.person}\n" for i, s in enumerate(found))
        if not asked.soft:
            prompts = [layout.opening(s.label, s.contexts, s.given) for s in found]
            return Opened(prompts=prompts, told=told, guarantee=UNPROTECTED)
        shown = backbone.soften(adapted.model, [s.given.streams for s in found])
        prompts = [layout.prompt(s.label, s.contexts) for s in found]
        return Opened(prompts=prompts, shown=shown, told=told, guarantee=UNPROTECTED)
    people, each = turns(cohort, split, asked)
    section, counted = Plugin(**adapted.config["cohort"]), bool(adapted.config.get("privacy"))
    beside = "" if adapted.eyes is None else adapted.eyes.beside(section, people, counted)
    soft, sentence = protected(
        run, source, people, each, asked.protect,
        lambda: backbone.soften(adapted.model, slots(cohort, people, layout, asked, **windows)).double().cpu().numpy(),
    )  # fmt: skip
    labels = [layout.classes[i % len(layout.classes)] for i in range(asked.windows)]
    return Opened(
        prompts=[layout.prompt(label, sampling.contexts) for label in labels], shown=torch.from_numpy(soft),
        told="".join(f"{name(i)},,{people[i % len(people)]}\n" for i in range(asked.windows)),
        guarantee=together(training, sentence) + beside,
    )  # fmt: skip


def turns(cohort: Cohort, split: Splits, asked: From) -> tuple[list[str], int]:
    """Whose turn it is, whatever they recorded, and how many windows each is asked for."""
    there = set(cohort.column("person"))
    people = sorted(p for p in getattr(split, asked.side) if p in there)[: asked.windows]
    if not people:
        raise MienError(f"nobody is on the {asked.side} side whose recordings may be used")
    return people, -(-asked.windows // len(people))


def slots(
    cohort: Cohort, people: list[str], layout: Layout, asked: From, *, stride_s: float, valid: float
) -> list[Mapping[str, Stream] | None]:
    """The windows to show: of each person in turn the first, the second …; None where somebody has too few."""
    mine: dict[str, list[Mapping[str, Stream]]] = {p: [] for p in people}
    for r in cohort:
        for w in recording_windows(r, layout.seconds, stride_s) if r.person in mine else ():
            streams, why = cut(r, w, valid)
            if not why and set(streams) & set(layout.streams):
                mine[r.person].append(streams)
    places = [(people[i % len(people)], i // len(people)) for i in range(asked.windows)]
    return [mine[p][k] if k < len(mine[p]) else None for p, k in places]
