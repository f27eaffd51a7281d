"""What would spoil a result on a loaded cohort: the mistakes that published numbers on these databases were made with.

Shared persons between training and test, labels that the date or a person's age gives away, values scaled by what is only
known after the test, an interviewer's questions among the answers, too few persons, persons who can be singled out.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from ..core import config, plugins
from ..core.errors import MienError
from ..core.records import RESTRICTIONS, Cohort, Text
from . import clues, splits
from . import folds as division
from .check import Finding

_ADULT = 18
_FEW = 30  # persons, below which one of them is more than three points
_PLACES = ("country", "state", "locality", "city", "region", "postcode", "zip", "site", "place", "location")
_PEOPLE = ("age", "sex", "gender", "race", "ethnicity")
_ROLES = ("interviewer", "agent", "ellie", "therapist", "clinician")  # who asks, and knows what to ask


def traps(
    cohort: Cohort, *, name: str = "", recipe: str | Path | None = None, folds: str | Path | None = None
) -> list[Finding]:
    """Everything found, worst first. name: of the database; recipe: an adapt recipe; folds: a published division
    (data/folds.py). MienError naming the file when one of these cannot be read.

    error: a result would not be about new people; warning: read it before you claim; info: good to know.
    """
    rows = _Rows.of(cohort)
    found = [
        *_shared(rows, name, cohort, recipe, folds), *_prompts(cohort, rows), *_scaled(rows), *_clues(cohort, rows),
        *_people(cohort, rows), *_terms(cohort),
        *(Finding(level="info", where="left out", problem=line.strip()) for line in cohort.told),
    ]  # fmt: skip
    if known := known_traps(name):
        found.append(Finding(level="info", where="docs/databases.md", problem=known))
    order = {"error": 0, "warning": 1, "info": 2}
    return sorted(found, key=lambda f: order[f.level])


def page(name: str) -> str:
    """What docs/databases.md, which comes with Mien, says of a database; empty when it says nothing."""
    file = plugins.ROOT / "docs" / "databases.md"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    part = re.search(rf"^## {re.escape(name)}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    return part[1].strip() if part else ""


def known_traps(name: str) -> str:
    """The page's own paragraph on traps, as one line."""
    part = re.search(r"^- \*\*Traps\.\*\*(.*?)(?=^- |\n\n|\Z)", page(name), re.M | re.S)
    return " ".join(part[1].split()) if part else ""


# --- one pass over the cohort ---------------------------------------------------------------------------------
@dataclass
class _Rows:
    """What the traps need of each recording, in order; no samples are kept."""

    id: list[str] = field(default_factory=list)
    person: list[str] = field(default_factory=list)
    labels: list[Mapping[str, Any]] = field(default_factory=list)
    attributes: list[Mapping[str, Any]] = field(default_factory=list)
    session: list[str] = field(default_factory=list)
    start_s: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    asked: Counter[str] = field(default_factory=Counter)  # stream -> recordings in which somebody asks
    # (stream, channel) -> person -> count, sum, sum of squares, lowest, highest
    moments: dict[tuple[str, str], dict[str, np.ndarray]] = field(default_factory=lambda: defaultdict(dict))

    @staticmethod
    def of(cohort: Cohort) -> _Rows:
        out = _Rows()
        for r in cohort:
            for key in ("id", "person", "labels", "attributes", "session", "start_s", "seconds"):
                getattr(out, key).append(getattr(r, key))
            for name, s in r.streams.items():
                out.asked[name] += isinstance(s, Text) and any(x.lower() in _ROLES for x in s.speakers)
            for name, s in r.signals.items():
                good = (s.values if s.valid is None else s.values[s.valid]).astype(np.float64)
                if len(good):
                    parts = [np.full(good.shape[1], len(good)), good.sum(0), (good**2).sum(0), good.min(0), good.max(0)]
                    for channel, new in zip(s.channels, np.array(parts).T, strict=True):
                        of = out.moments[name, channel]
                        old = of.get(r.person)
                        of[r.person] = new if old is None else _joined(old, new)
        return out

    @property
    def traits(self) -> dict[str, dict[str, Any]]:
        """Person -> attributes that do not differ between their recordings."""
        seen: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
        for p, facts in zip(self.person, self.attributes, strict=True):
            for k, v in facts.items():
                seen[p][k].add(v)
        return {p: {k: next(iter(v)) for k, v in seen[p].items() if len(v) == 1} for p in dict.fromkeys(self.person)}


