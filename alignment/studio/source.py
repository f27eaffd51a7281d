"""Where a studio's recordings come from: the synthetic cohort, control pairs, and what raters corrected."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ...core import console
from ...core.errors import MienError
from ...core.records import Cohort, CohortCard, Recording, Window, cut
from ...generation.layout import Layout
from ...generation.machine import OWN
from .. import choose, crossed, features
from ..store import Advised, Pair
from . import mended, plan
from .server import Study

MOST_REAL = 200  # windows of real recordings that control pairs are drawn from


class Source:
    """Recordings by id. cohort: the synthetic one; real: id -> window of a real recording (see `real_windows`)."""

    def __init__(self, cohort: Cohort, real: Mapping[str, Recording] | None = None):
        self.cohort, self.real = cohort, dict(real or {})
        self.task = next(iter(cohort.card.tasks), "")
        self._at = {one: i for i, one in enumerate(cohort.column("id"))}

    def __call__(self, name: str) -> Recording:
        """MienError for a recording that is not (or no longer) there."""
        if name.startswith(plan.BROKEN):
            digest = hashlib.sha256(name.encode()).digest()
            return mended.broken(self(name.removeprefix(plan.BROKEN)), np.random.default_rng(list(digest)), name)
        if name in self.real:
            return self.real[name]
        if name not in self._at:
            raise MienError(f"recording {name!r} is not in this cohort")
        return self.cohort[self._at[name]]

    def __contains__(self, name: str) -> bool:
        return name.removeprefix(plan.BROKEN) in self._at or name in self.real

    def decks(self, real: bool = False) -> dict[str, list[str]]:
        """Label -> ids of the synthetic recordings, or of the windows of real ones."""
        decks: dict[str, list[str]] = {}
        ids = self.real if real else self._at
        labels = [r.labels for r in self.real.values()] if real else self.cohort.column("labels")
        for one, label in zip(ids, labels, strict=True):
            decks.setdefault(str(label.get(self.task, "")), []).append(one.removeprefix(plan.REAL))
        return decks

    def pairs(
        self, n: int, checks: plan.Checks, seed: int, *, by_design: bool, asked: Sequence[Pair] = ()
    ) -> list[Pair]:
        """A study's pairs with its checks. asked: those it has; what is to be added then, until n are ordinary ones. by_design: of
        up to eight times as many random ones those from which a linear reward on vital signs would learn most beside what is
        asked (`choose.d_optimal`); held-out pairs are then no random ones."""
        decks, before = self.decks(), [p for p in asked if p.kind == "pair"]
        if n <= len(before):
            return []
        most = sum(len(d) * (len(d) - 1) // 2 for d in decks.values())
        found = plan.choose(decks, max(n, min(most, 8 * n)) if by_design else n, seed)
        met = {frozenset((p.a, p.b)) for p in before}
        found = [p for p in found if frozenset((p.a, p.b)) not in met]
        if by_design:
            ids = sorted({i for p in [*before, *found] for i in (p.a, p.b)})
            known = features.table((self(i) for i in ids), self.task, decks)
            old, x = (np.array([known[p.a] - known[p.b] for p in some]) for some in (before, found))
            chosen = choose.d_optimal(x, n - len(before), asked=old if len(before) else None)
            found = [found[i] for i in chosen.tolist()]
        found, shown = found[: n - len(before)], sum(p.kind == "control" for p in asked)
        return plan.with_checks(found, checks, seed, self.decks(real=True), shown)


def real_windows(cohort: Cohort, layout: Layout, valid: float) -> dict[str, Recording]:
    """`real:…` -> the first window of some recordings, with the streams that the synthetic ones have too.

    cohort: opened for alignment, so that only persons who agreed are in it. MienError where its licence lets nobody show
    the recordings to somebody else.
    """
    kept_back = {"no-redistribution", "credentialed"} & set(cohort.card.restrictions)
    if kept_back:
        raise MienError(
            f"control pairs of real recordings: cohort {cohort.card.name!r} is {' and '.join(sorted(kept_back))}, and raters"
            " are others than those it was given to; use checks.control=broken"
        )
    out = {}
    for i in np.random.default_rng(0x4EA1).permutation(len(cohort)).tolist():
        r = cohort[i]
        if layout.task in r.labels and len(out) < MOST_REAL:
            streams, why = cut(r, Window(recording=r.id, person=r.person, start_s=0.0, end_s=layout.seconds), valid)
            streams = {n: s for n, s in streams.items() if n in layout.streams}
            if not why and streams:
                out[plan.REAL + r.id] = replace(r, streams=streams)
    return out


def corrected(study: Study) -> tuple[list[tuple[Advised, Recording]], int]:
    """What raters corrected, each correction with the recording it makes (ids as in `Store.preferences`, labels as the
    original's), and how many make none (any more): other marks are detected in it now, or it is not in the cohort."""
    made, left, hidden = [], 0, study.store.blocked()
    for d in study.store.corrections():
        body = d.advice.body
        if d.advice.recording in hidden:
            continue
        try:
            how = (body["stream"], body["mark"], body["moves"], study.roles)
            made.append((d, mended.corrected(study.recording(d.advice.recording), *how, f"corrected-{d.of}")))
        except MienError:
            left += 1
    return made, left


def write_corrected(study: Study, card: CohortCard, folder: Path) -> None:
    """A cohort of the corrected recordings; the folder is gone where there are none. Says how many could not be made."""
    shutil.rmtree(folder, ignore_errors=True)
    made, left = corrected(study)
    if left:
        console.say(f"{console.count(left, 'correction')} left out: what was moved is not detected there any more")
    if made:
        consent = "synthetic recordings, each corrected by a rater"
        Cohort.store([r for _, r in made], folder, card=replace(card, name=f"{card.name}-corrected", consent=consent))


def uncorrected(name: str) -> str:
    """What a corrected recording (`corrected-…`) is compared with in tokens: see `tokens`."""
    return f"un{name}"


def tokens(
    layout: Layout, study: Study, documents: Mapping[str, np.ndarray] | None = None
) -> Callable[[str], tuple[str, str]]:
    """Recording id -> (prompt, completion) as token strings, what `preferences.trl_rows` asks for. documents: recording id -> the
    document that it was decoded from, where that is known; other recordings are written in tokens anew.

    `corrected-…` is the original's document with the block of the corrected stream written anew, and `uncorrected-…` the
    same without the correction. What is read from a decoded recording is not what was sampled (other marks are detected,
    noise is drawn anew), always in the same direction; so all other blocks stay, and both sides have it in this one.
    The function raises MienError for a recording that cannot be written.
    """
    names, known = layout.vocabulary.names, documents or {}
    by_name: dict[str, tuple[Advised, Recording]] = {}
    for d, r in corrected(study)[0]:
        by_name |= {r.id: (d, r), uncorrected(r.id): (d, study.recording(d.advice.recording))}

    def said(ids: np.ndarray) -> str:
        return " ".join(names[t] if t < OWN else f"own:{t - OWN}" for t in ids.tolist())

    def written(r: Recording) -> np.ndarray:
        (document,) = layout.encode([r.streams], [str(r.labels[layout.task])])
        if document is None:
            raise MienError(f"recording {r.id!r} cannot be written in the tokens of its adapter")
        return document

    def document(name: str) -> np.ndarray:
        if name not in by_name:
            return known[name] if name in known else written(study.recording(name))
        d, r = by_name[name]
        if (stream := d.advice.body["stream"]) not in layout.streams:
            raise MienError(f"stream {stream!r} has no tokens in this adapter")
        return crossed.splice(document(d.advice.recording), written(r), layout.of_stream(stream), layout)

    def encode(name: str) -> tuple[str, str]:
        ids = document(name)
        return said(ids[: layout.prompt_length]), said(ids[layout.prompt_length :])

    return encode
