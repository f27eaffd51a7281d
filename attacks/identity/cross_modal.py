"""Cross-modal linkage: does a row of one table belong to a row of another, with other columns?

Voice statistics in one release and watch statistics in another may be the same person's; a synthetic recording may give
away which real one it was made from. The attacker holds both sides of other persons, learns which directions go
together (canonical correlations with shrinkage), and scores the pairs in question by the likelihood ratio of that
Gaussian model. How strong each correlation is, is measured on background persons that it was not fitted on.

Two controls: with a shared signal planted in both sides the same attack must link (else it is too weak here to say
anything, and is withheld), and with the background's pairs shuffled it must not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from sklearn.covariance import ledoit_wolf

from ...core.config import Section
from ...core.errors import MienError
from ...core.intervals import Interval
from ...core.results import Baseline, Result
from ..verification import Comparison, eer, verification
from .reidentify import Views, describe, measured, ready, told

NEEDS = ("judged", "background")
_LEAST = 6  # background persons; correlations of fewer points are near 1 whatever they are


class Config(Section):
    """link: what belongs together, rows of one `person` (pooled over recordings), or of one `recording` (a synthetic
    recording bears the name of the real one it was made from); ranks: for identification; folds: of the background's
    persons; planted: strength of the planted signal, in standard deviations of each column; seed: of folds, planting
    and shuffling.
    """

    link: Literal["person", "recording"] = "person"
    ranks: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(1, 5), min_length=1)
    folds: int = Field(default=5, ge=2)
    planted: float = Field(default=2.0, gt=0)
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two tables of the same persons: left (probes) and right (gallery), each with its own columns."""

    left: Views
    right: Views


@dataclass(frozen=True, kw_only=True)
class Linked:
    """What the attacker found. comparison: log-likelihood ratios, left rows against right ones; known: share of left
    rows linked at each rank by who knows the person and nothing else (link = recording); planted, shuffled: EER of the
    two controls (the second a mean over shuffles); n_background: pairs that were learnt from."""

    comparison: Comparison
    known: dict[int, float]
    planted: Interval
    shuffled: float
    n_background: int
    note: str
    config: Config

    def results(self) -> list[Result]:
        """EER, C_llr, min-C_llr, D_sys, ZEBRA and rank-k, withheld where the planted signal was not found; then the
        planted control."""
        failed = self.planted.high is None or self.planted.high >= 0.5
        found = measured(self.comparison, self.comparison.score, self.config.ranks)
        note = f"{describe(self.comparison)}; learnt from {self.n_background} pairs of other persons; {self.note}"
        if failed:
            note = (
                f"withheld: the attacker does not find a planted link (EER {self.planted.value:.2f}), so what it cannot"
                " find proves nothing; give it more background persons"
            )
        out = told("cross_modal", found, {}, note, failed)
        more = {"eer": Baseline(name="shuffled training pairs", value=self.shuffled)}
        more |= {f"rank_{k}": Baseline(name="knowing the person", value=v) for k, v in self.known.items()}
        out = [
            r.model_copy(update={"unit": self.config.link, "baselines": (*r.baselines, more[key])})
            if (key := r.metric.removeprefix("cross_modal.")) in more
            else r.model_copy(update={"unit": self.config.link})
            for r in out
        ]
        control = self.planted
        return [*out, Result(
            metric="cross_modal.planted_eer", value=control.value, low=control.low, high=control.high,
            n_persons=control.n_persons, unit=self.config.link, baselines=(Baseline(name="chance", value=0.5),),
            note=f"positive control: a shared signal of {self.config.planted:g} sd planted in both sides",
        )]  # fmt: skip


def score(judged: Pair, background: Pair, config: Config) -> Linked:
    """Link the left rows of `judged` to its right rows, having learnt from the pairs of `background`.

    Raises MienError where a background person is judged too, fewer than six background persons are on both sides, or
    nothing in question is on both sides.
    """
    if shared := _people(judged) & _people(background):
        raise MienError(f"{len(shared)} background persons are judged too; learn from other persons")
    left, right = (side.pooled(config.link) for side in (judged.left, judged.right))
    a, b = (side.pooled(config.link) for side in (background.left, background.right))
    names, at, bt = np.intersect1d(getattr(a, config.link), getattr(b, config.link), return_indices=True)
    a, b = a.rows(at), b.rows(bt)
    if (n := len(set(a.person))) < _LEAST:
        raise MienError(f"{n} background persons are on both sides; the attacker needs {_LEAST} or more to learn from")
    if clash := int((a.person != b.person).sum()):
        raise MienError(f"{clash} background {config.link}s belong to another person on the other side")
    rng = np.random.default_rng(config.seed)
    note = "both sides hold the same sessions, and these may be what links" if _sessions(judged) else "other sessions"
    if any(v.session is None for v in (judged.left, judged.right)):
        note = "sessions unknown: a day's own doings may be what links"

    def attack(a: Views, b: Views, left: Views, right: Views) -> Comparison:
        found = _link(a, b, config)(left.X, right.X)
        return Comparison(
            score=found, probe=getattr(left, config.link), entry=getattr(right, config.link),
            probe_person=left.person, entry_person=right.person,
        )  # fmt: skip

    comparison = attack(a, b, left, right)
    planted = attack(*_plant((a, b, left, right), config, rng))
    shuffled = [attack(a, b.rows(_ring(b.person, rng)), left, right) for _ in range(5)]
    return Linked(
        comparison=comparison,
        known={k: _knowing(comparison, k) for k in config.ranks} if config.link == "recording" else {},
        planted=verification(planted)["eer"],
        shuffled=float(np.mean([eer(c.score[c.mated], c.score[~c.mated]) for c in shuffled])),
        n_background=len(names),
        note=note if config.link == "person" else "a synthetic side holds what its model saw",
        config=config,
    )


