"""Which pairs a study shows, in which order and on which side each rater sees them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from pydantic import Field

from ...core.config import Section
from ...core.errors import MienError
from ..preferences import BROKEN
from ..store import Pair

REAL = "real:"  # with BROKEN, recordings of control pairs: their ids begin so


class Checks(Section):
    """repeats, controls: shares of the pairs, to be added to them; control: "broken" (a synthetic recording against itself in
    pieces: it has a right answer, the first), or "real" (two real recordings, where their persons and licence allow it)."""

    repeats: float = Field(default=0.08, ge=0, le=0.5)
    controls: float = Field(default=0.05, ge=0, le=0.5)
    control: Literal["broken", "real"] = "broken"


def choose(recordings: Mapping[str, Sequence[str]], n: int, seed: int) -> list[Pair]:
    """n pairs of recordings of one label each. recordings: label -> ids. Labels take turns, and every recording is shown
    about equally often. MienError when there are not so many different pairs."""
    rng = np.random.default_rng((seed, 0x9A125))
    decks: dict[str, list[str]] = {k: sorted(ids) for k, ids in recordings.items() if len(ids) > 1}
    left = {k: len(ids) * (len(ids) - 1) // 2 for k, ids in decks.items()}
    if sum(left.values()) < n:
        raise MienError(
            f"pairs: {n} were asked for, and the cohort gives {sum(left.values())} of two recordings with one label;"
            " generate more, or ask for fewer"
        )
    seen: set[tuple[str, str]] = set()
    drawn: dict[str, list[str]] = {k: [] for k in decks}
    out: list[Pair] = []
    while len(out) < n:
        for label in decks:
            if not left[label] or len(out) == n:
                continue
            a, b = _draw(decks[label], drawn[label], seen, rng)
            seen.add((min(a, b), max(a, b)))
            left[label] -= 1
            out.append(Pair(id=_id(seed, a, b), a=a, b=b, label=label))
    return out


def _draw(deck: list[str], drawn: list[str], seen: set[tuple[str, str]], rng: np.random.Generator) -> tuple[str, str]:
    """Two recordings that did not meet: the next two of a shuffled deck, or where these met any others."""
    if len(drawn) < 2:
        drawn[:] = [deck[i] for i in rng.permutation(len(deck)).tolist()]
    a, b = drawn.pop(), drawn.pop()
    for _ in range(20):
        if (min(a, b), max(a, b)) not in seen:
            return a, b
        a, b = (deck[i] for i in rng.choice(len(deck), 2, replace=False).tolist())
    free = [(x, y) for i, x in enumerate(deck) for y in deck[i + 1 :] if (x, y) not in seen]
    a, b = free[int(rng.integers(len(free)))]
    return (a, b) if rng.random() < 0.5 else (b, a)


def with_checks(
    pairs: Sequence[Pair], checks: Checks, seed: int, real: Mapping[str, Sequence[str]] | None = None, shown: int = 0
) -> list[Pair]:
    """The pairs, and beside them some shown again and control pairs. real: label -> ids of real recordings, of persons
    who agreed (only for control="real"); shown: how many pairs of these there are already. Raters cannot tell them apart from
    the others, ids included."""
    rng = np.random.default_rng((seed, 0xC4EC5))
    n_again, n_control = (_count(x, len(pairs)) for x in (checks.repeats, checks.controls))
    out = list(pairs)
    for i in rng.permutation(len(pairs))[:n_again]:
        p = pairs[i]
        out.append(replace(p, id=_id(seed, "again", p.id), kind="repeat", again=p.id))
    if checks.control == "real" and n_control:
        found = choose(real or {}, shown + n_control, seed)[shown:]
        out += [
            replace(p, id=_id(seed, REAL, p.id), a=REAL + p.a, b=REAL + p.b, kind="control", private=True)
            for p in found
        ]
    elif n_control:
        for i in rng.permutation(len(pairs))[:n_control]:
            p = pairs[i]
            out.append(replace(p, id=_id(seed, BROKEN, p.id), b=BROKEN + p.a, kind="control"))
    return out


def hidden(p: Pair) -> Pair:
    """The same pair, for answers that no plain trainer may use."""
    return replace(p, private=True)


def _count(share: float, n: int) -> int:
    return 0 if not share or not n else max(1, round(share * n))


def order(pairs: Sequence[Pair], rater: str, key: bytes) -> list[tuple[Pair, Literal["a", "b"]]]:
    """Every pair with what stands on its left, as this rater is shown them. key: the study's secret.

    A pair shown again comes at least ten pairs (or a third of all) after the first time, with its sides swapped. Order and
    sides are the same whenever asked for.
    """
    rng = np.random.default_rng(list(hashlib.sha256(key + b"order" + rater.encode()).digest()))
    again = {p.again for p in pairs if p.again is not None}
    once = [p.id for p in pairs if p.again is None]
    gap = min(10, len(once) // 3)
    room = max(len(once) - gap, len(again))
    first = rng.permutation(room)[: len(again)].tolist()  # what comes again comes early enough
    rest = rng.permutation(sorted(set(range(len(once))) - set(first))).tolist()
    place = {i: float(first.pop() if i in again else rest.pop()) for i in once}
    for p in pairs:
        if p.again is not None:
            soonest = place[p.again] + gap  # in pairs shown for the first time
            place[p.id] = float(rng.uniform(soonest, max(soonest + 1, len(once)))) + 0.5
    return [(p, side(p, rater, key)) for p in sorted(pairs, key=lambda p: place[p.id])]


def side(p: Pair, rater: str, key: bytes) -> Literal["a", "b"]:
    """What stands on the left: a coin per rater and pair, turned over where a pair is shown again."""
    coin = hashlib.sha256(key + b"side" + rater.encode() + b"\0" + (p.again or p.id).encode()).digest()[0] & 1
    return "a" if coin == (p.again is None) else "b"


def _id(seed: int, *parts: str) -> str:
    return hashlib.sha256("\0".join((str(seed), *parts)).encode()).hexdigest()[:16]
