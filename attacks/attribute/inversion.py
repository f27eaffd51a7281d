"""Embedding inversion: what does an embedding give back of the window it was made from, and of its person?

Three questions. *Reconstruction*: how much of the window's statistics does a ridge regression from embeddings recover,
for persons it never saw (R²)? *Retrieval*: with such a reconstruction in hand, where does the true window rank among
the held-out persons' windows? *Identity*: does a linear probe on some of a person's recordings name the person of
other recordings? Each stands beside the same attack on embeddings that were handed to other persons (shuffled), and on
the window's own statistics in place of the embedding (the positive control: an attacker who cannot invert the identity
is withheld).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from pydantic import Field
from scipy.spatial.distance import cdist
from sklearn.covariance import ledoit_wolf
from sklearn.linear_model import RidgeCV

from ...core.config import Section
from ...core.errors import MienError
from ...core.intervals import Interval, over_persons
from ...core.results import Baseline, Result
from ..identity.reidentify import Views, ready
from ..verification import by_person

NEEDS = ("embedding", "inputs")


class Config(Section):
    """ridge: penalties to choose from, for standardised columns, by cross-validation over persons; folds: of persons;
    max_candidates: windows of held-out persons among which the true one is looked for; seed: of folds and draws."""

    ridge: tuple[Annotated[float, Field(gt=0)], ...] = Field(default=(0.1, 1.0, 10.0, 100.0, 1000.0), min_length=1)
    folds: int = Field(default=5, ge=2)
    max_candidates: int = Field(default=500, ge=2)
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Found:
    """The three questions, answered for one kind of embedding. r2 may be negative; rank: mean share of candidates
    nearer than the true window (½ by chance); found_first: share of windows found first, with its chance; identity
    None: no recordings to hold out."""

    r2: Interval
    rank: Interval
    found_first: Interval
    chance: float
    identity: Interval | None


@dataclass(frozen=True, kw_only=True)
class Inverted:
    """found: on the embeddings; shuffled: on embeddings handed to other persons; control: on the inputs themselves;
    candidates: persons that the probe chooses among; majority: the largest one's share of the probing windows; probed:
    how these were held out."""

    found: Found
    shuffled: Found
    control: Found
    candidates: int
    majority: float
    probed: str
    note: str

    def results(self) -> list[Result]:
        """R², mean rank, found first, and the identity probe; each withheld where its control failed."""
        # name, chance, what the control must reach, whether low values are a success
        ask = (
            ("r2", 0.0, 0.5, False, "share of the standardised statistics' variance, on persons outside the fit"),
            ("rank", 0.5, 0.25, True, "share of candidates nearer to the reconstruction than the true window"),
            ("found_first", self.found.chance, 0.5, False, "the true window is the nearest"),
            ("identity", one := 1 / max(1, self.candidates), one, False, self.probed),
        )
        out = []
        for name, chance, enough, low_is_found, what in ask:
            found, shuffled, control = (getattr(f, name) for f in (self.found, self.shuffled, self.control))
            if found is None:
                why = "not run: no person has two recordings, so none can be held out"
                out.append(Result(metric=f"inversion.{name}", value=None, higher_is_better=False, note=why))
                continue
            able = _beats(control, chance, low_is_found) and (control.value < enough) == low_is_found
            # where the embedding itself gives the person away, the raw inputs need not
            withheld = not able and not (name == "identity" and _beats(found, chance, low_is_found))
            why = (
                f"withheld: the attack cannot do it from the inputs themselves ({control.value:.2f}, chance {chance:.2g}),"
                " so what it cannot do from embeddings proves nothing; give it more persons or recordings"
            )
            beside = [
                Baseline(name="chance", value=chance),
                Baseline(name="shuffled embeddings", value=shuffled.value, low=shuffled.low, high=shuffled.high),
                Baseline(name="inputs themselves", value=control.value, low=control.low, high=control.high),
            ]
            beside += [Baseline(name="majority", value=self.majority)] if name == "identity" else []
            out.append(Result(
                metric=f"inversion.{name}", value=None if withheld else found.value, low=None if withheld else found.low,
                high=None if withheld else found.high, n_persons=found.n_persons, unit="window",
                higher_is_better=low_is_found, baselines=tuple(beside), note=why if withheld else f"{what}; {self.note}",
            ))  # fmt: skip
        return out


def invert(embedding: Views, inputs: np.ndarray, config: Config) -> Inverted:
    """embedding: one row per window, with its person and recording; inputs: float64[n, d], the same windows'
    statistics (NaN: missing). MienError on other shapes, infinite values, constant inputs and fewer than four persons.
    """
    inputs = np.asarray(inputs, dtype=np.float64)
    people = np.unique(embedding.person)
    if inputs.ndim != 2 or inputs.size == 0 or len(inputs) != len(embedding):
        raise MienError(f"inversion: inputs have shape {list(inputs.shape)} for {len(embedding)} embeddings")
    if np.isinf(inputs).any() or np.isnan(inputs).all(1).any():
        raise MienError("inversion: inputs with infinite values or rows without any; mark what is missing with NaN")
    if len(people) < 4:
        raise MienError(f"inversion: {len(people)} persons; it learns from some and is judged on others, so give four")
    probe = _halves(embedding)
    rng = np.random.default_rng([config.seed, 0x1E])
    moved = replace(embedding, X=embedding.X[_handed_on(embedding, rng)])
    alike = replace(embedding, X=inputs)
    found, shuffled, control = (_attack(v, inputs, probe, config) for v in (embedding, moved, alike))
    _, count = np.unique(embedding.person[probe], return_counts=True)
    return Inverted(
        found=found,
        shuffled=shuffled,
        control=control,
        candidates=len(count),
        majority=float(count.max() / count.sum()) if len(count) else 1.0,
        probed="linear probe, on other recordings than it learnt from"
        + ("; sessions unknown: how a device was worn may be what identifies" if embedding.session is None else ""),
        note=f"{len(embedding)} windows of {len(people)} persons; one candidate in {1 / found.chance:.0f} is true",
    )


def _attack(v: Views, inputs: np.ndarray, probe: np.ndarray, config: Config) -> Found:
    people, who = np.unique(v.person, return_inverse=True)
    turn = np.random.default_rng(config.seed).permutation(len(people)) % min(config.folds, len(people) // 2)
    lost, total = np.zeros(len(v)), np.zeros(len(v))
    rank, first = np.full(len(v), np.nan), np.full(len(v), np.nan)
    odds = np.full(len(v), np.nan)
    for f in range(int(turn.max()) + 1):
        fit, held = np.flatnonzero(turn[who] != f), np.flatnonzero(turn[who] == f)
        scale, target = ready(v.X[fit]), ready(inputs[fit])
        inner = np.random.default_rng(config.seed).permutation(len(people))[who[fit]] % 3
        parts = [(np.flatnonzero(inner != i), np.flatnonzero(inner == i)) for i in np.unique(inner)]
        model = RidgeCV(list(config.ridge), cv=parts if len(parts) > 1 else None)
        made = model.fit(scale(v.X[fit]), target(inputs[fit])).predict(scale(v.X[held]))
        truth = target(inputs[held])
        lost[held], total[held] = ((made - truth) ** 2).sum(1), (truth**2).sum(1)  # the fit's own mean is 0
        kept = np.random.default_rng(config.seed).permutation(len(held))[: config.max_candidates]
        far = cdist(made[kept], truth[kept])
        own = np.diag(far)[:, None]
        nearer, tied = (far < own).sum(1), (far == own).sum(1) - 1
        rank[held[kept]] = (nearer + tied / 2) / max(1, len(kept) - 1)
        first[held[kept]] = (nearer == 0) / (tied + 1)
        odds[held[kept]] = 1 / len(kept)
    seen = ~np.isnan(rank)
    r2 = over_persons(lambda a, b: 1 - a.sum() / b.sum(), v.person, lost, total, bounds=None)
    ranks, firsts = (over_persons(by_person, v.person[seen], v.person[seen], x[seen]) for x in (rank, first))
    chance = by_person(v.person[seen], odds[seen])
    return Found(r2=r2, rank=ranks, found_first=firsts, chance=chance, identity=_identity(v, probe))


def _identity(v: Views, probe: np.ndarray) -> Interval | None:
    """The linear probe: discriminants with a shrunk covariance, learnt on the recordings that are not probes."""
    if not probe.any():
        return None
    fit = ~probe & np.isin(v.person, v.person[probe])
    scale = ready(v.X[fit])
    x, new = scale(v.X[fit]), scale(v.X[probe])
    people, who, size = np.unique(v.person[fit], return_inverse=True, return_counts=True)
    means = np.zeros((len(people), x.shape[1]))
    np.add.at(means, who, x / size[who, None])
    inside = ledoit_wolf(x - means[who], assume_centered=True)[0] + 1e-9 * np.eye(x.shape[1])
    slope = np.linalg.solve(inside, means.T)
    guess = (new @ slope - 0.5 * (means.T * slope).sum(0)).argmax(1)
    right = (people[guess] == v.person[probe]).astype(np.float64)
    return over_persons(by_person, v.person[probe], v.person[probe], right)


def _halves(v: Views) -> np.ndarray:
    """bool[n]: rows of the recordings (sessions, where known and several) that are kept for probing; persons with one
    have none."""
    probe = np.zeros(len(v), bool)
    for p in np.unique(v.person):
        mine = np.flatnonzero(v.person == p)
        of = v.recording[mine] if v.session is None or len(set(v.session[mine])) < 2 else v.session[mine]
        names, code = np.unique(of, return_inverse=True)
        probe[mine] = (code % 2 == 0) & (len(names) > 1)
    return probe


def _handed_on(v: Views, rng: np.random.Generator) -> np.ndarray:
    """Row numbers: each row gets the embedding of a random row of other persons."""
    return np.array([rng.choice(np.flatnonzero(v.person != p)) for p in v.person])


def _beats(found: Interval, chance: float, low_is_found: bool) -> bool:
    if found.low is None or found.high is None:  # the same value for each of four persons or more: nothing is random
        return found.value < chance if low_is_found else found.value > chance
    return found.high < chance if low_is_found else found.low > chance
