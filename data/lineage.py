"""What a withdrawal touches: the runs that read a person's recordings, and everything made from those runs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..core import console, runs
from ..core.errors import MienError
from ..core.paths import runs_home

PERSONS = "persons.json"  # in the private half of a run without a split of its own: whose recordings it read
_PARTS = {"train": "trained on them", "validation": "validated on them", "holdout": "held them out"}
_LOOKS = ("attack", "evaluate", "align")  # at the recordings of those held out too


def touched(person: str, home: Path) -> list[tuple[str, str, str]]:
    """(run, cohort, why) for every run under `home` that read this person's recordings, or descends from one that learned from
    them. An id is a person of one cohort: another cohort's may have the same."""
    folders = sorted(f.parent for f in home.glob("*/config.yaml"))
    asked = {f.name: runs.asked(f) for f in folders}
    hashes = {f.name: runs.fingerprint(f) for f in folders}
    why: dict[str, tuple[str, str]] = {}
    passive: dict[str, str] = {}  # runs that stand between an adapter and what was measured of those it held out
    for folder in folders:
        cohort = _cohort(asked[folder.name]["config"])
        parts = _read(folder / "private" / "splits.json", {})
        for part, said in _PARTS.items():
            if person in parts.get(part, ()):
                why[folder.name] = said, cohort
                break
        if person in _read(folder / "private" / PERSONS, ()):
            why[folder.name] = "its figures are of them", cohort
    grew = True
    while grew:
        grew = False
        for name, what in asked.items():
            for source, digest in hashes.items():
                if name in why or not digest or digest not in what["inputs"].values():
                    continue
                said, cohort = why.get(source, (passive.get(source, ""), passive.get(source, "")))
                if not said:
                    continue
                if source in why and said not in (_PARTS["holdout"], "its figures are of them"):
                    why[name], grew = (f"made from {source}", cohort), True
                elif what["verb"] in _LOOKS:
                    why[name], grew = (f"its figures are of them, as {source} held them out", cohort), True
                elif name not in passive:
                    passive[name], grew = cohort or "?", True
    return [(name, cohort, said) for name, (said, cohort) in sorted(why.items())]


def note(private: Path, persons: Iterable[str]) -> None:
    """Write down in a run's private half whose recordings it read."""
    runs.write_text(private / PERSONS, json.dumps(sorted(set(map(str, persons)))))


def _read(file: Path, otherwise: Any) -> Any:
    return json.loads(file.read_text()) if file.exists() else otherwise


def _cohort(config: dict[str, Any]) -> str:
    section = config.get("cohort") or {}
    return " ".join(str(section[k]) for k in ("name", "root") if section.get(k))


def touches_command(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="mien data touches",
        description="List every run that used one person's recordings, and what was made from it: after a withdrawal"
        " these are what to delete and make again.",
    )
    parser.add_argument("person", help="the pseudonymous id, as the cohort writes it")
    args = parser.parse_args(argv)
    home = runs_home()
    if not home.is_dir():
        raise MienError(f"no run folders in {home}; set MIEN_RUNS, or call this where runs/ lies")
    rows = touched(args.person, home)
    if not rows:
        console.say(f"no run in {home} used {args.person!r}")
        return 0
    shown = [(run, cohort, why, runs.status(home / run) or "damaged") for run, cohort, why in rows]
    console.table(f"runs that the withdrawal of {args.person} touches", ["run", "cohort", "why", "status"], shown)
    if len({cohort for _, cohort, _ in rows}) > 1:
        console.say("an id is a person of one cohort: these may be several persons")
    console.say(f"personal adapters, if any were kept, go with `mien data forget {args.person}`")
    return 0