def _joined(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.array([*(a[:3] + b[:3]), min(a[3], b[3]), max(a[4], b[4])])


# --- who is on which side -------------------------------------------------------------------------------------
def _shared(
    rows: _Rows, name: str, cohort: Cohort, recipe: str | Path | None, folds: str | Path | None
) -> Iterator[Finding]:
    if recipe is not None:
        yield from _recipe(cohort, name, str(recipe))
    if folds is not None:
        yield from division.overlap(Path(folds), {by: _names(rows, persons=by) for by in (True, False)})


def _recipe(cohort: Cohort, name: str, file: str) -> Iterator[Finding]:
    raw = config.read(file)
    where = f"{file}, split"
    asked = raw.get("cohort") or {}
    if name and isinstance(asked, Mapping) and asked.get("name") != name:
        yield Finding(
            level="warning", where=file, problem=f"it reads the cohort {asked.get('name')!r}, not {name!r}",
            fix="check the recipe that you will run",
        )  # fmt: skip
    split = config.parse(splits.Split, raw.get("split") or {}, where)
    if split.kind == "random_window":
        yield Finding(level="error", where=where, problem=splits.WARNING, fix="leave split.kind out: split by person")
    elif not split.same_as:
        try:
            drawn = splits.draw(cohort, **split.model_dump(exclude={"same_as"}))
        except MienError as error:
            yield Finding(level="error", where=where, problem=str(error), fix="correct the split")
            return
        n, m = len(drawn.train), len(drawn.holdout)
        yield Finding(level="info", where=where, problem=f"by person: {n} to train on, {m} held out, nobody in both")


def _names(rows: _Rows, persons: bool) -> dict[str, str]:
    """How a file of folds may write a person or a recording -> the cohort's person. Ids begin with the database's name."""
    out: dict[str, str] = {}
    for full, person in zip(rows.person if persons else rows.id, rows.person, strict=True):
        parts = full.split("-")
        for i in range(len(parts)):
            out.setdefault("-".join(parts[i:]), person)
    return out


# --- what the samples hold ------------------------------------------------------------------------------------
def _prompts(cohort: Cohort, rows: _Rows) -> Iterator[Finding]:
    for name, n in rows.asked.items():
        if n:
            yield Finding(
                level="warning", where=f"stream {name}", fix="read the participant alone, or report the prompts alone beside",
                problem=f"the interviewer's prompts are in {n} of {len(rows.id)} recordings: late questions are asked of those"
                " already thought ill, and a model may read the label off them",
            )  # fmt: skip


def _scaled(rows: _Rows) -> Iterator[Finding]:
    """Streams whose every person has mean 0 and deviation 1, or lowest 0 and highest 1."""
    hits: dict[str, list[str]] = defaultdict(list)
    for (stream, channel), of in rows.moments.items():
        if len(of) < 3:
            continue
        n, total, squares, low, high = np.array(list(of.values())).T
        mean = total / n
        deviation = np.sqrt(np.maximum(squares / n - mean**2, 0))
        if (np.abs(mean) < 1e-3).all() and (np.abs(deviation - 1) < 1e-2).all():
            hits["mean 0 and deviation 1"].append(f"{stream}.{channel}")
        elif (np.abs(low) < 1e-6).all() and (np.abs(high - 1) < 1e-6).all():
            hits["lowest 0 and highest 1"].append(f"{stream}.{channel}")
    for how, channels in hits.items():
        yield Finding(
            level="warning", where=", ".join(channels), fix="scale by public ranges, or by a person's earlier recordings",
            problem=f"every person has {how}: scaled by their whole recordings, the later ones included. Such a result looks"
            " into the test, and the level, which a wearable knows, is gone",
        )  # fmt: skip


# --- what metadata alone says of the label --------------------------------------------------------------------
def _clues(cohort: Cohort, rows: _Rows) -> Iterator[Finding]:
    for task in cohort.card.tasks:
        use = [i for i, x in enumerate(rows.labels) if task in x]
        y = np.array([str(rows.labels[i][task]) for i in use], dtype=object)
        person = np.array([rows.person[i] for i in use], dtype=object)
        where = f"label {task}"
        if len(set(y)) < 2 or min(len({*person[y == c]}) for c in set(y)) < 2 or len({*person}) < 4:
            yield Finding(
                level="info", where=where, problem="too few persons or classes to tell what metadata says of it"
            )
            continue
        columns = clues.columns({k: [v[i] for i in use] for k, v in metadata(rows).items()})
        found = [clues.Clue.measured(name, x, y, person) for name, x in columns.items()]
        majority = max(Counter(y).values()) / len(y)
        told = sorted((c for c in found if c.telling), key=lambda c: -c.value)[:5]
        if len(columns) > 1:
            told.append(clues.Clue.measured("all of it together", np.hstack(list(columns.values())), y, person))
        if told:
            yield Finding(
                level="warning" if told[0].telling else "info", where=where,
                problem=f"metadata alone, on persons it was not learnt on: {'; '.join(c.text() for c in told)} (always the"
                f" commonest label: balanced accuracy {clues.short(1 / len(set(y)))}, accuracy {clues.short(majority)})",
                fix="report this beside any result; balance, match or split by what gives the label away",
            )  # fmt: skip
        if all(len({*y[person == p]}) == 1 for p in {*person}):
            n = len({*person})
            yield Finding(level="info", where=where, problem=f"one label per person: its sample size is {n} persons")


def metadata(rows: _Rows) -> dict[str, list[Any]]:
    """Column -> value per recording: what is known of one without its samples."""
    out: dict[str, list[Any]] = {
        "session": list(rows.session),
        "start": [round(s, 3) for s in rows.start_s],
        "length": [round(s, 2) for s in rows.seconds],
    }
    for name in sorted({a for facts in rows.attributes for a in facts}):
        out[name] = [facts.get(name) for facts in rows.attributes]
    return out


# --- the persons, and the terms -------------------------------------------------------------------------------
def _people(cohort: Cohort, rows: _Rows) -> Iterator[Finding]:
    traits = rows.traits
    n = len(traits)
    if n < _FEW:
        yield Finding(
            level="warning", where="persons", fix="give intervals over persons, and each person's own number",
            problem=f"{n} persons: one of them is {100 / n:.1f} points of a share, and no small gap between methods is real",
        )  # fmt: skip
    young = [p for p, facts in traits.items() if isinstance(a := facts.get("age"), int | float) and a < _ADULT]
    if young:
        yield Finding(
            level="warning", where="persons", fix="leave them out, or have their guardians' consent on record",
            problem=f"{len(young)} are under {_ADULT}",
        )  # fmt: skip
    everything = [a for a in cohort.card.attributes if any(a in facts for facts in traits.values())]
    known = [a for a in everything if a in (*_PLACES, *_PEOPLE)]
    for names in dict.fromkeys((tuple(known), tuple(everything))):
        cells = Counter(tuple(str(facts.get(a)) for a in names) for facts in traits.values())
        alone = sum(k == 1 for k in cells.values())
        if names and alone:
            yield Finding(
                level="warning" if alone / n >= 0.1 else "info", where=f"attributes ({', '.join(names)})"[:160],
                problem=f"{alone} of {n} persons ({100 * alone / n:.0f} %) are the only one with their combination: who knows"
                " these facts can point at them",
                fix="coarsen them (age in decades, country alone), or use fewer",
            )  # fmt: skip
    if cohort.card.synthetic:
        return
    refused: Counter[str] = Counter()
    for p in traits:
        consent = cohort.consents.get(p)
        reason = "no consent recorded" if consent is None else consent.refusal("training", date.today())
        refused.update([reason] if reason else [])
    for reason, k in refused.items():
        yield Finding(level="info", where="consent", problem=f"{k} person(s) are left out of training: {reason}")


def _terms(cohort: Cohort) -> Iterator[Finding]:
    asked = cohort.card.restrictions
    if not asked:
        yield Finding(
            level="info",
            where="licence",
            problem=f"{cohort.card.licence}; the card names no restriction",
            fix="read the terms",
        )
        return
    level = "info" if set(asked) <= {"attribution"} else "warning"
    yield Finding(
        level=level, where="licence", fix="what is adapted to it or sampled from it carries these on",
        problem=f"{cohort.card.licence}: {'; '.join(f'{r} ({RESTRICTIONS[r]})' for r in asked)}",
    )  # fmt: skip
