"""Attribute inference: does the release tell a secret of a window from what else is known of it?

The attacker knows some columns of a window, finds the nearest synthetic window in them and takes its secret (in the
manner of Anonymeter, arXiv 2211.10459). What is true of everybody is no leak: the same attack on held-out persons is
the control, and the gain is over the best predictor of the same secret from the same columns that was fitted on other
people, without the release.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.model_selection import GroupKFold
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

from ...core.config import Section
from ...core.errors import MienError
from ...core.intervals import Interval, over_persons
from ...core.results import Baseline, Result
from ...data.features import WindowTable
from ..releases import Release, compare, neighbours, unfair
from ..signals import pool

NEEDS = ("reference",)


class Config(Section):
    """secret: the label, or the index of a column; known: indices of the columns the attacker has (all others by
    default); tolerance: a number is right within so many sd of the reference; trees, folds: of the model-free forest,
    and of the reference's persons when the model-free predictor is chosen; seed: of the forest."""

    secret: Literal["label"] | int = "label"
    known: tuple[int, ...] | None = None
    tolerance: float = Field(default=0.1, gt=0)
    trees: int = Field(default=100, ge=10)
    folds: int = Field(default=3, ge=2)
    seed: int = 0


def run(release: Release, config: Config, *, blind: Interval | None = None) -> list[Result]:
    """Risk, attack rate and control rate (`releases.compare`), then the advantage on members over the best model-free
    predictor. naive: a secret drawn from the release at random."""
    release.needs(NEEDS)
    reference = release.reference
    assert reference is not None
    known = _known(release, config)
    scale = release.scale(known)
    (keep, x, truth), (_, made, theirs), (there, other, public) = (
        _rows(n, t, scale, config) for n, t in (("candidates", release.candidates), ("release", release.synthetic),
                                                ("reference", reference))
    )  # fmt: skip
    spread = 0.0 if config.secret == "label" else config.tolerance * float(np.std(public))
    s = release.signals().rows(keep)

    def right(guess: np.ndarray, truth: np.ndarray) -> np.ndarray:
        return (guess == truth if config.secret == "label" else np.abs(guess - truth) <= spread).astype(np.float64)

    name, guess = _model_free(other, public, np.asarray(reference.person)[there].astype(str), x, right, config)
    success, free = right(theirs[neighbours(x, made)[1][:, 0]], truth), right(guess, truth)
    naive = np.array([right(theirs, t).mean() for t in truth])
    attack, chance, best = (pool(s, v, "person", attack="inference") for v in (success, naive, free))
    m = attack.member
    without = over_persons(np.mean, best.persons[m], best.score[m])
    out = compare(
        "inference", np.mean, attack.score[m], attack.score[~m], naive=float(chance.score[m].mean()),
        trials=(success[s.member], success[~s.member]), blind=blind,
        baselines=(Baseline(name=f"model-free ({name})", value=without.value, low=without.low, high=without.high),),
    )  # fmt: skip
    gain, control = (
        over_persons(np.mean, attack.persons[side], (attack.score - best.score)[side], bounds=(-1.0, 1.0))
        for side in (m, ~m)
    )
    note = (
        f"right guesses on members above the best predictor without the release ({name}, chosen on the reference);"
        " what held-out persons lose as well is knowledge of the population"
    )
    if missing := int((~keep).sum()):
        note += f"; {missing} windows without the secret were left out"
    held = Baseline(name="held-out persons", value=control.value, low=control.low, high=control.high)
    why = unfair(blind)
    return [*out, Result(
        metric="inference.advantage", value=None if why else gain.value, low=None if why else gain.low,
        high=None if why else gain.high, n_persons=gain.n_persons, higher_is_better=False,
        baselines=(Baseline(name="no advantage", value=0.0), held), note=why or note,
    )]  # fmt: skip


def _known(release: Release, config: Config) -> list[int]:
    d = release.synthetic.X.shape[1]
    known = [c for c in range(d) if c != config.secret] if config.known is None else list(config.known)
    wrong = [c for c in known if not 0 <= c < d or c == config.secret]
    outside = config.secret != "label" and not 0 <= config.secret < d
    if outside or not known or wrong:
        raise MienError(f"inference: the secret and the known columns are different ones of 0 to {d - 1}")
    return known


def _rows(name: str, table: WindowTable, scale, config: Config) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(rows that have the secret bool[n], their known columns, their secret)."""
    if config.secret == "label":
        return np.ones(len(table), dtype=bool), scale(table.X), np.asarray(table.label).astype(str)
    keep = np.isfinite(table.X[:, config.secret])
    if not keep.any():
        raise MienError(f"inference: no window of the {name} has column {config.secret}")
    return keep, scale(table.X[keep]), table.X[keep, config.secret]


def _model_free(X: np.ndarray, y: np.ndarray, persons: np.ndarray, new: np.ndarray, right, config: Config):
    """(name, guesses for `new`) of the predictor with the best hit rate in cross-validation over other persons."""
    label, trees = config.secret == "label", config.trees
    kinds = {
        "constant": lambda n: DummyClassifier(strategy="most_frequent") if label else DummyRegressor(strategy="median"),
        "neighbours": lambda n: (KNeighborsClassifier if label else KNeighborsRegressor)(n_neighbors=min(5, n)),
        "forest": lambda n: (RandomForestClassifier if label else RandomForestRegressor)(
            trees, random_state=config.seed
        ),
    }
    folds = min(config.folds, len(set(persons)))
    if folds < 2:
        raise MienError("inference: the reference holds one person, so no model-free predictor can be chosen on it")
    hits = dict.fromkeys(kinds, 0.0)
    for fit, held in GroupKFold(folds).split(X, y, persons):
        for name, make in kinds.items():
            hits[name] += right(make(len(fit)).fit(X[fit], y[fit]).predict(X[held]), y[held]).sum()
    best = max(hits, key=lambda name: hits[name])
    return best, kinds[best](len(X)).fit(X, y).predict(new)
