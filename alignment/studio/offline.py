"""The studio as one file without a server, and what comes back from it."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...core.errors import MienError
from ...core.runs import write_text
from .. import judged, preferences
from ..preferences import Choice, Preference
from ..store import Advice, Answer, Pair, Refused, Store
from . import plan, shown
from .server import Desk, Study, page

LATE = "left-out older answer"


def write_pages(study: Study, raters: Sequence[str], path: Path) -> list[Path]:
    """A page for each rater: `path`, or with several raters path-RATER.html. They hold recordings: only their owner may
    read them."""
    files = [path if len(raters) == 1 else path.with_name(f"{path.stem}-{r}{path.suffix}") for r in raters]
    for rater, file in zip(raters, files, strict=True):
        write_text(file, page_for(study, rater), private=True)
    return files


def page_for(study: Study, rater: str) -> str:
    """A page for one rater with the pairs they have not answered yet, in their own order, every recording once.

    Pairs of real recordings are left out, for a file travels; so is whatever somebody was recognised in. Neither ids nor
    kinds of pairs are in it; which recordings are one and the same (`of`) is, for all of them are hidden together. The seal
    says whose page it is.
    """
    desk, closed = Desk(study, rater), study.store.blocked() | study.gone
    numbers: dict[str, int] = {}
    pairs = []
    for p, _ in desk.order:
        both = [desk.recording(p.id, side) for side in ("left", "right")]
        plain = {r.removeprefix(plan.BROKEN) for r in both}
        if p.id in desk.done or plain & closed or any(r.startswith(plan.REAL) for r in both):
            continue
        left, right = (numbers.setdefault(r, len(numbers)) for r in both)
        pairs.append({"pair": p.id, "label": p.label, "left": left, "right": right})
    if not pairs:
        raise MienError(f"{rater} has answered every pair that may be put into a file")
    recordings = [shown.show(study.recording(r), study.roles) for r in numbers]
    groups: dict[str, int] = {}
    of = [groups.setdefault(r.removeprefix(plan.BROKEN), len(groups)) for r in numbers]
    about = {**study.about, "rater": rater, "seal": desk.seal}
    return page(shown.encode({**about, "pairs": pairs, "of": of, "recordings": recordings}))


def take(study: Study, path: Path) -> dict[str, int]:
    """Store what the pages of `page_for` saved, or preferences that `preferences.write` (or another tool) wrote. Returns how
    many of each kind there were.

    Every line may be taken any number of times. An answer that is older than what the rater said of the pair since, here or
    elsewhere, or took back, is left out. MienError naming the first line that is refused; then nothing of the file is stored.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise MienError(f"cannot read the answers {path}: {error}") from None
    said: list[tuple[int, Any]] = []
    for n, line in enumerate(lines, 1):
        if line.strip():
            try:
                said.append((n, json.loads(line)))
            except (ValueError, RecursionError):
                raise MienError(f"{path}, line {n}: not JSON; nothing of the file is stored") from None
    answers = any(isinstance(row, Mapping) and row.keys() & {"pair_id", "chosen"} for _, row in said)
    desks: dict[str, Desk] = {}
    older: set[tuple[str, str]] = set()
    saw_real = {
        str(r.get("rater") or r.get("rater_id")) for _, r in said if isinstance(r, Mapping) and r.get("saw_real")
    }
    counts: Counter[str] = Counter()
    rows = preferences.numbered(path, raters=study.store.raters()) if answers else said
    with study.store.together():
        for n, row in rows:
            try:
                counts.update(_preference(study, row, saw_real) if answers else [_take(study, desks, row, older)])
            except Refused as error:
                raise MienError(f"{path}, line {n}: {error}; nothing of the file is stored") from None
    return dict(counts)


