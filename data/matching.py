"""Persons of different classes who are alike in what is known of them without any signal: what is left of a result there?

Exact matching in groups: attributes as they are, numbers in bands (coarsened exact matching; Iacus, King & Porro 2012, Political
Analysis 20:1). In each group as many persons of each class are kept, drawn at random. For sound and COVID-19 that took an AUROC of
.846 to .619 (Coppock et al. 2024).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field

from ..core.config import Section
from ..core.errors import MienError
from ..core.records import Cohort
from .features import WindowTable

LEAST = 2  # persons of each class, below which nothing is told of them


class Match(Section):
    """by: attributes that must agree (what nobody said agrees with what nobody said); bands: width of the bands of those that
    are numbers."""

    by: tuple[str, ...] = Field(min_length=1)
    bands: dict[str, float] = {"age": 10.0}


@dataclass(frozen=True, kw_only=True)
class Alike:
    """persons: who are kept; said: by what, how many of how many, or why nobody is."""

    persons: frozenset[str]
    said: str


def alike(cohort: Cohort, tested: WindowTable, match: Match | None, seed: int) -> Alike | None:
    """Among the tested windows' persons. None where nothing is asked for.

    Whoever has several classes is left out: they are their own match, which `average: person` is for. MienError for an unknown
    attribute, and a width that is none."""
    if match is None:
        return None
    known = cohort.card.attributes
    if strange := [n for n in (*match.by, *(n for n in match.bands if n in match.by)) if n not in known]:
        raise MienError(
            f"match.by: no attribute {strange[0]!r} in {cohort.card.name}; there are {', '.join(known) or 'none'}"
        )
    if wrong := [n for n, w in match.bands.items() if not 0 < w < np.inf]:
        raise MienError(f"match.bands.{wrong[0]}: {match.bands[wrong[0]]:g} is no width")
    classes: dict[str, set[str]] = {}
    for p, c in zip(tested.person, tested.label, strict=True):
        classes.setdefault(str(p), set()).add(str(c))
    every = sorted(set(map(str, tested.label)))
    several = sum(len(c) > 1 for c in classes.values())
    said: dict[str, dict[str, set]] = {p: {n: set() for n in match.by} for p in classes}
    for p, a in zip(cohort.column("person"), cohort.column("attributes"), strict=True):
        for n in match.by if p in said else ():
            if a.get(n) is not None:
                said[p][n].add(_coarse(a[n], match.bands.get(n)))
    groups: dict[Any, dict[str, list[str]]] = {}
    for p, of in sorted(classes.items()):
        if len(of) == 1:
            key = tuple(frozenset(said[p][n]) for n in match.by)
            groups.setdefault(key, {c: [] for c in every})[next(iter(of))].append(p)
    rng, kept = np.random.default_rng([seed, 0x3A7C4]), []
    for group in groups.values():
        n = min(map(len, group.values()))
        kept += [p for c in every for p in rng.permutation(group[c])[:n].tolist()]
    how = ", ".join(f"{n} (bands of {match.bands[n]:g})" if n in match.bands else n for n in match.by)
    left = f"; {several} of several classes left out" if several else ""
    if len(every) < 2 or len(kept) < LEAST * len(every):
        return Alike(
            persons=frozenset(), said=f"not measured: {len(kept)} of {len(classes)} tested persons agree by {how}{left}"
        )
    return Alike(
        persons=frozenset(kept),
        said=f"{len(kept)} of {len(classes)} tested persons, as many of each class among those who agree by {how}{left}; one draw",
    )  # fmt: skip


def _coarse(value: Any, width: float | None) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value // width) if number and width is not None else value
