"""A studio on invented recordings, in a process of its own: what the tests of the page and of the server talk to.

    python tests/unit/invented.py FOLDER [--kind wrist|lab|days|noise] [--pairs N] [--raters ann bob] [--port P]

The first line it prints is JSON: {"port": …, "tokens": {rater: token}}. The same call on the same folder goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from mien.alignment.store import Store
from mien.alignment.studio import plan, server
from mien.core.records import Recording, Signal
from mien.data.datasets import simulated, simulated_life

ABOUT = {"cohort": "c" * 64, "model": "m" * 64}
ROLES = {"pulse": "bvp", "eda": "eda", "breath": "resp", "temp": "temp", "acc": "acc"}


def noise(i: int) -> Recording:
    """Four seconds of nothing in particular: for tests of many pairs."""
    values = np.random.default_rng(i).normal(size=(32, 1)).cumsum(0)
    streams = {"acc": Signal(values=values, rate_hz=8.0, channels=("x",), unit="g")}
    return Recording(id=f"made-{i}", person=f"made-{i}", streams=streams, labels={"state": "rest"})


def recordings(kind: str, n: int) -> dict[str, Recording]:
    """Simulated persons play the synthetic ones."""
    if kind == "noise":
        return {r.id: r for r in map(noise, range(n))}
    out = {}
    if kind == "wrist":
        wrist = simulated.Config(persons=max(2, n // 2), sessions=2, seconds=60, label_effect=2.0)
        for p in range(wrist.persons):
            for s in simulated.sessions(wrist, p):
                out[f"made-{len(out)}"] = simulated.record(s, wrist)
    else:
        mode = {"mode": "days", "days": 3} if kind == "days" else {"seconds": 40}
        life = simulated_life.Config.model_validate(
            {"persons": max(2, n // 2), "sessions": 2, "label_effect": 2.0, **mode}
        )
        for p in range(life.persons):
            for one in simulated_life.lives(life, p):
                out[f"made-{len(out)}"] = simulated_life.record(one, life)
    return out


def study(folder: Path, kind: str, pairs: int, raters: list[str]) -> tuple[server.Study, dict[str, str]]:
    """The study in a folder, which is made where it is not there; and the raters' tokens."""
    many = recordings(kind, max(8, round((4 * pairs) ** 0.5) + 2) if kind == "noise" else 8)
    task = next(iter(next(iter(many.values())).labels))
    decks: dict[str, list[str]] = {}
    for name, r in many.items():
        decks.setdefault(str(r.labels[task]), []).append(name)
    store = Store.create(folder / "feedback.sqlite", **ABOUT)
    if not store.pairs():
        checks = plan.Checks() if pairs < 1000 else plan.Checks(repeats=0, controls=0)
        store.add(plan.with_checks(plan.choose(decks, pairs, 0), checks, 0), **ABOUT)
    file = folder / "tokens.json"
    tokens = json.loads(file.read_text()) if file.exists() else {}
    tokens |= {r: token for r in raters if (token := store.seat(r))}
    file.write_text(json.dumps(tokens))

    def recording(name: str) -> Recording:
        if name.startswith(plan.BROKEN):
            from mien.alignment.studio import mended

            return mended.broken(many[name.removeprefix(plan.BROKEN)], np.random.default_rng(0), name)
        return many[name]

    return server.Study(store=store, recording=recording, roles=ROLES, title="invented", task=task), tokens


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kind", default="wrist", choices=["wrist", "lab", "days", "noise"])
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--raters", nargs="+", default=["ann", "bob"])
    parser.add_argument("--port", type=int, default=0)
    args = parser.parse_args(argv)
    made, tokens = study(args.folder, args.kind, args.pairs, args.raters)

    def ready(port: int) -> None:
        print(json.dumps({"port": port, "tokens": tokens, "study": made.key}), flush=True)

    server.serve(made, host="127.0.0.1", port=args.port, ready=ready)
    return 0


if __name__ == "__main__":
    sys.exit(main())
