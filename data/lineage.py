"""What a withdrawal touches: the runs that read a person's recordings, and everything made from those runs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..core import console, runs
from ..core.errors import MienError
from ..core.paths import runs_home


def touched(person: str, home: Path) -> list[tuple[str, str]]:
    """(run, why) for every run under `home` that trained on this person or descends from one that did."""
    folders = sorted(f.parent for f in home.glob("*/config.yaml"))
    asked = {f.name: runs.asked(f) for f in folders}
    hashes = {f.name: runs.fingerprint(f) for f in folders}
    why: dict[str, str] = {}
    for folder in folders:
        file = folder / "private" / "splits.json"
        if file.exists():
            parts = json.loads(file.read_text())
            for part in ("train", "validation", "holdout"):
                if person in parts[part]:
                    why[folder.name] = {"train": "trained on them", "validation": "validated on them"}.get(
                        part, "held them out"
                    )
                    break
    grew = True
    while grew:
        grew = False
        for name, what in asked.items():
            for source, digest in hashes.items():
                trained = why.get(source, "") and why[source] != "held them out"
                if trained and name not in why and digest and digest in what["inputs"].values():
                    why[name], grew = f"made from {source}", True
    return sorted(why.items())


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
    shown = [(run, why, runs.status(home / run) or "damaged") for run, why in rows]
    console.table(f"runs that the withdrawal of {args.person} touches", ["run", "why", "status"], shown)
    return 0
