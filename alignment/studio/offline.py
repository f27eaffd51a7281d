"""The studio as one file without a server, and what comes back from it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...core.errors import MienError
from ..store import Refused
from . import plan, shown
from .server import Desk, Study, page


def page_for(study: Study, rater: str) -> str:
    """A page for one rater with the pairs they have not answered yet, in their own order, every recording once.

    Pairs of real recordings are left out, for a file travels; so is whatever somebody was recognised in. Neither ids nor
    kinds of pairs are in it.
    """
    desk, blocked = Desk(study, rater), study.store.blocked()
    numbers: dict[str, int] = {}
    pairs = []
    for p, _ in desk.order:
        both = [desk.recording(p.id, side) for side in ("left", "right")]
        plain = {r.removeprefix(plan.BROKEN) for r in both}
        if p.id in desk.done or plain & blocked or any(r.startswith(plan.REAL) for r in both):
            continue
        left, right = (numbers.setdefault(r, len(numbers)) for r in both)
        pairs.append({"pair": p.id, "label": p.label, "left": left, "right": right})
    if not pairs:
        raise MienError(f"{rater} has answered every pair that may be put into a file")
    recordings = [shown.show(study.recording(r), study.roles) for r in numbers]
    return page(shown.encode({**study.about, "rater": rater, "pairs": pairs, "recordings": recordings}))


def take(study: Study, path: Path) -> dict[str, int]:
    """Store what the pages of `page_for` saved (JSON lines). Returns how many lines of each kind were new or there before.

    Every line may be taken any number of times. MienError naming the first line that is refused; those before it stay.
    """
    desks: dict[str, Desk] = {}
    counts: Counter[str] = Counter()
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise MienError(f"cannot read the answers {path}: {error}") from None
    for n, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            counts[_take(study, desks, json.loads(line))] += 1
        except (ValueError, RecursionError):
            raise MienError(f"{path}, line {n}: not JSON; the lines before it are stored") from None
        except Refused as error:
            raise MienError(f"{path}, line {n}: {error}; the lines before it are stored") from None
    return dict(counts)


def _take(study: Study, desks: dict[str, Desk], row: Any) -> str:
    if not isinstance(row, Mapping) or row.get("study") != study.key:
        raise Refused("this is about another cohort or another model")
    rater, what, at = row.get("rater"), row.get("what"), row.get("at")
    if rater not in study.store.raters():
        raise Refused("no rater of that name has a seat in this study")
    if not isinstance(at, str) or not 10 <= len(at) <= 40:
        raise Refused("at: when it was said")
    if rater not in desks:
        desks[rater] = Desk(study, rater)
    desk = desks[rater]
    form = {k: v for k, v in row.items() if k not in ("study", "rater", "what", "at")}
    if what == "answer":
        desk.answer(form, at=at, ours=False)
    elif what == "undo":
        number = study.store.number(rater, str(form.get("nonce")))
        if number is None:
            raise Refused("what is taken back here was never said")
        desk.undo(number)
    elif what == "advice":
        desk.advise(form, at=at)
    else:
        raise Refused("what: answer, undo or advice")
    return str(what)
