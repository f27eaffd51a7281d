"""`mien ledger status | plan | verify | export | cap`: what was charged, what still fits, and whether the file is sound."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import tempfile
from pathlib import Path
from typing import Any

from ..core import console
from ..core.errors import MienError
from .accounting import Event, epsilon, selection_epsilon
from .ledger import Ledger, Spent, ledger_path, position

COLUMNS = ("source", "persons", "runs", "unsettled", "ε (filter)", "ε (PLD)", "naive sum", "δ", "cap")
LEGEND = (
    "ε is the largest over persons. filter: what a cap is held against; PLD: the same runs had they been fixed"
    " beforehand; naive sum: every run's own ε added up. An unsettled run counts in full."
)


def status_command(argv: list[str]) -> int:
    parser = _parser("status", "What every source's persons have been charged, and every run that charged them.")
    parser.add_argument("--source", help="only this source")
    parser.add_argument("--delta", type=float, help="default: the cap's, else the smallest of the reservations")
    args = parser.parse_args(argv)
    path = _path(args)
    if not path.exists():
        if args.json:
            _print({"path": str(path), "head": None, "sources": [], "runs": []})
        else:
            console.say(f"no ledger at {path} yet; the first private run makes it")
        return 0
    with Ledger.open(path) as ledger:
        _known(ledger, args.source)
        seq, head = ledger.head()
        spent = ledger.spent(source=args.source, delta=args.delta)
        runs = [e for e in ledger.export() if e["run"] and args.source in (None, e.get("source"))]
        runs = [e | {"state": ledger.status(e["run"])} for e in runs if e["kind"] != "settle"]
    if args.json:
        _print(
            {"path": str(path), "head": [seq, head], "sources": [dataclasses.asdict(s) for s in spent], "runs": runs}
        )
        return 0
    console.table(f"{path}, entry {seq}", COLUMNS, map(_row, spent))
    if runs:
        rows = [(e["run"], e["source"], e["persons"], e["state"], e["at"]) for e in runs[-20:]]
        console.table(f"the newest of {len(runs)} run(s)", ["run", "source", "persons", "state", "since"], rows)
    console.say(LEGEND)
    console.say(f"head {seq}:{head}")
    return 0


def plan_command(argv: list[str]) -> int:
    parser = _parser(
        "plan",
        "What more runs would cost everybody of a source, and how many fit under its cap. Nothing is charged. Exit code"
        " 3 if the runs would pass the cap, 0 otherwise.",
        epilog="example: mien ledger plan --sample-rate .01 --noise-multiplier 1.1 --steps 800 --times 5 --source watch",
    )
    parser.add_argument("--sample-rate", type=float, required=True, help="probability that a unit is in a step")
    parser.add_argument("--noise-multiplier", type=float, required=True, help="noise in units of the clip norm")
    parser.add_argument("--steps", type=int, required=True, help="steps of one run")
    parser.add_argument(
        "--units-per-person", type=int, default=1, help="recordings of one person, if these are the unit"
    )
    parser.add_argument("--times", type=int, default=1, help="so many runs (default: %(default)s)")
    parser.add_argument(
        "--best-of", type=float, metavar="MEAN",
        help="also say what publishing only the best of a random number of such runs costs, MEAN of them on average",
    )  # fmt: skip
    parser.add_argument("--source", help="on top of what this source's persons have spent (default: new persons)")
    parser.add_argument(
        "--delta", type=float, help="default: the cap's, else the smallest of the reservations, else 1e-5"
    )
    parser.add_argument("--cap", type=float, help="try this cap; a recorded one that is stricter stands")
    args = parser.parse_args(argv)
    event = Event(
        sample_rate=args.sample_rate,
        noise_multiplier=args.noise_multiplier,
        steps=args.steps,
        units_per_person=args.units_per_person,
    )
    if args.cap is not None and not 0 < args.cap < math.inf:
        raise MienError(f"--cap is a finite epsilon above 0, got {args.cap:g}")
    path = _path(args)
    with (
        tempfile.TemporaryDirectory() as empty,
        Ledger.open(path if path.exists() else Path(empty) / path.name) as ledger,
    ):
        _known(ledger, args.source)
        now, after = ledger.what_if([event], times=args.times, source=args.source, delta=args.delta)
        caps = [c for c in (now.cap, args.cap) if c is not None]
        cap = min(caps, default=None)
        fits = None if cap is None else ledger.fits([event], cap=cap, source=args.source, delta=now.delta)
    passes = cap is not None and after.epsilon > cap
    one = epsilon([event], now.delta)
    chosen = None
    if args.best_of is not None:
        chosen = selection_epsilon([event], now.delta, mean_trials=args.best_of, distribution="geometric")
    if args.json:
        rows = {"now": dataclasses.asdict(now), "after": dataclasses.asdict(after)}
        _print({**rows, "one_run_pld": one, "best_of": chosen, "cap": cap, "fits": fits, "passes_cap": passes})
        return 3 if passes else 0
    whom = args.source or "persons whom nothing has charged"
    rows = [
        (label, *map(_number, (s.epsilon, s.epsilon_pld, s.naive))) for label, s in (("now", now), ("after", after))
    ]
    console.table(f"{args.times} more run(s) on {whom}, δ = {now.delta:g}", ["", *COLUMNS[4:7]], rows)
    console.say(f"one such run alone: ε = {one:.4g} (PLD). {LEGEND}")
    if chosen is not None:
        console.say(
            f"the best of a geometric number of such runs, {args.best_of:g} on average, the others thrown away unseen:"
            f" ε = {chosen:.4g} (Papernot & Steinke 2021, theorem 2). Draw the number secretly, before the first run; the"
            " ledger charges every run all the same"
        )
    if cap is None:
        console.say("no cap is recorded: nothing would be refused (`mien ledger cap` records one)")
    else:
        left = f"{fits} such run(s) fit under the cap ε = {cap:g}"
        console.say(
            f"{left}: {args.times} would be refused"
            if passes
            else f"{left}; {max(0.0, cap - after.epsilon):.4g} is left after these"
        )
    return 3 if passes else 0


def verify_command(argv: list[str]) -> int:
    parser = _parser(
        "verify",
        "Walk the hash chain, check triggers, person sets, file modes and the database itself, and compare with anchors"
        " from runs and cards. Exit code 1 if anything is wrong.",
    )
    parser.add_argument(
        "--anchor", action="append", default=[], metavar="SEQ:HASH", help="a position the ledger once had; repeatable"
    )
    args = parser.parse_args(argv)
    anchors = [position(a) for a in args.anchor]
    path = _path(args)
    if not path.exists():
        raise MienError(f"no ledger at {path}")
    seq = head = None
    try:
        with Ledger.open(path) as ledger:
            problems = ledger.verify(anchors)
            seq, head = ledger.head()
    except MienError as error:  # a ledger too broken to open is this command's finding
        problems = [str(error)]
    if args.json:
        _print({"path": str(path), "head": [seq, head], "problems": problems})
    else:
        for problem in problems:
            console.say(problem)
        if not problems:
            console.say(f"{path}: {seq} entries, sound; {len(anchors) + 1} anchor(s) agree; head {seq}:{head}")
    return 1 if problems else 0


def export_command(argv: list[str]) -> int:
    parser = _parser("export", "Print every entry as JSON: events, counts and hashes, nothing about single persons.")
    args = parser.parse_args(argv)
    path = _path(args)
    if not path.exists():
        raise MienError(f"no ledger at {path}")
    with Ledger.open(path) as ledger:
        _print(ledger.export())
    return 0


def cap_command(argv: list[str]) -> int:
    parser = _parser(
        "cap",
        "Record the cap on what a person may be charged. It stays in the ledger, as does every change of it.",
        epilog="example: mien ledger cap --source watch --epsilon 3 --delta 1e-5",
    )
    parser.add_argument("--source", help="default: every source that has no cap of its own")
    parser.add_argument("--epsilon", type=float, required=True, help="the cap; inf lifts it")
    parser.add_argument("--delta", type=float, default=1e-5, help="default: %(default)s")
    args = parser.parse_args(argv)
    with Ledger.open(_path(args)) as ledger:
        _known(ledger, args.source)
        seq, head = ledger.set_cap(source=args.source, epsilon=args.epsilon, delta=args.delta)
        spent = ledger.spent(source=args.source, pld=False)
    if args.json:
        _print({"head": [seq, head], "sources": [dataclasses.asdict(s) for s in spent]})
        return 0
    console.say(
        f"cap {args.epsilon:g} at delta {args.delta:g} for {args.source or 'every source without its own'}, entry {seq}"
    )
    for s in spent:
        if s.cap is not None and s.epsilon > s.cap:
            console.say(f"{s.source} has spent {_number(s.epsilon)} already: nothing more will be allowed")
    return 0


def _parser(name: str, what: str, epilog: str | None = None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"mien ledger {name}", description=what, epilog=epilog)
    parser.add_argument("--ledger", metavar="FILE", help="default: $MIEN_LEDGER, else in the user's data folder")
    parser.add_argument("--json", action="store_true", help="for machines; an infinite epsilon is the text inf")
    return parser


def _known(ledger: Ledger, source: str | None) -> None:
    """Say, where it is so, that nothing was charged to a source of this name: one letter off, and a cap binds nobody."""
    names = [s.source for s in ledger.spent(pld=False) if s.runs]
    if source is not None and source not in names:
        there = f"; there are {', '.join(names)}" if names else ", nor to any other"
        console.fail(
            f"nothing was ever charged to a source {source!r}{there}. A folder of one's own is `folder:` and its `source:`"
        )


def _path(args: argparse.Namespace) -> Path:
    return Path(args.ledger).expanduser() if args.ledger else ledger_path()


def _row(s: Spent) -> tuple[Any, ...]:
    figures = map(_number, (s.epsilon, s.epsilon_pld, s.naive))
    return (s.source, s.persons, s.runs, s.unsettled, *figures, f"{s.delta:g}", "–" if s.cap is None else f"{s.cap:g}")


def _number(value: float) -> str:
    return "∞ (plain run)" if value == math.inf else f"{value:.4g}"


def _print(what: Any) -> None:
    print(json.dumps(_plain(what), indent=1, ensure_ascii=False, allow_nan=False))


def _plain(what: Any) -> Any:
    if isinstance(what, dict):
        return {k: _plain(v) for k, v in what.items()}
    if isinstance(what, list):
        return [_plain(v) for v in what]
    if isinstance(what, float) and not math.isfinite(what):
        return "inf" if what > 0 else None  # NaN: not computed
    return what
