"""Who trains and who is held out. Disjoint in persons unless a random-window split is asked for by name."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from ..core import console, runs
from ..core.config import Section
from ..core.errors import MienError
from ..core.records import Cohort, Window
from ..core.runs import write_text

Kind = Literal["person", "random_window", "time", "official"]
WARNING = (
    "The split is by random windows: the same persons are in training and in test, so every utility number here is"
    " too good and no membership number means anything about persons."
)
CHOSEN = (
    "Who trained was not drawn at random but given ({kind}): an attack may tell the one group from the other by what else"
    " differs between them. Read each attack beside the blind one, and take no bound on ε from it."
)
_SIDES = {
    "train": ("train", "training"), "validation": ("validation", "val", "dev", "devel", "development"),
    "holdout": ("test", "testing", "holdout"),
}  # fmt: skip


def warnings(splits: Splits) -> tuple[str, ...]:
    """What every report on such a split must say."""
    if splits.kind == "random_window":
        return (WARNING,)
    return () if splits.kind == "person" else (CHOSEN.format(kind=splits.kind),)


class Split(Section):
    """holdout, validation: persons (a number or a share); stratify: constant attributes; kind: by person; in time (who came
    last is held out); official (a column says who is on which side); or by random windows of the same persons; by: the
    attribute with the date (default: `start_s`), or the official side; fresh: recordings of each person that nothing is
    trained on, so that an attacker with *other* recordings of a person can be tried too; coins: each person is in training
    by a fair coin of their own, in place of a share (`holdout` stays at 0.5), which lower bounds on ε need
    (attacks/bounds.py); same_as: the persons of an earlier adapt run, not a new draw."""

    holdout: int | float = 0.5
    validation: int | float = 0
    stratify: tuple[str, ...] = ()
    kind: Kind = "person"
    by: str | None = None
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
        if self.kind != "random_window":
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
    by: str | None = None,
    fresh: int = 0,
    coins: bool = False,
    seed: int = 0,
) -> Splits:
    """Draw the split.

    holdout, validation: a number of persons, or a share of them. stratify: attributes or labels that are constant
    within a person; each part then gets its share of every combination, as far as counts allow. Raises MienError
    when fewer than two persons are there, or a part would be empty. fresh: recordings per person to keep out of
    training (at least one is left to train on).

    kind "time": persons in the order of their dates (`by`, an attribute: a number or ISO text; else `start_s`), the last
    held out, with everybody of the day where the sides meet. "official": `by` says train, validation (dev) or test. Who has
    no date or side, or recordings on both sides of the cut in time, is left out, and counted on the screen.
    """
    persons = cohort.persons
    if len(persons) < 2:
        raise MienError(
            f"cohort {cohort.card.name!r} has {len(persons)} person; a person-level split needs at least two"
            " (one to train on, one to hold out)"
        )
    if kind == "random_window":
        return Splits(kind=kind, train=tuple(persons), validation=(), holdout=tuple(persons), seed=seed)
    if kind != "person" and (coins or stratify):
        raise MienError(f"split.kind: {kind} leaves nothing to draw; leave coins and stratify out")
    if by is not None and kind not in ("time", "official"):
        raise MienError(f"split.by: {by!r} is for the kinds time and official, not {kind}")
    if kind == "official":
        return _official(cohort, by, (holdout, validation), fresh, seed)
    if coins:
        return _tossed(cohort, (holdout, validation, tuple(stratify)), fresh, seed)
    n_hold, n_val = _count(holdout, len(persons), "holdout"), _count(validation, len(persons), "validation")
    if n_hold < 1 or n_hold + n_val >= len(persons):
        raise MienError(
            f"split: holdout {n_hold} and validation {n_val} of {len(persons)} persons leave nobody to train on or"
            " nobody held out"
        )
    if kind == "time":
        return _in_time(cohort, by, n_hold / len(persons), n_val / len(persons), fresh, seed)
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
        return Splits.read(runs.adapter(split.same_as) / "private" / "splits.json")
    seed = secrets.randbits(62) if seed is None else seed
    return draw(cohort, **split.model_dump(exclude={"same_as"}), seed=seed)


def kept(path: Path, drawn: Splits) -> Splits:
    """The split a run was begun with, if `path` holds one; else `drawn`, written there."""
    if not path.exists():
        drawn.write(path)
    return Splits.read(path)


def _said(cohort: Cohort, by: str) -> dict[str, list[Any]]:
    """Person -> what an attribute or label says in their recordings, where it says something."""
    known = (*cohort.card.attributes, *cohort.card.tasks)
    if by not in known and not any(by in labels for labels in cohort.column("labels")):  # one without classes
        raise MienError(f"split.by: the cohort has no attribute {by!r}; there are {', '.join(cohort.card.attributes)}")
    out: dict[str, list[Any]] = {p: [] for p in cohort.persons}
    rows = zip(cohort.column("person"), cohort.column("labels"), cohort.column("attributes"), strict=True)
    for person, labels, attributes in rows:
        if (value := attributes.get(by, labels.get(by))) is not None:
            out[person].append(value)
    return out


def _official(cohort: Cohort, by: str | None, others: tuple, fresh: int, seed: int) -> Splits:
    """Persons by the side a column names."""
    if by is None or others != (0.5, 0):
        raise MienError(
            "split.kind: official needs split.by, the column that says train or test, and no holdout or validation"
        )
    sides: dict[str, list[str]] = {side: [] for side in _SIDES}
    without = 0
    for person, values in _said(cohort, by).items():
        told = {side for v in values for side, words in _SIDES.items() if str(v).strip().lower() in words}
        unknown = sorted({str(v) for v in values if not any(str(v).strip().lower() in w for w in _SIDES.values())})
        if unknown:
            raise MienError(
                f"split.by: {by} is {unknown[0]!r} for somebody; train, validation (dev) and test are known"
            )
        if len(told) > 1:
            raise MienError(f"split.by: {by} puts one person into {' and '.join(sorted(told))}; a person has one side")
        without += not told
        for side in told:
            sides[side].append(person)
    if not sides["train"] or not sides["holdout"]:
        raise MienError(
            f"split.by: {by} names {len(sides['train'])} persons to train and {len(sides['holdout'])} to test on"
        )
    _tell(without, f"no {by}")
    train, validation, holdout = (tuple(sorted(of)) for of in sides.values())
    return Splits(
        kind="official", train=train, validation=validation, holdout=holdout, seed=seed, fresh=_fresh(cohort, fresh, seed)
    )  # fmt: skip


def _in_time(cohort: Cohort, by: str | None, holdout: float, validation: float, fresh: int, seed: int) -> Splits:
    """The persons who came last are held out; the last of the others are for validation."""
    if by is None:
        dates: dict[str, list[Any]] = defaultdict(list)
        for person, start in zip(cohort.column("person"), cohort.column("start_s"), strict=True):
            dates[person].append(start)
    else:
        dates = _said(cohort, by)
    known = {p: (min(v), max(v)) for p, v in dates.items() if v and len({isinstance(x, str) for x in v}) == 1}
    if len({isinstance(first, str) for first, _ in known.values()}) > 1:
        raise MienError(
            f"split.by: {by} is a number for some and text for others; dates must be of one kind to have an order"
        )
    _tell(len(dates) - len(known), f"no {by or 'start_s'}")
    order = sorted(known, key=lambda p: (known[p][0], p))
    at = len(order) - max(1, round(holdout * len(order)))
    if at < 1:
        raise MienError(f"split.by: {len(order)} person(s) have a date; two at least are needed, on different dates")
    cut = known[order[at]][0]
    late = [p for p in order if known[p][0] >= cut]
    early = [p for p in order if known[p][1] < cut]
    _tell(len(order) - len(late) - len(early), "recordings on both sides of the cut in time")
    n_val = round(validation * len(order))
    if len(early) <= n_val:
        raise MienError(
            f"split.kind: time leaves {len(early)} person(s) before the cut; too many share one date, or holdout is too large"
        )
    early.sort(key=lambda p: (known[p][1], p))
    return Splits(
        kind="time", train=tuple(sorted(early[: len(early) - n_val])), validation=tuple(sorted(early[len(early) - n_val :])),
        holdout=tuple(sorted(late)), seed=seed, fresh=_fresh(cohort, fresh, seed),
    )  # fmt: skip


def _tell(count: int, why: str) -> None:
    if count:
        console.say(f"  split: {count} person(s) left out: {why}")


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