def _preference(study: Study, p: Preference, saw_real: Collection[str]) -> list[str]:
    """Store an answer about one of the study's own pairs; a pair that it does not have is added where both recordings are there.
    Returns what was stored."""
    store = study.store
    mine = {"cohort": store.cohort, "model": store.model}
    if p.kind == "correction":
        return ["left out (a correction is made in the studio)"]
    if (p.cohort or store.cohort, p.model or store.model) != (store.cohort, store.model):
        raise Refused(f"pair {p.pair} is about another cohort or another model")
    pairs = store.pairs()
    pair = _pair(p, pairs, study)
    if p.private and not pair.private:
        raise Refused(
            f"the answer about pair {p.pair} is private (it tells something of recorded persons), and in this study"
            " such answers are for every trainer; take them into a study of its own with private=true"
        )
    if p.rater in saw_real and not any(map(judged.shows_real, pairs)):
        raise Refused(
            f"{p.rater} saw real recordings, which this study, without a real control pair, would not say again: give"
            " the file itself to `mien align`"
        )
    store.add([pair], **mine)
    swap: dict[Choice, Choice] = {} if pair.a == p.a else {"A": "B", "B": "A"}
    aspects: dict[str, Choice] = {k: swap.get(v, v) for k, v in p.aspects.items()}
    said = Answer(
        pair=pair.id, nonce=hashlib.sha256(repr(p).encode()).hexdigest()[:32], choice=swap.get(p.choice, p.choice),
        side=p.side if not swap else ("b" if p.side == "a" else "a"), confidence=p.confidence, aspects=aspects,
        comment=p.comment, seconds=p.seconds,
    )  # fmt: skip
    late = _late(store, p.rater, said.pair, said.nonce, p.at)
    if not late:
        store.answer(p.rater, said, **mine, at=p.at)
    done = [LATE if late else "answer"]
    if p.recognised is not None:
        if p.recognised not in (pair.a, pair.b):
            raise Refused(f"pair {p.pair}: what was recognised is none of its recordings")
        seen = Advice(pair=pair.id, recording=p.recognised, nonce=said.nonce, kind="recognise")
        store.advise(p.rater, seen, **mine, at=p.at)
        done.append("recognised")
    return done


def _late(store: Store, rater: str, pair: str, nonce: str, at: str) -> bool:
    """Whether the rater said something of this pair since, or took it back: an earlier word, told later, does not stand above it.
    Not for a form that is stored already, and not where it is not known when it was said."""
    then = preferences.moment(at)
    if then is None or store.number(rater, nonce) is not None:
        return False
    return any(t is not None and t >= then for t in map(preferences.moment, store.times(rater, pair)))


def _pair(p: Preference, pairs: Collection[Pair], study: Study) -> Pair:
    for known in pairs:
        if (known.again or known.id) == p.pair and known.kind == p.kind:
            if {known.a, known.b} != {p.a, p.b}:
                raise Refused(f"pair {p.pair} is of other recordings in this study")
            return known
    for (
        known
    ) in pairs:  # the same two recordings are one pair, whatever a file calls it: nobody is asked, or counts, twice
        if known.kind == p.kind and {known.a, known.b} == {p.a, p.b}:
            return known
    for r in (p.a, p.b):
        try:
            study.recording(r)
        except MienError:
            raise Refused(f"pair {p.pair}: recording {r!r} is not in this cohort") from None
    if p.kind == "repeat":
        raise Refused(f"pair {p.pair} is shown again, and was never shown")
    return Pair(
        id=p.pair, a=p.a, b=p.b, label=p.label, kind="control" if p.kind == "control" else "pair", private=p.private
    )


def _take(study: Study, desks: dict[str, Desk], row: Any, older: set[tuple[str, str]]) -> str:
    """What was taken. older: (rater, nonce) of the answers that were left out, and are never taken back."""
    if not isinstance(row, Mapping) or row.get("study") != study.key:
        raise Refused("this is about another cohort or another model")
    rater, what, at = row.get("rater"), row.get("what"), row.get("at")
    if rater not in study.store.raters():
        raise Refused("no rater of that name has a seat in this study")
    if not isinstance(at, str) or not 10 <= len(at) <= 40:
        raise Refused("at: when it was said")
    if rater not in desks:
        desks[rater] = Desk(study, rater)
    desk, seal = desks[rater], row.get("seal")
    if seal is None:
        raise Refused(
            f"it does not say which page it is from, as an older Mien's does not; make {rater} a new page (export=page.html),"
            " and let them load this file in it and save it again"
        )
    if not hmac.compare_digest(desk.seal.encode(), str(seal).encode("utf-8", "replace")):
        raise Refused(f"this was not said on a page of {rater}'s")
    form = {k: v for k, v in row.items() if k not in ("study", "rater", "seal", "what", "at")}
    if what == "answer":
        nonce = str(form.get("nonce"))
        if _late(study.store, rater, str(form.get("pair")), nonce, at):
            older.add((rater, nonce))
            return LATE
        desk.answer(form, at=at, ours=False)
    elif what == "undo" and (rater, form.get("nonce")) in older:
        return LATE
    elif what == "undo":
        number = study.store.number(rater, str(form.get("nonce")))
        if number is None:
            raise Refused("what is taken back here was never said")
        desk.undo(number, at=at)
    elif what == "advice":
        desk.advise(form, at=at)
    else:
        raise Refused("what: answer, undo or advice")
    return str(what)
