"""Who trains and who is held out. Disjoint in persons unless a random-window split is asked for by name."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from ..core import runs
from ..core.config import Section
from ..core.errors import MienError
from ..core.records import Cohort, Window
from ..core.runs import write_text

Kind = Literal["person", "random_window"]
WARNING = (
    "The split is by random windows: the same persons are in training and in test, so every utility number here is"
    " too good and no membership number means anything about persons."
)


class Split(Section):
    """holdout, validation: persons (a number or a share); stratify: constant attributes; kind: by person, or by random
    windows of the same persons; fresh: recordings of each person that nothing is trained on, so that an attacker with
    *other* recordings of a person can be tried too; coins: each person is in training by a fair coin of their own, in
    place of a share (`holdout` stays at 0.5), which lower bounds on ε need (attacks/bounds.py); same_as: the
    persons of an earlier adapt run, not a new draw."""

    holdout: int | float = 0.5
    validation: int | float = 0
    stratify: tuple[str, ...] = ()
    kind: Kind = "person"
    fresh: int = Field(default=0, ge=0)
    coins: bool = False
    same_as: str | None = None


@dataclass(frozen=True, kw_only=True)
class Splits:
    """Persons per part. Membership is drawn at random before training; held-out persons are the attacks' non-members.

    kind "random_window": every person is in both `train` and `holdout`, and `side` sends each window to one. fresh:
    recordings, of training and held-out persons alike, that are kept out of training. coins: whether each person had
    a fair coin of their own.
    """

    kind: Kind
    train: tuple[str, ...]
    validation: tuple[str, ...]
    holdout: tuple[str, ...]
    seed: int
    fresh: tuple[str, ...] = ()
    coins: bool = False

    def __post_init__(self) -> None:
        if self.kind == "person":
            parts = [set(self.train), set(self.validation), set(self.holdout)]
            if len(parts[0] | parts[1] | parts[2]) != sum(map(len, parts)):
                raise MienError("a person is in two parts of the split; parts must be disjoint in persons")

    def side(self, window: Window) -> str | None:
        """ "train", "validation", "holdout", "fresh" (a training person's recording that is kept out of training) or
        None (a person outside the split) for one window."""
        if self.kind == "random_window" and window.person in self.train:
            digest = hashlib.sha256(f"{self.seed}:{window.key}".encode()).digest()
            return "train" if digest[0] < 128 else "holdout"
        for part in ("train", "validation", "holdout"):
            if window.person in getattr(self, part):
                return "fresh" if part == "train" and window.recording in self.fresh else part
        return None

    def write(self, path: Path) -> None:
        write_text(path, json.dumps(asdict(self), indent=1))

    @staticmethod
    def read(path: Path) -> Splits:
        raw = json.loads(Path(path).read_text())
        return Splits(
            kind=raw["kind"],
            train=tuple(raw["train"]),
            validation=tuple(raw["validation"]),
            holdout=tuple(raw["holdout"]),
            seed=raw["seed"],
            fresh=tuple(raw.get("fresh", ())),
            coins=raw.get("coins", False),
        )


def draw(
    cohort: Cohort,
    *,
    holdout: int | float = 0.5,
    validation: int | float = 0,
    stratify: Sequence[str] = (),
    kind: Kind = "person",
    fresh: int = 0,
    coins: bool = False,
    seed: int = 0,
) -> Splits:
    """Draw the split.

    holdout, validation: a number of persons, or a share of them. stratify: attributes or labels that are constant
    within a person; each part then gets its share of every combination, as far as counts allow. Raises MienError
    when fewer than two persons are there, or a part would be empty. fresh: recordings per person to keep out of
    training (at least one is left to train on).
    """
    persons = cohort.persons
    if len(persons) < 2:
        raise MienError(
            f"cohort {cohort.card.name!r} has {len(persons)} person; a person-level split needs at least two"
            " (one to train on, one to hold out)"
        )
    if kind == "random_window":
        return Splits(kind=kind, train=tuple(persons), validation=(), holdout=tuple(persons), seed=seed)
    if coins:
        return _tossed(cohort, (holdout, validation, tuple(stratify)), fresh, seed)
    n_hold, n_val = _count(holdout, len(persons), "holdout"), _count(validation, len(persons), "validation")
    if n_hold < 1 or n_hold + n_val >= len(persons):
        raise MienError(
            f"split: holdout {n_hold} and validation {n_val} of {len(persons)} persons leave nobody to train on or"
            " nobody held out"
        )
    order = _interleaved(_strata(cohort, persons, stratify), np.random.default_rng([seed, 0x5E]))
    return Splits(
        kind=kind,
        holdout=tuple(sorted(order[:n_hold])),
        validation=tuple(sorted(order[n_hold : n_hold + n_val])),
        train=tuple(sorted(order[n_hold + n_val :])),
        seed=seed,
        fresh=_fresh(cohort, fresh, seed),
    )


def drawn(cohort: Cohort, split: Split, seed: int | None) -> Splits:
    """The split a recipe asks for. seed None: drawn from the operating system, so that nobody can draw it again."""
    if split.same_as:
        return Splits.read(runs.find(split.same_as, "adapt") / "private" / "splits.json")
    seed = secrets.randbits(62) if seed is None else seed
    return draw(cohort, **split.model_dump(exclude={"same_as"}), seed=seed)


def kept(path: Path, drawn: Splits) -> Splits:
    """The split a run was begun with, if `path` holds one; else `drawn`, written there."""
    if not path.exists():
        drawn.write(path)
    return Splits.read(path)


def _tossed(cohort: Cohort, others: tuple, fresh: int, seed: int) -> Splits:
    """Everybody by their own coin."""
    persons = sorted(cohort.persons)
    if others != (0.5, 0, ()):
        raise MienError(
            "split.coins: each person has a fair coin; leave holdout at 0.5, and validation and stratify out"
        )
    if len(persons) < 20:
        raise MienError(f"split.coins: {len(persons)} persons may all fall on one side; it takes 20 or more")
    heads = np.random.default_rng([seed, 0xC0]).random(len(persons)) < 0.5
    sides = [tuple(p for p, h in zip(persons, heads, strict=True) if h == side) for side in (True, False)]
    return Splits(
        kind="person", train=sides[0], validation=(), holdout=sides[1], seed=seed, fresh=_fresh(cohort, fresh, seed), coins=True
    )  # fmt: skip


def _fresh(cohort: Cohort, each: int, seed: int) -> tuple[str, ...]:
    """`each` recordings of every person, drawn; somebody with fewer keeps one to train on."""
    if each == 0:
        return ()
    rng, of = np.random.default_rng([seed, 0xF2E5]), defaultdict(list)
    for person, recording in zip(cohort.column("person"), cohort.column("id"), strict=True):
        of[person].append(recording)
    if max(map(len, of.values())) < 2:
        raise MienError("split.fresh: nobody has two recordings, so none can be kept out of training; leave it at 0")
    chosen = []
    for person in sorted(of):
        names = sorted(of[person])
        chosen += [names[i] for i in rng.permutation(len(names))[: min(each, len(names) - 1)]]
    return tuple(sorted(chosen))


def _count(part: int | float, n: int, name: str) -> int:
    if isinstance(part, float) and 0 <= part < 1:
        return round(part * n)
    if part != int(part) or part < 0:
        raise MienError(f"split.{name} is a number of persons or a share below 1, got {part!r}")
    return int(part)


def _strata(cohort: Cohort, persons: Sequence[str], stratify: Sequence[str]) -> list[list[str]]:
    if not stratify:
        return [list(persons)]
    seen: dict[str, dict[str, str]] = defaultdict(dict)
    rows = zip(cohort.column("person"), cohort.column("labels"), cohort.column("attributes"), strict=True)
    for person, labels, attributes in rows:
        for name in stratify:
            value = str(attributes.get(name, labels.get(name)))
            if seen[person].setdefault(name, value) != value:
                raise MienError(f"split.stratify: {name!r} differs within one person; only constant ones can stratify")
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for person in persons:
        groups[tuple(seen[person][n] for n in stratify)].append(person)
    return [groups[k] for k in sorted(groups)]


def _interleaved(strata: Sequence[Sequence[str]], rng: np.random.Generator) -> list[str]:
    """A random order in which every prefix holds about its share of each stratum."""
    places = []
    for group in strata:
        shuffled = [group[i] for i in rng.permutation(len(group))]
        offset = rng.random()
        places += [((i + offset) / len(group), rng.random(), p) for i, p in enumerate(shuffled)]
    return [p for _, _, p in sorted(places)]
