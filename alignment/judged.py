"""Samples of a generator, judged: documents with the recordings they decode to, and what experts say of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from ..core import console
from ..core.config import Section
from ..core.intervals import Interval, over_persons
from ..core.records import Recording
from ..core.results import Result
from ..generation import sample
from ..generation.layout import Layout
from ..generation.vocabulary import PAD
from . import experts, preferences
from .pairs import Pairs
from .preferences import Preference, Quality
from .reward import clusters

AFTERWARDS = (
    "Alignment saw samples of the adapter and what experts said of them, and no recording: what the guarantee says of the recorded"
    " persons still holds (post-processing). It says nothing of the raters, whose answers shaped this adapter."
)


class Simulate(Section):
    """Simulated experts, for tests, demonstrations and plans. per_label: samples of each class; pairs: that are compared;
    raters: how many, each with a taste of their own; expert: alignment/experts.Config; judge_again: samples of each class,
    before and after, that utility and win rate are read from."""

    per_label: int = Field(default=40, ge=2)
    pairs: int = Field(default=200, ge=2)
    raters: int = Field(default=3, ge=2)
    expert: experts.Config = experts.Config()
    judge_again: int = Field(default=60, ge=2)


@dataclass(frozen=True, kw_only=True)
class Samples:
    """documents: int32[T] local ids each; recordings: what they decode to, in the same order; valid: share of documents that
    the grammar accepts."""

    documents: list[np.ndarray]
    recordings: list[Recording]
    valid: float


def draw(model: Any, layout: Layout, own_ids: Any, per_label: int, seed: int, batch: int = 16) -> Samples:
    """`per_label` documents of each class from the model as it is now."""
    prompts = [layout.prompt(c) for c in layout.classes for _ in range(per_label)]
    rows: list[np.ndarray] = []
    for i in range(0, len(prompts), batch):
        made = sample.documents(model, layout, own_ids, prompts[i : i + batch], temperature=1.0, seed=seed + i)
        rows += [np.asarray(d[d != PAD], dtype=np.int32) for d in made]
    ok = [layout.grammar.accepts(d.tolist()) for d in rows]
    recordings = list(sample.recordings([[d] for d in rows], layout, None))
    return Samples(documents=rows, recordings=recordings, valid=float(np.mean(ok)))


def asked(made: Samples, simulate: Simulate, seed: int) -> list[Preference]:
    """What simulated raters say of pairs of these samples."""
    expert = experts.Expert.of(simulate.expert)
    most = sum(
        n * (n - 1) // 2 for n in np.unique([str(r.labels) for r in made.recordings], return_counts=True)[1].tolist()
    )
    return experts.ask(expert, made.recordings, min(simulate.pairs, most), simulate.raters, seed)


def learned(
    said: Sequence[Preference], made: Samples, layout: Layout, *, minimum_alpha: float, held_out: float, seed: int
) -> tuple[Pairs, Pairs, Quality, int]:
    """(pairs to learn from, held-out pairs, the raters' numbers, recordings on both sides). MienError where raters agree no
    better than `minimum_alpha`."""
    quality = preferences.gate(said, minimum_alpha=minimum_alpha)
    sides = preferences.split(said, held_out, seed)
    by = {r.id: d for r, d in zip(made.recordings, made.documents, strict=True)}
    cut = layout.prompt_length

    def encode(one: str) -> Any:
        ids = by[one].tolist()
        return ids[:cut], ids[cut:]

    train, test = (Pairs.of(preferences.trl_rows(side, encode).rows, layout) for side in (sides.train, sides.held_out))
    return train, test, quality, sides.shared


def gained(before: Samples, after: Samples, expert: experts.Expert) -> tuple[Interval, Interval, float, float]:
    """(gain in utility, win rate of after against before among samples of one label, mean utilities), judged by an expert
    without noise. Samples are independent draws, so the intervals are over pairs of them in the order they were drawn."""
    old, new = (np.array([expert.utility(r) for r in s.recordings]) for s in (before, after))
    known = np.isfinite(old) & np.isfinite(new)
    old, new = old[known], new[known]
    rows = np.arange(len(old)).astype(str)
    gain = over_persons(lambda a, b: float((b - a).mean()), rows, old, new, bounds=None)
    wins = over_persons(lambda w: float(w.mean()), rows, (new > old) + 0.5 * (new == old))
    return gain, wins, float(old.mean()), float(new.mean())


def share(right: np.ndarray, data: Pairs) -> Interval:
    """The share of pairs for which `right` (bool[n]) holds, over clusters of pairs that share a recording."""
    return over_persons(lambda r: float(r.mean()), clusters(data), right.astype(float))


def told(study: str, found: Mapping[str, Result], bounds: Mapping[str, float | None], release: Path) -> int:
    """Print the results; 3 where a bound is passed, which is then said, else 0."""
    console.table(
        f"alignment of {study}", ["measure", "value", "95 %", "beside"],
        [
            [r.metric, f"{r.value:.3f}" if r.value is not None else "–", f"{r.low:.3f} to {r.high:.3f}" if r.low is not None else "",
             ", ".join(f"{b.name} {b.value:.3f}" for b in r.baselines if b.value is not None)]
            for r in found.values()
        ],
    )  # fmt: skip
    low = {"valid": "valid sequences", "win_rate": "win rate against before"}
    passed = [
        f"{metric} is {found[metric].value:.3f}, and {bounds[key]:g} at least was asked for"
        for key, metric in low.items()
        if bounds.get(key) is not None and (found[metric].value or 0.0) < (bounds[key] or 0.0)
    ]
    kl, most = found["KL to the reference"].value, bounds.get("kl")
    if most is not None and (kl is None or kl > most):
        passed.append(f"KL to the reference is {kl:.3g} nats, and {most:g} at most was asked for")
    for line in passed:
        console.fail(f"bound passed: {line}")
    console.say(f"adapter: {release / 'adapter'}")
    return 3 if passed else 0
