"""Attribute inference: does what was released tell a person's secret (sex, age group, place)?

Two baselines stand beside it, or the number means nothing. What the same *public* attributes tell anybody without the
release is not its doing: the advantage is over the best predictor from these alone, chosen and fitted in the same way.
And what holds of persons who took no part is a fact about the population: only the advantage on members above that on
held-out persons is leakage. All predictors are cross-validated by person.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from pydantic import Field
from scipy import stats
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from ...core.config import Section
from ...core.errors import MienError
from ...core.intervals import Interval, over_persons
from ...core.results import Baseline, Result
from ..identity.reidentify import ready
from ..verification import by_person

NEEDS = ("seen", "secret")
Goal = Literal["accuracy", "balanced"]
_GOALS: tuple[Goal, ...] = ("accuracy", "balanced")


class Config(Section):
    """models: the attacker's choice among them is made inside the fitting persons ("constant", the most common value,
    always belongs to it); c: inverse strength of the logistic ridge; trees: of the forest; folds, inner: of persons,
    for judging and for choosing; seed: of forest and folds.
    """

    models: tuple[Literal["logistic", "forest"], ...] = ("logistic", "forest")
    c: float = Field(default=0.1, gt=0)
    trees: int = Field(default=50, ge=10)
    folds: int = Field(default=5, ge=2)
    inner: int = Field(default=3, ge=2)
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Facts:
    """seen: float64[n, d], what the attacker reads off the embedding, the outputs or the release (NaN: missing);
    public: float64[n, m] what they know anyway, or None; secret: str[n], a category; person: str[n]; member: bool[n],
    whether the person took part in training, or None where nobody was held out; name: of the secret.

    Raises MienError on other shapes, infinite values, one value only, a value held by fewer than two persons, and a
    person who is member and not.
    """

    seen: np.ndarray
    secret: np.ndarray
    person: np.ndarray
    public: np.ndarray | None = None
    member: np.ndarray | None = None
    name: str = "secret"

    def __post_init__(self) -> None:
        put, n = object.__setattr__, len(self.person)
        put(self, "person", np.asarray([str(v) for v in self.person]))
        put(self, "secret", np.asarray([str(v) for v in self.secret]))
        for name in ("seen", "public"):
            value = getattr(self, name)
            if value is not None:
                value = np.asarray(value, dtype=np.float64)
                put(self, name, value)
                if value.ndim != 2 or value.size == 0 or len(value) != n:
                    raise MienError(f"attribute: `{name}` has shape {list(value.shape)} for {n} rows")
                if np.isinf(value).any():
                    raise MienError(f"attribute: infinite values in `{name}`; mark what is missing with NaN")
        if len(self.secret) != n:
            raise MienError(f"attribute: {len(self.secret)} secrets for {n} rows")
        held = {str(v): len(set(self.person[self.secret == v])) for v in np.unique(self.secret)}
        if len(held) < 2:
            raise MienError(f"attribute: everybody's {self.name} is {next(iter(held))!r}; there is nothing to infer")
        rare = [v for v, k in held.items() if k < 2]
        if rare:
            raise MienError(
                f"attribute: {self.name} {rare[0]!r} is held by one person, and cannot be learnt without them; merge rare"
                " values"
            )
        if self.member is not None:
            member = np.asarray(self.member)
            put(self, "member", member)
            if member.dtype != bool or len(member) != n:
                raise MienError(f"attribute: `member` must be true or false for each of {n} rows, got {member.dtype}")
            if both := set(self.person[member]) & set(self.person[~member]):
                raise MienError(f"attribute: {len(both)} persons are member and not; a person is one of them")
            if not 0 < member.sum() < n:
                raise MienError("attribute: `member` is the same for all rows; leave it out where nobody was held out")


@dataclass(frozen=True, kw_only=True)
class Guessed:
    """right, free: bool[n], whether the attacker and the model-free predictor were right on each row."""

    right: np.ndarray
    free: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Inferred:
    """What the attacker found, for plain accuracy (persons weigh the same) and balanced accuracy (values weigh the
    same); control: balanced accuracy on a planted secret."""

    facts: Facts
    guessed: dict[Goal, Guessed]
    control: Interval

    def results(self) -> list[Result]:
        """Accuracy, its advantage over the public attributes, the same balanced, and the leakage (members' advantage
        above held-out persons'); withheld where a planted secret was not found."""
        facts, control = self.facts, self.control
        classes, count = np.unique(facts.secret, return_inverse=True)[0], 1 / len(set(facts.secret))
        known = "public attributes" if facts.public is not None else "nothing public"
        withheld = ""
        if control.low is None or control.low <= count:
            withheld = (
                f"withheld: the attacker does not find a planted {facts.name} (balanced accuracy {control.value:.2f}), so"
                " what it cannot find proves nothing; give it more persons"
            )
        out = []
        for goal in _GOALS:
            g, word = self.guessed[goal], "accuracy" if goal == "accuracy" else "balanced_accuracy"
            attack, free = (_rate(facts, v, goal) for v in (g.right, g.free))
            gain = _rate(facts, g.right.astype(float) - g.free, goal, bounds=(-1.0, 1.0))
            best = Baseline(name=f"model-free ({known})", value=free.value, low=free.low, high=free.high)
            even = Baseline(name="majority", value=_majority(facts)) if goal == "accuracy" else _even(len(classes))
            note = f"{facts.name}, {len(classes)} values; cross-validated by person"
            out.append(_result(f"attribute.{word}", attack, (best, even), note, withheld))
            note = f"above the best predictor from {known}; the population's part of it is not taken off"
            name = "attribute.advantage" if goal == "accuracy" else "attribute.balanced_advantage"
            out.append(_result(name, gain, (Baseline(name="no advantage", value=0.0),), note, withheld))
        out.append(self._leakage(withheld))
        note = f"positive control: balanced accuracy where {facts.name} was planted in what the attacker sees"
        return [*out, _result("attribute.control", control, (_even(len(classes)),), note, "")]

    def _leakage(self, withheld: str) -> Result:
        facts, g = self.facts, self.guessed["accuracy"]
        if facts.member is None:
            return Result(
                metric="attribute.leakage", value=None, higher_is_better=False,
                note="not run: no held-out persons were given, so nobody knows how much of the advantage is statistics",
            )  # fmt: skip
        people, who, size = np.unique(facts.person, return_inverse=True, return_counts=True)
        gain = np.bincount(who, g.right.astype(float) - g.free) / size
        inside = np.zeros(len(people), bool)
        inside[who] = facts.member
        a, b = gain[inside], gain[~inside]
        found = Interval(value=float(a.mean() - b.mean()), low=None, high=None, n_persons=len(people))
        if min(len(a), len(b)) > 1 and a.std() + b.std() > 1e-12:
            test: Any = stats.ttest_ind(a, b, equal_var=False)
            low, high = test.confidence_interval(0.95)
            found = replace(found, low=max(-2.0, float(low)), high=min(2.0, float(high)))
        beside = (Baseline(name="members", value=float(a.mean())), Baseline(name="held-out", value=float(b.mean())))
        note = (
            f"advantage on {len(a)} members less that on {len(b)} held-out persons, which is what the population gives"
        )
        note += (
            " away (Welch over persons)" if found.low is not None else " away; no interval, for persons do not differ"
        )
        return _result("attribute.leakage", found, beside, note, withheld)


def predict(facts: Facts, config: Config) -> Inferred:
    """Guess everybody's secret from what was seen and public, each by predictors that never saw the person; and from
    the public attributes alone. MienError with too few persons for the folds."""
    guessed: dict[Goal, Guessed] = {goal: _guess_all(facts, config, goal) for goal in _GOALS}
    _, code = np.unique(facts.secret, return_inverse=True)
    rng = np.random.default_rng([config.seed, 0xA7])
    spread = np.nanstd(np.where(np.isnan(facts.seen).all(0), 0.0, facts.seen), axis=0)
    marks = 3 * rng.standard_normal((code.max() + 1, facts.seen.shape[1])) * np.where(spread > 0, spread, 1.0)
    planted = replace(facts, seen=facts.seen + marks[code])
    right = _guess_all(planted, config, "balanced").right
    return Inferred(facts=facts, guessed=guessed, control=_rate(facts, right, "balanced"))


def best_accuracy(joint: np.ndarray) -> tuple[float, float, float]:
    """(attacker, model-free, advantage) when everything is known: float[public, seen, secret], probabilities.

    The attacker guesses the likeliest secret given what is public and seen, the other one given what is public.
    """
    joint = np.asarray(joint, dtype=np.float64)
    if joint.ndim != 3 or (joint < 0).any() or not np.isclose(joint.sum(), 1):
        raise MienError(f"a joint distribution over (public, seen, secret) sums to 1, got {list(joint.shape)}")
    attack, free = float(joint.max(2).sum()), float(joint.sum(1).max(1).sum())
    return attack, free, attack - free


def _guess_all(facts: Facts, config: Config, goal: Goal) -> Guessed:
    public = [] if facts.public is None else [facts.public]
    everything = np.hstack([facts.seen, *public])
    # the attacker may also ignore what was released: useless columns must not make public knowledge look stronger
    attack, free = (_cross_validated(x, facts, config, goal) for x in ([everything, *public], public))
    return Guessed(right=attack == facts.secret, free=free == facts.secret)


def _cross_validated(known: list[np.ndarray], facts: Facts, config: Config, goal: Goal) -> np.ndarray:
    """Guesses by the best model on any of the matrices in `known`, chosen and fitted on other persons."""
    guess = np.empty(len(facts.person), dtype=facts.secret.dtype)
    weight, models = _weights(facts, goal), _models(config)
    common = _most(facts.secret, weight)  # how common a value is in the population is no secret
    for fit, held in _folds(facts.secret, facts.person, config.folds, config.seed):
        y, w = facts.secret[fit], weight[fit]
        hits = {None: float((w * (y == common)).sum())} | {(i, m): 0.0 for i in range(len(known)) for m in models}
        for a, b in _folds(y, facts.person[fit], config.inner, config.seed) if known else ():
            for i, X in enumerate(known):
                for m, make in models.items():
                    right = make(X[fit[a]], y[a], w[a])(X[fit[b]]) == y[b]
                    hits[i, m] += float((w[b] * right).sum())
        best = max(hits, key=lambda k: hits[k])
        guess[held] = common if best is None else models[best[1]](known[best[0]][fit], y, w)(known[best[0]][held])
    return guess


def _models(config: Config) -> dict[str, Callable]:
    """name -> a function (X, y, weight) -> a function X -> guesses."""

    def make(new: Callable[[], Any]) -> Callable:
        def fit(X: np.ndarray, y: np.ndarray, w: np.ndarray) -> Callable:
            try:
                scale = ready(X)
            except MienError:  # all columns constant: what is left is the most common value
                common = _most(y, w)
                return lambda new_X: np.full(len(new_X), common)
            if len(set(y)) < 2:
                return lambda new_X: np.full(len(new_X), y[0])
            model = new().fit(scale(X), y, sample_weight=w * len(w) / w.sum())
            return lambda new_X: model.predict(scale(new_X))

        return fit

    kinds = {
        "logistic": make(lambda: LogisticRegression(C=config.c, max_iter=300)),
        "forest": make(lambda: RandomForestClassifier(config.trees, min_samples_leaf=2, random_state=config.seed)),
    }
    return {name: kinds[name] for name in config.models}


def _folds(secret: np.ndarray, person: np.ndarray, folds: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(fit, held) row numbers; persons stay whole, and those with the same (first) value are dealt to all folds."""
    people, first, who = np.unique(person, return_index=True, return_inverse=True)
    if len(people) < 2:
        raise MienError(f"attribute: {len(people)} person to learn from; cross-validation by person needs two or more")
    shuffled = np.random.default_rng(seed).permutation(len(people))
    order = shuffled[np.argsort(secret[first][shuffled], kind="stable")]
    turn = np.empty(len(people), dtype=int)
    turn[order] = np.arange(len(people)) % min(folds, len(people))
    return [(np.flatnonzero(turn[who] != f), np.flatnonzero(turn[who] == f)) for f in range(int(turn.max()) + 1)]


def _weights(facts: Facts, goal: Goal) -> np.ndarray:
    """float64[n]: persons weigh the same; or values do, and persons within them."""
    _, who, size = np.unique(facts.person, return_inverse=True, return_counts=True)
    if goal == "accuracy":
        return 1 / size[who] / len(size)
    values, code = np.unique(facts.secret, return_inverse=True)
    cells, cell, size = np.unique(np.stack([code, who]), axis=1, return_inverse=True, return_counts=True)
    cell = cell.ravel()
    return 1 / size[cell] / np.bincount(cells[0])[code] / len(values)


def _most(values: np.ndarray, weight: np.ndarray) -> str:
    names, code = np.unique(values, return_inverse=True)
    return names[np.bincount(code, weight).argmax()]


def _majority(facts: Facts) -> float:
    _, code = np.unique(facts.secret, return_inverse=True)
    return float(np.bincount(code, _weights(facts, "accuracy")).max())


def _rate(facts: Facts, right: np.ndarray, goal: Goal, bounds: tuple[float, float] = (0.0, 1.0)) -> Interval:
    """The mean of a value per row, with an interval over persons: over persons' means, or over values' such means."""

    def mean(right: np.ndarray, person: np.ndarray, value: np.ndarray) -> float:
        parts = [value == v for v in np.unique(value)] if goal == "balanced" else [np.ones(len(right), bool)]
        return float(np.mean([by_person(person[p], right[p]) for p in parts]))

    return over_persons(mean, facts.person, right.astype(np.float64), facts.person, facts.secret, bounds=bounds)


def _even(k: int) -> Baseline:
    return Baseline(name="chance", value=1 / k)


def _result(metric: str, found: Interval, baselines: tuple[Baseline, ...], note: str, withheld: str) -> Result:
    return Result(
        metric=metric, value=None if withheld else found.value, low=None if withheld else found.low,
        high=None if withheld else found.high, n_persons=found.n_persons, higher_is_better=metric == "attribute.control",
        baselines=baselines, note=withheld or note,
    )  # fmt: skip