def _link(a: Views, b: Views, config: Config):
    """A function (left float[P, d], right float[G, e]) -> log-likelihood ratios float64[P, G] that rows belong
    together. a, b: the background's rows, pair by pair."""
    people, who = np.unique(a.person, return_inverse=True)
    turn = np.random.default_rng(config.seed).permutation(len(people)) % min(config.folds, len(people) // 2)
    kept = []
    for f in range(int(turn.max()) + 1):
        held = turn[who] == f
        kept.append(np.stack(_canonical(a.X[~held], b.X[~held])(a.X[held], b.X[held])))
    k = min(v.shape[2] for v in kept)
    u, v = np.concatenate([x[:, :, :k] for x in kept], axis=1)
    scale = [np.sqrt((x**2).mean(0)) + 1e-12 for x in (u, v)]
    # a correlation of n points is off by 1/√n; noise that was believed would speak loudly (non-negative garrote)
    rho = np.clip((u * v).mean(0) / scale[0] / scale[1], 1e-9, 0.99)
    rho *= np.maximum(0.0, 1 - 1 / (len(people) * rho**2))
    final = _canonical(a.X, b.X)

    def ratio(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        x, y = final(left, right)
        x, y = x[:, :k] / scale[0], y[:, :k] / scale[1]
        slope, square = rho / (1 - rho**2), rho**2 / (1 - rho**2) / 2
        return (x * slope) @ y.T - (x**2 @ square)[:, None] - y**2 @ square - 0.5 * np.log1p(-(rho**2)).sum()

    return ratio


def _canonical(a: np.ndarray, b: np.ndarray):
    """A function (left, right) -> their canonical variates, float64[P, k] and float64[G, k], strongest first."""
    scale, white = [ready(a), ready(b)], []
    z = [s(x) for s, x in zip(scale, (a, b), strict=True)]
    for side in z:
        value, axes = np.linalg.eigh(ledoit_wolf(side, assume_centered=True)[0])
        white.append(axes / np.sqrt(np.maximum(value, 1e-9)))
    p, _, q = np.linalg.svd((z[0] @ white[0]).T @ (z[1] @ white[1]) / len(a), full_matrices=False)
    axes = white[0] @ p, white[1] @ q.T
    return lambda left, right: (scale[0](left) @ axes[0], scale[1](right) @ axes[1])


def _plant(sides: tuple[Views, Views, Views, Views], config: Config, rng: np.random.Generator) -> list[Views]:
    """The four sides with three shared signals added: what is linked has the same ones."""
    names = sorted({n for s in sides for n in getattr(s, config.link)})
    shared, out = rng.standard_normal((len(names), 3)), []
    mixing = [rng.standard_normal((3, sides[i].X.shape[1])) / np.sqrt(3) for i in (0, 1)]
    spread = [np.nanstd(np.where(np.isnan(X := sides[i].X).all(0), 0.0, X), axis=0) for i in (0, 1)]
    for i, s in enumerate(sides):
        rows = shared[np.searchsorted(names, getattr(s, config.link))]
        X = s.X + config.planted * spread[i % 2] * (rows @ mixing[i % 2])
        out.append(Views(X=X, person=s.person, recording=s.recording, session=s.session))
    return out


def _ring(person: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Row numbers such that each person's rows come from the next person on a random ring."""
    people, who = np.unique(person, return_inverse=True)
    ring = rng.permutation(len(people))
    after = np.empty(len(people), dtype=int)
    after[ring] = np.roll(ring, 1)
    rows, seen = [], dict.fromkeys(range(len(people)), 0)
    for w in who:
        theirs = np.flatnonzero(who == after[w])
        rows.append(theirs[seen[w] % len(theirs)])
        seen[w] += 1
    return np.array(rows)


def _knowing(c: Comparison, k: int) -> float:
    """Rank-k rate of who knows the person and guesses among their recordings; each person weighs the same."""
    people, count = np.unique(c.entry_person, return_counts=True)
    own = count[np.isin(people, c.probe_person)]
    return float(np.minimum(1.0, k / own).mean())


def _people(pair: Pair) -> set[str]:
    return {*pair.left.person, *pair.right.person}


def _sessions(pair: Pair) -> bool:
    sides = [
        set(zip(v.person, v.session, strict=True)) for v in (pair.left, pair.right) if v.session is not None
    ]  # fmt: skip
    return len(sides) == 2 and bool(sides[0] & sides[1])
