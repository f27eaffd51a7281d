"""Linkage: does the synthetic cohort look like the persons it was trained on?

The attacker holds labelled recordings of every candidate, members and non-members alike, and the released
windows, nothing else. A classifier learns who is who on the real recordings and names a person for each
synthetic window. If training persons attract more of the release than held-out ones, the release gives
membership away. An attacker who cannot tell persons apart at all finds nothing and proves nothing, so the
same classifiers must first recognise real recordings that they have not seen (the positive control); where
they cannot, the result is withheld.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import Field
from scipy import stats
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier

from ...core.config import Section
from ...core.errors import MienError
from ...core.intervals import Interval, over_persons
from ...core.results import Baseline, Result
from ...core.scores import Scores
from ...data.features import WindowTable
from ..judge import judge

NEEDS = ("release", "gallery")


class Config(Section):
    """classifier: who-is-who model on window statistics; trees: of the forest; folds: the gallery's
    recordings are dealt into so many parts, and each attacker learns from all parts but one; max_windows:
    at most so many windows for each person and label; max_assignments: up to so many membership
    assignments are enumerated, beyond that as many as `draws` are drawn; seed: of forest, dealing and
    draws.
    """

    classifier: Literal["forest", "lda"] = "forest"
    trees: int = Field(default=200, ge=10)
    folds: int = Field(default=3, ge=2)
    max_windows: int = Field(default=50, ge=1)
    max_assignments: int = Field(default=200_000, ge=1)
    draws: int = Field(default=10_000, ge=99)
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Linkage:
    """What the attacker found.

    scores: one per candidate person, the mean posterior mass the synthetic windows give to them (each label
    counts the same); p_value: one-sided, the share of membership assignments whose AUC is at least the
    observed one (`exact`: all of them enumerated), valid where membership was drawn at random by person;
    control_rank1: share of held-out real windows given to the right person, with `chance` (1 / candidates)
    and `majority` (always naming the person with most such windows); control_passed: its interval lies above
    both; max_share: largest share of synthetic windows given to one person; max_share_real: the same for the
    held-out real windows, where each person counts the same.
    """

    scores: Scores
    control_rank1: Interval
    control_passed: bool
    chance: float
    majority: float
    p_value: float
    exact: bool
    max_share: float
    max_share_real: float
    n_windows: int

    def results(self) -> list[Result]:
        """AUC (withheld unless the control passed), the control, and the largest share."""
        control = self.control_rank1
        found = judge(self.scores, fprs=())[0]
        note = found.note.replace("; no blind attack was run on this split", "")
        note += f"; p = {self.p_value:.3g} over {'all' if self.exact else 'drawn'} membership assignments"
        if self.control_passed:
            found = found.model_copy(update={"note": note})
        else:
            why = (
                f"withheld: the attacker does not recognise real recordings (rank-1 {control.value:.2f},"
                f" chance"
                f" {self.chance:.2f}, majority {self.majority:.2f}), so it proves nothing; use a stronger"
                f" attacker"
            )
            found = found.model_copy(update={"value": None, "low": None, "high": None, "note": why})
        found = found.model_copy(update={"baselines": (Baseline(name="chance", value=0.5),)})
        guesses = (Baseline(name="chance", value=self.chance), Baseline(name="majority", value=self.majority))
        return [
            found,
            Result(
                metric="linkage.control_rank1",
                value=control.value,
                low=control.low,
                high=control.high,
                n_persons=control.n_persons,
                unit="window",
                baselines=guesses,
                note="positive control: the attacker on real recordings outside its gallery",
            ),
            Result(
                metric="linkage.max_share",
                value=self.max_share,
                n_persons=len(self.scores),
                unit="window",
                higher_is_better=False,
                baselines=(
                    Baseline(name="even", value=self.chance),
                    Baseline(name="held-out real windows", value=self.max_share_real),
                ),
                note=f"of {self.n_windows} synthetic windows; one release, so no interval over persons",
            ),
        ]


def score(release: WindowTable, gallery: WindowTable, member: Mapping[str, bool], config: Config) -> Linkage:
    """Attribute the synthetic windows of `release` to the persons of `gallery`.

    gallery: real windows of every candidate; member: whether each took part in training. Metadata is not
    used: a synthetic window has none. Every attacker is fitted without one part of each person's recordings,
    is controlled on that part, and votes on the whole release; the posteriors are averaged. Raises MienError
    when the release holds gallery recordings, a person lacks a membership, or no person has two recordings
    (no control is possible).
    """
    persons = np.asarray([str(p) for p in gallery.person], dtype=object)
    people, who = np.unique(persons, return_inverse=True)
    unknown = [p for p in people if p not in member]
    if unknown:
        raise MienError(f"{len(unknown)} of {len(people)} gallery persons have no membership; take it from the split")
    if len(release) == 0 or release.X.shape[1:] != gallery.X.shape[1:]:
        raise MienError(
            f"release {list(release.X.shape)} and gallery {list(gallery.X.shape)} need windows with the same columns"
        )
    if set(release.recording) & set(gallery.recording):
        raise MienError("the release holds recordings of the gallery; give the synthetic windows alone")
    labels = sorted(set(release.label) & set(gallery.label))
    if not labels:
        raise MienError(
            f"release and gallery share no label: {sorted(set(release.label))} against {sorted(set(gallery.label))}"
        )
    if np.isinf(release.X).any() or np.isinf(gallery.X).any():
        raise MienError("infinite window statistics; mark what is missing with NaN")
    columns = ~(np.isnan(release.X).all(0) | np.isnan(gallery.X).all(0))
    if not columns.any():
        raise MienError("no statistic is present in both the release and the gallery; check their streams")
    parts = _deal(gallery.recording, who, config)
    if not (parts >= 0).any():
        raise MienError("no gallery person has two recordings, so no recording can be held out")

    mass, right, named, hit = np.zeros((len(release), len(people))), [], [], []
    used = [f for f in range(config.folds) if (parts == f).any()]
    for f in used:
        fit, out = _cells(np.flatnonzero(parts != f), who, gallery.label, config), np.flatnonzero(parts == f)
        attacker = _fit(gallery.X[fit][:, columns], who[fit], gallery.label[fit], config)
        mass += attacker(release.X[:, columns], len(people)) / len(used)
        guess = attacker(gallery.X[out][:, columns], len(people)).argmax(1)
        right.append(who[out])
        named.append(guess)
        hit.append((guess == who[out]).astype(np.float64))
    truth, guess, hits = np.concatenate(right), np.concatenate(named), np.concatenate(hit)
    control = over_persons(np.mean, truth, hits)
    count = np.bincount(truth, minlength=len(people))
    chance, majority = 1 / len(people), float(count.max() / count.sum())
    even = np.bincount(guess, 1 / count[truth], len(people)) / (count > 0).sum()

    per_label = [mass[release.label == c].mean(0) for c in labels]
    scores = Scores(
        ids=people,
        persons=people,
        member=np.array([bool(member[p]) for p in people]),
        score=np.mean(per_label, axis=0),
        attack="linkage",
        unit="person",
    )
    p_value, exact = permutation_p(scores.score, scores.member, config)
    synthetic = np.bincount(mass.argmax(1), minlength=len(people)) / len(release)
    return Linkage(
        scores=scores,
        control_rank1=control,
        control_passed=control.low is not None and control.low > max(chance, majority),
        chance=chance,
        majority=majority,
        p_value=p_value,
        exact=exact,
        max_share=float(synthetic.max()),
        max_share_real=float(even.max()),
        n_windows=len(release),
    )


def permutation_p(values: np.ndarray, member: np.ndarray, config: Config) -> tuple[float, bool]:
    """(p, exact): share of membership assignments with an AUC at least as large as the observed one.

    Enumerated when there are at most `max_assignments`; else (1 + hits) / (1 + draws), which never is zero
    and keeps its level (Phipson & Smyth 2010).
    """
    n, k = len(values), int(member.sum())
    ranks = stats.rankdata(values)  # the AUC rises with the rank sum of the members; mid-ranks carry ties
    seen = ranks[member].sum() - 1e-9
    if math.comb(n, k) <= config.max_assignments:
        sums = np.fromiter((sum(c) for c in itertools.combinations(ranks.tolist(), k)), dtype=np.float64)
        return float((sums >= seen).mean()), True
    rng = np.random.default_rng(config.seed)
    hits = sum(ranks[rng.permutation(n)[:k]].sum() >= seen for _ in range(config.draws))
    return (1 + int(hits)) / (1 + config.draws), False


def _deal(recording: np.ndarray, who: np.ndarray, config: Config) -> np.ndarray:
    """Part of each window: a person's recordings dealt in turn from a shuffled deck; -1 (always fitted) if
    only one.
    """
    rng = np.random.default_rng(config.seed)
    part = np.full(len(who), -1)
    for p in np.unique(who):
        rows = np.flatnonzero(who == p)
        names, inverse = np.unique(recording[rows].astype(str), return_inverse=True)
        if len(names) >= 2:
            part[rows] = (rng.permutation(len(names)) % config.folds)[inverse]
    return part


def _cells(rows: np.ndarray, who: np.ndarray, label: np.ndarray, config: Config) -> np.ndarray:
    """At most `max_windows` rows, evenly spaced, for each person and label."""
    kept = []
    _, code = np.unique(label.astype(str), return_inverse=True)
    cell = who[rows] * (code.max() + 1) + code[rows]
    for c in np.unique(cell):
        mine = rows[cell == c]
        at = np.linspace(0, len(mine) - 1, min(len(mine), config.max_windows))
        kept.append(mine[np.unique(at.round().astype(int))])
    return np.concatenate(kept)


def _fit(X: np.ndarray, who: np.ndarray, label: np.ndarray, config: Config) -> Any:
    """A function (windows, persons) -> posterior float[n, persons]; persons weigh the same, and labels within
    them.
    """
    seen = np.isfinite(X).any(0)
    X = X[:, seen]
    middle = np.nanmedian(X, axis=0)
    X = np.where(np.isnan(X), middle, X)
    if config.classifier == "forest":
        cells = np.array([f"{w}|{c}" for w, c in zip(who, label, strict=True)])
        _, cell, size = np.unique(cells, return_inverse=True, return_counts=True)
        people = np.unique(who)
        kinds = np.array([len(np.unique(cell[who == p])) for p in people])
        weight = 1 / size[cell] / kinds[np.searchsorted(people, who)]
        model = RandomForestClassifier(n_estimators=config.trees, random_state=config.seed, n_jobs=1)
        model.fit(X, who, sample_weight=weight * len(X) / weight.sum())
    else:
        spread = X.std(0)
        keep = spread > 1e-9 * (1 + np.abs(X).max(0))
        people = np.unique(who)
        inner = LinearDiscriminantAnalysis(
            solver="lsqr", shrinkage="auto", priors=np.full(len(people), 1 / len(people))
        )
        scale, centre = np.where(keep, spread, np.inf), X.mean(0)
        inner.fit((X - centre) / scale, who)
        model = inner

    def posterior(new: np.ndarray, n_people: int) -> np.ndarray:
        new = new[:, seen]
        new = np.where(np.isnan(new), middle, new)
        if config.classifier == "lda":
            new = (new - centre) / scale
        out = np.zeros((len(new), n_people))
        out[:, model.classes_] = model.predict_proba(new)
        return out

    return posterior
